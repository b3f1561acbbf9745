"""Looks back for the API: when what ran, what it cost, how the server is set, what its log says."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from hpcflow.core.model import DispatchId
from hpcflow.core.places import Places
from hpcflow.server.efficiency import Efficiency, Facts, Parts
from hpcflow.server.engine import Engine
from hpcflow.server.levels import Level
from hpcflow.server.own_log import log_version, read_log
from hpcflow.server.timeline import timeline
from hpcflow.server.told_settings import told_settings
from hpcflow.server.views import Views

__all__ = ["Insight"]

Json = dict[str, Any]  # Any: JSON, described in insight_schema.py


class Insight:
    """Answers from the store and from files; each answer is made in a thread."""

    def __init__(
        self,
        engine: Engine,
        views: Views,
        where: Places,
        environ: Mapping[str, str],
        level: Callable[[str], Awaitable[Level]],
    ) -> None:
        """Look back at what an engine did.

        Args:
            engine: the engine.
            views: knows the tasks of a dispatch.
            where: files of this HPCFLOW_HOME.
            environ: the environment of this process.
            level: finds a dispatch, or a sublattice, by its id.
        """
        self._engine = engine
        self._store = engine.writer.store
        self._views = views
        self._where = where
        self._environ = environ
        self._level = level
        self._efficiency = Efficiency(self._store)
        self._one = threading.Lock()

    async def timeline(self, dispatch: str) -> Json:
        level = await self._level(dispatch)
        return await asyncio.to_thread(timeline, self._store, level, dict(self._engine.bags), self._engine.now())

    async def efficiency(self, dispatch: str) -> Json:
        root = (await self._level(dispatch)).root

        def read() -> Json:
            with self._one:
                return self._efficiency.of_dispatch(root, *self._facts(root))

        return await asyncio.to_thread(read)

    async def lately(self, days: int) -> Json:
        def read() -> Json:
            with self._one:
                return self._efficiency.lately(self._engine.now(), days, self._facts)

        return await asyncio.to_thread(read)

    def _facts(self, dispatch: DispatchId) -> Facts:
        """Return a dispatch's version, what its tasks asked for, and the bags that are not over."""
        version = self._engine.writer.version(dispatch)
        shapes = {row.bag.id: row.bag.shape for row in self._store.bags(dispatch)}
        return version, Parts(self._views.tasks(dispatch), shapes), dict(self._engine.bags)

    async def settings(self) -> Json:
        clusters = {str(name): cluster.settings for name, cluster in self._engine.clusters.items()}
        return await asyncio.to_thread(told_settings, self._engine.settings, clusters, self._where, self._environ)

    def log_version(self) -> str:
        return log_version(self._where.log)

    async def log(self, *, text: str, level: str, limit: int) -> Json:
        return await asyncio.to_thread(read_log, self._where.log, text=text, level=level, limit=limit)
