"""The same work without hpcflow: plain and packed job arrays, dependent jobs, a process pool, fork and wait."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.accounting import charge_of
from bench.workloads import check, mixed, rest

__all__ = [
    "array_of_imports",
    "array_of_single_tasks",
    "dependent_jobs",
    "forks_of_the_program",
    "forks_one_by_one",
    "naps_by_pool",
    "packed_array",
    "packed_stages",
    "packed_waits",
    "same_by_pool",
]

_POLL_S: Final = 0.5
#: A file that a job leaves is looked for so often: cheaper than any command of the scheduler, and sooner.
_LOOK_S: Final = 0.05
_PATIENCE_S: Final = 900.0
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

_HEAD: Final = """#!{python} -I
import json, os, sys, time
index = int(os.environ.get("SLURM_ARRAY_TASK_ID", 0))
def write(name, value):
    with open(name + ".new", "w") as file:
        json.dump(value, file)
    os.rename(name + ".new", name)
def read(name):
    with open(name) as file:
        return json.load(file)
"""

_PACKED: Final = """
def same(number):
    return number
write("%d.sum" % index, sum(same(number) for number in range(index, {tasks}, {width})))
"""

_WAITS: Final = """
begun_at = time.time()
for seconds in {seconds}[index::{width}]:
    time.sleep(seconds)
write("%d.span" % index, [begun_at, time.time()])
"""

_LINK: Final = """
number = read("{link}.link") if {link} else 0
write("{next}.link", number + 1)
"""

_STAGE: Final = """
earlier = [value for share in range({width}) for value in read("{before}.%d" % share)] if {stage} else []
# Shares are strided: which value is whose matters to no sum.
write("{stage}.%d" % index, [(number + sum(earlier)) % {modulus} for number in range(index, {tasks}, {width})])
"""

_IMPORT: Final = """#!/bin/sh
exec {python} -I -c 'import numpy; print(numpy.linalg.norm(numpy.full(4, '$SLURM_ARRAY_TASK_ID')))'
"""


# ---- on Slurm


def array_of_single_tasks(tasks: int) -> float:
    """Run one array task for each no-op: start an interpreter, end it. Nothing is brought home or summed."""
    with _scratch() as folder:
        begun_at = time.perf_counter()
        _wait_for_job(_submit(f"#!/bin/sh\nexec {_BARE_PYTHON} -I -c pass\n", folder, f"--array=0-{tasks - 1}"))
        return time.perf_counter() - begun_at


def packed_array(tasks: int, width: int) -> float:
    """Run ``width`` array tasks, each of which calls its share of the function in a loop, and sum what they wrote."""
    with _scratch() as folder:
        begun_at = time.perf_counter()
        _wait_for_job(_submit(_script(_PACKED, tasks=tasks, width=width), folder, f"--array=0-{width - 1}"))
        value = sum(json.loads((folder / f"{index}.sum").read_text(encoding="utf-8")) for index in range(width))
        took = time.perf_counter() - begun_at
    check(value, sum(range(tasks)))
    return took


def packed_waits(seconds: Sequence[float], width: int) -> float:
    """Run ``width`` array tasks, each of which waits its share of the times; return first start to last end."""
    with _scratch() as folder:
        script = _script(_WAITS, seconds=list(seconds), width=width)
        _submit(script, folder, f"--array=0-{width - 1}")
        files = [folder / f"{index}.span" for index in range(width)]
        _wait_for_files(files)
        spans = [json.loads(file.read_text(encoding="utf-8")) for file in files]
        return float(max(end for _, end in spans) - min(start for start, _ in spans))


def dependent_jobs(links: int) -> float:
    """Submit a job for each link, all at once, each of which starts when the one before has completed."""
    with _scratch() as folder:
        begun_at = time.perf_counter()
        before = ""
        for link in range(links):
            after = [f"--dependency=afterok:{before}"] if before else []
            before = _submit(_script(_LINK, link=link, next=link + 1), folder, *after)
        last = folder / f"{links}.link"
        _wait_for_files([last])
        took = time.perf_counter() - begun_at
        check(json.loads(last.read_text(encoding="utf-8")), links)
        _wait_for_job(before)  # it is not to run into what is measured next
    return took


def packed_stages(count: int, tasks: int, width: int, modulus: int = 10_007) -> float:
    """Submit a packed array for each stage, all at once, each of which starts when the one before has completed."""
    with _scratch() as folder:
        begun_at = time.perf_counter()
        before = ""
        for stage in range(count):
            script = _script(_STAGE, stage=stage, before=stage - 1, tasks=tasks, width=width, modulus=modulus)
            after = [f"--dependency=afterok:{before}"] if before else []
            before = _submit(script, folder, f"--array=0-{width - 1}", *after)
        files = [folder / f"{count - 1}.{index}" for index in range(width)]
        _wait_for_files(files)
        shares = [json.loads(file.read_text(encoding="utf-8")) for file in files]
        took = time.perf_counter() - begun_at
        check(sorted(value for share in shares for value in share), sorted(mixed(count, tasks)))
        _wait_for_job(before)
    return took


def array_of_imports(tasks: int) -> float:
    """Run one array task for each import of numpy; return the CPU seconds of the jobs' processes."""
    with _scratch() as folder:
        job = _submit(_IMPORT.format(python=sys.executable), folder, f"--array=0-{tasks - 1}")
        _wait_for_job(job)
        charge = charge_of({job: tasks})
        check(charge.completed, tasks)
        return charge.cpu_s


