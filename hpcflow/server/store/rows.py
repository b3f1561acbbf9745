"""What the store holds, as values: one class per kind of row, and what may go wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Literal, NamedTuple

from hpcflow.core.model import Bag, BagId, DispatchId, HpcflowError, JobArray
from hpcflow.core.states import State, Status

__all__ = [
    "PART",
    "ArrayRow",
    "ArrayState",
    "BagRow",
    "CacheRow",
    "Changes",
    "ChildRow",
    "DispatchRow",
    "EndRow",
    "EventKind",
    "EventRow",
    "Lease",
    "LeaseHeld",
    "LeaseLost",
    "OriginRow",
    "RunTimeKey",
    "StoreError",
    "StoreFull",
    "TaskRow",
]


class StoreError(HpcflowError):
    """The store could not be opened, read or written; a write that raises it has stored nothing."""


class StoreFull(StoreError):
    """The disk or the quota is full: the same write succeeds once there is space again."""


class LeaseHeld(StoreError):
    """Another server holds the lease, and it was renewed lately."""

    def __init__(self, lease: Lease) -> None:
        super().__init__(
            f"A server on {lease.host} (process {lease.pid}) runs on this HPCFLOW_HOME since "
            f"{lease.taken_at:%Y-%m-%d %H:%M} UTC. Work from {lease.host}, or move it here with "
            "`hpcflow start --take-over`."
        )
        self.lease = lease


class LeaseLost(StoreError):
    """Another server took the lease over: this one must write nothing any more."""

    def __init__(self, lease: Lease | None) -> None:
        whose = f"A server on {lease.host} (process {lease.pid}) took it over" if lease else "It was given back"
        super().__init__(f"This server does not hold this HPCFLOW_HOME any more and stores nothing. {whose}.")
        self.lease = lease


# ---- rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Which server may write."""

    #: A UUID that the server drew when it started.
    id: str
    host: str
    pid: int
    boot_id: str
    taken_at: datetime
    renewed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchRow:
    """One run of a lattice."""

    id: DispatchId
    name: str
    status: Status
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    #: A sentence.
    error: str | None = None
    n_tasks: int
    cancel_wanted: bool = False
    #: Why nothing of it, or of some of its shapes, is submitted: a sentence.
    paused: str | None = None
    #: It is paused as a whole.
    paused_whole: bool = False
    #: (major, minor) of the interpreter that made the pickles.
    python: tuple[int, int]
    #: Tasks in each state, states without a task left out. Counted when read, ignored when written.
    counts: Mapping[State, int] = field(default_factory=dict[State, int])


#: In the place of a sublattice's own task: further tasks of an open dispatch, which lie in no sublattice.
PART: Final = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildRow:
    """The graph that a sublattice built, whose tasks are tasks of the dispatch that it belongs to, or a `PART`."""

    id: DispatchId
    #: The dispatch that a client sent, however deep the sublattice lies in it.
    dispatch: DispatchId
    #: The sublattice's own task, and the first of those in it.
    task: int
    first: int
    n_tasks: int
    name: str

    @property
    def tasks(self) -> range:
        return range(self.first, self.first + self.n_tasks)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRow:
    """One task as it is now."""

    dispatch: DispatchId
    index: int
    name: str
    state: State
    #: From 1.
    attempt: int = 1
    bag: BagId | None = None
    #: The journal's name: ``<job>_<index>_<restart>``.
    worker: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    #: A sentence.
    error: str | None = None
    cluster: str | None = None
    #: Attempts that were used up.
    charged: int = 0
    #: What a further attempt must know of those before: "memory_mib" and "walltime_s" that it asks for, "alone",
    #: "losses"; nothing where that is as it was at first.
    again: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, slots=True, kw_only=True)
class EndRow:
    """How one attempt of a task ended, as its worker wrote it."""

    dispatch: DispatchId
    index: int
    attempt: int
    worker: str
    bag: BagId
    #: The journal's ``end`` record.
    record: Mapping[str, Any]  # Any: JSON


class RunTimeKey(NamedTuple):
    """Which tasks run about as long as each other."""

    function: str
    cluster: str
    #: Nodes, cores and GPUs, in words.
    size: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BagRow:
    """One bag, and whether work may still be added to it."""

    bag: Bag
    created_at: datetime
    closed_at: datetime | None = None


