"""Before a dispatch is tried again: whether there is anything to try, and whether all that its tasks need is there."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from difflib import get_close_matches
from typing import Any, Final

from hpcflow.core import words
from hpcflow.core.again import holders
from hpcflow.core.model import ClusterName, DispatchId, HpcflowError, NotFound, Task
from hpcflow.core.states import State
from hpcflow.server.cleaning import cleaned_of
from hpcflow.server.clusters import Cluster
from hpcflow.server.live import LiveDispatch
from hpcflow.server.reports import spelled
from hpcflow.server.store import Kept, Store

__all__ = ["check_at_hand", "nothing_to_retry", "number_of", "of_electrons"]


_NAMED: Final = 8
#: Letters of an electron's name that are told.
_LETTERS: Final = 60


def nothing_to_retry(live: LiveDispatch, *, failed_only: bool, only: Collection[int] | None = None) -> str | None:
    """Return in a sentence why no task, or none of ``only``, can be tried again; ``None`` when one can."""
    states = Counter(task.state for task in live.tasks)
    if only is not None:
        ends = {State.FAILED} if failed_only else {State.FAILED, State.CANCELLED}
        if any(live.tasks[index].state in ends for index in only):
            return None
        named = sorted(index for index in only if live.tasks[index].state is State.SKIPPED)
        if named:
            held = holders(live.graph.tasks, [task.state for task in live.tasks], named[0])
            tasks = " ".join(f"--task {index}" for index in held[:_NAMED])
            name = f"{live.graph.tasks[named[0]].name} (task {named[0]})"
            return f"{name} was skipped, and runs again with what holds it: `hpcflow retry {live.id} {tasks}`."
        how = "has failed" if failed_only else "has failed or was cancelled"
        return f"None of the {number_of(len(only))} that were named {how}."
    if states[State.FAILED] or (states[State.CANCELLED] and not failed_only):
        return None
    if states[State.COMPLETED] == len(live.tasks):
        return f"Nothing to try again: {number_of(len(live.tasks), 'has', 'have')} completed."
    if states[State.CANCELLED]:
        cancelled = number_of(states[State.CANCELLED], "was", "were")
        return f"No task failed. {cancelled} cancelled: `hpcflow retry {live.id}` without --failed tries those again."
    return f"No task has ended without completing; {live.left} of {number_of(len(live.tasks))} on the way."


async def check_at_hand(live: LiveDispatch, clusters: Mapping[ClusterName, Cluster], store: Store) -> None:
    """Look for the payload, and for the results that tasks which have not completed take from those that have.

    Args:
        live: what is to be tried again.
        clusters: where results lie.
        store: knows what was removed on purpose, and whose results were taken over.

    Raises:
        HpcflowError: something is gone from where it lay, or can't be looked at now.
    """
    for path in {path for path, _, _ in live.blobs}:
        if not await asyncio.to_thread(os.path.exists, path):
            raise HpcflowError(
                f"The functions and arguments of {live.id} lay in {path}, which is gone: dispatch the lattice anew."
            )
    for (name, path), (end, task) in _last_bytes(live).items():
        try:
            # Who can read the last byte has all before it.
            there = not end or await clusters[name].transport.read(path, end - 1, 1)
            reason = "it is shorter than it was"
        except HpcflowError as error:
            there, reason = b"", str(error).rstrip(".")
        if not there:
            if (given_up := await asyncio.to_thread(_given_up, store, live, task)) is not None:
                raise HpcflowError(given_up)
            raise HpcflowError(
                f"The result of task {task} ({live.graph.tasks[task].name}) can't be read from {path} on {name}: "
                f"{reason}. Tasks need it. If it is gone for good, dispatch the lattice anew."
            )


def _given_up(store: Store, live: LiveDispatch, task: int) -> str | None:
    """Return in a sentence why a result that tasks need is gone for good; ``None``: nobody removed it on purpose."""
    what = f"the result of task {task} ({live.graph.tasks[task].name})"
    anew = f"`hpcflow redispatch {live.id}` runs all of it as a new dispatch."
    mine = cleaned_of(store, live.id)
    origin = Kept(store).origin(live.id, task)
    if origin is None:
        if mine is None:
            return None
        return (
            f"Nothing of {live.id} can be tried again: its tasks need {what}, which was removed when it was cleaned at "
            f"{_clock(mine)}. {anew}"
        )
    theirs = cleaned_of(store, origin.source)
    if theirs is None and store.dispatch(origin.source) is not None:
        return None
    how = "deleted" if theirs is None else f"cleaned at {_clock(theirs)}"
    given = "" if mine is None else f"was given up when {live.id} was cleaned at {_clock(mine)}, and "
    return (
        f"Nothing of {live.id} can be tried again: its tasks need {what}, which was taken over from dispatch "
        f"{origin.source}, {given}removed when that was {how}. {anew}"
    )


def _clock(cleaned: Mapping[str, Any]) -> str:  # Any: JSON
    return spelled(datetime.fromisoformat(cleaned["at"])) or ""


def _last_bytes(live: LiveDispatch) -> dict[tuple[ClusterName, str], tuple[int, int]]:
    """Return for each file that holds a result that is still needed where the last of them ends, and whose it is."""
    sets = {task.task.deps for task in live.tasks if task.state is not State.COMPLETED}
    needed = {leaf for upstream in {one for deps in sets for one in deps} for leaf in live.leaves(upstream)}
    last: dict[tuple[ClusterName, str], tuple[int, int]] = {}
    for upstream in sorted(needed):
        task = live.tasks[upstream]
        if task.result is not None and task.result.file is not None:
            path, offset, size, _ = task.result.file
            place = (task.home, path)
            last[place] = max(last.get(place, (0, 0)), (offset + size, upstream))
    return last


def of_electrons(dispatch: DispatchId, names: Iterable[str], tasks: Sequence[Task]) -> set[int]:
    """Return the numbers of the tasks of these electrons, those in sublattices among them.

    Args:
        dispatch: whose.
        names: of electrons.
        tasks: all of the dispatch.

    Raises:
        NotFound: there is no task of one of them.
    """
    found: dict[str, list[int]] = {name: [] for name in names}
    for index, task in enumerate(tasks):
        if task.name in found:
            found[task.name].append(index)
    for name, indices in found.items():
        if not indices:
            known = dict.fromkeys(task.name for task in tasks)
            near = get_close_matches(name, known, n=_NAMED) or list(known)[:_NAMED]
            others = f" and {len(known) - len(near)} more" if len(known) > len(near) else ""
            has = f"{', '.join(each[:_LETTERS] for each in near)}{others}"
            raise NotFound(f"Dispatch {dispatch} has no task of an electron {name[:_LETTERS]!r}; it has {has}.")
    return {index for indices in found.values() for index in indices}


def number_of(count: int, one: str = "", several: str = "") -> str:
    """Return "3 tasks", with a verb in the right number where one is given."""
    return words.counted(count, f"task {one}", f"tasks {several}").rstrip()
