"""What the API serves: takes dispatches in and takes them up again, and knows who answers what else is asked."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from hpcflow.core.model import DispatchId, HpcflowError, NotFound, UserError, ulid
from hpcflow.core.places import Places
from hpcflow.core.states import HELD, TEMPLATE, Status
from hpcflow.server.arguments import Arguments
from hpcflow.server.cache_desk import Cached
from hpcflow.server.cleaning import Cleaner
from hpcflow.server.clusters import Cluster
from hpcflow.server.configured import Configured
from hpcflow.server.deleting import Deleter
from hpcflow.server.engine import Engine
from hpcflow.server.failpoints import failpoint
from hpcflow.server.fetched import drop_fetched
from hpcflow.server.fetching import Files
from hpcflow.server.finding import Default, cluster_maker, find_clusters
from hpcflow.server.insight import Insight
from hpcflow.server.intake import Intake
from hpcflow.server.leftovers import drop_notes
from hpcflow.server.levels import Levels
from hpcflow.server.live import LiveDispatch
from hpcflow.server.log_archive import LogArchive
from hpcflow.server.logs import Logs
from hpcflow.server.manifest import read_graph
from hpcflow.server.parts import Parts
from hpcflow.server.questions import Questions
from hpcflow.server.redispatch import Redispatcher
from hpcflow.server.remote import ThisMachine
from hpcflow.server.roster import Roster
from hpcflow.server.seeding import Seeder
from hpcflow.server.settings import ClusterSettings, Settings, read_clusters
from hpcflow.server.site import SITE_FILE, check_server, parse_rules, rules
from hpcflow.server.sketches import Sketches
from hpcflow.server.steering import Steering
from hpcflow.server.store import BagRow, Changes, DispatchRow, Store
from hpcflow.server.triggers import Triggers
from hpcflow.server.unfold import child_of
from hpcflow.server.values import Values

__all__ = ["Service", "running"]

logger = logging.getLogger(__name__)

Json = dict[str, Any]  # Any: JSON, described in schema.py
Manifest = Mapping[str, Any]  # Any: a checked upload.Manifest

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
    await asyncio.to_thread(drop_notes, where, store.dispatch)
    try:
        async with asyncio.TaskGroup() as group:
            loop = group.create_task(engine.run())
            tidy = group.create_task(service.cleaner.keep_tidy())
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
        self._levels = Levels(self._store)
        #: What the API asks about clusters.
        self.roster = Roster(engine, where, default, make=make, came=self.take_up_left, new_id=_new_id)
        #: Dispatches that wait for a cluster which clusters.toml does not name any more.
        self._left: list[DispatchRow] = []
        self._retrying = asyncio.Lock()
        #: What the API asks about settings.
        self.configured = Configured(where, engine.settings)
        #: What the API asks about files on clusters.
        self.cleaner = Cleaner(engine, self._retrying)
        self.deleter = Deleter(engine, self.cleaner, self._retrying, self._payload, stop=self._stop_triggers)
        self.files = Files(engine, self._levels.place)
        #: What the API asks to run again.
        self.again = Redispatcher(
            self._store,
            whole=self._levels.whole,
            payload=self._payload,
            accept=self.accept,
            old=self._old,
            new_id=_new_id,
        )
        #: What the API asks about what tasks write.
        self.logs = Logs(engine, self._levels.place)
        self.log_archive = LogArchive(engine, self.logs, self._levels.level)
        #: What the API asks of open dispatches.
        self.parts = Parts(engine, partial(self._intake.checked, sublattice=True), self._payload)
        #: What the API asks of graphs that are looked at before they are dispatched.
        self.sketches = Sketches(self._intake.read, now=engine.now)
        #: What the API asks of tasks' arguments.
        self.called_with = Arguments(self._store, self._payload, self._levels.level)
        self._seeder = Seeder(
            self._store,
            engine.clusters,
            shapes=self._intake.shapes,
            old=self._old,
            busy=self.cleaner.busy,
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
        #: What the API asks about dispatches.
        self.questions = Questions(
            engine,
            self._levels,
            Values(self._store, engine.clusters, self._payload),
            heard=self.parts.heard,
        )
        #: What people do to dispatches.
        self.steering = Steering(
            engine,
            self._levels,
            retrying=self._retrying,
            old=self._old,
            refuse_busy=self.cleaner.refuse_busy,
            not_begun=self.parts.not_begun,
            stop_triggers=self.triggers.stop_all_of,
            prospects=self.questions.prospects,
        )
        #: What the API asks about what was, and about the server itself.
        self.insight = Insight(engine, self.questions.views, where, environ, self._levels.level)

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
            await self.cleaner.refuse_busy(old)
            await self.again.refuse_running(old)
            await self._seeder.reuse(live, await self._old(old), dict(note["tasks"]), taken)
        if live.keys:
            await self._seeder.cached(live, taken)
        return taken

    async def _old(self, dispatch: DispatchId) -> LiveDispatch:
        """Return a dispatch that has ended, as the store knows it."""
        return (await self._load(await self._row(dispatch)))[0]

    async def _row(self, dispatch: DispatchId) -> DispatchRow:
        row = await asyncio.to_thread(self._store.dispatch, dispatch)
        if row is None:
            raise NotFound(f"There is no dispatch {dispatch} here.")
        return row

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

    async def _stop_triggers(self, dispatch: DispatchId) -> int:
        return await self.triggers.stop_all_of(dispatch)

    async def _template(self, dispatch: str) -> tuple[DispatchId, str]:
        """Return the id and the name of a dispatch that triggers shall run copies of."""
        known = await self._levels.whole(dispatch, "run again by triggers")
        live = self._engine.writer.dispatches.get(known)
        if live is not None and live.paused == HELD:
            await self._engine.course.pause(live, TEMPLATE)
        return known, (await self._row(known)).name
