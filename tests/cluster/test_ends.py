"""Every end that Slurm knows, made for real: what becomes of the tasks, what the user reads, and how often we submit.

The stories run side by side on one server, because most of each is a wait for Slurm; what hits the whole cluster comes
after them, alone.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from tests.cluster.conftest import CLUSTERS, Login, log_in
from tests.integration.world import PATIENCE_S, is_alive, lines, until

pytestmark = [pytest.mark.cluster, pytest.mark.root]

SCRIPTS: Final = Path(__file__).parents[2] / "docker" / "slurm-cluster"

#: The same Slurm where it never runs a job again by itself.
ONCE: Final = '[once]\nscheduler = "slurm"\nextra = ["--no-requeue"]\n'

HEAD: Final = """
import os
import signal
import sys
import time

import hpcflow as hf

folder = sys.argv[1]

def note(what):
    fd = os.open(f"{folder}/ledger", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, f"{what}\\n".encode())
    os.close(fd)

def waits(name="gate"):
    while not os.path.exists(f"{folder}/{name}"):
        time.sleep(0.1)

def stop_worker():
    "Stop all of hpcflow's processes above this one, so that only Slurm watches it."
    pid = os.getppid()
    while (status := open(f"/proc/{pid}/stat").read()) and "(slurmstepd)" not in status:
        os.kill(pid, signal.SIGSTOP)
        pid = int(status.rpartition(")")[2].split()[1])

"""


class Story:
    """One dispatch and what happens to it: a login of its own on the server that all share."""

    def __init__(self, login: Login, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.login = replace(login, user=replace(login.user, folder=folder))
        self.dispatch = ""

    def begins(self, program: str) -> None:
        """Dispatch the lattice ``story`` of a program."""
        self.dispatch = self.login.user.runs(f"{HEAD}{program}\nprint(hf.dispatch(story)())\n", str(self.folder))

    def opens(self, gate: str = "gate") -> None:
        (self.folder / gate).touch()

    @property
    def ledger(self) -> list[str]:
        return lines(self.folder / "ledger")

    @property
    def shown(self) -> dict[str, Any]:  # Any: JSON
        return self.login.shown(self.dispatch)

    def notes(self, count: int) -> None:
        """Wait until tasks have written so many lines."""
        until(lambda: len(self.ledger) >= count, lambda: f"{self.ledger} {self.told()}")

    def job(self, state: str = "RUNNING", *, index: int = 0) -> str:
        """Wait until an array task of the newest array is in a state; return the id of the array."""

        def find() -> list[str]:
            rows = self.login.queue(self.dispatch)
            return [job for job, seen in rows if seen == state and job.endswith(f"_{index}")]

        return until(find, self.told)[-1].partition("_")[0]

    def pauses(self) -> str:
        """Wait until it is paused; return why."""
        return str(until(lambda: self.shown["paused"], self.told))

    def resumes(self) -> str:
        ended = self.login.user.hpcflow("resume", self.dispatch)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def ends(self, status: str) -> list[dict[str, Any]]:  # Any: JSON
        """Wait for the end; return its tasks."""
        until(lambda: self.shown["status"] != "RUNNING", self.told)
        assert self.shown["status"] == status, self.told()
        return self.login.tasks(self.dispatch)

    def said(self, pattern: str) -> str:
        """Wait until a message matches; return it."""

        def find() -> list[str]:
            return [text for text in self.login.said(self.dispatch).splitlines() if re.fullmatch(pattern, text)]

        return until(find, self.told)[0]

    def looks_again(self, times: int = 3) -> None:
        """Wait until the server has asked Slurm so many times more: whatever it makes of the news, it has."""
        before = len(self.login.calls("squeue"))
        until(lambda: len(self.login.calls("squeue")) >= before + times + 1)

    @property
    def submissions(self) -> int:
        return self.login.submitted(self.dispatch)

    def told(self) -> str:
        tasks = [(task["state"], task["attempt"], task["error"]) for task in self.login.tasks(self.dispatch)]
        return f"{self.shown}\n{tasks}\n{self.ledger}\n{self.login.queue(self.dispatch)}"


def slurm(*command: str, user: str | None = None) -> str:
    """Run a command as root, or as another user."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, user=user, cwd="/")
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def root_of_the_cluster() -> Path:
    return Path(os.environ["SLURM_CONF"]).parent


