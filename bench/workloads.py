"""What is measured, run by hpcflow: electrons, lattices, and how long they took."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import hpcflow
from bench.homes import Home
from hpcflow.sdk.results import Result

__all__ = [
    "KINDS",
    "NAP_S",
    "Span",
    "bound_s",
    "call_s",
    "chain_by_hpcflow",
    "check",
    "ends_seen",
    "graph_cpu_s",
    "imports_by_hpcflow",
    "map_and_one_by_hpcflow",
    "mixed",
    "mixed_by_hpcflow",
    "naps_by_hpcflow",
    "one_by_hpcflow",
    "rest",
    "same_and_sum",
    "same_by_executor",
    "same_by_hpcflow",
    "seconds_by_hpcflow",
    "sublattice_by_hpcflow",
    "two_stages_by_hpcflow",
    "uneven_by_hpcflow",
    "uneven_seconds",
]

NAP_S: Final = 0.05
#: How many functions the uneven tasks come from. What their run times have to do with the function is half of the
#: variance: hpcflow knows a function's mean, never a task's own time.
KINDS: Final = 10
_SIGMA: Final = 0.5
_LONGEST_S: Final = 3.0
#: A prime, so that no stage of `mixed` can be left out unseen.
_MODULUS: Final = 10_007


@hpcflow.electron
def same(number: int) -> int:
    return number


@hpcflow.electron
def total(numbers: list[int]) -> int:
    return sum(numbers)


def rest(number: int) -> int:
    time.sleep(NAP_S)
    return number


nap = hpcflow.electron(rest)


@hpcflow.electron
def scaled(number: int, *, by: int) -> int:
    return number * by


@hpcflow.lattice
def pairs(tasks: int) -> list[int]:
    return [scaled(same(number), by=2) for number in range(tasks // 2)]


def graph_cpu_s(name: str, tasks: int) -> float:
    """Return the seconds of CPU that it takes to trace "pairs", or "fan-out and reduce", of so many electrons."""
    begun_at = time.process_time()
    traced = pairs.build_graph(tasks) if name == "pairs" else many_and_one.build_graph(tasks - 1)
    seconds = time.process_time() - begun_at
    check(len(traced.graph.tasks), tasks)
    return seconds


@hpcflow.electron
def second(number: int) -> int:
    time.sleep(1.0)
    return number


@hpcflow.electron
def second_after(number: int, earlier: Sequence[int]) -> int:
    time.sleep(1.0)
    return number + len(earlier)


@hpcflow.electron
def one_more(number: int) -> int:
    return number + 1


@hpcflow.electron
def mix(number: int, earlier: Sequence[int]) -> int:
    return (number + sum(earlier)) % _MODULUS


@hpcflow.electron
def wait(number: int, seconds: float) -> int:
    time.sleep(seconds)
    return number


@cache
def _wait_of_kind(kind: int) -> Any:  # Any: an electron
    """Return an electron that is another function than those of other kinds, with the same code."""

    def work(number: int, seconds: float) -> int:
        time.sleep(seconds)
        return number

    work.__name__ = work.__qualname__ = f"work_{kind}"
    return hpcflow.electron(work)


@hpcflow.lattice
def many_and_one(tasks: int) -> int:
    return total([same(number) for number in range(tasks)])


@hpcflow.lattice(executor="local")
def many(tasks: int) -> list[int]:
    return [same(number) for number in range(tasks)]


@hpcflow.lattice(executor="local")
def many_below(tasks: int) -> list[int]:
    return hpcflow.electron(many)(tasks)


@hpcflow.lattice(executor="local")
def naps(tasks: int) -> list[int]:
    return [nap(number) for number in range(tasks)]


@hpcflow.lattice
def seconds_each(tasks: int) -> list[int]:
    return [second(number) for number in range(tasks)]


@hpcflow.lattice
def two_stages(tasks: int) -> list[int]:
    earlier = [second(number) for number in range(tasks)]
    return [second_after(number, earlier) for number in range(tasks)]


@hpcflow.lattice
def chain(links: int) -> int:
    number = 0
    for _ in range(links):
        number = one_more(number)
    return number


@hpcflow.lattice
def stages(count: int, width: int) -> list[int]:
    values = [mix(number, []) for number in range(width)]
    for _ in range(count - 1):
        values = [mix(number, values) for number in range(width)]
    return values


@hpcflow.lattice
def uneven(seconds: Sequence[float]) -> list[int]:
    return [_wait_of_kind(number % KINDS)(number, each) for number, each in enumerate(seconds)]


@hpcflow.lattice
def map_and_one(seconds: Sequence[float]) -> int:
    return total([wait(number, each) for number, each in enumerate(seconds)])


@hpcflow.lattice
def one_below(numbers: list[int]) -> int:
    return total(numbers)


@hpcflow.lattice
def map_and_one_below(seconds: Sequence[float]) -> int:
    return hpcflow.electron(one_below)([wait(number, each) for number, each in enumerate(seconds)])


@hpcflow.lattice
def waits(seconds: Sequence[float]) -> list[int]:
    return [wait(number, each) for number, each in enumerate(seconds)]


@dataclass(frozen=True, slots=True)
class Span:
    """How long a dispatch took, in seconds."""

    #: From the call to the value.
    whole_s: float
    #: From the first task's start to the last one's end, by the nodes' clocks.
    tasks_s: float


# ---- on the cluster that the environment's server has


def same_and_sum(tasks: int, executor: str) -> float:
    """Run no-ops and a sum of their results; return the seconds from the dispatch to the value."""
    return _timed(many_and_one.with_options(executor=executor), tasks, expected=sum(range(tasks)))


def same_by_hpcflow(tasks: int) -> float:
    return _timed(many, tasks, expected=list(range(tasks)))


def call_s(tasks: int) -> float:
    """Return the seconds that the call of `dispatch` takes; what it dispatched has ended then as well."""
    begun_at = time.perf_counter()
    dispatch = hpcflow.dispatch(many)(tasks)
    took = time.perf_counter() - begun_at
    check(_value(hpcflow.get_result(dispatch, wait=True)), list(range(tasks)))
    return took


def sublattice_by_hpcflow(tasks: int) -> float:
    """Run the same no-ops as tasks of a sublattice."""
    return _timed(many_below, tasks, expected=list(range(tasks)))


def one_by_hpcflow(packages: Sequence[str]) -> float:
    """Run one no-op that needs such packages, by `DepsPip`."""
    hooks = {"deps_pip": hpcflow.DepsPip(packages=packages)} if packages else {}
    one = hpcflow.electron(same.function, **hooks)

    @hpcflow.lattice(executor="local")
    def call() -> int:
        return one(1)

    return _timed(call, expected=1)


def same_by_executor(tasks: int) -> None:
    """Run no-ops as calls of an executor."""
    with hpcflow.Executor("local") as executor:
        check(list(executor.map(same, range(tasks))), list(range(tasks)))


def naps_by_hpcflow(tasks: int) -> float:
    return _timed(naps, tasks, expected=list(range(tasks)))


def chain_by_hpcflow(links: int, executor: str) -> float:
    return _timed(chain.with_options(executor=executor), links, expected=links)


def mixed_by_hpcflow(count: int, width: int, executor: str) -> float:
    """Run stages in which each task needs all results of the stage before."""
    return _timed(stages.with_options(executor=executor), count, width, expected=mixed(count, width))


def mixed(count: int, width: int) -> list[int]:
    """Return what the last of such stages gives."""
    values: list[int] = []
    for _ in range(count):
        values = [(number + sum(values)) % _MODULUS for number in range(width)]
    return values


def seconds_by_hpcflow(tasks: int, executor: str) -> Span:
    """Run tasks of one second each."""
    return _span(seconds_each.with_options(executor=executor), tasks, expected=list(range(tasks)))


def two_stages_by_hpcflow(tasks: int, executor: str) -> None:
    """Run tasks of a second, then as many that each need all of the first."""
    expected = [number + tasks for number in range(tasks)]
    _timed(two_stages.with_options(executor=executor), tasks, expected=expected)


def uneven_by_hpcflow(seconds: Sequence[float], executor: str) -> Span:
    """Run tasks of such lengths, from `KINDS` functions in turn."""
    return _span(uneven.with_options(executor=executor), seconds, expected=list(range(len(seconds))))


def map_and_one_by_hpcflow(seconds: Sequence[float], executor: str, *, counted: bool) -> float:
    """Run tasks of such lengths and one that needs them all, which is in a sublattice unless it can be ``counted``."""
    lattice = map_and_one if counted else map_and_one_below
    return _timed(lattice.with_options(executor=executor), seconds, expected=sum(range(len(seconds))))


def imports_by_hpcflow(tasks: int, executor: str) -> None:
    """Run tasks whose function uses numpy as a module of its own."""
    import numpy as np

    @hpcflow.electron
    def norm(number: int) -> float:
        return float(np.linalg.norm(np.full(4, number)))

    @hpcflow.lattice(executor=executor)
    def norms(tasks: int) -> list[float]:
        return [norm(number) for number in range(tasks)]

    _timed(norms, tasks, expected=[2.0 * number for number in range(tasks)])


def ends_seen(seconds: Sequence[float], home: Home, executor: str) -> list[float]:
    """Run tasks of such lengths; return how long after each one's end whoever waits for changes was told of it.

    The end is the worker's own record of it: its clock must be this machine's.
    """
    dispatch = hpcflow.dispatch(waits.with_options(executor=executor))(seconds)
    told_at: list[float] = []
    for ended, at in home.changes(dispatch):
        told_at += [at] * (ended - len(told_at))
    result = hpcflow.get_result(dispatch)
    check(result.result, list(range(len(seconds))))
    ends = sorted(node.ended_at.timestamp() for node in result.tasks() if node.ended_at is not None)
    return [at - end for at, end in zip(told_at, ends, strict=True)]


# ---- how long uneven tasks run


def uneven_seconds(tasks: int, work_s: float) -> list[float]:
    """Return run times that are log-normal, from 10 functions that differ, the same in every run.

    None is longer than three seconds, and all together they are ``work_s``.
    """
    dice = random.Random(20)
    scales = [math.exp(dice.gauss(0.0, _SIGMA)) for _ in range(KINDS)]
    times = [scales[number % KINDS] * math.exp(dice.gauss(0.0, _SIGMA)) for number in range(tasks)]
    mean_s = work_s / sum(times)
    return [min(_LONGEST_S, each * mean_s) for each in times]


def bound_s(seconds: Sequence[float], slots: int) -> float:
    """Return how long such tasks take at least on so many slots."""
    return max(*seconds, sum(seconds) / slots)


# ---- taking the time


def check(value: object, expected: object) -> None:
    if value != expected:
        raise RuntimeError(f"A measured run gave {str(value)[:80]} instead of {str(expected)[:80]}.")


def _value(result: Result) -> object:
    if result.error is not None:
        raise RuntimeError(f"A measured run ended as {result.status}: {result.error}")
    return result.result


def _timed(lattice: Any, *args: object, expected: object) -> float:  # Any: a lattice with any parameters
    run: Callable[..., Result] = hpcflow.dispatch_sync(lattice)
    begun_at = time.perf_counter()
    result = run(*args)
    value = _value(result)
    took = time.perf_counter() - begun_at
    check(value, expected)
    return took


def _span(lattice: Any, *args: object, expected: object) -> Span:  # Any: as above
    run: Callable[..., Result] = hpcflow.dispatch_sync(lattice)
    begun_at = time.perf_counter()
    result = run(*args)
    check(_value(result), expected)
    whole_s = time.perf_counter() - begun_at
    nodes = result.tasks()
    starts = [node.started_at for node in nodes if node.started_at is not None]
    ends = [node.ended_at for node in nodes if node.ended_at is not None]
    return Span(whole_s, (max(ends) - min(starts)).total_seconds())
