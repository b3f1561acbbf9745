"""Runs triggers: each in a process of its own that opens the user's pickle, started again when it fails."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import secrets
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from hpcflow.core.model import DispatchId, HpcflowError, NotFound
from hpcflow.core.places import Places
from hpcflow.core.words import counted
from hpcflow.server.children import kill_session
from hpcflow.server.reports import spelled
from hpcflow.server.store import Store

__all__ = ["AskedTrigger", "Triggers", "pause_s"]

logger = logging.getLogger(__name__)

Json = dict[str, Any]  # Any: JSON, described in trigger_api.py

_KEY: Final = "triggers"
_MODULE: Final = "hpcflow.sdk.trigger_process"
#: After a process that lived so long, in seconds, a failure is the first one again.
_HEALTHY_S: Final = 60.0
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 600.0
#: A process that is told to end gets so long before it is killed, in seconds. Its own clock is a little faster.
_GRACE_S: Final = 3.0
_LOG_BYTES: Final = 2**20
#: Triggers that are over are listed as long as there are no more of them.
_KEPT: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedTrigger:
    """What a client says of a trigger."""

    id: str
    kind: str
    about: str
    #: In base 64: nobody opens it here.
    pickle: str
    python: tuple[int, int]
    executable: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trigger:
    """What is known of one, and kept over restarts."""

    id: str
    dispatch: str
    #: The lattice's.
    name: str
    kind: str
    about: str
    python: str
    executable: str
    attached_at: float
    state: Literal["running", "failed", "ended", "stopped"] = "running"
    fired: int = 0
    fired_at: float | None = None
    last_dispatch: str | None = None
    error: str | None = None
    #: A process of it has run before.
    ran: bool = False

    @property
    def over(self) -> bool:
        return self.state in {"ended", "stopped"}


@dataclass(slots=True)
class _Process:
    """A trigger's process while it lives. Whoever fires without `run` is one that an earlier server left behind."""

    run: str
    process: asyncio.subprocess.Process
    stopping: bool = False


@dataclass(slots=True)
class _Task:
    task: asyncio.Task[None]
    process: _Process | None = None
    #: When the next process starts, while there is none.
    next_at: datetime | None = None


