"""The loop: plan, submit, follow, step, collect. It waits and orders; what it decides it asks of `core`.

One task per cluster plans and submits, one reads journals, one asks the accounting. All of them change the state in
memory and the store through the same `_flush`, so that what a client sees is what is stored.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from hpcflow.core.bag import bag_key, read_lines
from hpcflow.core.follow import (
    Ended,
    Fact,
    Ledger,
    Lost,
    Started,
    explain,
    explain_death,
    is_charged,
    worker_name,
)
from hpcflow.core.model import (
    Bag,
    BagId,
    Cause,
    ClusterName,
    DispatchId,
    HpcflowError,
    JobArray,
    JobId,
    Observation,
    Phase,
    UserError,
)
from hpcflow.core.plan import BagPlan, PlanSettings, Ready, more_workers, plan_bags
from hpcflow.core.plugin import Accepted, Ambiguous, Refused
from hpcflow.core.states import FINAL, Event, State
from hpcflow.server.bagging import push_bag
from hpcflow.server.clusters import Cluster
from hpcflow.server.live import LiveDispatch, Stored
from hpcflow.server.remote import TransportError
from hpcflow.server.settings import Settings
from hpcflow.server.store import ArrayRow, ArrayState, BagRow, Changes, EndRow, LeaseLost, Store, StoreError

__all__ = ["Engine", "array_name", "plan_settings"]

logger = logging.getLogger(__name__)

#: The most that the wait for room in a full queue grows to.
_RETRY_MAX_S: Final = 600.0
_AFTER_FAULT_S: Final = 5.0
_LOG_TAIL: Final = 600
#: Bags in a row that may end without a single task begun before their tasks fail.
_FRUITLESS: Final = 2


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
    #: Complete answers in a row in which nothing of it lived.
    silent: int = 0
    seen: bool = False
    tries: int = 0
    not_before: datetime | None = None

    @property
    def open(self) -> bool:
        return self.state not in {ArrayState.ENDED, ArrayState.REFUSED}

    def row(self) -> ArrayRow:
        return ArrayRow(
            array=self.array,
            state=self.state,
            reason=self.reason,
            cancel_wanted=self.cancel_wanted,
            submitted_at=self.submitted_at,
            ended_at=self.ended_at,
            ends={
                index: {
                    "cause": end.cause,
                    "raw": end.raw,
                    "exit_code": end.exit_code,
                    "signal": end.signal,
                    "core_seconds": end.core_seconds,
                    "max_rss_kib": end.max_rss_kib,
                }
                for index, end in self.ends.items()
            },
        )


@dataclass(slots=True)
class LiveBag:
    """One bag that may still give results."""

    bag: Bag
    dispatch: LiveDispatch
    ledger: Ledger
    key: bytes
    created_at: datetime
    arrays: list[LiveArray] = field(default_factory=list[LiveArray])
    offsets: dict[str, int] = field(default_factory=dict[str, int])
    #: When each dead worker was first known to be dead.
    dead_since: dict[str, datetime] = field(default_factory=dict[str, datetime])
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def open(self) -> bool:
        return any(array.open for array in self.arrays)

    def row(self, closed_at: datetime | None = None) -> BagRow:
        return BagRow(bag=self.bag, created_at=self.created_at, closed_at=closed_at)


def plan_settings(settings: Settings, cluster: Cluster) -> PlanSettings:
    """Return what the planner must know of a server and a cluster."""
    return PlanSettings(
        min_worker_time_s=settings.min_worker_time,
        first_width=settings.first_width,
        worker_walltime_s=settings.worker_walltime,
        kill_grace_s=settings.kill_grace,
        max_width=cluster.settings.max_width,
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


class Engine:
    """Runs every live dispatch of one HPCFLOW_HOME."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        clusters: Mapping[ClusterName, Cluster],
        *,
        now: Callable[[], datetime],
        new_id: Callable[[], str],
        on_network: bool,
    ) -> None:
        self.settings = settings
        self.store = store
        self.clusters = clusters
        self.dispatches: dict[DispatchId, LiveDispatch] = {}
        self.now = now
        self._new_id = new_id
        self._on_network = on_network
        self._bags: dict[BagId, LiveBag] = {}
        self._versions: Counter[DispatchId] = Counter()
        self._changed = asyncio.Condition()
        self._pending = Changes(at=now())
        self._writing = asyncio.Lock()
        self._wake = {name: asyncio.Event() for name in clusters}
        self._follow = {name: asyncio.Event() for name in clusters}
        self._account = {name: asyncio.Event() for name in clusters}

    # ---- what the service asks

    async def run(self) -> None:
        """Serve until cancelled, or until another server took the lease (`LeaseLost`)."""
        async with asyncio.TaskGroup() as group:
            for cluster in self.clusters.values():
                group.create_task(self._forever(cluster, self._plan_turn))
                group.create_task(self._forever(cluster, self._follow_turn))
                group.create_task(self._forever(cluster, self._account_turn))

    def add(self, live: LiveDispatch) -> None:
        """Take over a dispatch that is in the store."""
        self.dispatches[live.id] = live
        self._wake_for(live)

    def resume(self, live: LiveDispatch, bags: Sequence[BagRow], arrays: Sequence[ArrayRow]) -> None:
        """Take over a dispatch that an earlier server left: journals are read anew, nothing is submitted twice."""
        for row in bags:
            if row.closed_at is not None:
                continue
            bag = self._keep_bag(row.bag, live, row.created_at)
            for index, attempt in row.bag.tasks:
                task = live.tasks[index]
                if task.state in FINAL or task.attempt != attempt or task.state is State.READY:
                    bag.ledger.settled.add((index, attempt))
            for stored in arrays:
                if stored.array.bag == row.bag.id:
                    # An intent without an answer: sbatch may or may not have run. Only its name can tell.
                    state = ArrayState.AMBIGUOUS if stored.state is ArrayState.INTENT else stored.state
                    bag.arrays.append(
                        LiveArray(
                            stored.array, state, stored.reason, stored.cancel_wanted, submitted_at=stored.submitted_at
                        )
                    )
        self.add(live)
        for cluster in self.clusters:
            self._follow[cluster].set()
            self._account[cluster].set()

    def version(self, dispatch: DispatchId) -> int:
        """Return a number that grows whenever the dispatch changes; 0 for one that is not live."""
        return self._versions[dispatch]

    async def wait_change(self, dispatch: DispatchId, since: int, wait_s: float) -> None:
        """Return when the dispatch's version is not ``since`` any more, when it is not live, or after ``wait_s``."""
        try:
            async with asyncio.timeout(wait_s), self._changed:
                await self._changed.wait_for(
                    lambda: dispatch not in self.dispatches or self._versions[dispatch] != since
                )
        except TimeoutError:
            return

    async def cancel(self, live: LiveDispatch, tasks: Sequence[int] | None) -> int:
        """Cancel tasks that have not ended (``None``: all) and the arrays nobody needs then; return how many tasks."""
        now = self.now()
        wanted = range(len(live.tasks)) if tasks is None else tasks
        cancelled = 0
        if tasks is None:
            live.cancel_wanted = True
        for index in reversed(wanted):  # downstream first: it is cancelled as well, not skipped
            if live.tasks[index].state not in FINAL:
                live.move(index, Event.CANCELLED, now, "Cancelled by you.")
                cancelled += 1
        for bag in self._bags.values():
            if bag.dispatch is live and all(live.tasks[index].state in FINAL for index, _ in bag.bag.tasks):
                for array in bag.arrays:
                    if array.open and not array.cancel_wanted:
                        array.cancel_wanted = True
                        self._pending.arrays.append(array.row())
        self._close_if_done(live)
        await self._flush()
        for cluster in self.clusters.values():
            await self._cancel_wanted(cluster)
            self._account[cluster.name].set()
        return cancelled

    # ---- the three loops of a cluster

    async def _forever(self, cluster: Cluster, turn: Callable[[Cluster], Awaitable[None]]) -> None:
        while True:
            try:
                await turn(cluster)
            except LeaseLost:
                raise
            except StoreError:
                logger.exception("%s: the store refused a change; trying again", cluster.name)
                await asyncio.sleep(_AFTER_FAULT_S)
            except HpcflowError as error:
                cluster.problem = str(error)
                logger.warning("%s: %s", cluster.name, error)
                await asyncio.sleep(_AFTER_FAULT_S)
            except Exception:  # one cluster's fault must not stop the others
                logger.exception("%s: a fault in %s; going on", cluster.name, turn.__name__)
                await asyncio.sleep(_AFTER_FAULT_S)

    async def _plan_turn(self, cluster: Cluster) -> None:
        wake = self._wake[cluster.name]
        await wake.wait()
        await asyncio.sleep(self.settings.settle)
        wake.clear()
        try:
            await self._plan(cluster)
        except BaseException:
            wake.set()  # what was not reached is tried again
            raise

    async def _plan(self, cluster: Cluster) -> None:
        for live in list(self.dispatches.values()):
            ready = [
                Ready(index=index, attempt=task.attempt, shape=task.shape, alone=task.alone)
                for index in sorted(live.ready)
                if (task := live.tasks[index]).shape.cluster == cluster.name
            ]
            if not ready:
                continue
            limits = await cluster.known_limits(self.now())
            still = [task for task in ready if task.index in live.ready]
            for plan in plan_bags(still, {cluster.name: limits}, plan_settings(self.settings, cluster)):
                await self._serve(cluster, live, plan)

    async def _serve(self, cluster: Cluster, live: LiveDispatch, plan: BagPlan) -> None:
        """Store the intent, make the bag, submit its arrays: in this order a crash at any point can be mended."""
        now = self.now()
        identifier = BagId(self._new_id())
        bag = self._keep_bag(
            Bag(
                id=identifier,
                dispatch=live.id,
                shape=plan.shape,
                tasks=plan.tasks,
                units=plan.units,
                cuts=plan.cuts,
                path=cluster.bag_path(identifier),
                limit_s=plan.limit_s,
                need_s=plan.need_s,
                worker_walltime_s=plan.worker_walltime_s,
            ),
            live,
            now,
        )
        for index, _ in plan.tasks:
            live.tasks[index].bag = identifier
            live.move(index, Event.BAGGED, now)
        live.started_at = live.started_at or now
        self._pending.bags.append(bag.row())
        for width in plan.widths:
            self._intend(cluster, bag, width)
        await self._flush()
        self._account[cluster.name].set()
        await self._submit_all(cluster, bag)

    def _intend(self, cluster: Cluster, bag: LiveBag, width: int) -> LiveArray:
        live = bag.dispatch
        names = (live.graph.tasks[index].name for index, _ in bag.bag.tasks)
        array = LiveArray(
            JobArray(
                token=array_name(names, self._new_id(), opaque=self.settings.job_names == "opaque"),
                bag=bag.bag.id,
                dispatch=live.id,
                cluster=cluster.name,
                resources=bag.bag.shape.resources,
                width=width,
                worker_walltime_s=bag.bag.worker_walltime_s,
                command=(bag.bag.shape.python, cluster.worker_path, "bag", bag.bag.path, cluster.key_path),
                path=bag.bag.path,
                prologue=cluster.settings.prologue,
                extra=cluster.settings.extra,
                intent_at=self.now(),
            ),
            ArrayState.INTENT,
        )
        bag.arrays.append(array)
        self._pending.arrays.append(array.row())
        return array

    async def _submit_all(self, cluster: Cluster, bag: LiveBag) -> None:
        """Submit what was intended; what can't be done now is tried again after the next look at the accounting."""
        try:
            await cluster.place_worker()
            await push_bag(
                bag.dispatch,
                bag.bag,
                self.clusters,
                kill_grace_s=self.settings.kill_grace,
                on_network=self._on_network,
            )
        except TransportError as error:
            self._say(bag.dispatch, f"Nothing could be written on {cluster.name}: {error}. Trying again.")
            await self._flush()
            raise
        for array in bag.arrays:
            if array.state is ArrayState.INTENT and not array.cancel_wanted and self._due(array):
                await self._submit(cluster, bag, array)

    async def _submit(self, cluster: Cluster, bag: LiveBag, array: LiveArray) -> None:
        try:
            command = cluster.plugin.submit(array.array)
        except UserError as error:
            self._refuse(bag, array, str(error))
            await self._flush()
            return
        reply = await cluster.transport.run(command, self.settings.command_deadline)
        now = self.now()
        match cluster.plugin.parse_submit(array.array, reply):
            case Accepted(job_id):
                self._accept(array, job_id, now)
                logger.info("job %s: %d array tasks on %s", job_id, array.array.width, cluster.name)
            case Refused(reason, retry_later=True):
                array.tries += 1
                array.reason = f"{cluster.name} has no room for it: {reason}. Trying again."
                array.not_before = now + timedelta(
                    seconds=min(_RETRY_MAX_S, self.settings.submit_retry * 2 ** (array.tries - 1))
                )
                self._say(bag.dispatch, array.reason)
            case Refused(reason):
                self._refuse(bag, array, f"{cluster.name} refused {array.array.width} array tasks: {reason}")
            case Ambiguous(reason):
                array.state, array.reason = ArrayState.AMBIGUOUS, f"Looking for it by name, because {reason}"
        self._pending.arrays.append(array.row())
        await self._flush()
        self._follow[cluster.name].set()
        self._account[cluster.name].set()

    def _accept(self, array: LiveArray, job_id: JobId, now: datetime) -> None:
        array.array = _with_job_id(array.array, job_id)
        array.state, array.reason, array.submitted_at = ArrayState.SUBMITTED, None, now

    def _refuse(self, bag: LiveBag, array: LiveArray, reason: str) -> None:
        """Fail the tasks of a bag that no scheduler will serve."""
        array.state, array.reason, array.ended_at = ArrayState.REFUSED, reason, self.now()
        if bag.open or any(other.state is ArrayState.SUBMITTED for other in bag.arrays):
            return
        lost = bag.ledger.lost((), last=True)
        for index, attempt in lost.free:
            self._move(bag, index, attempt, Event.REFUSED, reason)
        self._finish(bag)

    async def _follow_turn(self, cluster: Cluster) -> None:
        wake = self._follow[cluster.name]
        await wake.wait()
        delay = self.settings.journal_poll
        while bags := [
            bag for bag in self._bags.values() if bag.bag.shape.cluster == cluster.name and not bag.ledger.drained
        ]:
            news = 0
            for bag in bags:
                if any(array.state in {ArrayState.SUBMITTED, ArrayState.AMBIGUOUS} for array in bag.arrays):
                    news += await self._read(cluster, bag)
            await self._flush()
            delay = self.settings.journal_poll if news else min(delay * 1.5, self.settings.journal_poll_max)
            await asyncio.sleep(delay)
        wake.clear()

    async def _read(self, cluster: Cluster, bag: LiveBag) -> int:
        """Read what the journals of a bag say beyond what is known; return the number of new records."""
        async with bag.reading:
            data = await cluster.transport.read_new(f"{bag.bag.path}/journal", bag.offsets)
            news = 0
            for name, piece in data.items():
                records, used, bad = read_lines(piece, bag.key)
                if bad:
                    logger.warning("bag %s: %d lines of journal %s are damaged", bag.bag.id, bad, name)
                bag.offsets[name] = bag.offsets.get(name, 0) + used
                news += len(records)
                self._take(bag, bag.ledger.read(name.removesuffix(".jsonl"), records))
            if news:
                gone = [name for name, worker in bag.ledger.workers.items() if worker.exit is not None]
                self._release(bag, bag.ledger.lost(gone, last=False), {})
        if news:
            await self._after_news(cluster, bag)
        return news

    async def _after_news(self, cluster: Cluster, bag: LiveBag) -> None:
        """Trim arrays that nobody needs any more; widen those whose measured work is worth it."""
        up = len({name.rsplit("_", 1)[0] for name in bag.ledger.workers})
        width = sum(array.array.width for array in bag.arrays if array.open)
        trim = [array for array in bag.arrays if array.state is ArrayState.SUBMITTED and not array.trimmed]
        if bag.ledger.all_claimed:
            for array in trim:
                array.trimmed = True
            if up < width and trim:
                await self._cancel(cluster, [array.array for array in trim], pending_only=True)
            return
        mean = bag.ledger.mean_wall_s
        single = bag.bag.need_s >= bag.bag.worker_walltime_s
        if mean is None or up < width or single:
            return
        limits = await cluster.known_limits(self.now())
        more = more_workers(
            units_left=bag.ledger.units_left,
            mean_wall_s=mean,
            workers=width,
            most=limits.array.max_width if limits.bounded else width,
            min_worker_time_s=self.settings.min_worker_time,
        )
        if more:
            array = self._intend(cluster, bag, min(more, cluster.settings.max_width or more))
            await self._flush()
            await self._submit(cluster, bag, array)

    async def _account_turn(self, cluster: Cluster) -> None:
        wake = self._account[cluster.name]
        await wake.wait()
        wake.clear()
        while any(bag.bag.shape.cluster == cluster.name for bag in self._bags.values()):
            await asyncio.sleep(self._poll(cluster))
            await self._reconcile(cluster, self._open_arrays(cluster))

    def _poll(self, cluster: Cluster) -> float:
        floor = (
            self.settings.accounting_poll
            if cluster.limits is None or cluster.limits.bounded
            else self.settings.local_poll
        )
        return max(floor, cluster.settings.poll or floor)

    def _open_arrays(self, cluster: Cluster) -> list[LiveArray]:
        return [
            array
            for bag in self._bags.values()
            if bag.bag.shape.cluster == cluster.name
            for array in bag.arrays
            if array.open
        ]

    async def _reconcile(self, cluster: Cluster, arrays: Sequence[LiveArray]) -> None:
        """Ask the scheduler about all open arrays at once, and settle what their dead workers left."""
        if asked := [array.array for array in arrays]:
            limits = await cluster.known_limits(self.now())
            commands = cluster.plugin.query(asked, accounting=limits.accounting)
            replies = [await cluster.transport.run(command, self.settings.command_deadline) for command in commands]
            seen = cluster.plugin.parse_query(asked, replies)
            cluster.problem = "; ".join(seen.problems) or None
            rows: dict[str, list[Observation]] = {}
            for row in seen.rows:
                rows.setdefault(row.token, []).append(row)
            for array in arrays:
                self._observe(array, rows.get(array.array.token, []), complete=array.array.token in seen.complete)
        for bag in [bag for bag in self._bags.values() if bag.bag.shape.cluster == cluster.name]:
            await self._settle(cluster, bag)
        await self._flush()
        await self._cancel_wanted(cluster)
        for bag in [bag for bag in self._bags.values() if bag.bag.shape.cluster == cluster.name]:
            if any(array.state is ArrayState.INTENT and self._due(array) for array in bag.arrays):
                await self._submit_all(cluster, bag)

    def _due(self, array: LiveArray) -> bool:
        return array.not_before is None or array.not_before <= self.now()

    def _observe(self, array: LiveArray, rows: Sequence[Observation], *, complete: bool) -> None:
        """Take what one answer says about one array."""
        now = self.now()
        if rows and array.array.job_id is None:
            self._accept(array, rows[0].job_id, now)  # adopted by name: the reply to the submission was lost
            self._pending.arrays.append(array.row())
        array.seen = array.seen or bool(rows)
        alive = False
        for row in rows:
            if row.phase is Phase.ENDED:
                array.ends[row.index] = row
            else:
                alive = True
                array.ends.pop(row.index, None)
        if alive or not complete:
            array.silent = 0
            return
        old_enough = (now - array.array.intent_at).total_seconds() > self.settings.submit_settle
        if array.state is ArrayState.AMBIGUOUS and not rows and old_enough:
            # Both sources answered in full, long after the submission: it was never taken. The same name is used again.
            array.state, array.reason = ArrayState.INTENT, None
            self._pending.arrays.append(array.row())
            return
        if array.state is not ArrayState.SUBMITTED or not (array.seen or old_enough):
            return
        array.silent += 1
        if len(array.ends) >= array.array.width or array.silent > 1:
            array.state, array.ended_at = ArrayState.ENDED, now
            self._pending.arrays.append(array.row())
            logger.info("job %s: ended", array.array.job_id)

    async def _settle(self, cluster: Cluster, bag: LiveBag) -> None:
        """Give back or charge what dead workers left, after reading their journals once more."""
        dead = self._dead(bag)
        last = not bag.open and any(array.state is ArrayState.ENDED for array in bag.arrays)
        if not dead and not last:
            return
        if self._on_network and not bag.ledger.drained:
            # What a worker wrote last may take a while to be seen here (S3).
            now = self.now()
            since = [bag.dead_since.setdefault(name, now) for name in (*dead, *(["all"] if last else []))]
            if (now - max(since)).total_seconds() < self.settings.visibility_grace:
                return
        await self._read(cluster, bag)
        dead = self._dead(bag)  # a worker may have come and gone since the last look
        began = any(worker.begun for worker in bag.ledger.workers.values())
        ends = {name: end for name, end in dead.items() if end is not None}
        lost = bag.ledger.lost(dead, last=last)
        foreign = _cancelled_by_others(bag.arrays, bag.ledger) if last else None
        if last and not began and lost.free and foreign is None:
            bag.dispatch.fruitless[bag.bag.shape] += 1
            if bag.dispatch.fruitless[bag.bag.shape] >= _FRUITLESS:
                reason = await self._why_fruitless(cluster, bag)
                for task, attempt in lost.free:
                    self._move(bag, task, attempt, Event.KILLED, reason)
                lost = Lost(running=(), free=(), cut=())
        elif began:
            bag.dispatch.fruitless.pop(bag.bag.shape, None)
        self._release(bag, lost, ends, foreign)
        if last:
            self._finish(bag)

    def _dead(self, bag: LiveBag) -> dict[str, Observation | None]:
        """Return the workers that accounting says have ended and that no requeued one inherits from."""
        dead: dict[str, Observation | None] = {}
        for array in bag.arrays:
            for name in bag.ledger.workers:
                job, index, restart = name.rsplit("_", 2)
                if job != array.array.job_id:
                    continue
                newest = worker_name(job, int(index), int(restart) + 1) not in bag.ledger.workers
                if newest and (int(index) in array.ends or not array.open):
                    dead[name] = array.ends.get(int(index))
        return dead

    async def _why_fruitless(self, cluster: Cluster, bag: LiveBag) -> str:
        """Return in a sentence why workers never began a task, with what the first of them wrote."""
        end = next((end for array in bag.arrays for end in array.ends.values()), None)
        said = ""
        for index in sorted({index for array in bag.arrays for index in array.ends} | {0})[:3]:
            try:
                data = await cluster.transport.read(f"{bag.bag.path}/logs/{index}.slurm", 0, 1 << 16)
            except TransportError:
                continue
            said = data.decode(errors="replace").strip()[-_LOG_TAIL:]
            if said:
                break
        how = f"exit code {end.exit_code}, {end.raw}" if end is not None else "no end is known"
        return f"No worker on {cluster.name} began a task ({how}). It wrote: {said or 'nothing'}"

    # ---- what facts do to tasks

    def _take(self, bag: LiveBag, facts: Sequence[Fact]) -> None:
        live = bag.dispatch
        for fact in facts:
            task = live.tasks[fact.index]
            if task.attempt != fact.attempt or task.state in FINAL or task.bag != bag.bag.id:
                continue
            task.worker = fact.worker
            if isinstance(fact, Started):
                task.started_at = datetime.fromtimestamp(fact.at, UTC)
                live.move(fact.index, Event.STARTED, self.now())
            else:
                self._end(bag, fact)

    def _end(self, bag: LiveBag, fact: Ended) -> None:
        """Publish the end of one attempt: this is the only place that does (S1)."""
        live = bag.dispatch
        task = live.tasks[fact.index]
        if fact.record["st"] == "ok":
            task.result = Stored.of(fact.record, bag.bag.path)
        self._pending.ends.append(
            EndRow(
                dispatch=live.id,
                index=fact.index,
                attempt=fact.attempt,
                worker=fact.worker,
                bag=bag.bag.id,
                record={**fact.record, "host": bag.ledger.workers[fact.worker].host},
            )
        )
        error = explain(fact.record, bag.bag.limit_s)
        match fact.record["st"]:
            case "ok":
                self._move(bag, fact.index, fact.attempt, Event.RETURNED, None)
            case "error":
                self._move(bag, fact.index, fact.attempt, Event.RAISED, error)
            case _:
                self._charge(bag, fact.index, fact.attempt, error)

    def _charge(self, bag: LiveBag, index: int, attempt: int, error: str | None) -> None:
        """Use up one attempt of a task that died."""
        task = bag.dispatch.tasks[index]
        task.charged += 1
        again = task.charged <= task.task.retries
        self._move(bag, index, attempt, Event.RETRIED if again else Event.KILLED, error)

    def _move(self, bag: LiveBag, index: int, attempt: int, event: Event, error: str | None) -> None:
        live = bag.dispatch
        task = live.tasks[index]
        if task.attempt != attempt or task.state in FINAL or task.state is State.READY:
            return
        live.move(index, event, self.now(), error)
        self._wake_for(live)
        self._close_if_done(live)

    def _release(self, bag: LiveBag, lost: Lost, ends: Mapping[str, Observation], foreign: str | None = None) -> None:
        """Give tasks back to the planner, or charge them for their own death."""
        live = bag.dispatch
        for (index, attempt), worker in lost.running:
            end = ends.get(worker)
            if end is not None and end.cause is Cause.CANCELLED:
                self._move(bag, index, attempt, Event.CANCELLED, explain_death(end))
            elif is_charged(end, first=bag.ledger.workers[worker].begun == 1):
                self._pending.ends.append(
                    EndRow(
                        dispatch=live.id,
                        index=index,
                        attempt=attempt,
                        worker=worker,
                        bag=bag.bag.id,
                        record={"st": "killed", "raw": end.raw if end else "", "sig": end.signal if end else None},
                    )
                )
                self._charge(bag, index, attempt, explain_death(end))
            else:
                live.tasks[index].alone = end is not None and end.cause is Cause.TIMEOUT
                self._move(bag, index, attempt, Event.RELEASED, None)
        for index, _ in lost.cut:
            live.tasks[index].alone = True
        for index, attempt in (*lost.cut, *lost.free):
            if foreign is None:
                self._move(bag, index, attempt, Event.RELEASED, None)
            else:
                self._move(bag, index, attempt, Event.CANCELLED, foreign)

    def _finish(self, bag: LiveBag) -> None:
        """Forget a bag whose arrays are all over."""
        self._pending.bags.append(bag.row(closed_at=self.now()))
        del self._bags[bag.bag.id]

    def _close_if_done(self, live: LiveDispatch) -> None:
        if not live.left and live.ended_at is None:
            live.close(self.now())
            live.dirty.add(-1)
            logger.info("dispatch %s: %s", live.id, live.status)

    # ---- small things that several of the above need

    def _keep_bag(self, bag: Bag, live: LiveDispatch, created_at: datetime) -> LiveBag:
        key = bag_key(self.clusters[bag.shape.cluster].key, bag.id)
        kept = LiveBag(bag=bag, dispatch=live, ledger=Ledger(bag), key=key, created_at=created_at)
        self._bags[bag.id] = kept
        return kept

    def _wake_for(self, live: LiveDispatch) -> None:
        for name in {live.tasks[index].shape.cluster for index in live.ready}:
            self._wake[name].set()

    def _say(self, live: LiveDispatch, text: str) -> None:
        self._pending.messages.append((live.id, text))

    async def _cancel_wanted(self, cluster: Cluster) -> None:
        """Repeat a stored wish until the scheduler says that nothing is left: its exit code alone says nothing."""
        wanted = [array for array in self._open_arrays(cluster) if array.cancel_wanted]
        for array in wanted:
            if array.state is ArrayState.INTENT:
                array.state, array.ended_at = ArrayState.ENDED, self.now()
                self._pending.arrays.append(array.row())
        submitted = [array.array for array in wanted if array.open]
        if submitted:
            await self._cancel(cluster, submitted, pending_only=False)

    async def _cancel(self, cluster: Cluster, arrays: Sequence[JobArray], *, pending_only: bool) -> None:
        command = cluster.plugin.cancel(arrays, pending_only=pending_only)
        reply = await cluster.transport.run(command, self.settings.command_deadline)
        if (said := cluster.plugin.parse_cancel(reply)) is not None:
            logger.warning("%s: cancelling %d arrays: %s", cluster.name, len(arrays), said)

    async def _flush(self) -> None:
        """Store all that changed in one transaction, then tell those who wait for it."""
        async with self._writing:
            changes, self._pending = self._pending, Changes(at=self.now())
            touched = [live for live in self.dispatches.values() if live.dirty]
            for live in touched:
                changes.tasks += [live.task_row(index) for index in live.dirty if index >= 0]
                changes.dispatches.append(live.dispatch_row())
            dirty = {live.id: live.dirty for live in touched}
            for live in touched:
                live.dirty = set()
            if not changes:
                return
            changes.at = self.now()
            try:
                await asyncio.to_thread(self.store.apply, changes)
            except BaseException:
                self._put_back(changes, dirty)
                raise
            for name in {
                *dirty,
                *(row.array.dispatch for row in changes.arrays),
                *(name for name, _ in changes.messages),
            }:
                self._versions[name] += 1
            for live in touched:
                if live.ended_at is not None and not live.dirty:
                    del self.dispatches[live.id]
        async with self._changed:
            self._changed.notify_all()

    def _put_back(self, changes: Changes, dirty: Mapping[DispatchId, set[int]]) -> None:
        """Keep what could not be stored for the next try; task rows are made anew from the state."""
        for name, indices in dirty.items():
            self.dispatches[name].dirty |= indices
        self._pending.ends[:0] = changes.ends
        self._pending.bags[:0] = changes.bags
        self._pending.arrays[:0] = changes.arrays
        self._pending.messages[:0] = changes.messages


def _with_job_id(array: JobArray, job_id: JobId) -> JobArray:
    return replace(array, job_id=job_id)


def _cancelled_by_others(arrays: Sequence[LiveArray], ledger: Ledger) -> str | None:
    """Return who cancelled array tasks that we did not cancel, in a sentence; ``None`` when nobody did."""
    for array in arrays:
        for index, end in array.ends.items():
            if end.cause is not Cause.CANCELLED or array.cancel_wanted:
                continue
            came_up = any(name.startswith(f"{array.array.job_id}_{index}_") for name in ledger.workers)
            if came_up or not array.trimmed:
                return f"Its job {array.array.job_id}_{index} was cancelled outside hpcflow ({end.raw})."
    return None
