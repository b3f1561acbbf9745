"""A cluster's queue as its scheduler shows it: partitions, nodes and jobs, in every scheduler's terms."""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from itertools import accumulate
from typing import Final, Literal, TypeAlias

from hpcflow.core.model import Phase, Stuck

__all__ = [
    "NodeState",
    "QueueNode",
    "QueuePartition",
    "QueueView",
    "QueuedJob",
    "in_order",
    "spans",
    "told",
    "with_ahead",
]


class NodeState(StrEnum):
    """What a node does, in every scheduler's terms."""

    IDLE = "idle"
    #: Some of its cores are taken.
    MIXED = "mixed"
    #: It takes no more jobs because it is full, given to one job alone, or being emptied.
    ALLOCATED = "allocated"
    #: Kept for a reservation or a maintenance.
    RESERVED = "reserved"
    #: Down, drained, switched off by an administrator, or silent.
    DOWN = "down"
    #: In a state that hpcflow does not know.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueNode:
    """One node."""

    name: str
    state: NodeState
    #: The scheduler's own word for the state.
    raw: str
    #: ``None``: the scheduler does not tell which partitions use it.
    partitions: tuple[str, ...] | None = ()
    cores: int | None = None
    cores_used: int | None = None
    memory_mib: int | None = None
    gpus: int | None = None
    #: What an administrator, or the scheduler, wrote beside it.
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedJob:
    """A job, or array tasks of one array that are alike; never one that has ended."""

    #: As hpcflow calls it: "8123" for a job and for every array task of an array.
    job_id: str
    #: Indices of the array tasks as the scheduler writes them, "2-9%2" or "7"; ``None``: no array, or it does not tell.
    indices: str | None = None
    #: Jobs that the row stands for: array tasks, or 1.
    tasks: int = 1
    name: str
    user: str
    account: str | None = None
    #: Where it runs; of a pending one, where it may: several have commas between them.
    partition: str
    #: PENDING or RUNNING.
    phase: Phase
    #: Of a running one: it stands still until somebody lets it go on.
    suspended: bool = False
    #: The scheduler's own words: its state, and of a pending one the code or sentence of why it waits.
    raw: str
    reason: str | None = None
    #: Why it waits or is suspended in plain words, as a phrase that begins with a verb; ``None``: `reason` is all there
    #: is.
    why: str | None = None
    stuck: Stuck | None = None
    #: Asked for by one job or array task; GPUs over all its nodes.
    nodes: int | None = None
    cores: int | None = None
    gpus: int | None = None
    walltime_s: int | None = None
    submitted_at: datetime | None = None
    started_at: datetime | None = None
    hosts: str | None = None
    #: When a pending one is to start, and who says so: the scheduler's plan, or the job's own earliest time.
    starts_at: datetime | None = None
    starts_from: Literal["scheduler", "begin time"] | None = None
    #: Higher goes first; ``None``: the scheduler does not tell its order, or the job is not in line for room.
    priority: int | None = None
    #: Array tasks and jobs in line for the same partition that go first; ``None``: not known.
    ahead: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePartition:
    """One partition; counts are ``None`` where the scheduler does not tell."""

    name: str
    is_default: bool = False
    #: Whether it takes jobs and starts them; ``None``: not told.
    open: bool | None = None
    #: The scheduler's own words for that.
    raw: str = ""
    max_walltime_s: int | None = None
    #: How many nodes are in which state; those that are not named are none.
    nodes: Mapping[NodeState, int] | None = None
    cores: int | None = None
    cores_used: int | None = None
    #: Jobs and array tasks, those of the user among them.
    pending: int | None = None
    running: int | None = None
    pending_mine: int | None = None
    running_mine: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueView:
    """One look at a queue."""

    #: The user's name on the cluster; ``None``: not told, so that nothing is known to be the user's own.
    user: str | None
    partitions: tuple[QueuePartition, ...] = ()
    #: ``None``: not known.
    nodes: tuple[QueueNode, ...] | None = None
    jobs: tuple[QueuedJob, ...] | None = None
    #: What could not be asked or read, as sentences; empty when all of it was.
    problems: tuple[str, ...] = field(default=())


#: Nodes that no job can use now count no cores.
_USABLE: Final = frozenset({NodeState.IDLE, NodeState.MIXED, NodeState.ALLOCATED, NodeState.RESERVED})


