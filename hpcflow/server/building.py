"""Holds tasks back whose packages are not installed on their cluster yet, and has them installed meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from hpcflow.core.model import DispatchId, Shape, UserError
from hpcflow.core.states import Event
from hpcflow.core.words import counted
from hpcflow.server.clusters import Cluster
from hpcflow.server.collect import Collector
from hpcflow.server.environments import BuildFailed, Environments, imports_of
from hpcflow.server.live import LiveDispatch
from hpcflow.server.remote import TransportError
from hpcflow.server.shared import Shared
from hpcflow.server.store import LeaseLost, StoreError

__all__ = ["Builder"]

logger = logging.getLogger(__name__)

#: Packages are named in so many letters at most.
_NAMED: Final = 80


@dataclass(slots=True)
class _Building:
    """One environment that somebody waits for."""

    task: asyncio.Task[None] | None = None
    #: Dispatches that wait for it and were told so.
    waiting: set[DispatchId] = field(default_factory=set[DispatchId])
    #: Why it can't be made; all that wait for it fail, and the next one who asks lets it be tried again.
    failure: str | None = None
    complaint: str | None = None
    #: Dispatches that were told that it is made.
    told: set[DispatchId] = field(default_factory=set[DispatchId])


class Builder:
    """One per engine."""

    def __init__(self, shared: Shared, collector: Collector, environments: Environments) -> None:
        self._shared = shared
        self._collector = collector
        self._environments = environments
        self._buildings: dict[str, _Building] = {}
        #: Dispatches and environments of which it is known that what functions import is there.
        self._checked: set[tuple[DispatchId, Shape]] = set()
        #: Where the work is done; set while the engine runs.
        self.group: asyncio.TaskGroup | None = None

    async def unbuilt(self, cluster: Cluster, live: LiveDispatch, shapes: Collection[Shape]) -> set[Shape]:
        """Return the shapes of which nothing may be submitted now: their packages are not there yet, or never will be.

        What can be installed is on its way after this; ready tasks of what can't have failed.
        """
        waiting: set[Shape] = set()
        for shape in shapes:
            if not self._environments.is_built(cluster, shape):
                waiting.add(shape)
                self._wait(cluster, live, shape)
            elif (shape.env.requirements or self._buildings) and (live.id, shape) not in self._checked:
                self._end(cluster, live, shape)
                await self._check(cluster, live, shape, waiting)
        if live.dirty or self._shared.writer.pending.messages:
            await self._shared.writer.flush()
        return waiting

    def _wait(self, cluster: Cluster, live: LiveDispatch, shape: Shape) -> None:
        """Let a dispatch wait for an environment, which is made from here on; fail its tasks when it could not be."""
        building = self._buildings.setdefault(cluster.environment_folder(shape), _Building())
        if building.failure is not None and live.id in building.waiting:
            building.waiting.discard(live.id)
            self._fail(live, shape, building.failure)
            return
        building.waiting.add(live.id)
        if building.task is None and self.group is not None:
            building.failure = building.complaint = None
            building.task = self.group.create_task(self._make(cluster, shape, building))

    def _end(self, cluster: Cluster, live: LiveDispatch, shape: Shape) -> None:
        building = self._buildings.get(cluster.environment_folder(shape))
        if building is not None:
            building.waiting.discard(live.id)
            if live.id in building.told:
                building.told.discard(live.id)
                self._shared.writer.say(live, f"It is installed on {cluster.name}; tasks that waited go on.")

    async def _make(self, cluster: Cluster, shape: Shape, building: _Building) -> None:
        try:
            while building.waiting & self._shared.writer.dispatches.keys():
                try:
                    await self._try(cluster, shape, building)
                    return
                except LeaseLost:
                    raise
                except StoreError:
                    logger.exception("%s: the store refused a message; trying again", cluster.name)
                await asyncio.sleep(self._shared.settings.after_fault)
        except LeaseLost:
            raise
        except Exception as error:  # one environment's fault must not stop the others
            logger.exception("%s: a fault while %s was made", cluster.name, shape.env)
            building.failure = f"The environment could not be made: {error!r}"
        finally:
            building.task = None
            self._shared.plan[cluster.name].set()

    async def _try(self, cluster: Cluster, shape: Shape, building: _Building) -> None:
        """Make an environment, or learn why that can't be; come back with either as long as the cluster is away."""
        while True:
            try:
                await self._environments.build(cluster, shape, partial(self._tell, cluster, shape, building))
                return
            except BuildFailed as error:
                building.failure = f"The environment could not be made. {error}"
                return
            except TransportError as error:
                await self._complain(cluster, building, str(error))
            await asyncio.sleep(self._shared.settings.after_fault)
            if not building.waiting & self._shared.writer.dispatches.keys():
                return

    async def _tell(self, cluster: Cluster, shape: Shape, building: _Building) -> None:
        python = ["Python {}.{}".format(*shape.python_version)] if cluster.wants_python(shape) else []
        names = ", ".join([*python, *(line for line in shape.env.requirements if not line.startswith("-"))])
        names = names if len(names) <= _NAMED else counted(len(shape.env.requirements), "package")
        new, building.told = building.waiting - building.told, building.told | building.waiting
        await self._say(new, f"Installing {names} on {cluster.name}, once; tasks that need it wait.")

    async def _complain(self, cluster: Cluster, building: _Building, said: str) -> None:
        text = f"Packages can't be installed on {cluster.name} now: {said}. Trying again."
        if text != building.complaint:
            building.complaint = text
            await self._say(building.waiting, text)

    async def _say(self, dispatches: Iterable[DispatchId], text: str) -> None:
        for dispatch in dispatches:
            if (live := self._shared.writer.dispatches.get(dispatch)) is not None:
                self._shared.writer.say(live, text)
        await self._shared.writer.flush()

    async def _check(self, cluster: Cluster, live: LiveDispatch, shape: Shape, waiting: set[Shape]) -> None:
        """Fail the tasks whose functions import what the environment has not, now that it is there."""
        imports = imports_of(shape, live.graph.tasks, [task.shape for task in live.tasks], live.imports)
        try:
            said = await self._environments.check(cluster, shape, imports, own_python=live.executable)
        except UserError as error:
            waiting.add(shape)
            self._fail(live, shape, str(error))
            return
        self._checked.add((live.id, shape))
        for sentence in said:
            self._shared.writer.say(live, sentence)

    def _fail(self, live: LiveDispatch, shape: Shape, reason: str) -> None:
        for index in sorted(live.ready):
            if live.tasks[index].shape == shape and index in live.ready:
                live.move(index, Event.REFUSED, self._shared.now(), reason)
        if live.too_many_failed:
            self._collector.stop(live)
        self._collector.close_if_done(live)
