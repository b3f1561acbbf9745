"""Writes a bag: which of a dispatch's blobs and results go into its directory, and what bag.json says of them."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any, Final, NamedTuple

from hpcflow.core.bag import (
    BAG_VERSION,
    DIRECTORIES,
    INBOX,
    INLINE_LIMIT,
    Ref,
    Stream,
    bag_key,
    pack,
    read_lines,
    sign,
    sign_line,
)
from hpcflow.core.lingering import Leave
from hpcflow.core.model import Bag, ClusterName, HpcflowError, Shape
from hpcflow.core.states import State
from hpcflow.server.clusters import Cluster
from hpcflow.server.fetched import fetched_path, stream_of
from hpcflow.server.live import LiveDispatch
from hpcflow.server.remote import File
from hpcflow.server.spool import Laid, Spool

__all__ = ["close_inbox", "launch_command", "let_leave", "parts_told", "push_bag", "push_part", "tell_cancelled"]

#: Journals are forced to disk at most this often, in seconds.
_SYNC_S: Final = 0.5
#: Workers of one bag that wait for more, at most: each looks into the inbox now and then.
LINGERERS: Final = 64
_INBOX_MOST: Final = 1 << 30


class _Blobs:
    """The blobs of one payload pack in the making, each kept once under the name it has outside."""

    def __init__(self, folder: str) -> None:
        #: Takes what lies on other clusters.
        self.spool = Spool(folder)
        self.pieces: list[bytes | Stream] = []
        self._numbers: dict[object, int] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._numbers

    def add(self, name: object, blob: bytes | Stream) -> int:
        self._numbers[name] = len(self.pieces)
        self.pieces.append(blob)
        return self._numbers[name]

    def __getitem__(self, name: object) -> int:
        return self._numbers[name]


async def push_bag(
    live: LiveDispatch, bag: Bag, clusters: Mapping[ClusterName, Cluster], *, kill_grace_s: float, on_network: bool
) -> None:
    """Make the bag's directory appear on its cluster, with its first part. Doing it twice does it once.

    Raises:
        TransportError: the cluster can't be reached, or its disk is full.
    """
    cluster = clusters[bag.shape.cluster]
    part = await _part(live, bag, 0, clusters)
    resources = bag.shape.resources
    spec = {
        "v": BAG_VERSION,
        "bag": bag.id,
        "dispatch": bag.dispatch,
        "py": list(bag.shape.python_version),
        **part.listed,
        "iso": _isolation(bag.shape),
        "inline": INLINE_LIMIT,
        "limit": bag.limit_s,
        "grace": kill_grace_s,
        "walltime": bag.worker_walltime_s,
        "need": bag.need_s,
        "sync": _SYNC_S,
        "nfs": on_network if cluster.on_network is None else cluster.on_network,
        "claims": cluster.claims,
        "workdir": bag.shape.workdir,
        "cpus": resources.cpus,
        "memory_mib": resources.memory_mib,
        "gpus": resources.gpus,
        "ntasks": resources.ntasks,
        "launch": launch_command(bag.shape, cluster.settings.srun_mpi),
        "slots": bag.slots,
        "linger": bag.linger_s,
        "lingerers": LINGERERS,
        "notice": cluster.notice,
    }
    raw = json.dumps(spec, separators=(",", ":")).encode()
    signature = sign(raw, bag_key(cluster.key, bag.id)).encode()
    files = [
        File(INBOX, []),
        File("payload.pack", Laid(part.pieces)),
        File("bag.sig", [signature]),
        File("bag.json", [raw]),
    ]
    await cluster.transport.push(bag.path, DIRECTORIES, files)


async def push_part(live: LiveDispatch, bag: Bag, number: int, clusters: Mapping[ClusterName, Cluster]) -> None:
    """Bring a further part of a bag, from 1 on, to its cluster, and tell its workers. Twice does it once.

    Raises:
        TransportError: the cluster can't be reached, or its disk is full; perhaps the workers know it all the same.
    """
    cluster = clusters[bag.shape.cluster]
    part = await _part(live, bag, number, clusters)
    await cluster.transport.push(f"{bag.path}/more-{number}", (), [File("payload.pack", Laid(part.pieces))])
    await _tell(bag, {"ev": "more", "n": number, **part.listed}, cluster)


async def close_inbox(bag: Bag, cluster: Cluster) -> None:
    """Tell the workers of a bag that no further part will come."""
    await _tell(bag, {"ev": "close", "n": len(bag.parts) + 1}, cluster)


async def tell_cancelled(bag: Bag, tasks: Sequence[tuple[int, int]], cluster: Cluster) -> None:
    """Tell the workers of a bag that nobody wants these tasks, by (index, attempt). Twice does no harm.

    Raises:
        TransportError: the cluster can't be reached, or its disk is full; perhaps the workers know it all the same.
    """
    await _tell(bag, {"ev": "cancel", "n": 0, "tasks": tasks}, cluster)


async def let_leave(bag: Bag, leave: Leave, cluster: Cluster) -> None:
    """Tell the workers of a bag which of them need not wait; it holds until something else is told."""
    told = {"ev": "leave", "n": len(bag.parts) + 1, "all": leave.everyone, "names": dict(leave.names)}
    await _tell(bag, told, cluster)


async def parts_told(bag: Bag, cluster: Cluster) -> int:
    """Return how many further parts of a bag its workers were told of, by whichever server."""
    lines = await cluster.transport.read(f"{bag.path}/{INBOX}", 0, _INBOX_MOST)
    records, _, _ = read_lines(lines, bag_key(cluster.key, bag.id))
    return max((record["n"] for record in records if record["ev"] == "more"), default=0)


async def _tell(bag: Bag, record: Mapping[str, Any], cluster: Cluster) -> None:  # Any: JSON
    # The first newline ends a line that was cut.
    line = b"\n" + sign_line(record, bag_key(cluster.key, bag.id))
    await cluster.transport.append(f"{bag.path}/{INBOX}", line)


def _isolation(shape: Shape) -> str:
    """Return how workers keep a bag's tasks apart, as bag.json has it."""
    if shape.resources.gpus or shape.launcher or shape.isolation == "interpreter":
        return "spawn"  # what a GPU's driver keeps in a process does not survive a fork
    return "fork" if shape.isolation is None else "alone"


