"""Kills at random moments, on a real Slurm: of the server, of workers, and requeues; nothing is lost, nothing doubled.

`SERVER_KILLS=200` in the environment kills the server more often than the tests do by themselves, and `KILLS_SEED`
chooses other moments.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import stat
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import pytest

from hpcflow.sdk.connection import ServerUnreachable, read_record
from hpcflow.server.store.columns import unpacked
from tests.cluster.conftest import Login
from tests.integration.world import PATIENCE_S, is_alive, lines, until
from tests.processes import killed

pytestmark = pytest.mark.cluster

SERVER_KILLS: Final = int(os.environ.get("SERVER_KILLS", "20"))
SEED: Final = int(os.environ.get("KILLS_SEED", "1"))

HEAD: Final = """
import os
import sys
import time

import hpcflow as hf

folder = sys.argv[1]

def note(what):
    fd = os.open(f"{folder}/ledger", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, f"{what}\\n".encode())
    os.close(fd)

"""


def jobs_by_name(login: Login, dispatch: str) -> dict[str, set[str]]:
    """Return the ids of all job arrays that Slurm ever had under the names of a dispatch."""
    found: dict[str, set[str]] = {array["token"]: set() for array in login.shown(dispatch)["arrays"]}
    names = ",".join(found)
    asked = ("-X", "-n", "-P", "-S", "now-1hour", "-o", "JobID,JobName", f"--name={names}")
    rows = [line.split("|") for line in login.slurm("sacct", *asked).splitlines()]
    # What ended just now, or never began, may be in the queue's memory only.
    listed = login.slurm("squeue", "--me", "-t", "all", "-r", "-h", "-o", "%F|%j", f"--name={names}")
    for job, name in (*rows, *(line.split("|") for line in listed.splitlines())):
        found[name].add(job.partition("_")[0])
    return found


# ---- the server

STAGES: Final = (
    HEAD
    + """
@hf.electron(cpus=1)
def first(i):
    note(f"first {i}")
    time.sleep(0.05 * (i % 7))
    return i

@hf.electron(cpus=2)
def second(i, x):
    note(f"second {i}")
    time.sleep(0.2)
    return x + 1

@hf.electron(cpus=3)
def third(values):
    note("third")
    return sum(values)

@hf.electron(cpus=4)
def fourth(i, total):
    note(f"fourth {i}")
    time.sleep(0.05)
    return total + i

@hf.lattice(executor="slurm", walltime="2 min")
def stages(n):
    total = third([second(i, first(i)) for i in range(n)])
    return [fourth(i, total) for i in range(n)]

print(hf.dispatch(stages)(int(sys.argv[2])))
"""
)
WIDTH: Final = 20
#: How long a server lives at most before it is killed: less than a look at the queue takes, and more.
_UPTIME_S: Final = 3.0


class Sbatch:
    """The server's sbatch, which can be held just before Slurm has an array and just after; it outlives its server."""

    def __init__(self, login: Login) -> None:
        self._folder = login.user.folder / "sbatch"
        self._folder.mkdir()
        shim = login.user.folder / "bin" / "sbatch"
        real = shim.with_name("sbatch-at-once")
        shim.rename(real)
        shim.write_text(
            f"""#!/bin/bash
cd {self._folder}
echo begun >>calls
while [ -e hold-before ]; do sleep 0.05; done
said=$({real} "$@")
code=$?
echo answered >>calls
while [ -e hold-after ]; do sleep 0.05; done
echo ended >>calls
[ -z "$said" ] || echo "$said"
exit $code
"""
        )
        shim.chmod(stat.S_IRWXU)

    def hold(self, when: str) -> None:
        (self._folder / f"hold-{when}").touch()

    def let_go(self) -> None:
        for gate in self._folder.glob("hold-*"):
            gate.unlink()

    @property
    def begun(self) -> int:
        """How often it was called."""
        return Counter(lines(self._folder / "calls"))["begun"]

    def is_held(self, when: str) -> bool:
        """Say whether a call has come to the place where it is held."""
        counts = Counter(lines(self._folder / "calls"))
        reached = counts["begun"] if when == "before" else counts["answered"]
        return (self._folder / f"hold-{when}").exists() and reached > counts["ended"]


