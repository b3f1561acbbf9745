"""Triggers as a person has them: named by a lattice, run beside the server, over its death, until they are stopped."""

from __future__ import annotations

from typing import Any

from hpcflow.sdk.connection import Server
from tests.integration.world import User, until

Json = dict[str, Any]  # Any: JSON

PROGRAM = """
import sqlite3
import sys

import hpcflow as ct

folder = sys.argv[1]
with sqlite3.connect(f"{folder}/jobs.db") as jobs:
    jobs.execute("CREATE TABLE jobs (state TEXT)")


class Broken(ct.triggers.BaseTrigger):
    def observe(self):
        raise ValueError("no such column")


class Once(ct.triggers.BaseTrigger):
    def observe(self):
        self.trigger()


@ct.electron
def double(x):
    return 2 * x


@ct.lattice(
    executor="local",
    triggers=[
        ct.triggers.DirTrigger(folder, "created", poll_interval=0.1),
        ct.triggers.SQLiteTrigger(f"{folder}/jobs.db", "jobs", 0.1, ["state = 'new'"]),
        Broken(),
    ],
)
def flow(x):
    return double(x)


template = ct.dispatch(flow)(21)
try:
    ct.dispatch_sync(flow)
except ct.UserError as error:
    print("has triggers, so its dispatch never ends" in str(error), file=sys.stderr)
held = ct.get_result(template)
print(template, held.status, held.paused)
once = Once().attach(template)
print(once)
"""


def test_triggers_run_copies_of_a_dispatch_until_they_are_stopped(user: User) -> None:
    folder = user.folder / "watched"
    folder.mkdir()
    first, once = user.runs(PROGRAM, str(folder)).splitlines()
    template = first.split()[0]
    assert first.endswith(" NEW_OBJECT It is a template: its triggers run copies of it.")

    def rows() -> dict[str, Json]:
        listed = Server(user.home).ask("GET", "/triggers")["triggers"]
        return {row["kind"]: row for row in listed if row["dispatch"] == template}

    until(lambda: rows()["Broken"]["error"])
    assert rows()["Broken"]["error"] == "ValueError: no such column"
    until(lambda: rows()["Once"]["state"] == "ended")
    assert (rows()["Once"]["id"], rows()["Once"]["fired"]) == (once, 1)
    copy = rows()["Once"]["last_dispatch"]
    assert user.runs(f"import hpcflow; print(hpcflow.get_result({copy!r}, wait=True).result)") == "42"
    # What is there when a trigger begins is no news to it.
    until(lambda: rows()["DirTrigger"]["state"] == "running" and rows()["SQLiteTrigger"]["state"] == "running")

    def fires(kind: str, file: str) -> str:
        """Write files until one of them was seen, and return the dispatch that it made."""
        before, count = rows()[kind]["fired"], 0

        def seen() -> bool:
            nonlocal count
            count += 1
            (folder / f"{file}{count}").touch()
            return bool(rows()[kind]["fired"] > before)

        until(seen)
        return str(rows()[kind]["last_dispatch"])

    assert user.waits_for(fires("DirTrigger", "one"))["status"] == "COMPLETED"
    user.kills_the_server()
    assert user.hpcflow("start").returncode == 0
    assert user.waits_for(fires("DirTrigger", "two"))["status"] == "COMPLETED"
    assert rows()["SQLiteTrigger"]["fired"] == 0

    table = user.hpcflow("triggers").stdout
    assert "DirTrigger created in " in table
    assert "ValueError: no such column" in table
    stopped = user.hpcflow("triggers", "stop", rows()["SQLiteTrigger"]["id"])
    assert stopped.stdout == "Stopped 1 trigger for good; dispatches that they made go on.\n"
    user.runs("import sys; import hpcflow as ct; print(ct.stop_triggers([sys.argv[1]]))", template)
    assert {row["state"] for row in rows().values()} == {"stopped", "ended"}
    refused = user.hpcflow("triggers", "stop", "01NONE")
    assert (refused.returncode, refused.stderr) == (
        5,
        "There is no trigger 01NONE, and no dispatch of that id has one.\n",
    )
    assert user.hpcflow("cancel", template).returncode == 0

    # What is deleted has no triggers any more.
    attached = user.runs(
        "import sys; import hpcflow as ct; print(ct.triggers.TimeTrigger(3600).attach(sys.argv[1]))", copy
    )
    answer: Json = {}

    def deleted() -> bool:
        answer.update(Server(user.home).ask("POST", "/delete", body={"dispatches": [copy]}))
        return bool(answer["deleted"] == [copy])

    until(deleted)
    assert answer["message"] == "1 dispatch deleted. 1 trigger of theirs was stopped."
    listed = Server(user.home).ask("GET", "/triggers")["triggers"]
    assert [row["state"] for row in listed if row["id"] == attached] == ["stopped"]
