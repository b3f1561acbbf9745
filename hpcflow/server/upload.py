"""Reads the upload of a dispatch: inflates it with a limit, checks every blob, and leaves the blobs in one file."""

from __future__ import annotations

import hashlib
import os
import secrets
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NotRequired, cast

from pydantic import ConfigDict, Field, JsonValue, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from hpcflow.core.bag import DamagedError, stream_head
from hpcflow.core.model import ULID, HpcflowError, Isolation, Launcher, UserError
from hpcflow.server.manifest import VERSION

__all__ = ["MEDIA_TYPE", "Manifest", "TooLarge", "Ulid", "Upload"]

MEDIA_TYPE: Final = "application/x-hpcflow-dispatch"
#: A manifest of a million tasks has about 100 MB.
MANIFEST_LIMIT: Final = 512 * 2**20
_STEP: Final = 2**20

# Beyond any machine, and within the store's 64 bits whatever is multiplied with it.
_MOST: Final = 2**40

Ulid = Annotated[str, Field(pattern=f"^{ULID}$")]
Count = Annotated[int, Field(ge=0, le=_MOST)]
Amount = Annotated[int, Field(ge=1, le=_MOST)]
#: What the next attempt asks for, as a multiple of the last.
Factor = Annotated[float, Field(ge=1, le=16, allow_inf_nan=False)]
#: One line: these words reach paths, command lines and batch scripts.
Text = Annotated[str, Field(max_length=4096, pattern=r"^[^\x00-\x1f\x7f]*$")]


#: One word of a command line that no command takes for an option.
Word = Annotated[str, Field(max_length=4096, pattern=r"^[^\x00-\x20\x7f-][^\x00-\x20\x7f]*$")]
Place = Annotated[str, Field(max_length=4096, pattern=r"^(~/|/)[^\x00-\x1f\x7f]*$")]


class ClientNote(TypedDict):
    """Who dispatched."""

    host: Text
    user: Text
    version: Text
    #: Variables by which its environment leads elsewhere than this server's does, by scheduler, "ssh" among them.
    others: NotRequired[dict[str, list[Text]]]


class FileNote(TypedDict):
    """A file that a process beside this server fetches for tasks."""

    key: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
    address: Annotated[str, Field(max_length=4096)]
    options: dict[str, JsonValue]


class FunctionNote(TypedDict):
    """An electron's function, for people: the server never opens the pickle."""

    name: Text
    module: str | None
    source: str | None
    #: Modules of packages that it needs, and their versions where it was dispatched.
    imports: NotRequired[dict[Text, Text]]
    #: What tells its code from others'.
    digest: NotRequired[Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None]
    #: What an executor of the user's own says of itself.
    executor: NotRequired[dict[str, JsonValue] | None]
    #: What its parameters are called.
    parameters: NotRequired[list[Text]]
    #: What its tasks find when they begin.
    fetched: NotRequired[list[FileNote]]
    #: Where the server brings what its tasks leave.
    sent: NotRequired[list[FileNote]]


class ResourcesNote(TypedDict, total=False):
    """The fields of `core.model.Resources` that differ from their defaults."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")  # type: ignore[misc]  # pydantic reads it from here

    nodes: Amount
    ntasks: Amount
    cpus: Amount
    memory_mib: Amount | None
    gpus: Count
    walltime_s: Amount | None
    partition: Text | None
    account: Text | None
    qos: Text | None
    constraint: Text | None
    reservation: Text | None
    licenses: Text | None
    exclude: Text | None
    extra: list[Text]


class RetriesNote(TypedDict):
    """The fields of `core.model.Retries`, all of them."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")  # type: ignore[misc]  # pydantic reads it from here

    times: Annotated[int, Field(ge=0, le=100)]
    memory: Factor
    walltime: Factor
    exceptions: list[Text]


class EnvironmentNote(TypedDict, total=False):
    """The fields of `core.environment.Environment` that differ from their defaults."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")  # type: ignore[misc]  # pydantic reads it from here

    modules: list[Word]
    conda: Word
    venv: Place
    container: Text
    binds: list[Place]
    python: Word
    #: The user's own shell: lines of it.
    prologue: Annotated[str, Field(max_length=2**16, pattern=r"^[^\x00\r]*$")]
    requirements: list[Text]
    alone: bool
    check: bool


class ShapeNote(TypedDict):
    """What tasks ask for; whether a cluster can give it is checked where clusters are known."""

    executor: Text | None
    resources: ResourcesNote
    workdir: Text | None
    retries: RetriesNote
    accept_failed: bool
    on_cancelled: Literal["pause", "retry"]
    max_running: Amount | None
    launcher: Launcher | None
    isolation: Isolation | None
    env: NotRequired[EnvironmentNote]
    sublattice: bool


class CallNote(TypedDict):
    """Which blobs hold the lattice's own call, for clients that dispatch it again; why one does not."""

    lattice: Count | None
    arguments: Count | None
    refused: Text


