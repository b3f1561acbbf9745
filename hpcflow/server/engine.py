"""The loop: plan, submit, follow, step, collect. It waits and orders; what it decides it asks of `core`.

One task per cluster plans and submits, one reads journals, one asks the accounting. All of them change the state in
memory and the store through the same `Writer.flush`, so that what a client sees is what is stored.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from hpcflow.core.model import BagId, ClusterName, HpcflowError, Limits, Shape
from hpcflow.core.plan import PlanSettings, Ready, is_worth_waiting, plan_bags
from hpcflow.core.states import FINAL, State
from hpcflow.server.bags import LiveArray, LiveBag
from hpcflow.server.bringing import Bringer
from hpcflow.server.building import Builder
from hpcflow.server.clusters import Cluster
from hpcflow.server.collect import Collector
from hpcflow.server.course import Course
from hpcflow.server.environments import Environments
from hpcflow.server.live import LiveDispatch
from hpcflow.server.reconcile import Reconciler
from hpcflow.server.sending import Sender
from hpcflow.server.settings import Settings
from hpcflow.server.shared import Shared, plan_settings
from hpcflow.server.site import SiteError
from hpcflow.server.store import ArrayRow, ArrayState, BagRow, LeaseLost, RunTimeKey, Store, StoreError
from hpcflow.server.submit import Submitter
from hpcflow.server.tasks import Gathering
from hpcflow.server.unfold import Unfolder
from hpcflow.server.writer import Writer

__all__ = ["Engine"]

logger = logging.getLogger(__name__)

#: The least time between two parts of a bag grows by the first with each, and no further than the second.
GROW_S: Final = 0.05
GROW_MOST_S: Final = 2.0
#: How soon tasks are looked at again that wait for the workers of others like them to begin.
QUEUEING_S: Final = 0.5
#: Journals on a file system of this machine are read so many times as often while something waits for the last lines of
#: a bag, of which there are so many at most.
ENDING: Final = 4
ENDING_TASKS: Final = 128


class Engine:
    """Runs every live dispatch of one HPCFLOW_HOME."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        clusters: dict[ClusterName, Cluster],
        *,
        now: Callable[[], datetime],
        new_id: Callable[[], str],
        on_network: bool,
    ) -> None:
        self.settings = settings
        self.clusters = clusters
        self.writer = Writer(store, now)
        self.now = now
        self._shared = Shared(settings, clusters, self.writer, now, new_id, on_network)
        self._group: asyncio.TaskGroup | None = None
        self._turns: dict[ClusterName, list[asyncio.Task[None]]] = {}
        self._collector = Collector(self._shared)
        self._submitter = Submitter(self._shared, self._collector)
        self._reconciler = Reconciler(self._shared, self._collector, self._submitter)
        #: What people do to dispatches that are here.
        self.course = Course(self._shared, self._collector, self._submitter, self._reconciler)
        self.environments = Environments(settings.wheelhouse)
        self._builder = Builder(self._shared, self._collector, self.environments)
        self._bringer = Bringer(self._shared, self._collector)
        self._sender = Sender(self._shared, self._collector)
        self.unfolder = Unfolder(self._shared, self._collector)

    # ---- what the service asks

    async def run(self) -> None:
        """Serve until cancelled, or until another server took the lease (`LeaseLost`)."""
        self._shared.run_times |= await asyncio.to_thread(self.writer.store.run_times)
        async with asyncio.TaskGroup() as self._group:
            self.course.group = self._builder.group = self._bringer.group = self._sender.group = self._group
            for cluster in self.clusters.values():
                self._serve(self._group, cluster)

    def _serve(self, group: asyncio.TaskGroup, cluster: Cluster) -> None:
        name = cluster.name
        self._turns[name] = [
            group.create_task(self._forever(cluster, self._plan_turn, self._shared.plan[name])),
            group.create_task(self._forever(cluster, self._follow_turn, self._shared.follow[name])),
            group.create_task(self._forever(cluster, self._account_turn, self._shared.account[name])),
        ]

    def add_cluster(self, cluster: Cluster) -> None:
        """Serve a further cluster from now on."""
        self.clusters[cluster.name] = cluster
        self._shared.know(cluster.name)
        if self._group is not None:
            self._serve(self._group, cluster)

    async def remove_cluster(self, cluster: Cluster) -> None:
        """Serve a cluster no longer; it must have nothing to do here."""
        turns = self._turns.pop(cluster.name, [])
        for turn in turns:
            turn.cancel()
        await asyncio.gather(*turns, return_exceptions=True)
        del self.clusters[cluster.name]

    def why_needed(self, cluster: Cluster) -> str | None:
        """Say what of a cluster is not over, and what helps; ``None`` when nothing runs or waits there."""
        if any(cluster.name in live.clusters for live in self.writer.dispatches.values()):
            return "tasks that are not over: wait for them, or cancel their dispatches"
        if self._shared.bags_on(cluster):
            return "job arrays that end now, as their tasks have: try again in a moment"
        return None

    async def begin(self, live: LiveDispatch) -> None:
        """Run a dispatch that was just taken in; with no task left, as all had results already, it ends at once."""
        self._shared.run(live)
        if not live.left:
            self._collector.close_if_done(live)
            await self.writer.flush()

    def look_at(self, live: LiveDispatch) -> None:
        """Plan what has become ready in a dispatch, or end it when nothing is left of it."""
        self._collector.after_move(live)
        self._shared.wake(live)

    @property
    def new_id(self) -> Callable[[], str]:
        return self._shared.new_id

    def take_over(self, live: LiveDispatch, bags: Sequence[BagRow], arrays: Sequence[ArrayRow]) -> None:
        """Run a dispatch that an earlier server left: journals are read anew, nothing is submitted twice.

        Of one that has ended only the arrays are followed that had not.
        """
        for row in bags:
            if row.closed_at is not None:
                continue
            bag = self._shared.keep(row.bag, live, row.created_at)
            cancelled: list[tuple[int, int]] = []
            for index, attempt in row.bag.tasks:
                task = live.tasks[index]
                away = task.state in FINAL or task.state in {State.READY, State.PAUSED}
                if task.state is State.CANCELLED and (task.attempt, task.bag) == (attempt, row.bag.id):
                    cancelled.append((index, attempt))
                elif away or task.built or task.attempt != attempt:
                    bag.ledger.settled.add((index, attempt))
            bag.untold = bag.ledger.drop(cancelled)
            for stored in arrays:
                if stored.array.bag == row.bag.id:
                    # An intent without an answer: sbatch may or may not have run. Only its name can tell.
                    state = ArrayState.AMBIGUOUS if stored.state is ArrayState.INTENT else stored.state
                    array = LiveArray(stored.array, state, stored.reason, stored.cancel_wanted)
                    array.submitted_at = stored.submitted_at
                    array.ended_at, array.ends_before = stored.ended_at, {} if array.open else stored.ends
                    bag.arrays.append(array)
            bag.pushed = any(array.submitted_at is not None for array in bag.arrays)
            bag.hold_back()
        if live.ended_at is None:
            self._shared.run(live)
        for cluster in self.clusters.values():
            self._shared.listen(cluster)

    @property
    def run_times(self) -> dict[RunTimeKey, tuple[int, float]]:
        """How many tasks of each kind returned in all dispatches that ended, and their run time in all."""
        return self._shared.run_times

    @property
    def bags(self) -> Mapping[BagId, LiveBag]:
        """The bags that are not over."""
        return self._shared.bags

    def wake(self, cluster: Cluster) -> None:
        """Look at a cluster that answers again, before its turn comes."""
        self._shared.plan[cluster.name].set()
        self._shared.listen(cluster)

    # ---- the three loops of a cluster

    async def _forever(self, cluster: Cluster, turn: Callable[[Cluster], Awaitable[None]], wake: asyncio.Event) -> None:
        """Take one turn after the other, each when ``wake`` is set; after a fault at once again, for it did not end."""
        told: str | None = None
        while True:
            await wake.wait()
            wake.clear()
            try:
                if self.writer.problem is not None:
                    await self.writer.flush()  # what the store refused, before a turn that may have no news
                await turn(cluster)
                told = None
                continue
            except LeaseLost:
                raise
            except StoreError:
                logger.exception("%s: the store refused a change; trying again", cluster.name)
            except HpcflowError as error:
                cluster.fail(str(error), self.now())
                if str(error) != told:  # one that lasts, as a login that nobody makes, is told once
                    logger.warning("%s: %s", cluster.name, error)
                told = str(error)
            except Exception:  # one cluster's fault must not stop the others
                logger.exception("%s: a fault in %s; going on", cluster.name, turn.__name__)
            await asyncio.sleep(self.settings.after_fault)
            wake.set()

    async def _plan_turn(self, cluster: Cluster) -> None:
        wake = self._shared.plan[cluster.name]
        if any(self._shared.is_at_work(live) for live in self.writer.dispatches.values() if live.ready):
            await asyncio.sleep(self.settings.settle)
        wake.clear()
        if cluster.site.submit_interval:
            for bag in self._shared.bags_on(cluster):  # what had to wait for its turn
                await self._submitter.submit_due(cluster, bag)
        if (wait_s := await self._plan(cluster)) is not None:
            await self._nap(wake, wait_s)
            wake.set()

    async def _nap(self, wake: asyncio.Event, seconds: float) -> bool:
        """Sleep, or less when woken; say whether it was less."""
        try:
            async with asyncio.timeout(seconds):
                return await wake.wait()
        except TimeoutError:
            return False

    async def _plan(self, cluster: Cluster) -> float | None:
        """Make bags of what is ready; return when to look again at what waits for others like it, in seconds."""
        held, again_s = False, float("inf")
        for live in list(self.writer.dispatches.values()):
            await self.course.carry_out(live)
            if live.built:
                held = await self.unfolder.unfold(cluster, live) or held
                await self._reconciler.let_go(cluster, live)
            if live.leaving:
                await self._sender.send(cluster, live)
                await self._reconciler.let_go(cluster, live)
            if not any(live.tasks[index].shape.cluster == cluster.name for index in live.ready):
                continue
            limits = await self._limits(cluster, live)  # and the site's rules with them
            planning = plan_settings(self.settings, cluster)
            blocked = {bag.bag.shape for bag in self._shared.bags_of(live) if any(a.held for a in bag.arrays)}
            ready = [
                Ready(
                    index=index,
                    attempt=task.attempt,
                    shape=task.shape,
                    alone=task.alone,
                    mean_wall_s=live.mean_wall_s(index),
                    chain=live.chain(index, planning),
                    grows=task.task.sublattice or live.open,
                )
                for index in sorted(live.ready)
                if (task := live.tasks[index]).shape.cluster == cluster.name and task.shape not in blocked
            ]
            if not ready:
                continue
            if unbuilt := await self._builder.unbuilt(cluster, live, {task.shape for task in ready}):
                ready = [task for task in ready if task.shape not in unbuilt]
            if unfetched := await self._bringer.unfetched(live, [task.index for task in ready]):
                ready = [task for task in ready if task.index not in unfetched]
            ready, later_s = await self._give_to_warm(cluster, live, ready, limits, planning)
            again_s = min(again_s, later_s)
            if live.one_by_one and (queueing := self._queueing(live, ready)):
                ready = [task for task in ready if task.shape not in queueing]
                again_s = min(again_s, QUEUEING_S)
            waiting = self._gathering(cluster, live, ready)
            held = held or bool(waiting)
            now_ready = [task for task in ready if task.index in live.ready and task.shape not in waiting]
            # One bag of a shape finds out what its tasks are like; those beside it need not hold workers back as well.
            served = {bag.bag.shape for bag in self._shared.bags_of(live)}
            further = replace(planning, ramp_width=planning.first_width)
            for settings, tasks in (
                (planning, [task for task in now_ready if task.shape not in served]),
                (further, [task for task in now_ready if task.shape in served]),
            ):
                for kind in dict.fromkeys((task.shape, task.alone) for task in tasks):
                    room = self._shared.room(live, kind[0])
                    if room == 0:
                        continue  # the end of an array wakes us
                    mine = [task for task in tasks if (task.shape, task.alone) == kind]
                    usual_s = self._shared.launches.usual_s(cluster.name, kind[0].resources.partition)
                    for plan in plan_bags(mine, {cluster.name: limits}, replace(settings, room=room, launch_s=usual_s)):
                        await self._submitter.serve(cluster, live, plan)
        if held:
            again_s = min(again_s, max(0.1, self._gather(cluster) / 10))
        return again_s if again_s < float("inf") else None

    def _queueing(self, live: LiveDispatch, ready: Sequence[Ready]) -> set[Shape]:
        """Return the shapes of which fewer tasks are ready than are in the queue already, no worker of which has begun.

        Tasks that come one by one would otherwise get a job array each as long as the first one waits; so arrays are
        as many as the number of tasks can be doubled.
        """
        queued: Counter[Shape] = Counter()
        for bag in self._shared.bags_of(live):
            if not bag.ledger.workers and any(array.open for array in bag.arrays):
                queued[bag.bag.shape] += len(bag.bag.tasks)
        return {shape for shape, count in Counter(task.shape for task in ready).items() if count < queued[shape]}

    async def _give_to_warm(
        self, cluster: Cluster, live: LiveDispatch, ready: Sequence[Ready], limits: Limits, planning: PlanSettings
    ) -> tuple[list[Ready], float]:
        """Give ready tasks to bags of their shape whose workers live.

        Returns:
            Those that need bags of their own, and in how many seconds others shall be given; infinite: there are none.
        """
        left, later_s = list(ready), float("inf")
        for bag in self._shared.bags_of(live):
            if not (bag.takes_more and bag.readable and any(task.shape == bag.bag.shape for task in left)):
                continue
            await self._reconciler.read(cluster, bag)
            if not bag.alive() or not bag.takes_more:
                continue
            mine = [
                task for task in left if task.shape == bag.bag.shape and not task.alone and task.index in live.ready
            ]
            taken = {task.index for task in mine}
            left = [task for task in left if task.index not in taken]
            age = (self.now() - (bag.grown_at or bag.created_at)).total_seconds()
            if (wait_s := min(GROW_MOST_S, GROW_S * len(bag.bag.parts)) - age) > 0 and self._shared.is_at_work(live):
                # Each part is a file and a line: the more there are, the longer others are waited for, if any can come.
                later_s = min(later_s, max(wait_s, GROW_S))
                continue
            usual_s = self._shared.launches.usual_s(cluster.name, bag.bag.shape.resources.partition)
            for plan in plan_bags(mine, {cluster.name: limits}, replace(planning, launch_s=usual_s)):
                await self._submitter.extend(cluster, bag, plan)
        return left, later_s

    async def _limits(self, cluster: Cluster, live: LiveDispatch) -> Limits:
        """Return the cluster's limits; tell the dispatch, once, why it waits when the cluster does not answer."""
        try:
            return await cluster.known_limits(self.now())
        except HpcflowError as error:
            if cluster.name not in live.told:
                live.told.add(cluster.name)
                why = str(error) if isinstance(error, SiteError) else f"{cluster.name} does not answer: {error}"
                self.writer.say(live, f"Tasks wait, because {why[0].lower()}{why[1:]}")
                await self.writer.flush()
            raise

    def _gathering(self, cluster: Cluster, live: LiveDispatch, ready: Sequence[Ready]) -> set[Shape]:
        """Return the shapes whose ready tasks shall wait for others like them."""
        coming, now = live.coming() + self._following(live), self.now()
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

    def _following(self, live: LiveDispatch) -> Counter[Shape]:
        """Count for each shape of further attempts the tasks that may yet come the same way: those of the same bags."""
        came = {(task.shape, task.came_from) for index in live.ready if (task := live.tasks[index]).came_from}
        left = {bag.bag.id: len(bag.bag.tasks) - len(bag.ledger.settled) for bag in self._shared.bags_of(live)}
        following: Counter[Shape] = Counter()
        for shape, origin in came:
            following[shape] += left.get(origin, 0)
        return following

    def _gather(self, cluster: Cluster) -> float:
        bounded = cluster.limits is None or cluster.limits.bounded
        return self.settings.gather if bounded else self.settings.local_gather

    async def _follow_turn(self, cluster: Cluster) -> None:
        wake = self._shared.follow[cluster.name]
        floor, ceiling = cluster.follow_poll(self.settings)
        delay = floor
        while bags := [bag for bag in self._shared.bags_on(cluster) if not bag.ledger.drained]:
            news = await self._reconciler.read_all(cluster, bags)
            least = floor / ENDING if not self._shared.is_on_network(cluster) and _is_ending(bags) else floor
            delay = least if news else min(delay * 1.1, ceiling)
            if await self._nap(wake, delay):
                wake.clear()
                delay = floor

    async def _account_turn(self, cluster: Cluster) -> None:
        delay = self._poll(cluster)
        while self._shared.bags_on(cluster):
            await asyncio.sleep(delay)
            changed = await self._reconciler.reconcile(cluster, self._shared.open_arrays(cluster))
            delay = self._poll(cluster) if changed else min(delay * 1.5, 2 * self._poll(cluster))

    def _poll(self, cluster: Cluster) -> float:
        floor = (
            self.settings.accounting_poll
            if cluster.limits is None or cluster.limits.bounded
            else self.settings.local_poll
        )
        return max(floor, cluster.settings.poll or floor, cluster.site.poll)


def _is_ending(bags: Sequence[LiveBag]) -> bool:
    """Say whether a few tasks that workers have begun are all that some bag still waits for."""
    return any(bag.ledger.all_claimed and len(bag.bag.tasks) - len(bag.ledger.settled) <= ENDING_TASKS for bag in bags)
