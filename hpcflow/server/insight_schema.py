"""The shapes of what `insight_api` answers, for the API's description."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from hpcflow.core.states import Status
from hpcflow.server.routing import Described
from hpcflow.server.schema import Usage

__all__ = ["EffectiveSettings", "EfficiencyOfDays", "EfficiencyOfDispatch", "LogQuery", "ServerLog", "Timeline"]


class TimelineArray(Described):
    """One job array. All times here are seconds after the timeline's ``base``."""

    job_id: str
    cluster: str
    width: int
    state: str
    reason: str | None
    submitted: float | None
    ended: float | None
    #: Array tasks that nobody saw begin or end.
    waiting: int


class Lane(Described):
    """One worker: an array task, or a slot of one."""

    #: Position in ``arrays``.
    array: int
    index: int
    slot: int
    #: The scheduler started it, and it was over, by its accounting.
    began: float | None
    ended: float | None
    #: Its worker's first line, and its last one once it left.
    up: float | None
    left: float | None
    cause: str | None
    host: str | None


class Bars(Described):
    """One attempt for each position."""

    lane: list[int]
    task: list[int]
    #: Position in ``names``.
    name: list[int]
    attempt: list[int]
    from_: list[float] = Field(alias="from")
    #: ``None``: it goes on.
    to: list[float | None]
    #: "c": it returned; "f": it did not; "x": somebody cancelled it; "r": it runs.
    end: list[str]


class Timeline(Described):
    base: datetime
    #: The end of the dispatch, or the time of the answer.
    now: float
    live: bool
    arrays: list[TimelineArray]
    lanes: list[Lane]
    names: list[str]
    bars: Bars
    #: Attempts of which nobody knows when they began, or where.
    unplaced: int


class AdviceAnswer(Described):
    cpus: int | None
    memory_mib: int | None
    walltime_s: int | None
    why: list[str]
    #: To be written into ``@hf.electron(...)``; empty: it is well as it is, or nothing is known.
    options: str


class ElectronUse(Described):
    """The attempts of one electron that asked for the same on one cluster."""

    name: str
    cluster: str
    cores: int
    ntasks: int
    memory_mib: int | None
    walltime_s: int | None
    #: Attempts that returned, and that did not.
    ended: int
    lost: int
    short_of_memory: int
    short_of_time: int
    #: Run time times cores, and CPU time, of all attempts.
    held_core_s: float
    used_core_s: float
    #: Of the former: of attempts that did not return, or whose task ran again all the same.
    lost_core_s: float
    #: Of those that returned.
    cores_p95: float | None
    rss_kib_p95: float | None
    rss_kib_max: float | None
    wall_s_p50: float | None
    wall_s_p95: float | None
    wall_s_max: float | None
    advice: AdviceAnswer


class EfficiencyOfDispatch(Described):
    id: str
    usage: Usage
    electrons: list[ElectronUse]
    #: So many have to have returned before less is advised.
    enough: int


class DispatchCost(Described):
    id: str
    name: str
    status: Status
    created_at: datetime
    charged_s: float
    tasks_s: float
    complete: bool


class EfficiencyOfDays(Described):
    days: int
    #: That are in the sums, the newest first, and how many there are of these days.
    dispatches: list[DispatchCost]
    dispatches_total: int
    charged_s: float
    tasks_s: float
    idle_s: float
    startup_s: float
    overhead_s: float
    slots_s: float
    killed_s: float
    beyond_s: float
    #: What the parts above are more than was charged, below zero: schedulers count whole seconds.
    rest_s: float
    electrons: list[ElectronUse]
    enough: int


class Setting(Described):
    name: str
    #: In the environment.
    variable: str
    value: JsonValue
    default: JsonValue
    #: Of a number that is an amount.
    unit: Literal["s", "days", "bytes", "MiB"] | None
    source: Literal["environment", "config.toml", "default"]
    #: What holds from the next start on; ``None``: the same.
    pending: JsonValue
    about: str


class ClusterSaid(Described):
    name: str
    value: JsonValue
    unit: Literal["s", "days", "bytes", "MiB"] | None
    source: Literal["clusters.toml", "site"]


class ClusterSettingsAnswer(Described):
    name: str
    scheduler: str
    #: What is not as by default.
    said: list[ClusterSaid]


class EffectiveSettings(Described):
    home: str
    config: str
    clusters_file: str
    #: Why the next start would fail.
    problem: str | None
    settings: list[Setting]
    clusters: list[ClusterSettingsAnswer]


class LogQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    #: What an entry has to contain.
    q: str = Field("", max_length=200)
    #: The least one.
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    limit: int = Field(500, ge=1, le=5000)


class LogEntry(Described):
    at: datetime
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
    source: str
    text: str


class ServerLog(Described):
    path: str
    bytes: int
    #: The newest that fit, the oldest of them first.
    entries: list[LogEntry]
    found: int
    total: int
