"""A real sshd of the test's own, on a port of its own, with its own keys: a login node on this machine."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import pytest

from hpcflow.server.remote.carrier import Carrier
from hpcflow.server.remote.connection import Connection
from hpcflow.server.remote.openssh import OpenSsh
from hpcflow.server.remote.ssh import SshTransport
from tests.ports import reserved
from tests.processes import killed
from tests.waiting import until

#: sshd wants to be started by its full path; Debian keeps it out of users' PATH.
_SSHD: Final = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
_PATIENCE_S: Final = 120.0

Way = Literal["asyncssh", "openssh"]
WAYS: Final[tuple[Way, ...]] = ("asyncssh", "openssh")

#: Dispatches a task of the cluster ``far`` that tells it is up in a ledger, waits at a gate, and returns what comes.
FAR_BEHIND_A_GATE: Final = """
import sys
import hpcflow as hf

@hf.electron(executor="far")
def wait(gate, ledger):
    with open(ledger, "a") as file:
        file.write("up\\n")
    with open(gate) as file:
        return file.read()

@hf.lattice
def flow(gate, ledger):
    return wait(gate, ledger)

print(hf.dispatch(flow)(*sys.argv[1:]))
"""


def who_logs_in() -> str:
    """Return who logs in: ``hpc`` where root tests and that user has our Python, else whoever tests."""
    found = shutil.which(f"python3.{sys.version_info[1]}", path="/usr/local/bin:/usr/bin:/bin")
    other = os.getuid() == 0 and found is not None and any(entry.pw_name == "hpc" for entry in pwd.getpwall())
    return "hpc" if other else pwd.getpwuid(os.getuid()).pw_name


def key(path: Path) -> str:
    """Make a key pair, and return its public half."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", path], check=True, timeout=60)
    return path.with_suffix(".pub").read_text()


@dataclass(frozen=True)
class Sshd:
    """One sshd that runs, and a client's files for it."""

    folder: Path
    port: int
    user: str
    #: The public keys that it lets in.
    authorized: Path
    #: What carries programs to it.
    way: Way = "asyncssh"

    @property
    def home(self) -> Path:
        return Path(pwd.getpwnam(self.user).pw_dir)

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    def config(self, port: int | None = None, *, alias: str = "cluster", more: str = "") -> str:
        """Write an ssh_config with an alias for it, and return its path."""
        path = self.folder / f"config-{alias}"
        path.write_text(
            f"Host {alias}\n  HostName 127.0.0.1\n  Port {port or self.port}\n  User {self.user}\n"
            f"  IdentityFile {self.folder}/user\n  IdentityAgent none\n  HostKeyAlias login\n"
            f"  UserKnownHostsFile {self.known_hosts}\n{more}\n"
        )
        path.chmod(0o600)
        return str(path)

    def connection(
        self,
        port: int | None = None,
        *,
        channels: int = 5,
        keepalive_s: float = 30.0,
        slept: Callable[[], float] | None = None,
        config: str | None = None,
    ) -> Carrier:
        """Return a connection that nobody has used yet, to the host that an ssh_config calls ``cluster``."""
        config = config or self.config(port)
        if self.way == "openssh":
            return OpenSsh(
                "cluster", cluster="far", keepalive_s=keepalive_s, channels=channels, config=config, slept=slept
            )
        return Connection(
            "cluster", cluster="far", keepalive_s=keepalive_s, channels=channels, config=[config], slept=slept
        )

    def transport_of(self, config: Path) -> SshTransport:
        return SshTransport(self.connection(config=str(config)))

    def transport(self, port: int | None = None, *, channels: int = 5, keepalive_s: float = 30.0) -> SshTransport:
        return SshTransport(self.connection(port, channels=channels, keepalive_s=keepalive_s))


@contextmanager
def sshd(folder: Path, *options: str, user: str | None = None, way: Way = "asyncssh") -> Generator[Sshd]:
    """Run an sshd while the context is open.

    Args:
        folder: where nothing of this was made before.
        options: lines of sshd_config.
        user: who logs in; another one than the test's own needs root.
        way: what carries programs to it.
    """
    if _SSHD is None:
        pytest.skip("needs sshd: apt install openssh-server")
    user = user or pwd.getpwuid(os.getuid()).pw_name
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd parts with root; the service makes it
    folder.mkdir(exist_ok=True)
    public = key(folder / "host")
    # sshd reads it as the user who logs in, for whom pytest's folders are closed.
    doors = Path(tempfile.mkdtemp(prefix="hpcflow-test-sshd-"))
    doors.chmod(0o755)
    authorized = doors / "authorized_keys"
    authorized.write_text(key(folder / "user"))
    authorized.chmod(0o644)
    kept, port = reserved()
    (folder / "sshd_config").write_text(
        "\n".join(
            (
                *options,  # sshd takes the first value that it reads
                f"Port {port}",
                "ListenAddress 127.0.0.1",
                f"HostKey {folder}/host",
                f"AuthorizedKeysFile {authorized}",
                "PidFile none",
                "StrictModes no",
                "UsePAM no",
                "PasswordAuthentication no",
                "KbdInteractiveAuthentication no",
                "PermitRootLogin yes",
                "MaxStartups 100",
            )
        )
        + "\n"
    )
    (folder / "known_hosts").write_text(f"login {public}")
    log = folder / "sshd.log"
    process = subprocess.Popen(
        [_SSHD, "-D", "-f", str(folder / "sshd_config"), "-E", str(log)], stdin=subprocess.DEVNULL
    )
    try:
        until(lambda: _answers(port) or process.poll() is not None, log.read_text, patience_s=_PATIENCE_S)
        assert process.poll() is None, f"sshd does not answer: {log.read_text()}"
        yield Sshd(folder, port, user, authorized, way)
    finally:
        kept.close()
        killed(process)
        shutil.rmtree(doors)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
