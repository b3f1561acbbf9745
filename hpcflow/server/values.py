"""Streams values to clients: each item is one line of JSON and its bytes, which nobody here opens."""

from __future__ import annotations

import asyncio
import base64
import json
from bisect import bisect_left, insort
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final

from hpcflow.core.bag import DamagedError, checked
from hpcflow.core.model import Bag, BagId, ClusterName, DispatchId, HpcflowError
from hpcflow.core.states import State
from hpcflow.server.cleaning import cleaned_of
from hpcflow.server.clusters import Cluster
from hpcflow.server.levels import Level
from hpcflow.server.spool import value_bytes
from hpcflow.server.store import ChildRow, EndRow, Store
from hpcflow.server.tasks import Stored

__all__ = ["Values"]

Json = dict[str, Any]  # Any: JSON, described in docs/reference/api.md

_AT_ONCE: Final = 2000
_PIECE: Final = 8 * 2**20
#: Files of which a piece is held for values that lie beside the last one.
_WINDOWS: Final = 4


class Values:
    """The values of one server's dispatches."""

    def __init__(
        self, store: Store, clusters: Mapping[ClusterName, Cluster], payload: Callable[[DispatchId], str]
    ) -> None:
        self._store = store
        self._clusters = clusters
        self._payload = payload

    async def stream(
        self, level: Level, tasks: Sequence[int] | None, *, output: bool, apart: bool
    ) -> AsyncIterator[bytes]:
        """Yield the output of a lattice and what it needs, or tasks.

        The result of a sublattice is its output, and after it comes what that needs, once for all.

        Args:
            level: the lattice.
            tasks: in the root's numbers; ``None``: all of this level.
            output: the lattice's own return value is asked for instead.
            apart: large values are named only, to be asked for by themselves.
        """
        cleaned = await asyncio.to_thread(cleaned_of, self._store, level.root) or {}
        base = level.tasks.start
        if output:
            manifest = await self._manifest(level)
            yield await self._output(None, base, manifest, self._file(level, manifest))
            tasks = [base + index for index in manifest["output_deps"]]
        waiting = list(level.tasks if tasks is None else tasks)
        sent = set(waiting)
        children = {child.task: child for child in level.children}
        while waiting:
            piece, waiting = waiting[:_AT_ONCE], waiting[_AT_ONCE:]
            states = await asyncio.to_thread(self._store.states_of, level.root, piece)
            async for part in self._plain(
                level, [index for index in piece if index not in children], states, cleaned, apart=apart
            ):
                yield part
            for index in piece:
                if index in children:
                    part, needed = await self._of_child(level, children[index], states[index])
                    yield part
                    new = [each for each in needed if each not in sent]
                    sent.update(new)
                    waiting += new

    async def _of_child(self, level: Level, child: ChildRow, state: State) -> tuple[bytes, list[int]]:
        """Return the item of a sublattice's task, and the tasks whose values it needs."""
        if state is not State.COMPLETED:
            return _head(child.task, "missing", 0, state=state), []
        manifest = await asyncio.to_thread(self._store.child_manifest, child.id)
        path = self._payload(level.root).removesuffix(f"{level.root}.blobs") + manifest["payload"]
        item = await self._output(child.task, child.first, manifest, path)
        return item, [child.first + index for index in manifest["output_deps"]]

    async def _manifest(self, level: Level) -> Mapping[str, Any]:  # Any: JSON
        if level.child is not None:
            return await asyncio.to_thread(self._store.child_manifest, level.child.id)
        return await asyncio.to_thread(self._store.manifest, level.root)

    def _file(self, level: Level, manifest: Mapping[str, Any]) -> str:  # Any: JSON
        whole = self._payload(level.root)
        return whole if level.child is None else whole.removesuffix(f"{level.root}.blobs") + manifest["payload"]

    async def _output(self, task: int | None, base: int, manifest: Mapping[str, Any], path: str) -> bytes:  # Any: JSON
        number = manifest["output"]
        offset = sum(size for size, _ in manifest["blobs"][:number])
        size = manifest["blobs"][number][0]
        blob = await asyncio.to_thread(_read_file, path, offset, size)
        return _head(task, "output", size, base=base) + blob

    async def _plain(
        self,
        level: Level,
        piece: Sequence[int],
        states: Mapping[int, State],
        cleaned: Mapping[str, Any],  # Any: JSON
        *,
        apart: bool,
    ) -> AsyncIterator[bytes]:
        ends: Mapping[int, EndRow] = await asyncio.to_thread(self._store.ends, level.root, piece)
        bags: dict[BagId, Bag] = {}
        small: list[bytes] = []
        windows = _Windows()
        for each in ends.values():
            if (where := await self._bag(bags, each.bag)) is not None:
                windows.expect(Stored.of(each.record, where.path), where.shape.cluster)
        for index in piece:
            end = ends.get(index)
            bag = await self._bag(bags, end.bag) if end is not None else None
            # A small value lies in the store, also when nobody knows any more where its bag was.
            stored = Stored.of(end.record, bag.path if bag is not None else "") if end is not None else None
            inline = stored.inline if stored is not None else None
            if end is None or (bag is None and inline is None) or end.record.get("sub"):
                small.append(_head(index, "missing", 0, state=states.get(index)))
                continue
            kind = "result" if end.record["st"] == "ok" else "error"
            said: Json = {"state": State.COMPLETED if kind == "result" else State.FAILED}
            if kind == "error":
                said |= {"type": end.record.get("exc"), "message": end.record.get("msg")}
            if bag is None or inline is not None:
                data = base64.b64decode(inline or "")
                small.append(_head(index, kind, len(data), **said) + data)
                continue
            stored = stored or Stored()
            cluster = self._clusters.get(bag.shape.cluster)
            if cluster is None:
                message = f"its value lies on {bag.shape.cluster}, which clusters.toml does not name any more"
                small.append(_head(index, "missing", 0, state=said["state"], message=message))
                continue
            try:
                # All that can be missing is known before a line promises it.
                data = await windows.read(stored if stored.size <= _PIECE else stored.last_byte(), cluster)
                if stored.file is not None and stored.size <= _PIECE:
                    checked(data, bytes.fromhex(stored.file[3]))
                elif stored.file is not None and not data:
                    raise DamagedError(f"{stored.file[0]} is shorter than it was")
            except HpcflowError as error:
                message = f"the value of task {index} lay on {cluster.name} and can't be read any more: {error}"
                gone = cleaned
                if bag.dispatch != level.root:  # another dispatch computed it
                    found = await asyncio.to_thread(cleaned_of, self._store, bag.dispatch)
                    gone = found if found is not None else {}
                if bag.id in gone.get("bags", ()):
                    message = f"the value of task {index} was removed from {cluster.name} at {gone['at']}"
                small.append(_head(index, "missing", 0, state=said["state"], message=message))
                continue
            if stored.size <= _PIECE:
                small.append(_head(index, kind, len(data), **said) + data)
                continue
            if apart:
                small.append(_head(index, kind, 0, **said, apart=stored.size))
                continue
            yield b"".join(small) + _head(index, kind, stored.size, **said)
            small = []
            async for part in _large(stored, cluster):
                yield part
        if small:
            yield b"".join(small)

    async def _bag(self, known: dict[BagId, Bag], bag: BagId) -> Bag | None:
        if bag not in known:
            row = await asyncio.to_thread(self._store.bag, bag)
            if row is None:
                return None
            known[bag] = row.bag
        return known[bag]


