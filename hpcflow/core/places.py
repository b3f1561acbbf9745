"""Where hpcflow keeps its state: an environment mapping in, paths and the client's few settings out."""

from __future__ import annotations

import hashlib
import os.path
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from hpcflow.core.model import UserError

__all__ = ["NETWORK_FILE_SYSTEMS", "ClientSettings", "Places", "client_settings", "places", "socket_path"]

#: statfs(2) f_type of file systems that several hosts may mount (statfs(2) and the kernels' own headers).
NETWORK_FILE_SYSTEMS: Final[Mapping[int, str]] = {
    0x6969: "NFS",
    0x0BD00BD0: "Lustre",
    0x47504653: "GPFS",
    0x19830326: "BeeGFS",
    0x00C36400: "CephFS",
    0xFF534D42: "CIFS",
    0xFE534D42: "SMB2",
    0x5346414F: "AFS",
    0xAAD7AAEA: "PanFS",
    0x20030528: "OrangeFS",
}

# sockaddr_un.sun_path has 108 bytes on Linux, the final NUL included (unix(7)).
_SOCKET_PATH_LIMIT: Final = 107


@dataclass(frozen=True, slots=True)
class Places:
    """Paths below one ``HPCFLOW_HOME``."""

    home: str

    @property
    def token(self) -> str:
        return os.path.join(self.home, "token")

    @property
    def store(self) -> str:
        return os.path.join(self.home, "hpcflow.db")

    @property
    def config(self) -> str:
        return os.path.join(self.home, "config.toml")

    @property
    def clusters(self) -> str:
        return os.path.join(self.home, "clusters.toml")

    @property
    def run(self) -> str:
        return os.path.join(self.home, "run")

    @property
    def server_json(self) -> str:
        """Where the running server says who and where it is."""
        return os.path.join(self.run, "server.json")

    @property
    def ui_port(self) -> str:
        """Where the number of the port is kept on which browsers were served last."""
        return os.path.join(self.run, "ui-port")

    @property
    def lock(self) -> str:
        return os.path.join(self.run, "lock")

    @property
    def link(self) -> str:
        """Where it is said which login node's server this home is connected to."""
        return os.path.join(self.run, "connection.json")

    @property
    def link_token(self) -> str:
        """Where the token of that server is kept."""
        return os.path.join(self.run, "connection.token")

    @property
    def link_lock(self) -> str:
        return os.path.join(self.run, "connection.lock")

    @property
    def link_log(self) -> str:
        return os.path.join(self.home, "logs", "connection.log")

    @property
    def log(self) -> str:
        return os.path.join(self.home, "logs", "server.log")

    @property
    def keys(self) -> str:
        return os.path.join(self.home, "keys")

    @property
    def dispatches(self) -> str:
        return os.path.join(self.home, "dispatches")

    def verdict(self, cluster: str) -> str:
        """What two compute nodes found out about a cluster's work directory."""
        return os.path.join(self.home, "tested", f"{cluster}.json")

    def work(self, cluster: str) -> str:
        """Where bags of a cluster on this machine lie unless clusters.toml says otherwise."""
        return os.path.join(self.home, "work", cluster)


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """What the SDK and the CLI read from the environment."""

    #: Start a server with the first dispatch when none runs (``HPCFLOW_AUTOSTART``).
    autostart: bool = True
    #: Show a progress bar while waiting (``HPCFLOW_PROGRESS``).
    progress: bool = True


def places(environ: Mapping[str, str]) -> Places:
    """Return the places of ``HPCFLOW_HOME``, by default ``~/.hpcflow``.

    Raises:
        UserError: neither HPCFLOW_HOME nor HOME is set, or HPCFLOW_HOME is no absolute path.
    """
    home = environ.get("HPCFLOW_HOME") or (os.path.join(environ["HOME"], ".hpcflow") if environ.get("HOME") else "")
    if not home:
        raise UserError("Neither HPCFLOW_HOME nor HOME is set: set HPCFLOW_HOME to a folder for hpcflow's state.")
    if not os.path.isabs(home):
        raise UserError(f"HPCFLOW_HOME is {home!r}: it must be an absolute path.")
    return Places(os.path.normpath(home))


def socket_path(where: Places, environ: Mapping[str, str], *, on_network: bool) -> str:
    """Return where the server's socket goes: ``run/sock``, or a private local folder when that can't hold a socket.

    A socket on a network file system works on one host only, and a path longer than 107 bytes can't be bound.
    """
    own = os.path.join(where.run, "sock")
    if not on_network and len(os.fsencode(own)) <= _SOCKET_PATH_LIMIT:
        return own
    name = "hpcflow-" + hashlib.sha256(os.fsencode(where.home)).hexdigest()[:16]
    runtime = environ.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isabs(runtime) and len(os.fsencode(runtime)) + len(name) + 6 <= _SOCKET_PATH_LIMIT:
        return os.path.join(runtime, name, "sock")
    return os.path.join("/tmp", f"{name}-{environ.get('USER', 'user')[:32]}", "sock")  # noqa: S108  # made 0700, owner checked


def client_settings(environ: Mapping[str, str]) -> ClientSettings:
    """Read the client's settings.

    Raises:
        UserError: a value is neither yes nor no.
    """
    return ClientSettings(
        autostart=_yes(environ, "HPCFLOW_AUTOSTART"),
        progress=_yes(environ, "HPCFLOW_PROGRESS"),
    )


def _yes(environ: Mapping[str, str], name: str) -> bool:
    text = environ.get(name, "1").strip().lower()
    if text in {"1", "true", "yes", "on"}:
        return True
    if text in {"0", "false", "no", "off"}:
        return False
    raise UserError(f"{name} is {text!r}: write 1 or 0.")
