"""The words of hpcflow as values, in the order of the flow: resources, task, graph, bag, job array, observation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final, Literal, NewType

from hpcflow.core.environment import Environment
from hpcflow.core.errors import HpcflowError, NotFound, UserError

__all__ = [
    "BY_DEFAULT",
    "ULID",
    "WORKER_MEMORY_MIB",
    "ArrayLimits",
    "Bag",
    "BagId",
    "Cause",
    "ClusterName",
    "DispatchId",
    "Environment",
    "Failed",
    "Graph",
    "HpcflowError",
    "Isolation",
    "JobArray",
    "JobId",
    "Launcher",
    "Limits",
    "NotFound",
    "Observation",
    "Observations",
    "Partition",
    "Phase",
    "Resources",
    "Retries",
    "Shape",
    "Stuck",
    "Task",
    "UserError",
    "is_ulid",
    "ulid",
]

ClusterName = NewType("ClusterName", str)
DispatchId = NewType("DispatchId", str)
BagId = NewType("BagId", str)
#: The scheduler's id of a whole job array, as its commands take it: "8123", never "8123_7".
JobId = NewType("JobId", str)
#: Programs that start the ranks of an MPI program, as they are called on a cluster.
Launcher = Literal["srun", "mpirun"]
#: What a task shares with no other: its process, forked from the worker's, or a whole new interpreter.
Isolation = Literal["process", "interpreter"]
#: How the sentence begins that says where what names no executor runs; a program that dispatches often tells it once.
BY_DEFAULT: Final = "Electrons without executor= run on "


#: What a ULID matches as a whole, in Python as in grep -E: the first letter carries only three bits of the 128.
ULID: Final = "[0-7][0-9A-HJKMNP-TV-Z]{25}"
_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def ulid(milliseconds: int, randomness: bytes) -> str:
    """Return a ULID: 26 characters of Crockford's base 32 that sort by time.

    Args:
        milliseconds: since the epoch.
        randomness: ten bytes that nobody else draws.
    """
    number = (milliseconds << 80) | int.from_bytes(randomness, "big")
    return "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5))


def is_ulid(text: str) -> bool:
    """Return whether this is an id as hpcflow makes them, and so safe as part of a path."""
    return re.fullmatch(ULID, text) is not None


# ---- what a task asks for

#: The cluster's own environment.
_PLAIN: Final = Environment()


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one task asks of a cluster; equal values share a bag.

    Units are in the names; ``None`` means that the cluster's own default holds.
    """

    nodes: int = 1
    ntasks: int = 1
    #: Cores for each of the ``ntasks``.
    cpus: int = 1
    #: Memory of the task on each of its nodes.
    memory_mib: int | None = None
    #: GPUs on each of its nodes.
    gpus: int = 0
    #: The limit of one task, never the array task's own.
    walltime_s: int | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    licenses: str | None = None
    exclude: str | None = None
    #: Further arguments of the submit command, one argv element each.
    extra: tuple[str, ...] = ()

    @property
    def cores(self) -> int:
        """Cores of the whole task, over all its nodes."""
        return self.ntasks * self.cpus


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """All that must be equal for two tasks to share a bag."""

    cluster: ClusterName
    resources: Resources
    #: The interpreter that runs the task: an absolute path on the cluster.
    python: str
    #: (major, minor) of the interpreter that made the pickles.
    python_version: tuple[int, int]
    #: Where tasks run; ``None``: a directory of their own below the bag.
    workdir: str | None = None
    #: The electron of which so many tasks may run at once in a dispatch, and how many; ``None``: no matter.
    at_most: tuple[str, int] | None = None
    #: What starts the function on every rank of a task; ``None``: it runs once.
    launcher: Launcher | None = None
    #: What a task shares with no other: its process, or its interpreter; ``None``: short ones may share a process.
    isolation: Isolation | None = None
    env: Environment = _PLAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """What happens after an attempt was used up. Node failures and preemption use up nothing."""

    #: Further attempts.
    times: int = 0
    #: What the attempt after an out-of-memory asks for, as a multiple of the last; the same of a timeout's walltime.
    memory: float = 2.0
    walltime: float = 2.0
    #: Exceptions of the function that are tried again, by the name of their class or of a base; ``("*",)``: any.
    exceptions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One electron call in one dispatch."""

    #: Position in ``Graph.tasks``.
    index: int
    name: str
    #: Numbers of blobs of the dispatch: the pickled function, the pickled ``(args, kwargs)``.
    fn: int
    args: int
    #: Tasks whose results are among the arguments, ascending, and tasks that must only have ended before.
    deps: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    #: What ``executor=`` named; ``None``: the server's default cluster.
    executor: str | None = None
    resources: Resources = Resources()
    workdir: str | None = None
    retries: Retries = Retries()
    #: It runs though upstreams failed, with a `Failed` in the place of each missing result.
    accept_failed: bool = False
    #: What follows when somebody else cancels its job: wait for `hpcflow resume`, or submit again.
    on_cancelled: Literal["pause", "retry"] = "pause"
    #: Tasks of its electron that run at once, at most.
    max_running: int | None = None
    #: What starts the function on every rank; ``None``: it runs once, and owns all that the task has.
    launcher: Launcher | None = None
    #: What it shares with no other task; ``None``: short tasks may share a process.
    isolation: Isolation | None = None
    env: Environment = _PLAIN
    #: What it runs builds a graph: its result is that of the tasks in there, which join the same dispatch.
    sublattice: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """One traced lattice. Blobs are opaque: nobody but the user's Python and the workers opens them."""

    name: str
    tasks: tuple[Task, ...]
    #: Number of the blob that holds the lattice's return value with placeholders, and the tasks it needs.
    output: int
    output_deps: tuple[int, ...]
    #: More failed tasks than this end the dispatch; ``None``: all that can run does.
    max_failures: int | None = None
    #: Tasks that run at once, at most.
    max_running: int | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """What an electron with ``accept_failed=True`` gets in the place of a result that does not exist; it is falsy."""

    #: The electron's name, and the task's index in the dispatch.
    name: str
    index: int
    #: "failed", "cancelled", or "skipped" where something upstream of it was lost.
    state: str
    #: Why, in a sentence.
    error: str

    def __bool__(self) -> bool:
        return False


