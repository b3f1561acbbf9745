"""Measures hpcflow beside plain Slurm, a process pool and plain forks in one run, and prints one table.

Times are medians of repetitions that take turns (A B A B), so that a busy moment hits both sides. Ratios hold across
machines; seconds do not. Nothing is asserted: the exit code is 0 unless a run gave a wrong value or did not end.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

sys.path.append(str(Path(__file__).resolve().parents[1]))

from bench.homes import fresh_home
from bench.rows import Row, as_markdown, as_text, at_least, at_most, counted, left_out, told
from bench.workloads import (
    array_of_single_tasks,
    forks_of_the_program,
    forks_one_by_one,
    naps_by_hpcflow,
    naps_by_pool,
    packed_array,
    same_and_sum,
    same_by_hpcflow,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is measured. All tasks are counts, all times seconds."""

    few: int = 1000
    many: int = 10_000
    naps: int = 400
    packed_width: int = 48
    repetitions: int = 3
    interpreters: int = 10
    idle_s: float = 20.0
    settle_s: float = 3.0


QUICK = Size(few=200, many=400, naps=40, repetitions=1, interpreters=2, idle_s=2.0, settle_s=0.5)


@dataclass(slots=True)
class Runs:
    """Several cold runs of one size, each with a server of its own."""

    seconds: list[float] = field(default_factory=list[float])
    cpu_ms_per_task: list[float] = field(default_factory=list[float])
    peak_mb: list[float] = field(default_factory=list[float])
    #: Of the run that called the most.
    commands: Counter[str] = field(default_factory=Counter[str])

    def add_cold(self, tasks: int, executor: str) -> None:
        """Start a server, dispatch, wait for the value."""
        with fresh_home() as home:
            begun_at = time.perf_counter()
            home.start()
            start_cpu_s = home.cpu_s()
            start_s = time.perf_counter() - begun_at
            self.seconds.append(start_s + same_and_sum(tasks, executor))
            self.cpu_ms_per_task.append(1000 * (home.cpu_s() - start_cpu_s) / tasks)
            self.peak_mb.append(home.memory_mb("VmHWM"))
            commands = home.commands()
        if commands.total() >= self.commands.total():
            self.commands = commands


# ---- the sections of the table


def on_slurm(size: Size) -> list[Row]:
    if shutil.which("sbatch") is None:
        return [left_out("no-ops + reduce on Slurm", "there is no sbatch on the PATH")]
    few, many = Runs(), Runs()
    single: list[float] = []
    packed: list[float] = []
    for repetition in range(size.repetitions):
        tell(f"Slurm, repetition {repetition + 1} of {size.repetitions}")
        few.add_cold(size.few, "slurm")
        single.append(array_of_single_tasks(size.few))
        packed.append(packed_array(size.few, size.packed_width))
        many.add_cold(size.many, "slurm")
    return [
        at_least(
            f"Slurm, {size.few:,} no-ops + reduce, cold (server's start included)",
            few.seconds,
            f"sbatch --array=0-{size.few - 1}, python -I -c pass, no reduce",
            single,
            4,
        ),
        at_most("  the same", few.seconds, f"packed array of {size.packed_width}", packed, None),
        counted("  scheduler commands of the server", few.commands, 10),
        at_most(
            f"Slurm, {size.many:,} no-ops + reduce, cold (no array of {size.many:,} single tasks was run)",
            many.seconds,
            f"hpcflow, {size.few:,}",
            few.seconds,
            6,
        ),
        counted("  scheduler commands of the server", many.commands, None),
        told(f"server CPU per task at {size.few:,}, dispatch to value", few.cpu_ms_per_task, "ms"),
        told(f"server CPU per task at {size.many:,}, dispatch to value", many.cpu_ms_per_task, "ms", 1),
        told(f"server peak memory at {size.many:,}", many.peak_mb, "MB"),
    ]


