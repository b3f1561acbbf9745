"""Files that were fetched beside the server, while their dispatch lives: where they lie, and how bags take them."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from hpcflow.core.bag import Stream
from hpcflow.core.model import HpcflowError

__all__ = ["drop_fetched", "fetched_path", "stream_of"]

_STEP: Final = 1 << 20
_END: Final = ".fetched"


def fetched_path(folder: str, dispatch: str, key: str) -> str:
    """Return where a file of a dispatch lies once it is there whole."""
    return os.path.join(folder, f"{dispatch}.{key}{_END}")


def drop_fetched(folder: str, *, of: str | None = None, but_of: Collection[str] = ()) -> None:
    """Remove the fetched files of a dispatch, or of all but some; they can be fetched again.

    Without a dispatch those go as well that were on their way out when a server died: they are read anew.
    """
    for path in Path(folder).glob(f"{of or '*'}.*{_END}"):
        if path.name.partition(".")[0] not in but_of:
            path.unlink(missing_ok=True)
    for path in Path(folder).glob("*.sent*") if of is None else ():
        path.unlink(missing_ok=True)


async def stream_of(path: str, known: dict[str, Stream]) -> Stream:
    """Return a fetched file as part of a pack; ``known`` keeps what was read to learn its checksum.

    Raises:
        HpcflowError: it is gone.
    """
    if path not in known:
        known[path] = await asyncio.to_thread(_read, path)
    return known[path]


def _read(path: str) -> Stream:
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
            return Stream(_Pieces(path), os.fstat(file.fileno()).st_size, digest)
    except OSError as error:
        raise HpcflowError(f"{path}, which was fetched for tasks, can't be read: {error.strerror}.") from error


class _Pieces:
    """A file, read step by step, as often as somebody asks."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __iter__(self) -> Iterator[bytes]:
        with open(self._path, "rb") as file:
            while piece := file.read(_STEP):
                yield piece
