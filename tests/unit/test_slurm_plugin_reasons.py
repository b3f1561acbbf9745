"""Why an array task waits on Slurm, in plain words."""

from __future__ import annotations

import pytest

from hpcflow.core.model import Stuck
from hpcflow_slurm.plugin import SlurmPlugin
from hpcflow_slurm.reasons import of_nodes
from hpcflow_slurm.states import stuck_of

PLUGIN = SlurmPlugin(python="", worker="", root="")

#: Seen in squeue's %r (22.05, the mini cluster), or named by job_reason_codes.html of 24.11.
REASONS = [
    "AccountNotAllowed",
    "AssocGrpCPUMinutesLimit",
    "AssocGrpCPURunMinutesLimit",
    "AssocGrpCpuLimit",
    "AssocGrpGRES",
    "AssocGrpJobsLimit",
    "AssocGrpMemLimit",
    "AssocGrpNodeLimit",
    "AssocGrpSubmitJobsLimit",
    "AssocGrpWallLimit",
    "AssocGrpBillingRunMinutes",
    "AssocMaxCpuPerJobLimit",
    "AssocMaxJobsLimit",
    "AssocMaxNodePerJobLimit",
    "AssocMaxSubmitJobLimit",
    "AssocMaxWallDurationPerJobLimit",
    "BadConstraints",
    "BeginTime",
    "Dependency",
    "DependencyNeverSatisfied",
    "InvalidAccount",
    "InvalidQOS",
    "JobArrayTaskLimit",
    "JobHeldAdmin",
    "JobHeldUser",
    "JobHoldMaxRequeue",
    "Licenses",
    "MaxMemPerLimit",
    "MaxMemoryPerAccount",
    "NodeDown",
    "PartitionConfig",
    "PartitionDown",
    "PartitionInactive",
    "PartitionNodeLimit",
    "PartitionTimeLimit",
    "Priority",
    "QOSGrpCpuLimit",
    "QOSGrpGRES",
    "QOSGrpNodeLimit",
    "QOSMaxCpuPerJobLimit",
    "QOSMaxCpuPerUserLimit",
    "QOSMaxGRESPerUser",
    "QOSMaxJobsPerUserLimit",
    "QOSMaxMemoryPerUser",
    "QOSMaxNodePerUserLimit",
    "QOSMaxSubmitJobPerUserLimit",
    "QOSMaxWallDurationPerJobLimit",
    "QOSNotAllowed",
    "ReqNodeNotAvail",
    "Reservation",
    "ReservationDeleted",
    "Resources",
]


@pytest.mark.parametrize("reason", REASONS)
def test_a_reason_of_slurm_is_told_in_words_of_its_own(reason: str) -> None:
    words = PLUGIN.why_pending(f"PENDING {reason}")
    assert words is not None
    assert words[0].isupper()
    assert words.split()[0] in {"Waits", "Is", "Never", "Has", "Asks"}
    assert reason not in words


@pytest.mark.parametrize("reason", REASONS)
def test_what_never_starts_is_called_so_and_nothing_else_is(reason: str) -> None:
    words = PLUGIN.why_pending(f"PENDING {reason}") or ""
    stuck, _ = stuck_of("PENDING", reason)
    # Too many nodes may be too many of those that are up: the reason alone does not tell.
    assert words.startswith("Never") is (stuck is Stuck.NEVER and reason != "PartitionNodeLimit")
    assert words.startswith("Is held") is (stuck is Stuck.HELD)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("PENDING Priority", "Waits its turn: other jobs have a higher priority"),
        ("PENDING", "Was not looked at yet: the scheduler's next round will"),
        (
            "PENDING ReqNodeNotAvail, UnavailableNodes:n[1-2]",
            "Waits for nodes that are down, drained or silent: n[1-2]",
        ),
        (
            "PENDING ReqNodeNotAvail, Reserved for maintenance",
            "Waits until a maintenance is over: with its walltime it could not end before that",
        ),
        ("PENDING ReqNodeNotAvail, May be reserved for other job", "Waits for nodes that may be kept for another job"),
        (
            "PENDING ReqNodeNotAvail, Something new",
            "Waits for a node that it can't do without, and that is taken, reserved, down or drained now",
        ),
        ("PENDING Resources", "Waits for enough cores, memory or GPUs to become free"),
        (
            "PENDING Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions",
            "Waits for nodes: some that it needs are down or drained, or kept for jobs that go first",
        ),
        ("PENDING AssocGrpCpuLimit", "Waits for others to end: your account may have no more cores at once"),
        (
            "PENDING AssocGrpCPUMinutesLimit",
            "Waits until your account may use more core-minutes: the budget is used up",
        ),
        (
            "PENDING AssocMaxJobsLimit",
            "Waits for others to end: you on this account may have no more running jobs at once",
        ),
        ("PENDING QOSMaxCpuPerUserLimit", "Waits for others to end: you in this QOS may have no more cores at once"),
        ("PENDING QOSMaxCpuPerJobLimit", "Never starts: asks for more cores than one job may have"),
        ("PENDING QOSGrpGRES", "Waits for others to end: all jobs of this QOS together may have no more GPUs at once"),
        ("PENDING SomethingNew", None),
        ("PENDING QOSMaxSomethingNewPerUser", None),
        ("RUNNING", None),
        ("Slurm refused it: Invalid qos specification.", None),
    ],
)
def test_reasons_read_as_they_should(raw: str, words: str | None) -> None:
    assert PLUGIN.why_pending(raw) == words


@pytest.mark.parametrize(
    ("away", "words"),
    [
        (0, "Waits for nodes: all 4 of batch are up, so those that it needs are kept for jobs that go first"),
        (
            1,
            "Waits for nodes: 1 of the 4 of batch is down or drained; the others are too few for it, or kept for jobs "
            "that go first",
        ),
        (4, "Waits for nodes: all 4 of batch are down or drained"),
    ],
)
def test_the_sentence_about_nodes_is_told_by_what_the_nodes_do(away: int, words: str) -> None:
    sentence = "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions"

    assert of_nodes(f"PENDING {sentence}", "batch", away, 4) == words
    assert of_nodes(f"PENDING {sentence}", "batch", 0, 0) is None
    assert of_nodes(f"PENDING {sentence}", "flaky", 1, 1) == (
        "Waits for nodes: the only one of flaky is down or drained"
    )
    assert of_nodes("PENDING Resources", "batch", away, 4) is None


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (
            "SUSPENDED",
            "Is suspended: an administrator, or a job that goes first, has its cores; it goes on after that",
        ),
        ("STOPPED None", "Is stopped by a signal and keeps its cores; it goes on when it is told to"),
        (
            "PENDING job requeued in held state",
            "Is held: it was put back into the queue, and starts only when it is released",
        ),
        ("REQUEUE_HOLD", "Is held: it was put back into the queue, and starts only when it is released"),
        ("PENDING launch failed requeued held", "Is held: it could not be started on its node, and was put back"),
        ("RESV_DEL_HOLD None", "Is held: its reservation is gone"),
        ("REQUEUE_HOLD JobHeldAdmin", "Is held by an administrator"),
        ("RUNNING", None),
    ],
)
def test_what_is_suspended_or_was_put_back_and_held_says_so(raw: str, words: str | None) -> None:
    assert PLUGIN.why_pending(raw) == words
