"""What became of a dispatch and of its tasks; values and output are fetched when they are read."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from io import BytesIO
from typing import Any, Final

from hpcflow.core.model import HpcflowError, NotFound
from hpcflow.core.places import client_settings
from hpcflow.core.states import State, Status
from hpcflow.core.usage import Spent
from hpcflow.sdk.answers import (
    Item,
    Summary,
    TaskRecord,
    parse_items,
    parse_summary,
    parse_task,
    parse_tasks,
    parse_usage,
)
from hpcflow.sdk.connection import Server
from hpcflow.sdk.workflow import load_with

__all__ = ["NodeResult", "PythonMismatch", "Result", "UnreadableResult", "task_records"]

_PAGE: Final = 1000
_OUTPUT_PIECE: Final = 1 << 20


class PythonMismatch(HpcflowError):
    """The pickles were made by another minor version of Python; only that one may open them."""


class UnreadableResult(HpcflowError):
    """A value came back whole and can't be unpickled here."""


class Result:
    """A dispatch as it was when it was asked for; values and output are fetched when they are read."""

    def __init__(self, server: Server, summary: Summary) -> None:
        self._server = server
        self._summary = summary

    @property
    def dispatch_id(self) -> str:
        return self._summary.id

    @property
    def name(self) -> str:
        """The lattice's name."""
        return self._summary.name

    @property
    def status(self) -> Status:
        return self._summary.status

    @property
    def start_time(self) -> datetime | None:
        """When its first task began, in UTC."""
        return self._summary.started_at

    @property
    def end_time(self) -> datetime | None:
        """When its last task ended, in UTC; ``None`` while it runs."""
        return self._summary.ended_at

    @property
    def error(self) -> str | None:
        """What failed, as a sentence that names the first tasks that failed; ``None`` if nothing did."""
        return self._summary.error

    @property
    def paused(self) -> str | None:
        """Why nothing more of it is submitted until `hpcflow.resume`, as a sentence; ``None`` unless it is paused."""
        return self._summary.paused

    @cached_property
    def usage(self) -> Spent:
        """What schedulers charged for it and how that was spent, in core-seconds, as far as it is known.

        All of it is known once its last job has left the cluster, some seconds after the last task: see `complete`.
        """
        return parse_usage(self._server.ask("GET", f"/dispatches/{self.dispatch_id}/usage"))

    @cached_property
    def result(self) -> Any:  # Any: whatever the lattice returned
        """The lattice's return value; ``None`` unless the dispatch completed. Results of single tasks are there always.

        Raises:
            PythonMismatch: another Python dispatched it.
            UnreadableResult: it can't be unpickled here, mostly because a module is missing.
        """
        if self.status is not Status.COMPLETED:
            return None
        self._check_python()
        stream = self._server.fetch(f"/dispatches/{self.dispatch_id}/output", query={"apart": 1})
        output, *needed = map(self._filled, parse_items(stream))
        return _Values(self, needed).opened(output, "return value")

    def get_node_result(self, node_id: int) -> NodeResult:
        """Return one task of the dispatch.

        Args:
            node_id: 0 for the first electron that the lattice called, and so on.

        Raises:
            NotFound: the dispatch has no such task.
        """
        if not 0 <= node_id < self._summary.own_tasks:
            raise NotFound(
                f"Dispatch {self.dispatch_id} has {self._summary.own_tasks} tasks, counted from 0; "
                f"there is no task {node_id}.{self._of_sublattices()}"
            )
        return NodeResult(self, self._detail(node_id))

    def _of_sublattices(self) -> str:
        if self._summary.own_tasks == self._summary.tasks:
            return ""
        return (
            " Those of its sublattices are counted in dispatches of their own, which "
            f"`hpcflow show {self.dispatch_id} --tasks` names."
        )

    def get_all_node_results(self) -> list[NodeResult]:
        """Return all tasks of the dispatch, in the order in which the lattice called them."""
        return [NodeResult(self, record) for record in task_records(self._server, self.dispatch_id)]

    def get_all_node_outputs(self) -> dict[str, Any]:  # Any: whatever the electrons returned
        """Return the values of all completed tasks by ``"name(index)"``, fetched in one stream."""
        names = {record.index: record.name for record in task_records(self._server, self.dispatch_id)}
        items = self._items("all")
        values = _Values(self, items)
        base = self._summary.base
        there = {item.task for item in items if item.kind in {"result", "output"}}
        return {f"{name}({index})": values.of(base + index) for index, name in names.items() if base + index in there}

    def sublattices(self) -> dict[int, Result]:
        """Return the child dispatches of its sublattices that have been built, by the tasks that they are."""
        return {
            record.index: self._child(record.sublattice)
            for record in task_records(self._server, self.dispatch_id)
            if record.sublattice is not None
        }

    @property
    def parent(self) -> tuple[str, int] | None:
        """The dispatch and the task of which it is the sublattice; ``None`` for one that was dispatched."""
        return self._summary.parent

    def _child(self, dispatch_id: str) -> Result:
        return Result(self._server, parse_summary(self._server.ask("GET", f"/dispatches/{dispatch_id}")))

    def __repr__(self) -> str:
        counts = self._summary.counts
        done = f"{counts.get(State.COMPLETED, 0)} of {self._summary.tasks} tasks done"
        took = ""
        if self.start_time is not None and self.end_time is not None:
            took = f" in {(self.end_time - self.start_time).total_seconds():.1f} s"
        error = f": {self.error}" if self.error else ""
        return f"<Result {self.dispatch_id} of {self.name}, {self.status}, {done}{took}{error}>"

    def _detail(self, task: int) -> TaskRecord:
        return parse_task(self._server.ask("GET", f"/dispatches/{self.dispatch_id}/tasks/{task}"))

    def _items(self, tasks: str) -> list[Item]:
        self._check_python()
        stream = self._server.fetch(f"/dispatches/{self.dispatch_id}/results", query={"tasks": tasks, "apart": 1})
        return list(map(self._filled, parse_items(stream)))

    def _filled(self, item: Item) -> Item:
        """Return an item with its value: a large one comes by itself, and goes on where it was cut."""
        if not item.apart or item.task is None:
            return item
        from hpcflow.sdk.download import fetch_value, showing

        held = BytesIO()
        wanted = client_settings(os.environ).progress
        with showing(f"value of task {item.task}", item.apart, wanted=wanted) as show:
            fetch_value(self._server, self._summary.root, item.task, held, show=show)
        return replace(item, pickle=held.getvalue(), apart=0)

    def _text(self, task: int, stream: str) -> str:
        pieces: list[bytes] = []
        size = 0
        while True:
            piece = self._server.fetch(
                f"/dispatches/{self.dispatch_id}/tasks/{task}/{stream}", query={"offset": size, "limit": _OUTPUT_PIECE}
            )
            pieces.append(piece)
            size += len(piece)
            if len(piece) < _OUTPUT_PIECE:
                return b"".join(pieces).decode("utf-8", "replace")

    def _check_python(self) -> None:
        own = sys.version_info[:2]
        if self._summary.python != own:
            made = ".".join(map(str, self._summary.python))
            raise PythonMismatch(
                f"Dispatch {self.dispatch_id} was made with Python {made} and this is Python {own[0]}.{own[1]}: "
                f"its values can't be read here. Read them with Python {made}."
            )

    def _value(self, task: int) -> object:
        """Return what a task of this level returned, or raised."""
        items = self._items(str(task))
        return _Values(self, items).of(task + self._summary.base)

    def _unpickled(self, item: Item) -> object:
        if item.kind == "missing" or not item.pickle:
            raise UnreadableResult(
                f"Task {(item.task or 0) - self._summary.base} of {self.dispatch_id} left no value: "
                f"{item.message or item.kind}."
            )
        try:
            value: object = pickle.loads(item.pickle)
        except Exception as error:  # unpickling runs the user's own code
            raise self._unreadable(f"value of task {item.task}", error) from error
        return value

    def _unreadable(self, what: str, error: Exception) -> UnreadableResult:
        missing = isinstance(error, (ImportError, AttributeError))
        hint = " This Python needs the modules that the tasks had." if missing else ""
        return UnreadableResult(
            f"The {what} of {self.dispatch_id} can't be read here: {type(error).__name__}: {error}.{hint}"
        )


