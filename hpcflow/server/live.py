"""The state of a running dispatch, in memory: what its tasks wait for, and what follows when one of them moves."""

from __future__ import annotations

import os.path
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from hpcflow.core.again import why_skipped
from hpcflow.core.bag import Stream
from hpcflow.core.model import (
    Bag,
    BagId,
    ClusterName,
    DispatchId,
    Failed,
    Graph,
    Shape,
)
from hpcflow.core.needs import Need, followers, needs, waiting
from hpcflow.core.plan import PlanSettings, chain
from hpcflow.core.states import FINAL, Event, State, Status, step
from hpcflow.server.manifest import Manifest, blob_offsets, function_files, function_imports, function_keys
from hpcflow.server.outcome import explain_skipped, outcome, told_cancelled, told_failed
from hpcflow.server.store import PART, DispatchRow, EndRow, RunTimeKey, TaskRow
from hpcflow.server.tasks import Child, Gathering, LiveTask, Stored

__all__ = ["LiveDispatch"]

#: Letters of the error of a sublattice, about.
_MOST_SAID: Final = 1000


@dataclass(slots=True)
class LiveDispatch:
    """One run of a lattice that has not ended."""

    row: DispatchRow
    graph: Graph
    tasks: list[LiveTask]
    #: For each task, those that wait for it, and what they have in common; lists are shared among tasks.
    downstream: list[list[int]]
    waiting: list[tuple[Need, ...]]
    clusters: frozenset[ClusterName]
    #: For each blob the file that it lies in, the offset there, and its size.
    blobs: list[tuple[str, int, int]]
    #: Tasks of the lattice itself, without those of sublattices.
    own: int
    #: Child dispatches in the order in which their tasks joined, and how many tasks of each are left.
    children: list[Child] = field(default_factory=list[Child])
    left_of: Counter[int] = field(default_factory=Counter[int])
    #: Tasks whose graph waits to be taken in, and those of which all tasks in there have ended.
    built: set[int] = field(default_factory=set[int])
    full: list[int] = field(default_factory=list[int])
    ending: bool = False
    #: Tasks were sent one by one, each for itself, and further ones may come as long as it is open.
    one_by_one: bool = False
    open: bool = False
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
    #: For each blob that is a function, the files that are fetched for its tasks.
    files: dict[int, tuple[Manifest, ...]] = field(default_factory=dict[int, tuple[Manifest, ...]])
    #: The same for where what they leave is brought to, and the tasks that returned and wait for that.
    sent: dict[int, tuple[Manifest, ...]] = field(default_factory=dict[int, tuple[Manifest, ...]])
    leaving: set[int] = field(default_factory=set[int])
    #: Fetched files that a pack has taken, by their paths.
    streams: dict[str, Stream] = field(default_factory=dict[str, Stream])
    #: For each task that is cached, what tells its call from others', as the client says.
    keys: dict[int, str] = field(default_factory=dict[int, str])
    #: The interpreter that dispatched it.
    executable: str = ""
    #: What was said of sublattices.
    said: set[str] = field(default_factory=set[str])
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
    def folder(self) -> str:
        """Where the files of its blobs lie."""
        return os.path.dirname(self.blobs[0][0])

    @property
    def too_many_failed(self) -> bool:
        """More tasks have failed than the lattice allows: the others are not worth running."""
        most = self.graph.max_failures
        return most is not None and self.failed > most

    def expects(self, shape: Shape) -> bool:
        """Some task of a shape waits for others and may become ready; nobody knows what a sublattice will bring."""
        return self.open or any(
            (task.state is State.WAITING and task.shape == shape)
            or (task.task.sublattice and task.child is None and task.state not in FINAL)
            for task in self.tasks
        )

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
        fills = waiting(wanted)
        tasks = [
            LiveTask(task=task, shape=shape, state=State.WAITING, need=need)
            for task, shape, need in zip(graph.tasks, shapes, wanted, strict=True)
        ]
        live = cls(
            row=row,
            graph=graph,
            tasks=tasks,
            downstream=followers(fills),
            waiting=fills,
            clusters=frozenset(shape.cluster for shape in shapes),
            blobs=[(payload, offset, size) for offset, size in blob_offsets(manifest)],
            own=len(tasks),
            left=len(tasks),
            functions=function_keys(manifest),
            imports=function_imports(manifest),
            files=function_files(manifest, "fetched"),
            sent=function_files(manifest, "sent"),
            keys=dict(manifest.get("keys", ())),
            executable=manifest["executable"],
            one_by_one=bool(manifest.get("open")),
            open=bool(manifest.get("open")) and row.status is Status.RUNNING,
        )
        for index, task in enumerate(tasks):
            if not task.missing:
                live.move(index, Event.UPSTREAMS_DONE, row.created_at)
        live.dirty.clear()
        return live

    def begin(self, part: Child, now: datetime) -> None:
        """Begin with further tasks of an open dispatch that have just joined."""
        self.dirty.update(part.tasks)
        self.left += part.count
        for index in part.tasks:
            if not self.tasks[index].missing:
                self.move(index, Event.UPSTREAMS_DONE, now)

    def unfold(self, child: Child, now: datetime) -> None:
        """Begin with the tasks of a sublattice that have just joined."""
        parent = self.tasks[child.task]
        self.dirty.update(child.tasks)
        self.left += child.count
        self.left_of[child.task] = child.count
        self.move(child.task, Event.UNFOLDED, now)
        parent.started_at = parent.started_at or now
        for index in child.tasks:
            if not self.tasks[index].missing:
                self.move(index, Event.UPSTREAMS_DONE, now)
        self.end_sublattice(child.task, now)  # it may have no task at all

    def join(self, child: Child, graph: Graph, shapes: Sequence[Shape], manifest: Manifest, payload: str) -> None:
        """Take in the graph that a sublattice built, or a part of an open dispatch.

        `unfold`, `begin` or `restore` says where its tasks are.

        Args:
            child: what becomes of it.
            graph: as `moved` to behind what is here.
            shapes: of its tasks.
            manifest: which it was read from.
            payload: the file of its blobs.
        """
        functions = {number + len(self.blobs): key for number, key in function_keys(manifest).items()}
        self.functions |= functions
        self.imports |= {number + len(self.blobs): names for number, names in function_imports(manifest).items()}
        behind = len(self.blobs)
        self.files |= {number + behind: files for number, files in function_files(manifest, "fetched").items()}
        self.sent |= {number + behind: files for number, files in function_files(manifest, "sent").items()}
        self.blobs += [(payload, offset, size) for offset, size in blob_offsets(manifest)]
        self.graph = replace(self.graph, tasks=self.graph.tasks + graph.tasks)
        self.clusters |= {shape.cluster for shape in shapes}
        self.keys |= {index + child.first: key for index, key in manifest.get("keys", ())}
        self.children.append(child)
        level = None if child.task == PART else child
        if level is None:
            self.own += child.count
            self.open = self.open and not manifest.get("last")
        else:
            parent = self.tasks[child.task]
            parent.child, parent.graph = child, None
            self.built.discard(child.task)
        wanted = needs(graph)
        self.tasks += [
            LiveTask(task=task, shape=shape, state=State.WAITING, need=need, level=level)
            for task, shape, need in zip(graph.tasks, shapes, wanted, strict=True)
        ]
        fills = waiting(wanted, child.first)
        self.waiting += fills
        self.downstream += followers(fills)

    def family(self, indices: Iterable[int]) -> list[int]:
        """Return these tasks and all in the sublattices that they are, each before what is in it.

        Within a level the later come first: who cancels in this order skips nothing.
        """
        found: list[int] = []
        wanted = sorted(indices, reverse=True)
        while wanted:
            found += wanted
            inner = [child.tasks for index in wanted if (child := self.tasks[index].child) is not None]
            wanted = [index for tasks in inner for index in reversed(tasks)]
        return found

    def leaves(self, index: int) -> Iterator[int]:
        """Yield a task and, of a sublattice that completed, those whose results its own is made of, level by level."""
        seen, waiting = {index}, [index]
        while waiting:
            at = waiting.pop()
            yield at
            child = self.tasks[at].child
            if child is not None and self.tasks[at].state is State.COMPLETED:
                new = [upstream for upstream in child.output_deps if upstream not in seen]
                seen.update(new)
                waiting += new

    def restore(self, rows: Iterable[TaskRow], ends: Iterable[EndRow], bags: Mapping[BagId, Bag]) -> None:
        """Take the states and results that the store knows instead of fresh ones."""
        self.ready.clear()
        self.left = self.failed = 0
        self.left_of.clear()
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
            self.failed += row.state is State.FAILED and task.child is None
            if task.level is not None:
                self.left_of[task.level.task] += row.state not in FINAL
        for end in ends:
            task = self.tasks[end.index]
            if end.record.get("sub"):
                if task.child is None and task.attempt == end.attempt and task.state not in FINAL:
                    self.note_graph(end.index, Stored.of(end.record, bags[end.bag].path))
            elif end.record["st"] == "ok":
                if end.record.get("up") and task.attempt == end.attempt and task.state not in FINAL:
                    self.note_leaving(end.index, end.record, bags[end.bag].path)
                bag = bags.get(end.bag)  # that of a reused result goes when its dispatch is deleted
                stored = Stored.of(end.record, bag.path if bag is not None else "")
                task.result = stored if bag is not None or (stored is not None and stored.inline is not None) else None
                task.kept_on = bag.shape.cluster if bag is not None and bag.dispatch != self.id else None
        self.clusters |= {task.kept_on for task in self.tasks if task.kept_on is not None}
        self._count(task.need for task in self.tasks)
        self.dirty.clear()

    def note_graph(self, index: int, stored: Stored | None) -> None:
        """Remember that a sublattice's graph is built, and where it lies."""
        self.tasks[index].graph = stored or Stored()
        self.built.add(index)

    def note_leaving(self, index: int, record: Mapping[str, Any], bag_path: str) -> bool:  # Any: JSON
        """Remember the files of a task that returned and that the server has to bring away; say if there are any."""
        task, up = self.tasks[index], record.get("up")
        wanted = [str(file["key"]) for file in self.sent.get(task.task.fn, ())]
        if not isinstance(up, dict) or not wanted:
            return False
        task.leaving = {key: Stored.of({"r": up.get(key)}, bag_path) for key in wanted}
        self.leaving.add(index)
        return True

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
            # A sublattice fails with its tasks, and these count.
            self.failed += task.state is State.FAILED and task.child is None
            self.built.discard(index)
            self.leaving.discard(index)
            task.leaving = None
            self._note_final(index)
            self._pass_on(index, now)
            self._end_full(now)

    def _note_final(self, index: int) -> None:
        level = self.tasks[index].level
        if level is not None:
            self.left_of[level.task] -= 1
            if not self.left_of[level.task]:
                self.full.append(level.task)

    def _end_full(self, now: datetime) -> None:
        """End the sublattices of which no task is left; each may be the last of another."""
        if self.ending:
            return
        self.ending = True
        while self.full:
            self.end_sublattice(self.full.pop(), now)
        self.ending = False

    def end_sublattice(self, index: int, now: datetime) -> None:
        """End a sublattice as its tasks have ended, unless one is left or it has ended already."""
        task = self.tasks[index]
        child = task.child
        if child is None or task.state in FINAL or self.left_of[index]:
            return
        failed, cancelled = outcome(self, child.tasks, child.output_deps)
        whose = f"Of the sublattice {child.name} ({child.id}) "
        if failed:
            text = told_failed(self, failed, child.tasks, whose)
            if len(text) > _MOST_SAID:  # each level tells it: the begin and the end tell most
                text = f"{text[: _MOST_SAID // 2]} … {text[-_MOST_SAID // 2 :]}"
            self.move(index, Event.RAISED, now, text)
        elif cancelled:
            self.move(index, Event.CANCELLED, now, told_cancelled(self, cancelled, child.tasks, whose))
        else:
            self.move(index, Event.RETURNED, now)

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
                    text = why_skipped(self.graph.tasks[index].name, index, self.tasks[index].state)
                    task.ended_at, task.error = now, text
                    self.dirty.add(child)
                    self.left -= 1
                    self._note_final(child)
                    ended.append(child)

    def ask_for(self, index: int, memory_mib: int | None, walltime_s: int | None) -> None:
        """Let the next attempt of a task ask for this much; ``None``: for as much as the last one."""
        task = self.tasks[index]
        asked = {"memory_mib": memory_mib, "walltime_s": walltime_s}
        self.dirty.add(index)
        if not any(asked.values()):
            return  # most tasks share one shape, and go on sharing it
        task.asked = {**task.asked, **{name: value for name, value in asked.items() if value}}
        had = task.shape.resources
        memory, walltime = task.asked.get("memory_mib", had.memory_mib), task.asked.get("walltime_s", had.walltime_s)
        task.shape = replace(task.shape, resources=replace(had, memory_mib=memory, walltime_s=walltime))

    def again(self, indices: Sequence[int], now: datetime) -> None:
        """Give these tasks, which ended without completing, a further attempt, and the dispatch a further life.

        Args:
            indices: with all that hangs on them and shall run as well.
            now: the time.
        """
        for index in indices:
            task = self.tasks[index]
            self.failed -= task.state is State.FAILED and task.child is None
            task.state = step(task.state, Event.AGAIN)
            task.attempt += 1
            self.left += 1
            self.dirty.add(index)
            if task.level is not None:
                self.left_of[task.level.task] += 1
            if task.child is not None:
                task.state = step(task.state, Event.UNFOLDED)
                task.ended_at = task.error = None
                continue
            task.charged = task.losses = 0
            task.came_from = task.bag = task.worker = task.started_at = task.ended_at = task.error = None
        self._count(need for index in indices for need in (self.tasks[index].need, *self.waiting[index]))
        for index in indices:
            if self.tasks[index].child is not None:
                continue
            if not self.tasks[index].missing:
                self.move(index, Event.UPSTREAMS_DONE, now)
        for index in sorted(indices, reverse=True):
            self.end_sublattice(index, now)  # of which nothing else was to be tried again
        explain_skipped(self)
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
            # A sublattice's result is not its worker's to hand on; what the server brings has to be there first.
            if first.task.sublattice or first.task.fn in self.sent or second.task.fn in self.files:
                return False
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
        again = task.asked
        if task.alone:
            again = {**again, "alone": 1}
        if task.losses:
            again = {**again, "losses": task.losses}
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
            n_tasks=self.own,
            cancel_wanted=self.cancel_wanted,
            paused=self.paused or next(iter(self.pauses.values()), None),
            paused_whole=self.paused is not None,
            python=self.row.python,
            counts={},
        )

    def close(self, now: datetime) -> None:
        """Set the final status; call it when no task is left."""
        failed, cancelled = outcome(self, range(self.own), self.graph.output_deps)
        self.ended_at = now
        self.paused = None
        self.pauses.clear()
        if self.cancel_wanted:
            self.status = Status.CANCELLED
            self.error = "The dispatch was cancelled."
        elif failed:
            self.status = Status.FAILED
            self.error = told_failed(self, failed, range(self.own))
        elif cancelled:
            self.status = Status.CANCELLED
            self.error = told_cancelled(self, cancelled, range(self.own))
        else:
            self.status = Status.COMPLETED
