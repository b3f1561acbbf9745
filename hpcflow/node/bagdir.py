"""A bag as its workers see it: bag.json with a right signature, and the bytes that its references name."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from hpcflow.core.bag import (
    BAG_VERSION,
    DIRECTORIES,
    ENTRY,
    FOOTER,
    DamagedError,
    bag_key,
    checked,
    parse_footer,
    parse_index,
    verify,
)
from hpcflow.core.errors import HpcflowError
from hpcflow.node.files import StrangeFile, check_own_directory, open_own, read_at, read_own

__all__ = ["BagDirectory", "RefusedBag", "Stored", "TaskRow", "open_bag"]

#: A result as a journal line holds it: ``{"b": base64}`` or ``{"f": [file below the bag, offset, size, sha256 hex]}``.
Stored = Mapping[str, Any]  # Any: JSON

KEY_SIZE: Final = 32


class RefusedBag(HpcflowError):
    """A bag that this worker must not touch: no key, no signature, a wrong one, or a format of another version."""


class TaskRow(NamedTuple):
    """One task of the bag: which blobs to open and where the values among its arguments lie."""

    #: Its index in the dispatch.
    number: int
    attempt: int
    fn: int
    args: int
    #: Reference of each task whose result is among the arguments; ``None``: an earlier task of the same unit.
    refs: Mapping[str, Any]  # Any: JSON of `hpcflow.core.bag.Ref`
    name: str


class BagDirectory(NamedTuple):
    """One bag on disk. What it reads from packs is checked against the hashes that the signed bag.json leads to."""

    path: str
    key: bytes
    python: tuple[int, int]
    #: Rows of bag.json, parsed one by one in `task`: a bag may hold 100,000.
    rows: tuple[Any, ...]  # Any: JSON
    #: Positions of each unit's tasks; ``None``: unit u is task u.
    units: tuple[tuple[int, ...], ...] | None
    cuts: tuple[int, ...]
    #: ``fork``: a process forked for each task, or for a series of short ones; ``alone``: never for a series;
    #: ``spawn``: a new interpreter for each task.
    isolation: str
    inline_limit: int
    #: Seconds that one task may take; ``None``: what the array task has.
    limit_s: float | None
    grace_s: float
    #: The array task's own limit, and how much of it must be left for a further task to begin.
    walltime_s: float
    need_s: float
    #: Longest time between two fsyncs of the journal; ``None``: never.
    sync_s: float | None
    nfs: bool
    workdir: str | None
    cpus: int
    #: What the array task asked for on its node; ``None``: nothing.
    memory_mib: int | None
    pack_fd: int
    pack_index: tuple[tuple[int, int, bytes], ...]

    def task(self, position: int) -> TaskRow:
        number, attempt, fn, args, refs, name = self.rows[position]
        return TaskRow(number=number, attempt=attempt, fn=fn, args=args, refs=refs, name=name)

    def positions(self, unit: int) -> tuple[int, ...]:
        return (unit,) if self.units is None else self.units[unit]

    def blob(self, number: int) -> bytes:
        """Return one blob of the payload pack. Reads by offset, so that forked processes can share the descriptor."""
        offset, size, digest = self.pack_index[number]
        return checked(read_at(self.pack_fd, offset, size), digest)

    def stored(self, result: Stored) -> bytes:
        """Return the pickle of a result that a worker of this bag wrote down."""
        if "b" in result:
            return base64.b64decode(result["b"])
        name, offset, size, digest = result["f"]
        return read_range(os.path.join(self.path, name), offset, size, digest)


def read_range(path: str, offset: int, size: int, digest: str) -> bytes:
    """Return part of a file after checking its SHA-256 (in hex)."""
    fd = open_own(path)
    try:
        return checked(read_at(fd, offset, size), bytes.fromhex(digest))
    finally:
        os.close(fd)


def open_bag(path: str, key_file: str) -> BagDirectory:
    """Open a bag for work.

    Raises:
        RefusedBag: it isn't signed with the cluster's key, or can't be read as a bag.
    """
    path = os.path.abspath(path)
    try:
        for directory in (path, *(os.path.join(path, name) for name in DIRECTORIES)):
            check_own_directory(directory)
        raw, signature = read_own(os.path.join(path, "bag.json")), read_own(os.path.join(path, "bag.sig"))
        cluster_key = read_own(key_file, private=True)
    except StrangeFile as error:
        raise RefusedBag(str(error)) from error
    except OSError as error:
        raise RefusedBag(f"The bag {path} can't be opened: {error}.") from error
    if len(cluster_key) != KEY_SIZE:
        raise RefusedBag(f"The key file {key_file} has {len(cluster_key)} bytes instead of {KEY_SIZE}.")
    # Its key is derived from the bag's name, which alone is read before the signature is known to be right.
    try:
        spec: dict[str, Any] = json.loads(raw)
        key = bag_key(cluster_key, str(spec["bag"]))
        trusted = verify(raw, signature.decode("ascii"), key)
    except (ValueError, KeyError, TypeError) as error:
        raise RefusedBag(f"bag.json in {path} can't be read as a bag: {error!r}.") from error
    if not trusted:
        raise RefusedBag(f"bag.json in {path} isn't signed with this cluster's key; nothing of it was run.")
    if spec["v"] != BAG_VERSION:
        raise RefusedBag(f"The bag {path} has format {spec['v']}, this worker knows {BAG_VERSION}: restart the server.")
    try:
        pack_fd, pack_index = _open_pack(os.path.join(path, "payload.pack"), spec["index"])
    except StrangeFile as error:
        raise RefusedBag(str(error)) from error
    except (OSError, DamagedError) as error:
        raise RefusedBag(f"The payload pack of {path} can't be used: {error}.") from error
    units = spec["units"]
    return BagDirectory(
        path=path,
        key=key,
        python=(spec["py"][0], spec["py"][1]),
        rows=tuple(spec["tasks"]),
        units=None if units is None else tuple(tuple(unit) for unit in units),
        cuts=tuple(spec["cuts"]),
        isolation=spec["iso"],
        inline_limit=spec["inline"],
        limit_s=spec["limit"],
        grace_s=spec["grace"],
        walltime_s=spec["walltime"],
        need_s=spec["need"],
        sync_s=spec["sync"],
        nfs=spec["nfs"],
        workdir=spec["workdir"],
        cpus=spec["cpus"],
        memory_mib=spec["memory_mib"],
        pack_fd=pack_fd,
        pack_index=pack_index,
    )


def _open_pack(path: str, digest: str) -> tuple[int, tuple[tuple[int, int, bytes], ...]]:
    fd = open_own(path)
    end = os.fstat(fd).st_size - FOOTER.size
    if end < 0:
        raise DamagedError("the pack is shorter than its own end")
    count, index_digest = parse_footer(read_at(fd, end, FOOTER.size))
    if index_digest.hex() != digest:
        raise DamagedError("it is not the pack that bag.json names")
    size = count * ENTRY.size
    return fd, parse_index(read_at(fd, end - size, size), index_digest)
