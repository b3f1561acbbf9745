"""What the API's service does with a dispatch that is paused, resumed and tried again, on a real engine and store."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hpcflow.core.model import Cause, DispatchId, HpcflowError, Limits, NotFound, Partition, Phase, UserError
from hpcflow.core.places import Places
from hpcflow.core.plugin import Reply
from hpcflow.core.states import State, Status
from hpcflow.server.finding import Default, cluster_maker
from hpcflow.server.service import Service, running
from hpcflow.server.settings import ClusterSettings, Settings
from hpcflow.server.store import Store, StoreError
from tests.unit.mini_world import MINI, Job, MiniPlugin, PlayedWorker, Stage, a_manifest, a_stage
from tests.unit.test_engine import in_loop

UNKNOWN = "01JD0000000000000000000009"
NOTHING: dict[str, Any] = {"failed_only": False, "memory_mib": None, "walltime_s": None}
RETRY_FAILED: dict[str, Any] = {**NOTHING, "failed_only": True}


def a_service(stage: Stage) -> Service:
    where = Places(str(stage.folder / "home"))
    Path(where.dispatches).mkdir(parents=True, exist_ok=True)
    make = cluster_maker(where, stage.engine.settings, {}, sys.executable)
    return Service(stage.engine, where, Default(stage.engine.settings, stage.engine.clusters), make, {})


class SmallPlugin(MiniPlugin):
    """A cluster of nodes with 1000 MiB."""

    def parse_limits(self, reply: Reply) -> Limits:
        small = Partition(name="small", is_default=True, memory_mib_per_node=1000)
        return replace(super().parse_limits(reply), partitions=(small,))


async def dispatched(service: Service, stage: Stage, *deps: Sequence[int]) -> DispatchId:
    manifest = a_manifest(*deps, retries={"times": 0, "memory": 2.0, "walltime": 2.0, "exceptions": []})
    payload = stage.folder / "upload"
    payload.write_bytes(b"blob")
    answer = await service.accept(manifest, str(payload))
    return DispatchId(answer["id"])


async def ended(service: Service, dispatch: DispatchId) -> dict[str, Any]:  # Any: JSON
    async with asyncio.timeout(60):
        while (summary := await service.questions.summary(dispatch))["status"] == Status.RUNNING:
            await asyncio.sleep(0.005)
    return summary


def fail(job: Job, *, attempt: int = 1) -> None:
    """Let the first task of a job raise."""
    worker = PlayedWorker(job, 0)
    worker.claim(0)
    worker.start(0, attempt)
    worker.end(0, "error", attempt, exc="ValueError", msg="no minimum", kinds=["ValueError"])


# ---- what a bag says


@pytest.mark.parametrize(
    ("asked", "gpus", "written"),
    [(None, 0, "fork"), ("process", 0, "alone"), ("interpreter", 0, "spawn"), ("process", 1, "spawn")],
)
@in_loop
async def test_workers_are_told_what_tasks_share(tmp_path: Path, asked: str | None, gpus: int, written: str) -> None:
    async with a_stage(tmp_path) as stage:
        service = a_service(stage)
        (tmp_path / "upload").write_bytes(b"blob")
        await service.accept(a_manifest([], isolation=asked, gpus=gpus), str(tmp_path / "upload"))
        bag = json.loads((Path((await stage.job()).path) / "bag.json").read_text())
        assert bag["iso"] == written


class NodePlugin(MiniPlugin):
    """A cluster of nodes with four cores."""

    def parse_limits(self, reply: Reply) -> Limits:
        node = Partition(name="node", is_default=True, cpus_per_node=4)
        return replace(super().parse_limits(reply), partitions=(node,))


@in_loop
async def test_more_slots_than_a_node_has_cores_are_told_and_as_many_as_fit_are_used(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        cluster = stage.engine.clusters[MINI]
        cluster.plugin, cluster.settings = NodePlugin(), ClusterSettings(scheduler="mini", slots=40)
        (tmp_path / "upload").write_bytes(b"blob")
        answer = await a_service(stage).accept(a_manifest(*[[]] * 8, cpus=2), str(tmp_path / "upload"))
        assert answer["messages"][-1] == (
            "slots = 40 of 'mini' is more than a node of partition 'node' holds: an array task runs 2 such tasks at "
            "once there."
        )
        job = await stage.job()
        assert json.loads((Path(job.path) / "bag.json").read_text())["slots"] == 2
        assert len(job.tasks) == 4


# ---- pause and resume


@in_loop
async def test_a_pause_is_told_with_its_reason_and_a_second_one_changes_nothing(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        service = a_service(stage)
        dispatch = await dispatched(service, stage, [], [0])
        await stage.job()
        answer = await service.steering.pause(dispatch)
        goes_on = "1 task goes on that a scheduler has."
        assert answer == {
            "moved": 0,
            "message": f"Nothing more is submitted until `hpcflow resume {dispatch}`. {goes_on}",
        }
        cluster = stage.engine.clusters[MINI]
        await stage.until(lambda: cluster.asked_at is not None)
        summary = await service.questions.summary(dispatch)
        [asked] = summary["asked"]
        assert (asked["cluster"], asked["at"][-1], asked["problem"]) == ("mini", "Z", None)
        assert (summary["status"], summary["paused"][:17]) == ("RUNNING", "You paused it at ")
        again = await service.steering.pause(dispatch)
        assert again == {"moved": 0, "message": f"Dispatch {dispatch} is paused already. {summary['paused']}"}
        PlayedWorker(stage.world.jobs[0], 0).run(0, 0)
        live = stage.engine.writer.dispatches[dispatch]
        await stage.until(lambda: live.tasks[1].state is State.PAUSED)
        assert await service.steering.resume(dispatch) == {
            "moved": 1,
            "message": "It goes on; 1 task had been held back.",
        }
        assert (await service.questions.summary(dispatch))["paused"] is None
        PlayedWorker(await stage.job(1), 0).run(0, 1)
        summary = await ended(service, dispatch)
        assert summary["status"] == Status.COMPLETED
        for job in stage.world.jobs:
            stage.world.end(job, 0, Cause.DONE)
        await stage.until(lambda: all(array.ended_at for array in stage.store.arrays(dispatch)))
        assert (await service.questions.summary(dispatch))["asked"] == []


@in_loop
async def test_resuming_what_is_not_paused_or_has_ended_is_no_error(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        service = a_service(stage)
        dispatch = await dispatched(service, stage, [])
        job = await stage.job()
        assert (await service.steering.resume(dispatch))["message"].startswith(
            f"Nothing of dispatch {dispatch} was paused."
        )
        PlayedWorker(job, 0).run(0, 0)
        await ended(service, dispatch)
        assert (await service.steering.resume(dispatch))["moved"] == 0
        assert await service.steering.pause(dispatch) == {
            "moved": 0,
            "message": f"Dispatch {dispatch} has ended already.",
        }


@in_loop
async def test_a_dispatch_that_nobody_knows_is_not_found(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        service = a_service(stage)
        for ask in (
            service.steering.pause(UNKNOWN),
            service.steering.resume(UNKNOWN),
            service.steering.retry(UNKNOWN, **NOTHING),
        ):
            with pytest.raises(NotFound, match=f"There is no dispatch {UNKNOWN} here"):
                await ask


@in_loop
async def test_cancelling_no_task_cancels_none(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        service = a_service(stage)
        dispatch = await dispatched(service, stage, [])
        job = await stage.job()
        assert (await service.steering.cancel(dispatch, []))["cancelled"] == 0
        PlayedWorker(job, 0).run(0, 0)
        assert (await ended(service, dispatch))["status"] == Status.COMPLETED


# ---- retry


@in_loop
async def test_a_dispatch_that_has_failed_is_tried_again_in_place(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        service = a_service(stage)
        dispatch = await dispatched(service, stage, [], [0])
        fail(await stage.job())
        assert (await ended(service, dispatch))["counts"] == {"failed": 1, "skipped": 1}
        await stage.until(lambda: dispatch not in stage.engine.writer.dispatches)
        answers = await asyncio.gather(
            service.steering.retry(dispatch, **NOTHING), service.steering.retry(dispatch, **NOTHING)
        )
        both = sorted(answers, key=lambda answer: -answer["moved"])  # which of them came first is nobody's to say
        assert both[0] == {"moved": 2, "message": "2 tasks to run again; results that exist are kept."}
        assert both[1] == {
            "moved": 0,
            "message": "No task has ended without completing; 2 of 2 tasks on the way.",
        }
        PlayedWorker(await stage.job(1), 0).run(0, 0, attempt=2)
        PlayedWorker(await stage.job(2), 0).run(0, 1, attempt=2)
        summary = await ended(service, dispatch)
        assert (summary["status"], summary["error"]) == ("COMPLETED", None)
        await stage.until(lambda: dispatch not in stage.engine.writer.dispatches)
        assert await service.steering.retry(dispatch, **NOTHING) == {
            "moved": 0,
            "message": "Nothing to try again: 2 tasks have completed.",
        }


@in_loop
async def test_what_was_cancelled_is_spared_where_only_failures_are_wanted(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        service = a_service(stage)
        dispatch = await dispatched(service, stage, [])
        await stage.job()
        await service.steering.cancel(dispatch, None)
        await ended(service, dispatch)
        await stage.until(lambda: dispatch not in stage.engine.writer.dispatches)
        answer = await service.steering.retry(dispatch, **RETRY_FAILED)
        assert answer["moved"] == 0
        assert answer["message"].startswith("No task failed. 1 task was cancelled: ")
        assert (await service.steering.retry(dispatch, **NOTHING))["moved"] == 1
        PlayedWorker(await stage.job(1), 0).run(0, 0, attempt=2)
        assert (await ended(service, dispatch))["status"] == Status.COMPLETED


@in_loop
async def test_a_retry_says_that_tasks_of_a_paused_bag_wait_for_resume(tmp_path: Path) -> None:
    async with a_stage(tmp_path, breaker=2) as stage:
        service = a_service(stage)
        dispatch = await dispatched(service, stage, *[[]] * 5)
        worker = PlayedWorker(await stage.job(), 0)
        for task in (0, 1):
            worker.claim(task)
            worker.start(task)
            worker.end(task, "error", exc="ValueError", msg="no minimum", kinds=["ValueError"])
        live = stage.engine.writer.dispatches[dispatch]
        await stage.until(lambda: live.pauses)
        told = await service.steering.retry(dispatch, failed_only=True, memory_mib=None, walltime_s=None)
        assert told == {
            "moved": 2,
            "message": "2 tasks to run again; results that exist are kept. Some tasks are paused: they wait for "
            f"`hpcflow resume {dispatch}`.",
        }
        reason = "The first 2 tasks all failed: ValueError: no minimum."
        advice = f" Nothing is submitted for these tasks; `hpcflow resume {dispatch}` goes on."
        said = [message["text"] for message in (await service.questions.summary(dispatch))["messages"]]
        assert said[-2:] == [reason + advice, "Tried again by you: 2 tasks, as they were."]
        await service.steering.resume(dispatch)
        assert reason in [message["text"] for message in (await service.questions.summary(dispatch))["messages"]]
        await service.steering.cancel(dispatch, None)
        await ended(service, dispatch)
        assert (await service.questions.summary(dispatch))["messages"][-2]["text"] == reason


@in_loop
async def test_a_retry_that_is_refused_leaves_an_ended_dispatch_as_it_was(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        service = a_service(stage)
        dispatch = await dispatched(service, stage, [])
        fail(await stage.job())
        await ended(service, dispatch)
        await stage.until(lambda: dispatch not in stage.engine.writer.dispatches)
        cluster = stage.engine.clusters[MINI]
        cluster.plugin, cluster.limits = SmallPlugin(), None  # as after a restart: nobody has asked yet
        with pytest.raises(UserError, match="1000"):
            await service.steering.retry(dispatch, failed_only=False, memory_mib=2000, walltime_s=None)
        assert (await service.questions.summary(dispatch))["status"] == Status.FAILED
        assert dispatch not in stage.engine.writer.dispatches


@in_loop
async def test_a_retry_that_would_need_what_is_gone_is_refused(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        service = a_service(stage)
        dispatch = await dispatched(service, stage, [], [0])
        job = await stage.job()
        pack = Path(job.path) / "data" / "0.pack"
        pack.write_bytes(b"0123456789")
        digest = hashlib.sha256(b"0123456789").hexdigest()
        worker = PlayedWorker(job, 0)
        worker.claim(0)
        worker.start(0)
        worker.end(0, r={"f": ["data/0.pack", 0, 10, digest]})
        second = PlayedWorker(await stage.job(1), 0)
        second.claim(0)
        second.start(1)
        second.end(1, "error", exc="ValueError", msg="no minimum", kinds=["ValueError"])
        await ended(service, dispatch)
        await stage.until(lambda: dispatch not in stage.engine.writer.dispatches)

        pack.write_bytes(b"012345678")
        with pytest.raises(
            HpcflowError, match=r"The result of task 0 \(step0\) can't be read from .*0\.pack on mini: it is sho"
        ):
            await service.steering.retry(dispatch, **NOTHING)
        pack.unlink()
        with pytest.raises(HpcflowError, match=r"0\.pack on mini: .*No such file or directory\. Tasks need it"):
            await service.steering.retry(dispatch, **NOTHING)
        pack.write_bytes(b"0123456789")
        payload = Path(service._payload(dispatch))
        payload.rename(tmp_path / "away")
        with pytest.raises(HpcflowError, match=r"functions and arguments of .* which is gone"):
            await service.steering.retry(dispatch, **NOTHING)
        assert dispatch not in stage.engine.writer.dispatches
        (tmp_path / "away").rename(payload)
        assert (await service.steering.retry(dispatch, **NOTHING))["moved"] == 1


# ---- the engine's end


@in_loop
async def test_when_the_engine_ends_by_itself_the_service_does_too(tmp_path: Path) -> None:
    where = Places(str(tmp_path / "home"))
    for folder in (where.home, where.keys, where.dispatches):
        Path(folder).mkdir(mode=0o700)
    with closing(Store.open(where.store, on_network=False)) as store:
        with closing(sqlite3.connect(where.store)) as raw:
            raw.execute("DROP TABLE run_time")
            raw.commit()
        with pytest.raises(ExceptionGroup) as ended:
            async with (
                asyncio.timeout(60),
                running(store, Settings(), where, on_network=False, environ={"PATH": str(tmp_path)}),
            ):
                await asyncio.Event().wait()
    assert ended.value.subgroup(StoreError) is not None


# ---- finding


@in_loop
async def test_dispatches_are_found_by_how_their_ids_begin(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        service = a_service(stage)
        first, second = [await dispatched(service, stage, []) for _ in range(2)]
        found = await service.questions.listed(50, None, first[:5].lower())
        assert {summary["id"] for summary in found["dispatches"]} == {first, second}
        [only] = (await service.questions.listed(50, None, first))["dispatches"]
        assert only["id"] == first
        assert (await service.questions.listed(50, None, "00"))["dispatches"] == []


# ---- some tasks, and none any more


@in_loop
async def test_one_task_is_tried_again_with_what_hangs_on_it_and_no_other(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        service = a_service(stage)
        dispatch = await dispatched(service, stage, [], [], [0])
        job = await stage.job()
        worker = PlayedWorker(job, 0)
        for k in range(2):
            worker.claim(k)
            worker.start(k)
            worker.end(k, "error", exc="ValueError", msg="no minimum", kinds=["ValueError"])
        await ended(service, dispatch)
        told = await service.steering.retry(dispatch, **NOTHING, tasks=[2])
        way_on = f"step2 (task 2) was skipped, and runs again with what holds it: `hpcflow retry {dispatch} --task 0`."
        assert told == {"moved": 0, "message": way_on}
        told = await service.steering.retry(dispatch, **NOTHING, tasks=[0])
        assert told["moved"] == 2
        rows = await service.questions.tasks(dispatch, None, -1, 10)
        state = rows["columns"].index("state")
        assert [row[state] for row in rows["rows"]][1] == "failed"
        with pytest.raises(NotFound, match="has no task 9"):
            await service.steering.retry(dispatch, **NOTHING, tasks=[9])


@in_loop
async def test_what_ran_out_of_memory_gets_one_amount_everywhere_and_the_others_keep_theirs(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        service = a_service(stage)
        none = {"times": 0, "memory": 2.0, "walltime": 2.0, "exceptions": []}
        manifest = a_manifest([], [], [], [], [0], [4, 3], retries=none, memory_mib=128, walltime_s=60)
        for task in manifest["tasks"][:2]:
            task[0] = "fit"
        payload = stage.folder / "upload"
        payload.write_bytes(b"blob")
        dispatch = DispatchId((await service.accept(manifest, str(payload)))["id"])
        job = await stage.job()
        worker = PlayedWorker(job, 0)
        worker.claim(0)
        worker.start(0)
        worker.end(0, "memory", mem=250)  # by our own watch
        worker.claim(2)
        worker.start(2)
        worker.end(2, "error", exc="ValueError", msg="no minimum", kinds=["ValueError"])
        await stage.until(lambda: stage.store.ends(dispatch).keys() == {0, 2})
        plan = await service.steering.cancel_plan(dispatch, [3])
        assert (plan["waiting"], [(job["job_id"], job["ends"]) for job in plan["jobs"]]) == (1, [(job.id, False)])
        await service.steering.cancel(dispatch, [3])
        worker.claim(1)
        worker.start(1)
        await stage.until(lambda: stage.store.states(dispatch)[1] is State.RUNNING)
        assert (await service.questions.task(dispatch, 1))["host"] == "node1"
        for index in range(len(job.tasks)):  # by Slurm, that says how much it had
            stage.world.end(job, index, Cause.MEMORY, "OUT_OF_MEMORY", host="node7", max_rss_kib=str(340 << 10))
        summary = await ended(service, dispatch)
        await stage.until(lambda: dispatch not in stage.engine.writer.dispatches)
        advice = (
            "2 tasks of fit ran out of memory: ask for 704 MiB instead of 128 MiB. "
            f"`hpcflow retry {dispatch} --more` does that, and tries the others again as they were."
        )
        assert summary["hint"] == advice
        killed = await service.questions.task(dispatch, 1)
        assert (killed["host"], killed["max_rss_kib"], killed["raw"]) == ("node7", 340 << 10, "OUT_OF_MEMORY")
        for index in (0, 1):
            assert (await service.questions.task(dispatch, index))["hint"] == (
                f"Ask for 704 MiB: `hpcflow retry {dispatch} --task {index} --more` tries it again so, and "
                'memory="704 MiB" in @hf.electron(…) asks for it from the start.'
            )
        assert (await service.questions.task(dispatch, 2))["hint"] is None
        fit = {"name": "fit", "where": "", "lack": "memory", "tasks": 2, "instead": "128 MiB", "advised": 704}
        fit["what"] = "Ask for 704 MiB instead of 128 MiB."
        failures = await service.questions.failures(dispatch)
        assert [(group["text"], group["tasks"], group["more"]) for group in failures["groups"]] == [
            ("They ran out of memory: up to 340 MiB were in use when one was ended.", 2, [fit]),
            ("ValueError: no minimum", 1, []),
        ]
        plan = await service.steering.retry_plan(dispatch, failed_only=True)
        assert plan == {
            **{"tasks": 4, "failed": 3, "cancelled": 0, "skipped": 1, "held": 1, "rest": 1, "more": [fit]},
            "held_by": [{"index": 3, "name": "step3", "state": "cancelled"}],
        }
        about = await service.questions.about(dispatch, 5)
        assert [each["index"] for each in about["held_by"]] == [0, 3]
        with pytest.raises(UserError, match="not both"):
            await service.steering.retry(dispatch, failed_only=True, memory_mib=1, walltime_s=None, more=True)
        told = await service.steering.retry(dispatch, **RETRY_FAILED, more=True)
        asks = "2 of fit ask for 704 MiB of memory instead of 128 MiB, 1 other for what it had"
        assert told == {"moved": 4, "message": f"4 tasks to run again: {asks}; results that exist are kept."}
        live = stage.engine.writer.dispatches[dispatch]
        assert [task.shape.resources.memory_mib for task in live.tasks] == [704, 704, *[128] * 4]
        summary = await service.questions.summary(dispatch)
        ended_with = "It had ended with 3 failed, 1 cancelled, 2 skipped."
        assert [message["text"] for message in summary["messages"]][-2:] == [ended_with, summary["again"]["text"]]
        again = summary["again"]
        assert again["text"] == (f"Tried again by you: 3 tasks, and 1 that was skipped because of them. {asks}.")
        left = await service.questions.task(dispatch, 5)
        assert (left["state"], left["error"]) == ("skipped", "Not run, because step3 (task 3) was cancelled.")
        plan = await service.steering.cancel_plan(dispatch, [4])
        assert plan == {"running": 0, "waiting": 1, "skipped": 0, "jobs": []}
        await stage.until(lambda: len(stage.world.jobs) == 3)
        plan = await service.steering.cancel_plan(dispatch, [0])
        assert [job["ends"] for job in plan["jobs"]] == [True]


@in_loop
async def test_a_dispatch_of_which_single_tasks_were_cancelled_says_how_many_and_what_became_of_the_rest(
    tmp_path: Path,
) -> None:
    async with a_stage(tmp_path) as stage:
        service = a_service(stage)
        dispatch = await dispatched(service, stage, [], [], [0])
        worker = PlayedWorker(await stage.job(), 0)
        assert (await service.steering.cancel_plan(dispatch, [0]))["skipped"] == 1
        await service.steering.cancel(dispatch, [0])
        worker.run(1, 1)
        summary = await ended(service, dispatch)
        assert (summary["status"], summary["error"]) == (
            "CANCELLED",
            "1 task was cancelled by you (step0 0), 1 was not run because of it, 1 completed.",
        )
        plan = await service.steering.cancel_plan(dispatch, None)
        assert plan == {"running": 0, "waiting": 0, "skipped": 0, "jobs": []}


@in_loop
async def test_what_has_ended_is_deleted_with_its_files_and_what_lives_is_not(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        service = a_service(stage)
        dispatch = await dispatched(service, stage, [])
        job = await stage.job()
        kept = await service.deleter.delete([dispatch, UNKNOWN], files=False)
        assert (kept["deleted"], kept["skipped"]) == ([], [f"{dispatch} is live: nothing of it is removed."])
        fail(job)
        await ended(service, dispatch)
        async with asyncio.timeout(60):
            while stage.engine.bags:
                job.tasks[0] = (Phase.ENDED, Cause.DONE, "COMPLETED")
                await asyncio.sleep(0.01)
        payload = tmp_path / "home" / "dispatches" / f"{dispatch}.blobs"
        assert payload.exists()
        gone = await service.deleter.delete([dispatch], files=False)
        assert gone == {"deleted": [dispatch], "skipped": [], "message": "1 dispatch deleted."}
        assert not payload.exists()
        assert not Path(job.path).exists()
        with pytest.raises(NotFound):
            await service.questions.summary(dispatch)
        again = await service.deleter.delete([dispatch], files=False)
        assert again["message"] == "There is nothing to delete."
