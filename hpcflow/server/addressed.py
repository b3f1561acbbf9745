"""Finds the cluster that an executor means which names a scheduler, a host and a user instead of a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from hpcflow.core.model import UserError

__all__ = ["name_clusters", "named"]


class Described(Protocol):
    """What clusters.toml says of a cluster."""

    @property
    def scheduler(self) -> str: ...
    @property
    def host(self) -> str | None: ...


def name_clusters(manifest: Mapping[str, Any], clusters: Mapping[str, Described]) -> None:  # Any: JSON
    """Write the names of clusters into a manifest whose executors name hosts or schedulers.

    That is for good: clusters.toml may change. Covalent's "dask" is this machine.

    Raises:
        UserError: there is no such cluster, or several.
    """
    schedulers = {table.scheduler for table in clusters.values()}
    for shape in manifest.get("shapes", ()):
        wanted = shape.get("executor") or ""
        if not wanted or wanted in clusters:
            continue
        if wanted == "dask" and "local" in clusters:
            shape["executor"] = "local"
        elif ":" in wanted:
            shape["executor"] = named(wanted, clusters)
        elif wanted in schedulers:
            shape["executor"] = named(f"{wanted}:", clusters)


def named(wanted: str, clusters: Mapping[str, Described]) -> str:
    """Return which cluster ``scheduler:user@host`` is; user, and host with it, may be left out.

    Raises:
        UserError: there is no such cluster, or several.
    """
    scheduler, _, place = wanted.partition(":")
    user, _, host = place.rpartition("@")
    if not host and scheduler in clusters:
        return scheduler
    found = [
        name
        for name, table in clusters.items()
        if (not scheduler or table.scheduler == scheduler) and (not host or _is(table.host, user, host))
    ]
    exact = [name for name in found if host and (clusters[name].host or "").rpartition("@")[2] == host]
    match exact or found:
        case [only]:
            return only
        case []:
            under = f" under {scheduler!r}" if scheduler else ""
            at = f" whose host is {place.lstrip('@')!r}" if host else ""
            login = f"{user}@{host}" if user else host
            how = f"`hpcflow clusters add NAME --scheduler {scheduler or 'slurm'}{' --host ' + login if host else ''}`"
            raise UserError(
                f"There is no cluster{under}{at}; {how} describes it, once. The clusters are "
                f"{', '.join(sorted(clusters))}."
            )
        case several:
            raise UserError(
                f"Several clusters fit the executor {wanted!r}: {', '.join(sorted(several))}. Name one by cluster=."
            )


def _is(own: str | None, user: str, host: str) -> bool:
    """Say whether a cluster's host is the one that is meant: an alias may be the first part of a name."""
    if own is None:
        return host in {"localhost", "127.0.0.1"}
    name, _, place = own.rpartition("@")
    if user and name and user != name:
        return False
    return host.casefold() == place.casefold() or host.partition(".")[0].casefold() == place.casefold()
