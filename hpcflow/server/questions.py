"""What the API asks about dispatches, their tasks and their jobs, answered from the store and the engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import Any, Final, Literal

from hpcflow.core.model import ClusterName, DispatchId, NotFound
from hpcflow.core.states import TEMPLATE, State, Status
from hpcflow.server.arrays import Arrays
from hpcflow.server.engine import Engine
from hpcflow.server.fetching import workdir_of
from hpcflow.server.levels import Level, Levels, find_level
from hpcflow.server.logs import span
from hpcflow.server.news import News
from hpcflow.server.prospects import TRIED_AGAIN, Prospects
from hpcflow.server.reports import array_task, spelled, usage, which
from hpcflow.server.shared import how_to_go_on
from hpcflow.server.store import ArrayRow, ArrayState, DispatchRow, Kept, TaskRow
from hpcflow.server.undelivered import undelivered, undelivered_of
from hpcflow.server.values import Values
from hpcflow.server.views import Views, Wanted

__all__ = ["Questions"]

Json = dict[str, Any]  # Any: JSON, described in schema.py and page_schema.py
Order = Literal["created_at", "name", "status", "n_tasks"]

#: Answers to a long poll come at most so often, unless the dispatch ended.
_BREATH_S: Final = 0.05
_BREATHS: Final = 5


class Questions:
    """What is known of the dispatches of one HPCFLOW_HOME. Raises `NotFound` for an id that nothing has."""

    def __init__(self, engine: Engine, levels: Levels, values: Values, *, heard: Callable[[str], None]) -> None:
        """Answer from now on.

        Args:
            engine: what runs.
            levels: finds what an id names.
            values: the results.
            heard: is told of each dispatch of which a client waits for news.
        """
        self._engine = engine
        self._store = engine.writer.store
        self._levels = levels
        self._values = values
        self._heard = heard
        #: Tasks in tables.
        self.views = Views(self._store, engine.writer, self._unknown_since, self._host)
        #: What failed, and what a retry would do.
        self.prospects = Prospects(self._store, self.views, engine.clusters, version=engine.writer.version)

    async def listed(
        self,
        limit: int,
        before: str | None,
        prefix: str | None,
        *,
        statuses: Sequence[Status] = (),
        text: str = "",
        sort: Order = "created_at",
        ascending: bool = False,
    ) -> Json:
        def read() -> Json:
            if prefix is None:
                rows = self._store.dispatches(
                    limit=limit,
                    before=DispatchId(before) if before else None,
                    statuses=statuses,
                    text=text,
                    sort=sort,
                    ascending=ascending,
                )
                shown = [self._summary(row, self._store.arrays(row.id), []) for row in rows]
            else:
                found = self._store.find_dispatches(prefix)[:limit]
                levels = (find_level(self._store, known) for known in found)
                shown = [self._read_summary(level) for level in levels if level is not None]
            return {
                "dispatches": shown,
                "found": self._store.count_dispatches(statuses, text) if prefix is None else len(shown),
                "total": self._store.count_dispatches(),
            }

        return await asyncio.to_thread(read)

    async def summary(self, dispatch: str) -> Json:
        return await asyncio.to_thread(self._read_summary, await self._levels.level(dispatch))

    async def changed(self, dispatch: str, since: int, wait_s: float) -> Json:
        level = await self._levels.level(dispatch)
        self._heard(level.root)
        await self._engine.writer.wait_change(level.root, since, wait_s)
        for _ in range(_BREATHS):  # changes come in crowds; the last one is told at once
            if level.root not in self._engine.writer.dispatches:
                break
            await asyncio.sleep(_BREATH_S)
        return await asyncio.to_thread(self._read_summary, await self._levels.level(dispatch))

    async def tasks(self, dispatch: str, state: State | None, after: int, limit: int, deep: bool = False) -> Json:
        level = await self._levels.level(dispatch)
        return await asyncio.to_thread(self.views.table, level, state, after, limit, deep=deep)

    async def task(self, dispatch: str, index: int) -> Json:
        level = await self._levels.level(dispatch)
        (number,) = level.numbers([index])

        def read() -> Json:
            row = self._store.task(level.root, number)
            if row is None:
                raise NotFound(f"Dispatch {dispatch} has no task {index}.")
            end = self._store.end(level.root, number)
            origin = Kept(self._store).origin(level.root, number)
            origins = {} if origin is None else {number: origin}
            detail = self.views.detail(row, end, self.views.cores(level.root)[number], level, origins)
            record = end.record if end is not None else {}
            bag = self._store.bag(end.bag) if end is not None else None
            return {
                **detail,
                "hint": self.prospects.hint_of(level.root, row),
                "undelivered": undelivered_of(list(self._engine.bags.values()), row),
                "error_type": record.get("exc"),
                "traceback": record.get("tb"),
                "stdout_bytes": span(record, "out")[1],
                "stderr_bytes": span(record, "err")[1],
                "workdir": workdir_of(bag.bag, record) if bag is not None else None,
            }

        return await asyncio.to_thread(read)

    async def failures(self, dispatch: str) -> Json:
        """Return what failed, those tasks together that failed of one cause."""
        level = await self._levels.level(dispatch)
        return await asyncio.to_thread(self.prospects.failures, level.root, level.within())

    async def usage(self, dispatch: str) -> Json:
        """Say what the arrays of a dispatch cost, and what became of it."""
        known = (await self._levels.level(dispatch)).root
        arrays = await asyncio.to_thread(self._store.arrays, known)
        return {"id": known, **usage(arrays, self._engine.bags)}

    async def arrays(self, dispatch: str) -> Json:
        """Say which electrons the arrays of a dispatch work for, how their tasks ended, and what they ask for."""
        known = (await self._levels.level(dispatch)).root
        return {"arrays": await asyncio.to_thread(self._arrays().of, self._store, known)}

    async def job(self, name: str) -> Json:
        """Say which dispatch a job is of, and what ran in an array task of it."""
        return await asyncio.to_thread(which, self._store, *array_task(name), dict(self._engine.bags))

    async def results(
        self, dispatch: str, tasks: list[int] | None, output: bool, *, apart: bool = False
    ) -> AsyncIterator[bytes]:
        """Yield each item as one line of JSON and its bytes: the output and what it needs, or the tasks asked for."""
        level = await self._levels.level(dispatch)
        wanted = level.numbers(tasks) if tasks is not None else None
        async for part in self._values.stream(level, wanted, output=output, apart=apart):
            yield part

    # The page shows a dispatch as a whole, its sublattices' tasks with their numbers in it.

    async def page(self, dispatch: str, wanted: Wanted) -> Json:
        root = (await self._levels.level(dispatch)).root
        return await asyncio.to_thread(self.views.page, root, wanted)

    async def graph(self, dispatch: str) -> bytes:
        return await asyncio.to_thread(self.views.graph, (await self._levels.level(dispatch)).root)

    async def states(self, dispatch: str) -> Json:
        return await asyncio.to_thread(self.views.states, (await self._levels.level(dispatch)).root)

    async def about(self, dispatch: str, index: int) -> Json:
        root, number = await self._levels.place(dispatch, index)
        return await asyncio.to_thread(self.views.about, root, number, self._arrays())

    @property
    def news(self) -> News:
        return self._engine.writer.news

    def _read_summary(self, level: Level) -> Json:
        root = level.root
        version = self._engine.writer.version(root)  # before the rows: a change in between is then asked for again
        row = self._store.dispatch(root)
        if row is None:
            raise NotFound(f"There is no dispatch {root} here.")
        # What was said of a pause is no advice any more when it is over, or the dispatch.
        live = self._engine.writer.dispatches.get(root)
        goes_on = live is not None and not live.pauses and not live.paused
        advice = how_to_go_on(root) if goes_on or row.status is not Status.RUNNING else ""
        told = self._store.messages(root)
        messages = [_dated(at, text.removesuffix(advice)) for at, text in told]
        if self._engine.writer.problem is not None and root in self._engine.writer.dispatches:
            text = f"Nothing new can be stored: {self._engine.writer.problem} Trying again."
            messages.append(_dated(self._engine.now(), text))
        summary = self._summary(level.seen(row, self._store), self._store.arrays(root), messages)
        again = next(((at, text) for at, text in reversed(told) if text.startswith(TRIED_AGAIN)), None)
        lost = row.status is not Status.RUNNING and row.counts.get(State.FAILED)
        hint = self.prospects.hint(root, level.within()) if lost else None
        place = {"base": level.tasks.start, "root": root, "parent": level.parent()}
        more = {"again": _dated(*again) if again else None, "hint": hint}
        late = undelivered(list(self._engine.bags.values()), root)
        return {**summary, **place, "version": version, **more, "undelivered": late}

    def _arrays(self) -> Arrays:
        return Arrays(self._why, dict(self._engine.bags))

    def _summary(self, row: DispatchRow, arrays: Sequence[ArrayRow], messages: Sequence[Json]) -> Json:
        told = self._arrays().told
        return {
            "id": row.id,
            "name": row.name,
            "status": row.status,
            "error": row.error,
            "paused": row.paused,
            "template": row.paused == TEMPLATE,
            "created_at": spelled(row.created_at),
            "started_at": spelled(row.started_at),
            "ended_at": spelled(row.ended_at),
            "version": self._engine.writer.version(row.id),
            "python": list(row.python),
            "tasks": sum(row.counts.values()),
            "own_tasks": row.n_tasks,
            "base": 0,
            "root": row.id,
            "parent": None,
            "counts": {state: count for state, count in row.counts.items() if count},
            "arrays": [{"token": row.array.token, **told(row)} for row in arrays],
            "asked": self._asked(row.id, arrays),
            "messages": list(messages),
        }

    def _why(self, row: ArrayRow) -> str | None:
        """Return in plain words why an array waits; ``None`` where its `reason` is all there is."""
        cluster = self._engine.clusters.get(row.array.cluster)
        if cluster is None or row.state is not ArrayState.SUBMITTED or row.reason is None:
            return None
        return cluster.plugin.why_pending(row.reason)

    def _asked(self, dispatch: DispatchId, arrays: Sequence[ArrayRow]) -> list[Json]:
        """Return when the schedulers were asked last on which this dispatch has arrays that are not over.

        Those that do not answer are among them where tasks are ready for them.
        """
        names = {row.array.cluster for row in arrays if row.ended_at is None}
        live = self._engine.writer.dispatches.get(dispatch)
        if live is not None and any(cluster.problem for cluster in self._engine.clusters.values()):
            names |= {live.tasks[index].shape.cluster for index in live.ready}
        return [
            {
                "cluster": name,
                "at": spelled(cluster.asked_at),
                "problem": cluster.problem,
                "unknown_since": spelled(cluster.unknown_since),
            }
            for name in sorted(names)
            if (cluster := self._engine.clusters.get(name)) is not None
        ]

    def _host(self, row: TaskRow) -> str | None:
        """Return where a task runs; what has ended says so itself."""
        bag = self._engine.bags.get(row.bag) if row.bag is not None else None
        worker = bag.ledger.workers.get(row.worker or "") if bag is not None else None
        return (worker.host or None) if worker is not None else None

    def _unknown_since(self, row: TaskRow) -> str | None:
        if row.state not in {State.QUEUED, State.RUNNING} or row.cluster is None:
            return None
        cluster = self._engine.clusters.get(ClusterName(row.cluster))
        return None if cluster is None else spelled(cluster.unknown_since)


def _dated(at: datetime, text: str) -> Json:
    return {"at": spelled(at), "text": text}
