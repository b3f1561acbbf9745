"""Changes the course of dispatches that are here: cancel, pause, go on, try again.

Each change is stored before anybody outside hears of it, so that the next server goes on with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from hpcflow.core.advice import Ask
from hpcflow.core.again import runs_again
from hpcflow.core.model import HpcflowError
from hpcflow.core.states import FINAL, Event, State
from hpcflow.server.amounts import asks_of, check_room
from hpcflow.server.clusters import Cluster
from hpcflow.server.collect import Collector
from hpcflow.server.failpoints import failpoint
from hpcflow.server.live import LiveDispatch
from hpcflow.server.reconcile import Reconciler
from hpcflow.server.shared import Shared
from hpcflow.server.store import LeaseLost
from hpcflow.server.submit import Submitter

__all__ = ["Course"]

logger = logging.getLogger(__name__)

_AS_BEFORE: Final = Ask()


class Course:
    """One per engine."""

    def __init__(self, shared: Shared, collector: Collector, submitter: Submitter, reconciler: Reconciler) -> None:
        self._shared = shared
        self._writer = shared.writer
        self._collector = collector
        self._submitter = submitter
        self._reconciler = reconciler
        #: Where clusters are told of a cancel; set while the engine runs.
        self.group: asyncio.TaskGroup | None = None

    async def cancel(self, live: LiveDispatch, tasks: Sequence[int] | None) -> int:
        """Cancel tasks that have not ended (``None``: all) and the arrays nobody needs then; return how many tasks.

        Workers that have other tasks as well are told by their inbox which of them nobody wants.
        """
        if tasks is None:
            live.cancel_wanted, live.open = True, False
        cancelled = self._collector.cancel(live, range(live.own) if tasks is None else tasks, "Cancelled by you.")
        self._drop_idle(live)
        self._collector.close_if_done(live)
        await self._writer.flush()
        failpoint("after_cancel_commit")
        if self.group is not None:
            clusters = self._shared.clusters.values()
            sent = {self.group.create_task(self._send_cancels(live, each)): each.name for each in clusters}
            _, late = await asyncio.wait(sent, timeout=self._shared.settings.cancel_answer)
            slow = {sent[each] for each in late}
            for bag in self._shared.bags_of(live):
                if (name := bag.bag.shape.cluster) in slow and bag.unheard is None:
                    await self._submitter.note_unheard([bag], f"{name} has not answered yet")
        return cancelled

    async def pause(self, live: LiveDispatch, reason: str) -> None:
        """Submit nothing more of a dispatch; what a scheduler has goes on."""
        live.paused = reason
        live.dirty.add(-1)
        self._pause_ready(live)
        await self._writer.flush()

    async def resume(self, live: LiveDispatch) -> int:
        """Go on with all that is paused, and ask for the release of jobs that somebody holds; return how many tasks."""
        live.paused = None
        live.pauses.clear()
        live.fruitless.clear()
        live.dirty.add(-1)
        resumed = [index for index, task in enumerate(live.tasks) if task.state is State.PAUSED]
        for index in resumed:
            live.move(index, Event.RESUMED, self._shared.now())
        await self._writer.flush()
        for bag in self._shared.bags_of(live):
            await self._submitter.release(self._shared.clusters[bag.bag.shape.cluster], bag)
        self._shared.wake(live)
        for cluster in self._shared.clusters.values():
            self._shared.listen(cluster)
        return len(resumed)

    async def retry(
        self,
        live: LiveDispatch,
        *,
        failed_only: bool,
        named: Ask = _AS_BEFORE,
        only: Collection[int] | None = None,
        more: Mapping[int, Ask] = MappingProxyType({}),
        said: Sequence[str] = (),
    ) -> int:
        """Give tasks that ended without completing a further attempt, with more memory or time if asked for.

        Args:
            live: the dispatch; one that had ended has been taken over from the store again, and lives from here on.
            failed_only: spare those that were cancelled, and what hangs on them.
            named: what those that failed or were cancelled ask for now.
            only: these tasks, and what was skipped because of them; ``None``: all.
            more: what single ones of those that had failed ask for now, where not all of them ask for the same.
            said: what the dispatch's messages tell of it, each.

        Returns:
            The number of tasks that run again, those included that had been skipped.

        Raises:
            UserError: a cluster has not so much.
        """
        states = [task.state for task in live.tasks]
        chosen = runs_again(live.graph, states, failed_only=failed_only, only=only)
        if not chosen:
            return 0
        asks = asks_of(live, chosen, states, named=named, advised=more)
        check_room(live, asks, self._shared.clusters)
        for index, ask in asks.items():
            live.ask_for(index, *ask)
        live.again(chosen, self._shared.now())
        live.dirty.add(-1)
        for text in said:
            self._writer.say(live, text)
        self._shared.run(live)
        await self._writer.flush()
        return len(chosen)

    async def carry_out(self, live: LiveDispatch) -> None:
        """Let what was decided of a dispatch reach its ready tasks and its arrays."""
        if live.too_many_failed:
            self._drop_idle(live)
            for name in live.clusters:
                self._shared.account[name].set()
        self._pause_ready(live)
        if live.dirty:
            await self._writer.flush()

    async def _send_cancels(self, live: LiveDispatch, cluster: Cluster) -> None:
        """Tell a cluster what is cancelled; what it does not hear now is repeated with each look at the accounting."""
        try:
            for bag in self._shared.bags_of(live):
                if bag.bag.shape.cluster == cluster.name:
                    await self._reconciler.give_way(cluster, bag)
            await self._submitter.cancel_wanted(cluster)
        except LeaseLost:
            raise
        except HpcflowError as error:
            logger.warning("%s: a cancel could not be sent yet: %s", cluster.name, error)
        finally:
            self._shared.account[cluster.name].set()

    def _drop_idle(self, live: LiveDispatch) -> None:
        """Want the arrays cancelled that have no task left."""
        for bag in self._shared.bags_of(live):
            if all(live.tasks[index].state in FINAL for index, _ in bag.bag.tasks):
                self._submitter.want_cancelled(bag)

    def _pause_ready(self, live: LiveDispatch) -> None:
        for index in sorted(live.ready):
            reason = live.why_paused(live.tasks[index].shape)
            if reason is not None:
                live.move(index, Event.PAUSED, self._shared.now(), reason)
