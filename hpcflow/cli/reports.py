"""Commands that report on jobs: what they cost, tasks in sacct's manner, and which tasks ran in a job."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from hpcflow.cli.frame import OK, the_server, write_json
from hpcflow.core.model import UserError

if TYPE_CHECKING:
    from hpcflow.core.usage import Spent
    from hpcflow.sdk.answers import ArrayTask, Job, TaskOfJob, TaskRecord

__all__ = ["sacct", "usage", "which"]


# ---- what it cost


def usage(options: argparse.Namespace) -> int:
    from hpcflow.core.usage import sentences
    from hpcflow.sdk.answers import parse_usage
    from hpcflow.sdk.client import whole_id
    from hpcflow.sdk.terminal import table

    server = the_server()
    raw = server.ask("GET", f"/dispatches/{whole_id(server, options.id)}/usage")
    if options.json:
        write_json(raw)
        return OK
    spent = parse_usage(raw)
    if spent.charged_s:
        table(("CORE-SECONDS", "SHARE", "SPENT IN"), _parts(spent))
        print()
    for sentence in sentences(spent):
        print(sentence)
    if spent.rest_s:
        print(f"Schedulers count whole seconds: that may be up to {spent.rounding_s:.0f} core-seconds here.")
    if spent.requeued_s:
        print(f"Runs before a requeue, which accounting keeps apart: {spent.requeued_s:.1f} core-seconds.")
    return OK


def _parts(spent: Spent) -> Iterable[tuple[str, ...]]:
    from hpcflow.core.usage import PARTS, shares_of

    shares = shares_of(spent)
    for part, words in PARTS.items():
        core_seconds: float = getattr(spent, part)
        if core_seconds:
            yield f"{core_seconds:.1f}", f"{shares[part]} %" if core_seconds > 0 else "", words
    yield f"{spent.charged_s:.1f}", "100 %", "all that was charged"


# ---- in sacct's manner


@dataclass(frozen=True, slots=True)
class _Field:
    """One column: sacct's name for it, its width there, and how a task fills it."""

    name: str
    width: int
    fill: Callable[[TaskRecord, datetime], str]


def sacct(options: argparse.Namespace) -> int:
    from hpcflow.sdk.client import whole_id
    from hpcflow.sdk.plain import plain
    from hpcflow.sdk.results import task_records

    chosen = _chosen(options.format)
    server = the_server()
    dispatch_id = whole_id(server, options.id)
    line = "|".join if options.parsable2 else partial(_aligned, [width for _, width in chosen])
    if not options.noheader:
        print(line([field.name for field, _ in chosen]))
        if not options.parsable2:
            print(line(["-" * abs(width) for _, width in chosen]))
    now = datetime.now(UTC)
    for record in task_records(server, dispatch_id, deep=True):
        cells = [plain(" ".join(field.fill(record, now).split())) for field, _ in chosen]
        # An electron may have any name; the separator in it would shift all that follows.
        sys.stdout.write(line([cell.replace("|", "/") for cell in cells] if options.parsable2 else cells) + "\n")
    return OK


def _chosen(wanted: str) -> list[tuple[_Field, int]]:
    """Return the columns that ``--format`` names, each with its width, below zero to align it to the left.

    Raises:
        UserError: there is no such column.
    """
    known = {field.name.lower(): field for field in _fields()}
    chosen: list[tuple[_Field, int]] = []
    for part in wanted.split(","):
        found = re.fullmatch(r"\s*([A-Za-z]+)(?:%(-?[0-9]{1,3}))?\s*", part)
        field = known.get(found[1].lower()) if found is not None else None
        if found is None or field is None:
            raise UserError(
                f"There is no column {part.strip()!r}; there are {', '.join(each.name for each in known.values())}. "
                "A width follows after a percent sign: JobName%30."
            )
        chosen.append((field, int(found[2]) if found[2] else field.width))
    return chosen


def _aligned(widths: list[int], cells: list[str]) -> str:
    """Return cells in columns as sacct does: what is too long is cut and ends with a plus."""
    return " ".join(
        f"{cell if len(cell) <= abs(width) else f'{cell[: abs(width) - 1]}+':{'<' if width < 0 else '>'}{abs(width)}}"
        for cell, width in zip(cells, widths, strict=True)
    ).rstrip()


