"""What the parts of the engine have in common: settings, clusters, the live bags, and whom to wake."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from hpcflow.core.bag import bag_key
from hpcflow.core.follow import Ledger
from hpcflow.core.model import Bag, BagId, ClusterName, DispatchId, Shape
from hpcflow.core.plan import PlanSettings
from hpcflow.server.bags import LiveArray, LiveBag
from hpcflow.server.clusters import Cluster
from hpcflow.server.launches import Launches
from hpcflow.server.live import LiveDispatch
from hpcflow.server.settings import Settings
from hpcflow.server.site import least
from hpcflow.server.store import RunTimeKey
from hpcflow.server.writer import Writer

__all__ = ["Shared", "how_to_go_on", "plan_settings"]


def how_to_go_on(dispatch: DispatchId) -> str:
    """Return what follows the reason of a pause, for as long as its dispatch has not ended."""
    return f" Nothing is submitted for these tasks; `hpcflow resume {dispatch}` goes on."


def plan_settings(settings: Settings, cluster: Cluster) -> PlanSettings:
    """Return what the planner must know of a server and a cluster."""
    site = cluster.site
    return PlanSettings(
        min_worker_time_s=max(settings.min_worker_time, site.min_worker_time),
        first_width=settings.first_width,
        ramp_width=settings.ramp_width,
        worker_walltime_s=min(settings.worker_walltime, site.worker_walltime or settings.worker_walltime),
        kill_grace_s=settings.kill_grace,
        chain_length=settings.chain_length,
        max_width=least(cluster.settings.max_width, site.max_width),
        slots=0 if cluster.settings.whole_nodes else cluster.settings.slots,
        own_range=cluster.claims == "index",
    )


@dataclass(slots=True)
class Shared:
    """One per engine; its parts keep nothing else that another part needs."""

    settings: Settings
    clusters: Mapping[ClusterName, Cluster]
    writer: Writer
    now: Callable[[], datetime]
    new_id: Callable[[], str]
    #: HPCFLOW_HOME, and so the bags of clusters on this machine, lies on a network file system.
    on_network: bool
    bags: dict[BagId, LiveBag] = field(default_factory=dict[BagId, LiveBag])
    #: Of each kind of tasks, how many have returned in all dispatches that ended, and their run time.
    run_times: dict[RunTimeKey, tuple[int, float]] = field(default_factory=dict[RunTimeKey, tuple[int, float]])
    launches: Launches = field(default_factory=Launches)
    #: Set when there is something to plan, to read, to ask the accounting for.
    plan: dict[ClusterName, asyncio.Event] = field(init=False)
    follow: dict[ClusterName, asyncio.Event] = field(init=False)
    account: dict[ClusterName, asyncio.Event] = field(init=False)

    def __post_init__(self) -> None:
        self.plan, self.follow, self.account = {}, {}, {}
        for name in self.clusters:
            self.know(name)

    def know(self, name: ClusterName) -> None:
        """Make what wakes the loops of a cluster."""
        for events in (self.plan, self.follow, self.account):
            events[name] = asyncio.Event()

    def run(self, live: LiveDispatch) -> None:
        """Run a dispatch that is in the store."""
        self.writer.dispatches[live.id] = live
        live.history = self.run_times
        self.wake(live)

    def wake(self, live: LiveDispatch) -> None:
        """Let the planners look at a dispatch."""
        for name in live.clusters:
            self.plan[name].set()

    def listen(self, cluster: Cluster) -> None:
        """Let journals and accounting of a cluster be looked at soon."""
        self.follow[cluster.name].set()
        self.account[cluster.name].set()

    def plan_later(self, cluster: Cluster, seconds: float) -> None:
        """Let the planner look at a cluster after a while."""
        asyncio.get_running_loop().call_later(seconds, self.plan[cluster.name].set)

    def keep(self, bag: Bag, live: LiveDispatch, created_at: datetime) -> LiveBag:
        key = bag_key(self.clusters[bag.shape.cluster].key, bag.id)
        kept = LiveBag(bag=bag, dispatch=live, ledger=Ledger(bag), key=key, created_at=created_at)
        self.bags[bag.id] = kept
        return kept

    def finish(self, bag: LiveBag) -> None:
        """Forget a bag whose arrays are all over."""
        if self.bags.pop(bag.bag.id, None) is not None:
            self.writer.pending.bags.append(bag.row(closed_at=self.now()))
            spent = bag.ledger.usage()
            for array in bag.arrays:
                names = {index: array.name_of(index) for index in array.ends.keys() | array.ends_before.keys()}
                array.usage = {index: spent[name] for index, name in names.items() if name in spent}
                self.writer.pending.arrays.append(array.row())

    def bags_on(self, cluster: Cluster) -> list[LiveBag]:
        return [bag for bag in self.bags.values() if bag.bag.shape.cluster == cluster.name]

    def bags_of(self, live: LiveDispatch) -> list[LiveBag]:
        return [bag for bag in self.bags.values() if bag.dispatch is live]

    def is_at_work(self, live: LiveDispatch) -> bool:
        """Say whether more of a dispatch may become ready soon: a worker has, or will get, a task of it."""
        return bool(live.built or live.leaving) or any(
            len(bag.ledger.settled) < len(bag.bag.tasks) for bag in self.bags_of(live)
        )

    def is_on_network(self, cluster: Cluster) -> bool:
        """Say whether several machines write to the bags of a cluster."""
        return self.on_network if cluster.on_network is None else cluster.on_network

    def open_arrays(self, cluster: Cluster) -> list[LiveArray]:
        return [array for bag in self.bags_on(cluster) for array in bag.arrays if array.open]

    def room(self, live: LiveDispatch, shape: Shape) -> int | None:
        """Return how many further array tasks may come up for a shape: the least that max_running= leaves.

        Over all bags of its electron, of its dispatch, and of its cluster; ``None``: there is no limit.
        """
        limits: list[int] = []
        if shape.at_most is not None:
            alike = [bag for bag in self.bags_of(live) if bag.bag.shape.at_most == shape.at_most]
            limits.append(shape.at_most[1] - sum(bag.workers for bag in alike))
        if live.graph.max_running is not None:
            limits.append(live.graph.max_running - sum(bag.workers for bag in self.bags_of(live)))
        cluster = self.clusters[shape.cluster]
        if (most := least(cluster.settings.max_running, cluster.site.max_running)) is not None:
            limits.append(most - sum(bag.workers for bag in self.bags_on(cluster)))
        return max(0, min(limits)) if limits else None

    def pause(self, live: LiveDispatch, shape: Shape, reason: str) -> None:
        """Submit nothing more of one shape until the user resumes; say so once."""
        if shape not in live.pauses:
            live.pauses[shape] = reason
            live.dirty.add(-1)
            self.writer.say(live, reason + how_to_go_on(live.id))
            self.wake(live)
