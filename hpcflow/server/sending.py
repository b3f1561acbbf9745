"""Brings away what tasks left for elsewhere, by a process beside the server; a task completes with it. See ADR 0035."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import os
import secrets
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple

from hpcflow.core.model import DispatchId, NotFound
from hpcflow.core.states import Event
from hpcflow.server.clusters import Cluster
from hpcflow.server.collect import Collector
from hpcflow.server.far_files import pieces
from hpcflow.server.live import LiveDispatch
from hpcflow.server.remote import TransportError
from hpcflow.server.shared import Shared
from hpcflow.server.tasks import Stored
from hpcflow.server.transfer_child import shown, transferred

__all__ = ["Sender"]

logger = logging.getLogger(__name__)

#: Processes at once: what they share is this machine's network.
_AT_ONCE: Final = 2
#: When a cluster is asked again for a file that it did not give, in seconds.
_AGAIN_S: Final = 15.0


class _Key(NamedTuple):
    dispatch: DispatchId
    task: int
    attempt: int


class _Gone(Exception):
    """What a task left is not where it was."""


class Sender:
    """One per engine."""

    def __init__(self, shared: Shared, collector: Collector) -> None:
        self._shared = shared
        self._collector = collector
        self._under_way: set[_Key] = set()
        #: How it went: ``None``, or why it failed.
        self._outcomes: dict[_Key, str | None] = {}
        self._room = asyncio.Semaphore(_AT_ONCE)
        #: Where the work is done; set while the engine runs.
        self.group: asyncio.TaskGroup | None = None

    async def send(self, cluster: Cluster, live: LiveDispatch) -> None:
        """End the tasks on a cluster whose files have been brought away, and begin with those of others."""
        for index in sorted(live.leaving):
            task = live.tasks[index]
            key = _Key(live.id, index, task.attempt)
            if task.shape.cluster != cluster.name or index not in live.leaving:
                continue
            if key in self._outcomes:
                error = self._outcomes.pop(key)
                live.move(index, Event.RETURNED if error is None else Event.RAISED, self._shared.now(), error)
                self._collector.after_move(live)
            elif key not in self._under_way and self.group is not None:
                self._under_way.add(key)
                self.group.create_task(self._bring_all(cluster, live, key))
        if live.dirty or self._shared.writer.pending.messages:
            await self._shared.writer.flush()

    async def _bring_all(self, cluster: Cluster, live: LiveDispatch, key: _Key) -> None:
        """Bring what one task left, or learn why that can't be, and let the planner go on."""
        try:
            async with self._room:
                for file in live.sent[live.tasks[key.task].task.fn]:
                    if (said := await self._bring(cluster, live, key, file)) is not None:
                        where = f"{shown(file)} beside the server (on {socket.gethostname()})"
                        self._outcomes[key] = (
                            f"TransferFailed: what the task left could not be brought to {where}: {said}. "
                            "`hpcflow retry` runs the task again."
                        )
                        break
                else:
                    self._outcomes[key] = None
        except TransportError as error:  # the file is still there, as far as anybody knows
            self._say_once(live, f"What a task left can't be read from {cluster.name}: {error} Trying again.")
            await asyncio.sleep(_AGAIN_S)
        except Exception as error:  # one file's fault must not stop the others
            logger.exception("dispatch %s: a fault while a file of task %s was brought away", live.id, key.task)
            self._outcomes[key] = f"TransferFailed: what the task left could not be brought away: {error!r}."
        finally:
            self._under_way.discard(key)
            if not self._lives(live, key):
                self._outcomes.pop(key, None)
            self._shared.wake(live)

    async def _bring(self, cluster: Cluster, live: LiveDispatch, key: _Key, file: Mapping[str, Any]) -> str | None:
        """Bring one file; return why that failed.

        Raises:
            TransportError: its cluster does not answer.
        """
        leaving = live.tasks[key.task].leaving
        if leaving is None:
            return "it is not wanted any more"
        stored = leaving.get(file["key"])
        if stored is None:
            return "the task left nothing"
        self._say_once(live, f"Bringing what {live.tasks[key.task].task.name} left to {shown(file)}.")
        path = os.path.join(live.folder, f"{live.id}.{key.task}.{secrets.token_hex(4)}.sent")
        tally = f"{path}.part"
        asked = {"address": file["address"], "options": file["options"], "path": path, "tally": tally}
        try:
            await _copied(stored, cluster, path)
            return await transferred(
                asked,
                folder=live.folder,
                grows=tally,
                silence_s=self._shared.settings.fetch_silence,
                wanted=lambda: self._lives(live, key),
                told=lambda size: self._shared.writer.say(live, f"Bringing {shown(file)}: {size} so far."),
            )
        except _Gone as error:
            return str(error)
        finally:
            for each in (path, tally):
                with suppress(OSError):
                    os.unlink(each)

    def _lives(self, live: LiveDispatch, key: _Key) -> bool:
        task = live.tasks[key.task]
        known = self._shared.writer.dispatches.get(live.id) is live
        return known and task.leaving is not None and task.attempt == key.attempt

    def _say_once(self, live: LiveDispatch, text: str) -> None:
        if text not in live.said:
            live.said.add(text)
            self._shared.writer.say(live, text)


async def _copied(stored: Stored, cluster: Cluster, path: str) -> None:
    """Write what lies on a cluster to a new private file here, piece by piece, and look whether it is whole.

    Raises:
        TransportError: the cluster does not answer.
        _Gone: it is not there any more.
    """
    digest = hashlib.sha256()
    with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        if stored.file is None:
            file.write(base64.b64decode(stored.inline or ""))
            return
        source, offset, size, wanted = stored.file
        try:
            async for piece in pieces(cluster, source, offset, size):
                digest.update(piece)
                await asyncio.to_thread(file.write, piece)
        except NotFound as error:
            raise _Gone(str(error).removesuffix(".")) from None
    if digest.hexdigest() != wanted:
        raise _Gone(f"{source} on {cluster.name} is not what the task wrote")
