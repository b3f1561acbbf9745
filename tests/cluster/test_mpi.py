"""MPI programs on a real Slurm: functions that start them, and functions that run on every rank."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import Login, log_in
from tests.integration.world import until

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(shutil.which("mpirun") is None, reason="needs an MPI (Debian: openmpi-bin, python3-mpi4py)"),
]

#: Debian's mpi4py for Debian's Python, whichever environment the tests run in; and Open MPI wants to be told that root
#: may use it.
PROLOGUE = """
prologue = '''
export PYTHONPATH=/usr/lib/python3/dist-packages
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
'''
"""
CLUSTERS = f"""
[local]
scheduler = "local"
{PROLOGUE}
[slurm]
scheduler = "slurm"
{PROLOGUE}
"""

HEAD = """
import json
import os
import signal
import subprocess
import sys
import time

import hpcflow as hf

def told(result):
    nodes = result.tasks()
    print(json.dumps([result.status, result.result if result.status == "COMPLETED" else None,
                      [node.error for node in nodes], sorted({node.job_id for node in nodes})]))

"""


def own_server(folder: Path, clusters: str) -> Iterator[Login]:
    with ExitStack() as stack:
        yield log_in(stack, folder, os.environ["SLURM_CONF"], {}, clusters)


@pytest.fixture(scope="module")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Login]:
    yield from own_server(tmp_path_factory.mktemp("mpi"), CLUSTERS + 'srun_mpi = "pmix"\n')


@pytest.fixture
def mpi(_server: Login) -> Login:
    """A server whose cluster has an MPI; its counts begin with the test."""
    for notes in _server.notes.values():
        notes.write_text("")
    return _server


def completed(printed: str) -> tuple[Any, list[str]]:  # Any: JSON
    """Return the result and the ids of the jobs that made it."""
    status, value, errors, jobs = json.loads(printed)
    assert status == "COMPLETED", errors
    return value, jobs


# ---- functions that start programs


def test_twenty_calls_of_mpirun_share_one_array_task(mpi: Login) -> None:
    printed = mpi.user.runs(
        HEAD
        + """
@hf.electron(nodes=2, ntasks=4, walltime="1 min", memory="2 GB", max_running=1)
def runs(step):
    program = "import os; print(os.environ['OMPI_COMM_WORLD_RANK'], os.environ['OMPI_COMM_WORLD_SIZE'])"
    done = subprocess.run(["mpirun", sys.executable, "-I", "-c", program], check=True, capture_output=True, text=True)
    return sorted(done.stdout.splitlines())

@hf.lattice(executor="slurm")
def study(steps):
    return [runs(step) for step in range(steps)]

told(hf.dispatch_sync(study)(20))
"""
    )
    value, jobs = completed(printed)

    assert value == [[f"{rank} 4" for rank in range(4)]] * 20
    assert len(jobs) == 1
    assert len(mpi.calls("sbatch")) == 1
    assert "--array=0-0" in mpi.calls("sbatch")[0]


def test_srun_inside_a_task_uses_its_ntasks_and_cpus(mpi: Login) -> None:
    printed = mpi.user.runs(
        HEAD
        + """
@hf.electron(nodes=2, ntasks=3, cpus=2, walltime="1 min", memory="2 GB")
def runs():
    own = sorted(name for name in os.environ if name.startswith(("PMI", "SLURM_STEP", "SLURM_PROCID", "SLURM_LOCALID")))
    seen = subprocess.run(
        ["srun", "sh", "-c", "echo $SLURM_PROCID $SLURM_CPUS_PER_TASK $SLURM_STEP_NUM_TASKS $SLURM_STEP_NUM_NODES"],
        check=True, capture_output=True, text=True,
    ).stdout
    return own, sorted(seen.splitlines())

@hf.lattice(executor="slurm")
def steps():
    return runs()

told(hf.dispatch_sync(steps)())
"""
    )
    value, _ = completed(printed)

    assert value == [[], ["0 2 3 2", "1 2 3 2", "2 2 3 2"]]


def test_what_a_task_left_on_its_nodes_is_gone_before_the_next_begins(mpi: Login) -> None:
    printed = mpi.user.runs(
        HEAD
        + """
