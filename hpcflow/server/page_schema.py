"""The shapes of what `page` answers, for the API's description."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, Field, JsonValue

from hpcflow.core.states import State
from hpcflow.server.previews import Preview
from hpcflow.server.routing import Described
from hpcflow.server.schema import MOST, TaskTable
from hpcflow.server.views import Sort

__all__ = ["AboutTask", "Arrays", "Code", "GraphColumns", "PageKey", "States", "TaskPage", "TaskQuery"]


# Described, not checked: who gets it wrong is told the states.
_STATES = f"^(({'|'.join(State)})(,({'|'.join(State)}))*)?$"


class TaskQuery(BaseModel):
    #: States with commas; nothing for any.
    state: Annotated[str, Field(max_length=99, json_schema_extra={"pattern": _STATES})] = ""
    #: In name, error, host or job; or an index.
    q: Annotated[str, Field(max_length=200)] = ""
    #: Of the electron, in whole.
    name: Annotated[str | None, Field(max_length=10_000)] = None
    sort: Sort = "index"
    descending: bool = False
    #: The last index of the page before.
    after: Annotated[int | None, Field(ge=0, le=MOST)] = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 200


class TaskPage(TaskTable):
    #: How many fit, on all pages, and how many the dispatch has.
    found: int
    total: int


class GraphColumns(Described):
    """A dispatch's graph: task ``i`` is an electron ``names[name[i]]`` and needs the tasks ``sets[needs[i]]``."""

    tasks: int
    name: list[int]
    needs: list[int]
    names: list[str]
    sets: list[list[int]]
    levels: list[GraphLevel]


class GraphLevel(BaseModel):
    """A sublattice: the task that it is, and the tasks that it built."""

    #: Of its child dispatch.
    id: str
    name: str
    task: int
    first: int
    tasks: int


class States(Described):
    #: Of the last of `/events` that is in it.
    number: int
    version: int
    #: For each task w(aiting), (read)y, p(aused), q(ueued), r(unning), c(ompleted), f(ailed), x cancelled, s(kipped).
    states: str


class Neighbour(Described):
    index: int
    name: str
    state: State


class Attempt(Described):
    attempt: int
    end: str
    error: str | None
    #: The array task, as 8123_7.
    job: str
    host: str | None
    wall_s: float | None
    cpu_s: float | None
    max_rss_kib: int | None
    exit_code: int | None
    signal: int | None


class ServingArray(Described):
    cluster: str
    job_id: str | None
    width: int
    state: str
    submitted_at: datetime | None
    reason: str | None
    why: str | None
    #: Array tasks whose workers have come up and not left, as their journals say, and those of them that are not free.
    up: int
    busy: int
    #: Array tasks that stand still until somebody lets them go on, as the scheduler said when it was asked last.
    suspended: int
    #: Those of one bag serve the same tasks.
    bag: str
    #: Of each of its array tasks; ``None``: without end.
    walltime_s: int | None
    #: What follows "It asks for"; ``None``: it is what the task asked for.
    why_walltime: str | None


class ServedElectron(Described):
    name: str
    #: That the array was submitted for, it or others with it, and how many of them wait for the scheduler.
    tasks: int
    queued: int


class DispatchArray(ServingArray):
    token: str
    ended_at: datetime | None
    #: Those with most tasks, and how many there are.
    electrons: list[ServedElectron]
    electrons_total: int
    #: How tasks ended that ran in it; without attempts after which another was made.
    ends: dict[State, int]
    tried_again: int


class Arrays(Described):
    arrays: list[DispatchArray]


class AboutTask(Described):
    index: int
    #: What its next attempt, or its last one, asks for; what is left to the cluster is absent.
    asked: dict[str, JsonValue]
    retries: int
    executor: str | None
    module: str | None
    source: str | None
    #: The first fifty.
    upstream: list[Neighbour]
    upstream_total: int
    downstream: list[Neighbour]
    downstream_total: int
    #: Of a skipped one: the failed and cancelled tasks because of which it does not run, the first fifty.
    held_by: list[Neighbour]
    #: Those that ended.
    attempts: list[Attempt]
    #: Of the last attempt that ended: the first twenty arguments, and what it returned.
    inputs: list[Preview]
    result: Preview | None
    #: Of the pickled result.
    result_bytes: int | None
    #: That serve, or served, its bag.
    arrays: list[ServingArray]


class Code(BaseModel):
    code: str


class PageKey(Described):
    key: str
