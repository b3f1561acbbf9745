"""The web page: its files, its login, and the reads that only a page needs."""

from __future__ import annotations

import asyncio
import json
import mimetypes
from collections.abc import AsyncIterator, Callable
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Protocol

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.exceptions import HTTPException

from hpcflow.core.model import UserError
from hpcflow.core.states import State
from hpcflow.server import page_schema as schema
from hpcflow.server.answer import UNCHANGED, DispatchPath, IndexPath, JsonAnswer, known_id, packed
from hpcflow.server.guard import KEY_HEADER, Sessions, cookie_name
from hpcflow.server.news import News
from hpcflow.server.routing import Router
from hpcflow.server.schema import Health
from hpcflow.server.views import Wanted

__all__ = ["Shown", "page_files", "page_routes", "static_file", "told", "view_routes"]

Json = dict[str, Any]  # Any: JSON; page_schema.py describes it for clients

_STATIC: Final = Path(__file__).parent / "static"
#: News are told to a browser at most so often.
_BREATH_S: Final = 0.25
#: A line at least so often: proxies cut connections that say nothing.
_ALIVE_S: Final = 15.0
#: A server that ends does not wait longer for its watchers.
_SLICE_S: Final = 1.0
#: One event of the stream, as OpenAPI's readers take them.
_NEWS: Final[dict[int | str, dict[str, Any]]] = {  # Any: FastAPI's own type
    200: {
        "description": "News as they come: each with the number to go on from, its kind, and JSON.",
        "content": {
            "text/event-stream": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "id": {"type": "string"},
                        "event": {"type": "string", "enum": ["hello", "moved", "reset"]},
                        "data": {"type": "string"},
                    },
                    "required": ["id", "event", "data"],
                }
            }
        },
    }
}
_ABSENT: Final = """<!doctype html><html lang="en"><meta charset="utf-8"><title>hpcflow</title>
<h1>hpcflow was built without its page</h1>
<p>Whoever installed it set HPCFLOW_SKIP_UI=1, or works from a checkout in which the page was never built. Install again
without it: <code>pip install --force-reinstall --no-deps</code> and where hpcflow came from. Until then
<code>hpcflow dispatches</code> and <code>hpcflow show</code> tell the same in a terminal.</p></html>
"""


class Shown(Protocol):
    """What the page asks besides of a service. Raises `UserError`, `NotFound` or another `HpcflowError`."""

    @property
    def news(self) -> News: ...

    async def graph(self, dispatch: str) -> bytes:
        """Return `page_schema.GraphColumns` as JSON."""
        ...

    async def states(self, dispatch: str) -> Json: ...

    async def page(self, dispatch: str, wanted: Wanted) -> Json: ...

    async def about(self, dispatch: str, index: int) -> Json: ...


@cache
def page_files(folder: Path = _STATIC) -> dict[str, Path]:
    """Return the files of the page by the paths under which anybody may ask for them; ``/`` is always there."""
    found = {f"/{path.relative_to(folder).as_posix()}": path for path in sorted(folder.rglob("*")) if path.is_file()}
    files = {path: file for path, file in found.items() if not file.name.startswith(".") and path != "/index.html"}
    return {"/": folder / "index.html", **files}


def page_routes(sessions: Sessions) -> APIRouter:
    """Return what lies outside ``/api/v1``: the page, its login, and the sign of life."""
    page = Router()

    @page.get("/healthz", response_model=Health)
    async def healthz() -> Response:
        return JsonAnswer({"ok": True})

    @page.post("/login", response_model=schema.PageKey)
    async def login(request: Request, body: schema.Code) -> Response:
        session = sessions.redeem(body.code)
        port = (request.scope.get("server") or ("", None))[1]
        if session is None or port is None:
            raise HTTPException(401, "This link was used already or is too old: `hpcflow ui` prints a new one.")
        answer = JsonAnswer({"key": session.key})
        answer.set_cookie(
            cookie_name(port),
            session.cookie,
            httponly=True,
            samesite="strict",
            path="/",
            secure=request.headers.get("origin", "").startswith("https://"),
        )
        return answer

    @page.post("/logout", response_model=Health)
    async def logout(request: Request) -> Response:
        name = cookie_name((request.scope.get("server") or ("", 0))[1] or 0)
        sessions.forget(request.cookies.get(name, ""), request.headers.get(KEY_HEADER, ""))
        answer = JsonAnswer({"ok": True})
        answer.delete_cookie(name, httponly=True, samesite="strict", path="/")
        return answer

    def add(path: str, file: Path) -> None:
        @page.get(path, include_in_schema=False)
        async def static(request: Request) -> Response:
            return packed(request, await asyncio.to_thread(static_file, path, file))

    for path, file in page_files().items():
        add(path, file)
    return page


