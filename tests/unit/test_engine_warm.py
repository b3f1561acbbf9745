"""Bags that grow while their workers live: the stages of a workflow reuse what the queue has granted."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from hpcflow.core.bag import INBOX, bag_key, read_lines
from hpcflow.core.states import State, Status
from hpcflow.server.store import ArrayState
from tests.unit.mini_world import KEY, Job, PlayedWorker, World, a_stage
from tests.unit.test_engine import in_loop, resume, states

NOTHING = {"b": "gASIiC4="}


def told(job: Job) -> list[dict[str, Any]]:  # Any: JSON
    """All that the workers of a bag were told."""
    bag = Path(job.path)
    records, _, bad = read_lines((bag / INBOX).read_bytes(), bag_key(KEY, bag.name))
    assert bad == 0
    return records


def inbox(job: Job) -> list[dict[str, Any]]:  # Any: JSON
    """Its further parts, and that there will be none."""
    return [record for record in told(job) if record["ev"] != "leave"]


def let_go(job: Job) -> list[tuple[bool, dict[str, int]]]:
    """Who need not wait for more: all, or some by name, for the how many-th time that they wait."""
    return [(record["all"], record["names"]) for record in told(job) if record["ev"] == "leave"]


def has_been_told(job: Job, parts: int) -> bool:
    return len(inbox(job)) >= parts


@in_loop
async def test_the_next_stage_goes_to_the_workers_of_the_last_one(tmp_path: Path) -> None:
    async with a_stage(tmp_path, linger=10) as stage:
        live = await stage.dispatch([], [], [0, 1], [0, 1])
        job = await stage.job()
        workers = [PlayedWorker(job, index) for index in (0, 1)]
        for index, worker in enumerate(workers):
            worker.run(index, index)
            worker.write(ev="idle")
        await stage.until(lambda: states(stage, live)[2:] == [State.QUEUED] * 2)
        await stage.until(lambda: inbox(job))
        (part,) = inbox(job)
        assert (part["n"], part["cuts"], [row[0] for row in part["tasks"]]) == (1, [3, 4], [2, 3])
        # What both need is written once.
        assert [row[4] for row in part["tasks"]] == [0, 0]
        assert [table.keys() for table in part["inputs"]] == [{"0", "1"}]
        assert (Path(job.path) / "more-1" / "payload.pack").is_file()
        workers[0].run(2, 2)
        workers[1].run(3, 3)
        assert (await stage.ended(live)).status is Status.COMPLETED
        assert stage.world.count("submit") == 1
        await stage.until(lambda: [record["ev"] for record in inbox(job)] == ["more", "close"])


@in_loop
async def test_workers_wait_only_where_more_of_their_kind_may_come(tmp_path: Path) -> None:
    async with a_stage(tmp_path, linger=7) as stage:
        for deps, linger_s in (([[]], 0), ([[], [0]], 7)):
            live = await stage.dispatch(*deps)
            job = await stage.job(len(stage.world.jobs))
            assert json.loads((Path(job.path) / "bag.json").read_text())["linger"] == linger_s
            await stage.engine.course.cancel(live, None)


@in_loop
async def test_gpus_do_not_wait(tmp_path: Path) -> None:
    async with a_stage(tmp_path, linger=7) as stage:
        live = await stage.dispatch([], [0], gpus=1)
        job = await stage.job()
        assert json.loads((Path(job.path) / "bag.json").read_text())["linger"] == 0
        await stage.engine.course.cancel(live, None)


@in_loop
async def test_workers_that_have_left_get_no_more(tmp_path: Path) -> None:
    async with a_stage(tmp_path, linger=10) as stage:
        live = await stage.dispatch([], [0])
        job = await stage.job()
        worker = PlayedWorker(job, 0)
        worker.claim(0)
        worker.start(0)
        worker.write(ev="end", i=0, n=1, st="ok", r=NOTHING, wall=0.1, cpu=[0, 0], rss=1, out=[0, 0], err=[0, 0])
        worker.leave()
        PlayedWorker(await stage.job(1), 0).run(0, 1)
        assert (await stage.ended(live)).status is Status.COMPLETED
        assert not (Path(job.path) / "more-1").exists()


@in_loop
async def test_a_wider_stage_gets_further_workers_over_the_same_bag(tmp_path: Path) -> None:
    async with a_stage(tmp_path, linger=10) as stage:
        live = await stage.dispatch([], *[[0]] * 5)
        job = await stage.job()
        worker = PlayedWorker(job, 0)
        worker.run(0, 0)
        more = await stage.job(1)
        assert (more.path, len(more.tasks)) == (job.path, 4)
        other = PlayedWorker(more, 3)
        for k, task in enumerate(range(1, 6), start=1):
            (worker if k % 2 else other).run(k, task)
        assert (await stage.ended(live)).status is Status.COMPLETED
        assert len(stage.store.bags(live.id)) == 1


@in_loop
async def test_what_workers_left_unclaimed_goes_on_without_waiting_for_the_accounting(tmp_path: Path) -> None:
    async with a_stage(tmp_path, linger=10, accounting_poll=3600) as stage:
        live = await stage.dispatch([], [0])
        job = await stage.job()
        worker = PlayedWorker(job, 0)
        worker.run(0, 0)
        await stage.until(lambda: inbox(job))
        worker.leave()  # it did not look any more
        again = await stage.job(1)
        assert again.path != job.path
        PlayedWorker(again, 0).run(0, 1, attempt=2)
        assert (await stage.ended(live)).status is Status.COMPLETED


@in_loop
async def test_a_restart_tells_the_workers_what_was_stored_and_not_told(tmp_path: Path) -> None:
    world = World()
    async with a_stage(tmp_path, world, linger=10) as stage:
        live = await stage.dispatch([], [0], [1])
        job = await stage.job()
        worker = PlayedWorker(job, 0)
        worker.run(0, 0)
        await stage.until(lambda: inbox(job))
        worker.run(1, 1)
        await stage.until(lambda: len(inbox(job)) == 2)
    lines = (Path(job.path) / INBOX).read_bytes()
    (Path(job.path) / INBOX).write_bytes(lines[: lines.rindex(b'\n{"ev":"more"')])
    assert len(inbox(job)) == 1
    async with a_stage(tmp_path, world, linger=10) as stage:
        resume(stage, live)
        await stage.until(lambda: len(inbox(job)) == 2)
        assert [record["n"] for record in inbox(job)] == [1, 2]
        worker.run(2, 2)
        assert (await stage.ended(live)).status is Status.COMPLETED
        assert world.count("submit") == 1


@in_loop
async def test_a_paused_dispatch_gives_nothing_to_warm_workers(tmp_path: Path) -> None:
    async with a_stage(tmp_path, linger=10) as stage:
        live = await stage.dispatch([], [0])
        job = await stage.job()
        await stage.until(lambda: stage.store.arrays(live.id)[0].state is ArrayState.SUBMITTED)
        await stage.engine.course.pause(live, "Paused by you.")
        PlayedWorker(job, 0).run(0, 0)
        await stage.until(lambda: states(stage, live) == [State.COMPLETED, State.PAUSED])
        await stage.until(lambda: [record["ev"] for record in inbox(job)] == ["close"])
        await stage.engine.course.cancel(live, None)


@in_loop
async def test_what_becomes_ready_while_others_wait_joins_them_without_a_further_array(tmp_path: Path) -> None:
    async with a_stage(tmp_path, linger=10, first_width=2) as stage:
        live = await stage.dispatch(*[[]] * 6, [0, 1])
        job = await stage.job()
        assert len(job.tasks) == 2
        workers = [PlayedWorker(job, index) for index in (0, 1)]
        for index, worker in enumerate(workers):
            worker.run(index, index)
            worker.claim(index + 2)
            worker.start(index + 2)
        await stage.until(lambda: inbox(job))
        for index, worker in enumerate(workers):
            worker.end(index + 2)
            worker.run(index + 4, index + 4)
        workers[0].run(6, 6)
        assert (await stage.ended(live)).status is Status.COMPLETED
        assert stage.world.count("submit") == 1


@in_loop
async def test_busy_workers_are_not_counted_on_where_nothing_waits_for_them(tmp_path: Path) -> None:
    async with a_stage(tmp_path, linger=10) as stage:
        live = await stage.dispatch([], [], [0], [0], [0])
        job = await stage.job()
        first, second = PlayedWorker(job, 0), PlayedWorker(job, 1)
        second.claim(1)
        second.start(1)
        await stage.until(lambda: states(stage, live)[1] is State.RUNNING)
        first.run(0, 0)
        more = await stage.job(1)
        # Three tasks, one worker that is free, and one that may be busy for hours.
        assert (more.path, len(more.tasks)) == (job.path, 2)
        await stage.engine.course.cancel(live, None)


@in_loop
async def test_a_stage_is_not_kept_waiting_for_siblings_that_cannot_come(tmp_path: Path) -> None:
    async with a_stage(tmp_path, linger=10, settle=3600, chain_length=1) as stage:
        live = await stage.dispatch([], [0], [1], [2, 0])
        job = await stage.job()
        worker = PlayedWorker(job, 0)
        for task in range(4):
            # A part for each, whatever the time between two of them: nothing else was at work meanwhile.
            await stage.until(partial(has_been_told, job, task))
            worker.run(task, task)
        assert (await stage.ended(live)).status is Status.COMPLETED
        assert stage.world.count("submit") == 1


@in_loop
async def test_siblings_that_can_come_are_waited_for(tmp_path: Path) -> None:
    async with a_stage(tmp_path, linger=10, chain_length=1) as stage:
        live = await stage.dispatch([], [], [0], [1], [2, 3])
        job = await stage.job()
        worker = PlayedWorker(job, 0)
        stage.set(settle=2.0)
        worker.run(0, 0)
        await stage.until(lambda: states(stage, live)[2] is State.READY)
        worker.run(1, 1)
        stage.set(settle=0.01)
        await stage.until(lambda: inbox(job))
        assert [[row[0] for row in part["tasks"]] for part in inbox(job)] == [[2, 3]]
        worker.run(2, 2)
        worker.run(3, 3)
        await stage.until(lambda: len(inbox(job)) == 2)
        worker.run(4, 4)
        assert (await stage.ended(live)).status is Status.COMPLETED


@in_loop
async def test_of_workers_that_wait_for_one_task_all_are_let_go_but_the_last(tmp_path: Path) -> None:
    async with a_stage(tmp_path, linger=10) as stage:
        live = await stage.dispatch([], [], [], [0, 1, 2])
        job = await stage.job()
        workers = [PlayedWorker(job, index) for index in range(3)]
        workers[2].claim(2)
        workers[2].start(2)
        (bag,) = stage.engine.bags.values()
        for index in (0, 1):
            workers[index].run(index, index)
        for index in (0, 1):
            workers[index].write(ev="idle", n=1, t=10.0 + index)
            await stage.until(partial(bag.waits.__contains__, f"{job.id}_{index}_0"))
        await stage.until(lambda: let_go(job))
        assert let_go(job) == [(False, {f"{job.id}_0_0": 1})]
        assert (bag.idle(), len(bag.alive())) == (1, 3)  # nobody counts on the one that may have gone
        workers[2].end(2, r=NOTHING)
        await stage.until(lambda: inbox(job))
        workers[1].run(3, 3)
        assert (await stage.ended(live)).status is Status.COMPLETED
        assert stage.world.count("submit") == 1


@in_loop
async def test_nobody_waits_while_other_array_tasks_wait_for_the_cores(tmp_path: Path) -> None:
    async with a_stage(tmp_path, linger=10) as stage:
        first = await stage.dispatch([], [], [0, 1])
        job = await stage.job()
        waits, works = (PlayedWorker(job, index) for index in (0, 1))
        works.claim(1)
        works.start(1)
        waits.run(0, 0)
        waits.write(ev="idle", n=1)
        await stage.until(lambda: states(stage, first)[0] is State.COMPLETED)
        assert let_go(job) == []
        second = await stage.dispatch([])
        other = await stage.job(1)
        await stage.until(lambda: [everyone for everyone, _ in let_go(job)] == [True])
        PlayedWorker(other, 0).run(0, 0)
        assert (await stage.ended(second)).status is Status.COMPLETED
        # Whoever read it has left; those that come now wait again.
        await stage.until(lambda: let_go(job)[1:] == [(False, {f"{job.id}_0_0": 1})])
        await stage.engine.course.cancel(first, None)
