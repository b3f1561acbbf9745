"""The HTTP API: routes in, one `Service` behind them. Who may ask at all is decided in `guard`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Final, Protocol

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match

from hpcflow.core.model import HpcflowError, NotFound, UserError
from hpcflow.server import schema
from hpcflow.server.answer import JsonAnswer, known_id
from hpcflow.server.arguments import ArgumentsDesk, argument_routes
from hpcflow.server.cache_api import CacheDesk, cache_routes
from hpcflow.server.cluster_api import ClusterDesk, cluster_routes
from hpcflow.server.configured import SettingsDesk, settings_routes
from hpcflow.server.description import completed
from hpcflow.server.dispatch_api import QuestionDesk, SteeringDesk, question_routes, steering_routes
from hpcflow.server.failpoints import failpoint
from hpcflow.server.file_api import CleanDesk, DeleteDesk, FileDesk, file_routes
from hpcflow.server.guard import Guard, Sessions, Token
from hpcflow.server.home import Notice
from hpcflow.server.insight_api import InsightDesk, insight_routes
from hpcflow.server.log_api import ArchiveDesk, LogDesk, archive_routes, log_routes
from hpcflow.server.origins import Origins
from hpcflow.server.page import page_files, page_routes, view_routes
from hpcflow.server.redispatch_api import RedispatchDesk, redispatch_routes
from hpcflow.server.routing import Router, described
from hpcflow.server.sketch_api import SKETCHES, SketchDesk, sketch_routes
from hpcflow.server.trigger_api import TriggerDesk, trigger_routes
from hpcflow.server.upload import MEDIA_TYPE, TooLarge, Upload

__all__ = ["Desk", "Service", "application", "routes"]

Json = dict[str, Any]  # Any: JSON; schema.py describes it for clients

_SLICE_S: Final = 1.0


class Service(Protocol):
    """What the routes need. Raises `UserError`, `NotFound` or another `HpcflowError`; each text reaches the user."""

    async def accept(self, manifest: Mapping[str, Any], payload: str) -> Json:  # Any: a checked upload.Manifest
        """Take a dispatch, and own the file ``payload`` that holds its blobs back to back."""
        ...

    async def plan(self, manifest: Mapping[str, Any], payload: str) -> Json:  # Any: a checked upload.Manifest
        """Say what `accept` would submit."""
        ...

    def status(self) -> Json:
        """``clusters``, ``default_cluster``, ``live_dispatches`` and ``triggers``."""
        ...

    @property
    def questions(self) -> QuestionDesk: ...

    @property
    def steering(self) -> SteeringDesk: ...

    @property
    def roster(self) -> ClusterDesk: ...

    @property
    def files(self) -> FileDesk: ...

    @property
    def cleaner(self) -> CleanDesk: ...

    @property
    def deleter(self) -> DeleteDesk: ...

    @property
    def parts(self) -> PartsDesk: ...

    @property
    def sketches(self) -> SketchDesk: ...

    @property
    def called_with(self) -> ArgumentsDesk: ...

    @property
    def again(self) -> RedispatchDesk: ...

    @property
    def triggers(self) -> TriggerDesk: ...

    @property
    def cached(self) -> CacheDesk: ...

    @property
    def configured(self) -> SettingsDesk: ...

    @property
    def insight(self) -> InsightDesk: ...

    @property
    def logs(self) -> LogDesk: ...

    @property
    def log_archive(self) -> ArchiveDesk: ...


class PartsDesk(Protocol):
    """Open dispatches."""

    async def append(self, dispatch: str, manifest: Mapping[str, Any], payload: str) -> Json:  # Any: a checked upload
        """Take further tasks of one, and own the file ``payload``."""
        ...


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
    #: Where the page may be reached besides 127.0.0.1.
    origins: Origins = field(default_factory=Origins)


def application(service: Service, desk: Desk, *, uid: int) -> Guard:
    """Return the application as it is served: the routes behind the guard."""
    app = _application(service, desk)

    @cache
    def description() -> dict[str, Any]:  # Any: JSON
        with described():
            return completed(_application(service, desk).openapi())

    app.openapi = description  # type: ignore[method-assign]  # FastAPI's own way to another description
    uploads = [("/api/v1/dispatches", MEDIA_TYPE), (f"/api/v1{SKETCHES}", MEDIA_TYPE)]
    return Guard(
        app,
        token=desk.token,
        sessions=desk.sessions,
        uid=uid,
        uploads=uploads,
        files=page_files(),
        origins=desk.origins,
    )


def _application(service: Service, desk: Desk) -> FastAPI:
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
    app.include_router(page_routes(desk.sessions))
    return app


def routes(service: Service, desk: Desk) -> APIRouter:
    """Return the routes of ``/api/v1``."""
    api = Router(prefix="/api/v1", default_response_class=JsonAnswer)
    arriving: set[str] = set()

    @api.get("/status", response_model=schema.ServerStatus)
    async def status() -> Response:
        notice = desk.notice
        port = desk.ui_port()
        return JsonAnswer(
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
    api.include_router(settings_routes(service.configured))
    api.include_router(file_routes(service.files, service.cleaner, service.deleter))
    api.include_router(redispatch_routes(service.again))
    api.include_router(cache_routes(service.cached))
    api.include_router(insight_routes(service.insight))
    api.include_router(argument_routes(service.called_with))
    api.include_router(trigger_routes(service.triggers))
    api.include_router(sketch_routes(service.sketches, desk.folder, desk.max_upload))

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
    async def dispatch(
        request: Request,
        plan: bool = False,
        into: Annotated[str | None, Query(description="An open dispatch to which these tasks are appended.")] = None,
    ) -> Response:
        upload = Upload(desk.folder, limit=desk.max_upload)
        taken = False
        ours = ""
        try:
            async for piece in request.stream():
                begun = upload.manifest is not None
                await asyncio.to_thread(upload.feed, piece)
                if upload.manifest is not None:
                    failpoint("during_upload")
                if upload.manifest is None or begun or plan or into is not None:
                    continue
                known = await _accepted(service.questions, upload.manifest["id"])
                if known is not None:
                    return JsonAnswer(known)
                if upload.manifest["id"] in arriving:
                    raise HpcflowError(f"Dispatch {upload.manifest['id']} is on its way here in another request.")
                ours = upload.manifest["id"]
                arriving.add(ours)
            manifest = await asyncio.to_thread(upload.finish)
            if plan:
                return JsonAnswer(await service.plan(manifest, upload.path))
            if into is not None:
                answer = await service.parts.append(known_id(into), manifest, upload.path)
            else:
                answer = await service.accept(manifest, upload.path)
            taken = True
            return JsonAnswer(answer, 201)
        except ClientDisconnect:
            raise UserError("The upload was cut before its end: dispatch again.") from None
        finally:
            arriving.discard(ours)
            upload.close(keep=taken)

    api.include_router(question_routes(service.questions, desk.stopping))
    api.include_router(steering_routes(service.steering))
    # Before the logs, whose path would take their last part for a stream's name.
    api.include_router(view_routes(service.questions, desk.notice.started_at, desk.stopping))

    api.include_router(archive_routes(service.log_archive))
    api.include_router(log_routes(service.logs, desk.stopping))

    @api.post("/ui", response_model=schema.UiAddress)
    async def ui() -> Response:
        port = await desk.open_ui()
        url = f"http://127.0.0.1:{port}/#{desk.sessions.new_code()}"
        return JsonAnswer({"url": url, "ssh_forward": desk.forward(port)})

    @api.post("/token", response_model=schema.Health)
    async def rotate() -> Response:
        desk.token.replace(await asyncio.to_thread(desk.new_token))
        desk.sessions.forget_all()
        return JsonAnswer({"ok": True})

    @api.post("/shutdown", status_code=202, response_model=schema.Health)
    async def shutdown() -> Response:
        desk.stop()
        return JsonAnswer({"ok": True}, 202)

    return api


async def _accepted(questions: QuestionDesk, dispatch: str) -> Json | None:
    """Return the answer for a dispatch that is here already, ``None`` when it is new."""
    try:
        summary = await questions.summary(dispatch)
    except NotFound:
        return None
    messages = [message["text"] for message in summary["messages"]]
    return {"id": summary["id"], "status": summary["status"], "messages": messages}


# ---- errors


async def _refused(_: Request, error: Exception) -> Response:
    match error:
        case UserError():
            code = 422
        case NotFound():
            code = 404
        case TooLarge():
            code = 413
        case _:
            code = 409
    return JsonAnswer({"error": str(error)}, code)


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    fault = error.errors()[0]
    place = ".".join(str(part) for part in fault["loc"][1:]) or "the body"
    return JsonAnswer({"error": f"{place}: {fault['msg']}."}, 422)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = {404: "There is no such path.", 405: "This path does not take this method."}.get(
        error.status_code, str(error.detail)
    )
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["allow"] = ", ".join(_methods(request))
    return JsonAnswer({"error": sentence}, error.status_code, headers=headers)


def _methods(request: Request) -> list[str]:
    """Return what a path takes: each route knows of its own methods only."""
    routes: list[BaseRoute] = request.app.routes
    asked = [(method, {**request.scope, "method": method}) for method in ("GET", "POST")]
    return [method for method, scope in asked if any(route.matches(scope)[0] is Match.FULL for route in routes)]


async def _fault(request: Request, error: Exception) -> Response:
    return JsonAnswer({"error": f"The server failed at {request.method} {request.url.path}: its log says where."}, 500)
