"""Functions that run on every rank: a launcher of the test's own starts them, as srun and mpirun do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hpcflow.core.model import ClusterName, Launcher, Resources, Shape
from hpcflow.node.ranks import own_the_allocation, rank_of
from hpcflow.server.bagging import launch_command
from tests.unit.bag_on_disk import BagOnDisk, Call, run_worker, start_worker, wait_for, write_bag
from tests.waiting import PATIENCE_S, until

#: Starts as many ranks as --ntasks says; ends the others when one fails, with its exit code.
SRUN = """#!{python} -I
import os, signal, subprocess, sys, time
options = [word for word in sys.argv[1:] if word.startswith("--")]
command = [word for word in sys.argv[1:] if not word.startswith("--")]
count = next(int(word.partition("=")[2]) for word in options if word.startswith("--ntasks="))
signal.signal(signal.SIGTERM, lambda *_: [rank.terminate() for rank in ranks])
ranks = [
    subprocess.Popen(command, env={{**os.environ, "SLURM_PROCID": str(number), "SRUN_WAS_TOLD": " ".join(options)}})
    for number in range(count)
]
worst = 0
while ranks:
    time.sleep(0.01)
    for rank in ranks[:]:
        code = rank.poll()
        if code is not None:
            ranks.remove(rank)
            if code:
                worst = worst or (code if code > 0 else 128 - code)
                for other in ranks:
                    other.kill()
