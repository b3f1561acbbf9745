"""The API on real sockets with a small service behind it that keeps everything in memory."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import http.client
import json
import os
import re
import socket
import threading
import zlib
from collections.abc import AsyncIterator, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from hpcflow.core.bag import stream_parts
from hpcflow.core.model import HpcflowError, NotFound, UserError
from hpcflow.core.states import State
from hpcflow.server.api import Desk, PartsDesk, Service, application
from hpcflow.server.arguments import ArgumentsDesk
from hpcflow.server.cache_api import CacheDesk
from hpcflow.server.cluster_api import ClusterDesk
from hpcflow.server.dispatch_api import QuestionDesk, SteeringDesk
from hpcflow.server.file_api import CleanDesk, DeleteDesk, FileDesk
from hpcflow.server.guard import Sessions, Token
from hpcflow.server.home import Notice, listen_unix
from hpcflow.server.insight_api import InsightDesk
from hpcflow.server.listen import Listener, listen_tcp, tcp_port
from hpcflow.server.log_api import ArchiveDesk, LogDesk
from hpcflow.server.logs import Name
from hpcflow.server.news import News
from hpcflow.server.redispatch_api import RedispatchDesk
from hpcflow.server.sketch_api import SketchDesk
from hpcflow.server.trial import Asked
from hpcflow.server.triggers import AskedTrigger
from hpcflow.server.views import Wanted

Json = dict[str, Any]  # Any: JSON
TOKEN = "the-token-of-this-test"
NEW_TOKEN = "the-next-token-of-this-test"
FIRST = "01JD0000000000000000000001"
OTHER = "01JD0000000000000000000002"


@dataclass
class MemoryRoster:
    """Knows names, and one that lets in who says "sesame"."""

    names: list[str]
    answers: list[Sequence[str]] = field(default_factory=list[Sequence[str]])

    def clusters(self) -> Json:
        return {"clusters": []}

    async def test(self, name: str, asked: Asked) -> Json:
        return await self.tested(name, 0, asked.patience_s)

    async def tested(self, name: str, since: int, wait_s: float) -> Json:
        if name not in self.names:
            raise NotFound(f"There is no cluster called {name!r}.")
        return {"done": True, "ok": True, "version": 7, "steps": []}

    async def queue(self, name: str, *, mine: bool, nodes: bool, limit: int, ask: bool = True) -> Json:
        if name not in self.names:
            raise NotFound(f"There is no cluster called {name!r}.")
        return {"cluster": name, "partitions": [], "nodes": [] if nodes else None, "jobs": [], "jobs_total": 0}

    async def login(self, name: str) -> Json:
        prompts = [{"text": "Password: ", "echo": False}]
        return self._asks(name, {"number": 1, "host": f"ada@{name}", "text": "", "prompts": prompts})

    async def answer(self, name: str, login: str, number: int, answers: Sequence[str]) -> Json:
        self.answers.append(answers)
        if answers != ["sesame"]:
            raise HpcflowError(f"{name} needs login: ada@{name} did not accept what was answered.")
        return self._asks(name, None)

    async def draft(self, name: str, settings: Mapping[str, Any], accepted: Sequence[str]) -> Json:  # Any: JSON
        return {"state": "ok", "problem": None, "host_key": None}

    async def add(self, name: str) -> Json:
        self.names.append(name)
        return {"file": "/home/ada/.hpcflow/clusters.toml", "default": name, "reason": "the one cluster"}

    async def remove(self, name: str) -> Json:
        if name not in self.names:
            raise NotFound(f"There is no cluster called {name!r}.")
        if name == "local":
            raise UserError(f"The cluster {name!r} is always there.")
        self.names.remove(name)
        return {"file": "/home/ada/.hpcflow/clusters.toml", "default": "local", "reason": "it is always there"}

    def _asks(self, name: str, question: Json | None) -> Json:
        cluster: Json = {"name": name, "scheduler": "slurm", "version": "", "state": "needs login", "problem": None}
        cluster |= {"site": "", "partitions": [], "max_array_size": None, "claims": None, "default": False}
        return {"login": "a-login", "question": question, "cluster": cluster}


_is_desk: type[ClusterDesk] = MemoryRoster


@dataclass
class MemoryFiles:
    """Holds one value, and streams of it that end too early."""

    data: bytes = b"value"
    #: Bytes after which each stream is cut; ``None``: none is.
    cut_after: int | None = None
    #: Where each stream began.
    begun: list[int] = field(default_factory=list[int])
    asked: list[Json] = field(default_factory=list[Json])  # Any: JSON
    #: Of each task: kind and target of entries that are no files, and files with what is in them.
    folders: dict[int, dict[str, tuple[str, str] | bytes]] = field(
        default_factory=dict[int, dict[str, tuple[str, str] | bytes]]
    )

    async def value(self, dispatch: str, index: int, offset: int) -> tuple[int, str, AsyncIterator[bytes]]:
        self.begun.append(offset)
        return len(self.data), hashlib.sha256(self.data).hexdigest(), self._from(offset)

    async def _from(self, offset: int) -> AsyncIterator[bytes]:
        end = len(self.data) if self.cut_after is None else offset + self.cut_after
        for at in range(offset, min(end, len(self.data)), 1000):
            yield self.data[at : min(at + 1000, end)]
        if end < len(self.data):
            raise HpcflowError("The cluster went away.")

    async def listing(self, dispatch: str, index: int, path: str) -> Json:
        return {
            "cluster": "local",
            "kind": "folder",
            "root": "/work",
            "name": path if path != "." else "work",
            "entries": self._entries(index),
            "odd": 0,
        }

    def _entries(self, index: int) -> list[Json]:
        entries: list[Json] = []
        for name, held in self.folders.get(index, {}).items():
            entry: Json = {"name": f"./{name}", "size": 0, "executable": False, "target": None, "sha256": None}
            if isinstance(held, bytes):
                entry |= {"kind": "file", "size": len(held), "sha256": hashlib.sha256(held).hexdigest()}
            else:
                entry |= {"kind": held[0], "target": held[1]}
            entries.append(entry)
        return entries

    async def content(
        self, dispatch: str, index: int, root: str, spans: Sequence[tuple[str, int, int]]
    ) -> tuple[int, AsyncIterator[bytes]]:
        async def pieces() -> AsyncIterator[bytes]:
            for name, offset, size in spans:
                held = self.folders[index][name.removeprefix("./")]
                assert isinstance(held, bytes)
                self.begun.append(offset)
                yield held[offset : offset + size]

        return sum(size for _, _, size in spans), pieces()

    async def clean(self, dispatches: Sequence[str] | None, **asked: Any) -> Json:  # Any: as many types as names
        self.asked.append({"dispatches": dispatches, **asked})
        return {"dispatches": 0, "clusters": [], "skipped": [], "dry_run": asked["dry_run"], "message": "Nothing."}

    async def delete(self, dispatches: Sequence[str], *, files: bool) -> Json:
        return {"deleted": list(dispatches), "skipped": [], "message": "Gone."}


_is_file_desk: type[FileDesk] = MemoryFiles


class MemoryAgain:
    """Knows one call."""

    async def call(self, dispatch: str, part: str) -> bytes:
        return part.encode()

    async def completed(self, dispatch: str) -> Json:
        return {"tasks": [], "needs": []}

    async def redispatch(self, dispatch: str, *, identifier: str | None, reuse: bool) -> Json:
        return {"id": identifier or OTHER, "status": "RUNNING", "messages": [f"{dispatch} again"]}


class MemoryArguments:
    """Was called with nothing."""

    async def stream(self, dispatch: str, tasks: Sequence[int] | None, *, small: bool) -> AsyncIterator[bytes]:
        yield json.dumps({"task": 0, "kind": "arguments", "size": 0, "small": small, "asked": tasks}).encode() + b"\n"


class MemoryParts:
    """Takes parts and keeps nothing of them."""

    async def append(self, dispatch: str, manifest: Mapping[str, Any], payload: str) -> Json:  # Any: a checked upload
        os.unlink(payload)
        return {"id": dispatch, "status": "RUNNING", "first": len(manifest["tasks"]), "messages": []}


@dataclass
class MemorySketches:
    """Keeps the names of lattices."""

    names: dict[str, str] = field(default_factory=dict[str, str])

    async def add(self, manifest: Mapping[str, Any]) -> str:  # Any: JSON
        if manifest["name"] == "refused":
            raise UserError("There is no executor 'slrum'.")
        self.names[manifest["id"]] = manifest["name"]
        return str(manifest["id"])

    def told(self, known: str) -> Json:
        if known not in self.names:
            raise NotFound(f"There is no preview {known!r} here any more.")
        return {"id": known, "name": self.names[known], "made_at": "2026-01-01T00:00:00Z", "tasks": 0}

    def graph(self, known: str) -> bytes:
        self.told(known)
        return b'{"tasks":0,"name":[],"needs":[],"names":[],"sets":[],"levels":[]}'


_is_parts_desk: type[PartsDesk] = MemoryParts
_is_sketch_desk: type[SketchDesk] = MemorySketches
_is_arguments_desk: type[ArgumentsDesk] = MemoryArguments


class MemoryCache:
    """Holds nothing."""

    async def listed(self, function: str | None, limit: int) -> Json:
        return {"entries": [], "total": 0, "bytes": 0}

    async def clear(self, function: str | None, older_than_s: float | None) -> Json:
        return {"cleared": 0, "message": "0 results are cached no longer; dispatches keep them."}


_is_cache_desk: type[CacheDesk] = MemoryCache
_is_redispatch_desk: type[RedispatchDesk] = MemoryAgain


class MemorySettings:
    """Takes any setting."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {"linger": 10.0}  # Any: JSON

    async def told(self) -> Json:
        file = "/home/ada/.hpcflow/config.toml"
        return {"file": file, "settings": self.values, "after_restart": [], "message": ""}

    async def change(self, values: Mapping[str, Any]) -> Json:  # Any: JSON
        self.values |= values
        return {**await self.told(), "message": "Written."}


