"""Writes down the key of a host that a person accepted, where `ssh` would and as it would."""

from __future__ import annotations

import os
import stat

from hpcflow.server.remote.transport import HostKey, TransportError

__all__ = ["remember"]


def remember(key: HostKey) -> None:
    """Add a host's key to the user's known_hosts; what the file holds stays as it is.

    Raises:
        TransportError: the file can't be written, or is none.
    """
    try:
        os.makedirs(os.path.dirname(key.file), mode=0o700, exist_ok=True)
        fd = os.open(key.file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with open(fd, "ab", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise TransportError(
                    f"The key of {key.place} can't be kept: UserKnownHostsFile in ssh_config names {key.file}."
                )
            size = os.fstat(fd).st_size
            # Somebody's last line may have no end.
            cut = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
            file.write(b"\n" * cut + f"{key.line}\n".encode())
            os.fsync(fd)
    except OSError as error:
        raise TransportError(f"The key of {key.place} can't be written to {key.file}: {error.strerror}.") from error
