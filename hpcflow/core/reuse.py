"""Which results of an earlier dispatch stand for tasks of a new one: those of the same function on the same inputs."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from hpcflow.core.model import Task

__all__ = ["Earlier", "Matcher", "kept", "surroundings", "without_dropped"]


def surroundings(task: Task) -> str:
    """Return what tells what a task finds around it from what others do: its environment, and its ranks."""
    # On every rank: how many there are may tell in the result.
    ranks = [task.launcher, task.resources.ntasks] if task.launcher is not None else None
    return hashlib.sha256(json.dumps([asdict(task.env), ranks], sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Earlier:
    """A task of an earlier dispatch whose result may be used again."""

    index: int
    #: What tells its function from others.
    function: str
    #: SHA-256 in hex of its pickled arguments, in which results of tasks stand as their numbers.
    arguments: str
    #: The tasks whose results it took, ascending.
    deps: tuple[int, ...]
    #: What `surroundings` returned for it.
    around: str
    #: Versions of the packages that its function used, in this call or another; "?" where nothing told them.
    versions: Mapping[str, str] = field(default_factory=dict[str, str])


class Matcher:
    """Finds for the tasks of a new graph, in the order in which they are called, those of an earlier one."""

    def __init__(self, earlier: Iterable[Earlier]) -> None:
        self._left: defaultdict[tuple[str, str, str, tuple[int, ...]], deque[int]] = defaultdict(deque)
        self._versions: dict[int, Mapping[str, str]] = {}
        for task in earlier:
            self._left[task.function, task.around, task.arguments, task.deps].append(task.index)
            self._versions[task.index] = task.versions
        #: By the number of the new task, that of the earlier one.
        self.found: dict[int, int] = {}

    def look(
        self,
        index: int,
        function: str | None,
        around: str,
        deps: Sequence[int],
        arguments: bytes,
        *,
        renumbered: Callable[[Mapping[int, int]], bytes | None],
    ) -> None:
        """Look for a task like this one.

        Each earlier task is found once: who calls the same twice may want two results, as of random numbers.

        Args:
            index: the new task.
            function: what tells its function from others; ``None``: nothing does.
            around: what `surroundings` returns for it.
            deps: the tasks whose results it takes.
            arguments: its pickled arguments.
            renumbered: returns these with other numbers for the tasks, ``None`` where they can't be had.
        """
        if function is None or any(upstream not in self.found for upstream in deps):
            return
        numbers = {upstream: self.found[upstream] for upstream in deps}
        same = all(new == old for new, old in numbers.items())
        data = arguments if same else renumbered(numbers)
        if data is None:
            return
        key = function, around, hashlib.sha256(data).hexdigest(), tuple(sorted(numbers.values()))
        if self._left.get(key):
            self.found[index] = self._left[key].popleft()

    def of_these_versions(self, versions: Callable[[int], Mapping[str, str]]) -> dict[int, int]:
        """Return what was found with the packages that are used now; what both calls used both sides name.

        Args:
            versions: returns those of a new task's function.
        """
        return {new: old for new, old in self.found.items() if _agree(self._versions[old], versions(new))}


def _agree(some: Mapping[str, str], others: Mapping[str, str]) -> bool:
    return all(some[name] == others[name] != "?" for name in some.keys() & others.keys())


#: Returns what a task needs, and what it only waits for; tasks may have a tuple together, which is then read once.
Needs = Callable[[int], tuple[tuple[int, ...], ...]]


def without_dropped(found: Mapping[int, int], needs: Needs) -> dict[int, int]:
    """Return what is left of these pairs when each task goes of which some upstream is not among them."""
    left = dict(found)
    dropped = bool(left)
    while dropped:  # once and to make sure; more often where a task waits for one that was called later
        dropped = False
        whole: dict[int, tuple[tuple[int, ...], bool]] = {}  # with each tuple, alive: it is known by its id
        for index in sorted(left):
            for each in needs(index):
                if id(each) not in whole:
                    whole[id(each)] = each, all(upstream in left for upstream in each)
                if not whole[id(each)][1]:
                    del left[index]
                    dropped = True
                    break
    return left


def kept(completed: Iterable[int], needs: Needs) -> set[int]:
    """Return the completed tasks of a graph of which all upstreams, up to the first, have completed as well."""
    return set(without_dropped({index: index for index in completed}, needs))
