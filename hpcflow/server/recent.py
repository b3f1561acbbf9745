"""What was made for those that were asked about last, kept for as long as it holds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

__all__ = ["Recent"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Keeps values for so many keys at most; any thread may ask."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: dict[K, tuple[int, V]] = {}  # the one that was asked for last is the last
        self._lock = threading.Lock()

    def get(self, key: K, version: int, make: Callable[[], V]) -> V:
        """Return what was made for a key at this version; it is made now where there is none.

        Args:
            key: whose it is.
            version: of what it is made of, as it was before this call: what changes meanwhile makes it stale.
            make: reads the store; two threads that ask at once may both call it.
        """
        with self._lock:
            known = self._kept.get(key)
        if known is None or known[0] != version:
            known = version, make()
        with self._lock:
            self._kept.pop(key, None)
            self._kept[key] = known
            while len(self._kept) > self._most:
                del self._kept[next(iter(self._kept))]
        return known[1]
