"""The routes of what runs once more: the stored call of a lattice, and the same graph again."""

from __future__ import annotations

from typing import Any, Literal, Protocol

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, StrictBool

from hpcflow.server import schema
from hpcflow.server.answer import DispatchPath, JsonAnswer, known_id
from hpcflow.server.routing import Router
from hpcflow.server.upload import Ulid

__all__ = ["RedispatchDesk", "redispatch_routes"]

Json = dict[str, Any]  # Any: JSON; the models describe it for clients


class RedispatchDesk(Protocol):
    """What these routes need. Raises `UserError`, `NotFound` or another `HpcflowError`; each text reaches the user."""

    async def call(self, dispatch: str, part: str) -> bytes: ...

    async def completed(self, dispatch: str) -> Json: ...

    async def redispatch(self, dispatch: str, *, identifier: str | None, reuse: bool) -> Json: ...


class RedispatchRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    #: Of the new dispatch, so that the request may come twice; ``None``: the server makes one.
    id: Ulid | None = None
    #: Run only what did not complete.
    reuse: StrictBool = False


class CompletedTask(BaseModel):
    index: int
    #: What tells its function's code from others'.
    function: str
    #: SHA-256 of its pickled arguments.
    arguments: str
    #: Number of a list in ``needs``.
    needs: int
    #: What tells its environment from others.
    around: str


class Completed(BaseModel):
    """Tasks of a lattice that completed, as all that they need did."""

    tasks: list[CompletedTask]
    #: Indices of the tasks whose results others take.
    needs: list[list[int]]
    #: Of each function, versions of the packages that it uses, by their modules.
    versions: dict[str, dict[str, str]]


def redispatch_routes(desk: RedispatchDesk) -> APIRouter:
    """Return the routes, below whatever the caller puts before them."""
    api = Router()

    @api.get("/dispatches/{dispatch_id}/call/{part}", response_class=Response)
    async def call(dispatch_id: DispatchPath, part: Literal["lattice", "arguments"]) -> Response:
        return Response(await desk.call(known_id(dispatch_id), part), media_type="application/octet-stream")

    @api.post("/dispatches/{dispatch_id}/redispatch", status_code=201, response_model=schema.Accepted)
    async def redispatch(dispatch_id: DispatchPath, body: RedispatchRequest | None = None) -> Response:
        asked = body or RedispatchRequest()
        answer = await desk.redispatch(known_id(dispatch_id), identifier=asked.id, reuse=asked.reuse)
        return JsonAnswer(answer, 201)

    @api.get("/dispatches/{dispatch_id}/completed", response_model=Completed)
    async def completed(dispatch_id: DispatchPath) -> Response:
        return JsonAnswer(await desk.completed(known_id(dispatch_id)))

    return api