def kill_server(login: Login) -> None:
    """Kill whichever server runs, as soon as it has told its pid."""

    def pid() -> int:
        record = read_record(login.user.home)
        return record.pid if record is not None and is_alive(record.pid) else 0

    found = until(pid)
    os.kill(found, signal.SIGKILL)
    until(lambda: not is_alive(found))


def has_ended(login: Login, dispatch: str) -> bool:
    try:
        return bool(login.shown(dispatch)["status"] != "RUNNING")
    except ServerUnreachable:
        return False


def start_server(login: Login) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["hpcflow", "start"],
        cwd=login.user.folder,
        env=login.user.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.timeout(600 + 15 * SERVER_KILLS)
def test_a_server_killed_at_any_moment_loses_nothing_and_doubles_nothing(
    own_login: Callable[..., Login], tmp_path: Path
) -> None:
    # No array is late by so much here: a server that looks for one must not submit it again.
    login = own_login(HPCFLOW_SUBMIT_SETTLE="40")
    sbatch = Sbatch(login)
    chance = random.Random(SEED)
    kills: Counter[str] = Counter()
    dispatches = tasks = submissions = 0
    while kills.total() < SERVER_KILLS:
        dispatches += 1
        folder = tmp_path / f"dispatch-{dispatches}"
        folder.mkdir()
        dispatch = login.user.runs(STAGES, str(folder), str(WIDTH))
        while not has_ended(login, dispatch):
            kill_once(login, dispatch, sbatch, chance, kills)
            assert kills.total() < SERVER_KILLS + 100, f"{dispatch} does not end"
        shown = login.shown(dispatch)
        assert shown["status"] == "COMPLETED", shown

        expected = Counter(
            [*(f"{stage} {i}" for stage in ("first", "second", "fourth") for i in range(WIDTH)), "third"]
        )
        ran = Counter(lines(folder / "ledger"))
        assert ran == expected, f"after {kills}: doubled {ran - expected}, lost {expected - ran}"
        jobs = jobs_by_name(login, dispatch)
        assert all(len(ids) == 1 for ids in jobs.values()), f"after {kills}: {jobs}"
        tasks += shown["tasks"]
        submissions += len(jobs)
        print(f"{kills.total()} kills {dict(kills)}, {dispatches} dispatches, {tasks} tasks, {submissions} submissions")


def kill_once(login: Login, dispatch: str, sbatch: Sbatch, chance: random.Random, kills: Counter[str]) -> None:
    """Kill the server before or after Slurm has an array that it submits, or at any moment, and start the next one."""
    when = chance.choice(["before", "after", "any"])
    if when == "any":
        time.sleep(chance.uniform(0, _UPTIME_S))
    else:
        sbatch.hold(when)
        until(lambda: sbatch.is_held(when) or has_ended(login, dispatch), lambda: str(login.shown(dispatch)))
        if not sbatch.is_held(when):
            sbatch.let_go()
            return
    kill_server(login)
    kills[when] += 1
    begun = sbatch.begun
    starting = start_server(login)
    try:
        if chance.random() < 0.2:
            # The next one is killed while it reads what the one before it left.
            kill_server(login)
            kills["at start"] += 1
            starting.communicate(timeout=PATIENCE_S)
            starting = start_server(login)
        said = starting.communicate(timeout=PATIENCE_S)[1]
    finally:
        killed(starting)
    assert starting.returncode == 0, said
    if when != "any":
        # The new server looks for the array, before Slurm has it or while nobody was told its id; or has found it by
        # its tasks, and is held at the next one.
        looks = len(login.calls("squeue"))
        until(lambda: len(login.calls("squeue")) > looks + 1 or sbatch.begun > begun or has_ended(login, dispatch))
        sbatch.let_go()


# ---- workers, and a submission that was made twice

SMALL: Final = (
    HEAD
    + """
@hf.electron(walltime="2 min", retries=hf.Retries(40, memory=1))
def small(i):
    note(i)
    time.sleep(0.08)
    return i * i

@hf.lattice(executor="slurm", partition="batch")
def many(n):
    return [small(i) for i in range(n)]

print(hf.dispatch(many)(int(sys.argv[2])))
"""
)
TASKS: Final = 3000
WORKER_KILLS: Final = 40
REQUEUES: Final = 40


