"""Brings large things from the server: shown meanwhile, taken up at the byte where they were cut, checked."""

from __future__ import annotations

import hashlib
import os
import sys
import time
import zlib
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from hpcflow.core.model import HpcflowError
from hpcflow.sdk import partial
from hpcflow.sdk.connection import Refused, Server, ServerFault, ServerUnreachable

__all__ = ["Damaged", "Entry", "Fetch", "Listing", "fetch_result", "fetch_value", "listing", "showing", "value_size"]

#: Pauses before a download that was cut goes on, in seconds; whatever came in between, they begin anew.
_PAUSES_S: Final = (0.2, 1.0, 3.0, 10.0, 20.0)
#: Files of one request: a folder of many small ones costs few of them.
_BATCH_FILES: Final = 2000
_BATCH_BYTES: Final = 64 * 2**20
_READ: Final = 1 << 20
_BEYOND: Final = 2**53 - 1

#: Told of each piece: how many bytes it has.
Show = Callable[[int], None]
#: Bytes of an archive that are unpacked at once.
_UNPACKED: Final = 2**20


class Damaged(HpcflowError):
    """What came is not what was written."""


class Sink(Protocol):
    def write(self, data: bytes, /) -> object: ...


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, folder or link below the folder of a listing."""

    #: Without "./", and never a way out of the folder.
    name: str
    kind: str
    size: int
    executable: bool
    target: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Listing:
    """What lies at a path on a cluster."""

    cluster: str
    kind: str
    root: str
    name: str
    entries: tuple[Entry, ...]
    #: Files that are left out because of their names.
    odd: int


@contextmanager
def showing(what: str, total: int, *, wanted: bool) -> Generator[Show]:
    """Give a function that moves a bar, where one is wanted and stderr is a terminal."""
    from hpcflow.sdk.terminal import can_show

    if not (wanted and can_show()):
        yield lambda size: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(bar_width=30),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=4) as bar:
        row = bar.add_task(what, total=total)
        yield lambda size: bar.update(row, advance=size)


def value_size(server: Server, dispatch: str, task: int) -> int:
    """Return how many bytes the pickle of a task's value has.

    Raises:
        NotFound: it has left none.
    """
    path = f"/dispatches/{dispatch}/tasks/{task}/value"
    with server.stream("GET", path, query={"offset": _BEYOND}) as (headers, _):
        return int(headers["x-hpcflow-size"])


def fetch_value(
    server: Server, dispatch: str, task: int, sink: Sink, *, have: bytes | Path = b"", show: Show = lambda size: None
) -> int:
    """Write what a task returned or raised, as a pickle, and return its size.

    Args:
        server: whom to ask.
        dispatch: the dispatch's id.
        task: its index.
        sink: takes the bytes beyond those that are there.
        have: what an earlier download brought.
        show: told of each piece.

    Raises:
        NotFound: it has left no value.
        Damaged: what came is not what was written.
        HpcflowError: it can't be read.
    """
    digest = hashlib.sha256(have if isinstance(have, bytes) else b"")
    at = len(have) if isinstance(have, bytes) else _feed(digest, have)
    show(at)
    told = ""
    for piece, headers in _whole(server, f"/dispatches/{dispatch}/tasks/{task}/value", at):
        told = headers.get("x-hpcflow-sha256", "")
        digest.update(piece)
        sink.write(piece)
        show(len(piece))
        at += len(piece)
    if digest.hexdigest() != told:
        raise Damaged(f"The value of task {task} of {dispatch} is damaged: its checksum is another than its worker's.")
    return at


def fetch_result(server: Server, task: tuple[str, int], to: Path, size: int, show: Show) -> None:
    """Bring the pickle of a task's value to a file; what an earlier try left of it is taken up, if it is right.

    Args:
        server: whom to ask.
        task: the dispatch's id and the task's index.
        to: the file.
        size: its bytes.
        show: told of each piece.

    Raises:
        UserError: something is at ``to``, or another download is under way to it.
        NotFound: it has left no value.
        Damaged: what came is not what was written.
        HpcflowError: it can't be read.
    """
    with partial.held(to, (*task, "result")) as part:
        while True:
            had = partial.begun(part, size)
            try:
                with partial.opened(part) as file:
                    fetch_value(server, *task, file, have=part, show=show)
                break
            except Damaged:
                part.unlink()
                if not had:
                    raise
                show(-size)
        part.rename(to)


def _feed(digest: Any, path: Path) -> int:  # Any: hashlib's own type has no name
    size = 0
    with path.open("rb") as file:
        while piece := file.read(_READ):
            digest.update(piece)
            size += len(piece)
    return size


def _whole(server: Server, path: str, at: int) -> Iterator[tuple[bytes, Mapping[str, str]]]:
    """Yield a stream from a byte on, to its end, however often it is cut."""
    pauses = iter(_PAUSES_S)
    while True:
        try:
            with server.stream("GET", path, query={"offset": at}) as (headers, pieces):
                for piece in pieces:
                    at += len(piece)
                    pauses = iter(_PAUSES_S)
                    yield piece, headers
                yield b"", headers
            return
        except (ServerUnreachable, ServerFault, Refused):
            _wait(pauses)


def _wait(pauses: Iterator[float]) -> None:
    """Wait before the next try, or raise what is being handled when there were enough of them."""
    pause = next(pauses, None)
    if pause is None:
        raise sys.exc_info()[1] or AssertionError("nothing is being handled")
    time.sleep(pause)


# ---- files


def bring_logs(server: Server, dispatch: str, to: Sink, *, failed: bool) -> None:
    """Write a gzipped tar of what the tasks of a dispatch wrote, as the server makes it.

    Args:
        server: that knows the dispatch.
        dispatch: its whole id.
        to: where the bytes go.
        failed: only of tasks that have failed.

    Raises:
        ServerUnreachable: the stream was cut: what was written is not whole.
    """
    query = {"failed": "true"} if failed else {}
    with server.stream("GET", f"/dispatches/{dispatch}/logs", query=query) as (_, pieces):
        ends = zlib.decompressobj(wbits=31)
        for piece in pieces:
            to.write(piece)
            left = piece
            while left:  # a little of it may be much when it is unpacked
                ends.decompress(left, _UNPACKED)
                left = ends.unconsumed_tail
    # A stream without a length that ends early looks like one that has ended.
    if not ends.eof:
        raise ServerUnreachable("The archive of logs ended early: ask again.")


def listing(server: Server, dispatch: str, task: int, path: str) -> Listing:
    """Return what lies at a path below a task's directory, or at an absolute path on its cluster.

    Raises:
        NotFound: nothing does.
        UserError: it leads out of the directory.
    """
    raw = server.ask("GET", f"/dispatches/{dispatch}/tasks/{task}/files", query={"path": path}, wait_s=3600)
    entries: list[Entry] = []
    odd = int(raw["odd"])
    folders = {each["name"].removeprefix("./") for each in raw["entries"] if each["kind"] == "folder"}
    seen = set[str]()
    for each in raw["entries"]:
        name = each["name"].removeprefix("./")
        parts, above = name.split("/"), name.rpartition("/")[0]
        if name in seen or (above and above not in folders) or {"", ".", ".."} & set(parts):
            odd += 1
            continue
        seen.add(name)
        entries.append(
            Entry(name, each["kind"], each["size"], each["executable"], each["target"] or "", each["sha256"] or "")
        )
    return Listing(raw["cluster"], raw["kind"], raw["root"], raw["name"], tuple(entries), odd)


class Brought(NamedTuple):
    """A file or folder that has come."""

    to: Path
    #: Links that led out of the folder, and how many files have names with line breaks: neither came.
    left_out: Sequence[str]
    odd: int


def bring(
    server: Server, task: tuple[str, int], path: str, named: str | os.PathLike[str] | None, *, wanted: bool
) -> Brought:
    """Bring a file or folder of a task's directory to this machine.

    Args:
        server: whom to ask.
        task: the dispatch's id and the task's index.
        path: below the task's directory; ``"."`` for all of it.
        named: the destination, or a folder that it goes into; ``None``: its own name, here.
        wanted: progress is shown.

    Raises:
        NotFound: there is nothing.
        UserError: the path leads out of the task's directory, or something is at the destination.
        HpcflowError: it can't be read.
    """
    found = listing(server, *task, path)
    # The directory's own name is one of its worker's, which tells nobody anything.
    to = destination(named, f"{task[0]}-{task[1]}" if path == "." else found.name)
    left_out: list[str] = []
    with showing(found.name, sum(each.size for each in found.entries), wanted=wanted) as show:
        fetch = Fetch(server, task, found, show)
        if found.kind == "file":
            fetch.file(to)
        else:
            left_out = fetch.tree(to)
    return Brought(to, left_out, found.odd)


def destination(named: str | os.PathLike[str] | None, name: str) -> Path:
    """Return where something called ``name`` goes: into a folder that is there, or to the place that was named."""
    if named is None:
        return Path(name)
    to = Path(named)
    return to / name if to.is_dir() or os.fspath(named).endswith("/") else to


class Fetch:
    """Brings what a listing holds."""

    def __init__(self, server: Server, task: tuple[str, int], found: Listing, show: Show) -> None:
        """Bring nothing yet.

        Args:
            server: whom to ask.
            task: the dispatch's id and the task's index.
            found: what to bring.
            show: told of each piece.
        """
        self._server = server
        self._path = f"/dispatches/{task[0]}/tasks/{task[1]}/files"
        self._found = found
        self._what = (*task, found.kind, found.root, found.name)
        self._show = show

    def file(self, to: Path) -> None:
        """Bring one file; a part of it that an earlier try left beside it is taken up.

        Raises:
            UserError: something is at ``to``, or another download is under way to it.
            HpcflowError: it can't be read, or changed meanwhile.
        """
        with partial.held(to, self._what) as part:
            self._bring({each.name: part for each in self._found.entries})
            part.rename(to)

    def tree(self, to: Path) -> list[str]:
        """Bring a folder, and return the links that were left out: those that lead, or may lead, out of it.

        Raises:
            UserError: something is at ``to``, or another download is under way to it.
            HpcflowError: a file can't be read, or changed meanwhile.
        """
        named = {
            kind: [each.name for each in self._found.entries if each.kind == kind]
            for kind in ("file", "folder", "link")
        }
        links, left_out = set(named["link"]), list[str]()
        with partial.held(to, self._what) as part:
            partial.keep_only(part, set(named["file"]), set(named["folder"]))
            for name in sorted(named["folder"]):
                (part / name).mkdir(exist_ok=True)
            self._bring({name: part / name for name in named["file"]})
            # After all else, so that nothing is written through them.
            for entry in self._found.entries:
                if entry.kind != "link":
                    continue
                if _stays_inside(entry, links):
                    (part / entry.name).symlink_to(entry.target)
                else:
                    left_out.append(entry.name)
            part.rename(to)
        return left_out

    def _bring(self, places: Mapping[str, Path]) -> None:
        """Write files to their places, from where an earlier try left them."""
        batch: list[Entry] = []
        waiting = 0
        for entry in self._found.entries:
            if entry.name not in places:
                continue
            batch.append(entry)
            waiting += entry.size
            if len(batch) >= _BATCH_FILES or waiting >= _BATCH_BYTES:
                self._bring_batch(batch, places)
                batch, waiting = [], 0
        self._bring_batch(batch, places)

    def _bring_batch(self, batch: Sequence[Entry], places: Mapping[str, Path]) -> None:
        # Without a checksum nothing says that what is there is of the file as it is now.
        have = {each.name: partial.begun(places[each.name], each.size if each.sha256 else 0) for each in batch}
        self._show(sum(have.values()))
        pauses = iter(_PAUSES_S)
        while left := [each for each in batch if have[each.name] < each.size]:
            spans = [[f"./{each.name}", have[each.name], each.size - have[each.name]] for each in left]
            try:
                body = {"root": self._found.root, "files": spans}
                with self._server.stream("POST", self._path, body=body) as (_, pieces):
                    stream = _Buffered(pieces)
                    for each in left:
                        with partial.opened(places[each.name]) as file:
                            while have[each.name] < each.size:
                                piece = stream.take(each.size - have[each.name])
                                file.write(piece)
                                have[each.name] += len(piece)
                                self._show(len(piece))
                                pauses = iter(_PAUSES_S)
            except (ServerUnreachable, ServerFault, Refused):
                _wait(pauses)
        for each in batch:
            place = places[each.name]
            partial.opened(place).close()
            if each.executable:
                place.chmod(place.stat().st_mode | 0o100)
            self._check(each, place)

    def _check(self, entry: Entry, place: Path) -> None:
        digest = hashlib.sha256()
        size = _feed(digest, place)
        if size != entry.size or (entry.sha256 and digest.hexdigest() != entry.sha256):
            place.unlink()
            raise HpcflowError(
                f"{entry.name} in {self._found.root} on {self._found.cluster} changed while it was fetched, or what "
                "came is damaged: its checksum is another. Fetch it again."
            )


def _stays_inside(link: Entry, links: Collection[str]) -> bool:
    """Return whether a link's path never leaves the folder; one that passes through another link may."""
    if link.target.startswith("/"):
        return False
    at = link.name.split("/")[:-1]
    steps = [step for step in link.target.split("/") if step not in {"", "."}]
    for number, step in enumerate(steps, 1):
        if step != "..":
            at.append(step)
        elif at:
            at.pop()
        else:
            return False
        if number < len(steps) and "/".join(at) in links:
            return False
    return True


class _Buffered:
    """Pieces of a stream, cut anew."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def take(self, most: int) -> bytes:
        if not self._rest:
            self._rest = next(self._pieces, b"")
            if not self._rest:
                raise ServerUnreachable("The server's stream ended too early.")
        piece, self._rest = self._rest[:most], self._rest[most:]
        return piece
