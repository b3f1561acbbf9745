"""Open dispatches on a real engine and store: parts, arrays, the end, a lost answer, a restart."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from hpcflow.core.model import DispatchId, UserError
from hpcflow.core.states import State, Status
from hpcflow.server.service import Service
from tests.unit.mini_world import PlayedWorker, Stage, a_manifest, a_stage
from tests.unit.test_engine import in_loop
from tests.unit.test_service import a_service, ended


async def opened(service: Service, stage: Stage, tasks: int = 1) -> DispatchId:
    payload = stage.folder / "upload"
    payload.write_bytes(b"blob")
    answer = await service.accept({**a_manifest(*[[]] * tasks), "open": True}, str(payload))
    return DispatchId(answer["id"])


async def appended(
    service: Service, stage: Stage, dispatch: DispatchId, part: dict[str, Any]
) -> dict[str, Any]:  # Any: JSON
    payload = stage.folder / "part"
    payload.write_bytes(b"blob")
    answer = await service.parts.append(dispatch, part, str(payload))
    assert not payload.exists()
    return answer


def last() -> dict[str, Any]:  # Any: JSON
    return {**a_manifest(), "last": True}


async def settled(stage: Stage, dispatch: DispatchId, *states: State) -> None:
    """Wait until so many tasks are in these states."""
    await stage.until(lambda: [row.state for row in stage.store.tasks(dispatch)] == list(states), str(states))


@in_loop
async def test_parts_get_numbers_behind_what_is_there_and_the_last_one_ends_the_dispatch(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        service = a_service(stage)
        dispatch = await opened(service, stage)
        worker = PlayedWorker(await stage.job(0), 0)
        worker.run(0, 0)
        await settled(stage, dispatch, State.COMPLETED)
        assert (await service.questions.summary(dispatch))["status"] == Status.RUNNING

        part = a_manifest([], [])
        answer = await appended(service, stage, dispatch, part)
        again = await appended(service, stage, dispatch, part)

        assert (answer["first"], again["first"]) == (1, 1)
        other = PlayedWorker(await stage.job(1), 0)
        other.run(0, 1)
        other.run(1, 2)
        await settled(stage, dispatch, *[State.COMPLETED] * 3)
        await appended(service, stage, dispatch, last())
        summary = await ended(service, dispatch)
        assert (summary["status"], summary["own_tasks"], summary["tasks"]) == (Status.COMPLETED, 3, 3)
        # Each part is a file of blobs of its own, beside the dispatch's.
        table = await service.questions.tasks(dispatch, None, -1, 10)
        assert [row[0] for row in table["rows"]] == [0, 1, 2]
        arguments = b"".join([piece async for piece in service.called_with.stream(dispatch, None, small=True)])
        assert arguments.count(b"blob") == 3
        with pytest.raises(UserError, match=r"takes no further tasks: it was closed or cancelled"):
            await appended(service, stage, dispatch, a_manifest([]))


@in_loop
async def test_while_no_worker_has_begun_arrays_grow_with_the_logarithm_of_tasks(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        service = a_service(stage)
        dispatch = await opened(service, stage)
        await stage.job(0)
        for number in range(1, 32):
            await appended(service, stage, dispatch, a_manifest([]))
            await stage.until(lambda: not stage.engine.writer.dispatches[dispatch].dirty)
            assert len(stage.store.tasks(dispatch)) == number + 1
        await stage.until(lambda: stage.world.jobs and len(stage.world.jobs) >= 2)

        assert 2 <= stage.world.count("submit") <= 6


@in_loop
async def test_twenty_exceptions_alike_pause_nothing_of_what_was_sent_one_by_one(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        service = a_service(stage)
        dispatch = await opened(service, stage, tasks=30)
        worker = PlayedWorker(await stage.job(0), 0)
        for index in range(30):
            worker.claim(index)
            worker.start(index)
            worker.end(index, "error", exc="ValueError", msg="no", kinds=["ValueError"])
        await settled(stage, dispatch, *[State.FAILED] * 30)

        assert (await service.questions.summary(dispatch))["paused"] is None
        await appended(service, stage, dispatch, last())
        assert (await ended(service, dispatch))["status"] == Status.FAILED


@in_loop
async def test_only_what_has_not_begun_is_cancelled_when_that_is_asked(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        service = a_service(stage)
        dispatch = await opened(service, stage, tasks=3)
        worker = PlayedWorker(await stage.job(0), 0)
        worker.run(0, 0)
        worker.claim(1)
        worker.start(1)
        await settled(stage, dispatch, State.COMPLETED, State.RUNNING, State.QUEUED)

        answer = await service.steering.cancel(dispatch, [0, 1, 2], begun=False)
        none = await service.steering.cancel(dispatch, [0, 1], begun=False)

        assert answer == {"cancelled": 1, "message": "Cancelled 1 task.", "tasks": [2]}
        assert none["tasks"] == []
        await settled(stage, dispatch, State.COMPLETED, State.RUNNING, State.CANCELLED)
        await service.steering.cancel(dispatch, None)
        assert (await ended(service, dispatch))["status"] == Status.CANCELLED


@in_loop
async def test_an_open_dispatch_is_taken_up_with_its_parts_and_closed_when_its_program_is_gone(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        service = a_service(stage)
        dispatch = await opened(service, stage)
        PlayedWorker(await stage.job(0), 0).run(0, 0)
        await appended(service, stage, dispatch, a_manifest([]))
        await settled(stage, dispatch, State.COMPLETED, State.QUEUED)
        job = await stage.job(1)
    async with a_stage(tmp_path) as stage:
        service = a_service(stage)
        await service.take_up()
        live = stage.engine.writer.dispatches[dispatch]
        assert (live.open, live.own, live.one_by_one) == (True, 2, True)
        answer = await appended(service, stage, dispatch, a_manifest([]))
        assert answer["first"] == 2
        PlayedWorker(job, 0).run(0, 1)
        PlayedWorker(await stage.job(0), 0).run(0, 2)
        await settled(stage, dispatch, *[State.COMPLETED] * 3)
        tidy = asyncio.create_task(service.parts.keep_tidy(0.01))
        try:
            summary = await ended(service, dispatch)
        finally:
            tidy.cancel()
        assert summary["status"] == Status.COMPLETED
        assert "its program was not heard any more" in summary["messages"][-1]["text"]
    async with a_stage(tmp_path) as stage:
        service = a_service(stage)
        await service.take_up()
        assert (await service.questions.summary(dispatch))["own_tasks"] == 3
