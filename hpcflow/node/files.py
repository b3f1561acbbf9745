"""Reading and writing all bytes that were asked for, by descriptors that stay: what read(2) and write(2) leave open."""

from __future__ import annotations

import fcntl
import os
from typing import Final

__all__ = ["append_all", "out_of_the_way", "read_at"]

# One call moves at most 2 GiB less a page (write(2), Linux).
_PIECE: Final = 1 << 30
#: Descriptors that a task's process writes to lie above this.
_HIGH_FD: Final = 512


def append_all(fd: int, content: bytes) -> None:
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
