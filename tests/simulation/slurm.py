"""A Slurm by its commands: argv in, the text of 22.05 out (tests/data/slurm), and array tasks that live meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random

from hpcflow.core.plugin import Command, Reply
from tests.simulation.clock import EPOCH
from tests.simulation.history import History
from tests.simulation.workers import Site, Worker

__all__ = ["Element", "Job", "Slurm", "SlurmTraits"]

_KILL_WAIT_S = 30.0
_CONFIG = """Configuration data as of 2026-11-23T00:00:00
AccountingStorageType   = accounting_storage/{books}
ClusterName             = mini
JobRequeue              = 1
MaxArraySize            = {size}
MinJobAge               = {age} sec
SLURM_VERSION           = 22.05.8
"""
_DOWN = b"%s error: Unable to contact slurm controller (connect failure)\n"


@dataclass(frozen=True, slots=True)
class SlurmTraits:
    """How one cluster is set up."""

    nodes: int = 3
    cpus: int = 4
    accounting: bool = True
    max_array: int = 1001
    min_job_age_s: float = 300.0
    requeue_delay_s: float = 121.0
    #: Longest time until sacct shows what squeue knows.
    book_lag_s: float = 5.0
    #: Node failures requeue, as `--requeue` asks; a site may have it otherwise.
    requeues: bool = True
    #: An array task has its node to itself.
    whole_nodes: bool = False


@dataclass(slots=True)
class Element:
    """One array task."""

    index: int
    state: str = "PENDING"
    reason: str = "Priority"
    not_before: float = 0.0
    start: float | None = None
    end: float | None = None
    node: str = ""
    restart: int = 0
    code: str = "0:0"
    by: int | None = None
    worker: Worker | None = None
    #: What follows when the worker is gone: a final state, or "PENDING" for a requeue.
    next: str | None = None
    #: Rows of accounting and when each replaces the one before.
    books: list[tuple[float, str, str]] = field(default_factory=list[tuple[float, str, str]])
    begun: bool = False

    @property
    def alive(self) -> bool:
        return self.state in {"PENDING", "RUNNING", "COMPLETING"}


@dataclass(slots=True)
class Job:
    """One array that the controller took."""

    id: str
    name: str
    path: str
    limit_s: float
    submitted: float
    elements: list[Element]
    excluded: frozenset[str]

    @property
    def alive(self) -> bool:
        return any(element.alive for element in self.elements)


class Slurm:
    """The controller, the accounting and the nodes."""

    def __init__(self, site: Site, traits: SlurmTraits, rng: Random) -> None:
        self.traits = traits
        self.jobs: list[Job] = []
        self.controller_up = True
        self.books_up = True
        self._site = site
        self._rng = rng
        self._next_id = rng.randint(100, 999)
        self._nodes = [f"node{number}" for number in range(1, traits.nodes + 1)]
        self._lost: set[str] = set()
        self._deferred: list[Callable[[], None]] = []

    @property
    def history(self) -> History:
        return self._site.history

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._site.loop

    def elements(self, *states: str) -> list[tuple[Job, Element]]:
        """Return the array tasks in some states, oldest first."""
        return [(job, element) for job in self.jobs for element in job.elements if element.state in states]

    def alive(self, token: str) -> int:
        """Return how many array tasks under a name are not over."""
        return sum(element.alive for job in self.jobs if job.name == token for element in job.elements)

    # ---- commands

    def answer(self, command: Command) -> Reply:
        """Run one command to its end, now."""
        argv = list(command.argv)
        match argv:
            case ["sbatch", *_]:
                if not self.controller_up:
                    return Reply(1, b"", _DOWN % b"sbatch:")
                return self._submit(command)
            case ["squeue", *options]:
                return self._squeue(options)
            case ["sh", "-c", script, "hpcflow-books", _, *options] if "sacct" in script:
                return self._books(options)
            case ["scancel", *ids]:
                return self._scancel(ids)
            case ["sh", "-c", script, "hpcflow-release", _, *ids] if "scontrol" in script:
                return self._release(ids)
            case ["sh", "-c", script, "hpcflow-cancel", names, option, _, *ids] if "scancel" in script:
                found = {job.id for job in self.jobs if job.name in names.split(",")} if self.controller_up else set()
                named = sorted({*ids, *found}, key=int)
                reply = self._scancel([*([option] if option else []), *named]) if named else Reply(0)
                return reply if self.controller_up or reply.exit_code else Reply(75, b"", _DOWN % b"slurm_load_jobs")
            case ["sh", "-c", script] if "scontrol show config" in script:
                return self._limits(script)
            case _:
                raise AssertionError(f"this Slurm does not know the command {argv}")

    def _submit(self, command: Command) -> Reply:
        options = dict(word[2:].split("=", 1) for word in command.argv if word.startswith("--") and "=" in word)
        excluded = set(options.get("exclude", "").split(","))
        if excluded.issuperset(self._nodes):
            return Reply(
                1, b"", b"sbatch: error: Batch job submission failed: Requested node configuration is not available\n"
            )
        last = int(options["array"].partition("-")[2])
        self._next_id += self._rng.randint(1, 3)
        job = Job(
            id=str(self._next_id),
            name=options["job-name"],
            path=options["chdir"],
            limit_s=60.0 * int(options["time"]),
            submitted=self.loop.time(),
            elements=[Element(index) for index in range(last + 1)],
            excluded=frozenset(excluded),
        )
        assert options["dependency"] == "singleton"
        twins = self.alive(job.name)
        self.jobs.append(job)
        self.history.add("accepted", job=job.id, token=job.name, width=last + 1, twins=twins or None)
        self._later(self._rng.uniform(0.5, 10.0), self._schedule)
        return Reply(0, b"%d\n" % self._next_id)

    def _limits(self, script: str) -> Reply:
        if not self.controller_up:
            return Reply(1, b"", _DOWN % b"slurm_load_ctl_conf")
        mark = script.partition("echo '")[2].partition("'")[0]
        traits = self.traits
        config = _CONFIG.format(
            books="slurmdbd" if traits.accounting else "none", size=traits.max_array, age=int(traits.min_job_age_s)
        )
        cells = {
            "P": "batch*",
            "l": "2-00:00:00",
            "s": "1-infinite",
            "D": str(traits.nodes),
            "c": str(traits.cpus),
            "m": "32000",
            "G": "(null)",
            "h": "EXCLUSIVE" if traits.whole_nodes else "NO",
        }
        fields = script.partition("--format='")[2].partition("'")[0].split("|")
        info = "|".join(cells[field.lstrip("%")] for field in fields)
        return Reply(0, f"{config}{mark}\n{info}\n{mark}\n".encode())

    def _squeue(self, options: Sequence[str]) -> Reply:
        if not self.controller_up:
            return Reply(1, b"", _DOWN % b"slurm_load_jobs")
        given = dict(word[2:].split("=", 1) for word in options if "=" in word)
        names = given["name"].split(",") if "name" in given else None
        now = self.loop.time()
        lines: list[str] = []
        for job in self.jobs:
            if names is not None and job.name not in names:
                continue
            rest = False
            for element in job.elements:
                if element.end is not None and now > element.end + self.traits.min_job_age_s:
                    continue
                if element.state == "CANCELLED" and not element.begun and any(e.begun for e in job.elements):
                    rest = True  # all of these are one row under the array's own id
                    continue
                lines.append(self._queue_line(given["format"], job, element, f"{job.id}_{element.index}"))
            if rest:
                last = next(e for e in job.elements if e.state == "CANCELLED" and not e.begun)
                lines.append(self._queue_line(given["format"], job, last, job.id))
        return Reply(0, "".join(f"{line}\n" for line in lines).encode())

    def _queue_line(self, fields: str, job: Job, element: Element, name: str) -> str:
        ran = element.start is not None
        cells = {
            "i": name,
            "A": job.id,
            "F": job.id,
            "K": str(element.index),
            "T": element.state,
            "r": element.reason or "None",
            "S": _stamp(element.start) if ran or element.end is None else _stamp(element.end),
            "e": _stamp(element.end) if element.end is not None else "N/A",
            "N": element.node,
            "j": job.name,
            "u": "hpc",
            "U": "1001",
        }
        return "|".join(cells[field.lstrip("%")] for field in fields.split("|"))

    def _books(self, options: Sequence[str]) -> Reply:
        """Do what the plugin's script does: sacct, and before its rows the memory of what was killed."""
        reply = self._sacct(options)
        killed = [line.split(b"|")[0] for line in reply.stdout.splitlines() if b"|FAILED|0:9|" in line]
        used = b"".join(b"used|%s||1000M\nused|%s.batch|900000K|\n" % (name, name) for name in killed)
        return Reply(reply.exit_code, used + reply.stdout, reply.stderr)

    def _sacct(self, options: Sequence[str]) -> Reply:
        if not self.books_up:
            return Reply(1, b"", b"sacct: error: Problem talking to the database: Connection refused\n")
        names = next(word for word in options if word.startswith("--name=")).removeprefix("--name=").split(",")
        fields = options[options.index("-o") + 1].split(",")
        now = self.loop.time()
        lines: list[str] = []
        for job in self.jobs:
            if job.name not in names or now < job.submitted + self.traits.book_lag_s:
                continue
            waiting: dict[str, list[int]] = {}
            started = any(element.begun for element in job.elements)
            for element in job.elements:
                row = next((row for row in reversed(element.books) if row[0] <= now), None)
                if row is not None:
                    lines.append(self._book_line(fields, job, element, f"{job.id}_{element.index}", row[1], row[2]))
                elif element.state == "PENDING":
                    waiting.setdefault("PENDING", []).append(element.index)
                elif element.state == "CANCELLED" and not element.begun and not started:
                    waiting.setdefault(f"CANCELLED by {element.by}", []).append(element.index)
            for state, indices in waiting.items():
                listed = ",".join(map(str, indices))
                lines.append(self._book_line(fields, job, None, f"{job.id}_[{listed}]", state, "0:0"))
        return Reply(0, "".join(f"{line}\n" for line in lines).encode())

    def _book_line(
        self, fields: Sequence[str], job: Job, element: Element | None, name: str, state: str, code: str
    ) -> str:
        over = element is not None and element.end is not None and state not in {"RUNNING", "PENDING"}
        cells = {
            "JobID": name,
            "JobIDRaw": job.id,
            "State": state,
            "ExitCode": code,
            "Start": _stamp(element.start) if element is not None and element.start is not None else "Unknown",
            "End": _stamp(element.end) if over and element is not None else "Unknown",
            "CPUTimeRAW": "1",
            "NodeList": element.node or "None assigned" if element is not None else "None assigned",
            "JobName": job.name,
            "User": "hpc",
            "Cluster": "mini",
            "MaxRSS": "",
            "Reason": "None",
        }
        return "|".join(cells[field] for field in fields)

    def _scancel(self, words: Sequence[str]) -> Reply:
        if not self.controller_up:
            return Reply(8, b"", _DOWN % b"scancel: error: Kill job")
        pending_only = "--state=PENDING" in words
        ids = {word for word in words if not word.startswith("--")}
        hit = False
        for job in self.jobs:
            if job.id in ids:
                for element in job.elements:
                    if element.alive and (element.state == "PENDING" or not pending_only):
                        hit = True
                        self.cancel(job, element, by=1001)
        if pending_only and not hit:
            return Reply(1, b"", b"scancel: error: Invalid job id specified\n")
        return Reply(0)

    def _release(self, ids: Sequence[str]) -> Reply:
        if not self.controller_up:
            return Reply(1, b"", _DOWN % b"scontrol:")
        for job in self.jobs:
            if job.id in ids:
                self.let_go(job)
        return Reply(0)

    # ---- what happens to array tasks

    def hold(self, job: Job) -> None:
        """Do what `scontrol hold` does: what is pending stays so."""
        self.history.add("held", job=job.id)
        for element in job.elements:
            if element.state == "PENDING":
                element.reason = "JobHeldUser"

    def let_go(self, job: Job) -> None:
        for element in job.elements:
            if element.state == "PENDING" and element.reason == "JobHeldUser":
                element.reason = "Priority"
        self._later(1.0, self._schedule)

    def cancel(self, job: Job, element: Element, *, by: int) -> None:
        """Do what `scancel` by a user id does."""
        element.by = by
        if element.state == "PENDING":
            self._over(job, element, "CANCELLED", reason=element.reason)
            if element.begun:
                self._book(element, f"CANCELLED by {by}", "0:0")
        elif element.state == "RUNNING":
            self._stop(job, element, "CANCELLED")

    def requeue(self, job: Job, element: Element) -> None:
        """Do what `scontrol requeue` does to a running array task."""
        if element.state == "RUNNING":
            self._stop(job, element, "REQUEUED")

    def preempt(self, job: Job, element: Element, *, requeue: bool) -> None:
        if element.state == "RUNNING":
            self._stop(job, element, "PREEMPTED+" if requeue else "PREEMPTED")

    def kill(self, job: Job, element: Element, state: str, code: str) -> None:
        """End a running array task and its worker at once: out of memory, a killed batch shell."""
        if element.state == "RUNNING" and element.worker is not None:
            element.worker.kill()
            self._over(job, element, state, code=code)

    def fail_node(self, name: str, *, zombies: bool, noticed_after_s: float, back_after_s: float) -> None:
        """Lose a node: its workers die, or go on unseen; the controller notices later."""
        self.history.add("node lost", node=name, zombies=zombies or None)
        lost = [(job, element) for job, element in self.elements("RUNNING", "COMPLETING") if element.node == name]
        self._lost.add(name)
        for _, element in lost:
            if element.worker is not None and not zombies:
                element.worker.kill()
        self._later(noticed_after_s, partial(self._notice, lost))
        self._later(noticed_after_s + back_after_s, partial(self._return, name))

    def _notice(self, lost: Sequence[tuple[Job, Element]]) -> None:
        for job, element in lost:
            worker = element.worker
            if element.state not in {"RUNNING", "COMPLETING"} or worker is None:
                continue
            worker.zombie = True
            if element.next in {"CANCELLED", "TIMEOUT"}:
                self._over(job, element, element.next)
            elif self.traits.requeues:
                self._requeued(job, element, "NODE_FAIL")
            else:
                self._over(job, element, "NODE_FAIL")

    def _return(self, name: str) -> None:
        self._lost.discard(name)
        self._schedule()

    def hold_controller(self, seconds: float) -> None:
        self.controller_up = False
        self.history.add("controller down", seconds=round(seconds))
        self._site.loop.call_later(seconds, self._controller_back)

    def hold_books(self, seconds: float) -> None:
        self.books_up = False
        self.history.add("books down", seconds=round(seconds))

        def back() -> None:
            self.books_up = True

        self.loop.call_later(seconds, back)

    def _controller_back(self) -> None:
        self.controller_up = True
        deferred, self._deferred = self._deferred, []
        for action in deferred:
            action()
        self._schedule()

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        """Do what the controller does, as soon as it is there to do it."""

        def act() -> None:
            if self.controller_up:
                action()
            else:
                self._deferred.append(action)

        self.loop.call_later(seconds, act)

    def _schedule(self) -> None:
        now = self.loop.time()
        room = 1 if self.traits.whole_nodes else self.traits.cpus
        free = {name: room for name in self._nodes if name not in self._lost}
        for _, element in self.elements("RUNNING", "COMPLETING"):
            if element.node in free:
                free[element.node] -= 1
        for number, job in enumerate(self.jobs):
            if not any(element.state == "PENDING" for element in job.elements):
                continue
            if any(earlier.alive for earlier in self.jobs[:number] if earlier.name == job.name):
                for element in job.elements:
                    if element.reason != "JobHeldUser":
                        element.reason = "Dependency"
                continue
            for element in job.elements:
                if element.state != "PENDING" or element.not_before > now or element.reason == "JobHeldUser":
                    continue
                usable = [name for name in free if name not in job.excluded]
                node = max(usable, key=lambda name: free[name], default="")
                if not node or free[node] < 1:
                    element.reason = "Resources"
                    break
                free[node] -= 1
                self._start(job, element, node)

    def _start(self, job: Job, element: Element, node: str) -> None:
        element.state, element.reason, element.node = "RUNNING", "None", node
        element.start, element.end, element.begun, element.next = self.loop.time(), None, True, None
        self._book(element, "RUNNING", "0:0")
        self.history.add("starts", job=job.id, index=element.index, restart=element.restart or None, node=node)
        worker = Worker(
            self._site, job.id, element.index, element.restart, job.path, on_exit=lambda code: self._left(worker, code)
        )
        element.worker = worker
        self._watched(job, element)[1].begin()
        self._later(job.limit_s + self._rng.uniform(0, 30), partial(self._time_out, job, element, worker))
        if job.limit_s >= 1800:
            self.loop.call_later(job.limit_s - 60 - self._rng.uniform(0, 60), partial(worker.tell, "warned"))

    def _watched(self, job: Job, element: Element) -> tuple[Element, Worker]:
        assert element.worker is not None
        return element, element.worker

    def _left(self, worker: Worker, code: int) -> None:
        """A worker ended by itself; the controller hears of it, unless it had given it up."""
        if worker.zombie:
            return
        for job in self.jobs:
            for element in job.elements:
                if element.worker is worker:
                    self._later(0.0, partial(self._ended, job, element, worker, code))

    def _ended(self, job: Job, element: Element, worker: Worker, code: int) -> None:
        if element.worker is not worker or not element.alive or worker.zombie or element.state == "PENDING":
            return
        if element.next is not None:
            self._carry_out(job, element, worker)
        elif code == 0:
            self._over(job, element, "COMPLETED")
        else:
            self._over(job, element, "FAILED", code=f"0:{-code}" if code < 0 else f"{code}:0")

    def _time_out(self, job: Job, element: Element, worker: Worker) -> None:
        if element.worker is worker and element.state == "RUNNING":
            self._stop(job, element, "TIMEOUT")

    def _stop(self, job: Job, element: Element, following: str) -> None:
        """Send SIGTERM, and SIGKILL after KillWait; then the array task takes its next state."""
        element.state, element.next = "COMPLETING", following
        worker = self._watched(job, element)[1]
        if element.node in self._lost:
            return  # nobody is there to hear it: the loss of the node decides
        worker.tell("term")
        if self._rng.random() < 0.3:
            worker.kill()  # it did not get to say anything
            self._carry_out(job, element, worker)
        else:
            self._later(_KILL_WAIT_S, partial(self._kill_stopped, job, element, worker))

    def _kill_stopped(self, job: Job, element: Element, worker: Worker) -> None:
        if element.worker is worker and element.state == "COMPLETING":
            worker.kill()
            self._carry_out(job, element, worker)

    def _carry_out(self, job: Job, element: Element, worker: Worker) -> None:
        following = element.next or "FAILED"
        if following in {"REQUEUED", "PREEMPTED+"}:
            self._requeued(job, element, following.rstrip("+"))
        else:
            self._over(job, element, following)

    def _requeued(self, job: Job, element: Element, was: str) -> None:
        self.history.add("requeued", job=job.id, index=element.index, restart=element.restart, was=was)
        if was != "REQUEUED":
            self._book(element, was, "0:0")
        self._book(element, "PENDING", "0:0", after_s=self._rng.uniform(0, self.traits.book_lag_s))
        element.state, element.reason, element.restart, element.next = "PENDING", "BeginTime", element.restart + 1, None
        element.not_before = self.loop.time() + self.traits.requeue_delay_s
        element.start = None
        self._later(self.traits.requeue_delay_s + 1, self._schedule)

    def _over(self, job: Job, element: Element, state: str, *, code: str = "0:0", reason: str = "None") -> None:
        element.state, element.reason, element.end, element.code = state, reason, self.loop.time(), code
        if state == "FAILED":
            element.reason = "NonZeroExitCode"
        self.history.add(
            "over", job=job.id, index=element.index, restart=element.restart or None, state=state, code=code
        )
        if element.begun:
            self._book(element, f"CANCELLED by {element.by}" if state == "CANCELLED" else state, code)
        self._later(self._rng.uniform(0.2, 3.0), self._schedule)

    def _book(self, element: Element, state: str, code: str, after_s: float = 0.0) -> None:
        at = self.loop.time() + after_s + self._rng.uniform(0, self.traits.book_lag_s)
        if element.books:
            at = max(at, element.books[-1][0])
        element.books.append((at, state, code))


def _stamp(at: float | None) -> str:
    return "N/A" if at is None else str(int(EPOCH.timestamp() + at))
