"""Short tasks one after the other in one process, each with lines of its own in the journal.

A fork and its wait cost some 3 ms of CPU, a task without work in a series 0.2 ms. The `start` of each task is in the
journal before its code runs, its `end` before the next one's. A series ends with its list, after a task that took
long, when the worker is told to stop, and after a task that left something behind which a process of its own would
have kept from the next one. The last task speaks to the worker through the pipe, as a task alone does.
"""

from __future__ import annotations

import atexit
import json
import mmap
import os
import re
import resource
import signal
import struct
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, NoReturn

from hpcflow.node.bagdir import BagDirectory, TaskRow
from hpcflow.node.journal import Journal, StorageFault
from hpcflow.node.processes import adopt_orphans, waited_for_a_core
from hpcflow.node.task import (
    EXIT_STORAGE,
    REPORTED,
    Assignment,
    encode,
    flush_output,
    outcome,
    reseed,
    say_and_leave,
    settle,
)

__all__ = ["Progress", "Series", "run_series"]

#: A task that takes longer ends its series: what comes next can wait for a clean process.
_LONG_S: Final = 0.1
#: So does one by which the process has grown by more than this in all: the tasks after it would be blamed for that.
_GROWTH_KIB: Final = 32 * 1024

_BEGUN: Final = struct.Struct("d")
_LEAVE_AT: Final = _BEGUN.size
_STATUS: Final = re.compile(rb"^(?:Umask|Uid|Gid|Threads|SigBlk|SigIgn|SigCgt|Cpus_allowed):.*$", re.MULTILINE)
_STATUS_SIZE: Final = 8192
_LIMITS: Final = (
    resource.RLIMIT_AS,
    resource.RLIMIT_CORE,
    resource.RLIMIT_CPU,
    resource.RLIMIT_DATA,
    resource.RLIMIT_FSIZE,
    resource.RLIMIT_NOFILE,
    resource.RLIMIT_NPROC,
    resource.RLIMIT_STACK,
)
_TIMERS: Final = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)


class Progress:
    """A page of memory that the worker and the process of a series share."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE)

    def begin(self, now: float) -> None:
        """Note when the task in flight began, by the monotonic clock."""
        _BEGUN.pack_into(self._page, 0, now)

    @property
    def begun(self) -> float:
        moment: float = _BEGUN.unpack_from(self._page)[0]
        return moment

    @property
    def leave(self) -> bool:
        """Whether the worker wants no further task to begin."""
        return self._page[_LEAVE_AT] != 0

    @leave.setter
    def leave(self, wanted: bool) -> None:
        self._page[_LEAVE_AT] = wanted


class Series(NamedTuple):
    """Tasks for one process, and all that it needs beside the bag."""

    #: The worker has written the first one's `start`.
    tasks: Sequence[TaskRow]
    functions: Mapping[int, Callable[..., object] | None]
    #: The first task's; the others differ from it in their task only.
    assignment: Assignment
    journal: Journal
    progress: Progress
    #: Where stdout and stderr end before the first task.
    log_ends: tuple[int, int]
    #: When, by the monotonic clock, too little is left of the walltime for another task (S5).
    begin_before: float
    #: How long a task may take.
    limit_s: float
    #: No task may leave files in the directory.
    own_directory: bool


def run_series(bag: BagDirectory, series: Series) -> NoReturn:
    """Run the tasks in this process, just forked for them, until the series ends, and never return."""
    me = os.getpid()
    try:
        settle(series.assignment)
        # What a task's own children leave behind comes here, where it is seen before the next task begins.
        adopt_orphans()
        message = _run_all(bag, series, me)
        say_and_leave(series.assignment.outlet, message, bag.grace_s)
    finally:
        os._exit(EXIT_STORAGE)


def _run_all(bag: BagDirectory, series: Series, me: int) -> dict[str, Any]:  # Any: JSON
    """Run tasks and write down how they ended, but for the last one: return its message."""
    surroundings = _Surroundings(bag, series)
    long_s, waited_s = min(_LONG_S, series.limit_s / 2), waited_for_a_core()
    log_ends, used, base_kib = series.log_ends, *_usage()
    modules: list[str] = []
    begun, begun_at = series.progress.begun, time.time()
    tasks = iter(series.tasks)
    task = next(tasks)
    while True:
        message = outcome(bag, series.assignment._replace(task=task), series.functions[task.fn])
        if os.getpid() != me:
            os._exit(0)  # the function forked and returned in both processes; the first one speaks
        flush_output()
        modules += message.pop("mods", ())
        now, usage, peak_kib = time.monotonic(), *_usage()
        following = next(tasks, None)
        if is_long := now - begun > long_s:
            # Asked for only here, because to ask takes as long as a short task.
            before_s, waited_s = waited_s, waited_for_a_core()
            is_long = now - begun - (waited_s - before_s) > long_s
        if (
            following is None
            or "fault" in message
            or is_long
            or now >= series.begin_before
            or series.progress.leave
            or peak_kib - base_kib > _GROWTH_KIB
            or surroundings.disturbed()
        ):
            return {**message, "mods": modules} if modules else message
        ends = surroundings.log_ends
        if message["st"] != "ok":
            message = json.loads(encode(message, series.assignment.outlet.message_limit))
        end: dict[str, object] = {
            "i": task.number,
            "n": task.attempt,
            **{key: message[key] for key in REPORTED if key in message},
            "cpu": [round(usage[0] - used[0], 4), round(usage[1] - used[1], 4)],
            "rss": peak_kib,
            "out": [log_ends[0], ends[0]],
            "err": [log_ends[1], ends[1]],
            "t0": round(begun_at, 4),
            "wall": round(now - begun, 4),
        }
        begun, begun_at, log_ends, used = now, time.time(), ends, usage
        lines = series.journal.line("end", **end)
        lines += series.journal.line("start", i=following.number, n=following.attempt)
        try:
            series.journal.append(lines)
        except StorageFault as error:
            return {"i": task.number, "n": task.attempt, "fault": str(error)}
        series.progress.begin(now)
        reseed()
        task = following


def _usage() -> tuple[tuple[float, float], int]:
    """Return user and system time of this process and its ended children, and its largest size so far."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return (own.ru_utime + children.ru_utime, own.ru_stime + children.ru_stime), own.ru_maxrss