# ---- on this machine


def naps_by_pool(tasks: int, workers: int) -> float:
    return _by_pool(rest, tasks, workers)


def same_by_pool(tasks: int, workers: int) -> float:
    return _by_pool(_same, tasks, workers)


def _same(number: int) -> int:
    return number


def _by_pool(function: Callable[[int], int], tasks: int, workers: int) -> float:
    begun_at = time.perf_counter()
    with ProcessPoolExecutor(workers) as pool:
        values = list(pool.map(function, range(tasks)))
    took = time.perf_counter() - begun_at
    check(values, list(range(tasks)))
    return took


def forks_of_the_program(tasks: int) -> float:
    """Fork and wait for one no-op at a time, from the program that would have dispatched them."""
    command = [sys.executable, "-c", _FORKS_OF_THE_PROGRAM, str(tasks)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def forks_one_by_one(tasks: int) -> float:
    """Fork and wait for one child at a time, from an interpreter that has imported nothing."""
    command = [_BARE_PYTHON, "-I", "-c", _FORKS, str(tasks)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


# ---- jobs


@contextmanager
def _scratch() -> Generator[Path]:
    """Make a folder below TMPDIR, which compute nodes must see."""
    with tempfile.TemporaryDirectory(prefix="hf-bench-") as folder:
        yield Path(folder)


def _script(body: str, **values: object) -> str:
    return _HEAD.replace("{python}", _BARE_PYTHON) + body.format(**values)


def _submit(script: str, folder: Path, *options: str) -> str:
    command = ["sbatch", "--parsable", "--output=/dev/null", f"--chdir={folder}", *options]
    reply = subprocess.run(command, input=script, check=True, capture_output=True, text=True)
    return reply.stdout.strip().partition(";")[0]


def _wait_for_job(job: str) -> None:
    while True:
        reply = subprocess.run(["squeue", "--noheader", f"--jobs={job}"], check=False, capture_output=True, text=True)
        # A job that slurmctld has forgotten is "Invalid job id": over as well.
        if not reply.stdout.strip() and (not reply.returncode or "Invalid job id" in reply.stderr):
            return
        time.sleep(_POLL_S)


def _wait_for_files(files: Sequence[Path]) -> None:
    """Wait for what the last jobs write, without asking the scheduler.

    Raises:
        TimeoutError: some file is not there after a quarter of an hour.
    """
    until = time.monotonic() + _PATIENCE_S
    missing = list(files)
    while missing:
        if time.monotonic() > until:
            raise TimeoutError(f"A plain job did not write {missing[0]} within {_PATIENCE_S:g} s.")
        time.sleep(_LOOK_S)
        missing = [file for file in missing if not file.exists()]
