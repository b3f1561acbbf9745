"""The HTTP API: routes in, one `Service` behind them. Who may ask at all is decided in `guard`."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Protocol

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from hpcflow.core.model import HpcflowError, NotFound, UserError
from hpcflow.core.states import State
from hpcflow.server import schema
from hpcflow.server.cluster_api import ClusterDesk, cluster_routes
from hpcflow.server.file_api import FileDesk, file_routes
from hpcflow.server.guard import KEY_HEADER, Guard, Sessions, Token, cookie_name
from hpcflow.server.home import Notice
from hpcflow.server.upload import MEDIA_TYPE, TooLarge, Upload, is_ulid

__all__ = ["Desk", "Service", "application", "routes"]

Json = dict[str, Any]  # Any: JSON; schema.py describes it for clients

_STATIC: Final = Path(__file__).parent / "static"
_PAGE: Final = {
    "/": ("index.html", "text/html"),
    "/app.js": ("app.js", "text/javascript"),
    "/app.css": ("app.css", "text/css"),
}
#: The store's integers have 64 bits.
_MOST: Final = 2**63 - 1
_SLICE_S: Final = 1.0
_TO_JSON: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode
_PROBLEM: Final[dict[int | str, dict[str, Any]]] = {  # Any: FastAPI's own type
    "4XX": {"model": schema.Problem, "description": "Not done; the sentence says why."}
}
# Where an answer is no JSON, FastAPI would give the error the answer's media type.
_PROBLEM_OF_BYTES: Final[dict[int | str, dict[str, Any]]] = {  # Any: FastAPI's own type
    "4XX": {
        "description": _PROBLEM["4XX"]["description"],
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
}


class Service(Protocol):
    """What the routes need. Raises `UserError`, `NotFound` or another `HpcflowError`; each text reaches the user."""

    async def accept(self, manifest: Mapping[str, Any], payload: str) -> Json:  # Any: a checked upload.Manifest
        """Take a dispatch, and own the file ``payload`` that holds its blobs back to back."""
        ...

    async def plan(self, manifest: Mapping[str, Any], payload: str) -> Json:  # Any: a checked upload.Manifest
        """Say what `accept` would submit."""
        ...

    def status(self) -> Json:
        """``clusters``, ``default_cluster`` and ``live_dispatches``."""
        ...

    @property
    def roster(self) -> ClusterDesk: ...

    @property
    def files(self) -> FileDesk: ...

    async def dispatches(self, limit: int, before: str | None, prefix: str | None) -> Json:
        """Return dispatches, the newest first; with a ``prefix`` up to ten whose ids begin so."""
        ...

    async def summary(self, dispatch: str) -> Json: ...

    async def changed(self, dispatch: str, since: int, wait_s: float) -> Json:
        """Return the summary as soon as its version is not ``since``, at the latest after ``wait_s``."""
        ...

    async def tasks(self, dispatch: str, state: State | None, after: int, limit: int) -> Json:
        """Return rows with an index above ``after``, in order."""
        ...

    async def task(self, dispatch: str, index: int) -> Json: ...

    async def usage(self, dispatch: str) -> Json: ...

    async def job(self, name: str) -> Json:
        """Return what is known of "8123", or of "8123_7"."""
        ...

    async def log(
        self, dispatch: str, index: int, stream: Literal["stdout", "stderr"], offset: int, limit: int
    ) -> bytes: ...

    def results(
        self, dispatch: str, tasks: list[int] | None, output: bool, *, apart: bool = False
    ) -> AsyncIterator[bytes]:
        """Yield the results stream: of these tasks (``None``: all), or of the output and what it needs.

        With ``apart`` large values are named in it and not contained: each is asked for by itself.
        """
        ...

    async def cancel(self, dispatch: str, tasks: list[int] | None) -> Json: ...

    # Each of these may come twice, when its answer was lost: then there is nothing left to do, and that is no error.

    async def pause(self, dispatch: str) -> Json: ...

    async def resume(self, dispatch: str) -> Json: ...

    async def retry(
        self, dispatch: str, *, failed_only: bool, memory_mib: int | None, walltime_s: int | None
    ) -> Json: ...


@dataclass(frozen=True, kw_only=True)
class Desk:
    """What the routes know besides the service."""

    notice: Notice
    token: Token
    sessions: Sessions
    #: Writes a new token for clients to read, and returns it.
    new_token: Callable[[], str]
    #: Where uploads are written.
    folder: str
    #: Bytes that an upload may unpack to.
    max_upload: int
    #: Opens the port for browsers when it is closed, and returns it.
    open_ui: Callable[[], Awaitable[int]]
    #: The port for browsers, ``None`` while it is closed.
    ui_port: Callable[[], int | None]
    #: What a user types on the own machine to reach a port here; ``None``: the browser runs here.
    forward: Callable[[int], str | None]
    #: Ends the server in order.
    stop: Callable[[], None]
    stopping: Callable[[], bool]


class _Json(JSONResponse):
    def render(self, content: object) -> bytes:
        try:
            text = _TO_JSON(content)
        except ValueError:
            text = _TO_JSON(_finite(content))
        # A traceback may hold half a surrogate pair, which is no text in any encoding.
        return text.encode("utf-8", "replace")


def application(service: Service, desk: Desk, *, uid: int) -> Guard:
    """Return the application as it is served: the routes behind the guard."""
    app = FastAPI(
        title="hpcflow",
        version=desk.notice.version,
        openapi_url="/api/v1/openapi.json",
        # Their pages come from a CDN, which the content security policy refuses.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_exception_handler(HpcflowError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _fault)
    app.include_router(routes(service, desk))
    app.include_router(_page(desk))
    uploads = [("/api/v1/dispatches", MEDIA_TYPE)]
    return Guard(app, token=desk.token, sessions=desk.sessions, uid=uid, uploads=uploads)


DispatchPath = Annotated[str, PathParameter(description="The dispatch's id.")]
IndexPath = Annotated[int, PathParameter(ge=0, le=_MOST)]
_Apart = Annotated[bool, Query(description="Large values are named here, and fetched by themselves.")]


def routes(service: Service, desk: Desk) -> APIRouter:
    """Return the routes of ``/api/v1``."""
    api = APIRouter(prefix="/api/v1", responses=_PROBLEM, default_response_class=_Json)
    arriving: set[str] = set()

    @api.get("/status", response_model=schema.ServerStatus)
    async def status() -> Response:
        notice = desk.notice
        port = desk.ui_port()
        return _Json(
            {
                "pid": notice.pid,
                "version": notice.version,
                "host": notice.host,
                "address": notice.address,
                "home": notice.home,
                "started_at": notice.started_at,
                **service.status(),
                "ui": None if port is None else f"http://127.0.0.1:{port}/",
            }
        )

    api.include_router(cluster_routes(service.roster))
    api.include_router(file_routes(service.files, _stream, _known_id, _PROBLEM_OF_BYTES))

    @api.post(
        "/dispatches",
        status_code=201,
        response_model=schema.Accepted,
        responses={200: {"model": schema.Plan | schema.Accepted, "description": "The plan, or known already."}},
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}},
            }
        },
    )
    async def dispatch(request: Request, plan: bool = False) -> Response:
        upload = Upload(desk.folder, limit=desk.max_upload)
        taken = False
        ours = ""
        try:
            async for piece in request.stream():
                begun = upload.manifest is not None
                await asyncio.to_thread(upload.feed, piece)
                if upload.manifest is None or begun or plan:
                    continue
                known = await _accepted(service, upload.manifest["id"])
                if known is not None:
                    return _Json(known)
                if upload.manifest["id"] in arriving:
                    raise HpcflowError(f"Dispatch {upload.manifest['id']} is on its way here in another request.")
                ours = upload.manifest["id"]
                arriving.add(ours)
            manifest = await asyncio.to_thread(upload.finish)
            if plan:
                return _Json(await service.plan(manifest, upload.path))
            answer = await service.accept(manifest, upload.path)
            taken = True
            return _Json(answer, 201)
        except ClientDisconnect:
            raise UserError("The upload was cut before its end: dispatch again.") from None
        finally:
            arriving.discard(ours)
            upload.close(keep=taken)

    @api.get("/dispatches", response_model=schema.Dispatches)
    async def dispatches(
        limit: Annotated[int, Query(ge=1, le=1000)] = 50,
        before: str | None = None,
        prefix: Annotated[str | None, Query(description="What ids begin with.", pattern="^[0-9A-Za-z]{1,26}$")] = None,
    ) -> Response:
        return _Json(await service.dispatches(limit, None if before is None else _known_id(before), prefix))

    @api.get("/dispatches/{dispatch_id}", response_model=schema.Summary)
    async def summary(
        dispatch_id: DispatchPath,
        since: Annotated[int | None, Query(ge=-1, le=_MOST, description="Answer when the version is another.")] = None,
        wait: Annotated[float, Query(ge=0, le=30, allow_inf_nan=False, description="Seconds.")] = 0.0,
    ) -> Response:
        known = _known_id(dispatch_id)
        if since is None:
            return _Json(await service.summary(known))
        loop = asyncio.get_running_loop()
        ends = loop.time() + wait
        while True:
            # In slices: a server that ends would otherwise wait for its pollers, or cut them off.
            answer = await service.changed(known, since, max(0.0, min(ends - loop.time(), _SLICE_S)))
            if answer["version"] != since or loop.time() >= ends or desk.stopping():
                return _Json(answer)

    @api.get("/dispatches/{dispatch_id}/usage", response_model=schema.Usage)
    async def usage(dispatch_id: DispatchPath) -> Response:
        return _Json(await service.usage(_known_id(dispatch_id)))

    @api.get("/jobs/{job}", response_model=schema.Job)
    async def job(
        job: Annotated[str, PathParameter(description="An array, 8123, or an array task, 8123_7.")],
    ) -> Response:
        return _Json(await service.job(job))

    @api.get("/dispatches/{dispatch_id}/tasks", response_model=schema.TaskTable)
    async def tasks(
        dispatch_id: DispatchPath,
        state: Annotated[Literal[""] | State | None, Query()] = None,
        after: Annotated[int, Query(ge=-1, le=_MOST)] = -1,
        limit: Annotated[int, Query(ge=1, le=100_000)] = 1000,
    ) -> Response:
        return _Json(await service.tasks(_known_id(dispatch_id), State(state) if state else None, after, limit))

    @api.get("/dispatches/{dispatch_id}/tasks/{index}", response_model=schema.TaskDetail)
    async def task(dispatch_id: DispatchPath, index: IndexPath) -> Response:
        return _Json(await service.task(_known_id(dispatch_id), index))

    @api.get("/dispatches/{dispatch_id}/tasks/{index}/{stream}", response_class=_Text, responses=_PROBLEM_OF_BYTES)
    async def log(
        dispatch_id: DispatchPath,
        index: IndexPath,
        stream: Literal["stdout", "stderr"],
        offset: Annotated[int, Query(ge=0, le=_MOST)] = 0,
        limit: Annotated[int, Query(ge=1, le=16 * 2**20)] = 2**20,
    ) -> Response:
        return _Text(await service.log(_known_id(dispatch_id), index, stream, offset, limit))

    @api.get("/dispatches/{dispatch_id}/output", response_class=_Stream, responses=_PROBLEM_OF_BYTES)
    async def output(dispatch_id: DispatchPath, apart: _Apart = False) -> Response:
        return await _stream(service.results(_known_id(dispatch_id), None, True, apart=apart))

    @api.get("/dispatches/{dispatch_id}/results", response_class=_Stream, responses=_PROBLEM_OF_BYTES)
    async def results(
        dispatch_id: DispatchPath,
        tasks: Annotated[
            str, Query(description='"all", or indices with commas.', pattern=r"^(all|\d{1,18}(,\d{1,18})*)$")
        ],
        apart: _Apart = False,
    ) -> Response:
        indices = None if tasks == "all" else [int(part) for part in tasks.split(",")]
        return await _stream(service.results(_known_id(dispatch_id), indices, False, apart=apart))

    @api.post("/dispatches/{dispatch_id}/cancel", response_model=schema.CancelAnswer)
    async def cancel(dispatch_id: DispatchPath, body: schema.CancelRequest | None = None) -> Response:
        return _Json(await service.cancel(_known_id(dispatch_id), None if body is None else body.tasks))

    @api.post("/dispatches/{dispatch_id}/pause", response_model=schema.Moved)
    async def pause(dispatch_id: DispatchPath) -> Response:
        return _Json(await service.pause(_known_id(dispatch_id)))

    @api.post("/dispatches/{dispatch_id}/resume", response_model=schema.Moved)
    async def resume(dispatch_id: DispatchPath) -> Response:
        return _Json(await service.resume(_known_id(dispatch_id)))

    @api.post("/dispatches/{dispatch_id}/retry", response_model=schema.Moved)
    async def retry(dispatch_id: DispatchPath, body: schema.RetryRequest | None = None) -> Response:
        asked = body or schema.RetryRequest()
        answer = await service.retry(
            _known_id(dispatch_id),
            failed_only=asked.failed_only,
            memory_mib=asked.memory_mib,
            walltime_s=asked.walltime_s,
        )
        return _Json(answer)

    @api.post("/ui", response_model=schema.UiAddress)
    async def ui() -> Response:
        port = await desk.open_ui()
        url = f"http://127.0.0.1:{port}/#{desk.sessions.new_code()}"
        return _Json({"url": url, "ssh_forward": desk.forward(port)})

    @api.post("/token", response_model=schema.Health)
    async def rotate() -> Response:
        desk.token.replace(await asyncio.to_thread(desk.new_token))
        desk.sessions.forget_all()
        return _Json({"ok": True})

    @api.post("/shutdown", status_code=202, response_model=schema.Health)
    async def shutdown() -> Response:
        desk.stop()
        return _Json({"ok": True}, 202)

    return api


def _page(desk: Desk) -> APIRouter:
    """Return what lies outside ``/api/v1``: the page, its login, and the sign of life."""
    page = APIRouter(responses=_PROBLEM)
    files = {path: ((_STATIC / name).read_bytes(), media) for path, (name, media) in _PAGE.items()}

    @page.get("/healthz", response_model=schema.Health)
    async def healthz() -> Response:
        return _Json({"ok": True})

    @page.post("/login", response_model=schema.PageKey)
    async def login(request: Request, body: schema.Code) -> Response:
        session = desk.sessions.redeem(body.code)
        port = (request.scope.get("server") or ("", None))[1]
        if session is None or port is None:
            raise HTTPException(401, "This link was used already or is too old: `hpcflow ui` prints a new one.")
        answer = _Json({"key": session.key})
        answer.set_cookie(cookie_name(port), session.cookie, httponly=True, samesite="strict", path="/")
        return answer

    @page.post("/logout", response_model=schema.Health)
    async def logout(request: Request) -> Response:
        name = cookie_name((request.scope.get("server") or ("", 0))[1] or 0)
        desk.sessions.forget(request.cookies.get(name, ""), request.headers.get(KEY_HEADER, ""))
        answer = _Json({"ok": True})
        answer.delete_cookie(name, httponly=True, samesite="strict", path="/")
        return answer

    def add(path: str) -> None:
        content, media = files[path]

        @page.get(path, include_in_schema=False)
        async def file() -> Response:
            return Response(content, media_type=media)

    for path in files:
        add(path)
    return page


class _Text(Response):
    """A task's own output: never shown as anything but text."""

    media_type = "text/plain"


