"""Finds the clusters of a server: those of clusters.toml, those whose commands are here, and the default one."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from hpcflow.core.model import ClusterName, HpcflowError, UserError
from hpcflow.core.places import Places
from hpcflow.server import plugins
from hpcflow.server.clusters import LOCAL, Cluster, worker_path_in
from hpcflow.server.remote import ThisMachine
from hpcflow.server.settings import ClusterSettings, Settings
from hpcflow.server.site import SITE_FILE
from hpcflow.server.verdict import read_verdict

if TYPE_CHECKING:
    from hpcflow.server.remote.ssh import SshTransport

__all__ = ["Default", "cluster_maker", "find_clusters"]


async def find_clusters(
    where: Places,
    settings: Settings,
    configured: Mapping[str, ClusterSettings],
    environ: Mapping[str, str],
    python: str,
    *,
    site_file: str = SITE_FILE,
) -> tuple[dict[ClusterName, Cluster], Default]:
    """Return all clusters, and which of them is the default one.

    ``local`` is always there. A scheduler that clusters.toml does not name and whose submit command is on PATH is a
    cluster under the scheduler's name, and the default one when it answers within 5 s.

    Raises:
        UserError: clusters.toml or the default executor names what does not exist.
    """
    make = cluster_maker(where, settings, environ, python, site_file=site_file)
    clusters = {ClusterName(name): make(name, table) for name, table in configured.items()}
    clusters.setdefault(LOCAL, make(LOCAL, ClusterSettings(scheduler=LOCAL)))
    found: list[Cluster] = []
    for scheduler in plugins.found_on_path(environ.get("PATH", "")):
        if any(cluster.settings.scheduler == scheduler for cluster in clusters.values()):
            continue
        cluster = make(scheduler, ClusterSettings(scheduler=scheduler))
        cluster.incidental = True
        clusters[cluster.name] = cluster
        found.append(cluster)
        with suppress(HpcflowError):  # who names it all the same is told why it does not answer
            await cluster.probe()
    return clusters, Default(settings, clusters, found)


class Default:
    """The cluster of electrons that name none; another one, perhaps, when clusters come and go."""

    def __init__(
        self, settings: Settings, clusters: Mapping[ClusterName, Cluster], found: Sequence[Cluster] = ()
    ) -> None:
        """Decide among clusters.

        Args:
            settings: may name it.
            clusters: those there are, now and later.
            found: those of them that clusters.toml does not name. What they answered just now decides for good.

        Raises:
            UserError: the settings name what does not exist.
        """
        self._clusters = clusters
        self._chosen: tuple[ClusterName, str] | None = None
        self._otherwise = (LOCAL, "because no scheduler was found on this machine")
        self._found = {cluster.name for cluster in found}
        named = settings.default_executor
        if named and named not in clusters:
            raise UserError(f"default_executor is {named!r}; the clusters are {', '.join(sorted(clusters))}.")
        answering = [cluster for cluster in found if cluster.problem is None]
        if named:
            self._chosen = ClusterName(named), "as default_executor says"
        elif answering:
            self._chosen = answering[0].name, f"because {answering[0].version} answers here"
        elif found:
            problem = (found[0].problem or "").rstrip(".")
            self._otherwise = (LOCAL, f"because {found[0].name} does not answer: {problem}")

    @property
    def name(self) -> ClusterName:
        return self._choice()[0]

    @property
    def reason(self) -> str:
        """Why it is the default, to be said after a comma."""
        return self._choice()[1]

    def _choice(self) -> tuple[ClusterName, str]:
        if self._chosen is not None:
            return self._chosen
        others = [name for name in self._clusters if name != LOCAL and name not in self._found]
        return (others[0], "the one cluster of clusters.toml") if len(others) == 1 else self._otherwise


def cluster_maker(
    where: Places, settings: Settings, environ: Mapping[str, str], python: str, *, site_file: str = SITE_FILE
) -> Callable[[str, ClusterSettings], Cluster]:
    """Return what makes a cluster of a name and its table; nothing is connected before it is used."""

    def make(name: str, table: ClusterSettings) -> Cluster:
        root = table.workdir or where.work(name)
        worker_path = worker_path_in(root)
        key, key_path = _key(where, name)
        named = None if table.python == "auto" else table.python
        plugin = plugins.load(table.scheduler)(python=named or python, worker=worker_path, root=root)
        ssh = None if table.host is None else _by_ssh(name, table.host, table, settings)
        return Cluster(
            name=ClusterName(name),
            settings=table,
            plugin=plugin,
            transport=ssh or ThisMachine(environ),
            root=root,
            key=key,
            key_path=key_path,
            worker_path=worker_path,
            link=ssh,
            verdict=read_verdict(where.verdict(name)),
            notice=where.server_json if ssh is None and table.scheduler == LOCAL else None,
            # This machine's own processes are nobody's business but for where the server may run.
            site_file=None if ssh is None and table.scheduler == LOCAL else site_file,
        )

    return make


def _by_ssh(name: str, host: str, table: ClusterSettings, settings: Settings) -> SshTransport:
    """Return the way to a cluster behind ssh. asyncssh takes a while to import: servers without such clusters don't."""
    from hpcflow.server.remote.ssh import SshTransport

    if table.transport == "openssh":
        from hpcflow.server.remote.openssh import OpenSsh

        return SshTransport(OpenSsh(host, cluster=name, keepalive_s=settings.ssh_keepalive, channels=table.channels))
    from hpcflow.server.remote.connection import Connection

    return SshTransport(Connection(host, cluster=name, keepalive_s=settings.ssh_keepalive, channels=table.channels))


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
