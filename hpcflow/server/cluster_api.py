"""The routes of one cluster. Like all routes they only read a request and spell an answer."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Protocol

from fastapi import APIRouter, Query, Response
from fastapi import Path as PathParameter
from fastapi.responses import JSONResponse

from hpcflow.server import cluster_schema as schema
from hpcflow.server.routing import Router
from hpcflow.server.schema import MOST
from hpcflow.server.settings_schema import CLUSTER_NAME
from hpcflow.server.trial import Asked

__all__ = ["ClusterDesk", "cluster_routes"]

Json = dict[str, Any]  # Any: JSON; cluster_schema.py describes it for clients


class ClusterDesk(Protocol):
    """What these routes need. Raises `UserError`, `NotFound` or another `HpcflowError`; each text reaches the user."""

    def clusters(self) -> Json: ...

    async def test(self, name: str, asked: Asked) -> Json:
        """Begin to test a cluster, or join the test that goes on."""
        ...

    async def tested(self, name: str, since: int, wait_s: float) -> Json:
        """Return the steps of the last test as soon as their version is not ``since``."""
        ...

    async def queue(self, name: str, *, mine: bool, nodes: bool, limit: int, ask: bool = True) -> Json:
        """Return a cluster's queue, from the last look when that is young enough, or when nothing shall be asked."""
        ...

    async def login(self, name: str) -> Json:
        """Begin a login; whoever begins another one ends the first."""
        ...

    async def answer(self, name: str, login: str, number: int, answers: Sequence[str]) -> Json:
        """Answer a question of a login; the same answer again changes nothing."""
        ...

    async def draft(self, name: str, settings: Mapping[str, Any], accepted: Sequence[str]) -> Json:  # Any: JSON
        """Reach a cluster that may become one of ours; nothing is written but host keys that a person accepted."""
        ...

    async def add(self, name: str) -> Json:
        """Write a draft to clusters.toml and serve it from now on."""
        ...

    async def remove(self, name: str) -> Json: ...


_Name = Annotated[str, PathParameter(description="The cluster's name in clusters.toml.")]
_NewName = Annotated[str, PathParameter(description="What it shall be called.", json_schema_extra=CLUSTER_NAME)]
_PREFIX: Final = "/clusters"


def cluster_routes(desk: ClusterDesk) -> APIRouter:
    """Return the routes of ``/clusters``, below whatever the caller puts before it."""
    api = Router(prefix=_PREFIX)

    @api.get("", response_model=schema.Clusters)
    async def clusters() -> Json:
        return desk.clusters()

    @api.post("/{name}/test", response_model=schema.ClusterTest)
    async def test(name: _Name, body: schema.ClusterTestRequest | None = None) -> Json:
        request = body or schema.ClusterTestRequest()
        asked = Asked(
            python=request.python or (sys.version_info[0], sys.version_info[1]),
            executable=request.executable or sys.executable,
            jobs=request.jobs,
            patience_s=request.patience_s,
        )
        return await desk.test(name, asked)

    @api.get("/{name}/test", response_model=schema.ClusterTest)
    async def tested(
        name: _Name,
        since: Annotated[int, Query(ge=-1, le=MOST, description="Answer when the version is another.")] = -1,
        wait: Annotated[float, Query(ge=0, le=30, allow_inf_nan=False, description="Seconds.")] = 0.0,
    ) -> Json:
        return await desk.tested(name, since, wait)

    @api.get("/{name}/queue", response_model=schema.Queue)
    async def queue(
        name: _Name,
        mine: Annotated[bool, Query(description="Only the user's own jobs.")] = False,
        nodes: Annotated[bool, Query(description="With the list of nodes.")] = True,
        limit: Annotated[int, Query(ge=0, le=100_000, description="Rows of jobs.")] = 2000,
        ask: Annotated[bool, Query(description="Look anew when that is due; else tell the last look.")] = True,
    ) -> Response:
        # As it is: a check of each of ten thousand rows would cost more than the look.
        return JSONResponse(await desk.queue(name, mine=mine, nodes=nodes, limit=limit, ask=ask))

    @api.post("/{name}/login", response_model=schema.LoginAnswer)
    async def login(name: _Name) -> Json:
        return await desk.login(name)

    @api.post("/{name}/login/answer", response_model=schema.LoginAnswer)
    async def answer(name: _Name, body: schema.LoginRequest) -> Json:
        answers = [each.get_secret_value() for each in body.answers]
        return await desk.answer(name, body.login, body.number, answers)

    @api.post("/{name}/draft", response_model=schema.ClusterDraftAnswer)
    async def draft(name: _NewName, body: schema.ClusterDraft) -> Json:
        return await desk.draft(name, body.settings, body.accept_host_keys)

    @api.post("/{name}/add", response_model=schema.ClusterChange)
    async def add(name: _Name) -> Json:
        return await desk.add(name)

    @api.post("/{name}/remove", response_model=schema.ClusterChange)
    async def remove(name: _Name) -> Json:
        return await desk.remove(name)

    return api
