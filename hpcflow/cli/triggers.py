"""`hpcflow triggers`: what runs dispatches again by itself."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from hpcflow.cli.frame import OK, write_json
from hpcflow.core.places import places

__all__ = ["list_triggers", "stop_triggers"]


def list_triggers(options: argparse.Namespace) -> int:
    from hpcflow.sdk.answers import parse_time
    from hpcflow.sdk.connection import Server
    from hpcflow.sdk.terminal import clock, table

    answer = Server(places(os.environ)).ask("GET", "/triggers")
    if options.json:
        write_json(answer)
        return OK
    triggers = answer["triggers"]
    if not triggers:
        print("No triggers. A lattice names them: @hpcflow.lattice(triggers=hpcflow.triggers.TimeTrigger(3600)).")
        return OK
    rows: list[Sequence[str]] = []
    for trigger in triggers:
        rows.append(
            (
                trigger["id"],
                trigger["state"],
                f"{trigger['kind']} {trigger['about']}".strip(),
                trigger["name"],
                trigger["dispatch"],
                str(trigger["fired"]),
                clock(parse_time(trigger["fired_at"])),
                trigger["last_dispatch"] or "-",
            )
        )
    table(("TRIGGER", "STATE", "WHAT", "LATTICE", "TEMPLATE", "FIRED", "LAST", "DISPATCH"), rows)
    for trigger in triggers:
        if trigger["error"]:
            again = parse_time(trigger["next_at"])
            when = f" It starts again at {clock(again)}." if again is not None else ""
            print(f"\n{trigger['kind']} {trigger['id']}: {trigger['error']}{when} Its output: {trigger['log']}")
    return OK


def stop_triggers(options: argparse.Namespace) -> int:
    from hpcflow.sdk.connection import Server

    answer = Server(places(os.environ)).ask("POST", "/triggers/stop", body={"ids": options.ids})
    if options.json:
        write_json(answer)
    else:
        print(answer["message"])
    return OK
