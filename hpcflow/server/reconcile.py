"""Follows what was submitted: reads journals, asks the accounting, and settles what dead workers left behind."""

from __future__ import annotations

import logging
import os
import pwd
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from hpcflow.core.bag import read_lines
from hpcflow.core.environment import EXIT_ENVIRONMENT, missing_from
from hpcflow.core.follow import EXIT_STORAGE, Lost, newest_first
from hpcflow.core.model import Cause, Observation
from hpcflow.core.plan import is_reserve_worth, more_workers
from hpcflow.core.states import Event
from hpcflow.core.words import counted
from hpcflow.server.bags import LiveArray, LiveBag
from hpcflow.server.clusters import Cluster
from hpcflow.server.collect import Collector
from hpcflow.server.failpoints import failpoint
from hpcflow.server.lingering import tell_who_may_leave
from hpcflow.server.live import LiveDispatch
from hpcflow.server.remote import Gone, ThisMachine, TransportError
from hpcflow.server.shared import Shared
from hpcflow.server.site import least
from hpcflow.server.store import ArrayState
from hpcflow.server.submit import Submitter

__all__ = ["Reconciler"]

logger = logging.getLogger(__name__)

_LOG_TAIL: Final = 600
#: Bags in a row that may end with nothing done before their tasks fail, and those that only nodes are to blame for.
_FRUITLESS: Final = 2
_FRUITLESS_BY_NODES: Final = 5
#: Cancels by others after which a task with on_cancelled="retry" waits for its user as well.
_CANCELS: Final = 3
#: Complete answers in a row that must call an array hopeless before it is given up.
_HOPELESS: Final = 2


