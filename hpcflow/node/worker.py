"""The claim loop of one array task: claim a range of units, run each task in its own process, write down how it ended.

`Worker.run` returns the exit code of the array task:

    0    the bag is drained, or time was up, or the scheduler warned; every claimed task has a record
    11   the interpreter's minor version is not the one that made the pickles; nothing was claimed
    12   the bag isn't signed with the cluster's key, can't be read, or holds what hpcflow did not put there
    75   the bag's directory takes no more bytes, or is gone
    143  SIGTERM: the running task was interrupted, which counts as nothing
"""

from __future__ import annotations

import os
import pickle
import re
import resource
import sys
import time
from collections.abc import Mapping
from typing import Final, NamedTuple, NoReturn

from hpcflow.core.bag import DamagedError
from hpcflow.node.bagdir import BagDirectory, RefusedBag, Stored, TaskRow, open_bag
from hpcflow.node.cancels import CancelWatch
from hpcflow.node.claims import Claims, owned_by
from hpcflow.node.files import StrangeFile
from hpcflow.node.journal import Journal, Past, StorageFault, read_past
from hpcflow.node.processes import adopt_orphans
from hpcflow.node.ranks import own_the_allocation
from hpcflow.node.runner import Runner
from hpcflow.node.slots import work_in_slots
from hpcflow.node.stop import Stop
from hpcflow.node.task import EXIT_STORAGE, Assignment, run_task, write_lines_at_once
from hpcflow.node.watch import ServerWatch

__all__ = [
    "EXIT_PYTHON",
    "EXIT_REFUSED",
    "EXIT_TERM",
    "Identity",
    "Worker",
    "identity",
    "pause_between_checks",
    "pause_between_looks",
    "until_look",
    "work",
    "work_on_one",
]

EXIT_PYTHON: Final = 11
EXIT_REFUSED: Final = 12
EXIT_TERM: Final = 143

#: The shortest time between two looks into the inbox, and the most looks in a second of all workers together.
_LOOK_S: Final = 0.05
_LOOKS_PER_S: Final = 25
#: A turn to look is taken once, though clocks and fractions are not exact.
_TURN_S: Final = 0.001
#: Likewise of looks for a successor, each of which costs two operations.
_CHECK_S: Final = 1.0
_CHECKS_PER_S: Final = 10
#: Tasks of one series: what they wrote into the journal is read at its end.
_LONGEST_SERIES: Final = 1000
_THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Identity(NamedTuple):
    """Which array task this process is."""

    #: With the slot, where the array task has several workers: "8123+2".
    job: str
    array_index: int
    restart: int
    #: Which of all workers of its array it is, from 0: where it begins to look for work.
    place: int


def identity(environ: Mapping[str, str]) -> Identity:
    """Read it from the scheduler's variables, or from ours where the batch script sets them."""
    job = environ.get("SLURM_ARRAY_JOB_ID") or environ.get("HPCFLOW_JOB") or environ.get("SLURM_JOB_ID") or "0"
    index = environ.get("SLURM_ARRAY_TASK_ID") or environ.get("HPCFLOW_INDEX") or "0"
    restart = environ.get("SLURM_RESTART_COUNT") or environ.get("HPCFLOW_RESTART") or "0"
    # PBS calls an array "123[].server"; in file names of ours only this much is left of it.
    return Identity(re.sub(r"[^A-Za-z0-9.-]+", "-", job), int(index), int(restart), int(index))


def work(bag_path: str, key_file: str) -> int:
    """Work on a bag until nothing is left to claim; return the exit code."""
    try:
        bag = open_bag(bag_path, key_file)
    except RefusedBag as error:
        print(error, file=sys.stderr)
        return EXIT_REFUSED
    me = identity(os.environ)
    own_the_allocation(os.environ)
    for name in ("HPCFLOW_JOB", "HPCFLOW_INDEX", "HPCFLOW_RESTART"):
        os.environ.pop(name, None)
    for name in _THREAD_VARIABLES:
        os.environ[name] = str(bag.cpus)
    if bag.slots == 1:
        return _work(bag, key_file, me)

    def work_in_slot(slot: int, before: int) -> int:
        place = me.array_index * bag.slots + slot
        return _work(bag, key_file, Identity(f"{me.job}+{slot}", me.array_index, me.restart + before, place))

    return work_in_slots(bag, work_in_slot, lambda slot: f"{me.job}+{slot}_{me.array_index}")


def _work(bag: BagDirectory, key_file: str, me: Identity) -> int:
    # Once the worker has begun, its stderr belongs to the tasks; this is the scheduler's log.
    with open(os.dup(2), "w", encoding="utf-8") as complaints:
        try:
            return Worker(bag, key_file, me).run()
        except (StrangeFile, DamagedError) as error:
            print(error, file=complaints)
            return EXIT_REFUSED
        except StorageFault as error:
            sentence = str(error)
        except OSError as error:  # a claim, a log or a directory that can't be made
            sentence = f"The bag {bag.path} takes no more files: {error}."
        if not os.path.exists(os.path.join(bag.path, "bag.json")):
            sentence = f"The bag {bag.path} was deleted while it was worked on; what its tasks still did is lost."
        print(sentence, file=complaints)
    return EXIT_STORAGE


