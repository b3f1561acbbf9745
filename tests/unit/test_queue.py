"""A queue's counts and lines, and the server's looks at it: few, shared, and kept while a cluster does not answer."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcflow.core.model import NotFound, Phase
from hpcflow.core.queue import NodeState, QueuedJob, QueueNode, QueuePartition, in_order, spans, told, with_ahead
from hpcflow.server import cluster_schema as schema
from hpcflow.server.queues import Queues
from hpcflow.server.roster import Roster
from tests.unit.mini_world import MINI, Stage, a_stage
from tests.unit.test_engine import in_loop
from tests.unit.test_service import a_service, dispatched


def a_job(job_id: str, priority: int | None = None, **more: object) -> QueuedJob:
    job = QueuedJob(
        job_id=job_id, name="x", user="ada", partition="gpu", phase=Phase.PENDING, raw="PENDING", priority=priority
    )
    return replace(job, **more)  # type: ignore[arg-type]  # each of these has its field's type


def a_node(name: str, state: NodeState, *partitions: str, cores: int = 4, used: int = 0) -> QueueNode:
    return QueueNode(name=name, state=state, raw=state, partitions=partitions, cores=cores, cores_used=used)


# ---- counts


def test_nodes_cores_and_jobs_are_counted_for_each_partition() -> None:
    nodes = [
        a_node("n1", NodeState.IDLE, "gpu", "all"),
        a_node("n2", NodeState.MIXED, "gpu", used=3),
        a_node("n3", NodeState.DOWN, "all"),
    ]
    jobs = [a_job("1", tasks=5), a_job("2", user="bob", partition="gpu,all"), a_job("3", phase=Phase.RUNNING)]

    gpu, everything = told([QueuePartition(name="gpu"), QueuePartition(name="all")], nodes=nodes, jobs=jobs, user="ada")

    assert gpu.nodes == {NodeState.IDLE: 1, NodeState.MIXED: 1}
    assert (gpu.cores, gpu.cores_used) == (8, 3)
    assert (gpu.pending, gpu.pending_mine, gpu.running, gpu.running_mine) == (6, 5, 1, 1)
    assert everything.nodes == {NodeState.IDLE: 1, NodeState.DOWN: 1}
    assert (everything.cores, everything.pending, everything.pending_mine) == (4, 1, 0)


def test_what_is_not_known_is_not_counted() -> None:
    hidden = QueueNode(name="n1", state=NodeState.IDLE, raw="ok", partitions=None)

    (partition,) = told([QueuePartition(name="gpu")], nodes=[hidden], jobs=[a_job("1")], user=None)
    (blind,) = told([QueuePartition(name="gpu")], nodes=None, jobs=None, user="ada")

    assert (partition.nodes, partition.cores, partition.pending, partition.pending_mine) == (None, None, 1, None)
    assert (blind.nodes, blind.pending, blind.running_mine) == (None, None, None)


def test_those_that_go_first_are_ahead_by_priority_and_then_by_age() -> None:
    jobs = [
        a_job("1", 10, tasks=100),
        a_job("2", 7, partition="gpu,all"),
        a_job("3", 7),
        a_job("4", 3),
        a_job("5", None),
        a_job("6", 9, partition="all", user="bob"),
        a_job("7", 99, phase=Phase.RUNNING),
    ]

    ahead = {job.job_id: job.ahead for job in with_ahead(jobs)}

    assert ahead == {"1": 0, "2": 1, "3": 101, "4": 102, "5": None, "6": 0, "7": None}
    assert [job.job_id for job in in_order(jobs)] == ["1", "6", "2", "3", "4", "5", "7"]


def test_without_priorities_jobs_are_in_the_order_of_their_planned_starts() -> None:
    noon = datetime(2026, 11, 27, 12, tzinfo=UTC)
    jobs = [
        a_job("1", phase=Phase.RUNNING),
        a_job("2"),
        a_job("3", starts_at=noon),
        a_job("4", starts_at=noon - timedelta(hours=1)),
        a_job("5"),
    ]

    assert [job.job_id for job in in_order(jobs)] == ["4", "3", "2", "5", "1"]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), max_size=30))
def test_nobody_is_ahead_of_the_first_and_the_line_adds_up(line: list[tuple[int, int]]) -> None:
    jobs = with_ahead([a_job(str(i), priority, tasks=tasks) for i, (priority, tasks) in enumerate(line)])

    for job in jobs:
        assert job.priority is not None
        first = [(-priority, i, tasks) for i, (priority, tasks) in enumerate(line)]
        assert job.ahead == sum(tasks for *place, tasks in first if place < [-job.priority, int(job.job_id)])
    assert [job.ahead for job in in_order(jobs)] == sorted(job.ahead or 0 for job in jobs)


@given(st.sets(st.integers(0, 200)))
def test_spans_name_exactly_the_indices(numbers: set[int]) -> None:
    found: set[int] = set()
    for span in filter(None, spans(sorted(numbers)).split(",")):
        first, _, last = span.partition("-")
        found |= set(range(int(first), int(last or first) + 1))

    assert found == numbers


# ---- looks


def a_roster(stage: Stage, *, poll_s: float = 1000.0) -> Roster:
    roster = a_service(stage).roster
    roster.queues = Queues(poll_s=poll_s, deadline_s=5.0)
    return roster


@in_loop
async def test_a_hundred_browsers_cost_one_look(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        roster = a_roster(stage)
        nothing = await roster.queue("mini", mine=True, nodes=False, limit=10, ask=False)
        assert (nothing["asked_at"], stage.world.count("queue")) == (None, 0)

        asked = [roster.queue("mini", mine=False, nodes=True, limit=10) for _ in range(100)]
        answers = await asyncio.gather(*asked)
        answers.append(await roster.queue("mini", mine=False, nodes=True, limit=10))
        roster.queues.poll_s = 0.0  # a new look is due
        answers.append(await roster.queue("mini", mine=True, nodes=False, limit=10, ask=False))
        roster.queues.poll_s = 1000.0

        assert stage.world.count("queue") == 1
        assert {answer["asked_at"] for answer in answers} == {answers[0]["asked_at"]}
        assert answers[0]["poll_s"] == 1000.0


@in_loop
async def test_a_submission_is_looked_for_once_soon_after_it_whoever_asks(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        queues, mini = Queues(poll_s=1000.0, deadline_s=5.0), stage.engine.clusters[MINI]
        noon = datetime(2026, 11, 27, 12, tzinfo=UTC)
        later = [noon + timedelta(seconds=seconds) for seconds in range(120)]
        assert queues.asking_s(MINI) is None
        look = asyncio.create_task(queues.look(mini, noon))
        await asyncio.sleep(0)  # it is asked, and whoever waits for that has his turn later
        assert queues.asking_s(MINI) is not None
        await look
        assert queues.asking_s(MINI) is None
        assert 990 < queues.due_s(mini, later[20], None) <= 1000
        # It went there right after the look, and the last look may not be younger than 5 s.
        assert queues.due_s(mini, later[2], later[1]) == pytest.approx(5.0, abs=1.0)
        queues._begun[MINI] = asyncio.get_running_loop().time() - 20.0, noon
        assert queues.due_s(mini, later[20], later[19]) == 2.0

        await asyncio.gather(*(queues.look(mini, later[21], later[19]) for _ in range(20)))
        assert stage.world.count("queue") == 1
        await asyncio.gather(*(queues.look(mini, later[22], later[19]) for _ in range(20)))
        assert stage.world.count("queue") == 2
        queues._begun[MINI] = asyncio.get_running_loop().time() - 60.0, later[22]
        await asyncio.gather(*(queues.look(mini, later[82], later[19]) for _ in range(20)))
        assert stage.world.count("queue") == 2


@in_loop
async def test_an_answer_tells_partitions_nodes_and_jobs_and_which_dispatch_they_work_for(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        roster = a_roster(stage)
        dispatch = await dispatched(a_service(stage), stage, [])
        job = await stage.job()
        await stage.until(lambda: any(row.array.job_id for row in stage.store.arrays(dispatch)))
        stage.world.others.append(("900", "theirs", 7, "bob"))

        answer = await roster.queue("mini", mine=False, nodes=True, limit=10)
        mine = await roster.queue("mini", mine=True, nodes=False, limit=10)
        short = await roster.queue("mini", mine=False, nodes=True, limit=1)

        schema.Queue.model_validate(answer)
        assert [(row["job_id"], row["mine"], row["dispatch"]) for row in answer["jobs"]] == [
            (job.id, True, dispatch),
            ("900", False, None),
        ]
        assert (answer["user"], answer["jobs_total"]) == ("ada", 2)
        (partition,) = answer["partitions"]
        assert partition["nodes"] == {
            **dict.fromkeys(("mixed", "allocated", "reserved", "down", "unknown"), 0),
            "idle": 1,
            "total": 1,
        }
        assert (partition["pending"], partition["pending_mine"], partition["cores"]) == (8, 1, 4)
        assert [row["name"] for row in answer["nodes"]] == ["n1"]
        assert [row["user"] for row in mine["jobs"]] == ["ada"]
        assert mine["nodes"] is None
        assert (len(short["jobs"]), short["jobs_total"]) == (1, 2)


@in_loop
async def test_what_was_seen_is_kept_with_its_time_while_the_cluster_does_not_answer(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        roster = a_roster(stage, poll_s=1e-9)
        stage.world.deaf = True
        nothing = await roster.queue("mini", mine=False, nodes=True, limit=10)
        stage.world.deaf = False
        first = await roster.queue("mini", mine=False, nodes=True, limit=10)
        stage.world.deaf = True
        second = await roster.queue("mini", mine=False, nodes=True, limit=10)

        schema.Queue.model_validate(nothing)
        assert (nothing["asked_at"], nothing["age_s"], nothing["problem"]) == (None, None, "no answer")
        assert (nothing["partitions"], nothing["jobs"]) == ([], [])
        assert (first["problem"], first["failed_at"]) == (None, None)
        assert (second["problem"], second["asked_at"]) == ("no answer", first["asked_at"])
        assert second["failed_at"] is not None
        assert second["partitions"] == first["partitions"]


@in_loop
async def test_a_cluster_that_does_not_answer_is_not_asked_more_often(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        roster = a_roster(stage)
        stage.world.deaf = True

        for _ in range(3):
            answer = await roster.queue("mini", mine=False, nodes=True, limit=10)
            assert answer["problem"] == "no answer"

        assert stage.world.count("queue") == 1


@in_loop
async def test_nothing_is_left_of_a_cluster_that_was_taken_out(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        roster = a_roster(stage)
        first = await roster.queue("mini", mine=False, nodes=True, limit=10)
        roster.queues.forget(MINI)
        stage.world.deaf = True
        second = await roster.queue("mini", mine=False, nodes=True, limit=10)

        assert first["partitions"] and second["partitions"] == []
        assert (second["asked_at"], second["problem"]) == (None, "no answer")


@in_loop
async def test_a_cluster_that_nobody_knows_is_not_found(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        with pytest.raises(NotFound, match="There is no cluster 'mimi'; the clusters are"):
            await a_roster(stage).queue("mimi", mine=False, nodes=True, limit=10)
