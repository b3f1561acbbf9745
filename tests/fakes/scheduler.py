"""A small scheduler: real processes on this machine, arrays, limits, holds and history, and faults that tests ask for.

It knows nothing of how PBS or LSF spell things: `pbs.py` and `lsf.py` beside it do. One thread, one process; its clock
is the machine's.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

WAITING, RUNNING, ENDED = "waiting", "running", "ended"


#: Exit code, stdout, stderr.
Answer = tuple[int, str, str]


class Request(NamedTuple):
    """One command as the client sent it."""

    argv: list[str]
    stdin: str
    directory: str
    environment: dict[str, str]
    user: str


class Refusal(Exception):
    """A command that does nothing: its exit code and its words on stderr."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(words)
        self.code, self.words = code, words


@dataclass
class Faults:
    """What goes wrong, or is set up otherwise, until a test says that it doesn't."""

    #: No server answers.
    down: bool = False
    #: Each command takes this much longer.
    latency_s: float = 0.0
    #: So many submissions to come are taken, and their answer is lost.
    lose_replies: int = 0
    #: So many submissions to come are lost before the server sees them.
    lose_requests: int = 0
    #: What a site's own check says to each submission.
    reject: str = ""
    #: Nothing starts.
    stopped: bool = False
    #: No record of what has ended.
    no_history: bool = False
    #: Answers end after so many bytes.
    cut_at: int | None = None
    #: Printed before each answer, as login scripts do.
    noise: str = ""
    #: The version's own way of writing JSON.
    old_json: bool = False
    #: Answers of a different product.
    other: str = ""
    #: Array tasks that a user may have at once.
    max_queued: int | None = None
    max_array: int | None = None
    #: The scheduler plans ahead: what waits is to start so many seconds after its submission.
    plan_s: float | None = None


@dataclass
class Element:
    """One index of an array, or the one process of a single job."""

    index: int
    state: str = WAITING
    process: subprocess.Popen[bytes] | None = None
    #: As wait() gives it: below zero for signals.
    status: int | None = None
    started_at: float = 0.0
    ended_at: float = 0.0
    runs: int = 0
    #: Why we killed it: "walltime", "mem", or "user".
    killed: str = ""
    killed_by: str = ""
    #: Signals that are due, each with its time.
    due: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    suspended: bool = False
    slot: int = 0
    #: Its own record was lost with the array.
    cloned: bool = False

    @property
    def never_ran(self) -> bool:
        return self.state == ENDED and self.runs == 0


@dataclass
class Job:
    """One submission."""

    number: int
    name: str
    user: str
    queue: str
    script: str
    argv: list[str]
    arguments: list[str]
    directory: str
    environment: Mapping[str, str]
    shell: str
    cores: int
    walltime_s: float | None
    elements: list[Element]
    array: bool = False
    indices: str = ""
    at_once: int | None = None
    held: str = ""
    stdout: str = "/dev/null"
    stderr: str = ""
    append: bool = True
    created_at: float = 0.0
    changed_at: float = 0.0
    deleted_by: str = ""
    #: What only one scheduler knows of it.
    extras: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def over(self) -> bool:
        return all(element.state == ENDED for element in self.elements)

    @property
    def began(self) -> bool:
        return any(element.runs for element in self.elements)

    def element(self, index: int) -> Element | None:
        return next((element for element in self.elements if element.index == index), None)


