"""Rows of the store as tuples of column values, in the order of the columns, and back.

Times are microseconds since the epoch; what is not looked for by its parts is JSON, compressed when it is long.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final

from pydantic import TypeAdapter

from hpcflow.core.model import Bag, JobArray
from hpcflow.core.states import State, Status
from hpcflow.server.store.rows import (
    ArrayRow,
    ArrayState,
    BagRow,
    CacheRow,
    ChildRow,
    DispatchRow,
    EndRow,
    EventKind,
    EventRow,
    Lease,
    OriginRow,
    TaskRow,
)

__all__ = [
    "Values",
    "array_row",
    "array_values",
    "bag_row",
    "bag_values",
    "cache_row",
    "cache_values",
    "child_row",
    "child_values",
    "dispatch_row",
    "dispatch_values",
    "end_row",
    "end_values",
    "event_row",
    "event_values",
    "lease_row",
    "lease_values",
    "micros",
    "micros_or_none",
    "origin_row",
    "origin_values",
    "packed",
    "plain",
    "task_row",
    "task_values",
    "time",
    "unpacked",
]

Values = tuple[Any, ...]  # Any: what a column takes


# ---- rows


def dispatch_values(row: DispatchRow) -> Values:
    return (
        row.id,
        plain(row.name),
        row.status.value,
        micros(row.created_at),
        micros_or_none(row.started_at),
        micros_or_none(row.ended_at),
        plain(row.error),
        row.n_tasks,
        row.cancel_wanted,
        *row.python,
        plain(row.paused),
        row.paused_whole,
    )


def dispatch_row(values: Sequence[Any], counts: Mapping[State, int]) -> DispatchRow:
    found, name, status, created, started, ended, error, n_tasks, cancel_wanted, major, minor, paused, whole = values
    return DispatchRow(
        id=found,
        name=name,
        status=Status(status),
        created_at=time(created),
        started_at=_time_or_none(started),
        ended_at=_time_or_none(ended),
        error=error,
        n_tasks=n_tasks,
        cancel_wanted=bool(cancel_wanted),
        paused=paused,
        paused_whole=bool(whole),
        python=(major, minor),
        counts=counts,
    )


def child_values(row: ChildRow, manifest: Mapping[str, Any]) -> Values:
    return row.id, row.dispatch, row.task, row.first, row.n_tasks, plain(row.name), packed(manifest)


def child_row(values: Sequence[Any]) -> ChildRow:
    found, dispatch, task, first, n_tasks, name, *_ = values
    return ChildRow(id=found, dispatch=dispatch, task=task, first=first, n_tasks=n_tasks, name=name)


def task_values(row: TaskRow) -> Values:
    return (
        row.dispatch,
        row.index,
        plain(row.name),
        row.state.value,
        row.attempt,
        row.bag,
        row.worker,
        micros_or_none(row.started_at),
        micros_or_none(row.ended_at),
        plain(row.error),
        row.cluster,
        row.charged,
        packed(row.again) if row.again else None,
    )


def task_row(values: Sequence[Any]) -> TaskRow:
    dispatch, index, name, state, attempt, bag, worker, started, ended, error, cluster, charged, again = values
    return TaskRow(
        dispatch=dispatch,
        index=index,
        name=name,
        state=State(state),
        attempt=attempt,
        bag=bag,
        worker=worker,
        started_at=_time_or_none(started),
        ended_at=_time_or_none(ended),
        error=error,
        cluster=cluster,
        charged=charged,
        again=unpacked(again) if again else {},
    )


def end_values(row: EndRow) -> Values:
    return row.dispatch, row.index, row.attempt, row.worker, row.bag, packed(row.record)


def end_row(values: Sequence[Any]) -> EndRow:
    dispatch, index, attempt, worker, bag, raw = values
    return EndRow(dispatch=dispatch, index=index, attempt=attempt, worker=worker, bag=bag, record=unpacked(raw))


def bag_values(row: BagRow) -> Values:
    raw = _pressed(_bag_json().dump_json(row.bag))
    return row.bag.id, row.bag.dispatch, micros(row.created_at), micros_or_none(row.closed_at), raw


def bag_row(values: Sequence[Any]) -> BagRow:
    _, _, created, closed, raw = values
    bag = _bag_json().validate_json(_opened(raw))
    return BagRow(bag=bag, created_at=time(created), closed_at=_time_or_none(closed))


def array_values(row: ArrayRow) -> Values:
    return (
        row.array.token,
        row.array.dispatch,
        row.state.value,
        plain(row.reason),
        row.cancel_wanted,
        micros(row.array.intent_at),
        micros_or_none(row.submitted_at),
        micros_or_none(row.ended_at),
        _pressed(_array_json().dump_json(row.array)),
        packed([[index, end] for index, end in row.ends.items()]),
    )


def array_row(values: Sequence[Any]) -> ArrayRow:
    _, _, state, reason, cancel_wanted, _, submitted, ended, raw, ends = values
    return ArrayRow(
        array=_array_json().validate_json(_opened(raw)),
        state=ArrayState(state),
        reason=reason,
        cancel_wanted=bool(cancel_wanted),
        submitted_at=_time_or_none(submitted),
        ended_at=_time_or_none(ended),
        ends=dict(unpacked(ends)),
    )


def origin_values(row: OriginRow) -> Values:
    return row.dispatch, row.index, row.how, row.source, row.source_index, row.bag


def origin_row(values: Sequence[Any]) -> OriginRow:
    dispatch, index, how, source, source_index, bag = values
    return OriginRow(dispatch=dispatch, index=index, how=how, source=source, source_index=source_index, bag=bag)


def cache_values(row: CacheRow) -> Values:
    return row.key, plain(row.function), row.dispatch, row.index, row.bag, row.size, micros(row.at)


def cache_row(values: Sequence[Any]) -> CacheRow:
    key, function, dispatch, index, bag, size, at = values
    return CacheRow(key=key, function=function, dispatch=dispatch, index=index, bag=bag, size=size, at=time(at))


def event_values(at: datetime, dispatch: str | None, kind: EventKind, content: Any) -> Values:  # Any: JSON
    return None, micros(at), dispatch, kind.value, packed(content)


def event_row(values: Sequence[Any]) -> EventRow:
    number, at, dispatch, kind, raw = values
    return EventRow(number=number, at=time(at), dispatch=dispatch, kind=EventKind(kind), content=unpacked(raw))


def lease_values(owner: Lease, now: datetime) -> Values:
    return 1, owner.id, plain(owner.host), owner.pid, owner.boot_id, micros(now), micros(now)


def lease_row(values: Sequence[Any]) -> Lease:
    _, found, host, pid, boot_id, taken, renewed = values
    return Lease(id=found, host=host, pid=pid, boot_id=boot_id, taken_at=time(taken), renewed_at=time(renewed))


# ---- single values

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def micros(at: datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND


def micros_or_none(at: datetime | None) -> int | None:
    return None if at is None else (at - _EPOCH) // _MICROSECOND


def time(stored: int) -> datetime:
    return _EPOCH + timedelta(microseconds=stored)


def _time_or_none(stored: int | None) -> datetime | None:
    return None if stored is None else _EPOCH + timedelta(microseconds=stored)


def plain(text: str | None) -> str | None:
    """Return the text as UTF-8 can hold it: a file name in an exception's message may not be valid text."""
    if text is None or text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode()


def packed(value: Any) -> bytes:  # Any: JSON
    return _pressed(json.dumps(value, separators=(",", ":")).encode())


def unpacked(raw: bytes) -> Any:  # Any: JSON
    return json.loads(_opened(raw))


#: Shorter JSON is stored as it is.
_COMPRESS_FROM: Final = 4096
#: What a zlib stream begins with, and no JSON does.
_ZLIB: Final = b"x"


def _pressed(raw: bytes) -> bytes:
    return zlib.compress(raw, 1) if len(raw) >= _COMPRESS_FROM else raw


def _opened(raw: bytes) -> bytes:
    return zlib.decompress(raw) if raw.startswith(_ZLIB) else raw


@cache
def _bag_json() -> TypeAdapter[Bag]:
    return TypeAdapter(Bag)


@cache
def _array_json() -> TypeAdapter[JobArray]:
    return TypeAdapter(JobArray)
