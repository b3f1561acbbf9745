"""The Slurm plugin's commands run by a real Slurm, and its parsers on what that says.

Runs as any user whom the mini Slurm knows; root borrows the test user `hpc`.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from hpcflow.core.model import (
    WORKER_MEMORY_MIB,
    Cause,
    JobArray,
    Limits,
    Observation,
    Observations,
    Phase,
    Resources,
    Stuck,
)
from hpcflow.core.plugin import Accepted, Command, Refused, Reply, Submission
from tests import waiting
from tests.unit.scheduler_replies import ONE_CORE, PLUGIN, an_array

pytestmark = pytest.mark.cluster

USER: Final = "hpc" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
DEADLINE_S: Final = 120.0


def run(command: Command) -> Reply:
    """Run a plugin's command as the transport does: a scrubbed environment, the script on stdin, a deadline."""
    someone = pwd.getpwnam(USER)
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": someone.pw_dir,
        "USER": USER,
        "LANG": "C.UTF-8",
        "SLURM_CONF": os.environ["SLURM_CONF"],
        **command.environment,
    }
    root = os.geteuid() == 0
    ended = subprocess.run(
        command.argv,
        input=command.stdin,
        capture_output=True,
        check=False,
        env=environment,
        timeout=DEADLINE_S,
        cwd="/",
        user=someone.pw_uid if root else None,
        group=someone.pw_gid if root else None,
        extra_groups=[] if root else None,
    )
    return Reply(ended.returncode, ended.stdout, ended.stderr)


@pytest.fixture
def bag() -> Iterator[Path]:
    """A bag's directory where the nodes see it, with its place for logs."""
    path = Path(tempfile.mkdtemp(prefix="hpcflow-test-", dir=pwd.getpwnam(USER).pw_dir if USER == "hpc" else None))
    (path / "logs").mkdir()
    if os.geteuid() == 0:
        shutil.chown(path, USER)
        shutil.chown(path / "logs", USER)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def make(bag: Path) -> Iterator[Callable[..., JobArray]]:
    """Build arrays that run a line of shell; what still lives at the end of the test is cancelled."""
    made: list[JobArray] = []

    def build(shell: str, *, width: int = 1, resources: Resources = ONE_CORE, prologue: str = "") -> JobArray:
        array = an_array(
            f"test-{secrets.token_hex(8)}",
            width=width,
            resources=resources,
            worker_walltime_s=60,
            path=str(bag),
            prologue=prologue,
        )
        made.append(replace(array, command=("/bin/sh", "-c", shell), intent_at=datetime.now(UTC)))
        return made[-1]

    yield build
    if made:
        assert PLUGIN.parse_cancel(run(PLUGIN.cancel(made, pending_only=False))) is None


def submit(array: JobArray) -> JobArray:
    answer = submission(array)
    assert isinstance(answer, Accepted), answer
    return replace(array, job_id=answer.job_id)


def submission(array: JobArray) -> Submission:
    return PLUGIN.parse_submit(array, run(PLUGIN.submit(array)))


def look(*arrays: JobArray) -> Observations:
    replies = [run(command) for command in PLUGIN.query(arrays, accounting=True)]
    seen = PLUGIN.parse_query(arrays, replies)
    assert seen.problems == (), replies
    return seen


def until(array: JobArray, wanted: Callable[[dict[int, Observation]], bool]) -> dict[int, Observation]:
    """Ask until the answer is as wanted."""
    rows: dict[int, Observation] = {}

    def asked() -> bool:
        rows.clear()
        rows.update({row.index: row for row in look(array).rows})
        return wanted(rows)

    becomes(asked, lambda: str(rows))
    return rows


def becomes(holds: Callable[[], bool], why: Callable[[], str] = str) -> None:
    """Wait until something holds; Slurm tells nobody by itself."""
    waiting.until(holds, why, patience_s=DEADLINE_S, every_s=0.3)


