"""Claims: how the workers of a bag share its ranges without talking, by creating names in one directory."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import Final

from hpcflow.core.bag import ClaimMethod
from hpcflow.node.files import create_own

__all__ = ["Claims", "owned_by"]

_WIDEST_JUMP: Final = 64
# What link(2) says where a file system has no hard links (vfat, some FUSE) or a file has all it may have.
_NO_LINK: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK})


class Claims:
    """One worker's claims. Range k belongs to whoever creates ``claims/<k>`` as a hard link to a private file."""

    def __init__(
        self, directory: str, worker: str, *, ranges: int, start: int, nfs: bool, method: ClaimMethod = "link"
    ) -> None:
        self._directory = directory
        self._ranges = ranges
        self._start = start
        self._nfs = nfs
        self._private = os.path.join(directory, "." + worker)
        os.close(create_own(self._private))
        self._links = 1
        self._hard_links = method != "mkdir"
        # With "index" two nodes may both be told that they were the first, so no two ever ask for one range; its claim
        # is for an array that was submitted twice.
        self._alone = method == "index"
        # Workers that start at one place and walk in step lose every race together (measured: 47 tries a claim). So
        # each starts at its own index, and the jump after a lost race doubles.
        self._cursor = start % ranges if ranges else 0
        self._jump = 1
        #: Metadata operations so far.
        self.operations = 0

    def grow(self, ranges: int) -> None:
        """Go on with ranges that came later, each worker at a place of its own again."""
        first, self._ranges = self._ranges, ranges
        self._cursor, self._jump = first + self._start % max(1, ranges - first), 1

    def workers(self) -> int:
        """Return how many workers have come to this bag so far."""
        self.operations += 1
        return sum(name.startswith(".") for name in os.listdir(self._directory))

    def next(self) -> int | None:
        """Claim a range; ``None`` when all are taken."""
        if self._alone:
            mine, self._start = self._start, self._ranges
            return mine if mine < self._ranges and self.take(mine) else None
        while self._cursor < self._ranges:
            k = self._cursor
            if self.take(k):
                self._cursor, self._jump = k + 1, max(1, self._jump // 2)
                return k
            self._jump = min(_WIDEST_JUMP, self._jump * 2)
            self._cursor = self._first_free_after(k) + _jitter(self._jump)
        while free := self._listed_free():
            k = free[_jitter(min(self._jump, len(free)))]
            if self.take(k):
                return k
            self._jump = min(_WIDEST_JUMP, self._jump * 2)
        return None

    @property
    def by_links(self) -> bool:
        """Whether the file system has hard links, as far as that was seen."""
        return self._hard_links

    def take(self, k: int) -> bool:
        """Claim one range; return whether it was free."""
        self.operations += 1
        name = os.path.join(self._directory, str(k))
        if self._hard_links:
            try:
                os.link(self._private, name)
                self._links += 1
                return True
            except FileExistsError:
                # An NFS client whose reply was lost asks again and reads EEXIST for its own link: the count decides.
                if self._nfs and os.stat(self._private).st_nlink > self._links:
                    self._links += 1
                    return True
                return False
            except OSError as error:
                if error.errno not in _NO_LINK:
                    raise
                self._hard_links = False
        # A directory excludes a link of the same name and the other way round, so the two kinds of worker can mix.
        try:
            os.mkdir(name, 0o700)
        except FileExistsError:
            return False
        return True

    def _first_free_after(self, k: int) -> int:
        """Gallop over the taken prefix behind k, then bisect back: its end, if the prefix has no gaps."""
        low, step = k, 1
        while low + step < self._ranges and self._exists(low + step):
            low, step = low + step, step * 2
        high = min(low + step, self._ranges)
        while high - low > 1:
            middle = (low + high) // 2
            if self._exists(middle):
                low = middle
            else:
                high = middle
        return high

    def _exists(self, k: int) -> bool:
        self.operations += 1
        return os.access(os.path.join(self._directory, str(k)), os.F_OK)

    def _listed_free(self) -> list[int]:
        self.operations += 1
        taken = set(os.listdir(self._directory))
        return [k for k in range(self._ranges) if str(k) not in taken]


def _jitter(limit: int) -> int:
    """Return a number below ``limit``. Without `random`, whose re-seeding would cost every forked task 0.2 ms."""
    return int.from_bytes(os.urandom(4), "little") % limit


def owned_by(directory: str, workers: Iterable[str]) -> set[int]:
    """Return the ranges that are links to these workers' private files."""
    inodes: set[int] = set()
    for worker in workers:
        try:
            inodes.add(os.stat(os.path.join(directory, "." + worker)).st_ino)
        except FileNotFoundError:
            continue
    if not inodes:
        return set()
    with os.scandir(directory) as entries:
        return {int(entry.name) for entry in entries if entry.name[0] != "." and entry.inode() in inodes}
