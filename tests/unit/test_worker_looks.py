"""How often workers that wait trouble the file system: counted by the kernel, at any width."""

from __future__ import annotations

import ctypes
import os
import select
import time
from collections.abc import Generator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from hpcflow.core.bag import INBOX
from hpcflow.node.bagdir import open_bag
from hpcflow.node.cancels import CancelWatch
from hpcflow.node.worker import pause_between_checks, pause_between_looks, until_look
from tests.unit.bag_on_disk import Call, start_worker, wait_for, write_bag
from tests.unit.test_worker_inbox import add, tell
from tests.waiting import PATIENCE_S, until

_IN_OPEN = 0x20
_EVENT = 16  # struct inotify_event without a name: a file is watched, not a directory


def double(x: int) -> int:
    return 2 * x


@contextmanager
def opens(path: Path) -> Generator[int]:
    """Yield a descriptor that tells of every open of a file."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    assert fd >= 0
    try:
        assert libc.inotify_add_watch(fd, os.fsencode(path), _IN_OPEN) >= 0
        yield fd
    finally:
        os.close(fd)


def count(fd: int, seconds: float) -> int:
    """Return how many opens there are while so many seconds pass."""
    end, seen = time.monotonic() + seconds, 0
    while (left := end - time.monotonic()) > 0:
        if select.select([fd], [], [], left)[0]:
            seen += len(os.read(fd, 1 << 16)) // _EVENT
    return seen


def test_workers_that_wait_look_into_one_file_and_seldom_together(tmp_path: Path) -> None:
    bag = write_bag(tmp_path, Call(double, (1,)), linger=PATIENCE_S)
    workers = [start_worker(bag, index=index) for index in range(6)]
    until(lambda: len(bag.records("idle")) == 6)
    with opens(bag.path / INBOX) as fd:
        count(fd, 2.0)  # who came first counts those beside it anew within a second
        seen = count(fd, 2.0)
    tell(bag, ev="close", n=1)
    assert wait_for(workers) == [(0, "")] * 6
    # 25 looks in a second of all together, each one open.
    assert 1 <= seen <= 2 * 25 + 6


@pytest.mark.parametrize("workers", [1, 2, 10, 64, 1000, 100_000])
def test_at_any_width_they_look_at_most_so_often(workers: int) -> None:
    waiting = min(64, workers)  # those of the lowest indices; the others leave
    looks = waiting / pause_between_looks(waiting)
    # A look opens the inbox. A check for a successor counts the workers and asks for one name, also while they work.
    checks = workers / pause_between_checks(workers)
    assert looks + 2 * checks <= 50


@pytest.mark.parametrize(("index", "waits"), [(0, 1), (1, 1), (2, 0), (70, 0)])
def test_only_the_first_of_them_wait(tmp_path: Path, index: int, waits: int) -> None:
    bag = write_bag(tmp_path, Call(double, (1,)), linger=0.1, lingerers=2)
    assert wait_for([start_worker(bag, index=index)]) == [(0, "")]
    assert len(bag.records("idle")) == waits


def test_who_is_let_go_leaves_and_the_others_take_what_comes(tmp_path: Path) -> None:
    bag = write_bag(tmp_path, Call(double, (1,)), linger=PATIENCE_S)
    workers = [start_worker(bag, index=index) for index in range(2)]
    until(lambda: len(bag.records("idle")) == 2)
    tell(bag, ev="leave", n=1, all=False, names={"7_0_0": 1})
    assert wait_for(workers[:1]) == [(0, "")]
    assert [(record["w"], record["why"]) for record in bag.records("exit")] == [("7_0_0", "drained")]
    tell(bag, **add(bag, 1, Call(double, (2,)), first=1, cuts=[2]))
    until(lambda: [record["n"] for record in bag.records("idle") if record["w"] == "7_1_0"] == [1, 2])
    # It waits for the second time: what was meant for the first one comes too late.
    tell(bag, ev="leave", n=2, all=False, names={"7_1_0": 1})
    tell(bag, **add(bag, 2, Call(double, (3,)), first=2, cuts=[3]))
    until(lambda: len(bag.records("end")) == 3)
    assert [bag.result(index) for index in range(3)] == [2, 4, 6]
    tell(bag, ev="leave", n=3, all=True, names={})
    assert wait_for(workers[1:]) == [(0, "")]


@pytest.mark.parametrize("workers", [1, 3, 16, 64])
def test_workers_that_became_idle_together_take_turns(workers: int) -> None:
    idle_at, pause = 1795456800.123, pause_between_looks(workers)
    looks: list[float] = []
    for place in range(workers):
        at = idle_at
        for _ in range(10):
            at += until_look(at, place, workers)
            looks.append(at)
    looks.sort()
    # Whenever something comes, somebody looks a moment later, and nobody looks more often than agreed.
    assert max(after - before for before, after in pairwise(looks)) <= pause / workers + 1e-3
    assert looks[-1] - idle_at >= 9 * pause


def test_a_clock_that_is_set_keeps_no_worker_from_looking() -> None:
    # Nor does an index beyond those that wait, as that of a requeued array task can be.
    waits = [until_look(at, place, 16) for at in (0.0, -5.0, 1e9, 2e9 + 1 / 3) for place in (0, 15, 16, 70)]
    assert all(0 < wait <= pause_between_looks(16) + 0.001 for wait in waits)


def looks_in(seconds: float, watch: CancelWatch, clock: list[float]) -> list[float]:
    """Return when a worker that is busy looks for cancels, by a clock that goes in steps of 0.1 s."""
    looked: list[float] = []
    for _ in range(round(seconds * 10)):
        clock[0] += 0.1
        due = watch.due
        watch.look()
        if watch.due != due:
            looked.append(round(clock[0], 1))
    return looked


@pytest.mark.parametrize(("peers", "pause_s"), [(1, 2.0), (20, 2.0), (64, 6.4), (1000, 100.0)])
def test_busy_workers_look_for_cancels_ten_times_a_second_together(tmp_path: Path, peers: int, pause_s: float) -> None:
    bag, clock, counts = write_bag(tmp_path, Call(double, (1,))), [0.0], list[int]()

    def count() -> int:
        counts.append(peers)
        return peers

    watch = CancelWatch(open_bag(str(bag.path), str(bag.key_file)), 3, count, lambda: clock[0])
    looked = looks_in(4 * pause_s + 4, watch, clock)
    assert 2.0 <= looked[0] < 4.1
    assert [round(after - before, 1) for before, after in pairwise(looked)] == [
        pytest.approx(pause_s, abs=0.11) for _ in looked[1:]
    ]
    assert len(counts) == 1 if peers < 1000 else len(counts) <= 2  # reading names costs more than a look


@pytest.mark.parametrize("instead", ["nothing", "a folder", "a link"])
def test_a_look_for_cancels_that_fails_is_no_news_and_the_next_one_counts(tmp_path: Path, instead: str) -> None:
    bag, clock = write_bag(tmp_path, Call(double, (1,))), [0.0]
    opened = open_bag(str(bag.path), str(bag.key_file))
    watch = CancelWatch(opened, 0, lambda: 1, lambda: clock[0])
    inbox, away = bag.path / INBOX, bag.path / "away"
    tell(bag, ev="cancel", n=0, tasks=[[0, 0]])
    inbox.rename(away)
    if instead == "a folder":
        inbox.mkdir()
    if instead == "a link":
        inbox.symlink_to(away)
    assert looks_in(3, watch, clock) != []
    assert watch.wants(opened.task(0))
    if instead == "a folder":
        inbox.rmdir()
    away.replace(inbox)
    assert looks_in(3, watch, clock) != []
    assert not watch.wants(opened.task(0))
