"""What failed of a dispatch and why, what its tasks had better ask for, and what a retry would do: said in advance.

Whatever names an amount to ask for, or counts what would run again, has it from here: the page, the command line,
the SDK, and the retry itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

from hpcflow.core.advice import Ask, Lack, Shortage, beyond, spelled
from hpcflow.core.again import runs_again, stay
from hpcflow.core.causes import cause_of, shortage, told
from hpcflow.core.model import ClusterName, DispatchId, Graph, Partition
from hpcflow.core.plan import partition_of
from hpcflow.core.states import State
from hpcflow.core.words import counted, these
from hpcflow.server.clusters import Cluster
from hpcflow.server.recent import Recent
from hpcflow.server.store import Store, TaskRow
from hpcflow.server.views import Views

__all__ = ["TRIED_AGAIN", "Prospects", "told_end", "told_retry"]

Json = dict[str, Any]  # Any: JSON, described in again_schema.py

#: How a message begins that tells of a retry.
TRIED_AGAIN: Final = "Tried again by you: "
_NAMED: Final = 8
_KEPT: Final = 4


class _Kind(NamedTuple):
    """Tasks that get the same advice: no more is advised than where they run there is."""

    name: str
    cluster: str
    partition: str | None
    lack: Lack


@dataclass(slots=True)
class _Short:
    """What tasks of one kind ran out of."""

    lacked: dict[int, Shortage] = field(default_factory=dict[int, Shortage])
    advised: int | None = None
    #: " on fast", where those of one electron that ran out of the same get two advices; else nothing.
    where: str = ""

    @property
    def asked(self) -> int | None:
        return max((each.asked for each in self.lacked.values() if each.asked is not None), default=None)

    def instead(self, tasks: Collection[int]) -> str | None:
        """Return what some of them had asked for; ``None``: not one had asked for anything."""
        asked = [each for index, each in self.lacked.items() if index in tasks]
        amounts = sorted({each.asked for each in asked if each.asked is not None})
        if not amounts:
            return None
        told = dict.fromkeys(spelled(asked[0].lack, number) for number in (amounts[0], amounts[-1]))
        text = (" to " if len(amounts) > 2 else " or ").join(told)
        return text if all(each.asked is not None for each in asked) else f"{text}, or what the cluster gives by itself"


@dataclass(slots=True)
class _Failed:
    """The tasks of a dispatch that have failed."""

    rows: list[TaskRow]
    causes: dict[int, str]
    short: dict[_Kind, _Short] = field(default_factory=dict[_Kind, _Short])

    def asks(self) -> Iterator[tuple[int, _Kind, _Short]]:
        """Yield the tasks for which something is advised."""
        for kind, short in self.short.items():
            if short.advised is not None:
                for index in short.lacked:
                    yield index, kind, short


class Prospects:
    """Reads the store; each method is called in a thread."""

    def __init__(
        self,
        store: Store,
        views: Views,
        clusters: Mapping[ClusterName, Cluster],
        *,
        version: Callable[[DispatchId], int],
    ) -> None:
        """Read from a store.

        Args:
            store: what is known.
            views: knows the graphs.
            clusters: know what their partitions give.
            version: returns a number that grows whenever a dispatch changes.
        """
        self._store = store
        self._views = views
        self._clusters = clusters
        self._version = version
        self._kept: Recent[DispatchId, _Failed] = Recent(_KEPT)

    def failures(self, root: DispatchId, tasks: Collection[range]) -> Json:
        """Return the failures among some tasks of a dispatch, those of one cause together, the most frequent first."""
        failed = self._failed(root)
        groups: dict[str, list[TaskRow]] = {}
        for row in failed.rows:
            if any(row.index in each for each in tasks):
                groups.setdefault(failed.causes[row.index], []).append(row)
        first = min((each.start for each in tasks), default=0)
        told_groups = [self._group(failed, rows, first) for rows in groups.values()]
        told_groups.sort(key=lambda group: -group["tasks"])
        return {"failed": sum(group["tasks"] for group in told_groups), "groups": told_groups}

    def _group(self, failed: _Failed, rows: Sequence[TaskRow], first: int) -> Json:
        mine = {row.index for row in rows}
        short = {kind: each for kind, each in failed.short.items() if mine & each.lacked.keys()}
        lacked = [each.lacked[index] for each in short.values() for index in mine & each.lacked.keys()]
        return {
            "text": told([row.error for row in rows], lacked),
            "lack": lacked[0].lack if lacked else None,
            "tasks": len(rows),
            "first": [{"index": row.index - first, "name": row.name, "state": row.state} for row in rows[:_NAMED]],
            "more": [_more(kind, each, mine & each.lacked.keys()) for kind, each in short.items()],
        }

    def retry(
        self,
        root: DispatchId,
        *,
        failed_only: bool,
        only: Collection[int] | None = None,
        graph: Graph | None = None,
        states: Sequence[State] | None = None,
    ) -> Json:
        """Say what a retry would do.

        Args:
            root: a dispatch.
            failed_only: as for the retry.
            only: likewise, in the dispatch's numbers.
            graph: of the dispatch, where it is at hand.
            states: likewise.
        """
        graph, states = graph or self._views.whole(root), states or self._store.states(root)
        chosen = runs_again(graph, states, failed_only=failed_only, only=only)
        counts = Counter(states[index] for index in chosen)
        held = stay(graph, states, chosen)
        by = sorted(set(held.values()))
        failed = self._failed(root) if counts[State.FAILED] else _Failed([], {})
        wanted = frozenset(chosen)
        more = [
            _more(kind, short, mine)
            for kind, short in failed.short.items()
            if short.advised is not None and (mine := wanted & short.lacked.keys())
        ]
        return {
            "tasks": len(chosen),
            "failed": counts[State.FAILED],
            "cancelled": counts[State.CANCELLED],
            "skipped": counts[State.SKIPPED],
            "held": len(held),
            "held_by": [
                {"index": index, "name": graph.tasks[index].name, "state": states[index]} for index in by[:_NAMED]
            ],
            "more": more,
            "rest": counts[State.FAILED] - sum(each["tasks"] for each in more),
        }

    def asks(self, root: DispatchId) -> dict[int, Ask]:
        """Return what tasks that ran out of something had better ask for."""
        return {
            index: Ask(memory_mib=short.advised) if kind.lack == "memory" else Ask(walltime_s=short.advised)
            for index, kind, short in self._failed(root).asks()
        }

    def hint(self, root: DispatchId, tasks: Collection[range]) -> str | None:
        """Say what to do about tasks that ran out of something, ``None`` where none did."""
        said: list[str] = []
        some = False
        for kind, short in self._failed(root).short.items():
            mine = {index for index in short.lacked if any(index in each for each in tasks)}
            if not mine:
                continue
            some = some or short.advised is not None
            whose = f"{counted(len(mine), 'task')} of {kind.name}{short.where}"
            said.append(f"{whose} ran out of {kind.lack}: {_what_to_ask(kind, short, mine)}.")
        if some:
            said.append(f"`hpcflow retry {root} --more` does that, and tries the others again as they were.")
        return " ".join(said) or None

    def hint_of(self, root: DispatchId, row: TaskRow) -> str | None:
        """Say the same of one task, and where to write it."""
        if row.state is not State.FAILED:
            return None
        for kind, short in self._failed(root).short.items():
            if row.index not in short.lacked:
                continue
            if short.advised is None:
                return _sentence(_what_to_ask(kind, short, {row.index}))
            amount = spelled(kind.lack, short.advised)
            return (
                f"Ask for {amount}: `hpcflow retry {root} --task {row.index} --more` tries it again so, and "
                f'{kind.lack}="{amount}" in @hf.electron(…) asks for it from the start.'
            )
        return None

    def _failed(self, root: DispatchId) -> _Failed:
        """Return what has failed; kept until the dispatch changes."""
        return self._kept.get(root, self._version(root), lambda: self._read(root))

    def _read(self, root: DispatchId) -> _Failed:
        rows = self._store.tasks(root, state=State.FAILED)
        ends = self._store.ends(root, [row.index for row in rows])
        failed, partitions = _Failed(rows, {}), dict[_Kind, Partition | None]()
        for row in rows:
            end = ends.get(row.index)
            record = end.record if end is not None and end.attempt == row.attempt else None
            failed.causes[row.index] = cause_of(record, row.error)
            if (lacked := shortage(record)) is not None:
                partition = self._partition(root, row)
                kind = _Kind(row.name, row.cluster or "", partition.name if partition else None, lacked.lack)
                short = failed.short.setdefault(kind, _Short())
                short.lacked[row.index] = lacked
                partitions[kind] = partition
        for kind, short in failed.short.items():
            short.advised = beyond(short.lacked.values(), partitions[kind])
        _tell_apart(failed.short)
        return failed

    def _partition(self, root: DispatchId, row: TaskRow) -> Partition | None:
        cluster = self._clusters.get(ClusterName(row.cluster or ""))
        if cluster is None or cluster.limits is None:
            return None
        resources = self._views.tasks(root)[row.index].resources
        named = resources.partition or cluster.settings.partition
        return partition_of(replace(resources, partition=named), cluster.limits)


def _tell_apart(short: Mapping[_Kind, _Short]) -> None:
    """Say of tasks of one electron that ran out of the same where they ran, if not all of them get one advice."""
    alike: dict[tuple[str, Lack], list[_Kind]] = {}
    for kind in short:
        alike.setdefault((kind.name, kind.lack), []).append(kind)
    for kinds in alike.values():
        clusters = {kind.cluster for kind in kinds}
        for kind in kinds if len(kinds) > 1 else ():
            there = [other for other in kinds if other.cluster == kind.cluster]
            partition = f"partition {kind.partition}" if len(there) > 1 else ""
            short[kind].where = f" on {' '.join(filter(None, [kind.cluster if len(clusters) > 1 else '', partition]))}"


def _more(kind: _Kind, short: _Short, tasks: Collection[int]) -> Json:
    return {
        "name": kind.name,
        "where": short.where,
        "lack": kind.lack,
        "tasks": len(tasks),
        "instead": short.instead(tasks),
        "advised": short.advised,
        "what": _sentence(_what_to_ask(kind, short, tasks)),
    }


def _what_to_ask(kind: _Kind, short: _Short, tasks: Collection[int]) -> str:
    had = short.instead(tasks)
    if short.advised is not None:
        return f"ask for {spelled(kind.lack, short.advised)}{'' if had is None else f' instead of {had}'}"
    if had is not None and short.asked is not None:
        return f"{spelled(kind.lack, short.asked)} is the most that its partition gives"
    return f"ask for more than the cluster gives by itself, by {kind.lack}= in @hf.electron(…)"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def told_end(states: Sequence[State]) -> str:
    """Return how a dispatch had ended before it was tried again: "It had ended with 2 failed, 1 completed."."""
    counts = Counter(states)
    ends = (State.FAILED, State.CANCELLED, State.SKIPPED, State.COMPLETED)
    return f"It had ended with {', '.join(f'{counts[state]} {state}' for state in ends if counts[state])}."


def told_retry(plan: Mapping[str, Any], *, more: bool, asked: Iterable[str] = ()) -> str:  # Any: JSON
    """Return a retry in a sentence or two: how many tasks, and what they ask for now.

    Args:
        plan: what `Prospects.retry` said of it.
        more: what ran out of something asks for what is advised.
        asked: the amounts that all ask for now that failed or were cancelled.
    """
    own = plan["failed"] + plan["cancelled"]
    text = counted(own, "task")
    if skipped := plan["skipped"]:
        text += f", and {skipped} that {these(skipped, 'was', 'were')} skipped because of {these(own, 'it', 'them')}"
    asks = [_asks(each) for each in plan["more"]] if more else []
    if asks:
        rest = own - sum(each["tasks"] for each in plan["more"])
        others = f", {counted(rest, 'other')} for what {these(rest, 'it', 'they')} had" if rest else ""
        return f"{text}. {'; '.join(asks)}{others}."
    if listed := " and ".join(asked):
        ended = " or ".join(["had failed"] * bool(plan["failed"]) + ["was cancelled"] * bool(plan["cancelled"]))
        return f"{text}. What {ended} asks for {listed}{', what was skipped for what it had' if skipped else ''}."
    return f"{text}, as {these(own, 'it was', 'they were')}."


def _asks(each: Mapping[str, Any]) -> str:  # Any: JSON
    lack: Lack = each["lack"]
    had = "" if each["instead"] is None else f" instead of {each['instead']}"
    verb = these(each["tasks"], "asks", "ask")
    whose = f"{each['tasks']} of {each['name']}{each['where']}"
    return f"{whose} {verb} for {spelled(lack, each['advised'])} of {lack}{had}"
