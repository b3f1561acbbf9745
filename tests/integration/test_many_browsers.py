"""Two hundred browsers that watch one server."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.world import User, served

BROWSERS = 200
FLOW = """
import hpcflow as hf

@hf.electron(executor="local")
def double(x):
    return 2 * x

@hf.lattice
def flow():
    return [double(k) for k in range(40)]

print(hf.dispatch(flow)())
"""


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    # One look at a cluster serves a minute here.
    with served(tmp_path, {"HPCFLOW_QUEUE_POLL": "60"}, (os.path.dirname(sys.executable),)) as here:
        yield here


def used(pid: int) -> tuple[float, float]:
    """Return CPU seconds and resident MiB of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Browser:
    """One stream of news, and what came in it."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.states: dict[int, str] = {}

    async def _ask(self, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        # asyncio takes a full backlog of a unix socket for a connection, so a thread waits for its turn.
        line = socket.socket(socket.AF_UNIX)
        await asyncio.to_thread(line.connect, str(self._home / "run" / "sock"))
        line.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=line, limit=2**20)
        token = (self._home / "token").read_text().strip()
        lines = [
            f"GET /api/v1/{path} HTTP/1.1",
            "Host: localhost",
            f"Authorization: Bearer {token}",
            "Connection: close",
        ]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        await reader.readuntil(b"\r\n\r\n")
        return reader, writer

    async def read(self, path: str) -> Any:  # Any: JSON
        reader, writer = await self._ask(path)
        body = await reader.read()
        writer.close()
        return json.loads(body)

    async def watch(self, ready: asyncio.Semaphore, wanted: int) -> None:
        """Read news until so many tasks completed."""
        reader, writer = await self._ask("events")
        while sum(state == "c" for state in self.states.values()) < wanted:
            line = await reader.readline()
            assert line, "the stream ended"
            if line == b"event: hello\n":
                ready.release()
            if line.startswith(b"data: ") and b'"dispatches"' in line:
                for change in json.loads(line[6:])["dispatches"].values():
                    self.states |= {int(index): state for index, state in change["moves"].items()}
        writer.close()


def test_two_hundred_browsers_miss_nothing_and_cost_one_look_at_the_cluster(user: User) -> None:
    home = Path(user.environment["HPCFLOW_HOME"])
    pid = int(user.asks("status")["pid"])

    async def crowd() -> set[str]:
        browsers = [Browser(home) for _ in range(BROWSERS)]
        ready = asyncio.Semaphore(0)
        async with asyncio.timeout(240), asyncio.TaskGroup() as group:
            for browser in browsers:
                group.create_task(browser.watch(ready, 40))
            for _ in browsers:
                await ready.acquire()
            looks = await asyncio.gather(*(browser.read("clusters/local/queue") for browser in browsers))
            await asyncio.to_thread(user.runs, FLOW)
        assert all(browser.states == dict.fromkeys(range(40), "c") for browser in browsers)
        return {str(look["asked_at"]) for look in looks}

    before_s, before_mib = used(pid)
    assert len(asyncio.run(crowd())) == 1
    after_s, after_mib = used(pid)
    print(f"{after_s - before_s:.1f} s of CPU, {after_mib - before_mib:.0f} MiB more")
    assert after_s - before_s <= 20  # it takes 3 where nobody else computes
    assert after_mib - before_mib <= 60