def kill_daemon(name: str, number: signal.Signals) -> None:
    """End one of the cluster's daemons, and wait until it is gone."""
    pid = int((root_of_the_cluster() / "run" / f"{name}.pid").read_text())
    os.kill(pid, number)
    until(lambda: not is_alive(pid))


def bring_back() -> None:
    """Start what has died of the cluster."""
    argv = [str(SCRIPTS / "up"), "--root", str(root_of_the_cluster())]
    done = subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0


def processes_on(node: str) -> list[int]:
    """Return the processes of jobs on one node, its slurmstepds included."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "environ").read_bytes().split(b"\0")
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        conf = f"SLURM_CONF={os.environ['SLURM_CONF']}".encode()
        ours = conf in words and f"SLURMD_NODENAME={node}".encode() in words
        if ours or (command.startswith(b"slurmstepd: [") and is_step_on(int(folder.name), node)):
            found.append(int(folder.name))
    return found


def is_step_on(pid: int, node: str) -> bool:
    """Say whether a slurmstepd is one of a node's: its log is the node's."""
    log = root_of_the_cluster() / "log" / f"{node}.log"
    try:
        return any(os.readlink(link) == str(log) for link in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


# ---- cancelled and held


def one_element_cancelled_by_root(story: Story) -> None:
    story.begins(
        """
@hf.electron
def keeps(i):
    note(i)
    waits()
    return i

@hf.lattice(executor="slurm", walltime="5 min")
def story():
    return [keeps(i) for i in range(3)]
"""
    )
    story.notes(3)
    job = story.job(index=1)

    slurm("scancel", f"{job}_1")

    assert story.pauses() == f"Job {job}_1 was cancelled by root, outside hpcflow (CANCELLED by 0)."
    story.said(rf"Job {job}_1 was cancelled by root, .* `hpcflow resume {story.dispatch}` goes on\.")
    story.opens()
    until(lambda: story.shown["counts"].get("completed") == 2, story.told)
    story.looks_again()
    assert story.shown["counts"] == {"completed": 2, "paused": 1}
    assert story.submissions == 1
    assert "1 task" in story.resumes()
    tasks = story.ends("COMPLETED")
    assert sorted(task["attempt"] for task in tasks) == [1, 1, 2]
    assert (story.submissions, len(story.ledger)) == (2, 4)


def a_running_array_cancelled_by_an_operator(story: Story) -> None:
    story.begins(
        """
@hf.electron
def keeps(i):
    note(i)
    waits()
    return i

@hf.lattice(executor="slurm", walltime="5 min")
def story():
    return [keeps(i) for i in range(3)]
"""
    )
    story.notes(3)
    job = story.job()

    slurm("scancel", job, user="hpc")

    assert re.fullmatch(
        rf"Job {job}_\d was cancelled by hpc, outside hpcflow \(CANCELLED by \d+( 0:15)?\)\.", story.pauses()
    )
    until(lambda: story.shown["counts"] == {"paused": 3}, story.told)
    story.looks_again()
    assert story.submissions == 1
    story.opens()
    story.resumes()
    assert {task["attempt"] for task in story.ends("COMPLETED")} == {2}
    assert story.submissions == 2


def a_waiting_array_cancelled(story: Story) -> None:
    story.begins(
        """
@hf.electron(extra=["--begin=now+1hour"])
def keeps(i):
    return i

@hf.lattice(executor="slurm", walltime="5 min")
def story():
    return [keeps(i) for i in range(3)]