class _Windows:
    """Reads together what lies side by side in a file: behind ssh each read is a command, and takes round trips."""

    def __init__(self) -> None:
        #: Where values that will be asked for begin and end, by cluster and file.
        self._expected: defaultdict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
        #: What was read last of a few files, and from where on.
        self._held: OrderedDict[tuple[str, str], tuple[int, bytes]] = OrderedDict()

    def expect(self, stored: Stored | None, cluster: str) -> None:
        """Note that a value will be asked for, before any is."""
        if stored is not None and stored.file is not None and stored.size <= _PIECE:
            path, offset, size, _ = stored.file
            insort(self._expected[cluster, path], (offset, offset + size))

    async def read(self, stored: Stored, cluster: Cluster) -> bytes:
        """Return a value; fewer bytes than it has where its file is shorter than it was."""
        if stored.file is None:
            return await value_bytes(stored, cluster)
        path, offset, size, _ = stored.file
        key = (cluster.name, path)
        begin, data = self._held.get(key, (0, b""))
        if not begin <= offset <= offset + size <= begin + len(data):
            begin, stop = offset, offset + size
            expected = self._expected[key]
            for _, end in expected[bisect_left(expected, (offset, 0)) :]:
                if end > offset + _PIECE:
                    break
                stop = max(stop, end)
            data = await cluster.transport.read(path, offset, stop - offset)
            self._held[key] = (begin, data)
            self._held.move_to_end(key)
            if len(self._held) > _WINDOWS:
                self._held.popitem(last=False)
        return data[offset - begin : offset - begin + size]


async def _large(stored: Stored, cluster: Cluster) -> AsyncIterator[bytes]:
    if stored.file is None:
        return
    path, offset, size, _ = stored.file
    for at in range(0, size, _PIECE):
        yield await cluster.transport.read(path, offset + at, min(_PIECE, size - at))


def _head(task: int | None, kind: str, size: int, **more: Any) -> bytes:  # Any: JSON
    return json.dumps({"task": task, "kind": kind, "size": size, **more}).encode() + b"\n"


def _read_file(path: str, offset: int, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(size)
