"""One line of the table: what was measured on both sides, their ratio, what it must be and what it is meant to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

__all__ = ["Limit", "Row", "as_markdown", "as_text", "at_least", "at_most", "counted", "left_out", "told"]

_HEADINGS: Final = ("what", "hpcflow", "beside it", "ratio", "must", "aim")


@dataclass(frozen=True, slots=True)
class Limit:
    """A bound, and whether it was kept."""

    text: str
    kept: bool

    def __str__(self) -> str:
        return f"{self.text}: {'yes' if self.kept else 'NO'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table; empty cells are empty texts."""

    what: str
    measured: str = ""
    beside: str = ""
    ratio: str = ""
    must: Limit | None = None
    aim: Limit | None = None

    @property
    def cells(self) -> tuple[str, ...]:
        limits = ("" if limit is None else str(limit) for limit in (self.must, self.aim))
        return self.what, self.measured, self.beside, self.ratio, *limits


def at_least(
    what: str,
    values: Sequence[float],
    rival: str,
    rival_values: Sequence[float],
    *,
    must: float | None = None,
    aim: float | None = None,
    better: str = "faster",
) -> Row:
    """Return how many times less hpcflow needs than its rival.

    Args:
        what: is measured.
        values: hpcflow's seconds, one for each repetition.
        rival: what is measured beside it.
        rival_values: likewise.
        must: so many times, or more.
        aim: likewise.
        better: what the ratio says of hpcflow.
    """
    ratio = median(rival_values) / median(values)

    def limit(times: float | None) -> Limit | None:
        return None if times is None else Limit(f">= {times:g}x {better}", ratio >= times)

    return Row(
        what=what,
        measured=_spread(values),
        beside=f"{rival}: {_spread(rival_values)}",
        ratio=f"{ratio:.2f}x {better}",
        must=limit(must),
        aim=limit(aim),
    )


def at_most(
    what: str,
    values: Sequence[float],
    rival: str,
    rival_values: Sequence[float],
    *,
    must: float | None = None,
    aim: float | None = None,
) -> Row:
    """Return how many times as long hpcflow takes as its rival, or as what can't be beaten.

    Args:
        what: is measured.
        values: hpcflow's seconds, one for each repetition.
        rival: what is measured beside it, or worked out.
        rival_values: likewise.
        must: so many times, or less.
        aim: likewise.
    """
    ratio = median(values) / median(rival_values)

    def limit(times: float | None) -> Limit | None:
        return None if times is None else Limit(f"<= {times:g}x", ratio <= times)

    return Row(
        what=what,
        measured=_spread(values),
        beside=f"{rival}: {_spread(rival_values)}",
        ratio=f"{ratio:.2f}x its time",
        must=limit(must),
        aim=limit(aim),
    )


def told(what: str, values: Sequence[float], unit: str, *, must: float | None = None, aim: float | None = None) -> Row:
    """Return a measured value, of which the median must be no more than a limit where there is one."""
    middle = median(values)

    def limit(most: float | None) -> Limit | None:
        return None if most is None else Limit(f"<= {most:g} {unit}", middle <= most)

    return Row(what=what, measured=_spread(values, unit), must=limit(must), aim=limit(aim))


def left_out(what: str, reason: str) -> Row:
    return Row(what=what, measured=f"left out: {reason}")


def counted(what: str, commands: Mapping[str, int], *, must: int | None = None) -> Row:
    """Return how often each of the scheduler's commands was called."""
    total = sum(commands.values())
    kinds = ", ".join(f"{number} {name}" for name, number in sorted(commands.items()))
    return Row(
        what=what,
        measured=f"{total}" + (f" ({kinds})" if kinds else ""),
        must=None if must is None else Limit(f"<= {must}", total <= must),
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
