"""Builders for the Slurm plugin's tests: its arrays, and the transcripts in tests/data/slurm."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from hpcflow.core.model import ClusterName, JobArray
from hpcflow_slurm import SlurmPlugin
from tests.unit import transcripts
from tests.unit.transcripts import ONE_CORE, Entry, a_reply

__all__ = ["DATA", "INTENT_AT", "ONE_CORE", "PLUGIN", "Entry", "a_reply", "an_array", "transcript"]

DATA: Final = transcripts.DATA / "slurm"
INTENT_AT: Final = datetime(2026, 11, 23, 14, 48, 30, tzinfo=UTC)
PLUGIN: Final = SlurmPlugin(python="/usr/bin/python3", worker="/home/ada/worker.pyz", root="/home/ada/.hpcflow")


def an_array(token: str = "relax-01JD", **more: Any) -> JobArray:  # Any: arguments of transcripts.an_array
    array = transcripts.an_array(token, **more)
    command = ("/usr/bin/python3", "-I", "/home/ada/worker.pyz", "bag", array.path, "/home/ada/key")
    return replace(array, cluster=ClusterName("slurm"), command=command, intent_at=INTENT_AT)


def transcript(name: str) -> list[Entry]:
    """Return the commands of one transcript, in order."""
    return transcripts.transcript("slurm", name)
