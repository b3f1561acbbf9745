"""Decides what to ask for the next time, from what tasks asked for and what they used."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from hpcflow.core.model import Partition
from hpcflow.core.words import length
from hpcflow.core.words import memory as amount

__all__ = ["ENOUGH", "Advice", "Ask", "Lack", "Runs", "Shortage", "advise", "beyond", "quantile", "spelled"]

#: So many tasks have to have ended well before less is advised.
ENOUGH: Final = 5
#: What is advised beyond the most that was used.
_MEMORY_MARGIN: Final = 1.3
_TIME_MARGIN: Final = 1.5
_CORES_MARGIN: Final = 1.1
#: Less is advised only where it is less by so much: the scheduler's own grain would eat a smaller gain.
_WORTH_MEMORY: Final = 0.7
_WORTH_TIME: Final = 0.5
#: A worker and an interpreter need this much themselves, and to the scheduler they are one job with their task.
_LEAST_MIB: Final = 256
#: Of shorter tasks the start is most of the time, and says nothing about cores.
_SHORTEST_S: Final = 1.0
_SHORTEST_WALLTIME_S: Final = 60.0
#: What ran out is asked for so many times.
_MORE: Final = 1.5
#: Who had this much more than was asked for was growing fast when it was ended: where that leads to nobody saw.
_FAST: Final = 1.25
_MUCH_MORE: Final = 2.0


#: What a task can run out of.
Lack = Literal["memory", "walltime"]


class Shortage(NamedTuple):
    """What one attempt had too little of, in MiB or in seconds."""

    lack: Lack
    #: What it asked for; ``None``: what the cluster gives to those that say nothing.
    asked: int | None
    #: What it is known to have used at least; 0: nobody measured.
    used: float = 0.0


class Ask(NamedTuple):
    """What a task's next attempt asks for; ``None``: as much as its last one."""

    memory_mib: int | None = None
    walltime_s: int | None = None


