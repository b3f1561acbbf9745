"""Cancels that do not reach those who are to end what was cancelled are told until they do, on a real engine."""

from __future__ import annotations

import asyncio
from pathlib import Path

from hpcflow.core.bag import INBOX, bag_key, read_lines
from tests.unit.mini_world import KEY, PlayedWorker, a_stage
from tests.unit.test_engine import in_loop
from tests.unit.test_service import a_service, dispatched


@in_loop
async def test_a_cancel_that_workers_were_not_told_is_told_where_it_is_shown_until_they_were(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        service = a_service(stage)
        dispatch = await dispatched(service, stage, [], [])
        job = await stage.job()
        worker = PlayedWorker(job, 0)
        worker.claim(0)
        worker.start(0)
        inbox = Path(job.path) / INBOX
        away = inbox.rename(tmp_path / "away")
        answer = await service.steering.cancel(dispatch, [0])
        late = f"Cancel not delivered yet: {inbox}: No such file or directory. It is tried again; until then "
        told = f"{late}workers on mini may still run 1 task that was cancelled."
        assert answer == {"cancelled": 1, "message": f"Cancelled 1 task; what had ended keeps its result. {told}"}
        summary = await service.questions.summary(dispatch)
        assert summary["undelivered"] == told
        tasks = [(await service.questions.task(dispatch, index))["undelivered"] for index in (0, 1)]
        assert tasks == [f"{late}a worker on mini may still run it.", None]
        # Who waits for news hears that it was delivered.
        away.rename(inbox)
        async with asyncio.timeout(60):
            while summary["undelivered"] is not None:
                summary = await service.questions.changed(dispatch, summary["version"], 60.0)
        records, _, _ = read_lines(inbox.read_bytes(), bag_key(KEY, inbox.parent.name))
        assert [record["tasks"] for record in records if record["ev"] == "cancel"] == [[[0, 1]]]
        assert (await service.questions.task(dispatch, 0))["undelivered"] is None
        worker.run(1, 1)


@in_loop
async def test_a_cancel_that_a_scheduler_did_not_take_is_told_until_it_does(tmp_path: Path) -> None:
    async with a_stage(tmp_path, cancel_answer=0.05) as stage:
        service = a_service(stage)
        dispatch = await dispatched(service, stage, [], [])
        await stage.job()
        await stage.until(lambda: stage.store.arrays(dispatch)[0].array.job_id is not None)
        stage.world.connected.clear()
        answer = await service.steering.cancel(dispatch, None)
        told = "Cancel not delivered yet: {}. It is tried again; until then 1 job may go on on mini."
        assert answer["message"].endswith(f" {told.format('mini has not answered yet')}")
        stage.world.deaf = True
        stage.world.connected.set()
        async with asyncio.timeout(60):
            while (await service.questions.summary(dispatch))["undelivered"] != told.format("no answer"):
                await asyncio.sleep(0.005)
        assert (await service.questions.summary(dispatch))["status"] == "CANCELLED"
        assert "no answer" in (await service.questions.task(dispatch, 1))["undelivered"]
        stage.world.deaf = False
        async with asyncio.timeout(60):
            while (await service.questions.summary(dispatch))["undelivered"] is not None:
                await asyncio.sleep(0.005)
        await stage.until(lambda: not stage.engine.bags)
