"""How much memory a worker and its tasks use, and whether the kernel has killed one of them for it.

A task that outgrows its request is ended before the scheduler ends its whole array task: then the task alone is to
blame, its record says how much it used, and the worker goes on.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from typing import Final

from hpcflow.node.processes import descendants

__all__ = ["MemoryWatch", "OomKills"]

#: What the worker and its tasks may use together of what the array task asked for: schedulers look seldom, and count
#: pages twice that parent and child share (Slurm 22.05: JobAcctGatherParams=NoShared is not the default).
_SHARE: Final = 0.95
_SOONEST_S: Final = 0.1
_LATEST_S: Final = 1.0
#: A look at many pages takes long; so much of the time may go into looking.
_EFFORT: Final = 0.02
_MIB: Final = 1 << 20
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_PSS: Final = re.compile(rb"^(?:Pss|SwapPss): *(\d+) kB$", re.MULTILINE)


class MemoryWatch:
    """Looks at the processes of the task in flight, often while it grows and seldom while it does not."""

    def __init__(self, request_mib: int | None) -> None:
        """Watch nothing when ``request_mib``, what the array task asked for, is ``None``."""
        self._limit = None if request_mib is None else request_mib * _MIB * _SHARE
        self._interval_s = _SOONEST_S
        self._seen = 0.0
        #: When the next look is due, by the monotonic clock.
        self.due = float("inf")

    def begin(self, now: float) -> None:
        """A process begins."""
        if self._limit is not None:
            self._interval_s, self._seen = _SOONEST_S, 0.0
            self.due = now + _SOONEST_S

    def excess_mib(self, begun: float) -> int | None:
        """Look, and return how much the task's processes use when that is too much.

        Args:
            begun: when the task in flight began. One that began a moment ago isn't looked at.
        """
        now = time.monotonic()
        if self._limit is None or now < self.due:
            return None
        if now < begun + _SOONEST_S:
            self.due = begun + _SOONEST_S
            return None
        pids = [*descendants()]
        # What they share counts for each: an upper bound, at a hundredth of the price.
        used = sum(map(_resident, pids), _resident(os.getpid()))
        if used > self._limit:
            tasks = sum(map(_proportional, pids))
            used = tasks + _proportional(os.getpid())
            if used > self._limit:
                return tasks // _MIB
        grows = used > self._limit / 2 or used - self._seen > self._limit / 20
        self._seen = used
        self._interval_s = _SOONEST_S if grows else min(2 * self._interval_s, _LATEST_S)
        looked = time.monotonic()
        self.due = looked + max(self._interval_s, (looked - now) / _EFFORT)
        return None


def _resident(pid: int) -> int:
    """Return the bytes that a process has in memory, 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def _proportional(pid: int) -> int:
    """Return the bytes of a process, in memory or swapped out, with its share of what it has in common with others."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            return sum(int(kib) << 10 for kib in _PSS.findall(file.read()))
    except OSError:  # gone; or a program that runs as somebody else; or Linux before 4.14
        return _resident(pid)


class OomKills:
    """Counts the processes that the kernel has killed for memory in this process's cgroup."""

    def __init__(self, own: str = "/proc/self/cgroup", mounted: str = "/sys/fs/cgroup") -> None:
        self._fd: int | None = None
        for path in _counters(own, mounted):
            with contextlib.suppress(OSError):
                self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                break
        self._before = 0

    def begin(self) -> None:
        """A process begins: forget what was killed before."""
        self._before = self._count()

    def happened(self) -> bool:
        """Return whether a process was killed since `begin`."""
        return self._count() > self._before

    def _count(self) -> int:
        if self._fd is None:
            return 0
        try:
            found = re.search(rb"^oom_kill (\d+)$", os.pread(self._fd, 4096, 0), re.MULTILINE)
        except OSError:  # the cgroup is being removed
            return self._before
        return int(found[1]) if found else 0


def _counters(own: str, mounted: str) -> Iterator[str]:
    """Yield the files that may hold the count: in version 1 of cgroups the memory controller has a tree of its own."""
    with contextlib.suppress(OSError), open(own, encoding="utf-8") as file:
        for line in file.read().splitlines():
            _, controllers, path = line.split(":", 2)
            if "memory" in controllers.split(","):
                yield f"{mounted}/memory{path}/memory.oom_control"
            elif not controllers:
                yield f"{mounted}{path}/memory.events"
