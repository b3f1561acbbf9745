"""Decides what journals and accounting together say: which tasks began, ended, or were lost with their worker.

The journal says how a task ended; accounting says what the journal can't: why a worker is gone. Rules S1 to S8 of
docs/explanation/bags.md, each from a fault that was seen, live here and in `blame`.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from hpcflow.core.model import Bag

__all__ = [
    "EXIT_STORAGE",
    "Ended",
    "Fact",
    "Ledger",
    "Lost",
    "Started",
    "Usage",
    "array_task_of",
    "job_of",
    "newest_first",
    "worker_name",
]

# Any in this module: a journal record is JSON that the node wrote and whose checksum was right.
Record = Mapping[str, Any]

#: Signals by which a scheduler ends a whole job: a task that died of one is in doubt until its worker goes on.
_DOUBTFUL: Final = frozenset({int(signal.SIGTERM), int(signal.SIGKILL)})
_JOURNAL: Final = re.compile(r"[A-Za-z0-9.-]+(?:\+\d+)?_\d+_(\d+)\.jsonl")
#: How a worker ends whose files take no more bytes, and a task that finds its way to the worker closed
#: (EX_TEMPFAIL of sysexits.h).
EXIT_STORAGE: Final = 75


@dataclass(frozen=True, slots=True)
class Started:
    """A worker began a task."""

    index: int
    attempt: int
    worker: str
    #: Seconds since the epoch by the node's clock: for display only.
    at: float


@dataclass(frozen=True, slots=True)
class Ended:
    """A task ended; the first such fact of (task, attempt) is the one that counts."""

    index: int
    attempt: int
    worker: str
    record: Record


Fact = Started | Ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """Tasks that will get no end from this bag any more, as (task index, attempt)."""

    #: Ran when the worker died, with the worker's name.
    running: tuple[tuple[tuple[int, int], str], ...]
    #: Claimed by nobody that lives, and not begun.
    free: tuple[tuple[int, int], ...]
    #: Begun and interrupted by the worker, because its time was over or it was told to leave, with its name.
    cut: tuple[tuple[tuple[int, int], str], ...]

    def __bool__(self) -> bool:
        return bool(self.running or self.free or self.cut)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """How one array task spent its time, by its journals, in seconds; of a requeued one the newest run."""

    #: One for each of its slots, the cores of each, and how many left no last line.
    workers: int
    cores: int
    unfinished: int
    tasks: int
    #: The first line of any of them, in seconds since the epoch, and how long it was to the last one of any.
    first_at: float
    up_s: float
    #: From the first line to the last one of each, all workers together.
    span_s: float
    #: In tasks, and waiting for more; the rest of the span went into claims, forks and records.
    tasks_s: float
    idle_s: float
    #: The spans of the runs before it was requeued.
    earlier_s: float


@dataclass(slots=True)
class Worker:
    """What one worker's journal says so far."""

    host: str = ""
    running: tuple[int, int] | None = None
    #: Tasks it began, the running one included.
    begun: int = 0
    #: Why it left, by its own last line.
    exit: str | None = None
    #: Seconds since the epoch by the node's clock: its first line and its last one so far.
    first_at: float | None = None
    last_at: float = 0.0
    #: Tasks that ended here, their run time in all, and how long it waited for more, in seconds.
    ended: int = 0
    tasks_s: float = 0.0
    idle_s: float = 0.0
    #: Where in its logs, stdout's and stderr's, the output of the task that runs now begins, in bytes.
    log_ends: tuple[int, int] = (0, 0)
    doubt: Ended | None = None
    ranges: set[int] = field(default_factory=set[int])
    #: The range that it claimed last.
    latest: int | None = None
    #: While it waits for more: for the how many-th time, and since when, in seconds since the epoch by its clock.
    waiting: tuple[int, float] | None = None
    cut: set[tuple[int, int]] = field(default_factory=set[tuple[int, int]])
    released: bool = False

    def note(self, record: Record) -> None:
        """Count what a record says of the worker's time."""
        at = float(record.get("t", 0.0))
        self.first_at = at if self.first_at is None else self.first_at
        self.last_at = max(self.last_at, at)
        match record["ev"]:
            case "end":
                self.ended += 1
                self.tasks_s += float(record.get("wall", 0.0))
                if "out" in record and "err" in record:
                    self.log_ends = (int(record["out"][1]), int(record["err"][1]))
            case "exit":
                self.idle_s = float(record.get("idle", 0.0))
            case _:
                pass


