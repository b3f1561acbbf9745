"""What Slurm's accounting says of jobs that are over: CPU time, and core-seconds charged."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Collection
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


def charge_of(jobs: Collection[str]) -> Charge:
    """Return what jobs cost, as soon as accounting has heard of all their ends.

    Raises:
        TimeoutError: it has not for two minutes.
    """
    command = ["sacct", "--noheader", "--parsable2", f"--jobs={','.join(jobs)}"]
    command.append("--format=JobID,State,TotalCPU,CPUTimeRAW")
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        charge = parse_charge(answer, jobs)
        if charge is not None:
            return charge
        time.sleep(_POLL_S)
    raise TimeoutError(f"Accounting did not tell the end of jobs {', '.join(jobs)} within {_PATIENCE_S:g} s.")


def parse_charge(answer: str, jobs: Collection[str]) -> Charge | None:
    """Return the sums; ``None`` while some job is not there or not over.

    Steps are skipped, but must be asked for: with ``-X`` TotalCPU is 0 (Slurm 22.05).
    """
    rows = [line.split("|") for line in answer.splitlines()]
    tasks = [row for row in rows if "." not in row[0]]
    known = {row[0].partition("_")[0] for row in tasks}
    if not known.issuperset(jobs) or any(row[1].startswith(_LIVE) for row in tasks):
        return None
    return Charge(
        cpu_s=sum(_seconds(row[2]) for row in tasks),
        core_s=sum(int(row[3]) for row in tasks),
    )


def _seconds(text: str) -> float:
    """Return seconds from ``[[days-]hours:]minutes:seconds[.milliseconds]``."""
    days, _, clock = text.rpartition("-")
    total = 0.0
    for part in clock.split(":"):
        total = 60 * total + float(part)
    return total + 86400 * int(days or 0)
