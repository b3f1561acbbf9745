"""Makes bags and hands arrays to schedulers, in an order in which a crash at any point can be mended."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final

from hpcflow.core.lingering import Leave
from hpcflow.core.model import BagId, HpcflowError, JobArray, Shape, UserError
from hpcflow.core.plan import BagPlan
from hpcflow.core.plugin import Accepted, Ambiguous, Refused
from hpcflow.core.states import Event
from hpcflow.core.words import counted
from hpcflow.server.bagging import close_inbox, parts_told, push_bag, push_part, tell_cancelled
from hpcflow.server.bags import LiveArray, LiveBag, array_of, bag_of
from hpcflow.server.clusters import Cluster
from hpcflow.server.collect import Collector
from hpcflow.server.failpoints import failpoint
from hpcflow.server.live import LiveDispatch
from hpcflow.server.remote import TransportError
from hpcflow.server.shared import Shared
from hpcflow.server.store import ArrayState

__all__ = ["Submitter"]

logger = logging.getLogger(__name__)

#: The most that the wait for room in a full queue grows to.
_RETRY_MAX_S: Final = 600.0


class Submitter:
    """All that changes what a scheduler has: submissions and cancels."""

    def __init__(self, shared: Shared, collector: Collector) -> None:
        self._shared = shared
        self._writer = shared.writer
        self._collector = collector

    async def serve(self, cluster: Cluster, live: LiveDispatch, plan: BagPlan) -> None:
        """Store the intent, make the bag, submit its arrays."""
        now = self._shared.now()
        identifier = BagId(self._shared.new_id())
        linger_s = self._linger_s(cluster, live, plan.shape)
        bag = self._shared.keep(bag_of(plan, identifier, live.id, cluster, linger_s=linger_s), live, now)
        bag.told, bag.leave = 0, Leave()
        for index, _ in plan.tasks:
            live.tasks[index].bag = identifier
            live.move(index, Event.BAGGED, now)
        live.started_at = live.started_at or now
        self._writer.pending.bags.append(bag.row())
        for width in plan.widths[: plan.at_once]:
            self._intend(cluster, bag, width)
        bag.hold_back()
        self._shared.account[cluster.name].set()  # before the store may refuse: what is stored late is submitted there
        await self._writer.flush()
        failpoint("after_intent_commit")
        await self.submit_due(cluster, bag)

    def _linger_s(self, cluster: Cluster, live: LiveDispatch, shape: Shape) -> float:
        """Return how long workers wait for more of a shape: not at all where nothing more of it can come."""
        # What came later would belong to nobody where each array task has the range of its own index.
        if shape.launcher is not None or cluster.claims == "index" or not live.expects(shape):
            return 0.0
        linger = cluster.settings.linger
        if linger is None:
            linger = 0.0 if shape.resources.gpus else self._shared.settings.linger  # an idle GPU is too dear
        return linger if cluster.site.linger is None else min(linger, cluster.site.linger)

    async def extend(self, cluster: Cluster, bag: LiveBag, plan: BagPlan) -> None:
        """Give further tasks to a bag whose workers live, and more workers when they are worth it."""
        now = self._shared.now()
        live = bag.dispatch
        # As long as something waits for a worker, measured work alone decides about more of them.
        saturated = bag.ledger.units_left > 0
        workers = 0 if saturated else sum(plan.widths[: plan.at_once]) * plan.slots - bag.idle()
        bag.grow(plan)
        bag.grown_at = now
        for index, _ in plan.tasks:
            live.tasks[index].bag = bag.bag.id
            live.move(index, Event.BAGGED, now)
        self._writer.pending.bags.append(bag.row())
        more = -(-workers // bag.bag.slots) - bag.on_their_way()
        room = self._shared.room(live, bag.bag.shape)
        more = more if room is None else min(more, room)
        if more > 0:
            self._intend(cluster, bag, more)
        if not saturated:
            bag.reserve = plan.widths[plan.at_once :]
        self._shared.listen(cluster)  # before the store may refuse
        await self._writer.flush()
        await self.submit_due(cluster, bag)

    async def close(self, cluster: Cluster, bag: LiveBag) -> None:
        """Let the workers of a bag go that wait for more: nothing more will come."""
        bag.closed = True
        await close_inbox(bag.bag, cluster)

    async def widen(self, cluster: Cluster, bag: LiveBag, widths: Sequence[int]) -> None:
        """Submit further arrays for a bag, as far as max_running= leaves room."""
        for width in widths:
            room = self._shared.room(bag.dispatch, bag.bag.shape)
            if room != 0:
                self._intend(cluster, bag, width if room is None else min(width, room))
        await self._writer.flush()
        await self.submit_due(cluster, bag)

    def _intend(self, cluster: Cluster, bag: LiveBag, width: int) -> None:
        array = LiveArray(
            array_of(
                bag.bag,
                cluster,
                bag.dispatch.graph,
                width=width,
                identifier=self._shared.new_id(),
                opaque=self._shared.settings.job_names == "opaque",
                now=self._shared.now(),
                avoid=bag.dispatch.avoided.get(cluster.name, ()),
            ),
            ArrayState.INTENT,
        )
        bag.arrays.append(array)
        self._writer.pending.arrays.append(array.row())

    async def submit_due(self, cluster: Cluster, bag: LiveBag) -> None:
        """Submit what was intended; what can't be done now is tried again after the next look at the accounting."""
        # Of an array that was found by its name the bag was pushed by a server before this one.
        bag.pushed = bag.pushed or any(array.submitted_at is not None for array in bag.arrays)
        due = any(self._may_go(bag, array) for array in bag.arrays)
        if (due and not bag.pushed) or (bag.pushed and bag.told != len(bag.bag.parts)):
            await self._push(cluster, bag)
        await self.tell_cancelled(cluster, bag)
        if not due:
            return
        for array in bag.arrays:
            while self._may_go(bag, array):
                if (wait_s := cluster.wait_s(self._shared.now())) > 0:
                    text = f"The site lets hpcflow submit once in {cluster.site.submit_interval:g} s."
                    if array.reason != text:
                        array.reason = text
                        self._writer.pending.arrays.append(array.row())
                    self._shared.plan_later(cluster, wait_s)
                    return
                await self._submit(cluster, bag, array)

    async def _push(self, cluster: Cluster, bag: LiveBag) -> None:
        try:
            await cluster.place_worker()
            async with bag.telling:  # one at a time: planner and accounting both come here
                if not bag.pushed:
                    await push_bag(
                        bag.dispatch,
                        bag.bag,
                        self._shared.clusters,
                        kill_grace_s=self._shared.settings.kill_grace,
                        on_network=self._shared.on_network,
                    )
                    bag.pushed = True
                    failpoint("after_push")
                if bag.told is None:
                    bag.told = await parts_told(bag.bag, cluster)
                while bag.told < len(bag.bag.parts):
                    await push_part(bag.dispatch, bag.bag, bag.told + 1, self._shared.clusters)
                    bag.told += 1
        except TransportError as error:
            text = f"Nothing could be written on {cluster.name}: {error}. Trying again."
            if text != bag.complaint:
                bag.complaint = text
                self._writer.say(bag.dispatch, text)
            await self._writer.flush()
            raise

    def _may_go(self, bag: LiveBag, array: LiveArray) -> bool:
        return array.is_due(self._shared.now()) and bag.dispatch.why_paused(bag.bag.shape) is None

    async def _submit(self, cluster: Cluster, bag: LiveBag, array: LiveArray) -> None:
        settings = self._shared.settings
        try:
            command = cluster.plugin.submit(array.array)
        except UserError as error:
            self._refuse(bag, array, str(error))
            await self._writer.flush()
            return
        failpoint("before_submit")
        array.submitting, cluster.submitted_at = True, self._shared.now()
        try:
            reply = await cluster.transport.run(command, settings.command_deadline)
        finally:
            array.submitting = False
        failpoint("after_submit_before_commit")
        now = self._shared.now()
        match cluster.plugin.parse_submit(array.array, reply):
            case Accepted(job_id):
                array.accept(job_id, now)
                array.launching = True
                logger.info("job %s: %d array tasks on %s", job_id, array.array.width, cluster.name)
            case Refused(reason, retry_later=True):
                if array.tries == 0:
                    self._writer.say(bag.dispatch, f"{cluster.name} has no room for it: {reason}. Trying again.")
                array.make_smaller(f"{cluster.name} has no room for it: {reason}. Trying again.")
                wait_s = min(_RETRY_MAX_S, settings.submit_retry * 2 ** (array.tries - 1))
                array.not_before = now + timedelta(seconds=wait_s)
            case Refused(reason, too_wide=True) if array.array.width > 1:  # a limit was lowered since it was read
                await self._narrow(cluster, bag, array, reason)
            case Refused(reason):
                self._refuse(bag, array, f"{cluster.name} refused {counted(array.array.width, 'array task')}: {reason}")
            case Ambiguous(_) if array.state is ArrayState.SUBMITTED:
                pass  # it was found by its name meanwhile
            case Ambiguous(reason):
                array.state, array.reason = ArrayState.AMBIGUOUS, f"Looking for it by name, because {reason}"
        self._writer.pending.arrays.append(array.row())
        self._shared.listen(cluster)  # even if the store refuses: it runs
        await self._writer.flush()
        failpoint("after_accept_commit")

    async def _narrow(self, cluster: Cluster, bag: LiveBag, array: LiveArray, reason: str) -> None:
        """Make an array as wide as its cluster takes now: measured work asks for further ones."""
        cluster.limits_at = None
        limits = await cluster.known_limits(self._shared.now())
        width = min(array.array.width // 2, limits.array.max_width)
        self._writer.say(
            bag.dispatch, f"{reason.rstrip('.')}. It is submitted with {counted(width, 'array task')} now."
        )
        array.array = replace(array.array, width=width)

    def _refuse(self, bag: LiveBag, array: LiveArray, reason: str) -> None:
        """Fail the tasks of a bag that no scheduler will serve."""
        array.state, array.reason, array.ended_at = ArrayState.REFUSED, reason, self._shared.now()
        self._writer.pending.arrays.append(array.row())
        if bag.open or any(other.state is ArrayState.SUBMITTED for other in bag.arrays):
            return
        lost = bag.ledger.lost((), last=True)
        for index, attempt in lost.free:
            self._collector.move(bag, index, attempt, Event.REFUSED, reason)
        self._shared.finish(bag)

    def want_cancelled(self, bag: LiveBag) -> None:
        """Note in the store that a bag's arrays shall go: the wish outlives the server, and is repeated until done."""
        for array in bag.arrays:
            if array.open and not array.cancel_wanted:
                array.cancel_wanted = True
                self._writer.pending.arrays.append(array.row())

    async def tell_cancelled(self, cluster: Cluster, bag: LiveBag) -> None:
        """Tell the workers of a bag which tasks were cancelled since they were told last.

        Where that can't be written they are told after the next look at the accounting: what was cancelled stays so.
        """
        if all(array.cancel_wanted for array in bag.arrays if array.open):
            return  # nobody is left to be told
        async with bag.telling:
            told = bag.untold[:]
            if told and bag.pushed and not bag.gone:
                failpoint("before_cancel_told")
                try:
                    await tell_cancelled(bag.bag, told, cluster)
                except TransportError as error:
                    await self.note_unheard([bag], str(error))
                else:
                    del bag.untold[: len(told)]
                    await self.note_unheard([bag], None)

    async def note_unheard(self, bags: Sequence[LiveBag], why: str | None) -> None:
        """Remember why those who work for bags could not be told what was cancelled (``None``: they were), and tell."""
        news = {bag.dispatch.id for bag in bags if bag.unheard != why}
        for bag in bags:
            bag.unheard = why
        for dispatch in news:
            await self._writer.ring(dispatch)

    async def cancel_wanted(self, cluster: Cluster) -> None:
        """Repeat stored wishes until the scheduler says that nothing is left: its exit code alone says nothing."""
        wanted = [array for array in self._shared.open_arrays(cluster) if array.cancel_wanted]
        self._withdraw(wanted)
        submitted = [array.array for array in wanted if array.open]
        if submitted:
            bags = [
                bag
                for bag in self._shared.bags_on(cluster)
                if any(array.open and array.cancel_wanted for array in bag.arrays)
            ]
            try:
                await self.note_unheard(bags, await self.cancel(cluster, submitted, pending_only=False))
            except HpcflowError as error:
                await self.note_unheard(bags, str(error))
                raise

    async def withdraw(self, bag: LiveBag) -> None:
        """Submit no further array of a bag: those that it has do all that is left."""
        if self._withdraw(bag.arrays):
            await self._writer.flush()

    def _withdraw(self, arrays: Sequence[LiveArray]) -> bool:
        """End arrays that no scheduler was asked for; return whether there was one."""
        unasked = [array for array in arrays if array.state is ArrayState.INTENT and not array.submitting]
        for array in unasked:
            array.state, array.ended_at = ArrayState.ENDED, self._shared.now()
            self._writer.pending.arrays.append(array.row())
        return bool(unasked)

    async def cancel(self, cluster: Cluster, arrays: Sequence[JobArray], *, pending_only: bool) -> str | None:
        """Ask the scheduler to end arrays, and return what it said where it did not take that."""
        command = cluster.plugin.cancel(arrays, pending_only=pending_only)
        failpoint("before_cancel")
        reply = await cluster.transport.run(command, self._shared.settings.command_deadline)
        failpoint("after_cancel")
        if (said := cluster.plugin.parse_cancel(reply)) is not None:
            logger.warning("%s: cancelling %d arrays: %s", cluster.name, len(arrays), said)
        return said

    async def release(self, cluster: Cluster, bag: LiveBag) -> None:
        """Ask the scheduler to let go what somebody holds of a bag; tell the user when it does not."""
        held = [array.array for array in bag.arrays if array.held is not None and array.open]
        command = cluster.plugin.release(held) if held else None
        if command is None:
            return
        reply = await cluster.transport.run(command, self._shared.settings.command_deadline)
        if reply.exit_code != 0:
            jobs = ", ".join(str(array.job_id) for array in held)
            said = " ".join(reply.stderr.decode(errors="replace").split())
            self._writer.say(bag.dispatch, f"{cluster.name} does not release job {jobs}: {said or 'no answer'}")
            await self._writer.flush()
