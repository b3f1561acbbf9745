"""The state of a running dispatch, in memory: what its tasks wait for, and what follows when one of them moves."""

from __future__ import annotations

import os.path
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from hpcflow.core.model import BagId, ClusterName, DispatchId, Graph, Resources, Shape, Task, UserError
from hpcflow.core.states import FINAL, Event, State, Status, step
from hpcflow.server.store import DispatchRow, EndRow, TaskRow

__all__ = ["LiveDispatch", "LiveTask", "Stored", "read_graph"]

Manifest = Mapping[str, Any]  # Any: JSON that a client sent; read_graph checks it


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a value's pickle lies: base64 in ``inline``, or ``(absolute path, offset, size, SHA-256 in hex)``."""

    inline: str | None = None
    file: tuple[str, int, int, str] | None = None

    @property
    def size(self) -> int:
        """Bytes that lie in a file; 0 for an inline value."""
        return self.file[2] if self.file is not None else 0

    def last_byte(self) -> Stored:
        """Return the end of the value: who can read it has all of the file."""
        if self.file is None:
            return self
        path, offset, size, digest = self.file
        return Stored(file=(path, offset + size - 1, 1, digest))

    @classmethod
    def of(cls, record: Mapping[str, Any], bag_path: str) -> Stored | None:  # Any: JSON
        """Return what the record of an end holds, ``None`` when it holds no value."""
        match record.get("r"):
            case {"b": str(text)}:
                return cls(inline=text)
            case {"f": [str(name), int(offset), int(size), str(digest)]}:
                return cls(file=(os.path.join(bag_path, name), offset, size, digest))
            case _:
                return None


@dataclass(slots=True)
class LiveTask:
    """One task of a running dispatch."""

    task: Task
    shape: Shape
    state: State
    #: Upstreams that have not completed.
    missing: int
    attempt: int = 1
    #: Attempts that were used up by a death of its own.
    charged: int = 0
    alone: bool = False
    bag: BagId | None = None
    worker: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    error: str | None = None
    result: Stored | None = None


@dataclass(slots=True)
class Gathering:
    """Ready tasks of one shape that wait for others like them."""

    #: Since when; ``None``: none waits.
    since: datetime | None = None
    #: Bags that were made while others were still to come.
    bags: int = 0


