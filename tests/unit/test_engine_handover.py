"""What a server knows of array tasks that ended while an earlier one served."""

from __future__ import annotations

from pathlib import Path

from hpcflow.core.model import Cause, Phase
from hpcflow.core.states import State, Status
from hpcflow.server.store import ArrayState
from tests.unit.mini_world import PlayedWorker, World, a_stage
from tests.unit.test_engine import in_loop, resume, states


@in_loop
async def test_what_was_trimmed_is_no_foreign_cancel_for_the_next_server(tmp_path: Path) -> None:
    world = World()
    async with a_stage(tmp_path, world) as stage:
        live = await stage.dispatch([], [], [0, 1])
        job = await stage.job()
        worker = PlayedWorker(job, 0)
        worker.run(0, 0)
        worker.run(1, 1)
        await stage.until(lambda: job.tasks[1][0] is Phase.ENDED)
        await stage.until(lambda: states(stage, live)[:2] == [State.COMPLETED, State.COMPLETED])
        world.deaf = True
    world.deaf = False
    worker.leave()
    world.end(job, 0, Cause.DONE)

    async with a_stage(tmp_path, world) as stage:
        again = resume(stage, live)
        await stage.until(lambda: len(world.jobs) > 1 or stage.store.messages(live.id))
        assert stage.store.messages(live.id) == []
        PlayedWorker(await stage.job(1), 0).run(0, 2)
        row = await stage.ended(again)
        assert (row.status, row.paused) == (Status.COMPLETED, None)
        assert stage.store.messages(live.id) == []


@in_loop
async def test_the_next_server_knows_why_a_worker_died_that_the_last_one_was_told_of(tmp_path: Path) -> None:
    world = World()
    async with a_stage(tmp_path, world, on_network=True, visibility_grace=3600) as stage:
        live = await stage.dispatch([], [])
        job = await stage.job()
        worker = PlayedWorker(job, 0)
        worker.run(0, 0)
        worker.claim(1)
        worker.start(1)
        for index in (0, 1):
            world.end(job, index, Cause.PREEMPTED, "PREEMPTED")
        await stage.until(lambda: stage.store.arrays(live.id)[0].state is ArrayState.ENDED)

    async with a_stage(tmp_path, world) as stage:
        again = resume(stage, live)
        PlayedWorker(await stage.job(1), 0).run(0, 1, attempt=2)
        row = await stage.ended(again)
        assert row.status is Status.COMPLETED
        # Preemption is nobody's fault: no attempt was used up, though the task had none to spare.
        assert again.tasks[1].charged == 0


@in_loop
async def test_the_next_server_pauses_for_a_cancel_that_the_last_one_was_only_told_of(tmp_path: Path) -> None:
    world = World()
    async with a_stage(tmp_path, world, on_network=True, visibility_grace=3600) as stage:
        live = await stage.dispatch([])
        job = await stage.job()
        worker = PlayedWorker(job, 0)
        worker.claim(0)
        worker.start(0)
        world.end(job, 0, Cause.CANCELLED, "CANCELLED by 0")
        await stage.until(lambda: stage.store.arrays(live.id)[0].state is ArrayState.ENDED)

    async with a_stage(tmp_path, world) as stage:
        again = resume(stage, live)
        await stage.until(lambda: states(stage, again) == [State.PAUSED])
        assert "was cancelled, outside hpcflow (CANCELLED by 0)" in str(again.tasks[0].error)
        await stage.engine.course.cancel(again, None)