# ---- what serves them


@dataclass(frozen=True, slots=True, kw_only=True)
class Bag:
    """Units that are ready and alike, served by the workers of one or more job arrays."""

    id: BagId
    dispatch: DispatchId
    shape: Shape
    #: (task index, attempt) in bag order.
    tasks: tuple[tuple[int, int], ...]
    #: Units as positions in ``tasks``; a fused chain has several.
    units: tuple[tuple[int, ...], ...]
    #: Range k is ``units[cuts[k]:cuts[k + 1]]``: what one claim covers.
    cuts: tuple[int, ...]
    #: Absolute path of the bag's directory on the cluster.
    path: str
    #: Limit of one task in seconds; ``None``: only its worker's.
    limit_s: int | None
    #: A worker begins a further task only with this much of its walltime left.
    need_s: int
    #: Limit of one array task.
    worker_walltime_s: int
    #: Where in ``tasks`` each further part begins that came through the inbox of a bag that was at work already.
    parts: tuple[int, ...] = ()
    #: Tasks that one array task runs at once.
    slots: int = 1
    #: How long a worker waits for such a part when nothing is left, in seconds; 0: it leaves.
    linger_s: float = 0.0
    #: Array tasks of each array planned for it at first, and how many of these arrays are submitted at once.
    widths: tuple[int, ...] = ()
    at_once: int = 0


