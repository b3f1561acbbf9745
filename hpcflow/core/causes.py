"""Which failures have one cause, however they were noticed: by the worker's own watch, the kernel, or the scheduler."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from hpcflow.core.advice import Shortage
from hpcflow.core.model import Cause
from hpcflow.core.words import memory

__all__ = ["cause_of", "shortage", "spoken", "told"]

# Any in this module: the stored record of an end is JSON.
Record = Mapping[str, Any]

#: In the raw words of schedulers, for what was stored before its cause was.
_MEMORY_WORDS: Final = re.compile("OUT_OF_ME|OOM|MEMLIMIT|MaxRSS")
_TIME_WORDS: Final = re.compile("TIMEOUT|RUNLIMIT|walltime")
#: What makes two sentences of one cause differ.
_PARTICULARS: Final = re.compile(r"0x[0-9a-f]+|\d+(\.\d+)?", re.IGNORECASE)


def shortage(record: Record | None) -> Shortage | None:
    """Return what an attempt ran out of, from the stored record of its end; ``None``: of nothing, or nobody knows."""
    if record is None:
        return None
    st, raw = record.get("st"), str(record.get("raw") or "")
    if st == "killed":
        cause = record.get("cause")
        if cause == Cause.MEMORY or (cause is None and _MEMORY_WORDS.search(raw)):
            st = "memory"
        elif cause == Cause.TIMEOUT or (cause is None and _TIME_WORDS.search(raw)):
            st = "timeout"
    match st:
        case "memory":
            return Shortage("memory", record.get("asked"), max(record.get("mem") or 0, (record.get("rss") or 0) / 1024))
        case "timeout":
            return Shortage("walltime", record.get("limit") or record.get("worker_s"), record.get("wall") or 0.0)
        case _:
            return None


def cause_of(record: Record | None, error: str | None) -> str:
    """Return what failures of one cause have in common.

    Args:
        record: the stored record of the end; ``None``: the task never began.
        error: the sentence about it, of which numbers do not count.
    """
    lacked = shortage(record)
    return lacked.lack if lacked is not None else _PARTICULARS.sub("#", error or "")


def spoken(errors: Sequence[str | None]) -> str:
    """Return one sentence for failures of one cause: the first one's, and whether others have other numbers in it."""
    first = errors[0] or ""
    if len(set(errors)) < 2:
        return first
    line, newline, rest = first.partition("\n")
    bare = line.removesuffix(".")
    return f"{bare}, or with other numbers{line[len(bare) :]}{newline}{rest}"


def told(errors: Sequence[str | None], lacked: Sequence[Shortage]) -> str:
    """Return in a sentence why some tasks of one cause failed.

    Args:
        errors: what is said of each.
        lacked: what each ran out of; empty where they ran out of nothing.
    """
    if not lacked or len(errors) == 1:
        return spoken(errors) or "No reason is known."
    if lacked[0].lack == "walltime":
        return "They used up their walltime."
    used = max(each.used for each in lacked)
    return "They ran out of memory" + (f": up to {memory(used)} were in use when one was ended." if used else ".")
