"""The routes of the cache: what is in it, and what shall be in it no longer."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field, Strict

from hpcflow.server.answer import JsonAnswer

__all__ = ["CacheDesk", "cache_routes"]

Json = dict[str, Any]  # Any: JSON; the models describe it for clients


class CacheDesk(Protocol):
    """What these routes need."""

    async def listed(self, function: str | None, limit: int) -> Json: ...

    async def clear(self, function: str | None, older_than_s: float | None) -> Json: ...


class CacheEntry(BaseModel):
    key: str
    #: The electron's name.
    function: str
    #: The task that computed it, in the numbers of its whole dispatch.
    dispatch: str
    task: int
    #: Of the pickle, in bytes.
    size: int
    at: datetime


class CacheEntries(BaseModel):
    #: The newest first.
    entries: list[CacheEntry]
    #: How many there are in all, and how many bytes they have.
    total: int
    bytes: int


class ClearRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    #: Only this electron's; ``None``: all.
    function: Annotated[str, Field(max_length=10_000)] | None = None
    #: Only what was computed so long ago.
    older_than_s: Annotated[float, Strict(), Field(ge=0, le=1e10, allow_inf_nan=False)] | None = None


class Cleared(BaseModel):
    cleared: int
    message: str


def cache_routes(desk: CacheDesk) -> APIRouter:
    """Return the routes, below whatever the caller puts before them."""
    api = APIRouter()

    @api.get("/cache", response_model=CacheEntries)
    async def listed(
        function: Annotated[str | None, Query(max_length=10_000, description="Only this electron's.")] = None,
        limit: Annotated[int, Query(ge=1, le=100_000)] = 1000,
    ) -> Response:
        return JsonAnswer(await desk.listed(function, limit))

    @api.post("/cache/clear", response_model=Cleared)
    async def clear(body: ClearRequest | None = None) -> Response:
        asked = body or ClearRequest()
        return JsonAnswer(await desk.clear(asked.function, asked.older_than_s))

    return api
