"""Files and large values that lie on clusters, brought to whoever asks: listed, checked, and from any byte on."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from hpcflow.core.model import Bag, DispatchId, HpcflowError, NotFound, UserError
from hpcflow.core.plugin import Command, Reply
from hpcflow.server.clusters import Cluster
from hpcflow.server.engine import Engine
from hpcflow.server.far_files import pieces
from hpcflow.server.remote import TransportError
from hpcflow.server.store import EndRow
from hpcflow.server.tasks import Stored

__all__ = ["Files", "workdir_of"]

Json = dict[str, Any]  # Any: JSON, described in file_schema.py

#: Listing reads every file once, for its checksum.
_LIST_S: Final = 3600.0
_READ_S: Final = 120.0
#: Times that a command is repeated whose end was not seen; it changes nothing.
_TRIES: Final = 3
#: Bytes that are read at once; files of fewer bytes share a command.
_PIECE: Final = 8 * 2**20
_FILES_AT_ONCE: Final = 500
_ENTRIES_AT_MOST: Final = 200_000

#: Lists $2, which is below $1 or absolute: its real path, then ``ls -dln`` of all in it, then checksums.
_LIST: Final = r"""
LC_ALL=C PATH=$PATH:/usr/bin:/bin; export LC_ALL PATH
nl='
'
base=$(cd -P -- "$1" 2>/dev/null && pwd -P) || exit 66
cd -P -- "$base" || exit 77
real=$(readlink -f -- "$2") && test -e "$real" || exit 66
case $2 in /*) ;; *) case $real/ in "${base%/}"/*) ;; *) exit 78 ;; esac ;; esac
if test -d "$real"; then
    cd -P -- "$real" || exit 77
    printf 'folder %s\n' "$real"
    set -- .
else
    test -f "$real" && test -r "$real" || exit 77
    cd -P -- "${real%/*}/" || exit 77
    printf 'file %s\n' "$real"
    set -- "./${real##*/}"
fi
find "$1" -name "*$nl*" -prune -exec echo odd \;
find "$1" -name "*$nl*" -prune -o \( -type d -o -type f -o -type l \) -exec ls -dln {} + || exit 77
echo sums
command -v sha256sum >/dev/null && find "$1" -name "*$nl*" -prune -o -type f -exec sha256sum {} +
echo whole
"""
#: "-rw-r--r-- 1 1000 1000 12 Nov 26 17:05 ./name", as POSIX has it for ``ls -n``.
_ENTRY: Final = re.compile(r"([-dl])(\S{9})\S*\s+\d+\s+\d+\s+\d+\s+(\d+)\s+\S+\s+\S+\s+\S+ (\./.*|\.)")
_SUM: Final = re.compile(r"([0-9a-f]{64}) [ *](\./.*)")

#: Writes spans of files below $1: lines of "first byte, from 1 / bytes / name".
_READ: Final = r"""
PATH=$PATH:/usr/bin:/bin; export PATH
cd -P -- "$1" || exit 66
while IFS=/ read -r from size name; do
    test -f "$name" && test ! -L "$name" || { printf '%s\n' "$name" >&2; exit 66; }
    tail -c "+$from" "$name" | head -c "$size"