class ReuseNote(TypedDict):
    """Which tasks need not run, because an earlier dispatch has their results: [number here, number there]."""

    dispatch: Ulid
    tasks: list[tuple[Count, Count]]


class Manifest(TypedDict):
    """What an upload says about itself. Further keys pass through."""

    __pydantic_config__ = ConfigDict(strict=True, extra="allow")  # type: ignore[misc]  # pydantic reads it from here

    v: int
    id: Ulid
    name: Text
    python: tuple[Count, Count]
    executable: Text
    cwd: Text
    client: ClientNote
    functions: dict[str, FunctionNote]
    shapes: list[ShapeNote]
    #: Name, blob of the function, blob of the arguments, shape; in ``needs`` the tasks it needs, and those before it.
    tasks: list[tuple[Text, Count, Count, Count, Count, Count]]
    #: Indices of tasks. Each list is there once: what all tasks of a stage need is not said for each of them.
    needs: list[list[Count]]
    #: Nothing of it is submitted until somebody resumes it.
    held: NotRequired[bool]
    call: NotRequired[CallNote]
    reuse: NotRequired[ReuseNote]
    #: Further tasks will be appended, in parts of which one is the last.
    open: NotRequired[bool]
    last: NotRequired[bool]
    #: Of the tasks that are cached, what tells their calls from others'.
    keys: NotRequired[list[tuple[Count, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]]]]
    output: Count
    output_deps: list[Count]
    max_failures: Count | None
    max_running: Amount | None
    #: Size and SHA-256 in hex of each blob.
    blobs: list[tuple[Count, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]]]


_MANIFEST: Final = TypeAdapter(Manifest)


class TooLarge(HpcflowError):
    """The upload unpacks to more than the server takes."""


