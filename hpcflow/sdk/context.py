"""Which task this process runs: for electrons that name files or logs by it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Context", "enter", "get_context"]


@dataclass(frozen=True, slots=True)
class Context:
    """Where an electron runs; both are ``None`` outside of a task."""

    #: The dispatch, and the task's number in it: those in sublattices are counted behind the others.
    dispatch_id: str | None = None
    node_id: int | None = None

    @property
    def task_id(self) -> int | None:
        return self.node_id


_here = [Context()]


def get_context() -> Context:
    """Return which task of which dispatch this process runs."""
    return _here[0]


def enter(dispatch_id: str | None, node_id: int) -> None:
    """Say which task begins here; the worker does."""
    _here[0] = Context(dispatch_id, node_id)