class Reconciler:
    """Turns journals and accounting into facts for the collector, one cluster at a time."""

    def __init__(self, shared: Shared, collector: Collector, submitter: Submitter) -> None:
        self._shared = shared
        self._writer = shared.writer
        self._collector = collector
        self._submitter = submitter

    # ---- journals

    async def read_all(self, cluster: Cluster, bags: Sequence[LiveBag]) -> bool:
        """Read the journals of these bags once, and do what follows; return whether there was any news."""
        news: list[LiveBag] = []
        problem: TransportError | None = None
        for bag in bags:
            try:
                if not bag.readable:
                    continue
                if await self.read(cluster, bag):
                    news.append(bag)
                self._take_back(cluster, bag)
            except TransportError as error:  # the others may well be readable
                problem = error
                self._complain(cluster, bag, error)
        await self._writer.flush()
        for bag in bags:
            if bag.gone:
                await self._leave_deleted(cluster, bag)
        for bag in news:
            await self._after_news(cluster, bag)
        for live in {bag.dispatch.id: bag.dispatch for bag in news}.values():
            await self.let_go(cluster, live)
        for bag in bags:
            await self._call_reserve(cluster, bag)
            await tell_who_may_leave(self._shared, cluster, bag, news=any(bag is each for each in news))
        if problem is not None:
            raise problem
        if bags:
            cluster.heard_at = self._shared.now()
        return bool(news)

    async def read(self, cluster: Cluster, bag: LiveBag) -> int:
        """Read what the journals of a bag say beyond what is known; return the number of new records."""
        async with bag.reading:
            try:
                data = await cluster.transport.read_new(f"{bag.bag.path}/journal", bag.offsets)
            except Gone:
                if not bag.pushed:  # by this server, or one before it
                    return 0
                bag.gone, data = True, {}
            news = 0
            for name in newest_first(data):  # an editor's or a backup's copies are left out
                records, used, bad = read_lines(data[name], bag.key)
                if bad:
                    logger.warning("bag %s: %d lines of journal %s are damaged", bag.bag.id, bad, name)
                bag.offsets[name] = bag.offsets.get(name, 0) + used
                news += len(records)
                self._note_launch(bag, name)
                self._collector.take(bag, bag.ledger.read(name.removesuffix(".jsonl"), records))
            if news:
                gone = bag.ledger.left_by_themselves()
                last = bool(gone) and not bag.ledger.drained and bag.deserted
                self._collector.release(bag, bag.ledger.lost(gone, last=last), {})
                if gone and bag.dispatch.ready:
                    self._shared.plan[cluster.name].set()  # there may be room now for what waits
                failpoint("after_journal_read_before_commit")
            return news

    def _note_launch(self, bag: LiveBag, journal: str) -> None:
        """Remember how long an array of this server's waited for its start, at its first journal."""
        array = bag.launched(journal)
        if array is not None and array.submitted_at is not None:
            array.launching = False
            array.launch_s = max(0.0, (self._shared.now() - array.submitted_at).total_seconds())
            shape = bag.bag.shape
            self._shared.launches.note(shape.cluster, shape.resources.partition, array.launch_s)

    def _complain(self, cluster: Cluster, bag: LiveBag, error: TransportError) -> None:
        """Tell the user, once, that nothing is known of tasks because their journals can't be read."""
        reason = str(error).rstrip(".")
        text = f"What runs on {cluster.name} is not known until this is mended: {reason}."
        if text != bag.complaint and bag.dispatch.ended_at is None:
            bag.complaint = text
            self._writer.say(bag.dispatch, text)

    def _take_back(self, cluster: Cluster, bag: LiveBag) -> None:
        """Tell the user that what was complained of is over."""
        if bag.complaint is not None and not bag.gone:
            bag.complaint = None
            self._writer.say(bag.dispatch, f"What runs on {cluster.name} is known again.")

    async def _leave_deleted(self, cluster: Cluster, bag: LiveBag) -> None:
        """End the workers of a bag whose directory was deleted: nothing that they do can be known any more."""
        if bag.open and not all(array.cancel_wanted for array in bag.arrays if array.open):
            self._writer.say(
                bag.dispatch,
                f"{bag.bag.path} was deleted while jobs worked there. They are cancelled, and what they had not "
                "reported runs again.",
            )
            await self.give_up(cluster, bag)

    async def _call_reserve(self, cluster: Cluster, bag: LiveBag) -> None:
        """Submit the arrays that were held back, a moment after the first, unless tasks proved to be short."""
        age = (self._shared.now() - (bag.grown_at or bag.created_at)).total_seconds()
        if not bag.reserve or not bag.readable or age < self._shared.settings.ramp_after or not self._may_widen(bag):
            return
        ledger = bag.ledger
        mean = ledger.mean_unit_s
        if mean is None:
            mean = self._expected_s(bag)
            if mean is not None and not ledger.workers:
                return  # how long the queue is the first of them will tell
        widths, bag.reserve = bag.reserve, ()
        if is_reserve_worth(
            units_left=ledger.units_left,
            mean_wall_s=mean,
            workers=bag.width * bag.bag.slots,
            launch_s=bag.launch_s,
        ):
            await self._submitter.widen(cluster, bag, widths)

    @staticmethod
    def _expected_s(bag: LiveBag) -> float | None:
        """Return how long a unit of a bag will run on average, by the tasks of their kind that ended elsewhere."""
        means = [bag.dispatch.mean_wall_s(index) for index, _ in bag.bag.tasks]
        known = [mean for mean in means if mean is not None]
        return sum(known) / len(bag.bag.units) if len(known) == len(means) else None

    def _may_widen(self, bag: LiveBag) -> bool:
        return bag.dispatch.why_paused(bag.bag.shape) is None and not any(array.held for array in bag.arrays)

    async def _after_news(self, cluster: Cluster, bag: LiveBag) -> None:
        """Trim arrays that nobody needs any more; widen those whose measured work is worth it."""
        if bag.broken or bag.dispatch.too_many_failed:
            await self.give_up(cluster, bag)
            return
        if bag.ledger.all_claimed:
            await self._trim(cluster, bag)
            return
        up, width = bag.came_up, bag.width
        mean = bag.ledger.mean_unit_s
        single = bag.bag.need_s >= bag.bag.worker_walltime_s
        if mean is None or up < width or single or not self._may_widen(bag):
            return
        limits = await cluster.known_limits(self._shared.now())
        more = more_workers(
            units_left=bag.ledger.units_left,
            mean_wall_s=mean,
            workers=width * bag.bag.slots,
            most=(limits.array.max_width if limits.bounded else width) * bag.bag.slots,
            min_worker_time_s=max(self._shared.settings.min_worker_time, cluster.site.min_worker_time),
        )
        more = -(-more // bag.bag.slots)
        if more:
            most = least(more, cluster.settings.max_width, cluster.site.max_width, limits.array.max_width) or more
            await self._submitter.widen(cluster, bag, [most])

    async def _trim(self, cluster: Cluster, bag: LiveBag) -> None:
        """Cancel what still waits in the queue for a bag of which everything is claimed, or was to be submitted."""
        await self._submitter.withdraw(bag)
        trim = [array for array in bag.arrays if array.state is ArrayState.SUBMITTED and not array.trimmed]
        for array in trim:
            array.trimmed = True
        if bag.came_up < bag.width and trim:
            await self._submitter.cancel(cluster, [array.array for array in trim], pending_only=True)

    async def give_way(self, cluster: Cluster, bag: LiveBag) -> None:
        """Tell workers what was cancelled of a bag, and trim its arrays when nothing is left to claim."""
        if not bag.untold:
            return
        await self._submitter.tell_cancelled(cluster, bag)
        if bag.ledger.all_claimed and not bag.ledger.drained:
            await self._trim(cluster, bag)

    async def let_go(self, cluster: Cluster, live: LiveDispatch) -> None:
        """Tell workers of a dispatch that wait for more of their kind that none will come, once that is so."""
        for bag in self._shared.bags_of(live):
            shape = bag.bag.shape
            if shape.cluster != cluster.name or not bag.takes_more or not bag.ledger.drained:
                continue
            if not live.expects(shape) and not live.has_ready(shape):
                await self._submitter.close(cluster, bag)

    async def give_up(self, cluster: Cluster, bag: LiveBag) -> None:
        """End a bag's arrays though tasks of it have not run; what follows for those is decided when they are gone."""
        if bag.open and not all(array.cancel_wanted for array in bag.arrays if array.open):
            self._submitter.want_cancelled(bag)
            await self._writer.flush()
            await self._submitter.cancel_wanted(cluster)
            self._shared.account[cluster.name].set()

    # ---- accounting

    async def reconcile(self, cluster: Cluster, arrays: Sequence[LiveArray]) -> bool:
        """Ask the scheduler about all open arrays at once, settle what their dead workers left; say if any moved."""
        changed = False
        if asked := [array.array for array in arrays]:
            limits = await cluster.known_limits(self._shared.now())
            commands = cluster.plugin.query(asked, accounting=limits.accounting)
            replies = [
                await cluster.transport.run(command, self._shared.settings.command_deadline) for command in commands
            ]
            seen = cluster.plugin.parse_query(asked, replies)
            cluster.asked_at = self._shared.now()
            if seen.problems:
                cluster.fail("; ".join(seen.problems), cluster.asked_at)
            else:
                cluster.problem, cluster.heard_at = None, cluster.asked_at
            rows: dict[str, list[Observation]] = {}
            for row in seen.rows:
                rows.setdefault(row.token, []).append(row)
            for array in arrays:
                token = array.array.token
                if array.observe(
                    rows.get(token, []),
                    complete=token in seen.complete,
                    now=self._shared.now(),
                    settle_s=self._shared.settings.submit_settle,
                ):
                    changed = True
                    self._writer.pending.arrays.append(array.row())
                    logger.info("job %s: %s", array.array.job_id, array.state)
                    self._shared.plan[cluster.name].set()  # there may be room now for what waits
        problem: TransportError | None = None
        for bag in self._shared.bags_on(cluster):
            self._look_at_queue(cluster, bag)
            try:
                await self._settle(cluster, bag)
            except TransportError as error:
                problem = error
                self._complain(cluster, bag, error)
        await self._writer.flush()
        await self._submitter.cancel_wanted(cluster)
        for bag in self._shared.bags_on(cluster):
            await self._submitter.submit_due(cluster, bag)
        if problem is not None:
            raise problem
        return changed

    def _look_at_queue(self, cluster: Cluster, bag: LiveBag) -> None:
        """Tell the user about array tasks that are held or suspended, and give up those that can't ever start."""
        for array in bag.arrays:
            job = array.array.job_id
            self._tell_suspended(cluster, bag, array)
            if array.held is not None and not array.told_held:
                array.told_held = True
                who = self._who(cluster, array.held)
                self._writer.say(
                    bag.dispatch,
                    f"Job {job} is held{who} ({array.held.raw}). Nothing more is submitted for its tasks until it is "
                    f"released: `hpcflow resume {bag.dispatch.id}` asks for that.",
                )
            elif array.held is None and array.told_held:
                array.told_held = False
                if bag.dispatch.ended_at is None:
                    self._writer.say(bag.dispatch, f"Job {job} is not held any more.")
            if array.held is not None and bag.dispatch.ended_at is not None:
                self._submitter.want_cancelled(bag)  # requeued and held after the end: nobody needs it
            if array.hopeless is not None and array.hopeless_for >= _HOPELESS and not array.cancel_wanted:
                self._submitter.want_cancelled(bag)
                bag.refusal = (
                    f"Job {job} can't ever start as it was asked for: {cluster.name} says {array.hopeless.raw}. "
                    f"`hpcflow retry {bag.dispatch.id}` tries again, with --walltime and --memory if need be."
                )

    def _tell_suspended(self, cluster: Cluster, bag: LiveBag, array: LiveArray) -> None:
        """Tell the user once that array tasks stand still, and that they go on: nothing else follows from it."""
        if bool(array.suspended) is array.told_suspended or bag.dispatch.ended_at is not None:
            return
        array.told_suspended = not array.told_suspended
        if not array.suspended:
            self._writer.say(bag.dispatch, f"Job {array.array.job_id} is not suspended any more.")
            return
        raw, width = array.suspended[0].raw, array.array.width
        why = cluster.plugin.why_pending(raw) or "is suspended"
        some = f": {counted(len(array.suspended), 'array task')} of {width}" if len(array.suspended) < width else ""
        self._writer.say(bag.dispatch, f"Job {array.array.job_id} {why[0].lower()}{why[1:]} ({raw}){some}.")

    async def _settle(self, cluster: Cluster, bag: LiveBag) -> None:
        """Give back or charge what dead workers left, after reading their journals once more."""
        dead, last = bag.dead(), bag.over
        if not dead and not last:
            return
        if self._shared.is_on_network(cluster) and not bag.ledger.drained:
            # What a worker wrote last may take a while to be seen here (S3).
            names = (*dead, "the bag") if last else dead
            if bag.dead_for(names, self._shared.now()) < self._shared.settings.visibility_grace:
                return
        try:
            while await self.read(cluster, bag):  # as many pieces as there are: a long absence left much to read
                pass
        except TransportError:
            if not last or bag.dispatch.ended_at is None:  # of one that has ended nothing more is wanted
                raise
        dead = bag.dead()  # a worker may have come and gone since the last look
        ends = {name: end for name, end in dead.items() if end is not None}
        self._look_for_cancels(cluster, bag)
        news = [name for name in dead if not bag.ledger.workers[name].released]
        lost = bag.ledger.lost(dead, last=last)
        for name in news:
            self._blame_node(bag, name, ends.get(name))
        if last and bag.refusal is not None:
            self._end_all(bag, lost, bag.refusal)
        elif last and self._was_fruitless(bag, ends) and lost:
            bag.dispatch.fruitless[bag.bag.shape] += 1
            for end in (end for array in bag.arrays for end in array.ends.values()):
                self._collector.note_node(bag, end)
            causes = {end.cause for array in bag.arrays for end in array.ends.values()}
            most = _FRUITLESS_BY_NODES if causes == {Cause.NODE_FAIL} else _FRUITLESS
            if bag.dispatch.fruitless[bag.bag.shape] >= most:
                self._end_all(bag, lost, await self._why_fruitless(cluster, bag))
        elif last and any(worker.begun for worker in bag.ledger.workers.values()):
            bag.dispatch.fruitless.pop(bag.bag.shape, None)
        self._collector.release(bag, lost, ends)
        if last:
            self._shared.finish(bag)
        failpoint("after_settle_before_commit")

    def _look_for_cancels(self, cluster: Cluster, bag: LiveBag) -> None:
        """Pause the tasks of a bag of which somebody else cancelled a job: who did that had a reason."""
        live, shape = bag.dispatch, bag.bag.shape
        found = bag.cancelled_by_others()
        if found is None:
            return
        job, end = found
        live.cancels[shape] += 1
        if live.cancels[shape] < _CANCELS and all(
            live.tasks[index].task.on_cancelled == "retry" for index, _ in bag.bag.tasks
        ):
            return
        text = f"Job {job} was cancelled{self._who(cluster, end)}, outside hpcflow ({end.raw})."
        self._shared.pause(live, shape, text)

    def _who(self, cluster: Cluster, end: Observation) -> str:
        """Return " by root" for somebody of whom the scheduler gives a name or a number; "" for nobody."""
        if end.by is None:
            return ""
        kind, _, number = end.by.partition(" ")
        if kind != "uid" or not number.isdigit():
            return f" by {end.by}"
        if number == "0":
            return " by root"
        if not isinstance(cluster.transport, ThisMachine):  # numbers mean something else there
            return f" by user {number}"
        if int(number) == os.getuid():
            return " by you"
        try:
            return f" by {pwd.getpwuid(int(number)).pw_name}"
        except (KeyError, OverflowError):
            return f" by user {number}"

    def _blame_node(self, bag: LiveBag, worker: str, end: Observation | None) -> None:
        """Remember of a node that a worker died there of nothing that a task does."""
        if end is None or end.cause is None:
            return
        host = end.host or bag.ledger.workers[worker].host or None
        silent = end.cause is Cause.FAILED and end.signal is None and end.exit_code is None
        if host is not None and (end.cause is Cause.NODE_FAIL or silent):
            self._collector.note_node(bag, end)

    @staticmethod
    def _was_fruitless(bag: LiveBag, ends: Mapping[str, Observation]) -> bool:
        """No worker of a bag that is over could do anything, for no reason of a task's or of ours."""
        if bag.gone:
            return True
        if all(array.cancel_wanted for array in bag.arrays if array.state is ArrayState.ENDED):
            return False
        causes = {end.cause for array in bag.arrays for end in array.ends.values()}
        if causes and causes <= {Cause.CANCELLED, Cause.PREEMPTED}:
            return False
        began = any(worker.begun for worker in bag.ledger.workers.values())
        faulty = bag.ledger.complaint is not None or any(end.exit_code == EXIT_STORAGE for end in ends.values())
        return not began or (faulty and not bag.ledger.ended)

    def _end_all(self, bag: LiveBag, lost: Lost, reason: str) -> None:
        for task, attempt in (*(key for key, _ in (*lost.running, *lost.cut)), *lost.free):
            self._collector.move(bag, task, attempt, Event.KILLED, reason)

    async def _why_fruitless(self, cluster: Cluster, bag: LiveBag) -> str:
        """Return in a sentence why workers got nothing done, with what one of them wrote."""
        if bag.gone:
            return f"The directory of its job was deleted twice while it ran, the last time {bag.bag.path}."
        if bag.ledger.complaint is not None:
            return f"No worker on {cluster.name} could go on: {bag.ledger.complaint}"
        end = next((end for array in bag.arrays for end in array.ends.values()), None)
        said = ""
        for array in bag.arrays:
            for index in [*sorted(array.ends), 0][:3]:
                # The scheduler's own file for an array task: by its index, or of `local` by job and index.
                for name in (f"{index}.slurm", f"{array.name_of(index)}.log"):
                    with suppress(TransportError):
                        data = await cluster.transport.read(f"{bag.bag.path}/logs/{name}", 0, 1 << 16)
                        said = said or data.decode(errors="replace").strip()[-_LOG_TAIL:]
        if end is not None and end.exit_code == EXIT_ENVIRONMENT:
            return f"The environment that its tasks ask for is not there on {cluster.name}: {missing_from(said)}"
        how = f"exit code {end.exit_code}, {end.raw}" if end is not None else "no end is known"
        return f"No worker on {cluster.name} began a task ({how}). It wrote: {said or 'nothing'}"
