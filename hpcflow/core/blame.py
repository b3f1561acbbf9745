"""Decides whose fault it is that an attempt ended without a result, what that costs, and what the next one asks for.

Node failures and preemption are nobody's fault. A task pays for its own exception, exit, signal, memory and time, and
for the death of its worker only while it ran there.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from hpcflow.core.follow import EXIT_STORAGE
from hpcflow.core.model import Cause, Observation, Partition, Resources, Retries
from hpcflow.core.words import counted, length, memory

__all__ = ["LOSSES", "Verdict", "judge", "judge_death", "likeness", "next_resources", "sentence_of"]

# Any in this module: a journal record is JSON that the node wrote and whose checksum was right.
Record = Mapping[str, Any]

#: So often a node may fail under a task, and so many tasks a node may lose, before that is no accident any more.
LOSSES: Final = 3
#: What makes two messages of one error differ: addresses, indices, paths of one task.
_PARTICULARS: Final = re.compile(r"0x[0-9a-f]+|\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How one attempt ended that gave no result."""

    sentence: str
    cause: Cause
    #: It used up an attempt.
    charged: bool = True
    #: Names of the exception's classes, its own first; empty when the function did not raise.
    raised: tuple[str, ...] = ()
    #: Perhaps it was memory: the kernel or a scheduler kills with SIGKILL, and not every one says why.
    perhaps_memory: bool = False


def judge(record: Record, limit_s: int | None, asked_mib: int | None = None) -> Verdict | None:
    """Return what the journal's record of an end means; ``None`` when the function returned.

    Args:
        record: an `end` record.
        limit_s: the task's own limit; ``None``: only its worker's.
        asked_mib: the memory that it asked for; ``None``: none, or that is not known.
    """
    match record["st"]:
        case "ok":
            return None
        case "error":
            name = str(record.get("exc", "Exception"))
            return Verdict(
                sentence=f"{name}: {record.get('msg', '')}".rstrip(": "),
                cause=Cause.FAILED,
                raised=tuple(record.get("kinds") or (name,)),
            )
        case "exit" if record.get("code") == EXIT_STORAGE:
            text = "The task could not report: the function closed descriptors that were not its own."
        case "exit":
            text = f"The task's process ended with exit code {record.get('code')} before the function returned."
        case "signal":
            return Verdict(
                sentence=f"The task's process was killed by {_signal(record.get('sig'))}.",
                cause=Cause.FAILED,
                perhaps_memory=record.get("sig") == signal.SIGKILL,
            )
        case "timeout" if limit_s is None:
            text = "The task used up its array task's walltime."
            return Verdict(sentence=text, cause=Cause.TIMEOUT)
        case "timeout":
            assert limit_s is not None
            text = f"The task ran longer than its walltime of {length(limit_s)}."
            return Verdict(sentence=text, cause=Cause.TIMEOUT)
        case "memory":
            used_mib = record.get("mem")
            asked = (
                "memory that it asked for" if asked_mib is None else f"{memory(asked_mib)} of memory that it asked for"
            )
            used = f": it had {memory(used_mib)} at the last look" if used_mib else ""
            if used_mib and used_mib < (asked_mib or 0):  # to the scheduler they are one job
                used += ", and its worker the rest"
            text = f"The task used up the {asked}{used}."
            return Verdict(sentence=text, cause=Cause.MEMORY)
        case other:
            text = f"The task ended as {other!r}."
    return Verdict(sentence=text, cause=Cause.FAILED)


def sentence_of(record: Record) -> str | None:
    """Return how an attempt ended that is over, from what is kept of it; ``None``: it returned."""
    if record["st"] == "killed":
        return str(record.get("said") or f"Killed with its worker ({record.get('raw') or 'no reason given'}).")
    if record["st"] == "cancelled":
        return "It ran when it was cancelled, and was ended."
    verdict = judge(record, record.get("limit"), record.get("asked"))
    return None if verdict is None else verdict.sentence


