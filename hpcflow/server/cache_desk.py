"""What people see of the cache, and what they clear."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from hpcflow.core.words import counted
from hpcflow.server.reports import spelled
from hpcflow.server.store import Kept, Store

__all__ = ["Cached"]

Json = dict[str, Any]  # Any: JSON, described in cache_api.py


class Cached:
    """What the API asks about the cache."""

    def __init__(self, store: Store, now: Callable[[], datetime]) -> None:
        self._kept = Kept(store)
        self._now = now

    async def listed(self, function: str | None, limit: int) -> Json:
        rows = await asyncio.to_thread(self._kept.entries, function=function, limit=limit)
        total, size = await asyncio.to_thread(self._kept.count)
        entries = [
            {
                "key": row.key,
                "function": row.function,
                "dispatch": row.dispatch,
                "task": row.index,
                "size": row.size,
                "at": spelled(row.at),
            }
            for row in rows
        ]
        return {"entries": entries, "total": total, "bytes": size}

    async def clear(self, function: str | None, older_than_s: float | None) -> Json:
        before = None if older_than_s is None else self._now() - timedelta(seconds=older_than_s)
        cleared = await asyncio.to_thread(self._kept.forget, function=function, before=before)
        entries = counted(cleared, "result is", "results are")
        return {"cleared": cleared, "message": f"{entries} cached no longer; dispatches keep them."}
