"""Bags and job arrays that are not over, in memory: what is known of each, and what one more answer changes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from hpcflow.core.follow import Ledger, Usage, array_task_of, job_of, worker_name
from hpcflow.core.lingering import Leave
from hpcflow.core.model import (
    Bag,
    BagId,
    Cause,
    DispatchId,
    Graph,
    JobArray,
    JobId,
    Observation,
    Phase,
    Stuck,
)
from hpcflow.core.plan import BagPlan, for_slots
from hpcflow.server.clusters import Cluster
from hpcflow.server.live import LiveDispatch
from hpcflow.server.store import ArrayRow, ArrayState, BagRow

__all__ = ["LiveArray", "LiveBag", "array_name", "array_of", "bag_of"]


#: Parts of one bag, at most: its row is stored anew with each.
_PARTS: Final = 500


@dataclass(slots=True)
class LiveArray:
    """One submission that is not over."""

    array: JobArray
    state: ArrayState
    reason: str | None = None
    cancel_wanted: bool = False
    #: We asked to end those of its array tasks that had not started.
    trimmed: bool = False
    submitted_at: datetime | None = None
    ended_at: datetime | None = None
    ends: dict[int, Observation] = field(default_factory=dict[int, Observation])
    #: What an earlier server stored of ends that no scheduler is asked about any more.
    ends_before: Mapping[int, Mapping[str, Any]] = field(default_factory=dict[int, Mapping[str, Any]])  # Any: JSON
    #: How those of its array tasks that came up spent their time; known when the bag is over.
    usage: dict[int, Usage] = field(default_factory=dict[int, Usage])
    #: Complete answers in a row in which nothing of it lived.
    silent: int = 0
    seen: bool = False
    #: An array task of it that somebody holds; ``None``: nobody does, or some of it runs.
    held: Observation | None = None
    #: Array tasks that began and stand still.
    suspended: tuple[Observation, ...] = ()
    #: An array task of it that can't ever start, and in how many complete answers in a row that was said of all.
    hopeless: Observation | None = None
    hopeless_for: int = 0
    told_held: bool = False
    told_suspended: bool = False
    #: Array tasks that waited for nodes or their turn when the scheduler answered last.
    queueing: int = 0
    #: It is in the hands of the submit command just now.
    submitting: bool = False
    #: This server submitted it and has seen no line of it yet; then, how long that took, in seconds.
    launching: bool = False
    launch_s: float | None = None
    #: Since when it is looked for by its name: the scheduler may still take what was handed to it right before.
    sought_since: datetime | None = None
    #: Submissions that found no room, and when the next one is due.
    tries: int = 0
    not_before: datetime | None = None

    @property
    def open(self) -> bool:
        return self.state not in {ArrayState.ENDED, ArrayState.REFUSED}

    def name_of(self, index: int) -> str:
        """Return an array task as "8123_7"."""
        return f"{self.array.job_id}_{index}"

    def names(self) -> Iterator[str]:
        """Yield all its array tasks so."""
        return map(self.name_of, range(self.array.width))

    def is_due(self, now: datetime) -> bool:
        """It waits to be submitted, and may be now."""
        return (
            self.state is ArrayState.INTENT
            and not self.submitting
            and not self.cancel_wanted
            and (self.not_before is None or self.not_before <= now)
        )

    def make_smaller(self, reason: str) -> None:
        """The scheduler surely did not take it, for lack of room: half of it may fit, and serves the bag as well."""
        self.tries, self.reason = self.tries + 1, reason
        self.array = replace(self.array, width=max(1, self.array.width // 2))

    def accept(self, job_id: JobId, now: datetime) -> None:
        """The scheduler has it, by its reply or found by name."""
        self.array = replace(self.array, job_id=job_id)
        self.state, self.reason, self.submitted_at = ArrayState.SUBMITTED, None, now

    def observe(self, rows: Sequence[Observation], *, complete: bool, now: datetime, settle_s: float) -> bool:
        """Take what one answer says about it; return whether its row changed.

        Args:
            rows: of this array only.
            complete: whether absence in the answer is a fact.
            now: the time of the answer.
            settle_s: how long an array that nobody names may still turn up.
        """
        changed = bool(rows) and self.state in {ArrayState.INTENT, ArrayState.AMBIGUOUS}
        if changed:
            self.accept(rows[0].job_id, now)
        self.seen = self.seen or bool(rows)
        alive = [row for row in rows if row.phase is not Phase.ENDED]
        self.ends |= {row.index: row for row in rows if row.phase is Phase.ENDED}
        for row in alive:
            self.ends.pop(row.index, None)
        if alive or complete:
            self.suspended = tuple(row for row in alive if row.suspended)
        if alive:
            # While nothing of it goes on, the scheduler's words say what it waits for.
            waits = all(row.phase is Phase.PENDING or row.suspended for row in alive)
            reason, self.reason = self.reason, (self.suspended or alive)[0].raw if waits else None
            changed = changed or reason != self.reason
        if alive or complete:
            self.queueing = sum(row.phase is Phase.PENDING and row.stuck is None for row in alive)
            self.held = next((row for row in alive if row.stuck is Stuck.HELD), None)
        doomed = bool(alive) and all(row.stuck is Stuck.NEVER for row in alive)
        self.hopeless, self.hopeless_for = (alive[0], self.hopeless_for + complete) if doomed else (None, 0)
        if alive or not complete:
            self.silent = 0
            return changed
        since = self.submitted_at if self.state is ArrayState.SUBMITTED else self.sought_since
        settled = since is not None and (now - since).total_seconds() > settle_s
        if self.state is ArrayState.AMBIGUOUS and not rows:
            self.sought_since = self.sought_since or now
            if not settled:
                return changed
            # Both sources answered in full, long after the submission: it was never taken. The same name is used again.
            self.state, self.reason, self.sought_since = ArrayState.INTENT, None, None
            return True
        if self.state is not ArrayState.SUBMITTED or not (self.seen or settled):
            return changed
        self.silent += 1
        # Right after the end accounting may show one array task of ten: believe all of them, or silence twice.
        if len(self.ends) < self.array.width and self.silent < 2:
            return changed
        self.state, self.ended_at = ArrayState.ENDED, now
        return True

    def end(self, index: int) -> Observation | None:
        """Return how an array task ended, as this server or an earlier one was told; ``None``: nobody was."""
        if index in self.ends or (before := self.ends_before.get(index)) is None:
            return self.ends.get(index)
        return Observation(
            token=self.array.token,
            job_id=self.array.job_id or JobId(""),
            index=index,
            phase=Phase.ENDED,
            cause=None if before["cause"] is None else Cause(before["cause"]),
            raw=before["raw"],
            exit_code=before["exit_code"],
            signal=before["signal"],
            host=before["host"],
            core_seconds=before["core_seconds"],
            max_rss_kib=before["max_rss_kib"],
        )

    def may_have_run(self) -> Iterator[str]:
        """Yield its array tasks, as "8123_7", but for those that were cancelled before they began."""
        for index, name in enumerate(self.names()):
            if (end := self.end(index)) is None or end.started_at is not None or end.cause is not Cause.CANCELLED:
                yield name

    def row(self) -> ArrayRow:
        return ArrayRow(
            array=self.array,
            state=self.state,
            reason=self.reason,
            cancel_wanted=self.cancel_wanted,
            submitted_at=self.submitted_at,
            ended_at=self.ended_at,
            ends={index: {**end, "usage": self._usage(index)} for index, end in self.ends_before.items()}
            | {
                index: {
                    "cause": end.cause,
                    "raw": end.raw,
                    "exit_code": end.exit_code,
                    "signal": end.signal,
                    "core_seconds": end.core_seconds,
                    "began_at": None if end.started_at is None else end.started_at.timestamp(),
                    "elapsed_s": _elapsed_s(end),
                    "max_rss_kib": end.max_rss_kib,
                    "host": end.host,
                    "usage": self._usage(index),
                }
                for index, end in self.ends.items()
            },
        )

    def _usage(self, index: int) -> dict[str, float] | None:
        return asdict(self.usage[index]) if index in self.usage else None


@dataclass(slots=True)
class LiveBag:
    """One bag that may still give results."""

    bag: Bag
    dispatch: LiveDispatch
    ledger: Ledger
    key: bytes
    created_at: datetime
    arrays: list[LiveArray] = field(default_factory=list[LiveArray])
    #: Parts that were announced in its inbox, when the last one was, and whether it was said that none will follow.
    #: The number is not known to a server that took the bag over.
    told: int | None = None
    telling: asyncio.Lock = field(default_factory=asyncio.Lock)
    #: (index, attempt) of tasks that were cancelled and of which its workers were not told yet.
    untold: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    #: Why its workers, or its scheduler, could not be told last of what was cancelled.
    unheard: str | None = None
    grown_at: datetime | None = None
    closed: bool = False
    #: Which workers were told that they need not wait: not known to a server that took the bag over. By worker, for
    #: the how many-th time it waits, and when that was read first.
    leave: Leave | None = None
    waits: dict[str, tuple[int, float]] = field(default_factory=dict[str, tuple[int, float]])
    #: What the user was told last of a place where it can't be written.
    complaint: str | None = None
    #: Its directory is known to be on the cluster.
    pushed: bool = False
    #: Its directory was there once and was deleted.
    gone: bool = False
    #: Widths of arrays that are held back until it is known what tasks are like.
    reserve: tuple[int, ...] = ()
    #: Bytes of each journal that were read.
    offsets: dict[str, int] = field(default_factory=dict[str, int])
    #: When each dead worker was first known to be dead.
    dead_since: dict[str, datetime] = field(default_factory=dict[str, datetime])
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    #: What the tasks that ended had in common as long as all of them failed, and how many did; ``None``: not all.
    failing: tuple[str, int] | None = ("", 0)
    #: So many failed alike that its other tasks shall not even be tried.
    broken: bool = False
    #: Why its tasks fail that have not run when its arrays are over: they can't ever start.
    refusal: str | None = None
    #: Array tasks, as "8123_7", of which it is known that somebody else cancelled them.
    cancelled: set[str] = field(default_factory=set[str])

    @property
    def open(self) -> bool:
        return any(array.open for array in self.arrays)

    @property
    def over(self) -> bool:
        """All its arrays are, and at least one of them ran."""
        return not self.open and any(array.state is ArrayState.ENDED for array in self.arrays)

    @property
    def readable(self) -> bool:
        """A scheduler has, or may have, workers for it: its journals are worth a look."""
        return any(array.state in {ArrayState.SUBMITTED, ArrayState.AMBIGUOUS} for array in self.arrays)

    @property
    def width(self) -> int:
        """Array tasks that serve it, running or queued."""
        return sum(array.array.width for array in self.arrays if array.open)

    @property
    def workers(self) -> int:
        """Array tasks that live or may yet come up, as far as journals and accounting say."""
        left = self.ledger.left()
        return sum(
            sum(index not in array.ends and name not in left for index, name in enumerate(array.names()))
            for array in self.arrays
            if array.open
        )

    @property
    def launch_s(self) -> float | None:
        """How long the last of its arrays that came up had waited for that, in seconds, as far as it was seen."""
        return next((array.launch_s for array in reversed(self.arrays) if array.launch_s is not None), None)

    def launched(self, journal: str) -> LiveArray | None:
        """Return the array of which this journal is the first one, ``None`` if it is not."""
        job = job_of(journal)
        return next((array for array in self.arrays if array.launching and array.array.job_id == job), None)

    @property
    def came_up(self) -> int:
        """Array tasks whose worker wrote a line, however often it was requeued."""
        return len(self.ledger.array_tasks())

    def hold_back(self) -> None:
        """Keep the arrays for later that are not submitted at once, as long as no others were."""
        if len(self.arrays) == self.bag.at_once:
            self.reserve = self.bag.widths[self.bag.at_once :]

    def alive(self) -> set[str]:
        """Return the workers that came up and, as far as anyone knows, have not left."""
        left = {
            array.name_of(index)
            for array in self.arrays
            if array.array.job_id is not None
            for index in (range(array.array.width) if not array.open else array.ends)
        }
        return {
            name
            for name, worker in self.ledger.workers.items()
            if worker.exit is None and not worker.released and array_task_of(name) not in left
        }

    def idle(self) -> int:
        """Return how many workers have nothing to do and would take what comes."""
        return sum(self.ledger.is_idle(name) and not self.is_leaving(name) for name in self.alive())

    def is_leaving(self, worker: str) -> bool:
        """Return whether a worker that has nothing to do was told that it need not wait."""
        period, _ = self.ledger.workers[worker].waiting or (0, 0.0)
        return self.leave is not None and self.leave.covers(worker, period)

    def on_their_way(self) -> int:
        """Return how many array tasks may still come up: submitted or about to be, and not ended or trimmed before."""
        up = self.ledger.array_tasks()
        return sum(
            sum(name not in up for name in array.names())
            for array in self.arrays
            if array.open and not array.trimmed and not array.cancel_wanted
        )

    @property
    def deserted(self) -> bool:
        """All array tasks came up and left by themselves: what nobody claimed nobody will."""
        # Of an array without an id, which may yet be taken, no array task was ever heard.
        serving = (name for array in self.arrays if array.open for name in array.names())
        over = (name for array in self.arrays if array.state is ArrayState.ENDED for name in array.may_have_run())
        return self.ledger.all_gone(serving, over)

    @property
    def takes_more(self) -> bool:
        """Its workers would run further tasks: nothing speaks against it, and it has not grown beyond measure."""
        return (
            self.bag.linger_s > 0
            and self.bag.need_s < self.bag.worker_walltime_s  # a worker of one task takes no other
            and not self.closed
            and not self.broken
            and not self.gone
            and self.refusal is None
            and not any(array.cancel_wanted or array.held for array in self.arrays)
            and len(self.bag.parts) < _PARTS
        )

    def grow(self, plan: BagPlan) -> None:
        """Take a further part."""
        bag = self.bag
        first, unit = len(bag.tasks), len(bag.units)
        self.bag = replace(
            bag,
            tasks=bag.tasks + plan.tasks,
            units=bag.units + tuple(tuple(first + position for position in each) for each in plan.units),
            cuts=bag.cuts + tuple(unit + cut for cut in plan.cuts[1:]),
            parts=(*bag.parts, first),
        )
        self.ledger.grow(self.bag)

    def dead(self) -> dict[str, Observation | None]:
        """Return the workers that accounting says have ended and that no requeued one inherits from."""
        dead: dict[str, Observation | None] = {}
        for array in self.arrays:
            for name in self.ledger.workers:
                job, index, restart = name.rsplit("_", 2)
                if job.partition("+")[0] != array.array.job_id:
                    continue
                newest = worker_name(job, int(index), int(restart) + 1) not in self.ledger.workers
                if newest and (int(index) in array.ends or not array.open):
                    dead[name] = array.end(int(index))
        return dead

    def dead_for(self, names: Iterable[str], now: datetime) -> float:
        """Return for how many seconds the last of these workers has been known to be dead."""
        since = [self.dead_since.setdefault(name, now) for name in names]
        return (now - max(since, default=now)).total_seconds()

    def cancelled_by_others(self) -> tuple[str, Observation] | None:
        """Return an array task, as "8123_7", that somebody else cancelled since the last call, and its end."""
        news: list[tuple[str, Observation]] = []
        up = self.ledger.array_tasks()
        for array in self.arrays:
            for index in (*array.ends, *array.ends_before):
                name = array.name_of(index)
                end = array.end(index)
                if end is None or end.cause is not Cause.CANCELLED or array.cancel_wanted or name in self.cancelled:
                    continue
                if index in array.ends_before and (name not in up or self.ledger.drained):
                    continue  # the earlier server has dealt with it
                # What would have found no work was perhaps trimmed by a server before this one, and nobody misses it.
                if name in up or not (array.trimmed or self.ledger.all_claimed):
                    news.append((name, end))
        self.cancelled.update(name for name, _ in news)
        return news[0] if news else None

    def note_end(self, likeness: str | None) -> int:
        """Count an end towards those that all failed alike from the first one on; return how many did.

        Args:
            likeness: what the error has in common with others; ``None``: the task returned.
        """
        if self.failing is not None:
            common, count = self.failing
            alike = likeness is not None and likeness == (common or likeness)
            self.failing = (likeness or "", count + 1) if alike else None
        return self.failing[1] if self.failing else 0

    def row(self, closed_at: datetime | None = None) -> BagRow:
        return BagRow(bag=self.bag, created_at=self.created_at, closed_at=closed_at)


def bag_of(plan: BagPlan, identifier: BagId, dispatch: DispatchId, cluster: Cluster, *, linger_s: float = 0.0) -> Bag:
    """Return the bag that a plan asks for."""
    return Bag(
        id=identifier,
        dispatch=dispatch,
        shape=plan.shape,
        tasks=plan.tasks,
        units=plan.units,
        cuts=plan.cuts,
        path=cluster.bag_path(identifier),
        limit_s=plan.limit_s,
        need_s=plan.need_s,
        worker_walltime_s=plan.worker_walltime_s,
        linger_s=linger_s,
        slots=plan.slots,
        widths=plan.widths,
        at_once=plan.at_once,
    )


def array_of(
    bag: Bag,
    cluster: Cluster,
    graph: Graph,
    *,
    width: int,
    identifier: str,
    opaque: bool,
    now: datetime,
    avoid: Sequence[str] = (),
) -> JobArray:
    """Return the array to submit for a bag; what is planned and what is submitted are both made here."""
    return JobArray(
        token=array_name((graph.tasks[index].name for index, _ in bag.tasks), identifier, opaque=opaque),
        bag=bag.id,
        dispatch=bag.dispatch,
        cluster=cluster.name,
        resources=for_slots(bag.shape.resources, bag.slots),
        width=width,
        worker_walltime_s=bag.worker_walltime_s,
        command=cluster.in_environment(
            bag.shape,
            (cluster.interpreter(bag.shape), cluster.worker_path, "bag", bag.path, cluster.key_path),
            folders=(bag.shape.workdir,) if bag.shape.workdir else (),
        ),
        path=bag.path,
        prologue=cluster.prologue(bag.shape.env),
        extra=cluster.settings.extra,
        exclusive=cluster.settings.whole_nodes,
        avoid=tuple(avoid),
        intent_at=now,
    )


def array_name(electrons: Iterable[str], identifier: str, *, opaque: bool) -> str:
    """Return a job name: unique, and readable in the queue unless names are private.

    Only letters, digits, ``_`` and ``-`` of the commonest electron's name are kept, 40 at most.
    """
    if opaque:
        return f"hf-{identifier}"
    common = Counter(electrons).most_common(1)[0][0]
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in common).strip("_-")
    return f"{kept[:40] or 'task'}-{identifier}"


def _elapsed_s(end: Observation) -> float | None:
    if end.started_at is None or end.ended_at is None:
        return None
    return (end.ended_at - end.started_at).total_seconds()
