"""What the API serves: takes dispatches in, and answers from the store and the engine."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, Literal

from hpcflow.core.model import ClusterName, DispatchId, HpcflowError, NotFound, UserError, ulid
from hpcflow.core.places import Places
from hpcflow.core.states import FINAL, HELD, TEMPLATE, State, Status
from hpcflow.server.again import check_at_hand, nothing_to_retry, number_of
from hpcflow.server.arguments import Arguments
from hpcflow.server.cache_desk import Cached
from hpcflow.server.cleaning import Cleaner, use_again
from hpcflow.server.clusters import Cluster, Default, cluster_maker, find_clusters
from hpcflow.server.configured import Configured
from hpcflow.server.deleting import Deleter
from hpcflow.server.engine import Engine
from hpcflow.server.failpoints import failpoint
from hpcflow.server.fetched import drop_fetched
from hpcflow.server.fetching import Files, workdir_of
from hpcflow.server.insight import Insight
from hpcflow.server.intake import Intake
from hpcflow.server.levels import Level, find_level
from hpcflow.server.live import LiveDispatch
from hpcflow.server.logs import Logs, span
from hpcflow.server.manifest import read_graph
from hpcflow.server.news import News
from hpcflow.server.parts import Parts
from hpcflow.server.redispatch import Redispatcher
from hpcflow.server.remote import ThisMachine
from hpcflow.server.reports import array_task, spelled, usage, which
from hpcflow.server.roster import Roster
from hpcflow.server.seeding import Seeder
from hpcflow.server.settings import ClusterSettings, Settings, read_clusters
from hpcflow.server.shared import how_to_go_on
from hpcflow.server.site import SITE_FILE, check_server, parse_rules, rules
from hpcflow.server.sketches import Sketches
from hpcflow.server.store import ArrayRow, ArrayState, BagRow, Changes, DispatchRow, Kept, Store, TaskRow
from hpcflow.server.triggers import Triggers
from hpcflow.server.unfold import child_of
from hpcflow.server.values import Values
from hpcflow.server.views import Views, Wanted

__all__ = ["Service", "running"]

logger = logging.getLogger(__name__)

Json = dict[str, Any]  # Any: JSON, described in schema.py
Order = Literal["created_at", "name", "status", "n_tasks"]
Manifest = Mapping[str, Any]  # Any: a checked upload.Manifest

#: Answers to a long poll come at most so often, unless the dispatch ended.
_BREATH_S: Final = 0.05
_BREATHS: Final = 5
_RULES_DEADLINE_S: Final = 10.0


@asynccontextmanager
async def running(
    store: Store,
    settings: Settings,
    where: Places,
    *,
    on_network: bool,
    environ: Mapping[str, str],
    site_file: str = SITE_FILE,
) -> AsyncGenerator[Service]:
    """Find the clusters, take up what an earlier server left, and run the engine while the context is open.

    Raises:
        SiteError: no server may run here.
        ExceptionGroup: the engine ended by itself. Nobody may go on to take dispatches that nothing runs.
    """
    await _check_here(environ, site_file)
    clusters, default = await find_clusters(
        where, settings, read_clusters(where), environ, sys.executable, site_file=site_file
    )
    engine = Engine(
        settings,
        store,
        clusters,
        now=_now,
        new_id=_new_id,
        on_network=on_network,
    )
    make = cluster_maker(where, settings, environ, sys.executable, site_file=site_file)
    service = Service(engine, where, default, make, environ)
    await service.take_up()
    try:
        async with asyncio.TaskGroup() as group:
            loop = group.create_task(engine.run())
            tidy = group.create_task(service.files.cleaner.keep_tidy())
            parts = group.create_task(service.parts.keep_tidy(settings.open_idle))
            triggers = group.create_task(service.triggers.run())
            try:
                yield service
            finally:
                triggers.cancel()
                tidy.cancel()
                parts.cancel()
                loop.cancel()
    finally:
        await service.roster.close()


async def _check_here(environ: Mapping[str, str], site_file: str) -> None:
    """Raise `SiteError` where the site of this machine lets no server run."""
    reply = await ThisMachine(environ).run(rules(site_file), _RULES_DEADLINE_S)
    host = socket.gethostname()
    try:
        found = parse_rules(reply, site_file, host)
    except HpcflowError as error:  # a scheduler here is told of it as well; nothing is submitted to it
        logger.error("%s", error)
        return
    check_server(found, host, environ)


def _now() -> datetime:
    return datetime.now(UTC)


def _new_id() -> str:
    return ulid(int(_now().timestamp() * 1000), secrets.token_bytes(10))


class Service:
    """The engine and the store of one HPCFLOW_HOME, as the API sees them."""

    def __init__(
        self,
        engine: Engine,
        where: Places,
        default: Default,
        make: Callable[[str, ClusterSettings], Cluster],
        environ: Mapping[str, str],
    ) -> None:
        self._engine = engine
        self._store = engine.writer.store
        self._where = where
        self._default = default
        self._intake = Intake(
            engine.clusters, default, engine.settings, now=engine.now, environments=engine.environments
        )
        engine.unfolder.check = partial(self._intake.checked, sublattice=True)
        self._values = Values(self._store, engine.clusters, self._payload)
        #: What the API asks about clusters.
        self.roster = Roster(engine, where, default, make=make, came=self.take_up_left, new_id=_new_id)
        #: Dispatches that wait for a cluster which clusters.toml does not name any more.
        self._left: list[DispatchRow] = []
        self._retrying = asyncio.Lock()
        #: What the API asks about settings.
        self.configured = Configured(where, engine.settings)
        #: What the API asks about files on clusters.
        cleaner = Cleaner(engine, self._retrying)
        deleter = Deleter(engine, cleaner, self._retrying, self._payload, stop=self._stop_triggers)
        self.files = Files(engine, self._place, cleaner, deleter)
        #: What the API asks to run again.
        self.again = Redispatcher(
            self._store,
            whole=self._whole,
            payload=self._payload,
            accept=self.accept,
            old=self._old,
            new_id=_new_id,
        )
        #: What the API asks about what tasks write.
        self.logs = Logs(engine, self._place)
        #: What the API asks of open dispatches.
        self.parts = Parts(engine, partial(self._intake.checked, sublattice=True), self._payload)
        #: What the API asks of graphs that are looked at before they are dispatched.
        self.sketches = Sketches(self._intake.read, now=engine.now)
        #: What the API asks of tasks' arguments.
        self.called_with = Arguments(self._store, self._payload, self._level)
        self._seeder = Seeder(
            self._store,
            engine.clusters,
            shapes=self._intake.shapes,
            old=self._old,
            busy=self.files.cleaner.busy,
            new_id=_new_id,
            now=engine.now,
        )
        #: What the API asks about the cache.
        self.cached = Cached(self._store, engine.now)
        engine.unfolder.seeder, engine.unfolder.changing = self._seeder, self._retrying
        #: What the API asks about triggers.
        self.triggers = Triggers(
            self._store,
            where,
            template=self._template,
            again=lambda known, new: self.again.redispatch(known, identifier=new, reuse=False, even_running=True),
            now=engine.now,
        )
        self._views = Views(self._store, engine.writer, self._unknown_since)
        #: What the API asks about what was, and about the server itself.
        self.insight = Insight(engine, self._views, where, environ, self._level)

    async def take_up(self) -> None:
        """Take up every dispatch that had not ended when the last server did, and what is left of others."""
        await self.triggers.take_up()
        for row in await asyncio.to_thread(self._store.live_dispatches):
            await self._take_up_if(row)
        running = {*self._engine.writer.dispatches, *(row.id for row in self._left)}
        await asyncio.to_thread(drop_fetched, self._where.dispatches, but_of=running)

    async def take_up_left(self) -> None:
        """Take up what could not be at the start, because its cluster was gone: one came."""
        left, self._left = self._left, []
        for row in left:
            await self._take_up_if(row)

    async def _take_up_if(self, row: DispatchRow) -> None:
        try:
            await self._take_up(row)
        except UserError as error:  # its cluster is gone from clusters.toml: it stays as it is until that is back
            self._left.append(row)
            logger.error("dispatch %s can't go on: %s", row.id, error)

    async def _take_up(self, row: DispatchRow) -> None:
        live, bags = await self._load(row)
        if row.status is not Status.RUNNING:
            live.status, live.error, live.ended_at = row.status, row.error, row.ended_at
        self._engine.take_over(live, bags, await asyncio.to_thread(self._store.arrays, row.id))
        failpoint("after_take_over")

    async def _load(self, row: DispatchRow) -> tuple[LiveDispatch, list[BagRow]]:
        """Return a dispatch as the store knows it, and its bags; nothing runs it yet.

        Raises:
            UserError: one of its clusters is gone from clusters.toml.
        """
        manifest = await asyncio.to_thread(self._store.manifest, row.id)
        graph = read_graph(manifest)
        live = LiveDispatch.fresh(row, graph, self._intake.shapes(graph, manifest), manifest, self._payload(row.id))
        for child in await asyncio.to_thread(self._store.children, row.id):
            built = await asyncio.to_thread(self._store.child_manifest, child.id)
            payload = os.path.join(self._where.dispatches, built["payload"])
            known, inner = child_of(child, built, live)
            live.join(known, inner, self._intake.shapes(inner, built), built, payload)
        bags = await asyncio.to_thread(self._store.bags, row.id)
        tasks = await asyncio.to_thread(self._store.tasks, row.id)
        ends = await asyncio.to_thread(self._store.ends, row.id)
        live.started_at, live.cancel_wanted = row.started_at, row.cancel_wanted
        live.paused = row.paused if row.paused_whole else None
        live.restore(tasks, ends.values(), await self._seeder.bags_behind(ends, bags))
        return live, bags

    # ---- taking a dispatch in

    async def accept(self, manifest: Manifest, payload: str) -> Json:
        """Check a dispatch, store it, and start it; the same id again is answered as it was the first time."""
        known = DispatchId(manifest["id"])
        if (row := await asyncio.to_thread(self._store.dispatch, known)) is not None:
            os.unlink(payload)
            return {"id": row.id, "status": row.status, "messages": []}
        try:
            graph, shapes, messages = await self._intake.checked(manifest)
            now = self._engine.now()
            row = DispatchRow(
                id=known,
                name=graph.name,
                status=Status.RUNNING,
                created_at=now,
                started_at=None,
                ended_at=None,
                error=None,
                n_tasks=len(graph.tasks),
                cancel_wanted=False,
                paused=HELD if manifest.get("held") else None,
                paused_whole=bool(manifest.get("held")),
                python=(manifest["python"][0], manifest["python"][1]),
                counts={},
            )
        except BaseException:
            os.unlink(payload)
            raise
        os.rename(payload, self._payload(known))
        failpoint("after_upload")
        live = LiveDispatch.fresh(row, graph, shapes, manifest, self._payload(known))
        live.paused = row.paused
        uses = "reuse" in manifest or "keys" in manifest
        async with self._retrying if uses else nullcontext():  # what is used must not be cleaned away
            try:
                taken = await self._taken(live, manifest)
            except BaseException:
                os.unlink(self._payload(known))
                raise
            rows = [live.task_row(index) for index in range(len(live.tasks))]
            await asyncio.to_thread(self._store.add_dispatch, row, manifest, rows, taken)
        failpoint("after_dispatch_commit")
        messages += [text for _, text in taken.messages]
        await self._engine.begin(live)
        return {"id": known, "status": Status.RUNNING, "messages": messages}

    async def _taken(self, live: LiveDispatch, manifest: Manifest) -> Changes:
        """Let tasks complete of which the results are there already; return what is to be stored of that.

        Raises:
            HpcflowError: the dispatch that has them runs, is being cleaned, or can't be looked at.
        """
        taken = Changes(at=live.row.created_at)
        note: Json | None = manifest.get("reuse")
        if note is not None:
            old = DispatchId(note["dispatch"])
            await self.files.cleaner.refuse_busy(old)
            await self.again.refuse_running(old)
            await self._seeder.reuse(live, await self._old(old), dict(note["tasks"]), taken)
        if live.keys:
            await self._seeder.cached(live, taken)
        return taken

    async def _old(self, dispatch: DispatchId) -> LiveDispatch:
        """Return a dispatch that has ended, as the store knows it."""
        row = await asyncio.to_thread(self._store.dispatch, dispatch)
        if row is None:
            raise NotFound(f"There is no dispatch {dispatch} here.")
        return (await self._load(row))[0]

    async def plan(self, manifest: Manifest, payload: str) -> Json:
        """Say what `accept` would submit; nothing is kept."""
        os.unlink(payload)
        return await self._intake.preview(manifest)

    def _payload(self, dispatch: DispatchId) -> str:
        return os.path.join(self._where.dispatches, f"{dispatch}.blobs")

    # ---- answers about the server

    def status(self) -> Json:
        return {
            "clusters": sorted(self._engine.clusters),
            "default_cluster": self._default.name,
            "live_dispatches": len(self._engine.writer.dispatches),
            "triggers": self.triggers.alive,
            "problem": self._engine.writer.problem,
        }

    # ---- answers about dispatches

    async def dispatches(
        self,
        limit: int,
        before: str | None,
        prefix: str | None,
        *,
        statuses: Sequence[Status] = (),
        text: str = "",
        sort: Order = "created_at",
        ascending: bool = False,
    ) -> Json:
        def read() -> Json:
            if prefix is None:
                rows = self._store.dispatches(
                    limit=limit,
                    before=DispatchId(before) if before else None,
                    statuses=statuses,
                    text=text,
                    sort=sort,
                    ascending=ascending,
                )
                shown = [self._summary(row, self._store.arrays(row.id), []) for row in rows]
            else:
                found = self._store.find_dispatches(prefix)[:limit]
                levels = (find_level(self._store, known) for known in found)
                shown = [self._read_summary(level) for level in levels if level is not None]
            return {
                "dispatches": shown,
                "found": self._store.count_dispatches(statuses, text) if prefix is None else len(shown),
                "total": self._store.count_dispatches(),
            }

        return await asyncio.to_thread(read)

    async def summary(self, dispatch: str) -> Json:
        return await asyncio.to_thread(self._read_summary, await self._level(dispatch))

    async def changed(self, dispatch: str, since: int, wait_s: float) -> Json:
        level = await self._level(dispatch)
        self.parts.heard(level.root)
        await self._engine.writer.wait_change(level.root, since, wait_s)
        for _ in range(_BREATHS):  # changes come in crowds; the last one is told at once
            if level.root not in self._engine.writer.dispatches:
                break
            await asyncio.sleep(_BREATH_S)
        return await asyncio.to_thread(self._read_summary, await self._level(dispatch))

    async def _level(self, dispatch: str) -> Level:
        level = await asyncio.to_thread(find_level, self._store, DispatchId(dispatch))
        if level is None:
            raise NotFound(f"There is no dispatch {dispatch} here. `hpcflow dispatches` lists those there are.")
        return level

    async def _place(self, dispatch: str, index: int) -> tuple[DispatchId, int]:
        """Return the whole dispatch that a task is of, and its number there."""
        level = await self._level(dispatch)
        return level.root, level.numbers([index])[0]

    async def _whole(self, dispatch: str, verb: str) -> DispatchId:
        """Return the id of a dispatch of which something is asked that a sublattice can't do by itself."""
        level = await self._level(dispatch)
        level.refuse_part(verb)
        return level.root

    async def _stop_triggers(self, dispatch: DispatchId) -> int:
        return await self.triggers.stop_all_of(dispatch)

    async def _template(self, dispatch: str) -> tuple[DispatchId, str]:
        """Return the id and the name of a dispatch that triggers shall run copies of."""
        known = await self._whole(dispatch, "run again by triggers")
        live = self._engine.writer.dispatches.get(known)
        if live is not None and live.paused == HELD:
            await self._engine.pause(live, TEMPLATE)
        row = await asyncio.to_thread(self._store.dispatch, known)
        assert row is not None  # it is known, and nothing is ever removed
        return known, row.name

    def _read_summary(self, level: Level) -> Json:
        root = level.root
        version = self._engine.writer.version(root)  # before the rows: a change in between is then asked for again
        row = self._store.dispatch(root)
        if row is None:
            raise NotFound(f"There is no dispatch {root} here.")
        # What was said of a pause is no advice any more when it is over, or the dispatch.
        live = self._engine.writer.dispatches.get(root)
        goes_on = live is not None and not live.pauses and not live.paused
        advice = how_to_go_on(root) if goes_on or row.status is not Status.RUNNING else ""
        told = self._store.messages(root)
        messages = [{"at": spelled(at), "text": text.removesuffix(advice)} for at, text in told]
        if self._engine.writer.problem is not None and root in self._engine.writer.dispatches:
            text = f"Nothing new can be stored: {self._engine.writer.problem} Trying again."
            messages.append({"at": spelled(self._engine.now()), "text": text})
        summary = self._summary(level.seen(row, self._store), self._store.arrays(root), messages)
        return {**summary, "version": version, "base": level.tasks.start, "root": root, "parent": level.parent()}

    def _summary(self, row: DispatchRow, arrays: Sequence[ArrayRow], messages: Sequence[Json]) -> Json:
        return {
            "id": row.id,
            "name": row.name,
            "status": row.status,
            "error": row.error,
            "paused": row.paused,
            "template": row.paused == TEMPLATE,
            "created_at": spelled(row.created_at),
            "started_at": spelled(row.started_at),
            "ended_at": spelled(row.ended_at),
            "version": self._engine.writer.version(row.id),
            "python": list(row.python),
            "tasks": sum(row.counts.values()),
            "own_tasks": row.n_tasks,
            "base": 0,
            "root": row.id,
            "parent": None,
            "counts": {state: count for state, count in row.counts.items() if count},
            "arrays": [
                {
                    "token": row.array.token,
                    "cluster": row.array.cluster,
                    "job_id": row.array.job_id,
                    "width": row.array.width,
                    "state": row.state,
                    "reason": row.reason,
                    "why": self._why(row),
                }
                for row in arrays
            ],
            "asked": self._asked(row.id, arrays),
            "messages": list(messages),
        }

    def _why(self, row: ArrayRow) -> str | None:
        """Return in plain words why an array waits; ``None`` where its `reason` is all there is."""
        cluster = self._engine.clusters.get(row.array.cluster)
        if cluster is None or row.state is not ArrayState.SUBMITTED or row.reason is None:
            return None
        return cluster.plugin.why_pending(row.reason)

    def _asked(self, dispatch: DispatchId, arrays: Sequence[ArrayRow]) -> list[Json]:
        """Return when the schedulers were asked last on which this dispatch has arrays that are not over.

        Those that do not answer are among them where tasks are ready for them.
        """
        names = {row.array.cluster for row in arrays if row.ended_at is None}
        live = self._engine.writer.dispatches.get(dispatch)
        if live is not None and any(cluster.problem for cluster in self._engine.clusters.values()):
            names |= {live.tasks[index].shape.cluster for index in live.ready}
        return [
            {
                "cluster": name,
                "at": spelled(cluster.asked_at),
                "problem": cluster.problem,
                "unknown_since": spelled(cluster.unknown_since),
            }
            for name in sorted(names)
            if (cluster := self._engine.clusters.get(name)) is not None
        ]

    async def tasks(self, dispatch: str, state: State | None, after: int, limit: int, deep: bool = False) -> Json:
        level = await self._level(dispatch)
        return await asyncio.to_thread(self._views.table, level, state, after, limit, deep=deep)

    async def task(self, dispatch: str, index: int) -> Json:
        level = await self._level(dispatch)
        (number,) = level.numbers([index])

        def read() -> Json:
            row = self._store.task(level.root, number)
            if row is None:
                raise NotFound(f"Dispatch {dispatch} has no task {index}.")
            end = self._store.end(level.root, number)
            origin = Kept(self._store).origin(level.root, number)
            origins = {} if origin is None else {number: origin}
            detail = self._views.detail(row, end, self._views.cores(level.root)[number], level, origins)
            record = end.record if end is not None else {}
            bag = self._store.bag(end.bag) if end is not None else None
            return {
                **detail,
                "error_type": record.get("exc"),
                "traceback": record.get("tb"),
                "stdout_bytes": span(record, "out")[1],
                "stderr_bytes": span(record, "err")[1],
                "workdir": workdir_of(bag.bag, record) if bag is not None else None,
            }

        return await asyncio.to_thread(read)

    # The page shows a dispatch as a whole, its sublattices' tasks with their numbers in it.

    async def page(self, dispatch: str, wanted: Wanted) -> Json:
        root = (await self._level(dispatch)).root
        return await asyncio.to_thread(self._views.page, root, wanted)

    async def graph(self, dispatch: str) -> bytes:
        return await asyncio.to_thread(self._views.graph, (await self._level(dispatch)).root)

    async def states(self, dispatch: str) -> Json:
        return await asyncio.to_thread(self._views.states, (await self._level(dispatch)).root)

    async def about(self, dispatch: str, index: int) -> Json:
        root, number = await self._place(dispatch, index)
        return await asyncio.to_thread(self._views.about, root, number, self._why)

    @property
    def news(self) -> News:
        return self._engine.writer.news

    def _unknown_since(self, row: TaskRow) -> str | None:
        if row.state not in {State.QUEUED, State.RUNNING} or row.cluster is None:
            return None
        cluster = self._engine.clusters.get(ClusterName(row.cluster))
        return None if cluster is None else spelled(cluster.unknown_since)

    async def usage(self, dispatch: str) -> Json:
        """Say what the arrays of a dispatch cost, and what became of it."""
        known = (await self._level(dispatch)).root
        arrays = await asyncio.to_thread(self._store.arrays, known)
        return {"id": known, **usage(arrays, self._engine.bags)}

    async def job(self, name: str) -> Json:
        """Say which dispatch a job is of, and what ran in an array task of it."""
        return await asyncio.to_thread(which, self._store, *array_task(name), dict(self._engine.bags))

    async def results(
        self, dispatch: str, tasks: list[int] | None, output: bool, *, apart: bool = False
    ) -> AsyncIterator[bytes]:
        """Yield each item as one line of JSON and its bytes: the output and what it needs, or the tasks asked for."""
        level = await self._level(dispatch)
        wanted = level.numbers(tasks) if tasks is not None else None
        async for part in self._values.stream(level, wanted, output=output, apart=apart):
            yield part

    async def cancel(self, dispatch: str, tasks: list[int] | None, *, begun: bool = True) -> Json:
        level = await self._level(dispatch)
        if tasks is None and level.child is None:
            await self.triggers.stop_all_of(level.root)
        live = self._engine.writer.dispatches.get(level.root)
        if live is None:
            return {"cancelled": 0, "message": f"Dispatch {dispatch} has ended already."}
        if tasks == []:
            return {"cancelled": 0, "message": "No task was named, so nothing was cancelled."}
        wanted = level.numbers(tasks) if tasks is not None else None
        if wanted is not None and not begun:
            wanted = self.parts.not_begun(level.root, wanted)
            cancelled = await self._engine.cancel(live, wanted) if wanted else 0
            named = [index - level.tasks.start for index in wanted]
            return {"cancelled": cancelled, "message": f"Cancelled {number_of(cancelled)}.", "tasks": named}
        if wanted is None and level.child is not None:
            wanted = [level.child.task]
        cancelled = await self._engine.cancel(live, wanted)
        message = f"Cancelled {number_of(cancelled)}; what had ended keeps its result."
        return {"cancelled": cancelled, "message": message}

    async def pause(self, dispatch: str) -> Json:
        """Submit nothing more of a dispatch; what a scheduler has goes on."""
        known = await self._whole(dispatch, "paused")
        live = self._engine.writer.dispatches.get(known)
        if live is None or live.ended_at is not None:
            return {"moved": 0, "message": f"Dispatch {dispatch} has ended already."}
        if live.paused is not None:
            return {"moved": 0, "message": f"Dispatch {dispatch} is paused already. {live.paused}"}
        ready = len(live.ready)
        await self._engine.pause(live, f"You paused it at {spelled(self._engine.now())}.")
        running = sum(task.state in {State.QUEUED, State.RUNNING} for task in live.tasks)
        goes_on = f" {number_of(running, 'goes', 'go')} on that a scheduler has." if running else ""
        return {"moved": ready, "message": f"Nothing more is submitted until `hpcflow resume {dispatch}`.{goes_on}"}

    async def resume(self, dispatch: str) -> Json:
        """Go on with all of a dispatch that is paused, and ask for the release of jobs that somebody holds."""
        known = await self._whole(dispatch, "resumed")
        live = self._engine.writer.dispatches.get(known)
        if live is None or live.ended_at is not None:
            hint = f"`hpcflow retry {dispatch}` tries again what did not complete."
            return {"moved": 0, "message": f"Dispatch {dispatch} has ended already; {hint}"}
        paused = live.paused is not None or bool(live.pauses)
        moved = await self._engine.resume(live)
        if paused or moved:
            return {"moved": moved, "message": f"It goes on; {number_of(moved)} had been held back."}
        return {
            "moved": 0,
            "message": f"Nothing of dispatch {dispatch} was paused. If the scheduler holds jobs of it, it was asked to "
            "release them.",
        }

    async def retry(
        self,
        dispatch: str,
        *,
        failed_only: bool,
        memory_mib: int | None,
        walltime_s: int | None,
        tasks: Sequence[int] | None = None,
    ) -> Json:
        """Try what ended without completing once more, also of a dispatch that has ended: all, or these tasks.

        Raises:
            UserError: no partition can give so much.
            HpcflowError: something that the tasks need is gone.
        """
        known = await self._whole(dispatch, "retried")
        async with self._retrying:  # a dispatch that has ended must not be made live twice
            await self.files.cleaner.refuse_busy(known)
            live = self._engine.writer.dispatches.get(known)
            if live is None:
                live = await self._old(known)
            only = None if tasks is None else frozenset((await self._level(dispatch)).numbers(list(tasks)))
            if (reason := nothing_to_retry(live, failed_only=failed_only, only=only)) is not None:
                return {"moved": 0, "message": reason}
            await check_at_hand(live, self._engine.clusters, self._store)
            for name in live.clusters if memory_mib or walltime_s else ():
                with suppress(HpcflowError):  # a cluster that does not answer now judges by itself, later
                    await self._engine.clusters[name].known_limits(self._engine.now())
            await asyncio.to_thread(use_again, self._store, known)
            moved = await self._engine.retry(
                live, failed_only=failed_only, memory_mib=memory_mib, walltime_s=walltime_s, only=only
            )
        waits = ""
        if live.paused is not None:
            waits = f" It is paused: they wait for `hpcflow resume {dispatch}`."
        elif any(live.why_paused(task.shape) and task.state not in FINAL for task in live.tasks):
            waits = f" Some tasks are paused: they wait for `hpcflow resume {dispatch}`."
        return {"moved": moved, "message": f"{number_of(moved)} to run again; results that exist are kept.{waits}"}
