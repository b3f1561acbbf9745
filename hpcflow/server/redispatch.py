"""Runs again what was dispatched before, without opening a pickle: the same graph, with its functions and arguments."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

from hpcflow.core.model import DispatchId, HpcflowError, NotFound, UserError
from hpcflow.core.reuse import surroundings
from hpcflow.core.states import State
from hpcflow.server.live import LiveDispatch
from hpcflow.server.manifest import Manifest, blob_offsets
from hpcflow.server.seeding import kept_of, second_name
from hpcflow.server.store import Store

__all__ = ["Redispatcher"]

Json = dict[str, Any]  # Any: JSON, described in schema.py

#: States of tasks for which nothing was submitted yet.
_BEFORE: frozenset[State] = frozenset({State.WAITING, State.READY, State.PAUSED})


class Redispatcher:
    """Copies dispatches of one server."""

    def __init__(
        self,
        store: Store,
        *,
        whole: Callable[[str, str], Awaitable[DispatchId]],
        payload: Callable[[DispatchId], str],
        accept: Callable[[Manifest, str], Awaitable[Json]],
        old: Callable[[DispatchId], Awaitable[LiveDispatch]],
        new_id: Callable[[], str],
    ) -> None:
        """Take what a dispatch goes through.

        Args:
            store: knows the old ones.
            whole: returns the id of a whole dispatch by an id and a verb, or raises.
            payload: the file in which a dispatch's blobs lie.
            accept: takes a dispatch in as if a client had sent it.
            old: returns a dispatch that has ended as the store knows it.
            new_id: makes ids.
        """
        self._store = store
        self._whole = whole
        self._payload = payload
        self._accept = accept
        self._old = old
        self._new_id = new_id

    async def call(self, dispatch: str, part: str) -> bytes:
        """Return a pickle of the lattice's call as the client stored it: the ``lattice``, or its ``arguments``.

        Raises:
            NotFound: it was not stored.
        """
        known = await self._whole(dispatch, "redispatched")
        manifest = await asyncio.to_thread(self._store.manifest, known)
        note: Json = manifest.get("call") or {"refused": "an older hpcflow, or another client, dispatched it"}
        number = note.get(part)
        if number is None:
            raise NotFound(
                f"The {part} of {known} can't be had for other arguments or electrons: "
                f"{note.get('refused') or 'it was not stored'}. `hpcflow redispatch {known}` runs it as it was."
            )
        offset, size = next(span for at, span in enumerate(blob_offsets(manifest)) if at == number)
        return await asyncio.to_thread(_read, self._payload(known), offset, size)

    async def completed(self, dispatch: str) -> Json:
        """Return what tells the tasks of a lattice whose results can be used again, by its function and its inputs.

        Raises:
            HpcflowError: it runs.
        """
        known = await self._whole(dispatch, "redispatched")
        await self.refuse_running(known)
        old = await self._old(known)
        manifest = await asyncio.to_thread(self._store.manifest, known)
        functions: Json = manifest.get("functions", {})
        needs: dict[tuple[int, ...], int] = {}
        versions: dict[str, dict[str, str]] = {}
        tasks: list[Json] = []
        for index in sorted(at for at in kept_of(old) if at < old.own):
            task = old.graph.tasks[index]
            note: Json = functions.get(str(task.fn), {})
            digest = note.get("digest")
            if digest is not None:
                versions.setdefault(digest, {}).update(note.get("imports") or {})
                tasks.append(
                    {
                        "index": index,
                        "function": digest,
                        "arguments": manifest["blobs"][task.args][1],
                        "needs": needs.setdefault(task.deps, len(needs)),
                        "around": surroundings(task),
                    }
                )
        return {"tasks": tasks, "needs": [list(each) for each in needs], "versions": versions}

    async def redispatch(
        self, dispatch: str, *, identifier: str | None, reuse: bool, even_running: bool = False
    ) -> Json:
        """Take the same graph in as a new dispatch, and answer as for any other.

        Args:
            dispatch: one that has ended, or of which nothing was ever submitted.
            identifier: the new dispatch's id; with one that is known already nothing happens.
            reuse: run only what did not complete.
            even_running: copy one that has begun and not ended as well.

        Raises:
            HpcflowError: the old one runs, or its functions and arguments are gone.
        """
        known = await self._whole(dispatch, "redispatched")
        if not even_running:
            await self.refuse_running(known)
        manifest = await asyncio.to_thread(self._store.manifest, known)
        if manifest.get("open"):
            raise HpcflowError(
                f"The tasks of {known} were sent one by one, by hf.Executor: only that program can again."
            )
        copy = {name: value for name, value in manifest.items() if name not in {"held", "reuse"}}
        if reuse:
            copy["reuse"] = {"dispatch": known, "tasks": [[index, index] for index in range(len(manifest["tasks"]))]}
        copy["id"] = identifier or self._new_id()
        if copy["id"] == known:
            raise UserError(f"A redispatch of {known} needs an id of its own.")
        payload = f"{self._payload(known)}.{os.urandom(4).hex()}.part"
        await asyncio.to_thread(second_name, self._payload(known), payload, known)
        return await self._accept(copy, payload)

    async def refuse_running(self, dispatch: DispatchId) -> None:
        """Raise `HpcflowError` for a dispatch that has begun and not ended."""
        row = await asyncio.to_thread(self._store.dispatch, dispatch)
        if row is None or row.ended_at is not None or (row.paused_whole and row.counts.keys() <= _BEFORE):
            return
        raise HpcflowError(
            f"Dispatch {dispatch} is still running: wait for its end, or `hpcflow cancel {dispatch}`, then redispatch."
        )


def _read(path: str, offset: int, size: int) -> bytes:
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(size)
    except FileNotFoundError:
        raise NotFound(f"The file {path} is gone, in which the call lay: dispatch the lattice anew.") from None
