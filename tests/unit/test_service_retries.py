"""Which amounts which tasks ask for when they are tried again, on a real engine and store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hpcflow.core.model import ClusterName, DispatchId, Limits, NotFound, Partition, UserError
from hpcflow.core.plugin import Reply
from hpcflow.core.states import State
from hpcflow.server.clusters import Cluster
from hpcflow.server.service import Service
from hpcflow.server.settings import ClusterSettings
from tests.unit.mini_world import KEY, MINI, MiniPlugin, PlayedWorker, Stage, WorldTransport, a_manifest, a_stage
from tests.unit.test_engine import in_loop
from tests.unit.test_service import NOTHING, SmallPlugin, a_service, ended

NO_RETRIES = {"times": 0, "memory": 2.0, "walltime": 2.0, "exceptions": []}
RAISED: dict[str, Any] = {"exc": "ValueError", "msg": "no minimum", "kinds": ["ValueError"]}


class TightPlugin(MiniPlugin):
    """A cluster of nodes with 150 MiB."""

    def parse_limits(self, reply: Reply) -> Limits:
        tight = Partition(name="tight", is_default=True, memory_mib_per_node=150)
        return replace(super().parse_limits(reply), partitions=(tight,))


async def dispatched(service: Service, stage: Stage, names: str, *deps: list[int], **options: Any) -> DispatchId:
    """Dispatch tasks of electrons whose names have a letter; what one raises or runs out of is its end."""
    manifest = a_manifest(*deps, retries=NO_RETRIES, **options)
    for task, name in zip(manifest["tasks"], names, strict=True):
        task[0] = name
    payload = stage.folder / "upload"
    payload.write_bytes(b"blob")
    return DispatchId((await service.accept(manifest, str(payload)))["id"])


@in_loop
async def test_an_amount_is_for_the_tasks_that_are_named_failed_or_cancelled_and_for_no_others(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        service = a_service(stage)
        dispatch = await dispatched(service, stage, "aabbcb", [], [], [], [], [0], [], memory_mib=100, walltime_s=60)
        worker = PlayedWorker(await stage.job(), 0)
        await service.steering.cancel(dispatch, [3])
        for position, index in enumerate([0, 1, 2]):
            worker.claim(position)
            worker.start(index)
            worker.end(index, "error", **RAISED)
        worker.run(4, 5)
        await ended(service, dispatch)
        await stage.until(lambda: dispatch not in stage.engine.writer.dispatches)
        # It is refused in advance, and by itself, and nothing has moved; nobody has asked yet what the nodes have.
        stage.engine.clusters[MINI].plugin, stage.engine.clusters[MINI].limits = SmallPlugin(), None
        asked: dict[str, Any] = {**NOTHING, "memory_mib": 2000, "walltime_s": 7200, "tasks": [0], "electrons": ["b"]}
        strange: dict[str, Any] = {**asked, "electrons": ["relax"]}
        for verb in (service.steering.retry_plan, service.steering.retry):
            with pytest.raises(UserError, match=r"asks for 2 GiB of memory on one node, and there is at most 1000 MiB"):
                await verb(dispatch, **asked)
            with pytest.raises(NotFound, match=r"has no task of an electron 'relax'; it has a, b, c\."):
                await verb(dispatch, **strange)
            with pytest.raises(UserError, match="not both"):
                await verb(dispatch, **asked, more=True)
        assert stage.store.states(dispatch)[:4] == [State.FAILED, State.FAILED, State.FAILED, State.CANCELLED]

        asked["memory_mib"] = 800
        plan = await service.steering.retry_plan(dispatch, **asked)
        assert [plan[key] for key in ("tasks", "failed", "cancelled", "skipped")] == [4, 2, 1, 1]
        told = await service.steering.retry(dispatch, **asked)
        amounts = "800 MiB of memory and 2 h of walltime, what was skipped for what it had"
        assert told == {
            "moved": 4,
            "message": f"4 tasks to run again: what had failed or was cancelled asks for {amounts}; results that exist "
            "are kept.",
        }
        live = stage.engine.writer.dispatches[dispatch]
        has = [(task.shape.resources.memory_mib, task.shape.resources.walltime_s) for task in live.tasks]
        more, same = (800, 7200), (100, 60)
        assert has == [more, same, more, more, same, same]
        # What is named for one task later leaves its other amount as it is.
        later: dict[str, Any] = {**NOTHING, "walltime_s": 600}
        told = await service.steering.retry(dispatch, **later, tasks=[1])
        assert told["message"].startswith("1 task to run again: what had failed asks for 10 min of walltime;")
        assert live.tasks[1].shape.resources == replace(live.tasks[5].shape.resources, walltime_s=600)


@in_loop
async def test_tasks_of_one_electron_that_get_two_advices_are_told_where_they_ran_and_each_what_it_had_asked_for(
    tmp_path: Path,
) -> None:
    async with a_stage(tmp_path) as stage:
        other = Cluster(
            name=ClusterName("other"),
            settings=ClusterSettings(scheduler="mini"),
            plugin=TightPlugin(),
            transport=WorldTransport(stage.world),
            root=str(tmp_path / "other"),
            key=KEY,
            key_path=str(tmp_path / "key"),
            worker_path=str(tmp_path / "other/bin/worker/worker.pyz"),
        )
        stage.engine.add_cluster(other)
        service = a_service(stage)
        manifest = a_manifest([], [], [], retries=NO_RETRIES, memory_mib=100)
        large = {**manifest["shapes"][0], "resources": {"memory_mib": 200}}
        manifest["shapes"] += [large, {**manifest["shapes"][0], "executor": "other"}]
        for task, shape in zip(manifest["tasks"], (0, 2, 3), strict=True):
            task[0], task[3] = "fit", shape
        (tmp_path / "upload").write_bytes(b"blob")
        dispatch = DispatchId((await service.accept(manifest, str(tmp_path / "upload")))["id"])
        await stage.until(lambda: len(stage.store.arrays(dispatch)) == 3 == len(stage.world.jobs))
        bags = {bag.bag.path: bag.bag.tasks[0][0] for bag in stage.store.bags(dispatch)}
        for job in stage.world.jobs:
            worker = PlayedWorker(job, 0)
            worker.claim(0)
            worker.start(bags[job.path])
            worker.end(bags[job.path], "memory", mem=250)
        summary = await ended(service, dispatch)
        mini, there = "512 MiB{} instead of 100 MiB or 200 MiB", "150 MiB{} instead of 100 MiB"
        assert summary["hint"] == (
            f"2 tasks of fit on mini ran out of memory: ask for {mini.format('')}. 1 task of fit on other ran out of "
            f"memory: ask for {there.format('')}. `hpcflow retry {dispatch} --more` does that, and tries the others "
            "again as they were."
        )
        plan = await service.steering.retry_plan(dispatch, **NOTHING, tasks=[1])
        assert [(each["where"], each["instead"], each["advised"]) for each in plan["more"]] == [
            (" on mini", "200 MiB", 512)
        ]
        told = await service.steering.retry(dispatch, **NOTHING, more=True)
        of_memory = " of memory"
        assert told["message"] == (
            f"3 tasks to run again: 2 of fit on mini ask for {mini.format(of_memory)}; 1 of fit on other asks for "
            f"{there.format(of_memory)}; results that exist are kept."
        )
        live = stage.engine.writer.dispatches[dispatch]
        assert [task.shape.resources.memory_mib for task in live.tasks] == [512, 512, 150]
