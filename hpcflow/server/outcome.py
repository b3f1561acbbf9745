"""How a lattice ended, from how its tasks did, and in which words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from hpcflow.core.again import held_by, why_skipped
from hpcflow.core.causes import cause_of, spoken
from hpcflow.core.states import State
from hpcflow.core.words import counted, these

if TYPE_CHECKING:
    from hpcflow.server.live import LiveDispatch

__all__ = ["explain_skipped", "outcome", "told_cancelled", "told_failed"]

#: Causes that are told, and tasks of each that are named.
_CAUSES: Final = 4
_NAMED: Final = 3
#: Names of a path into sublattices that are told.
_LEVELS: Final = 6


def outcome(live: LiveDispatch, level: range, output_deps: Iterable[int]) -> tuple[list[int], list[int]]:
    """Return the tasks of a lattice that failed or were cancelled, without those that nobody misses."""
    lost = [index for index in level if live.tasks[index].state is not State.COMPLETED]
    accepted = _accepted(live, lost, set(output_deps))
    missed = [index for index in lost if index not in accepted]
    return (
        [index for index in missed if live.tasks[index].state is State.FAILED],
        [index for index in missed if live.tasks[index].state is State.CANCELLED],
    )


def _accepted(live: LiveDispatch, lost: Sequence[int], wanted: set[int]) -> set[int]:
    """Return the tasks without a result that nobody misses: all that waited for it accepts failures."""
    accepted: set[int] = set()
    grew = True
    while grew:
        grew = False
        for index in reversed(lost):
            children = live.downstream[index]
            if index in accepted or index in wanted or not children:
                continue
            if all(live.graph.tasks[child].accept_failed or child in accepted for child in children):
                accepted.add(index)
                grew = True
    return accepted


def told_failed(live: LiveDispatch, failed: Sequence[int], level: range, of: str = "") -> str:
    """Return in Covalent's words which tasks of a lattice failed, and why: those of one cause together.

    Args:
        live: the dispatch.
        failed: those of the lattice's own that somebody misses.
        level: its tasks.
        of: whose they are, as the sentence begins.
    """
    causes: dict[tuple[tuple[str, ...], str], list[tuple[int, int]]] = {}
    for index in failed:
        path = _to_the_first(live, index)
        names = tuple(live.graph.tasks[task].name for task in path)
        causes.setdefault((names, cause_of(None, live.tasks[path[-1]].error)), []).append((index, path[-1]))
    said: list[str] = []
    for (names, _), tasks in list(causes.items())[:_CAUSES]:
        numbers = ", ".join(str(index - level.start) for index, _ in tasks[:_NAMED])
        others = f" and {len(tasks) - _NAMED} more" if len(tasks) > _NAMED else ""
        where = _spelled(live, names, tasks)
        why = spoken([live.tasks[first].error for _, first in tasks]).rstrip(".")
        said.append(f"{numbers}{others}: {where}: {why}")
    if rest := sum(len(tasks) for tasks in list(causes.values())[_CAUSES:]):
        said.append(f"and {rest} more")
    return f"{f'{of}the' if of else 'The'} following tasks failed: {'; '.join(said)}"


def _to_the_first(live: LiveDispatch, index: int) -> list[int]:
    """Return a task that failed and, of a sublattice, that of its tasks which failed first in it, and so on down."""
    path = [index]
    while (child := live.tasks[path[-1]].child) is not None:
        failed, _ = outcome(live, child.tasks, child.output_deps)
        if not failed:  # it is of its own, as where it could not be built
            break
        path.append(failed[0])
    return path


def _spelled(live: LiveDispatch, names: Sequence[str], tasks: Sequence[tuple[int, int]]) -> str:
    """Return where tasks of one cause failed: "relax", "refine / relax 12", "refine: 5 tasks failed, first relax 12".

    Args:
        live: the dispatch.
        names: of the task, and of those in it down to the one that failed.
        tasks: the tasks, each with the one in it that failed first, whose number is that in its sublattice.
    """
    if len(names) == 1:
        return names[0]
    most = _LEVELS // 2
    shown = names if len(names) <= _LEVELS else (*names[:most], "…", *names[-most:])
    family = live.family(index for index, _ in tasks)
    number = sum(live.tasks[task].state is State.FAILED and live.tasks[task].child is None for task in family)
    first = tasks[0][1]
    level = live.tasks[first].level
    own = first - level.first if level is not None else first
    if number <= len(tasks):
        return f"{' / '.join(shown)} {own}"
    return f"{shown[0]}: {counted(number, 'task')} failed, first {' / '.join(shown[1:])} {own}"


def told_cancelled(live: LiveDispatch, cancelled: Sequence[int], level: range, of: str = "") -> str:
    """Return in a sentence what became of a lattice of which some tasks were cancelled, and by whom.

    Args:
        live: the dispatch.
        cancelled: those of the lattice's own that somebody misses.
        level: its tasks.
        of: whose they are, as the sentence begins.
    """
    family = live.family(level)
    single = [k for k in family if live.tasks[k].state is State.CANCELLED and live.tasks[k].child is None]
    if not single or not all((live.tasks[k].error or "").startswith("Cancelled by you") for k in single):
        return live.tasks[cancelled[0]].error or "Cancelled."
    counts = Counter(live.tasks[index].state for index in family)
    number, outer = len(single), counts[State.CANCELLED] - len(single)
    mine = [index for index in level if live.tasks[index].state is State.CANCELLED]
    named = [
        f"{'in ' if live.tasks[k].child else ''}{live.graph.tasks[k].name} {k - level.start}" for k in mine[:_NAMED]
    ]
    others = f" and {len(mine) - _NAMED} more" if len(mine) > _NAMED else ""
    said = [
        f"{of}{counted(number, 'task')} {these(number, 'was', 'were')} cancelled by you ({', '.join(named)}{others})"
    ]
    if outer:
        said.append(f"and {counted(outer, 'sublattice')} with {these(number, 'it', 'them')}")
    if skipped := counts[State.SKIPPED]:
        said.append(f"{skipped} {these(skipped, 'was', 'were')} not run because of {these(number, 'it', 'them')}")
    if failed := counts[State.FAILED]:
        said.append(f"{failed} failed")
    said.append(f"{counts[State.COMPLETED]} completed")
    return f"{', '.join(said)}."


def explain_skipped(live: LiveDispatch) -> None:
    """Let skipped tasks name what holds them now: what did so first may run again, or have completed."""
    states = [task.state for task in live.tasks]
    for index, holder in held_by(live.graph, states).items():
        text = why_skipped(live.graph.tasks[holder].name, holder, states[holder])
        if live.tasks[index].error != text:
            live.tasks[index].error = text
            live.dirty.add(index)
