"""The routes of what lies on clusters: results in one piece, files of tasks, and what is removed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Final, Protocol
from urllib.parse import parse_qs

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StrictBool

from hpcflow.server import file_schema as schema
from hpcflow.server.answer import DispatchPath, IndexPath, known_id, streamed
from hpcflow.server.routing import Router
from hpcflow.server.schema import MOST

__all__ = ["CleanDesk", "DeleteDesk", "FileDesk", "file_routes"]

Json = dict[str, Any]  # Any: JSON; file_schema.py describes it for clients


class FileDesk(Protocol):
    """What these routes need. Raises `UserError`, `NotFound` or another `HpcflowError`; each text reaches the user."""

    async def value(self, dispatch: str, index: int, offset: int) -> tuple[int, str, AsyncIterator[bytes]]:
        """Return size, SHA-256 in hex and the bytes from ``offset`` on."""
        ...

    async def listing(self, dispatch: str, index: int, path: str) -> Json: ...

    async def content(
        self, dispatch: str, index: int, root: str, spans: Sequence[tuple[str, int, int]]
    ) -> tuple[int, AsyncIterator[bytes]]: ...


class CleanDesk(Protocol):
    """What removes things from clusters; it raises as `FileDesk` does."""

    async def clean(
        self,
        dispatches: Sequence[str] | None,
        *,
        older_than_s: float | None,
        cluster: str | None,
        files: bool,
        dry_run: bool,
    ) -> Json: ...


class DeleteDesk(Protocol):
    """What forgets dispatches; it raises as `FileDesk` does."""

    async def delete(self, dispatches: Sequence[str], *, files: bool) -> Json: ...


class DeleteRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    dispatches: Annotated[list[str], Field(max_length=1000)]
    #: Also files that tasks left in directories of their own.
    files: StrictBool = False


class DeleteAnswer(BaseModel):
    deleted: list[str]
    #: A sentence for each that is kept.
    skipped: list[str]
    message: str


#: Described, not checked: who gets it wrong is told what a path is.
_ONE_LINE: Final[dict[str, Any]] = {"minLength": 1, "pattern": r"^[^\x00\n]+$"}  # Any: pydantic's own type


def file_routes(desk: FileDesk, cleaner: CleanDesk, deleter: DeleteDesk) -> APIRouter:
    """Return the routes, below whatever the caller puts before them."""
    api = Router()

    @api.get("/dispatches/{dispatch_id}/tasks/{index}/value", response_class=Response)
    async def value(
        dispatch_id: DispatchPath, index: IndexPath, offset: Annotated[int, Query(ge=0, le=MOST)] = 0
    ) -> Response:
        size, digest, pieces = await desk.value(known_id(dispatch_id), index, offset)
        response = await streamed(pieces)
        response.headers["Content-Length"] = str(max(0, size - offset))
        response.headers["X-Hpcflow-Size"] = str(size)
        response.headers["X-Hpcflow-Sha256"] = digest
        return response

    @api.get("/dispatches/{dispatch_id}/tasks/{index}/files", response_model=schema.Listing)
    async def listing(
        request: Request,
        dispatch_id: DispatchPath,
        index: IndexPath,
        path: Annotated[
            str, Query(max_length=4096, description="Below its directory, or absolute.", json_schema_extra=_ONE_LINE)
        ] = ".",
    ) -> Response:
        # A name that is no UTF-8 passes as surrogates: the framework's own reading of a query loses them, and its JSON
        # has no escapes for them.
        asked = parse_qs(request.scope["query_string"].decode("latin-1"), errors="surrogateescape")
        found = await desk.listing(known_id(dispatch_id), index, asked.get("path", [path])[-1])
        return Response(json.dumps(found), media_type="application/json")

    @api.post("/dispatches/{dispatch_id}/tasks/{index}/files", response_class=Response)
    async def content(dispatch_id: DispatchPath, index: IndexPath, body: schema.Spans) -> Response:
        size, pieces = await desk.content(known_id(dispatch_id), index, body.root, body.files)
        response = await streamed(pieces)
        response.headers["Content-Length"] = str(size)
        return response

    @api.post("/delete", response_model=DeleteAnswer)
    async def delete(body: DeleteRequest) -> Json:
        return await deleter.delete([known_id(each) for each in body.dispatches], files=body.files)

    @api.post("/clean", response_model=schema.CleanAnswer)
    async def clean(body: schema.CleanRequest) -> Json:
        ids = None if body.dispatches is None else [known_id(each) for each in body.dispatches]
        return await cleaner.clean(
            ids, older_than_s=body.older_than_s, cluster=body.cluster, files=body.files, dry_run=body.dry_run
        )

    return api
