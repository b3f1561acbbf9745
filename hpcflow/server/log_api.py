"""The routes of what tasks write. Like all routes they only read a request and spell an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Annotated, Any, Final, Protocol

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel

from hpcflow.server.answer import DispatchPath, IndexPath, JsonAnswer, TextAnswer, known_id, streamed
from hpcflow.server.logs import Name
from hpcflow.server.routing import Router
from hpcflow.server.schema import MOST

__all__ = ["ArchiveDesk", "LogDesk", "archive_routes", "log_routes"]

Json = dict[str, Any]  # Any: JSON; the models describe it for clients

_SLICE_S: Final = 1.0


class StreamPiece(BaseModel):
    #: Byte of the task's own output with which the text begins, and the one that comes after it.
    offset: int
    next: int
    #: Bytes that there are so far.
    size: int
    text: str


class TaskOutput(BaseModel):
    #: More may come: ask again with both `next`.
    running: bool
    stdout: StreamPiece
    stderr: StreamPiece


class LogHit(BaseModel):
    #: Byte of what was found.
    offset: int
    #: Its line, or what stands around it in a long one.
    text: str


class LogSearch(BaseModel):
    hits: list[LogHit]
    #: All before this byte was searched; equal to `size` at the end.
    searched: int
    size: int


class LogDesk(Protocol):
    """What these routes need. Raises `UserError`, `NotFound` or another `HpcflowError`; each text reaches the user."""

    async def piece(self, dispatch: str, index: int, stream: Name, offset: int, limit: int) -> bytes:
        """Return a piece of what a task wrote; empty beyond its end."""
        ...

    async def output(self, dispatch: str, index: int, after: Mapping[Name, int], limit: int, wait_s: float) -> Json:
        """Return what both streams hold beyond ``after``, as soon as there is any of it."""
        ...

    async def search(self, dispatch: str, index: int, stream: Name, text: str, *, offset: int, limit: int) -> Json: ...


class ArchiveDesk(Protocol):
    """What makes archives; it raises as `LogDesk` does."""

    async def archive(self, dispatch: str, *, failed: bool) -> tuple[str, AsyncIterator[bytes]]:
        """Return a file's name, and a gzipped tar of what the tasks wrote."""
        ...


class ArchiveAnswer(Response):
    """Described as what it is; the answer itself is a stream."""

    media_type = "application/gzip"


_Offset = Annotated[int, Query(ge=-1, le=MOST, description="The first byte; -1: the last ones.")]


def archive_routes(desk: ArchiveDesk) -> APIRouter:
    """Return the route of all logs at once, below whatever the caller puts before it."""
    api = Router()

    @api.get("/dispatches/{dispatch_id}/logs", response_class=ArchiveAnswer)
    async def archive(
        dispatch_id: DispatchPath,
        failed: Annotated[bool, Query(description="Only of tasks that have failed.")] = False,
    ) -> Response:
        name, pieces = await desk.archive(known_id(dispatch_id), failed=failed)
        response = await streamed(pieces)
        response.headers["content-type"] = ArchiveAnswer.media_type
        response.headers["content-disposition"] = f'attachment; filename="{name}"'
        return response

    return api


def log_routes(desk: LogDesk, stopping: Callable[[], bool]) -> APIRouter:
    """Return the routes, below whatever the caller puts before them.

    Args:
        desk: who reads.
        stopping: whether the server is about to end.
    """
    api = Router(prefix="/dispatches/{dispatch_id}/tasks/{index}")

    # Before the streams, whose path would take "output" for a stream's name.
    @api.get("/output", response_model=TaskOutput)
    async def output(
        *,
        dispatch_id: DispatchPath,
        index: IndexPath,
        stdout: _Offset = -1,
        stderr: _Offset = -1,
        limit: Annotated[int, Query(ge=1, le=2**20, description="Bytes of each stream.")] = 2**16,
        wait: Annotated[float, Query(ge=0, le=30, allow_inf_nan=False, description="Seconds.")] = 0.0,
    ) -> Response:
        known = known_id(dispatch_id)
        after: dict[Name, int] = {"stdout": stdout, "stderr": stderr}
        loop = asyncio.get_running_loop()
        ends = loop.time() + wait
        while True:
            # In slices: a server that ends would otherwise wait for those who follow, or cut them off.
            told = await desk.output(known, index, after, limit, max(0.0, min(ends - loop.time(), _SLICE_S)))
            news = any(told[name]["next"] != seen for name, seen in after.items())
            if news or not told["running"] or loop.time() >= ends or stopping():
                return JsonAnswer(told)

    @api.get("/{stream}/search", response_model=LogSearch)
    async def search(
        *,
        dispatch_id: DispatchPath,
        index: IndexPath,
        stream: Name,
        q: Annotated[str, Query(min_length=1, max_length=200, description="Text, in either case of letters.")],
        offset: Annotated[int, Query(ge=0, le=MOST)] = 0,
        limit: Annotated[int, Query(ge=1, le=1000, description="Lines.")] = 100,
    ) -> Response:
        return JsonAnswer(await desk.search(known_id(dispatch_id), index, stream, q, offset=offset, limit=limit))

    @api.get("/{stream}", response_class=TextAnswer)
    async def log(
        dispatch_id: DispatchPath,
        index: IndexPath,
        stream: Name,
        offset: Annotated[int, Query(ge=0, le=MOST)] = 0,
        limit: Annotated[int, Query(ge=1, le=16 * 2**20)] = 2**20,
    ) -> Response:
        return TextAnswer(await desk.piece(known_id(dispatch_id), index, stream, offset, limit))

    return api
