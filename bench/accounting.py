"""What Slurm's accounting says of jobs that are over: CPU time, and core-seconds charged."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["Charge", "charge_of", "parse_charge"]

_PATIENCE_S: Final = 120.0
_POLL_S: Final = 1.0
_LIVE: Final = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "RESIZING", "SUSPENDED")


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """Sums over array tasks."""

    #: Of the processes, user and system; Slurm's own work for a job is in no account.
    cpu_s: float
    #: Cores that were held, times whole seconds.
    core_s: int
    #: Array tasks that ended with exit code 0.
    completed: int


def charge_of(widths: Mapping[str, int]) -> Charge:
    """Return what job arrays cost, as soon as accounting has heard of all their ends.

    Args:
        widths: array tasks of each, by the job's id.

    Raises:
        TimeoutError: it has not for two minutes.
    """
    command = ["sacct", "--noheader", "--parsable2", f"--jobs={','.join(widths)}"]
    command.append("--format=JobID,State,TotalCPU,CPUTimeRAW")
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        charge = parse_charge(answer, widths)
        if charge is not None:
            return charge
        time.sleep(_POLL_S)
    raise TimeoutError(f"Accounting did not tell the end of jobs {', '.join(widths)} within {_PATIENCE_S:g} s.")


def parse_charge(answer: str, widths: Mapping[str, int]) -> Charge | None:
    """Return the sums; ``None`` while some array task is not there or not over.

    slurmdbd hears of array tasks one by one, and of some seconds after they left the queue (Slurm 22.05 on a busy
    host). Steps are skipped, but must be asked for: with ``-X`` TotalCPU is 0.
    """
    rows = [line.split("|") for line in answer.splitlines()]
    tasks = [row for row in rows if "." not in row[0]]
    known = Counter[str]()
    for row in tasks:
        job, _, index = row[0].partition("_")
        if index:
            known[job] += _array_tasks(index)
        elif row[1] != "COMPLETED" or widths.get(job) == 1:
            # An array of which no task ever started may be one row under its own id; so is, for a moment, one of which
            # accounting has heard of a single end.
            known[job] += widths.get(job, 0)
    if any(known[job] < width for job, width in widths.items()) or any(row[1].startswith(_LIVE) for row in tasks):
        return None
    return Charge(
        cpu_s=sum(_seconds(row[2]) for row in tasks),
        core_s=sum(int(row[3]) for row in tasks),
        completed=sum(row[1] == "COMPLETED" for row in tasks),
    )


def _array_tasks(index: str) -> int:
    """Return how many array tasks one row is for: ``17``, or ``[4-63,70]`` for those that never started."""
    count = 0
    for part in index.strip("[]").partition("%")[0].split(","):
        first, _, last = part.partition("-")
        count += int(last or first) - int(first) + 1
    return count


def _seconds(text: str) -> float:
    """Return seconds from ``[[days-]hours:]minutes:seconds[.milliseconds]``."""
    days, _, clock = text.rpartition("-")
    total = 0.0
    for part in clock.split(":"):
        total = 60 * total + float(part)
    return total + 86400 * int(days or 0)
