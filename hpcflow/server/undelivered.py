"""Says which cancels have not reached those who are to end what was cancelled, and what these say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hpcflow.core.model import DispatchId
from hpcflow.core.states import State
from hpcflow.core.words import counted, these
from hpcflow.server.bags import LiveBag
from hpcflow.server.store import ArrayState, TaskRow

__all__ = ["undelivered", "undelivered_of"]


def undelivered(bags: Iterable[LiveBag], dispatch: DispatchId) -> str | None:
    """Return in sentences what of a dispatch's cancels is not delivered yet; ``None``: nothing, as far as is known."""
    tasks: dict[tuple[str, str], int] = {}
    jobs: dict[tuple[str, str], int] = {}
    for bag in _unheard(bags, dispatch):
        key = bag.bag.shape.cluster, bag.unheard or ""
        if _goes(bag):
            jobs[key] = jobs.get(key, 0) + sum(array.state is ArrayState.SUBMITTED for array in bag.arrays)
        else:
            tasks[key] = tasks.get(key, 0) + len(bag.untold)
    said: list[str] = []
    for (cluster, why), count in tasks.items():
        what = f"{counted(count, 'task')} that {these(count, 'was', 'were')} cancelled"
        said.append(_told(f"workers on {cluster} may still run {what}", why))
    said += [_told(f"{counted(count, 'job')} may go on on {cluster}", why) for (cluster, why), count in jobs.items()]
    return " ".join(said) or None


def undelivered_of(bags: Iterable[LiveBag], row: TaskRow) -> str | None:
    """Return the same of one task."""
    for bag in _unheard(bags, row.dispatch) if row.state is State.CANCELLED else ():
        cluster = bag.bag.shape.cluster
        if (row.index, row.attempt) in (bag.bag.tasks if _goes(bag) else bag.untold):
            return _told(f"a worker on {cluster} may still run it", bag.unheard or "")
    return None


def _unheard(bags: Iterable[LiveBag], dispatch: DispatchId) -> Iterator[LiveBag]:
    for bag in bags:
        if bag.bag.dispatch == dispatch and bag.unheard is not None and bag.open and (bag.untold or _goes(bag)):
            yield bag


def _goes(bag: LiveBag) -> bool:
    """Nobody is left to be told but the scheduler: all that a bag has there shall go."""
    return all(array.cancel_wanted for array in bag.arrays if array.open)


def _told(what: str, why: str) -> str:
    return f"Cancel not delivered yet: {why.rstrip('.')}. It is tried again; until then {what}."