done
"""


class Files:
    """What clusters hold of a server's dispatches."""

    def __init__(
        self,
        engine: Engine,
        place: Callable[[str, int], Awaitable[tuple[DispatchId, int]]],
    ) -> None:
        """Take an engine.

        Args:
            engine: whose dispatches these are.
            place: returns for a dispatch, or a child of one, and a task in it the whole dispatch and the number there.
        """
        self._engine = engine
        self._store = engine.writer.store
        self._place = place

    # ---- a result

    async def value(self, dispatch: str, index: int, offset: int) -> tuple[int, str, AsyncIterator[bytes]]:
        """Return size, SHA-256 and, from ``offset`` on, the bytes of what a task returned or raised.

        Raises:
            NotFound: there is no such task, or it has left no value.
            HpcflowError: what lay on its cluster can't be read.
        """
        end, bag = await self._end(dispatch, index)
        if end is not None and end.record.get("sub"):
            raise NotFound(f"Task {index} of {dispatch} is a sublattice: its result is made of those of its tasks.")
        stored = Stored.of(end.record, bag.path) if end is not None and bag is not None else None
        if stored is None or bag is None:
            raise NotFound(f"Task {index} of {dispatch} has left no value.")
        if stored.file is None:
            data = base64.b64decode(stored.inline or "")
            return len(data), hashlib.sha256(data).hexdigest(), _whole(data[offset:])
        path, start, size, digest = stored.file
        cluster = self._cluster(bag)
        return size, digest, pieces(cluster, path, start + offset, max(0, size - offset))

    # ---- files

    async def listing(self, dispatch: str, index: int, path: str) -> Json:
        """Return what lies at a path below a task's working directory, or at an absolute path on its cluster.

        Raises:
            NotFound: there is nothing, or the task has no directory of its own.
            HpcflowError: it leads out of that directory, or the cluster does not answer.
        """
        end, bag = await self._end(dispatch, index)
        base = workdir_of(bag, end.record) if end is not None and bag is not None else None
        if bag is None or (base is None and not path.startswith("/")):
            why = "left no files in a directory of its own" if end is not None else "has not ended"
            raise NotFound(f"Task {index} of {dispatch} {why}.")
        if not path:
            raise UserError('Name a file or folder of the task ("." for all of them).')
        if "\n" in path or "\0" in path:
            raise UserError("A path holds no line breaks.")
        cluster = self._cluster(bag)
        reply = await _repeated(cluster, Command(("/bin/sh", "-c", _LIST, "sh", base or "/", path)), _LIST_S)
        match reply.exit_code:
            case 0:
                return {"cluster": cluster.name, **_parsed(reply.stdout)}
            case 66 if base is not None and path == ".":
                raise NotFound(f"The directory of task {index}, {base} on {cluster.name}, is gone.")
            case 66:
                raise NotFound(f"There is no {path} in {base or '/'} on {cluster.name}.")
            case 78:
                raise HpcflowError(
                    f"{path} leads out of the directory of task {index}. If that is what you want, give its absolute "
                    f"path on {cluster.name}."
                )
            case _:
                raise HpcflowError(f"{path} on {cluster.name} can't be read{_said(reply)}.")

    async def content(
        self, dispatch: str, index: int, root: str, spans: Sequence[tuple[str, int, int]]
    ) -> tuple[int, AsyncIterator[bytes]]:
        """Return how many bytes follow, and spans (name, offset, size) of files in a folder that `listing` named."""
        _, bag = await self._end(dispatch, index)
        if bag is None:
            raise NotFound(f"Task {index} of {dispatch} has left no files.")
        for name, _, _ in spans:
            if not name.startswith("./") or ".." in name.split("/") or "\n" in name or "\0" in name:
                raise UserError(f"{name!r} is no name of a file in a folder.")
        cluster = self._cluster(bag)
        return sum(size for _, _, size in spans), _spans(cluster, root, spans)

    async def _end(self, dispatch: str, index: int) -> tuple[EndRow | None, Bag | None]:
        known, number = await self._place(dispatch, index)

        def read() -> tuple[EndRow | None, Bag | None]:
            end = self._store.end(known, number)
            row = self._store.bag(end.bag) if end is not None else None
            return end, row.bag if row is not None else None

        return await asyncio.to_thread(read)

    def _cluster(self, bag: Bag) -> Cluster:
        cluster = self._engine.clusters.get(bag.shape.cluster)
        if cluster is None:
            raise NotFound(f"Cluster {bag.shape.cluster!r} is gone from clusters.toml.")
        return cluster


def workdir_of(bag: Bag, record: Mapping[str, Any]) -> str | None:  # Any: JSON
    """Return where a task left files, or may have: its electron's own ``workdir=``."""
    return os.path.join(bag.path, record["dir"]) if "dir" in record else bag.shape.workdir


