"""LSF's words for what an element does, why it waits, and how it ended: one table for each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from hpcflow.core.model import Cause, Phase, Stuck

__all__ = ["ALIVE", "end_of", "ended_by", "stuck_of"]

#: bjobs(1) of 10.1. UNKWN: its host lost contact, and may come back with the job alive.
ALIVE: Final[Mapping[str, Phase]] = {
    "PEND": Phase.PENDING,
    "PSUSP": Phase.PENDING,
    "WAIT": Phase.PENDING,
    "PROV": Phase.PENDING,
    "RUN": Phase.RUNNING,
    "USUSP": Phase.RUNNING,
    "SSUSP": Phase.RUNNING,
    "UNKWN": Phase.RUNNING,
}
_DONE: Final = frozenset({"DONE", "PDONE", "PERR"})

#: Reasons of an end (lsbatch.h of 10.1). What is not here ended in its own way, as its exit code says.
_REASONS: Final[Mapping[str, Cause]] = {
    "TERM_PREEMPT": Cause.PREEMPTED,
    "TERM_DEADLINE": Cause.DEADLINE,
    "TERM_RUNLIMIT": Cause.TIMEOUT,
    "TERM_CPULIMIT": Cause.TIMEOUT,
    "TERM_MEMLIMIT": Cause.MEMORY,
    "TERM_SWAP": Cause.MEMORY,
    "TERM_OWNER": Cause.CANCELLED,
    "TERM_ADMIN": Cause.CANCELLED,
    "TERM_FORCE_OWNER": Cause.CANCELLED,
    "TERM_FORCE_ADMIN": Cause.CANCELLED,
    "TERM_REQUEUE_OWNER": Cause.CANCELLED,
    "TERM_REQUEUE_ADMIN": Cause.CANCELLED,
    "TERM_REMOVE_HUNG_JOB": Cause.CANCELLED,
    "TERM_ORPHAN_SYSTEM": Cause.CANCELLED,
    "TERM_ZOMBIE": Cause.NODE_FAIL,
}
#: Reasons that say less than the exit code does.
_OTHERS: Final = frozenset(
    {
        *("TERM_UNKNOWN", "TERM_OTHER", "TERM_EXTERNAL_SIGNAL", "TERM_WINDOW", "TERM_LOAD", "TERM_PROCESSLIMIT"),
        *("TERM_THREADLIMIT", "TERM_BUCKET_KILL", "TERM_CHKPNT", "TERM_RMS", "TERM_SLURM", "TERM_CWD_NOTEXIST"),
        *("TERM_PRE_EXEC_FAIL", "TERM_DATA", "TERM_MC_RECALL", "TERM_CSM_ALLOC", "TERM_KUBE", "TERM_RC"),
    }
)
_REASON: Final = re.compile(r"\b(TERM_[A-Z_]+)\b")
#: 128 + SIGUSR2, with which LSF ends what has used up its run limit; releases without a reason show no more.
_RUN_LIMIT: Final = 140
_LAST_SIGNAL: Final = 64

_NEVER: Final = re.compile(r"never satisfied|never be satisfied", re.IGNORECASE)
_BY_ADMINISTRATOR: Final = re.compile(r"admin|root", re.IGNORECASE)


def end_of(stat: str, code: str, reason: str) -> tuple[Cause | None, int | None, int | None]:
    """Return cause, exit code and signal of an end; raise ValueError when it can't be read.

    Args:
        stat: as bjobs has it.
        code: "3"; "" or "-": none.
        reason: "TERM_RUNLIMIT: job killed after reaching LSF run time limit", or "".
    """
    if stat in _DONE:
        return Cause.DONE, 0, None
    if stat == "ZOMBI":
        # Killed while its host could not be reached: nobody hears of it again before the host is back.
        return Cause.NODE_FAIL, None, None
    if stat != "EXIT":
        raise ValueError(stat)
    found = _REASON.search(reason)
    if found is not None and found[1] in _REASONS:
        return _REASONS[found[1]], None, None
    unknown = reason.strip(" -") and (found is None or found[1] not in _OTHERS)
    if code in {"", "-"} or unknown:
        return None, None, None
    if not (code.isascii() and code.isdigit()):
        raise ValueError(code)
    status = int(code)
    if found is None and status == _RUN_LIMIT:
        return Cause.TIMEOUT, None, None
    if 128 < status <= 128 + _LAST_SIGNAL:
        return Cause.FAILED, None, status - 128
    return Cause.FAILED, status, None


def ended_by(reason: str) -> str | None:
    """Return who ended a job, by the reason of its end."""
    found = _REASON.search(reason)
    if found is None or _REASONS.get(found[1]) is not Cause.CANCELLED:
        return None
    if found[1].endswith("_ADMIN"):
        return "an administrator"
    return "you" if found[1].endswith("_OWNER") else None


def stuck_of(stat: str, reason: str) -> tuple[Stuck | None, str | None]:
    """Return why a pending element does not wait for its turn, and who holds it where LSF says so."""
    if stat == "PSUSP":
        return Stuck.HELD, "an administrator" if _BY_ADMINISTRATOR.search(reason) else "you"
    return (Stuck.NEVER, None) if _NEVER.search(reason) else (None, None)
