"""What a dispatch cost and what ran in its jobs, by a real server's journals and its scheduler's accounting."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hpcflow.core.usage import PARTS
from tests.integration.world import User, until

SLEEPERS = """
import time

import hpcflow as hf

@hf.electron
def sleeps(i):
    time.sleep(0.3)
    if i == 3:
        raise RuntimeError("no luck")
    return i

@hf.lattice(executor="local")
def sleepers(n):
    return [sleeps(i) for i in range(n)]

print(hf.dispatch(sleepers)(12))
"""


def test_what_was_charged_is_told_apart_and_every_task_is_found_in_its_job(user: User) -> None:
    dispatch = user.runs(SLEEPERS)
    user.hpcflow("show", dispatch, "--wait")
    known: list[dict[str, Any]] = []  # Any: JSON

    def complete() -> bool:
        known.append(user.asks("usage", dispatch))
        return bool(known[-1]["complete"])

    until(complete)
    cost = known[-1]
    assert abs(sum(cost[part] for part in PARTS) - cost["charged_s"]) <= 0.01
    # The tasks alone slept 3.6 s, on one core each, within what was charged.
    assert 3.6 <= cost["tasks_s"] <= cost["charged_s"]
    assert (cost["unexplained_s"], cost["unknown"], cost["uncharged"], cost["open"]) == (0, 0, 0, 0)
    assert cost["used"] + cost["in_vain"] + cost["not_begun"] == cost["submitted"]
    until(
        lambda: all(said in user.hpcflow("show", dispatch).stdout for said in user.asks("usage", dispatch)["sentences"])
    )

    listed = user.hpcflow("sacct", dispatch, "--parsable2", "--noheader", "--format=JobID,Task,State,ExitCode")
    rows = [line.split("|") for line in listed.stdout.splitlines()]
    assert [int(task) for _, task, _, _ in rows] == list(range(12))
    assert [row[2:] for row in rows] == [["FAILED", "1:0"] if task == 3 else ["COMPLETED", "0:0"] for task in range(12)]
    ran = Counter[str]()
    for job in {row[0] for row in rows}:
        [found] = user.asks("which", job)
        assert found["dispatch"] == dispatch
        began = [task["started_at"] for task in found["tasks"]]
        assert began == sorted(began)
        ran.update({f"{job} {task['index']}": 1 for task in found["tasks"]})
    assert ran == Counter(f"{job} {task}" for job, task, _, _ in rows)
