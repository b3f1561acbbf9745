"""Words and numbers as PBS's commands write them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from hpcflow.core.batch import in_one_line
from hpcflow.core.model import JobId

__all__ = ["first_words", "full_id", "instant", "mib", "seconds"]

# "qsub: Unknown queue": only the end is worth a sentence. The usage that follows "illegal -J value" is not.
_PREFIX: Final = re.compile(r"^\s*(?:qsub|qstat|qdel|qselect|pbsnodes): ")
_USAGE: Final = re.compile(r"^usage: .*", re.MULTILINE | re.DOTALL)
_MEMORY: Final = re.compile(r"([0-9]+)(b|kb|mb|gb|tb)", re.IGNORECASE)
_UNITS: Final[Mapping[str, int]] = {"b": 1, "kb": 1024, "mb": 1024**2, "gb": 1024**3, "tb": 1024**4}
_CLOCK: Final = re.compile(r"(?:([0-9]+):)?([0-9]+):([0-9]+)(?:\.[0-9]+)?")


def first_words(said: str) -> str:
    """Return what a command said on stderr, in one line of at most 500 characters, without "qsub: "."""
    return in_one_line(_PREFIX.sub("", line) for line in _USAGE.sub("", said).splitlines())


def full_id(job_id: JobId, width: int) -> str:
    """Return an id as PBS's commands take it: "26[]" for an array, "26" for a single job, which is no array there."""
    return f"{job_id}[]" if width > 1 else job_id


def seconds(text: str) -> int | None:
    """Read a duration of PBS: "01:00:00", "10:00" or a bare number of seconds; ``None`` for anything else."""
    if text.isascii() and text.isdigit():
        return int(text)
    found = _CLOCK.fullmatch(text)
    if found is None:
        return None
    hours, minutes, rest = (int(part or 0) for part in found.groups())
    return (hours * 60 + minutes) * 60 + rest


@lru_cache(maxsize=1024)  # elements of an array have few different times, and reading one is slow
def instant(text: str | int | None) -> datetime | None:
    """Read "Sun Nov 22 20:41:59 2026", in UTC because the commands ask for it.

    Raises:
        ValueError: it is none.
    """
    if text is None:
        return None
    return datetime.strptime(str(text), "%a %b %d %H:%M:%S %Y").replace(tzinfo=UTC)


def mib(value: object) -> int | None:
    """Read "37748736kb", "64mb" or "4gb"."""
    found = _MEMORY.fullmatch(str(value))
    if found is None:
        return None
    return int(found[1]) * _UNITS[found[2].lower()] // 1024**2
