"""What tasks write, while they run and afterwards: read in pieces, followed by any number of people, searched."""

from __future__ import annotations

import asyncio
import codecs
import os
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import islice
from typing import Any, Final, Literal, NamedTuple

from hpcflow.core.model import Bag, DispatchId, NotFound
from hpcflow.core.plugin import Command
from hpcflow.core.states import State
from hpcflow.server.clusters import Cluster
from hpcflow.server.engine import Engine
from hpcflow.server.remote import TransportError
from hpcflow.server.store import EndRow

__all__ = ["Logs", "Name", "span", "spans"]

Json = dict[str, Any]  # Any: JSON, described in log_api.py
Name = Literal["stdout", "stderr"]

#: Logs that one command reads, bytes of each at most as `Logs.output` allows; more of them take turns.
_LOGS_AT_ONCE: Final = 100
_LOOK_S: Final = 60.0
#: What a search reads at once, and what one request reads and how long it takes at most.
_PIECE: Final = 4 * 2**20
_SEARCH_BYTES: Final = 256 * 2**20
_SEARCH_S: Final = 5.0
#: Bytes of a line that a hit shows before and after what was found. A line that never ends has a hit in each `_LINE`.
_BEFORE: Final = 200
_AFTER: Final = 400
_LINE: Final = 4096

#: Reads lines of "where a task's part begins / first byte, -1 for the last ones / bytes at most / path". Writes for
#: each the file's size, the first byte that follows and how many do, and these; "whole" proves that none is missing.
_READ: Final = r"""
LC_ALL=C PATH=$PATH:/usr/bin:/bin; export LC_ALL PATH
while read -r begin from most path; do
    if test -f "$path" && test ! -L "$path" && size=$(wc -c <"$path"); then
        size=$((size)) at=$from
        test "$at" -ge 0 || at=$((size - most))
        test "$at" -ge "$begin" || at=$begin
        n=$((size - at))
        test "$n" -le "$most" || n=$most
        test "$n" -ge 0 || n=0
        printf '%s %s %s\n' "$size" "$at" "$n"
        test "$n" -eq 0 || tail -c "+$((at + 1))" "$path" | head -c "$n"
    else
        echo '-1 0 0'
    fi
done
echo whole
"""


class _Part(NamedTuple):
    """Where a task's output lies: bytes of its worker's log, to its end or, while it runs, as far as there are any."""

    cluster: Cluster
    path: str
    begin: int
    #: ``None``: where the log ends.
    end: int | None
    #: Its task runs.
    live: bool


class _Want(NamedTuple):
    begin: int
    #: -1: the last ``most`` bytes.
    start: int
    most: int
    path: str


class _Got(NamedTuple):
    """Bytes of a log; ``size`` is -1 where there is none (yet)."""

    size: int
    start: int
    data: bytes


