"""What people see: a bar while they wait, tables, times. Plain text where there is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Final

from hpcflow.core.states import State
from hpcflow.sdk.answers import Summary
from hpcflow.sdk.plain import plain

__all__ = ["can_show", "clock", "counts", "progress", "table", "took", "why_paused"]

#: Named when there are any, in this order.
_SHOWN: Final = (State.FAILED, State.SKIPPED, State.CANCELLED, State.PAUSED, State.RUNNING, State.QUEUED)


def counts(summary: Summary) -> str:
    """Return how many tasks are where, and on which clusters: "12 of 40 done, 3 failed, 25 queued · slurm"."""
    parts = [f"{summary.counts.get(State.COMPLETED, 0)} of {summary.tasks} done"]
    parts += [f"{summary.counts[state]} {state}" for state in _SHOWN if summary.counts.get(state)]
    waiting = summary.counts.get(State.WAITING, 0) + summary.counts.get(State.READY, 0)
    if waiting:
        parts.append(f"{waiting} waiting")
    clusters = sorted({array.cluster for array in summary.arrays})
    return ", ".join(parts) + (f" · {', '.join(clusters)}" if clusters else "")


def why_paused(summary: Summary) -> str:
    """Return why a paused dispatch waits, and the command that goes on."""
    return f"Paused: {summary.paused} Go on with `hpcflow resume {summary.id}`."


def can_show() -> bool:
    """Return whether a bar has a place: stderr is a terminal, or this is a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


@contextmanager
def progress(*, wanted: bool) -> Generator[Callable[[Summary], None]]:
    """Give a function that shows a summary, as a bar where one is wanted and has a place.

    Args:
        wanted: the user's setting.
    """
    if not (wanted and can_show()):
        yield lambda summary: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[counts]}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=4) as bar:
        row = bar.add_task("", total=None, counts="")

        def show(summary: Summary) -> None:
            bar.update(
                row,
                description=summary.name,
                total=summary.tasks,
                completed=summary.tasks_ended,
                counts=counts(summary),
            )
            bar.refresh()

        yield show


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table: with rich in a terminal, in plain aligned columns elsewhere."""
    lines = [tuple(map(plain, row)) for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for column in columns:
            grid.add_column(column, overflow="fold")
        for line in lines:
            grid.add_row(*map(Text, line))
        Console().print(grid)
        return
    widths = [max(map(len, cells)) for cells in zip(columns, *lines, strict=True)]
    for line in (tuple(columns), *lines):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def clock(moment: datetime | None) -> str:
    """Return a time as the user's clock shows it, "-" for none."""
    return "-" if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def took(started: datetime | None, ended: datetime | None, now: datetime) -> str:
    """Return how long something took, or takes up to now; "-" when it has not begun."""
    if started is None:
        return "-"
    seconds = ((ended or now) - started).total_seconds()
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
