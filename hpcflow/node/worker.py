"""The claim loop of one array task: claim a range of units, run each task in its own process, write down how it ended.

`Worker.run` returns the exit code of the array task:

    0    the bag is drained, or time was up, or the scheduler warned; every claimed task has a record
    11   the interpreter's minor version is not the one that made the pickles; nothing was claimed
    12   the bag isn't signed with the cluster's key or can't be read; nothing was written
    75   the bag's directory takes no more bytes
    143  SIGTERM: the running task was interrupted, which counts as nothing
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import os
import pickle
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, NoReturn

from hpcflow.node.bagdir import BagDirectory, RefusedBag, Stored, TaskRow, open_bag
from hpcflow.node.claims import Claims, owned_by
from hpcflow.node.files import append_all
from hpcflow.node.journal import Journal, Past, StorageFault, read_past
from hpcflow.node.processes import (
    adopt_orphans,
    die_with_parent,
    fork_hazard,
    interpreter_command,
    kill_leftovers,
    signal_group,
)
from hpcflow.node.task import (
    EXIT_STORAGE,
    Assignment,
    Outlet,
    flush_output,
    load_function,
    run_task,
    write_lines_at_once,
)

__all__ = ["EXIT_PYTHON", "EXIT_REFUSED", "EXIT_TERM", "Identity", "Worker", "identity", "work", "work_on_one"]

EXIT_PYTHON: Final = 11
EXIT_REFUSED: Final = 12
EXIT_TERM: Final = 143

_WATCHED: Final = (signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1)
#: How long a task's death by TERM or KILL waits for the worker's own TERM (S4): a scheduler signals the child first.
_DOUBT_S: Final = 0.3
#: Descriptors that a task's process writes to lie above this.
_HIGH_FD: Final = 512
_PIPE_SIZE: Final = 64 * 1024
_THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Identity(NamedTuple):
    """Which array task this process is."""

    job: str
    array_index: int
    restart: int


def identity(environ: Mapping[str, str]) -> Identity:
    """Read it from the scheduler's variables, or from ours where the batch script sets them."""
    job = environ.get("SLURM_ARRAY_JOB_ID") or environ.get("HPCFLOW_JOB") or environ.get("SLURM_JOB_ID") or "0"
    index = environ.get("SLURM_ARRAY_TASK_ID") or environ.get("HPCFLOW_INDEX") or "0"
    restart = environ.get("SLURM_RESTART_COUNT") or environ.get("HPCFLOW_RESTART") or "0"
    # PBS calls an array "123[].server"; in file names of ours only this much is left of it.
    return Identity(re.sub(r"[^A-Za-z0-9.-]+", "-", job), int(index), int(restart))


def work(bag_path: str, key_file: str) -> int:
    """Work on a bag until nothing is left to claim; return the exit code."""
    try:
        bag = open_bag(bag_path, key_file)
    except RefusedBag as error:
        print(error, file=sys.stderr)
        return EXIT_REFUSED
    me = identity(os.environ)
    for name in ("HPCFLOW_JOB", "HPCFLOW_INDEX", "HPCFLOW_RESTART"):
        os.environ.pop(name, None)
    for name in _THREAD_VARIABLES:
        os.environ[name] = str(bag.cpus)
    # Once the worker has begun, its stderr belongs to the tasks; this is the scheduler's log.
    with open(os.dup(2), "w", encoding="utf-8") as complaints:
        try:
            return Worker(bag, key_file, me).run()
        except StorageFault as error:
            print(error, file=complaints)
        except OSError as error:  # a claim, a log or a directory that can't be made
            print(f"The bag {bag.path} takes no more files: {error}.", file=complaints)
    return EXIT_STORAGE


def _out_of_the_way(fd: int) -> int:
    """Give a descriptor a high number: libraries that start daemons close all low ones, and open files under them."""
    try:
        high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _HIGH_FD)
    except OSError:  # the limit on open files is lower
        return fd
    os.close(fd)
    return high


class _Death(NamedTuple):
    """How a task's process ended, as the kernel and its message say."""

    message: dict[str, Any]  # Any: JSON
    status: int
    usage: resource.struct_rusage
    #: Why the worker killed it, if it did.
    killed: str | None