class ArrayState(StrEnum):
    """Where one submission is."""

    #: Stored before the submit command runs: from here on it may exist.
    INTENT = "intent"
    SUBMITTED = "submitted"
    #: The answer was lost: look for its name first.
    AMBIGUOUS = "ambiguous"
    REFUSED = "refused"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayRow:
    """One job array as the server knows it."""

    array: JobArray
    state: ArrayState
    #: A sentence: why it was refused, why it waits.
    reason: str | None = None
    cancel_wanted: bool = False
    submitted_at: datetime | None = None
    ended_at: datetime | None = None
    #: Per array task that ended, what the scheduler said of its end.
    ends: Mapping[int, Mapping[str, Any]] = field(default_factory=dict[int, Mapping[str, Any]])  # Any: JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginRow:
    """Why a task completed without having run: another one's result is its own."""

    dispatch: DispatchId
    index: int
    how: Literal["reused", "cached"]
    #: The task that ran, in the numbers of its whole dispatch.
    source: DispatchId
    source_index: int
    #: The bag that holds the result; ``None``: it is a sublattice's, which its tasks hold.
    bag: BagId | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheRow:
    """A result that stands for every call with the same key."""

    key: str
    #: The electron's name.
    function: str
    #: The task that ran, in the numbers of its whole dispatch.
    dispatch: DispatchId
    index: int
    #: The bag that holds the result; ``None``: it is a sublattice's, which its tasks hold.
    bag: BagId | None
    #: Of the pickle, in bytes.
    size: int
    at: datetime


class EventKind(StrEnum):
    """What a row of the event log tells, and what its content is."""

    ADDED = "added"  # {"name", "tasks"}
    DISPATCH = "dispatch"  # [status, error, whether a cancel is wanted]
    TASKS = "tasks"  # [[index, state], …] in the order of the moves
    SECOND_END = "second end"  # [[index, attempt, worker], …]: another end came first, so these are not kept
    CHILD = "child"  # [id, the sublattice's task, number of tasks in it]
    BAG = "bag"  # [id, number of tasks, whether it is closed]
    ARRAY = "array"  # [token, state, job id, reason]
    MESSAGE = "message"  # the sentence
    LEASE = "lease"  # {"id", "host", "pid"}: that server writes from here on; belongs to no dispatch


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRow:
    """One row of the append-only log."""

    #: Grows, never re-used.
    number: int
    at: datetime
    dispatch: DispatchId | None
    kind: EventKind
    content: Any  # Any: JSON, as `EventKind` says


@dataclass(slots=True)
class Changes:
    """What one turn of the engine wants stored, all of it or nothing. Rows take effect in the order of the lists."""

    at: datetime
    tasks: list[TaskRow] = field(default_factory=list[TaskRow])
    ends: list[EndRow] = field(default_factory=list[EndRow])
    bags: list[BagRow] = field(default_factory=list[BagRow])
    arrays: list[ArrayRow] = field(default_factory=list[ArrayRow])
    #: Of these, status, times, error, ``cancel_wanted`` and the pause are stored.
    dispatches: list[DispatchRow] = field(default_factory=list[DispatchRow])
    #: With the manifest that each was read from.
    children: list[tuple[ChildRow, Mapping[str, Any]]] = field(  # Any: JSON
        default_factory=list[tuple[ChildRow, Mapping[str, Any]]]
    )
    origins: list[OriginRow] = field(default_factory=list[OriginRow])
    cached: list[CacheRow] = field(default_factory=list[CacheRow])
    messages: list[tuple[DispatchId, str]] = field(default_factory=list[tuple[DispatchId, str]])
    #: Tasks that returned and their run time in all, in seconds, to be added to what is known.
    run_times: dict[RunTimeKey, tuple[int, float]] = field(default_factory=dict[RunTimeKey, tuple[int, float]])

    def add_run_times(self, key: RunTimeKey, count: int, wall_s: float) -> None:
        had = self.run_times.get(key, (0, 0.0))
        self.run_times[key] = (had[0] + count, had[1] + wall_s)

    def __bool__(self) -> bool:
        return bool(
            self.tasks
            or self.ends
            or self.bags
            or self.arrays
            or self.dispatches
            or self.children
            or self.origins
            or self.cached
            or self.messages
            or self.run_times
        )
