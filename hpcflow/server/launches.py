"""How long array tasks lately waited for their start: what schedulers do is measured, not guessed."""

from __future__ import annotations

from collections import deque
from statistics import median
from typing import Final

from hpcflow.core.model import ClusterName

__all__ = ["Launches"]

#: Starts that are remembered of each partition: what was true last week says little of today's queue.
_LAST: Final = 5


class Launches:
    """The last starts of each partition of each cluster, in seconds from the submission to a worker's first line."""

    def __init__(self) -> None:
        self._last: dict[tuple[ClusterName, str | None], deque[float]] = {}

    def note(self, cluster: ClusterName, partition: str | None, seconds: float) -> None:
        """Remember a start; ``None`` is the partition of tasks that name none."""
        self._last.setdefault((cluster, partition), deque(maxlen=_LAST)).append(seconds)

    def usual_s(self, cluster: ClusterName, partition: str | None) -> float | None:
        """Return the median of the last starts, ``None`` before the first."""
        last = self._last.get((cluster, partition))
        return median(last) if last else None
