"""The routes of graphs that are looked at before they are dispatched."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Request, Response
from fastapi import Path as PathParameter
from pydantic import JsonValue
from starlette.requests import ClientDisconnect

from hpcflow.core.model import UserError
from hpcflow.server.answer import JsonAnswer, packed
from hpcflow.server.page import page_files
from hpcflow.server.page_schema import GraphColumns
from hpcflow.server.routing import Described, Router
from hpcflow.server.upload import MEDIA_TYPE, Upload

__all__ = ["SKETCHES", "SketchDesk", "sketch_routes"]

Json = dict[str, Any]  # Any: JSON; the models describe it for clients

#: Below ``/api/v1``.
SKETCHES = "/sketches"


class SketchDesk(Protocol):
    """What these routes need. Raises `UserError` or `NotFound`; each text reaches the user."""

    async def add(self, manifest: Mapping[str, Any]) -> str: ...  # Any: a checked upload.Manifest

    def told(self, known: str) -> Json: ...

    def graph(self, known: str) -> bytes: ...


class Sketched(Described):
    id: str
    #: Whether this server was built with its page, on which it is shown.
    page: bool


class SketchedElectron(Described):
    name: str
    tasks: int
    cluster: str
    #: Resources, with the cluster's own where the electron says nothing: `memory_mib`, `walltime_s`, ...
    asked: dict[str, JsonValue]
    retries: int
    #: Each of its tasks builds further ones when it runs, which nobody knows before.
    sublattice: bool


class Sketch(Described):
    """A graph that was not dispatched, and what its electrons ask for."""

    id: str
    name: str
    made_at: str
    tasks: int
    #: The first thousand.
    electrons: list[SketchedElectron]
    electrons_total: int


SketchPath = Annotated[str, PathParameter(description="The sketch's id.", max_length=40)]


def sketch_routes(desk: SketchDesk, folder: str, max_upload: int) -> APIRouter:
    """Return the routes.

    Args:
        desk: what keeps sketches.
        folder: where uploads are written.
        max_upload: bytes that one may unpack to.
    """
    api = Router()

    @api.post(
        SKETCHES,
        status_code=201,
        response_model=Sketched,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}},
            }
        },
    )
    async def sketch(request: Request) -> Response:
        """Keep a graph for a while, to be looked at; nothing of it runs, and no value of it is kept."""
        upload = Upload(folder, limit=max_upload)
        try:
            async for piece in request.stream():
                await asyncio.to_thread(upload.feed, piece)
            manifest = await asyncio.to_thread(upload.finish)
            known = await desk.add(manifest)
            return JsonAnswer({"id": known, "page": page_files()["/"].is_file()}, 201)
        except ClientDisconnect:
            raise UserError("The upload was cut before its end: draw again.") from None
        finally:
            upload.close()

    @api.get(SKETCHES + "/{sketch_id}", response_model=Sketch)
    async def told(sketch_id: SketchPath, request: Request) -> Response:
        return packed(request, JsonAnswer(desk.told(sketch_id)))

    @api.get(SKETCHES + "/{sketch_id}/graph", response_model=GraphColumns)
    async def graph(sketch_id: SketchPath, request: Request) -> Response:
        return packed(request, Response(desk.graph(sketch_id), media_type="application/json"))

    return api
