"""Which tasks share a bag, how wide, how long: values in, values out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcflow.core.graphs import check_graph, waves
from hpcflow.core.model import ArrayLimits, ClusterName, Graph, Limits, Partition, Resources, Shape, Task, UserError
from hpcflow.core.plan import (
    RANGE_S,
    BagPlan,
    PlanSettings,
    Ready,
    capacity,
    chain,
    check_resources,
    core_hours_bound,
    cuts,
    for_slots,
    is_reserve_worth,
    is_worth_waiting,
    more_workers,
    plan_bags,
)

MINI = ClusterName("mini")
SETTINGS = PlanSettings(min_worker_time_s=300, first_width=64, ramp_width=16, worker_walltime_s=3600, kill_grace_s=5)
DEBUG = Partition(
    name="debug", is_default=True, max_walltime_s=300, cpus_per_node=16, memory_mib_per_node=32000, total_nodes=4
)
BATCH = Partition(
    name="batch", max_walltime_s=172800, cpus_per_node=16, memory_mib_per_node=32000, gpus_per_node=4, total_nodes=4
)
LIMITS = Limits(array=ArrayLimits(max_width=1000), partitions=(DEBUG, BATCH), scheduler="slurm")


def a_shape(python: str = "/usr/bin/python3", **resources: object) -> Shape:
    return Shape(
        cluster=MINI,
        resources=Resources(**resources),  # type: ignore[arg-type]  # the test's own keywords
        python=python,
        python_version=(3, 11),
    )


def some_ready(count: int, shape: Shape, *, start: int = 0, alone: bool = False) -> list[Ready]:
    return [Ready(index=start + i, attempt=1, shape=shape, alone=alone) for i in range(count)]


def test_where_nodes_can_not_tell_who_was_first_an_array_task_has_one_unit() -> None:
    shape = a_shape(partition="batch")
    own = replace(SETTINGS, own_range=True)
    first, second, third = plan_bags(some_ready(2500, shape), {MINI: LIMITS}, own)
    assert [plan.widths for plan in (first, second, third)] == [(1000,), (1000,), (500,)]
    assert (first.cuts, first.at_once) == (tuple(range(1001)), 1)
    assert [plan.tasks[0] for plan in (first, second, third)] == [(0, 1), (1000, 1), (2000, 1)]
    (few,) = plan_bags(some_ready(2500, shape), {MINI: LIMITS}, replace(own, room=7))
    assert (len(few.tasks), few.widths) == (7, (7,))


def the_plan(ready: list[Ready], limits: Limits = LIMITS, settings: PlanSettings = SETTINGS) -> BagPlan:
    (plan,) = plan_bags(ready, {MINI: limits}, settings)
    return plan


def a_graph(*deps: tuple[int, ...], after: dict[int, tuple[int, ...]] | None = None) -> Graph:
    tasks = tuple(
        Task(index=i, name=f"t{i}", fn=0, args=0, deps=d, after=(after or {}).get(i, ())) for i, d in enumerate(deps)
    )
    return Graph(name="flow", tasks=tasks, output=0, output_deps=())


# ---- bags


def test_equal_shapes_share_a_bag_whatever_their_electron() -> None:
    alike, other = a_shape(cpus=2), a_shape(cpus=4)
    plans = plan_bags([*some_ready(3, alike), *some_ready(2, other, start=3)], {MINI: LIMITS}, SETTINGS)
    assert [plan.tasks for plan in plans] == [((0, 1), (1, 1), (2, 1)), ((3, 1), (4, 1))]


def test_unknown_run_times_start_with_a_narrow_array_and_hold_another_back() -> None:
    plan = the_plan(some_ready(1000, a_shape()))
    assert (plan.widths, plan.at_once) == ((16, 48), 1)
    few = the_plan(some_ready(10, a_shape()))
    assert (few.widths, few.at_once) == ((10,), 1)


def test_known_run_times_make_one_array_as_wide_as_they_are_worth() -> None:
    def measured(mean: float) -> tuple[int, ...]:
        ready = [Ready(index=i, attempt=1, shape=a_shape(), mean_wall_s=mean) for i in range(1000)]
        return the_plan(ready).widths

    assert (measured(0.01), measured(1.0)) == ((16,), (64,))


def test_a_bag_that_is_held_back_in_part_is_cut_where_the_scheduler_takes_no_larger_array() -> None:
    small = Limits(array=ArrayLimits(max_width=11), partitions=(BATCH,))
    plan = the_plan(some_ready(1000, a_shape(partition="batch")), small)
    assert (plan.widths, plan.at_once) == ((11, 5, 11, 11, 11, 11, 4), 2)


def test_a_queue_may_take_smaller_arrays_than_the_others() -> None:
    queues = Limits(array=ArrayLimits(max_width=1000), partitions=(replace(DEBUG, max_width=6), BATCH))
    assert max(the_plan(some_ready(1000, a_shape()), queues).widths) == 6
    assert max(the_plan(some_ready(1000, a_shape(partition="batch")), queues).widths) > 6


@pytest.mark.parametrize(
    ("units_left", "mean", "workers", "worth"),
    [
        (900, None, 16, True),  # nothing has ended: tasks are long, or the queue is
        (0, None, 16, False),
        (84, 1.0, 16, True),
        (9000, 0.045, 16, False),
        (90000, 0.045, 16, True),
    ],
)
def test_the_reserve_is_called_unless_tasks_proved_to_be_short(
    units_left: int, mean: float | None, workers: int, worth: bool
) -> None:
    assert is_reserve_worth(units_left=units_left, mean_wall_s=mean, workers=workers) is worth


@pytest.mark.parametrize(("launch_s", "worth"), [(None, False), (0.0, True), (1.5, True), (11.0, True), (12.0, False)])
def test_the_reserve_is_called_while_it_comes_in_time(launch_s: float | None, worth: bool) -> None:
    # 24 s of work for each of those that are there.
    assert is_reserve_worth(units_left=1000, mean_wall_s=0.384, workers=16, launch_s=launch_s) is worth
    assert not is_reserve_worth(units_left=0, mean_wall_s=0.384, workers=16, launch_s=launch_s)


@pytest.mark.parametrize(
    ("launch_s", "mean_s", "widths", "at_once"),
    [
        (1.5, 0.383, (64,), 1),  # where starts are quick, 24 s of work each is much
        (20.0, 0.383, (16,), 1),
        (None, 0.383, (16, 48), 1),  # nobody knows: the first ones find out
        (None, 0.01, (16,), 1),  # no start is quick enough for less than a second
        (0.0, 0.01, (16,), 1),
        (3600.0, 0.49, (64,), 1),  # who waits for an hour waits for all of them together
    ],
)
def test_workers_for_short_tasks_come_where_they_start_in_time(
    launch_s: float | None, mean_s: float, widths: tuple[int, ...], at_once: int
) -> None:
    ready = [Ready(index=i, attempt=1, shape=a_shape(), mean_wall_s=mean_s) for i in range(1000)]
    plan = the_plan(ready, settings=replace(SETTINGS, launch_s=launch_s))
    assert (plan.widths, plan.at_once) == (widths, at_once)


def test_a_long_walltime_starts_with_one_worker_a_task_up_to_what_fits_the_partition() -> None:
    plan = the_plan(some_ready(40, a_shape(partition="batch", walltime_s=7200, cpus=4)))
    assert plan.widths == (16,)


def test_no_array_is_wider_than_the_partition_can_run_at_once() -> None:
    assert the_plan(some_ready(1000, a_shape(cpus=8))).widths == (8,)


def test_an_array_is_cut_where_the_scheduler_takes_no_larger_one() -> None:
    small = Limits(array=ArrayLimits(max_width=11), partitions=(BATCH,))
    plan = the_plan(some_ready(25, a_shape(partition="batch", walltime_s=172800)), small)
    assert plan.widths == (11, 11, 3)


def test_a_walltime_at_the_partitions_maximum_is_never_refused_but_gets_one_task_a_worker() -> None:
    plan = the_plan(some_ready(10, a_shape(walltime_s=300)))
    assert (plan.worker_walltime_s, plan.limit_s, plan.need_s) == (300, 300, 300)
    assert plan.cuts == tuple(range(11))
    assert plan.widths == (10,)


def test_a_worker_that_serves_several_tasks_gets_their_time_up_to_an_hour() -> None:
    plan = the_plan(some_ready(640, a_shape(partition="batch", walltime_s=60)))
    assert plan.widths == (16, 48)
    assert plan.worker_walltime_s == 10 * 60 + 65
    assert plan.need_s == 60 + 65
    hours = the_plan(some_ready(64000, a_shape(partition="batch", walltime_s=60)))
    assert hours.worker_walltime_s == 3600


def test_a_task_without_walltime_is_limited_by_its_worker_only() -> None:
    plan = the_plan(some_ready(100, a_shape()))
    assert (plan.limit_s, plan.worker_walltime_s) == (None, 300)
    assert plan.need_s < plan.worker_walltime_s


def test_a_task_that_was_cut_off_gets_a_worker_of_its_own() -> None:
    plan = the_plan(some_ready(3, a_shape(), alone=True))
    assert plan.widths == (3,)
    assert plan.need_s == plan.worker_walltime_s


def test_a_cluster_without_limits_never_ends_a_worker() -> None:
    free = Limits(array=ArrayLimits(max_width=1000), partitions=(), bounded=False)
    assert the_plan(some_ready(2, a_shape()), free).worker_walltime_s > 5 * 365 * 86400


def test_the_core_hours_bound_counts_every_core_of_every_worker() -> None:
    plan = the_plan(some_ready(640, a_shape(partition="batch", cpus=2, walltime_s=535)))
    assert plan.widths == (16, 16)
    assert core_hours_bound(plan) == 32 * 2 * plan.worker_walltime_s / 3600


@given(st.integers(1, 5000), st.integers(1, 300))
def test_ranges_cover_every_unit_once_and_shrink(units: int, workers: int) -> None:
    at = cuts(units, workers)
    sizes = [b - a for a, b in pairwise(at)]
    assert at[0] == 0 and at[-1] == units
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 1
    assert sizes[0] <= max(1, units // (2 * workers))


@given(st.lists(st.floats(0.001, 3600), min_size=1, max_size=300), st.integers(1, 100))
def test_ranges_of_known_work_cover_every_unit_once_and_are_never_long(work: list[float], workers: int) -> None:
    work.sort(reverse=True)
    at = cuts(len(work), workers, work)
    assert at[0] == 0 and at[-1] == len(work)
    assert all(a < b for a, b in pairwise(at))
    assert all(b - a == 1 or sum(work[a:b]) <= RANGE_S for a, b in pairwise(at))


def test_ranges_of_known_work_hold_half_a_workers_share() -> None:
    assert cuts(6, 1, [4.0, 4.0, 1.0, 1.0, 1.0, 1.0]) == (0, 1, 2, 4, 5, 6)


def test_short_units_are_not_claimed_one_by_one() -> None:
    assert cuts(100, 16, [0.001] * 100) == (0, 100)
    assert cuts(100, 16, [0.011] * 100) == (*range(0, 100, 18), 100)
    # Those that are worth a claim each are still left for the end one by one.
    assert cuts(100, 16, [0.3] * 100)[-50:] == tuple(range(51, 101))


def test_the_longest_come_first_when_all_run_times_are_known() -> None:
    means = [1.0, 30.0, 2.0]
    ready = [Ready(index=i, attempt=1, shape=a_shape(), mean_wall_s=mean) for i, mean in enumerate(means)]
    assert the_plan(ready).tasks == ((1, 1), (2, 1), (0, 1))
    unknown = Ready(index=3, attempt=1, shape=a_shape())
    assert the_plan([*ready, unknown]).tasks == ((0, 1), (1, 1), (2, 1), (3, 1))


def test_a_chain_weighs_as_much_as_all_its_links() -> None:
    long = Ready(index=1, attempt=1, shape=a_shape(), mean_wall_s=1.0, chain=((2, 1), (3, 1)))
    plan = the_plan([Ready(index=0, attempt=1, shape=a_shape(), mean_wall_s=2.0), long])
    assert (plan.tasks, plan.units) == (((1, 1), (2, 1), (3, 1), (0, 1)), ((0, 1, 2), (3,)))


def test_work_known_from_before_starts_with_the_workers_that_it_is_worth() -> None:
    ready = [Ready(index=i, attempt=1, shape=a_shape(), mean_wall_s=60.0) for i in range(1000)]
    roomy = Limits(array=ArrayLimits(max_width=1000), partitions=())
    assert the_plan(ready, roomy).widths == (200,)


def test_a_chain_of_tasks_with_a_limit_is_no_longer_than_a_workers_life() -> None:
    tasks = tuple(
        Task(index=i, name="f", fn=0, args=0, deps=(i - 1,) if i else (), resources=Resources(walltime_s=600))
        for i in range(20)
    )
    graph = Graph(name="flow", tasks=tasks, output=0, output_deps=())
    children = [[i + 1] if i < 19 else [] for i in range(20)]
    assert chain(0, graph, children, lambda a, b: True, SETTINGS) == (1, 2, 3, 4, 5)
    assert chain(0, graph, children, lambda a, b: b != 3, SETTINGS) == (1, 2)


def test_a_task_that_gathers_thousands_is_not_read_through_for_each_of_them() -> None:
    class Upstreams(tuple[int, ...]):
        """So many that nobody may look at more than two."""

        def __iter__(self) -> Iterator[int]:
            yield self[0]
            yield self[1]
            raise AssertionError("a third upstream was looked at")

    ready = tuple(Task(index=i, name="f", fn=0, args=0) for i in range(3))
    gathers = Task(index=3, name="g", fn=0, args=0, deps=Upstreams((0, 1, 2)))
    graph = Graph(name="flow", tasks=(*ready, gathers), output=0, output_deps=())
    assert [chain(i, graph, [[3], [3], [3], []], lambda a, b: True, SETTINGS) for i in range(3)] == [()] * 3


@pytest.mark.parametrize(
    ("units_left", "mean", "workers", "most", "expected"),
    [(900, 60.0, 64, 1000, 116), (900, 0.1, 64, 1000, 0), (900, 6000.0, 64, 500, 436), (10, 6000.0, 64, 500, 0)],
)
def test_measured_work_decides_about_more_workers(
    units_left: int, mean: float, workers: int, most: int, expected: int
) -> None:
    more = more_workers(units_left=units_left, mean_wall_s=mean, workers=workers, most=most, min_worker_time_s=300)
    assert more == expected


@pytest.mark.parametrize(
    ("ready", "coming", "held_s", "bags", "waits"),
    [
        (1, 0, 0.0, 0, False),  # nothing more will come
        (100, 100, 0.0, 0, False),  # half of it is here
        (25, 325, 0.0, 0, True),
        (25, 325, 10.0, 0, False),  # long enough
        (100, 100, 0.0, 1, True),  # the second bag waits for all the rest
        (100, 100, 19.0, 1, True),
        (100, 100, 20.0, 1, False),
        (1, 1, 599.0, 30, True),
        (1, 1, 600.0, 30, False),  # but never longer than ten minutes
    ],
)
def test_ready_tasks_wait_for_their_like_but_not_for_ever(
    ready: int, coming: int, held_s: float, bags: int, waits: bool
) -> None:
    assert is_worth_waiting(ready=ready, coming=coming, held_s=held_s, bags=bags, gather_s=10) is waits


# ---- what can't run


def test_a_partition_that_does_not_exist_is_named_with_those_that_do() -> None:
    with pytest.raises(UserError, match="mini has no partition 'long'; it has batch, debug"):
        check_resources(Resources(partition="long"), "mini", LIMITS)


@pytest.mark.parametrize(
    ("resources", "sentence"),
    [
        (
            Resources(cpus=32),
            "32 cores on one node, and there are at most 16 cores on mini, partition 'debug'. No partition",
        ),
        (Resources(gpus=2, partition="batch", memory_mib=64000), "62.5 GiB of memory on one node"),
        (Resources(walltime_s=3600), "1 h of walltime.*Partition 'batch' can hold it"),
        (Resources(nodes=5, ntasks=5), "5 nodes, and there are at most 4 nodes"),
    ],
)
def test_a_request_that_does_not_fit_says_what_is_too_much(resources: Resources, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        check_resources(resources, "mini", LIMITS)


def test_a_request_spread_over_nodes_is_checked_node_by_node() -> None:
    check_resources(Resources(nodes=4, ntasks=64), "mini", LIMITS)


def test_nothing_to_run_is_said() -> None:
    with pytest.raises(UserError, match="'flow' has nothing to run"):
        check_graph(a_graph())


def test_a_circle_is_shown_with_its_names() -> None:
    with pytest.raises(UserError, match=r"in a circle: t1 \(1\) -> t0 \(0\) -> t1 \(1\)"):
        check_graph(a_graph((), (0,), after={0: (1,)}))


def test_a_task_that_is_not_there_can_not_be_waited_for() -> None:
    with pytest.raises(UserError, match=r"Task 1 \(t1\) waits for task 7"):
        check_graph(a_graph((), (7,)))


def test_waves_put_each_task_behind_all_it_needs() -> None:
    assert waves(a_graph((), (), (0, 1), (0,), (2, 3))) == ((0, 1), (2, 3), (4,))
    assert waves(a_graph((), (), after={0: (1,)})) == ((1,), (0,))


def test_capacity_is_bounded_by_the_scarcest_resource() -> None:
    assert capacity(Resources(cpus=1, memory_mib=16000), BATCH) == 8
    assert capacity(Resources(cpus=1, gpus=2), BATCH) == 8
    assert capacity(Resources(nodes=2, ntasks=2), BATCH) == 2


def test_slots_make_arrays_narrower_and_ask_for_all_their_tasks_together() -> None:
    settings = replace(SETTINGS, slots=4)
    plan = the_plan(some_ready(1000, a_shape(cpus=2, memory_mib=100)), settings=settings)
    assert (plan.slots, plan.widths) == (4, (4, 4))
    assert for_slots(Resources(cpus=2, memory_mib=100, gpus=1), 4) == Resources(cpus=8, memory_mib=496, gpus=4)


def test_whole_nodes_hold_as_many_tasks_as_fit_and_no_more_than_there_are() -> None:
    whole = replace(SETTINGS, slots=0)
    assert the_plan(some_ready(1000, a_shape(cpus=2)), settings=whole).slots == 8
    assert the_plan(some_ready(3, a_shape(cpus=2)), settings=whole).slots == 3
    assert the_plan(some_ready(100, a_shape(nodes=2, ntasks=2)), settings=whole).slots == 1


def test_more_slots_than_a_node_has_cores_are_as_many_as_fit() -> None:
    assert the_plan(some_ready(100, a_shape(cpus=8)), settings=replace(SETTINGS, slots=64)).slots == 2


def test_a_partition_that_gives_whole_nodes_is_used_so_unless_slots_says_otherwise() -> None:
    whole = replace(LIMITS, partitions=(replace(DEBUG, exclusive=True),))
    assert the_plan(some_ready(48, a_shape()), limits=whole).slots == 16
    assert the_plan(some_ready(48, a_shape()), limits=whole, settings=replace(SETTINGS, slots=4)).slots == 4


def test_every_task_with_a_launcher_has_an_array_task_of_its_own() -> None:
    shape = replace(a_shape(ntasks=2, walltime_s=60), launcher="mpirun")
    plan = the_plan(some_ready(5, shape), settings=replace(SETTINGS, slots=4))
    assert (plan.slots, plan.widths, plan.cuts) == (1, (5,), (0, 1, 2, 3, 4, 5))
    assert plan.need_s == plan.worker_walltime_s


def test_tasks_with_a_launcher_are_no_links_of_a_chain() -> None:
    line = a_graph((), (0,), (1,))
    assert chain(0, line, [[1], [2], []], lambda _a, _b: True, SETTINGS) == (1, 2)
    launched = replace(line, tasks=tuple(replace(task, launcher="srun") for task in line.tasks))
    assert chain(0, launched, [[1], [2], []], lambda _a, _b: True, SETTINGS) == ()


def test_a_task_that_shall_be_alone_gets_no_company() -> None:
    assert the_plan(some_ready(8, a_shape(), alone=True), settings=replace(SETTINGS, slots=4)).slots == 1
