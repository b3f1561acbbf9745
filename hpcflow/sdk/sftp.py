"""fsspec's file system over SFTP, to hosts alone whose keys are known: its own takes the key of any host."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from hpcflow.sdk.object_stores import FileSystem

__all__ = ["SCHEMES", "sftp"]

SCHEMES: Final = ("sftp", "ssh")

#: Where OpenSSH keeps the keys that a site's admins know; the user's own are in ``~/.ssh/known_hosts``.
_OF_THE_SITE: Final = "/etc/ssh/ssh_known_hosts"


def sftp(address: str, options: Mapping[str, Any]) -> tuple[FileSystem, str]:  # Any: paramiko's own
    """Return a file system on the host of ``sftp://user@host:port/path``, connected, and the path in it.

    Raises:
        ImportError: fsspec or paramiko is not here.
        TransferFailed: the host's key is unknown, or another one than it was.
    """
    import paramiko
    from fsspec.implementations.sftp import SFTPFileSystem

    from hpcflow.sdk.transfer import TransferFailed

    class KnownHosts(SFTPFileSystem):  # type: ignore[misc,unused-ignore]  # fsspec has no types
        cachable = False

        def _connect(self) -> None:
            self.client = paramiko.SSHClient()  # which refuses whom it does not know
            self.client.load_system_host_keys()
            if os.path.exists(_OF_THE_SITE):
                self.client.load_system_host_keys(_OF_THE_SITE)
            try:
                self.client.connect(self.host, **self.ssh_kwargs)
            except paramiko.BadHostKeyException as error:
                raise TransferFailed(
                    f"the key of {self.host} is not the one that ~/.ssh/known_hosts has for it: ask who runs "
                    f"{self.host} whether its key was changed, and send nothing before that"
                ) from error
            except paramiko.SSHException as error:
                if "known_hosts" not in str(error):
                    raise
                raise TransferFailed(
                    f"the key of {self.host} is not in ~/.ssh/known_hosts on {os.uname().nodename}: log in from there "
                    "with ssh once, and compare the fingerprint that it shows"
                ) from error
            self.ftp = self.client.open_sftp()

    from_address = KnownHosts._get_kwargs_from_urls(address)
    fs: FileSystem = KnownHosts(**{**from_address, **options})
    return fs, KnownHosts._strip_protocol(address)
