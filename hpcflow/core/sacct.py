"""Says of one task what sacct says of a job: its state, exit code and times, in sacct's words and shapes."""

from __future__ import annotations

from typing import Final

from hpcflow.core.states import State

__all__ = ["exit_code", "memory", "milliseconds", "state_of", "whole_seconds"]

#: sacct's words where it has one (sacct(1), JOB STATE CODES, 24.11); hpcflow's own in capitals where it has none.
_STATES: Final = {
    State.WAITING: "PENDING",
    State.READY: "PENDING",
    State.QUEUED: "PENDING",
    State.RUNNING: "RUNNING",
    State.COMPLETED: "COMPLETED",
    State.CANCELLED: "CANCELLED",
    State.PAUSED: "PAUSED",
    State.SKIPPED: "SKIPPED",
}
#: What a failed task is called by how its worker saw it end.
_ENDS: Final = {"memory": "OUT_OF_MEMORY", "timeout": "TIMEOUT"}
#: What a failed task is called by the scheduler's word for the end of the job that was killed with it.
_KILLED: Final = frozenset(
    {"BOOT_FAIL", "CANCELLED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"}
)


def state_of(state: State, end: str | None, raw: str | None) -> str:
    """Return a task's state.

    Args:
        state: where it is.
        end: the `st` of its journal's end, "killed" where only the scheduler knows; ``None``: there is no end.
        raw: the scheduler's words for the end of its job, where that was killed.
    """
    if state is not State.FAILED:
        return _STATES[state]
    word = (raw or "").partition(" ")[0]
    return word if word in _KILLED else _ENDS.get(end or "", "FAILED")


def exit_code(end: str | None, code: int | None, signal: int | None) -> str:
    """Return exit status and signal as "3:0" or "0:9"; empty while it has not ended, "1:0" for an exception."""
    if end is None:
        return ""
    if end == "ok":
        return "0:0"
    return f"0:{signal}" if signal else f"{1 if code is None else code}:0"


def whole_seconds(seconds: float) -> str:
    """Return a time as ``[DD-[HH:]]MM:SS`` with all its hours: "1-02:03:04", "00:00:07"."""
    days, rest = divmod(int(seconds), 86400)
    hours, rest = divmod(rest, 3600)
    return f"{f'{days}-' if days else ''}{hours:02d}:{rest // 60:02d}:{rest % 60:02d}"


def milliseconds(seconds: float) -> str:
    """Return CPU time as sacct's TotalCPU: "00:07.250", "1-02:03:04"."""
    if seconds >= 3600:
        return whole_seconds(seconds)
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes):02d}:{rest:06.3f}"


def memory(kib: int) -> str:
    """Return an amount of memory as sacct's MaxRSS: "20480K"."""
    return f"{kib}K"
