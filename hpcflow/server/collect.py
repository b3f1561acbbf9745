"""What facts do to tasks: ends are published, deaths charged or forgiven, the rest given back. The only publisher."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from hpcflow.core.blame import LOSSES, Verdict, judge, judge_death, likeness, next_resources
from hpcflow.core.follow import Ended, Fact, Lost, Started
from hpcflow.core.model import BagId, Cause, Observation, Partition, Resources
from hpcflow.core.plan import partition_of
from hpcflow.core.states import FINAL, Event, State
from hpcflow.core.words import length, memory
from hpcflow.server.bags import LiveBag
from hpcflow.server.clusters import Cluster
from hpcflow.server.live import LiveDispatch
from hpcflow.server.shared import Shared
from hpcflow.server.store import EndRow
from hpcflow.server.tasks import Stored

__all__ = ["Collector"]

logger = logging.getLogger(__name__)

#: A dispatch avoids so many nodes of a cluster at most: more is the cluster's trouble, or the task's.
_AVOIDED: Final = 8


class Collector:
    """Moves tasks by facts, and leaves the rows to the writer."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._writer = shared.writer
        self._now = shared.now

    # ---- by a journal

    def take(self, bag: LiveBag, facts: Sequence[Fact]) -> None:
        live = bag.dispatch
        for fact in facts:
            task = live.tasks[fact.index]
            if isinstance(fact, Ended) and fact.record["st"] == "cancelled":
                self._keep(bag, fact)  # whatever became of the task since
                continue
            if task.attempt != fact.attempt or task.built or task.bag != bag.bag.id or task.state in FINAL:
                continue
            task.worker = fact.worker
            if isinstance(fact, Started):
                task.started_at = datetime.fromtimestamp(fact.at, UTC)
                live.move(fact.index, Event.STARTED, self._now())
            else:
                self._end(bag, fact)

    def _end(self, bag: LiveBag, fact: Ended) -> None:
        """Publish the end of one attempt: this is the only place that does (S1)."""
        live = bag.dispatch
        host = self._keep(bag, fact)
        verdict = judge(fact.record, bag.bag.limit_s, bag.bag.shape.resources.memory_mib)
        if verdict is not None:
            self._check_breaker(bag, bag.note_end(likeness(fact.record)), verdict)
            self._charge(bag, fact.index, fact.attempt, verdict)
            return
        bag.note_end(None)
        live.node_losses.pop((bag.bag.shape.cluster, host), None)
        if fact.record.get("sub"):
            live.note_graph(fact.index, Stored.of(fact.record, bag.bag.path))
            self._shared.wake(live)
            return
        live.tasks[fact.index].result = Stored.of(fact.record, bag.bag.path)
        live.note_wall(fact.index, float(fact.record.get("wall", 0.0)))
        if live.note_leaving(fact.index, fact.record, bag.bag.path):
            self._shared.wake(live)
            return
        self.move(bag, fact.index, fact.attempt, Event.RETURNED, None)

    def _keep(self, bag: LiveBag, fact: Ended) -> str:
        """Store what is known of the end of one attempt; return the host that it ran on."""
        host = bag.ledger.workers[fact.worker].host
        self._writer.pending.ends.append(
            EndRow(
                dispatch=bag.dispatch.id,
                index=fact.index,
                attempt=fact.attempt,
                worker=fact.worker,
                bag=bag.bag.id,
                record={**fact.record, "host": host, **_had(bag, str(fact.record["st"]))},
            )
        )
        return host

    def _check_breaker(self, bag: LiveBag, alike: int, verdict: Verdict) -> None:
        """Pause a bag of which nothing but one error has come so far: the rest would end the same way."""
        enough = self._shared.settings.breaker
        if bag.dispatch.one_by_one:
            return  # whoever sent them sees each exception, and decides
        if alike == enough and len(bag.bag.tasks) > enough:
            text = f"The first {enough} tasks all failed: {verdict.sentence}"
            self._shared.pause(bag.dispatch, bag.bag.shape, text if text.endswith(".") else f"{text}.")
            bag.broken = True

    # ---- by accounting

    def release(self, bag: LiveBag, lost: Lost, ends: Mapping[str, Observation]) -> None:
        """Give tasks back to the planner, or charge them for their own death.

        Args:
            bag: theirs.
            lost: tasks that will get no end from it any more.
            ends: how the workers that died ended, by name.
        """
        live = bag.dispatch
        for (index, attempt), worker in lost.running:
            task = live.tasks[index]
            if task.attempt != attempt or task.state in FINAL or task.built:
                continue
            end = ends.get(worker)
            verdict = judge_death(
                end,
                first=bag.ledger.workers[worker].begun == 1,
                losses=task.losses,
                asked_mib=bag.bag.shape.resources.memory_mib,
            )
            task.losses += verdict.cause is Cause.NODE_FAIL
            if not verdict.charged:
                task.alone = verdict.cause is Cause.TIMEOUT
                self.move(bag, index, attempt, Event.RELEASED, None)
                continue
            record = {
                "st": "killed",
                "raw": end.raw if end else "",
                "cause": verdict.cause,
                "said": verdict.sentence,
                "sig": end.signal if end else None,
                "host": (end.host if end else None) or bag.ledger.workers[worker].host or None,
                **_had(bag, str(verdict.cause), end),
                # It was its worker's last one: what it wrote is the rest of the logs.
                "from": list(bag.ledger.workers[worker].log_ends),
            }
            self._writer.pending.ends.append(
                EndRow(dispatch=live.id, index=index, attempt=attempt, worker=worker, bag=bag.bag.id, record=record)
            )
            task.alone = True
            self._charge(bag, index, attempt, verdict)
        for (index, attempt), worker in lost.cut:
            task, end = live.tasks[index], ends.get(worker)
            # Who was cut off by time needs more of it; who was told to leave, by a cancel or preemption, does not.
            task.alone = end is None or end.cause in {Cause.TIMEOUT, Cause.DONE}
            if task.attempt == attempt and end is not None and end.cause is Cause.FAILED:
                task.losses += 1  # nobody says why it was told to leave: that can't go on for ever
                if task.losses > LOSSES:
                    self._charge(bag, index, attempt, judge_death(end, first=False, losses=task.losses))
            self.move(bag, index, attempt, Event.RELEASED, None)
        for index, attempt in lost.free:
            self.move(bag, index, attempt, Event.RELEASED, None)

    def note_node(self, bag: LiveBag, end: Observation) -> None:
        """Remember that a node lost a worker, or started one that could do nothing; avoid it after the third time."""
        live, cluster = bag.dispatch, bag.bag.shape.cluster
        if end.host is None:
            return
        live.node_losses[cluster, end.host] += 1
        avoided = live.avoided.get(cluster, ())
        partition = self._partition(bag)
        nodes = partition.total_nodes if partition is not None else None
        most = min(_AVOIDED, (nodes - 1) if nodes is not None else _AVOIDED)
        if self._shared.clusters[cluster].limits is None:
            return  # it may have no other node
        if live.node_losses[cluster, end.host] >= LOSSES and end.host not in avoided and len(avoided) < most:
            live.avoided[cluster] = (*avoided, end.host)
            self._writer.say(
                live,
                f"Node {end.host} of {cluster} lost {LOSSES} workers, the last with {end.raw or 'no reason given'}: "
                "further jobs of this dispatch avoid it.",
            )

    # ---- both

    def _charge(self, bag: LiveBag, index: int, attempt: int, verdict: Verdict) -> None:
        """Use up one attempt of a task, and give it the next one when the user allows it and the cluster can."""
        live = bag.dispatch
        task = live.tasks[index]
        if task.attempt != attempt or task.state in FINAL or task.built:
            return
        task.charged += 1
        further = next_resources(
            task.shape.resources,
            verdict,
            task.task.retries,
            charged=task.charged,
            partition=self._partition(bag),
            worker_walltime_s=bag.bag.worker_walltime_s,
        )
        if isinstance(further, str):
            event = Event.RAISED if verdict.raised else Event.KILLED
            end = "" if not further or verdict.sentence.endswith((".", "!", "?")) else "."
            self.move(bag, index, attempt, event, f"{verdict.sentence}{end} {further}".rstrip())
            return
        self._tell_retry(live, index, verdict, further)
        live.ask_for(index, further.memory_mib, further.walltime_s)
        self.move(bag, index, attempt, Event.RETRIED, verdict.sentence)
        for follower, number in bag.ledger.followers(index, attempt):
            self.move(bag, follower, number, Event.RELEASED, None)

    def _tell_retry(self, live: LiveDispatch, index: int, verdict: Verdict, further: Resources) -> None:
        """Tell the first retry of a kind that `retries=` made: of ten thousand of them, one line."""
        name, had = live.tasks[index].task.name, live.tasks[index].shape.resources
        key = f"{name} {verdict.cause} {verdict.raised[:1]}"
        if key in live.said or live.one_by_one:
            return
        live.said.add(key)
        asks = ""
        if further.memory_mib is not None and further.memory_mib != had.memory_mib:
            asks = f", with {memory(further.memory_mib)} of memory"
        elif further.walltime_s is not None and further.walltime_s != had.walltime_s:
            asks = f", with a walltime of {length(further.walltime_s)}"
        end = "" if verdict.sentence.endswith((".", "!", "?")) else "."
        self._writer.say(
            live,
            f"Tried again by itself, as its retries= allows{asks}: {name} (task {index}). {verdict.sentence}{end} "
            f"Others of {name} that end like that are not told.",
        )

    def _partition(self, bag: LiveBag) -> Partition | None:
        cluster: Cluster = self._shared.clusters[bag.bag.shape.cluster]
        return partition_of(bag.bag.shape.resources, cluster.limits) if cluster.limits is not None else None

    def move(self, bag: LiveBag, index: int, attempt: int, event: Event, error: str | None) -> None:
        live = bag.dispatch
        task = live.tasks[index]
        if task.attempt != attempt or task.built or task.state in FINAL or task.state in {State.READY, State.PAUSED}:
            return
        ready = len(live.ready)
        live.move(index, event, self._now(), error)
        if len(live.ready) > ready:
            self._shared.wake(live)
        self.after_move(live)

    def after_move(self, live: LiveDispatch) -> None:
        """Do what follows for the dispatch as a whole when tasks of it have moved."""
        if live.too_many_failed:
            self.stop(live)
        self.close_if_done(live)

    def stop(self, live: LiveDispatch) -> None:
        """Cancel what is left of a dispatch of which more tasks have failed than its lattice allows."""
        most = live.graph.max_failures
        reason = f"Not run to its end, because more than {most} tasks failed (max_failures={most})."
        self.cancel(live, range(live.own), reason)
        self._shared.wake(live)

    def cancel(self, live: LiveDispatch, tasks: Sequence[int], reason: str) -> int:
        """Cancel those of these tasks, and of the sublattices among them, that have not ended; return how many."""
        cancelled = 0
        in_bags: dict[BagId, list[tuple[int, int]]] = {}
        for index in live.family(tasks):  # downstream first: it is cancelled as well, not skipped
            task = live.tasks[index]
            if task.state in FINAL:
                continue
            if task.state in {State.QUEUED, State.RUNNING} and task.bag is not None:
                in_bags.setdefault(task.bag, []).append((index, task.attempt))
            live.move(index, Event.CANCELLED, self._now(), reason)
            cancelled += 1
        for identifier, keys in in_bags.items():
            if (bag := self._shared.bags.get(identifier)) is not None:
                bag.untold += bag.ledger.drop(keys)
        return cancelled

    def close_if_done(self, live: LiveDispatch) -> None:
        """End a dispatch of which no task is left."""
        if live.open and not live.cancel_wanted:
            return  # its client has not said that it has no more
        if not live.left and live.ended_at is None:
            live.close(self._now())
            live.dirty.add(-1)
            for key, (count, wall_s) in live.walls.items():
                self._writer.pending.add_run_times(key, count, wall_s)
                had = self._shared.run_times.get(key, (0, 0.0))
                self._shared.run_times[key] = (had[0] + count, had[1] + wall_s)
            live.walls.clear()
            logger.info("dispatch %s: %s", live.id, live.status)


def _had(bag: LiveBag, end: str, seen: Observation | None = None) -> dict[str, int | None]:
    """Return what an attempt had of that which it ran out of: a later one may ask for more."""
    match end:
        case "memory" | Cause.MEMORY:
            # What accounting saw of an array task is this task's, unless several ran in it at once.
            rss = {"rss": seen.max_rss_kib} if seen is not None and seen.max_rss_kib and bag.bag.slots == 1 else {}
            return {"asked": bag.bag.shape.resources.memory_mib, **rss}
        case "timeout" | Cause.TIMEOUT:
            return {"limit": bag.bag.limit_s, "worker_s": bag.bag.worker_walltime_s}
        case _:
            return {}