@dataclass(slots=True)
class LiveDispatch:
    """One run of a lattice that has not ended."""

    row: DispatchRow
    graph: Graph
    tasks: list[LiveTask]
    #: For each task, those that wait for it.
    downstream: list[list[int]]
    shapes: frozenset[Shape]
    #: (offset, size) of each blob in the payload file.
    blobs: list[tuple[int, int]]
    payload: str
    status: Status = Status.RUNNING
    error: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    cancel_wanted: bool = False
    #: Tasks whose row must be written.
    dirty: set[int] = field(default_factory=set[int])
    ready: set[int] = field(default_factory=set[int])
    left: int = 0
    #: For each electron, how many of its tasks have returned, and their run time in all.
    walls: dict[str, tuple[int, float]] = field(default_factory=dict[str, tuple[int, float]])
    #: Clusters of which the user was told that they do not answer.
    told: set[ClusterName] = field(default_factory=set[ClusterName])
    #: Bags in a row of which no worker got anything done, by shape.
    fruitless: Counter[Shape] = field(default_factory=Counter[Shape])

    gatherings: dict[Shape, Gathering] = field(default_factory=dict[Shape, Gathering])

    @property
    def id(self) -> DispatchId:
        return self.row.id

    @property
    def clusters(self) -> frozenset[ClusterName]:
        """The clusters that it runs on."""
        return frozenset(shape.cluster for shape in self.shapes)

    @classmethod
    def fresh(
        cls, row: DispatchRow, graph: Graph, shapes: Sequence[Shape], manifest: Manifest, payload: str
    ) -> LiveDispatch:
        """Return a dispatch of which nothing has run yet; tasks without upstreams are ready."""
        tasks = [
            LiveTask(task=task, shape=shape, state=State.WAITING, missing=len({*task.deps, *task.after}))
            for task, shape in zip(graph.tasks, shapes, strict=True)
        ]
        live = cls(
            row=row,
            graph=graph,
            tasks=tasks,
            downstream=_downstream(graph),
            shapes=frozenset(shapes),
            blobs=list(_offsets(manifest)),
            payload=payload,
            left=len(tasks),
        )
        for index, task in enumerate(tasks):
            if not task.missing:
                live.move(index, Event.UPSTREAMS_DONE, row.created_at)
        live.dirty.clear()
        return live

    def restore(self, rows: Iterable[TaskRow], ends: Iterable[EndRow], bag_paths: Mapping[BagId, str]) -> None:
        """Take the states and results that the store knows instead of fresh ones."""
        self.ready.clear()
        self.left = 0
        for row in rows:
            task = self.tasks[row.index]
            task.state, task.attempt, task.bag, task.worker = row.state, row.attempt, row.bag, row.worker
            task.started_at, task.ended_at, task.error = row.started_at, row.ended_at, row.error
            if row.state is State.READY:
                self.ready.add(row.index)
            self.left += row.state not in FINAL
        for end in ends:
            if end.record["st"] == "ok":
                self.tasks[end.index].result = Stored.of(end.record, bag_paths[end.bag])
            elif end.record["st"] != "error":
                # Every attempt before this one was either charged as well or given back; the kinder count is kept.
                self.tasks[end.index].charged = 1
        for index, task in enumerate(self.tasks):
            upstreams = {*self.graph.tasks[index].deps, *self.graph.tasks[index].after}
            task.missing = sum(self.tasks[upstream].state is not State.COMPLETED for upstream in upstreams)
        self.dirty.clear()

    def move(self, index: int, event: Event, now: datetime, error: str | None = None) -> None:
        """Apply one event to one task, and what follows from it to the tasks downstream.

        Raises:
            HpcflowError: the task's state does not allow the event.
        """
        task = self.tasks[index]
        task.state = step(task.state, event)
        self.dirty.add(index)
        self.ready.discard(index)
        if task.state is State.READY:
            self.ready.add(index)
            if event is not Event.UPSTREAMS_DONE:
                task.attempt += 1
                task.bag = task.worker = task.started_at = None
        elif task.state in FINAL:
            task.ended_at, task.error = now, error
            self.left -= 1
            self._pass_on(index, now)

    def _pass_on(self, index: int, now: datetime) -> None:
        """Tell the tasks downstream that a task is final; a loss goes down the whole graph, without recursion."""
        completed = self.tasks[index].state is State.COMPLETED
        name = self.graph.tasks[index].name
        lost = [] if completed else list(self.downstream[index])
        if completed:
            for child in self.downstream[index]:
                task = self.tasks[child]
                task.missing -= 1
                if not task.missing and task.state is State.WAITING:
                    self.move(child, Event.UPSTREAMS_DONE, now)
        verb = "was cancelled" if self.tasks[index].state is State.CANCELLED else "failed"
        while lost:
            child = lost.pop()
            task = self.tasks[child]
            if task.state is not State.WAITING:
                continue
            task.state = step(task.state, Event.UPSTREAM_LOST)
            task.ended_at, task.error = now, f"Not run, because {name} (task {index}) {verb}."
            self.dirty.add(child)
            self.left -= 1
            lost += self.downstream[child]

    def coming(self) -> Counter[Shape]:
        """Count the tasks that nothing but a scheduler's work keeps waiting, by shape."""
        in_flight = {State.QUEUED, State.RUNNING, State.COMPLETED}
        return Counter(
            task.shape
            for task in self.tasks
            if task.state is State.WAITING
            and all(self.tasks[upstream].state in in_flight for upstream in (*task.task.deps, *task.task.after))
        )

    def note_wall(self, index: int, wall_s: float) -> None:
        """Remember how long a task ran that returned."""
        name = self.graph.tasks[index].name
        count, total = self.walls.get(name, (0, 0.0))
        self.walls[name] = (count + 1, total + wall_s)

    def mean_wall_s(self, index: int) -> float | None:
        """Return the mean run time of a task's electron so far, ``None`` before the first has returned."""
        count, total = self.walls.get(self.graph.tasks[index].name, (0, 0.0))
        return total / count if count else None

    def task_row(self, index: int) -> TaskRow:
        task = self.tasks[index]
        return TaskRow(
            dispatch=self.id,
            index=index,
            name=task.task.name,
            state=task.state,
            attempt=task.attempt,
            bag=task.bag,
            worker=task.worker,
            started_at=task.started_at,
            ended_at=task.ended_at,
            error=task.error,
            cluster=task.shape.cluster,
        )

    def dispatch_row(self) -> DispatchRow:
        return DispatchRow(
            id=self.id,
            name=self.row.name,
            status=self.status,
            created_at=self.row.created_at,
            started_at=self.started_at,
            ended_at=self.ended_at,
            error=self.error,
            n_tasks=len(self.tasks),
            cancel_wanted=self.cancel_wanted,
            python=self.row.python,
            counts={},
        )

    def close(self, now: datetime) -> None:
        """Set the final status; call it when no task is left."""
        failed = [(index, task) for index, task in enumerate(self.tasks) if task.state is State.FAILED]
        lost = any(task.state is not State.COMPLETED for task in self.tasks)
        self.ended_at = now
        if self.cancel_wanted:
            self.status = Status.CANCELLED
            self.error = "The dispatch was cancelled."
        elif failed:
            self.status = Status.FAILED
            first = "; ".join(
                f"{task.task.name} ({index}): {(task.error or '').rstrip('.')}" for index, task in failed[:3]
            )
            more = f"; and {len(failed) - 3} more" if len(failed) > 3 else ""
            self.error = f"{len(failed)} of {len(self.tasks)} tasks failed: {first}{more}"
        elif lost:
            self.status = Status.CANCELLED
            cancelled = next(task for task in self.tasks if task.state is State.CANCELLED)
            self.error = cancelled.error
        else:
            self.status = Status.COMPLETED


