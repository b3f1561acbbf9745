"""Why an array task waits, in plain words: Slurm's reasons as a table, and its limits as a rule."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

__all__ = ["in_plain_words"]

#: From job_reason_codes.html of Slurm 24.11, where no other source is named. What holds an array task or keeps it back
#: for ever is `states.stuck_of`'s to decide; here it is only told.
_WORDS: Final[Mapping[str, str]] = {
    "None": "was not looked at yet: the scheduler's next round will",
    "WaitingForScheduling": "was not looked at yet: the scheduler's next round will",
    "Priority": "waits its turn: other jobs have a higher priority",
    "Resources": "is among the next: waits for enough cores, memory or GPUs to become free",
    "Dependency": "waits for another job that it depends on",
    "DependencyNeverSatisfied": "never starts: the job that it depends on did not end as it had to",
    # Also for two minutes after a requeue (seen with 22.05).
    "BeginTime": "has an earliest time to begin, which has not come yet",
    "JobHeldUser": "is held by you",
    "JobHeldAdmin": "is held by an administrator",
    "JobHoldMaxRequeue": "is held: it could not be started five times",
    "JobArrayTaskLimit": "waits for others of its array: no more of them may run at once",
    "Licenses": "waits for a licence to become free",
    "Reservation": "waits for its reservation to begin",
    "ReservationDeleted": "never starts: its reservation is gone",
    "ReqNodeNotAvail": "waits for nodes that are down, drained or reserved, often for a maintenance",
    "Nodes required for job are DOWN": "waits for nodes that are down, drained or reserved",  # seen with 22.05
    "NodeDown": "waits for a node that is down",
    "FrontEndDown": "waits for a front end that is down",
    "PartitionDown": "waits for its partition, which is down",
    "PartitionInactive": "waits for its partition, which starts no jobs now",
    "PartitionNodeLimit": "asks for more or fewer nodes than its partition gives, or than are up there",
    "PartitionTimeLimit": "never starts: asks for more time than its partition gives",
    "PartitionConfig": "never starts: asks for more than its partition gives",
    "BadConstraints": "never starts: no node has what it asks for",
    "AccountNotAllowed": "never starts: its account may not use this partition",
    "InvalidAccount": "never starts: its account does not exist any more",
    "QOSNotAllowed": "never starts: its QOS is not allowed for this account or partition",
    "InvalidQOS": "never starts: its QOS does not exist any more",
    "MaxMemPerLimit": "never starts: asks for more memory for each core or node than is allowed",
    "DeadLine": "never starts: it can't end before its own deadline",
    "Cleaning": "is being cleaned up after its last run, and starts again",
    "Prolog": "is being started: the node's prolog runs",
    "BurstBufferResources": "waits for room in the burst buffer",
    "BurstBufferStageIn": "waits for its files to come into the burst buffer",
    "QOSUsageThreshold": "waits until its QOS has been used less",
    "QOSJobLimit": "waits for other jobs of its QOS to end",
    "QOSResourceLimit": "waits for other jobs of its QOS to end",
    "QOSTimeLimit": "asks for more time than its QOS has left",
    "AssociationJobLimit": "waits for other jobs of your account to end",
    "AssociationResourceLimit": "waits for other jobs of your account to end",
    "AssociationTimeLimit": "asks for more time than your account has left",
    "SystemFailure": "could not be started because of a failure of Slurm, a file system or the network",
    "SchedDefer": "was not looked at yet: this cluster starts jobs in rounds",
}
#: AssocGrpCpuLimit, QOSMaxJobsPerUserLimit, QOSGrpGRES, MaxMemoryPerAccount ... (the same page)
_LIMIT: Final = re.compile(
    r"(?P<whose>AssocGrp|AssocMax|QOSGrp|QOSMax|Max)(?P<what>[A-Za-z]+?)(?P<each>Per(?:User|Account|Job|Node))?(?:Limit)?"
)
_WHAT: Final[Mapping[str, str]] = {
    "Cpu": "cores",
    "Mem": "memory",
    "Memory": "memory",
    "Node": "nodes",
    "GRES": "GPUs",
    "Jobs": "running jobs",
    "SubmitJob": "submitted jobs",
    "SubmitJobs": "submitted jobs",
    "Wall": "walltime",
    "WallDuration": "walltime",
    "License": "licences",
    "Lic": "licences",
    "Billing": "billing units",
    "BB": "burst buffer",
    "CPUMinutes": "core-minutes",
    "CPURunMinutes": "core-minutes of running jobs",
    "CpuMinutes": "core-minutes",
    "GRESMinutes": "GPU-minutes",
    "GRESRunMinutes": "GPU-minutes of running jobs",
    "MemMinutes": "memory-minutes",
    "MemRunMinutes": "memory-minutes of running jobs",
    "NodeMinutes": "node-minutes",
    "NodeRunMinutes": "node-minutes of running jobs",
    "BillingMinutes": "billing minutes",
    "BillingRunMinutes": "billing minutes of running jobs",
    "Energy": "energy",
}


def in_plain_words(raw: str) -> str | None:
    """Return why an array task waits, as a phrase that begins with a verb; ``None`` for a reason that is in no table.

    Args:
        raw: squeue's state and reason, "PENDING Priority"; the reason may be followed by a comma and more.
    """
    word, _, reason = raw.partition(" ")
    if word != "PENDING":
        return None
    known = reason.partition(",")[0].strip() or "None"
    phrase = _WORDS.get(known) or _limit(known)
    return phrase and phrase[0].upper() + phrase[1:]


def _limit(reason: str) -> str | None:
    found = _LIMIT.fullmatch(reason)
    if found is None or found["what"] not in _WHAT:
        return None
    what, each = _WHAT[found["what"]], found["each"]
    if each in {"PerJob", "PerNode"}:
        return f"never starts: asks for more {what} than one {'job' if each == 'PerJob' else 'node'} may have"
    if found["what"].endswith("Minutes") and "Run" not in found["what"]:
        return f"waits until {_whose(found['whose'], each)} may use more {what}: the budget is used up"
    return f"waits for others to end: {_whose(found['whose'], each)} may have no more {what} at once"


def _whose(limit: str, each: str | None) -> str:
    match limit, each:
        case "AssocGrp", _:
            return "your account"
        case "AssocMax", _:
            return "you on this account"
        case "QOSGrp", _:
            return "all jobs of this QOS together"
        case _, "PerAccount":
            return "your account in this QOS"
        case _:
            return "you in this QOS"
