"""Why a worker takes nothing more: what the scheduler's signals say, and what the worker finds out itself."""

from __future__ import annotations

import os
import signal
from typing import Final

from hpcflow.node.processes import descendants

__all__ = ["Stop"]

_WATCHED: Final = (signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1)
#: How long a task's death by TERM or KILL waits for the worker's own TERM (S4): a scheduler signals the child first.
_DOUBT_S: Final = 0.3


class Stop:
    """``why`` a worker takes nothing more: term, warned, walltime, superseded, fault; ``None`` while it goes on."""

    def __init__(self) -> None:
        self.why: str | None = None

    def listen(self) -> None:
        """Block the signals that matter, so that `look` and `wait` alone receive them."""
        # A disposition of SIG_IGN is inherited from whoever started us, and children would vanish unseen.
        for number in _WATCHED:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)

    def look(self) -> None:
        """Take note of the signals that have come."""
        while (received := signal.sigtimedwait(_WATCHED, 0)) is not None:
            self._note(received)

    def wait(self, seconds: float) -> None:
        """Wait for one signal, the end of a child among them."""
        received = signal.sigtimedwait(_WATCHED, max(seconds, 0))
        if received is not None:
            self._note(received)

    def explains(self, status: int) -> bool:
        """Return whether a process died because this whole array task is being ended (S4)."""
        return os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGTERM, signal.SIGKILL) and self.is_ending()

    def is_ending(self) -> bool:
        """Return whether this whole array task is being ended, after a moment in which the news may come."""
        if self.why != "term" and (received := signal.sigtimedwait((signal.SIGTERM,), _DOUBT_S)) is not None:
            self._note(received)
        return self.why == "term"

    def _note(self, received: signal.struct_siginfo) -> None:
        if received.si_signo == signal.SIGCHLD:
            return
        if received.si_pid in descendants():
            return  # a task plays with its parent; an ended one that isn't reaped is a child still
        if received.si_signo == signal.SIGTERM:
            self.why = "term"
        else:
            self.why = self.why or "warned"
