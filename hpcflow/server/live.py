"""The state of a running dispatch, in memory: what its tasks wait for, and what follows when one of them moves."""

from __future__ import annotations

import os.path
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from hpcflow.core.model import (
    BagId,
    ClusterName,
    DispatchId,
    Failed,
    Graph,
    Shape,
    Task,
)
from hpcflow.core.needs import Need, downstream, needs, waiting
from hpcflow.core.plan import PlanSettings, chain
from hpcflow.core.states import FINAL, Event, State, Status, step
from hpcflow.server.manifest import Manifest, blob_offsets, function_imports, function_keys
from hpcflow.server.store import DispatchRow, EndRow, RunTimeKey, TaskRow

__all__ = ["LiveDispatch", "LiveTask", "Stored"]


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
    #: Of the attempt that runs or comes: a retry may ask for more than the first one did.
    shape: Shape
    state: State
    #: What it waits for, in common with others.
    need: Need
    attempt: int = 1
    #: Attempts that were used up.
    charged: int = 0
    #: How often a node failed under it.
    losses: int = 0
    #: What it asks for instead of what it asked at first: "memory_mib", "walltime_s".
    asked: dict[str, int] = field(default_factory=dict[str, int])
    #: It was cut off, or brought its worker down: it shall have the next one to itself.
    alone: bool = False
    bag: BagId | None = None
    #: The bag of the attempt before: others of it may follow the same way.
    came_from: BagId | None = None
    worker: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    error: str | None = None
    result: Stored | None = None

    @property
    def missing(self) -> int:
        """Upstreams that it still waits for."""
        return self.need.missing


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
    #: For each task, those that wait for it, and what they have in common; lists are shared among tasks.
    downstream: list[list[int]]
    waiting: list[list[Need]]
    clusters: frozenset[ClusterName]
    #: (offset, size) of each blob in the payload file.
    blobs: list[tuple[int, int]]
    payload: str
    status: Status = Status.RUNNING
    error: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    cancel_wanted: bool = False
    #: Why nothing of it is submitted; ``None``: nothing holds it back as a whole.
    paused: str | None = None
    #: Why nothing of these shapes is submitted.
    pauses: dict[Shape, str] = field(default_factory=dict[Shape, str])
    #: Tasks whose row must be written.
    dirty: set[int] = field(default_factory=set[int])
    ready: set[int] = field(default_factory=set[int])
    left: int = 0
    failed: int = 0
    #: For each function, how many of its tasks have returned here, and their run time in all; and the same of earlier
    #: dispatches.
    walls: dict[RunTimeKey, tuple[int, float]] = field(default_factory=dict[RunTimeKey, tuple[int, float]])
    history: dict[RunTimeKey, tuple[int, float]] = field(default_factory=dict[RunTimeKey, tuple[int, float]])
    #: For each blob that is a function, what tells it from others.
    functions: dict[int, str] = field(default_factory=dict[int, str])
    #: For each blob that is a function, the modules that it imports, and their versions where it was dispatched.
    imports: dict[int, Mapping[str, str]] = field(default_factory=dict[int, Mapping[str, str]])
    #: The interpreter that dispatched it.
    executable: str = ""
    #: Clusters of which the user was told that they do not answer.
    told: set[ClusterName] = field(default_factory=set[ClusterName])
    #: Bags in a row of which no worker got anything done, by shape; cancels by others after which it went on.
    fruitless: Counter[Shape] = field(default_factory=Counter[Shape])
    cancels: Counter[Shape] = field(default_factory=Counter[Shape])
    #: Tasks and workers in a row that a node lost, and the nodes that are avoided for it.
    node_losses: Counter[tuple[ClusterName, str]] = field(default_factory=Counter[tuple[ClusterName, str]])
    avoided: dict[ClusterName, tuple[str, ...]] = field(default_factory=dict[ClusterName, tuple[str, ...]])
    gatherings: dict[Shape, Gathering] = field(default_factory=dict[Shape, Gathering])

    @property
    def id(self) -> DispatchId:
        return self.row.id

    @property
    def too_many_failed(self) -> bool:
        """More tasks have failed than the lattice allows: the others are not worth running."""
        most = self.graph.max_failures
        return most is not None and self.failed > most

    def expects(self, shape: Shape) -> bool:
        """Some task of a shape, as far as it is known now, waits for others and may become ready."""
        return any(task.state is State.WAITING and task.shape == shape for task in self.tasks)

    def has_ready(self, shape: Shape) -> bool:
        """Some task of a shape is ready and shall be submitted."""
        return self.why_paused(shape) is None and any(self.tasks[index].shape == shape for index in self.ready)

    def why_paused(self, shape: Shape) -> str | None:
        """Return why nothing of this shape is submitted, ``None`` when something may be."""
        return self.paused or self.pauses.get(shape)

    @classmethod
    def fresh(
        cls, row: DispatchRow, graph: Graph, shapes: Sequence[Shape], manifest: Manifest, payload: str
    ) -> LiveDispatch:
        """Return a dispatch of which nothing has run yet; tasks without upstreams are ready."""
        wanted = needs(graph)
        tasks = [
            LiveTask(task=task, shape=shape, state=State.WAITING, need=need)
            for task, shape, need in zip(graph.tasks, shapes, wanted, strict=True)
        ]
        live = cls(
            row=row,
            graph=graph,
            tasks=tasks,
            downstream=downstream(graph),
            waiting=waiting(wanted),
            clusters=frozenset(shape.cluster for shape in shapes),
            blobs=list(blob_offsets(manifest)),
            payload=payload,
            left=len(tasks),
            functions=function_keys(manifest),
            imports=function_imports(manifest),
            executable=manifest["executable"],
        )
        for index, task in enumerate(tasks):
            if not task.missing:
                live.move(index, Event.UPSTREAMS_DONE, row.created_at)
        live.dirty.clear()
        return live

    def restore(self, rows: Iterable[TaskRow], ends: Iterable[EndRow], bag_paths: Mapping[BagId, str]) -> None:
        """Take the states and results that the store knows instead of fresh ones."""
        self.ready.clear()
        self.left = self.failed = 0
        for row in rows:
            task = self.tasks[row.index]
            task.state, task.attempt, task.bag, task.worker = row.state, row.attempt, row.bag, row.worker
            task.started_at, task.ended_at, task.error = row.started_at, row.ended_at, row.error
            task.charged, task.losses = row.charged, row.again.get("losses", 0)
            task.alone = bool(row.again.get("alone"))
            self.ask_for(row.index, row.again.get("memory_mib"), row.again.get("walltime_s"))
            if row.state is State.READY:
                self.ready.add(row.index)
            if row.state is State.PAUSED and row.error != self.paused:
                self.pauses[task.shape] = row.error or "Paused."
            self.left += row.state not in FINAL
            self.failed += row.state is State.FAILED
        for end in ends:
            if end.record["st"] == "ok":
                self.tasks[end.index].result = Stored.of(end.record, bag_paths[end.bag])
        self._count(task.need for task in self.tasks)
        self.dirty.clear()

    def _count(self, needs: Iterable[Need]) -> None:
        """Count anew what is missing."""
        for need in dict.fromkeys(needs):
            need.missing = sum(not self._serves(upstream, need) for upstream in need.upstreams)

    def _serves(self, upstream: int, need: Need) -> bool:
        """An upstream has given what is waited for: its result, or for some the news that there is none."""
        state = self.tasks[upstream].state
        return state is State.COMPLETED or (need.accept_failed and state in FINAL)

    def move(self, index: int, event: Event, now: datetime, error: str | None = None) -> None:
        """Apply one event to one task, and what follows from it to the tasks downstream.

        Raises:
            HpcflowError: the task's state does not allow the event.
        """
        task = self.tasks[index]
        if event is Event.RELEASED and task.missing:
            event = Event.RECALLED
        task.state = step(task.state, event)
        self.dirty.add(index)
        self.ready.discard(index)
        if event is Event.RECALLED:
            task.attempt += 1
            task.bag = None
        elif task.state is State.READY:
            self.ready.add(index)
            task.error = error  # of a retry: why the attempt before failed
            if event not in {Event.UPSTREAMS_DONE, Event.RESUMED}:
                task.attempt += 1
                task.came_from = task.bag
                task.bag = task.worker = task.started_at = None
        elif task.state is State.PAUSED:
            task.error = error
        elif task.state in FINAL:
            task.ended_at, task.error = now, error
            self.left -= 1
            self.failed += task.state is State.FAILED
            self._pass_on(index, now)

    def _pass_on(self, index: int, now: datetime) -> None:
        """Tell the tasks downstream that a task is final; a loss goes down the whole graph, without recursion."""
        ended = [index]
        while ended:
            upstream = ended.pop()
            for need in self.waiting[upstream]:
                if self._serves(upstream, need):
                    need.missing -= 1
                    if not need.missing:
                        for child in need.tasks:
                            if self.tasks[child].state is State.WAITING:
                                self.move(child, Event.UPSTREAMS_DONE, now)
                    continue
                for child in need.tasks:
                    task = self.tasks[child]
                    chained = task.state is State.QUEUED and need.missing > 0
                    if task.state is not State.WAITING and not chained:
                        continue
                    task.state = step(task.state, Event.UPSTREAM_LOST)
                    # What was lost first is told of all that hangs on it.
                    verb = "was cancelled" if self.tasks[index].state is State.CANCELLED else "failed"
                    text = f"Not run, because {self.graph.tasks[index].name} (task {index}) {verb}."
                    task.ended_at, task.error = now, text
                    self.dirty.add(child)
                    self.left -= 1
                    ended.append(child)

    def ask_for(self, index: int, memory_mib: int | None, walltime_s: int | None) -> None:
        """Let the next attempt of a task ask for this much; ``None``: for as much as the last one."""
        task = self.tasks[index]
        asked = {"memory_mib": memory_mib, "walltime_s": walltime_s}
        task.asked |= {name: value for name, value in asked.items() if value}
        had = task.shape.resources
        memory, walltime = task.asked.get("memory_mib", had.memory_mib), task.asked.get("walltime_s", had.walltime_s)
        task.shape = replace(task.shape, resources=replace(had, memory_mib=memory, walltime_s=walltime))
        self.dirty.add(index)

    def again(self, indices: Sequence[int], now: datetime) -> None:
        """Give these tasks, which ended without completing, a further attempt, and the dispatch a further life.

        Args:
            indices: with all that hangs on them and shall run as well.
            now: the time.
        """
        for index in indices:
            task = self.tasks[index]
            self.failed -= task.state is State.FAILED
            task.state = step(task.state, Event.AGAIN)
            task.attempt += 1
            task.charged = task.losses = 0
            task.came_from = task.bag = task.worker = task.started_at = task.ended_at = task.error = None
            self.left += 1
            self.dirty.add(index)
        self._count(need for index in indices for need in (self.tasks[index].need, *self.waiting[index]))
        for index in indices:
            if not self.tasks[index].missing:
                self.move(index, Event.UPSTREAMS_DONE, now)
        self.status, self.error, self.ended_at, self.cancel_wanted = Status.RUNNING, None, None, False

    def without_result(self, index: int) -> Failed:
        """Return what an electron that accepts failures gets in the place of this task's result."""
        task = self.tasks[index]
        return Failed(name=task.task.name, index=index, state=str(task.state), error=task.error or "")

    def coming(self) -> Counter[Shape]:
        """Count the tasks that nothing but a scheduler's work keeps waiting, by shape."""
        in_flight = {State.QUEUED, State.RUNNING, State.COMPLETED}
        known: dict[Need, bool] = {}
        out: Counter[Shape] = Counter()
        for task in self.tasks:
            if task.state is not State.WAITING:
                continue
            if task.need not in known:
                known[task.need] = all(
                    self.tasks[upstream].state in in_flight or self._serves(upstream, task.need)
                    for upstream in task.need.upstreams
                )
            out[task.shape] += known[task.need]
        return +out

    def chain(self, head: int, settings: PlanSettings) -> tuple[tuple[int, int], ...]:
        """Return (index, attempt) of the tasks that can be one unit with a ready one, after it."""

        def joins(before: int, after: int) -> bool:
            first, second = self.tasks[before], self.tasks[after]
            return second.state is State.WAITING and second.shape == first.shape and not second.alone

        if self.tasks[head].alone:
            return ()
        links = chain(head, self.graph, self.downstream, joins, settings)
        return tuple((index, self.tasks[index].attempt) for index in links)

    def run_time_key(self, index: int) -> RunTimeKey:
        """Return under which a task's run time is remembered: function, cluster, and what it has to compute with."""
        task = self.tasks[index]
        asked = task.shape.resources
        size = f"{asked.nodes} nodes, {asked.cores} cores, {asked.gpus} GPUs"
        return RunTimeKey(self.functions.get(task.task.fn, task.task.name), task.shape.cluster, size)

    def note_wall(self, index: int, wall_s: float) -> None:
        """Remember how long a task ran that returned."""
        key = self.run_time_key(index)
        count, total = self.walls.get(key, (0, 0.0))
        self.walls[key] = (count + 1, total + wall_s)

    def mean_wall_s(self, index: int) -> float | None:
        """Return the mean run time of a task's like, here or else in earlier dispatches; ``None``: none returned."""
        key = self.run_time_key(index)
        count, total = self.walls.get(key) or self.history.get(key) or (0, 0.0)
        return total / count if count else None

    def task_row(self, index: int) -> TaskRow:
        task = self.tasks[index]
        again = dict(task.asked)
        if task.alone:
            again["alone"] = 1
        if task.losses:
            again["losses"] = task.losses
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
            charged=task.charged,
            again=again,
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
            paused=self.paused or next(iter(self.pauses.values()), None),
            paused_whole=self.paused is not None,
            python=self.row.python,
            counts={},
        )

    def close(self, now: datetime) -> None:
        """Set the final status; call it when no task is left."""
        accepted = self._accepted()
        lost = [index for index, task in enumerate(self.tasks) if task.state is not State.COMPLETED]
        failed = [index for index in lost if self.tasks[index].state is State.FAILED and index not in accepted]
        cancelled = [index for index in lost if self.tasks[index].state is State.CANCELLED and index not in accepted]
        self.ended_at = now
        self.paused = None
        self.pauses.clear()
        if self.cancel_wanted:
            self.status = Status.CANCELLED
            self.error = "The dispatch was cancelled."
        elif failed:
            self.status = Status.FAILED
            first = "; ".join(
                f"{self.graph.tasks[index].name} ({index}): {(self.tasks[index].error or '').rstrip('.')}"
                for index in failed[:3]
            )
            more = f"; and {len(failed) - 3} more" if len(failed) > 3 else ""
            self.error = f"{len(failed)} of {len(self.tasks)} tasks failed: {first}{more}"
        elif cancelled:
            self.status = Status.CANCELLED
            self.error = self.tasks[cancelled[0]].error
        else:
            self.status = Status.COMPLETED

    def _accepted(self) -> set[int]:
        """Return the tasks without a result that nobody misses: all that waited for it accepts failures."""
        wanted = set(self.graph.output_deps)
        accepted: set[int] = set()
        lost = [index for index, task in enumerate(self.tasks) if task.state is not State.COMPLETED]
        grew = True
        while grew:
            grew = False
            for index in reversed(lost):
                children = self.downstream[index]
                if index in accepted or index in wanted or not children:
                    continue
                if all(self.graph.tasks[child].accept_failed or child in accepted for child in children):
                    accepted.add(index)
                    grew = True
        return accepted
