"""Why an array task waits, in plain words: Slurm's reasons as a table, and its limits as a rule."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from hpcflow.core.model import Stuck
from hpcflow_slurm.states import stuck_of

__all__ = ["in_plain_words", "of_nodes"]

#: How the sentence begins that squeue has where a job could not start on the nodes that are left for it.
_NO_NODES: Final = "Nodes required for job are DOWN"
#: From job_reason_codes.html of Slurm 24.11, where no other source is named. What holds an array task or keeps it back
#: for ever is `states.stuck_of`'s to decide; here it is only told.
_WORDS: Final[Mapping[str, str]] = {
    "None": "was not looked at yet: the scheduler's next round will",
    "WaitingForScheduling": "was not looked at yet: the scheduler's next round will",
    "Priority": "waits its turn: other jobs have a higher priority",
    "Resources": "waits for enough cores, memory or GPUs to become free",
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
    "ReqNodeNotAvail": "waits for a node that it can't do without, and that is taken, reserved, down or drained now",
    # Its three cases are one sentence; seen with every node up, and with one of four drained (22.05).
    _NO_NODES: "waits for nodes: some that it needs are down or drained, or kept for jobs that go first",
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
#: squeue(1): cores are given to others, or kept.
_SUSPENDED: Final[Mapping[str, str]] = {
    "SUSPENDED": "is suspended: an administrator, or a job that goes first, has its cores; it goes on after that",
    "STOPPED": "is stopped by a signal and keeps its cores; it goes on when it is told to",
}
#: What follows "ReqNodeNotAvail, ".
_NOT_AVAILABLE: Final[Mapping[str, str]] = {
    "May be reserved for other job": "waits for nodes that may be kept for another job",
    "Reserved for maintenance": "waits until a maintenance is over: with its walltime it could not end before that",
}
_UNAVAILABLE: Final = "UnavailableNodes:"
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
    """Return why an array task waits or is suspended, as a phrase that begins with a verb; ``None``: it is in no table.

    Args:
        raw: squeue's state and reason, "PENDING Priority"; the reason may be followed by a comma and more.
    """
    word, _, reason = raw.partition(" ")
    if word in _SUSPENDED:
        return _sentence(_SUSPENDED[word])
    is_held = stuck_of(word, reason)[0] is Stuck.HELD
    if word != "PENDING" and not is_held:
        return None
    known, _, more = (part.strip() for part in reason.partition(","))
    if is_held:
        return _sentence(_WORDS[known] if known in _WORDS and known != "None" else _held(word, known))
    phrase = (_not_available(more) if known == "ReqNodeNotAvail" else None) or _WORDS.get(known or "None")
    phrase = phrase or _limit(known)
    return phrase and _sentence(phrase)


def of_nodes(raw: str, partition: str, away: int, total: int) -> str | None:
    """Return which of its three cases Slurm's sentence about nodes means; ``None`` for any other reason.

    Args:
        raw: as `in_plain_words` takes it.
        partition: where the job waits; several have commas between them.
        away: how many of its nodes are down, drained or being drained, of ``total``.
    """
    if not raw.startswith(f"PENDING {_NO_NODES}") or total == 0:
        return None
    where = partition.replace(",", " and ")
    if total == 1:
        state = "is down or drained" if away else "is up, so it is kept for jobs that go first"
        return f"Waits for nodes: the only one of {where} {state}"
    if away == 0:
        return f"Waits for nodes: all {total} of {where} are up, so those that it needs are kept for jobs that go first"
    if away == total:
        return f"Waits for nodes: all {total} of {where} are down or drained"
    are = "is" if away == 1 else "are"
    return (
        f"Waits for nodes: {away} of the {total} of {where} {are} down or drained; the others are too few for it, or "
        "kept for jobs that go first"
    )


def _not_available(more: str) -> str | None:
    if more.startswith(_UNAVAILABLE):
        nodes = more.removeprefix(_UNAVAILABLE).strip()
        return f"waits for nodes that are down, drained or silent: {nodes}" if nodes else None
    return _NOT_AVAILABLE.get(more)


def _held(word: str, reason: str) -> str:
    """Return why Slurm holds what had begun, or was about to."""
    if "launch" in reason:
        return "is held: it could not be started on its node, and was put back"
    if word == "RESV_DEL_HOLD":
        return "is held: its reservation is gone"
    return "is held: it was put back into the queue, and starts only when it is released"


def _sentence(phrase: str) -> str:
    return phrase[0].upper() + phrase[1:]


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
