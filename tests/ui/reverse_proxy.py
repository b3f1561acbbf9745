"""A reverse proxy as Open OnDemand or Jupyter are one: it serves the page below a path of its own."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue


@dataclass
class ReverseProxy:
    """What it does to requests and answers."""

    behind: int
    #: Begins and ends with a slash.
    prefix: str
    #: The prefix is taken off a request's path, as `/rnode/` and jupyter-server-proxy do; `/node/` leaves it.
    strips: bool = True
    #: The Host header stays the browser's own; else it names what lies behind.
    keeps_host: bool = True
    #: An answer is handed on when it has ended, and not before.
    buffers: bool = False
    #: Where it listens; 0: anywhere.
    port: int = 0
    #: What it says itself instead of the server's news, piece by piece until ``None``.
    news: Queue[bytes | None] | None = None
    #: Paths that were asked for.
    asked: list[str] = field(default_factory=list[str])


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, proxy: ReverseProxy) -> None:
        self.proxy = proxy
        super().__init__(("127.0.0.1", proxy.port), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        assert isinstance(self.server, _Server)
        proxy = self.server.proxy
        proxy.asked.append(self.path)
        if not self.path.startswith(proxy.prefix):
            self.send_error(404)
            return
        if proxy.news is not None and self.path.endswith("/api/v1/events"):
            self._say(proxy.news)
            return
        path = "/" + self.path.removeprefix(proxy.prefix) if proxy.strips else self.path
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        left_out = {"accept-encoding"} | (set() if proxy.keeps_host else {"host"})
        headers = {name: value for name, value in self.headers.items() if name.lower() not in left_out}
        behind = http.client.HTTPConnection("127.0.0.1", proxy.behind, timeout=60)
        with suppress(OSError):
            behind.request(self.command, path, body or None, headers)
            self._hand_on(behind.getresponse(), whole=proxy.buffers)
        behind.close()
        self.close_connection = True

    do_POST = do_GET

    def _say(self, news: Queue[bytes | None]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        with suppress(OSError):
            while (piece := news.get()) is not None:
                self.wfile.write(piece)

    def _hand_on(self, answer: http.client.HTTPResponse, *, whole: bool) -> None:
        content = answer.read() if whole else b""
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in {"transfer-encoding", "connection"}:
                self.send_header(name, value)
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(content)
        while piece := answer.read1(65536):
            self.wfile.write(piece)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def running(proxy: ReverseProxy) -> Generator[ReverseProxy]:
    """Serve until the block ends."""
    server = _Server(proxy)
    proxy.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join(60)
        server.server_close()
