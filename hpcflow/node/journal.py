"""The journal of one worker: signed lines that only this worker appends, and what a successor reads in them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from hpcflow.core.bag import read_lines, sign_line
from hpcflow.core.errors import HpcflowError
from hpcflow.node.files import append_all, out_of_the_way, read_at, read_own

__all__ = ["Journal", "Past", "StorageFault", "read_past"]

#: Ends that need no further run. An interrupted task runs again; a signal may be one that hit the whole worker (S4).
_FINAL: Final = frozenset({"ok", "error", "exit", "timeout", "memory"})
_DOUBTFUL_SIGNALS: Final = (9, 15)


class StorageFault(HpcflowError):
    """The bag's directory takes no more bytes: quota, a full or a lost file system."""


class Past(NamedTuple):
    """What dead predecessors of a worker left behind."""

    #: Ranges that they had claimed, as far as their journals say.
    ranges: frozenset[int]
    #: Their last word on each task: (index, attempt) -> the `end` record.
    ended: Mapping[tuple[int, int], Mapping[str, Any]]  # Any: JSON


class Journal:
    """Appends records; every one is on disk at most ``sync_s`` later.

    The process of a series appends with its copy of this object, while the worker waits for it: one writer at a time.
    """

    def __init__(self, directory: str, job: str, index: int, restart: int, *, key: bytes, sync_s: float | None) -> None:
        """Create the journal, whose name is the worker's identity.

        O_EXCL makes it single-writer: where the scheduler has no restart counter, or counts wrongly, the next free
        number is taken.
        """
        while True:
            self.worker = f"{job}_{index}_{restart}"
            try:
                fd = os.open(
                    os.path.join(directory, self.worker + ".jsonl"),
                    os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC,
                    0o600,
                )
                break
            except FileExistsError:
                restart += 1
        self.fd = out_of_the_way(fd)
        self.restart = restart
        self._key = key
        self._sync_s = sync_s
        self._synced_at = float("-inf")
        self._torn = False
        self._size = 0

    def write(self, event: str, **fields: object) -> None:
        """Append one record.

        Raises:
            StorageFault: the line isn't wholly in the file.
        """
        self.append(self.line(event, **fields))

    def line(self, event: str, **fields: object) -> bytes:
        """Return a record as the journal holds it."""
        return sign_line({"ev": event, "t": round(time.time(), 4), "w": self.worker, **fields}, self._key)

    def append(self, lines: bytes) -> None:
        """Append whole lines at once. Raises `StorageFault` as `write` does."""
        try:
            if self._torn:
                lines = b"\n" + lines
            append_all(self.fd, lines)
        except OSError as error:
            self._torn = True
            raise StorageFault(f"The journal of worker {self.worker} can't be written: {error}.") from error
        self._torn = False
        self._size += len(lines)
        if self._sync_s is not None and time.monotonic() - self._synced_at >= self._sync_s:
            self.sync()

    def size(self) -> int:
        return os.fstat(self.fd).st_size

    def is_whole(self) -> bool:
        """Return whether nobody else has written here: a task's process inherits the descriptor."""
        return self.size() == self._size and not self._torn

    def mend(self) -> None:
        """Let the next record begin a line, whatever stands before it."""
        if not self.is_whole():
            self._size, self._torn = self.size(), True

    def since(self, offset: int) -> list[dict[str, Any]]:  # Any: JSON
        """Return what a child has written from an offset on; a line in which it was killed is closed by the next one.

        Raises:
            StorageFault: the journal can't be read.
        """
        try:
            data = read_at(self.fd, offset, self.size() - offset)
        except OSError as error:
            raise StorageFault(f"The journal of worker {self.worker} can't be read: {error}.") from error
        records, end, _ = read_lines(data, self._key)
        self._size, self._torn = offset + len(data), end < len(data)
        return records

    def sync(self) -> None:
        if self._sync_s is not None:
            os.fsync(self.fd)
            # A node's clock may be set back by minutes; this one never is.
            self._synced_at = time.monotonic()


def read_past(directory: str, workers: list[str], key: bytes) -> Past:
    """Read the journals of dead predecessors, oldest first.

    Raises:
        StrangeFile: something else lies in the place of one.
    """
    ranges: set[int] = set()
    ended: dict[tuple[int, int], Mapping[str, Any]] = {}
    for worker in workers:
        try:
            records, _, _ = read_lines(read_own(os.path.join(directory, worker + ".jsonl")), key)
        except FileNotFoundError:
            continue
        for number, record in enumerate(records):
            match record["ev"]:
                case "claim":
                    ranges.add(record["k"])
                case "inherit":
                    ranges.update(record["k"])
                case "end" if record["st"] in _FINAL or _died_alone(records, number):
                    ended.setdefault((record["i"], record["n"]), record)
                case _:
                    pass
    return Past(frozenset(ranges), ended)


def _died_alone(records: list[dict[str, Any]], number: int) -> bool:
    """Return whether a task died of its own signal: one that nobody sends to jobs, or the worker went on (S4)."""
    end = records[number]
    if end["st"] != "signal":
        return False
    if end["sig"] not in _DOUBTFUL_SIGNALS:
        return True
    following = next((record for record in records[number + 1 :] if record["ev"] != "left"), None)
    return following is not None and not (following["ev"] == "exit" and following["why"] == "term")
