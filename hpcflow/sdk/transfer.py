"""Files that a task needs brought to it, and files that it makes brought away: what and where. Covalent's names.

How is said in `hpcflow.sdk.strategies`. "Local" is where the task runs. ``client:`` is the machine that dispatches:
such a file is read when the lattice is built, and its content travels with the task.
"""

from __future__ import annotations

import copy
import enum
import os
import re
import stat
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import unquote, urlsplit

from hpcflow.core.errors import HpcflowError, UserError
from hpcflow.sdk.fetched import Wanted, check_fetched
from hpcflow.sdk.mistakes import show_plainly

if TYPE_CHECKING:
    from hpcflow.sdk.arriving import FileTransferStrategy

__all__ = ["File", "FileTransfer", "Folder", "Order", "TransferFailed", "TransferFromRemote", "TransferToRemote"]

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://|(client):")
_CHECKSUM: Final = re.compile(r"sha256:[0-9a-f]{64}")


class TransferFailed(HpcflowError):
    """A file could not be brought to where it is wanted, or is not what it should be."""


class Order(enum.StrEnum):
    """When a transfer is done: before the task, or after it."""

    BEFORE = "before"
    AFTER = "after"


class File:
    """A file by its path or address.

    Args:
        filepath: a path where the task runs, relative to its directory; an address such as ``https://…`` or ``s3://…``;
            ``client:data.csv``, a path where you dispatch, in which ``{node_id}`` is the task's number if it goes
            there. ``None``: a new name in the task's directory.
        is_remote: it lies on the host of the strategy, though it is given as a path.
        is_dir: it is a folder.
        include_folder: the folder itself is brought, not only what is in it.
    """

    def __init__(
        self,
        filepath: str | os.PathLike[str] | None = None,
        is_remote: bool = False,
        is_dir: bool = False,
        include_folder: bool = False,
    ) -> None:
        show_plainly()
        if not isinstance(cast(object, filepath), (str, os.PathLike, type(None))):
            raise UserError(f"A file is named by a path or an address, not by {filepath!r}.")
        self.is_temp_file = filepath is None
        given = "transferred" if filepath is None else os.fspath(filepath)
        if not given or "\0" in given:
            raise UserError(f"{given!r} names no file.")
        match = _SCHEME.match(given)
        self.scheme = "file" if match is None else (match[1] or match[2]).lower()
        self.uri = given
        if self.scheme == "client":
            self.filepath = given.partition(":")[2]
        elif match is None:
            self.filepath = given
        else:
            parts = urlsplit(given)
            self.filepath = unquote(parts.path)
            if self.scheme == "file" and (parts.netloc not in {"", "localhost"} or not self.filepath):
                raise UserError(f"{given!r} names no file of one machine: write file:///path.")
        self.is_remote = is_remote or self.scheme not in {"file", "client"}
        #: The same for the same address: what a task is sent tells whether it is the same task.
        self.id = str(uuid.uuid5(uuid.NAMESPACE_URL, given))
        self.is_dir = is_dir or (self.filepath.endswith("/") and len(self.filepath) > 1)
        self.include_folder = include_folder

    @property
    def local(self) -> str:
        """The absolute path, as this process sees it."""
        return os.path.abspath(self.filepath)

    @property
    def shown(self) -> str:
        """What a task is told of it: an absolute path, or an address."""
        return self.local if self.scheme == "file" and not self.is_remote else self.uri

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.uri!r})"


class Folder(File):
    """A folder: all that is in it is brought, and the folder itself with ``include_folder=True``."""

    def __init__(
        self,
        filepath: str | os.PathLike[str] | None = None,
        is_remote: bool = False,
        is_dir: bool = True,
        include_folder: bool = False,
    ) -> None:
        super().__init__(filepath, is_remote, is_dir, include_folder)


@dataclass(frozen=True, slots=True)
class _ClientFile:
    """A file of the machine that dispatches."""

    #: Below the destination; ``""``: the destination itself.
    name: str
    mode: int
    content: bytes