def launch_command(shape: Shape, srun_mpi: str | None) -> list[str] | None:
    """Return what starts the ranks of a task, up to their own command; ``None``: it has none."""
    match shape.launcher:
        case None:
            return None
        case "srun":
            flavour = [f"--mpi={srun_mpi}"] if srun_mpi is not None else []
            return ["srun", *flavour, f"--ntasks={shape.resources.ntasks}", "--kill-on-bad-exit=1"]
        case "mpirun":
            return ["mpirun", "-n", str(shape.resources.ntasks)]


class _Part(NamedTuple):
    """What a part adds: the pieces of its pack, and what bag.json or a line of the inbox says of it."""

    pieces: Sequence[bytes | Stream]
    listed: dict[str, Any]  # Any: JSON


async def _part(live: LiveDispatch, bag: Bag, number: int, clusters: Mapping[ClusterName, Cluster]) -> _Part:
    bounds = [0, *bag.parts, len(bag.tasks)]
    first, end = bounds[number], bounds[number + 1]
    mine = [(place, unit) for place, unit in enumerate(bag.units) if first <= unit[0] < end]
    before = {bag.tasks[after][0]: bag.tasks[at][0] for _, unit in mine for at, after in pairwise(unit)}
    numbers = {
        blob for index, _ in bag.tasks[first:end] for blob in (live.graph.tasks[index].fn, live.graph.tasks[index].args)
    }
    blobs, rows = _Blobs(live.folder), list[list[Any]]()
    # What several tasks need is written once: a stage that needs all of the stage before has one table of inputs.
    tables: dict[tuple[int, int | None, int | None], int] = {}
    inputs: list[dict[str, Ref]] = []
    for blob, data in (await asyncio.to_thread(_read_blobs, live, sorted(numbers))).items():
        blobs.add(blob, data)
    for index, attempt in bag.tasks[first:end]:
        task = live.graph.tasks[index]
        own = before.get(index)
        files = live.files.get(task.fn, ())
        place = (id(task.deps), own if own in task.deps else None, task.fn if files else None)
        table = tables.setdefault(place, len(inputs))
        if table == len(inputs):
            fetched = {f"file:{each['key']}": await _file(live, each["key"], blobs) for each in files}
            inputs.append({**await _inputs(live, bag, blobs, clusters, index=index, own=own), **fetched})
        rows.append([index, attempt, blobs[task.fn], blobs[task.args], table, task.name])
    pieces, digest = pack(blobs.pieces)
    low, high = mine[0][0], mine[-1][0] + 1
    listed = {
        "index": digest,
        "tasks": rows,
        "inputs": inputs,
        "units": None if all(len(unit) == 1 for _, unit in mine) else [list(unit) for _, unit in mine],
        "cuts": [cut for cut in bag.cuts if low < cut <= high or cut == number == 0],
    }
    return _Part(pieces, listed)


