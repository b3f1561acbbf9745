"""Decides what became of the core-seconds that a scheduler charged: how many went into tasks, and where the rest went.

Accounting says what was charged, array task by array task; the workers' journals say how they spent it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hpcflow.core.model import Cause
from hpcflow.core.words import counted

__all__ = ["PARTS", "Spent", "Submission", "account", "amount", "percents", "sentences", "shares_of"]

# Any in this module: what the store keeps of an array task's end is JSON, as `LiveArray.row` wrote it.
End = Mapping[str, Any]

#: Slurm's CPUTimeRAW is whole seconds times CPUs (sacct(1), 22.05); so is an array task's time, at both of its ends.
_CLOCK_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One job array that a scheduler took."""

    width: int
    #: Cores that one array task asked for.
    cores: int
    #: Nothing of it lives, and its workers' journals were read to their ends.
    over: bool
    #: Of each array task that ended, what is known of its end.
    ends: Mapping[int, End]


@dataclass(slots=True, kw_only=True)
class Spent:
    """What job arrays cost, in core-seconds, and what became of their array tasks.

    ``charged_s`` is the sum of the parts that `PARTS` names.
    """

    charged_s: float = 0.0
    #: In tasks, whether they completed or not: run time times cores.
    tasks_s: float = 0.0
    #: In workers that claimed, forked, wrote records and loaded functions.
    overhead_s: float = 0.0
    #: In workers that waited for more to come.
    idle_s: float = 0.0
    #: In slots that had left while others of their array task went on, or had never come up.
    slots_s: float = 0.0
    #: Before a worker's first line and after its last one; array tasks whose worker never wrote one are in here.
    startup_s: float = 0.0
    #: In workers that were killed: from their last line on.
    killed_s: float = 0.0
    #: On cores that were charged and not asked for: whole nodes, cores of a node that come in pairs.
    beyond_s: float = 0.0
    #: What the parts above are more than was charged, below zero; more than ``rounding_s`` of it is unexplained.
    rest_s: float = 0.0
    #: What the scheduler's counting in whole seconds can amount to.
    rounding_s: float = 0.0
    #: Not charged: earlier runs of array tasks that were requeued. Slurm shows them with `sacct --duplicates` alone.
    requeued_s: float = 0.0
    #: Array tasks: all; those that ran a task; those that began and ran none; those that left the queue before; those
    #: that are not over; those that are over and of whose end nothing was told. The last five add up to the first.
    submitted: int = 0
    used: int = 0
    in_vain: int = 0
    not_begun: int = 0
    open: int = 0
    unknown: int = 0
    #: Of those that began, array tasks of which accounting told no charge.
    uncharged: int = 0

    @property
    def complete(self) -> bool:
        """All that was charged is known."""
        return not (self.open or self.unknown or self.uncharged)

    @property
    def unexplained_s(self) -> float:
        """What is neither in a part nor rounding."""
        return max(0.0, -self.rest_s - self.rounding_s)


#: The parts, in words, in the order in which they are told.
PARTS: Final[Mapping[str, str]] = {
    "tasks_s": "running tasks",
    "idle_s": "waiting for more",
    "startup_s": "start-up and end",
    "overhead_s": "workers' own work",
    "slots_s": "empty slots",
    "killed_s": "killed workers",
    "beyond_s": "cores nobody asked for",
    "rest_s": "rounding",
}


def account(arrays: Iterable[Submission]) -> Spent:
    """Return what these arrays cost, as far as it is known."""
    spent = Spent()
    for array in arrays:
        spent.submitted += array.width
        if not array.over:
            spent.open += array.width
            continue
        for index in range(array.width):
            _add(spent, array.cores, array.ends.get(index))
    return spent