"""
    )
    job = story.job("PENDING")

    slurm("scancel", job)

    # Nobody but Slurm's log knows by whom: an array task that never started need not have a row in the accounting.
    assert re.fullmatch(rf"Job {job}_\d was cancelled.*, outside hpcflow \(CANCELLED.*\)\.", story.pauses())
    until(lambda: story.shown["counts"] == {"paused": 3}, story.told)
    story.looks_again()
    assert story.submissions == 1
    story.resumes()
    again = story.job("PENDING")
    assert (again != job, story.submissions) == (True, 2)
    slurm("scontrol", "update", f"jobid={again}", "starttime=now")
    story.ends("COMPLETED")
    assert story.submissions == 2


def a_cancel_that_the_user_wants_tried_again(story: Story) -> None:
    story.begins(
        """
@hf.electron(on_cancelled="retry")
def keeps():
    note("begun")
    waits()

@hf.lattice(executor="slurm", walltime="5 min")
def story():
    return keeps()
"""
    )
    story.notes(1)
    slurm("scancel", story.job())
    story.notes(2)
    assert story.shown["paused"] is None
    story.opens()
    (task,) = story.ends("COMPLETED")
    assert (task["attempt"], story.submissions) == (2, 2)


def an_array_held_by_its_owner(story: Story) -> None:
    story.begins(
        """
@hf.electron(extra=["--hold"])
def keeps(i):
    return i

@hf.lattice(executor="slurm", walltime="5 min")
def story():
    return [keeps(i) for i in range(3)]
"""
    )
    job = story.job("PENDING")
    story.said(rf"Job {job} is held by you \(PENDING JobHeldUser\)\. .* `hpcflow resume {story.dispatch}` .*")
    story.looks_again()
    assert story.shown["counts"] == {"queued": 3}
    story.resumes()
    story.ends("COMPLETED")
    assert story.submissions == 1


def an_array_held_by_an_administrator(story: Story) -> None:
    story.begins(
        """
@hf.electron(extra=["--begin=now+1hour"])
def keeps(i):
    return i

@hf.lattice(executor="slurm", walltime="5 min")
def story():
    return [keeps(i) for i in range(3)]
"""
    )
    job = story.job("PENDING")
    slurm("scontrol", "hold", job)
    story.said(rf"Job {job} is held by an administrator \(PENDING JobHeldAdmin\)\. .*")
    story.looks_again()
    slurm("scontrol", "release", job)
    slurm("scontrol", "update", f"jobid={job}", "starttime=now")
    story.ends("COMPLETED")
    assert story.submissions == 1


def an_element_requeued_into_a_hold(story: Story) -> None:
    story.begins(
        """
@hf.electron
def keeps(i):
    note(i)
    waits()
    return i

@hf.lattice(executor="slurm", walltime="5 min")
def story():
    return [keeps(i) for i in range(2)]
"""
    )
    story.notes(2)
    job = story.job(index=1)
    slurm("scontrol", "requeuehold", f"{job}_1")
    story.said(rf"Job {job} is held \(PENDING job requeued in held state\)\. .*")
    story.opens()
    until(lambda: story.shown["counts"].get("completed") == 1, story.told)
    story.resumes()
    story.ends("COMPLETED")
    assert (story.submissions, len(story.ledger)) == (1, 3)


# ---- never


def a_request_that_can_never_start(story: Story) -> None:
    story.begins(
        """
@hf.electron(cpus=2, qos="hpcflow_tight")
def keeps(i):
    return i

@hf.lattice(executor="slurm", walltime="5 min")
def story():
    return [keeps(i) for i in range(3)]
"""
    )
    tasks = story.ends("FAILED")
    assert {task["state"] for task in tasks} == {"failed"}
    assert re.fullmatch(
        r"Job \d+ can't ever start as it was asked for: slurm says PENDING QOSMaxCpuPerJobLimit\. "
        rf"`hpcflow retry {story.dispatch}` tries again, .*",
        tasks[0]["error"],
    )
    until(lambda: story.login.queue(story.dispatch) == [])
    assert story.submissions == 1


def a_deadline_that_goes_by(story: Story) -> None:
    story.begins(
        """
