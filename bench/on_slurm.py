"""Rows that need a Slurm: hpcflow beside plain and packed arrays, dependent jobs, and what can't be beaten."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from time import perf_counter, sleep
from typing import Final

from bench.accounting import charge_of
from bench.homes import Home, fresh_home
from bench.rivals import (
    array_of_imports,
    array_of_single_tasks,
    dependent_jobs,
    packed_array,
    packed_stages,
    packed_waits,
)
from bench.rows import Limit, Row, at_least, at_most, counted, left_out, told
from bench.sizes import Size
from bench.telling import tell
from bench.workloads import (
    KINDS,
    bound_s,
    chain_by_hpcflow,
    imports_by_hpcflow,
    map_and_one_by_hpcflow,
    mixed_by_hpcflow,
    same_and_sum,
    seconds_by_hpcflow,
    two_stages_by_hpcflow,
    uneven_by_hpcflow,
    uneven_seconds,
)

__all__ = ["chain", "charged", "noops", "numpy", "seconds", "stages", "uneven", "warm"]

_SLURM: Final = "slurm"


@dataclass(slots=True)
class Runs:
    """Several cold runs of one size, each with a server of its own."""

    seconds: list[float] = field(default_factory=list[float])
    cpu_ms_per_task: list[float] = field(default_factory=list[float])
    peak_mb: list[float] = field(default_factory=list[float])
    #: Of the run that called the most.
    commands: Counter[str] = field(default_factory=Counter[str])

    def add_cold(self, tasks: int) -> None:
        """Start a server, dispatch, wait for the value."""
        with fresh_home() as home:
            begun_at = perf_counter()
            home.start()
            start_cpu_s = home.cpu_s()
            start_s = perf_counter() - begun_at
            self.seconds.append(start_s + same_and_sum(tasks, _SLURM))
            self.cpu_ms_per_task.append(1000 * (home.cpu_s() - start_cpu_s) / tasks)
            self.peak_mb.append(home.memory_mb("VmHWM"))
            commands = home.commands()
        if commands.total() >= self.commands.total():
            self.commands = commands


def noops(size: Size) -> list[Row]:
    """1,000 and 10,000 tasks that do nothing, and the sum of what they return, each with a server of its own.

    The server's start is in the time. Beside the 1,000 an array with one array task for each of them, and a packed one.
    """
    if not _is_here():
        return [_without_slurm("no-ops + reduce")]
    few, many = Runs(), Runs()
    single, packed = list[float](), list[float]()
    for _ in _repetitions(size, "no-ops"):
        few.add_cold(size.few)
        single.append(array_of_single_tasks(size.few))
        packed.append(packed_array(size.few, size.slots))
        many.add_cold(size.many)
    what = f"Slurm, {size.few:,} no-ops + reduce, cold (server's start included)"
    array = f"sbatch --array=0-{size.few - 1}, python -I -c pass, no reduce"
    return [
        at_least(what, few.seconds, array, single, must=4),
        at_most("  the same", few.seconds, f"packed array of {size.slots}", packed, aim=1.5),
        counted("  scheduler commands of the server", few.commands, must=10),
        at_most(
            f"Slurm, {size.many:,} no-ops + reduce, cold (no array of {size.many:,} single tasks was run)",
            many.seconds,
            f"hpcflow, {size.few:,}",
            few.seconds,
            must=6,
        ),
        counted("  scheduler commands of the server", many.commands),
        told(f"server CPU per task at {size.few:,}, dispatch to value", few.cpu_ms_per_task, "ms"),
        told(f"server CPU per task at {size.many:,}, dispatch to value", many.cpu_ms_per_task, "ms", must=1, aim=0.2),
        told(f"server peak memory at {size.many:,}", many.peak_mb, "MB"),
    ]


def seconds(size: Size) -> list[Row]:
    """Tasks of one second on a given number of slots: the first one's start to the last one's end, beside the ideal.

    The first dispatch finds run times unknown and starts narrow; the second one knows them and is judged.
    """
    if not _is_here():
        return [_without_slurm("tasks of 1 s")]
    ideal = [float(math.ceil(size.seconds / size.slots))]
    first, second, whole, packed = (list[float]() for _ in range(4))
    for _ in _repetitions(size, "tasks of 1 s"):
        with _warm(size.slots) as home:
            first.append(seconds_by_hpcflow(size.seconds, _SLURM).tasks_s)
            home.wait_for_accounting(home.newest())
            span = seconds_by_hpcflow(size.seconds, _SLURM)
        second.append(span.tasks_s)
        whole.append(span.whole_s)
        packed.append(packed_waits([1.0] * size.seconds, size.slots))
    what = f"Slurm, {size.seconds} x 1 s on {size.slots} slots, first start to last end"
    return [
        at_most(f"{what}, run times known", second, "ideal", ideal, must=1.1, aim=1.03),
        at_most("  the same, dispatch to value", whole, "ideal", ideal),
        at_most("  the same, first dispatch", first, "ideal", ideal),
        at_most("  the same", second, f"packed array of {size.slots}", packed),
    ]


def uneven(size: Size) -> list[Row]:
    """Tasks with log-normal run times, from ten functions whose means differ: first start to last end, and the bound.

    The bound is all run time over all slots, or the longest task. Of a function hpcflow knows the mean run time, once
    it ran before: the second dispatch is judged. Half of the variance is between functions, half within them.
    """
    if not _is_here():
        return [_without_slurm("uneven tasks")]
    times = uneven_seconds(size.uneven, size.uneven_work_s)
    bound = [bound_s(times, size.slots)]
    first, second, packed = (list[float]() for _ in range(3))
    for _ in _repetitions(size, "uneven tasks"):
        with _warm(size.slots) as home:
            first.append(uneven_by_hpcflow(times, _SLURM).tasks_s)
            home.wait_for_accounting(home.newest())
            second.append(uneven_by_hpcflow(times, _SLURM).tasks_s)
        packed.append(packed_waits(times, size.slots))
    what = f"Slurm, {size.uneven:,} uneven tasks ({KINDS} functions, {sum(times):.0f} s in all) on {size.slots} slots"
    return [
        at_most(f"{what}, run times known", second, "bound", bound, must=1.2, aim=1.1),
        at_most("  the same, first dispatch", first, "bound", bound),
        at_most("  the same", second, f"packed array of {size.slots}, every {size.slots}th task each", packed),
    ]


def chain(size: Size) -> list[Row]:
    """A chain of alike tasks, dispatch to value with a server that runs, beside as many jobs chained by afterok."""
    if not _is_here():
        return [_without_slurm("chain")]
    ours, theirs = list[float](), list[float]()
    for _ in _repetitions(size, "chain"):
        with _warm():
            ours.append(chain_by_hpcflow(size.links, _SLURM))
        theirs.append(dependent_jobs(size.links))
    what = f"Slurm, chain of {size.links} alike tasks, dispatch to value"
    rival = f"{size.links} jobs, sbatch --dependency=afterok, all submitted at once"
    return [at_least(what, ours, rival, theirs, must=10, aim=30)]


def stages(size: Size) -> list[Row]:
    """Stages in which each task needs all results of the stage before, beside packed arrays chained by afterok."""
    if not _is_here():
        return [_without_slurm("stages, all-to-all")]
    ours, theirs = list[float](), list[float]()
    commands = Counter[str]()
    for _ in _repetitions(size, "stages"):
        with _warm() as home:
            before = home.commands()
            ours.append(mixed_by_hpcflow(size.stages, size.stage_width, _SLURM))
            commands = max(commands, home.commands() - before, key=Counter.total)
        theirs.append(packed_stages(size.stages, size.stage_width, size.slots))
    what = f"Slurm, {size.stages} stages x {size.stage_width}, all-to-all, dispatch to value"
    rival = f"{size.stages} packed arrays of {size.slots}, sbatch --dependency=afterok, all submitted at once"
    return [at_least(what, ours, rival, theirs, must=3), counted("  scheduler commands of the server", commands)]


def warm(size: Size) -> list[Row]:
    """Core-seconds that workers wait for more in a map of 64 tasks of 4 to 8 s and a reduce, run times unknown.

    Beside it the same with the reduce in a sublattice: of that nobody knows how many tasks it will bring, so that all
    workers wait that may.
    """
    if not _is_here():
        return [_without_slurm("map and reduce")]
    times = [size.mapped_s * (1 + place / size.mapped) / 2 for place in range(size.mapped)]
    spent: dict[bool, list[_Spent]] = {True: [], False: []}
    commands = Counter[str]()
    for _ in _repetitions(size, "map and reduce"):
        for known, mine in spent.items():
            with _warm() as home:
                before = home.commands()
                whole_s = map_and_one_by_hpcflow(times, _SLURM, counted=known)
                commands = max(commands, home.commands() - before, key=Counter.total)
                home.wait_for_accounting(home.newest())
                mine.append(_spent(home, whole_s, size))
    ours, theirs = spent[True], spent[False]
    what = f"Slurm, map of {size.mapped} tasks ({sum(times):.0f} s in all) + reduce"
    return [
        at_least(
            f"{what}, core-seconds of waiting workers",
            [each.idle_s for each in ours],
            "the reduce in a sublattice: all wait",
            [each.idle_s for each in theirs],
            better="less waiting",
        ),
        at_most(
            "  the same, dispatch to value",
            [each.whole_s for each in ours],
            "the reduce in a sublattice",
            [each.whole_s for each in theirs],
        ),
        told("  the same, waiting among all core-seconds", [each.share for each in ours], "%"),
        told("  with the reduce in a sublattice", [each.share for each in theirs], "%"),
        counted("  scheduler commands of the server", commands),
    ]


def numpy(size: Size) -> list[Row]:
    """Tasks that use numpy: CPU time of hpcflow's workers and of its server, beside an array task for each import.

    Both by accounting. What an array task costs Slurm itself, some 35 ms, is in neither sum.
    """
    if not _is_here():
        return [_without_slurm("tasks that import numpy")]
    if find_spec("numpy") is None:
        return [left_out("tasks that import numpy on Slurm", "this Python has no numpy")]
    ours, theirs = list[float](), list[float]()
    for _ in _repetitions(size, "imports of numpy"):
        with _warm() as home:
            before_s = home.cpu_s()
            imports_by_hpcflow(size.imports, _SLURM)
            server_s = home.cpu_s() - before_s
            jobs = home.jobs(home.newest())
        ours.append(server_s + charge_of(jobs).cpu_s)
        theirs.append(array_of_imports(size.imports))
    what = f"Slurm, {size.imports} tasks that use numpy, CPU of workers and server"
    rival = f"sbatch --array=0-{size.imports - 1}, python -I -c 'import numpy; ...'"
    return [at_least(what, ours, rival, theirs, must=5, aim=7, better="less CPU")]


def charged(size: Size) -> list[Row]:
    """Core-seconds that accounting charged for two stages of one-second tasks, and what the journals say of them.

    The span of a worker's journal is tasks, waiting (linger), and what lies between tasks. Accounting counts from the
    allocation to the node's last word, in whole seconds, and all workers start within the same one: what is unexplained
    is off by a second for each of them at most, so each has 100 s of work.
    """
    if not _is_here():
        return [_without_slurm("charged core-seconds")]
    tell("charged core-seconds, once; then accounting is waited for")
    with _warm(size.slots) as home:
        two_stages_by_hpcflow(size.charged, _SLURM)
        dispatch = home.newest()
        home.wait_for_accounting(dispatch)
        paid = charge_of(home.jobs(dispatch)).core_s
        usages = _usages(home, dispatch, size)
    span_s, tasks_s, idle_s = (sum(usage[name] for usage in usages) for name in ("span_s", "tasks_s", "idle_s"))
    missing = 100 * abs(paid - span_s) / paid
    shares = {"tasks": tasks_s, "waiting": idle_s, "between tasks": span_s - tasks_s - idle_s}
    return [
        Row(
            what=f"Slurm, 2 stages x {size.charged} x 1 s on {size.slots} slots, core-seconds that journals explain",
            measured=f"{span_s:.0f} s (" + ", ".join(f"{name} {each:.0f} s" for name, each in shares.items()) + ")",
            beside=f"sacct CPUTimeRAW: {paid} s",
            ratio=f"{missing:.1f} % unexplained (start and end of {len(usages)} workers, whole seconds)",
            must=Limit("<= 2 %", missing <= 2),
        )
    ]


# ---- what the rows share


@dataclass(frozen=True, slots=True)
class _Spent:
    """What a dispatch cost, in seconds, and how much of the workers' time was waiting, in percent."""

    whole_s: float
    idle_s: float
    share: float


