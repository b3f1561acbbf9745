"""What the API asks about clusters: what is known of them, who comes and goes, logging in to one, testing one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from hpcflow.core.model import ClusterName, HpcflowError, NotFound
from hpcflow.core.places import Places
from hpcflow.server.cluster_file import add_table, remove_table
from hpcflow.server.clusters import Cluster
from hpcflow.server.engine import Engine
from hpcflow.server.finding import Default
from hpcflow.server.queues import Queues, answer
from hpcflow.server.remote import NeedsLogin, UnknownHost
from hpcflow.server.remote.known_hosts import remember
from hpcflow.server.remote.login import Logins, Question
from hpcflow.server.reports import spelled
from hpcflow.server.settings import ClusterSettings, cluster_settings
from hpcflow.server.settings_schema import typed
from hpcflow.server.trial import Asked, Trial

__all__ = ["Roster"]

Json = dict[str, Any]  # Any: JSON, described in cluster_schema.py

#: Drafts of clusters that nobody has added yet, at most: each may hold a connection.
_DRAFTS_KEPT: Final = 4


class Roster:
    """The clusters of one server, as people see them."""

    def __init__(
        self,
        engine: Engine,
        where: Places,
        default: Default,
        *,
        make: Callable[[str, ClusterSettings], Cluster],
        came: Callable[[], Awaitable[None]],
        new_id: Callable[[], str],
    ) -> None:
        """Take the clusters of an engine.

        Args:
            engine: serves them.
            where: has clusters.toml.
            default: which of them is the default one.
            make: makes a cluster of a name and its table.
            came: is called when there is one more.
            new_id: makes ids.
        """
        self._engine = engine
        self._where = where
        self._default = default
        self._make = make
        self._came = came
        self._new_id = new_id
        self._logins = Logins()
        self.queues = Queues(poll_s=engine.settings.queue_poll, deadline_s=engine.settings.command_deadline)
        #: Clusters that somebody is about to add, by name; nothing but their connections exists of them.
        self._drafts: dict[str, Cluster] = {}
        self._trials: dict[str, Trial] = {}
        self._changing = asyncio.Lock()

    async def close(self) -> None:
        """End what people are at, and all connections; what runs on clusters goes on."""
        await self._logins.close()
        for trial in self._trials.values():
            await trial.close()
        await self.queues.close()
        for cluster in (*self._drafts.values(), *self._engine.clusters.values()):
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
            "unknown_since": spelled(cluster.unknown_since),
            "site": cluster.site.said(),
            "partitions": [asdict(partition) for partition in cluster.limits.partitions] if cluster.limits else [],
            "max_array_size": cluster.limits.array.max_width if cluster.limits else None,
            "claims": None if cluster.verdict is None else cluster.claims,
            "default": cluster.name == self._default.name,
        }

    def _known(self, name: str) -> Cluster:
        cluster = self._engine.clusters.get(ClusterName(name)) or self._drafts.get(name)
        if cluster is None:
            raise self._no_such(name)
        return cluster

    def _no_such(self, name: str) -> NotFound:
        return NotFound(f"There is no cluster {name!r}; the clusters are {', '.join(sorted(self._engine.clusters))}.")

    # ---- its queue

    async def queue(self, name: str, *, mine: bool, nodes: bool, limit: int, ask: bool = True) -> Json:
        """Return a cluster's queue, from the last look when that is young enough, or when nothing shall be asked."""
        cluster = self._known(name)
        if ask:
            look = await self.queues.look(cluster, self._engine.now(), self._submitted(cluster))
        else:
            look = self.queues.last(cluster)
        now = self._engine.now()
        due_s = self.queues.due_s(cluster, now, self._submitted(cluster))

        def tell() -> Json:
            arrays = [row.array for row in self._engine.writer.store.open_arrays() if row.array.cluster == cluster.name]
            ours = {array.job_id: array.dispatch for array in arrays if array.job_id is not None}
            return answer(cluster, look, now, ours, mine=mine, nodes=nodes, limit=limit)

        poll_s = max(self.queues.poll_s, cluster.site.poll)
        asking_s = self.queues.asking_s(cluster.name)
        return {**await asyncio.to_thread(tell), "poll_s": poll_s, "due_s": due_s, "asking_s": asking_s}

    def _submitted(self, cluster: Cluster) -> datetime | None:
        """Return when an array that is not over went to a cluster last."""
        arrays = (array for bag in self._engine.bags.values() for array in bag.arrays)
        there = (array for array in arrays if array.open and array.array.cluster == cluster.name)
        return max((array.submitted_at for array in there if array.submitted_at is not None), default=None)

    # ---- coming and going

    async def draft(self, name: str, settings: Mapping[str, Any], accepted: Sequence[str]) -> Json:  # Any: JSON
        """Reach a cluster that may become one of ours; nothing is written but host keys that a person accepted.

        Args:
            name: what it shall be called.
            settings: its table of clusters.toml.
            accepted: fingerprints of host keys.

        Raises:
            UserError: it can't be called so, or the table holds what it can't.
            HpcflowError: there is one already, it can't be reached, its host key changed, or is not the accepted one.
        """
        if ClusterName(name) in self._engine.clusters:
            raise HpcflowError(
                f"There is a cluster {name!r} already; its table in {self._where.clusters} can be changed."
            )
        where = f"Cluster {name!r}"
        table = cluster_settings(where, name, typed(ClusterSettings, settings, f"{where}: "))
        cluster = self._drafts.get(name)
        if cluster is None or cluster.settings != table:
            cluster = await self._new_draft(name, table)
        answer: Json = {"state": "ok", "problem": None, "host_key": None}
        try:
            await _reach(cluster, accepted)
        except UnknownHost as unknown:
            if unknown.key is None:
                raise
            key = {name: getattr(unknown.key, name) for name in ("place", "kind", "fingerprint", "file")}
            return {"state": "unknown host", "problem": str(unknown), "host_key": key}
        except NeedsLogin as closed:
            return {**answer, "state": "needs login", "problem": str(closed)}
        return answer

    async def _new_draft(self, name: str, table: ClusterSettings) -> Cluster:
        cluster = self._make(name, table)
        dropped = [self._drafts.pop(name, None)]
        if len(self._drafts) >= _DRAFTS_KEPT:
            dropped.append(self._drafts.pop(next(iter(self._drafts))))
        self._drafts[name] = cluster
        for other in filter(None, dropped):
            await other.close()
        return cluster

    async def add(self, name: str) -> Json:
        """Write a draft to clusters.toml, and serve it from now on over the connection that it has.

        Raises:
            NotFound: there is no such draft.
            HpcflowError: clusters.toml can't be read or written, or names it already.
        """
        async with self._changing:
            cluster = self._drafts.get(name)
            if cluster is None and ClusterName(name) in self._engine.clusters:
                return self._change()  # it was asked for twice, because the first answer was lost
            if cluster is None:
                raise NotFound(f"Nobody has described a cluster {name!r}: `hpcflow clusters add {name}` does.")
            settings = cluster.settings.model_dump(mode="json", exclude_unset=True)
            await asyncio.to_thread(add_table, self._where.clusters, name, settings)
            del self._drafts[name]
            self._engine.add_cluster(cluster)
            await self._came()
        return self._change()

    async def remove(self, name: str) -> Json:
        """Take a cluster out of clusters.toml, and serve it no longer. What lies there stays there.

        Raises:
            HpcflowError: something runs or waits for it.
        """
        async with self._changing:
            cluster = self._engine.clusters.get(ClusterName(name))
            if cluster is None:
                raise self._no_such(name)
            if (why := self._engine.why_needed(cluster)) is not None:
                raise HpcflowError(f"{name!r} has {why}.")
            if name == self._engine.settings.default_executor:
                raise HpcflowError(f"{name!r} is the default_executor of your settings: change that first.")
            await asyncio.to_thread(remove_table, self._where.clusters, name)
            if (trial := self._trials.pop(name, None)) is not None:
                await trial.close()
            await self._engine.remove_cluster(cluster)
            self.queues.forget(cluster.name)
            await cluster.close()
        return self._change()

    def _change(self) -> Json:
        return {"file": self._where.clusters, "default": self._default.name, "reason": self._default.reason}

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
            if cluster.name in self._engine.clusters:
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

    async def test(self, name: str, asked: Asked) -> Json:
        """Begin to test a cluster, or join the test that goes on; return the steps so far."""
        cluster = self._known(name)
        trial = self._trials.get(name)
        if trial is None or trial.report.done:
            trial = self._trials[name] = Trial(
                cluster,
                asked,
                self._engine.settings,
                keep_at=self._where.verdict(name),
                now=self._engine.now,
                new_id=self._new_id,
            )
        return trial.report.told()

    async def tested(self, name: str, since: int, wait_s: float) -> Json:
        """Return the steps of the last test as soon as there is news of it, at the latest after ``wait_s``.

        Raises:
            NotFound: nobody has begun one since the server's start.
        """
        self._known(name)
        trial = self._trials.get(name)
        if trial is None:
            raise NotFound(f"Nobody has tested {name!r} since the server's start: `hpcflow clusters test {name}` does.")
        return await trial.report.changed(since, wait_s)


async def _reach(cluster: Cluster, accepted: Sequence[str]) -> None:
    """Connect, and write down every unknown host's key that was accepted; bastions come first.

    Raises:
        UnknownHost: a further host is unknown.
        HpcflowError: an unknown host shows another key than the accepted ones, or anything else is wrong.
    """
    if cluster.link is None:
        return
    left = list(accepted)
    while True:
        try:
            return await cluster.link.reach()
        except UnknownHost as unknown:
            key = unknown.key
            if key is None or not accepted or (len(left) < len(accepted) and key.fingerprint not in left):
                raise
            if key.fingerprint not in left:
                raise HpcflowError(
                    f"{key.place} shows the {key.kind} key {key.fingerprint}, and {', '.join(accepted)} was to be "
                    "accepted: no key was accepted, and nothing was written."
                ) from None
            left.remove(key.fingerprint)
            await asyncio.to_thread(remember, key)
