"""What tasks wait for, kept once for all that wait for the same: a barrier between stages is no bundle of edges."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hpcflow.core.model import Graph

__all__ = ["Need", "downstream", "followers", "needs", "waiting"]


@dataclass(slots=True, eq=False)
class Need:
    """The wait that some tasks have in common."""

    #: What must have ended, each once.
    upstreams: tuple[int, ...]
    #: A failure of theirs will do as well.
    accept_failed: bool
    #: Those that wait, ascending.
    tasks: list[int]
    #: Of ``upstreams``, those that have not given what is waited for.
    missing: int


def needs(graph: Graph) -> list[Need]:
    """Return for each task what it waits for; tasks that wait for the same share one object."""
    known: dict[tuple[tuple[int, ...], tuple[int, ...], bool], Need] = {}
    found: list[Need] = []
    for task in graph.tasks:
        key = (task.deps, task.after, task.accept_failed)
        need = known.get(key)
        if need is None:
            upstreams = tuple(dict.fromkeys((*task.deps, *task.after)))
            need = known[key] = Need(upstreams, task.accept_failed, [], len(upstreams))
        need.tasks.append(task.index)
        found.append(need)
    return found


def waiting(needs: Sequence[Need], first: int = 0) -> list[tuple[Need, ...]]:
    """Return for each task the needs that it is to fill.

    Args:
        needs: of all tasks of one graph.
        first: the number of its first task.
    """
    filled: dict[int, list[Need]] = {}
    for need in dict.fromkeys(needs):
        for upstream in need.upstreams:
            filled.setdefault(upstream, []).append(need)
    # What tasks of a stage have in common is there once: a dispatch may have a million of them.
    known: dict[tuple[Need, ...], tuple[Need, ...]] = {}
    found = (tuple(filled.get(index, ())) for index in range(first, first + len(needs)))
    return [known.setdefault(each, each) for each in found]


def followers(waiting: Iterable[tuple[Need, ...]]) -> list[list[int]]:
    """Return for each task those that wait for it, ascending, from what `waiting` returned.

    Lists are shared where one need is all, or none: change none.
    """
    nobody: list[int] = []
    return [
        of[0].tasks if len(of) == 1 else sorted(task for need in of for task in need.tasks) if of else nobody
        for of in waiting
    ]


def downstream(graph: Graph) -> list[list[int]]:
    """Return for each task of a graph those that wait for it, as `followers` does."""
    return followers(waiting(needs(graph)))