def _add(spent: Spent, cores: int, end: End | None) -> None:
    if end is None:
        spent.unknown += 1
        return
    charged: float | None = end["core_seconds"]
    worker: End | None = end["usage"]
    if worker is None and not charged and end["cause"] == Cause.CANCELLED:
        spent.not_begun += 1
        return
    if worker is not None and worker["tasks"]:
        spent.used += 1
    else:
        spent.in_vain += 1
    if charged is None:
        spent.uncharged += 1
        return
    elapsed: float | None = end.get("elapsed_s")
    asked = min(charged, cores * elapsed) if elapsed else charged
    spent.charged_s += charged
    spent.beyond_s += charged - asked
    spent.rounding_s += _CLOCK_S * (charged / elapsed if elapsed else cores)
    if worker is None:
        spent.startup_s += asked
        return
    each: int = worker["cores"]
    tasks, idle = worker["tasks_s"] * each, worker["idle_s"] * each
    overhead = max(0.0, worker["span_s"] * each - tasks - idle)
    slots = max(0.0, worker["up_s"] * cores - worker["span_s"] * each)
    spent.tasks_s += tasks
    spent.idle_s += idle
    spent.overhead_s += overhead
    spent.slots_s += slots
    spent.requeued_s += worker["earlier_s"] * each
    rest = asked - tasks - idle - overhead - slots
    if rest < 0:
        spent.rest_s += rest
    elif worker["unfinished"]:
        spent.killed_s += rest
    else:
        spent.startup_s += rest


# ---- in words


#: Core-seconds of each unit.
_UNITS: Final[Mapping[str, float]] = {"core-hours": 3600.0, "core-minutes": 60.0, "core-seconds": 1.0}


def sentences(spent: Spent) -> tuple[str, ...]:
    """Return what was charged and used, what became of the array tasks, and what is not known, a sentence each."""
    if not spent.submitted:
        return ("Nothing was submitted.",)
    said: list[str] = []
    if spent.charged_s:
        shares = shares_of(spent)
        told = [f"{share} % {PARTS[part]}" for part, share in shares.items() if share and part != "tasks_s"]
        ran = f"A task was running in {shares['tasks_s']} % of {amount(spent.charged_s)} charged"
        said.append(f"{ran}{'; the rest: ' if told else ''}{', '.join(told)}.")
    counts = (
        (spent.used, "used"),
        (spent.in_vain, "began and ran no task"),
        (spent.not_begun, "cancelled before they began"),
        (spent.open, "whose end and cost accounting has not told yet"),
        (spent.unknown, "of unknown end"),
    )
    told = [f"{number} {words}" for number, words in counts if number]
    if spent.open == spent.submitted:
        over = "it is over, nor what it" if spent.open == 1 else "they are over, nor what they"
        return (f"{counted(spent.open, 'array task')}: accounting has not told yet that {over} cost.",)
    said.append(f"{counted(spent.submitted, 'array task')}: {', '.join(told)}.")
    if silent := spent.unknown + spent.uncharged:
        said.append(f"Accounting did not tell what {counted(silent, 'array task')} cost.")
    if spent.unexplained_s:
        said.append(f"{amount(spent.unexplained_s)} more were spent than charged, which rounding does not explain.")
    return tuple(said)


def amount(core_seconds: float) -> str:
    """Return an amount in the largest unit of which it has one."""
    name = next((name for name, size in _UNITS.items() if core_seconds >= size), "core-seconds")
    return f"{core_seconds / _UNITS[name]:.1f} {name}"


def shares_of(spent: Spent) -> dict[str, int]:
    """Return whole percents of each part, which add up to 100; rounding, which is below zero, is no part of a whole."""
    # Of what the API tells, in milliseconds: the page makes the same percents of it.
    return dict(zip(PARTS, percents([max(0.0, round(getattr(spent, part), 3)) for part in PARTS]), strict=True))


def percents(parts: Sequence[float]) -> list[int]:
    """Return whole percents of what the parts amount to, which add up to 100: those cut most are rounded up."""
    whole = sum(parts)
    if not whole:
        return [0] * len(parts)
    exact = [100 * part / whole for part in parts]
    told = [math.floor(share) for share in exact]
    # Rounded, so that of equal ones it is the first here and on the page, and not what the last bit of a float says.
    for place in sorted(range(len(parts)), key=lambda k: round(told[k] - exact[k], 6))[: 100 - sum(told)]:
        told[place] += 1
    return told
