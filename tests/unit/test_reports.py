"""What a dispatch cost and what ran in a job, on a real engine and store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpcflow.core.model import (
    Bag,
    BagId,
    Cause,
    ClusterName,
    DispatchId,
    NotFound,
    Phase,
    Resources,
    Shape,
    UserError,
)
from hpcflow.core.plan import UNBOUNDED_S
from hpcflow.core.states import State
from hpcflow.server import schema
from hpcflow.server.arrays import why_walltime
from hpcflow.server.page_schema import Arrays as schema_of_arrays
from hpcflow.server.reports import array_task
from hpcflow.server.service import Service
from hpcflow.server.store import ArrayState, Jobs
from hpcflow.server.views import COLUMNS, Wanted
from tests.unit.mini_world import PlayedWorker, Stage, a_stage
from tests.unit.test_engine import in_loop
from tests.unit.test_service import UNKNOWN, a_service, dispatched, ended

Json = dict[str, Any]  # Any: JSON


async def over(service: Service, stage: Stage, dispatch: str) -> Json:
    """Return the usage once all bags are over and all is stored."""
    await stage.until(lambda: not stage.engine.bags)
    await stage.until(lambda: not stage.engine.writer.pending)
    return await service.questions.usage(dispatch)


@in_loop
async def test_what_a_dispatch_cost_adds_up_once_its_arrays_are_over(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        service = a_service(stage)
        dispatch = await dispatched(service, stage, [], [], [])
        job = await stage.job()
        assert (await service.questions.usage(dispatch))["charged_s"] == 0
        worker = PlayedWorker(job, 0)
        for task in (0, 1, 2):
            worker.run(task, task)
        worker.write(ev="exit", why="drained", n=3, t=5.0, idle=2.0)
        await ended(service, dispatch)
        answer = await service.questions.usage(dispatch)
        assert (answer["open"], answer["complete"]) == (3, False)
        (sentence,) = answer["sentences"]
        assert sentence == "3 array tasks: accounting has not told yet that they are over, nor what they cost."
        stage.world.end(job, 0, Cause.DONE, core_seconds="6")
        for index in (1, 2):
            stage.world.end(job, index, Cause.CANCELLED)
        answer = await over(service, stage, dispatch)
        parts = ("charged_s", "tasks_s", "idle_s", "overhead_s", "startup_s", "rest_s", "unexplained_s")
        assert [answer[part] for part in parts] == [6, 0.3, 2, 1.7, 2, 0, 0]
        assert [answer[count] for count in ("submitted", "used", "not_begun", "open", "unknown")] == [3, 1, 2, 0, 0]
        assert answer["sentences"] == [
            "A task was running in 5 % of 6.0 core-seconds charged; the rest: "
            "34 % waiting for more, 33 % start-up and end, 28 % workers' own work.",
            "3 array tasks: 1 used, 2 cancelled before they began.",
        ]
        assert schema.Usage.model_validate(answer).complete


@in_loop
async def test_without_accounting_it_is_said_that_nothing_is_known(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        service = a_service(stage)
        dispatch = await dispatched(service, stage, [])
        job = await stage.job()
        PlayedWorker(job, 0).run(0, 0)
        await ended(service, dispatch)
        stage.world.end(job, 0, Cause.DONE)
        answer = await over(service, stage, dispatch)
        assert answer["sentences"] == ["1 array task: 1 used.", "Accounting did not tell what 1 array task cost."]
        with pytest.raises(NotFound):
            await service.questions.usage(UNKNOWN)


@in_loop
async def test_an_array_task_tells_what_ran_in_it_in_order(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        service = a_service(stage)
        dispatch = await dispatched(service, stage, [], [], [], [])
        job = await stage.job()
        one, slot = PlayedWorker(job, 0), PlayedWorker(job, 0, slot=1)
        one.claim(2)
        one.start(2)
        one.end(2, t=1000.0, wall=400.0, r={"b": "gASIiC4="})
        slot.claim(0)
        slot.start(0)
        slot.end(0, "error", t=900.0, wall=100.0, exc="ValueError", msg="no minimum", kinds=["ValueError"])
        one.claim(1)
        one.write(ev="start", i=1, n=1, t=1100.0)
        await stage.until(lambda: len(Jobs(stage.store).running(stage.store.arrays(dispatch)[0].array)) == 1)
        await stage.until(lambda: len(stage.store.ends(dispatch)) == 2)
        # The journals tell where a task runs, and which array tasks are busy, before any scheduler does.
        row = (await service.questions.page(dispatch, Wanted(states=(State.RUNNING,))))["rows"][0]
        assert row[COLUMNS.index("host")] == (await service.questions.task(dispatch, 1))["host"] == "node1"
        [array] = (await service.questions.summary(dispatch))["arrays"]
        [shown] = (await service.questions.arrays(dispatch))["arrays"]
        assert (array["up"], array["busy"], shown["up"], shown["busy"]) == (1, 0, 1, 0)  # a slot of it is free
        assert [array["up"] for array in (await service.questions.about(dispatch, 3))["arrays"]] == [1]
        answer = await service.questions.job(f"{job.id}_0")
        [found] = answer["arrays"]
        assert (found["dispatch"], found["name"], found["job_id"], found["width"]) == (dispatch, "flow", job.id, 4)
        assert [(task["index"], task["state"], task["error"]) for task in found["tasks"]] == [
            (2, "completed", None),
            (0, "failed", "ValueError: no minimum"),
            (1, "running", None),
        ]
        assert found["tasks"][0]["started_at"] == "1970-01-01T00:10:00.000Z"
        assert [(entry["index"], entry["state"], entry["tasks"]) for entry in found["array_tasks"]] == [
            (0, "running", 2)
        ]
        assert schema.Job.model_validate(answer).arrays[0].tasks[0].name == "step2"
        [waits] = (await service.questions.job(f"{job.id}_3"))["arrays"]
        assert ([entry["state"] for entry in waits["array_tasks"]], waits["tasks"]) == (["waiting"], [])

        slot.claim(3)
        slot.start(3)
        await stage.until(lambda: len(Jobs(stage.store).running(stage.store.arrays(dispatch)[0].array)) == 2)
        [array] = (await service.questions.summary(dispatch))["arrays"]
        assert (array["up"], array["busy"]) == (1, 1)
        one.end(1, r={"b": "gASIiC4="})
        slot.end(3, r={"b": "gASIiC4="})
        await ended(service, dispatch)
        stage.world.end(job, 0, Cause.DONE, "COMPLETED", 0, core_seconds="9", host="node7")
        for index in (1, 2, 3):
            stage.world.end(job, index, Cause.CANCELLED, "CANCELLED by 1000")
        await over(service, stage, dispatch)
        [whole] = (await service.questions.job(job.id))["arrays"]
        assert (whole["not_begun"], whole["tasks"], whole["state"]) == (3, [], ArrayState.ENDED)
        [entry] = whole["array_tasks"]
        assert [entry[field] for field in ("index", "state", "tasks", "raw", "host", "core_seconds")] == [
            0, "ended", 4, "COMPLETED", "node7", 9,
        ]  # fmt: skip
        [rested] = (await service.questions.job(f"{job.id}_2"))["arrays"]
        assert [entry["state"] for entry in rested["array_tasks"]] == ["not begun"]


@in_loop
async def test_a_job_that_nobody_had_is_not_found(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        service = a_service(stage)
        dispatch = await dispatched(service, stage, [], [])
        job = await stage.job()
        await stage.until(lambda: stage.store.arrays(dispatch)[0].state is ArrayState.SUBMITTED)
        for name, sentence in (
            ("7", "No dispatch here has had a job 7."),
            (job.id[:-1], f"No dispatch here has had a job {job.id[:-1]}."),
            (f"{job.id}_2", f"Job {job.id} has 2 array tasks, counted from 0."),
        ):
            with pytest.raises(NotFound) as refused:
                await service.questions.job(name)
            assert str(refused.value) == sentence
        await service.steering.cancel(dispatch, None)


@pytest.mark.parametrize("text", ["", "8123_", "_7", "8123_x", "81 23", "8123[7]", "8123_7_0", "8" * 65, "'; --"])
def test_what_names_no_job_is_the_users_mistake(text: str) -> None:
    with pytest.raises(UserError, match="names no job: give the id"):
        array_task(text)


@in_loop
async def test_tasks_have_what_sacct_needs_and_slots_share_their_array_task(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        service = a_service(stage)
        dispatch = await dispatched(service, stage, [], [])
        job = await stage.job()
        slot = PlayedWorker(job, 0, slot=3)
        slot.claim(0)
        slot.start(0)
        slot.end(0, "signal", sig=11)
        slot.run(1, 1)
        await ended(service, dispatch)
        table = await service.questions.tasks(dispatch, None, -1, 10)
        first = dict(zip(table["columns"], table["rows"][0], strict=True))
        wanted = ("job_id", "array_index", "cores", "end", "signal", "exit_code", "raw")
        assert [first[column] for column in wanted] == [job.id, 0, 1, "signal", 11, None, None]
        detail = await service.questions.task(dispatch, 0)
        assert [detail[column] for column in wanted] == [first[column] for column in wanted]
        stage.world.end(job, 0, Cause.DONE)
        stage.world.end(job, 1, Cause.DONE)


@in_loop
async def test_an_array_that_waits_says_why_in_plain_words_beside_the_schedulers(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        service = a_service(stage)
        dispatch = await dispatched(service, stage, [])
        job = await stage.job()
        job.tasks[0] = (Phase.PENDING, None, "PENDING Priority")
        await stage.until(lambda: stage.store.arrays(dispatch)[0].reason == "PENDING Priority")
        [line] = (await service.questions.summary(dispatch))["arrays"]
        assert (line["reason"], line["why"]) == ("PENDING Priority", "Waits its turn")
        job.tasks[0] = (Phase.PENDING, None, "PENDING Moonphase")
        await stage.until(lambda: stage.store.arrays(dispatch)[0].reason == "PENDING Moonphase")
        [line] = (await service.questions.summary(dispatch))["arrays"]
        assert (line["reason"], line["why"]) == ("PENDING Moonphase", None)
        await service.steering.cancel(dispatch, None)


@in_loop
async def test_an_array_tells_for_which_electrons_it_works_and_how_their_tasks_ended(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        service = a_service(stage)
        dispatch = await dispatched(service, stage, [], [], [])
        job = await stage.job()
        [waits] = (await service.questions.arrays(dispatch))["arrays"]
        assert waits["electrons"] == [{"name": f"step{k}", "tasks": 1, "queued": 1} for k in range(3)]
        assert (waits["electrons_total"], waits["ends"], waits["tried_again"]) == (3, {}, 0)
        worker = PlayedWorker(job, 0)
        worker.run(0, 0)
        worker.claim(1)
        worker.start(1)
        worker.end(1, st="error", exc="ValueError", msg="no")
        worker.run(2, 2)
        worker.write(ev="exit", why="drained", n=3, t=5.0, idle=2.0)
        await ended(service, dispatch)
        stage.world.end(job, 0, Cause.DONE, core_seconds="6")
        for index in (1, 2):
            stage.world.end(job, index, Cause.CANCELLED)
        # Then nothing changes between two questions any more.
        await over(service, stage, dispatch)
        answer = await service.questions.arrays(dispatch)
        [ended_array] = schema_of_arrays.model_validate(answer).arrays
        assert ended_array.ends == {"completed": 2, "failed": 1}
        assert [(each.name, each.tasks, each.queued) for each in ended_array.electrons] == [
            ("step0", 1, 0),
            ("step1", 1, 0),
            ("step2", 1, 0),
        ]
        about = await service.questions.about(dispatch, 0)
        told = about["arrays"][0]
        assert {field: answer["arrays"][0][field] for field in told} == told
        with pytest.raises(NotFound):
            await service.questions.arrays(UNKNOWN)


def a_bag(units: int, *, links: int = 1, limit_s: int | None, need_s: int, walltime_s: int) -> Bag:
    tasks = tuple((index, 1) for index in range(units * links))
    return Bag(
        id=BagId("b"),
        dispatch=DispatchId("d"),
        shape=Shape(cluster=ClusterName("mini"), resources=Resources(), python="python3", python_version=(3, 12)),
        tasks=tasks,
        units=tuple(tuple(range(unit * links, (unit + 1) * links)) for unit in range(units)),
        cuts=(0, units),
        path="/x",
        limit_s=limit_s,
        need_s=need_s,
        worker_walltime_s=walltime_s,
    )


@pytest.mark.parametrize(
    ("bag", "sentence"),
    [
        (
            a_bag(8, limit_s=120, need_s=210, walltime_s=720),
            "12 min, because one worker runs several tasks of at most 2 min, one after another.",
        ),
        (
            a_bag(1, limit_s=120, need_s=210, walltime_s=210),
            "3 min 30 s: time for a task of 2 min, and 1 min 30 s more to start and to end in.",
        ),
        (
            a_bag(1, links=3, limit_s=120, need_s=450, walltime_s=450),
            "7 min 30 s: time for 3 tasks of 2 min, which run one after another, and 1 min 30 s "
            "more to start and to end in.",
        ),
        (
            a_bag(4, limit_s=None, need_s=90, walltime_s=3600),
            "1 h, because its tasks name no walltime: one worker runs several of them, as long as "
            "time is left (worker_walltime).",
        ),
        (
            a_bag(1, limit_s=7200, need_s=3600, walltime_s=3600),
            "1 h, which is all that its partition gives.",
        ),
        (a_bag(1, limit_s=3600, need_s=3600, walltime_s=3600), None),
        (a_bag(1, limit_s=60, need_s=150, walltime_s=UNBOUNDED_S), None),
    ],
)
def test_why_an_array_asks_for_more_time_than_its_task_is_a_sentence(bag: Bag, sentence: str | None) -> None:
    assert why_walltime(bag, bag.worker_walltime_s) == sentence
