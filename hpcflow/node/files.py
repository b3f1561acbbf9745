"""Reading and writing all bytes that were asked for: what read(2) and write(2) leave to their callers."""

from __future__ import annotations

import os
from typing import Final

__all__ = ["append_all", "read_at"]

# One call moves at most 2 GiB less a page (write(2), Linux).
_PIECE: Final = 1 << 30


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