class MemoryInsight:
    """Has seen nothing."""

    async def timeline(self, dispatch: str) -> Json:
        return {"base": "2026-01-01T00:00:00Z", "arrays": [], "lanes": [], "names": [], "bars": {}}

    async def efficiency(self, dispatch: str) -> Json:
        return {"id": dispatch, "electrons": []}

    async def lately(self, days: int) -> Json:
        return {"days": days, "dispatches": [], "electrons": []}

    async def settings(self) -> Json:
        return {"settings": [], "clusters": []}

    def log_version(self) -> str:
        return "1-2"

    async def log(self, *, text: str, level: str, limit: int) -> Json:
        return {"entries": [{"level": level, "text": text}][:limit]}


_is_insight_desk: type[InsightDesk] = MemoryInsight


@dataclass
class MemoryLogs:
    """Every task has written the same."""

    def written(self, dispatch: str, index: int, stream: Name) -> bytes:
        if index > 1:
            raise NotFound(f"Dispatch {dispatch} has no task {index}.")
        return f"<script>{stream}</script>".encode()

    async def piece(self, dispatch: str, index: int, stream: Name, offset: int, limit: int) -> bytes:
        return self.written(dispatch, index, stream)[offset : offset + limit]

    async def output(self, dispatch: str, index: int, after: Mapping[Name, int], limit: int, wait_s: float) -> Json:
        told: Json = {"running": False}
        for name, start in after.items():
            data = self.written(dispatch, index, name)
            told[name] = {"offset": max(0, start), "next": len(data), "size": len(data)}
            told[name]["text"] = data[max(0, start) :].decode()
        return told

    async def search(self, dispatch: str, index: int, stream: Name, text: str, *, offset: int, limit: int) -> Json:
        data = self.written(dispatch, index, stream)
        at = data.find(text.encode(), offset)
        hits = [{"offset": at, "text": data.decode()}] if at >= 0 else []
        return {"hits": hits, "searched": len(data), "size": len(data)}

    async def archive(self, dispatch: str, *, failed: bool) -> tuple[str, AsyncIterator[bytes]]:
        async def pieces() -> AsyncIterator[bytes]:
            yield gzip.compress(b"failed" if failed else b"all")

        return f"{dispatch}-logs.tar.gz", pieces()