def until_booked(array: JobArray) -> dict[int, Observation]:
    """Wait until every array task has ended and accounting, which alone knows core-seconds, says so."""
    return until(
        array,
        lambda rows: (
            len(rows) == array.width
            and all(row.phase is Phase.ENDED and row.core_seconds is not None for row in rows.values())
        ),
    )


def a_gpu_type_is_there() -> bool:
    return any(partition.gpus_per_node for partition in the_limits().partitions)


def the_limits() -> Limits:
    return PLUGIN.parse_limits(run(PLUGIN.limits()))


def test_the_probe_names_version_and_controller() -> None:
    assert PLUGIN.parse_probe(run(PLUGIN.probe())).startswith("Slurm 2")


def test_the_cluster_tells_its_limits() -> None:
    limits = the_limits()

    partitions = {partition.name: partition for partition in limits.partitions}
    assert limits.array.max_width >= 11
    assert limits.accounting
    assert [partition.name for partition in limits.partitions if partition.is_default] == ["debug"]
    assert partitions["debug"].max_walltime_s == 300
    assert partitions["batch"].max_walltime_s == 2 * 24 * 3600
    assert partitions["batch"].cpus_per_node == 16
    assert partitions["batch"].memory_mib_per_node == 32000 - WORKER_MEMORY_MIB
    assert partitions["batch"].max_nodes is None


def test_each_array_task_ends_with_its_own_cause(make: Callable[..., JobArray], bag: Path) -> None:
    array = submit(
        make('case $SLURM_ARRAY_TASK_ID in 1) exit 3;; 2) kill -9 $$;; *) echo "done $(umask) $(pwd)";; esac', width=4)
    )

    rows = until_booked(array)

    assert {index: row.cause for index, row in rows.items()} == {
        0: Cause.DONE,
        1: Cause.FAILED,
        2: Cause.FAILED,
        3: Cause.DONE,
    }
    assert (rows[0].exit_code, rows[1].exit_code, rows[2].exit_code, rows[2].signal) == (0, 3, None, 9)
    assert {row.job_id for row in rows.values()} == {array.job_id}
    assert all(row.host and row.started_at and row.ended_at for row in rows.values())
    assert all(abs((row.started_at or array.intent_at) - array.intent_at).total_seconds() < 60 for row in rows.values())
    assert (bag / "logs" / "0.slurm").read_text() == f"done 0077 {bag}\n"


def test_a_lost_reply_is_found_again_by_name(make: Callable[..., JobArray]) -> None:
    array = make("exec sleep 30", width=2)
    accepted = submit(array)

    rows = until(array, lambda rows: len(rows) == 2)

    assert {row.job_id for row in rows.values()} == {accepted.job_id}


def test_a_name_that_was_never_submitted_is_surely_absent(make: Callable[..., JobArray]) -> None:
    array = make("true")

    assert look(array) == Observations(rows=(), complete=frozenset({array.token}))


def test_a_second_submission_under_one_name_waits_for_the_first(make: Callable[..., JobArray]) -> None:
    array = make("exec sleep 240", width=2)
    first, second = submit(array), submit(array)

    def now() -> dict[tuple[str | None, int], str]:
        return {(row.job_id, row.index): row.raw for row in look(array).rows}

    in_turns = {
        (first.job_id, 0): "RUNNING",
        (first.job_id, 1): "RUNNING",
        (second.job_id, 0): "PENDING Dependency",
        (second.job_id, 1): "PENDING Dependency",
    }
    becomes(lambda: now() == in_turns, lambda: str(now()))
    # By name as well: the id of the second was lost, say.
    assert PLUGIN.parse_cancel(run(PLUGIN.cancel([first], pending_only=False))) is None
    becomes(lambda: all(row.phase is Phase.ENDED for row in look(array).rows))


def test_running_array_tasks_can_be_cancelled(make: Callable[..., JobArray]) -> None:
    array = submit(make("exec sleep 60", width=2))
    until(array, lambda rows: len(rows) == 2 and all(row.phase is Phase.RUNNING for row in rows.values()))

    assert PLUGIN.parse_cancel(run(PLUGIN.cancel([array], pending_only=False))) is None

    rows = until_booked(array)
    assert {row.cause for row in rows.values()} == {Cause.CANCELLED}
    assert rows[0].raw.startswith("CANCELLED by ")


