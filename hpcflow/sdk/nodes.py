"""Tasks of a dispatch as its result shows them: mappings of Covalent's fields, whose attributes tell more."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from hpcflow.core.states import State
from hpcflow.sdk.answers import Item, TaskRecord
from hpcflow.sdk.status import OF_STATE, Status

if TYPE_CHECKING:
    from hpcflow.sdk.results import Result

__all__ = ["FIELDS", "LostValue", "NodeResult", "Parameter"]

#: Letters of a value in a node's name.
_NAMED: Final = 200

#: Covalent's names, in its order, and the attributes that hold them here.
FIELDS: Final = {
    "node_id": "node_id",
    "node_name": "name",
    "start_time": "started_at",
    "end_time": "ended_at",
    "status": "status",
    "output": "result",
    "error": "error",
    "sublattice_result": "sublattice_result",
    "stdout": "stdout",
    "stderr": "stderr",
}


@dataclass(frozen=True, slots=True)
class LostValue:
    """Stands in tables for what a task returned and nobody can read any more; ``reason`` is a sentence.

    It is false, and no ``None``: an electron may have returned that.
    """

    reason: str

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        return f"<lost: {self.reason}>"

    __repr__ = __str__


class Fields(Mapping[str, Any]):  # Any: as many types as fields
    """The fields by Covalent's names; other attributes may be asked for by theirs, as in ``node["job_id"]``."""

    def __getitem__(self, field: str) -> Any:  # Any: as many types as fields
        attribute = FIELDS.get(field, field)
        if attribute.startswith("_") or not hasattr(type(self), attribute):
            raise KeyError(field)
        return getattr(self, attribute)

    def __iter__(self) -> Iterator[str]:
        return iter(FIELDS)

    def __len__(self) -> int:
        return len(FIELDS)

    def __contains__(self, field: object) -> bool:
        return field in FIELDS

    # Two nodes are the same when they are one: to compare values would fetch them.
    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    @property
    def node_name(self) -> str:
        return str(self["node_name"])

    @property
    def start_time(self) -> Any:  # Any: a time, or None
        return self["start_time"]

    @property
    def end_time(self) -> Any:  # Any: a time, or None
        return self["end_time"]

    @property
    def output(self) -> Any:  # Any: whatever the electron returned
        return self["output"]


class NodeResult(Fields):
    """One task of a dispatch: what the server knew when it was asked, and its value and output when they are read.

    A mapping of Covalent's fields (``node["output"]``), whose attributes tell more.
    """

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
    def status(self) -> Status:
        """Where it is, by Covalent's names; `state` tells more."""
        return OF_STATE[self.state]

    @property
    def attempt(self) -> int:
        return self._record.attempt

    @property
    def error(self) -> str | None:
        """Why it failed, as a sentence; ``None`` if it did not."""
        return self._record.error

    @property
    def hint(self) -> str:
        """What to ask for the next time, as a sentence, where it ran out of memory or walltime; empty elsewhere."""
        return self._record.hint

    @property
    def undelivered(self) -> str:
        """Why nobody could tell its worker yet that it was cancelled, as sentences; empty where that is not so."""
        return self._record.undelivered

    @property
    def note(self) -> str:
        """Why it did not run itself, as in "reused from dispatch 01J…, task 3"; empty where it did."""
        return self._record.note

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
    def inputs(self) -> dict[str, Any]:  # Any: whatever it was called with
        """What it was called with, by the function's parameters, also where it failed or has not begun.

        Results of other tasks among them are fetched; ``None`` is in the place of those that have not completed.
        """
        return self._dispatch._called_with(self.node_id)

    @cached_property
    def sublattice_result(self) -> Result | None:
        """The child dispatch of a sublattice, with tasks of its own; ``None`` where there is none, or none yet."""
        child = self._record.sublattice
        return None if child is None else self._dispatch._child(child)

    @cached_property
    def exception(self) -> BaseException | None:
        """What the electron raised; ``None`` if it raised nothing, or nothing that can be pickled."""
        if self.state is not State.FAILED or not (self._item.pickle or self._item.apart):
            return None
        raised = self._dispatch._unpickled(self._item)
        return raised if isinstance(raised, BaseException) else None

    def download(self, path: str = ".", to: str | os.PathLike[str] | None = None) -> str:
        """Bring a file or folder that the task left in its directory to this machine; return where it is.

        What is interrupted goes on where it was, when it is called again, and checksums are looked at.

        Args:
            path: below the task's directory; all of it else.
            to: the destination, or a folder that is there; ``None``: its own name, in the working directory.

        Raises:
            NotFound: there is nothing.
            UserError: the path leads out of the task's directory, or something is at the destination.
            HpcflowError: it can't be read.
        """
        return self._dispatch._brought(self.node_id, path, to)

    def __repr__(self) -> str:
        place = f" on {self.host}" if self.host else ""
        error = f": {self.error}" if self.error else f", {self.note}" if self.note else ""
        return f"<task {self.node_id} {self.name}, {self.state}{place}{error}>"

    @cached_property
    def _detail(self) -> TaskRecord:
        return self._dispatch._detail(self.node_id)

    @cached_property
    def _item(self) -> Item:
        return self._dispatch._items(str(self.node_id))[0]


class Parameter(NodeResult):
    """A literal argument of a task as a node, as Covalent has it: no task, no row and no job stands behind it."""

    def __init__(
        self, dispatch: Result, node_id: int, value: object, at: datetime | None, *, of: tuple[int, str]
    ) -> None:
        #: The task that it is an argument of, and what the function calls it.
        self.task, self.parameter = of
        record = TaskRecord(
            index=node_id,
            name=f":parameter:{_spelled(value)}",
            state=State.COMPLETED,
            attempt=0,
            cluster=None,
            job_id=None,
            array_index=None,
            host=None,
            started_at=at,
            ended_at=at,
            wall_s=None,
            cpu_s=None,
            max_rss_kib=None,
            error=None,
            cores=0,
            end=None,
            raw=None,
            exit_code=None,
            signal=None,
            sublattice=None,
        )
        super().__init__(dispatch, record)
        # What the server is asked for elsewhere is known here.
        self.__dict__.update(result=value, inputs={}, stdout="", stderr="", _detail=record)


def _spelled(value: object) -> str:
    try:
        text = str(value)
    except Exception:  # the value's own code
        text = type(value).__name__
    return text if len(text) <= _NAMED else f"{text[:_NAMED]}…"