def _parsed(stdout: bytes) -> Json:
    """Return the listing as JSON; what can't be told in one line is counted as ``odd``."""
    # Names are bytes: surrogates stand for what is no UTF-8, and JSON carries them as escapes.
    lines = os.fsdecode(stdout).split("\n")
    kind, _, real = lines[0].partition(" ")
    if lines[-2:] != ["whole", ""] or "sums" not in lines:
        raise TransportError("The listing is not whole: ask again.")
    # The last of them: a link's target may hold line breaks, and anything between them.
    cut = len(lines) - 1 - lines[::-1].index("sums")
    odd, entries = 0, list[Json]()
    for line in lines[1:cut]:
        found = _ENTRY.fullmatch(line)
        if found is None:
            odd += 1
            continue
        what, mode, size, name = found.groups()
        target = None
        if what == "l":
            parts = _link(name, int(size))
            if parts is None:
                odd += 1
                continue
            name, target = parts
        if name != ".":
            entry: Json = {"name": name, "kind": {"-": "file", "d": "folder", "l": "link"}[what]}
            entry |= {"size": int(size) if what == "-" else 0, "executable": "x" in mode[:3], "target": target}
            entries.append(entry)
    if len(entries) > _ENTRIES_AT_MOST:
        raise HpcflowError(f"{real} holds {len(entries)} files and folders; fetch it in parts, or as one archive.")
    sums = {found[2]: found[1] for line in lines[cut:] if (found := _SUM.fullmatch(line)) is not None}
    for entry in entries:
        entry["sha256"] = sums.get(entry["name"])
    root = real if kind == "folder" else os.path.dirname(real)
    return {"kind": kind, "root": root, "name": os.path.basename(real), "entries": entries, "odd": odd}


def _link(text: str, size: int) -> tuple[str, str] | None:
    """Part "name -> target": both may hold an arrow, and a link's size is that of its target in bytes."""
    raw = os.fsencode(text)
    cut = len(raw) - size
    if size < 1 or cut < len(b"./? -> ") or raw[cut - 4 : cut] != b" -> ":
        return None
    return os.fsdecode(raw[: cut - 4]), os.fsdecode(raw[cut:])


async def _whole(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _spans(cluster: Cluster, root: str, spans: Sequence[tuple[str, int, int]]) -> AsyncIterator[bytes]:
    together: list[tuple[str, int, int]] = []
    waiting = 0
    for span in spans:
        name, offset, size = span
        if size >= _PIECE:
            if together:
                yield await _small(cluster, root, together)
                together, waiting = [], 0
            async for piece in pieces(cluster, os.path.join(root, name[2:]), offset, size):
                yield piece
            continue
        together.append(span)
        waiting += size
        if waiting >= _PIECE or len(together) >= _FILES_AT_ONCE:
            yield await _small(cluster, root, together)
            together, waiting = [], 0
    if together:
        yield await _small(cluster, root, together)


async def _small(cluster: Cluster, root: str, spans: Sequence[tuple[str, int, int]]) -> bytes:
    stdin = b"".join(b"%d/%d/%s\n" % (offset + 1, size, os.fsencode(name)) for name, offset, size in spans)
    reply = await _repeated(cluster, Command(("/bin/sh", "-c", _READ, "sh", root), stdin=stdin), _READ_S)
    if reply.exit_code != 0:
        raise NotFound(f"A file in {root} on {cluster.name} is gone or can't be read{_said(reply)}.")
    if len(reply.stdout) != sum(size for _, _, size in spans):
        raise NotFound(f"Files in {root} on {cluster.name} changed while they were read: fetch them again.")
    return reply.stdout


async def _repeated(cluster: Cluster, command: Command, deadline_s: float) -> Reply:
    """Run what changes nothing, again where its end was not seen.

    Raises:
        TransportError: it never was.
    """
    reply = await cluster.transport.run(command, deadline_s)
    for _ in range(_TRIES - 1):
        if reply.exit_code is not None:
            return reply
        reply = await cluster.transport.run(command, deadline_s)
    if reply.exit_code is None:
        raise TransportError(f"{cluster.name} does not answer{_said(reply)}.")
    return reply


def _said(reply: Reply) -> str:
    lines = reply.stderr.decode(errors="replace").strip().splitlines()
    return f": {lines[-1].rstrip('.')}" if lines else ""
