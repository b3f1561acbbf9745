"""The shapes of what is said of failures, and of retries and cancels in advance, for the API's description."""

from __future__ import annotations

from typing import Literal

from hpcflow.core.states import State
from hpcflow.server.routing import Described

__all__ = ["CancelPlan", "Failures", "RetryPlan"]


class NamedTask(Described):
    index: int
    name: str
    state: State


class Shortfall(Described):
    """Tasks of one electron that ran out of the same, and get the same advice."""

    name: str
    #: " on fast", " on partition gpu", where others of the electron ran elsewhere and get another advice; else empty.
    where: str
    lack: Literal["memory", "walltime"]
    tasks: int
    #: What they had asked for, "1 GiB to 4 GiB"; ``None``: what the cluster gives to those that say nothing.
    instead: str | None
    #: What to ask for, in MiB or in seconds; ``None``: there is no more, or nothing is known.
    advised: int | None
    #: The same in a sentence.
    what: str


class FailureGroup(Described):
    """Failures of one cause."""

    text: str
    #: What they ran out of.
    lack: Literal["memory", "walltime"] | None
    tasks: int
    #: The first eight.
    first: list[NamedTask]
    more: list[Shortfall]


class Failures(Described):
    failed: int
    #: The most frequent first.
    groups: list[FailureGroup]


class RetryPlan(Described):
    #: That would run again: the sum of those that failed, were cancelled, and were skipped because of them.
    tasks: int
    failed: int
    cancelled: int
    skipped: int
    #: Skipped because of them and of others as well, so that they stay so, and the first eight of those others.
    held: int
    held_by: list[NamedTask]
    #: Of those that failed, the ones that ran out of something and would get more, if that is asked for.
    more: list[Shortfall]
    #: The others of those that failed.
    rest: int


class TouchedJob(Described):
    cluster: str
    #: ``None``: it is not submitted yet.
    job_id: str | None
    #: It serves no task but these.
    ends: bool


class CancelPlan(Described):
    #: Tasks that have not ended: those that run, and the others.
    running: int
    waiting: int
    #: That need one of them, at once or by others, and will not run.
    skipped: int
    jobs: list[TouchedJob]
