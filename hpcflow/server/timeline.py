"""When what ran where in a dispatch: lanes of workers, in columns, as the page draws them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from hpcflow.core.model import BagId
from hpcflow.core.states import State
from hpcflow.server.bags import LiveBag
from hpcflow.server.levels import Level
from hpcflow.server.reports import spelled
from hpcflow.server.store import ArrayRow, ArrayState, EndRow, Kept, Store, TaskRow

__all__ = ["timeline"]

Json = dict[str, Any]  # Any: JSON, described in insight_schema.py
#: When an attempt began and ended; ``None``: nobody knows, or it goes on.
_Span = tuple[float | None, float | None]

#: How an attempt ended, as one letter: well, not, somebody cancelled it, or it goes on.
_WELL, _LOST, _STOPPED, _RUNS = "c", "f", "x", "r"
_HOW: Final = {"ok": _WELL, "cancelled": _STOPPED}
_TAKEN: Final = frozenset({ArrayState.INTENT, ArrayState.REFUSED})


class _Lanes:
    """The workers that ran something, in the order of their arrays."""

    def __init__(self, arrays: Iterable[ArrayRow], bags: Mapping[BagId, LiveBag], base: float) -> None:
        self._base = base
        self.arrays = [row for row in arrays if row.state not in _TAKEN and row.array.job_id]
        self._number = {str(row.array.job_id): number for number, row in enumerate(self.arrays)}
        self._first: dict[str, tuple[float, float | None]] = {}
        for row in self.arrays:
            live = bags.get(row.array.bag)
            for name, worker in list(live.ledger.workers.items()) if live is not None else ():
                if worker.first_at is not None:
                    self._first[name.rpartition("_")[0]] = (worker.first_at, worker.last_at if worker.exit else None)
        self._lanes: dict[str, int] = {}
        self.rows: list[Json] = []
        for name in self._first:
            self.lane(name + "_0")

    def lane(self, worker: str) -> int | None:
        """Return the number of a worker's lane; a worker that was requeued goes on in its own."""
        name, _, _ = worker.rpartition("_")
        if name not in self._lanes:
            slotted, _, index = name.rpartition("_")
            job, _, slot = slotted.partition("+")
            number = self._number.get(job)
            if number is None or not index.isdecimal():
                return None
            self._lanes[name] = len(self.rows)
            self.rows.append(self._row(number, int(index), int(slot or 0), name))
        return self._lanes[name]

    def _row(self, number: int, index: int, slot: int, name: str) -> Json:
        end = self.arrays[number].ends.get(index) or {}
        used = end.get("usage") or {}
        began, elapsed = end.get("began_at"), end.get("elapsed_s")
        up, left = self._first.get(name, (used.get("first_at") or None, None))
        if up is not None and left is None and used:
            left = up + used["up_s"]
        return {
            "array": number,
            "index": index,
            "slot": slot,
            "began": self._since(began),
            "up": self._since(up),
            "left": self._since(left),
            "ended": self._since(began + elapsed if began is not None and elapsed is not None else None),
            "cause": end.get("cause"),
            "host": end.get("host"),
        }

    def _since(self, at: float | None) -> float | None:
        return None if at is None else round(at - self._base, 3)


def timeline(store: Store, level: Level, bags: Mapping[BagId, LiveBag], now: datetime) -> Json:
    """Return the lanes of a dispatch, or of a sublattice in it, and what ran in each.

    Args:
        store: what is known.
        level: of which tasks.
        bags: those that are not over.
        now: the end of what goes on.
    """
    row = store.dispatch(level.root)
    assert row is not None  # it is a level of it
    # As it is told: times after it are exact.
    base = int(row.created_at.timestamp() * 1000) / 1000
    lanes = _Lanes(store.arrays(level.root), bags, base)
    inside = level.tasks if level.child is not None else range(2**62)
    tasks = {task.index: task for task in store.tasks(level.root) if task.index in inside}
    names: dict[str, int] = {}
    columns: dict[str, list[Any]] = {name: [] for name in ("lane", "task", "name", "attempt", "from", "to", "end")}
    unplaced = 0

    def add(worker: str | None, task: TaskRow, attempt: int, span: _Span, how: str) -> int:
        lane = lanes.lane(worker) if worker is not None else None
        began, until = span
        if lane is None or began is None:
            return 1
        columns["lane"].append(lane)
        columns["task"].append(task.index - level.tasks.start)
        columns["name"].append(names.setdefault(task.name, len(names)))
        columns["attempt"].append(attempt)
        columns["from"].append(round(began - base, 3))
        columns["to"].append(None if until is None else round(until - base, 3))
        columns["end"].append(how)
        return 0

    borrowed = Kept(store).origins(level.root)
    told: set[tuple[int, int]] = set()
    for end in store.attempts(level.root):
        task = tasks.get(end.index)
        if task is None or end.index in borrowed:  # another dispatch ran it
            continue
        told.add((end.index, end.attempt))
        how = _HOW.get(end.record["st"], _LOST)
        unplaced += add(end.worker, task, end.attempt, _span(end, task), how)
    for task in tasks.values():
        if task.state is State.RUNNING and task.started_at is not None:
            unplaced += add(task.worker, task, task.attempt, (task.started_at.timestamp(), None), _RUNS)
        elif task.state is State.CANCELLED and task.started_at is not None and (task.index, task.attempt) not in told:
            until = None if task.ended_at is None else task.ended_at.timestamp()
            unplaced += add(task.worker, task, task.attempt, (task.started_at.timestamp(), until), _STOPPED)
    seen = {(lane["array"], lane["index"]) for lane in lanes.rows}
    return {
        "base": spelled(row.created_at),
        "now": round(((row.ended_at or now).timestamp()) - base, 3),
        "live": row.ended_at is None,
        "arrays": [_array(each, number, seen, base) for number, each in enumerate(lanes.arrays)],
        "lanes": lanes.rows,
        "names": list(names),
        "bars": columns,
        "unplaced": unplaced,
    }


def _span(end: EndRow, task: TaskRow) -> _Span:
    """Return when an attempt began and ended: by its node's clock, or else as the server heard of it."""
    record = end.record
    if "t" in record and record.get("wall") is not None:
        return record["t"] - record["wall"], record["t"]
    if end.attempt == task.attempt and task.started_at is not None and task.ended_at is not None:
        return task.started_at.timestamp(), task.ended_at.timestamp()
    return None, None


def _array(row: ArrayRow, number: int, seen: set[tuple[int, int]], base: float) -> Json:
    """Return one job array; ``waiting`` counts its array tasks that nobody saw begin or end."""
    up = sum(array == number for array, _ in seen)
    over = sum((number, index) not in seen for index in row.ends)
    waiting = max(0, row.array.width - up - over) if row.state is not ArrayState.ENDED else 0
    return {
        "job_id": row.array.job_id,
        "cluster": row.array.cluster,
        "width": row.array.width,
        "state": row.state,
        "reason": row.reason,
        "submitted": None if row.submitted_at is None else round(row.submitted_at.timestamp() - base, 3),
        "ended": None if row.ended_at is None else round(row.ended_at.timestamp() - base, 3),
        "waiting": waiting,
    }