class Logs:
    """Reads what the tasks of one server write."""

    def __init__(self, engine: Engine, place: Callable[[str, int], Awaitable[tuple[DispatchId, int]]]) -> None:
        """Take an engine.

        Args:
            engine: whose dispatches these are.
            place: returns for a dispatch, or a child of one, and a task in it the whole dispatch and the number there.
        """
        self._engine = engine
        self._store = engine.writer.store
        self._place = place
        self._feeds: dict[str, _Feed] = {}

    async def piece(self, dispatch: str, index: int, stream: Name, offset: int, limit: int) -> bytes:
        """Return a piece of what a task wrote, of one that runs as far as it is there; empty beyond its end."""
        part = (await self._parts(dispatch, index))[stream]
        return b"" if part is None else await _piece(part, offset, limit)

    async def output(self, dispatch: str, index: int, after: Mapping[Name, int], limit: int, wait_s: float) -> Json:
        """Return what a task has written to both streams beyond ``after``, as soon as there is any of it.

        However many ask, one command reads a cluster's logs, at most as often as its journals; none when nobody does.

        Args:
            dispatch: or a child of one.
            index: of the task.
            after: offsets of the first bytes that are wanted, -1 for the last ``limit`` bytes.
            limit: bytes of each stream at most.
            wait_s: how long to wait for news of a task that runs.
        """
        loop = asyncio.get_running_loop()
        ends = loop.time() + wait_s
        while True:
            parts = await self._parts(dispatch, index)
            running = any(part is not None and part.live for part in parts.values())
            told = await self._told(parts, after, limit)
            news = any(
                told[name]["next"] > told[name]["offset"] or told[name]["size"] < seen for name, seen in after.items()
            )
            if news or not running or min(after.values()) < 0 or loop.time() >= ends:
                return {"running": running, **told}

    async def _told(self, parts: Mapping[Name, _Part | None], after: Mapping[Name, int], limit: int) -> dict[str, Json]:
        open_ends: dict[Name, _Part] = {
            name: part for name, part in parts.items() if part is not None and part.end is None
        }
        looks: dict[Name, _Got] = {}
        if open_ends:
            cluster = next(iter(open_ends.values())).cluster
            wants = [
                _Want(part.begin, -1 if after[name] < 0 else part.begin + after[name], limit, part.path)
                for name, part in open_ends.items()
            ]
            looks = dict(zip(open_ends, await self._feed(cluster).look(wants), strict=True))
        told: dict[str, Json] = {}
        for name, part in parts.items():
            if part is None:
                told[name] = {"offset": 0, "next": 0, "size": 0, "text": ""}
                continue
            if part.end is None:
                got = looks[name]
                size, start, data = max(0, got.size - part.begin), got.start - part.begin, got.data
            else:
                size = part.end - part.begin
                start = min(after[name], size) if after[name] >= 0 else max(0, size - limit)
                data = await _piece(part, start, limit)
            text, used = _text(data, whole=not part.live and start + len(data) >= size)
            told[name] = {"offset": max(0, start), "next": max(0, start) + used, "size": size, "text": text}
        return told

    async def search(self, dispatch: str, index: int, stream: Name, text: str, *, offset: int, limit: int) -> Json:
        """Look for text, in either case of letters, from a byte on; return where it stands, at most ``limit`` lines.

        So much is read that an answer takes some seconds; ``searched`` is where to go on.
        """
        part = (await self._parts(dispatch, index))[stream]
        if part is None:
            return {"hits": [], "searched": 0, "size": 0}
        size = await self._size(part)
        needle = _Needle(text)
        loop = asyncio.get_running_loop()
        ends, stop = loop.time() + _SEARCH_S, min(size, offset + _SEARCH_BYTES)
        hits: list[Json] = []
        at, skip, kept = offset, offset, b""
        while at < stop and len(hits) < limit and loop.time() < ends:
            data = await _piece(part, at, min(_PIECE, stop - at))
            if not data:
                break
            block = kept + data
            base = at - len(kept)
            found, resume = await asyncio.to_thread(_hits, block, needle, max(0, skip - base), limit - len(hits))
            hits += [{"offset": base + each, "text": _excerpt(block, each)} for each in found]
            at, skip = at + len(data), max(base + resume, skip)
            kept = block[-(needle.longest - 1 + _BEFORE) :]
        if len(hits) < limit:
            # What begins before the end of what was read may go on behind it.
            skip = max(skip, at - needle.longest + 1) if at < size else size
        return {"hits": hits, "searched": min(skip, size), "size": size}

    async def _size(self, part: _Part) -> int:
        if part.end is not None:
            return part.end - part.begin
        (got,) = await self._feed(part.cluster).look([_Want(part.begin, part.begin, 0, part.path)])
        return max(0, got.size - part.begin)

    async def sized(self, cluster: Cluster, parts: Sequence[tuple[str, int, int | None]]) -> list[int]:
        """Return where parts of logs end, with one command for many that are open-ended, and none for the others.

        Args:
            cluster: where they lie.
            parts: of each its log's path, its first byte, and the byte after its last; ``None``: where the log ends.

        Raises:
            TransportError: the cluster does not answer.
        """
        ends = [end for _, _, end in parts]
        open_ended = [place for place, end in enumerate(ends) if end is None]
        for first in range(0, len(open_ended), _LOGS_AT_ONCE):
            batch = open_ended[first : first + _LOGS_AT_ONCE]
            wants = [_Want(parts[place][1], parts[place][1], 0, parts[place][0]) for place in batch]
            got = await _read(cluster, wants)
            for place, want in zip(batch, wants, strict=True):
                ends[place] = max(want.begin, got[want].size)
        return [end for end in ends if end is not None]

    def _feed(self, cluster: Cluster) -> _Feed:
        feed = self._feeds.get(cluster.name)
        if feed is None or feed.cluster is not cluster:
            settings = self._engine.settings
            pause_s = settings.ssh_journal_poll if cluster.link is not None else settings.journal_poll_max
            feed = self._feeds[cluster.name] = _Feed(cluster, pause_s)
        return feed

    async def _parts(self, dispatch: str, index: int) -> dict[Name, _Part | None]:
        """Return where a task's output lies; ``None``: it has written nothing that is known."""
        root, number = await self._place(dispatch, index)
        running = self.running(root, number)
        if running is None:
            end = await asyncio.to_thread(self._store.end, root, number)
            row = await asyncio.to_thread(self._store.bag, end.bag) if end is not None else None
            if end is None or row is None:
                return {"stdout": None, "stderr": None}
            bag, worker = row.bag, end.worker
            begins, ends = spans(end)
        else:
            bag, worker, begins = running
            ends = (None, None)
        cluster = self._engine.clusters.get(bag.shape.cluster)
        if cluster is None:
            raise NotFound(f"Its output lies on {bag.shape.cluster}, which clusters.toml does not name any more.")
        path = os.path.join(bag.path, "logs", worker)
        live = running is not None
        return {
            "stdout": _Part(cluster, f"{path}.out", begins[0], ends[0], live),
            "stderr": _Part(cluster, f"{path}.err", begins[1], ends[1], live),
        }

    def running(self, root: DispatchId, number: int) -> tuple[Bag, str, tuple[int, int]] | None:
        """Return bag and worker of a task that runs, and where its output begins in the worker's logs."""
        live = self._engine.writer.dispatches.get(root)
        task = live.tasks[number] if live is not None else None
        if task is None or task.state is not State.RUNNING or task.bag is None or task.worker is None:
            return None
        bag = self._engine.bags.get(task.bag)
        worker = bag.ledger.workers.get(task.worker) if bag is not None else None
        return (bag.bag, task.worker, worker.log_ends) if bag is not None and worker is not None else None


