"""What an LSF cluster can give: its version, its queues and its hosts in one command."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from hpcflow.core.batch import MARK, decoded, not_found
from hpcflow.core.model import WORKER_MEMORY_MIB, ArrayLimits, HpcflowError, Limits, Partition
from hpcflow.core.plugin import Command, Reply
from hpcflow_lsf.text import first_words, kib

__all__ = ["limits", "parse_limits", "parse_probe", "probe", "queue_sections"]

# Constant text; nothing of a user's is ever put into it.
_LIMITS: Final = (
    f"lsid && echo '{MARK}' && bparams -a && echo '{MARK}' && bqueues -l && echo '{MARK}' && {{ lshosts -w || true; }}"
)

#: bjobs -json came with 10.1.0.2.
_OLDEST: Final = (10, 1, 0, 2)
_VERSION: Final = re.compile(r"\bLSF\b[^\n]*?\b([0-9]+(?:\.[0-9]+)+)")
_CLUSTER: Final = re.compile(r"^My cluster name is (\S+)", re.MULTILINE)
_DEFAULT_WIDTH: Final = 1000
_QUEUE: Final = re.compile(r"^QUEUE: (\S+)", re.MULTILINE)
_RUN_LIMIT: Final = re.compile(r"^ *RUNLIMIT *\n *([0-9]+(?:\.[0-9]+)?) min", re.MULTILINE)
_MEMORY_LIMIT: Final = re.compile(r"\bMEMLIMIT\b[^\n]*\n *([0-9.]+ [KMGT])\b")


def probe() -> Command:
    """Ask for the version, and whether the master host answers."""
    return Command(("lsid",))


def parse_probe(reply: Reply) -> str:
    """Return "LSF 10.1.0.12, cluster summit".

    Raises:
        HpcflowError: no lsid here, an LSF that is too old, OpenLava, or no master host that answers.
    """
    said, complaint = decoded(reply.stdout), decoded(reply.stderr)
    if not_found(reply):
        raise HpcflowError("There is no LSF here: `lsid` was not found on PATH.")
    version = _version(said)
    cluster = _CLUSTER.search(said)
    if reply.exit_code == 0 and version is not None and cluster is not None:
        return f"LSF {version}, cluster {cluster[1]}"
    raise HpcflowError(f"LSF's master host does not answer: {first_words(complaint or said)}.")


def limits() -> Command:
    """Ask for the version, the parameters, the queues and the hosts."""
    return Command(("sh", "-c", _LIMITS))


def parse_limits(reply: Reply) -> Limits:
    """Read parameters, queues and hosts.

    Raises:
        HpcflowError: no answer, a cut one, or an LSF that is too old.
    """
    if not_found(reply):
        raise HpcflowError("There is no LSF here: `lsid` or `bqueues` was not found on PATH.")
    parts = decoded(reply.stdout).split(f"{MARK}\n")
    version = _version(parts[0])
    if reply.exit_code != 0 or len(parts) != 4 or version is None or not _QUEUE.search(parts[2]):
        raise HpcflowError(f"LSF did not tell its limits: {first_words(decoded(reply.stderr))}.")
    size = re.search(r"\bMAX_JOB_ARRAY_SIZE\s*=\s*([0-9]+)", parts[1])
    defaults = re.search(r"^\s*(?:Default Queues:|DEFAULT_QUEUE\s*=)\s*(\S+)", parts[1], re.MULTILINE)
    return Limits(
        # The highest index, too, which is the same for indices from 1 on.
        array=ArrayLimits(max_width=int(size[1]) if size else _DEFAULT_WIDTH),
        partitions=_partitions(parts[2], parts[3], defaults[1] if defaults else ""),
        scheduler="lsf",
        version=version,
        notes={name: found[1] for name in _NOTES if (found := re.search(rf"\b{name}\s*=\s*(\S+)", parts[1]))},
    )


#: Kept for people: what explains a refusal or a delay.
_NOTES: Final = ("CLEAN_PERIOD", "MAX_PEND_JOBS", "MAX_PEND_SLOTS", "JOB_TERMINATE_INTERVAL")


def _version(said: str) -> str | None:
    """Return LSF's version.

    Raises:
        HpcflowError: it is OpenLava, or older than what `bjobs -json` needs.
    """
    if "openlava" in said.lower():
        raise HpcflowError("This is OpenLava, not Spectrum LSF: without `bjobs -json` hpcflow can't serve it.")
    found = _VERSION.search(said)
    if found is None:
        return None
    numbers = tuple(int(part) for part in found[1].split("."))
    if (*numbers, 0, 0, 0)[:4] < _OLDEST:
        raise HpcflowError(f"This is LSF {found[1]}: hpcflow needs `bjobs -json`, which came with LSF 10.1.0.2.")
    return found[1]


def _partitions(queues: str, hosts: str, default: str) -> tuple[Partition, ...]:
    """Return one partition for each queue; every host is taken to serve all of them."""
    has = _hosts(hosts)
    return tuple(
        _limited(replace(has, name=name, is_default=name == default), text) for name, text in queue_sections(queues)
    )


def queue_sections(said: str) -> list[tuple[str, str]]:
    """Return what ``bqueues -l`` says of each queue, by its name."""
    starts = list(_QUEUE.finditer(said))
    ends = [*(start.start() for start in starts[1:]), len(said)]
    return [(start[1], said[start.end() : end]) for start, end in zip(starts, ends, strict=True)]


def _limited(queue: Partition, text: str) -> Partition:
    """Return a queue with the limits that bqueues shows of it; default limits may stand before them."""
    most = text.partition("MAXIMUM LIMITS:")[2] or text.partition("DEFAULT LIMITS:")[0]
    limit, memory = _RUN_LIMIT.search(most), _MEMORY_LIMIT.search(most)
    sizes = [queue.memory_mib_per_node, (kib(memory[1]) or 0) // 1024 or None if memory else None]
    here = min((size for size in sizes if size is not None), default=None)
    return replace(
        queue,
        max_walltime_s=int(float(limit[1]) * 60) or None if limit else None,
        memory_mib_per_node=None if here is None else max(0, here - WORKER_MEMORY_MIB),
    )


def _hosts(text: str) -> Partition:
    """Return what ``lshosts -w`` says: the most cores and memory that a host has, and how many hosts run jobs."""
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if not lines or not {"ncpus", "maxmem", "server"} <= set(lines[0]):
        return Partition(name="")
    at = {name: place for place, name in enumerate(lines[0])}
    rows = [cells for cells in lines[1:] if len(cells) > at["server"] and cells[at["server"]] == "Yes"]
    return Partition(
        name="",
        cpus_per_node=_largest(int(cells[at["ncpus"]]) for cells in rows if cells[at["ncpus"]].isdigit()),
        memory_mib_per_node=_largest(size // 1024 for cells in rows if (size := kib(cells[at["maxmem"]])) is not None),
        total_nodes=len(rows) or None,
    )


def _largest(numbers: Iterable[int]) -> int | None:
    return max(numbers, default=None)
