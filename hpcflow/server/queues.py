"""Looks at clusters' queues: one at a time for each, none sooner than the floor allows, none that nobody asks for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any, Final

from hpcflow.core.model import ClusterName, DispatchId, HpcflowError, JobId
from hpcflow.core.plugin import Reply
from hpcflow.core.queue import NodeState, QueuedJob, QueueNode, QueuePartition, QueueView, in_order
from hpcflow.server.clusters import Cluster
from hpcflow.server.reports import spelled

__all__ = ["Look", "Queues", "answer"]

Json = dict[str, Any]  # Any: JSON, described in cluster_schema.py

#: How long somebody who could have an older answer waits for a new one.
_PATIENCE_S: Final = 3.0
#: A scheduler has a word about a new job so long after its submission: one look is made then, before it would be due,
#: but never so soon after the last one.
_SETTLED_S: Final = 3.0
_SOONEST_S: Final = 5.0
_JOB_FIELDS: Final = tuple(field.name for field in fields(QueuedJob) if field.name not in {"phase", "suspended"})
_TIMES: Final = frozenset({"submitted_at", "started_at", "starts_at"})
_NODE_FIELDS: Final = tuple(field.name for field in fields(QueueNode))
_PARTITION_FIELDS: Final = tuple(field.name for field in fields(QueuePartition) if field.name != "nodes")


@dataclass(slots=True)
class Look:
    """What is known of one queue."""

    view: QueueView | None = None
    at: datetime | None = None
    #: Why the last look had no answer, and when; ``None``: it had one.
    problem: str | None = None
    failed_at: datetime | None = None


class Queues:
    """The last look at each cluster's queue."""

    def __init__(self, *, poll_s: float, deadline_s: float) -> None:
        """Make one that looks at a cluster every ``poll_s`` at most and waits for a command until ``deadline_s``."""
        self.poll_s = poll_s
        self._deadline_s = deadline_s
        self._looks: dict[ClusterName, Look] = {}
        self._begun: dict[ClusterName, tuple[float, datetime]] = {}
        self._going: dict[ClusterName, asyncio.Task[None]] = {}

    def due_s(self, cluster: Cluster, now: datetime, submitted: datetime | None) -> float:
        """Return in how many seconds who asks has a new look made.

        Args:
            cluster: whose queue.
            now: the time.
            submitted: when an array went there last; ``None``: none is there.
        """
        if (begun := self._begun.get(cluster.name)) is None:
            return 0.0
        since, at = begun
        ago = asyncio.get_running_loop().time() - since
        usual = max(self.poll_s, cluster.site.poll)
        settled = None if submitted is None else submitted + timedelta(seconds=_SETTLED_S)
        if settled is None or at >= settled:
            return max(0.0, usual - ago)
        soonest = min(usual, max(_SOONEST_S, cluster.site.poll))
        return max(0.0, min(usual - ago, max(soonest - ago, (settled - now).total_seconds())))

    def last(self, cluster: Cluster) -> Look:
        """Return what the last look saw, and ask nobody."""
        return self._looks.get(cluster.name, Look())

    def asking_s(self, name: ClusterName) -> float | None:
        """Return for how many seconds a look has waited for its answer; ``None``: none is under way."""
        going = self._going.get(name)
        if going is None or going.done():
            return None
        return asyncio.get_running_loop().time() - self._begun[name][0]

    async def look(self, cluster: Cluster, now: datetime, submitted: datetime | None = None) -> Look:
        """Return the queue: the last look's when that is young enough or a new one takes long, else a new look's."""
        known = self._looks.setdefault(cluster.name, Look())
        loop = asyncio.get_running_loop()
        going = self._going.get(cluster.name)
        if going is None or going.done():
            if self.due_s(cluster, now, submitted) > 0:
                return known
            self._begun[cluster.name] = loop.time(), now
            # Of its own: whoever asked first may leave, and others wait for the same.
            going = self._going[cluster.name] = loop.create_task(self._ask(cluster, known, now))
        await asyncio.wait({going}, timeout=None if known.view is None else _PATIENCE_S)
        if going.done() and not going.cancelled():
            going.result()  # a fault of ours is no problem of the cluster's
        return known

    async def _ask(self, cluster: Cluster, known: Look, now: datetime) -> None:
        try:
            await cluster.place_worker()  # the commands of `local` are the worker's
            replies = await self._replies(cluster)
            # Ten thousand jobs take half a second of CPU, for which nobody else shall wait.
            view = await asyncio.to_thread(cluster.plugin.parse_queue, replies)
        except HpcflowError as error:
            known.problem, known.failed_at = str(error), now
            return
        before = known.view or QueueView(user=None)
        lost = (view.jobs is None and before.jobs is not None) or (view.nodes is None and before.nodes is not None)
        if lost or (view.jobs is None and view.nodes is None):
            known.problem, known.failed_at = " ".join(view.problems) or "It did not answer.", now
            return
        known.view, known.at, known.problem, known.failed_at = view, now, None, None

    async def _replies(self, cluster: Cluster) -> Sequence[Reply]:
        commands = cluster.plugin.queue()
        return await asyncio.gather(*(cluster.transport.run(command, self._deadline_s) for command in commands))

    def forget(self, name: ClusterName) -> None:
        """Drop what is known of a cluster: another one may come under its name."""
        going = self._going.pop(name, None)
        if going is not None:
            going.cancel()
        self._looks.pop(name, None)
        self._begun.pop(name, None)

    async def close(self) -> None:
        """End looks that are under way."""
        going = [task for task in self._going.values() if not task.done()]
        for task in going:
            task.cancel()
        await asyncio.gather(*going, return_exceptions=True)


