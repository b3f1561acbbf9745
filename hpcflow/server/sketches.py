"""Graphs that somebody wants to see before they are dispatched: a few, in memory, for a while. Nothing of them runs."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from hpcflow.core.model import Graph, NotFound, Shape
from hpcflow.server.reports import spelled
from hpcflow.server.views import in_columns, upstream_of

__all__ = ["Sketches"]

Json = dict[str, Any]  # Any: JSON, described in sketch_api.py
Manifest = Mapping[str, Any]  # Any: a checked upload.Manifest

_KEPT: Final = 8
_FOR: Final = timedelta(hours=1)
#: Bytes of all that are kept; the newest is kept in any case.
_MOST_BYTES: Final = 64 * 2**20
#: A lattice may give each of its calls a name of its own, and nobody reads a table of so many.
_ROWS: Final = 1000


@dataclass(frozen=True, slots=True)
class _Sketch:
    made: datetime
    told: Json
    graph: bytes


class Sketches:
    """Keeps the last sketches that were sent."""

    def __init__(self, read: Callable[[Manifest], tuple[Graph, list[Shape]]], *, now: Callable[[], datetime]) -> None:
        """Keep none yet.

        Args:
            read: returns the graph of a manifest and what its tasks ask for; raises `UserError` for what can't be.
            now: the time.
        """
        self._read = read
        self._now = now
        self._kept: OrderedDict[str, _Sketch] = OrderedDict()

    async def add(self, manifest: Manifest) -> str:
        """Keep what a manifest describes under its id, and return that; the same again changes nothing but the time.

        Raises:
            UserError: it can't be dispatched as it is.
        """
        graph, shapes = self._read(manifest)
        known, now = str(manifest["id"]), self._now()
        made = await asyncio.to_thread(_made, known, now, graph, shapes)
        self._forget(now)
        self._kept[known] = made
        self._kept.move_to_end(known)
        while len(self._kept) > _KEPT or (len(self._kept) > 1 and self._size() > _MOST_BYTES):
            self._kept.popitem(last=False)
        return known

    def told(self, known: str) -> Json:
        """Return the name of a sketch and what each of its electrons asks for.

        Raises:
            NotFound: it is not kept, or not any more.
        """
        return self._get(known).told

    def graph(self, known: str) -> bytes:
        """Return `page_schema.GraphColumns` as JSON.

        Raises:
            NotFound: as `told`.
        """
        return self._get(known).graph

    def _get(self, known: str) -> _Sketch:
        self._forget(self._now())
        found = self._kept.get(known)
        if found is None:
            raise NotFound(
                f"There is no preview {known[:40]!r} here any more: the server keeps the last {_KEPT}, for an hour and "
                "as long as it runs. Call draw() again."
            )
        return found

    def _forget(self, now: datetime) -> None:
        for known in [known for known, each in self._kept.items() if now - each.made > _FOR]:
            del self._kept[known]

    def _size(self) -> int:
        return sum(len(each.graph) for each in self._kept.values())


def _made(known: str, now: datetime, graph: Graph, shapes: list[Shape]) -> _Sketch:
    rows = _electrons(graph, shapes)
    told = {
        "id": known,
        "name": graph.name,
        "made_at": spelled(now),
        "tasks": len(graph.tasks),
        "electrons": rows[:_ROWS],
        "electrons_total": len(rows),
    }
    names = [task.name for task in graph.tasks]
    return _Sketch(now, told, in_columns(names, upstream_of(graph.tasks), ()))


def _electrons(graph: Graph, shapes: list[Shape]) -> list[Json]:
    """Return a row for each electron, and for each kind of its calls that asks for something else."""
    rows: dict[tuple[str, int, int, bool], Json] = {}
    for task, shape in zip(graph.tasks, shapes, strict=True):
        # Equal shapes are one object.
        key = (task.name, id(shape), task.retries.times, task.sublattice)
        if key not in rows:
            rows[key] = {
                "name": task.name,
                "tasks": 0,
                "cluster": shape.cluster,
                "asked": {name: value for name, value in asdict(shape.resources).items() if value not in {None, ()}},
                "retries": task.retries.times,
                "sublattice": task.sublattice,
            }
        rows[key]["tasks"] += 1
    return list(rows.values())
