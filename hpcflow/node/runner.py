"""Runs the tasks of one worker: a process for each, or one for a series of short ones, and a record of every end."""

from __future__ import annotations

import collections
import fcntl
import gc
import importlib
import json
import os
import pickle
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from hpcflow.node.bagdir import BagDirectory, Stored, TaskRow
from hpcflow.node.cancels import CancelWatch
from hpcflow.node.files import append_all, create_own, out_of_the_way
from hpcflow.node.journal import Journal
from hpcflow.node.memory import MemoryWatch, OomKills
from hpcflow.node.processes import die_with_parent, fork_hazard, interpreter_command, kill_leftovers, signal_group
from hpcflow.node.ranks import Ranks
from hpcflow.node.series import Progress, Series, run_series
from hpcflow.node.stop import Stop
from hpcflow.node.task import (
    EXIT_STORAGE,
    REPORTED,
    Assignment,
    Outlet,
    flush_output,
    load_function,
    run_task,
    write_lines_at_once,
)
from hpcflow.sdk.settled import prepare

__all__ = ["Runner"]

_PIPE_SIZE: Final = 64 * 1024
#: Tasks of a function are short when the median of its last run times here is below this.
_SHORT_S: Final = 0.01
#: The state of a task by why it was killed.
_KILLED: Final = {"limit": "timeout", "term": "interrupted", "memory": "memory", "cancel": "cancelled"}
#: A task that began so lately is not killed for a cancel: the next of its series may be in its place already.
_UNDER_WAY_S: Final = 1.0
_FEWEST_RUNS: Final = 3
_LAST_RUNS: Final = 5
#: After so many series of one task, that a function's tasks leave something behind is the rule.
_MOST_CUT_SHORT: Final = 3


class _Death(NamedTuple):
    """How a task's process ended, as the kernel and its message say."""

    message: dict[str, Any]  # Any: JSON
    status: int
    usage: resource.struct_rusage
    #: Why the worker or the kernel killed it, if they did: limit, term, memory, cancel.
    killed: str | None
    #: MiB that the task's processes used when they were too much.
    used_mib: int | None = None


