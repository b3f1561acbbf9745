"""What people do to dispatches that are here: cancel, pause, go on, try again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from hpcflow.core.advice import Ask
from hpcflow.core.again import runs_again, skipped_by
from hpcflow.core.model import DispatchId, HpcflowError, Task, UserError
from hpcflow.core.states import FINAL, State
from hpcflow.core.words import length
from hpcflow.core.words import memory as amount
from hpcflow.server.again import check_at_hand, nothing_to_retry, number_of, of_electrons
from hpcflow.server.amounts import asks_of, check_room
from hpcflow.server.cleaning import use_again
from hpcflow.server.engine import Engine
from hpcflow.server.levels import Levels
from hpcflow.server.live import LiveDispatch
from hpcflow.server.prospects import TRIED_AGAIN, Prospects, told_end, told_retry
from hpcflow.server.reports import spelled
from hpcflow.server.undelivered import undelivered

__all__ = ["Steering"]

Json = dict[str, Any]  # Any: JSON, described in schema.py


class Steering:
    """Changes the course of dispatches. Raises `NotFound` for an id that nothing has."""

    def __init__(
        self,
        engine: Engine,
        levels: Levels,
        *,
        retrying: asyncio.Lock,
        old: Callable[[DispatchId], Awaitable[LiveDispatch]],
        refuse_busy: Callable[[DispatchId], Awaitable[None]],
        not_begun: Callable[[DispatchId, list[int]], list[int]],
        stop_triggers: Callable[[DispatchId], Awaitable[int]],
        prospects: Prospects,
    ) -> None:
        """Steer from now on.

        Args:
            engine: what runs.
            levels: finds what an id names.
            retrying: held while a dispatch that has ended is made live.
            old: returns a dispatch that has ended, as the store knows it.
            refuse_busy: raises `HpcflowError` while a dispatch is being cleaned.
            not_begun: returns those of some tasks that no worker is known to have begun.
            stop_triggers: ends what would run copies of a dispatch.
            prospects: says what a retry would do.
        """
        self._engine = engine
        self._store = engine.writer.store
        self._levels = levels
        self._retrying = retrying
        self._old = old
        self._refuse_busy = refuse_busy
        self._not_begun = not_begun
        self._stop_triggers = stop_triggers
        self._prospects = prospects

    async def cancel(self, dispatch: str, tasks: list[int] | None, *, begun: bool = True) -> Json:
        level = await self._levels.level(dispatch)
        if tasks is None and level.child is None:
            await self._stop_triggers(level.root)
        live = self._engine.writer.dispatches.get(level.root)
        if live is None:
            return {"cancelled": 0, "message": f"Dispatch {dispatch} has ended already."}
        if tasks == []:
            return {"cancelled": 0, "message": "No task was named, so nothing was cancelled."}
        wanted = level.numbers(tasks) if tasks is not None else None
        if wanted is not None and not begun:
            wanted = self._not_begun(level.root, wanted)
            cancelled = await self._engine.course.cancel(live, wanted) if wanted else 0
            named = [index - level.tasks.start for index in wanted]
            message = f"Cancelled {number_of(cancelled)}.{self._undelivered(level.root)}"
            return {"cancelled": cancelled, "message": message, "tasks": named}
        if wanted is None and level.child is not None:
            wanted = [level.child.task]
        cancelled = await self._engine.course.cancel(live, wanted)
        message = f"Cancelled {number_of(cancelled)}; what had ended keeps its result.{self._undelivered(level.root)}"
        return {"cancelled": cancelled, "message": message}

    def _undelivered(self, root: DispatchId) -> str:
        told = undelivered(self._engine.bags.values(), root)
        return f" {told}" if told else ""

    async def cancel_plan(self, dispatch: str, tasks: list[int] | None) -> Json:
        """Say what a cancel would end: tasks that have not ended, what needs them, and the jobs that serve them."""
        level = await self._levels.level(dispatch)
        live = self._engine.writer.dispatches.get(level.root)
        if live is None:
            return {"running": 0, "waiting": 0, "skipped": 0, "jobs": []}
        wanted = level.numbers(tasks) if tasks is not None else range(level.tasks.start, level.tasks.stop)
        states = {index: live.tasks[index].state for index in live.family(wanted)}
        left = {index for index, state in states.items() if state not in FINAL}
        running = sum(states[index] is State.RUNNING for index in left)
        jobs: list[Json] = []
        for name in dict.fromkeys(live.tasks[index].bag for index in sorted(left)):
            bag = self._engine.bags.get(name) if name is not None else None
            if bag is None:
                continue
            others = (index for index, _ in bag.bag.tasks if live.tasks[index].bag == name and index not in left)
            ends = all(live.tasks[index].state in FINAL for index in others)
            jobs += [
                {"cluster": array.array.cluster, "job_id": array.array.job_id, "ends": ends}
                for array in bag.arrays
                if array.open
            ]
        skipped = skipped_by(live.graph, [task.state for task in live.tasks], left)
        return {"running": running, "waiting": len(left) - running, "skipped": len(skipped), "jobs": jobs}

    async def pause(self, dispatch: str) -> Json:
        """Submit nothing more of a dispatch; what a scheduler has goes on."""
        known = await self._levels.whole(dispatch, "paused")
        live = self._engine.writer.dispatches.get(known)
        if live is None or live.ended_at is not None:
            return {"moved": 0, "message": f"Dispatch {dispatch} has ended already."}
        if live.paused is not None:
            return {"moved": 0, "message": f"Dispatch {dispatch} is paused already. {live.paused}"}
        ready = len(live.ready)
        await self._engine.course.pause(live, f"You paused it at {spelled(self._engine.now())}.")
        running = sum(task.state in {State.QUEUED, State.RUNNING} for task in live.tasks)
        goes_on = f" {number_of(running, 'goes', 'go')} on that a scheduler has." if running else ""
        return {"moved": ready, "message": f"Nothing more is submitted until `hpcflow resume {dispatch}`.{goes_on}"}

    async def resume(self, dispatch: str) -> Json:
        """Go on with all of a dispatch that is paused, and ask for the release of jobs that somebody holds."""
        known = await self._levels.whole(dispatch, "resumed")
        live = self._engine.writer.dispatches.get(known)
        if live is None or live.ended_at is not None:
            hint = f"`hpcflow retry {dispatch}` tries again what did not complete."
            return {"moved": 0, "message": f"Dispatch {dispatch} has ended already; {hint}"}
        paused = live.paused is not None or bool(live.pauses)
        moved = await self._engine.course.resume(live)
        if paused or moved:
            return {"moved": moved, "message": f"It goes on; {number_of(moved)} had been held back."}
        return {
            "moved": 0,
            "message": f"Nothing of dispatch {dispatch} was paused. If the scheduler holds jobs of it, it was asked to "
            "release them.",
        }

    async def retry_plan(
        self,
        dispatch: str,
        *,
        failed_only: bool,
        memory_mib: int | None = None,
        walltime_s: int | None = None,
        more: bool = False,
        tasks: Sequence[int] | None = None,
        electrons: Sequence[str] | None = None,
    ) -> Json:
        """Say what `retry` would do; amounts that it would refuse are refused here as well."""
        known = await self._levels.whole(dispatch, "retried")
        named = _named(Ask(memory_mib, walltime_s), more=more)
        if not any(named) and electrons is None:  # as the page asks often, and for which the store knows enough
            only = await self._only(known, tasks, None, ())
            return await asyncio.to_thread(self._prospects.retry, known, failed_only=failed_only, only=only)
        live = self._engine.writer.dispatches.get(known) or await self._old(known)
        only = await self._only(known, tasks, electrons, live.graph.tasks)
        states = [task.state for task in live.tasks]
        if any(named):
            await self._ask_for_limits(live)
            chosen = runs_again(live.graph, states, failed_only=failed_only, only=only)
            check_room(live, asks_of(live, chosen, states, named=named, advised={}), self._engine.clusters)
        return await asyncio.to_thread(
            self._prospects.retry, known, failed_only=failed_only, only=only, graph=live.graph, states=states
        )

    async def _only(
        self, root: DispatchId, tasks: Sequence[int] | None, electrons: Sequence[str] | None, known: Sequence[Task]
    ) -> frozenset[int] | None:
        """Return the tasks that are meant by their numbers or by their electrons; ``None``: all."""
        if tasks is None and electrons is None:
            return None
        numbers = (await self._levels.level(root)).numbers(tasks or ())
        return frozenset(numbers) | of_electrons(root, electrons or (), known)

    async def _ask_for_limits(self, live: LiveDispatch) -> None:
        for name in live.clusters:
            with suppress(HpcflowError):  # a cluster that does not answer now judges by itself, later
                await self._engine.clusters[name].known_limits(self._engine.now())

    async def retry(
        self,
        dispatch: str,
        *,
        failed_only: bool,
        memory_mib: int | None,
        walltime_s: int | None,
        more: bool = False,
        tasks: Sequence[int] | None = None,
        electrons: Sequence[str] | None = None,
    ) -> Json:
        """Try what ended without completing once more, also of a dispatch that has ended: all, or these tasks.

        Args:
            dispatch: which.
            failed_only: spare what was cancelled.
            memory_mib: what those that failed or were cancelled ask for from now on; ``None``: what they had.
            walltime_s: likewise.
            more: what ran out of something asks for what is advised.
            tasks: only these and those of ``electrons``, and what was skipped because of them; both ``None``: all.
            electrons: by their names, in sublattices as well.

        Raises:
            UserError: no partition can give so much, or what ran out was to ask for two amounts.
            NotFound: there is no such task or electron.
            HpcflowError: something that the tasks need is gone.
        """
        known = await self._levels.whole(dispatch, "retried")
        named = _named(Ask(memory_mib, walltime_s), more=more)
        async with self._retrying:  # a dispatch that has ended must not be made live twice
            await self._refuse_busy(known)
            live = self._engine.writer.dispatches.get(known)
            before = live is None
            if live is None:
                live = await self._old(known)
            only = await self._only(known, tasks, electrons, live.graph.tasks)
            if (reason := nothing_to_retry(live, failed_only=failed_only, only=only)) is not None:
                return {"moved": 0, "message": reason}
            await check_at_hand(live, self._engine.clusters, self._store)
            if any(named):
                await self._ask_for_limits(live)
            await asyncio.to_thread(use_again, self._store, known)
            states = [task.state for task in live.tasks]
            plan = await asyncio.to_thread(
                self._prospects.retry, known, failed_only=failed_only, only=only, graph=live.graph, states=states
            )
            asked = [f"{amount(memory_mib)} of memory"] if memory_mib else []
            asked += [f"{length(walltime_s)} of walltime"] if walltime_s else []
            told = told_retry(plan, more=more, asked=asked)
            moved = await self._engine.course.retry(
                live,
                failed_only=failed_only,
                named=named,
                only=only,
                more=await asyncio.to_thread(self._prospects.asks, known) if more else {},
                said=[*([told_end(states)] if before else []), f"{TRIED_AGAIN}{told}"],
            )
        waits = ""
        if live.paused is not None:
            waits = f" It is paused: they wait for `hpcflow resume {dispatch}`."
        elif any(live.why_paused(task.shape) and task.state not in FINAL for task in live.tasks):
            waits = f" Some tasks are paused: they wait for `hpcflow resume {dispatch}`."
        asks = told.partition(". ")[2].rstrip(".")
        more_of_it = f": {asks[0].lower()}{asks[1:]}" if asks else ""
        message = f"{number_of(moved)} to run again{more_of_it}; results that exist are kept.{waits}"
        return {"moved": moved, "message": message}


def _named(asked: Ask, *, more: bool) -> Ask:
    if more and any(asked):
        raise UserError("What ran out asks for as much as is advised, or for an amount that you name: not both.")
    return asked
