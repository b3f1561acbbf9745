"""Decides how ready tasks are served: which of them share a bag, how wide its arrays are, how long its workers live."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Final

from hpcflow.core.model import WORKER_MEMORY_MIB, ClusterName, Graph, Limits, Partition, Resources, Shape, UserError
from hpcflow.core.words import counted, length, memory

__all__ = [
    "RANGE_S",
    "BagPlan",
    "PlanSettings",
    "Ready",
    "capacity",
    "chain",
    "check_resources",
    "core_hours_bound",
    "cuts",
    "for_slots",
    "is_as_long_as_possible",
    "is_reserve_worth",
    "is_worth_waiting",
    "more_workers",
    "partition_of",
    "plan_bags",
    "slots_of",
]

#: Between a task's own limit and its array task's: what the worker needs to stop it, write and leave.
MARGIN_S: Final = 60
#: Tasks with a shorter limit start with a narrow array while nobody knows how long they run.
SHORT_WALLTIME_S: Final = 600
#: No task waits longer than this for others like it.
GATHER_MAX_S: Final = 600
#: A task as long as this pays for the start of its worker, which takes a tenth of a second and less.
PAYS_S: Final = 0.5
#: Work of one range, at most, and at least: a claim and a process of its own for less would cost more than the work.
RANGE_S: Final = 10.0
SMALL_RANGE_S: Final = 0.2
#: Further workers come too late for less work than this each, where nobody knows how long array tasks wait for their
#: start: schedulers look at their queues about this often.
LATE_S: Final = 30.0
#: And beyond twice the time that array tasks lately waited, where that is known.
QUICK_S: Final = 1.0
#: An array task without any limit of its own still gets a number that every scheduler can write: ten years.
UNBOUNDED_S: Final = 10 * 365 * 86400


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """One task that can run now."""

    index: int
    attempt: int
    shape: Shape
    #: It was cut off by the end of its worker before: it shall be the first and only one of the next.
    alone: bool = False
    #: How long it will run, by the tasks of its electron that ended before, here or in earlier dispatches; ``None``:
    #: none has.
    mean_wall_s: float | None = None
    #: (index, attempt) of the tasks that follow it one by one, alike, and wait for nothing else: one unit with it.
    chain: tuple[tuple[int, int], ...] = ()
    #: Others will come the same way: the tasks of a sublattice that it builds, or further calls of an open dispatch.
    grows: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSettings:
    """What the server and the cluster's owner decided."""

    min_worker_time_s: float
    first_width: int
    #: Of these, array tasks that are submitted at once.
    ramp_width: int
    worker_walltime_s: float
    kill_grace_s: float
    #: Tasks of one unit, at most.
    chain_length: int = 1000
    #: How long array tasks lately waited for their start, in seconds; ``None``: nobody knows.
    launch_s: float | None = None
    #: Array tasks of one array, at most, by clusters.toml.
    max_width: int | None = None
    #: Array tasks that may come up at once besides those there are, at least 1; ``None``: no matter.
    room: int | None = None
    #: Tasks that one array task runs at once; 0: as many as a node of the partition holds, which is so anyway where the
    #: partition gives whole nodes and this is 1.
    slots: int = 1
    #: An array task has one unit, that of its own index: the cluster's file system can't tell workers who was first.
    own_range: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BagPlan:
    """One bag to make, and the arrays that serve it at first."""

    shape: Shape
    tasks: tuple[tuple[int, int], ...]
    units: tuple[tuple[int, ...], ...]
    cuts: tuple[int, ...]
    widths: tuple[int, ...]
    #: How many of the arrays are submitted at once; the others follow unless tasks prove to be short.
    at_once: int
    #: Limit of one array task, in seconds.
    worker_walltime_s: int
    #: Limit of one task; ``None``: only its worker's.
    limit_s: int | None
    #: A worker begins a further task only with this much of its walltime left.
    need_s: int
    #: Tasks that one array task runs at once.
    slots: int = 1


