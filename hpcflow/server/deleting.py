"""Deletes dispatches that have ended: what lies of them on clusters, and then all that is known of them."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from hpcflow.core.model import DispatchId
from hpcflow.core.words import counted
from hpcflow.server.cleaning import Cleaner
from hpcflow.server.engine import Engine

__all__ = ["Deleter"]

logger = logging.getLogger(__name__)

Json = dict[str, Any]  # Any: JSON, described in file_api.py


class Deleter:
    """Deletes dispatches of one server."""

    def __init__(
        self,
        engine: Engine,
        cleaner: Cleaner,
        changing: asyncio.Lock,
        payload: Callable[[DispatchId], str],
        *,
        stop: Callable[[DispatchId], Awaitable[int]],
    ) -> None:
        """Take what knows of dispatches.

        Args:
            engine: whose dispatches these are.
            cleaner: removes what lies on clusters.
            changing: held while a dispatch that has ended is made live again.
            payload: the file in which a dispatch's blobs lie.
            stop: stops the triggers of a dispatch, and returns how many there were.
        """
        self._engine = engine
        self._store = engine.writer.store
        self._cleaner = cleaner
        self._changing = changing
        self._payload = payload
        self._stop = stop

    async def delete(self, dispatches: Sequence[str], *, files: bool) -> Json:
        """Delete dispatches that have ended; one that is not there is deleted already.

        What can't be removed from its cluster keeps its dispatch: otherwise nobody would know of it any more.

        Args:
            dispatches: their ids.
            files: also what tasks left in directories of their own.
        """
        there = [name for name in dict.fromkeys(dispatches) if await asyncio.to_thread(self._knows, name)]
        if not there:
            return {"deleted": [], "skipped": [], "message": "There is nothing to delete."}
        cleaned = await self._cleaner.clean(there, older_than_s=None, cluster=None, files=files, dry_run=False)
        problems = {each["cluster"]: each["problem"] for each in cleaned["clusters"] if each["problem"]}
        skipped: list[str] = list(cleaned["skipped"])
        left = {sentence.partition(" ")[0] for sentence in skipped}
        deleted: list[str] = []
        triggers = 0
        for name in there:
            if name in left:
                continue
            dispatch = DispatchId(name)
            # Not while the lock is held: a trigger may wait for it, and takes its time to end.
            if await self._why_not(dispatch, problems) is None:
                triggers += await self._stop(dispatch)
            async with self._changing:
                if (why := await self._why_not(dispatch, problems)) is not None:
                    skipped.append(f"{name} is kept: {why}")
                    continue
                payloads = await asyncio.to_thread(self._payloads, dispatch)
                await asyncio.to_thread(self._store.delete_dispatch, dispatch, [f"cleaned {dispatch}"])
            for path in payloads:
                with suppress(FileNotFoundError):
                    await asyncio.to_thread(os.unlink, path)
            triggers += await self._stop(dispatch)  # what was attached meanwhile
            deleted.append(name)
        logger.info("deleted %s", ", ".join(deleted) or "nothing")
        kept = sum(each["kept_files"] for each in cleaned["clusters"])
        text = f"{counted(len(deleted), 'dispatch', 'dispatches')} deleted."
        if kept:
            text += f" The files that tasks left in {counted(kept, 'bag')} stay on the cluster."
        if triggers:
            text += f" {counted(triggers, 'trigger of theirs was', 'triggers of theirs were')} stopped."
        return {"deleted": deleted, "skipped": skipped, "message": " ".join([text, *skipped])}

    def _knows(self, name: str) -> bool:
        return self._store.dispatch(DispatchId(name)) is not None

    async def _why_not(self, dispatch: DispatchId, problems: dict[str, str]) -> str | None:
        live = {bag.dispatch.id for bag in self._engine.bags.values()} | set(self._engine.writer.dispatches)
        if dispatch in live:
            return "it is live again."
        clusters = {row.bag.shape.cluster for row in await asyncio.to_thread(self._store.bags, dispatch)}
        return next((problems[name] for name in sorted(clusters) if name in problems), None)

    def _payloads(self, dispatch: DispatchId) -> list[str]:
        own = self._payload(dispatch)
        folder = os.path.dirname(own)
        children = [self._store.child_manifest(child.id)["payload"] for child in self._store.children(dispatch)]
        return [own, *(os.path.join(folder, os.path.basename(name)) for name in children)]
