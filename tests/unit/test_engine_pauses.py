"""The engine where somebody cancels, holds, pauses, resumes and tries again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hpcflow.core.advice import Ask
from hpcflow.core.model import Cause, Partition, Phase, UserError
from hpcflow.core.states import State, Status
from hpcflow.server.store import ArrayState
from tests.unit.mini_world import MINI, PlayedWorker, World, a_stage
from tests.unit.test_engine import errors, in_loop, resume, states
from tests.unit.test_service import a_service


@in_loop
async def test_an_array_that_somebody_else_cancels_pauses_its_tasks_until_the_user_resumes(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        live = await stage.dispatch([], [0])
        job = await stage.job()
        stage.world.end(job, 0, Cause.CANCELLED, "CANCELLED by 0", by="uid 0")
        await stage.until(lambda: states(stage, live) == [State.PAUSED, State.WAITING])
        text = f"Job {job.id}_0 was cancelled by root, outside hpcflow (CANCELLED by 0)."
        assert errors(stage, live)[0] == text
        row = stage.store.dispatch(live.id)
        assert row is not None
        assert (row.status, row.paused) == (Status.RUNNING, text)
        assert f"{text} Nothing is submitted for these tasks; `hpcflow resume {live.id}` goes on." in [
            said for _, said in stage.store.messages(live.id)
        ]
        await stage.engine._plan(stage.engine.clusters[MINI])
        assert stage.world.count("submit") == 1
        assert await stage.engine.course.resume(live) == 1
        PlayedWorker(await stage.job(1), 0).run(0, 0, attempt=2)
        PlayedWorker(await stage.job(2), 0).run(0, 1)
        ended = await stage.ended(live)
        assert (ended.status, ended.paused) == (Status.COMPLETED, None)


@in_loop
async def test_one_array_task_cancelled_by_hand_pauses_its_tasks_and_spares_the_others(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        live = await stage.dispatch([], [])
        job = await stage.job()
        workers = [PlayedWorker(job, index) for index in (0, 1)]
        for index, worker in enumerate(workers):
            worker.claim(index)
            worker.start(index)
        workers[0].end(0, "interrupted")
        workers[0].leave("term")
        stage.world.end(job, 0, Cause.CANCELLED, "CANCELLED by 54321", by="uid 54321")
        await stage.until(lambda: states(stage, live)[0] is State.PAUSED)
        workers[1].end(1)
        await stage.until(lambda: states(stage, live)[1] is State.COMPLETED)
        assert errors(stage, live)[0] == (
            f"Job {job.id}_0 was cancelled by user 54321, outside hpcflow (CANCELLED by 54321)."
        )
        assert stage.world.count("submit") == 1
        assert not live.tasks[0].alone
        await stage.engine.course.resume(live)
        PlayedWorker(await stage.job(1), 0).run(0, 0, attempt=2)
        assert (await stage.ended(live)).status is Status.COMPLETED


@in_loop
async def test_a_pause_outlives_the_server(tmp_path: Path) -> None:
    world = World()
    async with a_stage(tmp_path, world) as stage:
        live = await stage.dispatch([], [])
        job = await stage.job()
        for index in (0, 1):
            world.end(job, index, Cause.CANCELLED, "CANCELLED by 0", by="uid 0")
        await stage.until(lambda: states(stage, live) == [State.PAUSED] * 2)
    async with a_stage(tmp_path, world) as stage:
        again = resume(stage, live)
        assert list(again.pauses.values()) == [errors(stage, live)[0]]
        await stage.engine._plan(stage.engine.clusters[MINI])
        assert world.count("submit") == 1
        assert await stage.engine.course.resume(again) == 2
        await stage.job(1)
        await stage.engine.course.cancel(again, None)


@in_loop
async def test_who_wants_it_so_is_submitted_again_after_a_cancel_but_not_for_ever(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        live = await stage.dispatch([], on_cancelled="retry")
        for number in range(3):
            job = await stage.job(number)
            stage.world.end(job, 0, Cause.CANCELLED, "CANCELLED by 0", by="uid 0")
        await stage.until(lambda: states(stage, live) == [State.PAUSED])
        assert stage.world.count("submit") == 3


@in_loop
async def test_a_held_job_is_told_and_nothing_is_submitted_beside_it(tmp_path: Path) -> None:
    async with a_stage(tmp_path, ramp_width=1, ramp_after=60) as stage:
        live = await stage.dispatch([], [])
        job = await stage.job()
        job.tasks[0] = (Phase.PENDING, None, "PENDING JobHeldAdmin")
        job.more[0] = {"stuck": "held", "by": "an administrator"}
        await stage.until(lambda: stage.store.messages(live.id))
        assert stage.store.messages(live.id)[0][1] == (
            f"Job {job.id} is held by an administrator (PENDING JobHeldAdmin). Nothing more is submitted for its tasks "
            f"until it is released: `hpcflow resume {live.id}` asks for that."
        )
        assert states(stage, live) == [State.QUEUED] * 2
        stage.set(ramp_after=0.0)  # the other array would come now
        asked = stage.world.count("query")
        await stage.until(lambda: stage.world.count("query") > asked + 3)
        await stage.engine.course.resume(live)
        assert stage.world.count("release") == 1
        assert stage.world.count("submit") == 1
        job.more[0] = {}
        await stage.until(lambda: len(stage.store.messages(live.id)) > 1)
        assert [text for _, text in stage.store.messages(live.id)[1:]] == [f"Job {job.id} is not held any more."]
        worker = PlayedWorker(job, 0)
        worker.run(0, 0)
        worker.run(1, 1)
        assert (await stage.ended(live)).status is Status.COMPLETED


@in_loop
async def test_a_suspended_job_is_told_and_lives(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        live = await stage.dispatch([])
        job = await stage.job()
        worker = PlayedWorker(job, 0)
        job.tasks[0] = (Phase.RUNNING, None, "SUSPENDED")
        job.more[0] = {"suspended": "yes"}
        await stage.until(lambda: stage.store.messages(live.id))
        (told,) = (await a_service(stage).questions.summary(live.id))["arrays"]
        assert (told["state"], told["reason"], told["suspended"]) == ("submitted", "SUSPENDED", 1)
        asked = stage.world.count("query")
        await stage.until(lambda: stage.world.count("query") > asked + 2)
        assert (stage.world.count("submit"), stage.world.count("cancel")) == (1, 0)
        job.tasks[0], job.more[0] = (Phase.RUNNING, None, "RUNNING"), {}
        await stage.until(lambda: len(stage.store.messages(live.id)) > 1)
        assert [text for _, text in stage.store.messages(live.id)] == [
            f"Job {job.id} is suspended (SUSPENDED).",
            f"Job {job.id} is not suspended any more.",
        ]
        worker.run(0, 0)
        assert (await stage.ended(live)).status is Status.COMPLETED


@in_loop
async def test_what_can_never_start_fails_with_the_schedulers_reason(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        live = await stage.dispatch([], [0])
        job = await stage.job()
        job.tasks[0] = (Phase.PENDING, None, "PENDING PartitionTimeLimit")
        job.more[0] = {"stuck": "never"}
        row = await stage.ended(live)
        assert states(stage, live) == [State.FAILED, State.SKIPPED]
        assert row.error is not None
        assert f"Job {job.id} can't ever start as it was asked for: mini says PENDING PartitionTimeLimit." in row.error
        assert job.tasks[0][0] is Phase.ENDED
        assert stage.world.count("submit") == 1


@in_loop
async def test_a_pause_lets_go_on_what_is_queued_and_submits_nothing_new(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        live = await stage.dispatch([], [0])
        job = await stage.job()
        await stage.engine.course.pause(live, "Paused by you.")
        PlayedWorker(job, 0).run(0, 0)
        await stage.until(lambda: states(stage, live) == [State.COMPLETED, State.PAUSED])
        assert errors(stage, live)[1] == "Paused by you."
        assert stage.world.count("submit") == 1
        assert await stage.engine.course.resume(live) == 1
        PlayedWorker(await stage.job(1), 0).run(0, 1)
        assert (await stage.ended(live)).status is Status.COMPLETED


@in_loop
async def test_a_pause_as_a_whole_outlives_the_server_as_a_whole(tmp_path: Path) -> None:
    world = World()
    async with a_stage(tmp_path, world) as stage:
        live = await stage.dispatch([], [0])
        await stage.job()
        await stage.engine.course.pause(live, "Paused by you.")
    async with a_stage(tmp_path, world) as stage:
        again = resume(stage, live)
        assert (again.paused, again.pauses) == ("Paused by you.", {})
        await stage.engine.course.cancel(again, None)


@in_loop
async def test_a_bag_of_which_the_first_tasks_all_fail_alike_is_stopped_and_paused(tmp_path: Path) -> None:
    async with a_stage(tmp_path, breaker=3) as stage:
        live = await stage.dispatch(*[[]] * 6)
        job = await stage.job()
        worker = PlayedWorker(job, 0)
        for task in range(3):
            worker.claim(task)
            worker.start(task)
            worker.end(task, "error", exc="ValueError", msg=f"row {task}")
        await stage.until(lambda: states(stage, live) == [*[State.FAILED] * 3, *[State.PAUSED] * 3])
        assert errors(stage, live)[3] == "The first 3 tasks all failed: ValueError: row 2."
        assert [phase for phase, _, _ in job.tasks.values()] == [Phase.ENDED] * 6
        await stage.engine.course.resume(live)
        again = PlayedWorker(await stage.job(1), 0)
        for k, task in enumerate([3, 4, 5]):
            again.run(k, task, attempt=2)
        assert (await stage.ended(live)).status is Status.FAILED


@in_loop
async def test_a_bag_in_which_one_task_returned_is_not_stopped_for_the_others(tmp_path: Path) -> None:
    async with a_stage(tmp_path, breaker=2) as stage:
        live = await stage.dispatch(*[[]] * 4)
        worker = PlayedWorker(await stage.job(), 0)
        worker.run(0, 0)
        for task in (1, 2, 3):
            worker.claim(task)
            worker.start(task)
            worker.end(task, "error", exc="ValueError", msg="no")
        await stage.ended(live)
        assert states(stage, live) == [State.COMPLETED, *[State.FAILED] * 3]


@in_loop
async def test_more_failures_than_the_lattice_allows_end_it(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        live = await stage.dispatch([], [], [], [1], max_failures=0)
        job = await stage.job()
        worker = PlayedWorker(job, 0)
        worker.run(1, 1)
        await stage.until(lambda: states(stage, live)[1] is State.COMPLETED)
        worker.claim(0)
        worker.start(0)
        worker.end(0, "error", exc="ValueError", msg="no")
        row = await stage.ended(live)
        assert row.status is Status.FAILED
        assert states(stage, live) == [State.FAILED, State.COMPLETED, State.CANCELLED, State.CANCELLED]
        assert errors(stage, live)[2] == "Not run to its end, because more than 0 tasks failed (max_failures=0)."
        await stage.until(lambda: all(phase is Phase.ENDED for phase, _, _ in job.tasks.values()))


@in_loop
async def test_an_electron_that_accepts_failures_runs_with_what_there_is(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        live = await stage.dispatch([], [], [0], [1, 2], accepting=[3])
        worker = PlayedWorker(await stage.job(), 0)
        worker.claim(0)
        worker.start(0)
        worker.end(0, "error", exc="ValueError", msg="no")
        worker.run(1, 1)
        last = await stage.job(1)
        PlayedWorker(last, 0).run(0, 3)
        row = await stage.ended(live)
        assert states(stage, live) == [State.FAILED, State.COMPLETED, State.SKIPPED, State.COMPLETED]
        assert (row.status, row.error) == (Status.COMPLETED, None)


@in_loop
async def test_after_a_death_by_memory_the_tasks_share_a_bag_with_more_of_it(tmp_path: Path) -> None:
    async with a_stage(tmp_path, gather=5.0) as stage:
        live = await stage.dispatch([], [], [], retries=1, memory_mib=1000)
        worker = PlayedWorker(await stage.job(), 0)
        for task in (0, 1):
            worker.claim(task)
            worker.start(task)
            worker.end(task, "memory", mem=960)
        worker.run(2, 2)
        await stage.job(1)
        bags = stage.store.bags(live.id)
        assert [bag.bag.shape.resources.memory_mib for bag in bags] == [1000, 2000]
        assert bags[1].bag.tasks == ((0, 2), (1, 2))
        again = PlayedWorker(await stage.job(1), 0)
        again.run(0, 0, attempt=2)
        again.run(1, 1, attempt=2)
        assert (await stage.ended(live)).status is Status.COMPLETED


@in_loop
async def test_what_a_further_attempt_asks_for_outlives_the_server(tmp_path: Path) -> None:
    world = World()
    async with a_stage(tmp_path, world) as stage:
        live = await stage.dispatch([], retries=2, memory_mib=1000)
        worker = PlayedWorker(await stage.job(), 0)
        worker.claim(0)
        worker.start(0)
        worker.end(0, "memory")
        await stage.job(1)
    async with a_stage(tmp_path, world) as stage:
        again = resume(stage, live)
        assert (again.tasks[0].shape.resources.memory_mib, again.tasks[0].charged) == (2000, 1)
        await stage.engine.course.cancel(again, None)


@in_loop
async def test_a_node_that_loses_three_workers_is_avoided_from_then_on(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        live = await stage.dispatch([])
        for number in range(3):
            job = await stage.job(number)
            worker = PlayedWorker(job, 0)
            worker.claim(0)
            worker.start(0, number + 1)
            stage.world.end(job, 0, Cause.NODE_FAIL, host="node5")
        PlayedWorker(await stage.job(3), 0).run(0, 0, attempt=4)
        assert (await stage.ended(live)).status is Status.COMPLETED
        assert [array.array.avoid for array in stage.store.arrays(live.id)] == [(), (), (), ("node5",)]
        assert (
            "Node node5 of mini lost 3 workers, the last with NODE_FAIL: further jobs of this dispatch avoid it."
            in [said for _, said in stage.store.messages(live.id)]
        )


@in_loop
async def test_a_retry_by_hand_runs_again_what_failed_and_what_hung_on_it(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        live = await stage.dispatch([], [], [0], memory_mib=100)
        worker = PlayedWorker(await stage.job(), 0)
        worker.claim(0)
        worker.start(0)
        worker.end(0, "memory")
        worker.run(1, 1)
        assert (await stage.ended(live)).status is Status.FAILED
        again = resume(stage, live)
        assert await stage.engine.course.retry(again, failed_only=True, named=Ask(memory_mib=300)) == 2
        row = stage.store.dispatch(live.id)
        assert row is not None
        assert (row.status, row.ended_at, row.error) == (Status.RUNNING, None, None)
        PlayedWorker(await stage.job(1), 0).run(0, 0, attempt=2)
        PlayedWorker(await stage.job(2), 0).run(0, 2, attempt=2)
        assert (await stage.ended(live)).status is Status.COMPLETED
        assert [bag.bag.shape.resources.memory_mib for bag in stage.store.bags(live.id)] == [100, 300, 100]
        assert len(stage.store.ends(live.id)) == 3


@in_loop
async def test_a_retry_of_a_running_dispatch_leaves_alone_what_runs(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        live = await stage.dispatch([], [])
        worker = PlayedWorker(await stage.job(), 0)
        worker.claim(0)
        worker.start(0)
        worker.end(0, "error", exc="OSError", msg="no")
        await stage.until(lambda: states(stage, live)[0] is State.FAILED)
        assert await stage.engine.course.retry(live, failed_only=True) == 1
        PlayedWorker(await stage.job(1), 0).run(0, 0, attempt=2)
        worker.run(1, 1)
        assert (await stage.ended(live)).status is Status.COMPLETED


@in_loop
async def test_a_retry_asks_for_no_more_than_there_is(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        live = await stage.dispatch([], memory_mib=100)
        worker = PlayedWorker(await stage.job(), 0)
        worker.claim(0)
        worker.start(0)
        worker.end(0, "memory")
        await stage.ended(live)
        again = resume(stage, live)
        cluster = stage.engine.clusters[MINI]
        assert cluster.limits is not None
        batch = Partition(name="batch", is_default=True, memory_mib_per_node=2000)
        cluster.limits = replace(cluster.limits, partitions=(batch,))
        with pytest.raises(UserError, match="2\\.9 GiB of memory on one node"):
            await stage.engine.course.retry(again, failed_only=True, named=Ask(memory_mib=3000))
        assert states(stage, live) == [State.FAILED]


@in_loop
async def test_a_cancelled_dispatch_can_be_tried_again(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        live = await stage.dispatch([], [0])
        await stage.job()
        await stage.engine.course.cancel(live, None)
        await stage.ended(live)
        again = resume(stage, live)
        assert await stage.engine.course.retry(again, failed_only=True) == 0
        assert await stage.engine.course.retry(again, failed_only=False) == 2
        PlayedWorker(await stage.job(1), 0).run(0, 0, attempt=2)
        PlayedWorker(await stage.job(2), 0).run(0, 1, attempt=2)
        assert (await stage.ended(live)).status is Status.COMPLETED
        assert ArrayState.ENDED in {array.state for array in stage.store.arrays(live.id)}