@dataclass(slots=True)
class Runs:
    """How attempts ended of tasks of one electron that asked for the same on one cluster."""

    #: What one task asks for; ``None``: what the cluster gives to those that say nothing.
    cores: int
    #: Ranks whose cores are counted in ``cores``: of them only one process is measured.
    ntasks: int = 1
    memory_mib: int | None = None
    walltime_s: int | None = None
    #: Of those that ended well: seconds, core-seconds, and peak memory in KiB, in one order.
    wall_s: array[float] = field(default_factory=lambda: array("d"))
    cpu_s: array[float] = field(default_factory=lambda: array("d"))
    rss_kib: array[float] = field(default_factory=lambda: array("d"))
    #: Attempts that ended otherwise, and of these how many for want of memory and of time.
    lost: int = 0
    short_of_memory: int = 0
    short_of_time: int = 0
    #: The most memory that any had which was ended for it, in KiB.
    short_kib: float = 0.0
    #: Of all attempts: core-seconds held, and used.
    held_core_s: float = 0.0
    used_core_s: float = 0.0
    #: Of what was held: by attempts that did not return, or whose task ran again all the same.
    lost_core_s: float = 0.0

    def add(
        self, end: str, wall_s: float | None, cpu_s: float | None, rss_kib: float | None, *, again: bool = False
    ) -> None:
        """Count one attempt.

        Args:
            end: how its worker saw it end, as in its journal.
            wall_s: seconds it ran; ``None``: nobody measured.
            cpu_s: core-seconds it used.
            rss_kib: its peak resident memory, or what it had when it was ended for it.
            again: a later attempt of the same task ended as well.
        """
        if wall_s is not None:
            self.lost_core_s += wall_s * self.cores if again or end != "ok" else 0.0
            self.held_core_s += wall_s * self.cores
            self.used_core_s += cpu_s or 0.0
        if end == "ok" and wall_s is not None:
            self.wall_s.append(wall_s)
            self.cpu_s.append(cpu_s or 0.0)
            self.rss_kib.append(rss_kib or 0.0)
            return
        self.lost += end != "ok"
        if end == "memory":
            self.short_of_memory += 1
            self.short_kib = max(self.short_kib, rss_kib or 0.0)
        self.short_of_time += end == "timeout"

    def join(self, other: Runs) -> None:
        """Count those of another dispatch as well."""
        self.wall_s += other.wall_s
        self.cpu_s += other.cpu_s
        self.rss_kib += other.rss_kib
        self.lost += other.lost
        self.short_of_memory += other.short_of_memory
        self.short_of_time += other.short_of_time
        self.short_kib = max(self.short_kib, other.short_kib)
        self.held_core_s += other.held_core_s
        self.used_core_s += other.used_core_s
        self.lost_core_s += other.lost_core_s

    @property
    def cores_used(self) -> Sequence[float]:
        """Cores that each of the longer tasks kept busy."""
        return [cpu / wall for wall, cpu in zip(self.wall_s, self.cpu_s, strict=True) if wall >= _SHORTEST_S]


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What to ask for; ``None`` where it is well as it is, or nothing is known."""

    cpus: int | None = None
    memory_mib: int | None = None
    walltime_s: int | None = None
    #: Why, a sentence for each.
    why: tuple[str, ...] = ()

    @property
    def options(self) -> str:
        """What to write into ``@hf.electron(...)``."""
        said = [f"cpus={self.cpus}"] if self.cpus is not None else []
        said += [f'memory="{amount(self.memory_mib)}"'] if self.memory_mib is not None else []
        said += [f'walltime="{math.ceil(self.walltime_s / 60)} min"'] if self.walltime_s is not None else []
        return ", ".join(said)


def advise(*kinds: Runs) -> Advice:
    """Return what tasks of one electron had better ask for; with less than `ENOUGH` of them only what ran out.

    Args:
        kinds: its tasks, those together that asked for the same. What one kind has shown counts for all: what is
            known to have been too little is never advised.
    """
    cpus, cpus_why = _cpus(kinds)
    memory, memory_why = _memory(kinds)
    walltime, walltime_why = _walltime(kinds)
    why = tuple(text for text in (cpus_why, memory_why, walltime_why) if text)
    return Advice(cpus=cpus, memory_mib=memory, walltime_s=walltime, why=why)


def beyond(shortages: Iterable[Shortage], partition: Partition | None = None) -> int | None:
    """Return what tasks that ran out of one thing had better ask for next, in MiB or in seconds: all of them the same.

    It is half as much again as was asked for, of memory 256 MiB more at least, or more than was used where that is
    known to be more: twice as much where memory grew far beyond what was asked for before that was seen. Where it would
    have ended nobody saw. This is the only rule for that: whatever names an amount has it from here.

    Args:
        shortages: attempts that ran out of the same.
        partition: where they ran, as far as it is known: no more is advised than it gives.

    Returns:
        ``None`` where nothing is known to begin with, or there is no more to be had.
    """
    wanted = most = had = 0
    for lack, asked, used in shortages:
        had = max(had, asked or 0)
        if lack == "memory":
            least, _ = _least_beyond(asked, used)
            wanted = max(wanted, _round_up(least) if least else 0)
            most = (partition.memory_mib_per_node if partition is not None else None) or 0
        else:
            wanted = max(wanted, _minutes(max((asked or 0) * _MORE, used * _TIME_MARGIN)))
            most = (partition.max_walltime_s if partition is not None else None) or 0
    if most and wanted > most:
        return most if most > had else None
    return wanted or None


def spelled(lack: Lack, number: int) -> str:
    """Return an amount of what ran out as it may be asked for."""
    return amount(number) if lack == "memory" else length(number)


def quantile(values: Sequence[float], share: float) -> float | None:
    """Return the smallest of the values that is not less than ``share`` of them; ``None`` without values."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _cpus(kinds: Sequence[Runs]) -> tuple[int | None, str]:
    alone = [runs for runs in kinds if runs.ntasks == 1]
    busy = [cores for runs in alone for cores in runs.cores_used]
    cores = max((runs.cores for runs in alone), default=1)
    if cores < 2 or len(alone) < len(kinds) or len(busy) < ENOUGH:
        return None, ""
    most = quantile(busy, 0.95) or 0.0
    wanted = max(1, math.ceil(most * _CORES_MARGIN - 0.05))
    if wanted >= cores:
        return None, ""
    return (
        wanted,
        f"Of {cores} cores, 95 % of the tasks keep {most:.1f} or fewer busy; 10 % are added, in whole cores.",
    )


