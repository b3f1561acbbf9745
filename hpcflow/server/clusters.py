"""The named places to run: settings, plugin, transport, keys and what each cluster last said about itself."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from hpcflow.core.model import ClusterName, HpcflowError, Limits, UserError
from hpcflow.core.places import Places
from hpcflow.core.plugin import Plugin
from hpcflow.server import plugins
from hpcflow.server.remote import File, ThisMachine, Transport
from hpcflow.server.settings import ClusterSettings, Settings
from hpcflow.server.zipapp import build_worker

__all__ = ["LOCAL", "Cluster", "find_clusters"]

LOCAL: Final = ClusterName("local")
_PROBE_DEADLINE_S: Final = 5.0
_LIMITS_HOLD: Final = timedelta(minutes=10)
_LIMITS_DEADLINE_S: Final = 30.0


@dataclass(slots=True)
class Cluster:
    """One place to run."""

    name: ClusterName
    settings: ClusterSettings
    plugin: Plugin
    transport: Transport
    #: hpcflow's directory there: bags/, bin/ and the `local` scheduler's own files.
    root: str
    #: Signs bags and journals; lies in a file that only the user can read, outside of ``root``.
    key: bytes
    key_path: str
    worker_path: str
    #: What the scheduler called itself when it was last asked.
    version: str = ""
    #: Why it did not answer last time; ``None``: it did, or nobody asked.
    problem: str | None = None
    limits: Limits | None = None
    limits_at: datetime | None = None
    _placed: bool = False
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def known_limits(self, now: datetime) -> Limits:
        """Return the cluster's limits, asked for at most every ten minutes; stale ones when it does not answer.

        Raises:
            HpcflowError: it was never asked with success and does not answer now.
        """
        async with self._asking:
            if self.limits is not None and self.limits_at is not None and now - self.limits_at < _LIMITS_HOLD:
                return self.limits
            await self.place_worker()  # the commands of `local` are the worker's
            reply = await self.transport.run(self.plugin.limits(), _LIMITS_DEADLINE_S)
            try:
                self.limits, self.limits_at, self.problem = self.plugin.parse_limits(reply), now, None
                self.version = f"{self.limits.scheduler} {self.limits.version}".strip()
            except HpcflowError as error:
                self.problem = str(error)
                if self.limits is None:
                    raise
            return self.limits

    async def probe(self) -> str:
        """Return scheduler and version; raise `HpcflowError` when it does not answer within 5 s."""
        await self.place_worker()
        reply = await self.transport.run(self.plugin.probe(), _PROBE_DEADLINE_S)
        try:
            self.version, self.problem = self.plugin.parse_probe(reply), None
        except HpcflowError as error:
            self.problem = str(error)
            raise
        return self.version

    async def place_worker(self) -> None:
        """Put the worker where compute nodes find it, once per version."""
        if not self._placed:
            name, data = _worker()
            await self.transport.push(os.path.dirname(self.worker_path), (), [File(name, [data])])
            self._placed = True

    def bag_path(self, bag: str) -> str:
        return os.path.join(self.root, "bags", bag)


_built: list[tuple[str, bytes]] = []


def _worker() -> tuple[str, bytes]:
    """The worker's zipapp, assembled once per process."""
    if not _built:
        _built.append(build_worker())
    return _built[0]


async def find_clusters(
    where: Places,
    settings: Settings,
    configured: Mapping[str, ClusterSettings],
    environ: Mapping[str, str],
    python: str,
) -> tuple[dict[ClusterName, Cluster], ClusterName, str]:
    """Return all clusters, the default one, and a sentence that says why it is the default.

    ``local`` is always there. A scheduler that clusters.toml does not name and whose submit command is on PATH is a
    cluster under the scheduler's name, and the default one when it answers within 5 s.

    Raises:
        UserError: clusters.toml or the default executor names what does not exist.
    """
    make = _maker(where, environ, python)
    clusters = {ClusterName(name): make(name, table) for name, table in configured.items()}
    clusters.setdefault(LOCAL, make(LOCAL, ClusterSettings(scheduler=LOCAL)))
    found: list[Cluster] = []
    for scheduler in plugins.found_on_path(environ.get("PATH", "")):
        if any(cluster.settings.scheduler == scheduler for cluster in clusters.values()):
            continue
        cluster = make(scheduler, ClusterSettings(scheduler=scheduler))
        clusters[cluster.name] = cluster
        found.append(cluster)
        with suppress(HpcflowError):  # who names it all the same is told why it does not answer
            await cluster.probe()
    default, reason = _default(settings, clusters, found)
    return clusters, default, reason


def _default(
    settings: Settings, clusters: Mapping[ClusterName, Cluster], found: Sequence[Cluster]
) -> tuple[ClusterName, str]:
    if settings.default_executor:
        if settings.default_executor not in clusters:
            raise UserError(
                f"default_executor is {settings.default_executor!r}; the clusters are {', '.join(sorted(clusters))}."
            )
        return ClusterName(settings.default_executor), "as default_executor says"
    for cluster in found:
        if cluster.problem is None:
            return cluster.name, f"because {cluster.version} answers here"
    others = [cluster.name for cluster in clusters.values() if cluster.name != LOCAL and cluster not in found]
    if len(others) == 1:
        return others[0], "the one cluster of clusters.toml"
    if found:
        return LOCAL, f"because {found[0].name} does not answer: {(found[0].problem or '').rstrip('.')}"
    return LOCAL, "because no scheduler was found on this machine"


def _maker(where: Places, environ: Mapping[str, str], python: str) -> Callable[[str, ClusterSettings], Cluster]:
    def make(name: str, table: ClusterSettings) -> Cluster:
        root = table.workdir or where.work(name)
        app, _ = _worker()
        worker_path = os.path.join(root, "bin", app.removesuffix(".pyz"), app)
        key, key_path = _key(where, name)
        plugin = plugins.load(table.scheduler)(python=table.python or python, worker=worker_path, root=root)
        return Cluster(
            name=ClusterName(name),
            settings=table,
            plugin=plugin,
            transport=ThisMachine(environ),
            root=root,
            key=key,
            key_path=key_path,
            worker_path=worker_path,
        )

    return make


def _key(where: Places, cluster: str) -> tuple[bytes, str]:
    """Return a cluster's key and its file, made at first use."""
    path = os.path.join(where.keys, cluster)
    os.makedirs(where.keys, mode=0o700, exist_ok=True)
    try:
        with open(path, "rb") as file:
            return file.read(), path
    except FileNotFoundError:
        pass
    key = secrets.token_bytes(32)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(key)
        file.flush()
        os.fsync(fd)
    return key, path
