"""Amounts of memory and lengths of time as people write them; what could be meant in two ways is refused."""

from __future__ import annotations

import re
from datetime import timedelta
from fractions import Fraction
from typing import Final

from hpcflow.core.model import UserError

__all__ = ["parse_memory", "parse_walltime"]

_AMOUNT: Final = re.compile(r"(\d+(?:\.\d+)?) ?([A-Za-z]+)")
_BYTES: Final = {
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
#: Of what Slurm calls so: the first is 1000 or 1024 bytes, each other as many of the one before.
_LETTERS: Final = ("K", "M", "G", "T")
_MEMORY_SHAPES: Final = "'8 GB' (8 x 1000^3 bytes), '8 GiB' (8 x 1024^3 bytes) or '500 MB'"
_MEMORY_MAX_MIB: Final = 256 * 2**20


def parse_memory(name: str, value: object) -> int:
    """Return MiB, rounded up, of a text such as ``8 GB`` (decimal) or ``8 GiB`` (binary).

    Raises:
        UserError: no unit, a single letter as unit (Slurm's ``G`` is binary, elsewhere it is decimal),
            nothing at all, or more than 256 TiB.
    """
    match = _AMOUNT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise UserError(f"{name}={value!r} is no amount of memory: write {_MEMORY_SHAPES}.")
    number, unit = match.groups()
    letter = unit.upper()
    if letter in _LETTERS:
        power = _LETTERS.index(letter) + 1
        decimal = f"'{number} {letter}B' ({number} x 1000^{power} bytes)"
        binary = f"'{number} {letter}iB' ({number} x 1024^{power} bytes)"
        hint = f"{letter!r} means {letter}B to some and {letter}iB to others"
        raise UserError(f"{name}={value!r}: {hint}; write {decimal} or {binary}.")
    if unit.lower() not in _BYTES:
        raise UserError(f"{name}={value!r}: {unit!r} is no unit; write {_MEMORY_SHAPES}.")
    mib = -(-Fraction(number) * _BYTES[unit.lower()] // 2**20)
    if not 1 <= mib <= _MEMORY_MAX_MIB:
        raise UserError(f"{name}={value!r} must be more than nothing and at most 256 TiB.")
    return int(mib)


_SECONDS: Final = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1),
    **dict.fromkeys(("min", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hour", "hours"), 3600),
    **dict.fromkeys(("d", "day", "days"), 86400),
}
_CLOCK: Final = re.compile(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)")
_TIME_SHAPES: Final = "'30 min', '2 h', '1 h 30 min', '02:00:00' (h:m:s), '1-00:00:00' (days-h:m:s) or a timedelta"
_WALLTIME_MAX_S: Final = 366 * 86400


def parse_walltime(name: str, value: object) -> int:
    """Return seconds, rounded up, of a text such as ``30 min``, ``1 h 30 min``, ``1-00:00:00``, or of a timedelta.

    Raises:
        UserError: no unit, two numbers and one colon (hours or minutes?), nothing at all, or more than 366 days.
    """
    seconds = _seconds(value)
    if seconds is None:
        hint = ""
        if isinstance(value, str) and re.fullmatch(r"\d+:\d+", value.strip()):
            hint = " (is it hours and minutes, or minutes and seconds?)"
        raise UserError(f"{name}={value!r} is no length of time{hint}: write {_TIME_SHAPES}.")
    if not 0 < seconds <= _WALLTIME_MAX_S:
        raise UserError(f"{name}={value!r} must be longer than nothing and at most 366 days.")
    return seconds


def _seconds(value: object) -> int | None:
    if isinstance(value, timedelta):
        return -(-value // timedelta(seconds=1)) if value > timedelta(0) else 0
    if not isinstance(value, str):
        return None
    text = value.strip()
    clock = _CLOCK.fullmatch(text)
    if clock is not None:
        days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        if clock[1] is not None and hours >= 24:  # hours of a day
            return None
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    parts = _AMOUNT.findall(text)
    if not parts or _AMOUNT.sub("", text).strip() or any(unit.lower() not in _SECONDS for _, unit in parts):
        return None
    sizes = [_SECONDS[unit.lower()] for _, unit in parts]
    if sizes != sorted(set(sizes), reverse=True):
        return None
    return int(-(-sum(Fraction(number) * size for (number, _), size in zip(parts, sizes, strict=True)) // 1))