class _Feed:
    """Reads logs of one cluster for all who ask: one command at a time, a pause between them, none when nobody asks."""

    def __init__(self, cluster: Cluster, pause_s: float) -> None:
        self.cluster = cluster
        self._pause_s = pause_s
        self._asked: dict[_Want, asyncio.Future[_Got]] = {}
        self._turns: asyncio.Task[None] | None = None
        self._looked_at = float("-inf")

    async def look(self, wants: Sequence[_Want]) -> list[_Got]:
        """Return what the next look sees.

        Raises:
            TransportError: the cluster does not answer.
        """
        loop = asyncio.get_running_loop()
        waited = [self._asked.setdefault(want, loop.create_future()) for want in wants]
        if self._turns is None:
            self._turns = loop.create_task(self._take_turns())
        # One who leaves does not take what others wait for along.
        return list(await asyncio.gather(*map(asyncio.shield, waited)))

    async def _take_turns(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._asked:
                await asyncio.sleep(max(0.0, self._looked_at + self._pause_s - loop.time()))
                now = dict(islice(self._asked.items(), _LOGS_AT_ONCE))
                for want in now:
                    del self._asked[want]
                try:
                    got = await _read(self.cluster, list(now))
                except Exception as error:
                    for future in now.values():
                        future.set_exception(error)
                        future.exception()  # who asked may have left
                else:
                    for want, future in now.items():
                        future.set_result(got[want])
                self._looked_at = loop.time()
        finally:
            self._turns = None


async def _read(cluster: Cluster, wants: Sequence[_Want]) -> dict[_Want, _Got]:
    told = b"".join(b"%d %d %d %s\n" % (*want[:3], os.fsencode(want.path)) for want in wants)
    reply = await cluster.transport.run(Command(("/bin/sh", "-c", _READ), stdin=told), _LOOK_S)
    if reply.exit_code is None:
        said = reply.stderr.decode(errors="replace").strip().splitlines()
        raise TransportError(f"{cluster.name} does not answer{': ' + said[-1].rstrip('.') if said else ''}.")
    found: dict[_Want, _Got] = {}
    rest = reply.stdout
    try:
        for want in wants:
            head, _, rest = rest.partition(b"\n")
            size, start, count = map(int, head.split())
            found[want] = _Got(size, start, rest[:count])
            rest = rest[count:]
    except ValueError:
        rest = b""
    if rest != b"whole\n":
        raise TransportError(f"What {cluster.name} said of its logs is not whole: ask again.")
    return found


async def _piece(part: _Part, offset: int, limit: int) -> bytes:
    """Return bytes of a task's part, by its own offsets."""
    wanted = limit if part.end is None else min(limit, part.end - part.begin - offset)
    return await part.cluster.transport.read(part.path, part.begin + offset, wanted) if wanted > 0 else b""


def _text(data: bytes, *, whole: bool) -> tuple[str, int]:
    """Return bytes as text and how many of them are in it: a character that is cut at the end is for the next piece."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data, final=whole)
    return text, len(data) - len(decoder.getstate()[0])


class _Needle:
    """What is searched, in either case of its letters, as the bytes that a log may hold: nothing of the log is changed,
    whose letters have other lengths in the other case."""

    def __init__(self, text: str) -> None:
        ways = [sorted({each.encode() for each in (c, c.lower(), c.upper()) if len(each) == 1}) for c in text]
        #: Bytes that it has at most.
        self.longest = sum(max(map(len, way)) for way in ways)
        self._plain = text.lower().encode() if text.isascii() else None
        self._pattern = re.compile(b"".join(b"(?:%s)" % b"|".join(map(re.escape, way)) for way in ways))

    def finder(self, block: bytes) -> Callable[[int], int]:
        """Return what tells where it stands from a byte on, -1 for nowhere."""
        if self._plain is not None:  # far faster
            low, plain = block.lower(), self._plain
            return lambda at: low.find(plain, at)

        def find(at: int) -> int:
            found = self._pattern.search(block, at)
            return -1 if found is None else found.start()

        return find


def _hits(block: bytes, needle: _Needle, start: int, limit: int) -> tuple[list[int], int]:
    """Return where the lines begin to hold the needle, one place for each, and where to go on."""
    find = needle.finder(block)
    found: list[int] = []
    at = start
    while len(found) < limit and (hit := find(at)) >= 0:
        found.append(hit)
        end = block.find(b"\n", hit, hit + _LINE)
        at = end + 1 if end >= 0 else hit + _LINE
    return found, at


def _excerpt(block: bytes, hit: int) -> str:
    start = max(block.rfind(b"\n", 0, hit) + 1, hit - _BEFORE)
    end = block.find(b"\n", hit, hit + _AFTER)
    return block[start : end if end >= 0 else hit + _AFTER].decode(errors="replace")


def spans(end: EndRow) -> tuple[tuple[int, int], tuple[int | None, int | None]]:
    """Return where a task's output begins and ends in both logs; one that died with its worker has the rest of them."""
    if (begins := end.record.get("from")) is not None:
        return (begins[0], begins[1]), (None, None)
    (out, out_size), (err, err_size) = span(end.record, "out"), span(end.record, "err")
    return (out, err), (out + out_size, err + err_size)


def span(record: Mapping[str, Any], stream: str) -> tuple[int, int]:  # Any: JSON
    """Return offset and size of a task's part of its worker's log."""
    start, end = record.get(stream) or (0, 0)
    return start, end - start
