"""The command about the cache: what is in it, and what shall be in it no longer."""

from __future__ import annotations

import argparse

from hpcflow.cli.files import age
from hpcflow.cli.frame import OK, the_server, write_json
from hpcflow.core.model import UserError
from hpcflow.core.words import memory

__all__ = ["cache"]

_KEY_SHOWN = 12
_MOST = 100_000


def cache(options: argparse.Namespace) -> int:
    """List what is cached, or clear it.

    Raises:
        UserError: an age to list.
    """
    if options.action == "clear":
        body = {
            "function": options.function,
            "older_than_s": None if options.older_than is None else age(options.older_than),
        }
        answer = the_server().ask("POST", "/cache/clear", body=body)
        if options.json:
            write_json(answer)
        else:
            print(answer["message"])
        return OK
    if options.older_than is not None:
        raise UserError("--older-than says what to clear: `hpcflow cache clear --older-than 30d`.")
    query: dict[str, str | int] = {"limit": _MOST}
    if options.function is not None:
        query["function"] = options.function
    answer = the_server().ask("GET", "/cache", query=query)
    if options.json:
        write_json(answer)
        return OK
    from hpcflow.sdk.answers import parse_time
    from hpcflow.sdk.plain import plain
    from hpcflow.sdk.terminal import clock, table

    if not answer["entries"]:
        print("Nothing is cached." if options.function is None else plain(f"Nothing of {options.function} is cached."))
        return OK
    table(
        ("KEY", "FUNCTION", "DISPATCH", "TASK", "SIZE", "COMPUTED"),
        (
            (
                entry["key"][:_KEY_SHOWN],
                entry["function"],
                entry["dispatch"],
                str(entry["task"]),
                memory(entry["size"] / 2**20) if entry["size"] >= 1024 else f"{entry['size']} B",
                clock(parse_time(entry["at"])),
            )
            for entry in answer["entries"]
        ),
    )
    return OK
