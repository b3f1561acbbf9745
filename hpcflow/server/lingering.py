"""Tells idle workers which of them need not wait for more: the server alone knows what may come, and who else is idle.

What it knows it knows anyway, from journals and accounting; the workers read it in the file that they look into anyway.
A word that is late or lost costs some idle seconds and no task.
"""

from __future__ import annotations

from hpcflow.core import lingering
from hpcflow.core.follow import array_task_of
from hpcflow.core.lingering import Idle, Leave
from hpcflow.core.states import FINAL, State
from hpcflow.server.bagging import LINGERERS, let_leave
from hpcflow.server.bags import LiveBag
from hpcflow.server.clusters import Cluster
from hpcflow.server.remote import TransportError
from hpcflow.server.shared import Shared

__all__ = ["tell_who_may_leave"]


async def tell_who_may_leave(shared: Shared, cluster: Cluster, bag: LiveBag, *, news: bool) -> None:
    """Let those of a bag's workers go that nobody needs, as far as they were not told before.

    Args:
        shared: where other bags are.
        cluster: the bag's.
        bag: all that its workers wrote was read.
        news: they wrote something since the last call.

    Raises:
        TransportError: the cluster can't be reached.
    """
    if not news and not any(worker.waiting for worker in bag.ledger.workers.values() if worker.exit is None):
        return
    # While something is unclaimed nobody knows which of the idle ones has taken it.
    if not (bag.takes_more and bag.pushed and bag.ledger.all_claimed) or bag.telling.locked():
        return
    before = bag.leave
    after = _who_may_leave(shared, cluster, bag)
    if before is not None and after.everyone == before.everyone and after.names.items() <= before.names.items():
        return
    bag.leave = after  # before it is told: from now on nobody counts on them
    try:
        await let_leave(bag.bag, after, cluster)
    except TransportError:
        bag.leave = before
        raise


def _who_may_leave(shared: Shared, cluster: Cluster, bag: LiveBag) -> Leave:
    now = shared.now().timestamp()
    idle: list[Idle] = []
    told: dict[str, int] = {}
    busy: set[str] = set()
    for name in bag.alive():
        waiting = bag.ledger.workers[name].waiting
        if waiting is None:
            busy.add(array_task_of(name))
            continue
        period, since = waiting
        if bag.waits.get(name, (0, 0.0))[0] != period:
            bag.waits[name] = period, now
        if bag.is_leaving(name):
            told[name] = period  # what was told is not taken back: perhaps it was read already
        elif period:  # otherwise a worker of an earlier version
            idle.append(Idle(name, array_task_of(name), period, since, bag.waits[name][1]))
    coming = 0 if _is_wanted_elsewhere(shared, cluster, bag) else _coming(bag)
    leave = lingering.who_may_leave(idle, coming, busy)
    return Leave(leave.everyone, {**told, **leave.names})


def _coming(bag: LiveBag) -> int | None:
    """Count the tasks that may still come for a bag's workers; ``None``: nobody knows, or more than ever wait."""
    live, shape = bag.dispatch, bag.bag.shape
    if live.open:
        return None
    count, again = 0, False
    for task in live.tasks:
        if task.state in FINAL:
            continue
        if task.task.sublattice and task.child is None:
            return None
        if task.state is State.WAITING or task.state is State.READY:
            count += task.shape == shape and not task.alone
            if count >= LINGERERS:
                return None
        elif task.bag == bag.bag.id and task.task.retries.times > task.charged:
            again = True
    # Of those that may be tried again each leaves a worker idle that comes later than all others.
    return count + again


def _is_wanted_elsewhere(shared: Shared, cluster: Cluster, bag: LiveBag) -> bool:
    """Say whether array tasks of other bags wait for cores such as a bag's workers hold."""
    partition = bag.bag.shape.resources.partition
    return any(
        other is not bag
        and other.bag.shape.resources.partition == partition
        and not other.ledger.all_claimed
        and other.on_their_way() > 0
        and any(array.queueing and array.open for array in other.arrays)
        for other in shared.bags_on(cluster)
    )
