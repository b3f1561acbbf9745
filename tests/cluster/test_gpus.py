"""GPUs and whole nodes on a real Slurm: each task sees what is its own, and nodes are filled."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cluster.conftest import Login, log_in
from tests.cluster.mini_slurm import a_mini_slurm
from tests.integration.world import until

pytestmark = pytest.mark.cluster

PAGES = Path(__file__).parents[2] / "docs" / "howto"
SCRIPTS = Path(__file__).parents[2] / "docker" / "slurm-cluster"

HEAD = """
import json
import os
import sys
import time

import hpcflow as hf

"""


@pytest.fixture
def whole(tmp_path: Path) -> Iterator[Login]:
    """A server that takes nodes of partition batch whole, three at a time."""
    clusters = '[slurm]\nscheduler = "slurm"\npartition = "batch"\nwhole_nodes = true\nmax_running = 3\n'
    with ExitStack() as stack:
        yield log_in(stack, tmp_path, os.environ["SLURM_CONF"], {}, clusters)


def accounted(login: Login, dispatch: str) -> list[dict[str, str]]:
    """Return what accounting holds of a dispatch's array tasks when all have ended, which slurmdbd hears late."""
    fields = "JobID,State,AllocCPUS,CPUTimeRAW,ElapsedRaw,NodeList"
    tokens = ",".join(array["token"] for array in login.shown(dispatch)["arrays"])

    def rows() -> list[dict[str, str]]:
        listed = login.slurm("sacct", "-X", "-n", "-P", "-S", "now-1hour", f"--name={tokens}", f"--format={fields}")
        names = fields.split(",")
        told: list[dict[str, str]] = [dict(zip(names, line.split("|"), strict=True)) for line in listed.splitlines()]
        return told if not {row["State"] for row in told} & {"RUNNING", "PENDING"} else []

    return until(rows)


# ---- GPUs


def test_a_task_sees_the_gpus_that_slurm_gave_it(login: Login) -> None:
    printed = login.user.runs(
        HEAD
        + """
@hf.electron(gpus=3, walltime="1 min")
def sees():
    return os.environ["CUDA_VISIBLE_DEVICES"], os.environ["SLURM_JOB_GPUS"]

@hf.electron(walltime="1 min")
def sees_none():
    return os.environ.get("CUDA_VISIBLE_DEVICES")

@hf.lattice(executor="slurm")
def looks():
    return sees(), sees_none()

print(json.dumps(hf.dispatch_sync(looks)().result))
"""
    )
    (visible, given), none = json.loads(printed)

    assert len(set(visible.split(","))) == 3
    assert visible == given
    assert none in {None, "", "NoDevFiles"}


def test_each_slot_has_gpus_of_its_own(whole: Login) -> None:
    meeting = whole.user.folder / "meeting"
    meeting.mkdir()
    printed = whole.user.runs(
        HEAD
        + """
@hf.electron(gpus=1, walltime="2 min")
def sees(meeting, n):
    # All are there at once before the first one leaves.
    job = os.environ["SLURM_ARRAY_JOB_ID"] + "_" + os.environ["SLURM_ARRAY_TASK_ID"]
    open(os.path.join(meeting, str(os.getpid())), "w").close()
    while len(os.listdir(meeting)) < n:
        time.sleep(0.05)
    return job, os.environ["CUDA_VISIBLE_DEVICES"]

@hf.lattice(executor="slurm")
def looks(meeting, n):
    return [sees(meeting, n) for _ in range(n)]

print(json.dumps(hf.dispatch_sync(looks)(sys.argv[1], 8).result))
""",
        str(meeting),
    )
    seen = json.loads(printed)

    assert sorted(device for _, device in seen) == sorted("0123" * 2)
    assert len({tuple(each) for each in seen}) == 8
    assert len({job for job, _ in seen}) == 2


# ---- whole nodes


def test_three_hundred_tasks_keep_three_whole_nodes_busy(whole: Login) -> None:
    printed = whole.user.runs(
        HEAD
        + """
@hf.electron(walltime="10 min")
def one_second(i):
    time.sleep(1)
    return os.environ["SLURMD_NODENAME"], os.getppid()

@hf.lattice(executor="slurm")
def many(n):
    return [one_second(i) for i in range(n)]

result = hf.dispatch_sync(many)(300)
print(json.dumps([result.dispatch_id, result.result]))
"""
    )
    dispatch, where = json.loads(printed)
    (submitted,) = whole.calls("sbatch")
    rows = accounted(whole, dispatch)
    each = Counter((node, worker) for node, worker in where)

    assert "--exclusive" in submitted
    assert "--cpus-per-task=16" in submitted
    assert "--array=0-2" in submitted
    assert len({node for node, _ in each}) == 3
    # Three nodes of 16 cores: 48 tasks run at once, and none of the slots stands idle while another has much to do.
    assert len(each) == 48
    assert max(each.values()) <= 2 * 300 / 48
    assert [(row["State"], row["AllocCPUS"]) for row in rows] == [("COMPLETED", "16")] * 3
    # All 48 cores are charged from the first to the last second, and hpcflow says what each of these was spent on.
    charged = sum(int(row["CPUTimeRAW"]) for row in rows)
    spent = until(lambda: (found := whole.ask(f"/dispatches/{dispatch}/usage"))["complete"] and found)
    assert spent["charged_s"] == charged
    # Of each array task whole seconds are charged, on 16 cores: up to one of them may not be.
    assert 300 <= spent["tasks_s"] < charged + 3 * 16
    assert spent["unexplained_s"] <= charged / 50


def test_an_array_task_never_runs_more_at_once_than_fit(tmp_path: Path) -> None:
    clusters = '[slurm]\nscheduler = "slurm"\nslots = 64\n'
    with ExitStack() as stack:
        login = log_in(stack, tmp_path, os.environ["SLURM_CONF"], {}, clusters)
        login.user.runs(
            HEAD
            + """
@hf.electron(cpus=4, walltime="1 min")
def one(i):
    return i

@hf.lattice(executor="slurm")
def many(n):
    return [one(i) for i in range(n)]

assert hf.dispatch_sync(many)(8).result == list(range(8))
"""
        )
        (submitted,) = login.calls("sbatch")

    assert "--cpus-per-task=16" in submitted
    assert "--array=0-1" in submitted
    assert "--exclusive" not in submitted


@pytest.mark.root
def test_a_partition_that_gives_whole_nodes_is_filled_without_being_told(tmp_path: Path) -> None:
    partition = "PartitionName=whole Nodes=node[1-2] Default=YES MaxTime=60 OverSubscribe=EXCLUSIVE"
    with ExitStack() as stack:
        conf = stack.enter_context(a_mini_slurm("--nodes", "2", "--no-accounting", "--set", partition))
        login = log_in(stack, tmp_path, conf, {})
        printed = login.user.runs(HEAD + page_program("whole-nodes.md"))
        (submitted,) = login.calls("sbatch")

    assert printed == "48"
    assert "--cpus-per-task=16" in submitted
    assert "--exclusive" not in submitted


def page_program(page: str) -> str:
    return "".join(re.findall(r"```python\n(.*?)```", (PAGES / page).read_text(), re.DOTALL))


def test_the_program_of_the_page_says_what_the_page_says(whole: Login) -> None:
    text = (PAGES / "whole-nodes.md").read_text()
    said = re.findall(r"print\(.*\)  # (.*)", text)

    assert whole.user.runs(page_program("whole-nodes.md")).splitlines() == said
    assert "--array=0-2" in whole.calls("sbatch")[0]