def test_a_cancel_of_pending_array_tasks_spares_those_that_run(make: Callable[..., JobArray]) -> None:
    array = submit(make("exec sleep 60", width=40, resources=Resources(cpus=16)))
    rows = until(array, lambda rows: any(row.phase is Phase.RUNNING for row in rows.values()) and len(rows) == 40)
    running = {index for index, row in rows.items() if row.phase is Phase.RUNNING}

    cancel = PLUGIN.cancel([array], pending_only=True)
    assert cancel.argv == ("scancel", "--state=PENDING", array.job_id)
    assert PLUGIN.parse_cancel(run(cancel)) is None

    rows = until(array, lambda rows: not any(row.phase is Phase.PENDING for row in rows.values()))
    assert len(rows) == 40
    spared = {index for index, row in rows.items() if row.phase is Phase.RUNNING}
    assert spared >= running
    assert {row.cause for index, row in rows.items() if index not in spared} == {Cause.CANCELLED}


def test_a_cancel_of_what_is_gone_is_no_error(make: Callable[..., JobArray]) -> None:
    array = submit(make("true"))
    until_booked(array)
    never = make("true")

    for pending_only in (False, True):
        assert PLUGIN.parse_cancel(run(PLUGIN.cancel([array], pending_only=pending_only))) is None
        assert PLUGIN.parse_cancel(run(PLUGIN.cancel([array, never], pending_only=pending_only))) is None
        assert PLUGIN.parse_cancel(run(PLUGIN.cancel([never], pending_only=pending_only))) is None


def test_a_requeued_array_task_is_pending_again(make: Callable[..., JobArray], bag: Path) -> None:
    array = submit(make('echo "run ${SLURM_RESTART_COUNT:-0}"; exec sleep 60', width=2))
    until(array, lambda rows: len(rows) == 2 and all(row.phase is Phase.RUNNING for row in rows.values()))

    assert run(Command(("scontrol", "requeue", f"{array.job_id}_1"))).exit_code == 0

    rows = until(array, lambda rows: rows[1].phase is not Phase.RUNNING)
    assert (rows[1].phase, rows[0].phase) == (Phase.PENDING, Phase.RUNNING)
    until(array, lambda rows: rows[1].phase is Phase.RUNNING)
    assert (bag / "logs" / "1.slurm").read_text().startswith("run 0\n")


def test_held_array_tasks_are_let_go_beside_others_that_run(make: Callable[..., JobArray]) -> None:
    array = submit(make("exec sleep 60", width=3))
    until(array, lambda rows: len(rows) == 3 and all(row.phase is Phase.RUNNING for row in rows.values()))
    assert run(Command(("scontrol", "requeuehold", f"{array.job_id}_1"))).exit_code == 0
    rows = until(array, lambda rows: rows[1].phase is Phase.PENDING)
    assert {index: row.stuck for index, row in rows.items()} == {0: None, 1: Stuck.HELD, 2: None}

    release = PLUGIN.release([array])

    assert release is not None
    assert run(release) == Reply(0, b"", b"")
    until(array, lambda rows: rows[1].phase is Phase.RUNNING)


def test_an_array_for_a_cluster_by_name_is_followed_and_cancelled_there(make: Callable[..., JobArray]) -> None:
    extra = (f"--clusters={the_limits().notes['ClusterName']}",)
    array = submit(replace(make("exec sleep 60", width=2), extra=extra))
    until(array, lambda rows: len(rows) == 2 and all(row.phase is Phase.RUNNING for row in rows.values()))

    assert PLUGIN.parse_cancel(run(PLUGIN.cancel([array], pending_only=False))) is None

    rows = until_booked(array)
    assert {row.cause for row in rows.values()} == {Cause.CANCELLED}
    assert len({row.by for row in rows.values()}) == 1