def answer(
    cluster: Cluster,
    look: Look,
    now: datetime,
    dispatches: Mapping[JobId, DispatchId],
    *,
    mine: bool,
    nodes: bool,
    limit: int,
) -> Json:
    """Return a look as the API tells it.

    Args:
        dispatches: the dispatch of each job of ours that may live, by its id.
        mine: leave out jobs of others.
        nodes: tell of each node.
        limit: rows of jobs, at most.
    """
    view = look.view or QueueView(user=None, nodes=(), jobs=())
    rows, shown = None, None
    if view.jobs is not None and not (mine and view.user is None and view.jobs):
        ordered = in_order(view.jobs)
        own = [job for job in ordered if job.user == view.user]
        rows = own if mine else own + [job for job in ordered if job.user != view.user]
        # The user's own are the last to be cut off.
        shown = in_order(rows[:limit])
    return {
        "cluster": cluster.name,
        "scheduler": cluster.settings.scheduler,
        "user": view.user,
        "asked_at": spelled(look.at),
        "age_s": None if look.at is None else max(0.0, (now - look.at).total_seconds()),
        "problem": look.problem,
        "failed_at": spelled(look.failed_at),
        "problems": list(view.problems),
        "partitions": [_partition(partition, cluster) for partition in view.partitions],
        "nodes": [_node(node) for node in view.nodes] if nodes and view.nodes is not None else None,
        "jobs": None if shown is None else [_job(job, view.user, dispatches) for job in shown],
        "jobs_total": None if rows is None else len(rows),
    }


def _partition(partition: QueuePartition, cluster: Cluster) -> Json:
    told = {name: getattr(partition, name) for name in _PARTITION_FIELDS}
    counts = partition.nodes
    known = {limits.name: limits for limits in cluster.limits.partitions} if cluster.limits is not None else {}
    if partition.name in known:
        told["is_default"] = partition.is_default or known[partition.name].is_default
        told["max_walltime_s"] = partition.max_walltime_s or known[partition.name].max_walltime_s
    if counts is None:
        return {**told, "nodes": None}
    return {**told, "nodes": {**{state: counts.get(state, 0) for state in NodeState}, "total": sum(counts.values())}}


def _node(node: QueueNode) -> Json:
    return {name: getattr(node, name) for name in _NODE_FIELDS}


def _job(job: QueuedJob, user: str | None, dispatches: Mapping[JobId, DispatchId]) -> Json:
    told = {name: getattr(job, name) for name in _JOB_FIELDS}
    mine = user is not None and job.user == user
    return {
        **told,
        **{name: spelled(told[name]) for name in _TIMES},
        "state": "suspended" if job.suspended else job.phase,
        "mine": mine,
        "dispatch": dispatches.get(JobId(job.job_id)) if mine else None,
    }