def submit_twice(login: Login) -> None:
    """Let the server's first sbatch be two, as after an answer that was lost; both run at once over the same bag."""
    folder = login.user.folder
    shim = folder / "bin" / "sbatch"
    real = shim.with_name("sbatch-once")
    shim.rename(real)
    shim.write_text(
        f"""#!/bin/bash
script=$(cat)
if mkdir {folder}/twice 2>/dev/null; then
    other=("$@")
    for i in "${{!other[@]}}"; do
        # The second one of a name would wait for the first.
        [[ ${{other[i]}} != --dependency=singleton ]] || unset "other[i]"
    done
    {real} "${{other[@]}}" <<<"$script" >{folder}/twice/id
fi
exec {real} "$@" <<<"$script"
"""
    )
    shim.chmod(stat.S_IRWXU)


def workers(jobs: Sequence[str]) -> list[int]:
    """Return the workers' pids of these job arrays: what their slurmstepds became the parents of."""
    found: list[int] = []
    wanted = {f"SLURM_ARRAY_JOB_ID={job}".encode() for job in jobs}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            if "slurmstepd" in Path(f"/proc/{parent}/comm").read_text():
                words = set((folder / "environ").read_bytes().split(b"\0"))
                if words & wanted:
                    found.append(int(folder.name))
        except OSError:
            continue
    return found


@pytest.mark.timeout(900)
def test_an_array_submitted_twice_under_kills_and_requeues_publishes_each_task_once(
    own_login: Callable[..., Login], tmp_path: Path
) -> None:
    login = own_login(HPCFLOW_FIRST_WIDTH="24", HPCFLOW_RAMP_WIDTH="24")
    submit_twice(login)
    folder = tmp_path / "tasks"
    folder.mkdir()
    chance = random.Random(SEED)
    dispatch = login.user.runs(SMALL, str(folder), str(TASKS))
    until(lambda: len(lines(folder / "ledger")) > 50)

    killed = requeued = 0
    while killed < WORKER_KILLS or requeued < REQUEUES:
        shown = login.shown(dispatch)
        assert shown["status"] == "RUNNING", f"over after {killed} kills and {requeued} requeues: {shown}"
        jobs = sorted(job for ids in jobs_by_name(login, dispatch).values() for job in ids)
        running = login.slurm("squeue", "-h", "-r", "-t", "RUNNING", "-o", "%i", f"--jobs={','.join(jobs)}").split()
        for task in chance.sample(running, min(2, len(running), REQUEUES - requeued)):
            login.slurm("scontrol", "requeue", task)
            requeued += 1
        alive = workers(jobs)
        for pid in chance.sample(alive, min(2, len(alive), WORKER_KILLS - killed)):
            try:
                os.kill(pid, signal.SIGKILL)
                killed += 1
            except ProcessLookupError:
                continue

    tasks = login.user.waits_for(dispatch)
    assert (tasks["status"], tasks["counts"]) == ("COMPLETED", {"completed": TASKS}), tasks["messages"]
    values = login.user.runs(
        "import json, sys, hpcflow as hf; print(json.dumps(hf.get_result(sys.argv[1]).result))", dispatch
    )
    assert json.loads(values) == [i * i for i in range(TASKS)]
    twice = (login.user.folder / "twice" / "id").read_text().strip()
    names = jobs_by_name(login, dispatch)
    assert sorted(map(len, names.values()))[-1] == 2
    assert any(twice in ids for ids in names.values())
    with sqlite3.connect(f"file:{login.user.home.store}?mode=ro", uri=True) as store:
        ends = store.execute('select "index", json from task_end where dispatch = ?', (dispatch,)).fetchall()
    published = Counter(index for index, record in ends if unpacked(record)["st"] == "ok")
    assert published == Counter(range(TASKS))
    ran = Counter(map(int, lines(folder / "ledger")))
    assert ran.keys() == set(range(TASKS))
    # Only what ran in a worker that was killed or requeued ran again.
    again = sum(ran.values()) - TASKS
    assert again <= killed + requeued
    by_duplicate = Counter(task["job_id"] for task in tasks["tasks_shown"])[twice]
    print(f"{killed} kills, {requeued} requeues, {again} runs again, {by_duplicate} tasks by the second submission")
    assert by_duplicate > 0
