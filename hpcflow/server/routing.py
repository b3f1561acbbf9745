"""Routers whose routes are described when somebody asks what they are like, and not at each start of a server."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

__all__ = ["Described", "Router", "described"]

_DESCRIBED: Final = ContextVar("described", default=False)
#: What FastAPI builds models for: every route answers with a response that is finished, so they only describe.
_DESCRIPTION: Final = ("response_model", "responses")


class Described(BaseModel):
    """JSON of the API, whose validator is made when it is first needed: for most of it never, while a server serves."""

    model_config = ConfigDict(defer_build=True)


@contextmanager
def described() -> Generator[None]:
    """Let routers that are made meanwhile keep what their answers are like."""
    token = _DESCRIBED.set(True)
    try:
        yield
    finally:
        _DESCRIBED.reset(token)


class Router(APIRouter):
    """FastAPI's, without descriptions unless they are wanted: they cost a fifth of a second."""

    # Any in this class: FastAPI's own options, thirty of them.
    def __init__(self, **options: Any) -> None:
        super().__init__(**_served(options))

    def add_api_route(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().add_api_route(path, endpoint, **_served(options))

    def include_router(self, router: APIRouter, **options: Any) -> None:
        super().include_router(router, **_served(options))


def _served(options: dict[str, Any]) -> dict[str, Any]:  # Any: as above
    if _DESCRIBED.get():
        return options
    left = {name: value for name, value in options.items() if name not in _DESCRIPTION}
    # Not given, FastAPI would take the annotation of what the route returns.
    return {**left, "response_model": None} if "response_model" in options else left
