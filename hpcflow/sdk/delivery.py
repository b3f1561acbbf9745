"""What tasks leave for the machine that dispatched: noted here with the dispatch, brought by who waits for its end.

No task and no server pushes to a laptop that may be asleep: see ADR 0030.
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from hpcflow.core.errors import UserError
from hpcflow.core.model import HpcflowError
from hpcflow.core.places import Places, client_settings
from hpcflow.core.states import State
from hpcflow.sdk.answers import Summary
from hpcflow.sdk.connection import Server
from hpcflow.sdk.results import task_records
from hpcflow.sdk.trace import Traced

__all__ = ["deliver", "expected", "note", "note_again"]

#: In a path here it stands for the task's number.
_NUMBER = "{node_id}"

Expected = dict[str, list[list[str]]]


def expected(traced: Traced) -> Expected:
    """Return for each task's number what it leaves for this machine: paths there and absolute paths here.

    Raises:
        UserError: several tasks would write the same file here.
    """
    found: Expected = {}
    seen: set[str] = set()
    for task in traced.graph.tasks:
        text = traced.functions.get(task.fn)
        for source, target in text.brought if text is not None else ():
            path = target.replace(_NUMBER, str(task.index))
            if path.endswith("/"):
                path += os.path.basename(source.rstrip("/"))
            if path in seen:
                raise UserError(
                    f"Several tasks would write {path} here, the last of them {task.name!r}: put {_NUMBER} into the "
                    "path, which is each task's number."
                )
            seen.add(path)
            found.setdefault(str(task.index), []).append([source, path])
    return found


def note(where: Places, dispatch: str, tasks: Expected) -> None:
    """Remember what a dispatch will leave for this machine."""
    if tasks:
        # The server of this home forgets it with the dispatch; one on a login node knows nothing of it.
        here = not os.path.exists(where.link)
        _write(where, dispatch, {"done": False, "here": here, "tasks": tasks})


def note_again(where: Places, dispatch: str, copy: str) -> None:
    """Remember the same for a copy of a dispatch."""
    if (known := _read(where, dispatch)) is not None:
        _write(where, copy, {**known, "done": False})


def deliver(server: Server, summary: Summary) -> list[str]:
    """Bring what a dispatch that has ended left for this machine; return a sentence for each file that did not come.

    What was brought once is not brought again.
    """
    known = _read(server.where, summary.id)
    if known is None or known["done"] or not summary.ended:
        return []
    failed: list[str] = []
    for record in task_records(server, summary.id):
        wanted = known["tasks"].get(str(record.index), ()) if record.state is State.COMPLETED else ()
        for source, target in wanted:
            try:
                _bring(server, (summary.id, record.index), source, target)
            except (HpcflowError, OSError) as error:
                failed.append(
                    f"{source} of task {record.index} ({record.name}) could not be brought to {target}: "
                    f"{str(error).rstrip('.')}. `hpcflow fetch {summary.id} {record.index} {source}` tries it again."
                )
    _write(server.where, summary.id, {**known, "done": True})
    return failed


def _bring(server: Server, task: tuple[str, int], source: str, target: str) -> None:
    """Bring a file or folder; it takes its name when it is whole, and the place of a file that is there."""
    from hpcflow.sdk.download import bring

    if os.path.isdir(target) and os.path.basename(target) != os.path.basename(source):
        target = os.path.join(target, os.path.basename(source.rstrip("/")))
    os.makedirs(os.path.dirname(target), exist_ok=True)
    part = f"{target}.{task[0]}-{task[1]}.part"
    try:
        bring(server, task, source, part, wanted=client_settings(os.environ).progress)
        os.replace(part, target)
    except OSError:
        shutil.rmtree(part, ignore_errors=True)
        with suppress(OSError):
            os.unlink(part)
        raise


def _path(where: Places, dispatch: str) -> Path:
    return Path(where.home, "client", f"{dispatch}.json")


def _read(where: Places, dispatch: str) -> dict[str, Any] | None:  # Any: JSON
    try:
        known: dict[str, Any] = json.loads(_path(where, dispatch).read_text(encoding="utf-8"))  # Any: JSON
    except (FileNotFoundError, ValueError):
        return None
    return known


def _write(where: Places, dispatch: str, said: dict[str, Any]) -> None:  # Any: JSON
    path = _path(where, dispatch)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump(said, file)
    os.replace(new, path)
