"""`hpcflow clusters test` on the mini Slurm: real jobs on real nodes, and what dispatches make of the verdict."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.conftest import Login
from tests.integration.world import lines, until

pytestmark = pytest.mark.cluster

PROGRAM = """
import sys
import hpcflow as hf

@hf.electron
def note(x, ledger):
    with open(ledger, "a") as file:
        file.write(f"{x}\\n")
    return x

@hf.lattice
def flow():
    return sum(note(x, sys.argv[1]) for x in range(6))

id = hf.dispatch(flow)()
print(id, hf.get_result(id, wait=True).result)
"""


def test_two_nodes_race_for_names_and_nothing_is_left(login: Login) -> None:
    answer = login.user.asks("clusters", "test", "slurm")
    steps = {step["step"]: (step["state"], step["detail"]) for step in answer["steps"]}
    assert (answer["done"], answer["ok"], {state for state, _ in steps.values()}) == (True, True, {"ok"}), steps
    assert "workers claim by link (node" in steps["claims of two nodes"][1]
    assert [cluster["claims"] for cluster in login.user.asks("clusters", "list")] == [None, "link"]
    assert os.listdir(f"{login.user.home.work('slurm')}/probes") == []
    assert len([call for call in login.calls("sbatch") if "--job-name=hpcflow-test-" in call]) == 2


def test_a_job_that_waits_is_taken_out_of_the_queue(login: Login) -> None:
    hold = login.slurm("sbatch", "--parsable", "--exclusive", "--nodes=4", "--time=2", "--wrap=sleep 60").strip()
    try:
        # Only now nothing else has a node; jobs of other tests may have been ending.
        until(lambda: login.slurm("squeue", "--noheader", "--format=%T", f"--jobs={hold}").strip() == "RUNNING")
        tested = login.user.hpcflow("clusters", "test", "slurm", "--wait", "1")
    finally:
        login.slurm("scancel", hold)
    assert tested.returncode == 0, tested.stdout
    assert "-       job on a compute node: still in the queue after " in tested.stdout
    until(lambda: "hpcflow-test" not in login.slurm("squeue", "--me", "--noheader", "--format=%j"))


def test_on_an_unsafe_file_system_each_array_task_has_one_unit(own_login: Callable[..., Login], tmp_path: Path) -> None:
    login = own_login()
    kept = Path(login.user.home.verdict("slurm"))
    kept.parent.mkdir(mode=0o700)
    root = login.user.home.work("slurm")
    verdict = {"claims": "index", "root": root, "at": "2026-05-01", "nodes": ["a", "b"], "lag_s": 0, "name_s": 0}
    kept.write_text(json.dumps(verdict))
    assert login.user.hpcflow("restart").returncode == 0
    dispatch, total = login.user.runs(PROGRAM, str(tmp_path / "ledger")).split()
    assert total == "15"
    assert sorted(lines(tmp_path / "ledger")) == [str(x) for x in range(6)]
    (array,) = login.shown(dispatch)["arrays"]
    assert array["width"] == 6
    assert {task["array_index"] for task in login.tasks(dispatch)} >= set(range(6))
    assert "get one unit each" in login.user.hpcflow("clusters", "list").stdout
