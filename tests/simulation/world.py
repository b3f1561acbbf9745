"""One world from one seed: a cluster with its troubles, a user, and servers that are killed and come back."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import shutil
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

from hpcflow.core.model import HpcflowError, ulid
from hpcflow.core.places import Places
from hpcflow.core.plugin import Plugin
from hpcflow.core.states import Status
from hpcflow.server.service import Service
from hpcflow.server.settings import ClusterSettings, Settings
from hpcflow.server.store import LeaseLost
from hpcflow_slurm import SlurmPlugin
from tests.simulation.clock import EPOCH, VirtualLoop
from tests.simulation.files import SharedFiles
from tests.simulation.history import History
from tests.simulation.server import Chaos, Process, Surroundings
from tests.simulation.slurm import Slurm, SlurmTraits
from tests.simulation.workers import Fate, Site

__all__ = ["Options", "Plan", "World", "run_world"]

#: How long after the last fault a world has to come to rest.
PATIENCE_S: Final = 24 * 3600.0
_KEY: Final = b"k" * 32


@dataclass(frozen=True, slots=True)
class Plan:
    """What a seed stands for."""

    deps: tuple[tuple[int, ...], ...]
    retries: int
    walltime_s: int | None
    median_s: float
    #: Share of tasks that do not always end well.
    bad: float
    chaos_s: float
    fault_rate: float
    kills: int
    #: Seconds between two troubles of the cluster.
    trouble_s: float
    cancel_at: float | None
    pause_at: float | None
    on_cancelled: str
    #: Tasks that run though what they wait for has failed.
    accepting: frozenset[int]
    foreign_cancels: bool
    #: Nodes fail more often than anything else, and what ran there goes on.
    lossy: bool
    on_network: bool
    max_width: int | None
    traits: SlurmTraits
    #: How much run times differ.
    spread: float = 0.7
    #: When some tasks are cancelled, and which.
    cancel_some_at: float | None = None
    some: tuple[int, ...] = ()

    @classmethod
    def of(cls, seed: int) -> Plan:
        rng = Random(f"{seed}/plan")
        calm = rng.random() < 0.1
        plan = cls(
            deps=_graph(rng),
            retries=rng.choice((0, 0, 1, 2)),
            walltime_s=rng.choice((None, 300, 900, 3600)),
            median_s=rng.choice((2.0, 20.0, 90.0, 400.0)),
            bad=rng.choice((0.0, 0.0, 0.1, 0.4)),
            chaos_s=rng.choice((300.0, 1200.0, 3600.0)),
            fault_rate=0.0 if calm else rng.choice((0.02, 0.06, 0.15)),
            kills=0 if calm else rng.choice((0, 1, 2, 4, 8)),
            trouble_s=1e9 if calm else rng.choice((60.0, 200.0, 600.0)),
            cancel_at=rng.uniform(1, 1000) if rng.random() < 0.2 else None,
            pause_at=rng.uniform(1, 1000) if rng.random() < 0.1 else None,
            on_cancelled=rng.choice(("pause", "retry")),
            accepting=frozenset(index for index in range(32) if rng.random() < 0.2),
            foreign_cancels=rng.random() < 0.2,
            lossy=rng.random() < 0.3,
            on_network=rng.random() < 0.7,
            max_width=rng.choice((None, None, 2, 5)),
            traits=SlurmTraits(
                nodes=rng.randint(1, 4),
                cpus=rng.randint(1, 4),
                accounting=rng.random() < 0.85,
                min_job_age_s=rng.choice((300.0, 300.0, 10.0)),
                requeue_delay_s=rng.choice((6.0, 121.0)),
                book_lag_s=rng.choice((1.0, 5.0, 40.0)),
                requeues=rng.random() < 0.7,
            ),
        )
        if plan.cancel_at is not None or rng.random() >= 0.3:
            return plan
        share = rng.choice((0.1, 0.5, 0.9))
        some = tuple(index for index in range(len(plan.deps)) if rng.random() < share)
        return replace(plan, cancel_some_at=rng.uniform(1, 1000), some=some)


def _graph(rng: Random) -> tuple[tuple[int, ...], ...]:
    size = rng.choice((1, 3, 8, 16, 32))
    kind = rng.choice(("bag", "bag", "chain", "stages", "any"))
    if kind == "chain":
        size = min(size, 8)
    deps: list[tuple[int, ...]] = []
    for index in range(size):
        match kind:
            case "chain":
                deps.append((index - 1,) if index else ())
            case "stages":
                wide = max(1, size // 3)
                stage = index // wide
                deps.append(tuple(range((stage - 1) * wide, stage * wide)) if stage else ())
            case "any":
                deps.append(tuple(sorted(rng.sample(range(index), min(index, rng.choice((0, 0, 1, 2)))))))
            case _:
                deps.append(())
    return tuple(deps)


@dataclass(frozen=True, slots=True)
class Options:
    """What of the real thing a test replaces to see that its absence is noticed."""

    plugin: Callable[..., Plugin] = SlurmPlugin
    #: Instead of the plan that belongs to the seed.
    plan: Plan | None = None
    #: Controller and accounting go away for so long, half a minute after the beginning.
    outage_s: float = 0.0


class World:
    """Runs one plan to its end."""

    def __init__(self, seed: int, folder: Path, options: Options) -> None:
        self.seed = seed
        self.plan = options.plan or Plan.of(seed)
        self._outage_s = options.outage_s
        self.loop = VirtualLoop()
        self.history = History(self.loop.time)
        rng = self._random("chaos")
        self.chaos = Chaos(
            rng, self.loop.time, self.plan.chaos_s, rate=self.plan.fault_rate, kills_left=self.plan.kills
        )
        lag = self._random("lag")
        longest = lag.choice((1.0, 10.0, 40.0)) if self.plan.on_network else 0.0
        self.files = SharedFiles(self.loop.time, lambda: lag.uniform(0, longest))
        site = Site(self.loop, self.files, self.history, _KEY, self._random("workers"), self._fate)
        site.looks = self.plan.cancel_some_at is not None
        self.slurm = Slurm(site, self.plan.traits, self._random("slurm"))
        home = Places(str(folder))
        Path(home.dispatches).mkdir()
        (folder / "payload").write_bytes(b"blob")
        self.manifest = self._manifest()
        self._folder = folder
        self._surroundings = Surroundings(
            loop=self.loop,
            history=self.history,
            chaos=self.chaos,
            slurm=self.slurm,
            files=self.files,
            home=home,
            settings=Settings(journal_poll=1.0, journal_poll_max=30.0),
            plugin=options.plugin,
            table=ClusterSettings(scheduler="slurm", max_width=self.plan.max_width),
            key=_KEY,
            rng=self._random("server"),
            on_network=self.plan.on_network,
        )
        self._uploads = 0
        self._accepted = False
        self._cancelled = False

    def _random(self, part: str) -> Random:
        return Random(f"{self.seed}/{part}")

    def _manifest(self) -> dict[str, Any]:  # Any: JSON
        plan = self.plan
        shape = {
            "executor": "slurm",
            "resources": {} if plan.walltime_s is None else {"walltime_s": plan.walltime_s},
            "workdir": None,
            "retries": {"times": plan.retries},
            "on_cancelled": plan.on_cancelled,
        }
        return {
            "v": 2,
            "id": ulid(int(EPOCH.timestamp() * 1000), self._random("id").randbytes(10)),
            "name": "flow",
            "python": [3, 11],
            "executable": "/usr/bin/python3",
            "shapes": [{**shape, "accept_failed": accepts} for accepts in (False, True)],
            "tasks": [
                [f"step{index % 3}", 0, 0, int(index in plan.accepting), index, len(plan.deps)]
                for index in range(len(plan.deps))
            ],
            "needs": [*map(list, plan.deps), []],
            "output": 0,
            "output_deps": [],
            "blobs": [[4, hashlib.sha256(b"blob").hexdigest()]],
        }

    def _plain(self, error: HpcflowError) -> str:
        """Return what an error says in every run of this world, whose folder has another name in each."""
        return str(error).replace(str(self._folder), "")

    def _fate(self, index: int, attempt: int) -> Fate:
        plan = self.plan
        of_task = self._random(f"task {index}")
        bad = of_task.random() < plan.bad
        base = plan.median_s * of_task.lognormvariate(0, plan.spread)
        of_run = self._random(f"run {index} {attempt} {self.slurm.loop.time():.3f}")
        st = "ok"
        if bad and of_run.random() < 0.6:
            st = of_run.choice(("error", "exit", "signal", "memory", "kills", "slow"))
        wall = base * (of_run.uniform(0.8, 1.2) if plan.spread else 1.0)
        return Fate(1e6 if st == "slow" else wall, "ok" if st == "slow" else st)

    # ---- running

    def run(self) -> History:
        with _logged(self.history):
            try:
                self.loop.run_until_complete(self._main())
            finally:
                left = asyncio.all_tasks(self.loop)
                for task in left:
                    task.cancel()
                self.loop.run_until_complete(asyncio.wait(left) if left else asyncio.sleep(0))
                self.loop.close()
        return self.history

    async def _main(self) -> None:
        self.history.add("world", seed=self.seed, plan=self.plan)
        rest = self.loop.create_task(self._rest())
        self._trouble_later()
        if self._outage_s:
            self.loop.call_later(30.0, self.slurm.hold_controller, self._outage_s)
            self.loop.call_later(30.0, self.slurm.hold_books, self._outage_s)
        generation = 0
        processes: list[Process] = []
        down = self._random("down")
        while not rest.done():
            generation += 1
            process = await Process.lives(self._surroundings, generation, self._user)
            processes.append(process)
            died = self.loop.create_task(process.died.wait())
            await asyncio.wait({rest, died}, return_when=asyncio.FIRST_COMPLETED)
            died.cancel()
            if process.dead:
                await process.die()
                await asyncio.sleep(down.choice((0.5, 5.0, 60.0, 600.0)))
        for process in processes:
            await process.die()
        self.history.add("rest")

    async def _rest(self) -> None:
        """Return when nothing is left to do, or when that does not come to be."""
        quiet = 0
        while quiet < 3:
            await asyncio.sleep(100.0)
            if self.loop.time() > self.chaos.until + PATIENCE_S:
                self.history.add("no rest", left=len(self.slurm.elements("PENDING", "RUNNING", "COMPLETING")))
                return
            status = next((entry.status for entry in reversed(self.history.entries) if entry.what == "status"), None)
            over = status not in {None, Status.RUNNING} and not self.chaos.active
            quiet = quiet + 1 if over and not any(job.alive for job in self.slurm.jobs) else 0

    async def _user(self, service: Service) -> None:
        """Dispatch, perhaps cancel; after a server's death ask again for what was not confirmed."""
        while not self._accepted:
            self._uploads += 1
            payload = self._folder / f"upload {self._uploads}"
            payload.write_bytes(b"blob")
            try:
                await service.accept(self.manifest, str(payload))
                self._accepted = True
                self.history.add("accepted by server")
            except LeaseLost:
                raise
            except HpcflowError as error:
                self.history.add("not accepted", error=str(error))
                await asyncio.sleep(5.0)
        if self.plan.cancel_some_at is not None and not self._cancelled:
            await self._cancel(service, self.plan.cancel_some_at, list(self.plan.some))
        if self.plan.cancel_at is None or self._cancelled:
            await self._resume_now_and_then(service)
            return
        await self._cancel(service, self.plan.cancel_at, None)

    async def _cancel(self, service: Service, at: float, tasks: list[int] | None) -> None:
        """Cancel all or some tasks, as soon as that is confirmed."""
        await asyncio.sleep(max(0.0, at - self.loop.time()))
        while not self._cancelled:
            self.history.add("cancel asked")
            try:
                await service.steering.cancel(self.manifest["id"], tasks)
                self._cancelled = True
                self.history.add("cancel confirmed" if tasks is None else "some cancelled", tasks=tasks)
            except LeaseLost:
                raise
            except HpcflowError as error:
                self.history.add("not cancelled", error=str(error))
                await asyncio.sleep(5.0)

    async def _resume_now_and_then(self, service: Service) -> None:
        """Look now and then, and tell a dispatch to go on that waits for that."""
        if self.plan.pause_at is not None:
            await asyncio.sleep(max(0.0, self.plan.pause_at - self.loop.time()))
            try:
                await service.steering.pause(self.manifest["id"])
                self.history.add("paused")
            except LeaseLost:
                raise
            except HpcflowError as error:
                self.history.add("not paused", error=self._plain(error))
        while True:
            await asyncio.sleep(900.0)
            if not any(entry.what in {"foreign", "held", "message", "paused"} for entry in self.history.entries):
                continue
            try:
                answer = await service.steering.resume(self.manifest["id"])
                self.history.add("resumed", tasks=answer["moved"])
            except LeaseLost:
                raise
            except HpcflowError as error:
                self.history.add("not resumed", error=self._plain(error))

    # ---- the cluster's troubles

    def _trouble_later(self) -> None:
        rng = self._random("trouble")

        def happens() -> None:
            if self.chaos.active:
                self._trouble(rng)
                self.loop.call_later(rng.expovariate(1 / self.plan.trouble_s), happens)

        self.loop.call_later(rng.expovariate(1 / self.plan.trouble_s), happens)

        def calm() -> None:
            for job in self.slurm.jobs:
                self.slurm.let_go(job)

        self.loop.call_later(self.plan.chaos_s, calm)

    def _trouble(self, rng: Random) -> None:
        slurm = self.slurm
        running = slurm.elements("RUNNING")
        kind = rng.choice(
            ("requeue", "preempt", "node", "node", "memory", "controller", "books", "foreign", "sick", "hold")
        )
        if self.plan.lossy and rng.random() < 0.6:
            kind = "node"
        job, element = rng.choice(running) if running else (None, None)
        if kind == "controller":
            if slurm.controller_up:
                slurm.hold_controller(rng.choice((20.0, 120.0, 1800.0)))
        elif kind == "books":
            if slurm.books_up:
                slurm.hold_books(rng.choice((60.0, 600.0, 3600.0)))
        elif kind == "hold":
            pending = slurm.elements("PENDING")
            if pending and self.plan.foreign_cancels and slurm.controller_up:
                slurm.hold(rng.choice(pending)[0])
        elif job is None or element is None or not slurm.controller_up:
            return
        elif kind == "node":
            slurm.fail_node(
                element.node,
                zombies=self.plan.lossy or rng.random() < 0.5,
                noticed_after_s=rng.uniform(20, 150),
                back_after_s=rng.uniform(10, 600),
            )
        elif kind == "foreign":
            if self.plan.foreign_cancels:
                whole = rng.random() < 0.3
                self.history.add("foreign", job=job.id, index=None if whole else element.index)
                for victim in job.elements if whole else [element]:
                    slurm.cancel(job, victim, by=0)
        else:
            self.history.add("trouble", kind=kind, job=job.id, index=element.index)
            act: dict[str, Callable[[], None]] = {
                "requeue": partial(slurm.requeue, job, element),
                "preempt": partial(slurm.preempt, job, element, requeue=rng.random() < 0.7),
                "memory": partial(slurm.kill, job, element, "OUT_OF_MEMORY", "0:125"),
                "sick": partial(slurm.kill, job, element, "FAILED", "0:9"),
            }
            act[kind]()


def run_world(seed: int, options: Options = Options()) -> World:
    """Run the world of a seed; return it with its history."""
    folder = Path(tempfile.mkdtemp(prefix="hpcflow-world-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        world = World(seed, folder, options)
        world.run()
        return world
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Log(logging.Handler):
    def __init__(self, history: History) -> None:
        super().__init__(logging.WARNING)
        self._history = history

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self._history.add("log", level=record.levelname, said=record.getMessage(), error=repr(error) if error else None)


@contextmanager
def _logged(history: History) -> Generator[None]:
    """Write what the server logs into the history, and nowhere else."""
    logger, handler = logging.getLogger("hpcflow"), _Log(history)
    before = logger.propagate
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before
