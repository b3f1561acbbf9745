"""One line of the table: what was measured on both sides, their ratio, and what the ratio must be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

__all__ = ["Row", "as_markdown", "as_text", "at_least", "at_most", "counted", "left_out", "told"]

_HEADINGS: Final = ("what", "hpcflow", "beside it", "ratio", "must", "met")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table; empty cells are empty texts."""

    what: str
    measured: str = ""
    beside: str = ""
    ratio: str = ""
    must: str = ""
    met: bool | None = None

    @property
    def cells(self) -> tuple[str, ...]:
        met = {True: "yes", False: "NO", None: ""}[self.met]
        return self.what, self.measured, self.beside, self.ratio, self.must, met


def at_least(what: str, seconds: Sequence[float], rival: str, rival_seconds: Sequence[float], times: float) -> Row:
    """Return how many times faster hpcflow is than its rival, which must be ``times`` or more."""
    ratio = median(rival_seconds) / median(seconds)
    return Row(
        what=what,
        measured=_spread(seconds),
        beside=f"{rival}: {_spread(rival_seconds)}",
        ratio=f"{ratio:.2f}x faster",
        must=f">= {times:g}x faster",
        met=ratio >= times,
    )


def at_most(
    what: str, seconds: Sequence[float], rival: str, rival_seconds: Sequence[float], times: float | None
) -> Row:
    """Return how many times as long hpcflow takes, which must be ``times`` or less (``None``: told, not judged)."""
    ratio = median(seconds) / median(rival_seconds)
    return Row(
        what=what,
        measured=_spread(seconds),
        beside=f"{rival}: {_spread(rival_seconds)}",
        ratio=f"{ratio:.2f}x its time",
        must="" if times is None else f"<= {times:g}x",
        met=None if times is None else ratio <= times,
    )


def told(what: str, values: Sequence[float], unit: str, limit: float | None = None) -> Row:
    """Return a measured value, of which the median must be no more than ``limit`` where there is one."""
    return Row(
        what=what,
        measured=_spread(values, unit),
        must="" if limit is None else f"<= {limit:g} {unit}",
        met=None if limit is None else median(values) <= limit,
    )


def left_out(what: str, reason: str) -> Row:
    return Row(what=what, measured=f"left out: {reason}")


def counted(what: str, commands: Mapping[str, int], limit: int | None) -> Row:
    """Return how often each of the scheduler's commands was called."""
    total = sum(commands.values())
    kinds = ", ".join(f"{number} {name}" for name, number in sorted(commands.items()))
    return Row(
        what=what,
        measured=f"{total}" + (f" ({kinds})" if kinds else ""),
        must="" if limit is None else f"<= {limit}",
        met=None if limit is None else total <= limit,
    )


def as_text(rows: Sequence[Row]) -> str:
    lines = [_HEADINGS, *(row.cells for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADINGS))]
    padded = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([padded[0], "-" * sum(widths, 2 * (len(widths) - 1)), *padded[1:]])


def as_markdown(rows: Sequence[Row]) -> str:
    lines = [_HEADINGS, ("---",) * len(_HEADINGS), *(row.cells for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _spread(values: Sequence[float], unit: str = "s") -> str:
    """Return the median, and from what to what the values go where there are several."""
    middle = f"{_short(median(values))} {unit}"
    return middle if len(values) == 1 else f"{middle} ({_short(min(values))} to {_short(max(values))})"


def _short(value: float) -> str:
    """Return three digits that matter."""
    digits = next((digits for digits, floor in enumerate((100, 10, 0.1)) if value >= floor), 3)
    return f"{value:.{digits}f}"
