"""Slurm's words for what an array task does, why it waits, and how it ended: one table for each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from hpcflow.core.model import Cause, Phase, Stuck

__all__ = ["SUSPENDED", "canceller", "state_of", "stuck_of"]

#: Every state of squeue(1) and sacct(1), 17.11 to 24.11, in which the array task may still do something.
_ALIVE: Final[Mapping[str, Phase]] = {
    "PENDING": Phase.PENDING,
    "CONFIGURING": Phase.PENDING,
    "EXPEDITING": Phase.PENDING,
    "REQUEUED": Phase.PENDING,
    "REQUEUE_FED": Phase.PENDING,
    "REQUEUE_HOLD": Phase.PENDING,
    "RESV_DEL_HOLD": Phase.PENDING,
    "SPECIAL_EXIT": Phase.PENDING,
    "POWER_UP_NODE": Phase.PENDING,
    "RUNNING": Phase.RUNNING,
    "COMPLETING": Phase.RUNNING,
    "SUSPENDED": Phase.RUNNING,
    "STOPPED": Phase.RUNNING,
    "SIGNALING": Phase.RUNNING,
    "STAGE_OUT": Phase.RUNNING,
    "RESIZING": Phase.RUNNING,
}
#: Those of them in which it has begun and stands still.
SUSPENDED: Final = frozenset({"SUSPENDED", "STOPPED"})
_ENDED: Final[Mapping[str, Cause]] = {
    "COMPLETED": Cause.DONE,
    "FAILED": Cause.FAILED,
    "LAUNCH_FAILED": Cause.FAILED,
    "CANCELLED": Cause.CANCELLED,
    "TIMEOUT": Cause.TIMEOUT,
    "DEADLINE": Cause.DEADLINE,
    "OUT_OF_MEMORY": Cause.MEMORY,
    "NODE_FAIL": Cause.NODE_FAIL,
    "BOOT_FAIL": Cause.NODE_FAIL,
    "PREEMPTED": Cause.PREEMPTED,
}

#: Pending states that only `scontrol release` ends (squeue(1), 22.05).
_HELD_STATES: Final = frozenset({"REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"})
#: Reasons of a hold, and who holds it: job_reason_codes.html of Slurm 24.11, seen with 22.05.
_HELD_BY: Final[Mapping[str, str | None]] = {
    "JobHeldUser": "you",
    "JobHeldAdmin": "an administrator",
    # It was requeued MAX_BATCH_REQUEUE times (5), because it could not be launched.
    "JobHoldMaxRequeue": None,
}
#: What Slurm writes in the place of a reason: "job requeued in held state" (`scontrol requeuehold`, seen with 22.05),
#: "launch failed requeued held" (after a failed launch).
_HELD_TEXT: Final = re.compile(r"\bheld\b|\bspecial exit\b")
#: Reasons with which an array task never starts unless somebody changes the request or the cluster:
#: job_reason_codes.html of Slurm 24.11, where no other source is named. Left out is what a limit on *all* jobs of a
#: user, account or QOS says (AssocGrp*, QOSGrp*, *PerUser*, *PerAccount, *JobsLimit): it waits for other jobs to end.
_NEVER: Final = frozenset(
    {
        "AccountNotAllowed",  # by the partition
        "BadConstraints",  # "never expected to be runnable"
        "DeadLine",  # can't end before its own deadline
        "DependencyNeverSatisfied",  # seen with 22.05
        "InvalidAccount",
        "InvalidQOS",
        "MaxMemPerLimit",  # memory for each CPU or node
        "PartitionConfig",  # "some limit on the partition"; seen with 22.05 for too many nodes or tasks
        "PartitionNodeLimit",  # seen with 22.05 for too many nodes; drained ones are called ReqNodeNotAvail or in words
        "PartitionTimeLimit",  # seen with 22.05
        "QOSNotAllowed",  # by the account or the partition
        "ReservationDeleted",
    }
)
#: Limits of one job: AssocMaxWallDurationPerJobLimit, QOSMaxCpuPerJobLimit, AssocMaxMemPerNode, QOSMaxGRESMinutesPerJob
#: ..., QOSMinCpuNotSatisfied, QOSMinMemory ... (the same page).
_NEVER_BY_LIMIT: Final = re.compile(r"(?:Assoc|QOS)Max[A-Za-z]+Per(?:Job|Node)(?:Limit)?|QOSMin[A-Z][A-Za-z]+")

_CANCELLED_BY: Final = re.compile(r"CANCELLED by ([0-9]{1,9})")


def state_of(word: str, job: str) -> tuple[Phase, Cause | None, str | None]:
    """Return what a state means; a word that is not in the tables is taken for alive, and said."""
    if word in _ENDED:
        return Phase.ENDED, _ENDED[word], None
    if word in _ALIVE:
        return _ALIVE[word], None, None
    if not re.fullmatch(r"[A-Z][A-Z_+]{2,}", word):
        raise ValueError(word)
    return Phase.RUNNING, None, f"Slurm says {word} of {job}, a state that hpcflow does not know: taken as running."


def stuck_of(word: str, reason: str) -> tuple[Stuck | None, str | None]:
    """Return why a pending array task does not wait for its turn, and who holds it where Slurm says so."""
    if reason in _HELD_BY:
        return Stuck.HELD, _HELD_BY[reason]
    if word in _HELD_STATES or _HELD_TEXT.search(reason):
        return Stuck.HELD, None
    if reason in _NEVER or _NEVER_BY_LIMIT.fullmatch(reason):
        return Stuck.NEVER, None
    return None, None


def canceller(state: str) -> str | None:
    """Return who cancelled, from "CANCELLED by 1001"; Slurm has the uid only."""
    found = _CANCELLED_BY.fullmatch(state)
    if found is None:
        return None
    return f"uid {found[1]}" if int(found[1]) else "root"