_is_archive_desk: type[ArchiveDesk] = MemoryLogs
_is_log_desk: type[LogDesk] = MemoryLogs


class MemoryTriggers:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.asked: list[AskedTrigger] = []

    def listed(self) -> Json:
        return {"triggers": []}

    async def add(self, dispatch: str, asked: AskedTrigger) -> Json:
        self.asked.append(asked)
        return {"id": asked.id, "message": f"It runs copies of {dispatch}."}

    async def fire(self, trigger: str, run: str, identifier: str) -> Json:
        return {"id": identifier, "fenced": False}

    async def stop(self, ids: Sequence[str]) -> Json:
        return {"stopped": len(ids), "message": "Stopped."}


@dataclass
class MemoryService:
    """Takes dispatches and never runs them."""

    names: list[str] = field(default_factory=lambda: ["local"])
    roster: MemoryRoster = field(init=False)
    files: MemoryFiles = field(default_factory=MemoryFiles)
    again: MemoryAgain = field(default_factory=MemoryAgain)
    triggers: MemoryTriggers = field(default_factory=MemoryTriggers)
    cached: MemoryCache = field(default_factory=MemoryCache)
    configured: MemorySettings = field(default_factory=MemorySettings)
    logs: MemoryLogs = field(default_factory=MemoryLogs)
    log_archive: MemoryLogs = field(default_factory=MemoryLogs)
    insight: MemoryInsight = field(default_factory=MemoryInsight)
    called_with: MemoryArguments = field(default_factory=MemoryArguments)
    parts: MemoryParts = field(default_factory=MemoryParts)
    sketches: MemorySketches = field(default_factory=MemorySketches)
    manifests: dict[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])  # Any: JSON
    payloads: dict[str, bytes] = field(default_factory=dict[str, bytes])
    versions: dict[str, int] = field(default_factory=dict[str, int])
    #: Values that `results` yields.
    chunks: list[bytes] = field(default_factory=lambda: [b'{"task":0}\n', b"x" * 10])
    #: What a task's row holds besides.
    extra: Json = field(default_factory=dict[str, Any])  # Any: JSON
    changed_event: asyncio.Event = field(default_factory=asyncio.Event)
    news: News = field(default_factory=News)
    polls: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.roster = MemoryRoster(self.names)

    @property
    def cleaner(self) -> CleanDesk:
        return self.files

    @property
    def deleter(self) -> DeleteDesk:
        return self.files

    @property
    def questions(self) -> QuestionDesk:
        return self

    @property
    def steering(self) -> SteeringDesk:
        return self

    async def accept(self, manifest: Mapping[str, Any], payload: str) -> Json:  # Any: JSON
        if manifest["name"] == "refused":
            raise UserError("There is no cluster called 'slrum'.")
        self.manifests[manifest["id"]] = manifest
        self.payloads[manifest["id"]] = Path(payload).read_bytes()
        self.versions[manifest["id"]] = 1
        os.unlink(payload)
        return {"id": manifest["id"], "status": "RUNNING", "messages": ["It runs on local."]}

    async def plan(self, manifest: Mapping[str, Any], payload: str) -> Json:  # Any: JSON
        return {"bags": [], "core_hours_bound": 0.0, "messages": [f"{len(manifest['tasks'])} tasks"]}

    def status(self) -> Json:
        return {
            "clusters": self.names,
            "default_cluster": self.names[0],
            "live_dispatches": len(self.versions),
            "triggers": 0,
        }

    async def listed(self, limit: int, before: str | None, prefix: str | None, **wanted: Any) -> Json:  # Any: see api
        ids = sorted((known for known in self.manifests if before is None or known < before), reverse=True)
        ids = [known for known in ids if known.startswith((prefix or "").upper())]
        ids = [known for known in ids if wanted.get("text", "") in self.manifests[known]["name"]]
        found = [await self.summary(known) for known in ids[:limit]]
        return {"dispatches": found, "found": len(ids), "total": len(self.manifests)}

    async def graph(self, dispatch: str) -> bytes:
        await self.summary(dispatch)
        return b'{"tasks":1,"name":[0],"needs":[0],"names":["square"],"sets":[[]],"levels":[]}'

    async def states(self, dispatch: str) -> Json:
        await self.summary(dispatch)
        return {"number": self.news.number, "version": self.versions[dispatch], "states": "wq"}

    async def page(self, dispatch: str, wanted: Wanted) -> Json:
        table = await self.tasks(dispatch, None, -1 if wanted.after is None else wanted.after, wanted.limit, deep=False)
        return {**table, "found": len(table["rows"]), "total": len(table["rows"])}

    async def about(self, dispatch: str, index: int) -> Json:
        return {**await self.task(dispatch, index), "asked": {"cpus": 2}}

    async def summary(self, dispatch: str) -> Json:
        if dispatch not in self.manifests:
            raise NotFound(f"No dispatch {dispatch} here.")
        return {
            "id": dispatch,
            "name": self.manifests[dispatch]["name"],
            "status": "RUNNING",
            "paused": None,
            "version": self.versions[dispatch],
            "counts": {},
            "arrays": [],
            "asked": [],
            "messages": [{"at": "2026-01-01T00:00:00Z", "text": "It runs on local."}],
        }

    async def changed(self, dispatch: str, since: int, wait_s: float) -> Json:
        await self.summary(dispatch)
        self.polls.set()
        if self.versions[dispatch] == since:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self.changed_event.wait()
        return await self.summary(dispatch)

    async def tasks(self, dispatch: str, state: State | None, after: int, limit: int, deep: bool) -> Json:
        await self.summary(dispatch)
        tasks: Sequence[Any] = self.manifests[dispatch]["tasks"]  # Any: JSON
        rows = [[i, task[0], state] for i, task in enumerate(tasks) if i > after]
        return {"columns": ["index", "name", "state"], "rows": rows[:limit]}

    async def task(self, dispatch: str, index: int) -> Json:
        await self.summary(dispatch)
        if index >= len(self.manifests[dispatch]["tasks"]):
            raise NotFound(f"Dispatch {dispatch} has no task {index}.")
        return {"index": index, "name": "square", **self.extra}

    async def failures(self, dispatch: str) -> Json:
        await self.summary(dispatch)
        return {"failed": 0, "groups": []}

    async def usage(self, dispatch: str) -> Json:
        await self.summary(dispatch)
        return {"id": dispatch, "charged_s": 0.0, "complete": True, "sentences": ["Nothing was submitted."]}

    async def arrays(self, dispatch: str) -> Json:
        await self.summary(dispatch)
        return {"arrays": []}

    async def job(self, name: str) -> Json:
        if name != "8123_7":
            raise NotFound(f"No dispatch here has had a job {name}.")
        return {"arrays": []}

    async def results(
        self, dispatch: str, tasks: list[int] | None, output: bool, *, apart: bool = False
    ) -> AsyncIterator[bytes]:
        await self.summary(dispatch)
        if tasks == [404]:
            raise NotFound(f"Dispatch {dispatch} has no task 404.")
        for chunk in self.chunks:
            yield chunk

    async def cancel(self, dispatch: str, tasks: list[int] | None, *, begun: bool = True) -> Json:
        await self.summary(dispatch)
        if tasks == []:
            raise HpcflowError("Nothing is left to cancel.")
        return {"cancelled": 1 if tasks is None else len(tasks), "message": "Cancelled."}

    async def pause(self, dispatch: str) -> Json:
        await self.summary(dispatch)
        return {"moved": 1, "message": "Paused."}

    async def resume(self, dispatch: str) -> Json:
        await self.summary(dispatch)
        return {"moved": 1, "message": "It goes on."}

    async def retry(
        self,
        dispatch: str,
        *,
        failed_only: bool,
        memory_mib: int | None,
        walltime_s: int | None,
        more: bool = False,
        tasks: Sequence[int] | None = None,
        electrons: Sequence[str] | None = None,
    ) -> Json:
        await self.summary(dispatch)
        if memory_mib == 2**40:
            raise UserError("No partition has so much memory.")
        of = "" if electrons is None else f" of {', '.join(electrons)}"
        return {"moved": 1, "message": f"failed_only={failed_only} {memory_mib} MiB {walltime_s} s{of}"}

    async def retry_plan(
        self,
        dispatch: str,
        *,
        failed_only: bool,
        memory_mib: int | None = None,
        walltime_s: int | None = None,
        more: bool = False,
        tasks: Sequence[int] | None = None,
        electrons: Sequence[str] | None = None,
    ) -> Json:
        await self.summary(dispatch)
        if memory_mib == 2**40:
            raise UserError("No partition has so much memory.")
        numbers = dict.fromkeys(("tasks", "failed", "rest"), 1) | dict.fromkeys(("cancelled", "skipped", "held"), 0)
        return {**numbers, "held_by": [], "more": []}

    async def cancel_plan(self, dispatch: str, tasks: list[int] | None) -> Json:
        await self.summary(dispatch)
        return {"running": 0, "waiting": 1, "skipped": 0, "jobs": []}


