"""What a task took and returned, as its process spelled it: text of a journal, which the server only passes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from hpcflow.core.bag import INLINE_LIMIT

__all__ = ["Preview", "previews"]

Json = dict[str, Any]  # Any: JSON, described in page_schema.py


class Preview(BaseModel):
    """A value as its own process spelled it. The server opens none."""

    #: Of an argument.
    name: str | None
    type: str | None
    #: "12 items", or the dimensions and type of an array.
    shape: str | None
    #: ``None``: see `why`; or it was not asked to spell itself.
    text: str | None
    #: There is more of it.
    cut: bool
    #: Why it can't be previewed.
    why: str | None


def previews(record: Mapping[str, Any]) -> Json:  # Any: JSON
    """Return `inputs`, `result` and `result_bytes` of how a task ended."""
    seen = record.get("pv") or {}
    stored = record.get("r") or {}
    size: int | None = None
    if record.get("st") == "ok" and not record.get("sub"):
        if "f" in stored:
            size = int(stored["f"][2])
        elif len(text := stored.get("b", "")) <= 2 * INLINE_LIMIT:
            size = len(text) * 3 // 4 - text.count("=")
    return {
        "inputs": [_preview(each) for each in seen.get("in", ())],
        "result": _preview(seen["out"]) if "out" in seen else None,
        "result_bytes": size,
    }


def _preview(told: Mapping[str, Any]) -> Json:  # Any: JSON
    return {key: told.get(key) for key in ("name", "type", "shape", "text", "why")} | {"cut": bool(told.get("cut"))}
