"""The routes of triggers. Like all routes they only read a request and spell an answer."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, Protocol

from fastapi import APIRouter, Response
from fastapi import Path as PathParameter
from pydantic import BaseModel, ConfigDict, Field

from hpcflow.server.answer import DispatchPath, JsonAnswer, known_id
from hpcflow.server.routing import Router
from hpcflow.server.schema import WHOLE
from hpcflow.server.triggers import AskedTrigger
from hpcflow.server.upload import Ulid

__all__ = ["TriggerDesk", "trigger_routes"]

Json = dict[str, Any]  # Any: JSON; the models describe it for clients


class TriggerDesk(Protocol):
    """What these routes need. Raises `UserError`, `NotFound` or another `HpcflowError`; each text reaches the user."""

    def listed(self) -> Json: ...

    async def add(self, dispatch: str, asked: AskedTrigger) -> Json: ...

    async def fire(self, trigger: str, run: str, identifier: str) -> Json: ...

    async def stop(self, ids: Sequence[str]) -> Json: ...


class TriggerRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    #: So that the request may come twice.
    id: Ulid
    #: The name of its class.
    kind: Annotated[str, Field(min_length=1, max_length=200)]
    #: What it waits for, in a few words.
    about: Annotated[str, Field(max_length=200)] = ""
    #: In base 64.
    pickle: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]+={0,2}$")]
    #: What opens it.
    python: tuple[Annotated[int, Field(ge=0, le=1000), WHOLE], Annotated[int, Field(ge=0, le=1000), WHOLE]]
    executable: Annotated[str, Field(max_length=4096)]


class TriggerAnswer(BaseModel):
    id: str
    message: str


class FireRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    #: What the server gave the trigger's process.
    run: Annotated[str, Field(max_length=100)]
    #: Of the new dispatch.
    id: Ulid


class FireAnswer(BaseModel):
    id: str | None
    #: The process is not the trigger's any more: it shall end.
    fenced: bool


class StopRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    #: Of triggers, or of dispatches for all theirs; beginnings are enough.
    ids: Annotated[list[Annotated[str, Field(pattern="^[0-9A-Za-z]{1,26}$")]], Field(min_length=1)]


class StopAnswer(BaseModel):
    stopped: int
    message: str


class TriggerRow(BaseModel):
    id: str
    #: What it runs copies of, and the lattice's name.
    dispatch: str
    name: str
    kind: str
    about: str
    #: `failed`: its process is started again at `next_at`. `ended`: it has nothing more to watch.
    state: Literal["running", "failed", "ended", "stopped"]
    attached_at: datetime
    fired: int
    fired_at: datetime | None
    last_dispatch: str | None
    #: Why its last process failed.
    error: str | None
    next_at: datetime | None
    #: What it wrote, on the server's machine.
    log: str


class TriggerList(BaseModel):
    #: The newest first.
    triggers: list[TriggerRow]


def trigger_routes(desk: TriggerDesk) -> APIRouter:
    """Return the routes, below whatever the caller puts before them."""
    api = Router()

    @api.get("/triggers", response_model=TriggerList)
    async def triggers() -> Json:
        return desk.listed()

    @api.post("/dispatches/{dispatch_id}/triggers", status_code=201, response_model=TriggerAnswer)
    async def add(dispatch_id: DispatchPath, body: TriggerRequest) -> Response:
        return JsonAnswer(await desk.add(known_id(dispatch_id), AskedTrigger(**body.model_dump())), 201)

    @api.post("/triggers/stop", response_model=StopAnswer)
    async def stop(body: StopRequest) -> Json:
        return await desk.stop(body.ids)

    @api.post("/triggers/{trigger_id}/fire", response_model=FireAnswer)
    async def fire(
        trigger_id: Annotated[str, PathParameter(description="The trigger's id.")], body: FireRequest
    ) -> Json:
        return await desk.fire(known_id(trigger_id), body.run, body.id)

    return api