class _Values:
    """Values of tasks from one answer of the server; those of sublattices are put together from their tasks'."""

    def __init__(self, dispatch: Result, items: Iterable[Item]) -> None:
        self._dispatch = dispatch
        self._items = {item.task: item for item in items}
        self._values: dict[int, object] = {}
        # Tasks of a sublattice have higher numbers than its own: from the top down, no depth costs recursion.
        outputs = {task: item for task, item in self._items.items() if task is not None and item.kind == "output"}
        for task in sorted(outputs, reverse=True):
            self._values[task] = self.opened(outputs[task], f"value of task {task}")

    def of(self, task: int) -> object:
        if task not in self._values:
            self._values[task] = self._dispatch._unpickled(self._items[task])
        return self._values[task]

    def opened(self, output: Item, what: str) -> Any:  # Any: whatever the lattice returned
        try:
            return load_with(output.pickle, lambda task: self.of(output.base + task))
        except HpcflowError:
            raise
        except Exception as error:  # unpickling runs the user's own code
            raise self._dispatch._unreadable(what, error) from error


class NodeResult:
    """One task of a dispatch: what the server knew when it was asked, and its value and output when they are read."""

    def __init__(self, dispatch: Result, record: TaskRecord) -> None:
        self._dispatch = dispatch
        self._record = record

    @property
    def node_id(self) -> int:
        return self._record.index

    @property
    def name(self) -> str:
        """The electron's name."""
        return self._record.name

    @property
    def state(self) -> State:
        return self._record.state

    @property
    def attempt(self) -> int:
        return self._record.attempt

    @property
    def error(self) -> str | None:
        """Why it failed, as a sentence; ``None`` if it did not."""
        return self._record.error

    @property
    def started_at(self) -> datetime | None:
        return self._record.started_at

    @property
    def ended_at(self) -> datetime | None:
        return self._record.ended_at

    @property
    def cluster(self) -> str | None:
        return self._record.cluster

    @property
    def job_id(self) -> str | None:
        """The scheduler's id of the job array that ran it, and with `array_index` of the array task."""
        return self._record.job_id

    @property
    def array_index(self) -> int | None:
        return self._record.array_index

    @property
    def host(self) -> str | None:
        """The compute node."""
        return self._record.host

    @property
    def wall_s(self) -> float | None:
        return self._record.wall_s

    @property
    def cpu_s(self) -> float | None:
        """CPU time of the task and its children, user and system."""
        return self._record.cpu_s

    @property
    def max_rss_kib(self) -> int | None:
        """Peak resident memory."""
        return self._record.max_rss_kib

    @property
    def exit_code(self) -> int | None:
        return self._record.exit_code

    @property
    def signal(self) -> int | None:
        return self._record.signal

    @property
    def traceback(self) -> str | None:
        """The traceback of the exception that the function raised, as text."""
        return self._detail.traceback

    @property
    def workdir(self) -> str | None:
        """The directory in which it ran and left files; ``None`` when it left none."""
        return self._detail.workdir

    @cached_property
    def stdout(self) -> str:
        return self._dispatch._text(self.node_id, "stdout")

    @cached_property
    def stderr(self) -> str:
        return self._dispatch._text(self.node_id, "stderr")

    @cached_property
    def result(self) -> Any:  # Any: whatever the electron returned
        """What the electron returned; ``None`` unless the task completed."""
        return self._dispatch._value(self.node_id) if self.state is State.COMPLETED else None

    @cached_property
    def sublattice_result(self) -> Result | None:
        """The child dispatch of a sublattice, with tasks of its own; ``None`` where there is none, or none yet."""
        child = self._record.sublattice
        return None if child is None else self._dispatch._child(child)

    @cached_property
    def exception(self) -> BaseException | None:
        """What the electron raised; ``None`` if it raised nothing, or nothing that can be pickled."""
        if self.state is not State.FAILED or not self._item.pickle:
            return None
        raised = self._dispatch._unpickled(self._item)
        return raised if isinstance(raised, BaseException) else None

    def __getitem__(self, field: str) -> Any:  # Any: as many types as fields
        """Return a field by Covalent's name for it: ``node_id``, ``node_name``, ``status``, ``output``, …"""
        return getattr(self, _COVALENT_FIELDS.get(field, field))

    def __repr__(self) -> str:
        place = f" on {self.host}" if self.host else ""
        error = f": {self.error}" if self.error else ""
        return f"<task {self.node_id} {self.name}, {self.state}{place}{error}>"

    @cached_property
    def _detail(self) -> TaskRecord:
        return self._dispatch._detail(self.node_id)

    @cached_property
    def _item(self) -> Item:
        return self._dispatch._items(str(self.node_id))[0]


_COVALENT_FIELDS: Final = {
    "node_name": "name",
    "status": "state",
    "output": "result",
    "start_time": "started_at",
    "end_time": "ended_at",
}


def task_records(
    server: Server, dispatch_id: str, *, state: State | None = None, deep: bool = False
) -> Iterator[TaskRecord]:
    """Yield the tasks of a dispatch in their order, fetched page by page.

    Args:
        server: whom to ask.
        dispatch_id: the dispatch.
        state: only tasks in this state.
        deep: with those in sublattices, by their numbers in the whole dispatch.
    """
    query: dict[str, str | int] = {"limit": _PAGE}
    if deep:
        query["deep"] = "true"
    if state is not None:
        query["state"] = state.value
    while True:
        page = parse_tasks(server.ask("GET", f"/dispatches/{dispatch_id}/tasks", query=query))
        yield from page
        if len(page) < _PAGE:
            return
        query["after"] = page[-1].index
