"""When a busy worker looks for tasks that were cancelled: the more seldom, the more workers there are."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Final

from hpcflow.core.bag import DamagedError
from hpcflow.node.bagdir import BagDirectory, TaskRow
from hpcflow.node.files import StrangeFile

__all__ = ["CancelWatch"]

#: The shortest time between two looks of one worker, and the most looks in a second of all busy workers together.
_SOONEST_S: Final = 2.0
_LOOKS_PER_S: Final = 10
#: Workers that came together first look one after the other, in so many turns.
_TURNS: Final = 16
#: Peers are counted again after this, or later where there are many: their names are read from a directory.
_COUNT_S: Final = 60.0
_COUNTS_PER_S: Final = 2


class CancelWatch:
    """Looks into the inbox while tasks run and between them, whenever a look is due.

    A look opens one file and asks for its size; what it says is acted upon within seconds, in a bag with 1,000 busy
    workers within 100 s.
    """

    def __init__(
        self, bag: BagDirectory, place: int, count: Callable[[], int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin to watch.

        Args:
            bag: whose inbox.
            place: of this worker.
            count: returns how many workers have come to the bag.
        """
        self._bag = bag
        self._count = count
        self._clock = clock
        self._peers, self._counted_at = 1, float("-inf")
        #: When the next look is due, by the monotonic clock.
        self.due = clock() + _SOONEST_S * (1 + place % _TURNS / _TURNS)
        #: When one is due before a task begins: what was cancelled by then must not, so always where that costs little.
        self._due_to_begin = self.due if bag.nfs else float("-inf")

    def look(self) -> None:
        """Look into the inbox when a look is due. One that fails is no news: the task that runs goes on."""
        now = self._clock()
        if now >= self.due:
            self._look(now)

    def _look(self, now: float) -> None:
        with contextlib.suppress(OSError, StrangeFile, DamagedError):
            if now - self._counted_at >= max(_COUNT_S, self._peers / _COUNTS_PER_S):
                self._peers, self._counted_at = self._count(), now
            self._bag.look_for_cancels()
        turn_s = self._peers / _LOOKS_PER_S
        self.due = now + max(_SOONEST_S, turn_s)
        self._due_to_begin = now + turn_s if self._bag.nfs else float("-inf")

    def wants(self, task: TaskRow) -> bool:
        """Return whether somebody wants a task that may begin, after a look unless that is no worker's turn."""
        now = self._clock()
        if now >= min(self.due, self._due_to_begin):
            self._look(now)
        return not self._bag.is_cancelled(task)