def _downstream(graph: Graph) -> list[list[int]]:
    out: list[list[int]] = [[] for _ in graph.tasks]
    for task in graph.tasks:
        for upstream in {*task.deps, *task.after}:
            out[upstream].append(task.index)
    return out


def _offsets(manifest: Manifest) -> Iterator[tuple[int, int]]:
    at = 0
    for size, _ in manifest["blobs"]:
        yield at, size
        at += size


def read_graph(manifest: Manifest) -> Graph:
    """Return the graph that a client's manifest describes.

    Raises:
        UserError: it is not a manifest of this version.
    """
    try:
        if manifest["v"] != 1:
            raise UserError(f"The dispatch is written in version {manifest['v']}; this server reads version 1.")
        shapes = [
            (
                shape.get("executor"),
                _resources(shape.get("resources") or {}),
                shape.get("workdir"),
                int(shape.get("retries", 0)),
            )
            for shape in manifest["shapes"]
        ]
        blobs = range(len(manifest["blobs"]))
        tasks: list[Task] = []
        for index, (name, fn, args, shape, deps, after) in enumerate(manifest["tasks"]):
            if fn not in blobs or args not in blobs:
                raise UserError(f"Task {index} ({name}) names a blob that the dispatch does not hold.")
            executor, resources, workdir, retries = shapes[shape]
            tasks.append(
                Task(
                    index=index,
                    name=str(name),
                    fn=fn,
                    args=args,
                    deps=tuple(deps),
                    after=tuple(after),
                    executor=executor,
                    resources=resources,
                    workdir=workdir,
                    retries=retries,
                )
            )
        if manifest["output"] not in blobs:
            raise UserError("The dispatch does not hold the lattice's return value.")
        return Graph(
            name=str(manifest["name"]),
            tasks=tuple(tasks),
            output=manifest["output"],
            output_deps=tuple(manifest["output_deps"]),
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(
            f"The dispatch is not written as this server reads it: {type(error).__name__} {error}"
        ) from None


def _resources(fields: Mapping[str, Any]) -> Resources:  # Any: JSON
    given = dict(fields)
    if "extra" in given:
        given["extra"] = tuple(given["extra"])
    return Resources(**given)
