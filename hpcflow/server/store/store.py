"""The store itself: every read and write of it, each write one fenced transaction."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from threading import RLock
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import sqlalchemy as sa

from hpcflow.core.model import BagId, DispatchId
from hpcflow.core.states import State, Status
from hpcflow.server.store import columns
from hpcflow.server.store.changing import adding, changing, log
from hpcflow.server.store.columns import packed, unpacked
from hpcflow.server.store.file import in_sentences, make_private
from hpcflow.server.store.rows import (
    ArrayRow,
    ArrayState,
    BagRow,
    Changes,
    ChildRow,
    DispatchRow,
    EndRow,
    EventKind,
    EventRow,
    Lease,
    LeaseHeld,
    LeaseLost,
    RunTimeKey,
    StoreError,
    TaskRow,
)
from hpcflow.server.store.statements import chunked, run, upsert
from hpcflow.server.store.tables import (
    ARRAY,
    BAG,
    CACHE,
    CHILD,
    DISPATCH,
    END,
    EVENT,
    LEASE,
    MANIFEST,
    ORIGIN,
    RUN_TIME,
    SETTING,
    TASK,
    migrate,
)

__all__ = ["Store"]

#: Letters from which on a text may be an id's end: fewer are the end of too many.
_END: Final = 4

if TYPE_CHECKING:
    _Row = sa.Row[*tuple[Any, ...]]
    _Select = sa.Select[*tuple[Any, ...]]


class Store:
    """One open store. Made by `Store.open`."""

    def __init__(self, path: str, engine: sa.Engine, connection: sa.Connection) -> None:
        self._path = path
        self._engine = engine
        self._connection = connection
        self._lock = RLock()
        #: Set once this server took the lease: from then on no write without it.
        self._lease: str | None = None

    @classmethod
    def open(cls, path: str, *, on_network: bool) -> Self:
        """Open the store, making it (0600) when there is none.

        Args:
            path: absolute path of the file.
            on_network: several hosts may see the file. WAL's shared memory works on one host only, so the file is
                then locked for this process as long as it is open, and any other process is refused.

        Raises:
            StoreError: others may read the file, it is no store, a newer hpcflow wrote it, or another process has it.
        """
        make_private(path)
        engine = sa.create_engine(
            sa.URL.create("sqlite+pysqlite", database=path),
            poolclass=sa.NullPool,
            # Transactions begin where `writing` says so, never by themselves. Locked by a process that keeps it
            # locked, the file is not worth a wait.
            connect_args={"isolation_level": None, "check_same_thread": False, "timeout": 1.0 if on_network else 10.0},
        )
        with in_sentences(path):
            connection = engine.connect()
            try:
                # The locking mode comes first: opened in WAL mode before, the file would already have a -shm beside it.
                for pragma in (
                    f"locking_mode={'EXCLUSIVE' if on_network else 'NORMAL'}",
                    "journal_mode=WAL",
                    "synchronous=FULL",
                    "foreign_keys=ON",
                    "journal_size_limit=67108864",
                ):
                    connection.exec_driver_sql(f"PRAGMA {pragma}")
                connection.rollback()
                store = cls(path, engine, connection)
                with store.writing(fenced=False) as writing:
                    migrate(writing, path)
            except BaseException:
                connection.close()
                engine.dispose()
                raise
        return store

    def close(self) -> None:
        with self._lock, in_sentences(self._path):
            self._connection.close()
            self._engine.dispose()

    # ---- the lease

    def take_lease(self, owner: Lease, *, now: datetime, stale_after: timedelta, take_over: bool) -> None:
        """Become the one server that writes; from here on every write of this store checks it.

        Args:
            owner: who asks; its times are ignored, ``now`` holds.
            now: the time of asking.
            stale_after: a lease that was not renewed for so long is free.
            take_over: take it even if it is not.

        Raises:
            LeaseHeld: another server has it.
        """
        with self.writing(fenced=False) as connection:
            held = _lease(connection)
            if held and held.id != owner.id and not take_over and now - held.renewed_at <= stale_after:
                raise LeaseHeld(held)
            run(connection, upsert(LEASE), [columns.lease_values(owner, now)])
            told = {"id": owner.id, "host": owner.host, "pid": owner.pid}
            log(connection, now, [(None, EventKind.LEASE, told)])
        self._lease = owner.id

    def renew_lease(self, owner: Lease, now: datetime) -> None:
        """Say that this server is still there.

        Raises:
            LeaseLost: another server took the lease, or it was released.
        """
        with self.writing(fenced=False) as connection:
            statement = sa.update(LEASE).where(LEASE.c.id == owner.id).values(renewed_at=columns.micros(now))
            if not connection.execute(statement).rowcount:
                raise LeaseLost(_lease(connection))

    def release_lease(self, owner: Lease) -> None:
        """Give the lease back; nothing happens when another server has it by now."""
        with self.writing(fenced=False) as connection:
            connection.execute(sa.delete(LEASE).where(LEASE.c.id == owner.id))

    # ---- writing

    def add_dispatch(
        self,
        row: DispatchRow,
        manifest: Mapping[str, Any],
        tasks: Sequence[TaskRow],
        taken: Changes | None = None,
    ) -> bool:
        """Store a new dispatch; return False, and change nothing, when its id is known already.

        Args:
            row: of the dispatch.
            manifest: what the client sent.
            tasks: where they are.
            taken: of what other dispatches computed already: ends, children, origins and messages.
        """
        write = adding(row, manifest, tasks, taken)
        with self.writing() as connection:
            return write(connection)

    def apply(self, changes: Changes) -> None:
        """Store all changes, and what they tell in the event log, in one transaction.

        A task in a final state moves only to a higher attempt; the first end of an attempt stays; a later and
        different one is told in the log.

        Raises:
            LeaseLost: another server writes now.
            StoreError: nothing was stored.
        """
        if not changes:
            return
        write = changing(changes)
        with self.writing() as connection:
            write(connection)

    def run_times(self) -> dict[RunTimeKey, tuple[int, float]]:
        """Return of each kind of tasks how many have returned, and their run time in all, in seconds."""
        with self.reading() as connection:
            rows = connection.execute(sa.select(RUN_TIME))
            return {RunTimeKey(row.function, row.cluster, row.size): (row.tasks, row.wall_s) for row in rows}

    def remember(self, key: str, value: Any) -> None:  # Any: JSON
        """Keep one small JSON value."""
        values = [(key, packed(value))]
        with self.writing() as connection:
            run(connection, upsert(SETTING), values)

    def delete_dispatch(self, dispatch: DispatchId, keys: Sequence[str]) -> None:
        """Forget a dispatch that has ended, and what was remembered of it under these keys; all of it or nothing."""
        with self.writing() as connection:
            for table in (ORIGIN, CACHE, END, TASK, ARRAY, BAG, CHILD, EVENT, MANIFEST):
                connection.execute(sa.delete(table).where(table.c.dispatch == dispatch))
            connection.execute(sa.delete(SETTING).where(SETTING.c.key.in_(keys)))
            connection.execute(sa.delete(DISPATCH).where(DISPATCH.c.id == dispatch))

    # ---- reading

    def recall(self, key: str) -> Any | None:  # Any: JSON
        """Return what was remembered last under this key, else ``None``."""
        with self.reading() as connection:
            raw = connection.execute(sa.select(SETTING.c.json).where(SETTING.c.key == key)).scalar()
        return None if raw is None else unpacked(raw)

    def dispatch(self, dispatch: DispatchId) -> DispatchRow | None:
        return next(iter(self._dispatches(sa.select(DISPATCH).where(DISPATCH.c.id == dispatch))), None)

    def dispatches(
        self,
        *,
        limit: int,
        before: DispatchId | None = None,
        statuses: Sequence[Status] = (),
        text: str = "",
        sort: Literal["created_at", "name", "status", "n_tasks"] = "created_at",
        ascending: bool = False,
    ) -> list[DispatchRow]:
        """Return dispatches, the newest first; with ``before``, what follows that one in the same order.

        Args:
            limit: how many at most.
            before: where an earlier page ended.
            statuses: only these; empty for all.
            text: what the name contains, or the id begins with, or (four letters or more) ends with, in either case.
            sort: the column; what is equal there is in the order of creation.
            ascending: the smallest first.
        """
        keys = [DISPATCH.c[sort], DISPATCH.c.created_at, DISPATCH.c.id]
        order = [key.asc() if ascending else key.desc() for key in keys]
        statement = sa.select(DISPATCH).where(*_fitting(statuses, text)).order_by(*order).limit(limit)
        if before is not None:
            known = sa.select(*keys).where(DISPATCH.c.id == before).scalar_subquery()
            statement = statement.where(sa.tuple_(*keys) > known if ascending else sa.tuple_(*keys) < known)
        return self._dispatches(statement)

    def count_dispatches(self, statuses: Sequence[Status] = (), text: str = "") -> int:
        """Return how many dispatches fit, as `dispatches` has it."""
        with self.reading() as connection:
            statement = sa.select(sa.func.count()).select_from(DISPATCH).where(*_fitting(statuses, text))
            return int(connection.execute(statement).scalar_one())

    def live_dispatches(self) -> list[DispatchRow]:
        """Return the dispatches that run, and those that have ended while arrays of theirs had not, oldest first."""
        served = sa.select(BAG.c.dispatch).where(BAG.c.closed_at.is_(None))
        statement = sa.select(DISPATCH).where(sa.or_(DISPATCH.c.status == Status.RUNNING, DISPATCH.c.id.in_(served)))
        return self._dispatches(statement.order_by(DISPATCH.c.created_at, DISPATCH.c.id))

    def ended_before(self, moment: datetime) -> list[DispatchRow]:
        """Return the dispatches that ended before a time, oldest first."""
        statement = sa.select(DISPATCH).where(DISPATCH.c.ended_at < columns.micros(moment))
        return self._dispatches(statement.order_by(DISPATCH.c.ended_at, DISPATCH.c.id))

    def find_dispatches(self, prefix: str) -> list[DispatchId]:
        """Return up to ten ids that begin so, in either case of letters, newest first."""
        statement = sa.select(DISPATCH.c.id).where(DISPATCH.c.id.startswith(prefix, autoescape=True))
        inner = sa.select(CHILD.c.id).where(CHILD.c.id.startswith(prefix, autoescape=True)).limit(10)
        with self.reading() as connection:
            ids = connection.execute(statement.order_by(DISPATCH.c.created_at.desc()).limit(10)).scalars().all()
            return [DispatchId(found) for found in (*ids, *connection.execute(inner).scalars())][:10]

    def manifest(self, dispatch: DispatchId) -> dict[str, Any]:  # Any: JSON
        """Return what the client sent.

        Raises:
            StoreError: no such dispatch.
        """
        return self._manifest(sa.select(MANIFEST.c.json).where(MANIFEST.c.dispatch == dispatch), f"dispatch {dispatch}")

    def tasks(
        self,
        dispatch: DispatchId,
        *,
        state: State | None = None,
        after: int = -1,
        last: int | None = None,
        limit: int | None = None,
    ) -> list[TaskRow]:
        """Return the tasks above index ``after``, up to ``last``, ascending."""
        statement = sa.select(TASK).where(TASK.c.dispatch == dispatch, TASK.c.index > after)
        if last is not None:
            statement = statement.where(TASK.c.index <= last)
        if state is not None:
            statement = statement.where(TASK.c.state == state)
        with self.reading() as connection:
            rows = connection.execute(statement.order_by(TASK.c.index).limit(limit))
            return [columns.task_row(row) for row in rows]

    def states(self, dispatch: DispatchId) -> list[State]:
        """Return the state of each task, by index."""
        statement = sa.select(TASK.c.state).where(TASK.c.dispatch == dispatch).order_by(TASK.c.index)
        with self.reading() as connection:
            return [State(state) for state in connection.execute(statement).scalars()]

    def states_of(self, dispatch: DispatchId, indices: Sequence[int]) -> dict[int, State]:
        """Return where tasks are."""
        statement: _Select = sa.select(TASK.c.index, TASK.c.state).where(TASK.c.dispatch == dispatch)
        with self.reading() as connection:
            return {row[0]: State(row[1]) for row in chunked(connection, statement, TASK.c.index, indices)}

    def counts(self, dispatch: DispatchId, ranges: Sequence[range]) -> dict[State, int]:
        """Return how many of some tasks are in each state; a state without any is absent."""
        found: Counter[State] = Counter()
        with self.reading() as connection:
            for wanted in ranges:
                statement = sa.select(TASK.c.state, sa.func.count()).where(
                    TASK.c.dispatch == dispatch, TASK.c.index >= wanted.start, TASK.c.index < wanted.stop
                )
                for state, number in connection.execute(statement.group_by(TASK.c.state)):
                    found[State(state)] += number
        return dict(found)

    def task(self, dispatch: DispatchId, index: int) -> TaskRow | None:
        statement = sa.select(TASK).where(TASK.c.dispatch == dispatch, TASK.c.index == index)
        with self.reading() as connection:
            row = connection.execute(statement).one_or_none()
        return None if row is None else columns.task_row(row)

    def end(self, dispatch: DispatchId, index: int) -> EndRow | None:
        """Return the end of the highest attempt."""
        return self.ends(dispatch, (index,)).get(index)

    def ends(self, dispatch: DispatchId, indices: Sequence[int] | None = None) -> dict[int, EndRow]:
        """Return, by index, the end of the highest attempt of these tasks, or of all; tasks without one are absent."""
        statement: _Select = sa.select(END).where(END.c.dispatch == dispatch)
        statement = statement.order_by(END.c.index, END.c.attempt)
        found: dict[int, EndRow] = {}
        with self.reading() as connection:
            if indices is None:
                rows: Iterable[_Row] = connection.execute(statement)
            else:
                rows = chunked(connection, statement, END.c.index, indices)
            for row in rows:
                found[row[1]] = columns.end_row(row)
        return found

    def attempts(self, dispatch: DispatchId, index: int | None = None) -> list[EndRow]:
        """Return how each attempt of a task ended, the first one first; without an ``index`` those of all tasks."""
        statement: _Select = sa.select(END).where(END.c.dispatch == dispatch).order_by(END.c.index, END.c.attempt)
        if index is not None:
            statement = statement.where(END.c.index == index)
        with self.reading() as connection:
            return [columns.end_row(row) for row in connection.execute(statement)]

    def child(self, child: DispatchId) -> ChildRow | None:
        """Return a child dispatch by its own id."""
        with self.reading() as connection:
            row = connection.execute(sa.select(CHILD).where(CHILD.c.id == child)).one_or_none()
        return None if row is None else columns.child_row(row)

    def children(self, dispatch: DispatchId) -> list[ChildRow]:
        """Return the child dispatches of a dispatch, at any depth, in the order in which their tasks joined it."""
        keys = [column for column in CHILD.c if column is not CHILD.c.json]
        statement = sa.select(*keys).where(CHILD.c.dispatch == dispatch).order_by(sa.text("rowid"))
        with self.reading() as connection:
            return [columns.child_row(row) for row in connection.execute(statement)]

    def child_manifest(self, child: DispatchId) -> dict[str, Any]:  # Any: JSON
        """Return what a sublattice built.

        Raises:
            StoreError: no such child.
        """
        return self._manifest(sa.select(CHILD.c.json).where(CHILD.c.id == child), f"child dispatch {child}")

    def _manifest(self, statement: sa.Select[bytes], whose: str) -> dict[str, Any]:  # Any: JSON
        with self.reading() as connection:
            raw = connection.execute(statement).scalar()
        if raw is None:
            raise StoreError(f"No {whose} here.")
        manifest: dict[str, Any] = unpacked(raw)
        return manifest

    def bags(self, dispatch: DispatchId) -> list[BagRow]:
        """Return the bags of a dispatch, oldest first."""
        return self._bags(BAG.c.dispatch == dispatch)

    def bag(self, bag: BagId) -> BagRow | None:
        return next(iter(self._bags(BAG.c.id == bag)), None)

    def arrays(self, dispatch: DispatchId) -> list[ArrayRow]:
        """Return the arrays of a dispatch, in the order of their intents."""
        return self._arrays(ARRAY.c.dispatch == dispatch)

    def tried_again(self, dispatch: DispatchId) -> list[tuple[BagId, str]]:
        """Return bag and worker of each attempt that ended before another one of its task began."""
        own = TASK.c.dispatch == END.c.dispatch, TASK.c.index == END.c.index, END.c.attempt < TASK.c.attempt
        statement: _Select = sa.select(END.c.bag, END.c.worker).join(TASK, sa.and_(*own))
        with self.reading() as connection:
            found = connection.execute(statement.where(END.c.dispatch == dispatch))
            return [(BagId(bag), worker) for bag, worker in found]

    def open_arrays(self) -> list[ArrayRow]:
        """Return every array that may still be at a scheduler."""
        return self._arrays(ARRAY.c.state.in_(sorted(set(ArrayState) - {ArrayState.ENDED, ArrayState.REFUSED})))

    def messages(self, dispatch: DispatchId) -> list[tuple[datetime, str]]:
        """Return what was said about a dispatch, oldest first."""
        statement = sa.select(EVENT.c.at, EVENT.c.json).order_by(EVENT.c.number)
        statement = statement.where(EVENT.c.dispatch == dispatch, EVENT.c.kind == EventKind.MESSAGE)
        with self.reading() as connection:
            return [(columns.time(at), unpacked(raw)) for at, raw in connection.execute(statement)]

    def events(self, dispatch: DispatchId | None, *, after: int = 0, limit: int | None = None) -> list[EventRow]:
        """Return the log of a dispatch, or the server's own for ``None``, above number ``after``, oldest first."""
        # SQLAlchemy renders a comparison with None as IS NULL.
        statement = sa.select(EVENT).where(EVENT.c.dispatch == dispatch, EVENT.c.number > after)
        with self.reading() as connection:
            rows = connection.execute(statement.order_by(EVENT.c.number).limit(limit))
            return [columns.event_row(row) for row in rows]

    # ---- private

    def _dispatches(self, statement: _Select) -> list[DispatchRow]:
        with self.reading() as connection:
            rows = connection.execute(statement).all()
            keys = TASK.c.dispatch, TASK.c.state
            grouped: _Select = sa.select(*keys, sa.func.count()).group_by(*keys)
            counts: defaultdict[str, dict[State, int]] = defaultdict(dict)
            for found, state, number in chunked(connection, grouped, TASK.c.dispatch, [row[0] for row in rows]):
                counts[found][State(state)] = number
        return [columns.dispatch_row(row, counts[row[0]]) for row in rows]

    def _bags(self, condition: sa.ColumnElement[bool]) -> list[BagRow]:
        statement = sa.select(BAG).where(condition).order_by(BAG.c.created_at, BAG.c.id)
        with self.reading() as connection:
            return [columns.bag_row(row) for row in connection.execute(statement)]

    def _arrays(self, condition: sa.ColumnElement[bool]) -> list[ArrayRow]:
        statement = sa.select(ARRAY).where(condition).order_by(ARRAY.c.intent_at, ARRAY.c.token)
        with self.reading() as connection:
            return [columns.array_row(row) for row in connection.execute(statement)]

    @contextmanager
    def reading(self) -> Generator[sa.Connection]:
        """Give the connection, for this package alone."""
        with self._lock, in_sentences(self._path):
            if self._connection.closed:
                raise StoreError(f"{self._path} is closed.")
            with self._connection.begin():
                yield self._connection

    @contextmanager
    def writing(self, *, fenced: bool = True) -> Generator[sa.Connection]:
        """Give the connection in a transaction that checks the lease, for this package alone."""
        with self.reading() as connection:
            # A transaction that reads first and then writes fails at once, without waiting, when another process
            # wrote in between (SQLITE_BUSY_SNAPSHOT); one that begins IMMEDIATE waits for its turn.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            if fenced and self._lease is not None:
                held = _lease(connection)
                if held is None or held.id != self._lease:
                    raise LeaseLost(held)
            yield connection


# ---- statements


def _fitting(statuses: Sequence[Status], text: str) -> list[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = []
    if statuses:
        conditions.append(DISPATCH.c.status.in_([status.value for status in statuses]))
    if text:
        name, known = DISPATCH.c.name, DISPATCH.c.id
        # Where room is short an id is shown by its end, behind an ellipsis.
        end = text.removeprefix("…")
        fits = [name.icontains(text, autoescape=True), known.istartswith(text, autoescape=True)]
        conditions.append(sa.or_(*fits, *([known.iendswith(end, autoescape=True)] if len(end) >= _END else [])))
    return conditions


def _lease(connection: sa.Connection) -> Lease | None:
    row = connection.execute(sa.select(LEASE)).one_or_none()
    return None if row is None else columns.lease_row(row)