sys.exit(worst)
"""


@pytest.fixture(autouse=True)
def _launchers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "srun"
    program.write_text(SRUN.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    yield


def a_parallel_bag(folder: Path, *calls: Call, program: str = "srun", limit: float | None = None) -> BagOnDisk:
    """Write a bag whose tasks run on three ranks each."""
    launch = [program, "--ntasks=3", "--kill-on-bad-exit=1"]
    return write_bag(folder, *calls, iso="spawn", ntasks=3, launch=launch, limit=limit)


def run_one(folder: Path, function: Callable[..., object], *args: object, limit: float | None = None) -> BagOnDisk:
    bag = a_parallel_bag(folder, Call(function, args), limit=limit)
    assert run_worker(bag) == (0, "")
    return bag


# ---- on every rank


def test_the_function_runs_on_every_rank_and_the_result_is_rank_zeros(tmp_path: Path) -> None:
    def note(folder: str) -> tuple[str, int]:
        Path(folder, os.environ["SLURM_PROCID"]).touch()
        return "rank", int(os.environ["SLURM_PROCID"])

    meeting = tmp_path / "meeting"
    meeting.mkdir()
    bag = run_one(tmp_path, note, str(meeting))
    assert sorted(path.name for path in meeting.iterdir()) == ["0", "1", "2"]
    assert bag.result(0) == ("rank", 0)
    assert list((bag.path / "data").glob("*.ranks-*")) == []


def test_a_large_result_stays_in_a_file_of_the_bag(tmp_path: Path) -> None:
    bag = run_one(tmp_path, lambda: b"x" * 100_000)
    assert bag.result(0) == b"x" * 100_000
    assert bag.end(0)["r"]["f"][0] == "data/7_0_0.ranks-1/result"


def test_what_other_ranks_return_need_not_even_be_picklable(tmp_path: Path) -> None:
    def give() -> object:
        return 1 if os.environ["SLURM_PROCID"] == "0" else (lambda: None)

    assert run_one(tmp_path, give).result(0) == 1


def test_tasks_with_a_launcher_follow_each_other_in_a_worker(tmp_path: Path) -> None:
    bag = a_parallel_bag(tmp_path, *(Call(pow, (2, number)) for number in range(3)))
    assert run_worker(bag) == (0, "")
    assert [bag.result(index) for index in range(3)] == [1, 2, 4]


def test_what_ranks_print_is_the_tasks_output(tmp_path: Path) -> None:
    bag = run_one(tmp_path, lambda: print("here is", os.environ["SLURM_PROCID"]))
    assert sorted(bag.out(0).splitlines()) == [f"here is {number}" for number in range(3)]


# ---- failures


def test_an_exception_on_any_rank_is_the_tasks_with_the_ranks_number(tmp_path: Path) -> None:
    def fail() -> None:
        if os.environ["SLURM_PROCID"] == "2":
            raise LookupError("no such mesh")
        time.sleep(PATIENCE_S)

    bag = run_one(tmp_path, fail)
    end = bag.end(0)
    assert (end["st"], end["exc"]) == ("error", "LookupError")
    assert end["msg"] == "Rank 2 of 3: no such mesh"
    assert end["tb"].startswith("Rank 2 of 3, on ")
    assert 'raise LookupError("no such mesh")' in end["tb"]
    assert str(bag.result(0)) == "no such mesh"


def test_a_large_exception_of_another_rank_is_told_by_its_text(tmp_path: Path) -> None:
    def fail() -> None:
        if os.environ["SLURM_PROCID"] == "1":
            raise ValueError("x" * 200_000)

    end = run_one(tmp_path, fail).end(0)
    assert end["msg"].startswith("Rank 1 of 3: xxx")
    assert "r" not in end


def test_ranks_that_are_killed_end_the_task_in_a_sentence(tmp_path: Path) -> None:
    def die() -> None:
        if os.environ["SLURM_PROCID"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(PATIENCE_S)

    end = run_one(tmp_path, die).end(0)
    assert (end["st"], end["exc"]) == ("error", "RanksLost")
    assert end["msg"] == (
        "srun ended with exit code 137, and none of the 3 ranks said why; what it wrote itself is in the task's "
        'stderr. If MPI could not begin, set srun_mpi in clusters.toml to one of "srun --mpi=list".'
    )


def test_a_rank_that_dies_after_rank_zero_has_returned_fails_the_task(tmp_path: Path) -> None:
    def die(mark: str) -> None:
        if os.environ["SLURM_PROCID"] == "0":
            return
        while not list(Path(mark).glob("data/*/0.said")):
            time.sleep(0.01)
        os._exit(4)

    bag = a_parallel_bag(tmp_path, Call(die, (str(tmp_path / "bag"),)))
    assert run_worker(bag) == (0, "")
    assert bag.end(0)["msg"].startswith("srun ended with exit code 4, though rank 0 had returned;")


def test_a_launcher_that_is_not_there_is_named_with_what_to_do(tmp_path: Path) -> None:
    bag = a_parallel_bag(tmp_path, Call(os.getpid), program="mpirun-of-nobody")
    assert run_worker(bag) == (0, "")
    end = bag.end(0)
    assert (end["st"], end["exc"]) == ("error", "LauncherNotFound")
    assert end["msg"] == (
        f"mpirun-of-nobody is not on PATH on {os.uname().nodename}: load it in the prologue of clusters.toml."
    )


@pytest.mark.parametrize("program", ["srun", "mpirun", "mpiexec"])
def test_a_function_that_calls_a_missing_launcher_is_told_what_to_do(tmp_path: Path, program: str) -> None:
    def call() -> None:
        subprocess.run([program, "hostname"], check=True, env={"PATH": "/nowhere"})

    bag = write_bag(tmp_path, Call(call), ntasks=2)
    assert run_worker(bag) == (0, "")
    assert bag.end(0)["msg"] == (
        f"[Errno 2] No such file or directory: '{program}'. It is not on PATH on {os.uname().nodename}: "
        "load it in the prologue of clusters.toml."
    )


def test_mpi_that_knows_of_no_other_rank_is_a_failure(tmp_path: Path) -> None:
    def alone() -> None:
        import types

        mpi = types.ModuleType("mpi4py.MPI")
        world = types.SimpleNamespace(Get_size=lambda: 1)
        vars(mpi).update(Is_initialized=lambda: True, Is_finalized=lambda: False, COMM_WORLD=world)
        sys.modules["mpi4py.MPI"] = mpi

    end = run_one(tmp_path, alone).end(0)
    assert (end["st"], end["exc"]) == ("error", "RanksApart")
    assert "srun started 3 processes, and MPI sees 1 of them: set srun_mpi in clusters.toml" in end["msg"]


def test_what_nobody_signed_is_not_believed(tmp_path: Path) -> None:
    def forge(bag: str) -> int:
        (folder,) = Path(bag, "data").glob("*.ranks-1")
        if os.environ["SLURM_PROCID"] == "1":
            path = folder / "5.said"
            path.write_text('{"ev":"said","st":"error","t":0,"rank":5,"msg":"forged"} #0123456789abcdef\n')
            path.chmod(0o600)
        return 5

    bag = a_parallel_bag(tmp_path, Call(forge, (str(tmp_path / "bag"),)))
    assert run_worker(bag) == (0, "")
    assert bag.result(0) == 5


def test_a_rank_works_on_nothing_that_is_not_signed(tmp_path: Path) -> None:
    bag = a_parallel_bag(tmp_path, Call(os.getpid))
    (bag.path / "bag.sig").write_text("0" * 64)
    ended = subprocess.run(
        [sys.executable, "-m", "hpcflow.node", "rank", str(bag.path), str(bag.key_file), "7_0_0.ranks-1"],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert ended.returncode == 12
    assert "isn't signed with this cluster's key" in ended.stderr


# ---- limits and signals


def test_ranks_that_take_too_long_end_as_a_timeout(tmp_path: Path) -> None:
    end = run_one(tmp_path, time.sleep, PATIENCE_S, limit=1).end(0)
    assert end["st"] == "timeout"
    assert end["wall"] >= 1


def test_ranks_that_the_scheduler_ends_are_interrupted(tmp_path: Path) -> None:
    bag = a_parallel_bag(tmp_path, Call(time.sleep, (PATIENCE_S,)))
    worker = start_worker(bag)
    until(lambda: bag.records("start"))
    worker.send_signal(signal.SIGTERM)
    assert wait_for([worker])[0][0] == 143
    assert bag.end(0)["st"] == "interrupted"


def test_programs_that_a_parallel_task_left_are_asked_to_leave_first(tmp_path: Path) -> None:
    def leave(mark: str) -> None:
        script = f"trap 'echo left >{mark}; exit' TERM; echo up; while :; do sleep 0.05; done"
        left = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True)
        assert left.stdout is not None
        left.stdout.readline()

    mark = tmp_path / "mark"
    bag = write_bag(tmp_path, Call(leave, (str(mark),)), ntasks=2, grace=PATIENCE_S)
    assert run_worker(bag) == (0, "")
    assert mark.read_text() == "left\n"
    assert bag.end(0)["left"] >= 1


def test_programs_that_do_not_leave_are_killed_after_the_grace(tmp_path: Path) -> None:
    def leave() -> int:
        left = subprocess.Popen(
            ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done"], stdout=subprocess.PIPE
        )
        assert left.stdout is not None
        left.stdout.readline()
        return left.pid

    bag = write_bag(tmp_path, Call(leave), ntasks=2, grace=0.2)
    assert run_worker(bag) == (0, "")
    assert not Path(f"/proc/{bag.result(0)}").exists()


# ---- variables

SEEN_IN_A_BATCH_SHELL = {  # Slurm 22.05.8, sbatch -N2 -n4 -c2
    "SLURM_JOB_ID": "1003",
    "SLURM_JOB_NODELIST": "node[1-2]",
    "SLURM_NTASKS": "4",
    "SLURM_TASKS_PER_NODE": "3,1",
    "SLURM_CPUS_PER_TASK": "2",
    "SLURM_ARRAY_TASK_ID": "0",
    "SLURMD_NODENAME": "node1",
    "SLURM_CONF": "/etc/slurm/slurm.conf",
}


def test_an_allocation_is_the_tasks_without_being_a_rank_of_anything() -> None:
    ranks = {
        "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_GTIDS": "0", "SLURM_TASK_PID": "30219",
        "SLURM_STEP_ID": "0", "SLURM_STEPID": "0", "SLURM_STEP_NODELIST": "node1", "SLURM_SRUN_COMM_PORT": "46069",
        "PMI_RANK": "0", "PMI_FD": "11", "PMI2_JOBID": "1", "PMIX_RANK": "0", "PMIX_SERVER_URI2": "x",
        "OMPI_COMM_WORLD_RANK": "0", "OMPI_MCA_ess": "pmi", "OMPI_MCA_orte_hnp_uri": "x", "MV2_COMM_WORLD_RANK": "0",
    }  # fmt: skip
    settings = {"OMPI_MCA_btl": "tcp,self", "PMIX_MCA_gds": "hash", "SLURM_STEPMGR": "node1", "SLURM_MPI_TYPE": "pmix"}
    environ = {**SEEN_IN_A_BATCH_SHELL, **ranks, **settings}
    own_the_allocation(environ)
    assert environ == {**SEEN_IN_A_BATCH_SHELL, **settings, "SRUN_CPUS_PER_TASK": "2"}


def test_cores_of_each_process_stay_as_the_user_set_them_for_srun() -> None:
    environ = {"SLURM_CPUS_PER_TASK": "2", "SRUN_CPUS_PER_TASK": "1"}
    own_the_allocation(environ)
    assert environ["SRUN_CPUS_PER_TASK"] == "1"


def test_a_task_sees_the_clean_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**SEEN_IN_A_BATCH_SHELL, "SLURM_PROCID": "0", "PMI_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    bag = write_bag(tmp_path, Call(lambda: {name: os.environ.get(name) for name in SEEN}), ntasks=4)
    assert run_worker(bag) == (0, "")
    assert bag.result(0) == {"SLURM_JOB_ID": "1003", "SLURM_PROCID": None, "PMI_RANK": None, "SRUN_CPUS_PER_TASK": "2"}


SEEN = ("SLURM_JOB_ID", "SLURM_PROCID", "PMI_RANK", "SRUN_CPUS_PER_TASK")


@pytest.mark.parametrize(
    ("program", "environ", "number"),
    [
        ("srun", {"SLURM_PROCID": "3"}, 3),
        ("mpirun", {"SLURM_PROCID": "3"}, None),
        ("mpirun", {"OMPI_COMM_WORLD_RANK": "2", "PMIX_RANK": "2"}, 2),
        ("mpirun", {"PMI_RANK": "1"}, 1),
        ("mpirun", {"PMI_RANK": "one"}, None),
    ],
)
def test_a_rank_knows_its_number_from_its_launcher(program: str, environ: dict[str, str], number: int | None) -> None:
    assert rank_of(program, environ) == number


@pytest.mark.parametrize(
    ("launcher", "flavour", "command"),
    [
        (None, "pmix", None),
        ("srun", None, ["srun", "--ntasks=8", "--kill-on-bad-exit=1"]),
        ("srun", "pmi2", ["srun", "--mpi=pmi2", "--ntasks=8", "--kill-on-bad-exit=1"]),
        ("mpirun", "pmi2", ["mpirun", "-n", "8"]),
    ],
)
def test_the_launchers_command_is_the_servers_to_say(
    launcher: Launcher | None, flavour: str | None, command: list[str] | None
) -> None:
    shape = Shape(
        cluster=ClusterName("mini"),
        resources=Resources(ntasks=8),
        python="python3",
        python_version=(3, 11),
        launcher=launcher,
    )
    assert launch_command(shape, flavour) == command
