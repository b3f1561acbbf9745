"""A socket of this machine whose other end is a socket that the login node sees, through the one connection."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

import asyncssh

from hpcflow.server.remote.carrier import LinkLost
from hpcflow.server.remote.connection import Connection
from hpcflow.server.remote.transport import TransportError

__all__ = ["Forbidden", "NobodyThere", "Tunnel", "open_tunnel"]

_PIECE: Final = 1 << 16
_OPEN_S: Final = 30.0
#: SSH_OPEN_ADMINISTRATIVELY_PROHIBITED of RFC 4254, 5.1.
_PROHIBITED: Final = 1


class NobodyThere(TransportError):
    """The login node is reached, and nobody listens where the tunnel should end."""


class Forbidden(TransportError):
    """The login node's sshd forwards nothing of the kind."""

    def __init__(self, host: str, to: str | int) -> None:
        what, setting = (
            ("ports", "AllowTcpForwarding") if isinstance(to, int) else ("unix sockets", "AllowStreamLocalForwarding")
        )
        super().__init__(
            f"{host} forwards no {what} (sshd's {setting} or DisableForwarding). Ask its administrators, or work on "
            f"{host} itself."
        )


class _Reader(Protocol):
    async def read(self, n: int = -1, /) -> bytes: ...


class _Writer(Protocol):
    def write(self, data: bytes, /) -> object: ...
    async def drain(self) -> None: ...
    def write_eof(self) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Tunnel:
    """An open way to one socket there."""

    reader: _Reader
    writer: _Writer

    async def join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass bytes on, both ways, until both ends have nothing more to say or the way breaks."""
        try:
            async with asyncio.TaskGroup() as group:
                out = group.create_task(_pass(reader, self.writer))
                await _pass(self.reader, writer)
                # HTTP: when the server has said its last, it listens no more either.
                out.cancel()
        finally:
            self.writer.close()
            writer.close()


async def open_tunnel(connection: Connection, to: str | int) -> Tunnel:
    """Return a way to a socket there, connecting first where that is due.

    Args:
        connection: to the login node.
        to: a unix socket's path, or a port of its 127.0.0.1.

    Raises:
        NobodyThere: nobody listens there; for a unix socket OpenSSH says the same where it forwards none (9.2).
        Forbidden: the login node's sshd forwards nothing of the kind.
        TransportError: the login node can't be reached, or lets nobody in without a person.
    """
    conn = await connection.connect()
    opened: Any  # asyncssh's streams, which are generic in what they carry
    try:
        async with asyncio.timeout(_OPEN_S):
            if isinstance(to, int):
                opened = await conn.open_connection("127.0.0.1", to, encoding=None)
            else:
                opened = await conn.open_unix_connection(to, encoding=None)
    except asyncssh.ChannelOpenError as error:
        if error.code == _PROHIBITED:
            raise Forbidden(connection.host, to) from error
        raise NobodyThere(f"Nobody listens at {to} on {connection.host}: {error.reason}.") from error
    except TimeoutError:
        raise LinkLost(f"{connection.host} opened no way to {to} within {_OPEN_S:g} s.") from None
    except (OSError, asyncssh.Error) as error:
        raise LinkLost(f"The connection to {connection.host} broke: {error}.") from error
    return Tunnel(*opened)


async def _pass(source: _Reader, sink: _Writer) -> None:
    with suppress(OSError, asyncssh.Error):
        while data := await source.read(_PIECE):
            sink.write(data)
            await sink.drain()
    with suppress(OSError, asyncssh.Error, RuntimeError):
        sink.write_eof()
