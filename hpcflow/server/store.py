"""What the server remembers: dispatches, tasks, ends, bags, arrays and the log of events, in one SQLite file.

The one door to SQLAlchemy. Every write is one transaction that begins by checking the lease, so that of two servers
on one file only the rightful one writes. Methods block and may be called from any thread.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from functools import cache
from threading import RLock
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from hpcflow.core.model import BagId, DispatchId
from hpcflow.core.states import FINAL, State, Status
from hpcflow.server import columns
from hpcflow.server.columns import Values, packed, unpacked
from hpcflow.server.rows import (
    ArrayRow,
    ArrayState,
    BagRow,
    Changes,
    DispatchRow,
    EndRow,
    EventKind,
    EventRow,
    Lease,
    LeaseHeld,
    LeaseLost,
    StoreError,
    StoreFull,
    TaskRow,
)

__all__ = [
    "ArrayRow",
    "ArrayState",
    "BagRow",
    "Changes",
    "DispatchRow",
    "EndRow",
    "EventKind",
    "EventRow",
    "Lease",
    "LeaseHeld",
    "LeaseLost",
    "Store",
    "StoreError",
    "StoreFull",
    "TaskRow",
]

if TYPE_CHECKING:
    _Row = sa.Row[*tuple[Any, ...]]
    _Select = sa.Select[*tuple[Any, ...]]

#: What ``PRAGMA user_version`` says of a file whose tables are those below. A change of them adds a step to `_STEPS`.
SCHEMA: Final = 1


# ---- tables: columns ending in _at are microseconds since the epoch, columns called json are `packed`

_METADATA: Final = sa.MetaData()


def _text(name: str, *, key: bool = False, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.Text, primary_key=key, nullable=null)


def _integer(name: str, *, key: bool = False, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.Integer, primary_key=key, nullable=null)


def _json(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.LargeBinary, nullable=False)


def _of_dispatch(*, key: bool = False, null: bool = False) -> sa.Column[Any]:
    return sa.Column("dispatch", sa.Text, sa.ForeignKey("dispatch.id"), primary_key=key, nullable=null)


_DISPATCH: Final = sa.Table(
    "dispatch",
    _METADATA,
    _text("id", key=True),
    _text("name"),
    _text("status"),
    _integer("created_at"),
    _integer("started_at", null=True),
    _integer("ended_at", null=True),
    _text("error", null=True),
    _integer("n_tasks"),
    _integer("cancel_wanted"),
    _integer("python_major"),
    _integer("python_minor"),
    sa.Index("dispatch_created_at", "created_at", "id"),
)
_MANIFEST: Final = sa.Table("manifest", _METADATA, _of_dispatch(key=True), _json("json"))
_TASK: Final = sa.Table(
    "task",
    _METADATA,
    _of_dispatch(key=True),
    _integer("index", key=True),
    _text("name"),
    _text("state"),
    _integer("attempt"),
    _text("bag", null=True),
    _text("worker", null=True),
    _integer("started_at", null=True),
    _integer("ended_at", null=True),
    _text("error", null=True),
    _text("cluster", null=True),
    sa.Index("task_state", "dispatch", "state"),
    sqlite_with_rowid=False,
)
_END: Final = sa.Table(
    "task_end",
    _METADATA,
    _of_dispatch(key=True),
    _integer("index", key=True),
    _integer("attempt", key=True),
    _text("worker"),
    _text("bag"),
    _json("json"),
)
_BAG: Final = sa.Table(
    "bag",
    _METADATA,
    _text("id", key=True),
    _of_dispatch(),
    _integer("created_at"),
    _integer("closed_at", null=True),
    _json("json"),
    sa.Index("bag_dispatch", "dispatch"),
)
_ARRAY: Final = sa.Table(
    "job_array",
    _METADATA,
    _text("token", key=True),
    _of_dispatch(),
    _text("state"),
    _text("reason", null=True),
    _integer("cancel_wanted"),
    _integer("intent_at"),
    _integer("submitted_at", null=True),
    _integer("ended_at", null=True),
    _json("json"),
    _json("ends"),
    sa.Index("job_array_dispatch", "dispatch"),
    sa.Index("job_array_state", "state"),
)
_EVENT: Final = sa.Table(
    "event",
    _METADATA,
    _integer("number", key=True),
    _integer("at"),
    _of_dispatch(null=True),
    _text("kind"),
    _json("json"),
    sa.Index("event_dispatch", "dispatch", "kind"),
    sqlite_autoincrement=True,
)
_SETTING: Final = sa.Table("setting", _METADATA, _text("key", key=True), _json("json"))
_LEASE: Final = sa.Table(
    "lease",
    _METADATA,
    sa.Column("slot", sa.Integer, sa.CheckConstraint("slot = 1"), primary_key=True),
    _text("id"),
    _text("host"),
    _integer("pid"),
    _text("boot_id"),
    _integer("taken_at"),
    _integer("renewed_at"),
)

#: Step k turns a file of schema k + 1 into one of schema k + 2, as plain SQL; a new file gets the tables above.
_STEPS: Final[tuple[tuple[str, ...], ...]] = ()


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
        _make_private(path)
        engine = sa.create_engine(
            sa.URL.create("sqlite+pysqlite", database=path),
            poolclass=sa.NullPool,
            # Transactions begin where `_writing` says so, never by themselves. Locked by a process that keeps it
            # locked, the file is not worth a wait.
            connect_args={"isolation_level": None, "check_same_thread": False, "timeout": 1.0 if on_network else 10.0},
        )
        with _told(path):
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
                store._migrate()
            except BaseException:
                connection.close()
                engine.dispose()
                raise
        return store

    def close(self) -> None:
        with self._lock, _told(self._path):
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
        with self._writing(fenced=False) as connection:
            held = _lease(connection)
            if held and held.id != owner.id and not take_over and now - held.renewed_at <= stale_after:
                raise LeaseHeld(held)
            _run(connection, _upsert(_LEASE), [columns.lease_values(owner, now)])
            told = {"id": owner.id, "host": owner.host, "pid": owner.pid}
            _log(connection, now, [(None, EventKind.LEASE, told)])
        self._lease = owner.id

    def renew_lease(self, owner: Lease, now: datetime) -> None:
        """Say that this server is still there.

        Raises:
            LeaseLost: another server took the lease, or it was released.
        """
        with self._writing(fenced=False) as connection:
            statement = sa.update(_LEASE).where(_LEASE.c.id == owner.id).values(renewed_at=columns.micros(now))
            if not connection.execute(statement).rowcount:
                raise LeaseLost(_lease(connection))

    def release_lease(self, owner: Lease) -> None:
        """Give the lease back; nothing happens when another server has it by now."""
        with self._writing(fenced=False) as connection:
            connection.execute(sa.delete(_LEASE).where(_LEASE.c.id == owner.id))

    # ---- writing

    def add_dispatch(self, row: DispatchRow, manifest: Mapping[str, Any], tasks: Sequence[TaskRow]) -> bool:
        """Store a new dispatch; return False, and change nothing, when its id is known already."""
        raw = packed(manifest)
        values = [columns.task_values(task) for task in tasks]
        with self._writing() as connection:
            if not _run(connection, _insert_new(_DISPATCH), [columns.dispatch_values(row)]):
                return False
            _run(connection, _insert(_MANIFEST), [(row.id, raw)])
            _run(connection, _insert(_TASK), values)
            content = {"name": row.name, "tasks": len(tasks)}
            _log(connection, row.created_at, [(row.id, EventKind.ADDED, content)])
        return True

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
        bags = [columns.bag_values(row) for row in changes.bags]
        arrays = [columns.array_values(row) for row in changes.arrays]
        ends = [columns.end_values(row) for row in changes.ends]
        events: list[tuple[DispatchId | None, EventKind, Any]] = []  # Any: JSON
        with self._writing() as connection:
            for row in changes.dispatches:
                _update_dispatch(connection, row)
                events.append((row.id, EventKind.DISPATCH, [row.status, row.error, row.cancel_wanted]))
            _run(connection, _upsert(_BAG), bags)
            for bag in changes.bags:
                content = [bag.bag.id, len(bag.bag.tasks), bag.closed_at is not None]
                events.append((bag.bag.dispatch, EventKind.BAG, content))
            _run(connection, _upsert(_ARRAY), arrays)
            for array in changes.arrays:
                told = [array.array.token, array.state, array.array.job_id, array.reason]
                events.append((array.array.dispatch, EventKind.ARRAY, told))
            moved = _movable(connection, changes.tasks)
            _run(connection, _upsert(_TASK), [columns.task_values(task) for task in moved])
            moves = _by_dispatch((task.dispatch, [task.index, task.state]) for task in moved)
            events += [(dispatch, EventKind.TASKS, pairs) for dispatch, pairs in moves.items()]
            if _run(connection, _insert_new(_END), ends) < len(ends):
                seconds = _by_dispatch(_second_ends(connection, ends))
                events += [(dispatch, EventKind.SECOND_END, keys) for dispatch, keys in seconds.items()]
            events += [(dispatch, EventKind.MESSAGE, text) for dispatch, text in changes.messages]
            _log(connection, changes.at, events)

    def remember(self, key: str, value: Any) -> None:  # Any: JSON
        """Keep one small JSON value."""
        values = [(key, packed(value))]
        with self._writing() as connection:
            _run(connection, _upsert(_SETTING), values)

    # ---- reading

    def recall(self, key: str) -> Any | None:  # Any: JSON
        """Return what was remembered last under this key, else ``None``."""
        with self._reading() as connection:
            raw = connection.execute(sa.select(_SETTING.c.json).where(_SETTING.c.key == key)).scalar()
        return None if raw is None else unpacked(raw)

    def dispatch(self, dispatch: DispatchId) -> DispatchRow | None:
        return next(iter(self._dispatches(sa.select(_DISPATCH).where(_DISPATCH.c.id == dispatch))), None)

    def dispatches(self, *, limit: int, before: DispatchId | None = None) -> list[DispatchRow]:
        """Return the newest dispatches first; with ``before``, those older than that one."""
        place = sa.tuple_(_DISPATCH.c.created_at, _DISPATCH.c.id)
        statement = sa.select(_DISPATCH).order_by(_DISPATCH.c.created_at.desc(), _DISPATCH.c.id.desc()).limit(limit)
        if before is not None:
            known = sa.select(_DISPATCH.c.created_at, _DISPATCH.c.id).where(_DISPATCH.c.id == before)
            statement = statement.where(place < known.scalar_subquery())
        return self._dispatches(statement)

    def live_dispatches(self) -> list[DispatchRow]:
        """Return the dispatches that run, oldest first."""
        statement = sa.select(_DISPATCH).where(_DISPATCH.c.status == Status.RUNNING)
        return self._dispatches(statement.order_by(_DISPATCH.c.created_at, _DISPATCH.c.id))

    def find_dispatches(self, prefix: str) -> list[DispatchId]:
        """Return up to ten ids that begin so, in either case of letters, newest first."""
        statement = sa.select(_DISPATCH.c.id).where(_DISPATCH.c.id.startswith(prefix, autoescape=True))
        with self._reading() as connection:
            ids = connection.execute(statement.order_by(_DISPATCH.c.created_at.desc()).limit(10)).scalars()
            return [DispatchId(found) for found in ids]

    def manifest(self, dispatch: DispatchId) -> dict[str, Any]:  # Any: JSON
        """Return what the client sent.

        Raises:
            StoreError: no such dispatch.
        """
        with self._reading() as connection:
            raw = connection.execute(sa.select(_MANIFEST.c.json).where(_MANIFEST.c.dispatch == dispatch)).scalar()
        if raw is None:
            raise StoreError(f"No dispatch {dispatch} here.")
        manifest: dict[str, Any] = unpacked(raw)
        return manifest

    def tasks(
        self, dispatch: DispatchId, *, state: State | None = None, after: int = -1, limit: int | None = None
    ) -> list[TaskRow]:
        """Return the tasks above index ``after``, ascending."""
        statement = sa.select(_TASK).where(_TASK.c.dispatch == dispatch, _TASK.c.index > after)
        if state is not None:
            statement = statement.where(_TASK.c.state == state)
        with self._reading() as connection:
            rows = connection.execute(statement.order_by(_TASK.c.index).limit(limit))
            return [columns.task_row(row) for row in rows]

    def task(self, dispatch: DispatchId, index: int) -> TaskRow | None:
        return next(iter(self.tasks(dispatch, after=index - 1, limit=1)), None)

    def end(self, dispatch: DispatchId, index: int) -> EndRow | None:
        """Return the end of the highest attempt."""
        return self.ends(dispatch, (index,)).get(index)

    def ends(self, dispatch: DispatchId, indices: Sequence[int] | None = None) -> dict[int, EndRow]:
        """Return, by index, the end of the highest attempt of these tasks, or of all; tasks without one are absent."""
        statement: _Select = sa.select(_END).where(_END.c.dispatch == dispatch)
        statement = statement.order_by(_END.c.index, _END.c.attempt)
        found: dict[int, EndRow] = {}
        with self._reading() as connection:
            if indices is None:
                rows: Iterable[_Row] = connection.execute(statement)
            else:
                rows = _chunked(connection, statement, _END.c.index, indices)
            for row in rows:
                found[row[1]] = columns.end_row(row)
        return found

    def bags(self, dispatch: DispatchId) -> list[BagRow]:
        """Return the bags of a dispatch, oldest first."""
        return self._bags(_BAG.c.dispatch == dispatch)

    def bag(self, bag: BagId) -> BagRow | None:
        return next(iter(self._bags(_BAG.c.id == bag)), None)

    def arrays(self, dispatch: DispatchId) -> list[ArrayRow]:
        """Return the arrays of a dispatch, in the order of their intents."""
        return self._arrays(_ARRAY.c.dispatch == dispatch)

    def open_arrays(self) -> list[ArrayRow]:
        """Return every array that may still be at a scheduler."""
        return self._arrays(_ARRAY.c.state.in_(sorted(set(ArrayState) - {ArrayState.ENDED, ArrayState.REFUSED})))

    def messages(self, dispatch: DispatchId) -> list[tuple[datetime, str]]:
        """Return what was said about a dispatch, oldest first."""
        statement = sa.select(_EVENT.c.at, _EVENT.c.json).order_by(_EVENT.c.number)
        statement = statement.where(_EVENT.c.dispatch == dispatch, _EVENT.c.kind == EventKind.MESSAGE)
        with self._reading() as connection:
            return [(columns.time(at), unpacked(raw)) for at, raw in connection.execute(statement)]

    def events(self, dispatch: DispatchId | None, *, after: int = 0, limit: int | None = None) -> list[EventRow]:
        """Return the log of a dispatch, or the server's own for ``None``, above number ``after``, oldest first."""
        # SQLAlchemy renders a comparison with None as IS NULL.
        statement = sa.select(_EVENT).where(_EVENT.c.dispatch == dispatch, _EVENT.c.number > after)
        with self._reading() as connection:
            rows = connection.execute(statement.order_by(_EVENT.c.number).limit(limit))
            return [columns.event_row(row) for row in rows]

    # ---- private

    def _dispatches(self, statement: _Select) -> list[DispatchRow]:
        with self._reading() as connection:
            rows = connection.execute(statement).all()
            keys = _TASK.c.dispatch, _TASK.c.state
            grouped: _Select = sa.select(*keys, sa.func.count()).group_by(*keys)
            counts: defaultdict[str, dict[State, int]] = defaultdict(dict)
            for found, state, number in _chunked(connection, grouped, _TASK.c.dispatch, [row[0] for row in rows]):
                counts[found][State(state)] = number
        return [columns.dispatch_row(row, counts[row[0]]) for row in rows]

    def _bags(self, condition: sa.ColumnElement[bool]) -> list[BagRow]:
        statement = sa.select(_BAG).where(condition).order_by(_BAG.c.created_at, _BAG.c.id)
        with self._reading() as connection:
            return [columns.bag_row(row) for row in connection.execute(statement)]

    def _arrays(self, condition: sa.ColumnElement[bool]) -> list[ArrayRow]:
        statement = sa.select(_ARRAY).where(condition).order_by(_ARRAY.c.intent_at, _ARRAY.c.token)
        with self._reading() as connection:
            return [columns.array_row(row) for row in connection.execute(statement)]

    def _migrate(self) -> None:
        with self._writing(fenced=False) as connection:
            version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            if version > SCHEMA:
                raise StoreError(
                    f"{self._path} was written by a newer hpcflow (schema {version}; this one knows {SCHEMA}). "
                    "Upgrade hpcflow, or set HPCFLOW_HOME to another folder."
                )
            if version == 0:
                _METADATA.create_all(connection, checkfirst=False)
            else:
                for statement in (line for step in _STEPS[version - 1 :] for line in step):
                    connection.exec_driver_sql(statement)
            if version != SCHEMA:
                connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA}")

    @contextmanager
    def _reading(self) -> Generator[sa.Connection]:
        with self._lock, _told(self._path):
            if self._connection.closed:
                raise StoreError(f"{self._path} is closed.")
            with self._connection.begin():
                yield self._connection

    @contextmanager
    def _writing(self, *, fenced: bool = True) -> Generator[sa.Connection]:
        with self._reading() as connection:
            # A transaction that reads first and then writes fails at once, without waiting, when another process
            # wrote in between (SQLITE_BUSY_SNAPSHOT); one that begins IMMEDIATE waits for its turn.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            if fenced and self._lease is not None:
                held = _lease(connection)
                if held is None or held.id != self._lease:
                    raise LeaseLost(held)
            yield connection


