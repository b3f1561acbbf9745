"""The routes that look back: when what ran, what it cost, how the server is set, what its log says."""

from __future__ import annotations

from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Query, Request, Response

from hpcflow.server import insight_schema as schema
from hpcflow.server.answer import UNCHANGED, DispatchPath, JsonAnswer, known_id, packed
from hpcflow.server.routing import Router

__all__ = ["InsightDesk", "insight_routes"]

Json = dict[str, Any]  # Any: JSON; insight_schema.py describes it for clients


class InsightDesk(Protocol):
    """What these routes need. Raises `UserError`, `NotFound` or another `HpcflowError`; each text reaches the user."""

    async def timeline(self, dispatch: str) -> Json: ...

    async def efficiency(self, dispatch: str) -> Json: ...

    async def lately(self, days: int) -> Json: ...

    async def settings(self) -> Json: ...

    def log_version(self) -> str:
        """Return what is another as soon as anything was written."""
        ...

    async def log(self, *, text: str, level: str, limit: int) -> Json: ...


def insight_routes(desk: InsightDesk) -> APIRouter:
    """Return the routes, below whatever the caller puts before them."""
    api = Router()

    @api.get("/dispatches/{dispatch_id}/timeline", response_model=schema.Timeline)
    async def timeline(dispatch_id: DispatchPath, request: Request) -> Response:
        return packed(request, JsonAnswer(await desk.timeline(known_id(dispatch_id))))

    @api.get("/dispatches/{dispatch_id}/efficiency", response_model=schema.EfficiencyOfDispatch)
    async def efficiency(dispatch_id: DispatchPath, request: Request) -> Response:
        return packed(request, JsonAnswer(await desk.efficiency(known_id(dispatch_id))))

    @api.get("/efficiency", response_model=schema.EfficiencyOfDays)
    async def lately(request: Request, days: Annotated[int, Query(ge=1, le=3650)] = 30) -> Response:
        return packed(request, JsonAnswer(await desk.lately(days)))

    @api.get("/settings/effective", response_model=schema.EffectiveSettings)
    async def settings() -> Response:
        return JsonAnswer(await desk.settings())

    @api.get("/log", response_model=schema.ServerLog, responses=UNCHANGED)
    async def log(request: Request, asked: Annotated[schema.LogQuery, Query()]) -> Response:
        # The browser keeps what it has: a page that looks again costs a line, unless something was written.
        tag = f'"{desk.log_version()}"'
        headers = {"etag": tag, "cache-control": "private, no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        answer = JsonAnswer(await desk.log(text=asked.q, level=asked.level, limit=asked.limit), headers=headers)
        return packed(request, answer)

    return api
