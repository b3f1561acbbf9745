"""Array tasks that we cancel ourselves, because they would find nothing to do, are nobody else's cancel."""

from __future__ import annotations

from pathlib import Path

from hpcflow.core.model import Cause, Phase
from hpcflow.core.states import State, Status
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
