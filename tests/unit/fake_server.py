"""The other side for tests of the client: a small HTTP server on a unix socket that answers what a test tells it to."""

from __future__ import annotations

import json
import os
import socket
import socketserver
import threading
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from hpcflow import __version__
from hpcflow.core.places import Places

TOKEN = "the-token"


@dataclass(frozen=True)
class Request:
    """What the client sent."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def manifest(self) -> dict[str, Any]:  # Any: JSON
        """The manifest of an upload."""
        stream = zlib.decompress(self.body)
        assert stream[:8] == b"HFDISP1\n"
        size = int.from_bytes(stream[8:16], "little")
        manifest: dict[str, Any] = json.loads(stream[16 : 16 + size])  # Any: JSON
        return manifest


#: Status and body; ``None`` cuts the connection without an answer.
Answer = tuple[int, bytes | Mapping[str, object]] | None


@dataclass
class FakeServer:
    """Answers by (method, path below /api/v1); a list gives one answer per request, its last one for ever."""

    home: Path
    answers: dict[tuple[str, str], Answer | list[Answer] | Callable[[Request], Answer]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)

    def __enter__(self) -> FakeServer:
        (self.home / "run").mkdir(parents=True, exist_ok=True)
        (self.home / "token").write_text(TOKEN + "\n")
        self._server = _Listener(str(self.home / "run" / "sock"), self)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        write_record(self.home)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join(60)
        self._server.server_close()

    def sent(self, method: str, path: str) -> list[Request]:
        return [request for request in self.requests if (request.method, request.path) == (method, path)]

    def answer(self, request: Request) -> Answer:
        if request.path == "/healthz":
            return 200, {"ok": True}
        self.requests.append(request)
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return 401, {"error": "The token is wrong."}
        answer = self.answers.get((request.method, request.path), (404, {"error": f"Nothing at {request.path} here."}))
        if callable(answer):
            return answer(request)
        if isinstance(answer, list):
            return answer.pop(0) if len(answer) > 1 else answer[0]
        return answer


def write_record(home: Path, **changes: object) -> None:
    """Write run/server.json as a server does, with ``changes``."""
    record = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "address": str(home / "run" / "sock"),
        "version": __version__,
        "started_at": "2026-01-01T00:00:00Z",
    }
    (home / "run").mkdir(parents=True, exist_ok=True)
    (home / "run" / "server.json").write_text(json.dumps(record | changes))


class _Listener(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def __init__(self, path: str, fake: FakeServer) -> None:
        self.fake = fake
        super().__init__(path, _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no error here."""


class _Handler(BaseHTTPRequestHandler):
    server: _Listener  # pyright: ignore[reportIncompatibleVariableOverride]  # the only one that makes it

    def do_GET(self) -> None:
        self._reply(b"")

    def do_POST(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        self._reply(body)

    def _reply(self, body: bytes) -> None:
        url = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        path = url.path.removeprefix("/api/v1")
        answer = self.server.fake.answer(Request(self.command, path, dict(parse_qsl(url.query)), headers, body))
        if answer is None:
            self.close_connection = True
            return
        status, content = answer
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: object) -> None:
        """Tests have their own output."""


# ---- answers with defaults

DISPATCH = "01K0000000000000000000000A"


def a_summary(**changes: object) -> dict[str, object]:
    """A dispatch of two tasks that completed."""
    return {
        "id": DISPATCH,
        "name": "flow",
        "status": "COMPLETED",
        "error": None,
        "paused": None,
        "created_at": "2026-01-01T10:00:00Z",
        "started_at": "2026-01-01T10:00:01Z",
        "ended_at": "2026-01-01T10:00:03.5Z",
        "version": 7,
        "tasks": 2,
        "counts": {"completed": 2},
        "python": list(_own_python()),
        "arrays": [{"token": "t", "cluster": "slurm", "job_id": "41", "width": 2, "state": "ended", "reason": None}],
        "asked": [],
        "messages": [],
    } | changes


def a_task(index: int = 0, **changes: object) -> dict[str, object]:
    """A task that completed."""
    return {
        "index": index,
        "name": "relax",
        "state": "completed",
        "attempt": 1,
        "cluster": "slurm",
        "job_id": "41",
        "array_index": 3,
        "host": "node7",
        "started_at": "2026-01-01T10:00:01Z",
        "ended_at": "2026-01-01T10:00:03Z",
        "wall_s": 2.0,
        "cpu_s": 1.5,
        "max_rss_kib": 20480,
        "error": None,
        "cores": 4,
        "end": "ok",
        "raw": None,
        "exit_code": None,
        "signal": None,
        "origin": None,
    } | changes


def a_page(*tasks: Mapping[str, object]) -> dict[str, object]:
    """Tasks as the server lists them."""
    columns = list(a_task())
    return {"columns": columns, "rows": [[task[column] for column in columns] for task in tasks]}


def a_usage(**changes: object) -> dict[str, object]:
    """Two array tasks, one of them used."""
    return {
        "id": DISPATCH,
        "charged_s": 7200.0,
        "tasks_s": 6480.0,
        "overhead_s": 72.0,
        "idle_s": 360.0,
        "slots_s": 0.0,
        "startup_s": 289.0,
        "killed_s": 0.0,
        "beyond_s": 0.0,
        "rest_s": -1.0,
        "rounding_s": 2.0,
        "unexplained_s": 0.0,
        "requeued_s": 0.0,
        "submitted": 2,
        "used": 1,
        "in_vain": 0,
        "not_begun": 1,
        "open": 0,
        "unknown": 0,
        "uncharged": 0,
        "complete": True,
        "sentences": [],
    } | changes


def an_item(task: int | None, kind: str, pickle: bytes = b"", **fields: object) -> bytes:
    """One item of a results stream."""
    return json.dumps({"task": task, "kind": kind, "size": len(pickle), **fields}).encode() + b"\n" + pickle


def a_plan() -> dict[str, object]:
    """A plan of one bag."""
    bag = {
        "electrons": ["relax"],
        "tasks": 40,
        "cluster": "slurm",
        "resources": {"cpus": 2},
        "widths": [20],
        "worker_walltime_s": 3600,
        "units_per_range": 2,
        "argv": ["sbatch", "--parsable", "-J", "relax x"],
        "script": "#!/bin/sh\nexec python worker\n",
        "core_hours_bound": 40.0,
    }
    return {"bags": [bag], "core_hours_bound": 40.0, "messages": ["`slurm` is the default here."]}


def _own_python() -> tuple[int, int]:
    import sys

    return sys.version_info[:2]


def connect(fake: FakeServer, **changes: object) -> None:
    """Make the fake's home one that is connected to it, as a login node's server."""
    where = Places(str(fake.home))
    record = json.loads(Path(where.server_json).read_text())
    link = {
        "to": "ada@login",
        "host": socket.gethostname(),
        "pid": 17,
        "address": record["address"],
        "control": str(fake.home / "run/ctl"),
        "server_pid": record["pid"],
        "server_host": "login1",
        "server_home": "/home/ada/.hpcflow",
        "version": record["version"],
        "started_at": "",
        "prologue": "",
        "home": "",
        **changes,
    }
    Path(where.link).write_text(json.dumps(link))
    Path(where.link_token).write_text(TOKEN + "\n")
    # The home's own server and token are no business of a home that is connected.
    Path(where.server_json).unlink()
    Path(where.token).unlink()
