"""The server's own log, as the page reads it: the newest entries, or those that say something."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from hpcflow.server.reports import spelled

__all__ = ["LEVELS", "log_version", "read_log"]

Json = dict[str, Any]  # Any: JSON, described in insight_schema.py

LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
#: The log and what it was before it was turned over, the oldest first.
_PARTS: Final = (".2", ".1", "")
_ENTRY: Final = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(\d{3}) ([A-Z]+) (\S+): (.*)", re.DOTALL)
#: Of one entry; the file has all of it.
_LONGEST: Final = 20_000


def read_log(path: str, *, text: str, level: str, limit: int) -> Json:
    """Return the newest entries that fit, the oldest of them first.

    Args:
        path: of the file that is written now.
        text: what an entry has to contain, in either case of letters.
        level: the least one.
        limit: so many at most.
    """
    wanted, least = text.casefold(), LEVELS.index(level)
    kept: deque[Json] = deque(maxlen=limit)
    found = total = size = 0
    for part in _PARTS:
        for entry in _entries(path + part):
            total += 1
            if LEVELS.index(entry["level"]) < least or (wanted and wanted not in entry["text"].casefold()):
                continue
            found += 1
            kept.append(entry)
        size += _size(path + part)
    return {"path": path, "bytes": size, "entries": list(kept), "found": found, "total": total}


def log_version(path: str) -> str:
    """Return what is another as soon as anything was written."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return "none"
    return f"{status.st_ino}-{status.st_size}"


def _entries(path: str) -> Iterator[Json]:
    """Yield the entries of one file: a line that has no time belongs to the one before."""
    try:
        file = open(path, encoding="utf-8", errors="replace")  # noqa: SIM115  # closed below
    except FileNotFoundError:
        return
    with file:
        entry: Json | None = None
        for line in file:
            begun = _ENTRY.fullmatch(line.rstrip("\n"))
            if begun is None or begun[3] not in LEVELS:
                if entry is not None and len(entry["text"]) < _LONGEST:
                    entry["text"] = f"{entry['text']}\n{line.rstrip()}"[:_LONGEST]
                continue
            if entry is not None:
                yield entry
            at = datetime.strptime(f"{begun[1]}.{begun[2]}", "%Y-%m-%d %H:%M:%S.%f").astimezone()
            entry = {"at": spelled(at), "level": begun[3], "source": begun[4], "text": begun[5][:_LONGEST]}
        if entry is not None:
            yield entry


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
