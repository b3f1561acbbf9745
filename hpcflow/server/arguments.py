"""Streams to clients what tasks were called with: each item is a line of JSON, and bytes that nobody here opens."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, Final, Protocol

from fastapi import APIRouter, Query, Response

from hpcflow.core.model import DispatchId
from hpcflow.server.answer import DispatchPath, StreamAnswer, known_id, streamed
from hpcflow.server.levels import Level
from hpcflow.server.manifest import blob_offsets
from hpcflow.server.routing import Router
from hpcflow.server.store import PART, Store

__all__ = ["Arguments", "ArgumentsDesk", "argument_routes"]

_SMALL: Final = 1 << 14
_AT_ONCE: Final = 1000


class Arguments:
    """The arguments of one server's tasks."""

    def __init__(
        self,
        store: Store,
        payload: Callable[[DispatchId], str],
        level: Callable[[str], Awaitable[Level]],
    ) -> None:
        self._store = store
        self._payload = payload
        self._level = level

    async def stream(self, dispatch: str, tasks: Sequence[int] | None, *, small: bool) -> AsyncIterator[bytes]:
        """Yield the pickled arguments of tasks of one lattice.

        Args:
            dispatch: the lattice's.
            tasks: their numbers in it; ``None``: all of this level.
            small: only those of at most 16 KiB.

        Raises:
            NotFound: there is no such dispatch or task.
        """
        level = await self._level(dispatch)
        wanted = list(level.tasks) if tasks is None else level.numbers(tasks)
        for manifest, first, path in await asyncio.to_thread(self._sources, level):
            here = [index - first for index in wanted if first <= index < first + len(manifest["tasks"])]
            if not here:
                continue
            spans = list(blob_offsets(manifest))
            for start in range(0, len(here), _AT_ONCE):
                piece = here[start : start + _AT_ONCE]
                yield await asyncio.to_thread(_read, manifest, spans, path, piece, first, small=small)

    def _sources(self, level: Level) -> list[tuple[Mapping[str, Any], int, str]]:  # Any: JSON
        """Return the manifests with this level's tasks, the number of the first in each, and their blobs' files."""
        whole = self._payload(level.root)
        if level.child is not None:
            manifest = self._store.child_manifest(level.child.id)
            return [(manifest, level.child.first, os.path.join(os.path.dirname(whole), manifest["payload"]))]
        sources: list[tuple[Mapping[str, Any], int, str]] = [(self._store.manifest(level.root), 0, whole)]
        for part in level.children:
            if part.task == PART:
                manifest = self._store.child_manifest(part.id)
                sources.append((manifest, part.first, os.path.join(os.path.dirname(whole), manifest["payload"])))
        return sources


def _read(
    manifest: Mapping[str, Any],  # Any: JSON
    spans: Sequence[tuple[int, int]],
    path: str,
    tasks: Sequence[int],
    first: int,
    *,
    small: bool,
) -> bytes:
    functions: Mapping[str, Any] = manifest.get("functions", {})
    out: list[bytes] = []
    with open(path, "rb") as file:
        for index in tasks:
            _, function, args, *_ = manifest["tasks"][index]
            offset, size = spans[args]
            head: dict[str, Any] = {"task": first + index, "kind": "arguments", "size": size}  # Any: JSON
            head["parameters"] = functions.get(str(function), {}).get("parameters") or []
            if small and size > _SMALL:
                out.append(json.dumps({**head, "size": 0, "apart": size}).encode() + b"\n")
                continue
            file.seek(offset)
            out.append(json.dumps(head).encode() + b"\n" + file.read(size))
    return b"".join(out)


class ArgumentsDesk(Protocol):
    """What the route needs. Raises `NotFound` or another `HpcflowError`; each text reaches the user."""

    def stream(self, dispatch: str, tasks: Sequence[int] | None, *, small: bool) -> AsyncIterator[bytes]: ...


def argument_routes(desk: ArgumentsDesk) -> APIRouter:
    """Return the route, below whatever the caller puts before it."""
    api = Router()

    @api.get("/dispatches/{dispatch_id}/arguments", response_class=StreamAnswer)
    async def arguments(
        dispatch_id: DispatchPath,
        tasks: Annotated[
            str, Query(description='"all", or indices with commas.', pattern=r"^(all|\d{1,18}(,\d{1,18})*)$")
        ] = "all",
        small: Annotated[bool, Query(description="Leave out those of more than 16 KiB.")] = False,
    ) -> Response:
        indices = None if tasks == "all" else [int(part) for part in tasks.split(",")]
        return await streamed(desk.stream(known_id(dispatch_id), indices, small=small))

    return api
