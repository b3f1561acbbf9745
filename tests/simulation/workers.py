"""A worker as the scheduler's side of the world has it: it follows the protocol of `hpcflow.node`, without processes.

It claims ranges, appends signed lines, takes over from its dead predecessor, and leaves when it is told to. Killed, it
stops at once. On a lost node it may go on, and nobody there knows that it was given up.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from hpcflow.core.bag import bag_key, read_lines, sign_line
from hpcflow.core.lingering import Leave
from tests.simulation.files import SharedFiles
from tests.simulation.history import History

__all__ = ["Fate", "Site", "Worker"]

#: Ends that no later run of the same attempt changes, as `hpcflow.node.journal` has them.
_FINAL: Final = frozenset({"ok", "error", "exit", "timeout", "memory"})
EXIT_TERM: Final = 143
#: Between two looks of a busy worker for tasks that were cancelled.
_LOOK_S: Final = 20.0
EXIT_REFUSED: Final = 12


@dataclass(frozen=True, slots=True)
class Fate:
    """What one run of a task does: how long, and how it ends."""

    wall_s: float
    #: ok, error, exit, signal, memory; "kills" takes the worker with it.
    st: str


@dataclass(slots=True)
class Site:
    """What all workers of a world share."""

    loop: asyncio.AbstractEventLoop
    files: SharedFiles
    history: History
    key: bytes
    rng: Random
    fate: Callable[[int, int], Fate]
    #: Names of the runs so far.
    runs: int = 0
    #: Tasks may be cancelled one by one: workers look into the inbox while they run some.
    looks: bool = False


@dataclass(slots=True)
class Worker:
    """One run of one array task."""

    site: Site
    job: str
    index: int
    restart: int
    path: str
    #: Called with the exit code, or a negative signal, unless the worker was killed from outside.
    on_exit: Callable[[int], None]
    name: str = ""
    #: Its scheduler has given it up, and it does not know.
    zombie: bool = False
    stop: str | None = None
    task: asyncio.Task[None] | None = None
    #: Which of its array task's workers it is, where there are several, and these of their parent.
    slot: int | None = None
    slots: list[Worker] = field(default_factory=list["Worker"])
    _key: bytes = b""
    _journal: str = ""
    _woken: asyncio.Event = field(default_factory=asyncio.Event)
    _done: int = 0
    _cancelled: set[tuple[int, int]] = field(default_factory=set[tuple[int, int]])

    def begin(self) -> None:
        self.task = self.site.loop.create_task(self._live())

    @property
    def alive(self) -> bool:
        return self.task is not None and not self.task.done()

    def kill(self) -> None:
        """End it as SIGKILL or a dead node does."""
        if self.task is not None:
            self.task.cancel()
        if self.name and self.site.rng.random() < 0.2:  # in the middle of a line
            self.site.files.append(self._journal, b'{"ev":"sta')

    def tell(self, why: str) -> None:
        """Send it SIGTERM ("term") or SIGUSR1 ("warned")."""
        for each in self.slots:
            each.tell(why)
        self.stop = "term" if why == "term" else self.stop or why
        if why == "term":
            self._woken.set()

    async def _live(self) -> None:
        for slot in range(self._count()):
            self.slots.append(Worker(self.site, self.job, self.index, self.restart, self.path, self.on_exit, slot=slot))
        codes = await asyncio.gather(*(each._work() for each in self.slots or [self]))
        self.on_exit(max(codes))

    def _count(self) -> int:
        """Return how many workers it is the parent of; none: it works itself."""
        try:
            slots = int(json.loads(self.site.files.read(f"{self.path}/bag.json"))["slots"])
        except FileNotFoundError:
            return 0
        return slots if slots > 1 else 0

    async def _work(self) -> int:
        site = self.site
        await asyncio.sleep(site.rng.uniform(0.1, 2.0))
        try:
            bag = json.loads(site.files.read(f"{self.path}/bag.json"))
        except FileNotFoundError:
            return EXIT_REFUSED
        started = site.loop.time()
        self._key = bag_key(site.key, bag["bag"])
        restart = self.restart
        job = self.job if self.slot is None else f"{self.job}+{self.slot}"
        while site.files.exists(f"{self.path}/journal/{job}_{self.index}_{restart}.jsonl"):
            restart += 1
        self.name = f"{job}_{self.index}_{restart}"
        self._journal = f"{self.path}/journal/{self.name}.jsonl"
        self._log("up", host="node", node="node")
        parts = waits = 0
        leave = Leave()

        def look_into_inbox() -> bool:
            nonlocal parts, leave
            records, _, _ = read_lines(site.files.read(f"{self.path}/inbox.jsonl"), self._key)
            before = parts
            for record in records:
                if record["ev"] == "cancel":
                    self._cancelled.update((index, attempt) for index, attempt in record["tasks"])
                elif record["n"] == parts + 1 and record["ev"] == "more":
                    told = record["units"] or [[len(bag["tasks"]) + place] for place in range(len(record["tasks"]))]
                    bag["units"] = [*(bag["units"] or [[place] for place in range(len(bag["tasks"]))]), *told]
                    bag["tasks"] += record["tasks"]
                    bag["cuts"] += record["cuts"]
                    parts += 1
                elif record["n"] == parts + 1 and record["ev"] == "close":
                    bag["closed"] = True
                elif record["ev"] == "leave":
                    leave = Leave(record["all"], record["names"])
            return parts > before

        async def wait_for_more() -> bool:
            nonlocal waits
            if not bag["linger"] or self.index >= bag["lingerers"]:
                return False
            began, told = site.loop.time(), False
            waits += 1
            while may_begin():
                if look_into_inbox():
                    site.history.add("waits no more", bag=self.path, worker=self.name)
                    return True
                if leave.covers(self.name, waits):
                    site.history.add("let go", bag=self.path, worker=self.name, all=leave.everyone or None)
                    return False
                if bag.get("closed") or site.loop.time() - began >= bag["linger"]:
                    site.history.add("waits no more", bag=self.path, worker=self.name)
                    return False
                if not told:
                    self._log("idle", n=waits)
                    site.history.add("waits", bag=self.path, worker=self.name)
                    told = True
                await asyncio.sleep(1.0)
            return False

        look_into_inbox()
        ranges, ended = self._inherit(job, restart)
        claims = site.files.claims[self.path]

        def may_begin() -> bool:
            left = started + bag["walltime"] - site.loop.time()
            if self.stop is None and self._done and left < bag["need"]:
                self.stop = "walltime"
            return self.stop is None

        while True:
            k = ranges.pop(0) if ranges else self._claim(claims, len(bag["cuts"]) - 1) if may_begin() else None
            if k is None:
                if await wait_for_more():
                    continue
                break
            self._log("claim", k=k)
            for unit in range(bag["cuts"][k], bag["cuts"][k + 1]):
                st = "ok"
                for position in bag["units"][unit] if bag["units"] else [unit]:
                    index, attempt = bag["tasks"][position][:2]
                    st = ended.get((index, attempt), "")
                    if not st and site.looks:
                        self._look_for_cancels()
                    if not st and (index, attempt) in self._cancelled:
                        st = "cancelled"
                    if not st and may_begin():
                        st = await self._run(index, attempt, bag)
                    if st != "ok":
                        break  # the rest of a chain is not run
                if st == "kills":
                    return -9
                if not st:
                    self._log("left", k=k, u=unit)
                    break
            successor = f"{self.path}/journal/{job}_{self.index}_{restart + 1}.jsonl"
            if site.files.exists(successor):
                self.stop = self.stop or "superseded"
        await asyncio.sleep(0.01)
        self._log("exit", why=self.stop or "drained", n=self._done)
        return EXIT_TERM if self.stop == "term" else 0

    def _look_for_cancels(self) -> None:
        records, _, _ = read_lines(self.site.files.read(f"{self.path}/inbox.jsonl"), self._key)
        for record in records:
            if record["ev"] == "cancel":
                self._cancelled.update((index, attempt) for index, attempt in record["tasks"])

    def _log(self, event: str, **fields: object) -> float:
        site = self.site
        line = sign_line({"ev": event, "t": round(site.loop.time(), 4), "w": self.name, **fields}, self._key)
        return site.files.append(self._journal, line)

    def _inherit(self, job: str, restart: int) -> tuple[list[int], dict[tuple[int, int], str]]:
        ranges: set[int] = set()
        ended: dict[tuple[int, int], str] = {}
        for earlier in range(restart):
            name = f"{job}_{self.index}_{earlier}"
            ranges |= {k for k, owner in self.site.files.claims[self.path].items() if owner == name}
            try:
                records, _, _ = read_lines(self.site.files.read(f"{self.path}/journal/{name}.jsonl"), self._key)
            except FileNotFoundError:
                continue
            for number, record in enumerate(records):
                if record["ev"] == "claim":
                    ranges.add(record["k"])
                elif record["ev"] == "inherit":
                    ranges.update(record["k"])
                elif record["ev"] == "end" and (record["st"] in _FINAL or _died_alone(records, number)):
                    ended.setdefault((record["i"], record["n"]), record["st"])
        if ranges:
            self._log("inherit", k=sorted(ranges), ended=len(ended))
        return sorted(ranges), ended

    def _claim(self, claims: dict[int, str], ranges: int) -> int | None:
        for step in range(ranges):
            k = (self.index + step) % ranges
            if k not in claims:
                claims[k] = self.name
                return k
        return None

    async def _run(self, index: int, attempt: int, bag: dict[str, Any]) -> str:
        """Run one task; return how it ended, "kills" when it took this worker with it."""
        site = self.site
        site.runs += 1
        run, fate = site.runs, site.fate(index, attempt)
        self._log("start", i=index, n=attempt)
        site.history.add("run begins", run=run, task=index, attempt=attempt, worker=self.name)
        limit = bag["limit"] if bag["limit"] is not None else max(bag["walltime"] - 2 * bag["grace"], 1.0)
        wall, st = (fate.wall_s, fate.st) if fate.wall_s < limit else (limit, "timeout")
        begun = site.loop.time()
        if self.stop != "term":
            self._woken.clear()
            while (left := begun + wall - site.loop.time()) > 0 and not self._woken.is_set():
                if site.looks:
                    self._look_for_cancels()
                if (index, attempt) in self._cancelled:
                    st = "cancelled"
                    break
                try:
                    async with asyncio.timeout(min(left, _LOOK_S) if site.looks else left):
                        await self._woken.wait()
                except TimeoutError:
                    continue
        told = self.stop == "term" and site.loop.time() - begun < wall
        if not told and st == "kills":
            site.history.add("run ends", run=run, task=index, attempt=attempt, worker=self.name, st="kills")
            return st
        fields: dict[str, Any] = {"wall": round(site.loop.time() - begun, 3), "cpu": [0.0, 0.0], "rss": 1}
        if told:
            # The scheduler's TERM reaches the task first: sometimes its worker writes that down before its own comes.
            st = "signal" if site.rng.random() < 0.3 else "interrupted"
            fields |= {"sig": 15}
        elif st == "ok":
            fields["r"] = {"b": base64.b64encode(str(run).encode()).decode()}
        elif st == "error":
            fields |= {"exc": "ValueError", "msg": "no", "kinds": ["ValueError", "Exception"]}
        elif st == "exit":
            fields["code"] = 3
        elif st == "memory":
            fields |= {"mem": 100, "sig": 9}
        elif st == "signal":
            fields["sig"] = site.rng.choice((9, 11, 15))
        seen_at = self._log("end", i=index, n=attempt, st=st, out=[0, 0], err=[0, 0], **fields)
        self._done += 1
        site.history.add(
            "run ends",
            run=run,
            task=index,
            attempt=attempt,
            worker=self.name,
            st="interrupted" if told else st,
            zombie=self.zombie or None,
            seen_at=round(seen_at, 3),
        )
        if st == "signal" and not told:
            await asyncio.sleep(0.3)
        return st


def _died_alone(records: list[dict[str, Any]], number: int) -> bool:
    end = records[number]
    if end["st"] != "signal":
        return False
    if end["sig"] not in {9, 15}:
        return True
    following = next((record for record in records[number + 1 :] if record["ev"] != "left"), None)
    return following is not None and not (following["ev"] == "exit" and following["why"] == "term")
