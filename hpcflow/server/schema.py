"""The shapes of the API's answers, for its OpenAPI description; the answers themselves are plain JSON objects."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, PlainValidator, SecretStr, WithJsonSchema

from hpcflow.core.states import State, Status
from hpcflow.server.previews import Preview
from hpcflow.server.routing import Described
from hpcflow.server.views import Sort

__all__ = [
    "MOST",
    "AboutTask",
    "Accepted",
    "CancelAnswer",
    "CancelRequest",
    "CleanAnswer",
    "CleanRequest",
    "ClusterChange",
    "ClusterDraft",
    "ClusterDraftAnswer",
    "ClusterTest",
    "ClusterTestRequest",
    "Clusters",
    "Code",
    "Dispatches",
    "GraphColumns",
    "Health",
    "Job",
    "Listing",
    "LoginAnswer",
    "LoginRequest",
    "Moved",
    "PageKey",
    "Plan",
    "Problem",
    "Queue",
    "RetryRequest",
    "ServerStatus",
    "Spans",
    "States",
    "Summary",
    "TaskDetail",
    "TaskPage",
    "TaskQuery",
    "TaskTable",
    "UiAddress",
    "Usage",
]


#: The store's integers have 64 bits.
MOST: Final = 2**63 - 1


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


class PartitionLimits(Described):
    name: str
    is_default: bool
    max_walltime_s: int | None
    max_nodes: int | None
    cpus_per_node: int | None
    memory_mib_per_node: int | None
    gpus_per_node: int | None
    total_nodes: int | None
    exclusive: bool


class ClusterAnswer(Described):
    name: str
    scheduler: str
    version: str
    state: Literal["ok", "unreachable", "needs login", "needs admin", "not set up", "unknown"]
    problem: str | None
    #: Since when nobody knows what its jobs do; ``None``: that is known, or nobody asked.
    unknown_since: datetime | None = None
    #: The site's rules as "poll 60, linger 0"; "": it makes none, or they were not read yet.
    site: str
    partitions: list[PartitionLimits]
    max_array_size: int | None
    #: How workers share a bag there, by the last test with two nodes; ``None``: there was none.
    claims: Literal["link", "mkdir", "index"] | None
    default: bool


class Clusters(Described):
    clusters: list[ClusterAnswer]


class ClusterTestRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    #: (major, minor) of the Python that will dispatch, and its path; ``None``: the server's own.
    python: tuple[int, int] | None = None
    executable: str | None = None
    #: Whether jobs are submitted, and how long each may wait in the queue, in seconds.
    jobs: bool = True
    patience_s: Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)] = 120.0


class ClusterTestStep(Described):
    step: str
    #: ``None`` while it runs; a step that was skipped is ok.
    ok: bool | None
    state: Literal["running", "ok", "failed", "skipped"]
    detail: str
    command: str | None
    #: What the command of a failed step wrote.
    output: str


class ClusterTest(Described):
    done: bool
    #: ``None`` as long as nothing has failed and more may come.
    ok: bool | None
    #: Another one whenever something has changed.
    version: int
    steps: list[ClusterTestStep]


class LoginPrompt(Described):
    text: str
    #: Whether the answer may be shown while it is typed.
    echo: bool


class LoginQuestion(Described):
    #: From 1; the answer names it.
    number: int
    #: Who asks, as ``user@host``.
    host: str
    text: str
    prompts: list[LoginPrompt]


class LoginAnswer(Described):
    #: Names this login; only who began it knows it.
    login: str
    #: ``None``: the cluster has let us in.
    question: LoginQuestion | None
    cluster: ClusterAnswer


class LoginRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    login: str
    number: Annotated[int, Field(ge=1)]
    #: One for each prompt. Used once, and kept nowhere.
    answers: list[SecretStr]


class QueueNodeCounts(Described):
    idle: int
    #: Some of its cores are taken.
    mixed: int
    allocated: int
    #: Kept for a reservation or a maintenance.
    reserved: int
    down: int
    #: In a state that hpcflow does not know.
    unknown: int
    total: int


class QueuePartitionAnswer(Described):
    name: str
    is_default: bool
    #: Whether it takes jobs and starts them; ``None``: not told.
    open: bool | None
    #: The scheduler's own words for that.
    raw: str
    max_walltime_s: int | None
    #: ``None``, as in all that follows: the scheduler does not tell.
    nodes: QueueNodeCounts | None
    #: Of nodes that are not down.
    cores: int | None
    cores_used: int | None
    #: Jobs and array tasks of everybody, as far as the scheduler shows them, and of the user.
    pending: int | None
    running: int | None
    pending_mine: int | None
    running_mine: int | None


class QueueNodeAnswer(Described):
    name: str
    #: ``None``: not told.
    partitions: list[str] | None
    state: Literal["idle", "mixed", "allocated", "reserved", "down", "unknown"]
    #: The scheduler's own word for it.
    raw: str
    cores: int | None
    cores_used: int | None
    memory_mib: int | None
    gpus: int | None
    #: What an administrator wrote beside it.
    reason: str | None


class QueuedJobAnswer(Described):
    """A job, or array tasks of one array that are alike; none that has ended."""

    job_id: str
    #: Indices of array tasks as the scheduler writes them, "2-9%2"; ``None``: no array, or not told.
    indices: str | None
    #: Jobs and array tasks that the row stands for.
    tasks: int
    name: str
    user: str
    mine: bool
    #: The dispatch that it works for, where it is a job of this server's.
    dispatch: str | None
    account: str | None
    partition: str
    state: Literal["pending", "running"]
    #: The scheduler's own words: its state, and the code or sentence of why it waits.
    raw: str
    reason: str | None
    #: The reason in plain words; ``None``: `reason` is all there is.
    why: str | None
    #: "held": only a release starts it. "never": it can't ever start as it was asked for.
    stuck: Literal["held", "never"] | None
    #: Asked for by one job or array task; GPUs over all its nodes.
    nodes: int | None
    cores: int | None
    gpus: int | None
    walltime_s: int | None
    submitted_at: datetime | None
    started_at: datetime | None
    hosts: str | None
    #: When a pending one is to start, and who says so: the scheduler's own plan, or its own earliest time.
    starts_at: datetime | None
    starts_from: Literal["scheduler", "begin time"] | None
    priority: int | None
    #: Jobs and array tasks in line for its partition with a higher priority; ``None``: not known.
    ahead: int | None


class Queue(Described):
    """A cluster's queue at the last look that had an answer; empty lists before the first."""

    cluster: str
    scheduler: str
    #: The user's name there; ``None``: not told.
    user: str | None
    #: When that look was; ``None``: there was none with an answer yet.
    asked_at: datetime | None
    age_s: float | None
    #: Why a later look had no answer, and when; ``None``: there was none, or it is under way.
    problem: str | None
    failed_at: datetime | None
    #: The next look is no earlier than so many seconds after the last, however many ask.
    poll_s: float
    #: What could not be asked or read at that look, as sentences.
    problems: list[str]
    partitions: list[QueuePartitionAnswer]
    #: ``None``: not known.
    nodes: list[QueueNodeAnswer] | None
    #: The user's own first, then in the scheduler's order; ``None``: not known.
    jobs: list[QueuedJobAnswer] | None
    #: Rows that there are, of which ``jobs`` has the first ``limit``.
    jobs_total: int | None


