"""What every way of bringing files shares: they arrive whole or not at all, and never outside of their folder."""

from __future__ import annotations

import hashlib
import os
import sys
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from io import BufferedReader
from typing import IO, Any, BinaryIO, Final

from hpcflow.sdk.fetched import Wanted
from hpcflow.sdk.transfer import File, TransferFailed, special

__all__ = ["TOLD_S", "Bring", "FileTransferStrategy", "inside", "opened", "pour", "sha256_of", "target_of", "written"]

_PIECE: Final = 1 << 20
#: How long a transfer says nothing of how far it is, in seconds.
TOLD_S: Final = 30.0

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

    def leaving(self, source: File, target: File) -> Wanted | None:
        """Return where the server shall bring a file instead of the task; ``None``: nowhere."""
        return None


@contextmanager
def written(path: str) -> Generator[BinaryIO]:
    """Give a new file to write to; at the end it takes the name ``path``, or is gone when that failed."""
    folder = os.path.dirname(path)
    part = os.path.join(folder, f".{os.path.basename(path)[:200]}.{uuid.uuid4().hex[:12]}.part")
    try:
        begun = open(part, "xb")  # noqa: SIM115  # closed below
    except OSError as error:
        # The name that failed is ours, and tells the user nothing.
        raise TransferFailed(f"no file can be made in the folder {folder or '.'}: {error.strerror or error}") from None
    try:
        with begun as file:
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


def opened(path: str) -> BufferedReader:
    """Open a file to read it.

    Raises:
        TransferFailed: it is a pipe, a socket or a device.
    """
    if (what := special(path)) is not None:
        raise TransferFailed(f"{path} is {what}, and no file")
    return open(path, "rb")


def sha256_of(path: str) -> str:
    """Return the SHA-256 of a file, in hex."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pour(
    source: IO[bytes], target: IO[bytes], clock: Callable[[], float] = time.monotonic
) -> tuple[int, Any]:  # Any: hashlib's own type has no name
    """Copy all bytes; return how many they are, and their SHA-256 (hashlib's object).

    What takes long says how far it is on stderr, which is the task's output: after `TOLD_S`, and each time that it has
    taken twice as long.
    """
    digest = hashlib.sha256()
    size, begun_at, told_s = 0, clock(), TOLD_S
    while piece := source.read(_PIECE):
        target.write(piece)
        digest.update(piece)
        size += len(piece)
        if (taken_s := clock() - begun_at) >= told_s:
            told_s = 2 * taken_s
            name = getattr(source, "name", None) or getattr(source, "path", None) or getattr(target, "name", "a file")
            sys.stdout.flush()
            print(f"{name}: {size} bytes in {taken_s:.0f} s so far.", file=sys.stderr, flush=True)
    return size, digest


def target_of(source: str, target: File) -> str:
    """Return the path for one file: inside of a folder, under its own name."""
    if target.is_dir or os.path.isdir(target.local):
        return os.path.join(target.local, os.path.basename(source.rstrip("/")))
    return target.local
