"""All that the tasks of a dispatch wrote as one archive, made while it is read: a tar of text files, compressed."""

from __future__ import annotations

import asyncio
import os
import re
import tarfile
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import Any, Final, NamedTuple

from hpcflow.core.follow import array_task_of
from hpcflow.core.model import Bag, BagId, DispatchId, HpcflowError
from hpcflow.core.states import State
from hpcflow.server.cleaning import cleaned_of
from hpcflow.server.clusters import Cluster
from hpcflow.server.engine import Engine
from hpcflow.server.levels import Level
from hpcflow.server.logs import Logs, spans
from hpcflow.server.store import TaskRow

__all__ = ["LogArchive"]

#: Bytes that are read from a cluster at once, and bytes that are compressed at once.
_PIECE: Final = 2**20
_BLOCK: Final = tarfile.BLOCKSIZE
_LEVEL: Final = 6
#: An archive is unpacked anywhere, by anything: names have nothing that any shell or file system takes for its own.
_ODD: Final = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST: Final = 60
_COLUMNS: Final = ("task", "electron", "state", "attempt", "cluster", "array task", "host", "error")


class _Text(NamedTuple):
    """What one attempt wrote to one of its streams: bytes of its worker's log."""

    cluster: str
    path: str
    begin: int
    #: ``None``: where the log ends.
    end: int | None
    #: In the archive.
    name: str


@dataclass(slots=True)
class _Missing:
    """What is not in the archive, or not whole, and why."""

    lines: list[str] = field(default_factory=list[str])

    def add(self, text: _Text, why: str) -> None:
        self.lines.append(f"{os.path.basename(text.name)}: {' '.join(why.split())}")


class LogArchive:
    """Makes archives of what the tasks of one server wrote; nothing of it is ever whole in memory."""

    def __init__(self, engine: Engine, logs: Logs, level: Callable[[str], Awaitable[Level]]) -> None:
        """Take what knows where logs are.

        Args:
            engine: whose dispatches these are.
            logs: reads them.
            level: finds a dispatch, or a sublattice, by its id.
        """
        self._engine = engine
        self._store = engine.writer.store
        self._logs = logs
        self._level = level

    async def archive(self, dispatch: str, *, failed: bool) -> tuple[str, AsyncIterator[bytes]]:
        """Return a file's name, and a gzipped tar with a text file for each stream that an attempt has written to.

        It begins with tasks.tsv, a line for each task. What can't be read is named in MISSING.txt, its last file.

        Args:
            dispatch: or a sublattice.
            failed: only of tasks that have failed.

        Raises:
            NotFound: there is no such dispatch.
        """
        level = await self._level(dispatch)
        folder = f"{level.id}-logs"
        table, texts, missing = await asyncio.to_thread(self._listed, level, folder, failed=failed)
        return f"{folder}.tar.gz", _compressed(self._tar(folder, table, texts, missing))

    def _listed(self, level: Level, folder: str, *, failed: bool) -> tuple[bytes, list[_Text], _Missing]:
        """Return the table of tasks, and where their texts lie, those of one log together and in order."""
        wanted = level.within() if level.child is not None else None
        state = State.FAILED if failed else None
        rows = {
            row.index: row
            for row in self._store.tasks(level.root, state=state)
            if wanted is None or any(row.index in tasks for tasks in wanted)
        }
        bags: dict[BagId, Bag | None] = {row.bag.id: row.bag for row in self._store.bags(level.root)}
        hosts: dict[int, str] = {}
        cleaned: dict[DispatchId, dict[str, Any]] = {}  # Any: JSON
        texts: list[_Text] = []
        missing = _Missing()
        for end in self._store.attempts(level.root):
            row = rows.get(end.index)
            if row is None:
                continue
            hosts[end.index] = end.record.get("host") or ""
            if end.bag not in bags:  # another dispatch ran it
                known = self._store.bag(end.bag)
                bags[end.bag] = None if known is None else known.bag
            bag = bags[end.bag]
            if bag is not None and bag.dispatch not in cleaned:
                cleaned[bag.dispatch] = cleaned_of(self._store, bag.dispatch) or {}
            names = _names(folder, level, row, end.attempt)
            if bag is None or bag.id in cleaned[bag.dispatch].get("bags", ()):
                why = "nobody knows any more where it lay."
                if bag is not None:
                    why = f"it was removed when dispatch {bag.dispatch} was cleaned at {cleaned[bag.dispatch]['at']}."
                for name, first, last in zip(names, *spans(end), strict=True):
                    if last is None or last > first:
                        missing.add(_Text("", "", 0, 0, name), why)
                continue
            texts += _texts(bag, end.worker, *spans(end), names)
        for index, row in rows.items():
            if row.state is State.RUNNING and (found := self._logs.running(level.root, index)) is not None:
                bag, worker, begins = found
                texts += _texts(bag, worker, begins, (None, None), _names(folder, level, row, row.attempt))
        texts.sort(key=attrgetter("cluster", "path", "begin"))
        return _table(level, rows.values(), hosts), texts, missing

    async def _tar(self, folder: str, table: bytes, texts: Sequence[_Text], missing: _Missing) -> AsyncGenerator[bytes]:
        now = self._engine.now().timestamp()
        for piece in _file(f"{folder}/tasks.tsv", table, now):
            yield piece
        for name, there in groupby(texts, key=attrgetter("cluster")):
            cluster = self._engine.clusters.get(name)
            if cluster is None:
                for text in there:
                    missing.add(text, f"clusters.toml does not name {name} any more.")
                continue
            async for piece in self._of_cluster(cluster, list(there), missing, now):
                yield piece
        if missing.lines:
            told = "".join(f"{line}\n" for line in missing.lines).encode(errors="replace")
            for piece in _file(f"{folder}/MISSING.txt", told, now):
                yield piece
        yield bytes(2 * _BLOCK)

    async def _of_cluster(
        self, cluster: Cluster, texts: Sequence[_Text], missing: _Missing, now: float
    ) -> AsyncGenerator[bytes]:
        """Yield what lies on one cluster; once it does not answer, nothing more is asked of it."""
        try:
            whole = await self._logs.sized(cluster, [(text.path, text.begin, text.end) for text in texts])
        except HpcflowError as error:
            for text in texts:
                missing.add(text, str(error))
            return
        left = [text._replace(end=end) for text, end in zip(texts, whole, strict=True)]
        last = {text.path: text.end or 0 for text in left}
        window = _Window(cluster)
        for at, text in enumerate(left):
            size = (text.end or 0) - text.begin
            if size <= 0:
                continue
            try:
                first = await window.read(text.path, text.begin, size, last[text.path])
                if not first:
                    missing.add(text, f"{text.path} on {cluster.name} is shorter than it was.")
                    continue
            except HpcflowError as error:
                missing.add(text, str(error))
                if await self._away(cluster, text):
                    for other in left[at + 1 :]:
                        missing.add(other, str(error))
                    return
                continue
            yield _header(text.name, size, now)
            yield first
            done = len(first)
            try:
                while done < size and (
                    piece := await window.read(text.path, text.begin + done, size - done, last[text.path])
                ):
                    yield piece
                    done += len(piece)
                why = f"{text.path} on {cluster.name} is shorter than it was."
            except HpcflowError as error:
                why = str(error)
            if done < size:
                missing.add(text, f"only its first {done} of {size} bytes, the rest is filled with zeros. {why}")
                for start in range(done, size, _PIECE):
                    yield bytes(min(_PIECE, size - start))
            yield bytes(-size % _BLOCK)

    async def _away(self, cluster: Cluster, text: _Text) -> bool:
        """Return whether it is not only one file of a cluster that can't be read."""
        try:
            await self._logs.sized(cluster, [(text.path, text.begin, None)])
        except HpcflowError:
            return True
        return False


