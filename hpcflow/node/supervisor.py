"""The supervisor of one local array: a detached process that runs its array tasks as cores and memory become free."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import signal
import time
import traceback
from collections.abc import Generator
from dataclasses import dataclass
from typing import Final, NoReturn

from hpcflow.node.files import append_all
from hpcflow.node.ledger import Desk, Machine, Process, born, grant, read_json, signal_if_alive
from hpcflow.node.processes import adopt_orphans, die_with_parent, kill_leftovers, kill_strangers

__all__ = ["CANCEL_ALL", "CANCEL_PENDING", "Array", "start_supervisor"]

CANCEL_PENDING: Final = signal.SIGUSR2
CANCEL_ALL: Final = signal.SIGTERM
_SLOT_FREE: Final = signal.SIGUSR1
_WATCHED: Final = (signal.SIGCHLD, _SLOT_FREE, CANCEL_PENDING, CANCEL_ALL)

#: A supervisor that waits for cores is woken by whoever gives some back; this is for one that was killed and couldn't.
_RECHECK_S: Final = 5.0
#: Variables by which a worker would take itself for another array task, where the server itself runs inside a job.
_FOREIGN: Final = ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Array:
    """A submission, checked."""

    token: str
    width: int
    command: tuple[str, ...]
    cpus: int
    memory_mib: int
    walltime_s: float
    grace_s: float
    path: str
    prologue: str
    #: Whose it is, for those who wait; empty where nobody said.
    dispatch: str = ""


def start_supervisor(desk: Desk, array: Array, job_id: str, here: Machine) -> Process:
    """Fork a session leader that outlives this process and its caller.

    The caller holds the desk's lock. The supervisor begins when it is released and the array is in the books; when the
    caller died before that, the array was never submitted and the supervisor leaves.
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    middle = os.fork()
    if middle == 0:
        try:
            os.setsid()
            # Blocked before the pid is known to anyone, so that no signal is lost or kills.
            signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
            if os.fork() == 0:
                me = Process(pid=os.getpid(), born=born(os.getpid()) or "")
                os.write(write_end, f"{me.pid} {me.born}".encode())
                _detach(array, job_id)
                _Supervisor(desk, array, job_id, here, me).run()
        except BaseException:  # the last words of a process that nobody waits for go to its log
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(write_end)
    os.waitpid(middle, 0)
    with os.fdopen(read_end, encoding="ascii") as pipe:
        pid, _, since = pipe.read().partition(" ")
    return Process(pid=int(pid), born=since)


def _detach(array: Array, job_id: str) -> None:
    """Let go of the caller's files, its lock and its pipes among them, and of its directory."""
    logs = os.path.join(array.path, "logs")
    os.makedirs(logs, 0o700, exist_ok=True)
    log = os.path.join(logs, f"{job_id}.log")
    log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for fd, source in ((0, null), (1, log_fd), (2, log_fd)):
        os.dup2(source, fd)
    os.closerange(3, 65536)
    os.chdir("/")
    os.umask(0o077)
    for number in _WATCHED:
        signal.signal(number, signal.SIG_DFL)
    adopt_orphans()


@dataclass(slots=True)
class _Running:
    """One array task that has a process."""

    index: int
    started_at: float
    #: When it gets the next signal, by the monotonic clock.
    deadline: float
    #: Why it was told to end: "timeout" or "cancelled".
    ending: str | None = None


