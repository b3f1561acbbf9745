"""Rows that need no scheduler: local tasks beside a pool and forks, the way to the page, an idle server, starts."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from bench.homes import fresh_home
from bench.rivals import forks_of_the_program, forks_one_by_one, naps_by_pool, same_by_pool
from bench.rows import Row, at_most, left_out, told
from bench.sizes import Size
from bench.telling import tell
from bench.workloads import (
    call_s,
    ends_seen,
    graph_cpu_s,
    naps_by_hpcflow,
    one_by_hpcflow,
    same_by_executor,
    same_by_hpcflow,
    sublattice_by_hpcflow,
)

__all__ = ["covalent", "futures", "graph", "idle", "local", "page", "start"]


def local(size: Size) -> list[Row]:
    """400 tasks of 50 ms and 1,000 that do nothing on this machine, beside a process pool and plain forks."""
    cores = len(os.sched_getaffinity(0))
    naps, nap_pool, same, same_pool, forks, bare = (list[float]() for _ in range(6))
    cold_naps, cold_same = list[float](), list[float]()
    with fresh_home() as home:
        home.start()
        tell("local, a server that runs already: one round to warm up")
        same_by_hpcflow(1)
        for repetition in range(size.repetitions):
            tell(f"local, repetition {repetition + 1} of {size.repetitions}")
            naps.append(naps_by_hpcflow(size.naps))
            nap_pool.append(naps_by_pool(size.naps, cores))
            same.append(same_by_hpcflow(size.few))
            same_pool.append(same_by_pool(size.few, cores))
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
        at_most(f"{naps_name}, server running", naps, pool_name, nap_pool, must=1.2, aim=1.05),
        at_most(f"{naps_name}, cold (server's start included)", cold_naps, pool_name, nap_pool),
        at_most(f"{same_name}, server running", same, forks_name, forks, must=3),
        at_most("  the same", same, pool_name, same_pool, aim=5),
        at_most("  the same", same, bare_name, bare),
        at_most(f"{same_name}, cold (server's start included)", cold_same, forks_name, forks),
    ]


def page(size: Size) -> list[Row]:
    """How long after a task's end, by its journal, whoever waits for changes is told: local, and behind ssh.

    Behind ssh is an sshd of the row's own on this machine, so that both clocks are one; its settings are the defaults.
    The median is of all ends, each of which comes at a moment of its own.
    """
    dice = random.Random(4)
    seconds = [dice.uniform(0.1, 1.5) for _ in range(size.ends)]
    tell("journal to page, local")
    with fresh_home() as home:
        home.start()
        local = ends_seen(seconds, home, "local")
    rows = [told(f"journal to page, local, {size.ends} ends", local, "s", must=2, aim=1)]
    what = f"journal to page, over ssh, {size.ends} ends"
    if shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin") is None:
        return [*rows, left_out(what, "there is no sshd here")]
    tell("journal to page, over ssh")
    from tests.integration.sshd import sshd  # brings pytest along

    with tempfile.TemporaryDirectory(prefix="hf-bench-") as folder, sshd(Path(folder) / "node") as node:
        user = Path(folder) / "user"
        (user / ".ssh").mkdir(parents=True, mode=0o700)
        shutil.copy(node.config(), user / ".ssh/config")
        cluster = f'[far]\nscheduler = "local"\nhost = "cluster"\npython = "{sys.executable}"\n'
        cluster += f'workdir = "{folder}/work"\nkeys = "{folder}/keys"\n'
        with fresh_home(cluster, {"HOME": str(user)}) as home:
            home.start()
            far = ends_seen(seconds, home, "far")
    return [*rows, told(what, far, "s", must=5, aim=1)]


def graph(size: Size) -> list[Row]:
    """CPU time of tracing a lattice: a fan-out with its reduce, and half as many twice, each taking one's result."""
    tell("graph")
    rows: list[Row] = []
    for name in ("fan-out and reduce", "pairs"):
        graph_cpu_s(name, 10)  # imports, and the functions' pickles
        seconds = [graph_cpu_s(name, size.many) for _ in range(size.interpreters)]
        rows.append(told(f"a graph of {size.many:,} electrons, {name}", seconds, "s of CPU", must=0.3, aim=0.25))
    return rows