class _Window:
    """Reads one log after the other in large pieces: many tasks may have written a little each into one."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._path, self._start, self._data = "", 0, b""

    async def read(self, path: str, offset: int, size: int, last: int) -> bytes:
        """Return up to ``size`` bytes, none at the log's end; ``last`` is where what is wanted of it ends."""
        inside = offset - self._start
        if path != self._path or not 0 <= inside < len(self._data):
            # Whatever fails, what was there before is of another place.
            self._path, self._data = "", b""
            self._data = await self._cluster.transport.read(path, offset, min(_PIECE, max(last - offset, 1)))
            self._path, self._start, inside = path, offset, 0
        return self._data[inside : inside + size]


def _texts(
    bag: Bag, worker: str, begins: tuple[int, int], ends: tuple[int | None, int | None], names: Sequence[str]
) -> Iterator[_Text]:
    path = os.path.join(bag.path, "logs", worker)
    for ending, begin, end, name in zip(("out", "err"), begins, ends, names, strict=True):
        if end is None or end > begin:
            yield _Text(bag.shape.cluster, f"{path}.{ending}", begin, end, name)


def _names(folder: str, level: Level, row: TaskRow, attempt: int) -> tuple[str, str]:
    """Return what both streams of an attempt are called; those of attempts before the last one say which."""
    word = _ODD.sub("_", row.name).strip("._-")[:_LONGEST] or "task"
    again = "" if attempt == row.attempt else f".attempt-{attempt}"
    stem = f"{folder}/{row.index - level.tasks.start:05d}-{word}{again}"
    return f"{stem}.stdout.txt", f"{stem}.stderr.txt"


def _table(level: Level, rows: Iterable[TaskRow], hosts: dict[int, str]) -> bytes:
    lines = ["\t".join(_COLUMNS)]
    for row in rows:
        job = array_task_of(row.worker) if row.worker else ""
        cells = (
            *(row.index - level.tasks.start, row.name, row.state, row.attempt),
            *(row.cluster or "", job, hosts.get(row.index, ""), row.error or ""),
        )
        lines.append("\t".join(" ".join(str(cell).split()) for cell in cells))
    return "".join(f"{line}\n" for line in lines).encode(errors="replace")


def _header(name: str, size: int, now: float) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = size, 0o600, int(now)
    return entry.tobuf(tarfile.GNU_FORMAT)


def _file(name: str, content: bytes, now: float) -> Iterator[bytes]:
    yield _header(name, len(content), now)
    yield content
    yield bytes(-len(content) % _BLOCK)


async def _compressed(pieces: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """Yield a gzip of the pieces, in a thread: the server answers others meanwhile."""
    squeezer = zlib.compressobj(_LEVEL, wbits=31)
    waiting: list[bytes] = []
    size = 0
    async for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= _PIECE:
            if packed := await asyncio.to_thread(squeezer.compress, b"".join(waiting)):
                yield packed
            waiting, size = [], 0
    rest = b"".join(waiting)
    yield await asyncio.to_thread(lambda: squeezer.compress(rest) + squeezer.flush())
