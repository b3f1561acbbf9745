"""What tasks that are tried again ask for, and whether there is as much: one rule, whoever names an amount for whom.

What is named is for the tasks that failed or were cancelled and run again; what was skipped because of them asks for
what it had.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from hpcflow.core.advice import Ask
from hpcflow.core.model import ClusterName
from hpcflow.core.plan import check_resources
from hpcflow.core.states import State
from hpcflow.server.clusters import Cluster
from hpcflow.server.live import LiveDispatch

__all__ = ["asks_of", "check_room"]


def asks_of(
    live: LiveDispatch, chosen: Collection[int], states: Sequence[State], *, named: Ask, advised: Mapping[int, Ask]
) -> dict[int, Ask]:
    """Return which of the tasks that run again ask for other amounts than last time, and for which.

    Args:
        live: their dispatch.
        chosen: all that run again.
        states: in which the dispatch's tasks have ended.
        named: what somebody named for them, if anything.
        advised: otherwise, what single ones of those that had failed ask for.
    """
    if any(named):
        ended_badly = {State.FAILED, State.CANCELLED}
        # A sublattice that is built is not run again, only what is in it.
        return {k: named for k in chosen if states[k] in ended_badly and live.tasks[k].child is None}
    return {k: advised[k] for k in chosen if k in advised and states[k] is State.FAILED}


def check_room(live: LiveDispatch, asks: Mapping[int, Ask], clusters: Mapping[ClusterName, Cluster]) -> None:
    """Check that the partitions of tasks have what these are to ask for, as far as it is known.

    Raises:
        UserError: one has not so much.
    """
    for shape, ask in {(live.tasks[index].shape, ask) for index, ask in asks.items()}:
        cluster = clusters[shape.cluster]
        if cluster.limits is not None:
            asked = {name: number for name, number in ask._asdict().items() if number}
            check_resources(replace(shape.resources, **asked), cluster.name, cluster.limits)
