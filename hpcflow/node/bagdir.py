"""A bag as its workers see it: bag.json with a right signature, and the bytes that its references name."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any, BinaryIO, Final, NamedTuple

from hpcflow.core.bag import (
    BAG_VERSION,
    DIRECTORIES,
    ENTRY,
    FOOTER,
    INBOX,
    ClaimMethod,
    DamagedError,
    bag_key,
    checked,
    parse_footer,
    parse_index,
    read_lines,
    verify,
)
from hpcflow.core.errors import HpcflowError
from hpcflow.core.lingering import Leave
from hpcflow.node.files import StrangeFile, check_own_directory, open_own, read_at, read_own

__all__ = ["BagDirectory", "RefusedBag", "Stored", "TaskRow", "open_bag"]

#: A result as a journal line holds it: ``{"b": base64}`` or ``{"f": [file below the bag, offset, size, sha256 hex]}``.
Stored = Mapping[str, Any]  # Any: JSON

KEY_SIZE: Final = 32
_PIECE: Final = 1 << 20


class RefusedBag(HpcflowError):
    """A bag that this worker must not touch: no key, no signature, a wrong one, or a format of another version."""


class TaskRow(NamedTuple):
    """One task of the bag: which blobs to open and where the values among its arguments lie."""

    #: Its index in the dispatch.
    number: int
    attempt: int
    fn: int
    args: int
    #: Reference of each task whose result is among the arguments, by the number that these have for it; those of
    #: tasks in sublattices whose results are needed for that, by "@" and their indices in the dispatch. Files that the
    #: server fetched, by "file:" and their keys.
    refs: Mapping[str, Any]  # Any: JSON of `hpcflow.core.bag.Ref`
    name: str


class Pack(NamedTuple):
    """A pack of one part, and the number that its first blob has in the bag."""

    first: int
    fd: int
    entries: tuple[tuple[int, int, bytes], ...]


class BagDirectory:
    """One bag on disk. What it reads from packs is checked against the hashes that signed words lead to.

    It grows by the parts that its inbox tells of, which also names the tasks that nobody wants any more.
    """

    def __init__(self, path: str, key: bytes, spec: Mapping[str, Any], pack: Pack) -> None:  # Any: JSON
        """Take bag.json, whose signature is right, and its pack."""
        self.path = path
        self.key = key
        self.dispatch: str | None = spec.get("dispatch")
        self.python: tuple[int, int] = (spec["py"][0], spec["py"][1])
        #: Rows of bag.json, parsed one by one in `task`: a bag may hold 100,000.
        self.rows: list[Any] = spec["tasks"]  # Any: JSON
        #: References by the upstream's index; each row names one of these tables.
        self.inputs: list[Mapping[str, Any]] = spec["inputs"]  # Any: JSON of `hpcflow.core.bag.Ref`
        units = spec["units"]
        #: Positions of each unit's tasks; ``None``: unit u is task u.
        self.units: list[tuple[int, ...]] | None = None if units is None else [tuple(unit) for unit in units]
        self.cuts: list[int] = spec["cuts"]
        #: ``fork``: a process forked for each task, or for a series of short ones; ``alone``: never for a series;
        #: ``spawn``: a new interpreter for each task.
        self.isolation: str = spec["iso"]
        self.inline_limit: int = spec["inline"]
        #: Seconds that one task may take; ``None``: what the array task has.
        self.limit_s: float | None = spec["limit"]
        self.grace_s: float = spec["grace"]
        #: The array task's own limit, and how much of it must be left for a further task to begin.
        self.walltime_s: float = spec["walltime"]
        self.need_s: float = spec["need"]
        #: Longest time between two fsyncs of the journal; ``None``: never.
        self.sync_s: float | None = spec["sync"]
        self.nfs: bool = spec["nfs"]
        self.claims: ClaimMethod = spec.get("claims", "link")
        self.workdir: str | None = spec["workdir"]
        self.cpus: int = spec["cpus"]
        #: GPUs of one task, and tasks that one array task runs at once.
        self.gpus: int = spec["gpus"]
        self.slots: int = spec["slots"]
        #: Processes of one task, and the command that starts them all; ``None``: the task itself does what it likes.
        self.ntasks: int = spec["ntasks"]
        self.launch: tuple[str, ...] | None = None if spec["launch"] is None else tuple(spec["launch"])
        #: What the array task asked for on its node; ``None``: nothing.
        self.memory_mib: int | None = spec["memory_mib"]
        #: How long a worker waits for a further part, in seconds, and how many do: those of the lowest indices.
        self.linger_s: float = spec["linger"]
        self.lingerers: int = spec["lingerers"]
        #: Where the server of a worker on its own machine says that it is there; ``None``: it is on another one.
        self.notice: str | None = spec.get("notice")
        self.packs = [pack]
        #: Nothing more will come; who need not wait though something may.
        self.closed = False
        self.leave = Leave()
        #: (number, attempt) of tasks that were cancelled: none of them begins, and who runs one ends it.
        self.cancelled: set[tuple[int, int]] = set()
        #: Parts taken, bytes of the inbox read, and records that tell of what is not to be seen yet.
        self.parts = 0
        self.inbox_read = 0
        self.pending: list[dict[str, Any]] = []  # Any: JSON

    def task(self, position: int) -> TaskRow:
        number, attempt, fn, args, table, name = self.rows[position]
        return TaskRow(number=number, attempt=attempt, fn=fn, args=args, refs=self.inputs[table], name=name)

    def positions(self, unit: int) -> tuple[int, ...]:
        return (unit,) if self.units is None else self.units[unit]

    def blob(self, number: int) -> bytes:
        """Return one blob of the payload pack. Reads by offset, so that forked processes can share the descriptor."""
        pack = self._pack(number)
        offset, size, digest = pack.entries[number - pack.first]
        return checked(read_at(pack.fd, offset, size), digest)

    def pour(self, number: int, file: BinaryIO) -> None:
        """Write one blob of the payload pack to a file, of which nothing is to be kept when this raises."""
        pack = self._pack(number)
        offset, size, digest = pack.entries[number - pack.first]
        summed, done = hashlib.sha256(), 0
        while piece := read_at(pack.fd, offset + done, min(_PIECE, size - done)):
            summed.update(piece)
            file.write(piece)
            done += len(piece)
        if summed.digest() != digest:
            raise DamagedError(f"a stored file of {size} bytes is damaged")

    def _pack(self, number: int) -> Pack:
        return next(pack for pack in reversed(self.packs) if pack.first <= number)

    def _digest(self, number: int) -> bytes:
        pack = self._pack(number)
        return pack.entries[number - pack.first][2]

    def is_cancelled(self, task: TaskRow) -> bool:
        return (task.number, task.attempt) in self.cancelled

    def look_for_cancels(self) -> None:
        """Take note of the tasks that were cancelled since the last look; parts are left for `look_into_inbox`."""
        fd = open_own(os.path.join(self.path, INBOX))
        try:
            news = read_at(fd, self.inbox_read, max(os.fstat(fd).st_size - self.inbox_read, 0))
        finally:
            os.close(fd)
        records, used, _ = read_lines(news, self.key)
        self.inbox_read += used
        for record in records:
            if record["ev"] == "cancel":
                self.cancelled.update((number, attempt) for number, attempt in record["tasks"])
            else:
                self.pending.append(record)

    def look_into_inbox(self) -> bool:
        """Take all that was told since the last look; return whether a further part is among it."""
        self.look_for_cancels()
        before = self.parts
        while self.pending and self._take(self.pending[0]):
            del self.pending[0]
        return self.parts > before

    def _take(self, record: Mapping[str, Any]) -> bool:  # Any: JSON
        """Take one record of the inbox; return ``False`` when what it tells of is not to be seen here yet."""
        if record["ev"] == "leave":
            self.leave = Leave(record["all"], record["names"])
            return True
        if record["n"] != self.parts + 1:
            return True  # told twice
        if record["ev"] == "close":
            self.closed = True
        if record["ev"] != "more":
            return True
        try:
            opened = _open_pack(os.path.join(self.path, f"more-{record['n']}", "payload.pack"), record["index"])
        except FileNotFoundError:
            return False
        pack = Pack(self.packs[-1].first + len(self.packs[-1].entries), *opened)
        # A function that an earlier part brought is loaded already.
        known = {self._digest(number): number for number in {row[2] for row in self.rows}}
        if record["units"] is not None or self.units is not None:
            self.units = self.units or [(position,) for position in range(len(self.rows))]
            told = record["units"] or [[len(self.rows) + place] for place in range(len(record["tasks"]))]
            self.units += [tuple(unit) for unit in told]
        tables = len(self.inputs)
        for refs in record["inputs"]:
            self.inputs.append({key: _moved(ref, pack.first) for key, ref in refs.items()})
        for number, attempt, fn, args, table, name in record["tasks"]:
            blob = known.get(pack.entries[fn][2], pack.first + fn)
            self.rows.append([number, attempt, blob, pack.first + args, tables + table, name])
        self.cuts += record["cuts"]
        self.packs.append(pack)
        self.parts += 1
        return True

    def place(self, stored: tuple[str, int, int, str]) -> tuple[str, int, int, str]:
        """Return path, offset, size and SHA-256 of what a worker of this bag wrote into a file below it."""
        name, offset, size, digest = stored
        return os.path.join(self.path, name), offset, size, digest


def _moved(ref: Any, first: int) -> Any:  # Any: JSON of `hpcflow.core.bag.Ref`
    """Return a reference of a part whose blobs begin with number ``first`` of the bag."""
    if isinstance(ref, int):
        return ref + first
    return {**ref, "out": ref["out"] + first} if isinstance(ref, dict) and "out" in ref else ref


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
        opened = _open_pack(os.path.join(path, "payload.pack"), spec["index"])
    except StrangeFile as error:
        raise RefusedBag(str(error)) from error
    except (OSError, DamagedError) as error:
        raise RefusedBag(f"The payload pack of {path} can't be used: {error}.") from error
    bag = BagDirectory(path, key, spec, Pack(0, *opened))
    try:
        bag.look_into_inbox()
    except (OSError, StrangeFile, DamagedError) as error:
        raise RefusedBag(f"The inbox of {path} can't be used: {error}.") from error
    return bag


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