class _Surroundings:
    """What a task may change around itself, as it was before the first one of the series.

    Left out is what Python code changes in its own modules: that is for the tasks after it to see.
    """

    def __init__(self, bag: BagDirectory, series: Series) -> None:
        self._own_directory = series.own_directory
        self._journal = series.journal
        self._descriptors = (1, 2, series.journal.fd, *(pack.fd for pack in bag.packs))
        self._status = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
        self._environ = os.environ
        self._variables = dict(vars(os.environ)["_data"])
        self._streams = (sys.stdout, sys.stderr)
        try:
            os.chdir(series.assignment.directory)
        except OSError:  # every task will say so
            self._before = None
        else:
            self._before = self._look()
        #: Where stdout and stderr end, as `disturbed` saw it last.
        self.log_ends = series.log_ends

    def disturbed(self) -> bool:
        """Return whether the next task needs a clean process."""
        try:
            return self._before is None or self._look() != self._before or self._has_children()
        except Exception:  # what was looked at is gone: the directory, a descriptor, os.environ
            return True

    def _look(self) -> tuple[object, ...]:
        seen = [os.fstat(fd) for fd in self._descriptors]
        self.log_ends = (seen[0].st_size, seen[1].st_size)
        lowest = os.dup(0)
        os.close(lowest)
        return (
            [(each.st_dev, each.st_ino) for each in seen],
            self._journal.is_whole(),
            lowest,  # higher than before: one was left open
            os.getcwd(),
            os.listdir(".") if self._own_directory else None,
            os.environ is self._environ and vars(os.environ)["_data"] == self._variables,
            (sys.stdout, sys.stderr) == self._streams and not sys.stdout.closed and not sys.stderr.closed,
            _STATUS.findall(os.pread(self._status, _STATUS_SIZE, 0)),
            [resource.getrlimit(limit) for limit in _LIMITS],
            [signal.getitimer(timer) for timer in _TIMERS],
            os.getpriority(os.PRIO_PROCESS, 0),
            atexit._ncallbacks(),
            tuple(sys.path),
        )

    def _has_children(self) -> bool:
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return True
