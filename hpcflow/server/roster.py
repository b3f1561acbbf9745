"""What the API asks about clusters: what is known of them, logging in to one, testing one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from hpcflow.core.model import ClusterName, HpcflowError, NotFound
from hpcflow.server.clusters import Cluster
from hpcflow.server.engine import Engine
from hpcflow.server.queues import Queues, answer
from hpcflow.server.remote.login import Logins, Question
from hpcflow.server.site import SiteError

__all__ = ["Roster"]

Json = dict[str, Any]  # Any: JSON, described in schema.py


class Roster:
    """The clusters of one server, as people see them."""

    def __init__(self, engine: Engine, default: ClusterName) -> None:
        self._engine = engine
        self._default = default
        self._logins = Logins()
        self.queues = Queues(poll_s=engine.settings.queue_poll, deadline_s=engine.settings.command_deadline)

    async def close(self) -> None:
        """End what people are at, and all connections; what runs on clusters goes on."""
        await self._logins.close()
        await self.queues.close()
        for cluster in self._engine.clusters.values():
            await cluster.close()

    def clusters(self) -> Json:
        return {"clusters": [self._told(cluster) for _, cluster in sorted(self._engine.clusters.items())]}

    def _told(self, cluster: Cluster) -> Json:
        return {
            "name": cluster.name,
            "scheduler": cluster.settings.scheduler,
            "version": cluster.version,
            "state": cluster.state,
            "problem": cluster.problem or cluster.site_problem,
            "site": cluster.site.said(),
            "partitions": [asdict(partition) for partition in cluster.limits.partitions] if cluster.limits else [],
            "max_array_size": cluster.limits.array.max_width if cluster.limits else None,
            "default": cluster.name == self._default,
        }

    def _known(self, name: str) -> Cluster:
        cluster = self._engine.clusters.get(ClusterName(name))
        if cluster is None:
            raise NotFound(
                f"There is no cluster {name!r}; the clusters are {', '.join(sorted(self._engine.clusters))}."
            )
        return cluster

    # ---- its queue

    async def queue(self, name: str, *, mine: bool, nodes: bool, limit: int) -> Json:
        """Return a cluster's queue, from the last look when that is young enough."""
        cluster = self._known(name)
        look = await self.queues.look(cluster, self._engine.now())
        now = self._engine.now()

        def tell() -> Json:
            arrays = [row.array for row in self._engine.writer.store.open_arrays() if row.array.cluster == cluster.name]
            ours = {array.job_id: array.dispatch for array in arrays if array.job_id is not None}
            return answer(cluster, look, now, ours, mine=mine, nodes=nodes, limit=limit)

        return {**await asyncio.to_thread(tell), "poll_s": max(self.queues.poll_s, cluster.site.poll)}

    # ---- logging in

    async def login(self, name: str) -> Json:
        """Begin a login; whoever begins another one ends the first.

        Raises:
            HpcflowError: the host is not reached, not who it should be, or takes no answer of a person.
        """
        cluster = self._known(name)
        login, question = await self._logins.begin(name, cluster.link)
        return await self._asked(cluster, login, question)

    async def answer(self, name: str, login: str, number: int, answers: Sequence[str]) -> Json:
        """Answer a question of a login; the same answer again changes nothing.

        Raises:
            NeedsLogin: the answer was wrong; nothing tries it again.
        """
        cluster = self._known(name)
        return await self._asked(cluster, login, await self._logins.answer(name, login, number, answers))

    async def _asked(self, cluster: Cluster, login: str, question: Question | None) -> Json:
        if question is None:
            with suppress(HpcflowError):  # that we are in is one thing, what the scheduler says another: `problem`
                await cluster.probe()
            self._engine.wake(cluster)
            return {"login": login, "question": None, "cluster": self._told(cluster)}
        asked = {
            "number": question.number,
            "host": question.challenge.host,
            "text": question.challenge.text,
            "prompts": [{"text": text, "echo": echo} for text, echo in question.challenge.prompts],
        }
        return {"login": login, "question": asked, "cluster": self._told(cluster)}

    # ---- testing

    async def test(self, name: str) -> Json:
        """Ask the scheduler for its version and limits, and put the worker in place, step by step."""
        cluster = self._known(name)
        steps: list[Json] = []

        async def scheduler() -> str:
            return await cluster.probe()

        async def site() -> str:
            await cluster.known_limits(self._engine.now())
            if cluster.site_problem is not None:
                raise SiteError(f"{cluster.site_problem} Until then what was read before holds on.")
            return cluster.site.said() or f"there is no {cluster.site_file}: your settings hold"

        async def limits() -> str:
            known = await cluster.known_limits(self._engine.now())
            partitions = ", ".join(partition.name for partition in known.partitions)
            books = "accounting is kept" if known.accounting else "no accounting: the queue alone is asked"
            return f"partitions {partitions}; arrays of up to {known.array.max_width}; {books}"

        async def workdir() -> str:
            await cluster.place_worker()
            return f"the worker is at {cluster.worker_path}"

        for step, ask, command in (
            ("scheduler answers", scheduler, cluster.plugin.probe()),
            *((("site's rules", site, None),) if cluster.site_file is not None else ()),
            ("limits", limits, cluster.plugin.limits()),
            ("work directory", workdir, None),
        ):
            spelled = " ".join(command.argv) if command is not None else None
            try:
                steps.append({"step": step, "ok": True, "detail": await ask(), "command": spelled})
            except HpcflowError as error:
                steps.append({"step": step, "ok": False, "detail": str(error), "command": spelled})
                break
        return {"ok": all(step["ok"] for step in steps), "steps": steps}
