"""Runs a traced lattice in this process, task by task, from its pickles alone."""

from __future__ import annotations

from typing import Any

from hpcflow.sdk.trace import Traced
from hpcflow.sdk.workflow import dumps, load_with


def run(traced: Traced) -> Any:  # Any: whatever the lattice returns
    """Return what a client would get: every value has been pickled on its way, as on a cluster."""
    results: dict[int, bytes] = {}

    def value(index: int) -> object:
        return load_with(results[index])

    for task in traced.graph.tasks:
        function = load_with(traced.blobs[task.fn])
        args, kwargs = load_with(traced.blobs[task.args], value)
        results[task.index] = dumps(function(*args, **kwargs))
    return load_with(traced.blobs[traced.graph.output], value)
