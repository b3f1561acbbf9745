"""What became of a dispatch and of its tasks; values and output are fetched when they are read."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cache, cached_property
from io import BytesIO
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, Final

from hpcflow.core.model import HpcflowError, NotFound
from hpcflow.core.places import client_settings
from hpcflow.core.states import HELD, TEMPLATE, State
from hpcflow.core.usage import Spent
from hpcflow.core.words import counted
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
from hpcflow.sdk.arguments import arguments_of
from hpcflow.sdk.connection import Server
from hpcflow.sdk.nodes import LostValue, NodeResult, Parameter
from hpcflow.sdk.notebook import as_html, page_of, show
from hpcflow.sdk.status import OF_STATE, Status
from hpcflow.sdk.workflow import load_with

if TYPE_CHECKING:
    from hpcflow.sdk.download import Sink

__all__ = ["LostResult", "NodeResult", "PythonMismatch", "Result", "UnreadableResult", "status_of", "task_records"]

_PAGE: Final = 1000
_OUTPUT_PIECE: Final = 1 << 20


class PythonMismatch(HpcflowError):
    """The pickles were made by another minor version of Python; only that one may open them."""


class UnreadableResult(HpcflowError):
    """A value came back whole and can't be unpickled here."""


class LostResult(UnreadableResult):
    """A task completed, and what it returned is there no more: it was given up, or where it lay is gone."""


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
    def root_dispatch_id(self) -> str:
        """The dispatch that was sent, of which this is a sublattice, or itself."""
        return self._summary.root

    @property
    def status(self) -> Status:
        """Where it is, by Covalent's names: each is equal to its text."""
        return status_of(self._summary)

    @cached_property
    def inputs(self) -> dict[str, Any]:  # Any: whatever the lattice was given
        """What the lattice was called with: ``{"args": (…), "kwargs": {…}}``.

        Raises:
            NotFound: it was not stored, as with a sublattice, or with arguments that can't be pickled.
        """
        self._check_python()
        data = self._server.fetch(f"/dispatches/{self.dispatch_id}/call/arguments")
        try:
            args, kwargs = load_with(data)
        except Exception as error:  # unpickling runs the user's own code
            raise self._unreadable("arguments", error) from error
        return {"args": args, "kwargs": kwargs}

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
    def hint(self) -> str:
        """What to do about tasks that ran out of memory or walltime, as sentences; empty where none did."""
        return self._summary.hint

    @property
    def undelivered(self) -> str:
        """What of its cancels has not reached workers or schedulers yet, as sentences; empty where that is not so."""
        return self._summary.undelivered

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

    def post_process(self) -> Any:  # Any: whatever the lattice returned
        """Return the lattice's return value, put together from the results of its tasks; `result` is the same."""
        return self.result

    def get_node_result(self, node_id: int) -> NodeResult:
        """Return one task of the dispatch, or a literal argument of one.

        Args:
            node_id: 0 for the first electron that the lattice called, and so on; the literal arguments are counted
                behind all tasks.

        Raises:
            NotFound: the dispatch has no such task.
        """
        own = self._summary.own_tasks
        if own <= node_id < own + len(self._parameters):
            return self._parameters[node_id - own]
        return self.task(node_id)

    def task(self, number: int) -> NodeResult:
        """Return one task of the dispatch, counted from 0 as the lattice called its electrons; no literal arguments.

        Raises:
            NotFound: the dispatch has no such task.
        """
        if not 0 <= number < self._summary.own_tasks:
            raise NotFound(
                f"Dispatch {self.dispatch_id} has {counted(self._summary.own_tasks, 'task')}, counted from 0; "
                f"there is no task {number}.{self._of_sublattices()}"
            )
        return NodeResult(self, self._detail(number))

    def _of_sublattices(self) -> str:
        if self._summary.own_tasks == self._summary.tasks:
            return ""
        return (
            " Those of its sublattices are counted in dispatches of their own, which "
            f"`hpcflow show {self.dispatch_id} --tasks` names."
        )

    def node(self, record: TaskRecord) -> NodeResult:
        """Return a task of which the record is at hand."""
        return NodeResult(self, record)

    def outcomes(self, tasks: Sequence[int]) -> dict[int, tuple[object, BaseException | None]]:
        """Return the values of completed tasks, each with why it can't be read here, fetched in one stream."""
        if not tasks:
            return {}
        items = self._items(",".join(map(str, tasks)))
        values, base = _Values(self, items), self._summary.base
        found: dict[int, tuple[object, BaseException | None]] = {}
        for task in tasks:
            try:
                found[task] = values.of(task + base), None
            except HpcflowError as error:
                found[task] = None, error
        return found

    def tasks(self) -> list[NodeResult]:
        """Return all tasks of the dispatch, in the order in which the lattice called them."""
        return [NodeResult(self, record) for record in task_records(self._server, self.dispatch_id)]

    def get_all_node_results(self) -> list[NodeResult]:
        """Return all tasks of the dispatch, and behind them the literal arguments as ``:parameter:`` nodes.

        `tasks` returns the first of these alone. Arguments of more than 16 KiB are left out.
        """
        return [*self.tasks(), *self._parameters]

    @cached_property
    def _parameters(self) -> list[Parameter]:
        if self._summary.python != sys.version_info[:2]:
            return []  # only another Python can read them
        nodes: list[Parameter] = []
        first, at = self._summary.own_tasks, self._summary.created_at
        for call in arguments_of(self._server, self.dispatch_id, small=True):
            for name, value in call.literals().items():
                nodes.append(Parameter(self, first + len(nodes), value, at, of=(call.task - self._summary.base, name)))
        return nodes

    def get_all_node_outputs(self) -> dict[str, Any]:  # Any: whatever the electrons returned
        """Return the values of all completed tasks by ``"name(id)"``, fetched in one stream.

        In the place of a value that is there no more, as after `hpcflow clean`, is a `LostValue` that says why.
        """
        records = list(task_records(self._server, self.dispatch_id))
        values, base = _Values(self, self._items("all")), self._summary.base
        done = [record for record in records if record.state is State.COMPLETED]
        return {f"{record.name}({record.index})": values.kept(base + record.index) for record in done}

    def to_rows(self, electron: str | None = None) -> list[dict[str, Any]]:  # Any: whatever tasks took and gave
        """Return a row for each task: its parameters by name, and what became of it; for a table, ``DataFrame(rows)``.

        Columns are ``node_id``, ``node_name``, the parameters as the function calls them, ``status``, ``output`` and
        ``error``; a parameter of one of these names gets a ``_`` behind it. Defaults that a call left alone are not
        there. Where a task completed and its value is there no more, the value is a `LostValue` that says why.

        Args:
            electron: only the tasks of this electron.
        """
        records = list(task_records(self._server, self.dispatch_id))
        values, base = _Values(self, self._items("all")), self._summary.base
        done = {record.index for record in records if record.state is State.COMPLETED}

        def value_of(task: int) -> object:
            return values.kept(base + task) if task in done else None

        called = {each.task - base: each for each in arguments_of(self._server, self.dispatch_id)}
        rows: list[dict[str, Any]] = []  # Any: as above
        for record in records:
            if electron is not None and record.name != electron:
                continue
            parameters: dict[str, object] = {}
            if record.index in called:
                try:
                    parameters = called[record.index].values(value_of)
                except Exception as error:  # unpickling runs the user's own code
                    if record.state is State.COMPLETED:
                        raise self._unreadable(f"arguments of task {record.index}", error) from error
            taken = {f"{name}_" if name in _COLUMNS else name: value for name, value in parameters.items()}
            row = {"node_id": record.index, "node_name": record.name, **taken, "status": OF_STATE[record.state]}
            rows.append({**row, "output": value_of(record.index), "error": record.error})
        return rows

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

    def __str__(self) -> str:
        said = {
            "status": self.status,
            "lattice": self.name,
            "dispatch id": self.dispatch_id,
            "started": self.start_time,
            "ended": self.end_time,
            "error": self.error,
            "hint": self.hint or None,
            "undelivered": self.undelivered or None,
        }
        return "\n".join(f"{name}: {value}" for name, value in said.items() if value is not None)

    def __repr__(self) -> str:
        counts = self._summary.counts
        done = f"{counts.get(State.COMPLETED, 0)} of {counted(self._summary.tasks, 'task')} done"
        took = ""
        if self.start_time is not None and self.end_time is not None:
            took = f" in {(self.end_time - self.start_time).total_seconds():.1f} s"
        error = f": {self.error}" if self.error else ""
        return f"<Result {self.dispatch_id} of {self.name}, {self.status}, {done}{took}{error}>"

    def _repr_html_(self) -> str:
        return as_html(self._summary, page_of(self._server, self.dispatch_id, os.environ))

    def _ipython_display_(self) -> None:
        show(self._server, self._summary, repr(self))

    def _detail(self, task: int) -> TaskRecord:
        return parse_task(self._server.ask("GET", f"/dispatches/{self.dispatch_id}/tasks/{task}"))

    def _items(self, tasks: str) -> list[Item]:
        self._check_python()
        stream = self._server.fetch(f"/dispatches/{self.dispatch_id}/results", query={"tasks": tasks, "apart": 1})
        return list(map(self._filled, parse_items(stream)))

    def _filled(self, item: Item) -> Item:
        """Return an item with its value: a large one comes by itself, and goes on where it was cut."""
        if not item.apart or item.task is None or (item.kind != "output" and item.apart > _LARGE):
            return item
        held = BytesIO()
        self._fetch_into(held, item)
        return replace(item, pickle=held.getvalue(), apart=0)

    def _fetch_into(self, sink: Sink, item: Item) -> None:
        from hpcflow.sdk.download import fetch_value, showing

        assert item.task is not None  # the lattice's own value is never apart
        wanted = client_settings(os.environ).progress
        with showing(f"value of task {item.task}", item.apart, wanted=wanted) as show:
            fetch_value(self._server, self._summary.root, item.task, sink, show=show)

    def _brought(self, task: int, path: str, to: str | os.PathLike[str] | None) -> str:
        """Bring what a task left in its directory."""
        from hpcflow.sdk.download import bring

        wanted = client_settings(os.environ).progress
        return os.path.abspath(bring(self._server, (self.dispatch_id, task), path, to, wanted=wanted).to)

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

    def _called_with(self, task: int) -> dict[str, object]:
        """Return what a task of this level was called with; results of tasks that have not completed are ``None``."""
        self._check_python()

        @cache
        def value_of(other: int) -> object:
            return self.task(other).result

        for call in arguments_of(self._server, self.dispatch_id, str(task)):
            if call.task != task + self._summary.base:
                continue
            try:
                return call.values(value_of)
            except HpcflowError:
                raise
            except Exception as error:  # unpickling runs the user's own code
                raise self._unreadable(f"arguments of task {task}", error) from error
        return {}

    def _unpickled(self, item: Item) -> object:
        if item.kind == "missing" or not (item.pickle or item.apart):
            raise LostResult(
                f"Task {(item.task or 0) - self._summary.base} of {self.dispatch_id} left no value: "
                f"{item.message or item.kind}."
            )
        try:
            value = self._opened(item)
        except HpcflowError:
            raise
        except Exception as error:  # unpickling runs the user's own code
            raise self._unreadable(f"value of task {item.task}", error) from error
        return value

    def _opened(self, item: Item) -> object:
        """Return an item's value; a very large one is read from a file, so that it is in memory once."""
        if not item.apart:
            return pickle.loads(item.pickle)
        with TemporaryFile() as file:
            self._fetch_into(file, item)
            file.seek(0)
            return pickle.load(file)

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
        self._lost: dict[int, str] = {}
        # Tasks of a sublattice have higher numbers than its own: from the top down, no depth costs recursion.
        outputs = {task: item for task, item in self._items.items() if task is not None and item.kind == "output"}
        for task in sorted(outputs, reverse=True):
            try:
                self._values[task] = self.opened(outputs[task], f"value of task {task}")
            except LostResult as error:  # of one of its tasks
                self._lost[task] = str(error)

    def of(self, task: int) -> object:
        if task in self._lost:
            raise LostResult(self._lost[task])
        if task not in self._values:
            self._values[task] = self._dispatch._unpickled(self._items[task])
        return self._values[task]

    def kept(self, task: int) -> object:
        """Return the value of a task that completed, or what tells that it is lost."""
        try:
            return self.of(task)
        except LostResult as error:
            return LostValue(str(error))

    def opened(self, output: Item, what: str) -> Any:  # Any: whatever the lattice returned
        try:
            return load_with(output.pickle, lambda task: self.of(output.base + task))
        except HpcflowError:
            raise
        except Exception as error:  # unpickling runs the user's own code
            raise self._dispatch._unreadable(what, error) from error


#: Values from this size on, in bytes, are not held in memory beside what they are unpickled to.
_LARGE: Final = 16 << 20
_COLUMNS: Final = frozenset({"node_id", "node_name", "status", "output", "error"})


def status_of(summary: Summary) -> Status:
    """Return a dispatch's status by Covalent's names: one that is held has not begun."""
    new = summary.paused in {HELD, TEMPLATE} and not summary.ended
    return Status.NEW_OBJECT if new else Status(summary.status.value)


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
