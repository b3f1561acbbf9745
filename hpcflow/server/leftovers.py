"""Removes what was never finished: folders on clusters of which the maker died, and notes of dispatches that are gone.

On a cluster a folder appears whole, by renaming one with ``.part-`` in its name, and wheels to be installed lie in one
with ``.wheels-``. Nothing but these names is looked at, and only what is the user's own, no link, and older than a day.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from hpcflow.core.model import ULID, DispatchId, is_ulid
from hpcflow.core.places import Places
from hpcflow.core.plugin import Command

__all__ = ["OLD_S", "drop_folders", "drop_notes", "dropped_of", "dropping"]

logger = logging.getLogger(__name__)

#: No push, and no installation, takes so long.
OLD_S: Final = 86400.0
#: Bags and probes, workers, environments and keys, as hpcflow names them; then what makes one of them.
_NAME: Final = (
    rf"({ULID}|worker-[A-Za-z0-9.+_-]+|[0-9a-f]{{16}}|[0-9a-f]{{20}})"
    r"(\.wheels-[0-9a-f]{8}(\.part-[0-9a-f]{8})?|\.part-[a-z0-9_]{8})"
)
#: Reads no line of theirs: each folder ends with a slash, so that one that is a link itself is looked into, while find
#: and rm follow none below it. Prints the names of what is gone.
_DROP: Final = r"""
names=$1; shift
for each; do
    find "$each/" -mindepth 1 -maxdepth 1 -type d -user "$(id -u)" -mmin +1440 \
        \( -name '*.part-????????' -o -name '*.wheels-????????' \) -exec /bin/sh -c '
            for path; do
                name=${path##*/}
                test "$(printf %s "$name" | wc -l)" -eq 0 && printf "%s\n" "$name" | LC_ALL=C grep -Eqx "$0" &&
                    rm -rf "$path" && printf "%s\n" "$name"
            done' "$names" {} + 2>/dev/null
done
exit 0
"""


def dropping(folders: Iterable[str]) -> Command:
    """Return the one command that removes what is left in folders of a cluster."""
    return Command(("/bin/sh", "-c", _DROP, "sh", _NAME, *folders))


def dropped_of(output: bytes) -> list[str]:
    """Return the names that `dropping` told; whatever a login script wrote besides is none."""
    return [line for line in output.decode(errors="replace").splitlines() if re.fullmatch(_NAME, line)]


def drop_folders(folders: Iterable[str], *, now: float | None = None) -> list[str]:
    """Do the same on this machine.

    Args:
        folders: those that there are.
        now: in seconds of the epoch.
    """
    dropped: list[str] = []
    for folder in folders:
        try:
            entries = list(os.scandir(folder))
        except OSError:
            continue
        for entry in entries:
            if re.fullmatch(_NAME, entry.name) and _is_old(entry.path, stat.S_ISDIR, now):
                shutil.rmtree(entry.path, ignore_errors=True)
                dropped.append(entry.name)
    return dropped


def drop_notes(where: Places, known: Callable[[DispatchId], object], *, now: float | None = None) -> list[str]:
    """Remove what clients noted of dispatches of this server that it does not have any more.

    Args:
        where: of the home.
        known: returns ``None`` for a dispatch that is gone.
        now: in seconds of the epoch.
    """
    dropped: list[str] = []
    folder = Path(where.home, "client")
    for path in sorted(folder.glob("*.json")) + sorted(folder.glob("*.new")):
        if not is_ulid(path.stem) or not _is_old(str(path), stat.S_ISREG, now):
            continue
        if path.suffix == ".new" or (_is_of_here(path) and known(DispatchId(path.stem)) is None):
            path.unlink(missing_ok=True)
            dropped.append(path.name)
    return dropped


def _is_of_here(path: Path) -> bool:
    """Whether a note says that its dispatch went to the server of its home, and not to one on a login node."""
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")).get("here"))
    except (OSError, ValueError, AttributeError):
        return False


def _is_old(path: str, kind: Callable[[int], bool], now: float | None) -> bool:
    try:
        status = os.lstat(path)
    except OSError:  # somebody else removed it
        return False
    age = (time.time() if now is None else now) - status.st_mtime
    return status.st_uid == os.geteuid() and kind(status.st_mode) and age > OLD_S
