"""The plugin of `local`: its requests, its answers, and both against the scheduler itself."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcflow.core.model import (
    Cause,
    HpcflowError,
    JobArray,
    JobId,
    Observation,
    Observations,
    Partition,
    Phase,
    Resources,
    UserError,
)
from hpcflow.core.plugin import Accepted, Ambiguous, Command, Refused, Reply
from hpcflow.server.zipapp import build_worker
from hpcflow_local import LocalPlugin
from tests.unit.scheduler_replies import a_reply, an_array
from tests.waiting import until

PLUGIN: Final = LocalPlugin(python="/usr/bin/python3", worker="/home/ada/worker.pyz", root="/home/ada/work")


def json_reply(value: object, exit_code: int = 0) -> Reply:
    return a_reply(json.dumps(value) + "\n", exit_code=exit_code)


def a_task(index: int, **other: Any) -> dict[str, Any]:  # Any: JSON
    nothing = dict.fromkeys(("cause", "exit_code", "signal", "cpu_s", "max_rss_kib", "started_at", "ended_at"))
    return {"index": index, "phase": "pending", "raw": "waits for cores or memory", **nothing, **other}


def an_answer(*tasks: Mapping[str, Any], token: str = "relax-01JD", **other: Any) -> dict[str, Any]:  # Any: JSON
    return {"arrays": {token: {"job_id": "17", "host": "node1", "tasks": list(tasks)}}, "problems": [], **other}


ENDED: Final = a_task(
    1,
    phase="ended",
    cause="failed",
    raw="exit code 3",
    exit_code=3,
    cpu_s=12.5,
    max_rss_kib=48312,
    started_at=1790000000.25,
    ended_at=1790000010.25,
)


def observe(reply: Reply, *arrays: JobArray) -> Observations:
    return PLUGIN.parse_query(arrays or [an_array(width=2, resources=Resources(cpus=2))], [reply])


def test_a_submission_is_one_json_object_on_stdin() -> None:
    array = an_array(resources=Resources(ntasks=2, cpus=3, memory_mib=512), prologue="module load x\n")

    command = PLUGIN.submit(array)

    assert command.argv == (
        "/usr/bin/python3",
        "-I",
        "/home/ada/worker.pyz",
        "local",
        "submit",
        "/home/ada/work",
    )
    assert json.loads(command.stdin) == {
        "token": "relax-01JD",
        "width": 4,
        "command": list(array.command),
        "cpus": 6,
        "memory_mib": 512,
        "walltime_s": 3600,
        "path": array.path,
        "prologue": "module load x\n",
        "dispatch": array.dispatch,
    }


@pytest.mark.parametrize(
    "resources",
    [
        Resources(nodes=2),
        Resources(partition="batch"),
        Resources(gpus=1),
        Resources(account="proj"),
        Resources(qos="high"),
        Resources(constraint="ib"),
        Resources(reservation="school"),
        Resources(licenses="matlab"),
        Resources(exclude="node1"),
        Resources(extra=("--nice=1",)),
    ],
)
def test_what_one_machine_cannot_honour_is_refused_in_a_sentence(resources: Resources) -> None:
    with pytest.raises(UserError, match=r"`local`.*\.$"):
        PLUGIN.submit(an_array(resources=resources))


@pytest.mark.parametrize(
    ("reply", "submission"),
    [
        (json_reply({"job_id": "17", "new": True}), Accepted(JobId("17"))),
        (json_reply({"job_id": "17", "new": False}), Accepted(JobId("17"))),
        (json_reply({"error": "Too many cores.", "retry_later": False}, 3), Refused("Too many cores.")),
        (json_reply({"error": "Full.", "retry_later": True}, 3), Refused("Full.", retry_later=True)),
        (
            a_reply("", "An array needs a command.", 64),
            Refused("the local scheduler can't start relax-01JD: An array needs a command."),
        ),
        (
            a_reply("", "/usr/bin/python3: command not found", 127),
            Refused("the local scheduler can't start relax-01JD: /usr/bin/python3: command not found"),
        ),
    ],
)
def test_an_answer_to_a_submission_is_taken_at_its_word(reply: Reply, submission: Accepted | Refused) -> None:
    assert PLUGIN.parse_submit(an_array(), reply) == submission


@pytest.mark.parametrize(
    "reply",
    [
        a_reply(""),
        a_reply("17\n"),
        a_reply("[17]\n"),
        json_reply({"job_id": 17}),
        json_reply({"job_id": ""}),
        a_reply('{"job_id": "1'),
        a_reply("", "Traceback\nOSError: No space left on device", 1),
        a_reply("not json", exit_code=3),
        a_reply("", "gave no answer within 60 s", None),
    ],
)
def test_anything_else_leaves_a_submission_open(reply: Reply) -> None:
    assert isinstance(PLUGIN.parse_submit(an_array(), reply), Ambiguous)


def test_one_query_asks_about_all_arrays() -> None:
    (command,) = PLUGIN.query([an_array("a"), an_array("b")], accounting=False)

    assert command.argv[4] == "query"
    assert json.loads(command.stdin) == {"tokens": ["a", "b"]}


def test_each_array_task_is_an_observation() -> None:
    seen = observe(json_reply(an_answer(a_task(0, phase="running", started_at=1790000000.0), ENDED)))

    assert seen.problems == ()
    assert seen.complete == {"relax-01JD"}
    running, ended = seen.rows
    assert (running.index, running.phase, running.cause) == (0, Phase.RUNNING, None)
    assert ended == Observation(
        token="relax-01JD",
        job_id=JobId("17"),
        index=1,
        phase=Phase.ENDED,
        cause=Cause.FAILED,
        raw="exit code 3",
        exit_code=3,
        host="node1",
        started_at=datetime.fromtimestamp(1790000000.25, UTC),
        ended_at=datetime.fromtimestamp(1790000010.25, UTC),
        core_seconds=20.0,
        max_rss_kib=48312,
    )


def test_null_is_sure_absence_and_silence_is_unknown() -> None:
    problem = "The local array b runs on node2; ask there, not on node1."

    seen = observe(json_reply({"arrays": {"a": None}, "problems": [problem]}), an_array("a"), an_array("b"))

    assert seen == Observations(rows=(), complete=frozenset({"a"}), problems=(problem,))


@pytest.mark.parametrize("cause", [Cause.DONE, Cause.FAILED, Cause.CANCELLED, Cause.TIMEOUT])
def test_causes_have_the_models_words(cause: Cause) -> None:
    seen = observe(json_reply(an_answer({**ENDED, "index": 0, "cause": cause.value}, ENDED)))

    assert seen.rows[0].cause is cause


@pytest.mark.parametrize(
    "reply",
    [
        a_reply("", "gave no answer within 60 s", None),
        a_reply("", "OSError", 1),
        a_reply("{}"),
        a_reply("null"),
        a_reply(b"\xff"),
        json_reply({"arrays": []}),
        json_reply(an_answer(a_task(0))),
        json_reply(an_answer(a_task(1), a_task(0))),
        json_reply(an_answer(a_task(0), a_task(1, phase="asleep"))),
        json_reply(an_answer(a_task(0), a_task(1, phase="ended", cause="boredom"))),
        json_reply(an_answer(a_task(0), {"index": 1})),
        json_reply({"arrays": {"relax-01JD": 17}}),
        json_reply(an_answer(a_task(0), {**ENDED, "ended_at": 1e400})),
    ],
)
def test_an_answer_that_is_none_is_unknown(reply: Reply) -> None:
    seen = observe(reply)

    assert seen.rows == ()
    assert seen.complete == frozenset()
    assert seen.problems


WHOLE: Final = json_reply(an_answer(a_task(0, phase="running", started_at=1790000000.0), ENDED))


@given(st.integers(0, len(WHOLE.stdout)))
def test_a_cut_answer_is_the_answer_or_unknown(cut: int) -> None:
    seen = observe(Reply(0, WHOLE.stdout[:cut]))

    assert seen == observe(WHOLE) or (seen.rows, seen.complete) == ((), frozenset())


def test_the_machine_is_one_partition_of_one_node() -> None:
    answer = {"host": "node1", "version": "1", "cores": 8, "memory_mib": 31998, "gpus": 0}

    limits = PLUGIN.parse_limits(json_reply(answer))

    assert limits.partitions == (
        Partition(
            name="local",
            is_default=True,
            max_nodes=1,
            cpus_per_node=8,
            memory_mib_per_node=31998,
            gpus_per_node=0,
            total_nodes=1,
        ),
    )
    assert PLUGIN.parse_probe(json_reply(answer)) == "local scheduler, 8 cores on node1"


@pytest.mark.parametrize("reply", [a_reply(""), a_reply("{}"), a_reply("", "no Python", 127), a_reply("", "", None)])
def test_a_scheduler_that_does_not_answer_is_an_error_in_a_sentence(reply: Reply) -> None:
    with pytest.raises(HpcflowError, match="local scheduler"):
        PLUGIN.parse_limits(reply)
    with pytest.raises(HpcflowError, match="local scheduler"):
        PLUGIN.parse_probe(reply)


def test_a_cancel_is_taken_when_the_scheduler_says_so() -> None:
    command = PLUGIN.cancel([an_array("a"), an_array("b")], pending_only=True)

    assert json.loads(command.stdin) == {"tokens": ["a", "b"], "pending_only": True}
    assert PLUGIN.parse_cancel(json_reply({"signalled": 0})) is None
    assert PLUGIN.parse_cancel(a_reply("")) is not None
    assert PLUGIN.parse_cancel(a_reply("", "no Python", 127)) == "The local scheduler ended with 127: no Python"


# ---- against the scheduler itself


@pytest.fixture
def real(tmp_path: Path) -> LocalPlugin:
    """A plugin whose worker and root are there."""
    worker = tmp_path / "worker.pyz"
    worker.write_bytes(build_worker()[1])
    root = tmp_path / "root"
    root.mkdir(mode=0o700)
    return LocalPlugin(python=sys.executable, worker=str(worker), root=str(root))


@pytest.fixture
def array(tmp_path: Path, real: LocalPlugin) -> Iterator[JobArray]:
    """An array of two in a bag's directory, ended when the test is."""
    path = tmp_path / "bag"
    (path / "logs").mkdir(parents=True)
    made = replace(an_array("relax-01JREAL", width=2, path=str(path)), command=("/bin/sh", "-c", "exec sleep 60"))
    yield made
    run(real.cancel([made], pending_only=False))


