"""Which task this process runs: for electrons that name files or logs by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

__all__ = ["Context", "enter", "get_context", "handed", "poured"]

#: Writes the file that the server fetched under a key; raises `KeyError` where it fetched none.
Pour = Callable[[str, BinaryIO], None]
#: Takes a file that the server shall bring away, under its key.
Hand = Callable[[str, BinaryIO], None]


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
_pours: list[Pour | None] = [None]
_hands: list[Hand | None] = [None]


def get_context() -> Context:
    """Return which task of which dispatch this process runs."""
    return _here[0]


def enter(dispatch_id: str | None, node_id: int, pour: Pour | None = None, hand: Hand | None = None) -> None:
    """Say which task begins here, and what gives it and takes from it the files that the server brings."""
    _here[0] = Context(dispatch_id, node_id)
    _pours[0], _hands[0] = pour, hand


def poured(key: str, file: BinaryIO) -> bool:
    """Write to ``file`` what the server fetched for this task under a key; return whether there is such a file."""
    pour = _pours[0]
    if pour is None:
        return False
    try:
        pour(key, file)
    except KeyError:
        return False
    return True


def handed(key: str, file: BinaryIO) -> bool:
    """Give the server a file to bring away when the task has returned; return whether there is one that does."""
    hand = _hands[0]
    if hand is None:
        return False
    hand(key, file)
    return True