# ---- statements

_Keyed = TypeVar("_Keyed")
_Value = TypeVar("_Value")

#: SQLite before 3.32 takes 999 parameters in one statement.
_CHUNK: Final = 900


@cache
def _insert(table: sa.Table) -> str:
    return str(sa.insert(table).compile(dialect=sqlite.dialect()))


@cache
def _insert_new(table: sa.Table) -> str:
    return str(sqlite.insert(table).on_conflict_do_nothing().compile(dialect=sqlite.dialect()))


@cache
def _upsert(table: sa.Table) -> str:
    statement = sqlite.insert(table)
    others = {column.name: statement.excluded[column.name] for column in table.c if not column.primary_key}
    statement = statement.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=others)
    return str(statement.compile(dialect=sqlite.dialect()))


def _run(connection: sa.Connection, statement: str, values: list[Values]) -> int:
    """Run a statement for each tuple (in the order of the table's columns); return the number of rows it changed.

    The driver gets the tuples as they are: SQLAlchemy's own parameters cost ten times as much for ten thousand rows.
    """
    return connection.exec_driver_sql(statement, values).rowcount if values else 0


def _chunked(
    connection: sa.Connection, statement: _Select, column: sa.Column[Any], keys: Sequence[int | str]
) -> Iterator[_Row]:
    for start in range(0, len(keys), _CHUNK):
        yield from connection.execute(statement.where(column.in_(keys[start : start + _CHUNK])))