def on_this_machine(size: Size) -> list[Row]:
    cores = len(os.sched_getaffinity(0))
    naps, pool, same, forks, bare = (list[float]() for _ in range(5))
    cold_naps, cold_same = list[float](), list[float]()
    with fresh_home() as home:
        home.start()
        tell("local, a server that runs already: one round to warm up")
        same_by_hpcflow(1)
        for repetition in range(size.repetitions):
            tell(f"local, repetition {repetition + 1} of {size.repetitions}")
            naps.append(naps_by_hpcflow(size.naps))
            pool.append(naps_by_pool(size.naps, cores))
            same.append(same_by_hpcflow(size.few))
            forks.append(forks_of_the_program(size.few))
            bare.append(forks_one_by_one(size.few))
    tell("local, cold")
    for seconds, run, tasks in ((cold_naps, naps_by_hpcflow, size.naps), (cold_same, same_by_hpcflow, size.few)):
        for _ in range(size.repetitions):
            with fresh_home():
                seconds.append(run(tasks))
    pool_name, forks_name = f"ProcessPoolExecutor({cores})", "the program forks and waits, one by one"
    bare_name = "a bare interpreter does so and runs nothing"
    naps_name, same_name = f"local, {size.naps} tasks of 50 ms", f"local, {size.few:,} no-ops"
    return [
        at_most(f"{naps_name}, server running", naps, pool_name, pool, 1.2),
        at_most(f"{naps_name}, cold (server's start included)", cold_naps, pool_name, pool, None),
        at_most(f"{same_name}, server running", same, forks_name, forks, 3),
        at_most("  the same", same, bare_name, bare, None),
        at_most(f"{same_name}, cold (server's start included)", cold_same, forks_name, forks, None),
    ]


def idle_server(size: Size) -> list[Row]:
    tell(f"idle server, {size.idle_s:g} s")
    with fresh_home() as home:
        home.start()
        start_cpu_s = home.cpu_s()
        time.sleep(size.settle_s)
        before_s = home.cpu_s()
        time.sleep(size.idle_s)
        percent = 100 * (home.cpu_s() - before_s) / size.idle_s
        return [
            told("server's start", [start_cpu_s], "s of CPU"),
            told(f"idle server over {size.idle_s:g} s", [percent], "% CPU", 1),
            told("idle server, memory (VmRSS)", [home.memory_mb("VmRSS")], "MB", 120),
        ]


def starts(size: Size) -> list[Row]:
    tell("interpreter starts")
    names = "from hpcflow import electron, lattice, dispatch"
    bare, imported, named, helped = (list[float]() for _ in range(4))
    for _ in range(size.interpreters):
        bare.append(_seconds_of(sys.executable, "-c", "pass"))
        imported.append(_seconds_of(sys.executable, "-c", "import hpcflow"))
        named.append(_seconds_of(sys.executable, "-c", names))
        helped.append(_seconds_of(sys.executable, "-m", "hpcflow.cli", "--help"))
    return [
        told("import hpcflow, beyond a bare interpreter", _beyond(imported, bare), "s", 0.15),
        told(f"{names}, beyond a bare interpreter", _beyond(named, bare), "s"),
        told("hpcflow --help", helped, "s", 0.3),
    ]


SECTIONS: dict[str, Callable[[Size], list[Row]]] = {
    "slurm": on_slurm,
    "local": on_this_machine,
    "idle": idle_server,
    "start": starts,
}


# ---- the program


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Measure hpcflow beside what it replaces, and print one table.")
    parser.add_argument("--quick", action="store_true", help="small counts, once: shows that it runs, measures nothing")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--only", choices=sorted(SECTIONS), action="append", help="one section; may be given again")
    chosen = parser.parse_args(arguments)
    size = QUICK if chosen.quick else Size()
    machine = describe_machine()
    rows = [row for name, section in SECTIONS.items() if name in (chosen.only or SECTIONS) for row in section(size)]
    print(as_markdown(rows) if chosen.markdown else as_text(rows))
    print()
    print(f"{machine}. Medians of {size.repetitions} repetitions that take turns; lowest and highest in brackets.")
    print("Repeat: `make bench`; on a cluster of your own: `python bench/table.py` where sbatch is on the PATH.")
    return 0


def describe_machine() -> str:
    """Return cores, load before the first run, and versions, in one line."""
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    slurm = "no Slurm"
    if shutil.which("sinfo") is not None:
        reply = subprocess.run(["sinfo", "--version"], check=False, capture_output=True, text=True)
        slurm = reply.stdout.strip() or slurm
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores, load before {load}, {slurm}, Python {platform.python_version()}, Linux {platform.release()}"


def tell(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def _seconds_of(*command: str) -> float:
    begun_at = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begun_at


def _beyond(seconds: Sequence[float], base: Sequence[float]) -> list[float]:
    return [max(0.0, value - median(base)) for value in seconds]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