def _memory(kinds: Sequence[Runs]) -> tuple[int | None, str]:
    peak_mib = max((kib for runs in kinds for kib in runs.rss_kib), default=0.0) / 1024
    short = [runs for runs in kinds if runs.short_of_memory]
    least = peak_mib * _MEMORY_MARGIN
    if short:
        too_little = max(runs.memory_mib or 0 for runs in short)
        had_mib = max(peak_mib, *(runs.short_kib / 1024 for runs in short))
        number = sum(runs.short_of_memory for runs in short)
        if (enough := _enough(((runs.memory_mib, runs) for runs in kinds), max(too_little, had_mib))) is not None:
            least = had_mib * _MEMORY_MARGIN
            wanted = min(enough, _round_up(max(least, too_little + 1)))
            told = f"{number} ran out of memory" + (f" with {amount(too_little)} or less" if too_little else "")
            had = f"with more the largest took {amount(math.ceil(peak_mib))}" if peak_mib else "more was enough"
            return wanted, f"{told}; {had}{_rounded_how(wanted, enough, least)}"
        largest = max(short, key=lambda runs: runs.memory_mib or 0)
        first = beyond([Shortage("memory", largest.memory_mib, had_mib)])
        if first is None:
            return None, ""
        least, first_try = _least_beyond(largest.memory_mib, had_mib)
        return first, f"{number} ran out of memory: {first_try}, rounded up to {_step(least)}."
    asked = max((runs.memory_mib or 0 for runs in kinds), default=0)
    ended = sum(len(runs.rss_kib) for runs in kinds)
    if not asked or ended < ENOUGH or not peak_mib:
        return None, ""
    wanted = max(_LEAST_MIB, _round_up(least))
    if wanted > _WORTH_MEMORY * asked:
        return None, ""
    how = f"rounded up to {_step(least)}"
    if _round_up(least) < _LEAST_MIB:
        how = f"and less than {_LEAST_MIB} MiB is never advised: worker and interpreter need that"
    return wanted, f"The largest of {ended} took {amount(math.ceil(peak_mib))}; 30 % are added, {how}."


def _walltime(kinds: Sequence[Runs]) -> tuple[int | None, str]:
    longest = max((wall for runs in kinds for wall in runs.wall_s), default=0.0)
    too_little = max((runs.walltime_s or 0 for runs in kinds if runs.short_of_time), default=0)
    told = "less than 1 s" if longest < 1 else f"{longest:.0f} s" if longest < 120 else f"{longest / 60:.0f} min"
    if too_little:
        number = sum(runs.short_of_time for runs in kinds)
        if (enough := _enough(((runs.walltime_s, runs) for runs in kinds), too_little)) is not None:
            wanted = min(enough, _minutes(max(longest * _TIME_MARGIN, too_little + 1)))
            return wanted, (
                f"{number} ran out of time with {length(too_little)} or less; with more the longest took {told}: with "
                f"50 % and whole minutes, and no more than was enough, that is {length(wanted)}."
            )
        wanted = beyond([Shortage("walltime", too_little, longest)]) or 0
        return wanted, f"{number} ran out of time: half as much again is a first try, in whole minutes."
    asked = max((runs.walltime_s or 0 for runs in kinds), default=0)
    ended = sum(len(runs.wall_s) for runs in kinds)
    if not asked or ended < ENOUGH:
        return None, ""
    wanted = _minutes(max(longest * _TIME_MARGIN, _SHORTEST_WALLTIME_S))
    if wanted > _WORTH_TIME * asked:
        return None, ""
    return wanted, f"The longest of {ended} took {told}; 50 % are added, in whole minutes. Short jobs start sooner."


def _enough(asked: Iterable[tuple[int | None, Runs]], too_little: float) -> int | None:
    """Return the least that is more than what was too little and with which tasks returned."""
    return min((number for number, runs in asked if number and number > too_little and runs.wall_s), default=None)


def _rounded_how(wanted: int, enough: int, least: float) -> str:
    return ", and that was enough." if wanted == enough else f"; 30 % are added, rounded up to {_step(least)}."


def _minutes(seconds: float) -> int:
    return 60 * math.ceil(seconds / 60)


def _round_up(mib: float) -> int:
    """Return an amount that people would write: in steps of 64 MiB, 512 MiB, or whole GiB."""
    step = _steps(mib)
    return step * math.ceil(mib / step)


def _steps(mib: float) -> int:
    return 64 if mib <= 1024 else 512 if mib <= 8192 else 1024


def _step(mib: float) -> str:
    return f"a multiple of {amount(_steps(mib))}"


def _least_beyond(asked_mib: int | None, used_mib: float) -> tuple[float, str]:
    """Return how much to ask for after memory ran out, and how that comes; 0.0: nothing is known to begin with."""
    asked = asked_mib or 0
    had = f"the largest had {amount(math.ceil(used_mib))} when it was ended"
    ways = [
        (used_mib * _MEMORY_MARGIN, f"{had}; 30 % are added"),
        (asked * _MORE, "half as much again is a first try"),
    ]
    if used_mib > asked * _FAST and asked:
        ways.append((used_mib * _MUCH_MORE, f"{had}; as much again is added"))
    if asked or used_mib:
        ways.append((max(asked, used_mib) + _LEAST_MIB, f"{_LEAST_MIB} MiB more are a first try"))
    return max(ways)