class Ledger:
    """The journals of one bag, folded: feed it each journal's new records in order, and ask."""

    def __init__(self, bag: Bag) -> None:
        self.bag = bag
        self.workers: dict[str, Worker] = {}
        #: (task, attempt) pairs that ended, were released or charged: nothing more is expected of them.
        self.settled: set[tuple[int, int]] = set()
        self.claimed: set[int] = set()
        #: Tasks that were cancelled before they had ended, as (task, attempt).
        self._cancelled: set[tuple[int, int]] = set()
        #: How many units of a range nobody wants any more, as tasks were cancelled; once one was, each task's range.
        self._dropped: dict[int, int] = {}
        self._ranges: dict[tuple[int, int], int] = {}
        self.ended = 0
        self.wall_s = 0.0
        #: For the tasks of units that hold several: their unit, and their place in it.
        self._places: dict[tuple[int, int], tuple[tuple[int, ...], int]] = {}
        self.grow(bag)
        #: By array task, the newest restart that inherited; by task and attempt, the worker that began it first, and
        #: those that another one began as well.
        self._heirs: dict[str, int] = {}
        self._began: dict[tuple[int, int], str] = {}
        self._again: set[tuple[int, int]] = set()
        #: Failures that workers with an heir told.
        self._disputed: list[Ended] = []
        #: What a worker said of a place where nothing can be written or started: quota, a full disk, no processes.
        self.complaint: str | None = None

    def grow(self, bag: Bag) -> None:
        """Take the bag as it is with a further part."""
        known = len(self.bag.units) if bag is not self.bag else 0
        self.bag = bag
        self._ranges = {}
        self._places |= {
            bag.tasks[position]: (unit, place)
            for unit in bag.units[known:]
            if len(unit) > 1
            for place, position in enumerate(unit)
        }

    @property
    def all_claimed(self) -> bool:
        """Every range has an owner, or nothing to do in it: array tasks still pending would find no work."""
        cuts = self.bag.cuts
        empty = sum(k not in self.claimed and count == cuts[k + 1] - cuts[k] for k, count in self._dropped.items())
        return len(self.claimed) + empty >= len(cuts) - 1

    @property
    def drained(self) -> bool:
        """Nothing more is expected from this bag."""
        return len(self.settled) >= len(self.bag.tasks)

    @property
    def units_left(self) -> int:
        """Units that no worker has claimed, and of which a task is wanted."""
        taken = sum(self.bag.cuts[k + 1] - self.bag.cuts[k] for k in self._known(self.claimed))
        return len(self.bag.units) - taken - sum(n for k, n in self._dropped.items() if k not in self.claimed)

    @property
    def mean_wall_s(self) -> float | None:
        """Mean run time of the tasks that ended, ``None`` before the first."""
        return self.wall_s / self.ended if self.ended else None

    @property
    def mean_unit_s(self) -> float | None:
        """Mean run time of a unit, as far as the tasks that ended tell it."""
        mean = self.mean_wall_s
        return None if mean is None else mean * len(self.bag.tasks) / len(self.bag.units)

    def usage(self) -> dict[str, Usage]:
        """Return how the workers of each array task that came up, as "8123_7", spent their time."""
        mine: dict[str, dict[str, Worker]] = {}
        for name, worker in self.workers.items():
            mine.setdefault(array_task_of(name), {})[name] = worker
        return {array_task: self._usage(workers) for array_task, workers in mine.items()}

    def _usage(self, mine: Mapping[str, Worker]) -> Usage:
        newest = max(map(_restart_of, mine))
        last = [worker for key, worker in mine.items() if _restart_of(key) == newest]
        spans = {key: worker.last_at - (worker.first_at or worker.last_at) for key, worker in mine.items()}
        span_s = sum(span for key, span in spans.items() if _restart_of(key) == newest)
        first_at = min(worker.first_at or worker.last_at for worker in last)
        return Usage(
            workers=len(last),
            cores=self.bag.shape.resources.cores,
            unfinished=sum(worker.exit is None for worker in last),
            tasks=sum(worker.ended for worker in last),
            first_at=first_at,
            up_s=max(worker.last_at for worker in last) - first_at,
            span_s=span_s,
            tasks_s=sum(worker.tasks_s for worker in last),
            idle_s=sum(worker.idle_s for worker in last),
            earlier_s=sum(spans.values()) - span_s,
        )

    def drop(self, keys: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """Expect nothing more of tasks, by (index, attempt), that were cancelled; return those that had not ended."""
        dropped = [key for key in keys if key not in self.settled]
        self._cancelled.update(dropped)
        self.settled.update(dropped)
        self.settled.update(after for key in dropped for after in self.followers(*key))  # the rest is not run
        if dropped and not self._ranges:
            self._ranges = {key: k for k in range(len(self.bag.cuts) - 1) for key in self._tasks([k])}
        for k in {self._ranges[key] for key in dropped} - self.claimed:
            units = self.bag.units[self.bag.cuts[k] : self.bag.cuts[k + 1]]
            self._dropped[k] = sum(all(self.bag.tasks[place] in self.settled for place in unit) for unit in units)
        return dropped

    def is_idle(self, worker: str) -> bool:
        """A worker that lives has nothing more to do of what it claimed."""
        me = self.workers[worker]
        if me.exit is not None or me.released or me.running is not None:
            return False
        return me.latest is None or all(key in self.settled for key in self._tasks([me.latest]))

    def followers(self, index: int, attempt: int) -> list[tuple[int, int]]:
        """Return (index, attempt) of the tasks that come after one in its unit."""
        unit, place = self._places.get((index, attempt), ((), 0))
        return [self.bag.tasks[position] for position in unit[place + 1 :]]

    def left_by_themselves(self) -> list[str]:
        """Return the workers whose last line says that they chose to leave: what they had can go to others at once.

        A worker that was told to leave (``term``) may be requeued or was cancelled: accounting has to say which. One
        that could not go on (``fault``) waits for accounting too, so that a full disk is not met ten times a second.
        """
        return [name for name, worker in self.workers.items() if worker.exit not in {None, "term", "fault"}]

    def array_tasks(self) -> set[str]:
        """Return the array tasks, as "8123_7", of which a worker wrote a line."""
        return {array_task_of(name) for name in self.workers}

    def left(self) -> set[str]:
        """Return the array tasks, as "8123_7", of which every worker chose to leave."""
        staying = {array_task_of(name) for name, worker in self.workers.items() if worker.exit is None}
        return {array_task_of(name) for name in self.left_by_themselves()} - staying

    def all_gone(self, serving: Iterable[str], over: Iterable[str]) -> bool:
        """Return whether nothing more will be heard of any worker.

        Only their own last lines tell: of one that accounting calls ended the journal may not be seen here yet (S3).
        Whoever began, wrote no last line and was not dealt with may still be heard of, whatever became of its array.

        Args:
            serving: the array tasks, as "8123_7", of arrays that are not over: each has to have left by itself.
            over: those of arrays that are over that may have had a worker: each has to have been heard of.
        """
        if any(worker.exit is None and not worker.released for worker in self.workers.values()):
            return False
        heard, left = self.array_tasks(), self.left()
        return all(name in left for name in serving) and all(name in heard for name in over)

    def read(self, worker: str, records: Sequence[Record]) -> list[Fact]:
        """Take the new records of one worker's journal, in order, and return what they say about tasks."""
        if worker not in self.workers:
            job, index, restart = worker.rsplit("_", 2)
            self.workers[worker] = Worker(released=int(restart) < self._heirs.get(f"{job}_{index}", 0))
        me = self.workers[worker]
        facts: list[Fact] = []
        for record in records:
            me.note(record)
            if me.doubt is not None and record["ev"] != "left":  # who leaves says why in the next line
                doubt, me.doubt = me.doubt, None
                me.running = None
                # S4: the worker went on, so the signal was the task's own; if it was told to leave, so was the task.
                if record.get("why") == "term":
                    facts += self._cut_off(me, doubt)
                else:
                    facts += self._believe(me, doubt)
            match record["ev"]:
                case "up":
                    me.host = str(record.get("node") or record.get("host") or "")
                case "idle":
                    me.waiting = int(record.get("n", 0)), float(record["t"])
                case "claim":
                    me.waiting = None
                    me.latest = int(record["k"])
                    me.ranges.add(me.latest)
                    self.claimed.add(int(record["k"]))
                case "inherit":
                    me.ranges.update(int(k) for k in record["k"])
                    self._hand_over(worker)
                case "start":
                    me.running = (int(record["i"]), int(record["n"]))
                    me.begun += 1
                    if self._began.setdefault(me.running, worker) != worker:
                        self._again.add(me.running)
                    facts.append(Started(*me.running, worker, float(record["t"])))
                case "end":
                    facts += self._read_end(me, worker, record)
                case "exit":
                    me.exit = str(record["why"])
                    facts += self._unopposed(worker)
                    if me.exit == "fault":
                        self.complaint = str(record.get("msg") or self.complaint or "a worker could not go on")
                case _:
                    pass
        return facts

    def _read_end(self, me: Worker, worker: str, record: Record) -> list[Fact]:
        ended = Ended(int(record["i"]), int(record["n"]), worker, record)
        if record["st"] == "signal" and record.get("sig") in _DOUBTFUL:
            me.doubt = ended
            return []
        me.running = None
        if record["st"] == "cancelled":  # by the user, whose word settled it: this is only how far it had come
            return [ended]
        if record["st"] == "interrupted":  # S2
            self.complaint = record.get("msg", self.complaint)
            return self._cut_off(me, ended)
        return self._believe(me, ended)

    def _cut_off(self, me: Worker, ended: Ended) -> list[Fact]:
        """Take note of a task that ended with its worker; of one that was cancelled that is all there is to tell."""
        key = (ended.index, ended.attempt)
        me.cut.add(key)
        if key not in self._cancelled:
            return []
        return [Ended(*key, ended.worker, {**ended.record, "st": "cancelled"})]

    def _believe(self, me: Worker, ended: Ended) -> list[Fact]:
        """Take the end that a worker tells, unless it is a failure on a node that was given up.

        There all may fail that goes well with its heir, which runs the task again unless it found this very line.
        """
        if not me.released or ended.record["st"] == "ok":
            return list(self._end(ended))
        self._disputed.append(ended)
        return []

    def _unopposed(self, heir: str) -> list[Fact]:
        """Return, when an heir leaves, the failures that it took from its predecessors' journals as they were."""
        task = heir.rpartition("_")[0]
        own = [ended for ended in self._disputed if ended.worker.rpartition("_")[0] == task and ended.worker != heir]
        self._disputed = [ended for ended in self._disputed if ended not in own]
        found = (ended for ended in own if self._only_one_began(ended))
        return [fact for ended in found for fact in self._end(ended)]

    def _only_one_began(self, ended: Ended) -> bool:
        """Return whether no worker but the one that tells the end of a task began it."""
        key = (ended.index, ended.attempt)
        return self._began[key] == ended.worker and key not in self._again

    def _end(self, ended: Ended) -> Iterable[Ended]:
        key = (ended.index, ended.attempt)
        if key in self.settled:
            return
        self.settled.add(key)
        if ended.record["st"] != "ok":
            self.settled.update(self.followers(*key))  # S8: the rest of the unit is not run
        self.ended += 1
        self.wall_s += float(ended.record.get("wall", 0.0))
        yield ended

    def _hand_over(self, heir: str) -> None:
        """A requeued array task took over: what its dead predecessors ran or claimed is its own now (S3)."""
        job, index, restart = heir.rsplit("_", 2)
        self._heirs[f"{job}_{index}"] = max(int(restart), self._heirs.get(f"{job}_{index}", 0))
        for earlier in range(int(restart)):
            old = self.workers.get(f"{job}_{index}_{earlier}")
            if old is not None:
                old.released, old.running, old.doubt = True, None, None

    def lost(self, dead: Iterable[str], *, last: bool) -> Lost:
        """Return what these workers leave behind, and settle it: a second call returns it no more.

        Args:
            dead: workers that accounting says have ended, whose journals were read again afterwards, or that wrote
                their last line.
            last: no worker of this bag lives or will come: ranges nobody claimed are lost as well.
        """
        running: list[tuple[tuple[int, int], str]] = []
        cut: list[tuple[tuple[int, int], str]] = []
        ranges: set[int] = set()
        for name in dead:
            me = self.workers.get(name)
            if me is None or me.released:
                continue
            me.released = True
            ranges |= me.ranges
            if me.running is not None and me.running not in self.settled:
                running.append((me.running, name))
            cut += [(key, name) for key in sorted(me.cut) if key not in self.settled]
            self.settled.update(me.cut, [me.running] if me.running is not None else [])
        if last:
            ranges |= set(range(len(self.bag.cuts) - 1))
        free = [key for key in self._tasks(ranges) if key not in self.settled]
        self.settled.update(free)
        return Lost(running=tuple(running), free=tuple(free), cut=tuple(cut))

    def _tasks(self, ranges: Iterable[int]) -> Iterable[tuple[int, int]]:
        for k in sorted(self._known(ranges)):
            for unit in self.bag.units[self.bag.cuts[k] : self.bag.cuts[k + 1]]:
                for position in unit:
                    yield self.bag.tasks[position]

    def _known(self, ranges: Iterable[int]) -> Iterable[int]:
        """Yield the ranges but for those of parts that another server gave this bag: it has our lease."""
        return (k for k in ranges if k + 1 < len(self.bag.cuts))


def newest_first(file_names: Iterable[str]) -> list[str]:
    """Return the workers' journals among file names, by restart: what heirs say decides what a predecessor may."""
    found = [journal for name in file_names if (journal := _JOURNAL.fullmatch(name))]
    return [journal[0] for journal in sorted(found, key=lambda journal: int(journal[1]), reverse=True)]


def job_of(worker: str) -> str:
    """Return the job of a worker, as "8123", whichever of its slots it has."""
    return worker.rsplit("_", 2)[0].partition("+")[0]


def array_task_of(worker: str) -> str:
    """Return the array task of a worker, as "8123_7": several of them where it has slots, "8123+2_7_0"."""
    job, index, _ = worker.rsplit("_", 2)
    return f"{job.partition('+')[0]}_{index}"


def _restart_of(worker: str) -> int:
    return int(worker.rpartition("_")[2])


def worker_name(job_id: str, index: int, restart: int) -> str:
    """Return the name of a worker, which is its journal's."""
    return f"{job_id}_{index}_{restart}"
