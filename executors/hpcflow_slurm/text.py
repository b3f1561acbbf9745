"""Words and numbers as Slurm's commands write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from hpcflow.core.batch import in_one_line

__all__ = ["count", "first_words", "gpus", "instant", "seconds"]

# "sbatch: error: Batch job submission failed: Invalid qos specification": only the end is worth a sentence.
_PREFIX: Final = re.compile(
    r"^\s*(?:sbatch|squeue|sacct|scancel|scontrol|sinfo): (?:error: |fatal: )?(?:Batch job submission failed: )?"
)
_GPU: Final = re.compile(r"(?:^|[,:/])gpu(?::(?![0-9]+(?:$|[,(]))[^:=,()]+)?(?:[:=]([0-9]+))?(?=$|[,(])")
_WALLTIME: Final = re.compile(r"(?:([0-9]+)-)?(?:([0-9]+):)?([0-9]+):([0-9]+)")
_NEVER: Final = frozenset({"", "N/A", "NONE", "Unknown", "None", "(null)", "0"})


def first_words(said: str) -> str:
    """Return what a command said on stderr, in one line of at most 500 characters, without "sbatch: error:"."""
    return in_one_line(_PREFIX.sub("", line) for line in said.splitlines())


def instant(cell: str) -> datetime | None:
    """Return a time of squeue or sacct, ``None`` for their words for never.

    Raises:
        ValueError: neither seconds since the epoch (SLURM_TIME_FORMAT=%s) nor Slurm's own format, in UTC (TZ=UTC).
    """
    if cell in _NEVER:
        return None
    if cell.isascii() and cell.isdigit():
        return datetime.fromtimestamp(int(cell), UTC)
    return datetime.strptime(cell, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)


def count(text: str) -> int | None:
    """Read "16" or "16+"; ``None`` for "infinite"."""
    digits = text.rstrip("+")
    return int(digits) if digits.isascii() and digits.isdigit() else None


def seconds(text: str) -> int | None:
    """Read ``[[days-]hours:]minutes:seconds``; ``None`` for "infinite" and "n/a"."""
    found = _WALLTIME.fullmatch(text)
    if found is None:
        return None
    days, hours, minutes, rest = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest


def gpus(gres: str) -> int | None:
    """Read the GPUs of "gpu:fake:4(S:0-1)", "gres:gpu:2" or "gpu:a100:4,nvme:1"; ``None``: it names none."""
    found = [int(number or 1) for number in _GPU.findall(gres)]
    return sum(found) if found else None
