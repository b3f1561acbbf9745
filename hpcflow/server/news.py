"""What changed lately, numbered, for browsers that watch: kept for a while, and told in pieces."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from hpcflow.core.model import DispatchId
from hpcflow.core.states import CODES, State

__all__ = ["CODES", "Change", "News"]


@dataclass(slots=True)
class Change:
    """What became of one dispatch: its version now, and the state's letter of each task that moved, by index."""

    version: int
    moves: dict[int, str] = field(default_factory=dict[int, str])


class News:
    """The last changes. Whoever has missed more than is kept has to look at everything again."""

    def __init__(self, kept: int = 100_000) -> None:
        """Keep changes of about ``kept`` tasks."""
        #: Of the last change.
        self.number = 0
        self._kept = kept
        self._held = 0
        self._items: deque[tuple[int, DispatchId, Change]] = deque()
        self._changed = asyncio.Condition()

    def add(self, dispatch: DispatchId, version: int, moves: Iterable[tuple[int, State]]) -> None:
        """Note a change; `ring` tells those who wait."""
        self.number += 1
        change = Change(version, {index: CODES[state] for index, state in moves})
        self._items.append((self.number, dispatch, change))
        self._held += 1 + len(change.moves)
        while self._held > self._kept and len(self._items) > 1:
            self._held -= 1 + len(self._items.popleft()[2].moves)

    async def ring(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def wait(self, after: int, wait_s: float) -> bool:
        """Return whether there is a change with a number above ``after``, as soon as there is, or after ``wait_s``."""
        try:
            async with asyncio.timeout(wait_s), self._changed:
                await self._changed.wait_for(lambda: self.number > after)
        except TimeoutError:
            return False
        return True

    def since(self, after: int) -> dict[DispatchId, Change] | None:
        """Return all changes above number ``after`` as one for each dispatch, ``None`` when some are not kept."""
        if after > self.number or (after < self.number and self._items[0][0] > after + 1):
            return None
        merged: dict[DispatchId, Change] = {}
        for number, dispatch, change in reversed(self._items):
            if number <= after:
                break
            known = merged.setdefault(dispatch, Change(change.version))
            known.moves = {**change.moves, **known.moves}
        return merged
