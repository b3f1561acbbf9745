"""The store's file: private from its first byte, and every failure of it a sentence."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from typing import Final

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from hpcflow.server.store.rows import StoreError, StoreFull

__all__ = ["in_sentences", "make_private"]


def make_private(path: str) -> None:
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
def in_sentences(path: str) -> Generator[None]:
    """Turn what SQLAlchemy raises into a sentence."""
    try:
        yield
    except SQLAlchemyError as error:
        origin = error.orig if isinstance(error, DBAPIError) else None
        code: int = getattr(origin, "sqlite_errorcode", 0)
        kind, sentence = _SENTENCES.get(code) or _SENTENCES.get(code & 0xFF, _OTHER)
        raise kind(sentence.format(path=path, error=origin or error)) from error