def static_file(path: str, file: Path) -> Response:
    """Return a file of the page, or at ``/`` the news that there is none."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return Response(_ABSENT, 200 if path == "/" else 404, media_type="text/html")
    media = "text/javascript" if file.suffix == ".js" else mimetypes.guess_type(file.name)[0]
    # The names of all assets hold a hash of what is in them.
    lasting = path.startswith("/assets/")
    headers = {"cache-control": "public, max-age=31536000, immutable" if lasting else "no-cache"}
    return Response(content, media_type=media or "application/octet-stream", headers=headers)


def view_routes(shown: Shown, epoch: str, stopping: Callable[[], bool]) -> APIRouter:
    """Return the page's own routes of ``/api/v1``.

    Args:
        shown: what answers.
        epoch: tells this server's news from those of the one before.
        stopping: whether the server is about to end.
    """
    api = Router()

    @api.get("/dispatches/{dispatch_id}/graph", response_model=schema.GraphColumns, responses=UNCHANGED)
    async def graph(dispatch_id: DispatchPath, request: Request) -> Response:
        known = known_id(dispatch_id)
        content = await shown.graph(known)
        # A graph changes by what its sublattices add to it, and by nothing else.
        tag = f'"{known}-{len(content)}"'
        headers = {"etag": tag, "cache-control": "private, no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return packed(request, Response(content, media_type="application/json", headers=headers))

    @api.get("/dispatches/{dispatch_id}/states", response_model=schema.States)
    async def states(dispatch_id: DispatchPath, request: Request) -> Response:
        return packed(request, JsonAnswer(await shown.states(known_id(dispatch_id))))

    @api.get("/dispatches/{dispatch_id}/page", response_model=schema.TaskPage)
    async def page(
        dispatch_id: DispatchPath, request: Request, asked: Annotated[schema.TaskQuery, Query()]
    ) -> Response:
        try:
            states = tuple(State(each) for each in asked.state.split(",") if each)
        except ValueError as error:
            raise UserError(f"state: {error}; the states are {', '.join(State)}.") from None
        wanted = Wanted(
            states=states,
            text=asked.q,
            name=asked.name,
            sort=asked.sort,
            descending=asked.descending,
            after=asked.after,
            limit=asked.limit,
        )
        return packed(request, JsonAnswer(await shown.page(known_id(dispatch_id), wanted)))

    @api.get("/dispatches/{dispatch_id}/tasks/{index}/about", response_model=schema.AboutTask)
    async def about(dispatch_id: DispatchPath, index: IndexPath) -> Response:
        return JsonAnswer(await shown.about(known_id(dispatch_id), index))

    @api.get("/events", response_class=_Events, responses=_NEWS)
    async def events(
        last_event_id: Annotated[str | None, Header(max_length=100)] = None,
        once: Annotated[
            bool, Query(description="End after the first news: for what lies behind a proxy that keeps streams back.")
        ] = False,
    ) -> Response:
        """Say what changes, as server-sent events, from where an earlier stream ended if that is still known.

        `hello` begins; `moved` is `{"dispatches": {ID: {"version", "moves": {INDEX: LETTER}}}}`; after `reset`
        something was missed, and all has to be read again. Each has an id. With `once` it can be asked for again and
        again through a proxy that hands on only what has ended.
        """
        stream = told(shown.news, epoch, last_event_id, stopping, once=once)
        return _Events(stream, headers={"x-accel-buffering": "no"})

    return api


class _Events(StreamingResponse):
    media_type = "text/event-stream"


async def told(
    news: News, epoch: str, last: str | None, stopping: Callable[[], bool], *, once: bool = False
) -> AsyncIterator[bytes]:
    """Yield news as they come, as server-sent events.

    Args:
        news: what there is.
        epoch: of this server.
        last: the id of the last event that this browser has had.
        stopping: whether the server is about to end.
        once: end with the first ones, or after a while without any.
    """
    began, _, number = (last or "").rpartition(".")
    known = number.isdecimal() and len(number) < 20 and began == epoch and int(number) <= news.number
    seen = int(number) if known else news.number
    # Whoever asks again and again was greeted already.
    if not (once and known):
        yield _event("hello" if known or last is None else "reset", f"{epoch}.{seen}", {})
        if once:
            return
    loop = asyncio.get_running_loop()
    spoke = loop.time()
    while not stopping():
        if not await news.wait(seen, _SLICE_S):
            if loop.time() - spoke >= _ALIVE_S:
                spoke = loop.time()
                yield b": still here\n\n"
                if once:
                    return
            continue
        now = news.number
        changes = news.since(seen)
        seen = now
        spoke = loop.time()
        if changes is None:
            yield _event("reset", f"{epoch}.{now}", {})
        else:
            moved = {name: {"version": each.version, "moves": each.moves} for name, each in changes.items()}
            yield _event("moved", f"{epoch}.{now}", {"dispatches": moved})
        if once:
            return
        await asyncio.sleep(_BREATH_S)


def _event(kind: str, number: str, data: object) -> bytes:
    return f"id: {number}\nevent: {kind}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