class Worker:
    """One array task at work."""

    def __init__(self, bag: BagDirectory, key_file: str, me: Identity) -> None:
        # Deadlines never look at the clock that a step or a suspended laptop moves.
        self.started = time.monotonic()
        self.bag = bag
        self.key_file = key_file
        self.me = me
        self.stop = Stop()
        self.idle_s = 0.0
        #: How often it has begun to wait for more.
        self.waits = 0
        self.umask = os.umask(0o077)
        self.journal_directory = os.path.join(bag.path, "journal")
        self.journal = Journal(
            self.journal_directory, me.job, me.array_index, me.restart, key=bag.key, sync_s=bag.sync_s
        )
        self.name = self.journal.worker
        self.log(
            "up",
            host=os.uname().nodename,
            pid=os.getpid(),
            node=os.environ.get("SLURMD_NODENAME"),
            py=sys.version.split()[0],
            job=me.job,
            index=me.array_index,
        )

    def log(self, event: str, **fields: object) -> None:
        self.journal.write(event, **fields)

    def run(self) -> int:
        try:
            return self._run()
        except (StrangeFile, DamagedError) as error:
            self.log("exit", why="refused", msg=str(error), n=0, ops=0)
            raise

    def _run(self) -> int:
        if sys.version_info[:2] != self.bag.python:
            return self._refuse_python()
        self.stop.listen()
        adopt_orphans()
        until = self.started + self.bag.walltime_s
        self.cancels = CancelWatch(self.bag, self.me.place, self._count_workers)
        self.runner = Runner(
            self.bag, self.key_file, self.journal, self.stop, cancels=self.cancels, umask=self.umask, until=until
        )
        self.superseded_checked_at = time.monotonic()
        #: Workers that had come to the bag when they were last counted.
        self.peers = 1
        ranges, past = self._inherit()
        self.claims = Claims(
            os.path.join(self.bag.path, "claims"),
            self.name,
            ranges=len(self.bag.cuts) - 1,
            start=self.me.place,
            nfs=self.bag.nfs,
            method=self.bag.claims,
        )
        while True:
            # Before a claim, not after: what is claimed here is out of reach for a worker that comes fresh.
            may_begin = self._may_begin()
            k = ranges.pop(0) if ranges else self.claims.next() if may_begin else None
            if k is None:
                if self._wait_for_more():
                    continue
                break
            self.log("claim", k=k, a=self.bag.cuts[k], b=self.bag.cuts[k + 1])
            self._run_range(k, past)
            self._check_superseded()
        return self._leave()

    def _count_workers(self) -> int:
        return self.claims.workers()

    def _refuse_python(self) -> int:
        wanted, mine = "{}.{}".format(*self.bag.python), "{}.{}".format(*sys.version_info[:2])
        sentence = (
            f"The workflow was made by Python {wanted}, but {sys.executable} on {os.uname().nodename} is "
            f"Python {mine}. Set `python` of this cluster in clusters.toml to a Python {wanted}."
        )
        self.log("exit", why="python", msg=sentence, n=0, ops=0)
        print(sentence, file=sys.stderr)
        return EXIT_PYTHON

    def _inherit(self) -> tuple[list[int], Past]:
        """Return ranges and ends of this array task's earlier, dead workers."""
        before = [f"{self.me.job}_{self.me.array_index}_{restart}" for restart in range(self.journal.restart)]
        if not before:
            return [], Past(frozenset(), {})
        past = read_past(self.journal_directory, before, self.bag.key)
        ranges = sorted(past.ranges | owned_by(os.path.join(self.bag.path, "claims"), before))
        if ranges:
            self.log("inherit", k=ranges, ended=len(past.ended))
        return ranges, past

    def _run_range(self, k: int, past: Past) -> None:
        unit, stop = self.bag.cuts[k], self.bag.cuts[k + 1]
        while unit < stop:
            short = self._short_tasks(unit, stop, past)
            if len(short) > 1:
                if not self._may_begin():
                    self.log("left", k=k, u=unit)
                    return
                unit += self.runner.run_series(short)
            elif self._run_unit(k, unit, past):
                unit += 1
            else:
                return

    def _short_tasks(self, unit: int, stop: int, past: Past) -> list[TaskRow]:
        """Return the tasks of the units from this one on that may share a process."""
        tasks: list[TaskRow] = []
        for each in range(unit, min(stop, unit + _LONGEST_SERIES)):
            positions = self.bag.positions(each)
            task = self.bag.task(positions[0])
            ended = (task.number, task.attempt) in past.ended
            if len(positions) > 1 or ended or not self.runner.is_short(task.fn) or not self._wants(task, tasks):
                break
            tasks.append(task)
        return tasks

    def _wants(self, task: TaskRow, before: list[TaskRow]) -> bool:
        """Return whether somebody wants a task: one look into the inbox does for a series."""
        return not self.bag.is_cancelled(task) if before else self.cancels.wants(task)

    def _run_unit(self, k: int, unit: int, past: Past) -> bool:
        """Run the tasks of one unit; return whether another unit may begin."""
        earlier: dict[int, Stored] = {}
        for position in self.bag.positions(unit):
            task = self.bag.task(position)
            end = past.ended.get((task.number, task.attempt))
            if end is None:
                if not self.cancels.wants(task):
                    break  # nor what comes after it in a chain
                if not self._may_begin():
                    self.log("left", k=k, u=unit)
                    return False
                end = self.runner.run(task, earlier)
            if end["st"] != "ok":
                break  # the rest of a chain is not run
            earlier[task.number] = end["r"]
        return True

    def _wait_for_more(self) -> bool:
        """Wait, as long as the bag allows, for tasks that come through its inbox; return whether some did."""
        if not self.bag.linger_s or self.me.place >= self.bag.lingerers:
            return False
        began = time.monotonic()
        self.waits += 1
        server = ServerWatch(self.bag.notice)
        self.peers = self.claims.workers()
        told = False
        try:
            while self._may_begin():
                if self.bag.look_into_inbox():
                    self.claims.grow(len(self.bag.cuts) - 1)
                    return True
                if self.bag.closed or self.bag.leave.covers(self.name, self.waits):
                    return False
                if time.monotonic() - began >= self.bag.linger_s or server.gone():
                    return False
                if not told:
                    self.log("idle", n=self.waits)
                    self.journal.sync()
                    told = True
                self.stop.wait(until_look(time.time(), self.me.place, min(self.bag.lingerers, self.peers)))
                self._check_superseded()
            return False
        finally:
            self.idle_s += time.monotonic() - began

    def _may_begin(self) -> bool:
        """The first task always begins; a further one only while enough of the walltime is left (S5)."""
        self.stop.look()
        left_s = self.started + self.bag.walltime_s - time.monotonic()
        if self.stop.why is None and self.runner.done and left_s < self.bag.need_s:
            self.stop.why = "walltime"
        return self.stop.why is None

    def _check_superseded(self) -> None:
        """Stop when the scheduler has started this array task again elsewhere: then this node was given up as lost."""
        now = time.monotonic()
        if now - self.superseded_checked_at >= pause_between_checks(self.peers):
            self.superseded_checked_at, self.peers = now, self.claims.workers()
            successor = f"{self.me.job}_{self.me.array_index}_{self.journal.restart + 1}.jsonl"
            if os.path.exists(os.path.join(self.journal_directory, successor)):
                self.stop.why = self.stop.why or "superseded"

    def _leave(self) -> int:
        self.runner.remove_directory()
        own, tasks = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        self.log(
            "exit",
            why=self.stop.why or "drained",
            n=self.runner.done,
            ops=self.claims.operations,
            cpu=[round(own.ru_utime, 3), round(own.ru_stime, 3)],
            tasks_cpu=[round(tasks.ru_utime, 3), round(tasks.ru_stime, 3)],
            rss=own.ru_maxrss,
            idle=round(self.idle_s, 3),
        )
        self.journal.sync()
        return {"term": EXIT_TERM, "fault": EXIT_STORAGE}.get(self.stop.why or "", 0)


