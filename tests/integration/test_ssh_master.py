"""transport = "openssh": the user's own master connection is used, left alone, and asked for in words."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from hpcflow.core.plugin import Command
from hpcflow.server.remote import NeedsLogin, TransportError
from hpcflow.server.remote.openssh import OpenSsh
from hpcflow.server.remote.ssh import SshTransport
from tests.integration.sshd import Sshd, key, sshd
from tests.integration.test_ssh_transport import PATIENCE_S, in_loop, sh
from tests.processes import killed
from tests.proxy import Proxy


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Sshd]:
    """A host that accepts none of the keys that ssh_config names."""
    with sshd(tmp_path / "node", way="openssh") as running:
        running.authorized.write_text(key(tmp_path / "phone"))
        yield running


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose name leaves room for that of a socket."""
    with tempfile.TemporaryDirectory(prefix="hpcflow-test-") as folder:
        yield Path(folder)


@asynccontextmanager
async def logged_in(config: str, second: Path, socket: Path) -> AsyncGenerator[None]:
    """Do what `ssh cluster` in a terminal does: log in with what only a person has, and stay."""
    master = subprocess.Popen(["ssh", "-F", config, "-M", "-N", "-i", str(second), "cluster"], stdin=subprocess.DEVNULL)
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not socket.exists():
                assert master.poll() is None
                await asyncio.sleep(0.02)
        yield
    finally:
        master.terminate()  # it takes its socket away
        with suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(master.wait, 30)
        killed(master)


@in_loop
async def test_a_master_that_a_person_opens_is_found_at_once_used_alone_and_left_open(
    node: Sshd, tmp_path: Path, short: Path
) -> None:
    proxy = Proxy(node.port)
    await proxy.start()
    socket = short / "a % b"
    config = node.config(proxy.port, more=f'  ControlPath "{str(socket).replace("%", "%%")}"')
    transport = SshTransport(node.connection(config=config))
    sentence = (
        r"far needs login: cluster accepts none of your keys without a person \(.*Permission denied.*\)\. "
        r"Open a master with `ssh cluster` in a terminal; hpcflow finds it and leaves it open\."
    )
    with pytest.raises(NeedsLogin, match=sentence):
        await transport.reach()
    assert transport.needs_login
    assert b"needs login" in (await transport.run(Command(("true",)), PATIENCE_S)).stderr
    assert proxy.connections == 1  # not tried again and again
    async with logged_in(config, tmp_path / "phone", socket):
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(transport.run(sh("echo $1", str(n)), PATIENCE_S)) for n in range(9)]
        assert [task.result().stdout for task in running] == [f"{n}\n".encode() for n in range(9)]
        assert not transport.needs_login
        assert proxy.connections == 2
        await transport.close()
        checked = await asyncio.to_thread(
            subprocess.run, ["ssh", "-F", config, "-O", "check", "cluster"], capture_output=True, check=False
        )
        assert checked.returncode == 0
    # It is gone: no session opens a connection of its own.
    reply = await transport.run(Command(("true",)), PATIENCE_S)
    assert (reply.exit_code, b"needs login" in reply.stderr) == (None, True)
    assert proxy.connections == 3
    await transport.close()
    await proxy.stop()


@in_loop
async def test_without_a_control_path_it_says_which_lines_ssh_config_needs(node: Sshd) -> None:
    transport = node.transport()
    with pytest.raises(
        NeedsLogin, match=r"`ControlMaster auto`, `ControlPath .*%C` and `ControlPersist yes` in ~/.ssh"
    ):
        await transport.reach()
    await transport.close()


@in_loop
async def test_its_own_master_is_private_and_ends_with_it(
    node: Sshd, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.authorized.write_text((node.folder / "user.pub").read_text())
    monkeypatch.setattr("tempfile.tempdir", str(short))
    transport = node.transport()
    await transport.reach()
    (made,) = short.iterdir()
    assert made.stat().st_mode & 0o777 == 0o700
    (socket,) = (each for each in made.iterdir() if each.name != ".lock")
    assert socket.stat().st_mode & 0o077 == 0
    await transport.close()
    assert list(short.iterdir()) == []


@in_loop
async def test_a_machine_without_ssh_is_told_so(node: Sshd, tmp_path: Path) -> None:
    environ = {**os.environ, "PATH": str(tmp_path)}
    connection = OpenSsh("cluster", cluster="far", keepalive_s=5, channels=5, config=node.config(), environ=environ)
    with pytest.raises(TransportError, match=r'far has transport = "openssh", and there is no `ssh` on this machine'):
        await connection.connect()
