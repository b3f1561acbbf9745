"""uvicorn on sockets of our own, several in one event loop, without its signal handling."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Generator
from typing import TYPE_CHECKING, Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from starlette.types import ASGIApp

__all__ = ["Listener", "listen_tcp", "tcp_port"]

# struct ucred of SO_PEERCRED: pid, uid, gid (unix(7)).
_PEER_CREDENTIALS: Final = struct.Struct("3i")


class _PeerProtocol(H11Protocol):
    """Tells the application, as ``scope["state"]["peer_uid"]``, whose process is at the other end of a unix socket."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in H11Protocol
        super().connection_made(transport)
        peer: socket.socket = transport.get_extra_info("socket")
        if peer.family == socket.AF_UNIX:
            raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
            self.app_state = {**self.app_state, "peer_uid": _PEER_CREDENTIALS.unpack(raw)[1]}


class Listener(uvicorn.Server):
    """Serves an application on one listening socket until `stop`."""

    def __init__(self, app: ASGIApp, listener: socket.socket) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="asyncio",
                http=_PeerProtocol,
                ws="none",
                # The process makes and ends what the application stands on: two listeners would do it twice.
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                backlog=128,
                limit_concurrency=1000,
                timeout_keep_alive=15,
                # Long polls end with the server; nobody waits for them.
                timeout_graceful_shutdown=2,
            )
        )
        self._listener = listener
        self._ended = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave the signals to the process."""
        yield

    async def run_until_stopped(self) -> None:
        await self.serve(sockets=[self._listener])

    async def main_loop(self) -> None:
        """Wait for `stop`: uvicorn's own loop wakes ten times a second, for a header and limits that are off here."""
        await self._ended.wait()

    def stop(self) -> None:
        """End in order; call it in the event loop."""
        self.should_exit = True
        self._ended.set()


def listen_tcp(port: int = 0) -> socket.socket:
    """Return a socket that listens on 127.0.0.1: on a port if that is free, else on one that is."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        # Connections of the last server that are not forgotten yet would keep its port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            listener.bind(("127.0.0.1", 0))
        listener.listen(128)
    except BaseException:
        listener.close()
        raise
    return listener


def tcp_port(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])
