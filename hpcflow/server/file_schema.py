"""The shapes of what `file_api` answers, for the API's description."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, Strict, StrictBool, WithJsonSchema

from hpcflow.server.routing import Described
from hpcflow.server.schema import MOST, WHOLE

__all__ = ["CleanAnswer", "CleanRequest", "Listing", "Spans"]


class Entry(Described):
    #: Begins with "./".
    name: str
    kind: Literal["file", "folder", "link"]
    size: int
    executable: bool
    #: Where a link leads.
    target: str | None
    #: Of a file, in hex; ``None`` where the cluster has no sha256sum.
    sha256: str | None


class Listing(Described):
    cluster: str
    kind: Literal["file", "folder"]
    #: The folder that names are below, without links in it.
    root: str
    name: str
    entries: list[Entry]
    #: Files whose names can't be told in one line.
    odd: int


def _path(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("a path is a string")
    return value


def _absolute(value: object) -> str:
    path = _path(value)
    if not path.startswith("/") or len(path) > 4096:
        raise ValueError("an absolute path of at most 4096 characters is wanted")
    return path


#: Of a file below a folder, as listings give it; no part of it is "..".
_NAME: Final = r"^\./(?!\.\.(/|$))([^/\x00\n]|/(?!\.\.(/|$)))*$"
#: Paths on a cluster: what is no UTF-8 in them stands as surrogates, which pydantic's own strings refuse.
_AnyPath = Annotated[str, PlainValidator(_path), WithJsonSchema({"type": "string", "pattern": _NAME})]


_AbsolutePath = Annotated[
    str, PlainValidator(_absolute), WithJsonSchema({"type": "string", "maxLength": 4096, "pattern": "^/"})
]


class Spans(BaseModel):
    model_config = ConfigDict(extra="forbid")

    root: _AbsolutePath
    #: Name, offset and bytes of each.
    files: list[
        tuple[_AnyPath, Annotated[int, Field(ge=0, le=MOST), WHOLE], Annotated[int, Field(ge=0, le=MOST), WHOLE]]
    ]


#: Described, not checked: who says nothing is told what to say.
_ONE_OF_THEM: Final[dict[str, Any]] = {  # Any: pydantic's own type
    "anyOf": [
        {"required": ["dispatches"], "properties": {"dispatches": {"type": "array"}}},
        {"required": ["older_than_s"], "properties": {"older_than_s": {"type": "number"}}},
    ]
}


class CleanRequest(BaseModel):
    """At least one of `dispatches` and `older_than_s` says which."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_ONE_OF_THEM)

    #: ``None``: all that `older_than_s` allows.
    dispatches: list[str] | None = None
    older_than_s: Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False, le=1e10)] | None = None
    cluster: str | None = None
    #: Also files that tasks left in directories of their own.
    files: StrictBool = False
    dry_run: StrictBool = False


class CleanedCluster(Described):
    cluster: str
    bags: int
    freed_bytes: int
    #: Bags that were gone already.
    gone: int
    kept_files: int
    problem: str | None


class CleanAnswer(Described):
    dispatches: int
    clusters: list[CleanedCluster]
    #: A sentence for each dispatch that was named and is left alone.
    skipped: list[str]
    dry_run: bool
    message: str
