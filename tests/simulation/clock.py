"""An event loop whose clock moves only when nothing is left to do, and what stands on it."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVarTuple

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

__all__ = ["EPOCH", "Stalled", "VirtualLoop"]

Ts = TypeVarTuple("Ts")

#: What every world's clocks show when it begins.
EPOCH: Final = datetime(2026, 11, 23, tzinfo=UTC)


class Stalled(Exception):
    """Nothing will ever happen any more, and somebody waits."""


class _Jump(selectors.BaseSelector):
    """A selector without files: where another one waits, it moves the clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self._keys: dict[FileDescriptorLike, selectors.SelectorKey] = {}

    def register(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> selectors.SelectorKey:
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        self._keys[fd] = selectors.SelectorKey(fileobj, fd, events, data)
        return self._keys[fd]

    def unregister(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        return self._keys.pop(fileobj if isinstance(fileobj, int) else fileobj.fileno())

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stalled("every task of the world waits for something that nobody will do")
        self.now += max(0.0, timeout)
        return []

    def get_map(self) -> Mapping[FileDescriptorLike, selectors.SelectorKey]:
        return self._keys


class VirtualLoop(asyncio.SelectorEventLoop):
    """One thread, no waiting: `asyncio.to_thread` runs its function at once, or as ``in_thread`` says."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)
        #: Takes the place of a thread: called with the function and the future of its result.
        self.in_thread: Callable[[Callable[[], object], asyncio.Future[Any]], None] = run_at_once

    def time(self) -> float:
        return self._jump.now

    def now(self) -> datetime:
        """Return what the clocks of the world show."""
        return EPOCH + timedelta(seconds=self._jump.now)

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], object], *args: *Ts
    ) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self.create_future()
        self.in_thread(lambda: func(*args), future)
        return future


def run_at_once(function: Callable[[], object], future: asyncio.Future[Any]) -> None:
    """Run what a thread would have run; it has ended when the caller gets to wait for it."""
    try:
        future.set_result(function())
    except Exception as error:
        future.set_exception(error)
