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
from contextlib import contextmanager
from pathlib import Path
from typing import Final

__all__ = ["scratch", "sweep"]

logger = logging.getLogger(__name__)

_PREFIX: Final = "hpcflow-wheels-"
#: Held, by flock(2), as long as whoever made the folder lives, on whatever host.
_LOCK: Final = ".lock"
#: A folder without a lock is perhaps being made just now.
_YOUNG_S: Final = 3600.0


@contextmanager
def scratch() -> Generator[Path]:
    """Yield a new private folder that goes away afterwards, by `sweep` at the latest."""
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as folder:
        fd = os.open(os.path.join(folder, _LOCK), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield Path(folder)
        finally:
            os.close(fd)


def sweep() -> list[str]:
    """Remove what killed processes of this user have left of such folders; return their paths."""
    left = [path for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*") if _is_left(path)]
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
