"""The server's answers as values: what came as JSON leaves here typed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from hpcflow.core.model import HpcflowError
from hpcflow.core.states import FINAL, State, Status
from hpcflow.core.usage import Spent

__all__ = [
    "ArrayLine",
    "ArrayTask",
    "Asked",
    "Item",
    "Job",
    "Summary",
    "TaskOfJob",
    "TaskRecord",
    "parse_items",
    "parse_jobs",
    "parse_summary",
    "parse_task",
    "parse_tasks",
    "parse_time",
    "parse_usage",
]

JsonObject = Mapping[str, Any]  # Any: JSON


def parse_time(text: str | None) -> datetime | None:
    """Return an aware time from ISO-8601 with Z."""
    return datetime.fromisoformat(text) if text else None


# ---- a dispatch


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayLine:
    """One job array of a dispatch, as the scheduler sees it."""

    cluster: str
    job_id: str | None
    width: int
    state: str
    #: Why it waits, in the scheduler's words and in plain ones; empty when it does not, or nobody knows plain ones.
    reason: str
    why: str
    #: Array tasks whose workers have come up and not left.
    up: int = 0
    #: Array tasks that began and stand still.
    suspended: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """When a scheduler was asked last about jobs."""

    cluster: str
    #: ``None``: not since the server's start.
    at: datetime | None
    #: Why it did not answer; empty when it did.
    problem: str
    #: Since when nobody knows what its jobs do; ``None``: that is known.
    unknown_since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Where a dispatch is."""

    id: str
    name: str
    status: Status
    #: What failed, as a sentence; ``None`` unless the dispatch failed.
    error: str | None
    #: Why nothing more of it, or of some of it, is submitted; ``None``: nothing holds it back.
    paused: str | None
    #: Since when, where that is known.
    paused_at: datetime | None
    created_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    #: Grows with each change.
    version: int
    #: Those in sublattices included, and without them.
    tasks: int
    own_tasks: int
    #: Of a sublattice: the number that its first task has in the whole dispatch, and the task of which it is the child.
    base: int
    root: str
    parent: tuple[str, int] | None
    counts: Mapping[State, int]
    arrays: tuple[ArrayLine, ...]
    #: When schedulers were asked last on which arrays of it wait or run.
    asked: tuple[Asked, ...]
    messages: tuple[str, ...]
    #: What was asked when it was tried again last; empty: it was not.
    again: str
    #: What to do about tasks that ran out of memory or walltime, once it has ended; empty: nothing.
    hint: str
    #: What of its cancels has not reached workers or schedulers yet; empty: nothing, as far as is known.
    undelivered: str
    #: (major, minor) of the Python that wrote the pickles.
    python: tuple[int, int]

    @property
    def ended(self) -> bool:
        return self.status is not Status.RUNNING

    @property
    def tasks_ended(self) -> int:
        return sum(number for state, number in self.counts.items() if state in FINAL)


def parse_summary(raw: JsonObject) -> Summary:
    """Return a dispatch's summary."""
    major, minor = raw["python"]
    return Summary(
        id=raw["id"],
        name=raw["name"],
        status=Status(raw["status"]),
        error=raw.get("error"),
        paused=raw.get("paused"),
        paused_at=_paused_at(raw),
        created_at=parse_time(raw.get("created_at")),
        started_at=parse_time(raw.get("started_at")),
        ended_at=parse_time(raw.get("ended_at")),
        version=raw["version"],
        tasks=raw["tasks"],
        own_tasks=raw.get("own_tasks", raw["tasks"]),
        base=raw.get("base", 0),
        root=raw.get("root", raw["id"]),
        parent=(raw["parent"]["dispatch"], raw["parent"]["task"]) if raw.get("parent") else None,
        counts={State(state): number for state, number in raw["counts"].items()},
        arrays=tuple(
            ArrayLine(
                cluster=line["cluster"],
                job_id=line.get("job_id"),
                width=line["width"],
                state=line["state"],
                reason=line.get("reason") or "",
                why=line.get("why") or "",
                up=line.get("up", 0),
                suspended=line.get("suspended", 0),
            )
            for line in raw.get("arrays", ())
        ),
        asked=tuple(
            Asked(
                line["cluster"],
                parse_time(line["at"]),
                line["problem"] or "",
                parse_time(line.get("unknown_since")),
            )
            for line in raw.get("asked", ())
        ),
        messages=tuple(message["text"] for message in raw.get("messages", ())),
        again=(raw.get("again") or {}).get("text", ""),
        hint=raw.get("hint") or "",
        undelivered=raw.get("undelivered") or "",
        python=(major, minor),
    )


