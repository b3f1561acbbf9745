"""A task that uses more memory than was asked for is ended alone, and its record says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from hpcflow.node.memory import MemoryWatch, OomKills
from tests.unit.bag_on_disk import Call, run_worker, write_bag
from tests.unit.test_worker_series import act

MIB = 1 << 20


def allocate_for_ever() -> None:
    hoard: list[bytes] = []
    while True:
        hoard.append(b"x" * (4 * MIB))
        time.sleep(0.005)


def allocate_in_a_child() -> int:
    """Let a process of another session use the memory."""
    source = "import time; hoard = b'x' * (300 << 20); time.sleep(600)"
    return subprocess.Popen([sys.executable, "-c", source], start_new_session=True).wait()


def wait_a_moment() -> int:
    time.sleep(0.3)
    return os.getpid()


@pytest.mark.parametrize("isolation", ["fork", "spawn"])
@pytest.mark.parametrize("function", [allocate_for_ever, allocate_in_a_child])
def test_a_task_that_outgrows_its_request_is_killed_and_the_next_one_runs(
    tmp_path: Path, isolation: str, function: object
) -> None:
    assert callable(function)
    bag = write_bag(tmp_path, Call(function), Call(wait_a_moment), iso=isolation, memory_mib=200)
    assert run_worker(bag) == (0, "")
    end = bag.end(0)
    assert (end["st"], end["sig"]) == ("memory", signal.SIGKILL)
    assert 100 < end["mem"] < 2000
    assert bag.end(1)["st"] == "ok"


def test_a_task_of_a_series_that_outgrows_its_request_is_killed_alone(tmp_path: Path) -> None:
    tasks = (os.getpid, os.getpid, os.getpid, os.getpid, allocate_for_ever, os.getpid, os.getpid)
    bag = write_bag(tmp_path, *(Call(act, (each,)) for each in tasks), cuts=[0, 7], memory_mib=200)
    assert run_worker(bag) == (0, "")
    assert [bag.end(index)["st"] for index in range(7)] == ["ok"] * 4 + ["memory"] + ["ok"] * 2


def test_a_task_within_its_request_is_left_alone(tmp_path: Path) -> None:
    def use_much() -> int:
        hoard = bytes(range(256)) * (100 * MIB // 256)
        time.sleep(0.5)
        return len(hoard)

    bag = write_bag(tmp_path, Call(use_much), memory_mib=400)
    assert run_worker(bag) == (0, "")
    assert bag.result(0) == 100 * MIB


def test_nothing_is_watched_where_nothing_was_asked_for() -> None:
    watch = MemoryWatch(None)
    watch.begin(0.0)
    assert watch.due == float("inf")
    assert watch.excess_mib(0.0) is None


def test_looks_become_rare_while_nothing_grows() -> None:
    watch = MemoryWatch(1 << 20)
    watch.begin(time.monotonic() - 60)
    watch.due = 0.0
    waits: list[float] = []
    for _ in range(6):
        now = time.monotonic()
        assert watch.excess_mib(now - 60) is None
        waits.append(round(watch.due - now, 1))
        watch.due = 0.0
    # A look that took long is followed by a longer wait still.
    assert all(wait >= least for wait, least in zip(waits, (0.2, 0.4, 0.8, 1.0, 1.0, 1.0), strict=True)), waits
    assert min(waits) < 1.0, waits


def test_a_task_that_has_just_begun_is_not_looked_at() -> None:
    watch = MemoryWatch(0)
    watch.begin(0.0)
    begun = time.monotonic() + 10
    assert watch.excess_mib(begun) is None
    assert watch.due == pytest.approx(begun + 0.1)


# ---- the kernel's own kills


@pytest.fixture
def small_cgroup() -> Generator[Path]:
    """A memory cgroup of 100 MiB whose children of this test may enter it."""
    parent = Path("/sys/fs/cgroup/memory")
    if os.getuid() != 0 or not (parent / "memory.limit_in_bytes").exists():
        pytest.skip("needs root and the memory controller of cgroups version 1")
    group = parent / f"hpcflow-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(100 * MIB))
        yield group
    finally:
        group.rmdir()


@pytest.mark.root
def test_a_task_that_the_kernel_kills_for_memory_is_told_from_other_deaths(tmp_path: Path, small_cgroup: Path) -> None:
    def be_killed() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    bag = write_bag(tmp_path, Call(allocate_for_ever), Call(be_killed), Call(wait_a_moment))
    enter = ("sh", "-c", f'echo $$ > {small_cgroup}/cgroup.procs; exec "$@"', "sh")
    assert run_worker(bag, through=enter) == (0, "")
    assert [bag.end(index)["st"] for index in range(3)] == ["memory", "signal", "ok"]
    assert 50 < bag.end(0)["mem"] <= 110


@pytest.mark.parametrize(
    ("line", "counter", "text"),
    [
        ("0::/job_7", "job_7/memory.events", "low 0\nhigh 0\nmax 3\noom 1\noom_kill {}\noom_group_kill 9\n"),
        ("5:cpu,memory:/slurm/job_7", "memory/slurm/job_7/memory.oom_control", "under_oom 0\noom_kill {}\n"),
    ],
)
def test_the_kernels_kills_are_counted_in_both_versions_of_cgroups(
    tmp_path: Path, line: str, counter: str, text: str
) -> None:
    (tmp_path / "own").write_text(f"3:cpuset:/\n{line}\n")
    file = tmp_path / counter
    file.parent.mkdir(parents=True)
    file.write_text(text.format(1))
    kills = OomKills(str(tmp_path / "own"), str(tmp_path))
    kills.begin()
    assert not kills.happened()
    file.write_text(text.format(2))
    assert kills.happened()
    kills.begin()
    assert not kills.happened()


def test_without_a_cgroup_the_kernel_has_killed_nobody(tmp_path: Path) -> None:
    kills = OomKills(str(tmp_path / "own"), str(tmp_path))
    kills.begin()
    assert not kills.happened()