@hf.electron(extra=["--begin=now+1hour"])
def keeps():
    return 1

@hf.lattice(executor="slurm", walltime="1 min")
def story():
    return keeps()
"""
    )
    # A deadline can be told to Slurm only while it is a minute away; of a job that waits it may then be drawn nearer.
    first = story.job("PENDING")
    slurm("scontrol", "update", f"jobid={first}", "deadline=now+30", "starttime=now")
    until(lambda: story.login.sbatches(story.dispatch) == 2, story.told)
    second = story.job("PENDING")
    assert second != first
    slurm("scontrol", "update", f"jobid={second}", "deadline=now+30", "starttime=now")
    (task,) = story.ends("FAILED")
    assert re.fullmatch(r"No worker on slurm began a task \(.*DEADLINE.*\)\. It wrote: nothing", task["error"])
    assert story.submissions == 2


# ---- killed


def a_task_that_slurm_kills_for_its_memory(story: Story) -> None:
    story.begins(
        """
@hf.electron(memory="100 MB", retries=1)
def grows():
    megabytes = int(os.environ["SLURM_MEM_PER_NODE"])
    note(megabytes)
    if megabytes < 200:
        stop_worker()
        kept = bytearray(b"x") * (400 << 20)
        time.sleep(600)
    return megabytes

@hf.lattice(executor="slurm", walltime="5 min")
def story():
    return grows()
"""
    )
    (task,) = story.ends("COMPLETED")
    first, second = map(int, story.ledger)
    assert second - 32 == 2 * (first - 32)
    assert (task["attempt"], story.submissions) == (2, 2)


def a_task_that_slurm_kills_for_its_memory_without_retries(story: Story) -> None:
    story.begins(
        """
@hf.electron(memory="100 MB")
def grows():
    note("begun")
    stop_worker()
    kept = bytearray(b"x") * (400 << 20)
    time.sleep(600)

@hf.lattice(executor="slurm", walltime="5 min")
def story():
    return grows()
"""
    )
    (task,) = story.ends("FAILED")
    assert re.fullmatch(
        r"The task was killed for its memory \((FAILED 0:9, MaxRSS \d+K, ReqMem \d+M|OUT_OF_MEMORY.*)\): "
        r"it had asked for 96 MiB\.",
        task["error"],
    )
    # What accounting saw of it counts, where it is known: then it is more than half as much again.
    assert (task["host"] or "").startswith("node") and task["max_rss_kib"]
    assert story.submissions == 1


def a_worker_that_slurm_ends_for_its_time(story: Story) -> None:
    story.begins(
        """
@hf.electron(walltime="1 s")
def sleeps():
    note("begun")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:  # Slurm sends SIGCONT before it kills
        stop_worker()
        time.sleep(0.01)

@hf.lattice(executor="slurm")
def story():
    return sleeps()
"""
    )
    story.notes(1)
    # Slurm's shortest limit: ours has a minute of margin.
    slurm("scontrol", "update", f"jobid={story.job()}", "timelimit=1")
    (task,) = story.ends("FAILED")
    assert re.fullmatch(r"The task used up its array task's walltime \(TIMEOUT.*\)\.", task["error"])
    assert story.submissions == 1


def a_task_that_had_not_had_its_time(story: Story) -> None:
    story.begins(
        """
@hf.electron(walltime="10 min")
def sleeps():
    note("begun")
    waits()

@hf.lattice(executor="slurm", partition="batch")
def story():
    return sleeps()
"""
    )
    story.notes(1)
    slurm("scontrol", "update", f"jobid={story.job()}", "timelimit=1")
    story.notes(2)
    story.opens()
    (task,) = story.ends("COMPLETED")
    assert (task["attempt"], story.submissions) == (2, 2)


# ---- preempted, and its node lost: both on the one node of `flaky`


def preempted_and_then_its_node_lost(story: Story) -> None:
    preempted(story)
    after = Story(story.login, story.folder / "node")
    its_node_lost(after)


def preempted(story: Story) -> None:
    story.begins(
        """
