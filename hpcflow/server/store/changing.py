"""What a new dispatch, and a change of what is known, write: rows, and what the event log tells of them.

Rows are packed before a transaction begins, for as long as it lasts nobody else reads or writes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

import sqlalchemy as sa

from hpcflow.core.model import DispatchId
from hpcflow.core.states import FINAL, State
from hpcflow.server.store import columns
from hpcflow.server.store.columns import Values, packed
from hpcflow.server.store.rows import Changes, DispatchRow, EventKind, StoreError, TaskRow
from hpcflow.server.store.statements import chunked, insert, insert_new, run, upsert
from hpcflow.server.store.tables import (
    ARRAY,
    BAG,
    CACHE,
    CHILD,
    DISPATCH,
    END,
    EVENT,
    MANIFEST,
    ORIGIN,
    RUN_TIME,
    TASK,
)

__all__ = ["Event", "adding", "changing", "log"]

if TYPE_CHECKING:
    _Select = sa.Select[*tuple[Any, ...]]

#: Whose it is, ``None`` for the server's own, and what it tells, as JSON.
Event = tuple[DispatchId | None, EventKind, Any]  # Any: JSON
_Keyed = TypeVar("_Keyed")
_Value = TypeVar("_Value")

#: Older run times count for this many tasks at most: what changed is learnt within as many.
_REMEMBERED: Final = 100


def adding(
    row: DispatchRow,
    manifest: Mapping[str, Any],  # Any: JSON
    tasks: Sequence[TaskRow],
    taken: Changes | None,
) -> Callable[[sa.Connection], bool]:
    """Return what stores a new dispatch, and returns False where its id is known already."""
    raw = packed(manifest)
    values = [columns.task_values(task) for task in tasks]

    def write(connection: sa.Connection) -> bool:
        if not run(connection, insert_new(DISPATCH), [columns.dispatch_values(row)]):
            return False
        run(connection, insert(MANIFEST), [(row.id, raw)])
        run(connection, insert(TASK), values)
        events: list[Event] = [(row.id, EventKind.ADDED, {"name": row.name, "tasks": len(tasks)})]
        if taken is not None:
            run(connection, insert_new(CHILD), [columns.child_values(*child) for child in taken.children])
            run(connection, insert_new(END), [columns.end_values(end) for end in taken.ends])
            run(connection, insert_new(ORIGIN), [columns.origin_values(origin) for origin in taken.origins])
            events += [(dispatch, EventKind.MESSAGE, text) for dispatch, text in taken.messages]
        log(connection, row.created_at, events)
        return True

    return write


def changing(changes: Changes) -> Callable[[sa.Connection], None]:
    """Return what stores all changes."""
    bags = [columns.bag_values(row) for row in changes.bags]
    arrays = [columns.array_values(row) for row in changes.arrays]
    ends = [columns.end_values(row) for row in changes.ends]
    children = [columns.child_values(*child) for child in changes.children]

    def write(connection: sa.Connection) -> None:
        events: list[Event] = []
        for row in changes.dispatches:
            _update_dispatch(connection, row)
            events.append((row.id, EventKind.DISPATCH, [row.status, row.error, row.cancel_wanted]))
        run(connection, insert_new(CHILD), children)
        events += [(row.dispatch, EventKind.CHILD, [row.id, row.task, row.n_tasks]) for row, _ in changes.children]
        run(connection, upsert(BAG), bags)
        for bag in changes.bags:
            content = [bag.bag.id, len(bag.bag.tasks), bag.closed_at is not None]
            events.append((bag.bag.dispatch, EventKind.BAG, content))
        run(connection, upsert(ARRAY), arrays)
        for array in changes.arrays:
            told = [array.array.token, array.state, array.array.job_id, array.reason]
            events.append((array.array.dispatch, EventKind.ARRAY, told))
        moved = _movable(connection, changes.tasks)
        run(connection, upsert(TASK), [columns.task_values(task) for task in moved])
        moves = _by_dispatch((task.dispatch, [task.index, task.state]) for task in moved)
        events += [(dispatch, EventKind.TASKS, pairs) for dispatch, pairs in moves.items()]
        if run(connection, insert_new(END), ends) < len(ends):
            seconds = _by_dispatch(_second_ends(connection, ends))
            events += [(dispatch, EventKind.SECOND_END, keys) for dispatch, keys in seconds.items()]
        run(connection, insert_new(ORIGIN), [columns.origin_values(origin) for origin in changes.origins])
        run(connection, upsert(CACHE), [columns.cache_values(row) for row in changes.cached])
        events += [(dispatch, EventKind.MESSAGE, text) for dispatch, text in changes.messages]
        _add_run_times(connection, changes)
        log(connection, changes.at, events)

    return write


def log(connection: sa.Connection, at: datetime, events: Sequence[Event]) -> None:
    """Add to the event log."""
    run(connection, insert(EVENT), [columns.event_values(at, *event) for event in events])


def _by_dispatch(pairs: Iterable[tuple[_Keyed, _Value]]) -> dict[_Keyed, list[_Value]]:
    grouped: defaultdict[_Keyed, list[_Value]] = defaultdict(list)
    for key, value in pairs:
        grouped[key].append(value)
    return grouped


def _movable(connection: sa.Connection, tasks: Sequence[TaskRow]) -> list[TaskRow]:
    """Return the rows that may be written: those whose task is not final, or that belong to a higher attempt.

    Of a skipped task that stays so, what holds it may become another one.
    """
    final: dict[tuple[str, int], int] = {}
    skipped: dict[tuple[str, int], int | None] = {}
    for dispatch, indices in _by_dispatch((task.dispatch, task.index) for task in tasks).items():
        ended = TASK.c.dispatch == dispatch, TASK.c.state.in_(sorted(FINAL))
        statement: _Select = sa.select(TASK.c.index, TASK.c.attempt, TASK.c.state, TASK.c.ended_at).where(*ended)
        for index, attempt, state, ended_at in chunked(connection, statement, TASK.c.index, indices):
            final[dispatch, index] = attempt
            if state == State.SKIPPED:
                skipped[dispatch, index] = ended_at
    movable: list[TaskRow] = []
    for task in tasks:
        key = task.dispatch, task.index
        stays = task.state is State.SKIPPED and skipped.get(key) == columns.micros_or_none(task.ended_at)
        if task.attempt <= final.get(key, 0) and not (stays and key in skipped and task.attempt == final[key]):
            continue
        movable.append(task)
        if task.state in FINAL:
            final[key] = task.attempt
    return movable


def _second_ends(
    connection: sa.Connection, ends: Sequence[Values]
) -> Iterator[tuple[DispatchId, tuple[int, int, str]]]:
    """Yield which of these ends (as values) differ from the stored one; a journal read twice says the same twice."""
    for dispatch, own in _by_dispatch((end[0], end) for end in ends).items():
        statement: _Select = sa.select(END).where(END.c.dispatch == dispatch)
        indices = sorted({index for _, index, *_ in own})
        stored = {tuple(row) for row in chunked(connection, statement, END.c.index, indices)}
        for end in own:
            if end not in stored:
                yield dispatch, (end[1], end[2], end[3])


def _update_dispatch(connection: sa.Connection, row: DispatchRow) -> None:
    statement = sa.update(DISPATCH).where(DISPATCH.c.id == row.id)
    values = {
        "status": row.status.value,
        "started_at": columns.micros_or_none(row.started_at),
        "ended_at": columns.micros_or_none(row.ended_at),
        "error": columns.plain(row.error),
        "cancel_wanted": row.cancel_wanted,
        "paused": columns.plain(row.paused),
        "paused_whole": row.paused_whole,
        "n_tasks": row.n_tasks,
    }
    if not connection.execute(statement.values(values)).rowcount:
        raise StoreError(f"No dispatch {row.id} here.")


def _add_run_times(connection: sa.Connection, changes: Changes) -> None:
    for key, (count, wall_s) in changes.run_times.items():
        same = sa.and_(*(RUN_TIME.c[name] == value for name, value in key._asdict().items()))
        known = connection.execute(sa.select(RUN_TIME.c.tasks, RUN_TIME.c.wall_s).where(same)).one_or_none()
        before, total = (known.tasks, known.wall_s) if known is not None else (0, 0.0)
        kept = min(before, _REMEMBERED)
        total = total * kept / before if before else 0.0
        run(connection, upsert(RUN_TIME), [(*key, kept + count, total + wall_s, columns.micros(changes.at))])