def run(command: Command) -> Reply:
    ended = subprocess.run(command.argv, input=command.stdin, capture_output=True, check=False, timeout=60)
    return Reply(ended.returncode, ended.stdout, ended.stderr)


def look(real: LocalPlugin, array: JobArray) -> tuple[Observation, ...]:
    seen = real.parse_query([array], [run(command) for command in real.query([array], accounting=True)])
    assert seen.problems == ()
    assert seen.complete == {array.token}
    return seen.rows


def test_the_scheduler_understands_every_request(real: LocalPlugin, array: JobArray) -> None:
    assert real.parse_limits(run(real.limits())).partitions[0].cpus_per_node
    assert look(real, array) == ()

    accepted = real.parse_submit(array, run(real.submit(array)))

    assert isinstance(accepted, Accepted)
    assert real.parse_submit(array, run(real.submit(array))) == accepted
    assert [(row.index, row.job_id) for row in look(real, array)] == [(0, accepted.job_id), (1, accepted.job_id)]

    assert real.parse_cancel(run(real.cancel([array], pending_only=False))) is None
    until(lambda: all(row.phase is Phase.ENDED for row in look(real, array)))
    assert {row.cause for row in look(real, array)} == {Cause.CANCELLED}


def test_the_scheduler_refuses_what_the_machine_does_not_have(real: LocalPlugin, array: JobArray) -> None:
    greedy = replace(array, resources=Resources(cpus=100_000))

    answer = real.parse_submit(greedy, run(real.submit(greedy)))

    assert isinstance(answer, Refused)
    assert not answer.retry_later
    assert look(real, array) == ()