#: What a worker needs beside its task, in MiB. Slurm's own poll counts the pages that both share twice (22.05).
WORKER_MEMORY_MIB: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class JobArray:
    """One submission: ``width`` workers for one bag."""

    #: Unique for ever, and the job's name: the key by which a lost reply is found again.
    token: str
    bag: BagId
    dispatch: DispatchId
    cluster: ClusterName
    resources: Resources
    width: int
    #: Limit of one array task, in seconds.
    worker_walltime_s: int
    #: What the array task runs, as an argv: the interpreter, the worker, the bag.
    command: tuple[str, ...]
    #: The bag's directory: where the scheduler writes the array tasks' own output (``logs/``).
    path: str
    #: Lines of shell from clusters.toml and of the tasks' environment, run before the worker.
    prologue: str = ""
    #: Site-wide arguments of the submit command from clusters.toml, before the task's own ``extra``.
    extra: tuple[str, ...] = ()
    #: Its nodes are nobody else's while it runs.
    exclusive: bool = False
    #: Nodes on which it must not run, besides ``resources.exclude``: they lost too many tasks.
    avoid: tuple[str, ...] = ()
    #: When the intent to submit was stored: accounting is searched from here on.
    intent_at: datetime
    #: ``None`` until the scheduler's answer, or an adoption by name, gave it.
    job_id: JobId | None = None


# ---- what a scheduler says


class Phase(StrEnum):
    """Where one array task is, in every scheduler's terms."""

    PENDING = "pending"
    RUNNING = "running"
    ENDED = "ended"


class Cause(StrEnum):
    """Why an array task ended, by the scheduler's accounting."""

    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    MEMORY = "out of memory"
    NODE_FAIL = "node failure"
    PREEMPTED = "preempted"
    #: Its own latest time of completion went by (Slurm's ``--deadline``).
    DEADLINE = "deadline"


class Stuck(StrEnum):
    """Why an array task that is pending does not even wait for its turn."""

    #: Somebody holds it; it starts after a release.
    HELD = "held"
    #: It can't ever start as it was asked for.
    NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One array task as the scheduler sees it now. Ours are looked up by name, so an unknown id is found as well."""

    token: str
    job_id: JobId
    #: 0-based index of the array task.
    index: int
    phase: Phase
    #: Only for ENDED.
    cause: Cause | None = None
    #: The scheduler's own words: state, pending reason, who cancelled.
    raw: str = ""
    #: Who cancelled or holds it, where the scheduler says so: a user's name, or "uid 1234".
    by: str | None = None
    #: Only for PENDING.
    stuck: Stuck | None = None
    #: Only for RUNNING: it began, and stands still until somebody lets it go on. It is alive.
    suspended: bool = False
    exit_code: int | None = None
    signal: int | None = None
    host: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    #: Core-seconds charged and the peak resident memory, where accounting knows them.
    core_seconds: float | None = None
    max_rss_kib: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Observations:
    """One answer about many arrays. Absence in it is a fact only for the arrays in ``complete``."""

    rows: tuple[Observation, ...]
    #: Tokens for which queue and accounting both gave whole answers.
    complete: frozenset[str]
    #: What went wrong, as sentences; empty when every source answered.
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """What one partition (the whole machine, for `local`) can give to a task."""

    name: str
    is_default: bool = False
    max_walltime_s: int | None = None
    max_nodes: int | None = None
    #: Of the largest node, as far as the scheduler says.
    cpus_per_node: int | None = None
    memory_mib_per_node: int | None = None
    gpus_per_node: int | None = None
    total_nodes: int | None = None
    #: Its nodes are given to one job each, whatever that asks for.
    exclusive: bool = False
    #: Array tasks in one submission, where that is fewer than `ArrayLimits` allows.
    max_width: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayLimits:
    """How large one array may be."""

    #: Array tasks in one submission, at most (Slurm: MaxArraySize, whose highest index is one less).
    max_width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a cluster said about itself when it was asked last."""

    array: ArrayLimits
    partitions: tuple[Partition, ...]
    scheduler: str = ""
    version: str = ""
    #: False: `squeue` alone must do.
    accounting: bool = True
    #: False: an array task needs no limit of its own (`local`).
    bounded: bool = True
    notes: Mapping[str, str] = field(default_factory=dict)
