"""Runs a traced lattice in this process, task by task, from its pickles alone."""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any, NamedTuple

from hpcflow.core.bag import stream_head
from hpcflow.core.model import Graph
from hpcflow.sdk.trace import Traced
from hpcflow.sdk.workflow import dumps, load_with
from hpcflow.server.manifest import read_graph

__all__ = ["Built", "built", "run"]


class Built(NamedTuple):
    """What a sublattice made of values."""

    graph: Graph
    blobs: tuple[bytes, ...]


def run(traced: Traced | Built) -> Any:  # Any: whatever the lattice returns
    """Return what a client would get: every value has been pickled on its way, as on a cluster."""
    results: dict[int, bytes] = {}

    def value(index: int) -> object:
        return load_with(results[index])

    for task in traced.graph.tasks:
        function = load_with(traced.blobs[task.fn])
        args, kwargs = load_with(traced.blobs[task.args], value)
        returned = function(*args, **kwargs)
        results[task.index] = dumps(run(_opened(returned)) if task.sublattice else returned)
    return load_with(traced.blobs[traced.graph.output], value)


def built(traced: Traced, index: int) -> Built:
    """Return the graph that a sublattice without arguments builds."""
    return _opened(load_with(traced.blobs[traced.graph.tasks[index].fn])())


def _opened(stream: bytes) -> Built:
    data = zlib.decompress(stream)
    head = stream_head(data)
    assert head is not None
    at = sum(head)
    manifest = json.loads(data[head[0] : at])
    sizes = [size for size, _ in manifest["blobs"]]
    return Built(read_graph(manifest), struct.unpack("".join(f"{size}s" for size in sizes), data[at:]))
