"""Reports on jobs, as JSON: what the arrays of a dispatch cost, and which tasks ran in an array task."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

from hpcflow.core.blame import sentence_of
from hpcflow.core.follow import array_task_of
from hpcflow.core.model import BagId, JobId, NotFound, UserError
from hpcflow.core.states import State
from hpcflow.core.usage import Submission, account, sentences
from hpcflow.core.words import counted
from hpcflow.server.bags import LiveBag
from hpcflow.server.store import ArrayRow, ArrayState, EndRow, Jobs, Store, TaskRow

__all__ = ["JOB", "array_task", "spelled", "usage", "which"]

Json = dict[str, Any]  # Any: JSON, described in schema.py

#: An array, or an array task.
JOB: Final = re.compile(r"([A-Za-z0-9.-]{1,64})(?:_([0-9]{1,9}))?")
#: The state of a task by how its attempt ended; all else is a failure.
_STATES: Final = {"ok": State.COMPLETED, "cancelled": State.CANCELLED}


def spelled(at: datetime | None) -> str | None:
    """Return a time as the API spells it: ISO 8601, in UTC, with milliseconds."""
    return None if at is None else at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def usage(arrays: Sequence[ArrayRow], bags: Mapping[BagId, LiveBag]) -> Json:
    """Return what the arrays of a dispatch cost, and what became of it.

    Args:
        arrays: all of them.
        bags: those that are not over: of their arrays it is not known yet how workers spent their time.
    """
    taken = (row for row in arrays if row.state not in {ArrayState.INTENT, ArrayState.REFUSED})
    spent = account(
        Submission(
            width=row.array.width,
            cores=row.array.resources.cores,
            over=row.state is ArrayState.ENDED and row.array.bag not in bags,
            ends=row.ends,
        )
        for row in taken
    )
    answer = {name: round(value, 3) for name, value in asdict(spent).items()}
    return {
        **answer,
        "unexplained_s": round(spent.unexplained_s, 3),
        "complete": spent.complete,
        "sentences": list(sentences(spent)),
    }


def array_task(text: str) -> tuple[JobId, int | None]:
    """Return job id and index from "8123_7", or from "8123" alone.

    Raises:
        UserError: it is neither.
    """
    found = JOB.fullmatch(text)
    if found is None:
        raise UserError(
            f"{text[:40]!r} names no job: give the id of an array, as 8123, or of an array task, as 8123_7."
        )
    return JobId(found[1]), int(found[2]) if found[2] else None


def which(store: Store, job: JobId, index: int | None, bags: Mapping[BagId, LiveBag]) -> Json:
    """Return the arrays that had this id, how their array tasks ended, and for one of them what ran in it, in order.

    Raises:
        NotFound: no dispatch here had such a job, or it had fewer array tasks.
    """
    rows = Jobs(store).arrays(job)
    if not rows:
        raise NotFound(f"No dispatch here has had a job {job}.")
    if index is not None and all(index >= row.array.width for row in rows):
        width = max(row.array.width for row in rows)
        raise NotFound(f"Job {job} has {counted(width, 'array task')}, counted from 0.")
    return {"arrays": [_array(store, row, index, bags.get(row.array.bag)) for row in rows]}


def _array(store: Store, row: ArrayRow, index: int | None, live: LiveBag | None) -> Json:
    array = row.array
    dispatch = store.dispatch(array.dispatch)
    assert dispatch is not None  # nothing is ever removed
    jobs = Jobs(store)
    running, ended = jobs.running(array), jobs.ended(array)
    known = Counter[str]()
    for worker, number in ended.items():
        known[array_task_of(worker)] += number
    up = {array_task_of(task.worker) for task in running if task.worker is not None}
    up |= {array_task_of(name) for name in list(live.ledger.workers)} if live is not None else set()
    wanted = range(array.width) if index is None else (index,)
    entries = [_entry(row, each, known, up, live) for each in wanted]
    tasks: list[Json] = []
    if index is not None:
        name = f"{array.job_id}_{index}"
        own = [worker for worker in ended if array_task_of(worker) == name]
        tasks = [_ended(*found) for found in jobs.ends(array, own)]
        tasks += [_running(task) for task in running if task.worker is not None and array_task_of(task.worker) == name]
        tasks.sort(key=lambda task: task["started_at"] or "")
    return {
        "dispatch": array.dispatch,
        "name": dispatch.name,
        "cluster": array.cluster,
        "bag": array.bag,
        "job_id": array.job_id,
        "width": array.width,
        "state": row.state,
        "reason": row.reason,
        "array_tasks": [entry for entry in entries if entry["state"] != "not begun" or index is not None],
        "not_begun": sum(entry["state"] == "not begun" for entry in entries),
        "tasks": tasks,
    }


def _entry(row: ArrayRow, index: int, known: Counter[str], up: set[str], live: LiveBag | None) -> Json:
    """Return what is known of one array task."""
    name = f"{row.array.job_id}_{index}"
    end = row.ends.get(index)
    if end is not None:
        charged = end["core_seconds"] or end["usage"] is not None
        state = "ended" if charged or known[name] or end["cause"] != "cancelled" else "not begun"
    elif name in up:
        state = "running"
    else:
        state = "waiting" if live is not None else "unknown"
    told = end or {}
    fields = ("cause", "raw", "exit_code", "signal", "host", "core_seconds", "elapsed_s", "max_rss_kib")
    return {"index": index, "state": state, "tasks": known[name], **{field: told.get(field) for field in fields}}


def _ended(end: EndRow, name: str) -> Json:
    record = end.record
    wall_s = record.get("wall")
    began = datetime.fromtimestamp(record["t"] - wall_s, UTC) if "t" in record and wall_s is not None else None
    return {
        "index": end.index,
        "name": name,
        "attempt": end.attempt,
        "state": _STATES.get(record["st"], State.FAILED),
        "started_at": spelled(began),
        "wall_s": wall_s,
        "error": sentence_of(record),
    }


def _running(task: TaskRow) -> Json:
    return {
        "index": task.index,
        "name": task.name,
        "attempt": task.attempt,
        "state": task.state,
        "started_at": spelled(task.started_at),
        "wall_s": None,
        "error": None,
    }
