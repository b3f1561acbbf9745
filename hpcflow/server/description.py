"""Completes the API's description: which refusals each route may answer with. Pure.

All of them have one shape, and which are possible follows from a route itself: whether anybody may ask, and whether it
takes parameters or a body. So they are said here once, and no route can forget one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from hpcflow.server.guard import OPEN
from hpcflow.server.schema import Problem

__all__ = ["completed"]

Json = dict[str, Any]  # Any: JSON

_METHODS: Final = frozenset({"get", "post"})
_SENTENCES: Final = {
    "400": "The Host header is missing, doubled or malformed.",
    "401": "Neither the token nor a login came with it, or it is not the right one.",
    "403": "It comes from another site, or by a name that this server does not go by.",
    "404": "What the path or the body names is not here.",
    "409": "The state of what it is about does not allow it, or a cluster does not answer.",
    "411": "The body does not say how long it is.",
    "413": "The body is longer than the server takes.",
    "415": "The body is of another type.",
    "422": "What was asked can't be: the sentence says why.",
    "500": "The server failed: its log says where.",
}
_PROBLEM: Final = {"application/json": {"schema": {"$ref": f"#/components/schemas/{Problem.__name__}"}}}
#: FastAPI's own shape of a 422, which no route here answers with.
_THEIRS: Final = ("HTTPValidationError", "ValidationError")


def completed(described: Json) -> Json:
    """Return FastAPI's description of the routes with every refusal in it; the one that is given is changed."""
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            if method in _METHODS:
                refused = _codes(path, method, operation)
                refusals = {code: {"$ref": f"#/components/responses/{_name(code)}"} for code in refused}
                # In order, as whoever reads it looks for them.
                operation["responses"] = dict(sorted({**operation["responses"], **refusals}.items()))
    schemas = described.setdefault("components", {}).setdefault("schemas", {})
    for name in _THEIRS:
        schemas.pop(name, None)
    schemas[Problem.__name__] = Problem.model_json_schema()
    described["components"]["schemas"] = dict(sorted(schemas.items()))
    described["components"]["responses"] = {
        _name(code): {"description": sentence, "content": _PROBLEM} for code, sentence in _SENTENCES.items()
    }
    return described


def _name(code: str) -> str:
    return f"Refused{code}"


def _codes(path: str, method: str, operation: Json) -> Iterator[str]:
    """Yield the codes with which a route may refuse."""
    yield from ("400", "403", "500")
    opened = (method.upper(), path) in OPEN
    if not opened or method == "post":  # a login may fail
        yield "401"
    if not opened:
        yield "409"
    if method == "post":
        yield from ("411", "413", "415")
    if operation.get("parameters") or "requestBody" in operation:
        yield from ("404", "422")
