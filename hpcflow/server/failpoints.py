"""Named instants at which a server can be made to die, to fail or to stand still, for tests of what follows.

Armed by the environment variable ``HPCFLOW_FAILPOINTS`` and by nothing else: ``before_submit=kill`` at the first time
that the instant comes, ``after_push=kill@3`` at the third, ``before_flush=sleep:5`` or ``before_cancel=raise``; several
with commas between them.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from hpcflow.core.model import HpcflowError

__all__ = ["POINTS", "VARIABLE", "Failpoints", "failpoint"]

VARIABLE: Final = "HPCFLOW_FAILPOINTS"

#: Every instant by its name, and what is true just then. Tests kill a server at each of them.
POINTS: Final[Mapping[str, str]] = {
    "during_upload": "a part of an upload is on the disk, and the client is sending the rest",
    "after_upload": "a dispatch's values lie in place, and the store does not know it",
    "after_dispatch_commit": "the store knows the dispatch, and the client does not know that",
    "after_take_over": "a new server has read what the last one left, and done nothing about it",
    "after_intent_commit": "a bag and its arrays are stored, and the cluster knows nothing of them",
    "after_push": "the bag is on the cluster, and the store does not say so",
    "before_submit": "the submit command is about to run",
    "after_submit_before_commit": "the scheduler has the array, and its id is nowhere else",
    "after_accept_commit": "the array's id is stored",
    "after_journal_read_before_commit": "ends were read and moved tasks in memory, and nothing of that is stored",
    "before_unfold": "a sublattice's graph lies on the cluster, and its tasks are nowhere else",
    "after_graph_upload": "the values of a sublattice's tasks lie in place, and the store does not know its tasks",
    "after_unfold_commit": "a sublattice's tasks are stored, and nothing was done about them",
    "before_flush": "changes are about to be stored",
    "after_flush": "changes are stored, and nobody was told",
    "after_settle_before_commit": "what dead workers left was given back, and nothing of that is stored",
    "after_cancel_commit": "a wish to cancel is stored, and the scheduler does not know it",
    "before_cancel_told": "tasks are cancelled in the store, and the workers that have them do not know it",
    "before_cancel": "the cancel command is about to run",
    "after_cancel": "the cancel command has run",
}

_ARMED: Final = re.compile(
    r"(?P<name>\w+)=(?P<deed>kill|raise|sleep:(?P<seconds>\d+(?:\.\d+)?))(?:@(?P<nth>[1-9]\d*))?"
)


class _Deed(NamedTuple):
    what: str
    seconds: float
    nth: int


class FailpointReached(HpcflowError):
    """A failpoint was armed with ``raise``."""


@dataclass(slots=True)
class Failpoints:
    """What is armed, and how often each of it has come."""

    deeds: Mapping[str, _Deed]
    _met: Counter[str] = field(default_factory=Counter[str])

    @classmethod
    def read(cls, text: str) -> Failpoints:
        """Read the variable.

        Raises:
            ValueError: it names no instant, or no deed.
        """
        deeds: dict[str, _Deed] = {}
        for part in filter(None, text.split(",")):
            found = _ARMED.fullmatch(part.strip())
            if found is None or found["name"] not in POINTS:
                raise ValueError(
                    f"{VARIABLE} holds {part!r}. Write NAME=kill, NAME=raise or NAME=sleep:SECONDS, with @N for the "
                    f"nth time; the names are {', '.join(POINTS)}."
                )
            deed = found["deed"].partition(":")[0]
            deeds[found["name"]] = _Deed(deed, float(found["seconds"] or 0), int(found["nth"] or 1))
        return cls(deeds)

    def reach(self, name: str) -> None:
        """Do what was armed for this instant, if it is the time."""
        deed = self.deeds.get(name)
        if deed is None:
            return
        self._met[name] += 1
        if self._met[name] != deed.nth:
            return
        if deed.what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if deed.what == "raise":
            raise FailpointReached(f"The failpoint {name} was armed to fail.")
        # The whole server stands still, as one that was stopped or swapped out does.
        time.sleep(deed.seconds)


_here: Final = Failpoints.read(os.environ.get(VARIABLE, ""))


def failpoint(name: str) -> None:
    """Mark an instant of `POINTS`; nothing happens there unless it is armed."""
    if _here.deeds:
        _here.reach(name)