async def _inputs(
    live: LiveDispatch,
    bag: Bag,
    blobs: _Blobs,
    clusters: Mapping[ClusterName, Cluster],
    *,
    index: int,
    own: int | None,
) -> dict[str, Ref]:
    """Return how the bag names all results that a task needs; ``own`` is of the task before it in its unit."""
    level = live.tasks[index].level
    base = level.first if level is not None else 0
    refs: dict[str, Ref] = {}
    for upstream in live.graph.tasks[index].deps:
        if upstream == own:
            refs[str(upstream - base)] = None if level is None else {"unit": upstream}
            continue
        for leaf in live.leaves(upstream):
            key = str(upstream - base) if leaf == upstream else f"@{leaf}"
            if key not in refs:
                refs[key] = await _input(live, leaf, bag, blobs, clusters)
    return refs


async def _file(live: LiveDispatch, key: str, blobs: _Blobs) -> int:
    """Return the number of the blob that is a file which was fetched beside the server."""
    name = ("file", key)
    if name in blobs:
        return blobs[name]
    return blobs.add(name, await stream_of(fetched_path(live.folder, live.id, key), live.streams))


def _read_blobs(live: LiveDispatch, numbers: Sequence[int]) -> dict[int, bytes]:
    """Return blobs of the dispatch by their numbers, which ascend."""
    blobs: dict[int, bytes] = {}
    for path, group in groupby(numbers, key=lambda number: live.blobs[number][0]):
        with open(path, "rb") as file:
            for number in group:
                _, offset, size = live.blobs[number]
                file.seek(offset)
                blobs[number] = file.read(size)
    return blobs


async def _input(
    live: LiveDispatch, upstream: int, bag: Bag, blobs: _Blobs, clusters: Mapping[ClusterName, Cluster]
) -> Ref:
    """Return how the bag names the result of an upstream task: in place where it lies on the same cluster."""
    task = live.tasks[upstream]
    name = ("result", upstream)
    if task.state is not State.COMPLETED:  # its result will never be: the electron accepts that
        return blobs[name] if name in blobs else blobs.add(name, pickle.dumps(live.without_result(upstream), 4))
    if task.child is not None:
        out = ("output", task.child.output)
        if out not in blobs:
            (data,) = (await asyncio.to_thread(_read_blobs, live, [task.child.output])).values()
            blobs.add(out, data)
        return {"out": blobs[out], "base": task.child.first}
    if task.result is None:
        raise HpcflowError(f"The result of task {upstream} ({task.task.name}) is not stored.")
    if task.result.file is not None and task.home == bag.shape.cluster:
        return task.result.file
    if name not in blobs:
        blobs.add(name, await blobs.spool.take(task.result, clusters[task.home]))
    return blobs[name]
