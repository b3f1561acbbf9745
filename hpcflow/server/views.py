"""What the page shows of a dispatch: its graph in columns, its states as letters, its tasks sorted and searched."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

from hpcflow.core.again import holders
from hpcflow.core.blame import sentence_of
from hpcflow.core.follow import array_task_of
from hpcflow.core.model import DispatchId, Graph, HpcflowError, NotFound, Task
from hpcflow.core.states import State
from hpcflow.server.arrays import Arrays
from hpcflow.server.levels import Level, find_level
from hpcflow.server.manifest import moved, read_graph
from hpcflow.server.news import CODES
from hpcflow.server.previews import previews
from hpcflow.server.recent import Recent
from hpcflow.server.reports import spelled
from hpcflow.server.store import PART, ChildRow, EndRow, Kept, OriginRow, Store, TaskRow
from hpcflow.server.writer import Writer

__all__ = ["COLUMNS", "Sort", "Views", "Wanted", "in_columns", "upstream_of"]

Json = dict[str, Any]  # Any: JSON, described in schema.py and page_schema.py

COLUMNS: Final = (
    "index",
    "name",
    "state",
    "attempt",
    "cluster",
    "job_id",
    "array_index",
    "host",
    "started_at",
    "ended_at",
    "wall_s",
    "cpu_s",
    "max_rss_kib",
    "error",
    "cores",
    "unknown_since",
    "end",
    "raw",
    "exit_code",
    "signal",
    "sublattice",
    "origin",
)
#: What a page of tasks may be sorted by.
Sort = Literal["index", "name", "state", "attempt", "host", "started_at", "ended_at", "wall_s", "cpu_s", "max_rss_kib"]
_KEPT: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which tasks of a dispatch to show, in which order."""

    #: Empty for any.
    states: tuple[State, ...] = ()
    #: What name, error, host or job has to contain, in either case of letters; or an index.
    text: str = ""
    #: The electron's whole name; ``None`` for any.
    name: str | None = None
    sort: Sort = "index"
    descending: bool = False
    #: Index of the last task of the page before.
    after: int | None = None
    limit: int = 200


@dataclass(frozen=True, slots=True)
class _Outline:
    """What of a dispatch changes with its sublattices alone: kept for those that were asked for last."""

    whole: Graph
    cores: array[int]
    names: tuple[str, ...]
    graph: bytes
    upstream: tuple[tuple[int, ...], ...]