class Worker:
    """One array task at work. ``stop`` is why it takes nothing more: term, warned, walltime, superseded, fault."""

    def __init__(self, bag: BagDirectory, key_file: str, me: Identity) -> None:
        # Deadlines never look at the clock that a step or a suspended laptop moves.
        self.started = time.monotonic()
        self.bag = bag
        self.key_file = key_file
        self.me = me
        self.stop: str | None = None
        self.done = 0
        self.umask = os.umask(0o077)
        self.journal_directory = os.path.join(bag.path, "journal")
        self.journal = Journal(
            self.journal_directory, me.job, me.array_index, me.restart, key=bag.key, sync_s=bag.sync_s
        )
        self.name = self.journal.worker
        self.log(
            "up",
            host=os.uname().nodename,
            pid=os.getpid(),
            node=os.environ.get("SLURMD_NODENAME"),
            py=sys.version.split()[0],
            job=me.job,
            index=me.array_index,
        )

    def log(self, event: str, **fields: object) -> None:
        self.journal.write(event, **fields)

    # ---- the loop

    def run(self) -> int:
        if sys.version_info[:2] != self.bag.python:
            return self._refuse_python()
        self._prepare()
        ranges, past = self._inherit()
        self.claims = Claims(
            os.path.join(self.bag.path, "claims"),
            self.name,
            ranges=len(self.bag.cuts) - 1,
            start=self.me.array_index,
            nfs=self.bag.nfs,
        )
        while True:
            # Before a claim, not after: what is claimed here is out of reach for a worker that comes fresh.
            may_begin = self._may_begin()
            k = ranges.pop(0) if ranges else self.claims.next() if may_begin else None
            if k is None:
                break
            self.log("claim", k=k, a=self.bag.cuts[k], b=self.bag.cuts[k + 1])
            self._run_range(k, past)
            self._check_superseded()
        return self._leave()

    def _refuse_python(self) -> int:
        wanted, mine = "{}.{}".format(*self.bag.python), "{}.{}".format(*sys.version_info[:2])
        sentence = (
            f"The workflow was made by Python {wanted}, but {sys.executable} on {os.uname().nodename} is "
            f"Python {mine}. Set `python` of this cluster in clusters.toml to a Python {wanted}."
        )
        self.log("exit", why="python", msg=sentence, n=0, ops=0)
        print(sentence, file=sys.stderr)
        return EXIT_PYTHON

    def _prepare(self) -> None:
        # A disposition of SIG_IGN is inherited from whoever started us, and children would vanish unseen.
        for number in _WATCHED:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        adopt_orphans()
        # Tasks write straight to these; what an import prints in this process goes to the task that needed it.
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        logs = os.path.join(self.bag.path, "logs", self.name)
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        for fd, source in (
            (0, null),
            (1, os.open(logs + ".out", flags, 0o600)),
            (2, os.open(logs + ".err", flags, 0o600)),
        ):
            os.dup2(source, fd)
            os.close(source)
        write_lines_at_once()
        self.data_name = f"data/{self.name}.pack"
        self.data_fd = _out_of_the_way(os.open(os.path.join(self.bag.path, self.data_name), flags, 0o600))
        self.pipe, pipe_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.pipe_end = _out_of_the_way(pipe_end)
        os.set_blocking(self.pipe_end, True)
        # Smaller where a user has very many pipes (pipe(7)); a message must fit: nobody reads while a task runs.
        self.message_limit = min(_PIPE_SIZE, fcntl.fcntl(self.pipe, fcntl.F_GETPIPE_SZ))
        self.log_ends = (0, 0)
        self.functions: dict[int, Callable[..., object] | None] = {}
        self.isolation = self.bag.isolation
        self.directory_number = 0
        self.directory: str | None = None
        self.superseded_checked_at = time.monotonic()
        # Children share this process's memory until one of them touches it: no collection in the parent, and none of
        # its objects looked at by a collection in a child.
        gc.disable()
        gc.freeze()

    def _inherit(self) -> tuple[list[int], Past]:
        """Return ranges and ends of this array task's earlier, dead workers."""
        before = [f"{self.me.job}_{self.me.array_index}_{restart}" for restart in range(self.journal.restart)]
        if not before:
            return [], Past(frozenset(), {})
        past = read_past(self.journal_directory, before, self.bag.key)
        ranges = sorted(past.ranges | owned_by(os.path.join(self.bag.path, "claims"), before))
        if ranges:
            self.log("inherit", k=ranges, ended=len(past.ended))
        return ranges, past

    def _run_range(self, k: int, past: Past) -> None:
        for unit in range(self.bag.cuts[k], self.bag.cuts[k + 1]):
            earlier: dict[int, Stored] = {}
            for position in self.bag.positions(unit):
                task = self.bag.task(position)
                end = past.ended.get((task.number, task.attempt))
                if end is None:
                    if not self._may_begin():
                        self.log("left", k=k, u=unit)
                        return
                    end = self._run_task(task, earlier)
                if end["st"] != "ok":
                    break  # the rest of a chain is not run
                earlier[task.number] = end["r"]

    def _may_begin(self) -> bool:
        """The first task always begins; a further one only while enough of the walltime is left (S5)."""
        self._look_at_signals()
        if self.stop is None and self.done and self.started + self.bag.walltime_s - time.monotonic() < self.bag.need_s:
            self.stop = "walltime"
        return self.stop is None

    def _look_at_signals(self) -> None:
        while (received := signal.sigtimedwait(_WATCHED, 0)) is not None:
            self._note(received.si_signo)

    def _note(self, number: int) -> None:
        if number == signal.SIGTERM:
            self.stop = "term"
        elif number == signal.SIGUSR1:
            self.stop = self.stop or "warned"

    def _check_superseded(self) -> None:
        """Stop when the scheduler has started this array task again elsewhere: then this node was given up as lost."""
        now = time.monotonic()
        if now - self.superseded_checked_at >= 1:
            self.superseded_checked_at = now
            successor = f"{self.me.job}_{self.me.array_index}_{self.journal.restart + 1}.jsonl"
            if os.path.exists(os.path.join(self.journal_directory, successor)):
                self.stop = self.stop or "superseded"

    def _leave(self) -> int:
        if self.directory is not None:
            with contextlib.suppress(OSError):
                os.rmdir(self.directory)
        own, tasks = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        self.log(
            "exit",
            why=self.stop or "drained",
            n=self.done,
            ops=self.claims.operations,
            cpu=[round(own.ru_utime, 3), round(own.ru_stime, 3)],
            tasks_cpu=[round(tasks.ru_utime, 3), round(tasks.ru_stime, 3)],
            rss=own.ru_maxrss,
        )
        self.journal.sync(time.time())
        return {"term": EXIT_TERM, "fault": EXIT_STORAGE}.get(self.stop or "", 0)

    # ---- one task

    def _run_task(self, task: TaskRow, earlier: Mapping[int, Stored]) -> Mapping[str, Any]:  # Any: JSON
        """Run one task and return its `end` record."""
        directory = self.bag.workdir or self._own_directory()
        self.log("start", i=task.number, n=task.attempt)
        begun_at, begun = time.time(), time.monotonic()
        self._preload(task.fn)
        try:
            pid = self._fork(self._assignment(task, earlier, directory))
        except OSError as error:
            self.stop = "fault"
            end: dict[str, Any] = {"i": task.number, "n": task.attempt, "st": "interrupted"}
            end["msg"] = f"No process could be made on {os.uname().nodename}: {error}."
        else:
            death = self._await(pid, begun)
            left = kill_leftovers()
            end = {
                **self._end_record(task, death),
                "t0": round(begun_at, 4),
                "wall": round(time.monotonic() - begun, 4),
            }
            if left:
                end["left"] = left
            if self._was_written_into():
                end["dir"] = directory
            if "mods" in death.message and self.isolation == "fork":
                self._import_as_the_task_did(death.message["mods"])
        self.log("end", **end)
        self.done += 1
        return end

    def _assignment(self, task: TaskRow, earlier: Mapping[int, Stored], directory: str) -> Assignment:
        return Assignment(
            task=task,
            earlier=earlier,
            outlet=Outlet(
                pipe=self.pipe_end, message_limit=self.message_limit, data=self.data_fd, data_name=self.data_name
            ),
            directory=directory,
            umask=self.umask,
            worker_pid=os.getpid(),
        )

    def _preload(self, fn: int) -> None:
        """Load a function here once, so that no task imports anything again. A failure is the task's to report."""
        if fn in self.functions or self.isolation != "fork":
            return
        try:
            self.functions[fn] = load_function(self.bag, fn)
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
        if hazard is not None and self.isolation == "fork":
            self.isolation = "spawn"
            self.log("isolation", iso="spawn", msg=f"Every task gets a new interpreter, because {hazard}.")
        gc.freeze()

    def _fork(self, assignment: Assignment) -> int:
        if self.isolation == "fork":
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
                for fd in (self.pipe_end, self.data_fd):
                    os.set_inheritable(fd, True)
                os.execv(command[0], command)
            finally:
                os._exit(EXIT_STORAGE)
        os.close(order)
        return pid

    def _await(self, pid: int, begun: float) -> _Death:
        """Wait for a task's process; end it when its time is up or when this array task is told to stop."""
        limit_s = self.bag.limit_s
        if limit_s is None:
            limit_s = max(self.bag.walltime_s - 2 * self.bag.grace_s, 1.0)
        deadline = begun + limit_s
        killed: str | None = None
        while True:
            now = time.monotonic()
            if killed is None and (self.stop == "term" or now >= deadline):
                killed = "term" if self.stop == "term" else "limit"
                signal_group(pid, signal.SIGTERM)
                deadline = now + self.bag.grace_s
            elif killed is not None and now >= deadline:
                signal_group(pid, signal.SIGKILL)
                deadline = now + 1
            received = signal.sigtimedwait(_WATCHED, max(deadline - now, 0))
            if received is not None:
                self._note(received.si_signo)
            reaped, status, usage = os.wait4(pid, os.WNOHANG)
            if reaped:
                return _Death(self._message(), status, usage, killed or self._doubt(status))

    def _doubt(self, status: int) -> str | None:
        """After a death by TERM or KILL, wait a moment for our own TERM: perhaps the whole job is being ended."""
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) not in (signal.SIGTERM, signal.SIGKILL):
            return None
        if self.stop != "term" and signal.sigtimedwait((signal.SIGTERM,), _DOUBT_S) is not None:
            self._note(signal.SIGTERM)
        return "term" if self.stop == "term" else None

    def _message(self) -> dict[str, Any]:  # Any: JSON
        """Return what the task's process said, ``{}`` when it died before."""
        try:
            line = os.read(self.pipe, _PIPE_SIZE)
            return dict(json.loads(line)) if line.endswith(b"\n") else {}
        except (BlockingIOError, ValueError):
            return {}

    def _end_record(self, task: TaskRow, death: _Death) -> dict[str, Any]:  # Any: JSON
        out, err = os.fstat(1).st_size, os.fstat(2).st_size
        message = death.message if death.message.get("i") == task.number else {}
        signalled = os.WTERMSIG(death.status) if os.WIFSIGNALED(death.status) else None
        if "fault" in message:
            self.stop = "fault"
            outcome: dict[str, Any] = {"st": "interrupted", "msg": message["fault"]}
        elif message:
            outcome = {key: message[key] for key in ("st", "r", "exc", "msg", "tb") if key in message}
        elif death.killed is not None:
            outcome = {"st": "timeout" if death.killed == "limit" else "interrupted"}
        else:
            outcome = {"st": "exit" if signalled is None else "signal"}
        if not message:
            outcome.update({"sig": signalled} if signalled is not None else {"code": os.WEXITSTATUS(death.status)})
        end: dict[str, Any] = {
            "i": task.number,
            "n": task.attempt,
            **outcome,
            "cpu": [round(death.usage.ru_utime, 4), round(death.usage.ru_stime, 4)],
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
            self.directory = os.path.join(self.bag.path, "work", f"{self.name}-{self.directory_number}")
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


def work_on_one(bag_path: str, key_file: str, order_fd: int) -> NoReturn:
    """Run one task in this new interpreter, as the worker that started it ordered through a descriptor."""
    with open(order_fd, "rb") as file:
        file.seek(0)
        # Written by the worker, our parent, into memory that nobody else can open by name.
        assignment: Assignment = pickle.load(file)
    write_lines_at_once()
    run_task(open_bag(bag_path, key_file), assignment, None)