_conforms: type[Service] = MemoryService


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:  # Any: JSON
        return json.loads(self.body)

    @property
    def error(self) -> str:
        return str(self.json["error"])


@dataclass
class Served:
    """A server that listens."""

    service: MemoryService
    folder: Path
    address: str
    port: int
    sessions: Sessions
    loop: asyncio.AbstractEventLoop
    stopped: threading.Event

    def ask(
        self,
        method: str,
        target: str,
        *,
        token: str | None = TOKEN,
        body: bytes | None = None,
        headers: Mapping[str, str | Sequence[str]] | None = None,
        tcp: bool = False,
        held: bool = True,
    ) -> Answer:
        """Send one request, whose answer's status is ``held`` against the description.

        A header whose value is a sequence goes out once for each, and `Host` replaces ours.
        """
        fields: dict[str, str | Sequence[str]] = {"Host": f"127.0.0.1:{self.port}" if tcp else "localhost"}
        if token is not None:
            fields["Authorization"] = f"Bearer {token}"
        if body is not None:
            fields |= {"Content-Length": str(len(body)), "Content-Type": "application/json"}
        fields |= headers or {}
        family = socket.AF_INET if tcp else socket.AF_UNIX
        with socket.socket(family, socket.SOCK_STREAM) as end:
            end.settimeout(60)
            end.connect(("127.0.0.1", self.port) if tcp else self.address)
            lines = [f"{method} {target} HTTP/1.1"]
            for name, value in fields.items():
                lines += [f"{name}: {one}" for one in ([value] if isinstance(value, str) else value)]
            end.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1"))
            # A request that is refused before it was read has its answer there all the same.
            with suppress(BrokenPipeError, ConnectionResetError):
                end.sendall(body or b"")
            response = http.client.HTTPResponse(end, method=method)
            response.begin()
            assert not held or _is_described(method, target, response.status), (
                f"{method} {target} answers {response.status}"
            )
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())

    def upload(self, raw: bytes, query: str = "") -> Answer:
        headers = {"Content-Type": "application/x-hpcflow-dispatch"}
        return self.ask("POST", f"/api/v1/dispatches{query}", body=raw, headers=headers)

    def log_in(self) -> dict[str, str]:
        """Return the headers of a browser that redeemed a code."""
        body = json.dumps({"code": self.sessions.new_code()}).encode()
        origin = f"http://127.0.0.1:{self.port}"
        answer = self.ask("POST", "/login", token=None, body=body, headers={"Origin": origin}, tcp=True)
        assert answer.status == 200, answer.body
        cookie = answer.headers["set-cookie"].partition(";")[0]
        return {"Cookie": cookie, "x-hpcflow-key": answer.json["key"], "Origin": origin}


