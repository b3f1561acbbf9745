"""Settings for ``executor=``: a cluster, with annotations that hold where neither electron nor lattice wrote any."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from hpcflow.core.model import UserError
from hpcflow.sdk.annotations import ExecutorSettings
from hpcflow.sdk.base_executor import AsyncBaseExecutor, BaseExecutor
from hpcflow.sdk.executors import (
    DaskExecutor,
    HPCExecutor,
    LocalExecutor,
    LSFExecutor,
    PBSExecutor,
    SlurmExecutor,
    SSHExecutor,
)
from hpcflow.sdk.mistakes import show_plainly
from hpcflow.sdk.options import Options, parse_options

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "AsyncBaseExecutor",
    "BaseExecutor",
    "DaskExecutor",
    "ExecutorSettings",
    "HPCExecutor",
    "LSFExecutor",
    "Local",
    "LocalExecutor",
    "Lsf",
    "PBSExecutor",
    "Pbs",
    "SSHExecutor",
    "Slurm",
    "SlurmExecutor",
]


def Local(*, cluster: str = "local", **defaults: Unpack[Options]) -> ExecutorSettings:
    """Return settings for processes on the server's own machine."""
    return _settings("Local", cluster, defaults)


def Slurm(*, cluster: str = "slurm", **defaults: Unpack[Options]) -> ExecutorSettings:
    """Return settings for a Slurm cluster: ``Slurm(partition="debug", walltime="10 min")``.

    Args:
        cluster: its name in clusters.toml; "slurm" is the one that is found without configuration.
        defaults: annotations, the same as an electron's but for ``executor``.
    """
    return _settings("Slurm", cluster, defaults)


def Pbs(*, cluster: str = "pbs", **defaults: Unpack[Options]) -> ExecutorSettings:
    """Return settings for an OpenPBS or PBS Pro cluster: ``Pbs(partition="workq", walltime="10 min")``.

    Args:
        cluster: its name in clusters.toml; "pbs" is the one that is found without configuration.
        defaults: annotations, the same as an electron's but for ``executor``.
    """
    return _settings("Pbs", cluster, defaults)


def Lsf(*, cluster: str = "lsf", **defaults: Unpack[Options]) -> ExecutorSettings:
    """Return settings for a Spectrum LSF cluster: ``Lsf(partition="normal", walltime="10 min")``.

    Args:
        cluster: its name in clusters.toml; "lsf" is the one that is found without configuration.
        defaults: annotations, the same as an electron's but for ``executor``.
    """
    return _settings("Lsf", cluster, defaults)


def _settings(kind: str, cluster: str, defaults: Mapping[str, object]) -> ExecutorSettings:
    show_plainly()
    where = f"executor.{kind}"
    if "executor" in defaults:
        raise UserError(f"{where}: an executor has no executor of its own; name the cluster by cluster=.")
    if defaults.get("max_running") is not None:
        raise UserError(f"{where}: max_running belongs to an electron, a lattice, or a cluster in clusters.toml.")
    name = parse_options({"executor": cluster}, where).cluster
    if name is None:
        raise UserError(f"{where}: cluster=None names no cluster.")
    return ExecutorSettings(name, parse_options(defaults, where))