def _paused_at(raw: JsonObject) -> datetime | None:
    """Return when the message came that says the pause."""
    why = raw.get("paused")
    said = [message["at"] for message in raw.get("messages", ()) if why and message["text"].startswith(why)]
    return parse_time(said[-1]) if said else None


# ---- its tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """What the server knows of one task, its values and output streams apart."""

    index: int
    name: str
    state: State
    attempt: int
    cluster: str | None
    job_id: str | None
    array_index: int | None
    host: str | None
    started_at: datetime | None
    ended_at: datetime | None
    wall_s: float | None
    cpu_s: float | None
    max_rss_kib: int | None
    error: str | None
    cores: int
    #: How its worker saw it end: "ok", "error", "exit", "signal", "timeout", "memory", "cancelled", or "killed" with
    #: its worker.
    end: str | None
    #: The scheduler's words for the end of its worker.
    raw: str | None
    exit_code: int | None
    signal: int | None
    #: The child dispatch that it is.
    sublattice: str | None
    #: Since when nobody knows whether it still is in that state; ``None``: that is known.
    unknown_since: datetime | None = None
    #: Why it did not run itself, as in "reused from dispatch 01J…, task 3"; empty where it did.
    note: str = ""
    # Only in the answer about a single task:
    #: What to do about it, where it ran out of memory or walltime; empty: nothing.
    hint: str = ""
    #: Why nobody could tell its worker yet that it was cancelled; empty: somebody did, or it was not.
    undelivered: str = ""
    error_type: str | None = None
    traceback: str | None = None
    workdir: str | None = None


def parse_task(raw: JsonObject) -> TaskRecord:
    """Return one task."""
    return TaskRecord(
        index=raw["index"],
        name=raw["name"],
        state=State(raw["state"]),
        attempt=raw.get("attempt") or 0,
        cluster=raw.get("cluster"),
        job_id=raw.get("job_id"),
        array_index=raw.get("array_index"),
        host=raw.get("host"),
        started_at=parse_time(raw.get("started_at")),
        ended_at=parse_time(raw.get("ended_at")),
        wall_s=raw.get("wall_s"),
        cpu_s=raw.get("cpu_s"),
        max_rss_kib=raw.get("max_rss_kib"),
        error=raw.get("error"),
        cores=raw["cores"],
        end=raw.get("end"),
        raw=raw.get("raw"),
        exit_code=raw.get("exit_code"),
        signal=raw.get("signal"),
        sublattice=raw.get("sublattice"),
        unknown_since=parse_time(raw.get("unknown_since")),
        note=_note(raw.get("origin")),
        hint=raw.get("hint") or "",
        undelivered=raw.get("undelivered") or "",
        error_type=raw.get("error_type"),
        traceback=raw.get("traceback"),
        workdir=raw.get("workdir"),
    )


def _note(origin: JsonObject | None) -> str:
    return "" if origin is None else f"{origin['how']} from dispatch {origin['dispatch']}, task {origin['task']}"


def parse_tasks(raw: JsonObject) -> tuple[TaskRecord, ...]:
    """Return one page of a dispatch's tasks."""
    columns: Sequence[str] = raw["columns"]
    return tuple(parse_task(dict(zip(columns, row, strict=True))) for row in raw["rows"])


