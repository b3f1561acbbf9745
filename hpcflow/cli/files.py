"""Commands about what lies on clusters: bring it here, or remove it there."""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Final

from hpcflow.cli.frame import FAILED, OK, the_server, write_json
from hpcflow.cli.server import show_log
from hpcflow.core.model import UserError
from hpcflow.core.places import client_settings
from hpcflow.core.words import counted

__all__ = ["age", "clean", "fetch", "logs"]

_AGE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
_UNIT_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def fetch(options: argparse.Namespace) -> int:
    """Bring a file or folder of a task, or its result, to this machine.

    Raises:
        NotFound: there is nothing.
        UserError: the path leads out of the task's directory, or something is at the destination.
    """
    from hpcflow.sdk.client import whole_id
    from hpcflow.sdk.download import bring

    server = the_server()
    dispatch = whole_id(server, options.id)
    wanted = client_settings(os.environ).progress
    if options.result is not None:
        if options.path is not None:
            raise UserError("Name either a path or --result: hpcflow fetch ID N --result [DEST].")
        return _fetch_result(dispatch, options.task, options.result or None, wanted=wanted)
    if not options.path:
        raise UserError('Name a file or folder of the task ("." for all of them), or give --result.')
    brought = bring(server, (dispatch, options.task), options.path, options.destination, wanted=wanted)
    _print_path(brought.to)
    if brought.left_out:
        names = ", ".join(brought.left_out[:5]) + (", …" if len(brought.left_out) > 5 else "")
        print(f"Left out, because they are links that lead out of the folder: {names}", file=sys.stderr)
    if brought.odd:
        print(f"Left out, because their names hold line breaks: {counted(brought.odd, 'file')}.", file=sys.stderr)
    return OK


def _fetch_result(dispatch: str, task: int, destination: str | None, *, wanted: bool) -> int:
    from hpcflow.sdk.download import destination as place
    from hpcflow.sdk.download import fetch_result, showing, value_size

    to = place(destination, f"{dispatch}-{task}.pkl")
    if os.path.lexists(to):
        raise UserError(f"{to} exists already: name another destination, or move it away.")
    server = the_server()
    state = server.ask("GET", f"/dispatches/{dispatch}/tasks/{task}")["state"]
    if state != "completed":
        raise UserError(
            f"Task {task} of {dispatch} has no result: it is {state}. `hpcflow show {dispatch} --task {task}` says why."
        )
    size = value_size(server, dispatch, task)
    with showing(to.name, size, wanted=wanted) as show:
        fetch_result(server, (dispatch, task), to, size, show)
    _print_path(to)
    return OK


def logs(options: argparse.Namespace) -> int:
    """Bring what the tasks of a dispatch wrote as one archive; without a dispatch show the server's log.

    Raises:
        UserError: something is at the destination, or an option fits only the other one.
    """
    if options.id is None:
        if options.failed or options.output is not None:
            raise UserError("--failed and --output are for the logs of a dispatch: name it, hpcflow logs ID.")
        return show_log(options)
    if options.follow:
        now = f"`hpcflow show {options.id} --task N`"
        raise UserError(f"--follow is for the server's log. What a task writes now is told by {now}, and by the page.")
    from hpcflow.sdk.client import whole_id
    from hpcflow.sdk.download import bring_logs
    from hpcflow.sdk.download import destination as place

    server = the_server()
    dispatch = whole_id(server, options.id)
    if options.output == "-":
        bring_logs(server, dispatch, sys.stdout.buffer, failed=options.failed)
        sys.stdout.flush()
        return OK
    to = place(options.output, f"{dispatch}-logs.tar.gz")
    if os.path.lexists(to):
        raise UserError(f"{to} exists already: name another file with -o, or move it away.")
    part = to.with_name(f"{to.name}.part")
    try:
        with open(part, "wb") as file:
            bring_logs(server, dispatch, file, failed=options.failed)
        part.replace(to)
    except OSError as error:
        raise UserError(f"{to} can't be written: {error.strerror}.") from error
    finally:
        part.unlink(missing_ok=True)
    _print_path(to)
    return OK


def _print_path(path: Path) -> None:
    """Print a path as the bytes that it is: not all of them are UTF-8."""
    sys.stdout.buffer.write(os.fsencode(path) + b"\n")
    sys.stdout.flush()


def clean(options: argparse.Namespace) -> int:
    """Remove bags of dispatches that have ended from their clusters.

    Raises:
        UserError: nothing says which.
    """
    from hpcflow.sdk.client import whole_id

    server = the_server()
    ids = [whole_id(server, each) for each in options.ids]
    if not ids and options.older_than is None:
        raise UserError("Say what to remove: dispatches by their ids, or --older-than with an age such as 30d.")
    body: dict[str, object] = {
        "dispatches": ids or None,
        "older_than_s": None if options.older_than is None else age(options.older_than),
        "cluster": options.cluster,
        "files": options.files,
        "dry_run": options.dry_run,
    }
    answer = server.ask("POST", "/clean", body=body, wait_s=4 * 3600)
    if options.json:
        write_json(answer)
    else:
        print(answer["message"])
    return FAILED if any(each["problem"] for each in answer["clusters"]) else OK


def age(text: str) -> float:
    """Return seconds of a text such as 30d.

    Raises:
        UserError: it is no age.
    """
    found = _AGE.fullmatch(text.strip())
    if found is None:
        raise UserError(f"{text!r} is no age; write a number and s, m, h, d or w: 30d.")
    return float(found[1]) * _UNIT_S[found[2]]
