"""What every way of bringing files shares: they arrive whole or not at all, and never outside of their folder."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import IO, Any, BinaryIO, Final

from hpcflow.sdk.fetched import Wanted
from hpcflow.sdk.transfer import File, TransferFailed

__all__ = ["Bring", "FileTransferStrategy", "inside", "pour", "sha256_of", "target_of", "written"]

_PIECE: Final = 1 << 20

Bring = Callable[[], object]


class FileTransferStrategy:
    """What users' own strategies derive from: each method returns a function that the task calls."""

    def cp(self, from_file: File, to_file: File) -> Bring:
        """Return what copies where the task runs."""
        raise NotImplementedError(f"{type(self).__name__} can't copy a file where the task runs")

    def download(self, from_file: File, to_file: File) -> Bring:
        """Return what brings a file to where the task runs."""
        raise NotImplementedError(f"{type(self).__name__} can't bring files from elsewhere")

    def upload(self, from_file: File, to_file: File) -> Bring:
        """Return what brings a file from where the task runs."""
        raise NotImplementedError(f"{type(self).__name__} can't bring files elsewhere")

    def wanted(self, file: File) -> Wanted | None:
        """Return what the server shall fetch instead of the task; ``None``: nothing."""
        return None


@contextmanager
def written(path: str) -> Generator[BinaryIO]:
    """Give a new file to write to; at the end it takes the name ``path``, or is gone when that failed."""
    part = os.path.join(os.path.dirname(path), f".{os.path.basename(path)[:200]}.{uuid.uuid4().hex[:12]}.part")
    try:
        with open(part, "xb") as file:
            yield file
            file.flush()
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(part)
        raise


def inside(folder: str, name: str) -> str:
    """Return the path of a name that another side told, below a folder.

    Raises:
        TransferFailed: it leads out of it.
    """
    parts = name.split("/")
    path = os.path.join(folder, *parts)
    # What lies in the folder may hold links; what is told may hold anything.
    leads_out = os.path.commonpath([os.path.realpath(folder), os.path.realpath(path)]) != os.path.realpath(folder)
    if name.startswith("/") or ".." in parts or "\0" in name or leads_out:
        raise TransferFailed(f"the other side lists {name!r}, which leads out of the folder")
    return path


def sha256_of(path: str) -> str:
    """Return the SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pour(source: IO[bytes], target: IO[bytes]) -> tuple[int, Any]:  # Any: hashlib's own type has no name
    """Copy all bytes; return how many they are, and their SHA-256 (hashlib's object)."""
    digest = hashlib.sha256()
    size = 0
    while piece := source.read(_PIECE):
        target.write(piece)
        digest.update(piece)
        size += len(piece)
    return size, digest


def target_of(source: str, target: File) -> str:
    """Return the path for one file: inside of a folder, under its own name."""
    if target.is_dir or os.path.isdir(target.local):
        return os.path.join(target.local, os.path.basename(source.rstrip("/")))
    return target.local
