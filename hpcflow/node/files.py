"""Reading and writing all bytes that were asked for, by descriptors that stay: what read(2) and write(2) leave open."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from typing import Final

from hpcflow.core.errors import HpcflowError

__all__ = [
    "StrangeFile",
    "append_all",
    "check_own_directory",
    "create_own",
    "open_own",
    "out_of_the_way",
    "read_at",
    "read_own",
]

# One call moves at most 2 GiB less a page (write(2), Linux).
_PIECE: Final = 1 << 30
#: Descriptors that a task's process writes to lie above this.
_HIGH_FD: Final = 512


class StrangeFile(HpcflowError):
    """What lies in a file's place was not put there by hpcflow; it is not followed, read or written."""


def open_own(path: str, *, private: bool = False) -> int:
    """Open a file for reading that only its owner, this user or root, may write.

    Args:
        private: nobody else may read it either.

    Raises:
        StrangeFile: a symbolic link, a FIFO, a device, a directory, another user's file, or one that others may write.
        OSError: it is missing or can't be read.
    """
    try:
        # A FIFO would otherwise be waited at.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StrangeFile(_strange(path, "a symbolic link")) from error
        raise
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise StrangeFile(_strange(path, "not a file"))
        _check_owner(path, found, others=0o077 if private else 0o022)
    except BaseException:
        os.close(fd)
        raise
    return fd


def read_own(path: str, *, private: bool = False) -> bytes:
    """Return what is in such a file."""
    with open(open_own(path, private=private), "rb") as file:
        return file.read()


def create_own(path: str) -> int:
    """Create a file for appending under a name that only its creator can know.

    Raises:
        StrangeFile: something has that name already.
        OSError: it can't be made.
    """
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise StrangeFile(_strange(path, "there already")) from error


def check_own_directory(path: str) -> None:
    """Raise `StrangeFile` unless this is a directory that only its owner, this user or root, may write."""
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise StrangeFile(_strange(path, "a symbolic link" if stat.S_ISLNK(found.st_mode) else "not a directory"))
    _check_owner(path, found, others=0o022)


def _check_owner(path: str, found: os.stat_result, *, others: int) -> None:
    if found.st_uid not in (os.geteuid(), 0):
        raise StrangeFile(_strange(path, f"owned by uid {found.st_uid}, and this is uid {os.geteuid()}"))
    if found.st_mode & others:
        raise StrangeFile(_strange(path, f"open to others (mode {stat.S_IMODE(found.st_mode):04o})"))


def _strange(path: str, what: str) -> str:
    return f"{path} is {what}; hpcflow did not put it there like that, and runs nothing that depends on it."


def append_all(fd: int, content: bytes | memoryview) -> None:
    """Write all bytes. Raises `OSError` when they don't all fit; some may then be written."""
    written = os.write(fd, content)
    while written < len(content):
        written += os.write(fd, memoryview(content)[written : written + _PIECE])


def read_at(fd: int, offset: int, size: int) -> bytes:
    """Return bytes from an offset on, fewer than ``size`` only where the file ends before."""
    content = os.pread(fd, size, offset)
    if len(content) == size:
        return content
    pieces = [content]
    have = len(content)
    while piece := os.pread(fd, min(size - have, _PIECE), offset + have):
        pieces.append(piece)
        have += len(piece)
    return b"".join(pieces)


def out_of_the_way(fd: int) -> int:
    """Give a descriptor a high number: libraries that start daemons close all low ones, and open files under them."""
    try:
        high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _HIGH_FD)
    except OSError:  # the limit on open files is lower
        return fd
    os.close(fd)
    return high
