"""The cluster is reached by ssh: every command is one channel of one connection, files go as one compressed tar."""

from __future__ import annotations

import asyncio
import os
import uuid
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

from hpcflow.core.plugin import Command, Reply
from hpcflow.server.remote.carrier import Carrier, LinkLost
from hpcflow.server.remote.shell import (
    GONE,
    Answer,
    append_program,
    environment_program,
    parse_environment,
    parse_news,
    push_program,
    read_program,
    run_program,
    spell_offsets,
    tar_stream,
    watch_program,
)
from hpcflow.server.remote.transport import Ask, File, Gone, Link, Transport, TransportError

__all__ = ["SshTransport"]

T = TypeVar("T")

#: A login shell reads the user's profile: modules and conda take their time.
_PROFILE_S: Final = 60.0
_QUICK_S: Final = 60.0
#: Links slower than this, in bytes per second, are broken links.
_SLOWEST: Final = 30_000
#: Bytes that a command may write, and those that one look at a file brings.
_OUTPUT: Final = 256 * 2**20
_PIECE: Final = 8 * 2**20
_SAID: Final = 300
#: Bytes that are compressed at a time, in a thread.
_BATCH: Final = 2**20
#: Times that an idempotent call is made when the connection breaks under it.
_TRIES: Final = 3


class SshTransport:
    """One cluster behind ssh. Nothing is connected before the first call."""

    def __init__(self, connection: Carrier) -> None:
        self.connection = connection
        self._environment: dict[str, str] | None = None
        self._asking = asyncio.Lock()

    # ---- what every transport does

    async def run(self, command: Command, deadline_s: float) -> Reply:
        try:
            environment = await self._login_environment()
            answer = await self.connection.execute(
                run_program(command, environment), command.stdin, deadline_s=deadline_s, most=_OUTPUT
            )
        except TransportError as error:
            return Reply(None, b"", str(error).encode())
        except ValueError as error:
            return Reply(126, b"", f"{command.argv[0]}: {error}".encode())
        return Reply(answer.exit_code, answer.stdout, answer.stderr)

    async def push(self, directory: str, folders: Sequence[str], files: Sequence[File]) -> None:
        size = sum(file.size for file in files)

        async def once() -> Answer:
            part = f"{directory}.part-{uuid.uuid4().hex[:8]}"
            program = push_program(directory, part, [file.name for file in files])
            stream = partial(_compressed, folders, files)
            return await self.connection.execute(program, stream, deadline_s=_patience(size), most=_PIECE)

        self._check(await self._again(once), directory)

    async def append(self, path: str, data: bytes) -> None:
        async def once() -> Answer:
            return await self.connection.execute(
                append_program(path), data, deadline_s=_patience(len(data)), most=_PIECE
            )

        self._check(await self._again(once), path)

    async def read_new(self, directory: str, offsets: Mapping[str, int]) -> dict[str, bytes]:
        program, at, news = watch_program(directory), dict(offsets), dict[str, bytes]()
        more = True
        while more:

            async def once() -> Answer:
                known = spell_offsets(at)
                return await self.connection.execute(program, known, deadline_s=_patience(_OUTPUT // 8), most=_OUTPUT)

            answer = await self._again(once)
            if answer.exit_code == GONE:
                raise Gone(f"{os.path.dirname(directory)} on {self.connection.host} was deleted")
            self._check(answer, directory)
            try:
                pieces, more = parse_news(answer.stdout)
            except TransportError as error:
                raise TransportError(f"{directory} on {self.connection.host}: {error}") from None
            for name, piece in pieces.items():
                news[name] = news.get(name, b"") + piece
                at[name] = at.get(name, 0) + len(piece)
        return news

    async def read(self, path: str, offset: int, size: int) -> bytes:
        pieces: list[bytes] = []
        while size > 0:
            program, wanted = read_program(path, offset, min(size, _PIECE)), min(size, _PIECE)

            async def once(program: str = program, wanted: int = wanted) -> Answer:
                return await self.connection.execute(program, b"", deadline_s=_patience(wanted), most=wanted + _PIECE)

            piece = self._check(await self._again(once), path).stdout
            pieces.append(piece)
            offset, size = offset + len(piece), size - len(piece)
            if len(piece) < wanted:
                break
        return b"".join(pieces)

    # ---- what only a link has

    @property
    def needs_login(self) -> bool:
        return self.connection.needs_login

    async def reach(self) -> None:
        await self.connection.connect(now=True)

    async def home(self) -> str:
        home = (await self._login_environment()).get("HOME", "")
        if not os.path.isabs(home):
            raise TransportError(f"The login shell on {self.connection.host} has no HOME; set workdir and keys.")
        return home

    async def login(self, ask: Ask) -> None:
        await self.connection.connect(ask)

    async def close(self) -> None:
        await self.connection.close()

    # ---- small things

    async def _login_environment(self) -> dict[str, str]:
        """Return what a login shell there has of the variables that commands get; asked for once."""
        async with self._asking:
            if self._environment is None:

                async def once() -> Answer:
                    return await self.connection.execute(environment_program(), b"", deadline_s=_PROFILE_S, most=_PIECE)

                self._environment = parse_environment((await self._again(once)).stdout)
            return self._environment

    async def _again(self, once: Callable[[], Awaitable[T]]) -> T:
        """Do what does no harm when it is done twice, until its end is seen."""
        for _ in range(_TRIES - 1):
            await self.connection.connect()
            broken = self.connection.count
            try:
                return await once()
            except LinkLost:
                await self.connection.connect()
                if self.connection.count == broken:
                    raise  # the connection is fine: it was the command that took too long, or wrote too much
        return await once()

    def _check(self, answer: Answer, path: str) -> Answer:
        if answer.exit_code != 0:
            said = answer.stderr.decode(errors="replace").strip().splitlines()
            reason = said[-1][-_SAID:] if said else f"exit code {answer.exit_code}"
            raise TransportError(f"{path} on {self.connection.host}: {reason}")
        return answer


_conforms: tuple[type[Transport], type[Link]] = (SshTransport, SshTransport)


def _patience(size: int) -> float:
    """Return how long so many bytes may take, in seconds; a dead connection is noticed long before."""
    return _QUICK_S + size / _SLOWEST


async def _compressed(folders: Sequence[str], files: Sequence[File]) -> AsyncGenerator[bytes]:
    """Yield a gzipped tar piece by piece; level 1 is faster than any link that is worth compressing for."""
    deflate = zlib.compressobj(1, wbits=31)
    batch: list[bytes] = []
    waiting = 0
    for piece in tar_stream(folders, files):
        for start in range(0, len(piece), _BATCH):
            batch.append(piece[start : start + _BATCH] if len(piece) > _BATCH else piece)
            waiting += len(batch[-1])
            if waiting >= _BATCH:
                data, batch, waiting = b"".join(batch), [], 0
                yield await asyncio.to_thread(deflate.compress, data)
    yield deflate.compress(b"".join(batch)) + deflate.flush()