class FileTransfer:
    """One file or folder to bring, before a task or after it: ``@hf.electron(files=[FileTransfer(…)])``.

    Args:
        from_file: where it lies; a path is one where the task runs. ``None``: a new name there.
        to_file: where it is wanted.
        order: before the task, or after it.
        strategy: how it is brought; what the two addresses say else.
        checksum: ``"sha256:…"`` of what must have arrived; of one file.

    Raises:
        UserError: both lie elsewhere than the task runs, or nothing is known to bring such a file.
    """

    def __init__(
        self,
        from_file: File | str | os.PathLike[str] | None = None,
        to_file: File | str | os.PathLike[str] | None = None,
        order: Order | str = Order.BEFORE,
        strategy: FileTransferStrategy | None = None,
        *,
        checksum: str | None = None,
    ) -> None:
        show_plainly()
        self.from_file = from_file if isinstance(from_file, File) else File(from_file)
        self.to_file = to_file if isinstance(to_file, File) else File(to_file)
        try:
            self.order = Order(order)
        except ValueError:
            raise UserError(f"order={order!r} must be Order.BEFORE or Order.AFTER.") from None
        if checksum is not None and not _CHECKSUM.fullmatch(checksum):
            raise UserError(f"checksum={checksum!r} must be 'sha256:' and 64 hexadecimal digits.")
        self.checksum = checksum
        for unnamed, other in ((self.to_file, self.from_file), (self.from_file, self.to_file)):
            if unnamed.is_temp_file:
                unnamed.filepath = unnamed.uri = f"transferred-{other.id}"
        self.strategy = strategy
        #: What the client's files held, in what was sent from there; ``None``: this was not sent.
        self._content: tuple[_ClientFile, ...] | None = None
        self._check()

    def _check(self) -> None:
        source, target = self.from_file, self.to_file
        if target.scheme == "client":
            if self.order is Order.BEFORE or source.is_remote or source.scheme == "client":
                raise UserError(f"{self}: what goes to where you dispatch goes after the task, from where it runs.")
            folder = "/" if target.is_dir else ""
            target.filepath = os.path.abspath(os.path.expanduser(target.filepath)) + folder
            return
        if source.scheme == "client":
            if self.order is Order.AFTER or target.is_remote:
                raise UserError(f"{self}: a file from where you dispatch comes before the task, to where it runs.")
            return
        if source.is_remote and target.is_remote:
            raise UserError(
                f"{self}: both lie elsewhere than the task; bring it to the task first, then on from there."
            )
        if self.strategy is None:
            from hpcflow.sdk.strategies import strategy_for

            self.strategy = strategy_for(source, target)
        if getattr(self.strategy, "where", "task") == "server":
            check_fetched(self)
            assert (self.wanted or self.leaving) is not None  # or it is refused

    @property
    def wanted(self) -> Wanted | None:
        """What the server fetches for this transfer; ``None``: the task does all of it."""
        ask = getattr(self.strategy, "wanted", None)  # a user's own strategy may derive from nothing
        return None if ask is None or not self.from_file.is_remote else ask(self.from_file)

    @property
    def leaving(self) -> Wanted | None:
        """Where the server brings what the task leaves; ``None``: the task does all of it."""
        ask = getattr(self.strategy, "leaving", None)
        return None if ask is None or not self.to_file.is_remote else ask(self.from_file, self.to_file)

    @property
    def brought(self) -> tuple[str, str] | None:
        """Where it lies when the task has ended, and where who waits for it brings it; ``None``: it is no such."""
        return (self.from_file.filepath, self.to_file.filepath) if self.to_file.scheme == "client" else None

    def cp(self) -> tuple[Callable[[], tuple[str, str]], Callable[[], object]]:
        """Return two functions for the task: one tells where the file is and goes, the other brings it."""
        source, target = self.from_file, self.to_file
        if source.scheme == "client":
            return self.pair, self._write
        if target.scheme == "client":
            return self.pair, self._leave
        strategy = self.strategy
        assert strategy is not None  # `_check` saw to it
        if source.is_remote:
            return self.pair, strategy.download(source, target)
        return self.pair, (strategy.upload if target.is_remote else strategy.cp)(source, target)

    def pair(self) -> tuple[str, str]:
        """Return source and destination as the task is told of them."""
        return self.from_file.shown, self.to_file.shown

    def carry_out(self) -> None:
        """Bring the file, in the task's process, and look whether it has arrived.

        Raises:
            TransferFailed: with source, destination, and what the other side said.
        """
        source, target = self.pair()
        here = os.uname().nodename
        try:
            self.cp()[1]()
            self._look()
        except Exception as error:  # of a library of any kind, or of the user's own strategy
            raise TransferFailed(f"{source} could not be brought to {target} (on {here}): {said(error)}.") from error

    def _look(self) -> None:
        from hpcflow.sdk.arriving import sha256_of

        source, target = self.from_file, self.to_file
        goes = target.is_remote or target.scheme == "client"
        if not goes and not os.path.lexists(target.local):
            raise TransferFailed(f"nothing is at {target.local} afterwards")
        if self.checksum is None:
            return
        path = source.local if goes else target.local
        found = f"sha256:{sha256_of(path)}"
        if found != self.checksum:
            if not goes:
                os.unlink(path)
            removed = "" if goes else "; it was removed"
            raise TransferFailed(f"its checksum is {found}, and {self.checksum} was wanted{removed}")

    # ---- the client's files

    def __getstate__(self) -> object:
        if self.from_file.scheme != "client" or self._content is not None:
            return self.__dict__
        # Read for each dispatch: the file may change between two of one process.
        source = copy.copy(self.from_file)
        content = _read_client(source)
        return {**self.__dict__, "from_file": source, "_content": content}

    def __setstate__(self, state: object) -> None:
        self.__dict__.update(cast("dict[str, object]", state))

    def _leave(self) -> None:
        if not os.path.lexists(self.from_file.local):
            raise TransferFailed(f"nothing is at {self.from_file.local}")

    def _write(self) -> None:
        from hpcflow.sdk.arriving import inside, target_of, written

        source = copy.copy(self.from_file)
        content = _read_client(source) if self._content is None else self._content
        for each in content:
            path = (
                inside(self.to_file.local, each.name) if each.name else target_of(self.from_file.filepath, self.to_file)
            )
            if each.name:
                os.makedirs(os.path.dirname(path), exist_ok=True)
            with written(path) as file:
                file.write(each.content)
            os.chmod(path, each.mode)
        if source.is_dir:
            os.makedirs(self.to_file.local, exist_ok=True)

    def __repr__(self) -> str:
        return f"The transfer from {self.from_file.uri} to {self.to_file.uri}"


