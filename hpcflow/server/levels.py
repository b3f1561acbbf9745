"""A dispatch as a client names it: the one that it sent, or a child of it, whose tasks are a part of that one's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hpcflow.core.model import DispatchId, NotFound, UserError
from hpcflow.core.states import State, Status
from hpcflow.server.store import PART, ChildRow, DispatchRow, Store

__all__ = ["Level", "Levels", "find_level"]

Json = dict[str, Any]  # Any: JSON, described in schema.py

_STATUS = {State.COMPLETED: Status.COMPLETED, State.FAILED: Status.FAILED, State.CANCELLED: Status.CANCELLED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One lattice of a dispatch: that itself, or a sublattice. Numbers of its tasks begin with 0 for clients."""

    id: DispatchId
    #: The dispatch that the client sent.
    root: DispatchId
    #: ``None``: it is that one.
    child: ChildRow | None
    tasks: range
    #: All children of the root.
    children: tuple[ChildRow, ...]
    #: Their ids by the tasks that they are, in the root's numbers.
    inner: Mapping[int, DispatchId]

    def within(self) -> list[range]:
        """Return the tasks of this level and of all below it, in the root's numbers."""
        found = [self.tasks]
        for child in self.children:  # each after the one that it lies in
            if any(child.task in tasks for tasks in found):
                found.append(child.tasks)
        return found

    def parent(self) -> Json | None:
        """Return which task of which dispatch this one is, ``None`` for a whole dispatch."""
        if self.child is None:
            return None
        outer = next((child for child in self.children if self.child.task in child.tasks), None)
        first = outer.first if outer is not None else 0
        return {"dispatch": outer.id if outer is not None else self.root, "task": self.child.task - first}

    def numbers(self, indices: Iterable[int]) -> list[int]:
        """Return the root's numbers of tasks; of a whole dispatch those in sublattices may be meant as well.

        Raises:
            NotFound: there is no such task.
        """
        most = max((tasks.stop for tasks in self.within()), default=0) if self.child is None else len(self.tasks)
        wanted = list(indices)
        for index in wanted:
            if not 0 <= index < most:
                raise NotFound(f"Dispatch {self.id} has no task {index}.")
        return [index + self.tasks.start for index in wanted]

    def refuse_part(self, verb: str) -> None:
        """Raise `UserError` where only whole dispatches are meant."""
        if self.child is not None:
            raise UserError(
                f"{self.id} is a sublattice in dispatch {self.root}, and only a whole dispatch can be {verb}: name "
                f"{self.root}."
            )

    def seen(self, row: DispatchRow, store: Store) -> DispatchRow:
        """Return the row of this level: of a child made from that of its root, and from its own task."""
        if self.child is None:
            return row
        task = store.task(self.root, self.child.task)
        assert task is not None  # it built this child
        return replace(
            row,
            id=self.id,
            name=self.child.name,
            status=_STATUS.get(task.state, Status.RUNNING),
            started_at=task.started_at,
            ended_at=task.ended_at,
            error=task.error,
            n_tasks=self.child.n_tasks,
            counts=store.counts(self.root, self.within()),
        )


class Levels:
    """Finds what clients name, off the event loop. Raises `NotFound` for an id that nothing has."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def level(self, dispatch: str) -> Level:
        level = await asyncio.to_thread(find_level, self._store, DispatchId(dispatch))
        if level is None:
            raise NotFound(f"There is no dispatch {dispatch} here. `hpcflow dispatches` lists those there are.")
        return level

    async def place(self, dispatch: str, index: int) -> tuple[DispatchId, int]:
        """Return the whole dispatch that a task is of, and its number there."""
        level = await self.level(dispatch)
        return level.root, level.numbers([index])[0]

    async def whole(self, dispatch: str, verb: str) -> DispatchId:
        """Return the id of a dispatch of which something is asked that a sublattice can't do by itself.

        Raises:
            UserError: it is a sublattice, and only a whole dispatch can be ``verb``, "paused".
        """
        level = await self.level(dispatch)
        level.refuse_part(verb)
        return level.root


def find_level(store: Store, dispatch: DispatchId) -> Level | None:
    """Return what an id names, ``None`` when nothing has it."""
    row = store.dispatch(dispatch)
    child = store.child(dispatch) if row is None else None
    if child is not None and child.task == PART:
        return None  # its tasks are the dispatch's own
    if child is not None:
        children: Sequence[ChildRow] = store.children(child.dispatch)
        return _level(dispatch, child.dispatch, child, child.tasks, children)
    return None if row is None else _level(dispatch, dispatch, None, range(row.n_tasks), store.children(dispatch))


def _level(
    known: DispatchId, root: DispatchId, child: ChildRow | None, tasks: range, children: Sequence[ChildRow]
) -> Level:
    inner = {each.task: each.id for each in children}
    return Level(id=known, root=root, child=child, tasks=tasks, children=tuple(children), inner=inner)
