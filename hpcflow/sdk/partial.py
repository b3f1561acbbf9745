"""What a download has brought so far: beside its destination, of one thing, and held by one download at a time."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from hpcflow.core.model import UserError

__all__ = ["begun", "held", "keep_only", "opened"]

#: Bytes of a destination's name that names beside it carry: with their endings they fit into the 255 of file systems.
_NAME_BYTES: Final = 200
_HASH_DIGITS: Final = 12


@contextmanager
def held(to: Path, what: Sequence[str | int]) -> Generator[Path]:
    """Give the place where a download gathers what ``to`` is to be; nobody else brings anything there meanwhile.

    Args:
        to: the destination.
        what: tells what it is of: only a download of the same takes it up.

    Raises:
        UserError: something is at ``to``, another download is under way to it, or nothing can be written there.
    """
    _check_free(to)
    told = hashlib.sha256(json.dumps([to.name, *what]).encode()).hexdigest()[:_HASH_DIGITS]
    with _locked(to):
        _check_free(to)
        yield to.with_name(f"{_short(to)}.{told}.part")


def begun(place: Path, size: int) -> int:
    """Return how many bytes of a file are there; what can't be the begin of ``size`` bytes is removed."""
    try:
        there = place.lstat()
    except FileNotFoundError:
        return 0
    if stat.S_ISREG(there.st_mode) and there.st_size <= size:
        return there.st_size
    _remove(place)
    return 0


def opened(place: Path) -> BinaryIO:
    """Open a file to write at its end; a link there is not followed."""
    return os.fdopen(os.open(place, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), "ab")


def keep_only(part: Path, files: Collection[str], folders: Collection[str]) -> None:
    """Make a folder, or remove from what an earlier try left of it all but files and folders of these names.

    Links are never kept: what is written later would follow them.
    """
    if os.path.lexists(part) and (part.is_symlink() or not part.is_dir()):
        part.unlink()
    part.mkdir(exist_ok=True)
    for base, below, names in os.walk(part):
        for name in [*below, *names]:
            path = Path(base, name)
            known, mode = str(path.relative_to(part)), path.lstat().st_mode
            if (stat.S_ISDIR(mode) and known in folders) or (stat.S_ISREG(mode) and known in files):
                continue
            _remove(path)
            if name in below:
                below.remove(name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _short(to: Path) -> str:
    return os.fsdecode(os.fsencode(to.name)[:_NAME_BYTES])


def _check_free(to: Path) -> None:
    if os.path.lexists(to):
        raise UserError(f"{to} exists already: name another destination, or move it away.")
    if not to.parent.is_dir():
        raise UserError(f"There is no folder {to.parent}.")


@contextmanager
def _locked(to: Path) -> Generator[None]:
    """Hold the lock of a destination, a file of its own: folders can't be locked on NFS."""
    mark = to.with_name(f".{_short(to)}.hpcflow-lock")
    while True:
        try:
            lock = os.open(mark, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UserError(f"Nothing can be written to {to.parent}: {error.strerror}.") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise UserError(
                f"Another hpcflow fetch to {to} is under way: wait for its end, or name another destination."
            ) from None
        except OSError:  # a file system without locks
            break
        # Whoever held it before may have removed it in between: then it keeps nobody else out.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), mark.lstat()):
                break
        os.close(lock)
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)
        os.close(lock)