def _is_described(method: str, target: str, status: int) -> bool:
    """Return whether the API's description has this status for what was asked; it has no word on other paths."""
    path = target.partition("?")[0]
    if "%2f" in path.lower():  # what is behind it may be another route, or none
        return True
    for pattern, codes in _described_codes().get(method, ()):
        if pattern.fullmatch(path):
            return str(status) in codes
    return True


@cache
def _described_codes() -> dict[str, list[tuple[re.Pattern[str], frozenset[str]]]]:
    """Return by method the paths of the description, those without parameters first, and their status codes."""
    from tests.ui.openapi import described  # which needs this module

    codes: dict[str, list[tuple[re.Pattern[str], frozenset[str]]]] = {}
    for path, operations in sorted(described()["paths"].items(), key=lambda pair: str(pair[0]).count("{")):
        pattern = re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path)))
        for method, operation in operations.items():
            codes.setdefault(method.upper(), []).append((pattern, frozenset(operation["responses"])))
    return codes


@contextmanager
def served(
    folder: Path, service: MemoryService | None = None, *, max_upload: int = 2**24, uid: int | None = None
) -> Generator[Served]:
    """Serve below ``folder`` in a thread of its own until the block ends."""
    started = threading.Event()
    here: list[Served] = []
    fault: list[BaseException] = []

    async def run() -> None:
        (folder / "dispatches").mkdir(mode=0o700)
        unix, tcp = listen_unix(str(folder / "run" / "sock")), listen_tcp()
        stop = threading.Event()
        address, port = str(folder / "run" / "sock"), tcp_port(tcp)
        kept = service or MemoryService()
        notice = Notice(
            pid=os.getpid(),
            host="login1",
            boot_id="b",
            address=address,
            version="1.2.3",
            home=str(folder),
            started_at="2026-01-01T00:00:00Z",
        )

        async def open_ui() -> int:
            return port

        desk = Desk(
            notice=notice,
            token=Token(TOKEN),
            sessions=Sessions(),
            new_token=lambda: NEW_TOKEN,
            folder=str(folder / "dispatches"),
            max_upload=max_upload,
            open_ui=open_ui,
            ui_port=lambda: port,
            forward=lambda port: f"ssh -N -L {port}:127.0.0.1:{port} me@login1",
            stop=stop.set,
            stopping=stop.is_set,
        )
        app = application(kept, desk, uid=os.geteuid() if uid is None else uid)
        listeners = [Listener(app, unix), Listener(app, tcp)]
        loop = asyncio.get_running_loop()
        here.append(Served(kept, folder, address, port, desk.sessions, loop, stop))
        async with asyncio.TaskGroup() as group:
            for listener in listeners:
                group.create_task(listener.run_until_stopped())
            started.set()
            await asyncio.to_thread(ended.wait)
            stop.set()
            for listener in listeners:
                listener.stop()

    def thread() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:
            fault.append(error)
        finally:
            started.set()

    (folder / "run").mkdir(mode=0o700)
    ended = threading.Event()
    runner = threading.Thread(target=thread, daemon=True)
    runner.start()
    try:
        started.wait(60)
        if fault:
            raise fault[0]
        yield here[0]
    finally:
        ended.set()
        runner.join(60)
    if fault:
        raise fault[0]


