"""The forms of the API's answers, and what routes ask for and check in the same way."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Final

from fastapi import Path, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from hpcflow.core.model import NotFound, is_ulid
from hpcflow.server.schema import MOST

__all__ = [
    "UNCHANGED",
    "DispatchPath",
    "IndexPath",
    "JsonAnswer",
    "StreamAnswer",
    "TextAnswer",
    "known_id",
    "packed",
    "streamed",
]

DispatchPath = Annotated[str, Path(description="The dispatch's id.")]
#: Of a task in its dispatch.
IndexPath = Annotated[int, Path(ge=0, le=MOST)]

#: What a route answers to who has all of it already.
UNCHANGED: Final[dict[int | str, dict[str, str]]] = {304: {"description": "It is as it was when you got its ETag."}}
_TO_JSON: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode
#: What is shorter costs more time to pack than to send.
_SHORT: Final = 2**14


class JsonAnswer(JSONResponse):
    """JSON in UTF-8 from any plain value."""

    def render(self, content: object) -> bytes:
        try:
            text = _TO_JSON(content)
        except ValueError:
            text = _TO_JSON(_finite(content))
        # A traceback may hold half a surrogate pair, which is no text in any encoding.
        return text.encode("utf-8", "replace")


class TextAnswer(Response):
    """A task's own output: never shown as anything but text."""

    media_type = "text/plain"


class StreamAnswer(StreamingResponse):
    """Bytes, as they come."""

    media_type = "application/octet-stream"


async def streamed(chunks: AsyncIterator[bytes]) -> StreamAnswer:
    """Return the stream, or raise what its first piece raises: once it has begun, nothing can be refused any more."""
    first = await anext(chunks, b"")

    async def pieces() -> AsyncIterator[bytes]:
        yield first
        async for chunk in chunks:
            yield chunk

    return StreamAnswer(pieces())


def packed(request: Request, answer: Response) -> Response:
    """Return the answer compressed where it is long and the browser takes it so: it may come through ssh."""
    taken = request.headers.get("accept-encoding", "")
    if len(answer.body) >= _SHORT and "gzip" in taken:
        answer.body = gzip.compress(bytes(answer.body), 4)
        answer.headers["content-length"] = str(len(answer.body))
        answer.headers["content-encoding"] = "gzip"
    answer.headers["vary"] = "accept-encoding"
    return answer


def known_id(text: str) -> str:
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