def check_resources(resources: Resources, cluster: str, limits: Limits) -> None:
    """Check that some partition of the cluster can hold a task.

    Raises:
        UserError: the partition named (or the default one) can't; the sentence names the nearest that can.
    """
    chosen = partition_of(resources, limits)
    if chosen is None:
        if resources.partition is None or not limits.partitions:
            return
        names = ", ".join(sorted(partition.name for partition in limits.partitions))
        raise UserError(f"{cluster} has no partition {resources.partition!r}; it has {names}.")
    reason = _too_much(resources, chosen)
    if reason is None:
        return
    fitting = [other.name for other in limits.partitions if _too_much(resources, other) is None]
    advice = f"Partition {fitting[0]!r} can hold it." if fitting else "No partition there can hold it: ask for less."
    raise UserError(f"{reason} on {cluster}, partition {chosen.name!r}. {advice}")


def partition_of(resources: Resources, limits: Limits) -> Partition | None:
    """Return the partition that a task runs in: the one it names, or the default one; ``None``: not known."""
    for partition in limits.partitions:
        if partition.name == resources.partition or (resources.partition is None and partition.is_default):
            return partition
    return None


def _too_much(resources: Resources, partition: Partition) -> str | None:
    """Say what of the request this partition can't give, ``None`` when it can hold all of it."""
    per_node = -(-resources.ntasks // resources.nodes) * resources.cpus
    nodes = min(partition.max_nodes or resources.nodes, partition.total_nodes or resources.nodes)
    asked: tuple[tuple[Callable[[int], str], str, str, int | None, int | None], ...] = (
        (partial(counted, one="node"), "", "are", resources.nodes, nodes),
        (partial(counted, one="core"), " on one node", "are", per_node, partition.cpus_per_node),
        (memory, " of memory on one node", "is", resources.memory_mib, partition.memory_mib_per_node),
        (partial(counted, one="GPU"), " on one node", "are", resources.gpus, partition.gpus_per_node),
        (length, " of walltime", "is", resources.walltime_s, partition.max_walltime_s),
    )
    for told, of_what, verb, wanted, most in asked:
        if wanted is not None and most is not None and wanted > most:
            return f"A task asks for {told(wanted)}{of_what}, and there {verb} at most {told(most)}"
    return None


def plan_bags(
    ready: Iterable[Ready], limits: Mapping[ClusterName, Limits], settings: PlanSettings
) -> tuple[BagPlan, ...]:
    """Gather ready tasks that are alike into bags, in the order of their first tasks.

    Args:
        ready: tasks of one dispatch, in order.
        limits: of each cluster named in their shapes.
        settings: of the cluster; tasks of several clusters are planned in several calls.
    """
    alike: dict[tuple[Shape, bool], list[Ready]] = {}
    for task in ready:
        alike.setdefault((task.shape, task.alone), []).append(task)
    return tuple(
        _plan_bag(shape, some, alone, limits[shape.cluster], settings)
        for (shape, alone), tasks in alike.items()
        for some in _for_one_bag(shape, tasks, limits[shape.cluster], settings)
    )


def _for_one_bag(
    shape: Shape, tasks: Sequence[Ready], limits: Limits, settings: PlanSettings
) -> Iterable[Sequence[Ready]]:
    """Yield tasks in such numbers as one bag may hold: all, or those that one array serves at one unit each.

    Where there is room for so many array tasks only, the rest is left for later.
    """
    if not settings.own_range:
        return (tasks,)
    most = _split(len(tasks), limits, partition_of(shape.resources, limits), settings)[0]
    if settings.room is not None:
        return (tasks[: min(most, settings.room)],)
    return (tasks[start : start + most] for start in range(0, len(tasks), most))


def _plan_bag(shape: Shape, ready: Sequence[Ready], alone: bool, limits: Limits, settings: PlanSettings) -> BagPlan:
    work = [task.mean_wall_s * (1 + len(task.chain)) for task in ready if task.mean_wall_s is not None]
    known = len(work) == len(ready)
    if known:  # longest first, so that no long one is left for the end
        order = sorted(range(len(ready)), key=lambda place: -work[place])
        ready, work = [ready[place] for place in order], [work[place] for place in order]
    tasks = tuple(key for task in ready for key in ((task.index, task.attempt), *task.chain))
    ends = list(accumulate(1 + len(task.chain) for task in ready))
    units = tuple(tuple(range(start, end)) for start, end in zip([0, *ends], ends, strict=False))
    links = max(len(unit) for unit in units)
    partition = partition_of(shape.resources, limits)
    longest = partition.max_walltime_s if partition else None
    margin = int(settings.kill_grace_s) + MARGIN_S
    limit = shape.resources.walltime_s
    full = is_as_long_as_possible(shape.resources, limits, settings.kill_grace_s)
    single = alone or shape.launcher is not None or full or settings.own_range
    width = len(units)
    if not single and limit_is_short(shape.resources):
        # While nobody knows how long they run, and beyond that for what workers are worth their start.
        worth = int(sum(work) / settings.min_worker_time_s) if known else 0
        width = min(width, max(settings.first_width, worth))
    width = max(1, width if single else min(width, capacity(shape.resources, partition)))
    slots = 1
    if not alone and shape.launcher is None:
        whole = settings.slots == 1 and partition is not None and partition.exclusive
        slots = slots_of(shape.resources, partition, 0 if whole else settings.slots, min(width, len(units)))
    if settings.room is not None:
        width = min(width, settings.room * slots)
    if limit is not None:
        several = max(settings.worker_walltime_s, limit + margin)
        most = links * limit + margin
        # What is still to come shall find workers with time left.
        share = several if any(task.grows for task in ready) else -(-len(tasks) // width) * limit + margin
        worker_walltime = most if single else int(min(share, several))
        need = worker_walltime if single else limit + margin
    else:
        worker_walltime = int(settings.worker_walltime_s) if limits.bounded else UNBOUNDED_S
        need = worker_walltime if single else margin
    if longest is not None:
        worker_walltime = min(worker_walltime, longest)
        need = min(need, worker_walltime)
    ramp = width
    if not single and limits.bounded and limit_is_short(shape.resources):
        few = min(width, settings.ramp_width)
        mean = sum(work) / len(work) if known else None
        if mean is None:
            ramp = few  # a few workers may be all that the tasks are worth
        elif not _is_worth(len(units), mean, few, min(LATE_S, late_s(settings.launch_s))):
            ramp = few
            if settings.launch_s is not None or not _is_worth(len(units), mean, few, QUICK_S):
                width = few  # else the first ones tell how soon others would come
    at_once = _split(-(-ramp // slots), limits, partition, settings)
    return BagPlan(
        shape=shape,
        tasks=tasks,
        units=units,
        cuts=tuple(range(len(units) + 1)) if single else cuts(len(units), width, work if known else ()),
        widths=at_once + _split(-(-max(0, width - ramp) // slots), limits, partition, settings),
        at_once=len(at_once),
        worker_walltime_s=worker_walltime,
        limit_s=limit,
        need_s=need,
        slots=slots,
    )


def is_as_long_as_possible(resources: Resources, limits: Limits, kill_grace_s: float) -> bool:
    """Say whether a task's walltime leaves its array task no time for another, within the partition's limit."""
    partition = partition_of(resources, limits)
    longest = partition.max_walltime_s if partition is not None else None
    limit = resources.walltime_s
    return limit is not None and longest is not None and limit + int(kill_grace_s) + MARGIN_S >= longest


def slots_of(resources: Resources, partition: Partition | None, slots: int, workers: int) -> int:
    """Return how many tasks an array task shall run at once.

    Args:
        resources: of one task. One that spreads over nodes or processes has its array task to itself.
        partition: where it runs.
        slots: what the cluster's owner wrote; 0: as many as fit on one node.
        workers: that are wanted in all: no array task gets more slots than that.
    """
    if resources.nodes > 1 or resources.ntasks > 1:
        return 1
    fit = _on_one_node(resources, partition)
    wanted = slots or fit or 1
    return max(1, min(wanted, fit or wanted, workers))


def for_slots(resources: Resources, slots: int) -> Resources:
    """Return what an array task asks for that runs so many tasks at once."""
    if slots == 1:
        return resources
    memory = resources.memory_mib
    return replace(
        resources,
        cpus=resources.cpus * slots,
        # Schedulers' plugins add one worker to a task's memory; here there are several.
        memory_mib=memory * slots + WORKER_MEMORY_MIB * (slots - 1) if memory is not None else None,
        gpus=resources.gpus * slots,
    )


def _on_one_node(resources: Resources, partition: Partition | None) -> int | None:
    """Return how many tasks of one process fit on a node, ``None`` where nobody says how large that is."""
    if partition is None or partition.cpus_per_node is None:
        return None
    on_one = partition.cpus_per_node // max(1, resources.cores)
    if resources.memory_mib and partition.memory_mib_per_node:
        on_one = min(on_one, partition.memory_mib_per_node // resources.memory_mib)
    if resources.gpus and partition.gpus_per_node:
        on_one = min(on_one, partition.gpus_per_node // resources.gpus)
    return on_one


def limit_is_short(resources: Resources) -> bool:
    """Say whether a task may well run for a moment only: it names no walltime, or a short one."""
    return resources.walltime_s is None or resources.walltime_s < SHORT_WALLTIME_S


def late_s(launch_s: float | None) -> float:
    """Return for how much work each, in seconds, further workers come too late.

    Args:
        launch_s: how long array tasks wait for their start; ``None``: nobody knows.
    """
    return LATE_S if launch_s is None else 2 * launch_s + QUICK_S


def is_reserve_worth(
    *, units_left: int, mean_wall_s: float | None, workers: int, launch_s: float | None = None
) -> bool:
    """Say whether the arrays held back at first are worth their start.

    Args:
        units_left: units that no worker has claimed.
        mean_wall_s: of units like these; ``None``: none has ended, as when tasks are long or the queue is.
        workers: that serve the bag already.
        launch_s: how long these waited for their start; ``None``: nobody knows.
    """
    return units_left > 0 if mean_wall_s is None else _is_worth(units_left, mean_wall_s, workers, late_s(launch_s))


def _is_worth(units: int, mean_wall_s: float, workers: int, least_s: float) -> bool:
    """Say whether further workers are: each unit pays for one, or they would be busy for long enough."""
    return units > 0 and (mean_wall_s >= PAYS_S or units * mean_wall_s / workers > least_s)


def capacity(resources: Resources, partition: Partition | None) -> int:
    """Return how many such workers a partition can run at once when it is empty, as far as its limits say."""
    on_one = _on_one_node(resources, partition)
    if partition is None or on_one is None or partition.total_nodes is None:
        return UNBOUNDED_S
    if resources.nodes > 1:
        return max(1, partition.total_nodes // resources.nodes)
    return max(1, on_one * partition.total_nodes)


def _split(width: int, limits: Limits, partition: Partition | None, settings: PlanSettings) -> tuple[int, ...]:
    """Cut a width into arrays that the scheduler takes, over the same bag."""
    own = partition.max_width if partition else None
    most = max(1, min(size for size in (limits.array.max_width, own, settings.max_width) if size is not None))
    return tuple(min(most, width - start) for start in range(0, width, most))


def cuts(units: int, workers: int, work: Sequence[float] = ()) -> tuple[int, ...]:
    """Cut ``units`` into ranges, large ones first, so that all workers agree without talking.

    Each range is half of a worker's fair share of what is left, so that the last ranges are single units. Where the
    units' run times are known that is measured in time, and no range is longer than `RANGE_S`: what one worker took
    and could not begin is then no great loss, and longest first does not put all long units into the first range. Nor
    is one cut shorter than `SMALL_RANGE_S`, even where it is the last.

    Args:
        units: how many there are, in the order in which they are claimed.
        workers: that will share them.
        work: how long each runs, in seconds; empty: nobody knows.
    """
    at, out = 0, [0]
    left = sum(work)
    while at < units:
        if not left > 0:
            at += max(1, (units - at) // (2 * workers))
        else:
            share, taken = max(SMALL_RANGE_S, min(left / (2 * workers), RANGE_S)), 0.0
            while at < units and (at == out[-1] or taken + work[at] <= share):
                taken += work[at]
                at += 1
            left -= taken
        out.append(at)
    return tuple(out)


def more_workers(*, units_left: int, mean_wall_s: float, workers: int, most: int, min_worker_time_s: float) -> int:
    """Return how many further workers measured work is worth.

    Args:
        units_left: units that no worker has claimed.
        mean_wall_s: of the units that ended.
        workers: that serve the bag now, running or queued.
        most: workers that may serve it at once.
        min_worker_time_s: a worker is worth its start when it has this much work.
    """
    worth = int(units_left * mean_wall_s / min_worker_time_s)
    return max(0, min(worth, units_left, most) - workers)


def chain(
    head: int,
    graph: Graph,
    downstream: Sequence[Sequence[int]],
    joins: Callable[[int, int], bool],
    settings: PlanSettings,
) -> tuple[int, ...]:
    """Return the tasks that follow one and can be one unit with it: each waits for the one before it, and nothing else.

    Args:
        head: a ready task.
        graph: its dispatch.
        downstream: for each task, those that wait for it.
        joins: whether a task and the one after it are alike, and the latter still waits.
        settings: a chain's limit is never longer than a worker of several tasks lives.
    """
    if graph.tasks[head].launcher is not None:
        return ()
    limit = graph.tasks[head].resources.walltime_s
    most = settings.chain_length
    if limit is not None:
        most = min(most, int(settings.worker_walltime_s) // limit)
    links: list[int] = []
    at = head
    while len(links) + 1 < most and len(downstream[at]) == 1:
        (child,) = downstream[at]
        task = graph.tasks[child]
        # A task that gathers thousands is looked at once for each of them: at its first other upstream it is enough.
        others = any(upstream != at for upstream in task.deps) or any(upstream != at for upstream in task.after)
        if others or task.accept_failed or not joins(at, child):
            break
        links.append(child)
        at = child
    return tuple(links)


def is_worth_waiting(*, ready: int, coming: int, held_s: float, bags: int, gather_s: float) -> bool:
    """Say whether ready tasks shall wait for their like, so that a stage costs a few submissions and not one a task.

    The first bag goes when half of what can be had soon is there, a later one when all of it is; none waits longer
    than ``gather_s``, doubled with each bag before it, so that submissions grow with the logarithm of time only.

    Args:
        ready: alike tasks that can run now.
        coming: alike tasks of which all missing upstreams are in a scheduler's hands.
        held_s: for how long the first of the ready tasks has waited.
        bags: alike bags of this dispatch that were made while others were still to come.
        gather_s: how long the first bag waits at most.
    """
    if not coming or (bags == 0 and ready >= coming):
        return False
    return held_s < min(GATHER_MAX_S, gather_s * (1 << min(bags, 10)))


def core_hours_bound(plan: BagPlan) -> float:
    """Return the most that the first arrays of a bag can be charged."""
    return sum(plan.widths) * plan.slots * plan.worker_walltime_s * plan.shape.resources.cores / 3600