class Scheduler:
    """Jobs and the machine that runs them."""

    def __init__(self, folder: Path, *, cores: int, first: int) -> None:
        self.folder = folder
        self.cores = cores
        self.next = first
        self.jobs: dict[int, Job] = {}
        self.faults = Faults()
        #: What ends a process, and what it gets between one signal and the next.
        self.signals: dict[str, tuple[int, ...]] = {"user": (signal.SIGTERM, signal.SIGKILL)}
        self.grace_s = 2.0
        #: Commands that were answered, by name, for tests that count.
        self.calls: list[list[str]] = []
        self.live: dict[int, Job] = {}
        self.dirty = True

    def submit(self, job: Job) -> Job:
        job.created_at = job.changed_at = time.time()
        self.jobs[job.number] = self.live[job.number] = job
        self.dirty = True
        return job

    def number(self) -> int:
        self.next += 1
        return self.next - 1

    def fits(self, job: Job) -> bool:
        return job.cores <= self.cores

    @property
    def busy(self) -> int:
        return sum(job.cores for job in self.live.values() for element in job.elements if element.state == RUNNING)

    # ---- time passes

    def tick(self) -> None:
        """Notice what ended, enforce limits, start what can start."""
        self._reap()
        if self.dirty and not self.faults.stopped:
            self.dirty = False
            self._start()

    def _running(self) -> Iterator[tuple[Job, Element]]:
        for job in list(self.live.values()):
            for element in job.elements:
                if element.state == RUNNING:
                    yield job, element

    def _reap(self) -> None:
        now = time.time()
        for job, element in self._running():
            assert element.process is not None
            status = element.process.poll()
            if status is not None:
                self._kill_session(element.process.pid, signal.SIGKILL)
                self.end(job, element, status)
                continue
            if not element.killed and job.walltime_s is not None and now - element.started_at > job.walltime_s:
                self.kill(job, element, "walltime")
            while element.due and element.due[0][0] <= now:
                self._kill_session(element.process.pid, element.due.pop(0)[1])

    def end(self, job: Job, element: Element, status: int | None) -> None:
        element.state, element.status, element.ended_at = ENDED, status, time.time()
        job.changed_at = element.ended_at
        self.dirty = True
        if job.over:
            self.live.pop(job.number, None)

    def _start(self) -> None:
        free = self.cores - self.busy
        for job in list(self.live.values()):
            if job.held or not job.extras.get("started", True) or not self.fits(job):
                continue
            going = sum(element.state == RUNNING for element in job.elements)
            for element in job.elements:
                if element.state != WAITING:
                    continue
                if free < job.cores or (job.at_once is not None and going >= job.at_once):
                    break
                self._run(job, element)
                free -= job.cores
                going += 1

    def _run(self, job: Job, element: Element) -> None:
        taken = {other.slot for _, other in self._running()}
        element.slot = next(slot for slot in range(self.cores + 1) if slot not in taken)
        element.state, element.started_at, element.runs = RUNNING, time.time(), element.runs + 1
        element.killed = element.killed_by = ""
        element.due = []
        job.changed_at = element.started_at
        text = self.folder / f"{job.number}.{element.index}.sh"
        text.write_text(job.script)
        text.chmod(0o700)
        environment = {**job.environment, **job.extras["variables"](job, element)}
        out = job.extras["path"](job.stdout, job, element)
        flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if job.append else os.O_TRUNC)
        fd = os.open(out, flags, 0o600)
        try:
            element.process = subprocess.Popen(
                job.extras["command"](job, text),
                executable=job.shell or None,
                stdin=subprocess.PIPE,
                stdout=fd,
                stderr=fd,
                cwd=job.directory,
                env=environment,
                start_new_session=True,
            )
        finally:
            os.close(fd)
        assert element.process.stdin is not None
        element.process.stdin.write(job.extras["stdin"](text))
        element.process.stdin.close()

    # ---- what commands do

    def kill(self, job: Job, element: Element, why: str, by: str = "") -> None:
        """End an element: at once when it waits, by one signal after the other when it runs."""
        if element.state == WAITING:
            element.killed, element.killed_by = why, by
            self.end(job, element, None)
        elif element.state == RUNNING and element.process is not None and not element.killed:
            element.killed, element.killed_by = why, by
            now = time.time()
            signals = self.signals.get(why, self.signals["user"])
            element.due = [(now + place * self.grace_s, number) for place, number in enumerate(signals)]
            if element.suspended:
                self._kill_session(element.process.pid, signal.SIGCONT)

    def signal(self, element: Element, number: int) -> None:
        if element.process is not None and element.state == RUNNING:
            element.suspended = number == signal.SIGSTOP or (element.suspended and number != signal.SIGCONT)
            self._kill_session(element.process.pid, number)

    def fail_node(self) -> int:
        """Lose every running element as a node's death does, and queue it again; return how many."""
        lost = 0
        for _, element in self._running():
            assert element.process is not None
            self._kill_session(element.process.pid, signal.SIGKILL)
            element.process.wait()
            element.state, element.process = WAITING, None
            lost += 1
        self.dirty = True
        return lost

    def stop(self) -> None:
        for _, element in self._running():
            assert element.process is not None
            self._kill_session(element.process.pid, signal.SIGKILL)
            element.process.wait()

    @staticmethod
    def _kill_session(session: int, number: int) -> None:
        """Signal every process of a session: workers give their tasks groups of their own."""
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == session:
                    os.kill(int(entry), number)
            except (OSError, IndexError, ValueError):
                continue