class _Stream(StreamingResponse):
    media_type = "application/octet-stream"


async def _stream(chunks: AsyncIterator[bytes]) -> Response:
    """Return the stream, or raise what its first piece raises: once it has begun, nothing can be refused any more."""
    first = await anext(chunks, b"")

    async def pieces() -> AsyncIterator[bytes]:
        yield first
        async for chunk in chunks:
            yield chunk

    return _Stream(pieces())


async def _accepted(service: Service, dispatch: str) -> Json | None:
    """Return the answer for a dispatch that is here already, ``None`` when it is new."""
    try:
        summary = await service.summary(dispatch)
    except NotFound:
        return None
    messages = [message["text"] for message in summary["messages"]]
    return {"id": summary["id"], "status": summary["status"], "messages": messages}


def _known_id(text: str) -> str:
    """Return an id that is safe in a path and a query.

    Raises:
        NotFound: hpcflow makes no such ids.
    """
    if not is_ulid(text):
        raise NotFound(f"No dispatch {text[:40]!r} here: an id has 26 capitals and digits.")
    return text


def _finite(value: object) -> object:
    """Return the same JSON with ``null`` for numbers that JSON has not: a journal may claim any."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case _:
            return value


# ---- errors


async def _refused(_: Request, error: Exception) -> Response:
    match error:
        case UserError():
            code = 400
        case NotFound():
            code = 404
        case TooLarge():
            code = 413
        case _:
            code = 409
    return _Json({"error": str(error)}, code)


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    fault = error.errors()[0]
    place = ".".join(str(part) for part in fault["loc"][1:]) or "the body"
    return _Json({"error": f"{place}: {fault['msg']}."}, 422)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = {404: "There is no such path.", 405: "This path does not take this method."}.get(
        error.status_code, str(error.detail)
    )
    return _Json({"error": sentence}, error.status_code, headers=dict(error.headers or {}))


async def _fault(request: Request, error: Exception) -> Response:
    return _Json({"error": f"The server failed at {request.method} {request.url.path}: its log says where."}, 500)
