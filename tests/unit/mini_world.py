"""A scheduler that lives in memory, its plugin, and an engine on it: the other side of every engine test.

Jobs do nothing by themselves: a test plays their workers, line by line, in the journals of real bag directories.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from hpcflow.core.bag import bag_key, sign_line
from hpcflow.core.model import (
    ArrayLimits,
    Cause,
    ClusterName,
    DispatchId,
    JobArray,
    JobId,
    Limits,
    Observation,
    Observations,
    Phase,
    Resources,
    Shape,
    Stuck,
    ulid,
)
from hpcflow.core.plugin import Accepted, Ambiguous, Command, Plugin, Refused, Reply, Submission
from hpcflow.core.queue import NodeState, QueuedJob, QueueNode, QueuePartition, QueueView, told
from hpcflow.core.states import Status
from hpcflow.server.clusters import Cluster
from hpcflow.server.engine import Engine
from hpcflow.server.live import LiveDispatch
from hpcflow.server.manifest import read_graph
from hpcflow.server.remote import ThisMachine
from hpcflow.server.settings import ClusterSettings, Settings
from hpcflow.server.store import DispatchRow, Store

MINI = ClusterName("mini")
KEY = b"k" * 32
QUICK: dict[str, Any] = {
    "settle": 0.01,
    "chain_length": 1,
    "linger": 0.0,
    "gather": 0.0,
    "journal_poll": 0.01,
    "journal_poll_max": 0.02,
    "accounting_poll": 0.03,
    "submit_settle": 0.2,
    "visibility_grace": 0.0,
}


@dataclass
class Job:
    """One array that the scheduler took."""

    id: str
    token: str
    path: str
    #: Per array task; an index that is not here has left the scheduler's memory.
    tasks: dict[int, tuple[Phase, Cause | None, str]]
    exit_codes: dict[int, int] = field(default_factory=dict[int, int])
    #: What more the scheduler says of an array task: fields of `Observation`.
    more: dict[int, dict[str, str]] = field(default_factory=dict[int, dict[str, str]])


@dataclass
class World:
    """The scheduler: what it took, what it was asked, and how it misbehaves."""

    jobs: list[Job] = field(default_factory=list[Job])
    calls: list[str] = field(default_factory=list[str])
    #: Replies to the next submissions instead of the usual one: "lost" (taken, reply lost), "dropped" (neither),
    #: "full" or "refused".
    submit_faults: list[str] = field(default_factory=list[str])
    #: Jobs of other users: id, name, array tasks, user.
    others: list[tuple[str, str, int, str]] = field(default_factory=list[tuple[str, str, int, str]])
    #: No answer to any question while true.
    deaf: bool = False
    #: Commands wait while this is not set, as where a cable was pulled.
    connected: asyncio.Event = field(default_factory=asyncio.Event)
    #: Array tasks of an array that it takes, whatever its plugin reads of limits.
    widest: int = 1000

    def __post_init__(self) -> None:
        self.connected.set()

    def answer(self, command: Command) -> Reply:
        verb, *words = command.argv
        self.calls.append(verb)
        if self.deaf:
            return Reply(None, b"", b"no answer")
        match verb:
            case "submit":
                return self._submit(words[0], words[1], int(words[2]))
            case "query":
                return Reply(0, json.dumps(self._rows(words)).encode())
            case "queue":
                waiting = [[job.id, job.token, len(job.tasks)] for job in self.jobs]
                return Reply(0, json.dumps([*([*each, "ada"] for each in waiting), *self.others]).encode())
            case "cancel":
                self._cancel(words[1:], pending_only=words[0] == "pending")
                return Reply(0)
            case _:
                return Reply(0)

    def _submit(self, token: str, path: str, width: int) -> Reply:
        fault = self.submit_faults.pop(0) if self.submit_faults else ""
        if width > self.widest:
            return Reply(1, b"", b"too wide")
        if fault in {"full", "refused"}:
            return Reply(1, b"", fault.encode())
        if fault != "dropped":
            tasks = dict.fromkeys(range(width), (Phase.PENDING, None, "PENDING"))
            self.jobs.append(Job(str(100 + len(self.jobs)), token, path, dict(tasks)))
        return Reply(None, b"", b"reply lost") if fault else Reply(0, self.jobs[-1].id.encode())

    def _rows(self, tokens: Sequence[str]) -> list[list[Any]]:  # Any: JSON
        return [
            [job.token, job.id, index, phase, cause, raw, job.exit_codes.get(index), job.more.get(index, {})]
            for job in self.jobs
            if job.token in tokens
            for index, (phase, cause, raw) in job.tasks.items()
        ]

    def _cancel(self, tokens: Sequence[str], *, pending_only: bool) -> None:
        for job in self.jobs:
            if job.token in tokens:
                for index, (phase, _, _) in job.tasks.items():
                    if phase is Phase.PENDING or (phase is Phase.RUNNING and not pending_only):
                        job.tasks[index] = (Phase.ENDED, Cause.CANCELLED, "CANCELLED by 1000")

    def end(self, job: Job, index: int, cause: Cause, raw: str = "", exit_code: int | None = None, **more: str) -> None:
        job.tasks[index] = (Phase.ENDED, cause, raw or cause.name)
        job.more[index] = more
        if exit_code is not None:
            job.exit_codes[index] = exit_code

    def count(self, verb: str) -> int:
        return self.calls.count(verb)


class MiniPlugin:
    """The spelling of `World`."""

    name: ClassVar[str] = "mini"

    def __init__(self, *, python: str = "", worker: str = "", root: str = "") -> None:
        self.most = 1000

    def probe(self) -> Command:
        return Command(("probe",))

    def parse_probe(self, reply: Reply) -> str:
        return "mini 1"

    def limits(self) -> Command:
        return Command(("limits",))

    def parse_limits(self, reply: Reply) -> Limits:
        return Limits(array=ArrayLimits(max_width=self.most), partitions=(), scheduler="mini", version="1")

    def submit(self, array: JobArray) -> Command:
        return Command(("submit", array.token, array.path, str(array.width)))

    def parse_submit(self, array: JobArray, reply: Reply) -> Submission:
        match reply.exit_code, reply.stderr:
            case 0, _:
                return Accepted(JobId(reply.stdout.decode()))
            case 1, said:
                return Refused(said.decode(), retry_later=said == b"full", too_wide=said == b"too wide")
            case _, said:
                return Ambiguous(said.decode())

    def query(self, arrays: Sequence[JobArray], *, accounting: bool) -> tuple[Command, ...]:
        return (Command(("query", *(array.token for array in arrays))),)

    def parse_query(self, arrays: Sequence[JobArray], replies: Sequence[Reply]) -> Observations:
        if replies[0].exit_code is None:
            return Observations(rows=(), complete=frozenset(), problems=("mini does not answer",))
        rows = tuple(
            Observation(
                token=token,
                job_id=JobId(job),
                index=index,
                phase=Phase(phase),
                cause=Cause(cause) if cause else None,
                raw=raw,
                exit_code=exit_code,
                host=more.get("host"),
                by=more.get("by"),
                stuck=Stuck(more["stuck"]) if "stuck" in more else None,
                suspended=bool(more.get("suspended")),
                core_seconds=float(more["core_seconds"]) if "core_seconds" in more else None,
                max_rss_kib=int(more["max_rss_kib"]) if "max_rss_kib" in more else None,
            )
            for token, job, index, phase, cause, raw, exit_code, more in json.loads(replies[0].stdout)
        )
        return Observations(rows=rows, complete=frozenset(array.token for array in arrays))

    def queue(self) -> tuple[Command, ...]:
        return (Command(("queue",)),)

    def parse_queue(self, replies: Sequence[Reply]) -> QueueView:
        if replies[0].exit_code != 0:
            return QueueView(user=None, problems=(replies[0].stderr.decode(),))
        jobs = tuple(
            QueuedJob(job_id=job, name=name, tasks=tasks, user=user, partition="all", phase=Phase.PENDING, raw="PD")
            for job, name, tasks, user in json.loads(replies[0].stdout)
        )
        nodes = (QueueNode(name="n1", state=NodeState.IDLE, raw="idle", partitions=("all",), cores=4, cores_used=0),)
        partitions = told([QueuePartition(name="all")], nodes=nodes, jobs=jobs, user="ada")
        return QueueView(user="ada", partitions=partitions, nodes=nodes, jobs=jobs)

    def why_pending(self, raw: str) -> str | None:
        return "Waits its turn" if raw == "PENDING Priority" else None

    def cancel(self, arrays: Sequence[JobArray], *, pending_only: bool) -> Command:
        return Command(("cancel", "pending" if pending_only else "all", *(array.token for array in arrays)))

    def release(self, arrays: Sequence[JobArray]) -> Command | None:
        return Command(("release", *(array.token for array in arrays)))

    def parse_cancel(self, reply: Reply) -> str | None:
        return None if reply.exit_code == 0 else reply.stderr.decode()


_conforms: type[Plugin] = MiniPlugin


class WorldTransport(ThisMachine):
    """This machine's files, and the world's scheduler."""

    def __init__(self, world: World) -> None:
        super().__init__({})
        self._world = world

    async def run(self, command: Command, deadline_s: float) -> Reply:
        if command.argv[0] in {"sh", "/bin/sh"}:  # no question to the scheduler
            return await super().run(command, deadline_s)
        await self._world.connected.wait()
        return self._world.answer(command)


class PlayedWorker:
    """The journal of one worker, written by the test."""

    def __init__(self, job: Job, index: int, restart: int = 0, slot: int | None = None) -> None:
        bag = Path(job.path)
        self._key = bag_key(KEY, bag.name)
        name = job.id if slot is None else f"{job.id}+{slot}"
        self._journal = bag / "journal" / f"{name}_{index}_{restart}.jsonl"
        job.tasks[index] = (Phase.RUNNING, None, "RUNNING")
        self.write(ev="up", host="node1")

    def write(self, **record: object) -> None:
        with self._journal.open("ab") as file:
            file.write(sign_line({"t": 1.0, "w": self._journal.stem, **record}, self._key))

    def claim(self, k: int) -> None:
        self.write(ev="claim", k=k)

    def start(self, task: int, attempt: int = 1) -> None:
        self.write(ev="start", i=task, n=attempt)

    def end(self, task: int, st: str = "ok", attempt: int = 1, **more: object) -> None:
        record = {"wall": 0.1, "cpu": [0.0, 0.0], "rss": 1000, "out": [0, 0], "err": [0, 0], **more}
        self.write(ev="end", i=task, n=attempt, st=st, **record)

    def leave(self, why: str = "drained") -> None:
        self.write(ev="exit", why=why, n=0)

    def run(self, k: int, task: int, attempt: int = 1) -> None:
        """Claim one range of one task, and run it well."""
        self.claim(k)
        self.start(task, attempt)
        self.end(task, attempt=attempt, r={"b": "gASIiC4="})


def a_manifest(
    *deps: Sequence[int],
    retries: int | Mapping[str, Any] = 0,
    on_cancelled: str = "pause",
    accepting: Sequence[int] = (),
    max_failures: int | None = None,
    max_running: int | None = None,
    isolation: str | None = None,
    **resources: Any,
) -> dict[str, Any]:  # Any: JSON
    """A dispatch of tasks that wait for each other as ``deps`` says; those of ``accepting`` accept failures."""
    shape = {"executor": "mini", "resources": resources, "workdir": None, "retries": retries}
    shape |= {"on_cancelled": on_cancelled, "accept_failed": False, "isolation": isolation}
    needs = list(dict.fromkeys([(), *map(tuple, deps)]))
    return {
        "v": 2,
        "id": ulid(int(datetime.now(UTC).timestamp() * 1000), secrets.token_bytes(10)),
        "name": "flow",
        "python": [3, 11],
        "executable": "/usr/bin/python3",
        "shapes": [shape, {**shape, "accept_failed": True}],
        "tasks": [
            [f"step{index}", 0, 0, int(index in accepting), needs.index(tuple(before)), 0]
            for index, before in enumerate(deps)
        ],
        "needs": needs,
        "max_failures": max_failures,
        "max_running": max_running,
        "output": 0,
        "output_deps": [],
        "blobs": [[4, hashlib.sha256(b"blob").hexdigest()]],
    }


def a_dispatch(manifest: Mapping[str, Any], folder: Path) -> LiveDispatch:  # Any: JSON
    graph = read_graph(manifest)
    payload = folder / "payload"
    payload.write_bytes(b"blob")
    row = DispatchRow(
        id=DispatchId(manifest["id"]),
        name="flow",
        status=Status.RUNNING,
        created_at=datetime.now(UTC),
        started_at=None,
        ended_at=None,
        error=None,
        n_tasks=len(graph.tasks),
        cancel_wanted=False,
        python=(3, 11),
        counts={},
    )
    shape = Shape(
        cluster=MINI,
        resources=Resources(**manifest["shapes"][0]["resources"]),
        python="/usr/bin/python3",
        python_version=(3, 11),
    )
    return LiveDispatch.fresh(row, graph, [shape] * len(graph.tasks), manifest, str(payload))


@dataclass
class Stage:
    """A running engine, and what stands around it."""

    engine: Engine
    store: Store
    world: World
    folder: Path

    async def dispatch(self, *deps: Sequence[int], **options: Any) -> LiveDispatch:  # Any: of a_manifest
        """Store and start a dispatch."""
        manifest = a_manifest(*deps, **options)
        live = a_dispatch(manifest, self.folder)
        self.store.add_dispatch(live.row, manifest, [live.task_row(index) for index in range(len(live.tasks))])
        await self.engine.begin(live)
        return live

    async def until(self, holds: Callable[[], object], what: str = "") -> None:
        """Return once something holds; the engine's own turns are what is waited for."""
        async with asyncio.timeout(60):
            while not holds():
                await asyncio.sleep(0.005)

    def set(self, **settings: Any) -> None:  # Any: Settings
        """Change settings of the engine that runs: for a time that has not to pass before something was seen."""
        self.engine.settings = self.engine._shared.settings = self.engine.settings.model_copy(update=settings)

    async def job(self, number: int = 0) -> Job:
        """Return the n-th array that the scheduler took, once it was."""
        await self.until(lambda: len(self.world.jobs) > number)
        return self.world.jobs[number]

    async def ended(self, live: LiveDispatch) -> DispatchRow:
        """Return the row of a dispatch once it is final."""
        await self.until(lambda: live.id not in self.engine.writer.dispatches)
        row = self.store.dispatch(live.id)
        assert row is not None
        return row


@asynccontextmanager
async def a_stage(
    folder: Path, world: World | None = None, *, on_network: bool = False, **settings: Any
) -> AsyncGenerator[Stage]:  # Any: Settings
    """Run an engine on a world, with a store in ``folder``; entering it a second time is a restart."""
    world = world or World()
    store = Store.open(str(folder / "hpcflow.db"), on_network=False)
    cluster = Cluster(
        name=MINI,
        settings=ClusterSettings(scheduler="mini"),
        plugin=MiniPlugin(),
        transport=WorldTransport(world),
        root=str(folder / "work"),
        key=KEY,
        key_path=str(folder / "key"),
        worker_path=str(folder / "work/bin/worker/worker.pyz"),
    )
    engine = Engine(
        Settings(**{**QUICK, **settings}),
        store,
        {MINI: cluster},
        now=lambda: datetime.now(UTC),
        new_id=lambda: ulid(int(datetime.now(UTC).timestamp() * 1000), secrets.token_bytes(10)),
        on_network=on_network,
    )
    loop = asyncio.create_task(engine.run())
    try:
        yield Stage(engine, store, world, folder)
    finally:
        loop.cancel()
        with suppress(asyncio.CancelledError):
            await loop
        store.close()