MARK = "86399.25"

def of_the_past():
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = open(f"/proc/{pid}/cmdline", "rb").read().split(b"\\0")
        except OSError:
            continue
        if MARK.encode() in words:
            found.append(pid)
    return found

@hf.electron(nodes=2, ntasks=4, walltime="1 min", memory="2 GB", max_running=1)
def leaves(program, before):
    started = subprocess.Popen([program, "sleep", MARK], start_new_session=True)
    while sum(b"sleep" in open(f"/proc/{pid}/cmdline", "rb").read().split(b"\\0")[0] for pid in of_the_past()) < 4:
        time.sleep(0.05)
    return program

@hf.electron(nodes=2, ntasks=4, walltime="1 min", memory="2 GB", max_running=1)
def looks(before):
    while of_the_past():
        time.sleep(0.05)
    return subprocess.run(["srun", "echo", "free"], check=True, capture_output=True, text=True).stdout.split()

@hf.lattice(executor="slurm")
def one_after_the_other():
    return looks(leaves("mpirun", looks(leaves("srun", None))))

told(hf.dispatch_sync(one_after_the_other)())
"""
    )
    value, _ = completed(printed)

    assert value == ["free"] * 4


# ---- functions on every rank


@pytest.mark.parametrize("launcher", ["mpirun", "srun"])
def test_a_function_runs_on_every_rank_with_mpi4py(mpi: Login, launcher: str) -> None:
    printed = mpi.user.runs(
        HEAD
        + f"""
@hf.electron(ntasks=4, launcher="{launcher}", walltime="1 min", memory="2 GB")
def sums(numbers):
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    mine = sum(numbers[world.rank :: world.size])
    return world.size, world.rank, world.allreduce(mine), world.gather(os.environ.get("SLURM_JOB_ID"))

@hf.lattice(executor="slurm")
def parallel(n):
    return sums(list(range(n)))

told(hf.dispatch_sync(parallel)(100))
"""
    )
    value, jobs = completed(printed)

    assert value[:3] == [4, 0, 4950]
    assert len(set(value[3])) == 1
    assert len(jobs) == 1


def test_each_task_with_a_launcher_has_an_array_task_of_its_own(mpi: Login) -> None:
    printed = mpi.user.runs(
        HEAD
        + """
@hf.electron(nodes=2, ntasks=2, launcher="mpirun", walltime="1 min", memory="2 GB")
def where(i):
    return os.environ["SLURM_ARRAY_TASK_ID"], os.environ["OMPI_COMM_WORLD_RANK"]

@hf.lattice(executor="slurm")
def several():
    return [where(i) for i in range(3)]

told(hf.dispatch_sync(several)())
"""
    )
    value, _ = completed(printed)

    assert sorted(value) == [["0", "0"], ["1", "0"], ["2", "0"]]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_ranks_on_this_machine_need_no_slurm(mpi: Login) -> None:
    printed = mpi.user.runs(
        HEAD
        + """
@hf.electron(ntasks=2, launcher="mpirun", walltime="1 min")
def sums():
    from mpi4py import MPI

    return MPI.COMM_WORLD.allreduce(MPI.COMM_WORLD.rank + 1)

@hf.lattice(executor="local")
def parallel():
    return sums()

told(hf.dispatch_sync(parallel)())
"""
    )

    assert completed(printed)[0] == 3


def test_ranks_whose_job_is_cancelled_are_not_their_tasks_failure(mpi: Login, tmp_path: Path) -> None:
    up = tmp_path / "up"
    dispatch = mpi.user.runs(
        HEAD
        + """
@hf.electron(ntasks=2, launcher="srun", walltime="20 min", partition="batch", memory="1 GB")
def endless(up):
    open(up, "w").close()
    signal.pause()

@hf.lattice(executor="slurm")
def parallel(up):
    return endless(up)