@hf.electron(cpus=8, memory="100 MB")
def requeued():
    note("requeued")
    waits()

@hf.electron(cpus=8, memory="100 MB", executor="once", partition="flaky", qos="low", walltime="5 min")
def ended():
    note("ended")
    waits()

@hf.lattice(executor="slurm", partition="flaky", qos="low", walltime="5 min")
def story():
    return requeued(), ended()
"""
    )
    story.notes(2)

    urgent = "sbatch --parsable --wait -o /dev/null -p flaky -q high -c 16 --mem=100 --wrap 'sleep 1'"
    slurm("sh", "-c", urgent)

    story.notes(4)
    story.opens()
    tasks = {task["name"]: task for task in story.ends("COMPLETED")}
    assert sorted(story.ledger) == ["ended", "ended", "requeued", "requeued"]
    # Slurm runs the one again by itself; of the other, preemption is nobody's fault and costs no attempt that counts.
    assert (tasks["requeued"]["attempt"], tasks["ended"]["attempt"]) == (1, 2)
    assert story.submissions == 3


def its_node_lost(story: Story) -> None:
    story.begins(
        """
@hf.electron(cpus=2)
def requeued():
    note("requeued")
    waits()

@hf.electron(cpus=3, executor="once", partition="flaky", walltime="5 min")
def ended():
    note("ended")
    waits()

@hf.lattice(executor="slurm", partition="flaky", walltime="5 min")
def story():
    return requeued(), ended()
"""
    )
    story.notes(2)

    node = slurm("sinfo", "-h", "-p", "flaky", "-o", "%N").strip()
    kill_daemon(node, signal.SIGKILL)
    for pid in processes_on(node):
        os.kill(pid, signal.SIGKILL)

    until(lambda: story.login.sbatches(story.dispatch) == 3, story.told)
    bring_back()
    story.notes(4)
    story.opens()
    tasks = {task["name"]: task for task in story.ends("COMPLETED")}
    assert sorted(story.ledger) == ["ended", "ended", "requeued", "requeued"]
    assert (tasks["requeued"]["attempt"], tasks["ended"]["attempt"]) == (1, 2)
    assert story.submissions == 3


STORIES: Final[tuple[Callable[[Story], None], ...]] = (
    preempted_and_then_its_node_lost,
    a_deadline_that_goes_by,
    a_worker_that_slurm_ends_for_its_time,
    a_task_that_had_not_had_its_time,
    one_element_cancelled_by_root,
    a_running_array_cancelled_by_an_operator,
    a_waiting_array_cancelled,
    a_cancel_that_the_user_wants_tried_again,
    an_array_held_by_its_owner,
    an_array_held_by_an_administrator,
    an_element_requeued_into_a_hold,
    a_request_that_can_never_start,
    a_task_that_slurm_kills_for_its_memory,
    a_task_that_slurm_kills_for_its_memory_without_retries,
)


@contextmanager
def accounts() -> Generator[None]:
    """Make `hpc` an operator, who may cancel anybody's jobs, and a QOS of which one job may have one core."""

    def sacctmgr(*words: str) -> None:
        slurm("sacctmgr", "-i", *words)

    sacctmgr("modify", "user", "hpc", "set", "AdminLevel=Operator")
    sacctmgr("add", "qos", "hpcflow_tight", "MaxTRESPerJob=cpu=1")
    sacctmgr("modify", "user", "root", "set", "qos+=hpcflow_tight")
    try:
        yield
    finally:
        sacctmgr("modify", "user", "root", "set", "qos-=hpcflow_tight")
        sacctmgr("delete", "qos", "hpcflow_tight")
        sacctmgr("modify", "user", "hpc", "set", "AdminLevel=None")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Login]:
    with ExitStack() as stack:
        stack.enter_context(accounts())
        stack.callback(bring_back)
        yield log_in(stack, tmp_path_factory.mktemp("ends"), os.environ["SLURM_CONF"], {}, CLUSTERS + ONCE)