def told(
    partitions: Iterable[QueuePartition],
    *,
    nodes: Sequence[QueueNode] | None,
    jobs: Sequence[QueuedJob] | None,
    user: str | None,
) -> tuple[QueuePartition, ...]:
    """Return the partitions with their nodes, cores and jobs counted; nothing is counted of what is not known.

    Args:
        partitions: as the scheduler names them.
        nodes: all that it shows; with one of them whose partitions are not told, no partition's nodes are known.
        jobs: all that it shows, those of others too.
        user: whose jobs are "mine".
    """
    states: defaultdict[str, Counter[NodeState]] = defaultdict(Counter)
    cores: Counter[str] = Counter()
    used: Counter[str] = Counter()
    for node in nodes or ():
        for name in node.partitions or ():
            states[name][node.state] += 1
            if node.state in _USABLE:
                cores[name] += node.cores or 0
                used[name] += node.cores_used or 0
    placed = nodes is not None and all(node.partitions is not None for node in nodes)
    waiting: Counter[tuple[str, Phase, bool]] = Counter()
    for job in jobs or ():
        for name in job.partition.split(",") if job.phase is Phase.PENDING else (job.partition,):
            waiting[name, job.phase, job.user == user] += job.tasks

    def count(name: str, phase: Phase, *, mine: bool) -> int | None:
        if jobs is None or (mine and user is None):
            return None
        return waiting[name, phase, True] + (0 if mine else waiting[name, phase, False])

    return tuple(
        replace(
            partition,
            nodes=dict(states[partition.name]) if placed else None,
            cores=cores[partition.name] if placed else None,
            cores_used=used[partition.name] if placed else None,
            pending=count(partition.name, Phase.PENDING, mine=False),
            running=count(partition.name, Phase.RUNNING, mine=False),
            pending_mine=count(partition.name, Phase.PENDING, mine=True),
            running_mine=count(partition.name, Phase.RUNNING, mine=True),
        )
        for partition in partitions
    )


_Place: TypeAlias = tuple[int, int, int]


def _place(job: QueuedJob, priority: int) -> _Place:
    """Return where a job stands in line: of those with the same priority, the first that came goes first."""
    number, index = (re.match(r"[0-9]{0,18}", text) for text in (job.job_id, job.indices or ""))
    return -priority, int((number and number[0]) or 0), int((index and index[0]) or 0)


def with_ahead(jobs: Sequence[QueuedJob]) -> list[QueuedJob]:
    """Return the jobs, each pending one that has a priority with how many in line are ahead of it.

    One that may run in several partitions waits for the shortest of their lines.
    """
    line: defaultdict[str, Counter[_Place]] = defaultdict(Counter)
    for job in jobs:
        if job.phase is Phase.PENDING and job.priority is not None:
            for name in job.partition.split(","):
                line[name][_place(job, job.priority)] += job.tasks
    ranks: dict[str, tuple[list[_Place], list[int]]] = {}
    for name, members in line.items():
        places = sorted(members)
        ranks[name] = places, [0, *accumulate(members[place] for place in places)]

    def ahead(job: QueuedJob) -> int | None:
        if job.phase is not Phase.PENDING or job.priority is None:
            return None
        first: list[int] = []
        for name in job.partition.split(","):
            places, totals = ranks[name]
            first.append(totals[bisect_left(places, _place(job, job.priority))])
        return min(first)

    return [replace(job, ahead=found) if (found := ahead(job)) is not None else job for job in jobs]


def in_order(jobs: Iterable[QueuedJob]) -> list[QueuedJob]:
    """Return the jobs as they are to start: those in line, others that wait, and those that run.

    Where the scheduler tells no priorities, and of what is not in line, those whose start is known come first.
    """

    def key(job: QueuedJob) -> tuple[int, _Place, float]:
        if job.phase is not Phase.PENDING:
            return 2, (0, 0, 0), 0.0
        if job.priority is not None:
            return 0, _place(job, job.priority), 0.0
        return 1, (0, 0, 0), math.inf if job.starts_at is None else job.starts_at.timestamp()

    return sorted(jobs, key=key)


def spans(numbers: Iterable[int]) -> str:
    """Write indices in ascending order as schedulers do: "1-8,10"."""
    found: list[list[int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in found)