def _fields() -> tuple[_Field, ...]:
    from hpcflow.core.sacct import exit_code, memory, milliseconds, state_of, whole_seconds

    def job(task: TaskRecord, _: datetime) -> str:
        return "" if task.job_id is None else f"{task.job_id}_{task.array_index}"

    def elapsed_s(task: TaskRecord, now: datetime) -> float:
        if task.note:  # its result is another task's, which took the time
            return 0.0
        if task.wall_s is not None or task.started_at is None:
            return task.wall_s or 0.0
        return max(0.0, ((task.ended_at or now) - task.started_at).total_seconds())

    def clock(at: datetime | None) -> str:
        return "Unknown" if at is None else at.astimezone().strftime("%Y-%m-%dT%H:%M:%S")

    return (
        _Field("JobID", 12, job),
        _Field("JobName", 10, lambda task, _: task.name),
        _Field("State", 13, lambda task, _: state_of(task.state, task.end, task.raw)),
        _Field("Elapsed", 10, lambda task, now: whole_seconds(elapsed_s(task, now))),
        # sacct's CPUTime is what was taken from others, elapsed time times cores; TotalCPU is what was used of it.
        _Field("CPUTime", 10, lambda task, now: whole_seconds(elapsed_s(task, now) * task.cores)),
        _Field("TotalCPU", 10, lambda task, _: "" if task.cpu_s is None or task.note else milliseconds(task.cpu_s)),
        _Field("MaxRSS", 10, lambda task, _: "" if task.max_rss_kib is None else memory(task.max_rss_kib)),
        _Field("NodeList", 15, lambda task, _: task.host or ""),
        _Field("ExitCode", 8, lambda task, _: exit_code(task.end, task.exit_code, task.signal)),
        _Field("Task", 8, lambda task, _: str(task.index)),
        _Field("Attempt", 7, lambda task, _: str(task.attempt)),
        _Field("NCPUS", 6, lambda task, _: str(task.cores)),
        _Field("ElapsedRaw", 10, lambda task, now: f"{elapsed_s(task, now):.3f}"),
        _Field("Start", 19, lambda task, _: clock(task.started_at)),
        _Field("End", 19, lambda task, _: clock(task.ended_at)),
        _Field("Cluster", 10, lambda task, _: task.cluster or ""),
    )


# ---- what ran in a job


def which(options: argparse.Namespace) -> int:
    from urllib.parse import quote

    from hpcflow.sdk.answers import parse_jobs

    raw = the_server().ask("GET", f"/jobs/{quote(options.job, safe='')}")
    if options.json:
        write_json(raw["arrays"])
        return OK
    for place, job in enumerate(parse_jobs(raw)):
        if place:
            print()
        _write_job(job, whole="_" not in options.job)
    return OK


def _write_job(job: Job, *, whole: bool) -> None:
    from hpcflow.sdk.plain import plain
    from hpcflow.sdk.terminal import table

    print(plain(f"{job.name}  {job.dispatch}"))
    print(plain(f"job {job.job_id} on {job.cluster}, {job.width} wide, {job.state}"))
    if job.array_tasks:
        table(
            ("ARRAY TASK", "STATE", "TASKS", "HOST", "RAN", "CORE-SECONDS", "END"),
            (_array_task_row(job.job_id, line) for line in job.array_tasks),
        )
    if whole and job.not_begun:
        print(f"{job.not_begun} left the queue before they began.")
    if job.tasks:
        print()
        table(("TASK", "NAME", "ATTEMPT", "STATE", "STARTED", "TOOK", "ERROR"), map(_task_row, job.tasks))


def _array_task_row(job_id: str, line: ArrayTask) -> tuple[str, ...]:
    from hpcflow.core.sacct import whole_seconds

    return (
        f"{job_id}_{line.index}",
        line.state,
        str(line.tasks),
        line.host or "-",
        "-" if line.elapsed_s is None else whole_seconds(line.elapsed_s),
        "-" if line.core_seconds is None else f"{line.core_seconds:.1f}",
        line.raw,
    )


def _task_row(task: TaskOfJob) -> tuple[str, ...]:
    from hpcflow.sdk.terminal import clock

    took = "-" if task.wall_s is None else f"{task.wall_s:.1f} s"
    error = (task.error or "").partition("\n")[0]
    return str(task.index), task.name, str(task.attempt), task.state, clock(task.started_at), took, error