def a_shape(**changes: object) -> Json:
    """What tasks ask for, as a manifest lists it."""
    return {
        "executor": None,
        "resources": {},
        "workdir": None,
        "retries": {"times": 0, "memory": 2.0, "walltime": 2.0, "exceptions": []},
        "accept_failed": False,
        "on_cancelled": "pause",
        "max_running": None,
        "launcher": None,
        "isolation": None,
        "sublattice": False,
        **changes,
    }


def a_manifest(**changes: object) -> Json:
    return {
        "v": 2,
        "id": FIRST,
        "name": "grid",
        "python": [3, 11],
        "executable": "/usr/bin/python3",
        "cwd": "/home/me",
        "client": {"host": "login1", "user": "me", "version": "1.2.3"},
        "functions": {"0": {"name": "square", "module": "__main__", "source": None}},
        "shapes": [a_shape(resources={"cpus": 2})],
        "tasks": [["square", 0, 1, 0, 0, 0], ["square", 0, 1, 0, 1, 0]],
        "needs": [[], [0]],
        "output": 2,
        "output_deps": [1],
        "max_failures": None,
        "max_running": None,
        **changes,
    }


BLOBS = (b"a function", b"its arguments", b"")


def an_upload(manifest: Json | None = None, blobs: Sequence[bytes] = BLOBS) -> bytes:
    return zlib.compress(b"".join(stream_parts(manifest or a_manifest(), blobs)), 1)


if __name__ == "__main__":
    import sys

    Path(sys.argv[1]).write_bytes(an_upload())
