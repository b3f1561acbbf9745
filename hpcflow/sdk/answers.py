"""The server's answers as values: what came as JSON leaves here typed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from hpcflow.core.model import HpcflowError
from hpcflow.core.states import FINAL, State, Status

__all__ = [
    "ArrayLine",
    "Asked",
    "Item",
    "Plan",
    "PlannedBag",
    "Summary",
    "TaskRecord",
    "parse_items",
    "parse_plan",
    "parse_summary",
    "parse_task",
    "parse_tasks",
    "parse_time",
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
    #: Why it waits, in the scheduler's words; empty when it does not.
    reason: str


@dataclass(frozen=True, slots=True)
class Asked:
    """When a scheduler was asked last about jobs."""

    cluster: str
    #: ``None``: not since the server's start.
    at: datetime | None
    #: Why it did not answer; empty when it did.
    problem: str


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
    created_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    #: Grows with each change.
    version: int
    tasks: int
    counts: Mapping[State, int]
    arrays: tuple[ArrayLine, ...]
    #: When schedulers were asked last on which arrays of it wait or run.
    asked: tuple[Asked, ...]
    messages: tuple[str, ...]
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
        created_at=parse_time(raw.get("created_at")),
        started_at=parse_time(raw.get("started_at")),
        ended_at=parse_time(raw.get("ended_at")),
        version=raw["version"],
        tasks=raw["tasks"],
        counts={State(state): number for state, number in raw["counts"].items()},
        arrays=tuple(
            ArrayLine(
                cluster=line["cluster"],
                job_id=line.get("job_id"),
                width=line["width"],
                state=line["state"],
                reason=line.get("reason") or "",
            )
            for line in raw.get("arrays", ())
        ),
        asked=tuple(
            Asked(line["cluster"], parse_time(line["at"]), line["problem"] or "") for line in raw.get("asked", ())
        ),
        messages=tuple(message["text"] for message in raw.get("messages", ())),
        python=(major, minor),
    )


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
    # Only in the answer about a single task:
    error_type: str | None = None
    traceback: str | None = None
    signal: int | None = None
    exit_code: int | None = None
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
        error_type=raw.get("error_type"),
        traceback=raw.get("traceback"),
        signal=raw.get("signal"),
        exit_code=raw.get("exit_code"),
        workdir=raw.get("workdir"),
    )


def parse_tasks(raw: JsonObject) -> tuple[TaskRecord, ...]:
    """Return one page of a dispatch's tasks."""
    columns: Sequence[str] = raw["columns"]
    return tuple(parse_task(dict(zip(columns, row, strict=True))) for row in raw["rows"])


# ---- values


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a results stream; ``pickle`` is empty when there is no value, or an exception that has no pickle."""

    #: ``None``: the lattice's own return value.
    task: int | None
    #: "result", "error", "output" or "missing".
    kind: str
    pickle: bytes
    message: str


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
        yield Item(head["task"], head["kind"], stream[start:at], head.get("message") or "")


# ---- a plan


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedBag:
    """One bag as it would be submitted."""

    electrons: tuple[str, ...]
    tasks: int
    cluster: str
    #: Only what differs from a cluster's defaults.
    resources: Mapping[str, object]
    #: Array tasks of each job array.
    widths: tuple[int, ...]
    #: ``None`` where tasks have no limit, and then there is no bound either.
    worker_walltime_s: int | None
    argv: tuple[str, ...]
    script: str
    core_hours_bound: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a dispatch would submit; nothing was. ``print(plan)`` shows all of it."""

    bags: tuple[PlannedBag, ...]
    #: No run of this plan can be charged more, retries apart; ``None``: there is no bound.
    core_hours_bound: float | None
    messages: tuple[str, ...]

    def __str__(self) -> str:
        parts = [*self.messages]
        shown: dict[str, int] = {}
        for number, bag in enumerate(self.bags, 1):
            parts.append(_describe(number, bag, shown.setdefault(_nameless(bag), number)))
        arrays = sum(len(bag.widths) for bag in self.bags)
        parts.append(
            f"{_count(sum(bag.tasks for bag in self.bags), 'task')} in {_count(len(self.bags), 'bag')} and "
            f"{_count(arrays, 'job array')}, {_bound(self.core_hours_bound)}. Nothing was submitted."
        )
        return "\n\n".join(parts)


def _nameless(bag: PlannedBag) -> str:
    """Return a bag's script without the names of its electrons, by which alone most scripts differ."""
    script = bag.script
    for name in sorted(bag.electrons, key=len, reverse=True):
        script = script.replace(name, "…")
    return script


def _describe(number: int, bag: PlannedBag, like: int) -> str:
    """Return a bag as text; the script of one whose ``like`` is an earlier bag has been shown there."""
    import shlex

    widths = " + ".join(map(str, bag.widths))
    walltime = "no limit" if bag.worker_walltime_s is None else f"{_hours(bag.worker_walltime_s)} each"
    lines = [
        f"Bag {number}: {_count(bag.tasks, 'task')} of {', '.join(bag.electrons)} on {bag.cluster}",
        f"  job arrays   {widths} wide, {walltime}, {_bound(bag.core_hours_bound)}",
    ]
    if bag.resources:
        asked = ", ".join(f"{name}={value}" for name, value in bag.resources.items())
        lines.append(f"  resources    {asked}")
    lines.append(f"  command      {shlex.join(bag.argv)}")
    if bag.script and like < number:
        lines.append(f"  its stdin    as for bag {like}")
    elif bag.script:
        lines += ["  its stdin", *(f"    {line}" for line in bag.script.splitlines())]
    return "\n".join(lines)


def parse_plan(raw: JsonObject) -> Plan:
    """Return a plan."""
    return Plan(
        bags=tuple(
            PlannedBag(
                electrons=tuple(bag["electrons"]),
                tasks=bag["tasks"],
                cluster=bag["cluster"],
                resources=dict(bag["resources"]),
                widths=tuple(bag["widths"]),
                worker_walltime_s=bag["worker_walltime_s"],
                argv=tuple(bag["argv"]),
                script=bag["script"],
                core_hours_bound=bag["core_hours_bound"],
            )
            for bag in raw["bags"]
        ),
        core_hours_bound=raw["core_hours_bound"],
        messages=tuple(raw.get("messages", ())),
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _bound(core_hours: float | None) -> str:
    return "no bound on core-hours" if core_hours is None else f"at most {core_hours:.2f} core-hours"


def _hours(seconds: int) -> str:
    hours, rest = divmod(seconds, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
