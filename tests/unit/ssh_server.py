"""An ssh server inside the test, for logins that a real sshd needs PAM for. Its shell is this machine's sh."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh

from hpcflow.server.remote.connection import Connection
from hpcflow.server.remote.ssh import SshTransport


@dataclass
class Door:
    """How the server lets people in, and who tried."""

    #: Prompts of each round of keyboard-interactive, and the answers that are right.
    rounds: Sequence[tuple[Sequence[tuple[str, bool]], Sequence[str]]] = ()
    password: str | None = None
    #: Logins begun, and answers that came.
    logins: int = 0
    answers: list[Sequence[str]] = field(default_factory=list[Sequence[str]])


class _Server(asyncssh.SSHServer):
    def __init__(self, door: Door) -> None:
        self._door = door
        self._round = 0

    def begin_auth(self, username: str) -> bool:
        self._door.logins += 1
        return True

    def unix_connection_requested(self, dest_path: str) -> bool:
        return True

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        return True  # as a bastion does

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return False

    def password_auth_supported(self) -> bool:
        return self._door.password is not None

    def validate_password(self, username: str, password: str) -> bool:
        self._door.answers.append([password])
        return password == self._door.password

    def kbdint_auth_supported(self) -> bool:
        return bool(self._door.rounds)

    def get_kbdint_challenge(
        self, username: str, lang: str, submethods: str
    ) -> tuple[str, str, str, Sequence[tuple[str, bool]]]:
        self._round = 0
        return "Cluster", "Say who you are.", "", self._door.rounds[0][0]

    def validate_kbdint_response(
        self, username: str, responses: Sequence[str]
    ) -> bool | tuple[str, str, str, Sequence[tuple[str, bool]]]:
        self._door.answers.append(list(responses))
        if list(responses) != list(self._door.rounds[self._round][1]):
            return False
        self._round += 1
        if self._round == len(self._door.rounds):
            return True
        return "", "", "", self._door.rounds[self._round][0]


async def _serve(process: asyncssh.SSHServerProcess[bytes]) -> None:
    shell = await asyncio.create_subprocess_exec(
        "/bin/sh",
        "-c",
        process.command or "",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "HOME": "/", "SHELL": "/bin/sh"},
    )
    data = await process.stdin.read()
    out, err = await shell.communicate(data)
    process.stdout.write(out)
    process.stderr.write(err)
    process.exit(shell.returncode or 0)


@asynccontextmanager
async def served(folder: Path, door: Door) -> AsyncGenerator[Connection]:
    """Run the server, and yield a connection to it that nobody has used yet."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    async with asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=lambda: _Server(door),
        server_host_keys=[key],
        process_factory=_serve,
        encoding=None,
    ) as server:
        port = server.get_port()
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {key.export_public_key().decode()}")
        asyncssh.generate_private_key("ssh-ed25519").write_private_key(folder / "user")
        (folder / "config").write_text(
            f"Host cluster\n  HostName 127.0.0.1\n  Port {port}\n  User ada\n  IdentityFile {folder}/user\n"
            f"  IdentityAgent none\n  UserKnownHostsFile {folder}/known_hosts\n"
        )
        connection = Connection("cluster", cluster="far", keepalive_s=5.0, channels=5, config=[str(folder / "config")])
        try:
            yield connection
        finally:
            await SshTransport(connection).close()
