"""What of a dispatch goes into the cache, and under which keys."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol

from hpcflow.core.model import Bag, DispatchId, Shape
from hpcflow.core.states import State
from hpcflow.server.live import LiveDispatch
from hpcflow.server.store import CacheRow, Changes, EndRow
from hpcflow.server.tasks import Stored

__all__ = ["Finder", "Given", "cache_key", "cache_keys", "cache_rows"]


@dataclass(frozen=True, slots=True)
class Given:
    """A result that is there: how its task ended, and where it lies."""

    end: EndRow
    bag: Bag
    stored: Stored
    #: The task that ran, in the numbers of its whole dispatch.
    source: DispatchId
    source_index: int


class Finder(Protocol):
    """Finds results for tasks, and gives them to these."""

    async def look(self, keys: Mapping[int, str]) -> tuple[dict[int, Given], dict[int, CacheRow], list[str]]: ...

    def give(self, live: LiveDispatch, given: Mapping[int, Given], taken: Changes) -> None: ...


def cache_key(key: str, shape: Shape) -> str:
    """Return the key of a call as it would run: in the environment that its cluster gives it, by this hpcflow."""
    # Cached again with each minor version: what a task does is ours as well.
    parts = [key, _minor(), list(shape.python_version), asdict(shape.env)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def cache_keys(keys: Mapping[int, str], shapes: Sequence[Shape]) -> dict[int, str]:
    """Return the keys of tasks as they would run."""
    return {index: cache_key(key, shapes[index]) for index, key in keys.items()}


def cache_rows(live: LiveDispatch, at: datetime) -> Iterator[CacheRow]:
    """Yield what is to be cached of the tasks that moved."""
    accepting = any(task.accept_failed for task in live.graph.tasks)
    for index in live.dirty:
        task = live.tasks[index] if index >= 0 else None
        key = live.keys.get(index)
        if task is None or key is None or task.state is not State.COMPLETED or task.borrowed:
            continue
        if accepting and not _is_sound(live, index):
            continue
        if task.child is not None:
            if any(live.tasks[each].state is not State.COMPLETED for each in task.child.tasks):
                continue
        elif task.result is None:
            continue
        yield CacheRow(
            key=cache_key(key, task.shape),
            function=task.task.name,
            dispatch=live.id,
            index=index,
            bag=task.bag if task.child is None else None,
            size=_size(live, index),
            at=at,
        )


def _is_sound(live: LiveDispatch, index: int) -> bool:
    """Return whether nothing before a task failed: some task may have taken that, and gone on with less."""
    seen, waiting = {index}, [index]
    while waiting:
        at = waiting.pop()
        if live.tasks[at].state is not State.COMPLETED:
            return False
        new = {*live.graph.tasks[at].deps, *live.graph.tasks[at].after} - seen
        seen |= new
        waiting += new
    return True


def _size(live: LiveDispatch, index: int) -> int:
    child = live.tasks[index].child
    results = [live.tasks[each].result for each in (live.leaves(index) if child is not None else (index,))]
    return sum(each.size or len(each.inline or "") * 3 // 4 for each in results if each is not None)


@cache
def _minor() -> str:
    try:
        return ".".join(version("hpcflow-orchestrator").split(".")[:2])
    except PackageNotFoundError:
        return ""