class Triggers:
    """The triggers of one server."""

    def __init__(
        self,
        store: Store,
        where: Places,
        *,
        template: Callable[[str], Awaitable[tuple[DispatchId, str]]],
        again: Callable[[str, str], Awaitable[Json]],
        now: Callable[[], datetime],
    ) -> None:
        """Take what triggers need.

        Args:
            store: keeps them.
            where: the home, for processes that ask this server.
            template: makes sure that a dispatch is there to be copied, and returns its whole id and its lattice's name.
            again: runs a copy of a dispatch under an id.
            now: the time.
        """
        self._store = store
        self._where = where
        self._template = template
        self._again = again
        self._now = now
        self._known: dict[str, _Trigger] = {}
        self._tasks: dict[str, _Task] = {}
        self._group: asyncio.TaskGroup | None = None
        self._writing = asyncio.Lock()

    async def take_up(self) -> None:
        """Learn what an earlier server ran, before anybody is answered."""
        kept = (await asyncio.to_thread(self._store.recall, _KEY)) or {}
        self._known = {each["id"]: _Trigger(**each) for each in kept.values()}

    async def run(self) -> None:
        """Start all that is known, and keep it going until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                for trigger in self._known.values():
                    self._start(trigger)
                await asyncio.Event().wait()
            finally:
                self._group = None

    @property
    def alive(self) -> int:
        """How many are not over: a server that has such does not end by itself."""
        return sum(not trigger.over for trigger in self._known.values())

    # ---- what the API asks

    def listed(self) -> Json:
        rows: list[Json] = []
        for trigger in sorted(self._known.values(), key=lambda each: each.id, reverse=True):
            task = self._tasks.get(trigger.id)
            rows.append(
                {
                    "id": trigger.id,
                    "dispatch": trigger.dispatch,
                    "name": trigger.name,
                    "kind": trigger.kind,
                    "about": trigger.about,
                    "state": trigger.state,
                    "attached_at": _time(trigger.attached_at),
                    "fired": trigger.fired,
                    "fired_at": _time(trigger.fired_at),
                    "last_dispatch": trigger.last_dispatch,
                    "error": trigger.error,
                    "next_at": spelled(task.next_at) if task is not None else None,
                    "log": self._log(trigger.id),
                }
            )
        return {"triggers": rows}

    async def add(self, dispatch: str, asked: AskedTrigger) -> Json:
        """Take a trigger in and start it; the same again changes nothing."""
        known, name = await self._template(dispatch)
        if (before := self._known.get(asked.id)) is not None:
            return {"id": before.id, "message": self._said(before)}
        here = f"{sys.version_info[0]}.{sys.version_info[1]}"
        python = ".".join(map(str, asked.python))
        executable = asked.executable if os.path.isabs(asked.executable) else ""
        if not os.access(executable, os.X_OK):
            if python != here:
                raise HpcflowError(
                    f"The trigger was made by Python {python}, and the server has Python {here} alone: attach it from "
                    "that, or from a Python on the server's machine."
                )
            executable = sys.executable
        trigger = _Trigger(
            id=asked.id,
            dispatch=known,
            name=name,
            kind=asked.kind,
            about=asked.about,
            python=python,
            executable=executable,
            attached_at=self._now().timestamp(),
        )
        await asyncio.to_thread(self._store.remember, _pickle_key(trigger.id), asked.pickle)
        self._known[trigger.id] = trigger
        try:
            await self._write()
        except HpcflowError:
            del self._known[trigger.id]
            raise
        self._start(trigger)
        return {"id": trigger.id, "message": self._said(trigger)}

    async def fire(self, trigger: str, run: str, identifier: str) -> Json:
        """Run the trigger's dispatch again, for the process that is its own now."""
        known, task = self._known.get(trigger), self._tasks.get(trigger)
        if known is None:
            raise NotFound(f"There is no trigger {trigger} here.")
        process = task.process if task is not None else None
        if known.over or process is None or process.run != run or process.stopping:
            return {"id": None, "fenced": True}
        answer = await self._again(known.dispatch, identifier)
        known = self._known[trigger]
        if known.last_dispatch != answer["id"]:
            fired, at = known.fired + 1, self._now().timestamp()
            await self._change(replace(known, error=None, fired=fired, fired_at=at, last_dispatch=str(answer["id"])))
            logger.info("trigger %s (%s) fired: dispatch %s", known.id, known.kind, answer["id"])
        return {"id": answer["id"], "fenced": False}

    async def stop(self, ids: Sequence[str]) -> Json:
        """Stop the triggers with these ids, and those of dispatches with them; a beginning is enough."""
        wanted: dict[str, None] = {}
        for beginning in map(str.upper, ids):
            found = [
                trigger.id
                for trigger in self._known.values()
                if beginning and (trigger.id.startswith(beginning) or trigger.dispatch.startswith(beginning))
            ]
            if not found:
                raise NotFound(f"There is no trigger {beginning}, and no dispatch of that id has one.")
            wanted |= dict.fromkeys(found)
        stopped = [trigger for trigger in wanted if await self._end(trigger)]
        if not stopped:
            return {"stopped": 0, "message": "Nothing to stop: what you named is over already."}
        number = counted(len(stopped), "trigger")
        return {"stopped": len(stopped), "message": f"Stopped {number} for good; dispatches that they made go on."}

    async def stop_all_of(self, dispatch: DispatchId) -> int:
        """Stop all triggers of a dispatch that was cancelled or is deleted, and return how many there were."""
        own = [trigger.id for trigger in self._known.values() if trigger.dispatch == dispatch]
        return sum([await self._end(trigger) for trigger in own])

    def _said(self, trigger: _Trigger) -> str:
        about = f" ({trigger.about})" if trigger.about else ""
        return (
            f"{trigger.kind}{about} runs copies of {trigger.dispatch} from now on. `hpcflow triggers` lists them, "
            f"`hpcflow triggers stop {trigger.id}` ends it."
        )

    # ---- one trigger's process after the other

    def _start(self, trigger: _Trigger) -> None:
        # Before `run` there is no group: that starts all that is known.
        if self._group is not None and not trigger.over and trigger.id not in self._tasks:
            self._tasks[trigger.id] = _Task(self._group.create_task(self._keep(trigger.id)))

    async def _keep(self, trigger: str) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        try:
            while not self._known[trigger].over:
                begun = loop.time()
                reason = await self._watched(trigger)
                known = self._known[trigger]
                if known.over:
                    return
                if reason is None:
                    await self._change(replace(known, state="ended", error=None))
                    logger.info("trigger %s (%s) has ended", known.id, known.kind)
                    return
                failures = 1 if loop.time() - begun >= _HEALTHY_S else failures + 1
                pause = pause_s(failures)
                logger.warning("trigger %s (%s) failed, once more in %.0f s: %s", known.id, known.kind, pause, reason)
                self._tasks[trigger].next_at = self._now() + timedelta(seconds=pause)
                await self._change(replace(known, state="failed", error=reason))
                await asyncio.sleep(pause)
                self._tasks[trigger].next_at = None
        finally:
            self._tasks.pop(trigger, None)

    async def _watched(self, trigger: str) -> str | None:
        """Run a process to its end, and return why it failed, ``None`` when it has nothing more to do."""
        known = self._known[trigger]
        kept = await asyncio.to_thread(self._store.recall, _pickle_key(trigger))
        data = base64.b64decode(kept or "")
        try:
            with open(_opened(self._log(trigger)), "ab") as log:
                process = await asyncio.create_subprocess_exec(
                    known.executable,
                    "-m",
                    _MODULE,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    cwd=self._where.home,
                    start_new_session=True,
                    env={
                        **os.environ,
                        "HPCFLOW_HOME": self._where.home,
                        # It asks the server that runs it, and must never start another one.
                        "HPCFLOW_AUTOSTART": "0",
                        "HPCFLOW_PROGRESS": "0",
                    },
                )
        except OSError as error:
            return f"{known.executable} can't be started: {error.strerror}."
        own = _Process(secrets.token_hex(16), process)
        if (task := self._tasks.get(trigger)) is not None:
            task.process = own
        try:
            head = {
                "trigger": known.id,
                "run": own.run,
                "dispatch": known.dispatch,
                "attached_at": known.attached_at,
                "resumed": known.ran,
                "size": len(data),
            }
            assert process.stdin is not None  # it is a pipe
            with suppress(ConnectionError):  # it died at once: its exit says more
                process.stdin.write(json.dumps(head).encode() + b"\n" + data)
                await process.stdin.drain()
            await self._change(replace(self._known[trigger], state="running", ran=True))
            code = await process.wait()
        finally:
            await asyncio.shield(_ended(process))
            if task is not None:
                task.process = None
        if code == 0:
            return None
        said = await asyncio.to_thread(_last_line, self._log(trigger))
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return said if code == 1 and said else f"It ended by {how}.{f' Its last words: {said}' if said else ''}"

    async def _end(self, trigger: str) -> bool:
        """Stop a trigger for good; return whether there was anything to stop."""
        known = self._known[trigger]
        if known.over:
            return False
        await self._change(replace(known, state="stopped"))
        task = self._tasks.get(trigger)
        if task is not None:
            if task.process is not None:
                task.process.stopping = True
            task.task.cancel()
            with suppress(asyncio.CancelledError):
                await task.task
        return True

    async def _change(self, trigger: _Trigger) -> None:
        """Note what has become of a trigger. Where that can't be stored it goes on: the next change stores it too."""
        self._known[trigger.id] = trigger
        try:
            if trigger.over:
                await asyncio.to_thread(self._store.remember, _pickle_key(trigger.id), "")
            await self._write()
        except HpcflowError as error:  # a full disk; without its lease the engine ends the server
            logger.error("trigger %s: what became of it can't be stored: %s", trigger.id, error)

    async def _write(self) -> None:
        over = sorted((each.id for each in self._known.values() if each.over), reverse=True)
        for old in over[_KEPT:]:
            del self._known[old]
        async with self._writing:  # the last one to write writes the last state
            kept = {each.id: asdict(each) for each in self._known.values()}
            await asyncio.to_thread(self._store.remember, _KEY, kept)

    def _log(self, trigger: str) -> str:
        return os.path.join(os.path.dirname(self._where.log), f"trigger-{trigger}.log")


def pause_s(failures: int) -> float:
    """Return how long to wait before the next start, after so many failures on end."""
    return min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(failures - 1, 20))


async def _ended(process: asyncio.subprocess.Process) -> None:
    """Close a process's input, which ends it; what does not end in time is killed, with all that it started."""
    if process.stdin is not None:
        process.stdin.close()
    if process.returncode is None:
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _GRACE_S)
    kill_session(process)
    await process.wait()


def _opened(path: str) -> int:
    """Open a trigger's log to add to it; one that has grown long begins anew."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    if os.fstat(fd).st_size > _LOG_BYTES:
        os.ftruncate(fd, 0)
    return fd


def _last_line(path: str) -> str:
    with suppress(FileNotFoundError), open(path, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
        return lines[-1][:1000] if lines else ""
    return ""


def _pickle_key(trigger: str) -> str:
    return f"trigger/{trigger}"


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else spelled(datetime.fromtimestamp(seconds, UTC))
