"""Everything that moves a task's state lives in this file: states, events, and the one table between them."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from hpcflow.core.model import HpcflowError

__all__ = ["CODES", "FINAL", "HELD", "TEMPLATE", "TRANSITIONS", "Event", "State", "Status", "step"]


class State(StrEnum):
    """Where one task of a dispatch is."""

    #: Something upstream has not ended yet.
    WAITING = "waiting"
    #: Can run; in no bag that a scheduler knows.
    READY = "ready"
    #: Could run, but nothing is submitted for it until somebody resumes: the task's sentence says why.
    PAUSED = "paused"
    #: In a bag that was handed to a scheduler, or is about to be.
    QUEUED = "queued"
    #: A worker's journal says that it began; a sublattice also while its tasks are on their way.
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    #: Not run, because something upstream did not complete.
    SKIPPED = "skipped"


class Event(StrEnum):
    """What can happen to a task, each from one source."""

    UPSTREAMS_DONE = "upstreams done"  # engine: the last upstream completed
    UPSTREAM_LOST = "upstream lost"  # engine: an upstream failed, was cancelled or skipped
    BAGGED = "bagged"  # engine: written into a bag, intent stored
    REFUSED = "refused"  # scheduler: the array was surely not taken, and never will be
    STARTED = "started"  # journal
    RETURNED = "returned"  # journal
    REUSED = "reused"  # engine: an earlier task has its result already
    UNFOLDED = "unfolded"  # engine: a sublattice's graph was built, and its tasks joined the dispatch
    RAISED = "raised"  # journal: the function raised, or its result could not be pickled
    KILLED = "killed"  # journal or accounting: it died while it ran, and no attempt is left
    RELEASED = "released"  # accounting: its worker ended without having run it; costs no attempt
    RECALLED = "recalled"  # engine: released from a chain of which a task before it has not completed
    RETRIED = "retried"  # engine: it died while it ran, and an attempt is left
    PAUSED = "paused"  # engine: somebody else cancelled its job, its bag fails as a whole, or the user wants to wait
    RESUMED = "resumed"  # the user
    AGAIN = "again"  # the user: it ended without completing, and shall be tried once more
    CANCELLED = "cancelled"  # the user


S, E = State, Event

TRANSITIONS: Final[dict[State, dict[Event, State]]] = {
    S.WAITING: {
        E.UPSTREAMS_DONE: S.READY,
        E.REUSED: S.COMPLETED,
        # Its only upstream is before it in the same unit.
        E.BAGGED: S.QUEUED,
        # A sublattice that is tried again goes on with the graph that it has.
        E.UNFOLDED: S.RUNNING,
        E.UPSTREAM_LOST: S.SKIPPED,
        E.CANCELLED: S.CANCELLED,
    },
    S.READY: {
        E.BAGGED: S.QUEUED,
        E.REUSED: S.COMPLETED,
        # A sublattice that goes on with the graph of an earlier dispatch.
        E.UNFOLDED: S.RUNNING,
        E.REFUSED: S.FAILED,
        E.PAUSED: S.PAUSED,
        E.CANCELLED: S.CANCELLED,
    },
    S.PAUSED: {E.RESUMED: S.READY, E.CANCELLED: S.CANCELLED},
    S.QUEUED: {
        E.STARTED: S.RUNNING,
        E.UNFOLDED: S.RUNNING,
        # A journal is read in pieces: the end may be the first line that is seen.
        E.RETURNED: S.COMPLETED,
        E.RAISED: S.FAILED,
        E.KILLED: S.FAILED,
        E.REFUSED: S.FAILED,
        E.UPSTREAM_LOST: S.SKIPPED,
        E.RELEASED: S.READY,
        E.RECALLED: S.WAITING,
        E.RETRIED: S.READY,
        E.CANCELLED: S.CANCELLED,
    },
    S.RUNNING: {
        # A requeued worker runs its task again from the start.
        E.STARTED: S.RUNNING,
        E.UNFOLDED: S.RUNNING,
        E.RETURNED: S.COMPLETED,
        E.RAISED: S.FAILED,
        E.KILLED: S.FAILED,
        E.RELEASED: S.READY,
        E.RETRIED: S.READY,
        E.CANCELLED: S.CANCELLED,
    },
    S.COMPLETED: {},
    # A further attempt, and only when the user asks for it: none of these gave a result that it could replace.
    S.FAILED: {E.AGAIN: S.WAITING},
    S.CANCELLED: {E.AGAIN: S.WAITING},
    S.SKIPPED: {E.AGAIN: S.WAITING},
}

#: Nothing moves a task out of these by itself.
FINAL: Final = frozenset({S.COMPLETED, S.FAILED, S.CANCELLED, S.SKIPPED})


class Status(StrEnum):
    """Where a whole dispatch is."""

    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


#: One letter for each state: a dispatch's states are one string.
CODES: Final = {
    S.WAITING: "w",
    S.READY: "y",
    S.PAUSED: "p",
    S.QUEUED: "q",
    S.RUNNING: "r",
    S.COMPLETED: "c",
    S.FAILED: "f",
    S.CANCELLED: "x",
    S.SKIPPED: "s",
}

#: Why a dispatch is paused that was sent with disable_run=True and not resumed yet.
HELD: Final = "It was dispatched with disable_run=True."
#: The same of one that triggers run copies of.
TEMPLATE: Final = "It is a template: its triggers run copies of it."


def step(state: State, event: Event) -> State:
    """Return the state that follows.

    Raises:
        HpcflowError: the pair is not in the table; nothing may move then.
    """
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise HpcflowError(f"a {state} task can't take the event {event!r}") from None
