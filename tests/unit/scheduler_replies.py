"""Builders for the plugins' tests: arrays, replies, and the transcripts in tests/data/slurm."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from hpcflow.core.model import BagId, ClusterName, DispatchId, JobArray, JobId, Resources
from hpcflow.core.plugin import Reply
from hpcflow_slurm import SlurmPlugin

DATA: Final = Path(__file__).parents[1] / "data" / "slurm"
INTENT_AT: Final = datetime(2026, 11, 23, 14, 48, 30, tzinfo=UTC)
ONE_CORE: Final = Resources()
PLUGIN: Final = SlurmPlugin(python="/usr/bin/python3", worker="/home/ada/worker.pyz", root="/home/ada/.hpcflow")

_ENTRY: Final = re.compile(
    r"^\$ (?P<command>[^\n]*)\n(?:--- stdout\n(?P<stdout>.*?))?"
    r"--- (?:stdout\+)?stderr\n(?P<stderr>.*?)--- exit (?P<exit>\d+)$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Entry:
    """One command of a transcript and what it answered."""

    command: str
    reply: Reply


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
        cluster=ClusterName("slurm"),
        resources=resources,
        width=width,
        worker_walltime_s=worker_walltime_s,
        command=("/usr/bin/python3", "-I", "/home/ada/worker.pyz", "bag", path, "/home/ada/key"),
        path=path,
        prologue=prologue,
        extra=extra,
        intent_at=INTENT_AT,
        job_id=None if job_id is None else JobId(job_id),
    )


def a_reply(stdout: str | bytes = b"", stderr: str = "", exit_code: int | None = 0) -> Reply:
    return Reply(exit_code, stdout if isinstance(stdout, bytes) else stdout.encode(), stderr.encode())


def transcript(name: str) -> list[Entry]:
    """Return the commands of one transcript, in order."""
    text = (DATA / f"{name}.txt").read_text(encoding="utf-8")
    entries = [
        Entry(found["command"], a_reply(found["stdout"] or "", found["stderr"], int(found["exit"])))
        for found in _ENTRY.finditer(text)
    ]
    assert entries, name
    return entries
