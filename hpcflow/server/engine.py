"""The loop: plan, submit, follow, step, collect. It waits and orders; what it decides it asks of `core`.

One task per cluster plans and submits, one reads journals, one asks the accounting. All of them change the state in
memory and the store through the same `_flush`, so that what a client sees is what is stored.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from hpcflow.core.bag import bag_key, read_lines
from hpcflow.core.follow import EXIT_STORAGE, Ledger, Lost, is_journal
from hpcflow.core.model import (
    Bag,
    BagId,
    Cause,
    ClusterName,
    HpcflowError,
    JobArray,
    Limits,
    Observation,
    Shape,
    UserError,
)
from hpcflow.core.plan import (
    BagPlan,
    PlanSettings,
    Ready,
    is_reserve_worth,
    is_worth_waiting,
    more_workers,
    plan_bags,
)
from hpcflow.core.plugin import Accepted, Ambiguous, Refused
from hpcflow.core.states import FINAL, Event, State
from hpcflow.server.bagging import push_bag
from hpcflow.server.bags import LiveArray, LiveBag, array_of, bag_of
from hpcflow.server.clusters import Cluster
from hpcflow.server.collect import Collector
from hpcflow.server.live import Gathering, LiveDispatch
from hpcflow.server.remote import TransportError
from hpcflow.server.settings import Settings
from hpcflow.server.store import ArrayRow, ArrayState, BagRow, LeaseLost, Store, StoreError
from hpcflow.server.writer import Writer

__all__ = ["Engine", "plan_settings"]

logger = logging.getLogger(__name__)

#: The most that the wait for room in a full queue grows to.
_RETRY_MAX_S: Final = 600.0
_LOG_TAIL: Final = 600
#: Bags in a row that may end with nothing done before their tasks fail.
_FRUITLESS: Final = 2


def plan_settings(settings: Settings, cluster: Cluster) -> PlanSettings:
    """Return what the planner must know of a server and a cluster."""
    return PlanSettings(
        min_worker_time_s=settings.min_worker_time,
        first_width=settings.first_width,
        ramp_width=settings.ramp_width,
        worker_walltime_s=settings.worker_walltime,
        kill_grace_s=settings.kill_grace,
        max_width=cluster.settings.max_width,
    )


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
        self.clusters = clusters
        self.writer = Writer(store, now)
        self.now = now
        self._new_id = new_id
        self._on_network = on_network
        self._collector = Collector(self.writer, now, self._wake_for)
        self._bags: dict[BagId, LiveBag] = {}
        self._wake = {name: asyncio.Event() for name in clusters}
        self._follow = {name: asyncio.Event() for name in clusters}
        self._account = {name: asyncio.Event() for name in clusters}

    # ---- what the service asks

    async def run(self) -> None:
        """Serve until cancelled, or until another server took the lease (`LeaseLost`)."""
        async with asyncio.TaskGroup() as group:
            for cluster in self.clusters.values():
                group.create_task(self._forever(cluster, self._plan_turn, self._wake[cluster.name]))
                group.create_task(self._forever(cluster, self._follow_turn, self._follow[cluster.name]))
                group.create_task(self._forever(cluster, self._account_turn, self._account[cluster.name]))

    def add(self, live: LiveDispatch) -> None:
        """Take over a dispatch that is in the store."""
        self.writer.dispatches[live.id] = live
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
                        self.writer.pending.arrays.append(array.row())
        self._collector.close_if_done(live)
        await self.writer.flush()
        for cluster in self.clusters.values():
            await self._cancel_wanted(cluster)
            self._account[cluster.name].set()
        return cancelled

    # ---- the three loops of a cluster

    async def _forever(self, cluster: Cluster, turn: Callable[[Cluster], Awaitable[None]], wake: asyncio.Event) -> None:
        """Take one turn after the other, each when ``wake`` is set; after a fault at once again, for it did not end."""
        while True:
            await wake.wait()
            wake.clear()
            try:
                await turn(cluster)
                continue
            except LeaseLost:
                raise
            except StoreError:
                logger.exception("%s: the store refused a change; trying again", cluster.name)
            except HpcflowError as error:
                cluster.problem = str(error)
                logger.warning("%s: %s", cluster.name, error)
            except Exception:  # one cluster's fault must not stop the others
                logger.exception("%s: a fault in %s; going on", cluster.name, turn.__name__)
            await asyncio.sleep(self.settings.after_fault)
            wake.set()

    async def _plan_turn(self, cluster: Cluster) -> None:
        wake = self._wake[cluster.name]
        await asyncio.sleep(self.settings.settle)
        wake.clear()
        if await self._plan(cluster):
            await self._nap(wake, max(0.1, self._gather(cluster) / 10))
            wake.set()

    async def _nap(self, wake: asyncio.Event, seconds: float) -> bool:
        """Sleep, or less when woken; say whether it was less."""
        try:
            async with asyncio.timeout(seconds):
                return await wake.wait()
        except TimeoutError:
            return False

    async def _plan(self, cluster: Cluster) -> bool:
        """Make bags of what is ready; say whether some of it waits for others like it."""
        held = False
        for live in list(self.writer.dispatches.values()):
            ready = [
                Ready(
                    index=index,
                    attempt=task.attempt,
                    shape=task.shape,
                    alone=task.alone,
                    mean_wall_s=live.mean_wall_s(index),
                )
                for index in sorted(live.ready)
                if (task := live.tasks[index]).shape.cluster == cluster.name
            ]
            if not ready:
                continue
            limits = await self._limits(cluster, live)
            waiting = self._gathering(cluster, live, ready)
            held = held or bool(waiting)
            now_ready = [task for task in ready if task.index in live.ready and task.shape not in waiting]
            # One bag of a shape finds out what its tasks are like; those beside it need not hold workers back as well.
            served = {bag.bag.shape for bag in self._bags.values() if bag.dispatch is live}
            first = plan_settings(self.settings, cluster)
            further = replace(first, ramp_width=first.first_width)
            for settings, tasks in (
                (first, [task for task in now_ready if task.shape not in served]),
                (further, [task for task in now_ready if task.shape in served]),
            ):
                for plan in plan_bags(tasks, {cluster.name: limits}, settings):
                    await self._serve(cluster, live, plan)
        return held

    async def _limits(self, cluster: Cluster, live: LiveDispatch) -> Limits:
        """Return the cluster's limits; tell the dispatch, once, why it waits when the cluster does not answer."""
        try:
            return await cluster.known_limits(self.now())
        except HpcflowError as error:
            if cluster.name not in live.told:
                live.told.add(cluster.name)
                self.writer.say(live, f"Tasks wait, because {cluster.name} does not answer: {error}")
                await self.writer.flush()
            raise

    def _gathering(self, cluster: Cluster, live: LiveDispatch, ready: Sequence[Ready]) -> set[Shape]:
        """Return the shapes whose ready tasks shall wait for others like them."""
        coming, now = live.coming(), self.now()
        waiting: set[Shape] = set()
        for shape, count in Counter(task.shape for task in ready).items():
            gathering = live.gatherings.setdefault(shape, Gathering())
            gathering.since = gathering.since or now
            if is_worth_waiting(
                ready=count,
                coming=coming[shape],
                held_s=(now - gathering.since).total_seconds(),
                bags=gathering.bags,
                gather_s=self._gather(cluster),
            ):
                waiting.add(shape)
            else:
                gathering.since = None
                gathering.bags += bool(coming[shape])
        return waiting

    def _gather(self, cluster: Cluster) -> float:
        bounded = cluster.limits is None or cluster.limits.bounded
        return self.settings.gather if bounded else self.settings.local_gather

    async def _serve(self, cluster: Cluster, live: LiveDispatch, plan: BagPlan) -> None:
        """Store the intent, make the bag, submit its arrays: in this order a crash at any point can be mended."""
        now = self.now()
        identifier = BagId(self._new_id())
        bag = self._keep_bag(
            bag_of(plan, identifier, live.id, cluster),
            live,
            now,
        )
        for index, _ in plan.tasks:
            live.tasks[index].bag = identifier
            live.move(index, Event.BAGGED, now)
        live.started_at = live.started_at or now
        self.writer.pending.bags.append(bag.row())
        for width in plan.widths[: plan.at_once]:
            self._intend(cluster, bag, width)
        bag.reserve = plan.widths[plan.at_once :]
        await self.writer.flush()
        self._account[cluster.name].set()
        await self._submit_all(cluster, bag)

    def _intend(self, cluster: Cluster, bag: LiveBag, width: int) -> LiveArray:
        graph, opaque = bag.dispatch.graph, self.settings.job_names == "opaque"
        array = LiveArray(
            array_of(bag.bag, cluster, graph, width=width, identifier=self._new_id(), opaque=opaque, now=self.now()),
            ArrayState.INTENT,
        )
        bag.arrays.append(array)
        self.writer.pending.arrays.append(array.row())
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
            self.writer.say(bag.dispatch, f"Nothing could be written on {cluster.name}: {error}. Trying again.")
            await self.writer.flush()
            raise
        for array in bag.arrays:
            if array.is_due(self.now()):
                await self._submit(cluster, bag, array)

    async def _submit(self, cluster: Cluster, bag: LiveBag, array: LiveArray) -> None:
        try:
            command = cluster.plugin.submit(array.array)
        except UserError as error:
            self._refuse(bag, array, str(error))
            await self.writer.flush()
            return
        reply = await cluster.transport.run(command, self.settings.command_deadline)
        now = self.now()
        match cluster.plugin.parse_submit(array.array, reply):
            case Accepted(job_id):
                array.accept(job_id, now)
                logger.info("job %s: %d array tasks on %s", job_id, array.array.width, cluster.name)
            case Refused(reason, retry_later=True):
                array.tries += 1
                array.reason = f"{cluster.name} has no room for it: {reason}. Trying again."
                array.not_before = now + timedelta(
                    seconds=min(_RETRY_MAX_S, self.settings.submit_retry * 2 ** (array.tries - 1))
                )
                self.writer.say(bag.dispatch, array.reason)
            case Refused(reason):
                self._refuse(bag, array, f"{cluster.name} refused {array.array.width} array tasks: {reason}")
            case Ambiguous(reason):
                array.state, array.reason = ArrayState.AMBIGUOUS, f"Looking for it by name, because {reason}"
        self.writer.pending.arrays.append(array.row())
        await self.writer.flush()
        self._follow[cluster.name].set()
        self._account[cluster.name].set()

    def _refuse(self, bag: LiveBag, array: LiveArray, reason: str) -> None:
        """Fail the tasks of a bag that no scheduler will serve."""
        array.state, array.reason, array.ended_at = ArrayState.REFUSED, reason, self.now()
        if bag.open or any(other.state is ArrayState.SUBMITTED for other in bag.arrays):
            return
        lost = bag.ledger.lost((), last=True)
        for index, attempt in lost.free:
            self._collector.move(bag, index, attempt, Event.REFUSED, reason)
        self._finish(bag)

    async def _follow_turn(self, cluster: Cluster) -> None:
        wake = self._follow[cluster.name]
        delay = self.settings.journal_poll
        while bags := [bag for bag in self._bags_of(cluster) if not bag.ledger.drained]:
            news = [bag for bag in bags if bag.readable and await self._read(cluster, bag)]
            await self.writer.flush()
            for bag in news:
                await self._after_news(cluster, bag)
            for bag in bags:
                await self._call_reserve(cluster, bag)
            delay = self.settings.journal_poll if news else min(delay * 1.1, self.settings.journal_poll_max)
            if await self._nap(wake, delay):
                wake.clear()
                delay = self.settings.journal_poll

    async def _read(self, cluster: Cluster, bag: LiveBag) -> int:
        """Read what the journals of a bag say beyond what is known; return the number of new records."""
        async with bag.reading:
            data = await cluster.transport.read_new(f"{bag.bag.path}/journal", bag.offsets)
            news = 0
            for name, piece in data.items():
                if not is_journal(name):
                    continue  # an editor's or a backup's copy
                records, used, bad = read_lines(piece, bag.key)
                if bad:
                    logger.warning("bag %s: %d lines of journal %s are damaged", bag.bag.id, bad, name)
                bag.offsets[name] = bag.offsets.get(name, 0) + used
                news += len(records)
                self._collector.take(bag, bag.ledger.read(name.removesuffix(".jsonl"), records))
            if news:
                gone = bag.ledger.left_by_themselves()
                self._collector.release(bag, bag.ledger.lost(gone, last=False), {})
            return news

    async def _call_reserve(self, cluster: Cluster, bag: LiveBag) -> None:
        """Submit the arrays that were held back, a moment after the first, unless tasks proved to be short."""
        age = (self.now() - bag.created_at).total_seconds()
        if not bag.reserve or not bag.readable or age < self.settings.ramp_after:
            return
        widths, bag.reserve = bag.reserve, ()
        ledger = bag.ledger
        if is_reserve_worth(units_left=ledger.units_left, mean_wall_s=ledger.mean_wall_s, workers=bag.width):
            for width in widths:
                self._intend(cluster, bag, width)
            await self.writer.flush()
            await self._submit_all(cluster, bag)

    async def _after_news(self, cluster: Cluster, bag: LiveBag) -> None:
        """Trim arrays that nobody needs any more; widen those whose measured work is worth it."""
        up, width = bag.came_up, bag.width
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
            await self.writer.flush()
            await self._submit(cluster, bag, array)

    async def _account_turn(self, cluster: Cluster) -> None:
        delay = self._poll(cluster)
        while self._bags_of(cluster):
            await asyncio.sleep(delay)
            changed = await self._reconcile(cluster, self._open_arrays(cluster))
            delay = self._poll(cluster) if changed else min(delay * 1.5, 2 * self._poll(cluster))

    def _poll(self, cluster: Cluster) -> float:
        floor = (
            self.settings.accounting_poll
            if cluster.limits is None or cluster.limits.bounded
            else self.settings.local_poll
        )
        return max(floor, cluster.settings.poll or floor)

    def _bags_of(self, cluster: Cluster) -> list[LiveBag]:
        return [bag for bag in self._bags.values() if bag.bag.shape.cluster == cluster.name]

    def _open_arrays(self, cluster: Cluster) -> list[LiveArray]:
        return [array for bag in self._bags_of(cluster) for array in bag.arrays if array.open]

    async def _reconcile(self, cluster: Cluster, arrays: Sequence[LiveArray]) -> bool:
        """Ask the scheduler about all open arrays at once, settle what their dead workers left; say if any moved."""
        changed = False
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
                token = array.array.token
                if array.observe(
                    rows.get(token, []),
                    complete=token in seen.complete,
                    now=self.now(),
                    settle_s=self.settings.submit_settle,
                ):
                    changed = True
                    self.writer.pending.arrays.append(array.row())
                    logger.info("job %s: %s", array.array.job_id, array.state)
        for bag in self._bags_of(cluster):
            await self._settle(cluster, bag)
        await self.writer.flush()
        await self._cancel_wanted(cluster)
        for bag in self._bags_of(cluster):
            if any(array.is_due(self.now()) for array in bag.arrays):
                await self._submit_all(cluster, bag)
        return changed

    async def _settle(self, cluster: Cluster, bag: LiveBag) -> None:
        """Give back or charge what dead workers left, after reading their journals once more."""
        dead, last = bag.dead(), bag.over
        if not dead and not last:
            return
        if self._on_network and not bag.ledger.drained:
            # What a worker wrote last may take a while to be seen here (S3).
            names = (*dead, "the bag") if last else dead
            if bag.dead_for(names, self.now()) < self.settings.visibility_grace:
                return
        await self._read(cluster, bag)
        dead = bag.dead()  # a worker may have come and gone since the last look
        began = any(worker.begun for worker in bag.ledger.workers.values())
        ends = {name: end for name, end in dead.items() if end is not None}
        if foreign := bag.cancelled_by_others():
            # Nothing of it is submitted again, though the rest of the array may live on.
            taken = [name for name, end in ends.items() if end.cause is Cause.CANCELLED]
            self._collector.release(bag, bag.ledger.lost(taken, last=last), ends, foreign)
        lost = bag.ledger.lost(dead, last=last)
        faulty = bag.ledger.complaint is not None or any(end.exit_code == EXIT_STORAGE for end in ends.values())
        stuck = not began or (faulty and not bag.ledger.ended)
        if last and stuck and lost:
            bag.dispatch.fruitless[bag.bag.shape] += 1
            if bag.dispatch.fruitless[bag.bag.shape] >= _FRUITLESS:
                reason = await self._why_fruitless(cluster, bag)
                for task, attempt in (*(key for key, _ in lost.running), *lost.free, *lost.cut):
                    self._collector.move(bag, task, attempt, Event.KILLED, reason)
                lost = Lost(running=(), free=(), cut=())
        elif not stuck:
            bag.dispatch.fruitless.pop(bag.bag.shape, None)
        self._collector.release(bag, lost, ends)
        if last:
            self._finish(bag)

    async def _why_fruitless(self, cluster: Cluster, bag: LiveBag) -> str:
        """Return in a sentence why workers got nothing done, with what one of them wrote."""
        if bag.ledger.complaint is not None:
            return f"No worker on {cluster.name} could go on: {bag.ledger.complaint}"
        end = next((end for array in bag.arrays for end in array.ends.values()), None)
        said = ""
        for array in bag.arrays:
            for index in [*sorted(array.ends), 0][:3]:
                # The scheduler's own file for an array task: by its index, or of `local` by job and index.
                for name in (f"{index}.slurm", f"{array.array.job_id}_{index}.log"):
                    with suppress(TransportError):
                        data = await cluster.transport.read(f"{bag.bag.path}/logs/{name}", 0, 1 << 16)
                        said = said or data.decode(errors="replace").strip()[-_LOG_TAIL:]
        how = f"exit code {end.exit_code}, {end.raw}" if end is not None else "no end is known"
        return f"No worker on {cluster.name} began a task ({how}). It wrote: {said or 'nothing'}"

    def _finish(self, bag: LiveBag) -> None:
        """Forget a bag whose arrays are all over."""
        if self._bags.pop(bag.bag.id, None) is not None:
            self.writer.pending.bags.append(bag.row(closed_at=self.now()))

    # ---- small things that several of the above need

    def _keep_bag(self, bag: Bag, live: LiveDispatch, created_at: datetime) -> LiveBag:
        key = bag_key(self.clusters[bag.shape.cluster].key, bag.id)
        kept = LiveBag(bag=bag, dispatch=live, ledger=Ledger(bag), key=key, created_at=created_at)
        self._bags[bag.id] = kept
        return kept

    def _wake_for(self, live: LiveDispatch) -> None:
        for name in live.clusters:
            self._wake[name].set()

    async def _cancel_wanted(self, cluster: Cluster) -> None:
        """Repeat a stored wish until the scheduler says that nothing is left: its exit code alone says nothing."""
        wanted = [array for array in self._open_arrays(cluster) if array.cancel_wanted]
        for array in wanted:
            if array.state is ArrayState.INTENT:
                array.state, array.ended_at = ArrayState.ENDED, self.now()
                self.writer.pending.arrays.append(array.row())
        submitted = [array.array for array in wanted if array.open]
        if submitted:
            await self._cancel(cluster, submitted, pending_only=False)

    async def _cancel(self, cluster: Cluster, arrays: Sequence[JobArray], *, pending_only: bool) -> None:
        command = cluster.plugin.cancel(arrays, pending_only=pending_only)
        reply = await cluster.transport.run(command, self.settings.command_deadline)
        if (said := cluster.plugin.parse_cancel(reply)) is not None:
            logger.warning("%s: cancelling %d arrays: %s", cluster.name, len(arrays), said)
