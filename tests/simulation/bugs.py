"""Bugs that the simulation has to find: each takes away one thing that the real server does."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from hpcflow.core import lingering
from hpcflow.core.follow import Ended, Fact, Ledger
from hpcflow.core.lingering import Idle, Leave
from hpcflow.core.model import JobArray, Observation, Observations
from hpcflow.core.plugin import Reply
from hpcflow.server.bags import LiveArray, LiveBag
from hpcflow.server.clusters import Cluster
from hpcflow.server.collect import Collector
from hpcflow.server.submit import Submitter
from hpcflow_slurm import SlurmPlugin
from tests.simulation.world import Options

__all__ = ["BUGS"]


class _Believing(SlurmPlugin):
    """Takes every answer for a whole one: what is not in it has ended."""

    def parse_query(self, arrays: Sequence[JobArray], replies: Sequence[Reply]) -> Observations:
        seen = super().parse_query(arrays, replies)
        return replace(seen, complete=frozenset(array.token for array in arrays))


@contextmanager
def _replaced(owner: object, **pieces: object) -> Generator[Options]:
    """Put other pieces in the places of a class's or a module's own for a while."""
    own = {name: getattr(owner, name) for name in pieces}
    for name, piece in pieces.items():
        setattr(owner, name, piece)
    try:
        yield Options()
    finally:
        for name, piece in own.items():
            setattr(owner, name, piece)


@contextmanager
def _absence_is_the_end() -> Generator[Options]:
    yield Options(plugin=_Believing)


def _no_settle_time() -> AbstractContextManager[Options]:
    """An array that is not there when it is first looked for was never taken."""
    observe = LiveArray.observe

    def observe_at_once(
        self: LiveArray, rows: Sequence[Observation], *, complete: bool, now: datetime, settle_s: float
    ) -> bool:
        self.sought_since = self.sought_since or now - timedelta(seconds=1)
        return observe(self, rows, complete=complete, now=now, settle_s=0.0)

    return _replaced(LiveArray, observe=observe_at_once)


@contextmanager
def _stale_lines_count() -> Generator[Options]:
    """Whatever a journal says of a task's end is taken for the end of the attempt that the task is in."""
    read, take = Ledger.read, Collector.take

    def read_all(self: Ledger, worker: str, records: Sequence[Any]) -> list[Fact]:  # Any: JSON
        facts = read(self, worker, records)
        told = {(fact.index, fact.attempt) for fact in facts if isinstance(fact, Ended)}
        for record in records:
            if record["ev"] == "end" and record["st"] == "ok" and (record["i"], record["n"]) not in told:
                facts.append(Ended(record["i"], record["n"], worker, record))
        return facts

    def take_all(self: Collector, bag: LiveBag, facts: Sequence[Fact]) -> None:
        tasks = bag.dispatch.tasks
        for fact in facts:
            if isinstance(fact, Ended):
                tasks[fact.index].bag = bag.bag.id
        take(self, bag, [replace(fact, attempt=tasks[fact.index].attempt) for fact in facts])

    with _replaced(Ledger, read=read_all), _replaced(Collector, take=take_all) as options:
        yield options


def _workers_are_not_told() -> AbstractContextManager[Options]:
    """What is cancelled in the store stays unknown to the workers that have it."""

    async def forget(self: Submitter, cluster: Cluster, bag: LiveBag) -> None:
        bag.untold.clear()

    return _replaced(Submitter, tell_cancelled=forget)


def _the_last_one_leaves() -> AbstractContextManager[Options]:
    """Who waits counts itself among the others."""
    decide = lingering.who_may_leave

    def decide_alone(idle: Sequence[Idle], coming: int | None, busy: Collection[str] = ()) -> Leave:
        return decide(idle, None if coming is None else max(0, coming - 1), busy)

    return _replaced(lingering, who_may_leave=decide_alone)


#: By name: a context in which worlds have the bug, and what to run them with.
BUGS: Final[dict[str, Callable[[], AbstractContextManager[Options]]]] = {
    "absence": _absence_is_the_end,
    "last-leaves": _the_last_one_leaves,
    "no-settle": _no_settle_time,
    "stale-line": _stale_lines_count,
    "untold-cancel": _workers_are_not_told,
}