class ClusterDraft(BaseModel):
    """A cluster to be: a table of clusters.toml as JSON, and what a person has accepted."""

    model_config = ConfigDict(extra="forbid")

    settings: dict[str, JsonValue]
    #: Fingerprints of host keys, ``SHA256:…``, that are written to known_hosts if a host that is unknown shows one.
    accept_host_keys: list[str] = []


class UnknownHostKey(Described):
    place: str
    kind: str
    fingerprint: str
    #: Where it would be written down.
    file: str


class ClusterDraftAnswer(Described):
    state: Literal["ok", "unknown host", "needs login"]
    problem: str | None
    host_key: UnknownHostKey | None


class ClusterChange(Described):
    #: The clusters.toml that was written.
    file: str
    #: The default cluster now, and why it is.
    default: str
    reason: str


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
    #: In the scheduler's words, and in plain ones where hpcflow knows them.
    reason: str | None
    why: str | None


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


class TaskQuery(BaseModel):
    #: States with commas; nothing for any.
    state: Annotated[str, Field(pattern="^[a-z,]{0,99}$")] = ""
    #: In name, error, host or job; or an index.
    q: Annotated[str, Field(max_length=200)] = ""
    #: Of the electron, in whole.
    name: Annotated[str | None, Field(max_length=10_000)] = None
    sort: Sort = "index"
    descending: bool = False
    #: The last index of the page before.
    after: Annotated[int | None, Field(ge=0, le=MOST)] = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 200


class TaskPage(TaskTable):
    #: How many fit, on all pages, and how many the dispatch has.
    found: int
    total: int


class GraphColumns(Described):
    """A dispatch's graph: task ``i`` is an electron ``names[name[i]]`` and needs the tasks ``sets[needs[i]]``."""

    tasks: int
    name: list[int]
    needs: list[int]
    names: list[str]
    sets: list[list[int]]
    levels: list[GraphLevel]


class GraphLevel(BaseModel):
    """A sublattice: the task that it is, and the tasks that it built."""

    #: Of its child dispatch.
    id: str
    name: str
    task: int
    first: int
    tasks: int


class States(Described):
    #: Of the last of `/events` that is in it.
    number: int
    version: int
    #: For each task w(aiting), (read)y, p(aused), q(ueued), r(unning), c(ompleted), f(ailed), x cancelled, s(kipped).
    states: str


class Neighbour(Described):
    index: int
    name: str
    state: State


