"""Triggers that come along: at times, when a directory changes, and when a database has new rows."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from threading import Event
from typing import Any, Final, NamedTuple

from hpcflow.core.model import HpcflowError, UserError
from hpcflow.sdk.trigger import BaseTrigger

__all__ = ["DatabaseTrigger", "DirTrigger", "SQLiteTrigger", "TimeTrigger"]

#: A look may take this part of the time: a folder of many files is looked at more seldom.
_SHARE: Final = 0.05


class TimeTrigger(BaseTrigger):
    """Fires every ``time_gap`` seconds, the first time one gap after it was attached.

    Its times are the moment when it was attached plus whole gaps, over restarts as well; what falls into a time without
    a server is not made up for.

    Args:
        time_gap: seconds, or a timedelta.
        lattice_dispatch_id: as in `BaseTrigger`, and so are the others.
    """

    def __init__(
        self,
        time_gap: float | timedelta,
        lattice_dispatch_id: str | None = None,
        dispatcher_addr: str | None = None,
        triggers_server_addr: str | None = None,
    ) -> None:
        super().__init__(lattice_dispatch_id, dispatcher_addr, triggers_server_addr)
        seconds = time_gap.total_seconds() if isinstance(time_gap, timedelta) else time_gap
        self.time_gap = _positive("time_gap", seconds)

    def observe(self) -> None:
        stop = self.stop_flag = Event()
        start = self._supervised.attached_at if self._supervised is not None else time.time()
        while not stop.wait(until_next(start, self.time_gap, time.time())):
            self.trigger()

    def about(self) -> str:
        return f"every {self.time_gap:g} s"


def until_next(start: float, gap: float, now: float) -> float:
    """Return the seconds to the next of the moments that are whole gaps after ``start``; never 0."""
    return gap - max(0.0, now - start) % gap


class _Entry(NamedTuple):
    """What tells a file from another one, and from itself before a change."""

    device: int
    inode: int
    size: int
    changed_ns: int


class DirTrigger(BaseTrigger):
    """Fires when something happens in a directory, or to one file.

    The directory is looked at again and again: that works on every file system, also for what another host writes to a
    shared one, which says nothing of it. A file that is made and removed between two looks is not seen, nor is what
    happens while no server runs. A file is ``closed`` when it was made or changed, and is as it was at the look before.

    Args:
        dir_path: a directory, without those in it, or a file.
        event_names: some of "created", "deleted", "modified", "moved" and "closed"; one, or a list.
        batch_size: so many of them fire once.
        lattice_dispatch_id: as in `BaseTrigger`, and so are the next two.
        poll_interval: seconds between two looks; where a look takes long there are fewer.
    """

    EVENTS: Final = ("created", "deleted", "modified", "moved", "closed")

    def __init__(  # noqa: PLR0917  # Covalent's own order
        self,
        dir_path: str | os.PathLike[str],
        event_names: str | Sequence[str],
        batch_size: int = 1,
        lattice_dispatch_id: str | None = None,
        dispatcher_addr: str | None = None,
        triggers_server_addr: str | None = None,
        *,
        poll_interval: float = 1.0,
    ) -> None:
        super().__init__(lattice_dispatch_id, dispatcher_addr, triggers_server_addr)
        # The server's process has another working directory.
        self.dir_path = os.path.abspath(os.fspath(dir_path))
        self.event_names = [event_names] if isinstance(event_names, str) else list(event_names)
        for name in self.event_names:
            if name not in self.EVENTS:
                raise UserError(f"DirTrigger knows no event {name!r}; its events are {', '.join(self.EVENTS)}.")
        if not self.event_names:
            raise UserError(f"DirTrigger waits for nothing: name some of {', '.join(self.EVENTS)}.")
        self.batch_size = _whole("batch_size", batch_size)
        self.poll_interval = _positive("poll_interval", poll_interval)
        self.n_changes = 0

    def observe(self) -> None:
        stop = self.stop_flag = Event()
        before, open_files = self._look(), set[str]()
        pause = self.poll_interval
        while not stop.wait(pause):
            begun = time.monotonic()
            now = self._look()
            for event, name in changes(before, now, open_files):
                self._noted(event, name)
            before = now
            pause = max(self.poll_interval, (time.monotonic() - begun) / _SHARE)

    def about(self) -> str:
        return f"{', '.join(self.event_names)} in {self.dir_path}"

    def _noted(self, event: str, name: str) -> None:
        if event not in self.event_names:
            return
        self.n_changes += 1
        if self.n_changes >= self.batch_size:
            self.n_changes = 0
            print(f"{name} was {event}", flush=True)
            self.trigger()

    def _look(self) -> dict[str, _Entry]:
        seen: dict[str, _Entry] = {}
        try:
            with os.scandir(self.dir_path) as entries:
                for entry in entries:
                    try:
                        stat = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue  # removed since
                    seen[entry.name] = _Entry(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        except NotADirectoryError:
            stat = os.stat(self.dir_path)
            seen[os.path.basename(self.dir_path)] = _Entry(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        except FileNotFoundError:
            raise HpcflowError(f"{self.dir_path} is not there: make it, and the trigger finds it.") from None
        return seen


def changes(before: dict[str, _Entry], now: dict[str, _Entry], open_files: set[str]) -> Iterator[tuple[str, str]]:
    """Yield what happened between two looks, as (event, name).

    Args:
        before: what was there at the first one.
        now: at the second.
        open_files: names that were made or changed, and may still be written; kept from look to look.
    """
    # All of it: a new file is often given the number of one that was just removed.
    gone = {entry: name for name, entry in before.items() if name not in now}
    for name, entry in now.items():
        old = before.get(name)
        if old is None:
            source = gone.pop(entry, None)
            if source is not None:
                open_files.discard(source)
            yield ("created" if source is None else "moved"), name
            if source is None:
                open_files.add(name)
        elif old != entry:
            open_files.add(name)
            yield "modified", name
        elif name in open_files:
            open_files.discard(name)
            yield "closed", name
    for name in gone.values():
        open_files.discard(name)
        yield "deleted", name


class DatabaseTrigger(BaseTrigger):
    """Fires when a table of a database has rows that fit and were not there at the look before.

    Covalent's fires at each look at which any row fits, once a second as long as it is there; here a row counts once.
    Rows that fit when the trigger is attached count at its first look.

    Args:
        db_path: the database's URL, as SQLAlchemy has it: "postgresql+psycopg://host/name". Its driver must be there,
            beside hpcflow.
        table_name: a table, or "schema.table".
        poll_interval: seconds between two looks.
        where_clauses: conditions in SQL that all must hold: ["status = 'new'", "size > 2"].
        trigger_after_n: so many looks with new rows fire once.
        lattice_dispatch_id: as in `BaseTrigger`, and so are the others.
    """

    def __init__(  # noqa: PLR0917  # Covalent's own order
        self,
        db_path: str,
        table_name: str,
        poll_interval: float = 1,
        where_clauses: Iterable[str] | None = None,
        trigger_after_n: int = 1,
        lattice_dispatch_id: str | None = None,
        dispatcher_addr: str | None = None,
        triggers_server_addr: str | None = None,
    ) -> None:
        super().__init__(lattice_dispatch_id, dispatcher_addr, triggers_server_addr)
        self.db_path = db_path
        self.table_name = table_name
        self.poll_interval = _positive("poll_interval", poll_interval)
        clauses = [where_clauses] if isinstance(where_clauses, str) else where_clauses
        self.where_clauses = None if clauses is None else list(clauses)
        self.trigger_after_n = _whole("trigger_after_n", trigger_after_n)

    def observe(self) -> None:
        import sqlalchemy as sa  # only this process needs it

        stop = self.stop_flag = Event()
        schema, _, table = self.table_name.rpartition(".")
        query = sa.select(sa.text("*")).select_from(sa.table(table, schema=schema or None))
        for clause in self.where_clauses or ():
            query = query.where(sa.text(clause))
        engine = sa.create_engine(self._url(), poolclass=sa.NullPool)
        looks = 0
        # What a restarted process finds is what the one before had seen.
        known: Counter[int] | None = None if self._supervised is not None and self._supervised.resumed else Counter()
        pause = 0.0
        while not stop.wait(pause):
            begun = time.monotonic()
            now = self._look(engine, query)
            if known is not None and now - known:
                looks += 1
                if looks == self.trigger_after_n:
                    looks = 0
                    self.trigger()
            known = now
            pause = max(self.poll_interval, (time.monotonic() - begun) / _SHARE)

    def about(self) -> str:
        where = f" where {' and '.join(self.where_clauses)}" if self.where_clauses else ""
        return f"new rows of {self.table_name}{where}"

    def _look(self, engine: Any, query: Any) -> Counter[int]:  # Any: SQLAlchemy's
        with engine.connect() as connection:
            rows = connection.execution_options(stream_results=True).execute(query)
            # Rows are told apart by a number each: a table may be large, and its columns may hold anything.
            return Counter(hash(repr(tuple(row))) for row in rows)

    def _url(self) -> Any:  # Any: what SQLAlchemy takes
        return self.db_path


class SQLiteTrigger(DatabaseTrigger):
    """Fires when a table of an SQLite file has new rows; as `DatabaseTrigger`, but ``db_path`` is the file's path.

    The file is read only, and one that is not there is not made.
    """

    def __init__(  # noqa: PLR0917  # Covalent's own order
        self,
        db_path: str | os.PathLike[str],
        table_name: str,
        poll_interval: float = 1,
        where_clauses: Iterable[str] | None = None,
        trigger_after_n: int = 1,
        lattice_dispatch_id: str | None = None,
        dispatcher_addr: str | None = None,
        triggers_server_addr: str | None = None,
    ) -> None:
        super().__init__(
            os.path.abspath(os.fspath(db_path)),
            table_name,
            poll_interval,
            where_clauses,
            trigger_after_n,
            lattice_dispatch_id,
            dispatcher_addr,
            triggers_server_addr,
        )

    def _url(self) -> Any:  # Any: what SQLAlchemy takes
        from urllib.parse import quote

        return f"sqlite:///file:{quote(self.db_path)}?mode=ro&uri=true"


def _positive(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise UserError(f"{name}={value!r} must be a number of seconds above 0.")
    return value


def _whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{name}={value!r} must be a whole number of at least 1.")
    return value
