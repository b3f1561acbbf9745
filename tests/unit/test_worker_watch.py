"""Workers beside their server: they wait for what it brings only as long as it is there."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from hpcflow.node.watch import ServerWatch
from tests.unit.bag_on_disk import Call, start_worker, wait_for, write_bag
from tests.waiting import PATIENCE_S, until


class Server:
    """A process that a notice tells of."""

    def __init__(self, folder: Path) -> None:
        self.notice = folder / "server.json"
        self.begin()

    def begin(self) -> None:
        self.process = subprocess.Popen(["sleep", "300"])
        self.says(self.process.pid)

    def says(self, pid: int, host: str | None = None) -> None:
        self.notice.write_text(json.dumps({"pid": pid, "host": host or socket.gethostname()}))

    def killed(self) -> None:
        self.process.kill()
        self.process.wait(30)


@pytest.fixture
def server(tmp_path: Path) -> Generator[Server]:
    running = Server(tmp_path)
    yield running
    running.killed()


class Watched:
    """A watch on a clock of its own, looked at once a second as a worker does it."""

    def __init__(self, notice: Path | None) -> None:
        self.now = 0.0
        self.watch = ServerWatch(None if notice is None else str(notice), lambda: self.now)

    def seconds_until_missed(self, most: int) -> int | None:
        for second in range(1, most + 1):
            self.now += 1
            if self.watch.gone():
                return second
        return None


def slow(ready: str, go: str) -> int:
    Path(ready).touch()
    while not os.path.exists(go):
        time.sleep(0.01)
    return 7


def test_a_server_that_lives_is_never_missed_and_a_killed_one_soon(server: Server) -> None:
    watched = Watched(server.notice)
    assert watched.seconds_until_missed(600) is None
    server.killed()
    assert watched.seconds_until_missed(600) == 4


def test_a_server_that_stopped_is_missed_as_one_that_was_killed(server: Server) -> None:
    watched = Watched(server.notice)
    server.notice.unlink()
    assert watched.seconds_until_missed(600) == 4


def test_a_restart_is_waited_for(server: Server) -> None:
    watched = Watched(server.notice)
    server.killed()
    server.notice.unlink()
    assert watched.seconds_until_missed(3) is None
    server.begin()
    assert watched.seconds_until_missed(600) is None


def test_a_server_that_moved_to_another_host_feeds_nobody_here(server: Server) -> None:
    server.says(server.process.pid, host="elsewhere")
    assert Watched(server.notice).seconds_until_missed(600) == 4


def test_what_cannot_be_read_or_is_not_told_is_no_answer(server: Server) -> None:
    server.notice.write_text("{")
    assert Watched(server.notice).seconds_until_missed(600) is None
    assert Watched(None).seconds_until_missed(600) is None


def test_a_worker_whose_server_is_killed_ends_its_task_and_leaves(server: Server, tmp_path: Path) -> None:
    ready, go = tmp_path / "ready", tmp_path / "go"
    bag = write_bag(tmp_path, Call(slow, (str(ready), str(go))), linger=10 * PATIENCE_S, notice=str(server.notice))
    worker = start_worker(bag)
    until(ready.exists)
    server.killed()
    go.touch()
    assert wait_for([worker]) == [(0, "")]
    assert bag.result(0) == 7
    assert [record["why"] for record in bag.records("exit")] == ["drained"]
