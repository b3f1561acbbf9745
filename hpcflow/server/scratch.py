"""Folders in the place for temporary files, removed by a later server when the process that made them was killed."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

__all__ = ["PREFIXES", "SHORT", "SSH", "WHEELS", "Kept", "scratch", "sweep"]

logger = logging.getLogger(__name__)

WHEELS: Final = "hpcflow-wheels-"
#: Of a folder for the socket of a connection by ``ssh``.
SSH: Final = "hpcflow-ssh-"
PREFIXES: Final = (WHEELS, SSH)
#: Where a socket's path is short enough whatever TMPDIR is.
SHORT: Final = "/tmp"  # noqa: S108  # what is made there is private by mkdtemp
#: Held, by flock(2), as long as whoever made the folder lives, on whatever host.
_LOCK: Final = ".lock"
#: A folder without a lock is perhaps being made just now.
_YOUNG_S: Final = 86400.0


class Kept:
    """A private folder that is this process's until `close`, or until it dies."""

    def __init__(self, prefix: str, *, within: str | None = None) -> None:
        """Make one.

        Args:
            prefix: of its name, one of `PREFIXES`.
            within: the folder to make it in, instead of that for temporary files.
        """
        self.path = tempfile.mkdtemp(prefix=prefix, dir=within)
        self._fd = os.open(os.path.join(self.path, _LOCK), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with suppress(OSError):  # a file system without locks: `sweep` leaves it alone
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def close(self) -> None:
        """Remove it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._fd)


@contextmanager
def scratch() -> Generator[Path]:
    """Yield a new private folder that goes away afterwards, by `sweep` at the latest."""
    kept = Kept(WHEELS)
    try:
        yield Path(kept.path)
    finally:
        kept.close()


def sweep() -> list[str]:
    """Remove what killed processes of this user have left of such folders; return their paths."""
    places = {Path(tempfile.gettempdir()), Path(SHORT)}
    left = [
        path for place in sorted(places) for prefix in PREFIXES for path in place.glob(f"{prefix}*") if _is_left(path)
    ]
    for path in left:
        shutil.rmtree(path, ignore_errors=True)
    if left:
        logger.info("removed what a killed process had left: %s", ", ".join(map(str, left)))
    return [str(path) for path in left]


def _is_left(path: Path) -> bool:
    try:
        status = path.lstat()
    except OSError:  # its process has just removed it
        return False
    if status.st_uid != os.geteuid() or not stat.S_ISDIR(status.st_mode):
        return False
    try:
        fd = os.open(path / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return time.time() - status.st_mtime > _YOUNG_S
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # its process lives, or this file system can't say
        return False
    finally:
        os.close(fd)
    return True
