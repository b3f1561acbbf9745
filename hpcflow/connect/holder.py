"""`python -m hpcflow.connect.holder`: the process here that holds the connection to a login node, and what leads there.

Nothing is asked of the login node while nobody here asks for anything, but for ssh's own sign of life.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import signal
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from hpcflow.connect.decide import Look, Step, decide
from hpcflow.connect.login_node import LoginNode, name_of, packed
from hpcflow.connect.wheels import collect
from hpcflow.core.model import HpcflowError, UserError
from hpcflow.core.places import Places, places
from hpcflow.core.words import counted, memory
from hpcflow.sdk.link import Link
from hpcflow.server import home
from hpcflow.server.remote.connection import Connection
from hpcflow.server.remote.known_hosts import remember
from hpcflow.server.remote.ssh import SshTransport
from hpcflow.server.remote.transport import Ask, Challenge, HostKey, NeedsLogin, TransportError, UnknownHost
from hpcflow.server.remote.tunnel import Forbidden, NobodyThere, Tunnel, open_tunnel
from hpcflow.server.scratch import scratch

__all__ = ["EXIT_HELD", "main"]

logger = logging.getLogger("hpcflow.connect")

#: Exit code when another process holds this home's connection.
EXIT_HELD: Final = 4
#: A login node that is silent for three times as long, in seconds, is gone.
_KEEPALIVE_S: Final = 15.0
#: How long a request waits for the connection to come back before it is refused, and the pauses between two tries.
_PATIENCE_S: Final = 40.0
_PAUSES_S: Final = (0.2, 0.5, 1.0, 2.0, 3.0)
#: What is left of a request that was refused is read for so long.
_DRAIN_S: Final = 5.0
# struct ucred of SO_PEERCRED: pid, uid, gid (unix(7)).
_PEER_CREDENTIALS: Final = struct.Struct("3i")

Say = Callable[[str], Awaitable[None]]
#: Shows a person the key of an unknown host, and returns whether it is accepted.
Offer = Callable[[HostKey], Awaitable[bool]]
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def main() -> int:
    """Hold a connection until told to end, and return the exit code."""
    where = places(os.environ)
    os.umask(0o077)
    try:
        home.prepare(where)
        with open(where.link_lock, "w", encoding="ascii") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return EXIT_HELD
            logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
            logger.setLevel(logging.INFO)
            asyncio.run(_Holder(where, sys.argv[1], sys.argv[2], sys.argv[3]).run())
    except HpcflowError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


class _Holder:
    """One connection, the sockets here that lead through it, and one that takes orders."""

    def __init__(self, where: Places, to: str, control: str, address: str) -> None:
        self._where = where
        self._to = to
        self._control = control
        self._address = address
        self._connection = Connection(
            to, cluster=to, keepalive_s=_KEEPALIVE_S, channels=3, login=f"hpcflow connect {to}"
        )
        self._end = asyncio.Event()
        self._busy = asyncio.Lock()
        self._guests = 0
        self._look: Look | None = None
        self._node: LoginNode | None = None
        self._doors: dict[str | int, asyncio.Server] = {}

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end.set)
        orders = await asyncio.start_unix_server(self._obey, sock=home.listen_unix(self._control))
        logger.info("holds the connection to %s, pid %d", self._to, os.getpid())
        try:
            await self._end.wait()
        finally:
            for door in (orders, *self._doors.values()):
                door.close()
            for path in (self._control, self._address):
                Path(path).unlink(missing_ok=True)
            await self._connection.close()
            logger.info("ends")

    # ---- orders

    async def _obey(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Do what one line asks for; say what is done and ask what has to be asked, a line each."""
        if not _ours(writer):
            writer.close()
            return
        self._guests += 1
        try:

            async def tell(line: Mapping[str, object]) -> None:
                writer.write(json.dumps(line).encode() + b"\n")
                await writer.drain()

            async def say(sentence: str) -> None:
                await tell({"say": sentence})

            async def ask(challenge: Challenge) -> list[str] | None:
                await tell({"ask": asdict(challenge)})
                answers = json.loads(await reader.readline() or b"null")
                return None if answers is None else [str(answer) for answer in answers]

            async def offer(key: HostKey) -> bool:
                await tell({"key": {name: getattr(key, name) for name in ("place", "kind", "fingerprint", "file")}})
                return json.loads(await reader.readline() or b"false") is True

            with suppress(ConnectionError):
                raw = await reader.readline()
                try:
                    await tell({"done": await self._do(json.loads(raw), say, ask, offer)})
                except HpcflowError as error:
                    await tell({"error": str(error), "kind": type(error).__name__})
                except Exception as error:
                    logger.exception("an order failed")
                    await tell({"error": f"{type(error).__name__}: {error}", "kind": ""})
        finally:
            writer.close()
            self._guests -= 1
            if self._look is None and self._guests == 0:
                self._end.set()  # nobody was let in, and nobody waits for it

    async def _do(  # Any: JSON
        self, order: Mapping[str, Any], say: Say, ask: Ask, offer: Offer
    ) -> Mapping[str, object]:
        match order["do"]:
            case "up":
                async with self._busy:
                    return await self._bring_up(order, say, ask, offer)
            case "page":
                return {"port": await self._open_page(int(order["port"]))}
            case "tail":
                return {"lines": await self._login_node().tail(int(order["lines"]))}
            case "end":
                Path(self._where.link).unlink(missing_ok=True)
                Path(self._where.link_token).unlink(missing_ok=True)
                self._end.set()
                return {}
            case other:
                raise UserError(f"{other!r} is nothing that this process does.")

    def _login_node(self) -> LoginNode:
        if self._node is None:
            raise TransportError(f"{self._to} was not reached yet: run `hpcflow connect`.")
        return self._node

    # ---- bringing it up

    async def _bring_up(  # Any: JSON
        self, order: Mapping[str, Any], say: Say, ask: Ask, offer: Offer
    ) -> Mapping[str, object]:
        """Bring the server there up, and what leads to it; return what the user is told of it."""
        from hpcflow import __version__ as own

        if order["to"] != self._to:
            raise UserError(f"This HPCFLOW_HOME is connected to {self._to}: run `hpcflow disconnect` first.")
        await self._reach(ask if order["ask"] else None, offer)
        node = LoginNode(
            SshTransport(self._connection),
            prologue=order["prologue"],
            home=order["home"],
            python=(sys.version_info[0], sys.version_info[1]),
        )
        look = await node.look()
        step = decide(look, to=self._to, own=own, upgrade=order["upgrade"], take_over=order["take_over"])
        moves = ("--take-over",) if look.server is None and order["take_over"] else ()
        if step in {Step.INSTALL, Step.UPGRADE}:
            present, look = look, await self._install(node, look, own, order["wheelhouse"], say)
            if step is Step.UPGRADE and look.installed_id == present.installed_id and present.server is not None:
                step = Step.JOIN if present.server.version == own else step
        if step is Step.UPGRADE:
            await say(f"Restarts the server on {look.host} as hpcflow {own}; jobs and dispatches go on.")
            look = await node.start("restart")
        elif step is not Step.JOIN:
            await say(f"Starts the server on {look.host}.")
            look = await node.start("start", *moves)
        here = (sys.version_info[0], sys.version_info[1])
        if look.target.python != here:
            await say(
                "What is pickled here needs Python {}.{} on the compute nodes, and {} has none on PATH: load one with "
                "`prologue` in the clusters.toml of {}.".format(*here, look.host, look.home)
            )
        self._node = node
        return await self._lead_to(look, order, started=step is not Step.JOIN)

    async def _reach(self, ask: Ask | None, offer: Offer) -> None:
        """Connect; a key that known_hosts lacks is written there when a person accepts it, bastions first."""
        while True:
            try:
                try:
                    await self._connection.connect(now=True)
                except NeedsLogin:
                    if ask is None:
                        raise
                    await self._connection.connect(ask)
                return
            except UnknownHost as unknown:
                if unknown.key is None or not await offer(unknown.key):
                    raise
                await asyncio.to_thread(remember, unknown.key)

    async def _install(self, node: LoginNode, look: Look, own: str, wheelhouse: str | None, say: Say) -> Look:
        await say(f"Prepares hpcflow {own} for {look.target}, at {look.python} on {look.host}.")
        with scratch() as folder:
            shelf = Path(wheelhouse) if wheelhouse else None
            wanted = [f"hpcflow-orchestrator=={own}"]
            wheels = await collect(wanted, look.target, look.markers, folder, wheelhouse=shelf, tell=say)
            name = await asyncio.to_thread(name_of, wheels, own, look.python)
            if name == look.installed_id:
                return look
            content = await asyncio.to_thread(packed, wheels)
        size = f"{counted(len(wheels), 'wheel')}, {memory(len(content) / 2**20)}"
        await say(f"Sends {size}, and installs them in {look.home}/app on {look.host}.")
        return await node.install(name, own, content)

    async def _lead_to(self, look: Look, order: Mapping[str, Any], *, started: bool) -> Mapping[str, object]:
        # Any: JSON
        assert look.server is not None
        server = look.server
        try:
            (await open_tunnel(self._connection, server.address)).writer.close()
        except NobodyThere as error:  # it has just answered there: it is the way that is closed
            raise Forbidden(self._to, server.address) from error
        self._look = look
        if self._address not in self._doors:
            self._doors[self._address] = await asyncio.start_unix_server(
                self._lead(lambda: self._there().address), sock=home.listen_unix(self._address)
            )
        home.rewrite(self._where.link_token, look.token + "\n")
        link = Link(
            to=self._to,
            host=socket.gethostname(),
            pid=os.getpid(),
            address=self._address,
            control=self._control,
            server_pid=server.pid,
            server_host=server.host,
            server_home=look.home,
            version=server.version,
            started_at=server.started_at,
            prologue=order["prologue"],
            home=order["home"],
        )
        home.rewrite(self._where.link, json.dumps(asdict(link), indent=1) + "\n")
        logger.info("leads to hpcflow %s on %s, pid %d", server.version, server.host, server.pid)
        return {**asdict(link), "started": started}

    def _there(self) -> Any:  # Any: the server, which mypy can't know to be there
        assert self._look is not None
        return self._look.server

    # ---- leading there

    async def _open_page(self, port: int) -> int:
        """Return the port here that leads to one of 127.0.0.1 there: the same number where it is free."""
        if port not in self._doors:
            lead = self._lead(lambda: port)
            try:
                self._doors[port] = await asyncio.start_server(lead, "127.0.0.1", port)
            except OSError:
                self._doors[port] = await asyncio.start_server(lead, "127.0.0.1", 0)
        return int(self._doors[port].sockets[0].getsockname()[1])

    def _lead(self, to: Callable[[], str | int]) -> Serve:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if not _ours(writer):
                writer.close()
                return
            try:
                tunnel = await self._open(to())
            except TransportError as error:
                await _refuse(reader, writer, str(error))
                return
            await tunnel.join(reader, writer)

        return serve

    async def _open(self, to: str | int) -> Tunnel:
        """Open a way there; wait a while for a connection that broke."""
        loop = asyncio.get_running_loop()
        end = loop.time() + _PATIENCE_S
        tries = 0
        while True:
            try:
                if tries and not self._connection.needs_login:
                    await self._connection.connect(now=True)
                return await open_tunnel(self._connection, to)
            except NobodyThere:
                raise TransportError(
                    f"No server answers on {self._to}: `hpcflow connect` starts it; dispatches go on where they were."
                ) from None
            except NeedsLogin:
                raise
            except TransportError as error:
                pause_s = _PAUSES_S[min(tries, len(_PAUSES_S) - 1)]
                if loop.time() + pause_s > end:
                    raise TransportError(f"{error} The server there goes on.") from None
                tries += 1
                await asyncio.sleep(pause_s)


def _ours(writer: asyncio.StreamWriter) -> bool:
    """Return whether a process of this user is at the other end; on TCP nobody can tell, and the page has its login."""
    peer: socket.socket = writer.get_extra_info("socket")
    if peer.family != socket.AF_UNIX:
        return True
    raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    return bool(_PEER_CREDENTIALS.unpack(raw)[1] == os.geteuid())


async def _refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sentence: str) -> None:
    """Answer one HTTP request in the server's place."""
    body = json.dumps({"error": sentence}).encode()
    head = f"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    with suppress(OSError, TimeoutError):
        writer.write(head.encode() + b"connection: close\r\n\r\n" + body)
        writer.write_eof()
        # A close with bytes unread would take the answer away from whoever still sends.
        async with asyncio.timeout(_DRAIN_S):
            while await reader.read(1 << 16):
                pass
    writer.close()


if __name__ == "__main__":
    sys.exit(main())
