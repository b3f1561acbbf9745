"""What changed and is not stored yet: one transaction at a time, and then the news for those who wait."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

from hpcflow.core.model import DispatchId
from hpcflow.core.states import State
from hpcflow.server.caching import cache_rows
from hpcflow.server.failpoints import failpoint
from hpcflow.server.live import LiveDispatch
from hpcflow.server.news import News
from hpcflow.server.store import Changes, Store

__all__ = ["Writer"]


class Writer:
    """The live dispatches, and the way of their changes into the store."""

    def __init__(self, store: Store, now: Callable[[], datetime]) -> None:
        self.store = store
        self.dispatches: dict[DispatchId, LiveDispatch] = {}
        #: Rows for the next transaction; those of tasks and dispatches are made from the state when it begins.
        self.pending = Changes(at=now())
        #: Why the last transaction failed; ``None``: it did not.
        self.problem: str | None = None
        #: Of what was stored, for those who watch.
        self.news = News()
        self._now = now
        self._versions: Counter[DispatchId] = Counter()
        self._changed = asyncio.Condition()
        self._writing = asyncio.Lock()

    def say(self, live: LiveDispatch, text: str) -> None:
        """Tell the user something about a dispatch."""
        self.pending.messages.append((live.id, text))

    def version(self, dispatch: DispatchId) -> int:
        """Return a number that grows whenever the dispatch changes; 0 for one that never did since the start."""
        return self._versions[dispatch]

    async def wait_change(self, dispatch: DispatchId, since: int, wait_s: float) -> None:
        """Return when the dispatch's version is not ``since`` any more, when it is not live, or after ``wait_s``."""
        try:
            async with asyncio.timeout(wait_s), self._changed:
                await self._changed.wait_for(
                    lambda: dispatch not in self.dispatches or self._versions[dispatch] != since
                )
        except TimeoutError:
            return

    async def flush(self) -> None:
        """Store all that changed in one transaction, then wake those who wait for it.

        Raises:
            StoreError: nothing of it was stored; it is kept for the next call.
        """
        async with self._writing:
            changes, self.pending = self.pending, Changes(at=self._now())
            touched = [live for live in self.dispatches.values() if live.dirty]
            dirty = {live.id: live.dirty for live in touched}
            moved = {live.id: [(at, live.tasks[at].state) for at in live.dirty if at >= 0] for live in touched}
            for live in touched:
                changes.tasks += [live.task_row(index) for index in live.dirty if index >= 0]
                changes.dispatches.append(live.dispatch_row())
                changes.cached += cache_rows(live, changes.at) if live.keys else ()
                live.dirty = set()
            if not changes:
                return
            changes.at = self._now()
            try:
                failpoint("before_flush")
                await asyncio.to_thread(self.store.apply, changes)
            except BaseException as error:
                self._put_back(changes, dirty)
                self.problem = str(error) or type(error).__name__
                raise
            self.problem = None
            failpoint("after_flush")
            messages = {name for name, _ in changes.messages}
            for name in {*dirty, *messages, *(row.array.dispatch for row in changes.arrays)}:
                self._note(name, moved.get(name, ()))
            for live in touched:
                if live.ended_at is not None and not live.dirty:
                    del self.dispatches[live.id]
        await self._ring()

    async def ring(self, dispatch: DispatchId) -> None:
        """Let whoever waits for a dispatch look again: more is told of it now, though nothing of that is stored."""
        self._note(dispatch, ())
        await self._ring()

    def _note(self, dispatch: DispatchId, moved: Iterable[tuple[int, State]]) -> None:
        self._versions[dispatch] += 1
        self.news.add(dispatch, self._versions[dispatch], moved)

    async def _ring(self) -> None:
        async with self._changed:
            self._changed.notify_all()
        await self.news.ring()

    def _put_back(self, changes: Changes, dirty: Mapping[DispatchId, set[int]]) -> None:
        """Keep what could not be stored; rows of tasks and dispatches are made anew from the state."""
        for name, indices in dirty.items():
            self.dispatches[name].dirty |= indices
        self.pending.ends[:0] = changes.ends
        self.pending.bags[:0] = changes.bags
        self.pending.arrays[:0] = changes.arrays
        self.pending.children[:0] = changes.children
        self.pending.origins[:0] = changes.origins
        self.pending.messages[:0] = changes.messages
        for key, (count, wall_s) in changes.run_times.items():
            self.pending.add_run_times(key, count, wall_s)
