"""The cluster is this machine: its commands are processes of ours, its files are files here."""

from __future__ import annotations

import asyncio
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final, ParamSpec, TypeVar

from hpcflow.core.plugin import Command, Reply
from hpcflow.server.children import kill_session
from hpcflow.server.remote.transport import File, Gone, Transport, TransportError, clean_environment

P = ParamSpec("P")
T = TypeVar("T")

__all__ = ["ThisMachine"]

_READ_AT_ONCE: Final = 8 * 2**20


class ThisMachine:
    """The cluster is reached from here: a login node, a workstation, a laptop's own processes."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = clean_environment(environ)

    async def run(self, command: Command, deadline_s: float) -> Reply:
        try:
            process = await asyncio.create_subprocess_exec(
                *command.argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={**self._environ, **command.environment},
                cwd="/",
                start_new_session=True,
            )
        except FileNotFoundError:
            return Reply(127, b"", f"{command.argv[0]}: command not found".encode())
        except OSError as error:
            return Reply(126, b"", f"{command.argv[0]}: {error.strerror}".encode())
        try:
            async with asyncio.timeout(deadline_s):
                stdout, stderr = await process.communicate(command.stdin)
        except TimeoutError:
            if process.returncode is None:
                kill_session(process)  # scontrol 22.05 without a slurm.conf leaves a child for 60 s
            await process.wait()
            return Reply(None, b"", f"{command.argv[0]} gave no answer within {deadline_s:g} s".encode())
        except BaseException:
            if process.returncode is None:
                kill_session(process)
            raise
        return Reply(process.returncode, stdout, stderr)

    async def push(self, directory: str, folders: Sequence[str], files: Sequence[File]) -> None:
        await _in_thread(_write_directory, directory, folders, files)

    async def append(self, path: str, data: bytes) -> None:
        await _in_thread(_append, path, data)

    async def read_new(self, directory: str, offsets: Mapping[str, int]) -> dict[str, bytes]:
        return await _in_thread(_read_new, directory, offsets)

    async def read(self, path: str, offset: int, size: int) -> bytes:
        return await _in_thread(_read, path, offset, size)


_conforms: type[Transport] = ThisMachine


async def _in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    try:
        return await asyncio.to_thread(function, *args, **kwargs)
    except OSError as error:
        raise TransportError(f"{error.filename or 'a file'}: {error.strerror or error}") from error


def _write_directory(directory: str, folders: Sequence[str], files: Iterable[File]) -> None:
    if os.path.isdir(directory):
        return
    os.makedirs(os.path.dirname(directory), mode=0o700, exist_ok=True)
    part = f"{directory}.part-{uuid.uuid4().hex[:8]}"
    os.mkdir(part, 0o700)
    try:
        for folder in folders:
            os.mkdir(os.path.join(part, folder), 0o700)
        for file in files:
            fd = os.open(os.path.join(part, file.name), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(fd, "wb") as out:
                out.writelines(file.pieces)
                out.flush()
                os.fsync(fd)
        os.rename(part, directory)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        if not os.path.isdir(directory):
            raise


def _append(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
    with open(fd, "ab") as file:
        file.write(data)
        file.flush()
        os.fsync(fd)


def _read_new(directory: str, offsets: Mapping[str, int]) -> dict[str, bytes]:
    news: dict[str, bytes] = {}
    try:
        entries = os.scandir(directory)
    except FileNotFoundError:
        bag = os.path.dirname(directory)
        # A file system that is not mounted has no directory for bags at all.
        if os.path.isdir(os.path.dirname(bag)):
            raise Gone(f"{directory} was deleted") from None
        raise
    with entries:
        for entry in entries:
            offset = offsets.get(entry.name, 0)
            if entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_size > offset:
                with suppress(PermissionError):  # not a worker's: those are ours, 0600
                    news[entry.name] = _read(entry.path, offset, _READ_AT_ONCE)
    return news


def _read(path: str, offset: int, size: int) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        pieces: list[bytes] = []
        while size > 0 and (piece := os.pread(fd, min(size, _READ_AT_ONCE), offset)):
            pieces.append(piece)
            offset += len(piece)
            size -= len(piece)
        return b"".join(pieces)
    finally:
        os.close(fd)
