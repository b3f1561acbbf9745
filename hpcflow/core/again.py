"""Which tasks run again when somebody asks for it, and what holds those back that do not."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from hpcflow.core.graphs import waves
from hpcflow.core.model import Graph, Task
from hpcflow.core.states import FINAL, State

__all__ = ["held_by", "holders", "runs_again", "skipped_by", "stay", "why_skipped"]

_LOST: Final = FINAL - {State.COMPLETED}
_ENDED_BADLY: Final = frozenset({State.FAILED, State.CANCELLED})
_Needs = tuple[int, int]


def runs_again(
    graph: Graph, states: Sequence[State], *, failed_only: bool, only: Collection[int] | None = None
) -> list[int]:
    """Return the tasks that get a further attempt, each after what it needs.

    Args:
        graph: of the dispatch, with its sublattices.
        states: of its tasks.
        failed_only: spare those that were cancelled, and what hangs on them.
        only: these tasks, and what was skipped because of them alone; ``None``: all.
    """
    ends = {State.FAILED} if failed_only else _ENDED_BADLY
    chosen: list[int] = []
    wanted: set[int] = set()
    known: dict[_Needs, bool] = {}  # what a stage has in common is looked at once

    def can_run(task: Task) -> bool:
        key = _key(task)
        if key not in known:
            known[key] = all(upstream in wanted or states[upstream] not in _LOST for upstream in _needs(task))
        return task.accept_failed or known[key]

    for wave in waves(graph):
        for index in wave:
            revived = states[index] is State.SKIPPED and can_run(graph.tasks[index])
            if (states[index] in ends and (only is None or index in only)) or revived:
                chosen.append(index)
                wanted.add(index)
    return chosen


def held_by(graph: Graph, states: Sequence[State]) -> dict[int, int]:
    """Return for each skipped task the first failed or cancelled one because of which it can't run."""
    found: dict[int, int] = {}
    known: dict[_Needs, int | None] = {}
    for wave in waves(graph):
        for index in wave:
            if states[index] is not State.SKIPPED:
                continue
            task = graph.tasks[index]
            if (key := _key(task)) not in known:
                known[key] = _first(_needs(task), states, found)
            if (holder := known[key]) is not None:
                found[index] = holder
    return found


def _first(upstreams: Iterable[int], states: Sequence[State], found: Mapping[int, int]) -> int | None:
    held: list[int] = []
    for upstream in upstreams:
        if states[upstream] in _ENDED_BADLY:
            held.append(upstream)
        elif upstream in found:
            held.append(found[upstream])
    return min(held, default=None)


def stay(graph: Graph, states: Sequence[State], chosen: Collection[int]) -> dict[int, int]:
    """Return the skipped tasks behind those that run again which stay so, each with a task that holds it back."""
    again, behind = frozenset(chosen), set[int]()
    known: dict[_Needs, bool] = {}
    for wave in waves(graph):
        for index in wave:
            task = graph.tasks[index]
            if states[index] is not State.SKIPPED or index in again:
                continue
            if (key := _key(task)) not in known:
                known[key] = any(upstream in again or upstream in behind for upstream in _needs(task))
            if known[key]:
                behind.add(index)
    after = [State.WAITING if index in again else state for index, state in enumerate(states)]
    return {index: holder for index, holder in held_by(graph, after).items() if index in behind} if behind else {}


def skipped_by(graph: Graph, states: Sequence[State], cancelled: Collection[int]) -> list[int]:
    """Return the tasks that will not run once these are cancelled: they need one of them, at once or by others."""
    lost = set(cancelled)
    found: list[int] = []
    known: dict[_Needs, bool] = {}
    for wave in waves(graph):
        for index in wave:
            task = graph.tasks[index]
            if task.accept_failed or index in lost or states[index] in FINAL:
                continue
            if (key := _key(task)) not in known:
                known[key] = any(upstream in lost for upstream in _needs(task))
            if known[key]:
                found.append(index)
        lost.update(found)
    return found


def holders(tasks: Sequence[Task], states: Sequence[State], index: int) -> list[int]:
    """Return all failed and cancelled tasks because of which a skipped one can't run, ascending."""
    seen, looked_at, found = {index}, [index], list[int]()
    while looked_at:
        for upstream in _needs(tasks[looked_at.pop()]):
            if upstream in seen:
                continue
            seen.add(upstream)
            if states[upstream] in _ENDED_BADLY:
                found.append(upstream)
            elif states[upstream] is State.SKIPPED:
                looked_at.append(upstream)
    return sorted(found)


def why_skipped(name: str, index: int, state: State) -> str:
    """Return in a sentence why a task does not run of which the named one was lost."""
    return f"Not run, because {name} (task {index}) {'was cancelled' if state is State.CANCELLED else 'failed'}."


def _key(task: Task) -> _Needs:
    # Tasks of a stage share the tuples themselves; to compare ten thousand numbers for each would take long.
    return id(task.deps), id(task.after)


def _needs(task: Task) -> tuple[int, ...]:
    return (*task.deps, *task.after)