class Upload:
    """One upload in the making. Methods block on the disk; `close` when done, whatever happened."""

    def __init__(self, folder: str, *, limit: int) -> None:
        """Begin.

        Args:
            folder: where the file of blobs goes, private.
            limit: the bytes that the upload may unpack to.
        """
        #: Set as soon as enough bytes are there.
        self.manifest: Manifest | None = None
        #: Absolute path of the file that holds the blobs back to back, once `finish` has returned.
        self.path = ""
        self._folder = folder
        self._limit = limit
        self._inflater = zlib.decompressobj()
        self._inflated = 0
        self._head = bytearray()
        self._fd = -1
        self._blob = 0
        self._left = 0
        self._hash = hashlib.sha256()

    def feed(self, piece: bytes) -> None:
        """Take the next compressed bytes.

        Raises:
            UserError: this is no upload, or a part of it is not what the manifest says.
            TooLarge: it unpacks to more than ``limit``.
        """
        while piece:
            if self._inflater.eof:
                raise UserError("The upload goes on after its end.")
            try:
                data = self._inflater.decompress(piece, _STEP)
            except zlib.error as error:
                raise UserError(f"The upload is damaged on the way: {error}.") from None
            piece = self._inflater.unconsumed_tail or self._inflater.unused_data
            self._inflated += len(data)
            if self._inflated > self._limit:
                raise self._too_large()
            if self.manifest is None:
                self._head += data
                self._begin()
            else:
                self._write(data)

    def finish(self) -> Manifest:
        """Return the manifest when all of the upload is there and on the disk.

        Raises:
            UserError: something is missing.
        """
        if self.manifest is None or self._blob < len(self.manifest["blobs"]) or not self._inflater.eof:
            raise UserError("The upload was cut before its end: dispatch again.")
        os.fsync(self._fd)
        return self.manifest

    def close(self, *, keep: bool = False) -> None:
        """Close the file, and remove it unless somebody took it over."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            if not keep:
                Path(self.path).unlink(missing_ok=True)

    def _begin(self) -> None:
        try:
            span = stream_head(bytes(self._head[:64]))
        except DamagedError as error:
            raise UserError(f"{str(error)[0].upper()}{str(error)[1:]}.") from None
        if span is None:
            return
        start, size = span
        if size > min(MANIFEST_LIMIT, self._limit):
            raise self._too_large()
        if len(self._head) < start + size:
            return
        self.manifest = _parse(bytes(memoryview(self._head)[start : start + size]))
        if sum(size for size, _ in self.manifest["blobs"]) > self._limit:
            raise self._too_large()
        # The random part keeps two uploads of one dispatch apart: the client repeats one whose answer it lost.
        self.path = os.path.join(self._folder, f"{self.manifest['id']}.{secrets.token_hex(4)}.part")
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        rest = bytes(memoryview(self._head)[start + size :])
        self._head = bytearray()
        self._next()
        self._write(rest)

    def _next(self) -> None:
        """Go to the next blob that has bytes, checking those that have none."""
        assert self.manifest is not None
        blobs = self.manifest["blobs"]
        while self._blob < len(blobs):
            self._left = blobs[self._blob][0]
            self._hash = hashlib.sha256()
            if self._left:
                return
            self._check()

    def _check(self) -> None:
        assert self.manifest is not None
        if self._hash.hexdigest() != self.manifest["blobs"][self._blob][1]:
            raise UserError(f"Value {self._blob} of the upload is damaged: its checksum is another. Dispatch again.")
        self._blob += 1

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            if not self._left:
                raise UserError("The upload holds more values than its manifest names.")
            part = view[: self._left]
            self._hash.update(part)
            _write_all(self._fd, part)
            self._left -= len(part)
            view = view[len(part) :]
            if not self._left:
                self._check()
                self._next()

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"The dispatch unpacks to more than {self._limit} bytes. Pass large data as paths of files, "
            "or raise `max_upload` in config.toml."
        )


def _write_all(fd: int, data: memoryview) -> None:
    while data:
        try:
            data = data[os.write(fd, data) :]
        except OSError as error:
            raise HpcflowError(
                f"The dispatch can't be stored: {error.strerror}. Free some space, then dispatch again."
            ) from error


def _parse(raw: bytes) -> Manifest:
    try:
        manifest = _MANIFEST.validate_json(raw)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in fault["loc"]) or "its begin"
        raise UserError(f"The manifest of the dispatch is wrong at {place}: {fault['msg']}.") from None
    if manifest["v"] != VERSION:
        raise UserError(f"The dispatch has format {manifest['v']} and this server reads {VERSION}: `hpcflow restart`.")
    _check_numbers(manifest)
    return manifest


def _check_numbers(manifest: Manifest) -> None:
    """Refuse a number that points at nothing, so that no reader of the manifest needs to ask again."""
    blobs, tasks, shapes = len(manifest["blobs"]), len(manifest["tasks"]), len(manifest["shapes"])
    needs = len(manifest["needs"])
    for i, (_, fn, args, shape, *before) in enumerate(manifest["tasks"]):
        if fn >= blobs or args >= blobs or shape >= shapes or not _all_below(needs, before):
            raise UserError(f"Task {i} of the manifest names a value, a shape or a task that is not there.")
    if not all(_all_below(tasks, each) for each in manifest["needs"]):
        raise UserError("The tasks of the manifest need a task that is not there.")
    if manifest["output"] >= blobs or not _all_below(tasks, manifest["output_deps"]):
        raise UserError("The output of the manifest names a value or a task that is not there.")
    call = manifest.get("call")
    if call is not None and not _all_below(blobs, [n for n in (call["lattice"], call["arguments"]) if n is not None]):
        raise UserError("The call of the lattice in the manifest names a value that is not there.")
    if not _all_below(tasks, [new for new, _ in manifest["reuse"]["tasks"]] if "reuse" in manifest else ()):
        raise UserError("The manifest says that a task is not to run that is not there.")
    if not _all_below(tasks, [index for index, _ in manifest.get("keys", ())]):
        raise UserError("The manifest has a key for a task that is not there.")
    functions = cast("dict[str, Any]", manifest["functions"])  # Any: only the keys are looked at
    if not all(key.isascii() and key.isdigit() and len(key) < 19 and int(key) < blobs for key in functions):
        raise UserError("The functions of the manifest name a value that is not there.")


def _all_below(limit: int, numbers: Iterable[int]) -> bool:
    return all(number < limit for number in numbers)
