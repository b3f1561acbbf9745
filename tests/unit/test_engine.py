"""The engine on a scheduler that loses replies, refuses, forgets, and kills."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from collections.abc import Callable, Coroutine
from functools import wraps
from pathlib import Path
from typing import ParamSpec

import pytest

from hpcflow.core.bag import INBOX, bag_key, read_lines
from hpcflow.core.model import Cause, Phase
from hpcflow.core.states import State, Status
from hpcflow.server.live import LiveDispatch
from hpcflow.server.outcome import told_failed
from hpcflow.server.store import ArrayState
from tests.unit.mini_world import KEY, MINI, Job, PlayedWorker, Stage, World, a_dispatch, a_manifest, a_stage

P = ParamSpec("P")


def in_loop(test: Callable[P, Coroutine[None, None, None]]) -> Callable[P, None]:
    """Run an async test in a loop of its own."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


def states(stage: Stage, live: LiveDispatch) -> list[State]:
    return [row.state for row in stage.store.tasks(live.id)]


def errors(stage: Stage, live: LiveDispatch) -> list[str | None]:
    return [row.error for row in stage.store.tasks(live.id)]


@in_loop
async def test_a_task_that_waits_gets_a_bag_of_its_own_when_its_upstream_is_done(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        live = await stage.dispatch([], [0])
        PlayedWorker(await stage.job(0), 0).run(0, 0)
        PlayedWorker(await stage.job(1), 0).run(0, 1)
        row = await stage.ended(live)
        assert (row.status, row.error) == (Status.COMPLETED, None)
        assert stage.world.count("submit") == 2


@in_loop
async def test_tasks_that_become_ready_one_by_one_share_few_bags(tmp_path: Path) -> None:
    async with a_stage(tmp_path, gather=5.0) as stage:
        live = await stage.dispatch(*[[]] * 8, *[[index] for index in range(8)])
        worker = PlayedWorker(await stage.job(0), 0)
        for index in range(8):
            worker.run(index, index)
            await stage.until(lambda: states(stage, live).count(State.COMPLETED) > index)  # noqa: B023
        await stage.job(2)
        bags = [[index for index, _ in row.bag.tasks] for row in stage.store.bags(live.id)]
        assert bags == [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]


@in_loop
async def test_failed_tasks_do_not_stop_others_and_skip_what_waits_for_them(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        live = await stage.dispatch([], [], [0], [2])
        worker = PlayedWorker(await stage.job(), 0)
        worker.claim(0)
        worker.start(0)
        worker.end(0, "error", exc="ValueError", msg="no")
        worker.run(1, 1)
        row = await stage.ended(live)
        assert states(stage, live) == [State.FAILED, State.COMPLETED, State.SKIPPED, State.SKIPPED]
        assert row.error == "The following tasks failed: 0: step0: ValueError: no"
        assert errors(stage, live)[3] == "Not run, because step0 (task 0) failed."


def test_failures_of_one_cause_are_told_once_and_hide_no_other(tmp_path: Path) -> None:
    manifest = a_manifest([], [], [], [], [])
    for task in manifest["tasks"]:
        task[0] = "work"
    live = a_dispatch(manifest, tmp_path)
    for index in range(5):
        live.tasks[index].error = "TimeoutError: no." if index == 4 else f"ValueError: {index} is odd"
    told = "0, 1, 2 and 1 more: work: ValueError: 0 is odd, or with other numbers; 4: work: TimeoutError: no"
    assert told_failed(live, range(5), range(5)) == f"The following tasks failed: {told}"


@in_loop
async def test_a_lost_reply_is_adopted_by_name_and_submitted_once(tmp_path: Path) -> None:
    async with a_stage(tmp_path, World(submit_faults=["lost"])) as stage:
        live = await stage.dispatch([])
        PlayedWorker(await stage.job(), 0).run(0, 0)
        assert (await stage.ended(live)).status is Status.COMPLETED
        await stage.until(lambda: [array.array.job_id for array in stage.store.arrays(live.id)] == ["100"])
        assert stage.world.count("submit") == 1


@in_loop
async def test_a_submission_that_never_arrived_is_repeated_under_the_same_name(tmp_path: Path) -> None:
    async with a_stage(tmp_path, World(submit_faults=["dropped"])) as stage:
        live = await stage.dispatch([])
        job = await stage.job()
        PlayedWorker(job, 0).run(0, 0)
        await stage.ended(live)
        assert stage.world.count("submit") == 2
        assert [array.array.token for array in stage.store.arrays(live.id)] == [job.token]


@in_loop
async def test_a_refused_array_fails_its_tasks_with_the_schedulers_words(tmp_path: Path) -> None:
    async with a_stage(tmp_path, World(submit_faults=["refused"])) as stage:
        live = await stage.dispatch([], [0])
        row = await stage.ended(live)
        assert states(stage, live) == [State.FAILED, State.SKIPPED]
        assert row.error == "The following tasks failed: 0: step0: mini refused 1 array task: refused"
        assert [array.state for array in stage.store.arrays(live.id)] == [ArrayState.REFUSED]


@in_loop
async def test_a_full_queue_is_waited_for(tmp_path: Path) -> None:
    async with a_stage(tmp_path, World(submit_faults=["full"]), submit_retry=0.05) as stage:
        live = await stage.dispatch([])
        PlayedWorker(await stage.job(), 0).run(0, 0)
        assert (await stage.ended(live)).status is Status.COMPLETED
        assert "mini has no room for it: full" in stage.store.messages(live.id)[0][1]


@in_loop
async def test_the_wait_for_room_doubles_each_time(tmp_path: Path) -> None:
    async with a_stage(tmp_path, World(submit_faults=["full"] * 4), submit_retry=0.01) as stage:
        live = await stage.dispatch([])
        await stage.job()
        [bag] = stage.engine.bags.values()
        [array] = bag.arrays
        # The last wait was eight times as long as the first: 10, 20, 40, 80 ms.
        assert (array.tries, array.not_before is not None, live.left) == (4, True, 1)
        assert stage.world.count("submit") == 5


@in_loop
async def test_arrays_that_became_too_wide_in_mid_run_are_submitted_narrower_at_once(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        stage.world.widest = 3  # its limits said 1000
        live = await stage.dispatch(*[[]] * 16)
        job = await stage.job()
        assert len(job.tasks) == 2
        assert [text for _, text in stage.store.messages(live.id)] == [
            f"too wide. It is submitted with {width} array tasks now." for width in (8, 4, 2)
        ]
        workers = [PlayedWorker(job, index) for index in (0, 1)]
        for k in range(16):
            workers[k % 2].run(k, k)
        assert (await stage.ended(live)).status is Status.COMPLETED


@in_loop
async def test_an_array_that_finds_no_room_is_halved_until_it_does(tmp_path: Path) -> None:
    async with a_stage(tmp_path, World(submit_faults=["full", "full"]), submit_retry=0.01) as stage:
        live = await stage.dispatch(*[[]] * 8)
        job = await stage.job()
        assert len(job.tasks) == 2
        workers = [PlayedWorker(job, index) for index in (0, 1)]
        for task in range(8):
            workers[task % 2].run(task, task)
        assert (await stage.ended(live)).status is Status.COMPLETED
        assert [text for _, text in stage.store.messages(live.id)] == ["mini has no room for it: full. Trying again."]


@in_loop
async def test_a_dead_workers_running_task_fails_and_the_others_of_its_range_run_again(tmp_path: Path) -> None:
    async with a_stage(tmp_path, first_width=1) as stage:
        live = await stage.dispatch([], [], [], [])
        job = await stage.job()
        worker = PlayedWorker(job, 0)
        worker.claim(0)
        worker.claim(1)
        worker.start(0)
        stage.world.end(job, 0, Cause.FAILED, "FAILED")
        again = PlayedWorker(await stage.job(1), 0)
        for k, task in enumerate([1, 2, 3]):
            again.run(k, task, attempt=2)
        row = await stage.ended(live)
        assert states(stage, live) == [State.FAILED, *[State.COMPLETED] * 3]
        assert row.error is not None and "The task's worker is gone (FAILED)" in row.error


@in_loop
async def test_a_killed_task_is_tried_again_as_often_as_retries_says(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        live = await stage.dispatch([], retries=1)
        for attempt in (1, 2):
            worker = PlayedWorker(await stage.job(attempt - 1), 0)
            worker.claim(0)
            worker.start(0, attempt)
            worker.end(0, "signal", attempt, sig=11)
        row = await stage.ended(live)
        assert states(stage, live) == [State.FAILED]
        assert stage.world.count("submit") == 2
        assert row.error is not None and "SIGSEGV" in row.error


@in_loop
async def test_node_failure_costs_no_attempt(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        live = await stage.dispatch([])
        job = await stage.job()
        worker = PlayedWorker(job, 0)
        worker.claim(0)
        worker.start(0)
        stage.world.end(job, 0, Cause.NODE_FAIL)
        PlayedWorker(await stage.job(1), 0).run(0, 0, attempt=2)
        assert (await stage.ended(live)).status is Status.COMPLETED


@in_loop
async def test_a_worker_that_was_told_to_leave_is_waited_for_until_accounting_says_why(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        live = await stage.dispatch([])
        job = await stage.job()
        worker = PlayedWorker(job, 0)
        worker.claim(0)
        worker.start(0)
        worker.end(0, "interrupted")
        worker.leave("term")
        asked = stage.world.count("query")
        await stage.until(lambda: stage.world.count("query") > asked + 3)
        again = PlayedWorker(job, 0, restart=1)
        again.write(ev="inherit", k=[0], ended=0)
        again.start(0)
        again.end(0)
        assert (await stage.ended(live)).status is Status.COMPLETED
        assert stage.world.count("submit") == 1


@in_loop
async def test_workers_that_never_begin_a_task_are_not_submitted_for_ever(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        live = await stage.dispatch([])
        for number in (0, 1):
            job = await stage.job(number)
            Path(job.path, "logs", "0.slurm").write_text("python3: command not found\n")
            stage.world.end(job, 0, Cause.FAILED, "FAILED")
        row = await stage.ended(live)
        assert row.status is Status.FAILED
        assert row.error is not None
        assert "No worker on mini began a task" in row.error and "python3: command not found" in row.error
        assert stage.world.count("submit") == 2


@in_loop
async def test_a_strangers_file_among_the_journals_is_left_alone(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        live = await stage.dispatch([])
        job = await stage.job()
        journals = Path(job.path, "journal")
        (journals / "copy.jsonl").write_text("x\n")
        (journals / "100_0_1.jsonl").symlink_to("/etc/hostname")
        (journals / "100_0_2.jsonl").mkdir()
        PlayedWorker(job, 0).run(0, 0)
        assert (await stage.ended(live)).status is Status.COMPLETED


@in_loop
async def test_a_store_that_refuses_for_a_while_is_said_and_costs_nothing(tmp_path: Path) -> None:
    async with a_stage(tmp_path, after_fault=0.02) as stage:
        live = await stage.dispatch([], [0])
        job = await stage.job()
        with sqlite3.connect(tmp_path / "hpcflow.db") as other:
            other.execute("CREATE TRIGGER full BEFORE INSERT ON task_end BEGIN SELECT RAISE(ABORT, 'disk full'); END")
        PlayedWorker(job, 0).run(0, 0)
        await stage.until(lambda: stage.engine.writer.problem)
        assert "disk full" in str(stage.engine.writer.problem)
        with sqlite3.connect(tmp_path / "hpcflow.db") as other:
            other.execute("DROP TRIGGER full")
        PlayedWorker(await stage.job(1), 0).run(0, 1)
        assert (await stage.ended(live)).status is Status.COMPLETED
        assert stage.engine.writer.problem is None


@in_loop
async def test_a_disk_that_takes_nothing_is_not_tried_for_ever(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        live = await stage.dispatch([])
        for number in (0, 1):
            job = await stage.job(number)
            worker = PlayedWorker(job, 0)
            worker.claim(0)
            worker.start(0, number + 1)
            worker.end(0, "interrupted", number + 1, msg="A result of 9 bytes can't be stored: No space left.")
            worker.leave("fault")
            stage.world.end(job, 0, Cause.FAILED, "FAILED")
        row = await stage.ended(live)
        assert row.error is not None
        assert "No worker on mini could go on: A result of 9 bytes can't be stored: No space left" in row.error
        assert stage.world.count("submit") == 2


@in_loop
async def test_a_scheduler_that_does_not_answer_changes_nothing(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        live = await stage.dispatch([])
        job = await stage.job()
        stage.world.deaf = True
        asked = stage.world.count("query")
        await stage.until(lambda: stage.world.count("query") > asked + 5)
        assert states(stage, live) == [State.QUEUED]
        stage.world.deaf = False
        PlayedWorker(job, 0).run(0, 0)
        assert (await stage.ended(live)).status is Status.COMPLETED
        assert stage.world.count("submit") == 1


@in_loop
async def test_why_an_array_waits_is_told_until_it_runs(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        live = await stage.dispatch([])
        job = await stage.job()
        job.tasks[0] = (Phase.PENDING, None, "PENDING PartitionDown")
        await stage.until(lambda: stage.store.arrays(live.id)[0].reason == "PENDING PartitionDown")
        worker = PlayedWorker(job, 0)
        await stage.until(lambda: stage.store.arrays(live.id)[0].reason is None)
        worker.run(0, 0)
        await stage.ended(live)


@in_loop
async def test_a_worker_that_could_not_write_costs_its_task_no_attempt(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        live = await stage.dispatch([])
        job = await stage.job()
        worker = PlayedWorker(job, 0)
        worker.claim(0)
        worker.start(0)
        stage.world.end(job, 0, Cause.FAILED, "FAILED", exit_code=75)
        PlayedWorker(await stage.job(1), 0).run(0, 0, attempt=2)
        assert (await stage.ended(live)).status is Status.COMPLETED


@in_loop
async def test_held_back_workers_come_when_nothing_has_ended_for_a_while(tmp_path: Path) -> None:
    async with a_stage(tmp_path, ramp_width=2, ramp_after=0.05) as stage:
        await stage.dispatch(*[[]] * 5)
        assert [len((await stage.job(number)).tasks) for number in (0, 1)] == [2, 3]


@in_loop
async def test_a_second_bag_of_a_shape_holds_nothing_back(tmp_path: Path) -> None:
    async with a_stage(tmp_path, ramp_width=2, ramp_after=60) as stage:
        live = await stage.dispatch([], [], [], *[[0]] * 3)
        worker = PlayedWorker(await stage.job(), 0)
        worker.run(0, 0)
        await stage.job(1)
        assert [len(job.tasks) for job in stage.world.jobs] == [2, 3]
        await stage.engine.course.cancel(live, None)


@in_loop
async def test_held_back_workers_come_after_a_restart_as_well(tmp_path: Path) -> None:
    world = World()
    async with a_stage(tmp_path, world, ramp_width=2, ramp_after=60) as stage:
        live = await stage.dispatch(*[[]] * 5)
        await stage.job()
        await stage.until(lambda: stage.store.arrays(live.id)[0].state is ArrayState.SUBMITTED)
    async with a_stage(tmp_path, world, ramp_width=2, ramp_after=0.05) as stage:
        again = resume(stage, live)
        assert len((await stage.job(1)).tasks) == 3
        await stage.engine.course.cancel(again, None)


@in_loop
async def test_a_bag_that_somebody_deletes_is_left_and_its_tasks_run_in_another(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        live = await stage.dispatch([], [])
        job = await stage.job()
        worker = PlayedWorker(job, 0)
        worker.run(0, 0)
        worker.claim(1)
        worker.start(1)
        await stage.until(lambda: states(stage, live) == [State.COMPLETED, State.RUNNING])
        shutil.rmtree(job.path)
        again = await stage.job(1)
        assert all(phase is Phase.ENDED for phase, _, _ in job.tasks.values())
        PlayedWorker(again, 0).run(0, 1, attempt=2)
        assert (await stage.ended(live)).status is Status.COMPLETED
        assert f"{job.path} was deleted while jobs worked there." in stage.store.messages(live.id)[0][1]


@in_loop
async def test_a_bag_without_its_journals_is_left_and_keeps_no_other_bag_waiting(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        first = await stage.dispatch([], cpus=1)
        job = await stage.job()
        await stage.until(lambda: stage.store.arrays(first.id)[0].state is ArrayState.SUBMITTED)
        second = await stage.dispatch([], cpus=2)
        other = await stage.job(1)
        shutil.rmtree(Path(job.path, "journal"))
        PlayedWorker(other, 0).run(0, 0)
        assert (await stage.ended(second)).status is Status.COMPLETED
        again = await stage.job(2)
        PlayedWorker(again, 0).run(0, 0, attempt=2)
        assert (await stage.ended(first)).status is Status.COMPLETED


@in_loop
async def test_a_bag_that_cannot_be_read_is_said_once_and_keeps_no_other_waiting(tmp_path: Path) -> None:
    async with a_stage(tmp_path, after_fault=0.02) as stage:
        first = await stage.dispatch([], cpus=1)
        job = await stage.job()
        await stage.until(lambda: stage.store.arrays(first.id)[0].state is ArrayState.SUBMITTED)
        journals = Path(job.path, "journal")
        journals.rename(tmp_path / "elsewhere")
        journals.write_text("no directory")
        second = await stage.dispatch([], cpus=2)
        PlayedWorker(await stage.job(1), 0).run(0, 0)
        assert (await stage.ended(second)).status is Status.COMPLETED
        journals.unlink()
        (tmp_path / "elsewhere").rename(journals)
        PlayedWorker(job, 0).run(0, 0)
        assert (await stage.ended(first)).status is Status.COMPLETED
        said, again = [text for _, text in stage.store.messages(first.id)]
        assert said.startswith(f"What runs on mini is not known until this is mended: {journals}")
        assert again == "What runs on mini is known again."


@in_loop
async def test_bags_that_are_deleted_again_and_again_end_their_tasks(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        live = await stage.dispatch([])
        for number in (0, 1):
            job = await stage.job(number)
            worker = PlayedWorker(job, 0)
            worker.claim(0)
            worker.start(0, number + 1)
            await stage.until(lambda: states(stage, live) == [State.RUNNING])
            shutil.rmtree(job.path)
        row = await stage.ended(live)
        assert row.error is not None
        assert "The directory of its job was deleted twice while it ran" in row.error


@in_loop
async def test_a_file_system_that_is_not_mounted_is_told_once_and_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with a_stage(tmp_path, after_fault=0.02) as stage:
        live = await stage.dispatch([])
        job = await stage.job()
        worker = PlayedWorker(job, 0)
        (tmp_path / "work").rename(tmp_path / "elsewhere")
        asked = stage.world.count("query")
        await stage.until(lambda: stage.world.count("query") > asked + 3)
        assert (states(stage, live), stage.world.count("cancel")) == ([State.QUEUED], 0)
        told = [each for each in caplog.messages if each.startswith("mini: ")]
        assert told, "nobody was told"
        assert len(told) == len(set(told))  # two sentences when a look was under way: a file had gone, then its folder
        (tmp_path / "elsewhere").rename(tmp_path / "work")
        worker.run(0, 0)
        assert (await stage.ended(live)).status is Status.COMPLETED


@in_loop
async def test_held_back_workers_do_not_come_when_tasks_are_short(tmp_path: Path) -> None:
    async with a_stage(tmp_path, ramp_width=2, ramp_after=60) as stage:
        live = await stage.dispatch(*[[]] * 5)
        worker = PlayedWorker(await stage.job(), 0)
        for task in range(4):
            worker.run(task, task)
        await stage.until(lambda: states(stage, live).count(State.COMPLETED) == 4)
        stage.set(ramp_after=0.0)
        bag = stage.store.bags(live.id)[0].bag
        await stage.until(lambda: not stage.engine._shared.bags[bag.id].reserve)
        worker.run(4, 4)
        await stage.ended(live)
        assert stage.world.count("submit") == 1


@in_loop
async def test_array_tasks_nobody_needs_any_more_are_cancelled_in_one_command(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        live = await stage.dispatch([], [], [])
        job = await stage.job()
        worker = PlayedWorker(job, 0)
        for task in range(3):
            worker.run(task, task)
        await stage.ended(live)
        await stage.until(lambda: stage.world.count("cancel") == 1)
        assert [phase for phase, _, _ in job.tasks.values()] == [Phase.RUNNING, Phase.ENDED, Phase.ENDED]


@in_loop
async def test_cancelling_a_dispatch_ends_its_jobs_and_keeps_what_had_ended(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        live = await stage.dispatch([], [], [1])
        job = await stage.job()
        PlayedWorker(job, 0).run(0, 0)
        await stage.until(lambda: states(stage, live)[0] is State.COMPLETED)
        assert await stage.engine.course.cancel(live, None) == 2
        assert states(stage, live) == [State.COMPLETED, State.CANCELLED, State.CANCELLED]
        assert (await stage.ended(live)).status is Status.CANCELLED
        assert all(phase is Phase.ENDED for phase, _, _ in job.tasks.values())


def told_as_cancelled(job: Job) -> list[list[int]]:
    """What the inbox of a job's bag says is wanted no more, as [index, attempt]."""
    bag = Path(job.path)
    records, _, bad = read_lines((bag / INBOX).read_bytes(), bag_key(KEY, bag.name))
    assert bad == 0
    return [task for record in records if record["ev"] == "cancel" for task in record["tasks"]]


@in_loop
async def test_single_tasks_that_are_cancelled_are_told_to_workers_that_have_others_as_well(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        live = await stage.dispatch([], [], [], [1])
        job = await stage.job()
        worker = PlayedWorker(job, 0)
        worker.claim(0)
        worker.start(0)
        await stage.until(lambda: states(stage, live)[0] is State.RUNNING)
        assert await stage.engine.course.cancel(live, [0, 1]) == 2
        assert sorted(told_as_cancelled(job)) == [[0, 1], [1, 1]]
        assert (states(stage, live)[3], stage.world.count("cancel")) == (State.SKIPPED, 0)
        worker.end(0, "cancelled", sig=15)
        worker.run(2, 2)
        assert (await stage.ended(live)).status is Status.CANCELLED
        await stage.until(lambda: bool(stage.store.ends(live.id, [0])))
        kept = stage.store.ends(live.id, [0])[0]
        assert (kept.record["st"], kept.record["host"], kept.record["wall"]) == ("cancelled", "node1", 0.1)


@in_loop
async def test_array_tasks_that_wait_for_nothing_but_cancelled_tasks_leave_the_queue(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        live = await stage.dispatch([], [], [])
        job = await stage.job()
        worker = PlayedWorker(job, 0)
        worker.claim(0)
        worker.start(0)
        await stage.until(lambda: states(stage, live)[0] is State.RUNNING)
        await stage.engine.course.cancel(live, [1, 2])
        assert stage.world.count("cancel") == 1
        assert [phase for phase, _, _ in job.tasks.values()] == [Phase.RUNNING, Phase.ENDED, Phase.ENDED]
        worker.end(0, r={"b": "gASIiC4="})
        assert (await stage.ended(live)).status is Status.CANCELLED
        assert states(stage, live)[0] is State.COMPLETED


@in_loop
async def test_an_array_that_waits_for_room_is_not_submitted_once_nothing_is_left_for_it(tmp_path: Path) -> None:
    world = World(submit_faults=["", "full"])
    async with a_stage(tmp_path, world, ramp_width=2, first_width=8, ramp_after=0.05, submit_retry=600) as stage:
        live = await stage.dispatch(*[[]] * 8)
        job = await stage.job()
        [bag] = stage.engine.bags.values()
        await stage.until(lambda: [array.tries for array in bag.arrays] == [0, 1])
        workers = [PlayedWorker(job, index) for index in (0, 1)]
        for k in (0, 1):
            workers[k].claim(k)
            workers[k].start(k)
        await stage.until(lambda: states(stage, live)[:2] == [State.RUNNING] * 2)
        await stage.engine.course.cancel(live, range(2, 8))
        assert [array.state for array in bag.arrays] == [ArrayState.SUBMITTED, ArrayState.ENDED]
        for k in (0, 1):
            workers[k].end(k, r={"b": "gASIiC4="})
        assert (await stage.ended(live)).status is Status.CANCELLED
        assert [row.state for row in stage.store.arrays(live.id)][1] is ArrayState.ENDED
        assert world.count("submit") == 2


@in_loop
async def test_what_could_not_be_told_of_a_cancel_is_told_later_and_by_the_next_server(tmp_path: Path) -> None:
    world = World()
    async with a_stage(tmp_path, world) as stage:
        live = await stage.dispatch([], [])
        job = await stage.job()
        inbox = Path(job.path, INBOX)
        inbox.rename(inbox.with_name("away"))
        inbox.mkdir()
        assert await stage.engine.course.cancel(live, [0]) == 1
    inbox.rmdir()
    inbox.with_name("away").rename(inbox)
    async with a_stage(tmp_path, world) as stage:
        resume(stage, live)
        await stage.until(lambda: told_as_cancelled(job) == [[0, 1]])
        PlayedWorker(job, 0).run(1, 1)
        assert (await stage.ended(live)).status is Status.CANCELLED


@in_loop
async def test_a_cancel_is_answered_though_a_cluster_is_silent_and_it_hears_of_it_later(tmp_path: Path) -> None:
    async with a_stage(tmp_path, cancel_answer=0.05) as stage:
        live = await stage.dispatch([], [])
        job = await stage.job()
        stage.world.connected.clear()
        assert await stage.engine.course.cancel(live, None) == 2
        assert states(stage, live) == [State.CANCELLED, State.CANCELLED]
        assert stage.world.count("cancel") == 0
        stage.world.connected.set()
        await stage.until(lambda: all(phase is Phase.ENDED for phase, _, _ in job.tasks.values()))


@in_loop
async def test_a_cancelled_task_that_is_tried_again_is_another_attempt(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        live = await stage.dispatch([], [])
        first = await stage.job()
        await stage.engine.course.cancel(live, [0])
        await stage.engine.course.retry(live, failed_only=False)
        again = await stage.job(1)
        PlayedWorker(first, 0).run(1, 1)
        PlayedWorker(again, 0).run(0, 0, attempt=2)
        assert (await stage.ended(live)).status is Status.COMPLETED
        assert told_as_cancelled(first) == [[0, 1]]


@in_loop
async def test_how_far_a_cancelled_task_had_come_is_kept_though_it_is_tried_again_or_its_array_was_cancelled(
    tmp_path: Path,
) -> None:
    async with a_stage(tmp_path) as stage:
        live = await stage.dispatch([], [])
        first = await stage.job()
        worker = PlayedWorker(first, 0)
        worker.claim(0)
        worker.start(0)
        await stage.until(lambda: states(stage, live)[0] is State.RUNNING)
        await stage.engine.course.cancel(live, [0])
        await stage.engine.course.retry(live, failed_only=False)
        worker.end(0, "cancelled", sig=15, out=[0, 7])
        again = await stage.job(1)
        heir = PlayedWorker(again, 0)
        heir.claim(0)
        heir.start(0, attempt=2)
        await stage.until(lambda: states(stage, live)[0] is State.RUNNING)
        await stage.engine.course.cancel(live, None)
        heir.end(0, "interrupted", attempt=2, out=[0, 9])
        heir.leave("term")
        await stage.until(lambda: len(stage.store.attempts(live.id, 0)) == 2)
        ends = [(end.attempt, end.record["st"], end.record["out"]) for end in stage.store.attempts(live.id, 0)]
        assert ends == [(1, "cancelled", [0, 7]), (2, "cancelled", [0, 9])]
        assert live.status is Status.CANCELLED


@in_loop
async def test_a_restart_takes_up_what_ran_meanwhile_and_submits_nothing_twice(tmp_path: Path) -> None:
    world = World()
    async with a_stage(tmp_path, world) as stage:
        live = await stage.dispatch([], [], [0, 1])
        job = await stage.job()
        worker = PlayedWorker(job, 0)
        worker.run(0, 0)
        await stage.until(lambda: states(stage, live)[0] is State.COMPLETED)
    worker.run(1, 1)
    async with a_stage(tmp_path, world) as stage:
        resume(stage, live)
        PlayedWorker(await stage.job(1), 0).run(0, 2)
        assert (await stage.ended(live)).status is Status.COMPLETED
        assert world.count("submit") == 2


@in_loop
async def test_what_an_array_was_charged_outlives_a_restart_before_its_bag_is_over(tmp_path: Path) -> None:
    world = World()
    async with a_stage(tmp_path, world, ramp_width=2, ramp_after=0.05) as stage:
        live = await stage.dispatch(*[[]] * 5)
        await stage.job(1)
        for index in (0, 1):
            PlayedWorker(world.jobs[0], index).run(index, index)
            world.end(world.jobs[0], index, Cause.DONE, core_seconds="7")
        await stage.until(
            lambda: [a.state for a in stage.store.arrays(live.id)] == [ArrayState.ENDED, ArrayState.SUBMITTED]
        )
        assert stage.store.arrays(live.id)[0].ends[0]["usage"] is None
    async with a_stage(tmp_path, world, ramp_width=2, ramp_after=0.05) as stage:
        resume(stage, live)
        for index in range(3):
            PlayedWorker(world.jobs[1], index).run(2 + index, 2 + index)
            world.end(world.jobs[1], index, Cause.DONE, core_seconds="9")
        await stage.ended(live)
        await stage.until(lambda: stage.store.arrays(live.id)[1].ends.get(0, {}).get("usage"))
        ends = [array.ends for array in stage.store.arrays(live.id)]
        assert [[end["core_seconds"] for end in of.values()] for of in ends] == [[7, 7], [9, 9, 9]]
        assert [[end["usage"]["tasks"] for end in of.values()] for of in ends] == [[1, 1], [1, 1, 1]]


@in_loop
async def test_a_restart_in_the_middle_of_a_submission_looks_for_the_name_first(tmp_path: Path) -> None:
    world = World(submit_faults=["lost"])
    async with a_stage(tmp_path, world, accounting_poll=60) as stage:
        live = await stage.dispatch([])
        await stage.job()
    async with a_stage(tmp_path, world) as stage:
        resume(stage, live)
        PlayedWorker(world.jobs[0], 0).run(0, 0)
        assert (await stage.ended(live)).status is Status.COMPLETED
        assert world.count("submit") == 1


def resume(stage: Stage, before: LiveDispatch) -> LiveDispatch:
    """Take a dispatch up from the store alone, as a new server does."""
    live = a_dispatch(stage.store.manifest(before.id), stage.folder)
    row = stage.store.dispatch(before.id)
    assert row is not None
    live.paused = row.paused if row.paused_whole else None
    bags = stage.store.bags(before.id)
    own = {bag.bag.id: bag.bag for bag in bags}
    live.restore(stage.store.tasks(before.id), stage.store.ends(before.id).values(), own)
    stage.engine.take_over(live, bags, stage.store.arrays(before.id))
    return live


# ---- chains: alike tasks that follow each other are one unit


@in_loop
async def test_a_chain_of_alike_tasks_is_one_unit_of_one_bag(tmp_path: Path) -> None:
    async with a_stage(tmp_path, chain_length=10) as stage:
        live = await stage.dispatch([], [0], [1], [], [3])
        job = await stage.job()
        bag = stage.store.bags(live.id)[0].bag
        assert (bag.tasks, bag.units) == (((0, 1), (1, 1), (2, 1), (3, 1), (4, 1)), ((0, 1, 2), (3, 4)))
        spec = json.loads(Path(job.path, "bag.json").read_text())
        assert [spec["inputs"][row[4]] for row in spec["tasks"]] == [{}, {"0": None}, {"1": None}, {}, {"3": None}]
        worker = PlayedWorker(job, 0)
        worker.claim(0)
        for task in (0, 1, 2):
            worker.start(task)
            worker.end(task, r={"b": "gASIiC4="})
        worker.claim(1)
        for task in (3, 4):
            worker.start(task)
            worker.end(task, r={"b": "gASIiC4="})
        assert (await stage.ended(live)).status is Status.COMPLETED
        assert stage.world.count("submit") == 1


@in_loop
async def test_a_task_with_two_children_or_two_parents_is_no_link_of_a_chain(tmp_path: Path) -> None:
    async with a_stage(tmp_path, chain_length=10) as stage:
        live = await stage.dispatch([], [0], [0], [1, 2], [3])
        PlayedWorker(await stage.job(0), 0).run(0, 0)
        worker = PlayedWorker(await stage.job(1), 0)
        worker.run(0, 1)
        worker.run(1, 2)
        await stage.job(2)
        assert [row.bag.units for row in stage.store.bags(live.id)] == [((0,),), ((0,), (1,)), ((0, 1),)]
        await stage.engine.course.cancel(live, None)


@in_loop
async def test_a_chain_ends_where_a_task_of_it_fails(tmp_path: Path) -> None:
    async with a_stage(tmp_path, chain_length=10) as stage:
        live = await stage.dispatch([], [0], [1])
        worker = PlayedWorker(await stage.job(), 0)
        worker.claim(0)
        worker.start(0)
        worker.end(0, r={"b": "gASIiC4="})
        worker.start(1)
        worker.end(1, "error", exc="ValueError", msg="no")
        row = await stage.ended(live)
        assert states(stage, live) == [State.COMPLETED, State.FAILED, State.SKIPPED]
        assert row.error == "The following tasks failed: 1: step1: ValueError: no"


@in_loop
async def test_a_chain_whose_worker_dies_goes_on_behind_what_was_done(tmp_path: Path) -> None:
    async with a_stage(tmp_path, chain_length=10) as stage:
        live = await stage.dispatch([], [0], [1], [2])
        job = await stage.job()
        worker = PlayedWorker(job, 0)
        worker.claim(0)
        worker.start(0)
        worker.end(0, r={"b": "gASIiC4="})
        worker.start(1)
        stage.world.end(job, 0, Cause.NODE_FAIL)
        again = PlayedWorker(await stage.job(1), 0)
        assert stage.store.bags(live.id)[1].bag.tasks == ((1, 2), (2, 2), (3, 2))
        again.claim(0)
        for task in (1, 2, 3):
            again.start(task, 2)
            again.end(task, attempt=2, r={"b": "gASIiC4="})
        assert (await stage.ended(live)).status is Status.COMPLETED


@in_loop
async def test_a_link_that_is_tried_again_with_more_memory_leaves_the_chain_and_the_rest_follows(
    tmp_path: Path,
) -> None:
    async with a_stage(tmp_path, chain_length=10) as stage:
        live = await stage.dispatch([], [0], [1], retries=1, memory_mib=100)
        worker = PlayedWorker(await stage.job(), 0)
        worker.claim(0)
        worker.start(0)
        worker.end(0, "memory")
        await stage.until(lambda: states(stage, live)[1:] == [State.WAITING] * 2)
        PlayedWorker(await stage.job(1), 0).run(0, 0, attempt=2)
        last = PlayedWorker(await stage.job(2), 0)
        assert stage.store.bags(live.id)[2].bag.tasks == ((1, 2), (2, 2))
        last.claim(0)
        for task in (1, 2):
            last.start(task, 2)
            last.end(task, attempt=2, r={"b": "gASIiC4="})
        assert (await stage.ended(live)).status is Status.COMPLETED


@in_loop
async def test_a_restart_in_the_middle_of_a_chain_goes_on_with_it(tmp_path: Path) -> None:
    world = World()
    async with a_stage(tmp_path, world, chain_length=10) as stage:
        live = await stage.dispatch([], [0], [1])
        worker = PlayedWorker(await stage.job(), 0)
        worker.claim(0)
        worker.start(0)
        worker.end(0, r={"b": "gASIiC4="})
        await stage.until(lambda: states(stage, live)[0] is State.COMPLETED)
    worker.start(1)
    worker.end(1, r={"b": "gASIiC4="})
    async with a_stage(tmp_path, world, chain_length=10) as stage:
        resume(stage, live)
        worker.start(2)
        worker.end(2, r={"b": "gASIiC4="})
        assert (await stage.ended(live)).status is Status.COMPLETED
        assert world.count("submit") == 1


@in_loop
async def test_a_later_dispatch_knows_how_long_the_tasks_of_an_earlier_one_ran(tmp_path: Path) -> None:
    async with a_stage(tmp_path, ramp_width=2, first_width=8) as stage:
        first = await stage.dispatch(*[[]] * 8)
        job = await stage.job()
        assert len(job.tasks) == 2
        worker = PlayedWorker(job, 0)
        for k in range(8):
            worker.run(k, k)
        await stage.ended(first)
        second = await stage.dispatch(*[[]] * 8)
        await stage.job(1)
        assert [stage.store.bags(live.id)[0].bag.widths for live in (first, second)] == [(2, 6), (2,)]
        await stage.engine.course.cancel(second, None)
    async with a_stage(tmp_path) as stage:
        known = stage.store.run_times()
        assert [(key.cluster, count, round(wall, 6)) for key, (count, wall) in known.items()] == [("mini", 1, 0.1)] * 8


@in_loop
async def test_no_more_tasks_run_at_once_than_the_lattice_allows(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        live = await stage.dispatch(*[[]] * 5, [0, 1], max_running=2)
        job = await stage.job()
        assert len(job.tasks) == 2
        workers = [PlayedWorker(job, index) for index in (0, 1)]
        for task in range(5):
            workers[task % 2].run(task, task)
        await stage.until(lambda: states(stage, live)[5] is State.READY)
        assert stage.world.count("submit") == 1
        for index in (0, 1):
            workers[index].leave()
            stage.world.end(job, index, Cause.DONE)
        PlayedWorker(await stage.job(1), 0).run(0, 5)
        assert (await stage.ended(live)).status is Status.COMPLETED


@in_loop
async def test_no_more_array_tasks_come_up_than_the_cluster_allows_over_all_dispatches(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        cluster = stage.engine.clusters[MINI]
        cluster.settings = cluster.settings.model_copy(update={"max_running": 3})
        first = await stage.dispatch([], [])
        await stage.job()
        second = await stage.dispatch([], [], [])
        assert [len(job.tasks) for job in (await stage.job(0), await stage.job(1))] == [2, 1]
        for live in (first, second):
            await stage.engine.course.cancel(live, None)


@in_loop
async def test_how_array_tasks_spent_their_time_is_kept_beside_what_accounting_charged(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        live = await stage.dispatch([], [])
        job = await stage.job()
        worker = PlayedWorker(job, 0)
        for task in (0, 1):
            worker.run(task, task)
        worker.write(ev="exit", why="drained", n=2, t=4.5, idle=2.0)
        await stage.ended(live)
        for index in (0, 1):
            stage.world.end(job, index, Cause.DONE)
        await stage.until(lambda: stage.store.arrays(live.id)[0].state is ArrayState.ENDED)
        await stage.until(lambda: stage.store.arrays(live.id)[0].ends[0]["usage"])
        ends = stage.store.arrays(live.id)[0].ends
        assert ends[0]["usage"] == {
            "workers": 1,
            "cores": 1,
            "unfinished": 0,
            "tasks": 2,
            "first_at": 1.0,
            "up_s": 3.5,
            "span_s": 3.5,
            "tasks_s": 0.2,
            "idle_s": 2.0,
            "earlier_s": 0.0,
        }
        assert ends[1]["usage"] is None


@in_loop
async def test_an_array_task_with_slots_is_alive_until_the_last_of_its_workers_leaves(tmp_path: Path) -> None:
    async with a_stage(tmp_path, accounting_poll=3600) as stage:
        cluster = stage.engine.clusters[MINI]
        cluster.settings = cluster.settings.model_copy(update={"slots": 2})
        live = await stage.dispatch(*[[]] * 4)
        job = await stage.job()
        assert len(job.tasks) == 2
        assert stage.store.arrays(live.id)[0].array.resources.cpus == 2
        workers = [PlayedWorker(job, index, slot=slot) for index in (0, 1) for slot in (0, 1)]
        for task in range(3):
            workers[task].run(task, task)
            workers[task].leave("walltime")
        await stage.until(lambda: states(stage, live)[:3] == [State.COMPLETED] * 3)
        assert stage.world.count("submit") == 1
        workers[3].leave("walltime")
        PlayedWorker(await stage.job(1), 0).run(0, 3, attempt=2)
        assert (await stage.ended(live)).status is Status.COMPLETED


@in_loop
async def test_a_task_that_is_told_to_leave_again_and_again_for_no_reason_is_charged_at_last(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        live = await stage.dispatch([])
        for number in range(4):
            job = await stage.job(number)
            worker = PlayedWorker(job, 0)
            worker.claim(0)
            worker.start(0, number + 1)
            worker.end(0, "interrupted", number + 1)
            worker.leave("term")
            stage.world.end(job, 0, Cause.FAILED, "FAILED", exit_code=143)
        row = await stage.ended(live)
        assert row.error is not None and "The task's worker was ended by exit code 143 (FAILED)" in row.error
        assert stage.world.count("submit") == 4


@in_loop
async def test_a_journal_that_grew_long_meanwhile_is_read_to_its_end_before_anybody_is_charged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpcflow.server.remote.this_machine._READ_AT_ONCE", 400)
    async with a_stage(tmp_path, journal_poll=60, journal_poll_max=60) as stage:
        live = await stage.dispatch(*[[]] * 5)
        job = await stage.job()
        worker = PlayedWorker(job, 0)
        for task in range(5):
            worker.run(task, task)
        for index in range(5):
            stage.world.end(job, index, Cause.FAILED, "FAILED", exit_code=1)
        assert (await stage.ended(live)).status is Status.COMPLETED
        assert stage.world.count("submit") == 1


# ---- a barrier between stages


@in_loop
async def test_a_complete_barrier_is_kept_and_written_once(tmp_path: Path) -> None:
    many, first = 40, list(range(40))
    async with a_stage(tmp_path) as stage:
        live = await stage.dispatch(*[[]] * many, *[first] * many)
        assert len({id(task.need) for task in live.tasks}) == 2
        worker = PlayedWorker(await stage.job(), 0)
        for task in first:
            worker.run(task, task)
        await stage.until(lambda: len(stage.world.jobs) > 1)
        job = stage.world.jobs[1]
        spec = json.loads(Path(job.path, "bag.json").read_text())
        assert [sorted(inputs, key=int) for inputs in spec["inputs"]] == [[str(task) for task in first]]
        assert [row[4] for row in spec["tasks"]] == [0] * many
