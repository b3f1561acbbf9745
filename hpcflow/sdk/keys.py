"""Keys of calls: equal for calls that must give equal results, in every process and wherever they stand in a graph."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, Protocol

from hpcflow.core.model import Task
from hpcflow.core.reuse import surroundings
from hpcflow.sdk.fingerprint import Fingerprints
from hpcflow.sdk.pickling import load_with

__all__ = ["keys_of"]

#: Of the form of keys; a change of what counts changes it.
_FORM: Final = 2


class Text(Protocol):
    """What a key must know of a function."""

    @property
    def digest(self) -> str | None: ...

    @property
    def imports(self) -> Mapping[str, str]: ...


def keys_of(
    wanted: Collection[int],
    tasks: Sequence[Task],
    blobs: Sequence[bytes],
    *,
    texts: Mapping[int, Text],
    prints: Fingerprints,
    stand_in: Callable[[int], object],
) -> dict[int, str | None]:
    """Return the keys of calls, and of all that they take results from or wait for; ``None`` for one without.

    Args:
        wanted: tasks.
        tasks: all of the graph.
        blobs: what their numbers mean.
        texts: of the functions, by the number of the function's blob.
        prints: makes digests.
        stand_in: returns what stands for the result of a task among arguments.
    """
    keys: dict[int, str | None] = {}

    def key_of(upstream: int) -> str:
        return keys[upstream] or ""  # none of those that are asked for is None

    for index in _in_order(wanted, tasks):
        task = tasks[index]
        keys[index] = None
        if all(keys[each] is not None for each in (*task.deps, *task.after)):
            try:
                arguments = prints.of_arguments(load_with(blobs[task.args], stand_in), key_of)
            except Exception:  # unpickling runs the arguments' own code
                arguments = None
            keys[index] = _key(task, texts[task.fn], arguments, sorted(map(key_of, task.after)))
    return keys


def _in_order(wanted: Iterable[int], tasks: Sequence[Task]) -> Iterable[int]:
    """Yield these tasks and all before them, each after those before it."""
    done: set[int] = set()
    for start in sorted(wanted):
        stack = [start]
        while stack:
            index = stack[-1]
            missing = [before for before in (*tasks[index].deps, *tasks[index].after) if before not in done]
            if index in done or not missing:
                stack.pop()
                if index not in done:
                    done.add(index)
                    yield index
            else:
                stack += missing


def _key(task: Task, text: Text, arguments: str | None, after: Sequence[str]) -> str | None:
    if text.digest is None or arguments is None or "?" in text.imports.values():
        return None
    parts = [
        _FORM,
        list(sys.version_info[:2]),
        text.digest,
        sorted(text.imports.items()),
        arguments,
        after,
        surroundings(task),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
