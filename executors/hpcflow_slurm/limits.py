"""What a Slurm cluster can give: `scontrol show config` and `sinfo` in one command."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from hpcflow.core.batch import MARK, decoded, not_found
from hpcflow.core.model import WORKER_MEMORY_MIB, ArrayLimits, HpcflowError, Limits, Partition
from hpcflow.core.plugin import Command, Reply
from hpcflow_slurm.text import count, first_words, gpus, seconds

__all__ = ["limits", "parse_limits", "parse_probe", "probe"]

# Constant text; nothing of a user's is ever put into it.
_LIMITS: Final = (
    "scontrol show config && "
    f"echo '{MARK}' && "
    # -e: one row for each kind of node in a partition, so that %c and %m are numbers and not "16+".
    "sinfo --noheader --exact --format='%P|%l|%s|%D|%c|%m|%G|%h' && "
    f"echo '{MARK}'"
)
_PROBE: Final = "scontrol --version && scontrol ping"

#: Kept for people: what explains a refusal or a delay.
_NOTES: Final = ("ClusterName", "EnforcePartLimits", "JobRequeue", "KillWait", "MaxJobCount", "MinJobAge", "SelectType")


def probe() -> Command:
    """Ask for the version, and whether a controller answers."""
    return Command(("sh", "-c", _PROBE))


def parse_probe(reply: Reply) -> str:
    """Return "Slurm 22.05.8, controller vm".

    Raises:
        HpcflowError: no scontrol here, or no controller that answers.
    """
    said = decoded(reply.stdout)
    up = re.search(r"^Slurmctld\(\w+\) at (\S+) (?:is|are) UP", said, re.MULTILINE)
    version = re.search(r"^slurm\S* ([0-9][\w.-]*)", said, re.MULTILINE)
    if reply.exit_code == 0 and up:
        return f"Slurm {version[1] if version else '(version unknown)'}, controller {up[1]}"
    if not_found(reply):
        raise HpcflowError("There is no Slurm here: `scontrol` was not found on PATH.")
    if " is DOWN" in said:
        raise HpcflowError("Slurm's controller is down: `scontrol ping` says so. Jobs that run go on without it.")
    if "Could not establish a configuration source" in decoded(reply.stderr):
        raise HpcflowError(
            "Slurm is installed on this machine and not set up: its commands find no slurm.conf. Where there is one, "
            "SLURM_CONF names it."
        )
    raise HpcflowError(f"Slurm did not answer `scontrol ping`: {first_words(decoded(reply.stderr))}.")


def limits() -> Command:
    """Ask for configuration and partitions."""
    return Command(("sh", "-c", _LIMITS))


def parse_limits(reply: Reply) -> Limits:
    """Read configuration and partitions.

    Raises:
        HpcflowError: no answer, a cut one, or a cluster where job arrays are turned off.
    """
    if not_found(reply):
        raise HpcflowError("There is no Slurm here: `scontrol` or `sinfo` was not found on PATH.")
    parts = decoded(reply.stdout).split(f"{MARK}\n")
    if reply.exit_code != 0 or len(parts) != 3:
        raise HpcflowError(f"Slurm did not tell its limits: {first_words(decoded(reply.stderr))}.")
    config = _config(parts[0])
    try:
        size = int(config["MaxArraySize"])
    except (KeyError, ValueError) as error:
        raise HpcflowError("`scontrol show config` names no MaxArraySize: hpcflow can't size its arrays.") from error
    # A further cap, where an administrator set one (slurm.conf(5), SchedulerParameters).
    capped = re.search(r"\bmax_array_tasks=([0-9]+)", config.get("SchedulerParameters", ""))
    width = min(size, int(capped[1])) if capped else size
    if width < 1:
        raise HpcflowError("This cluster has job arrays turned off (MaxArraySize is 0): hpcflow can't run on it.")
    return Limits(
        array=ArrayLimits(max_width=width),
        partitions=_partitions(parts[1]),
        scheduler="slurm",
        version=config.get("SLURM_VERSION", ""),
        accounting=config.get("AccountingStorageType", "").endswith("/slurmdbd"),
        notes={key: config[key] for key in _NOTES if key in config},
    )


def _config(text: str) -> Mapping[str, str]:
    pairs = (line.partition("=") for line in text.splitlines())
    return {key.strip(): value.strip() for key, equals, value in pairs if equals}


def _partitions(text: str) -> tuple[Partition, ...]:
    """Return one partition for each name, with the largest of each number over its kinds of nodes."""
    found: dict[str, Partition] = {}
    for line in text.splitlines():
        cells = line.split("|")
        if len(cells) != 8:
            continue
        label, walltime, size, nodes, cpus, memory, gres, sharing = cells
        name = label.rstrip("*")
        before = found.get(name, Partition(name=name))
        found[name] = Partition(
            name=name,
            is_default=label.endswith("*"),
            max_walltime_s=seconds(walltime),
            # "1-infinite", "1-4", "4"
            max_nodes=count(size.rpartition("-")[2]),
            cpus_per_node=_largest(count(cpus), before.cpus_per_node),
            memory_mib_per_node=_largest(_for_tasks(count(memory)), before.memory_mib_per_node),
            gpus_per_node=_largest(gpus(gres) or 0, before.gpus_per_node),
            total_nodes=(count(nodes) or 0) + (before.total_nodes or 0),
            # OverSubscribe=EXCLUSIVE in slurm.conf; NO, YES:4 and FORCE:4 are the others (22.05).
            exclusive=sharing.strip() == "EXCLUSIVE",
        )
    return tuple(found.values())


def _largest(one: int | None, other: int | None) -> int | None:
    return max((number for number in (one, other) if number is not None), default=None)


def _for_tasks(memory_mib: int | None) -> int | None:
    """Return what a node's memory leaves for a task: the worker beside it needs some."""
    return None if memory_mib is None else max(0, memory_mib - WORKER_MEMORY_MIB)
