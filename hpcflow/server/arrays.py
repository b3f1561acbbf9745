"""The job arrays of a dispatch, as JSON: for which electrons, how their tasks ended, why so much walltime."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Any, Final

from hpcflow.core.follow import job_of
from hpcflow.core.model import Bag, BagId, DispatchId, JobId
from hpcflow.core.plan import UNBOUNDED_S
from hpcflow.core.states import FINAL, State
from hpcflow.core.words import length
from hpcflow.server.bags import LiveBag
from hpcflow.server.reports import spelled
from hpcflow.server.store import ArrayRow, ArrayState, Store

__all__ = ["Arrays", "why_walltime"]

Json = dict[str, Any]  # Any: JSON, described in schema.py and page_schema.py
Why = Callable[[ArrayRow], str | None]

#: More electrons of one array are counted, not named.
_NAMED: Final = 20


class Arrays:
    """Tells of arrays, with what the journals of their workers say by now."""

    def __init__(self, why: Why, bags: Mapping[BagId, LiveBag]) -> None:
        """Tell for one answer.

        Args:
            why: returns in plain words why an array waits.
            bags: those that are not over.
        """
        self._why = why
        self._bags = bags
        self._manned: dict[BagId, dict[str, tuple[int, int]]] = {}

    def told(self, row: ArrayRow) -> Json:
        """Return one array as every answer tells of it."""
        up, busy = self._up(row)
        bag = self._bags.get(row.array.bag) if row.state is ArrayState.SUBMITTED else None
        return {
            "cluster": row.array.cluster,
            "job_id": row.array.job_id,
            "width": row.array.width,
            "state": row.state,
            "submitted_at": spelled(row.submitted_at),
            # What it waited for is past.
            "reason": None if row.state is ArrayState.ENDED else row.reason,
            "why": self._why(row),
            "up": up,
            "busy": busy,
            "suspended": 0 if bag is None else _suspended(row, bag),
        }

    def serving(self, row: ArrayRow, bag: Bag) -> Json:
        """Return one array as a task's own page tells of it."""
        walltime_s = row.array.worker_walltime_s
        return {
            **self.told(row),
            "bag": bag.id,
            "walltime_s": None if walltime_s >= UNBOUNDED_S else walltime_s,
            "why_walltime": why_walltime(bag, walltime_s),
        }

    def of(self, store: Store, dispatch: DispatchId) -> list[Json]:
        """Return all arrays of a whole dispatch, in the order of their submission."""
        return _arrays_of(store, dispatch, self.serving)

    def _up(self, row: ArrayRow) -> tuple[int, int]:
        """Return how many array tasks have workers that live, and how many of these have none that is free."""
        if row.state is not ArrayState.SUBMITTED or row.array.job_id is None:
            return 0, 0
        if row.array.bag not in self._manned:
            bag = self._bags.get(row.array.bag)
            self._manned[row.array.bag] = {} if bag is None else _manned(bag)
        return self._manned[row.array.bag].get(row.array.job_id, (0, 0))


def _suspended(row: ArrayRow, bag: LiveBag) -> int:
    return next((len(each.suspended) for each in bag.arrays if each.array.token == row.array.token), 0)


def _manned(bag: LiveBag) -> dict[str, tuple[int, int]]:
    ends = {array.array.job_id: array.ends for array in bag.arrays}
    up: defaultdict[str, set[str]] = defaultdict(set)
    free: defaultdict[str, set[str]] = defaultdict(set)
    # Thousands may live, and a summary may be asked for many times in a second.
    for name, worker in list(bag.ledger.workers.items()):
        if worker.exit is None and not worker.released:
            slot, index, _ = name.rsplit("_", 2)
            job = JobId(slot.partition("+")[0])
            if job in ends and int(index) not in ends[job]:
                up[job].add(index)
                if worker.running is None:
                    free[job].add(index)
    return {job: (len(indices), len(indices) - len(free[job])) for job, indices in up.items()}


def _arrays_of(store: Store, dispatch: DispatchId, serving: Callable[[ArrayRow, Bag], Json]) -> list[Json]:
    bags = {row.bag.id: row.bag for row in store.bags(dispatch)}
    names: dict[int, str] = {}
    queued: defaultdict[BagId | None, Counter[str]] = defaultdict(Counter)
    ends: defaultdict[tuple[BagId | None, str], Counter[str]] = defaultdict(Counter)
    for task in store.tasks(dispatch):
        names[task.index] = task.name
        if task.state is State.QUEUED:
            queued[task.bag][task.name] += 1
        elif task.state in FINAL and task.worker is not None:
            ends[task.bag, job_of(task.worker)][task.state] += 1
    again = Counter((bag, job_of(worker)) for bag, worker in store.tried_again(dispatch))
    told: list[Json] = []
    for row in store.arrays(dispatch):
        bag = bags[row.array.bag]
        works = Counter(names[index] for index, _ in bag.tasks)
        key = bag.id, row.array.job_id or ""
        told.append(
            {
                **serving(row, bag),
                "token": row.array.token,
                "ended_at": spelled(row.ended_at),
                "electrons": [
                    {"name": name, "tasks": tasks, "queued": queued[bag.id][name]}
                    for name, tasks in works.most_common(_NAMED)
                ],
                "electrons_total": len(works),
                "ends": dict(ends[key]),
                "tried_again": again[key],
            }
        )
    return told


def why_walltime(bag: Bag, walltime_s: int) -> str | None:
    """Return why an array asks for this walltime, as what follows "It asks for".

    ``None``: it is what its task asked for.

    Args:
        bag: what it serves.
        walltime_s: of each of its array tasks.
    """
    limit = bag.limit_s
    if walltime_s >= UNBOUNDED_S or limit == walltime_s:
        return None
    asked = length(walltime_s)
    if limit is None:
        return (
            f"{asked}, because its tasks name no walltime: one worker runs several of them, as long "
            "as time is left (worker_walltime)."
        )
    if walltime_s < limit:
        return f"{asked}, which is all that its partition gives."
    links = max((len(unit) for unit in bag.units), default=1)
    if bag.need_s < walltime_s:
        return f"{asked}, because one worker runs several tasks of at most {length(limit)}, one after another."
    what = (
        f"{links} tasks of {length(limit)}, which run one after another" if links > 1 else f"a task of {length(limit)}"
    )
    rest = walltime_s - links * limit
    more = f", and {length(rest)} more to start and to end in" if rest > 0 else ""
    return f"{asked}: time for {what}{more}."
