"""What a dispatch would submit, as the server answers it, and as a text that people read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hpcflow.core.words import counted
from hpcflow.sdk.answers import JsonObject

__all__ = ["Plan", "PlannedBag", "parse_plan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedBag:
    """One bag as it would be submitted."""

    electrons: tuple[str, ...]
    tasks: int
    cluster: str
    #: Only what differs from a cluster's defaults.
    resources: Mapping[str, object]
    #: Array tasks of each job array.
    widths: tuple[int, ...]
    #: ``None`` where tasks have no limit, and then there is no bound either.
    worker_walltime_s: int | None
    argv: tuple[str, ...]
    script: str
    core_hours_bound: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a dispatch would submit; nothing was. ``print(plan)`` shows all of it."""

    bags: tuple[PlannedBag, ...]
    #: No run of this plan can be charged more, retries apart; ``None``: there is no bound.
    core_hours_bound: float | None
    messages: tuple[str, ...]

    def __str__(self) -> str:
        parts = [*self.messages]
        shown: dict[str, int] = {}
        for number, bag in enumerate(self.bags, 1):
            parts.append(_describe(number, bag, shown.setdefault(_nameless(bag), number)))
        arrays = sum(len(bag.widths) for bag in self.bags)
        parts.append(
            f"{counted(sum(bag.tasks for bag in self.bags), 'task')} in {counted(len(self.bags), 'bag')} and "
            f"{counted(arrays, 'job array')}, {_bound(self.core_hours_bound)}. Nothing was submitted."
        )
        return "\n\n".join(parts)


def _nameless(bag: PlannedBag) -> str:
    """Return a bag's script without the names of its electrons, by which alone most scripts differ."""
    script = bag.script
    for name in sorted(bag.electrons, key=len, reverse=True):
        script = script.replace(name, "…")
    return script


def _describe(number: int, bag: PlannedBag, like: int) -> str:
    """Return a bag as text; the script of one whose ``like`` is an earlier bag has been shown there."""
    import shlex

    widths = " + ".join(map(str, bag.widths))
    walltime = "no limit" if bag.worker_walltime_s is None else f"{_hours(bag.worker_walltime_s)} each"
    lines = [
        f"Bag {number}: {counted(bag.tasks, 'task')} of {', '.join(bag.electrons)} on {bag.cluster}",
        f"  job arrays   {widths} wide, {walltime}, {_bound(bag.core_hours_bound)}",
    ]
    if bag.resources:
        asked = ", ".join(f"{name}={value}" for name, value in bag.resources.items())
        lines.append(f"  resources    {asked}")
    lines.append(f"  command      {shlex.join(bag.argv)}")
    if bag.script and like < number:
        lines.append(f"  its stdin    as for bag {like}")
    elif bag.script:
        lines += ["  its stdin", *(f"    {line}" for line in bag.script.splitlines())]
    return "\n".join(lines)


def parse_plan(raw: JsonObject) -> Plan:
    """Return a plan."""
    return Plan(
        bags=tuple(
            PlannedBag(
                electrons=tuple(bag["electrons"]),
                tasks=bag["tasks"],
                cluster=bag["cluster"],
                resources=dict(bag["resources"]),
                widths=tuple(bag["widths"]),
                worker_walltime_s=bag["worker_walltime_s"],
                argv=tuple(bag["argv"]),
                script=bag["script"],
                core_hours_bound=bag["core_hours_bound"],
            )
            for bag in raw["bags"]
        ),
        core_hours_bound=raw["core_hours_bound"],
        messages=tuple(raw.get("messages", ())),
    )


def _bound(core_hours: float | None) -> str:
    return "no bound on core-hours" if core_hours is None else f"at most {core_hours:.2f} core-hours"


def _hours(seconds: int) -> str:
    hours, rest = divmod(seconds, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