def test_every_annotation_reaches_slurm(make: Callable[..., JobArray]) -> None:
    resources = Resources(
        nodes=2,
        ntasks=4,
        cpus=2,
        memory_mib=500,
        gpus=2 if a_gpu_type_is_there() else 0,
        partition="batch",
        account="proj",
        qos="normal",
        exclude="node4",
        extra=("--nice=100", "--hold"),
    )
    array = submit(make("true", resources=resources))

    shown = run(Command(("scontrol", "-o", "show", "job", str(array.job_id)))).stdout.decode()

    words = set(shown.split())
    assert {
        f"JobName={array.token}",
        "ArrayTaskId=0",
        "NumNodes=2-2",
        "CPUs/Task=2",
        "MinMemoryNode=532M",
        "TimeLimit=00:01:00",
        "Partition=batch",
        "Account=proj",
        "QOS=normal",
        "ExcNodeList=node4",
        "Nice=100",
        "Requeue=1",
        f"WorkDir={array.path}",
    } <= words, shown
    assert "NumTasks=4" in words
    assert not resources.gpus or "TresPerNode=gres:gpu:2" in words


def test_gpus_are_those_of_the_task(make: Callable[..., JobArray], bag: Path) -> None:
    if not a_gpu_type_is_there():
        pytest.skip("no node of this cluster has a GPU, not even a fake one")
    array = submit(make('echo "$CUDA_VISIBLE_DEVICES"', resources=Resources(gpus=2)))

    until_booked(array)

    assert len((bag / "logs" / "0.slurm").read_text().strip().split(",")) == 2


def test_the_job_gets_the_environment_of_the_transport_and_the_prologue(
    make: Callable[..., JobArray], bag: Path
) -> None:
    array = submit(make("env", prologue="export FROM_PROLOGUE='a b'\n"))

    until_booked(array)

    environment = dict(
        line.split("=", 1) for line in (bag / "logs" / "0.slurm").read_text().splitlines() if "=" in line
    )
    assert environment["FROM_PROLOGUE"] == "a b"
    assert environment["USER"] == USER
    assert environment["SLURM_ARRAY_TASK_ID"] == "0"
    assert environment["SLURM_ARRAY_JOB_ID"] == array.job_id
    assert "PYTEST_CURRENT_TEST" not in environment


IMPOSSIBLE: Final = {
    "partition": Resources(partition="nosuch"),
    "account": Resources(account="nosuch"),
    "qos": Resources(qos="nosuch"),
    "constraint": Resources(constraint="nosuch"),
    "licenses": Resources(licenses="nosuch:1"),
    "reservation": Resources(reservation="nosuch"),
    "exclude": Resources(exclude="nosuch99"),
    "memory": Resources(memory_mib=10_000_000),
    "gpus": Resources(gpus=64),
    "unknown option": Resources(extra=("--no-such-option",)),
    "bad value": Resources(extra=("--mem-per-cpu=lots",)),
}


@pytest.mark.parametrize("resources", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_what_slurm_can_never_give_is_refused_for_good(resources: Resources, make: Callable[..., JobArray]) -> None:
    array = make("true", resources=resources)

    answer = submission(array)

    assert isinstance(answer, Refused), answer
    assert not answer.retry_later
    assert look(array).rows == ()


def test_an_array_larger_than_slurm_takes_is_refused_for_good(make: Callable[..., JobArray]) -> None:
    width = the_limits().array.max_width

    assert isinstance(submission(make("true", width=width + 1, resources=Resources(extra=("--hold",)))), Refused)
    assert isinstance(submission(make("true", width=width, resources=Resources(extra=("--hold",)))), Accepted)


def test_a_full_account_may_take_the_array_later(make: Callable[..., JobArray]) -> None:
    answer = submission(make("true", width=9, resources=Resources(account="tiny", partition="batch")))

    assert isinstance(answer, Refused), answer
    assert answer.retry_later
    assert "no room for 9 array tasks" in answer.reason
