"""Run times from before that are wrong: they cost some array tasks, and never a task or a night of waiting."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcflow.core.model import ClusterName
from hpcflow.core.states import Status
from hpcflow.server.launches import Launches
from hpcflow.server.live import LiveDispatch
from hpcflow.server.store import RunTimeKey
from tests.unit.mini_world import MINI, PlayedWorker, Stage, a_dispatch, a_manifest, a_stage
from tests.unit.test_engine import in_loop

MANY = 200


async def dispatch_with_history(stage: Stage, wall_s: float) -> LiveDispatch:
    """Start many tasks of which earlier dispatches say that such tasks run so long."""
    manifest = a_manifest(*[[]] * MANY)
    live = a_dispatch(manifest, stage.folder)
    for index in range(MANY):
        stage.engine.run_times[live.run_time_key(index)] = (1000, 1000 * wall_s)
    stage.store.add_dispatch(live.row, manifest, [live.task_row(index) for index in range(MANY)])
    await stage.engine.begin(live)
    return live


@in_loop
async def test_tasks_that_run_a_hundred_times_longer_than_before_get_more_workers_when_that_is_seen(
    tmp_path: Path,
) -> None:
    async with a_stage(tmp_path, first_width=8) as stage:
        live = await dispatch_with_history(stage, 1.0)
        job = await stage.job()
        assert len(job.tasks) == 8  # 200 s of work are worth no worker of five minutes: as many as unknown tasks get
        workers = [PlayedWorker(job, index) for index in range(8)]
        for index, worker in enumerate(workers):
            worker.claim(index)
        workers[0].start(0)
        workers[0].end(0, wall=100.0, r={"b": "gASIiC4="})
        more = await stage.job(1)
        # Units that nobody has claimed, 100 s each, at five minutes for each worker: less those there are.
        unclaimed = MANY - stage.store.bags(live.id)[0].bag.cuts[8]
        assert len(more.tasks) == unclaimed * 100 // 300 - 8 > 0


@in_loop
async def test_tasks_that_run_a_hundred_times_shorter_than_before_leave_array_tasks_that_one_command_cancels(
    tmp_path: Path,
) -> None:
    async with a_stage(tmp_path) as stage:
        live = await dispatch_with_history(stage, 1000.0)
        job = await stage.job()
        assert len(job.tasks) == MANY
        worker = PlayedWorker(job, 0)
        order = [index for index, _ in stage.store.bags(live.id)[0].bag.tasks]
        for k, task in enumerate(order):
            worker.claim(k)
            worker.start(task)
            worker.end(task, wall=10.0, r={"b": "gASIiC4="})
        assert (await stage.ended(live)).status is Status.COMPLETED
        await stage.until(lambda: stage.world.count("cancel") == 1)
        assert stage.world.count("submit") == 1


@pytest.mark.parametrize(("cluster", "known"), [("mini", 5.0), ("elsewhere", None)])
@in_loop
async def test_what_tasks_took_on_another_cluster_is_not_believed_here(
    tmp_path: Path, cluster: str, known: float | None
) -> None:
    async with a_stage(tmp_path) as stage:
        live = a_dispatch(a_manifest([]), stage.folder)
        here = live.run_time_key(0)
        live.history = {RunTimeKey(here[0], ClusterName(cluster), here[2]): (3, 15.0)}
        assert live.mean_wall_s(0) == known


@in_loop
async def test_how_soon_array_tasks_start_is_measured_and_decides_about_further_ones_for_short_tasks(
    tmp_path: Path,
) -> None:
    async with a_stage(tmp_path, ramp_width=2, first_width=8, ramp_after=0.01) as stage:
        first = await dispatch_with_history(stage, 0.29)
        job = await stage.job()
        asked = stage.world.count("query")
        await stage.until(lambda: stage.world.count("query") > asked + 3)
        # 29 s of work for each of two workers: whether others would come in time nobody knows before one came.
        assert (len(job.tasks), stage.world.count("submit")) == (2, 1)
        PlayedWorker(job, 0)
        assert len((await stage.job(1)).tasks) == 6
        # From now on it is known.
        second = await dispatch_with_history(stage, 0.29)
        assert len((await stage.job(2)).tasks) == 8
        for live in (first, second):
            await stage.engine.course.cancel(live, None)


@in_loop
async def test_where_array_tasks_start_late_short_tasks_get_no_further_ones(tmp_path: Path) -> None:
    async with a_stage(tmp_path, ramp_width=2, first_width=8, ramp_after=0.01) as stage:
        stage.engine._shared.launches.note(MINI, None, 60.0)
        live = await dispatch_with_history(stage, 0.29)
        assert len((await stage.job()).tasks) == 2
        assert stage.store.bags(live.id)[0].bag.widths == (2,)
        await stage.engine.course.cancel(live, None)


def test_the_usual_wait_is_the_median_of_the_last_ones_of_a_partition() -> None:
    launches = Launches()
    for seconds in (900.0, 1.0, 2.0, 3.0, 4.0, 5.0):
        launches.note(MINI, "batch", seconds)
    launches.note(MINI, None, 7.0)
    usual = [launches.usual_s(MINI, partition) for partition in ("batch", None, "debug")]
    assert usual == [3.0, 7.0, None]