def said(error: Exception) -> str:
    """Return what an error of a file system says, without a full stop; some say a path and no more."""
    text = str(error).strip().rstrip(".")
    if isinstance(error, FileNotFoundError) and error.errno is None and text and " " not in text:
        return f"there is no {text}"
    return text or type(error).__name__


def special(path: str | os.PathLike[str]) -> str | None:
    """Return what lies at a path when it is neither a file nor a folder: to open that may wait for ever.

    Raises:
        OSError: nothing is there, or nobody may look.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return None
    return "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"


def _read_client(source: File) -> tuple[_ClientFile, ...]:
    """Return what a file or folder holds here, and let it know that it is a folder."""
    path = Path(source.filepath).expanduser()
    try:
        for each in [path, *sorted(path.rglob("*"))] if path.is_dir() else [path]:
            if (each == path or each.exists()) and (what := special(each)) is not None:
                raise UserError(f"{source.uri} can't be sent: {each} is {what}, and no file.")
        if not path.is_dir():
            return (_ClientFile("", stat.S_IMODE(path.stat().st_mode), path.read_bytes()),)
        source.is_dir = True
        base = path.parent if source.include_folder else path
        return tuple(
            _ClientFile(str(each.relative_to(base)), stat.S_IMODE(each.stat().st_mode), each.read_bytes())
            for each in sorted(path.rglob("*"))
            if each.is_file()
        )
    except OSError as error:
        raise UserError(f"{source.uri} can't be read where you dispatch: {error.strerror or error}.") from None


def TransferFromRemote(
    from_filepath: File | str | os.PathLike[str],
    to_filepath: File | str | os.PathLike[str] | None = None,
    strategy: FileTransferStrategy | None = None,
    order: Order | str = Order.BEFORE,
    *,
    checksum: str | None = None,
) -> FileTransfer:
    """Return a transfer from elsewhere to where the task runs, before it."""
    return FileTransfer(_remote(from_filepath), to_filepath, order, strategy, checksum=checksum)


def TransferToRemote(
    to_filepath: File | str | os.PathLike[str],
    from_filepath: File | str | os.PathLike[str] | None = None,
    strategy: FileTransferStrategy | None = None,
    order: Order | str = Order.AFTER,
    *,
    checksum: str | None = None,
) -> FileTransfer:
    """Return a transfer from where the task runs to elsewhere, after it."""
    return FileTransfer(from_filepath, _remote(to_filepath), order, strategy, checksum=checksum)


def _remote(given: File | str | os.PathLike[str]) -> File:
    file = given if isinstance(given, File) else File(given)
    if file.scheme != "client":
        file.is_remote = True
    return file