class Views:
    """Reads for one page or another; each method is called in a thread."""

    def __init__(
        self,
        store: Store,
        writer: Writer,
        unknown_since: Callable[[TaskRow], str | None],
        host: Callable[[TaskRow], str | None],
    ) -> None:
        """Read from a store.

        Args:
            store: what is known.
            writer: what is not stored yet.
            unknown_since: since when nobody knows what becomes of a task, because its cluster does not answer.
            host: where a task runs, as its worker's journal says; what has ended says so itself.
        """
        self._store = store
        self._kept_rows = Kept(store)
        self._writer = writer
        self._unknown_since = unknown_since
        self._host = host
        self._outlines: Recent[DispatchId, _Outline] = Recent(_KEPT)
        self._rows: Recent[DispatchId, list[Json]] = Recent(_KEPT)

    def _outline(self, dispatch: DispatchId) -> _Outline:
        children = self._store.children(dispatch)

        def make() -> _Outline:
            graph = self._whole(dispatch, children)
            upstream = upstream_of(graph.tasks)
            return _Outline(
                whole=graph,
                cores=array("I", (task.resources.cores for task in graph.tasks)),
                names=tuple(task.name for task in graph.tasks),
                graph=in_columns([task.name for task in graph.tasks], upstream, children),
                upstream=upstream,
            )

        return self._outlines.get(dispatch, len(children), make)

    def _whole(self, dispatch: DispatchId, children: Sequence[ChildRow]) -> Graph:
        """Return the graph of a dispatch with those of its sublattices; what is first in these follows on their own."""
        graph = read_graph(self._store.manifest(dispatch))
        for child in children:
            inner = moved(read_graph(self._store.child_manifest(child.id)), len(graph.tasks), 0)
            own = () if child.task == PART else (child.task,)
            tasks = (task if task.deps or task.after else replace(task, after=own) for task in inner.tasks)
            graph = replace(graph, tasks=(*graph.tasks, *tasks))
        return graph

    def cores(self, dispatch: DispatchId) -> Sequence[int]:
        """Return how many cores each task of a dispatch has."""
        return self._outline(dispatch).cores

    def tasks(self, dispatch: DispatchId) -> Sequence[Task]:
        """Return what each task of a dispatch was dispatched with."""
        return self._outline(dispatch).whole.tasks

    def whole(self, dispatch: DispatchId) -> Graph:
        """Return the graph of a dispatch with those of its sublattices."""
        return self._outline(dispatch).whole

    def graph(self, dispatch: DispatchId) -> bytes:
        """Return names and dependencies as JSON, each distinct name and each distinct set of upstreams once."""
        return self._outline(dispatch).graph

    def states(self, dispatch: DispatchId) -> Json:
        """Return each task's state as a letter, and the number of the last news that is in it."""
        number = self._writer.news.number
        live = self._writer.dispatches.get(dispatch)
        if live is not None:
            letters = "".join([CODES[task.state] for task in list(live.tasks)])
        else:
            letters = "".join(CODES[state] for state in self._store.states(dispatch))
        return {"number": number, "version": self._writer.version(dispatch), "states": letters}

    def detail(
        self, row: TaskRow, end: EndRow | None, cores: int, level: Level, origins: Mapping[int, OriginRow]
    ) -> Json:
        """Return one row of the table of tasks."""
        record = end.record if end is not None and end.attempt == row.attempt else {}
        job, _, index = array_task_of(row.worker).rpartition("_") if row.worker else (None, None, None)
        cpu = record.get("cpu")
        return {
            "index": row.index - level.tasks.start,
            "name": row.name,
            "state": row.state,
            "attempt": row.attempt,
            "cluster": row.cluster,
            "job_id": job,
            "array_index": int(index) if index is not None else None,
            "host": record.get("host") or self._host(row),
            "started_at": spelled(row.started_at),
            "ended_at": spelled(row.ended_at),
            "wall_s": record.get("wall"),
            "cpu_s": round(sum(cpu), 3) if cpu else None,
            "max_rss_kib": record.get("rss"),
            "error": row.error,
            "cores": cores,
            "unknown_since": self._unknown_since(row),
            "end": record.get("st"),
            "raw": record.get("raw"),
            "exit_code": record.get("code"),
            "signal": record.get("sig"),
            "sublattice": level.inner.get(row.index),
            "origin": _origin(origins.get(row.index)),
        }

    def table(self, level: Level, state: State | None, after: int, limit: int, *, deep: bool) -> Json:
        """Return the tasks of a level above index ``after``, in order; with ``deep`` those of a whole dispatch."""
        last = level.tasks.stop - 1 if not deep or level.child is not None else None
        after += level.tasks.start
        rows = self._store.tasks(level.root, state=state, after=after, limit=limit, last=last)
        ends = self._store.ends(level.root, [row.index for row in rows])
        cores = self.cores(level.root) if rows else ()
        origins = self._kept_rows.origins(level.root) if rows else {}
        details = (self.detail(row, ends.get(row.index), cores[row.index], level, origins) for row in rows)
        return {"columns": list(COLUMNS), "rows": [[detail[column] for column in COLUMNS] for detail in details]}

    def page(self, dispatch: DispatchId, wanted: Wanted) -> Json:
        """Return a page of the tasks that fit, sorted, those without a value last.

        Raises:
            HpcflowError: the last task of the page before is not among those that fit any more.
        """
        text = wanted.text.casefold()

        def fits(row: Json) -> bool:
            if wanted.states and row["state"] not in wanted.states:
                return False
            if wanted.name is not None and row["name"] != wanted.name:
                return False
            said = (row["name"], row["error"], row["host"], row["job_id"])
            return not text or text == str(row["index"]) or any(text in (each or "").casefold() for each in said)

        every = self._all(dispatch)
        found = [row for row in every if fits(row)]
        key = wanted.sort
        if key != "index" or wanted.descending:
            known = [row for row in found if row[key] is not None]
            known.sort(key=lambda row: (row[key], row["index"]), reverse=wanted.descending)
            found = known + [row for row in found if row[key] is None]
        start = 0
        if wanted.after is not None:
            start = next((at + 1 for at, row in enumerate(found) if row["index"] == wanted.after), -1)
            if start < 0:
                raise HpcflowError(f"Task {wanted.after} is not among these any more: begin with the first page again.")
        rows = found[start : start + wanted.limit]
        return {
            "columns": list(COLUMNS),
            "rows": [[row[column] for column in COLUMNS] for row in rows],
            "found": len(found),
            "total": len(every),
        }

    def _all(self, dispatch: DispatchId) -> list[Json]:
        """Return all rows of a dispatch; kept until it changes."""

        def make() -> list[Json]:
            ends = self._store.ends(dispatch)
            cores = self.cores(dispatch)
            rows = self._store.tasks(dispatch)
            level = find_level(self._store, dispatch)
            assert level is not None  # it has rows
            origins = self._kept_rows.origins(dispatch)
            return [self.detail(row, ends.get(row.index), cores[row.index], level, origins) for row in rows]

        return self._rows.get(dispatch, self._writer.version(dispatch), make)

    def about(self, dispatch: DispatchId, index: int, arrays: Arrays) -> Json:
        """Return what one task asked for, its attempts, its neighbours, and what serves it.

        Raises:
            NotFound: there is no such task.
        """
        row = self._store.task(dispatch, index)
        if row is None:
            raise NotFound(f"Dispatch {dispatch} has no task {index}.")
        outline = self._outline(dispatch)
        task = outline.whole.tasks[index]
        child = next((each for each in self._store.children(dispatch) if index in each.tasks), None)
        manifest = self._store.manifest(dispatch) if child is None else self._store.child_manifest(child.id)
        asked = {key: value for key, value in asdict(task.resources).items() if value not in {None, ()}}
        asked |= {key: value for key, value in row.again.items() if key in {"memory_mib", "walltime_s"}}
        attempts = self._store.attempts(dispatch, index)
        bag = self._store.bag(row.bag) if row.bag is not None else None
        downstream = [other for other, needs in enumerate(outline.upstream) if index in needs]
        function = manifest.get("functions", {}).get(str(task.fn), {})
        return {
            "index": index,
            "asked": asked,
            "retries": task.retries.times,
            "executor": task.executor,
            "module": function.get("module"),
            "source": function.get("source"),
            "upstream": self._neighbours(dispatch, outline, outline.upstream[index]),
            "upstream_total": len(outline.upstream[index]),
            "downstream": self._neighbours(dispatch, outline, downstream),
            "downstream_total": len(downstream),
            "held_by": self._neighbours(dispatch, outline, self._held_by(row, outline)),
            "attempts": [_attempt(end) for end in attempts],
            **previews(attempts[-1].record if attempts else {}),
            "arrays": [
                arrays.serving(each, bag.bag)
                for each in self._store.arrays(dispatch)
                if bag is not None and each.array.bag == bag.bag.id
            ],
        }

    def _held_by(self, row: TaskRow, outline: _Outline) -> list[int]:
        if row.state is not State.SKIPPED:
            return []
        return holders(outline.whole.tasks, self._store.states(row.dispatch), row.index)

    def _neighbours(self, dispatch: DispatchId, outline: _Outline, indices: Sequence[int]) -> list[Json]:
        shown = list(indices[:50])
        states = self._store.states(dispatch)
        return [{"index": other, "name": outline.names[other], "state": states[other]} for other in shown]


