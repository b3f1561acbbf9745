"""What ends first of futures, or of the tasks of a dispatch."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent import futures
from typing import TYPE_CHECKING, TypeVar, overload

from hpcflow.core.states import FINAL
from hpcflow.sdk.client import LONG_POLL_S, changes, server_of_ours, summary_of
from hpcflow.sdk.results import Result, task_records

if TYPE_CHECKING:
    from hpcflow.sdk.nodes import NodeResult

__all__ = ["as_completed"]

T = TypeVar("T")


@overload
def as_completed(fs: Result, timeout: float | None = None) -> Iterator[NodeResult]: ...
@overload
def as_completed(fs: Iterable[futures.Future[T]], timeout: float | None = None) -> Iterator[futures.Future[T]]: ...
def as_completed(
    fs: Result | Iterable[futures.Future[T]], timeout: float | None = None
) -> Iterator[NodeResult] | Iterator[futures.Future[T]]:
    """Yield futures as they end, or the tasks of a dispatch, each once, those that have ended already first.

    Args:
        fs: futures of any executor, or a `Result`.
        timeout: seconds from now after which waiting for the next one raises `TimeoutError`.
    """
    if isinstance(fs, Result):
        return _nodes_as_completed(fs, timeout)
    return futures.as_completed(fs, timeout)


def _nodes_as_completed(result: Result, timeout: float | None) -> Iterator[NodeResult]:
    deadline = None if timeout is None else time.monotonic() + timeout
    server = server_of_ours()
    told: set[int] = set()
    poll_s = LONG_POLL_S if timeout is None else 1
    for summary in changes(server, summary_of(server, result.dispatch_id), poll_s=poll_s):
        now = Result(server, summary)
        new = [
            record
            for record in task_records(server, result.dispatch_id)
            if record.state in FINAL and record.index not in told
        ]
        told.update(record.index for record in new)
        for record in sorted(new, key=lambda record: (record.ended_at is None, record.ended_at, record.index)):
            yield now.node(record)
        if len(told) >= summary.own_tasks and summary.ended:
            return
        if deadline is not None and time.monotonic() > deadline:
            raise TimeoutError(f"{summary.own_tasks - len(told)} (of {summary.own_tasks}) tasks unfinished")