def judge_death(observation: Observation | None, *, first: bool, losses: int, asked_mib: int | None = None) -> Verdict:
    """Return what it means for a task that its worker died while it ran.

    Args:
        observation: how the worker's array task ended; ``None``: no scheduler answer knows.
        first: it was the worker's first task: a worker's TIMEOUT is a task's only if it had the whole time (S5).
        losses: how often a node has failed under this task before.
        asked_mib: the memory that it asked for; ``None``: none, or that is not known.
    """
    if observation is None:
        text = "The task's worker vanished: no scheduler answer knows it any more."
        return Verdict(sentence=text, cause=Cause.FAILED)
    raw = f" ({observation.raw})" if observation.raw else ""
    where = f" on {observation.host}" if observation.host else ""
    if observation.exit_code == EXIT_STORAGE:
        text = f"The task's worker could not write any more{where}{raw}."
        return Verdict(sentence=text, cause=Cause.FAILED, charged=False)
    cause = observation.cause or Cause.FAILED
    match cause:
        case Cause.NODE_FAIL:
            often = f" Nodes have failed under it {counted(losses + 1, 'time')}." if losses else ""
            text = f"The task's node failed{where}{raw}.{often}"
            return Verdict(sentence=text, cause=cause, charged=losses >= LOSSES)
        case Cause.PREEMPTED:
            return Verdict(sentence=f"The task's job was preempted{raw}.", cause=cause, charged=False)
        case Cause.CANCELLED:
            return Verdict(sentence=f"The task's job was cancelled{raw}.", cause=cause, charged=False)
        case Cause.TIMEOUT:
            text = f"The task used up its array task's walltime{raw}."
            return Verdict(sentence=text, cause=cause, charged=first)
        case Cause.MEMORY:
            asked = "" if asked_mib is None else f": it had asked for {memory(asked_mib)}"
            text = f"The task was killed for its memory{raw}{asked}."
            return Verdict(sentence=text, cause=cause)
        case Cause.DEADLINE:
            return Verdict(sentence=f"The deadline of the task's job went by{raw}.", cause=cause)
        case _:
            pass
    if observation.signal is None and observation.exit_code is None:
        return Verdict(sentence=f"The task's worker is gone{where}{raw}.", cause=cause)
    end = _signal(observation.signal) if observation.signal else f"exit code {observation.exit_code}"
    killed = observation.signal == signal.SIGKILL
    hint = " Often that is memory: ask for more with memory=." if killed else ""
    text = f"The task's worker was ended by {end}{where}{raw}.{hint}"
    return Verdict(sentence=text, cause=cause, perhaps_memory=killed)


def next_resources(
    resources: Resources,
    verdict: Verdict,
    retries: Retries,
    *,
    charged: int,
    partition: Partition | None,
    worker_walltime_s: int,
) -> Resources | str:
    """Return what a further attempt asks for, or in a sentence why there is none (empty: nobody wanted one).

    Args:
        resources: what the attempt that ended had asked for.
        verdict: of that attempt, which is charged.
        retries: what the user allows.
        charged: attempts used up, this one included.
        partition: where it ran, as far as it is known: nothing beyond its limits is asked for.
        worker_walltime_s: the limit of its array task, which was the task's where it named none.
    """
    if verdict.raised and not ("*" in retries.exceptions or set(verdict.raised) & set(retries.exceptions)):
        return ""
    if charged > retries.times:
        return f"Tried {counted(charged, 'time')}." if retries.times else ""
    if verdict.cause is Cause.MEMORY or verdict.perhaps_memory:
        return _more_memory(resources, verdict, retries.memory, partition)
    if verdict.cause is Cause.TIMEOUT:
        had = resources.walltime_s or worker_walltime_s
        most = partition.max_walltime_s if partition is not None else None
        wanted = _grown(had, retries.walltime, most)
        if wanted <= had and retries.walltime > 1:
            return f"Its partition {_named(partition)}gives no more than {length(most or 0)}, so it is not tried again."
        return replace(resources, walltime_s=wanted)
    return resources


def _more_memory(resources: Resources, verdict: Verdict, factor: float, partition: Partition | None) -> Resources | str:
    had = resources.memory_mib
    if had is None:  # the cluster's default, which nobody told us
        return resources
    most = partition.memory_mib_per_node if partition is not None else None
    wanted = _grown(had, factor, most)
    if wanted <= had and factor > 1 and not verdict.perhaps_memory:
        told = f"has no more than {memory(most or 0)} on a node, so it is not tried again."
        return f"Its partition {_named(partition)}{told}"
    return replace(resources, memory_mib=max(wanted, had))


def _grown(had: int, factor: float, most: int | None) -> int:
    wanted = max(had, int(had * factor))
    return wanted if most is None else min(wanted, most)


def _named(partition: Partition | None) -> str:
    return f"{partition.name!r} " if partition is not None else ""


def likeness(record: Record) -> str:
    """Return what the same error of other tasks has in common with this one."""
    match record["st"]:
        case "error":
            return f"{record.get('exc')}: {_PARTICULARS.sub('#', str(record.get('msg', '')))}"
        case st:
            return f"{st} {record.get('sig', '')} {record.get('code', '')}"


def _signal(number: int | None) -> str:
    try:
        return f"signal {number} ({signal.Signals(number or 0).name})"
    except ValueError:
        return f"signal {number}"
