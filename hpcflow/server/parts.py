"""Open dispatches: a client appends tasks to them as it goes, until it says that it has no more. See ADR 0029.

Each part is read like an upload and kept like a sublattice's graph, but its tasks are the dispatch's own.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

from hpcflow.core.model import DispatchId, Graph, Shape, UserError
from hpcflow.core.states import FINAL, State
from hpcflow.server.engine import Engine
from hpcflow.server.live import LiveDispatch
from hpcflow.server.manifest import moved
from hpcflow.server.store import PART, ChildRow
from hpcflow.server.tasks import Child
from hpcflow.server.unfold import Check

__all__ = ["Parts"]

Json = dict[str, Any]  # Any: JSON, described in schema.py

#: What has not begun, as far as anybody knows.
_NOT_BEGUN: Final = frozenset({State.WAITING, State.READY, State.PAUSED, State.QUEUED})
_LOOK_S: Final = 15.0


class Parts:
    """The open dispatches of one server, and when their clients were heard last."""

    def __init__(self, engine: Engine, check: Check, payload: Callable[[DispatchId], str]) -> None:
        self._engine = engine
        self._check = check
        self._payload = payload
        self._heard: dict[str, float] = {}

    def heard(self, dispatch: str) -> None:
        """Note that a client asks for a dispatch."""
        self._heard[dispatch] = time.monotonic()

    async def append(self, dispatch: str, manifest: Mapping[str, Any], payload: str) -> Json:  # Any: a checked upload
        """Take further tasks of an open dispatch, and own the file of their blobs.

        The same part again is answered as it was the first time.

        Returns:
            ``id`` of the dispatch, ``first``, the number of the first of these tasks in it, and ``messages``.

        Raises:
            UserError: the dispatch takes no more tasks, or one of these can't run.
        """
        try:
            self.heard(dispatch)
            if (first := self._taken(dispatch, manifest)) is not None:
                return {"id": dispatch, "status": self._open(dispatch).status, "first": first, "messages": []}
            graph, shapes, messages = await self._check(manifest)
            # What is used of the cache must not be cleaned away.
            async with self._engine.unfolder.changing if manifest.get("keys") else nullcontext():
                return await self._take(manifest, payload, dispatch=dispatch, read=(graph, shapes), messages=messages)
        finally:
            Path(payload).unlink(missing_ok=True)

    def _taken(self, dispatch: str, manifest: Mapping[str, Any]) -> int | None:  # Any: as above
        """Return the number of the first task of a part that came before; ``None``: it did not."""
        children = self._open(dispatch).children
        return next((child.first for child in children if child.id == manifest["id"]), None)

    async def _take(
        self,
        manifest: Mapping[str, Any],  # Any: as above
        payload: str,
        *,
        dispatch: str,
        read: tuple[Graph, list[Shape]],
        messages: list[str],
    ) -> Json:
        graph, shapes = read
        given, sentences = await self._engine.unfolder.cached(manifest, shapes)
        first = self._taken(dispatch, manifest)
        live = self._open(dispatch)
        if first is not None:
            return {"id": dispatch, "status": live.status, "first": first, "messages": []}
        path = self._payload(live.id).removesuffix(".blobs") + f"-{manifest['id']}.blobs"
        os.rename(payload, path)
        stored = {**manifest, "payload": os.path.basename(path)}
        graph = moved(graph, len(live.tasks), len(live.blobs))
        part = Child(
            id=DispatchId(manifest["id"]),
            name=graph.name,
            task=PART,
            depth=0,
            first=len(live.tasks),
            count=len(graph.tasks),
            output=graph.output,
            output_deps=(),
        )
        live.join(part, graph, shapes, stored, path)
        live.begin(part, self._engine.now())
        self._engine.unfolder.give(live, part, given)
        await self._keep(live, part, stored)
        return {"id": live.id, "status": live.status, "first": part.first, "messages": messages + sentences}

    async def keep_tidy(self, idle_s: float) -> None:
        """Close the open dispatches of which nothing is left and whose client was not heard for so long."""
        while True:
            await asyncio.sleep(min(_LOOK_S, idle_s))
            now = time.monotonic()
            for live in [each for each in self._engine.writer.dispatches.values() if each.open]:
                if not live.left and now - self._heard.setdefault(live.id, now) > idle_s:
                    await self._close(live)

    async def _close(self, live: LiveDispatch) -> None:
        stored: Json = dict(await asyncio.to_thread(self._engine.writer.store.manifest, live.id))
        last = {"tasks": [], "output_deps": [], "last": True, "payload": os.path.basename(self._payload(live.id))}
        identifier = DispatchId(self._engine.new_id())
        first = len(live.tasks)
        part = Child(
            id=identifier, name=live.row.name, task=PART, depth=0, first=first, count=0, output=0, output_deps=()
        )
        live.open = False
        self._engine.writer.say(live, "Closed: nothing is left to run, and its program was not heard any more.")
        await self._keep(live, part, {**stored, **last, "id": identifier})

    async def _keep(self, live: LiveDispatch, part: Child, stored: Json) -> None:
        row = ChildRow(id=part.id, dispatch=live.id, task=PART, first=part.first, n_tasks=part.count, name=part.name)
        self._engine.writer.pending.children.append((row, stored))
        live.dirty.add(-1)
        self._engine.look_at(live)
        await self._engine.writer.flush()

    def _open(self, dispatch: str) -> LiveDispatch:
        live = self._engine.writer.dispatches.get(DispatchId(dispatch))
        if live is None or not live.open:
            raise UserError(
                f"Dispatch {dispatch} takes no further tasks: it was closed or cancelled, or none could ever be added."
            )
        return live

    def not_begun(self, dispatch: str, tasks: list[int]) -> list[int]:
        """Return those of these tasks of which no worker is known to have begun, as far as they have not ended."""
        live = self._engine.writer.dispatches.get(DispatchId(dispatch))
        if live is None:
            return []
        known = [index for index in tasks if 0 <= index < len(live.tasks)]
        return [index for index in known if live.tasks[index].state in _NOT_BEGUN - FINAL]