class Attempt(Described):
    attempt: int
    end: str
    error: str | None
    #: The array task, as 8123_7.
    job: str
    host: str | None
    wall_s: float | None
    cpu_s: float | None
    max_rss_kib: int | None
    exit_code: int | None
    signal: int | None


class ServingArray(Described):
    cluster: str
    job_id: str | None
    width: int
    state: str
    reason: str | None
    why: str | None


class AboutTask(Described):
    index: int
    #: What its next attempt, or its last one, asks for; what is left to the cluster is absent.
    asked: dict[str, JsonValue]
    retries: int
    executor: str | None
    module: str | None
    source: str | None
    #: The first fifty.
    upstream: list[Neighbour]
    upstream_total: int
    downstream: list[Neighbour]
    downstream_total: int
    #: Those that ended.
    attempts: list[Attempt]
    #: Of the last attempt that ended: the first twenty arguments, and what it returned.
    inputs: list[Preview]
    result: Preview | None
    #: Of the pickled result.
    result_bytes: int | None
    #: That serve, or served, its bag.
    arrays: list[ServingArray]


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
    #: How its worker saw it end: "ok", "error", "exit", "signal", "timeout", "memory", or "killed" with its worker.
    end: str | None
    #: The scheduler's words for the end of the worker.
    raw: str | None
    exit_code: int | None
    signal: int | None
    #: The child dispatch that it is.
    sublattice: str | None
    #: Whose result it has, where it did not run itself.
    origin: TaskOrigin | None = None
    error_type: str | None
    traceback: str | None
    stdout_bytes: int
    stderr_bytes: int
    workdir: str | None


class CancelRequest(BaseModel):
    #: ``None``: the whole dispatch.
    tasks: list[int] | None = None
    #: Also those that run.
    begun: bool = True


class CancelAnswer(Described):
    cancelled: int
    #: Of single tasks of which only those were asked for that have not begun: which these were.
    tasks: list[int] | None = None
    message: str


class Entry(Described):
    #: Begins with "./".
    name: str
    kind: Literal["file", "folder", "link"]
    size: int
    executable: bool
    #: Where a link leads.
    target: str | None
    #: Of a file, in hex; ``None`` where the cluster has no sha256sum.
    sha256: str | None


class Listing(Described):
    cluster: str
    kind: Literal["file", "folder"]
    #: The folder that names are below, without links in it.
    root: str
    name: str
    entries: list[Entry]
    #: Files whose names can't be told in one line.
    odd: int


def _path(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("a path is a string")
    return value


def _absolute(value: object) -> str:
    path = _path(value)
    if not path.startswith("/") or len(path) > 4096:
        raise ValueError("an absolute path of at most 4096 characters is wanted")
    return path


#: Paths on a cluster: what is no UTF-8 in them stands as surrogates, which pydantic's own strings refuse.
_AnyPath = Annotated[str, PlainValidator(_path), WithJsonSchema({"type": "string"})]
_AbsolutePath = Annotated[
    str, PlainValidator(_absolute), WithJsonSchema({"type": "string", "maxLength": 4096, "pattern": "^/"})
]


class Spans(BaseModel):
    model_config = ConfigDict(extra="forbid")

    root: _AbsolutePath
    #: Name, offset and bytes of each.
    files: list[tuple[_AnyPath, Annotated[int, Field(ge=0, le=2**63 - 1)], Annotated[int, Field(ge=0, le=2**63 - 1)]]]


class CleanRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    #: ``None``: all that `older_than_s` allows.
    dispatches: list[str] | None = None
    older_than_s: Annotated[float, Field(ge=0, allow_inf_nan=False, le=1e10)] | None = None
    cluster: str | None = None
    #: Also files that tasks left in directories of their own.
    files: bool = False
    dry_run: bool = False


class CleanedCluster(Described):
    cluster: str
    bags: int
    freed_bytes: int
    #: Bags that were gone already.
    gone: int
    kept_files: int
    problem: str | None


class CleanAnswer(Described):
    dispatches: int
    clusters: list[CleanedCluster]
    #: A sentence for each dispatch that was named and is left alone.
    skipped: list[str]
    dry_run: bool
    message: str


class RetryRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    #: Only tasks that failed, and what was skipped because of them; not what was cancelled.
    failed_only: bool = False
    #: What tasks that had failed ask for now; ``None``: what they asked for last.
    memory_mib: Annotated[int, Field(ge=1, le=2**40)] | None = None
    walltime_s: Annotated[int, Field(ge=1, le=2**40)] | None = None
    #: Only these, and what was skipped because of them; ``None``: all.
    tasks: list[Annotated[int, Field(ge=0, le=MOST)]] | None = None


class Moved(Described):
    #: Tasks that changed their state; 0 when there was nothing to do.
    moved: int
    message: str


class UiAddress(Described):
    #: Logs one browser in: its fragment is a one-time code.
    url: str
    #: The command for the user's own machine when the server is not on it.
    ssh_forward: str | None


class Code(BaseModel):
    code: str


class PageKey(Described):
    key: str
