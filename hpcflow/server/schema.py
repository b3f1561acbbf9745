"""The shapes of what `api` and `dispatch_api` answer, for the API's description; the answers are plain JSON objects."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, StrictBool

from hpcflow.core.states import State, Status
from hpcflow.server.routing import Described

__all__ = [
    "MOST",
    "WHOLE",
    "Accepted",
    "CancelAnswer",
    "CancelRequest",
    "Dispatches",
    "Health",
    "Job",
    "Moved",
    "Plan",
    "Problem",
    "RetryRequest",
    "ServerStatus",
    "Summary",
    "TaskDetail",
    "TaskTable",
    "UiAddress",
    "Usage",
]


#: What every reader of JSON has to the last digit; the store's integers are longer.
MOST: Final = 2**53 - 1


def _number(value: object) -> object:
    if isinstance(value, bool | str):
        raise ValueError("a whole number is wanted")
    return value


#: A whole number of a body: JSON has types, and neither "5" nor true is one. 5.0 is.
WHOLE: Final = BeforeValidator(_number)
#: Of a task in its dispatch.
Index = Annotated[int, Field(ge=0, le=MOST), WHOLE]


class Problem(Described):
    """Why not, as a sentence."""

    error: str


class Health(Described):
    ok: bool


class ServerStatus(Described):
    pid: int
    version: str
    host: str
    address: str
    home: str
    started_at: datetime
    clusters: list[str]
    default_cluster: str
    live_dispatches: int
    #: Triggers that are not over.
    triggers: int
    #: Why nothing new can be stored.
    problem: str | None = None
    ui: str | None


class Accepted(Described):
    id: str
    status: Status
    messages: list[str]
    #: Of a part of an open dispatch: the number of the first of its tasks.
    first: int | None = None


class PlannedBag(Described):
    electrons: list[str]
    tasks: int
    cluster: str
    resources: dict[str, JsonValue]
    widths: list[int]
    worker_walltime_s: int | None
    units_per_range: float
    argv: list[str]
    script: str
    core_hours_bound: float | None


class Plan(Described):
    bags: list[PlannedBag]
    core_hours_bound: float | None
    messages: list[str]


class ArrayAnswer(Described):
    token: str
    cluster: str
    job_id: str | None
    width: int
    state: str
    submitted_at: datetime | None
    #: In the scheduler's words, and in plain ones where hpcflow knows them.
    reason: str | None
    why: str | None
    #: Array tasks whose workers have come up and not left, as their journals say, and those of them that are not free.
    up: int = 0
    busy: int = 0
    #: Array tasks that stand still until somebody lets them go on, as the scheduler said when it was asked last.
    suspended: int = 0


class Asked(Described):
    cluster: str
    #: ``None``: not since the server's start.
    at: datetime | None
    #: Why it did not answer.
    problem: str | None
    #: Since when nobody knows what its jobs do.
    unknown_since: datetime | None = None


class DatedMessage(Described):
    at: datetime
    text: str


class Parent(Described):
    dispatch: str
    task: int


class Summary(Described):
    id: str
    name: str
    status: Status
    error: str | None
    #: Why nothing more of it, or of some of it, is submitted.
    paused: str | None
    #: Nothing of it runs: triggers run copies of it.
    template: bool
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    #: Grows with every change: the ``since`` of the next long poll.
    version: int
    #: Major and minor version of the Python whose pickles the results are.
    python: tuple[int, int]
    #: Those in sublattices included, and without them.
    tasks: int
    own_tasks: int
    #: Of a sublattice: the number of its first task in the whole dispatch, which that is, and whose task it is.
    base: int
    root: str
    parent: Parent | None
    counts: dict[State, int]
    arrays: list[ArrayAnswer]
    #: When schedulers were asked last on which arrays of it wait or run.
    asked: list[Asked]
    messages: list[DatedMessage]
    #: When it was tried again last, and what was asked then.
    again: DatedMessage | None = None
    #: What to do about tasks that ran out of memory or walltime, once it has ended.
    hint: str | None = None
    #: What of its cancels has not reached workers or schedulers yet, and what these said; it is tried again.
    undelivered: str | None = None


class Dispatches(Described):
    dispatches: list[Summary]
    #: How many fit, on all pages, and how many there are.
    found: int
    total: int


class Usage(Described):
    """What a dispatch cost, in core-seconds: ``charged_s`` is the sum of the parts from ``tasks_s`` to ``rest_s``."""

    id: str
    charged_s: float
    tasks_s: float
    overhead_s: float
    idle_s: float
    slots_s: float
    startup_s: float
    killed_s: float
    beyond_s: float
    rest_s: float
    #: What whole seconds can amount to, and what is beyond that.
    rounding_s: float
    unexplained_s: float
    #: Of runs before a requeue, which are not in ``charged_s``.
    requeued_s: float
    #: Array tasks: the last five add up to the first.
    submitted: int
    used: int
    in_vain: int
    not_begun: int
    open: int
    unknown: int
    #: Of those that began, array tasks of which accounting told no charge.
    uncharged: int
    #: No array task is open, unknown or uncharged.
    complete: bool
    sentences: list[str]


class ArrayTask(Described):
    index: int
    state: Literal["waiting", "running", "ended", "not begun", "unknown"]
    #: Attempts of tasks that ended in it.
    tasks: int
    cause: str | None
    raw: str | None
    exit_code: int | None
    signal: int | None
    host: str | None
    core_seconds: float | None
    elapsed_s: float | None
    max_rss_kib: int | None


class TaskOfJob(Described):
    index: int
    name: str
    attempt: int
    state: State
    started_at: datetime | None
    wall_s: float | None
    error: str | None


class JobOfDispatch(Described):
    dispatch: str
    name: str
    cluster: str
    bag: str
    job_id: str
    width: int
    state: str
    reason: str | None
    #: Those that began; the one that was asked for in any case.
    array_tasks: list[ArrayTask]
    not_begun: int
    #: What ran in the array task that was asked for, in order; empty for a whole array.
    tasks: list[TaskOfJob]


class Job(Described):
    #: Several where clusters give the same ids.
    arrays: list[JobOfDispatch]


class TaskTable(Described):
    columns: list[str]
    rows: list[list[JsonValue]]


class TaskOrigin(Described):
    #: By a redispatch, or because its electron is cached.
    how: Literal["reused", "cached"]
    #: The task that ran, in the numbers of its whole dispatch.
    dispatch: str
    task: int


class TaskDetail(Described):
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
    #: Since when nobody knows whether it still is in that state: its cluster can't be reached.
    unknown_since: datetime | None = None
    #: How its worker saw it end: "ok", "error", "exit", "signal", "timeout", "memory", "cancelled", or "killed" with
    #: its worker.
    end: str | None
    #: The scheduler's words for the end of the worker.
    raw: str | None
    exit_code: int | None
    signal: int | None
    #: The child dispatch that it is.
    sublattice: str | None
    #: Whose result it has, where it did not run itself.
    origin: TaskOrigin | None = None
    #: What to do about it, where it ran out of memory or walltime.
    hint: str | None
    #: Why nobody could tell its worker yet that it was cancelled; it is tried again.
    undelivered: str | None = None
    error_type: str | None
    traceback: str | None
    stdout_bytes: int
    stderr_bytes: int
    workdir: str | None


class CancelRequest(BaseModel):
    #: ``None``: the whole dispatch.
    tasks: list[Index] | None = None
    #: Also those that run.
    begun: StrictBool = True


class CancelAnswer(Described):
    cancelled: int
    #: Of single tasks of which only those were asked for that have not begun: which these were.
    tasks: list[int] | None = None
    message: str


#: Described, not checked: who names an amount besides what is advised is told that it is one or the other.
_ADVISED_OR_NAMED: Final[dict[str, Any]] = {  # Any: pydantic's own type
    "anyOf": [
        {"properties": {"more": {"const": False}}},
        {"properties": {"memory_mib": {"type": "null"}, "walltime_s": {"type": "null"}}},
    ]
}


class RetryRequest(BaseModel):
    """Which tasks run again, and with what: as much as is advised, or amounts that are named."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_ADVISED_OR_NAMED)

    #: Only tasks that failed, and what was skipped because of them; not what was cancelled.
    failed_only: StrictBool = False
    #: What tasks ask for now that failed or were cancelled; ``None``: what they asked for last.
    memory_mib: Annotated[int, Field(ge=1, le=2**40), WHOLE] | None = None
    walltime_s: Annotated[int, Field(ge=1, le=2**40), WHOLE] | None = None
    #: Those that ran out of memory or walltime ask for as much as is advised, the others for what they asked for last.
    more: StrictBool = False
    #: Only these and those of these electrons, and what was skipped because of them; both ``None``: all.
    tasks: list[Index] | None = None
    electrons: list[str] | None = None


class Moved(Described):
    #: Tasks that changed their state; 0 when there was nothing to do.
    moved: int
    message: str


class UiAddress(Described):
    #: Logs one browser in: its fragment is a one-time code.
    url: str
    #: The command for the user's own machine when the server is not on it.
    ssh_forward: str | None