def _by_dispatch(pairs: Iterable[tuple[_Keyed, _Value]]) -> dict[_Keyed, list[_Value]]:
    grouped: defaultdict[_Keyed, list[_Value]] = defaultdict(list)
    for key, value in pairs:
        grouped[key].append(value)
    return grouped


def _movable(connection: sa.Connection, tasks: Sequence[TaskRow]) -> list[TaskRow]:
    """Return the rows that may be written: those whose task is not final, or that belong to a higher attempt."""
    final: dict[tuple[str, int], int] = {}
    for dispatch, indices in _by_dispatch((task.dispatch, task.index) for task in tasks).items():
        ended = _TASK.c.dispatch == dispatch, _TASK.c.state.in_(sorted(FINAL))
        statement: _Select = sa.select(_TASK.c.index, _TASK.c.attempt).where(*ended)
        for index, attempt in _chunked(connection, statement, _TASK.c.index, indices):
            final[dispatch, index] = attempt
    movable: list[TaskRow] = []
    for task in tasks:
        key = task.dispatch, task.index
        if task.attempt <= final.get(key, 0):
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
        statement: _Select = sa.select(_END).where(_END.c.dispatch == dispatch)
        indices = sorted({index for _, index, *_ in own})
        stored = {tuple(row) for row in _chunked(connection, statement, _END.c.index, indices)}
        for end in own:
            if end not in stored:
                yield dispatch, (end[1], end[2], end[3])


