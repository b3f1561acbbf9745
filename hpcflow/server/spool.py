"""Results on their way from one cluster to another: checked, and on this machine's disk, never whole in memory."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import os
import tempfile
from collections.abc import Iterable, Iterator
from typing import Final

from hpcflow.core.bag import DamagedError, Stream
from hpcflow.core.model import HpcflowError
from hpcflow.server.clusters import Cluster
from hpcflow.server.tasks import Stored

__all__ = ["Laid", "Spool", "value_bytes"]

#: Read at once from a cluster, and from our own disk.
_PIECE: Final = 4 * 2**20
_STEP: Final = 2**20


class Spool:
    """A file without a name that takes values one after the other; it is gone with the last of their readers."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._file: io.FileIO | None = None
        self._end = 0

    async def take(self, stored: Stored, cluster: Cluster) -> bytes | Stream:
        """Return a value that lies on another cluster: small ones as bytes, others by way of the disk.

        Raises:
            DamagedError: it is not what its worker wrote.
            HpcflowError: it can't be read there, or there is no room here.
        """
        if stored.file is None:
            return await value_bytes(stored, cluster)
        path, offset, size, digest = stored.file
        begin = self._end
        summed = hashlib.sha256()
        for at in range(0, size, _PIECE):
            piece = await cluster.transport.read(path, offset + at, min(_PIECE, size - at))
            summed.update(piece)
            await asyncio.to_thread(self._write, piece)
        if self._end - begin != size or summed.hexdigest() != digest:
            raise DamagedError(f"the value at {path} on {cluster.name} is not what its worker wrote")
        assert self._file is not None or size == 0
        return Stream(_Span(self._file, begin, size), size, summed.digest())

    def _write(self, piece: bytes) -> None:
        try:
            if self._file is None:
                fd, name = tempfile.mkstemp(dir=self._folder, prefix="between-")
                os.unlink(name)
                self._file = io.FileIO(fd, "r+b")
            os.pwrite(self._file.fileno(), piece, self._end)
        except OSError as error:
            raise HpcflowError(
                f"A result on its way to another cluster can't be kept in {self._folder}: {error.strerror}."
            ) from error
        self._end += len(piece)


class _Span:
    """Part of a spool's file, read step by step, as often as somebody asks."""

    def __init__(self, file: io.FileIO | None, offset: int, size: int) -> None:
        self._file, self._offset, self._size = file, offset, size

    def __iter__(self) -> Iterator[bytes]:
        for at in range(0, self._size, _STEP):
            assert self._file is not None
            yield os.pread(self._file.fileno(), min(_STEP, self._size - at), self._offset + at)


class Laid:
    """What a pack holds, one after the other, as often as somebody asks."""

    def __init__(self, parts: Iterable[bytes | Stream]) -> None:
        self._parts = tuple(parts)
        self.size = sum(part.size if isinstance(part, Stream) else len(part) for part in self._parts)

    def __iter__(self) -> Iterator[bytes]:
        for part in self._parts:
            if isinstance(part, Stream):
                yield from part.pieces
            else:
                yield part


async def value_bytes(stored: Stored, cluster: Cluster) -> bytes:
    """Return the pickle of a stored value, wherever it lies."""
    if stored.inline is not None:
        return base64.b64decode(stored.inline)
    if stored.file is None:
        return b""
    path, offset, size, _ = stored.file
    return await cluster.transport.read(path, offset, size)
