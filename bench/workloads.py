"""What is measured: the same work by hpcflow, by plain job arrays, by a process pool, and by fork and wait."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import hpcflow

__all__ = [
    "NAP_S",
    "array_of_single_tasks",
    "forks_of_the_program",
    "forks_one_by_one",
    "naps_by_hpcflow",
    "naps_by_pool",
    "packed_array",
    "same_and_sum",
    "same_by_hpcflow",
]

NAP_S: Final = 0.05
_POLL_S: Final = 0.5
#: The interpreter without the venv around it: plain arrays and forks get the fastest start that there is.
_BARE_PYTHON: Final = os.path.realpath(sys.executable)

_FORKS: Final = """
import os, sys, time
begun_at = time.perf_counter()
for number in range(int(sys.argv[1])):
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
print(time.perf_counter() - begun_at)
"""

#: The user's own program: it has made its lattice into a graph, and then forks instead of dispatching.
_FORKS_OF_THE_PROGRAM: Final = """
import os, sys, time
import hpcflow
@hpcflow.electron
def same(number):
    return number
@hpcflow.lattice
def many(tasks):
    return [same(number) for number in range(tasks)]
many.build_graph(10)
begun_at = time.perf_counter()
for number in range(int(sys.argv[1])):
    child = os.fork()
    if not child:
        same(number)
        os._exit(0)
    os.waitpid(child, 0)
print(time.perf_counter() - begun_at)
"""

_PACKED: Final = """#!{python} -I
import os
index = int(os.environ["SLURM_ARRAY_TASK_ID"])
def same(number):
    return number
with open("%d.sum" % index, "w") as file:
    print(sum(same(number) for number in range(index, {tasks}, {width})), file=file)
"""


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


@hpcflow.lattice
def many_and_one(tasks: int) -> int:
    return total([same(number) for number in range(tasks)])


@hpcflow.lattice(executor="local")
def many(tasks: int) -> list[int]:
    return [same(number) for number in range(tasks)]


@hpcflow.lattice(executor="local")
def naps(tasks: int) -> list[int]:
    return [nap(number) for number in range(tasks)]


# ---- by hpcflow, on the cluster that the environment's server has


def same_and_sum(tasks: int, executor: str) -> float:
    """Run no-ops and a sum of their results; return the seconds from the dispatch to the value."""
    begun_at = time.perf_counter()
    value = hpcflow.dispatch_sync(many_and_one.with_options(executor=executor))(tasks).result
    took = time.perf_counter() - begun_at
    _check(value, sum(range(tasks)))
    return took


def same_by_hpcflow(tasks: int) -> float:
    begun_at = time.perf_counter()
    values = hpcflow.dispatch_sync(many)(tasks).result
    took = time.perf_counter() - begun_at
    _check(values, list(range(tasks)))
    return took


def naps_by_hpcflow(tasks: int) -> float:
    begun_at = time.perf_counter()
    values = hpcflow.dispatch_sync(naps)(tasks).result
    took = time.perf_counter() - begun_at
    _check(values, list(range(tasks)))
    return took


# ---- without hpcflow


def array_of_single_tasks(tasks: int) -> float:
    """Run one array task for each no-op: start an interpreter, end it. Nothing is brought home or summed."""
    with _scratch() as folder:
        begun_at = time.perf_counter()
        _wait_for_job(_submit(f"#!/bin/sh\nexec {_BARE_PYTHON} -I -c pass\n", folder, width=tasks))
        return time.perf_counter() - begun_at


def packed_array(tasks: int, width: int) -> float:
    """Run ``width`` array tasks, each of which calls its share of the function in a loop, and sum what they wrote."""
    with _scratch() as folder:
        begun_at = time.perf_counter()
        script = _PACKED.format(python=_BARE_PYTHON, tasks=tasks, width=width)
        _wait_for_job(_submit(script, folder, width=width))
        value = sum(int((folder / f"{index}.sum").read_text(encoding="utf-8")) for index in range(width))
        took = time.perf_counter() - begun_at
    _check(value, sum(range(tasks)))
    return took


def naps_by_pool(tasks: int, workers: int) -> float:
    begun_at = time.perf_counter()
    with ProcessPoolExecutor(workers) as pool:
        values = list(pool.map(rest, range(tasks)))
    took = time.perf_counter() - begun_at
    _check(values, list(range(tasks)))
    return took


def forks_of_the_program(tasks: int) -> float:
    """Fork and wait for one no-op at a time, from the program that would have dispatched them."""
    command = [sys.executable, "-c", _FORKS_OF_THE_PROGRAM, str(tasks)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def forks_one_by_one(tasks: int) -> float:
    """Fork and wait for one child at a time, from an interpreter that has imported nothing."""
    command = [_BARE_PYTHON, "-I", "-c", _FORKS, str(tasks)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@contextmanager
def _scratch() -> Generator[Path]:
    with tempfile.TemporaryDirectory(prefix="hf-bench-") as folder:
        yield Path(folder)


def _submit(script: str, folder: Path, *, width: int) -> str:
    command = ["sbatch", "--parsable", f"--array=0-{width - 1}", "--output=/dev/null", f"--chdir={folder}"]
    reply = subprocess.run(command, input=script, check=True, capture_output=True, text=True)
    return reply.stdout.strip().partition(";")[0]


def _wait_for_job(job: str) -> None:
    while True:
        reply = subprocess.run(["squeue", "--noheader", f"--jobs={job}"], check=False, capture_output=True, text=True)
        # A job that slurmctld has forgotten is "Invalid job id": over as well.
        if not reply.stdout.strip() and (not reply.returncode or "Invalid job id" in reply.stderr):
            return
        time.sleep(_POLL_S)


def _check(value: object, expected: object) -> None:
    if value != expected:
        raise RuntimeError(f"A measured run gave {str(value)[:80]} instead of {str(expected)[:80]}.")