def _update_dispatch(connection: sa.Connection, row: DispatchRow) -> None:
    statement = sa.update(_DISPATCH).where(_DISPATCH.c.id == row.id)
    values = {
        "status": row.status.value,
        "started_at": columns.micros_or_none(row.started_at),
        "ended_at": columns.micros_or_none(row.ended_at),
        "error": columns.plain(row.error),
        "cancel_wanted": row.cancel_wanted,
    }
    if not connection.execute(statement.values(values)).rowcount:
        raise StoreError(f"No dispatch {row.id} here.")


def _lease(connection: sa.Connection) -> Lease | None:
    row = connection.execute(sa.select(_LEASE)).one_or_none()
    return None if row is None else columns.lease_row(row)


def _log(connection: sa.Connection, at: datetime, events: Sequence[tuple[DispatchId | None, EventKind, Any]]) -> None:
    _run(connection, _insert(_EVENT), [columns.event_values(at, *event) for event in events])


# ---- the file


def _make_private(path: str) -> None:
    """Make the file 0600 if it is missing; SQLite gives the files beside it the same mode.

    An existing file is never opened here: closing it would drop the locks that SQLite holds on it in this process
    (POSIX record locks belong to the process, fcntl(2)).
    """
    with suppress(FileExistsError):
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            raise
        except OSError as error:
            raise StoreError(f"The store {path} can't be made: {error.strerror}.") from error
    for name in (path, path + "-wal", path + "-shm"):
        with suppress(FileNotFoundError):
            mode = stat.S_IMODE(os.stat(name).st_mode)
            if mode & 0o077:
                raise StoreError(
                    f"{name} may be read or written by others (mode {mode:04o}), and it holds what your tasks "
                    f"computed. Make it yours alone: chmod 600 {name}"
                )