def _spent(home: Home, whole_s: float, size: Size) -> _Spent:
    """Return what the newest dispatch cost, whose arrays are over; the server is stopped."""
    dispatch = home.newest()
    usages = _usages(home, dispatch, size)
    idle_s = sum(usage["idle_s"] for usage in usages)
    return _Spent(whole_s, idle_s, 100 * idle_s / sum(usage["span_s"] for usage in usages))


def _usages(home: Home, dispatch: str, size: Size) -> list[dict[str, float]]:
    """Return how each array task spent its time; the server is stopped.

    A bag is closed, and its usage written, a moment after its last array is known to be over.
    """
    sleep(size.settle_s)
    home.stop()
    ends = [end for array in home.arrays(dispatch) for end in array.ends.values()]
    return [end["usage"] for end in ends if end["usage"] is not None]


def _is_here() -> bool:
    return shutil.which("sbatch") is not None


def _without_slurm(what: str) -> Row:
    return left_out(f"{what} on Slurm", "there is no sbatch on the PATH")


def _repetitions(size: Size, what: str) -> Generator[int]:
    for repetition in range(size.repetitions):
        tell(f"{what}, repetition {repetition + 1} of {size.repetitions}")
        yield repetition


@contextmanager
def _warm(slots: int | None = None) -> Generator[Home]:
    """Run a server of its own that has asked the cluster for its limits.

    Args:
        slots: array tasks at once, at most. An array task counts until accounting tells its end, so it is asked more
            often then, and what came before is over.
    """
    limit = "" if slots is None else f'[{_SLURM}]\nscheduler = "slurm"\nmax_running = {slots}\n'
    with fresh_home(limit, {} if slots is None else {"HPCFLOW_ACCOUNTING_POLL": "5"}) as home:
        home.start()
        same_and_sum(1, _SLURM)
        if slots is not None:
            home.wait_for_accounting(home.newest())
        yield home