class Runner:
    """Runs one task or one series at a time; sets ``stop.why`` when no process can be made or no byte written."""

    def __init__(
        self,
        bag: BagDirectory,
        key_file: str,
        journal: Journal,
        stop: Stop,
        *,
        cancels: CancelWatch,
        umask: int,
        until: float,
    ) -> None:
        """Take over stdin, stdout and stderr of this process, and Python's garbage collection.

        Args:
            cancels: is looked at while a task runs.
            umask: the tasks'.
            until: when the array task's walltime is over, by the monotonic clock.
        """
        self.bag = bag
        self.key_file = key_file
        self.journal = journal
        self.stop = stop
        self.cancels = cancels
        self.umask = umask
        self.until = until
        #: Tasks that have ended.
        self.done = 0
        self.isolation = bag.isolation
        self.functions: dict[int, Callable[..., object] | None] = {}
        self.took: dict[int, collections.deque[float]] = {}
        #: Functions of which a task died in a series, and how many series in a row ended with their first task.
        self.deadly: set[int] = set()
        self.cut_short: collections.Counter[int] = collections.Counter()
        self.progress = Progress()
        self.memory = MemoryWatch(bag.memory_mib)
        self.oom_kills = OomKills()
        #: Starts tasks that have a launcher.
        self.ranks = Ranks(bag, key_file, journal.worker) if bag.launch is not None else None
        self.directory_number = 0
        self.directory: str | None = None
        self._redirect()
        # Children share this process's memory until one of them touches it: no collection in the parent, and none of
        # its objects looked at by a collection in a child.
        gc.disable()
        gc.freeze()

    def _redirect(self) -> None:
        # Tasks write straight to these; what an import prints in this process goes to the task that needed it.
        logs = os.path.join(self.bag.path, "logs", self.journal.worker)
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        for fd, source in (
            (0, null),
            (1, create_own(logs + ".out")),
            (2, create_own(logs + ".err")),
        ):
            os.dup2(source, fd)
            os.close(source)
        write_lines_at_once()
        self.log_ends = (0, 0)
        data_name = f"data/{self.journal.worker}.pack"
        data = out_of_the_way(create_own(os.path.join(self.bag.path, data_name)))
        self.pipe, pipe_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        pipe_end = out_of_the_way(pipe_end)
        os.set_blocking(pipe_end, True)
        # Smaller where a user has very many pipes (pipe(7)); a message must fit: nobody reads while a task runs.
        limit = min(_PIPE_SIZE, fcntl.fcntl(self.pipe, fcntl.F_GETPIPE_SZ))
        self.outlet = Outlet(pipe=pipe_end, message_limit=limit, data=data, data_name=data_name)

    # ---- one task

    def run(self, task: TaskRow, earlier: Mapping[int, Stored]) -> Mapping[str, Any]:  # Any: JSON
        """Run one task and return its `end` record.

        Args:
            earlier: results of the tasks before it in its unit.
        """
        assignment = self._begin(task, earlier)
        try:
            pid = self._fork(assignment)
        except OSError as error:
            return self._not_begun(task, error)
        return self._end(task, assignment.directory, self._await(pid, task, lambda: task), (0.0, 0.0))

    def _begin(self, task: TaskRow, earlier: Mapping[int, Stored]) -> Assignment:
        directory = self.bag.workdir or self._own_directory()
        self.journal.write("start", i=task.number, n=task.attempt)
        self.progress.begin(time.monotonic())
        self._preload(task.fn)
        self.oom_kills.begin()
        return Assignment(
            task=task,
            earlier=earlier,
            outlet=self.outlet,
            directory=directory,
            umask=self.umask,
            worker_pid=os.getpid(),
        )

    def _not_begun(self, task: TaskRow, error: OSError) -> Mapping[str, Any]:  # Any: JSON
        self.stop.why = "fault"
        sentence = f"No process could be made on {os.uname().nodename}: {error}."
        end = {"i": task.number, "n": task.attempt, "st": "interrupted", "msg": sentence}
        self.journal.write("end", **end)
        self.done += 1
        return end

    def _end(
        self, task: TaskRow, directory: str, death: _Death, used: tuple[float, float]
    ) -> Mapping[str, Any]:  # Any: JSON
        """Write down how the last task of a process ended, and return its record.

        Args:
            used: CPU seconds, user's and system's, of the tasks before it in this process.
        """
        left = kill_leftovers(self.bag.grace_s if self.bag.ntasks > 1 else 0.0)
        self.journal.mend()
        wall = time.monotonic() - self.progress.begun
        end = {**self._end_record(task, death, used), "t0": round(time.time() - wall, 4), "wall": round(wall, 4)}
        if left:
            end["left"] = left
        if self._was_written_into():
            end["dir"] = directory
        if "mods" in death.message and self.isolation != "spawn":
            self._import_as_the_task_did(death.message["mods"])
        if death.killed != "cancel":
            self._note_run_time(task.fn, death.message.get("took", wall))
        self.journal.write("end", **end)
        self.done += 1
        return end

    # ---- short tasks

    def is_short(self, fn: int) -> bool:
        """Return whether tasks of a function may share a process: they have proved to be short, and to end well."""
        took = self.took.get(fn, ())
        return (
            len(took) >= _FEWEST_RUNS
            and sorted(took)[len(took) // 2] < _SHORT_S
            and fn not in self.deadly
            and self.cut_short[fn] < _MOST_CUT_SHORT
            and self.isolation == "fork"
            and self.functions.get(fn) is not None
        )

    def run_series(self, tasks: Sequence[TaskRow]) -> int:
        """Run tasks one after the other in one process; return how many of them have been dealt with.

        None has been when the first was killed in the place of one that somebody cancelled: it has to run again.

        Args:
            tasks: of short functions, none of which needs another's result.
        """
        offset = self.journal.size()
        assignment = self._begin(tasks[0], {})
        self.progress.leave = False
        series = Series(
            tasks=tasks,
            functions=self.functions,
            assignment=assignment,
            journal=self.journal,
            progress=self.progress,
            log_ends=self.log_ends,
            begin_before=self.until - self.bag.need_s,
            limit_s=self._limit_s(),
            own_directory=self.bag.workdir is None,
        )
        try:
            pid = os.fork()
        except OSError as error:
            self._not_begun(tasks[0], error)
            return 1
        if not pid:
            run_series(self.bag, series)
        death = self._await(pid, tasks[0], lambda: self._in_flight(tasks, offset))
        # What the process did is what it has written down.
        written = self.journal.since(offset)
        begun = len([record for record in written if record["ev"] == "start"])
        ends = [record for record in written if record["ev"] == "end"]
        if ends:
            self.log_ends = (ends[-1]["out"][1], ends[-1]["err"][1])
        for task, end in zip(tasks, ends, strict=False):
            self._note_run_time(task.fn, end["wall"])
        self.done += len(ends)
        first = tasks[0].fn
        self.cut_short[first] = self.cut_short[first] + 1 if begun == 1 < len(tasks) else 0
        if not death.message and death.killed != "cancel":
            self.deadly.add(tasks[begun - 1].fn)
        if len(ends) < begun:
            if death.killed == "cancel" and not self.bag.is_cancelled(tasks[begun - 1]):
                kill_leftovers()
                self.journal.mend()
                return begun - 1  # the one that was meant ended by itself in the very moment
            used = (sum(end["cpu"][0] for end in ends), sum(end["cpu"][1] for end in ends))
            self._end(tasks[begun - 1], assignment.directory, death, used)
        elif "fault" in death.message:
            self.stop.why = "fault"
        return begun

    def _in_flight(self, tasks: Sequence[TaskRow], offset: int) -> TaskRow:
        """Return which task of a series runs, by what its process has written since an offset of the journal."""
        begun = [record for record in self.journal.since(offset) if record["ev"] == "start"]
        return tasks[max(len(begun), 1) - 1]

    def _note_run_time(self, fn: int, seconds: float) -> None:
        self.took.setdefault(fn, collections.deque(maxlen=_LAST_RUNS)).append(seconds)

    # ---- imports

    def _preload(self, fn: int) -> None:
        """Load a function here once, so that no task imports anything again. A failure is the task's to report."""
        if fn in self.functions or self.isolation == "spawn":
            return
        try:
            function = self.functions[fn] = load_function(self.bag, fn)
            prepare(function)
        except BaseException:  # the user's module ran: it may raise anything, SystemExit included
            self.functions[fn] = None
        self._after_imports()

    def _import_as_the_task_did(self, modules: list[str]) -> None:
        """Import what a task had to import to open its arguments, so that the next one need not."""
        for name in modules:
            if name not in sys.modules:
                try:
                    importlib.import_module(name)
                except BaseException:  # as in `_preload`
                    continue
        self._after_imports()

    def _after_imports(self) -> None:
        flush_output()
        hazard = fork_hazard(self.bag.cpus)
        if hazard is not None and self.isolation != "spawn":
            self.isolation = "spawn"
            self.journal.write("isolation", iso="spawn", msg=f"Every task gets a new interpreter, because {hazard}.")
        gc.freeze()

    # ---- processes

    def _fork(self, assignment: Assignment) -> int:
        if self.ranks is not None:
            return self.ranks.start(assignment)
        if self.isolation != "spawn":
            function = self.functions[assignment.task.fn]
            pid = os.fork()
            if not pid:
                run_task(self.bag, assignment, function)
            return pid
        order = os.memfd_create("hpcflow-task", 0)
        append_all(order, pickle.dumps(assignment))
        command = [*interpreter_command(), "task", self.bag.path, self.key_file, str(order)]
        pid = os.fork()
        if not pid:
            try:
                die_with_parent(assignment.worker_pid)
                for fd in (self.outlet.pipe, self.outlet.data):
                    os.set_inheritable(fd, True)
                os.execv(command[0], command)
            finally:
                os._exit(EXIT_STORAGE)
        os.close(order)
        return pid

    def _limit_s(self) -> float:
        if self.bag.limit_s is not None:
            return self.bag.limit_s
        return max(self.bag.walltime_s - 2 * self.bag.grace_s, 1.0)

    def _await(self, pid: int, task: TaskRow, in_flight: Callable[[], TaskRow]) -> _Death:
        """Wait for a process; end it when its task used up time or memory, or is not to go on.

        That is when somebody cancelled it, or when this array task is told to stop.

        Args:
            pid: its own.
            task: the first that it runs.
            in_flight: returns the one that runs.
        """
        limit_s = self._limit_s()
        killed: str | None = None
        used_mib: int | None = None
        over_at = kill_at = 0.0
        self.memory.begin(time.monotonic())
        cancelled = len(self.bag.cancelled)
        while True:
            now = time.monotonic()
            if killed is None:
                # Of a series the task in flight counts: none begins after one that took long, so none pays for another.
                used_mib = self.memory.excess_mib(self.progress.begun)
                over_at = self.progress.begun + limit_s
                killed = "term" if self.stop.why == "term" else "limit" if now >= over_at else None
                if killed is None and used_mib is not None:
                    killed = "memory"
                self.cancels.look()
                # What was cancelled since this process began is perhaps still to come in its series.
                self.progress.leave = self.stop.why is not None or len(self.bag.cancelled) > cancelled
                under_way = bool(self.bag.cancelled) and now - self.progress.begun >= _UNDER_WAY_S
                if killed is None and under_way and self.bag.is_cancelled(in_flight()):
                    killed = "cancel"
                if killed is not None:
                    # A launcher that is told to leave ends its ranks on other nodes.
                    at_once = killed == "memory" and self.bag.ntasks == 1
                    signal_group(pid, signal.SIGKILL if at_once else signal.SIGTERM)
                    kill_at = now + self.bag.grace_s
            elif now >= kill_at:
                signal_group(pid, signal.SIGKILL)
                kill_at = now + 1
            look_at = min(over_at, self.memory.due, self.cancels.due)
            if self.bag.cancelled and now < (at := self.progress.begun + _UNDER_WAY_S):
                look_at = min(look_at, at)
            self.stop.wait((look_at if killed is None else kill_at) - now)
            reaped, status, usage = os.wait4(pid, os.WNOHANG)
            if reaped:
                if killed is None and self._killed_by_kernel(status):
                    killed, used_mib = "memory", usage.ru_maxrss >> 10
                elif killed is None and self.stop.explains(status):
                    killed = "term"
                if self.ranks is None:
                    return _Death(self._message(), status, usage, killed, used_mib)
                if killed is None and status and self.stop.is_ending():
                    killed = "term"  # the scheduler ends ranks before it tells their worker
                said = self.ranks.message(task, os.waitstatus_to_exitcode(status))
                return _Death(said if killed is None or said.get("st") == "ok" else {}, status, usage, killed, used_mib)

    def _killed_by_kernel(self, status: int) -> bool:
        return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL and self.oom_kills.happened()

    def _message(self) -> dict[str, Any]:  # Any: JSON
        """Return what the task's process said, ``{}`` when it died before."""
        try:
            # Something else may stand before it: the pipe is open to all that the process did.
            said = os.read(self.pipe, _PIPE_SIZE)
            return dict(json.loads(said.rpartition(b"\n")[0].rpartition(b"\n")[2]))
        except (BlockingIOError, ValueError, TypeError):
            return {}

    def _end_record(self, task: TaskRow, death: _Death, used: tuple[float, float]) -> dict[str, Any]:  # Any: JSON
        out, err = os.fstat(1).st_size, os.fstat(2).st_size
        message = death.message if death.message.get("i") == task.number else {}
        signalled = os.WTERMSIG(death.status) if os.WIFSIGNALED(death.status) else None
        if "fault" in message:
            self.stop.why = "fault"
            outcome: dict[str, Any] = {"st": "interrupted", "msg": message["fault"]}
        elif death.killed == "cancel":
            outcome = {"st": _KILLED["cancel"]}
        elif message:
            outcome = {key: message[key] for key in REPORTED if key in message}
        elif death.killed is not None:
            outcome = {"st": _KILLED[death.killed]}
            if death.killed == "memory":
                outcome["mem"] = death.used_mib
        else:
            outcome = {"st": "exit" if signalled is None else "signal"}
        if not message:
            outcome.update({"sig": signalled} if signalled is not None else {"code": os.WEXITSTATUS(death.status)})
        end: dict[str, Any] = {
            "i": task.number,
            "n": task.attempt,
            **outcome,
            "cpu": [
                max(round(death.usage.ru_utime - used[0], 4), 0.0),
                max(round(death.usage.ru_stime - used[1], 4), 0.0),
            ],
            "rss": death.usage.ru_maxrss,
            "out": [self.log_ends[0], out],
            "err": [self.log_ends[1], err],
        }
        self.log_ends = (out, err)
        return end

    # ---- the directory of tasks without a `workdir`

    def _own_directory(self) -> str:
        """Return an empty directory; the same one as long as tasks leave it empty."""
        if self.directory is None:
            self.directory_number += 1
            self.directory = os.path.join(self.bag.path, "work", f"{self.journal.worker}-{self.directory_number}")
            os.mkdir(self.directory, 0o700)
        return self.directory

    def _was_written_into(self) -> bool:
        """Return whether the last task left something in its own directory, which is then given up to it."""
        if self.directory is None:
            return False
        try:
            if not os.listdir(self.directory):
                return False
        except FileNotFoundError:
            self.directory = None
            return False
        self.directory = None
        return True

    def remove_directory(self) -> None:
        """Remove the directory that no task wrote into."""
        if self.directory is not None:
            try:
                os.rmdir(self.directory)
            except OSError:
                return
