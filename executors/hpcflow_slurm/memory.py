"""Was it killed for its memory? Slurm's word for that needs cgroups; without them its accounting of steps tells."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from hpcflow.core.batch import decoded
from hpcflow.core.model import JobId, Resources

__all__ = ["BOOKS", "Used", "limit_kib", "used_apart"]

# $1 an option of sacct or nothing, the rest the arguments of the question. Where Slurm polls memory instead of using
# cgroups (JobAcctGatherParams=OverMemoryKill), what it kills ends as FAILED 0:9, like anything that gets a SIGKILL
# (22.05). Only the batch step's row tells them apart, and rows of steps cost slurmdbd a query for each job: so they are
# asked for only of such jobs, and printed first, so that no answer that was cut can have lost them alone.
BOOKS: Final = """
option=$1
shift
booked=$(sacct $option "$@") || exit
killed=$(printf '%s\\n' "$booked" | awk -F'|' '
    $2 == "FAILED" && $3 == "0:9" && n++ < 200 { printf "%s%s", comma, $1; comma = "," }
')
if [ -n "$killed" ]; then
    used=$(sacct $option -n -P -j "$killed" -o JobID,MaxRSS,ReqMem) || exit
    printf '%s\\n' "$used" | sed 's/^/used|/'
fi
[ -z "$booked" ] || printf '%s\\n' "$booked"
""".strip()

# A step of one array task, or itself, with its largest memory and what was asked for: "214384K", "64M", "4Gn", "1Gc".
_USED: Final = re.compile(
    r"used\|([1-9][0-9]*)_([0-9]+)((?:\.\w+)?)\|([0-9.]*[KMGT]?)\|([0-9.]*[KMGT]?[nc]?)", re.ASCII
)
_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)([KMGT]?)([nc]?)")
_KIB: Final[Mapping[str, float]] = {"": 1 / 1024, "K": 1, "M": 1024, "G": 1024**2, "T": 1024**3}


@dataclass(slots=True)
class Used:
    """What accounting says about one array task's memory."""

    #: Of its largest process tree, in KiB; 0: no sample.
    largest_kib: int = 0
    #: What it asked for, as sacct writes it.
    asked: str = ""


def used_apart(stdout: bytes) -> tuple[bytes, Mapping[tuple[JobId, int], Used]]:
    """Return sacct's rows, and what the lines about memory say; a line that is neither stays among the rows."""
    rows: list[bytes] = []
    used: dict[tuple[JobId, int], Used] = {}
    for line in stdout.splitlines(keepends=True):
        found = _USED.fullmatch(decoded(line).rstrip("\r\n")) if line.endswith(b"\n") else None
        if found is None:
            rows.append(line)
            continue
        about = used.setdefault((JobId(found[1]), int(found[2])), Used())
        size = _SIZE.fullmatch(found[4])
        if size is not None:
            about.largest_kib = max(about.largest_kib, int(float(size[1]) * _KIB[size[2]]))
        if not found[3]:
            about.asked = found[5]
    return b"".join(rows), used


def limit_kib(text: str, resources: Resources) -> float:
    """Return sacct's ReqMem in KiB for one node; 0 for no limit, or for what can't be read.

    Source: sacct(1); since 21.08 it is of the whole job, before that of a node ("4Gn") or of a core ("1Gc").
    """
    size = _SIZE.fullmatch(text)
    if size is None:
        return 0
    kib = float(size[1]) * _KIB[size[2]]
    match size[3]:
        case "n":
            return kib
        case "c":
            return kib * resources.cores / resources.nodes
        case _:
            return kib / resources.nodes
