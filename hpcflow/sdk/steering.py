"""What people do to dispatches that are on their way or have ended: pause, go on, try again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from hpcflow.sdk.client import act_on
from hpcflow.sdk.units import parse_memory, parse_walltime

__all__ = ["pause", "resume", "retry", "retry_request"]


def pause(dispatch_id: str) -> str:
    """Submit nothing more of a dispatch until `resume`; return what was done, as a sentence.

    What runs goes on to its end, and its results are kept.
    """
    return act_on(dispatch_id, "pause")


def resume(dispatch_id: str) -> str:
    """Go on with a dispatch that `pause`, somebody's `scancel` or its own failures paused; return what was done."""
    return act_on(dispatch_id, "resume")


def retry(
    dispatch_id: str,
    *,
    failed_only: bool = False,
    memory: str | None = None,
    walltime: str | timedelta | None = None,
    more: bool = False,
    task_ids: Sequence[int] | None = None,
    electrons: str | Sequence[str] | None = None,
) -> str:
    """Try the tasks that ended without completing once more, in the same dispatch; return what was done, as a sentence.

    Args:
        dispatch_id: a dispatch that runs or has ended.
        failed_only: those that failed, and what was skipped because of them; not what was cancelled.
        memory: what tasks that failed or were cancelled ask for from now on, as in ``memory="24 GB"`` of an electron;
            what was skipped because of them asks for what it had.
        walltime: the same for their time.
        more: those that ran out of memory or walltime ask for as much as `Result.hint` says; the others for what they
            had.
        task_ids: only these tasks, and what was skipped because of them.
        electrons: only tasks of these electrons, by name, those in sublattices among them; besides ``task_ids``, if
            both are given.

    Raises:
        UserError: no partition can give as much, there is no such electron, or results that the tasks need are gone.
    """
    asked = retry_request(
        failed_only=failed_only, memory=memory, walltime=walltime, more=more, tasks=task_ids, electrons=electrons
    )
    return act_on(dispatch_id, "retry", asked)


def retry_request(
    *,
    failed_only: bool,
    memory: str | None,
    walltime: str | timedelta | None,
    more: bool = False,
    tasks: Sequence[int] | None = None,
    electrons: str | Sequence[str] | None = None,
) -> dict[str, object]:
    """Return what the server is asked for a retry, in its units; `UserError` for an amount that is none."""
    return {
        "failed_only": failed_only,
        "memory_mib": None if memory is None else parse_memory("memory", memory),
        "walltime_s": None if walltime is None else parse_walltime("walltime", walltime),
        "more": more,
        "tasks": None if tasks is None else list(tasks),
        "electrons": [electrons] if isinstance(electrons, str) else None if electrons is None else list(electrons),
    }
