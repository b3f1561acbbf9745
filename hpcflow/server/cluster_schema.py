"""The shapes of what `cluster_api` answers, for the API's description."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, SecretStr, Strict, StrictBool

from hpcflow.server.routing import Described
from hpcflow.server.schema import WHOLE
from hpcflow.server.settings_schema import describe_draft

__all__ = [
    "ClusterChange",
    "ClusterDraft",
    "ClusterDraftAnswer",
    "ClusterTest",
    "ClusterTestRequest",
    "Clusters",
    "LoginAnswer",
    "LoginRequest",
    "Queue",
]


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


_Version = Annotated[int, Field(ge=0, le=1000), WHOLE]


class ClusterTestRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    #: (major, minor) of the Python that will dispatch, and its path; ``None``: the server's own.
    python: tuple[_Version, _Version] | None = None
    executable: str | None = None
    #: Whether jobs are submitted, and how long each may wait in the queue, in seconds.
    jobs: StrictBool = True
    patience_s: Annotated[float, Strict(), Field(gt=0, le=86400, allow_inf_nan=False)] = 120.0


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
    number: Annotated[int, Field(ge=1), WHOLE]
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
    #: "suspended": it began, and stands still until somebody lets it go on. Partitions count it among what runs.
    state: Literal["pending", "running", "suspended"]
    #: The scheduler's own words: its state, and the code or sentence of why it waits.
    raw: str
    reason: str | None
    #: Why it waits or is suspended, in plain words; ``None``: `reason` is all there is.
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
    #: Jobs and array tasks in line for its partition that go first; ``None``: not known.
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
    #: In how many seconds who asks has the next look made: soon after a submission, before it would be due else.
    due_s: float
    #: For how many seconds the look that is under way has waited for its answer; ``None``: none is.
    asking_s: float | None
    #: What could not be asked or read at that look, as sentences.
    problems: list[str]
    partitions: list[QueuePartitionAnswer]
    #: ``None``: not known.
    nodes: list[QueueNodeAnswer] | None
    #: As they are to start: those in line, others that wait, those that run. The user's own are the last to be cut off
    #: by ``limit``. ``None``: not known.
    jobs: list[QueuedJobAnswer] | None
    #: Rows that there are, of which ``jobs`` has the first ``limit``.
    jobs_total: int | None


class ClusterDraft(BaseModel):
    """A cluster to be: a table of clusters.toml as JSON, and what a person has accepted."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=describe_draft)

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
