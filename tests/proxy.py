"""A TCP proxy that is slow, cuts, or swallows: what lies between a laptop and a cluster."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress


class Proxy:
    """Passes bytes on to one port of this machine, for better or worse. All of it may be changed while it runs."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._server: asyncio.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        #: Where it listens, on 127.0.0.1.
        self.port = 0
        #: Seconds that each piece takes, each way: half the round trip time.
        self.delay_s = 0.0
        #: Every connection is cut when this many bytes more have passed, both ways together; ``None``: never.
        self.cut_after: int | None = None
        #: Take bytes and pass none on: a cable that was pulled.
        self.swallow = False
        #: Refuse to pass anything: new connections end at once.
        self.refuse = False
        #: Connections taken so far, and bytes passed on.
        self.connections = 0
        self.passed = 0

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self._cut()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def cut(self) -> None:
        """End every connection at once, as a reset. Any thread may ask for it."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._cut)

    def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.refuse:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        pair, me = {writer, far_writer}, asyncio.current_task()
        assert me is not None
        self._writers |= pair
        self._tasks.add(me)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, far_writer))
                group.create_task(self._pass(far_reader, writer))
        finally:
            self._writers -= pair
            self._tasks.discard(me)
            for each in pair:
                each.transport.abort()

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Pass one direction on until its end; then the other side learns that nothing more comes."""
        loop = asyncio.get_running_loop()
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def take() -> None:
            with suppress(OSError):
                while data := await source.read(1 << 16):
                    waiting.put_nowait((loop.time() + self.delay_s, data))
            waiting.put_nowait((loop.time() + self.delay_s, b""))

        async with asyncio.TaskGroup() as group:
            group.create_task(take())
            with suppress(OSError):
                while (item := await waiting.get())[1]:
                    at, data = item
                    await asyncio.sleep(max(0.0, at - loop.time()))
                    if self.cut_after is not None:
                        data = data[: self.cut_after]
                        self.cut_after -= len(data)
                    if not self.swallow:
                        self.passed += len(data)
                        sink.write(data)
                        await sink.drain()
                    if self.cut_after == 0:
                        self.cut_after = None
                        self._cut()
                if not self.swallow:
                    sink.write_eof()


@contextmanager
def proxied(port: int) -> Generator[Proxy]:
    """Run a proxy in a thread of its own, for programs that are processes of theirs."""
    loop = asyncio.new_event_loop()
    proxy = Proxy(port)
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(proxy.start(), loop).result(60)
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(proxy.stop(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        loop.close()