def pause_between_looks(workers: int) -> float:
    """Return the seconds between two looks of one worker into the inbox, when so many wait."""
    return max(_LOOK_S, workers / _LOOKS_PER_S)


def until_look(now_s: float, place: int, workers: int) -> float:
    """Return the seconds to a worker's next look into the inbox, when so many wait.

    All look into one file, so many times a second together, whatever their number. They take turns by the clock, as
    far as nodes agree on it: somebody sees what comes at once, and a moment later there is another to share it with,
    where workers that had become idle in the same moment would all look in the same moment, long after.

    Args:
        now_s: since the epoch.
        place: of this worker.
        workers: that wait, at least 1.
    """
    pause = pause_between_looks(workers)
    turn = (place % workers) * pause / workers
    left_s = pause - (now_s - turn) % pause
    return left_s if left_s > _TURN_S else left_s + pause


def pause_between_checks(workers: int) -> float:
    """Return the seconds between two looks of one worker for its successor, when there are so many."""
    return max(_CHECK_S, workers / _CHECKS_PER_S)


def work_on_one(bag_path: str, key_file: str, order_fd: int) -> NoReturn:
    """Run one task in this new interpreter, as the worker that started it ordered through a descriptor."""
    with open(order_fd, "rb") as file:
        file.seek(0)
        # Written by the worker, our parent, into memory that nobody else can open by name.
        assignment: Assignment = pickle.load(file)
    write_lines_at_once()
    run_task(open_bag(bag_path, key_file), assignment, None)
