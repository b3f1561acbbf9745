"""Decides which of a bag's idle workers need not wait for more: as many wait as tasks may come, those idle last.

Who became idle last stays, whatever is not known yet of the others: it alone may be there when what waited for its own
last task is ready. So nobody leaves but on account of workers that became idle later.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

__all__ = ["Idle", "Leave", "who_may_leave"]

#: What is read within so many seconds was perhaps written in another order.
_READ_TOGETHER_S: Final = 2.0


class Idle(NamedTuple):
    """A worker that waits for more."""

    name: str
    #: Its array task: the cores are free when all workers of it have left.
    array_task: str
    #: How often it has begun to wait: what is said of one time holds for no other.
    period: int
    #: Since when, in seconds since the epoch: by its node's clock, and by the clock of the server that read of it.
    since: float
    read_at: float


@dataclass(frozen=True, slots=True)
class Leave:
    """Which workers may leave instead of waiting."""

    #: Whoever has nothing to do: nothing will come, or others wait for the cores.
    everyone: bool = False
    #: By name, the period of waiting that need not go on.
    names: Mapping[str, int] = field(default_factory=dict[str, int])

    def covers(self, name: str, period: int) -> bool:
        return self.everyone or self.names.get(name) == period


def who_may_leave(idle: Sequence[Idle], coming: int | None, busy: Collection[str] = ()) -> Leave:
    """Return which of the workers that wait may leave.

    Args:
        idle: they, without those that were told before.
        coming: tasks that may still come for them; ``None``: nobody knows.
        busy: array tasks of which other workers have something to do: nothing is won when one leaves.
    """
    if coming is None:
        return Leave()
    if coming == 0:
        return Leave(everyone=True)
    together: dict[str, list[Idle]] = {}
    for each in idle:
        together.setdefault(each.array_task, []).append(each)
    names: dict[str, int] = {}
    for array_task, mine in together.items():
        if array_task in busy:
            continue
        since, read_at = max((each.since, each.name) for each in mine), max(each.read_at for each in mine)
        # Clocks of nodes differ and journals are seen late: who is later by both orders is later.
        later = sum((each.since, each.name) > since and each.read_at + _READ_TOGETHER_S >= read_at for each in idle)
        if later >= coming:
            names |= {each.name: each.period for each in mine}
    return Leave(names=names)