class _Supervisor:
    def __init__(self, desk: Desk, array: Array, job_id: str, here: Machine, me: Process) -> None:
        self.desk = desk
        self.array = array
        self.job_id = job_id
        self.here = here
        self.me = me
        self.pending = collections.deque(range(array.width))
        self.running: dict[int, _Running] = {}
        #: Accounting that could not be written yet, and whether the last try to write anything failed.
        self.unwritten: collections.deque[bytes] = collections.deque()
        self.late = False
        self.accounting = os.open(
            desk.file(array.token + ".jsonl"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
        )

    def run(self) -> None:
        if not self._enter():
            return
        while True:
            if not self.pending and not self.running:
                kill_leftovers()  # they use the machine as well
            # A full disk is waited for: workers that run well shall not die of it.
            self.late = False
            with self._patient():
                self._balance()
            with self._patient():
                self._write_down()
            if not self.pending and not self.running and not self.late:
                return
            received = signal.sigtimedwait(_WATCHED, self._patience())
            while received is not None:
                if received.si_signo in (CANCEL_ALL, CANCEL_PENDING):
                    self._cancel(running=received.si_signo == CANCEL_ALL)
                received = signal.sigtimedwait(_WATCHED, 0)
            self._reap()
            self._enforce(time.monotonic())

    def _patience(self) -> float:
        deadlines = [task.deadline - time.monotonic() for task in self.running.values()]
        if self.pending or self.late:
            deadlines.append(_RECHECK_S)
        return max(0.0, min(deadlines))

    @contextlib.contextmanager
    def _patient(self) -> Generator[None]:
        try:
            yield
        except OSError:
            self.late = True

    # ---- cores and memory

    def _enter(self) -> bool:
        """Wait until the submission is in the books; ``False`` when it never will be."""
        with self.desk.locked() as ledger:
            known = read_json(self.desk.file(self.array.token + ".json"))
            if known is None or known["born"] != self.me.born or known["pid"] != self.me.pid:
                return False
            ledger["arrays"].setdefault(self.array.token, self._entry())
        return True

    def _entry(self) -> dict[str, object]:
        return {
            "pid": self.me.pid,
            "born": self.me.born,
            "cpus": self.array.cpus,
            "memory_mib": self.array.memory_mib,
            "dispatch": self.array.dispatch,
            "running": len(self.running),
            "waits": bool(self.pending),
        }

    def _balance(self) -> None:
        """Give back what is no longer used, begin what fits, and wake the next array in the queue."""
        token = self.array.token
        with self.desk.locked() as ledger:
            arrays = ledger["arrays"]
            before = arrays.get(token)
            arrays[token] = self._entry()
            for _ in range(grant(ledger, token, len(self.pending), self.here)):
                self._begin(self.pending[0])
                self.pending.popleft()
            arrays[token] = self._entry()
            changed = arrays[token] != before
            if not self.pending and not self.running:
                del arrays[token]
            following = next((entry for other, entry in arrays.items() if entry["waits"] and other != token), None)
        if changed and following is not None:
            signal_if_alive(Process(pid=following["pid"], born=following["born"]), _SLOT_FREE)

    # ---- array tasks

    def _begin(self, index: int) -> None:
        now = time.time()
        pid = os.fork()
        if pid == 0:
            self._become(index)
        self.running[pid] = _Running(index, now, time.monotonic() + self.array.walltime_s)
        self._account(index=index, phase="running", raw="", started_at=now)

    def _become(self, index: int) -> NoReturn:
        """Turn this forked process into an array task."""
        try:
            die_with_parent(self.me.pid)
            os.setsid()
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            log = os.path.join(self.array.path, "logs", f"{self.job_id}_{index}.log")
            fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
            os.dup2(fd, 1)
            os.dup2(fd, 2)
            os.close(fd)
            os.chdir(self.array.path)
            environment = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
            environment.update(HPCFLOW_JOB=self.job_id, HPCFLOW_INDEX=str(index), HPCFLOW_RESTART="0")
            command = list(self.array.command)
            if self.array.prologue.strip():
                command = ["/bin/sh", "-c", f'{self.array.prologue}\nexec "$@"', "hpcflow", *command]
            os.execvpe(command[0], command, environment)
        except OSError as error:
            os.write(2, f"The array task can't begin: {error}.\n".encode())
        finally:
            os._exit(127)

    def _reap(self) -> None:
        strangers = False
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            task = self.running.pop(pid, None)
            # The worker's own tasks die with it; what those had started comes to us, one generation after the other.
            strangers = strangers or task is None or os.WIFSIGNALED(status)
            if task is None:
                continue
            code = None if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
            number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
            self._account(
                index=task.index,
                phase="ended",
                cause="done" if code == 0 else task.ending or "failed",
                raw=self._words(task, code, number),
                exit_code=code,
                signal=number,
                cpu_s=round(usage.ru_utime + usage.ru_stime, 3),
                max_rss_kib=usage.ru_maxrss,
                started_at=task.started_at,
                ended_at=time.time(),
            )
        if strangers:
            kill_strangers(frozenset(self.running))

    def _words(self, task: _Running, code: int | None, number: int | None) -> str:
        how = f"exit code {code}" if number is None else f"killed by signal {number}"
        if code == 0 or task.ending is None:
            return how
        why = f"walltime of {self.array.walltime_s:g} s used up" if task.ending == "timeout" else "cancelled"
        return f"{why}, {how}"

    def _enforce(self, now: float) -> None:
        for pid, task in self.running.items():
            if now >= task.deadline:
                first = task.ending is None
                self._end(pid, task, signal.SIGTERM if first else signal.SIGKILL, "timeout", now)

    def _cancel(self, *, running: bool) -> None:
        while self.pending:
            index = self.pending.popleft()
            self._account(
                index=index, phase="ended", cause="cancelled", raw="cancelled before it began", ended_at=time.time()
            )
        if running:
            for pid, task in self.running.items():
                if task.ending is None:
                    self._end(pid, task, signal.SIGTERM, "cancelled", time.monotonic())

    def _end(self, pid: int, task: _Running, number: signal.Signals, why: str, now: float) -> None:
        task.ending = task.ending or why
        task.deadline = now + self.array.grace_s
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def _account(self, **record: object) -> None:
        self.unwritten.append(json.dumps(record).encode() + b"\n")
        with self._patient():
            self._write_down()

    def _write_down(self) -> None:
        """Append what the accounting lacks; a line that a full disk cut short is closed and written again."""
        while self.unwritten:
            try:
                append_all(self.accounting, self.unwritten[0])
            except OSError:
                self.unwritten[0] = b"\n" + self.unwritten[0].lstrip(b"\n")
                raise
            self.unwritten.popleft()
