"""Holds tasks back whose files are to be fetched beside the server, and has a process fetch them. See ADR 0035."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple

from hpcflow.core.model import DispatchId
from hpcflow.core.states import Event
from hpcflow.server.collect import Collector
from hpcflow.server.fetched import drop_fetched, fetched_path
from hpcflow.server.live import LiveDispatch
from hpcflow.server.shared import Shared
from hpcflow.server.transfer_child import shown, transferred

__all__ = ["Bringer"]

logger = logging.getLogger(__name__)

File = Mapping[str, Any]  # Any: a checked upload.FileNote

#: Processes at once: what they share is this machine's network.
_AT_ONCE: Final = 2


class _Key(NamedTuple):
    dispatch: DispatchId
    file: str


class Bringer:
    """One per engine."""

    def __init__(self, shared: Shared, collector: Collector) -> None:
        self._shared = shared
        self._collector = collector
        self._under_way: set[_Key] = set()
        #: Why a file could not be fetched; all that wait for it fail, and who comes later lets it be tried again.
        self._failures: dict[_Key, str] = {}
        #: Dispatches whose files are removed when they end.
        self._kept: set[DispatchId] = set()
        self._room = asyncio.Semaphore(_AT_ONCE)
        #: Where the work is done; set while the engine runs.
        self.group: asyncio.TaskGroup | None = None

    async def unfetched(self, live: LiveDispatch, ready: Iterable[int]) -> set[int]:
        """Return the tasks of which nothing may be submitted now: their files are not here yet, or never will be.

        What can be fetched is on its way after this; ready tasks of what can't have failed.
        """
        if not live.files:
            return set()
        here: dict[str, bool] = {}
        waiting: set[int] = set()
        for index in ready:
            for file in live.files.get(live.graph.tasks[index].fn, ()):
                if index not in live.ready:  # it failed with another one
                    waiting.add(index)
                    break
                key = str(file["key"])
                if key not in here:
                    here[key] = os.path.exists(fetched_path(live.folder, live.id, key))
                    self._keep(live)
                if not here[key]:
                    waiting.add(index)
                    self._wait(live, file)
        if live.dirty or self._shared.writer.pending.messages:
            await self._shared.writer.flush()
        return waiting

    def _wait(self, live: LiveDispatch, file: File) -> None:
        key = _Key(live.id, file["key"])
        if (failure := self._failures.pop(key, None)) is not None:
            self._fail(live, key.file, failure)
        elif key not in self._under_way and self.group is not None:
            self._under_way.add(key)
            self._shared.writer.say(live, f"Fetching {shown(file)} beside the server; tasks that need it wait.")
            self.group.create_task(self._fetch(live, file, key))

    def _is_wanted(self, live: LiveDispatch, file: str) -> bool:
        """Say whether a task that could run waits for a file."""
        return any(
            each["key"] == file for index in live.ready for each in live.files.get(live.graph.tasks[index].fn, ())
        )

    def _fail(self, live: LiveDispatch, file: str, reason: str) -> None:
        for index in sorted(live.ready):
            wanted = live.files.get(live.graph.tasks[index].fn, ())
            if index in live.ready and any(each["key"] == file for each in wanted):
                live.move(index, Event.REFUSED, self._shared.now(), reason)
        if live.too_many_failed:
            self._collector.stop(live)
        self._collector.close_if_done(live)

    async def _fetch(self, live: LiveDispatch, file: File, key: _Key) -> None:
        """Have a file fetched, or learn why that can't be, and let the planners go on."""
        where = f"{shown(file)} could not be fetched beside the server (on {socket.gethostname()})"
        path = fetched_path(live.folder, live.id, key.file)
        part = f"{path}.{secrets.token_hex(4)}.part"
        try:
            async with self._room:
                said = await self._watched(live, file, part) if self._lives(live) else "it is not wanted any more"
            if said is not None:
                self._failures[key] = f"{where}: {said}."
                logger.warning("dispatch %s: %s", live.id, self._failures[key])
            elif self._lives(live):
                os.rename(part, path)
        except Exception as error:  # one file's fault must not stop the others
            logger.exception("dispatch %s: a fault while %s was fetched", live.id, shown(file))
            self._failures[key] = f"{where}: {error!r}."
        finally:
            with suppress(OSError):
                os.unlink(part)
            self._under_way.discard(key)
            if not self._lives(live) or not self._is_wanted(live, key.file):
                self._failures.pop(key, None)
            self._shared.wake(live)

    async def _watched(self, live: LiveDispatch, file: File, part: str) -> str | None:
        """Run a process to its end; return why it failed, ``None`` when the file is there."""
        settings = self._shared.settings
        asked = {"address": file["address"], "options": file["options"], "path": part, "limit": settings.max_fetch}
        return await transferred(
            asked,
            folder=live.folder,
            grows=part,
            silence_s=settings.fetch_silence,
            wanted=lambda: self._lives(live),
            told=lambda size: self._shared.writer.say(live, f"Fetching {shown(file)}: {size} so far."),
        )

    def _lives(self, live: LiveDispatch) -> bool:
        return live.id in self._shared.writer.dispatches and live.ended_at is None

    def _keep(self, live: LiveDispatch) -> None:
        if live.id not in self._kept and self.group is not None:
            self._kept.add(live.id)
            self.group.create_task(self._drop_at_end(live))

    async def _drop_at_end(self, live: LiveDispatch) -> None:
        writer = self._shared.writer
        while live.id in writer.dispatches:
            await writer.wait_change(live.id, writer.version(live.id), 3600.0)
        self._kept.discard(live.id)
        drop_fetched(live.folder, of=live.id)
