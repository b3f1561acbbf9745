"""Words and numbers as LSF's commands write them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from hpcflow.core.batch import in_one_line

__all__ = ["first_words", "instant", "kib", "run_limit_s"]

_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT]?)(?:i?bytes|i?B)?", re.IGNORECASE)
_KIB: Final[Mapping[str, float]] = {"": 1, "K": 1, "M": 1024, "G": 1024**2, "T": 1024**3}
#: "Feb  8 10:31:17 2026 L": an estimate is marked behind it. Without a year it is no time (`LSB_DISPLAY_YEAR`).
_INSTANT: Final = re.compile(r"(?:[A-Z][a-z]{2} )?([A-Z][a-z]{2}) +([0-9]+) ([0-9:]{5,8}) ([0-9]{4})(?: [LEX])?")


def first_words(said: str) -> str:
    """Return what a command said on stderr, in one line of at most 500 characters."""
    return in_one_line(said.splitlines())


def kib(text: str) -> int | None:
    """Read "5.2 Gbytes", "233 Mbytes", "62.5G"; ``None`` for "-" and the like."""
    found = _SIZE.fullmatch(text.strip())
    return None if found is None else int(float(found[1]) * _KIB[found[2].upper()])


def instant(text: str) -> datetime | None:
    """Return a time of bjobs or bhist, in UTC because the command asks for it; ``None`` where it has no year."""
    found = _INSTANT.fullmatch(text.strip())
    if found is None:
        return None
    month, day, clock, year = found.groups()
    form = "%b %d %H:%M:%S %Y" if clock.count(":") == 2 else "%b %d %H:%M %Y"
    try:
        return datetime.strptime(f"{month} {day} {clock} {year}", form).replace(tzinfo=UTC)
    except ValueError:
        return None


def run_limit_s(text: str) -> int | None:
    """Read a run limit, in seconds: "1440.0" and "3.0/hostA" are minutes, "00:10:00" hours; ``None``: no limit."""
    words = text.partition("/")[0].strip()
    if re.fullmatch(r"[0-9]+(?:\.[0-9]+)?", words):
        return int(float(words) * 60) or None
    found = re.fullmatch(r"([0-9]+):([0-9]{2}):([0-9]{2})", words)
    return None if found is None else (int(found[1]) * 60 + int(found[2])) * 60 + int(found[3])
