"""The routes of dispatches and their tasks: what is asked of them, and what people do to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Annotated, Any, Final, Literal, Protocol

from fastapi import APIRouter, Query, Response
from fastapi import Path as PathParameter

from hpcflow.core.states import State, Status
from hpcflow.server import page_schema, schema
from hpcflow.server.again_schema import CancelPlan, Failures, RetryPlan
from hpcflow.server.answer import (
    DispatchPath,
    IndexPath,
    JsonAnswer,
    StreamAnswer,
    known_id,
    streamed,
)
from hpcflow.server.page import Shown
from hpcflow.server.reports import JOB
from hpcflow.server.routing import Router
from hpcflow.server.schema import MOST

__all__ = ["QuestionDesk", "SteeringDesk", "question_routes", "steering_routes"]

Json = dict[str, Any]  # Any: JSON; schema.py describes it for clients
Order = Literal["created_at", "name", "status", "n_tasks"]

_SLICE_S: Final = 1.0


class QuestionDesk(Shown, Protocol):
    """Answers. Raises `UserError`, `NotFound` or another `HpcflowError`; each text reaches the user."""

    async def listed(
        self,
        limit: int,
        before: str | None,
        prefix: str | None,
        *,
        statuses: Sequence[Status] = (),
        text: str = "",
        sort: Order = "created_at",
        ascending: bool = False,
    ) -> Json:
        """Return dispatches that fit, the newest first; with a ``prefix`` up to ten whose ids begin so."""
        ...

    async def summary(self, dispatch: str) -> Json: ...

    async def changed(self, dispatch: str, since: int, wait_s: float) -> Json:
        """Return the summary as soon as its version is not ``since``, at the latest after ``wait_s``."""
        ...

    async def tasks(self, dispatch: str, state: State | None, after: int, limit: int, deep: bool) -> Json:
        """Return rows with an index above ``after``, in order; with ``deep`` those in sublattices as well."""
        ...

    async def task(self, dispatch: str, index: int) -> Json: ...

    async def failures(self, dispatch: str) -> Json: ...

    async def usage(self, dispatch: str) -> Json: ...

    async def arrays(self, dispatch: str) -> Json:
        """Say which electrons the arrays of a dispatch work for, how their tasks ended, and what they ask for."""
        ...

    async def job(self, name: str) -> Json:
        """Return what is known of "8123", or of "8123_7"."""
        ...

    def results(
        self, dispatch: str, tasks: list[int] | None, output: bool, *, apart: bool = False
    ) -> AsyncIterator[bytes]:
        """Yield the results stream: of these tasks (``None``: all), or of the output and what it needs.

        With ``apart`` large values are named in it and not contained: each is asked for by itself.
        """
        ...


class SteeringDesk(Protocol):
    """Changes what dispatches do. Raises as `QuestionDesk` does."""

    async def cancel(self, dispatch: str, tasks: list[int] | None, *, begun: bool = True) -> Json:
        """Cancel tasks (``None``: all); without ``begun`` only those of which no worker is known to have begun."""
        ...

    # Each of these may come twice, when its answer was lost: then there is nothing left to do, and that is no error.

    async def pause(self, dispatch: str) -> Json: ...

    async def resume(self, dispatch: str) -> Json: ...

    async def retry(
        self,
        dispatch: str,
        *,
        failed_only: bool,
        memory_mib: int | None,
        walltime_s: int | None,
        more: bool = False,
        tasks: Sequence[int] | None = None,
        electrons: Sequence[str] | None = None,
    ) -> Json: ...

    async def retry_plan(
        self,
        dispatch: str,
        *,
        failed_only: bool,
        memory_mib: int | None = None,
        walltime_s: int | None = None,
        more: bool = False,
        tasks: Sequence[int] | None = None,
        electrons: Sequence[str] | None = None,
    ) -> Json: ...

    async def cancel_plan(self, dispatch: str, tasks: list[int] | None) -> Json: ...


_Apart = Annotated[bool, Query(description="Large values are named here, and fetched by themselves.")]


def question_routes(questions: QuestionDesk, stopping: Callable[[], bool]) -> APIRouter:
    """Return the routes of what is asked of dispatches.

    Args:
        questions: what answers.
        stopping: whether the server is about to end.
    """
    api = Router()

    @api.get("/dispatches", response_model=schema.Dispatches)
    async def dispatches(
        *,
        limit: Annotated[int, Query(ge=1, le=1000)] = 50,
        before: str | None = None,
        prefix: Annotated[str | None, Query(description="What ids begin with.", pattern="^[0-9A-Za-z]{1,26}$")] = None,
        status: Annotated[list[Status] | None, Query(description="Any of these.")] = None,
        q: Annotated[str, Query(max_length=200, description="In the name, or an id's begin or end.")] = "",
        sort: Order = "created_at",
        ascending: bool = False,
    ) -> Response:
        answer = await questions.listed(
            limit,
            None if before is None else known_id(before),
            prefix,
            statuses=status or (),
            text=q,
            sort=sort,
            ascending=ascending,
        )
        return JsonAnswer(answer)

    @api.get("/dispatches/{dispatch_id}", response_model=schema.Summary)
    async def summary(
        dispatch_id: DispatchPath,
        since: Annotated[int | None, Query(ge=-1, le=MOST, description="Answer when the version is another.")] = None,
        wait: Annotated[float, Query(ge=0, le=30, allow_inf_nan=False, description="Seconds.")] = 0.0,
    ) -> Response:
        known = known_id(dispatch_id)
        if since is None:
            return JsonAnswer(await questions.summary(known))
        loop = asyncio.get_running_loop()
        ends = loop.time() + wait
        while True:
            # In slices: a server that ends would otherwise wait for its pollers, or cut them off.
            answer = await questions.changed(known, since, max(0.0, min(ends - loop.time(), _SLICE_S)))
            if answer["version"] != since or loop.time() >= ends or stopping():
                return JsonAnswer(answer)

    @api.get("/dispatches/{dispatch_id}/failures", response_model=Failures)
    async def failures(dispatch_id: DispatchPath) -> Response:
        return JsonAnswer(await questions.failures(known_id(dispatch_id)))

    @api.get("/dispatches/{dispatch_id}/usage", response_model=schema.Usage)
    async def usage(dispatch_id: DispatchPath) -> Response:
        return JsonAnswer(await questions.usage(known_id(dispatch_id)))

    @api.get("/dispatches/{dispatch_id}/arrays", response_model=page_schema.Arrays)
    async def arrays(dispatch_id: DispatchPath) -> Response:
        return JsonAnswer(await questions.arrays(known_id(dispatch_id)))

    @api.get("/jobs/{job}", response_model=schema.Job)
    async def job(
        job: Annotated[
            str,
            PathParameter(
                description="An array, 8123, or an array task, 8123_7.",
                json_schema_extra={"pattern": f"^{JOB.pattern}$"},
            ),
        ],
    ) -> Response:
        return JsonAnswer(await questions.job(job))

    @api.get("/dispatches/{dispatch_id}/tasks", response_model=schema.TaskTable)
    async def tasks(
        dispatch_id: DispatchPath,
        state: Annotated[Literal[""] | State | None, Query()] = None,
        after: Annotated[int, Query(ge=-1, le=MOST)] = -1,
        limit: Annotated[int, Query(ge=1, le=100_000)] = 1000,
        deep: Annotated[bool, Query(description="Of a whole dispatch, those in sublattices as well.")] = False,
    ) -> Response:
        asked = State(state) if state else None
        return JsonAnswer(await questions.tasks(known_id(dispatch_id), asked, after, limit, deep))

    @api.get("/dispatches/{dispatch_id}/tasks/{index}", response_model=schema.TaskDetail)
    async def task(dispatch_id: DispatchPath, index: IndexPath) -> Response:
        return JsonAnswer(await questions.task(known_id(dispatch_id), index))

    @api.get("/dispatches/{dispatch_id}/output", response_class=StreamAnswer)
    async def output(dispatch_id: DispatchPath, apart: _Apart = False) -> Response:
        return await streamed(questions.results(known_id(dispatch_id), None, True, apart=apart))

    @api.get("/dispatches/{dispatch_id}/results", response_class=StreamAnswer)
    async def results(
        dispatch_id: DispatchPath,
        tasks: Annotated[
            str, Query(description='"all", or indices with commas.', pattern=r"^(all|\d{1,18}(,\d{1,18})*)$")
        ],
        apart: _Apart = False,
    ) -> Response:
        indices = None if tasks == "all" else [int(part) for part in tasks.split(",")]
        return await streamed(questions.results(known_id(dispatch_id), indices, False, apart=apart))

    return api


def steering_routes(steering: SteeringDesk) -> APIRouter:
    """Return the routes of what people do to dispatches."""
    api = Router()

    @api.post("/dispatches/{dispatch_id}/cancel", response_model=schema.CancelAnswer)
    async def cancel(dispatch_id: DispatchPath, body: schema.CancelRequest | None = None) -> Response:
        asked = body or schema.CancelRequest()
        answer = await steering.cancel(known_id(dispatch_id), asked.tasks, begun=asked.begun)
        return JsonAnswer(answer)

    @api.post("/dispatches/{dispatch_id}/pause", response_model=schema.Moved)
    async def pause(dispatch_id: DispatchPath) -> Response:
        return JsonAnswer(await steering.pause(known_id(dispatch_id)))

    @api.post("/dispatches/{dispatch_id}/resume", response_model=schema.Moved)
    async def resume(dispatch_id: DispatchPath) -> Response:
        return JsonAnswer(await steering.resume(known_id(dispatch_id)))

    @api.post("/dispatches/{dispatch_id}/retry", response_model=schema.Moved)
    async def retry(dispatch_id: DispatchPath, body: schema.RetryRequest | None = None) -> Response:
        asked = body or schema.RetryRequest()
        return JsonAnswer(await steering.retry(known_id(dispatch_id), **dict(asked)))

    @api.post("/dispatches/{dispatch_id}/retry/plan", response_model=RetryPlan)
    async def retry_plan(dispatch_id: DispatchPath, body: schema.RetryRequest | None = None) -> Response:
        """Say what a retry would do, or refuse what it would refuse to ask for; nothing moves."""
        asked = body or schema.RetryRequest()
        return JsonAnswer(await steering.retry_plan(known_id(dispatch_id), **dict(asked)))

    @api.post("/dispatches/{dispatch_id}/cancel/plan", response_model=CancelPlan)
    async def cancel_plan(dispatch_id: DispatchPath, body: schema.CancelRequest | None = None) -> Response:
        """Say what a cancel would end, and which jobs serve that; nothing is cancelled."""
        asked = body or schema.CancelRequest()
        return JsonAnswer(await steering.cancel_plan(known_id(dispatch_id), asked.tasks))

    return api
