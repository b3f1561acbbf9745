"""A shared file system: what a node appends is seen by the server a while later, never in another order."""

from __future__ import annotations

import os.path
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from hpcflow.server.remote import File

__all__ = ["SharedFiles"]


@dataclass(slots=True)
class _Content:
    data: bytearray = field(default_factory=bytearray)
    #: When each append becomes visible, ascending, and where it ends.
    times: list[float] = field(default_factory=list[float])
    ends: list[int] = field(default_factory=list[int])

    def visible(self, now: float) -> int:
        known = bisect_right(self.times, now)
        return self.ends[known - 1] if known else 0


class SharedFiles:
    """Directories of files. Names are made at once for all, as the file server decides; content lags."""

    def __init__(self, clock: Callable[[], float], lag: Callable[[], float]) -> None:
        self._clock = clock
        self._lag = lag
        self._directories: dict[str, dict[str, _Content]] = {}
        #: Owner of each claimed range, by bag.
        self.claims: dict[str, dict[int, str]] = {}

    def make(self, directory: str, folders: Sequence[str], files: Sequence[File]) -> None:
        """Make a directory with its files, unless it exists."""
        if directory in self._directories:
            return
        self._directories[directory] = {
            file.name: _Content(bytearray(b"".join(file.pieces)), [0.0], [sum(map(len, file.pieces))]) for file in files
        }
        for folder in folders:
            self._directories[os.path.join(directory, folder)] = {}
        self.claims[directory] = {}

    def exists(self, path: str) -> bool:
        directory, name = os.path.split(path)
        return name in self._directories.get(directory, {})

    def append(self, path: str, data: bytes) -> float:
        """Append, making the file if need be; return when the server sees it."""
        directory, name = os.path.split(path)
        content = self._directories[directory].setdefault(name, _Content())
        content.data += data
        seen_at = self._clock() + self._lag()
        if content.times:
            seen_at = max(seen_at, content.times[-1])
        content.times.append(seen_at)
        content.ends.append(len(content.data))
        return seen_at

    def read(self, path: str, offset: int = 0, size: int | None = None) -> bytes:
        """Return what is visible of a file.

        Raises:
            FileNotFoundError: nobody made it.
        """
        directory, name = os.path.split(path)
        try:
            content = self._directories[directory][name]
        except KeyError:
            raise FileNotFoundError(2, "No such file or directory", path) from None
        end = content.visible(self._clock())
        return bytes(content.data[offset : end if size is None else min(end, offset + size)])

    def read_new(self, directory: str, offsets: Mapping[str, int]) -> dict[str, bytes]:
        """Return what the files of a directory visibly hold beyond some offsets.

        Raises:
            FileNotFoundError: nobody made the directory.
        """
        if directory not in self._directories:
            raise FileNotFoundError(2, "No such file or directory", directory)
        now = self._clock()
        found: dict[str, bytes] = {}
        for name, content in self._directories[directory].items():
            offset = offsets.get(name, 0)
            if (end := content.visible(now)) > offset:
                found[name] = bytes(content.data[offset:end])
        return found
