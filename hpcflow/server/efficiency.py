"""What electrons asked for and what they used: of one dispatch, or of all of some days."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, NamedTuple

from hpcflow.core.advice import ENOUGH, Advice, Runs, advise, quantile
from hpcflow.core.causes import shortage
from hpcflow.core.model import BagId, DispatchId, Shape, Task
from hpcflow.server.bags import LiveBag
from hpcflow.server.recent import Recent
from hpcflow.server.reports import spelled, usage
from hpcflow.server.store import Kept, Store

__all__ = ["Efficiency", "Facts", "Parts"]

Json = dict[str, Any]  # Any: JSON, described in insight_schema.py

_KEPT: Final = 200
#: Attempts that one answer is made of, at most: the newest dispatches first.
_MOST: Final = 200_000
_SUMS: Final = (
    "charged_s",
    "tasks_s",
    "idle_s",
    "startup_s",
    "overhead_s",
    "slots_s",
    "killed_s",
    "beyond_s",
    "rest_s",
)


class Parts(NamedTuple):
    """What of a dispatch says what each of its tasks asked for, which changes with its sublattices alone."""

    tasks: Sequence[Task]
    #: Where the tasks of each bag ran, and what each of them asked for then.
    shapes: Mapping[BagId, Shape]


#: The version of what is known of a dispatch, its parts, and the bags that are not over.
Facts = tuple[int, Parts, Mapping[BagId, LiveBag]]


class _Kind(NamedTuple):
    name: str
    cluster: str
    cores: int
    ntasks: int
    memory_mib: int | None
    walltime_s: int | None


@dataclass(slots=True)
class _Known:
    runs: dict[_Kind, Runs] = field(default_factory=dict[_Kind, Runs])
    attempts: int = 0


class Efficiency:
    """Reads for one page or another; each method is called in a thread, one at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: Recent[DispatchId, _Known] = Recent(_KEPT)

    def of_dispatch(self, dispatch: DispatchId, version: int, parts: Parts, bags: Mapping[BagId, LiveBag]) -> Json:
        """Return what one dispatch cost, and what its electrons asked for and used.

        Args:
            dispatch: which.
            version: of what is known of it.
            parts: its tasks.
            bags: those that are not over.
        """
        known = self._known.get(dispatch, version, lambda: self._read(dispatch, parts))
        cost = usage(self._store.arrays(dispatch), bags)
        return {"id": dispatch, "usage": {"id": dispatch, **cost}, **_told(known.runs.items())}

    def lately(self, now: datetime, days: int, read: Callable[[DispatchId], Facts]) -> Json:
        """Return the same of all dispatches that were made within some days, the newest first.

        Args:
            now: the end of the days.
            days: how many.
            read: returns the facts of a dispatch.
        """
        runs: dict[_Kind, Runs] = {}
        shown: list[Json] = []
        total = attempts = 0
        spent = dict.fromkeys(_SUMS, 0.0)
        rows = self._store.dispatches(limit=1000)
        for row in rows:
            if row.created_at < now - timedelta(days=days):
                break
            total += 1
            if attempts >= _MOST or len(shown) >= _KEPT:
                continue
            version, parts, bags = read(row.id)
            known = self._known.get(row.id, version, partial(self._read, row.id, parts))
            attempts += known.attempts
            cost = usage(self._store.arrays(row.id), bags)
            for kind, each in known.runs.items():
                runs.setdefault(kind, Runs(kind.cores, kind.ntasks, kind.memory_mib, kind.walltime_s)).join(each)
            for part in _SUMS:
                spent[part] += cost[part]
            shown.append(
                {
                    "id": row.id,
                    "name": row.name,
                    "status": row.status,
                    "created_at": spelled(row.created_at),
                    "charged_s": cost["charged_s"],
                    "tasks_s": cost["tasks_s"],
                    "complete": cost["complete"],
                }
            )
        return {
            "days": days,
            "dispatches": shown,
            "dispatches_total": total,
            **{part: round(value, 3) for part, value in spent.items()},
            **_told(runs.items()),
        }

    def _read(self, dispatch: DispatchId, parts: Parts) -> _Known:
        known = _Known()
        borrowed = Kept(self._store).origins(dispatch)
        attempts = self._store.attempts(dispatch)
        newest: dict[int, int] = {}
        for end in attempts:
            newest[end.index] = max(end.attempt, newest.get(end.index, 0))
        for end in attempts:
            if end.index in borrowed:  # another dispatch ran it
                continue
            task, shape = parts.tasks[end.index], parts.shapes.get(end.bag)
            asked = task.resources if shape is None else shape.resources
            kind = _Kind(
                name=task.name,
                cluster=(task.executor or "") if shape is None else shape.cluster,
                cores=asked.cores,
                ntasks=asked.ntasks,
                memory_mib=asked.memory_mib,
                walltime_s=asked.walltime_s,
            )
            runs = known.runs.setdefault(kind, Runs(kind.cores, kind.ntasks, kind.memory_mib, kind.walltime_s))
            cpu, lacked = end.record.get("cpu"), shortage(end.record)
            how, rss_kib = str(end.record["st"]), end.record.get("rss")
            if lacked is not None:
                how = "memory" if lacked.lack == "memory" else "timeout"
                rss_kib = lacked.used * 1024 if lacked.lack == "memory" else rss_kib
            again = end.attempt < newest[end.index]
            runs.add(how, end.record.get("wall"), sum(cpu) if cpu else None, rss_kib, again=again)
            known.attempts += 1
        return known


def _told(runs: Iterable[tuple[_Kind, Runs]]) -> Json:
    """Return the electrons, those first that waste most; what one asked for more than once stands together."""
    electrons: dict[tuple[str, str], list[tuple[_Kind, Runs]]] = {}
    for kind, each in runs:
        electrons.setdefault((kind.name, kind.cluster), []).append((kind, each))
    told: list[tuple[float, str, list[Json]]] = []
    for (name, _), kinds in electrons.items():
        kinds.sort(key=lambda kind: [each or 0 for each in kind[0][2:]])
        advice = advise(*(each for _, each in kinds))
        waste = sum(each.held_core_s - each.used_core_s for _, each in kinds)
        told.append((-waste, name, [_electron(kind, each, advice) for kind, each in kinds]))
    told.sort(key=lambda each: each[:2])
    return {"electrons": [each for _, _, rows in told for each in rows], "enough": ENOUGH}


def _electron(kind: _Kind, runs: Runs, advice: Advice) -> Json:
    busy = runs.cores_used
    return {
        **kind._asdict(),
        "ended": len(runs.wall_s),
        "lost": runs.lost,
        "short_of_memory": runs.short_of_memory,
        "short_of_time": runs.short_of_time,
        "held_core_s": round(runs.held_core_s, 3),
        "used_core_s": round(runs.used_core_s, 3),
        "lost_core_s": round(runs.lost_core_s, 3),
        "cores_p95": _rounded(quantile(busy, 0.95)),
        "rss_kib_p95": _rounded(quantile(runs.rss_kib, 0.95)),
        "rss_kib_max": _rounded(max(runs.rss_kib, default=None)),
        "wall_s_p50": _rounded(quantile(runs.wall_s, 0.5)),
        "wall_s_p95": _rounded(quantile(runs.wall_s, 0.95)),
        "wall_s_max": _rounded(max(runs.wall_s, default=None)),
        "advice": {**asdict(advice), "why": list(advice.why), "options": advice.options},
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
