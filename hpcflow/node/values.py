"""Values on their way to and from disk: a result is written while it is pickled, and read while it is unpickled.

A result may fill more than half of a task's memory, so that no second copy of it is ever made.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import io
import os
import resource
from pickle import PickleBuffer
from typing import Final, Protocol, cast

from hpcflow.core.bag import DamagedError
from hpcflow.node.files import append_all, open_own, read_at

__all__ = ["CannotStore", "LimitReached", "Sink", "StoredValue"]

#: Bytes that are looked at together while a value is checked.
_PIECE: Final = 1 << 20


class CannotStore(Exception):
    """The data pack takes no more bytes: the worker's trouble, not the task's."""


class LimitReached(Exception):
    """The task's process may not write so much into one file, because it said so itself."""


class _Pack(Protocol):
    """Where a sink's bytes go when they are too many for the journal."""

    @property
    def data(self) -> int: ...
    @property
    def data_name(self) -> str: ...


class Sink:
    """Takes one pickle: keeps it for a line of the journal while it is small, and appends it to the data pack else."""

    def __init__(self, pack: _Pack, *, inline_limit: int, sync: bool) -> None:
        self._pack = pack
        self._inline_limit = inline_limit
        self._sync = sync
        self._file_size = resource.getrlimit(resource.RLIMIT_FSIZE)
        self._held = bytearray()
        #: Where the value begins in the pack; ``None``: all of it is held here.
        self._offset: int | None = None
        self._size = 0
        self._digest = hashlib.sha256()

    def write(self, data: bytes | bytearray | memoryview | PickleBuffer, /) -> int:
        """Take the next bytes; pickle calls this, with large buffers as they lie in memory.

        Raises:
            CannotStore: the disk is full or fails.
            LimitReached: the process may not write as much into one file.
        """
        view = data.raw() if isinstance(data, PickleBuffer) else memoryview(data)
        if self._offset is None and len(self._held) + len(view) <= self._inline_limit:
            self._held += view
            return len(view)
        try:
            if self._offset is None:
                self._offset = os.lseek(self._pack.data, 0, os.SEEK_END)
                self._append(memoryview(bytes(self._held)))
            self._append(view)
        except OSError as error:
            raise self._refusal(error) from error
        return len(view)

    def begin_again(self) -> None:
        """Forget what was written; its room on the disk is given back."""
        if self._offset is not None:
            os.ftruncate(self._pack.data, self._offset)
        self._held.clear()
        self._offset, self._size, self._digest = None, 0, hashlib.sha256()

    def finished(self) -> dict[str, object]:
        """Return the reference of what was written, on disk before any line names it.

        Raises:
            CannotStore: the disk fails.
        """
        if self._offset is None:
            return {"b": base64.b64encode(self._held).decode()}
        if self._sync:
            try:
                os.fsync(self._pack.data)
            except OSError as error:
                raise self._refusal(error) from error
        return {"f": [self._pack.data_name, self._offset, self._size, self._digest.hexdigest()]}

    def _append(self, view: memoryview) -> None:
        append_all(self._pack.data, view)
        self._digest.update(view)
        self._size += len(view)

    def _refusal(self, error: OSError) -> Exception:
        what = f"A result of more than {self._size} bytes"
        try:
            self.begin_again()
        except OSError:  # what lies behind the last value is nobody's
            self._offset = None
        if error.errno == errno.EFBIG and resource.getrlimit(resource.RLIMIT_FSIZE) != self._file_size:
            return LimitReached(what)
        return CannotStore(f"{what} can't be stored in {self._pack.data_name}: {error}.")


class StoredValue(io.RawIOBase):
    """Part of a file, to unpickle from: read as it is needed, after a look at all of it."""

    def __init__(self, path: str, offset: int, size: int, digest: str) -> None:
        """Check the part's SHA-256 (in hex), piece by piece.

        Only this user may write the file, so what is read afterwards is what was looked at.

        Raises:
            DamagedError: it is another.
            StrangeFile: it is no file of this user alone.
            OSError: it can't be read.
        """
        super().__init__()
        self._fd = open_own(path)
        self._at, self._end = offset, offset + size
        found = hashlib.sha256()
        try:
            for begin in range(offset, self._end, _PIECE):
                found.update(read_at(self._fd, begin, min(_PIECE, self._end - begin)))
            if found.hexdigest() != digest:
                raise DamagedError(f"a stored value of {size} bytes is damaged")
        except BaseException:
            self.close()
            raise

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object, /) -> int:
        view = memoryview(cast(bytearray, buffer)).cast("B")
        wanted = min(len(view), self._end - self._at)
        count = os.preadv(self._fd, [view[:wanted]], self._at) if wanted else 0
        self._at += count
        return count

    def close(self) -> None:
        if not self.closed:
            os.close(self._fd)
        super().close()