_FULL: Final = (
    "The disk or the quota is full where {path} lies ({error}): nothing was stored. "
    "Free some space; hpcflow then goes on."
)
#: By SQLite's result code, the extended one first: what it means for the person who runs the server.
_SENTENCES: Final[Mapping[int, tuple[type[StoreError], str]]] = {
    sqlite3.SQLITE_FULL: (StoreFull, _FULL),
    # An exceeded quota (EDQUOT) is no SQLITE_FULL but a failed write, on NFS a failed fsync.
    sqlite3.SQLITE_IOERR_WRITE: (StoreFull, _FULL),
    sqlite3.SQLITE_IOERR_FSYNC: (StoreFull, _FULL),
    sqlite3.SQLITE_IOERR_SHMSIZE: (StoreFull, _FULL),
    sqlite3.SQLITE_IOERR: (StoreError, "{path} can't be read or written ({error}): look at the disk and its mount."),
    sqlite3.SQLITE_BUSY: (
        StoreError,
        "Another process has {path} open and locked. `hpcflow status` says where the server of this HPCFLOW_HOME runs.",
    ),
    sqlite3.SQLITE_READONLY: (StoreError, "{path} can't be written: it, its folder or its file system is read-only."),
    sqlite3.SQLITE_CANTOPEN: (StoreError, "{path} can't be opened: its folder is missing or not writable."),
    sqlite3.SQLITE_NOTADB: (StoreError, "{path} is not hpcflow's store. Move it away, or set HPCFLOW_HOME."),
    sqlite3.SQLITE_CORRUPT: (
        StoreError,
        "{path} is damaged ({error}). Stop the server, keep a copy, and move it away; results stay on the clusters.",
    ),
}
_OTHER: Final = (StoreError, "{path} did not take a statement: {error}.")


@contextmanager
def _told(path: str) -> Generator[None]:
    """Turn what SQLAlchemy raises into a sentence."""
    try:
        yield
    except SQLAlchemyError as error:
        origin = error.orig if isinstance(error, DBAPIError) else None
        code: int = getattr(origin, "sqlite_errorcode", 0)
        kind, sentence = _SENTENCES.get(code) or _SENTENCES.get(code & 0xFF, _OTHER)
        raise kind(sentence.format(path=path, error=origin or error)) from error
