"""What the store knows of a job by its id: its arrays, and what ran in their workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from hpcflow.core.model import JobArray, JobId
from hpcflow.core.states import State
from hpcflow.server.store import columns
from hpcflow.server.store.rows import ArrayRow, EndRow, TaskRow
from hpcflow.server.store.statements import chunked
from hpcflow.server.store.store import Store
from hpcflow.server.store.tables import ARRAY, END, TASK

__all__ = ["Jobs"]

if TYPE_CHECKING:
    _Select = sa.Select[*tuple[Any, ...]]


class Jobs:
    """One view of a store; every method may block."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def arrays(self, job: JobId) -> list[ArrayRow]:
        """Return the arrays of all dispatches that a scheduler took under this id: several clusters may have it."""
        # The id is in JSON that is compressed where it is long: those rows are looked into.
        said = sa.func.instr(ARRAY.c.json, f'"job_id":"{job}"'.encode()) > 0
        statement = sa.select(ARRAY).where(sa.or_(said, sa.func.substr(ARRAY.c.json, 1, 1) == b"x"))
        with self._store.reading() as connection:
            found = connection.execute(statement.order_by(ARRAY.c.intent_at, ARRAY.c.token))
            rows = [columns.array_row(row) for row in found]
        return [row for row in rows if row.array.job_id == job]

    def running(self, array: JobArray) -> list[TaskRow]:
        """Return the tasks that run in an array's workers."""
        statement = sa.select(TASK).where(*_in_array(TASK, array), TASK.c.state == State.RUNNING)
        with self._store.reading() as connection:
            return [columns.task_row(row) for row in connection.execute(statement.order_by(TASK.c.index))]

    def ended(self, array: JobArray) -> dict[str, int]:
        """Return how many attempts of tasks ended in each worker of an array, by the workers' names."""
        statement: _Select = sa.select(END.c.worker, sa.func.count()).where(*_in_array(END, array))
        with self._store.reading() as connection:
            return {row[0]: row[1] for row in connection.execute(statement.group_by(END.c.worker))}

    def ends(self, array: JobArray, workers: Sequence[str]) -> list[tuple[EndRow, str]]:
        """Return the attempts that ended in some workers of an array, each with its electron's name."""
        own = TASK.c.dispatch == END.c.dispatch, TASK.c.index == END.c.index
        statement: _Select = sa.select(TASK.c.name, *END.c).join(TASK, sa.and_(*own)).where(*_in_array(END, array))
        with self._store.reading() as connection:
            rows = chunked(connection, statement, END.c.worker, workers)
            return [(columns.end_row(row[1:]), row[0]) for row in rows]


def _in_array(table: sa.Table, array: JobArray) -> tuple[sa.ColumnElement[bool], ...]:
    """Return what holds of the rows of an array's workers: "8123_7_0", and of further slots "8123+2_7_0"."""
    job, worker = array.job_id, table.c.worker
    named = (worker.startswith(f"{job}{mark}", autoescape=True) for mark in "_+")
    return table.c.dispatch == array.dispatch, table.c.bag == array.bag, sa.or_(*named)
