"""Takes in the graphs that sublattices built: their tasks become tasks of the dispatch that they belong to.

The bytes come from a worker as an upload comes from a client, and are read with the same suspicion. See ADR 0022.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from typing import Any, NoReturn

from hpcflow.core.bag import DamagedError, checked
from hpcflow.core.model import DispatchId, Graph, Shape, UserError
from hpcflow.core.states import FINAL, Event
from hpcflow.server.caching import Finder, Given, cache_keys
from hpcflow.server.clusters import Cluster
from hpcflow.server.collect import Collector
from hpcflow.server.failpoints import failpoint
from hpcflow.server.live import LiveDispatch
from hpcflow.server.manifest import Manifest, moved, read_graph
from hpcflow.server.remote import Gone, TransportError
from hpcflow.server.shared import Shared
from hpcflow.server.spool import value_bytes
from hpcflow.server.store import PART, ChildRow
from hpcflow.server.tasks import Child, Stored
from hpcflow.server.upload import Upload

__all__ = ["Check", "Unfolder", "child_of"]

logger = logging.getLogger(__name__)

#: Returns graph and shapes of what a manifest describes, and what the user should be told; `UserError` if it can't run.
Check = Callable[[Mapping[str, Any]], Awaitable[tuple[Graph, list[Shape], list[str]]]]  # Any: a checked upload.Manifest


class Unfolder:
    """One per engine."""

    def __init__(self, shared: Shared, collector: Collector) -> None:
        self._shared = shared
        self._writer = shared.writer
        self._collector = collector
        #: What a graph is held against; whoever takes dispatches in sets it.
        self.check: Check = _refuse
        #: Finds what is cached, and what is held while that may not be cleaned away; likewise.
        self.seeder: Finder | None = None
        self.changing = asyncio.Lock()

    async def unfold(self, cluster: Cluster, live: LiveDispatch) -> bool:
        """Take in what sublattices of a dispatch built on one cluster; say whether some of it can't be read now."""
        held = False
        for index in sorted(live.built):
            if live.tasks[index].shape.cluster != cluster.name:
                continue
            await self._writer.flush()  # the news that it is built, at the latest
            failpoint("before_unfold")
            try:
                await self._take_in(cluster, live, index)
            except (UserError, DamagedError) as error:
                self._refuse(live, index, str(error))
            except TransportError as error:
                if await self._is_deleted(cluster, live.tasks[index].graph):
                    self._refuse(live, index, f"its graph was deleted. {error}")
                else:
                    held = True
                    self._say_once(live, f"A sublattice's graph can't be read from {cluster.name}: {error}")
            await self._writer.flush()
            failpoint("after_unfold_commit")
        return held

    @staticmethod
    async def _is_deleted(cluster: Cluster, stored: Stored | None) -> bool:
        """Return whether the bag is gone in which a worker left a graph."""
        if stored is None or stored.file is None:
            return False
        bag = os.path.dirname(os.path.dirname(stored.file[0]))
        try:
            await cluster.transport.read_new(f"{bag}/journal", {})
        except Gone:
            return True
        except TransportError:
            return False
        return False

    def _say_once(self, live: LiveDispatch, text: str) -> None:
        if text not in live.said:
            live.said.add(text)
            self._writer.say(live, text)

    async def _take_in(self, cluster: Cluster, live: LiveDispatch, index: int) -> None:
        task = live.tasks[index]
        stored, attempt = task.graph or Stored(), task.attempt
        level = task.level
        depth = 1 if level is None else level.depth + 1
        most = self._shared.settings.max_depth
        if depth > most:
            raise UserError(
                f"sublattices lie {depth} deep in each other here, and the server takes {most}. If the recursion ends, "
                "raise `max_depth` in config.toml."
            )
        data = await value_bytes(stored, cluster)
        if stored.file is not None:
            checked(data, bytes.fromhex(stored.file[3]))
        payload = os.path.join(live.folder, f"{live.id}-{index}-{attempt}.blobs")
        manifest = await asyncio.to_thread(self._read, data, payload)
        manifest |= {
            "executable": live.executable,
            "python": live.row.python,
            "cwd": "",
            "payload": os.path.basename(payload),
        }
        graph, shapes, _ = await self.check(manifest)
        failpoint("after_graph_upload")
        keyed = bool(manifest.get("keys"))
        async with self.changing if keyed else nullcontext():  # what is used must not be cleaned away
            given, sentences = await self.cached(manifest, shapes)
            if task.graph is not stored or task.state in FINAL or task.attempt != attempt:
                return  # it was cancelled meanwhile
            child = self._join(live, index, graph, shapes, depth=depth, manifest=manifest, payload=payload)
            self.give(live, child, given)
            if given:
                count = f"{len(given)} of {child.count}"
                about = f"{count} tasks of the sublattice {child.name} need not run: their results are cached."
                sentences.insert(0, about)
            for sentence in sentences:
                self._writer.say(live, sentence)
            if given:
                await self._writer.flush()
        logger.info("dispatch %s: task %d is a sublattice of %d tasks", live.id, index, child.count)
        self._collector.after_move(live)
        self._shared.wake(live)

    def _join(
        self,
        live: LiveDispatch,
        index: int,
        graph: Graph,
        shapes: list[Shape],
        *,
        depth: int,
        manifest: Manifest,
        payload: str,
    ) -> Child:
        first = len(live.tasks)
        graph = moved(graph, first, len(live.blobs))
        child = Child(
            id=DispatchId(self._shared.new_id()),
            name=graph.name,
            task=index,
            depth=depth,
            first=first,
            count=len(graph.tasks),
            output=graph.output,
            output_deps=graph.output_deps,
        )
        live.join(child, graph, shapes, manifest, payload)
        live.unfold(child, self._shared.now())
        row = ChildRow(id=child.id, dispatch=live.id, task=index, first=first, n_tasks=child.count, name=child.name)
        self._writer.pending.children.append((row, manifest))
        return child

    def give(self, live: LiveDispatch, child: Child, given: Mapping[int, Given]) -> None:
        """Let tasks that have just joined complete by results that are cached."""
        if given and self.seeder is not None:
            self.seeder.give(live, {at + child.first: each for at, each in given.items()}, self._writer.pending)
            live.clusters |= {each.bag.shape.cluster for each in given.values()}

    async def cached(self, manifest: Manifest, shapes: list[Shape]) -> tuple[dict[int, Given], list[str]]:
        """Return the tasks of which the cache has results, and what is to be said of these."""
        if not manifest.get("keys") or self.seeder is None:
            return {}, []
        given, _, sentences = await self.seeder.look(cache_keys(dict(manifest["keys"]), shapes))
        return given, sentences

    def _read(self, data: bytes, payload: str) -> dict[str, Any]:  # Any: JSON
        upload = Upload(os.path.dirname(payload), limit=self._shared.settings.max_upload)
        kept = False
        try:
            upload.feed(data)
            manifest = upload.finish()
            os.replace(upload.path, payload)
            kept = True
            return {**manifest}
        finally:
            upload.close(keep=kept)

    def _refuse(self, live: LiveDispatch, index: int, reason: str) -> None:
        task = live.tasks[index]
        live.built.discard(index)
        if task.state in FINAL:
            return
        live.move(index, Event.RAISED, self._shared.now(), f"The sublattice {task.task.name} can't run: {reason}")
        task.graph = None
        self._collector.after_move(live)


async def _refuse(_: Mapping[str, Any]) -> NoReturn:  # Any: JSON
    raise UserError("nothing here takes dispatches in.")


def child_of(row: ChildRow, manifest: Manifest, live: LiveDispatch) -> tuple[Child, Graph]:
    """Return what the store knows of a child dispatch, whose tasks come next in a dispatch that is being loaded."""
    graph = moved(read_graph(manifest), len(live.tasks), len(live.blobs))
    level = None if row.task == PART else live.tasks[row.task].level
    child = Child(
        id=row.id,
        name=row.name,
        task=row.task,
        depth=1 if level is None else level.depth + 1,
        first=row.first,
        count=row.n_tasks,
        output=graph.output,
        output_deps=graph.output_deps,
    )
    return child, graph
