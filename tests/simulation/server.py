"""The real engine, service and store as one process of a world: each of its doors may fail, or be its last.

A killed process leaves nothing but what is stored, pushed or submitted: its tasks are cancelled, and what they still
try has no effect.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any, Final, Self

from hpcflow.core.model import ClusterName, ulid
from hpcflow.core.places import Places
from hpcflow.core.plugin import Command, Plugin, Reply
from hpcflow.server.clusters import Cluster
from hpcflow.server.engine import Engine
from hpcflow.server.finding import Default, cluster_maker
from hpcflow.server.remote import File, TransportError
from hpcflow.server.service import Service
from hpcflow.server.settings import ClusterSettings, Settings
from hpcflow.server.store import Changes, DispatchRow, Lease, LeaseLost, Store, StoreFull, TaskRow
from tests.simulation.clock import VirtualLoop, run_at_once
from tests.simulation.files import SharedFiles
from tests.simulation.history import History
from tests.simulation.slurm import Slurm

__all__ = ["CLUSTER", "Chaos", "Process", "Surroundings"]

CLUSTER: Final = ClusterName("slurm")
_LOST: Final = (
    b"sbatch: error: Batch job submission failed: Socket timed out on send/recv operation\n",
    b"sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received\n",
    b"sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)\n",
)
_FULL: Final = (
    b"sbatch: error: AssocMaxSubmitJobLimit\n"
    b"sbatch: error: Batch job submission failed: Job violates accounting/QOS policy "
    b"(job submit limit, user's size and/or time limits)\n"
)
_REFUSED: Final = b"sbatch: error: Batch job submission failed: Invalid qos specification\n"


class Dead(BaseException):
    """The process was killed: whoever asked gets no answer."""


@dataclass(slots=True)
class Chaos:
    """Decides what goes wrong, for as long as anything does."""

    rng: Random
    clock: Callable[[], float]
    until: float
    #: Probability of a fault at a door.
    rate: float
    kills_left: int
    #: Longest time between a submission whose answer was lost and its acceptance.
    late_s: float = 60.0

    @property
    def active(self) -> bool:
        return self.clock() < self.until

    def pick(self, faults: Mapping[str, float]) -> str:
        """Return one of the faults, each with its weight times the rate, or ``""``."""
        if not self.active:
            return ""
        at = self.rng.random()
        for fault, weight in faults.items():
            at -= weight * self.rate
            if at < 0:
                return fault
        return ""

    def kills(self, weight: float) -> bool:
        """Return whether the server is killed here."""
        if self.kills_left and self.active and self.rng.random() < weight * 0.03:
            self.kills_left -= 1
            return True
        return False


@dataclass(slots=True)
class Surroundings:
    """What outlives a server."""

    loop: VirtualLoop
    history: History
    chaos: Chaos
    slurm: Slurm
    files: SharedFiles
    home: Places
    settings: Settings
    table: ClusterSettings
    plugin: Callable[..., Plugin]
    key: bytes
    rng: Random
    on_network: bool


class _Store(Store):
    """The real store; a write may fail, or be the last thing that its process does."""

    process: Process

    def apply(self, changes: Changes) -> None:
        self.process.pass_door("store", 1.0)
        if self.process.world.chaos.pick({"full": 0.3}):
            raise StoreFull("the disk is full")
        super().apply(changes)
        self.process.committed(changes)
        self.process.pass_door("stored", 1.0)

    def add_dispatch(
        self,
        row: DispatchRow,
        manifest: Mapping[str, Any],
        tasks: Sequence[TaskRow],
        taken: Changes | None = None,
    ) -> bool:
        self.process.pass_door("store", 3.0)
        added = super().add_dispatch(row, manifest, tasks, taken)
        self.process.world.history.add("dispatch", id=row.id, tasks=len(tasks))
        self.process.pass_door("stored", 3.0)
        return added


class _Link:
    """The transport: the world's Slurm and its shared file system, over a link that breaks."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._world = process.world
        self._chaos = process.world.chaos

    async def run(self, command: Command, deadline_s: float) -> Reply:
        process, chaos = self._process, self._chaos
        verb = command.argv[3] if command.argv[3:4] == ("hpcflow-cancel",) else command.argv[0]
        process.world.history.add("command", verb=verb, server=process.generation)
        submits = verb == "sbatch"
        await process.wait(chaos.rng.uniform(0.01, 0.5))
        process.pass_door_of_task(verb, 4.0 if submits else 0.5)
        fault = chaos.pick(
            {"lost": 1.0, "dropped": 1.0, "late": 1.0, "full": 1.0, "cut": 0.5, "refused": 0.05, "hangs": 0.3}
            if submits
            else {"refused": 0.5, "dropped": 0.7, "lost": 0.7, "cut": 1.0, "slow": 0.5}
        )
        if fault:
            process.world.history.add("fault", door=verb, fault=fault)
        reply = await self._submitted(command, fault, deadline_s) if submits else await self._asked(command, fault)
        process.pass_door_of_task(verb, 4.0 if submits else 0.5)
        await process.wait(chaos.rng.uniform(0.0, 0.2))
        return reply

    async def _submitted(self, command: Command, fault: str, deadline_s: float) -> Reply:
        process, rng, slurm = self._process, self._chaos.rng, self._world.slurm
        match fault:
            case "full":
                return Reply(1, b"", _FULL)
            case "refused":
                return Reply(1, b"", _REFUSED)
            case "dropped":
                return Reply(1, b"", rng.choice(_LOST)) if rng.random() < 0.5 else Reply(None, b"", b"cut")
            case "late" | "hangs":
                self._world.loop.call_later(rng.uniform(1.0, self._chaos.late_s), slurm.answer, command)
                if fault == "late":
                    return Reply(1, b"", rng.choice(_LOST))
                await process.wait(deadline_s)
                return Reply(None, b"", b"sbatch gave no answer")
            case _:
                pass
        reply = slurm.answer(command)
        match fault:
            case "lost":
                return Reply(1, b"", rng.choice(_LOST)) if rng.random() < 0.5 else Reply(None, b"", b"cut")
            case "cut":
                return Reply(reply.exit_code, reply.stdout[: rng.randrange(len(reply.stdout) or 1)], reply.stderr)
            case _:
                if reply.exit_code and not slurm.controller_up:
                    await process.wait(19.0)
                return reply

    async def _asked(self, command: Command, fault: str) -> Reply:
        process, rng, slurm = self._process, self._chaos.rng, self._world.slurm
        match fault:
            case "refused":
                return Reply(1, b"", b"error: Socket timed out on send/recv operation\n")
            case "dropped":
                return Reply(None, b"", b"Connection lost")
            case "slow":
                await process.wait(rng.uniform(5, 60))
            case _:
                pass
        reply = slurm.answer(command)
        match fault:
            case "lost":
                return Reply(None, b"", b"Connection lost")
            case "cut":
                # A lost connection ends in the middle of anything, and its end is not seen; a program that says that
                # all went well was cut in the middle of a line at least.
                cut = reply.stdout[: rng.randrange(len(reply.stdout) or 1)]
                whole = not cut or cut.endswith(b"\n")
                return Reply(None if whole or rng.random() < 0.5 else reply.exit_code, cut, reply.stderr)
            case _:
                if not slurm.controller_up and command.argv[0] == "squeue":
                    await process.wait(19.0)
                return reply

    async def push(self, directory: str, folders: Sequence[str], files: Sequence[File]) -> None:
        await self._file("push", 2.0)
        self._world.files.make(directory, folders, files)
        await self._file("pushed", 2.0)

    async def append(self, path: str, data: bytes) -> None:
        await self._file("append", 2.0)
        if not self._world.files.exists(path):
            raise TransportError(f"{path}: No such file or directory")
        self._world.files.append(path, data)
        await self._file("appended", 2.0)

    async def read_new(self, directory: str, offsets: Mapping[str, int]) -> dict[str, bytes]:
        await self._file("journals", 0.1)
        try:
            news = self._world.files.read_new(directory, offsets)
        except FileNotFoundError as error:
            raise TransportError(f"{directory}: {error.strerror}") from error
        if news:
            self._process.pass_door_of_task("journals", 1.0)
        return news

    async def read(self, path: str, offset: int, size: int) -> bytes:
        await self._file("file", 0.5)
        try:
            return self._world.files.read(path, offset, size)
        except FileNotFoundError as error:
            raise TransportError(f"{path}: {error.strerror}") from error

    async def _file(self, door: str, weight: float) -> None:
        self._process.pass_door_of_task(door, weight)
        fault = self._chaos.pick({"fails": 0.5})
        if fault:
            self._world.history.add("fault", door=door, fault=fault)
        await self._process.wait(0.0)
        if fault == "fails":
            raise TransportError(f"{door}: {os.strerror(errno.EIO)}")


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    return [
        leaf
        for error in group.exceptions
        for leaf in (_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]


@dataclass(slots=True)
class Process:
    """One server from its start to its death."""

    world: Surroundings
    generation: int
    #: What somebody does with the service, once it serves.
    user: Callable[[Service], Awaitable[None]]
    died: asyncio.Event = field(default_factory=asyncio.Event)
    dead: bool = False
    #: Another server takes over while this one lives.
    usurped: bool = False
    _engine: Engine | None = None
    _tasks: list[asyncio.Task[None]] = field(default_factory=list[asyncio.Task[None]])

    @classmethod
    async def lives(cls, world: Surroundings, generation: int, user: Callable[[Service], Awaitable[None]]) -> Self:
        """Start a server; return it at once."""
        process = cls(world, generation, user)
        world.loop.in_thread = process.in_thread
        world.history.add("server", generation=generation)
        process._begin(process._serve())
        return process

    async def die(self) -> None:
        """End it as SIGKILL does, from inside or outside; a second time nothing happens."""
        if not self._tasks:
            return
        self.dead = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        self.world.history.add("killed", generation=self.generation)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(self.world.loop.create_task(work))

    async def _serve(self) -> None:
        world = self.world
        store = _Store.open(world.home.store, on_network=False)
        store.process = self
        try:
            now = world.loop.now()
            owner = Lease(
                id=f"server {self.generation}",
                host="vm",
                pid=self.generation,
                boot_id="b",
                taken_at=now,
                renewed_at=now,
            )
            store.take_lease(owner, now=now, stale_after=timedelta(seconds=90), take_over=True)
            cluster = Cluster(
                name=CLUSTER,
                settings=world.table,
                plugin=world.plugin(python="/usr/bin/python3", worker="/work/worker.pyz", root="/work"),
                transport=_Link(self),
                root="/work",
                key=world.key,
                key_path="/keys/slurm",
                worker_path="/work/bin/worker/worker.pyz",
            )
            engine = Engine(
                world.settings,
                store,
                {CLUSTER: cluster},
                now=self._now,
                new_id=self._new_id,
                on_network=world.on_network,
            )
            make = cluster_maker(world.home, world.settings, {}, "/usr/bin/python3")
            service = Service(engine, world.home, Default(world.settings, engine.clusters), make, {})
            await service.take_up()
            self._begin(self._watched(self.user(service)))
            await self._watched(engine.run())
        finally:
            store.close()

    async def _watched(self, work: Awaitable[None]) -> None:
        try:
            await work
        except* LeaseLost:
            self.dead = True
            self.world.history.add("fenced", generation=self.generation)
        except* Exception as group:
            causes = _leaves(group)
            self.world.history.add("fell", generation=self.generation, error="; ".join(map(repr, causes)))
            raise

    def _now(self) -> datetime:
        return self.world.loop.now()

    def _new_id(self) -> str:
        return ulid(int(self._now().timestamp() * 1000), self.world.rng.randbytes(10))

    # ---- doors

    def in_thread(self, function: Callable[[], object], future: asyncio.Future[Any]) -> None:
        """Take the place of a thread: mostly as fast as can be, sometimes slowly."""
        try:
            if self.world.chaos.pick({"slow": 1.0}):
                self.world.loop.call_later(self.world.rng.uniform(0.001, 1.0), self._late, function, future)
            else:
                run_at_once(function, future)
        except Dead:
            return  # the future stays as it is: whoever waits for it is dead as well

    def _late(self, function: Callable[[], object], future: asyncio.Future[Any]) -> None:
        try:
            if not future.done():
                run_at_once(function, future)
        except Dead:
            return

    def pass_door(self, door: str, weight: float) -> None:
        """Go on, unless the process is dead or is killed just here."""
        if self.dead:
            raise Dead
        if not self.usurped and self.world.chaos.kills(weight):
            self._killed(door)

    def pass_door_of_task(self, door: str, weight: float) -> None:
        """Do the same where a coroutine of the server goes through."""
        try:
            self.pass_door(door, weight)
        except Dead:
            raise asyncio.CancelledError from None

    def _killed(self, door: str) -> None:
        self.usurped = self.usurped or self.world.chaos.rng.random() < 0.15
        how = "usurped" if self.usurped else "kill"
        self.world.history.add(how, door=door, generation=self.generation)
        self.died.set()
        if not self.usurped:
            self.dead = True
            raise Dead

    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        if self.dead:
            raise asyncio.CancelledError

    def committed(self, changes: Changes) -> None:
        """Write down what a transaction stored."""
        add = self.world.history.add
        for end in changes.ends:
            value = end.record.get("r")
            add(
                "end",
                task=end.index,
                attempt=end.attempt,
                worker=end.worker,
                st=end.record["st"],
                value=value.get("b") if isinstance(value, dict) else None,
            )
        for task in changes.tasks:
            add("task", task=task.index, attempt=task.attempt, state=str(task.state), error=task.error)
        for array in changes.arrays:
            token = array.array.token
            add(
                "array",
                token=token,
                state=str(array.state),
                job=array.array.job_id,
                cancel=array.cancel_wanted or None,
                reason=array.reason,
                alive=self.world.slurm.alive(token),
            )
        for dispatch in changes.dispatches:
            add("status", status=str(dispatch.status), error=dispatch.error)
        for _, text in changes.messages:
            add("message", text=text)
