"""What a worker asks of the kernel: who dies with whom, who is left over, and whether forking is safe."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Final

__all__ = [
    "adopt_orphans",
    "descendants",
    "die_with_parent",
    "fork_hazard",
    "interpreter_command",
    "kill_leftovers",
    "kill_strangers",
    "prefer_for_oom",
    "signal_group",
    "waited_for_a_core",
]

# prctl(2)
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36

_prctl = ctypes.CDLL(None).prctl


def adopt_orphans() -> None:
    """Become the parent of every descendant that loses its own."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def waited_for_a_core() -> float:
    """Return for how long this process could have run while others did, in seconds: no time of its own.

    Only its first thread counts. 0.0 where the kernel counts nothing.
    """
    try:
        fd = os.open("/proc/self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return int(os.read(fd, 100).split()[1]) / 1e9
        finally:
            os.close(fd)
    except (OSError, ValueError, IndexError):
        return 0.0


def die_with_parent(parent: int) -> None:
    """Arrange SIGKILL for this process when ``parent``, its creator, dies; exit at once when that is so already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(70)


def prefer_for_oom() -> None:
    """Make this process the first that the kernel kills for memory: the task shall die, not the worker."""
    with contextlib.suppress(OSError):
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"1000")
        finally:
            os.close(fd)


def signal_group(leader: int, number: signal.Signals) -> None:
    """Signal a child's process group, and the child itself while it isn't yet the leader of one."""
    try:
        os.killpg(leader, number)
    except ProcessLookupError:
        with contextlib.suppress(ProcessLookupError):
            os.kill(leader, number)


def kill_leftovers(grace_s: float = 0.0) -> int:
    """Kill and reap every child of this process; return how many there were.

    Only for a subreaper between two tasks: each child is then something that a task left behind. Killing one may
    hand over its own children, so it ends when the kernel says that there is none.

    Args:
        grace_s: after SIGTERM, before they are killed. `srun` and `mpirun` end what they started on other nodes in it.
    """
    count = _ask_to_leave(grace_s) if grace_s else 0
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return count
        if pid:
            count += 1
            continue
        for child in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, 0)
            count += 1


def _ask_to_leave(grace_s: float) -> int:
    """Send SIGTERM to every child, and return how many have left in time."""
    count = 0
    end = time.monotonic() + grace_s
    told: set[int] = set()
    while time.monotonic() < end:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if pid:
            count += 1
            continue
        for child in set(_children()) - told:
            told.add(child)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGTERM)
        signal.sigtimedwait((signal.SIGCHLD,), min(0.1, grace_s))
    return count


def kill_strangers(known: frozenset[int]) -> None:
    """Kill the children of this process that are not ``known``; they are reaped like any other."""
    for child in _children():
        if child not in known:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


def fork_hazard(cpus: int) -> str | None:
    """Return why children of this process might hang, ``None`` when it is safe to fork.

    OpenBLAS puts its threads right after a fork by itself; a lock or a GNU OpenMP pool of any other thread stays as it
    was for ever (measured: a child that uses libgomp after its parent did hangs).
    """
    if threading.active_count() > 1:
        names = ", ".join(
            sorted(thread.name for thread in threading.enumerate() if thread is not threading.main_thread())
        )
        return f"importing the function started threads ({names})"
    native = len(os.listdir("/proc/self/task")) - 1
    if native:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
            openblas = {line.rpartition("/")[2] for line in file if "openblas" in line}
        if native > len(openblas) * max(cpus - 1, 0):
            return f"importing the function started {native} threads outside Python"
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{fd}").startswith("/dev/nvidia"):
                return "importing the function opened a GPU"
    return None


def interpreter_command() -> list[str]:
    """Return how this program was started, up to its own arguments: interpreter, options, script."""
    return [sys.executable, *sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]]


def descendants() -> Iterator[int]:
    """Yield the children of this process, theirs, and so on."""
    waiting = _children()
    while waiting:
        pid = waiting.pop()
        yield pid
        waiting += _children(pid)


def _children(of: int | None = None) -> list[int]:
    parent = of or os.getpid()
    found: list[int] = []
    try:
        # A thread's children are its own; few processes have threads that start some.
        for thread in os.listdir(f"/proc/{parent}/task") if of else (parent,):
            with open(f"/proc/{parent}/task/{thread}/children", encoding="ascii") as file:
                found += map(int, file.read().split())
    except (FileNotFoundError, ProcessLookupError):
        if os.path.exists(f"/proc/self/task/{os.getpid()}/children"):
            return found  # it has just ended
        # a kernel without CONFIG_PROC_CHILDREN
        return [int(name) for name in os.listdir("/proc") if name.isdigit() and _parent_of(int(name)) == parent]
    return found


def _parent_of(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return None