# ---- jobs


def parse_usage(raw: JsonObject) -> Spent:
    """Return what a dispatch cost."""
    return Spent(**{field.name: raw[field.name] for field in fields(Spent)})


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayTask:
    """One array task of a job."""

    index: int
    #: "waiting", "running", "ended", "not begun", or "unknown" where no scheduler told its end.
    state: str
    #: Attempts of tasks that ended in it.
    tasks: int
    #: How it ended, in the scheduler's words; empty before.
    raw: str
    host: str | None
    #: What was charged for it, and how long it ran, in seconds.
    core_seconds: float | None
    elapsed_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOfJob:
    """One attempt of a task that ran in an array task."""

    index: int
    name: str
    attempt: int
    state: State
    started_at: datetime | None
    wall_s: float | None
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job array, and what ran in it."""

    dispatch: str
    #: The lattice's name.
    name: str
    cluster: str
    job_id: str
    width: int
    state: str
    #: Those that began, or the one that was asked for.
    array_tasks: tuple[ArrayTask, ...]
    #: How many left the queue before they began.
    not_begun: int
    #: In the order in which they began; empty when the whole array was asked for.
    tasks: tuple[TaskOfJob, ...]


def parse_jobs(raw: JsonObject) -> tuple[Job, ...]:
    """Return the jobs that have an id, most often one."""
    return tuple(map(_job, raw["arrays"]))


def _job(raw: JsonObject) -> Job:
    return Job(
        dispatch=raw["dispatch"],
        name=raw["name"],
        cluster=raw["cluster"],
        job_id=raw["job_id"],
        width=raw["width"],
        state=raw["state"],
        array_tasks=tuple(
            ArrayTask(
                index=line["index"],
                state=line["state"],
                tasks=line["tasks"],
                raw=line["raw"] or "",
                host=line["host"],
                core_seconds=line["core_seconds"],
                elapsed_s=line["elapsed_s"],
            )
            for line in raw["array_tasks"]
        ),
        not_begun=raw["not_begun"],
        tasks=tuple(
            TaskOfJob(
                index=line["index"],
                name=line["name"],
                attempt=line["attempt"],
                state=State(line["state"]),
                started_at=parse_time(line["started_at"]),
                wall_s=line["wall_s"],
                error=line["error"],
            )
            for line in raw["tasks"]
        ),
    )


# ---- values


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a results stream; ``pickle`` is empty when there is no value, or an exception that has no pickle."""

    #: Its number in the whole dispatch; ``None``: the lattice's own return value.
    task: int | None
    #: "result", "error", "output" (of a lattice: placeholders may be in it) or "missing".
    kind: str
    pickle: bytes
    message: str
    #: Bytes of a value that is asked for by itself.
    apart: int = 0
    #: Of an output: the number that the first task of its lattice has.
    base: int = 0
    #: Of arguments: what the function calls them.
    parameters: tuple[str, ...] = ()


def parse_items(stream: bytes) -> Iterator[Item]:
    """Yield the items of a results stream.

    Raises:
        HpcflowError: the stream was cut.
    """
    at = 0
    while at < len(stream):
        end = stream.find(b"\n", at)
        if end < 0:
            raise HpcflowError("The server's stream of results was cut within a line; ask again.")
        head: dict[str, Any] = json.loads(stream[at:end])  # Any: JSON
        start, at = end + 1, end + 1 + int(head["size"])
        if at > len(stream):
            raise HpcflowError(f"The server's stream of results was cut {at - len(stream)} bytes too early; ask again.")
        yield Item(
            head["task"],
            head["kind"],
            stream[start:at],
            head.get("message") or "",
            int(head.get("apart") or 0),
            int(head.get("base") or 0),
            tuple(head.get("parameters") or ()),
        )
