"""Recorded answers of schedulers, and arrays and replies for their plugins' tests."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from hpcflow.core.model import BagId, ClusterName, DispatchId, JobArray, JobId, Resources
from hpcflow.core.plugin import Reply

DATA: Final = Path(__file__).parents[1] / "data"
INTENT_AT: Final = datetime(2026, 11, 22, 20, 40, 0, tzinfo=UTC)
ONE_CORE: Final = Resources()

_ENTRY: Final = re.compile(
    r"^(?P<who>[$#]) (?P<command>[^\n]*)\n(?:--- stdout\n(?P<stdout>.*?))?"
    r"--- (?:stdout\+)?stderr\n(?P<stderr>.*?)--- exit (?P<exit>\d+)$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Entry:
    """One command of a transcript and what it answered; ``by_root``: the prompt was root's."""

    command: str
    reply: Reply
    by_root: bool = False


def transcript(scheduler: str, name: str) -> list[Entry]:
    """Return the commands of one transcript, in order."""
    exact = DATA / scheduler / f"{name}.txt"
    (path,) = [exact] if exact.exists() else (DATA / scheduler).glob(f"{name}*.txt")
    entries: list[Entry] = []
    for found in _ENTRY.finditer(path.read_text(encoding="utf-8")):
        reply = a_reply(found["stdout"] or "", found["stderr"], int(found["exit"]))
        entries.append(Entry(found["command"], reply, found["who"] == "#"))
    assert entries, name
    return entries


def recorded(scheduler: str, name: str, command: str, nth: int = 0) -> Reply:
    """Return what a command answered in a transcript."""
    return [entry.reply for entry in transcript(scheduler, name) if entry.command == command][nth]


def a_reply(stdout: str | bytes = b"", stderr: str = "", exit_code: int | None = 0) -> Reply:
    return Reply(exit_code, stdout if isinstance(stdout, bytes) else stdout.encode(), stderr.encode())


def an_array(
    token: str = "relax-01JD",
    *,
    width: int = 4,
    resources: Resources = ONE_CORE,
    worker_walltime_s: int = 3600,
    path: str = "/home/ada/.hpcflow/bags/01JD",
    prologue: str = "",
    extra: tuple[str, ...] = (),
    job_id: str | None = None,
) -> JobArray:
    return JobArray(
        token=token,
        bag=BagId("01JDBAG"),
        dispatch=DispatchId("01JDDISPATCH"),
        cluster=ClusterName("there"),
        resources=resources,
        width=width,
        worker_walltime_s=worker_walltime_s,
        command=("/usr/bin/python3", "/home/ada/worker.pyz", "bag", path, "/home/ada/key"),
        path=path,
        prologue=prologue,
        extra=extra,
        intent_at=INTENT_AT,
        job_id=None if job_id is None else JobId(job_id),
    )