def futures(size: Size) -> list[Row]:
    """CPU time, of client and server, of many calls by `Executor.map` and of the same electrons in a lattice."""
    tell("futures")
    mapped, dispatched = list[float](), list[float]()
    with fresh_home() as home:
        home.start()
        same_by_hpcflow(10)
        for _ in range(size.repetitions):
            for seconds, run in ((mapped, same_by_executor), (dispatched, same_by_hpcflow)):
                own_s, server_s = time.process_time(), home.cpu_s()
                run(size.many)
                seconds.append(time.process_time() - own_s + home.cpu_s() - server_s)
    return [at_most(f"{size.many:,} calls by Executor.map, CPU time", mapped, "a lattice", dispatched, must=1.2)]


def covalent(size: Size) -> list[Row]:
    """The call of `dispatch`, a sublattice beside the same tasks flat, a task whose packages are installed already."""
    from tests.wheelhouse import make_wheel

    tell("calls, sublattices, packages")
    package = "hpcflow_bench_package"
    calls, flat, below, plain, packaged = (list[float]() for _ in range(5))
    with tempfile.TemporaryDirectory(prefix="hf-bench-") as wheelhouse:
        make_wheel(Path(wheelhouse), package)
        with fresh_home(environment={"HPCFLOW_WHEELHOUSE": wheelhouse}) as home:
            home.start()
            same_by_hpcflow(1)
            first_s = one_by_hpcflow([package])
            for _ in range(size.interpreters):
                calls.append(call_s(size.few))
                flat.append(same_by_hpcflow(size.stage_width))
                below.append(sublattice_by_hpcflow(size.stage_width))
                plain.append(one_by_hpcflow([]))
                packaged.append(one_by_hpcflow([package]))
    return [
        told(f"the call of dispatch, {size.few:,} electrons", calls, "s", must=0.5),
        told(f"a sublattice of {size.stage_width} no-ops, beyond the same flat", _beyond(below, flat), "s", must=2),
        told("a task with DepsPip, first of all", [first_s], "s"),
        told("a task with DepsPip, later, beyond one without", _beyond(packaged, plain), "s", must=0.05),
    ]


def idle(size: Size) -> list[Row]:
    """What a server costs that nobody asks for anything."""
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
            told(f"idle server over {size.idle_s:g} s", [percent], "% CPU", must=1),
            told("idle server, memory (VmRSS)", [home.memory_mb("VmRSS")], "MB", must=120, aim=80),
        ]


def start(size: Size) -> list[Row]:
    """New interpreters that import hpcflow or run its command, less what an interpreter costs that does nothing."""
    tell("interpreter starts")
    names = "from hpcflow import electron, lattice, dispatch"
    bare, imported, named, helped = (list[float]() for _ in range(4))
    for _ in range(size.interpreters):
        bare.append(_seconds_of(sys.executable, "-c", "pass"))
        imported.append(_seconds_of(sys.executable, "-c", "import hpcflow"))
        named.append(_seconds_of(sys.executable, "-c", names))
        helped.append(_seconds_of(sys.executable, "-m", "hpcflow.cli", "--help"))
    return [
        told("import hpcflow, beyond a bare interpreter", _beyond(imported, bare), "s", must=0.15, aim=0.08),
        told(f"{names}, beyond a bare interpreter", _beyond(named, bare), "s"),
        told("hpcflow --help", helped, "s", must=0.3),
    ]


def _seconds_of(*command: str) -> float:
    begun_at = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begun_at


def _beyond(seconds: Sequence[float], base: Sequence[float]) -> list[float]:
    return [max(0.0, value - median(base)) for value in seconds]
