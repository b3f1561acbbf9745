"""Bytes of a reply as text for people and for parsers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from hpcflow.core.plugin import Reply

__all__ = ["count", "decoded", "first_words", "instant", "mib", "not_found", "seconds"]

# "qsub: Unknown queue": only the end is worth a sentence. The usage that follows "illegal -J value" is not.
_PREFIX: Final = re.compile(r"^\s*(?:qsub|qstat|qdel|qselect|pbsnodes): ")
_USAGE: Final = re.compile(r"^usage: .*", re.MULTILINE | re.DOTALL)
_MEMORY: Final = re.compile(r"([0-9]+)(b|kb|mb|gb|tb)", re.IGNORECASE)
_UNITS: Final[Mapping[str, int]] = {"b": 1, "kb": 1024, "mb": 1024**2, "gb": 1024**3, "tb": 1024**4}
_CLOCK: Final = re.compile(r"(?:([0-9]+):)?([0-9]+):([0-9]+)(?:\.[0-9]+)?")


def decoded(raw: bytes) -> str:
    """Return UTF-8 as text; a byte that is none becomes U+FFFD, which no parser accepts."""
    return raw.decode("utf-8", errors="replace")


def first_words(said: str) -> str:
    """Return what a command said on stderr, in one line of at most 500 characters, without "qsub: "."""
    lines = [_PREFIX.sub("", line).strip() for line in _USAGE.sub("", said).splitlines()]
    kept = list(dict.fromkeys(line for line in lines if line))
    return "; ".join(kept)[:500] or "it said nothing"


def not_found(reply: Reply) -> bool:
    """Return whether the program does not exist on the cluster: the shell's status 127, and nothing on stdout."""
    said = reply.stderr.lower()
    return reply.exit_code == 127 and not reply.stdout.strip() and (b"not found" in said or b"no such file" in said)


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


def count(value: object) -> int | None:
    """Return a count; releases write it as a number or as a text."""
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() else None


def mib(value: object) -> int | None:
    """Read "37748736kb", "64mb" or "4gb"."""
    found = _MEMORY.fullmatch(str(value))
    if found is None:
        return None
    return int(found[1]) * _UNITS[found[2].lower()] // 1024**2
