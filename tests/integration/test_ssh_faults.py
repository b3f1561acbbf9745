"""A link that is slow, breaks or goes silent: nothing is lost, nothing is doubled, nothing half is taken as whole."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hpcflow.core.plugin import Command
from hpcflow.server.remote import File, TransportError
from hpcflow.server.remote.ssh import SshTransport
from tests.integration.sshd import WAYS, Sshd, sshd
from tests.integration.test_ssh_transport import PATIENCE_S, in_loop, sh
from tests.proxy import Proxy


@pytest.fixture(scope="module", params=WAYS)
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd(tmp_path_factory.mktemp("node"), way=request.param) as running:
        yield running


@asynccontextmanager
async def a_link(node: Sshd, *, keepalive_s: float = 30.0) -> AsyncGenerator[tuple[Proxy, SshTransport]]:
    """A transport through a proxy."""
    proxy = Proxy(node.port)
    await proxy.start()
    transport = node.transport(proxy.port, keepalive_s=keepalive_s)
    try:
        yield proxy, transport
    finally:
        proxy.cut_after, proxy.swallow = None, False
        await transport.close()
        await proxy.stop()


def cuts(node: Sshd, total: int) -> range:
    """Return where to cut a conversation of so many bytes: some thirty places, from the first byte to the last.

    Fewer where each new connection is a process of ssh's: what is carried is the same.
    """
    return range(1, total, max(1, total // (10 if node.way == "openssh" else 30)))


@pytest.mark.slow
@in_loop
async def test_a_submission_cut_anywhere_is_unknown_or_told_right_and_never_sent_twice(
    node: Sshd, tmp_path: Path
) -> None:
    async with a_link(node) as (proxy, transport):
        await transport.home()
        before = proxy.passed
        submit = 'cat >/dev/null; echo x >>"$1"; echo "Submitted batch job 4711"; echo warned >&2'
        script = b"#!/bin/sh\nexec worker\n" * 40
        await transport.run(sh(submit, str(tmp_path / "whole"), stdin=script), PATIENCE_S)
        seen = set[int | None]()
        for at in cuts(node, proxy.passed - before):
            await transport.reach()
            proxy.cut_after = at
            jobs = tmp_path / f"cut-{at}"
            reply = await transport.run(sh(submit, str(jobs), stdin=script), PATIENCE_S)
            proxy.cut_after = None
            seen.add(reply.exit_code)
            assert (reply.exit_code, reply.stdout) in {(None, b""), (0, b"Submitted batch job 4711\n")}
            if reply.exit_code == 0:
                assert jobs.read_text() == "x\n"
        assert None in seen
        # What was cut off may still run: it ends, or has ended, exactly once.
        await transport.run(sh("sleep 1"), PATIENCE_S)
        assert {path.read_text() for path in tmp_path.iterdir()} == {"x\n"}


@pytest.mark.slow
@in_loop
async def test_a_bag_whose_push_is_cut_anywhere_is_whole_or_absent_and_the_next_push_makes_it(
    node: Sshd, tmp_path: Path
) -> None:
    payload = os.urandom(20_000)
    files = [File("payload.pack", [payload]), File("bag.sig", [b"sig"]), File("bag.json", [b"{}"])]
    async with a_link(node) as (proxy, transport):
        await transport.reach()
        before = proxy.passed
        await transport.push(str(tmp_path / "whole"), ("claims",), files)
        for at in cuts(node, proxy.passed - before):
            await transport.reach()
            bag = tmp_path / f"cut-{at}"
            proxy.cut_after = at
            await transport.push(str(bag), ("claims",), files)
            assert (bag / "payload.pack").read_bytes() == payload
            assert sorted(os.listdir(bag)) == ["bag.json", "bag.sig", "claims", "payload.pack"]
            proxy.cut_after = None
        await transport.run(sh("sleep 1"), PATIENCE_S)
        assert [name for name in os.listdir(tmp_path) if not name.startswith(("cut-", "whole"))] == []
        assert [name for name in os.listdir(tmp_path) if ".part-" in name] == []


@pytest.mark.slow
@in_loop
async def test_journals_and_results_cut_anywhere_are_read_as_they_are(node: Sshd, tmp_path: Path) -> None:
    written = {f"17_{n}_0.jsonl": os.urandom(700) for n in range(12)}
    for name, content in written.items():
        (tmp_path / name).write_bytes(content)
    async with a_link(node) as (proxy, transport):
        await transport.reach()
        before = proxy.passed
        assert await transport.read_new(str(tmp_path), {}) == written
        for at in cuts(node, proxy.passed - before):
            await transport.reach()
            proxy.cut_after = at
            assert await transport.read_new(str(tmp_path), {}) == written
            await transport.reach()
            proxy.cut_after = at
            assert await transport.read(str(tmp_path / "17_3_0.jsonl"), 100, 500) == written["17_3_0.jsonl"][100:600]
            proxy.cut_after = None


@in_loop
async def test_a_large_read_that_is_cut_on_the_way_goes_on_where_it_was(node: Sshd, tmp_path: Path) -> None:
    content = os.urandom(20 << 20)
    (tmp_path / "pack").write_bytes(content)
    async with a_link(node) as (proxy, transport):
        await transport.reach()
        proxy.cut_after = 11 << 20
        assert await transport.read(str(tmp_path / "pack"), 0, len(content)) == content
        assert proxy.connections == 2
        assert proxy.passed < 30 << 20


@in_loop
async def test_a_command_that_was_cut_off_goes_on_and_the_next_one_connects_again(node: Sshd, tmp_path: Path) -> None:
    async with a_link(node) as (proxy, transport):
        await transport.home()
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        running = asyncio.create_task(transport.run(sh('echo up >"$1"; sleep 1; echo done >"$1"', str(fifo)), 60))
        assert await asyncio.to_thread(fifo.read_text) == "up\n"
        proxy.cut()
        assert (await running).exit_code is None
        assert (await transport.run(sh("echo again"), PATIENCE_S)).stdout == b"again\n"
        assert await asyncio.to_thread(fifo.read_text) == "done\n"
        assert proxy.connections == 2


@in_loop
async def test_a_silent_network_is_noticed_by_keepalive_long_before_the_deadline(node: Sshd, tmp_path: Path) -> None:
    async with a_link(node, keepalive_s=0.5) as (proxy, transport):
        await transport.home()
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        running = asyncio.create_task(transport.run(sh('echo up >"$1"; sleep 60', str(fifo)), 3600))
        assert await asyncio.to_thread(fifo.read_text) == "up\n"
        proxy.swallow = True
        reply = await running
        assert reply.exit_code is None
        assert b"broke" in reply.stderr
        proxy.swallow = False
        proxy.cut()
        assert (await transport.run(sh("echo back"), PATIENCE_S)).stdout == b"back\n"


@in_loop
async def test_a_laptop_that_slept_connects_again_at_once(node: Sshd) -> None:
    proxy = Proxy(node.port)
    await proxy.start()
    asleep = 0.0
    transport = SshTransport(node.connection(proxy.port, keepalive_s=60, slept=lambda: asleep))
    await transport.home()
    asleep = 60 * 3600.0  # the other end has forgotten the connection by now, and no packet says so
    assert (await transport.run(sh("echo awake"), PATIENCE_S)).stdout == b"awake\n"
    assert proxy.connections == 2
    await transport.close()
    await proxy.stop()


@in_loop
async def test_a_command_that_writes_without_end_is_stopped(node: Sshd) -> None:
    async with a_link(node) as (_, transport):
        with pytest.raises(TransportError, match="a command wrote more than 1 MiB"):
            await transport.connection.execute("yes", b"", deadline_s=PATIENCE_S, most=1 << 20)
        assert (await transport.run(sh("echo on"), PATIENCE_S)).stdout == b"on\n"


@in_loop
async def test_many_that_find_the_link_broken_connect_once(node: Sshd) -> None:
    async with a_link(node) as (proxy, transport):
        await transport.home()
        proxy.cut()
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(transport.run(sh("echo on"), PATIENCE_S)) for _ in range(20)]
        assert {task.result().exit_code for task in running} <= {0, None}
        assert (await transport.run(sh("echo on"), PATIENCE_S)).stdout == b"on\n"
        assert proxy.connections == 2


@in_loop
async def test_a_host_that_is_gone_is_asked_seldom_and_answers_again_when_it_is_back(node: Sshd) -> None:
    async with a_link(node) as (proxy, transport):
        proxy.refuse = True
        for _ in range(5):
            reply = await transport.run(Command(("true",)), PATIENCE_S)
            assert reply.exit_code is None
            assert b"can't be reached" in reply.stderr
        assert proxy.connections == 1
        with pytest.raises(TransportError, match="can't be reached"):
            await transport.reach()
        assert proxy.connections == 2
        proxy.refuse = False
        await transport.reach()
        assert (await transport.run(Command(("true",)), PATIENCE_S)).exit_code == 0


@in_loop
async def test_a_slow_link_only_takes_its_time(node: Sshd, tmp_path: Path) -> None:
    async with a_link(node) as (proxy, transport):
        proxy.delay_s = 0.025
        files = [File(f"{n}", [os.urandom(2000)]) for n in range(1000)]
        await transport.push(str(tmp_path / "bag"), ("journal",), files)
        assert len(os.listdir(tmp_path / "bag")) == 1001
        assert await transport.read_new(str(tmp_path / "bag/journal"), {}) == {}
