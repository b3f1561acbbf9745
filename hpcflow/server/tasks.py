"""The tasks of a running dispatch as values: where each is, where its result lies, and which level it belongs to."""

from __future__ import annotations

import os.path
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

from hpcflow.core.model import BagId, ClusterName, DispatchId, Shape, Task
from hpcflow.core.needs import Need
from hpcflow.core.states import State

__all__ = ["Child", "Gathering", "LiveTask", "Stored"]


#: Shared by all tasks that ask for what they asked at first.
_NOTHING: Final[Mapping[str, int]] = MappingProxyType({})


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A child dispatch: the graph that a sublattice built, as a run of tasks of the same live dispatch."""

    id: DispatchId
    name: str
    #: The sublattice's task, and how many sublattices it lies in, its own included.
    task: int
    depth: int
    #: Its tasks are this one and those after it.
    first: int
    count: int
    #: Of the graph, in the numbers of the whole dispatch.
    output: int
    output_deps: tuple[int, ...]

    @property
    def tasks(self) -> range:
        return range(self.first, self.first + self.count)


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
    asked: Mapping[str, int] = field(default_factory=lambda: _NOTHING)
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
    #: The cluster on which its result lies, where it is another task's.
    kept_on: ClusterName | None = None
    #: It did not run: it has another task's result.
    borrowed: bool = False
    #: The child dispatch that it built, and the one that it is part of.
    child: Child | None = None
    level: Child | None = None
    #: Where the graph that it built lies; ``None``: it built none, or its tasks are here already.
    graph: Stored | None = None
    #: By their keys, where the files lie that the server brings away; ``None``: there are none, or they are gone.
    leaving: Mapping[str, Stored | None] | None = None

    @property
    def home(self) -> ClusterName:
        """The cluster on which its result lies."""
        return self.kept_on or self.shape.cluster

    @property
    def missing(self) -> int:
        """Upstreams that it still waits for."""
        return self.need.missing

    @property
    def built(self) -> bool:
        """Its graph is built, or it returned and its files leave: no worker has anything more to do with it."""
        return self.child is not None or self.graph is not None or self.leaving is not None


@dataclass(slots=True)
class Gathering:
    """Ready tasks of one shape that wait for others like them."""

    #: Since when; ``None``: none waits.
    since: datetime | None = None
    #: Bags that were made while others were still to come.
    bags: int = 0