def _origin(row: OriginRow | None) -> Json | None:
    return None if row is None else {"how": row.how, "dispatch": row.source, "task": row.source_index}


def _attempt(end: EndRow) -> Json:
    record = end.record
    cpu = record.get("cpu")
    return {
        "attempt": end.attempt,
        "end": record["st"],
        "error": sentence_of(record),
        "job": array_task_of(end.worker),
        "host": record.get("host"),
        "wall_s": record.get("wall"),
        "cpu_s": round(sum(cpu), 3) if cpu else None,
        "max_rss_kib": record.get("rss"),
        "exit_code": record.get("code"),
        "signal": record.get("sig"),
    }


def upstream_of(tasks: Sequence[Task]) -> tuple[tuple[int, ...], ...]:
    """Return what each task needs; tasks that share a barrier share one set of it here as well."""
    shared: dict[tuple[tuple[int, ...], tuple[int, ...]], tuple[int, ...]] = {}
    for task in tasks:
        if (task.deps, task.after) not in shared:
            shared[task.deps, task.after] = tuple(dict.fromkeys((*task.deps, *task.after)))
    return tuple(shared[task.deps, task.after] for task in tasks)


def in_columns(names: Sequence[str], upstream: Sequence[tuple[int, ...]], children: Sequence[ChildRow]) -> bytes:
    """Return a graph as JSON in columns."""
    number_of_name: dict[str, int] = {}
    number_of_set: dict[tuple[int, ...], int] = {}
    return json.dumps(
        {
            "tasks": len(names),
            "name": [number_of_name.setdefault(name, len(number_of_name)) for name in names],
            "needs": [number_of_set.setdefault(needs, len(number_of_set)) for needs in upstream],
            "names": list(number_of_name),
            "sets": list(number_of_set),
            "levels": [
                {"id": child.id, "name": child.name, "task": child.task, "first": child.first, "tasks": child.n_tasks}
                for child in children
            ],
        },
        separators=(",", ":"),
    ).encode()
