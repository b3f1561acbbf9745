"""The test of a cluster: its jobs, and what two nodes find out about a file system."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hpcflow.core.batch import MARK
from hpcflow.core.model import Cause
from hpcflow.core.plugin import Command, Reply
from hpcflow.server.clusters import Cluster
from hpcflow.server.remote import TransportError
from hpcflow.server.trial import Asked, Trial
from hpcflow.server.trial_report import typed
from hpcflow.server.verdict import Verdict, judge, read_verdict, write_verdict
from tests.unit.bag_on_disk import SOURCE
from tests.unit.mini_world import KEY, MINI, Job, Stage, World, WorldTransport, a_stage
from tests.unit.test_engine import in_loop

AT = datetime(2026, 5, 1, tzinfo=UTC)
SOURCES = {"PYTHONPATH": str(SOURCE)}
OWN = (sys.version_info[0], sys.version_info[1])


@dataclass
class Under:
    """A test under way, and the scheduler that it goes to."""

    trial: Trial
    stage: Stage
    cluster: Cluster
    kept: str
    played: list[asyncio.subprocess.Process] = field(default_factory=list[asyncio.subprocess.Process])

    async def steps(self) -> dict[str, tuple[str, str]]:
        """Wait for the end; return state and words of each step."""
        answer = self.trial.report.told()
        while not answer["done"]:
            answer = await self.trial.report.changed(answer["version"], 5)
        for played in self.played:
            await played.wait()
        return {step["step"]: (step["state"], step["detail"]) for step in answer["steps"]}

    async def plays(self, job: Job, *nodes: str) -> None:
        """Be the compute nodes of a job: run its array tasks, one on each."""
        for index, node in enumerate(nodes):
            environ = {"HPCFLOW_JOB": job.id, "HPCFLOW_INDEX": str(index), "SLURMD_NODENAME": node}
            played = await asyncio.create_subprocess_exec(*self.probe(job), env={**os.environ, **SOURCES, **environ})
            self.played.append(played)

    def probe(self, job: Job) -> tuple[str, ...]:
        return sys.executable, "-m", "hpcflow.node", "probe", job.path, self.cluster.key_path


@asynccontextmanager
async def a_trial(
    folder: Path, world: World | None = None, *, patience_s: float = 60.0, python: tuple[int, int] = OWN
) -> AsyncGenerator[Under]:
    async with a_stage(folder, world) as stage:
        cluster = stage.engine.clusters[MINI]
        Path(cluster.key_path).write_bytes(KEY)
        Path(cluster.key_path).chmod(0o600)
        kept = str(folder / "tested/mini.json")
        trial = Trial(
            cluster,
            Asked(python=python, executable=sys.executable, patience_s=patience_s),
            stage.engine.settings,
            keep_at=kept,
            now=lambda: datetime.now(UTC),
            new_id=stage.engine._shared.new_id,
        )
        try:
            yield Under(trial, stage, cluster, kept)
        finally:
            await trial.close()


@in_loop
async def test_two_nodes_race_and_what_they_find_is_kept_and_used(tmp_path: Path) -> None:
    async with a_trial(tmp_path) as under:
        await under.plays(await under.stage.job(0), "n1")
        second = await under.stage.job(1)
        assert sorted(second.tasks) == [0, 1]
        await under.plays(second, "n1", "n2")
        steps = await under.steps()
        assert {state for state, _ in steps.values()} == {"ok"}, steps
        assert steps["job on a compute node"][1] == "job 100 ran on n1"
        assert steps["Python on a compute node"][1].startswith("{}.{}.".format(*OWN))
        found = steps["claims of two nodes"][1]
        assert found.startswith("workers claim by link (n1 and n2, 1000 names); a line is seen after ")
        assert found.endswith("order is kept")
        kept = read_verdict(under.kept)
        assert kept == under.cluster.verdict
        assert kept is not None and (kept.claims, kept.nodes) == ("link", ("n1", "n2"))


@in_loop
async def test_a_job_that_does_not_start_is_taken_out_and_no_fault_of_the_clusters(tmp_path: Path) -> None:
    async with a_trial(tmp_path, patience_s=0.1) as under:
        steps = await under.steps()
        state, words = steps["job on a compute node"]
        assert (state, words.endswith("Run the test again later.")) == ("skipped", True)
        assert "still in the queue after 0 s" in words
        assert "Python on a compute node" not in steps
        (job,) = under.stage.world.jobs
        assert job.tasks[0][1] is Cause.CANCELLED


@in_loop
async def test_a_lost_reply_makes_no_second_job(tmp_path: Path) -> None:
    async with a_trial(tmp_path, World(submit_faults=["lost", "lost"])) as under:
        await under.plays(await under.stage.job(0), "n1")
        await under.plays(await under.stage.job(1), "n1", "n1")
        steps = await under.steps()
        assert steps["job on a compute node"][0] == "ok"
        assert steps["claims of two nodes"] == (
            "skipped",
            "both array tasks ran on n1, which says nothing of two nodes; workers claim as before",
        )
        assert under.stage.world.count("submit") == 2
        assert not os.path.exists(under.kept)


@in_loop
async def test_a_refusal_is_told_with_what_the_scheduler_wrote_and_asked_once(tmp_path: Path) -> None:
    async with a_trial(tmp_path, World(submit_faults=["refused"])) as under:
        await under.steps()
        failed = under.trial.report.told()["steps"][-1]
        assert (failed["state"], failed["detail"], failed["output"]) == ("failed", "refused", "refused")
        assert failed["command"].startswith("submit hpcflow-test-")
        assert under.trial.report.told()["ok"] is False
        assert under.stage.world.count("submit") == 1


class Severed(WorldTransport):
    """A connection that breaks when the scheduler is asked for the first time."""

    async def run(self, command: Command, deadline_s: float) -> Reply:
        if command.argv[0] == "probe":
            raise TransportError("The connection to mini broke.")
        return await super().run(command, deadline_s)


@in_loop
async def test_a_connection_that_breaks_is_what_failed_and_no_fault_of_hpcflow(tmp_path: Path) -> None:
    async with a_trial(tmp_path) as under:
        under.cluster.transport = Severed(under.stage.world)
        steps = await under.steps()
        assert list(steps) == ["work directory", "scheduler answers"]
        assert steps["scheduler answers"] == ("failed", "The connection to mini broke.")
        assert under.trial.report.told()["ok"] is False


@in_loop
async def test_a_job_that_ends_without_a_word_fails_with_its_own_output(tmp_path: Path) -> None:
    async with a_trial(tmp_path) as under:
        job = await under.stage.job(0)
        Path(job.path, "logs/0.slurm").write_text("python3: command not found\n")
        under.stage.world.end(job, 0, Cause.FAILED, exit_code=127)
        await under.steps()
        failed = under.trial.report.told()["steps"][-1]
        assert failed["detail"] == "The job ended before it had told all: failed (FAILED, exit code 127)."
        assert "python3: command not found" in failed["output"]


@in_loop
async def test_another_python_on_compute_nodes_is_a_failure_in_words(tmp_path: Path) -> None:
    async with a_trial(tmp_path, python=(3, 99)) as under:
        await under.plays(await under.stage.job(0), "n1")
        steps = await under.steps()
        state, words = steps["Python on a compute node"]
        assert state == "failed"
        assert "and this program is Python 3.99: what one pickles crashes the other." in words


@in_loop
async def test_a_request_with_another_key_is_refused_there(tmp_path: Path) -> None:
    async with a_trial(tmp_path) as under:
        job = await under.stage.job(0)
        Path(job.path, "probe.json").write_bytes(b'{"probe":"x","width":1,"claims":1,"wait_s":1}')
        ran = await asyncio.create_subprocess_exec(
            *under.probe(job), env={**os.environ, **SOURCES}, stderr=subprocess.PIPE
        )
        _, said = await ran.communicate()
        assert (ran.returncode, b"isn't signed with this cluster's key" in said) == (12, True)


def told(
    won: Sequence[Sequence[int]], *, links: bool = True, nodes: Sequence[str] = ("a", "b")
) -> list[dict[str, Any]]:
    """What two array tasks tell that won these names by link, and each half of them by mkdir."""
    up: list[dict[str, Any]] = [{"ev": "up", "i": index, "node": node} for index, node in enumerate(nodes)]
    races = [{"ev": "race", "i": i, "method": "link", "links": links, "won": list(won[i])} for i in range(2)]
    return [*up, *races]


def by_mkdir(*won: Sequence[int]) -> list[dict[str, Any]]:
    return [{"ev": "race", "i": i, "method": "mkdir", "links": False, "won": list(won[i])} for i in range(2)]


@pytest.mark.parametrize(
    ("links", "directories", "claims", "words"),
    [
        (told([[0, 1], [2, 3]]), by_mkdir([0], [1, 2, 3]), "link", "workers claim by link (a and b, 4 names)"),
        (told([[0, 1, 2], [2, 3]]), by_mkdir([0, 1], [2, 3]), "mkdir", "link: 1 of 4 names had two owners"),
        (told([[0, 1], [2, 3]], links=False), by_mkdir([0, 1, 2, 3], []), "mkdir", "link: the file system has no hard"),
        (told([[0, 1], [1, 2, 3]]), by_mkdir([0, 1, 2], [2]), "index", "mkdir: 1 of 4 names had two owners"),
        (told([[0, 1], [3]]), by_mkdir([0, 1], [3]), "index", "link: 1 of 4 names had no owner"),
    ],
)
def test_who_won_what_decides_how_workers_claim(
    links: list[dict[str, Any]], directories: list[dict[str, Any]], claims: str, words: str
) -> None:
    verdict, said = judge([*links, *directories], claims=4, root="/scratch", at=AT)
    assert verdict is not None
    assert (verdict.claims, words in said) == (claims, True), said


def test_a_race_that_was_none_decides_nothing() -> None:
    alone = [{"ev": "up", "i": 0, "node": "a"}, {"ev": "alone", "i": 0}]
    for records in (alone, told([[0], [1]]), [*told([[0], [1]], nodes=("a", "a")), *by_mkdir([0], [1])]):
        assert judge(records, claims=2, root="/scratch", at=AT)[0] is None


def test_order_that_is_not_kept_is_told() -> None:
    order = {"ev": "order", "i": 1, "looks": 50, "early": 3, "torn": 0, "seen": 100}
    _, said = judge([*told([[0], [1]]), *by_mkdir([0], [1]), order], claims=2, root="/scratch", at=AT)
    assert "order is not kept: 3 early, 0 torn of 50 looks" in said


def test_a_verdict_holds_for_its_directory_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "tested/far.json")
    verdict = Verdict(claims="mkdir", root="/scratch", at="now", nodes=("a", "b"), lag_s=0.1, name_s=None)
    write_verdict(path, verdict)
    assert read_verdict(path) == verdict
    assert os.stat(path).st_mode & 0o777 == 0o600
    Path(path).write_text("{}")
    assert read_verdict(path) is None


def test_a_command_is_shown_as_a_person_types_it() -> None:
    script = f"scontrol show config && echo '{MARK}' && sinfo --format='%P|%l' && echo '{MARK}'"
    assert typed(("sh", "-c", script)) == "scontrol show config && sinfo --format='%P|%l'"
    assert typed(("sbatch", "--comment=two words")) == "sbatch '--comment=two words'"
