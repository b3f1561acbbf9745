"""Where a dispatch or a task is, with Covalent's names: each is equal to its text."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from hpcflow.core.states import State

__all__ = ["OF_STATE", "Status", "is_terminal"]


class Status(StrEnum):
    """Where a dispatch or a task is. Dispatches are `NEW_OBJECT` until they run; tasks are `QUEUED` as well."""

    #: Nothing was begun: a dispatch that is held, a task that waits for others, or one that will never run.
    NEW_OBJECT = "NEW_OBJECT"
    #: Handed to a scheduler, or about to be.
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    # Names of Covalent's that nothing has here, for programs that compare with them.
    REGISTERING = "REGISTERING"
    STARTING = "STARTING"
    PENDING_REUSE = "PENDING_REUSE"
    PENDING_REPLACEMENT = "PENDING_REPLACEMENT"
    DISPATCHING = "DISPATCHING"
    DISPATCHING_SUBLATTICE = "DISPATCHING_SUBLATTICE"
    POSTPROCESSING = "POSTPROCESSING"
    PENDING_POSTPROCESSING = "PENDING_POSTPROCESSING"
    POSTPROCESSING_FAILED = "POSTPROCESSING_FAILED"

    @property
    def STATUS(self) -> str:
        """Its text, by Covalent's name."""
        return self.value

    @classmethod
    def is_terminal(cls, status: str) -> bool:
        """Return whether nothing follows by itself."""
        return status in _TERMINAL

    def __bool__(self) -> bool:
        return self.value != "NEW_OBJECT"


_TERMINAL: Final = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})
is_terminal = Status.is_terminal

#: What a task's state is called there. What will never run has not begun either.
OF_STATE: Final = {
    State.WAITING: Status.NEW_OBJECT,
    State.READY: Status.NEW_OBJECT,
    State.PAUSED: Status.NEW_OBJECT,
    State.QUEUED: Status.QUEUED,
    State.RUNNING: Status.RUNNING,
    State.COMPLETED: Status.COMPLETED,
    State.FAILED: Status.FAILED,
    State.CANCELLED: Status.CANCELLED,
    State.SKIPPED: Status.NEW_OBJECT,
}