@pytest.fixture(scope="module")
def told(server: Login) -> Iterator[Mapping[str, Future[None]]]:
    """Every story's outcome; all begin with the first test."""
    with ThreadPoolExecutor(len(STORIES)) as pool:
        yield {
            story.__name__: pool.submit(story, Story(server, server.user.folder / story.__name__)) for story in STORIES
        }


@pytest.mark.timeout(900)  # the first test waits for most of what all of them wait for
@pytest.mark.parametrize("name", [story.__name__ for story in STORIES])
def test_an_end_that_slurm_knows(name: str, told: Mapping[str, Future[None]]) -> None:
    told[name].result()


# ---- what hits the whole cluster


def test_a_controller_that_is_away_for_a_minute(server: Login, told: object, tmp_path: Path) -> None:
    del told  # the stories are over
    story = Story(server, tmp_path / "story")
    story.begins(
        """
@hf.electron(cpus=2)
def first(i):
    note(f"first {i}")
    waits()
    return i

@hf.electron(cpus=1)
def second(values):
    note("second")
    return sum(values)

@hf.lattice(executor="slurm", walltime="5 min")
def story():
    return second([first(i) for i in range(4)])
"""
    )
    story.notes(4)
    kill_daemon("slurmctld", signal.SIGTERM)
    died = time.monotonic()
    story.opens()

    # The first stage ends without the controller: journals tell. The second can't be submitted, and is not given up.
    until(lambda: story.shown["counts"].get("completed") == 4, lambda: str(story.shown))
    until(lambda: "Unable to contact" in str(server.ask("/clusters")), lambda: str(server.ask("/clusters")))
    until(lambda: time.monotonic() > died + 60)
    assert story.shown["counts"].keys() <= {"completed", "queued", "ready"}
    bring_back()

    story.ends("COMPLETED")
    assert sorted(story.ledger) == ["first 0", "first 1", "first 2", "first 3", "second"]
    names = ",".join(array["token"] for array in story.shown["arrays"])
    jobs = server.slurm("squeue", "--me", "-t", "all", "-r", "-h", "-o", "%F", f"--name={names}").split()
    assert len(set(jobs)) == 2


def test_an_accounting_that_is_away_for_a_while(server: Login, told: object, tmp_path: Path) -> None:
    del told
    story = Story(server, tmp_path / "story")
    story.begins(
        """
@hf.electron(cpus=1)
def ends_its_worker():
    note("killed")
    if not os.path.exists(f"{folder}/gate"):
        stop_worker()
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)

@hf.electron(cpus=2)
def keeps():
    note("keeps")
    waits("never")

@hf.electron(cpus=3)
def quick():
    note("quick")

@hf.lattice(executor="slurm", walltime="5 min")
def story():
    return keeps(), quick(), ends_its_worker()
"""
    )
    story.notes(3)
    job = next(array["job_id"] for array in story.shown["arrays"] if array["token"].startswith("keeps"))
    kill_daemon("slurmdbd", signal.SIGTERM)
    slurm("scancel", job)

    until(lambda: "sacct ended with" in str(server.ask("/clusters")), lambda: str(server.ask("/clusters")))
    story.looks_again()
    counts = story.shown["counts"]
    bring_back()

    # While nobody says how, nothing is charged; then the one is paused and the other one failed.
    assert counts.get("failed", 0) == 0
    until(lambda: story.shown["counts"] == {"completed": 1, "paused": 1, "failed": 1}, story.told)
    assert story.pauses().startswith(f"Job {job}_0 was cancelled")
    assert story.submissions == 3
    assert story.login.user.hpcflow("cancel", story.dispatch).returncode == 0