print(hf.dispatch(parallel)(sys.argv[1]))
""",
        str(up),
    )
    until(up.exists)

    mpi.slurm("scancel", mpi.queue(dispatch)[0][0])

    until(lambda: mpi.shown(dispatch)["counts"] == {"paused": 1}, lambda: str(mpi.shown(dispatch)))
    assert "was cancelled" in mpi.shown(dispatch)["paused"]
    assert mpi.user.hpcflow("cancel", dispatch).returncode == 0


@pytest.mark.parametrize("launcher", ["mpirun", "srun"])
def test_an_exception_on_one_rank_fails_the_task_with_its_number(mpi: Login, launcher: str) -> None:
    printed = mpi.user.runs(
        HEAD
        + f"""
@hf.electron(ntasks=3, launcher="{launcher}", walltime="1 min", memory="2 GB")
def fails():
    from mpi4py import MPI

    if MPI.COMM_WORLD.rank == 1:
        raise ArithmeticError("the mesh is torn")
    MPI.COMM_WORLD.barrier()

@hf.lattice(executor="slurm")
def parallel():
    return fails()

told(hf.dispatch_sync(parallel)())
"""
    )
    status, _, (error,), _ = json.loads(printed)

    assert status == "FAILED"
    assert "Rank 1 of 3: the mesh is torn" in error


def test_ranks_that_are_killed_fail_their_task_in_a_sentence(mpi: Login) -> None:
    printed = mpi.user.runs(
        HEAD
        + """
@hf.electron(ntasks=3, launcher="srun", walltime="1 min", memory="2 GB")
def dies():
    if os.environ["SLURM_PROCID"] == "2":
        os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()

@hf.lattice(executor="slurm")
def parallel():
    return dies()

told(hf.dispatch_sync(parallel)())
"""
    )
    status, _, (error,), _ = json.loads(printed)

    assert status == "FAILED"
    assert re.search(r"srun ended with exit code \d+, and none of the 3 ranks said why", error)


def test_processes_that_know_nothing_of_each_other_are_a_failure_that_names_the_setting(tmp_path: Path) -> None:
    for bare in own_server(tmp_path, CLUSTERS + 'srun_mpi = "none"\n'):
        printed = bare.user.runs(
            HEAD
            + """
@hf.electron(ntasks=2, launcher="srun", walltime="1 min", memory="2 GB")
def alone():
    # What lets Open MPI begin without a word from Slurm.
    for name in [name for name in os.environ if name.startswith(("SLURM_", "PMI"))]:
        del os.environ[name]
    from mpi4py import MPI

    return MPI.COMM_WORLD.size

@hf.lattice(executor="slurm")
def parallel():
    return alone()

told(hf.dispatch_sync(parallel)())
"""
        )
        status, _, (error,), _ = json.loads(printed)

        assert status == "FAILED"
        assert "srun started 2 processes, and MPI sees 1 of them: set srun_mpi in clusters.toml" in error


def test_a_launcher_that_is_missing_inside_the_allocation_is_named(tmp_path: Path) -> None:
    clusters = CLUSTERS.replace("prologue = '''\n", "prologue = '''\nexport PATH=/nowhere\n")
    for bare in own_server(tmp_path, clusters):
        printed = bare.user.runs(
            HEAD
            + """
@hf.electron(ntasks=2, launcher="srun", walltime="1 min", memory="2 GB")
def ranks():
    return 1

@hf.electron(ntasks=2, walltime="1 min", memory="2 GB")
def calls():
    subprocess.run(["srun", "hostname"], check=True)

@hf.lattice(executor="slurm")
def parallel():
    return ranks(), calls()

told(hf.dispatch_sync(parallel)())
"""
        )
        status, _, errors, _ = json.loads(printed)

        assert status == "FAILED"
        missing = re.compile("not on PATH on .*: load it in the prologue of clusters.toml")
        assert len(errors) == 2
        assert all(missing.search(error) for error in errors)


# ---- the page about it


def test_the_program_of_the_page_says_what_the_page_says(mpi: Login) -> None:
    page = (Path(__file__).parents[2] / "docs/howto/mpi.md").read_text()
    program = "".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    said = re.findall(r"print\(hf\..*\)  # (.*)", page)

    assert mpi.user.runs(program).splitlines() == said
