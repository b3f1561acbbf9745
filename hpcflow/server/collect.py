"""What facts do to tasks: ends are published, deaths charged or forgiven, the rest given back. The only publisher."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from hpcflow.core.follow import Ended, Fact, Lost, Started, explain, explain_death, is_charged
from hpcflow.core.model import Cause, Observation
from hpcflow.core.states import FINAL, Event, State
from hpcflow.server.bags import LiveBag
from hpcflow.server.live import LiveDispatch, Stored
from hpcflow.server.store import EndRow
from hpcflow.server.writer import Writer

__all__ = ["Collector"]

logger = logging.getLogger(__name__)


class Collector:
    """Moves tasks by facts, and leaves the rows to the writer."""

    def __init__(self, writer: Writer, now: Callable[[], datetime], on_ready: Callable[[LiveDispatch], None]) -> None:
        self._writer = writer
        self._now = now
        self._on_ready = on_ready

    def take(self, bag: LiveBag, facts: Sequence[Fact]) -> None:
        live = bag.dispatch
        for fact in facts:
            task = live.tasks[fact.index]
            if task.attempt != fact.attempt or task.state in FINAL or task.bag != bag.bag.id:
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
        task = live.tasks[fact.index]
        if fact.record["st"] == "ok":
            task.result = Stored.of(fact.record, bag.bag.path)
            live.note_wall(fact.index, float(fact.record.get("wall", 0.0)))
        self._writer.pending.ends.append(
            EndRow(
                dispatch=live.id,
                index=fact.index,
                attempt=fact.attempt,
                worker=fact.worker,
                bag=bag.bag.id,
                record={**fact.record, "host": bag.ledger.workers[fact.worker].host},
            )
        )
        error = explain(fact.record, bag.bag.limit_s)
        match fact.record["st"]:
            case "ok":
                self.move(bag, fact.index, fact.attempt, Event.RETURNED, None)
            case "error":
                self.move(bag, fact.index, fact.attempt, Event.RAISED, error)
            case _:
                self._charge(bag, fact.index, fact.attempt, error)

    def _charge(self, bag: LiveBag, index: int, attempt: int, error: str | None) -> None:
        """Use up one attempt of a task that died."""
        task = bag.dispatch.tasks[index]
        task.charged += 1
        again = task.charged <= task.task.retries
        self.move(bag, index, attempt, Event.RETRIED if again else Event.KILLED, error)

    def move(self, bag: LiveBag, index: int, attempt: int, event: Event, error: str | None) -> None:
        live = bag.dispatch
        task = live.tasks[index]
        if task.attempt != attempt or task.state in FINAL or task.state is State.READY:
            return
        ready = len(live.ready)
        live.move(index, event, self._now(), error)
        if len(live.ready) > ready:
            self._on_ready(live)
        self.close_if_done(live)

    def release(self, bag: LiveBag, lost: Lost, ends: Mapping[str, Observation], foreign: str | None = None) -> None:
        """Give tasks back to the planner, or charge them for their own death."""
        live = bag.dispatch
        for (index, attempt), worker in lost.running:
            end = ends.get(worker)
            if end is not None and end.cause is Cause.CANCELLED:
                self.move(bag, index, attempt, Event.CANCELLED, explain_death(end))
            elif is_charged(end, first=bag.ledger.workers[worker].begun == 1):
                self._writer.pending.ends.append(
                    EndRow(
                        dispatch=live.id,
                        index=index,
                        attempt=attempt,
                        worker=worker,
                        bag=bag.bag.id,
                        record={"st": "killed", "raw": end.raw if end else "", "sig": end.signal if end else None},
                    )
                )
                self._charge(bag, index, attempt, explain_death(end))
            else:
                live.tasks[index].alone = end is not None and end.cause is Cause.TIMEOUT
                self.move(bag, index, attempt, Event.RELEASED, None)
        for index, _ in lost.cut:
            live.tasks[index].alone = True
        for index, attempt in (*lost.cut, *lost.free):
            if foreign is None:
                self.move(bag, index, attempt, Event.RELEASED, None)
            else:
                self.move(bag, index, attempt, Event.CANCELLED, foreign)

    def close_if_done(self, live: LiveDispatch) -> None:
        """End a dispatch of which no task is left."""
        if not live.left and live.ended_at is None:
            live.close(self._now())
            live.dirty.add(-1)
            logger.info("dispatch %s: %s", live.id, live.status)
