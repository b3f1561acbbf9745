"""The queue as bjobs, bqueues and bhosts show it: everybody's jobs, every queue, every host."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from hpcflow.core.batch import BROKEN, MARK, count, decoded
from hpcflow.core.model import Phase
from hpcflow.core.plugin import Command, Reply
from hpcflow.core.queue import NodeState, QueuedJob, QueueNode, QueuePartition, QueueView, spans, told
from hpcflow_lsf.limits import queue_sections
from hpcflow_lsf.query import hosts_of, read_records
from hpcflow_lsf.reasons import SUSPENDED, in_plain_words
from hpcflow_lsf.states import ALIVE, stuck_of
from hpcflow_lsf.text import first_words, instant, run_limit_s

__all__ = ["parse_queue", "queue"]

_ENVIRONMENT: Final = {"TZ": "UTC", "LSB_DISPLAY_YEAR": "Y"}
_FIELDS: Final = (
    *("jobid", "jobindex", "job_name", "user", "proj_name", "queue", "stat", "pend_reason", "nreq_slot"),
    *("exec_host", "runtimelimit", "submit_time", "start_time", "estimated_start_time"),
)
# Constant text.
_PLACES: Final = f"id -un && echo '{MARK}' && bqueues -l && echo '{MARK}' && bhosts -w && echo '{MARK}'"

_JOB: Final = re.compile(r"([1-9][0-9]*)(?:\[([0-9]+)\])?")
_NOBODY: Final = re.compile(r"^No (?:unfinished |matching )?job found\s*$")

#: bhosts(1), 10.1; "closed" ones by what follows. A host that is "ok" may have jobs.
_HOSTS: Final[Mapping[str, NodeState]] = {
    "closed_Full": NodeState.ALLOCATED,
    "closed_Excl": NodeState.ALLOCATED,
    "closed_cu_Excl": NodeState.ALLOCATED,
    "closed_Busy": NodeState.ALLOCATED,
    "closed_Wind": NodeState.RESERVED,
    "closed_Adm": NodeState.DOWN,
    "closed_Lock": NodeState.DOWN,
    "closed_LIM": NodeState.DOWN,
    "closed_EGO": NodeState.DOWN,
    "closed_RC": NodeState.DOWN,
    "closed": NodeState.DOWN,
    "unavail": NodeState.DOWN,
    "unreach": NodeState.DOWN,
    "unlicensed": NodeState.DOWN,
}


def queue() -> tuple[Command, ...]:
    """Return bjobs about everybody's jobs, and one command about queues and hosts."""
    return (
        Command(("bjobs", "-u", "all", "-json", "-o", " ".join(_FIELDS)), environment=_ENVIRONMENT),
        Command(("sh", "-c", _PLACES), environment=_ENVIRONMENT),
    )


def parse_queue(replies: Sequence[Reply]) -> QueueView:
    """Read both; a record that can't be read is left out, and said."""
    problems: list[str] = []
    jobs = _jobs(replies[0], problems)
    all_jobs = not problems
    user, partitions, nodes = _places(replies[1], problems)
    counted = told(partitions, nodes=nodes, jobs=jobs if all_jobs else None, user=user)
    return QueueView(user=user, partitions=counted, nodes=nodes, jobs=jobs, problems=tuple(problems))


# ---- jobs


def _jobs(reply: Reply, problems: list[str]) -> tuple[QueuedJob, ...] | None:
    said = decoded(reply.stdout)
    if reply.exit_code is None:
        problems.append(f"bjobs did not end: {first_words(decoded(reply.stderr))}.")
        return None
    records = read_records(said)
    if records is None:
        lines = [line for line in (said + decoded(reply.stderr)).splitlines() if line.strip()]
        if lines and all(_NOBODY.match(line) for line in lines if "Please wait" not in line):
            return ()
        problems.append(f"bjobs gave no whole answer: {first_words(decoded(reply.stderr) or said)}.")
        return None
    rows: list[tuple[QueuedJob, int]] = []
    unread = 0
    for record in records:
        try:
            rows.append(_job(record))
        except ValueError:
            unread += 1
    if unread:
        problems.append(f"bjobs gave {unread} records that can't be read.")
    return tuple(_together(rows))


def _job(record: Mapping[str, str]) -> tuple[QueuedJob, int]:
    """Return one element, and its index, which is 0 where there is no array."""
    if not all(name.upper() in record for name in _FIELDS):
        raise ValueError("a field is missing")
    cells = {name: record[name.upper()] for name in _FIELDS}
    found = _JOB.fullmatch(cells["jobid"])
    phase = ALIVE.get(cells["stat"])
    told_of = [text for name, text in cells.items() if name != "job_name"]
    if found is None or phase is None or not cells["user"] or not cells["queue"] or BROKEN in "".join(told_of):
        raise ValueError(cells["jobid"])
    if not cells["jobindex"].isdigit():
        raise ValueError(cells["jobindex"])
    index = int(found[2] or cells["jobindex"])
    pending = phase is Phase.PENDING
    reason = cells["pend_reason"].strip("- ") if pending else ""
    stuck, _ = stuck_of(cells["stat"], reason) if pending else (None, None)
    hosts = None if pending else hosts_of(cells["exec_host"])
    start = instant(cells["estimated_start_time"]) if pending else None
    row = QueuedJob(
        job_id=found[1],
        indices=str(index) if index else None,
        name=cells["job_name"].partition("[")[0],
        user=cells["user"],
        account=cells["proj_name"].strip("-") or None,
        partition=cells["queue"],
        phase=phase,
        suspended=cells["stat"] in SUSPENDED,
        raw=cells["stat"],
        reason=reason or None,
        why=in_plain_words(f"{cells['stat']} {reason}".strip()) if pending or cells["stat"] in SUSPENDED else None,
        stuck=stuck,
        nodes=hosts.count(",") + 1 if hosts else None,
        cores=count(cells["nreq_slot"]),
        walltime_s=run_limit_s(cells["runtimelimit"]),
        submitted_at=instant(cells["submit_time"]),
        started_at=None if pending else instant(cells["start_time"]),
        hosts=hosts,
        starts_at=start,
        starts_from=None if start is None else "scheduler",
    )
    return row, index


def _together(rows: Iterable[tuple[QueuedJob, int]]) -> list[QueuedJob]:
    """Return one row for all elements of an array that wait for the same; bjobs has one for each."""
    alone: list[QueuedJob] = []
    waiting: dict[QueuedJob, set[int]] = {}
    for row, index in rows:
        if row.phase is Phase.PENDING and index:
            waiting.setdefault(replace(row, indices=None), set()).add(index)
        else:
            alone.append(row)
    return alone + [
        replace(row, indices=spans(sorted(indices)), tasks=len(indices)) for row, indices in waiting.items()
    ]


# ---- queues and hosts


def _places(reply: Reply, problems: list[str]) -> tuple[str | None, list[QueuePartition], tuple[QueueNode, ...] | None]:
    parts = decoded(reply.stdout).replace("\r\n", "\n").split(f"{MARK}\n")
    if reply.exit_code != 0 or len(parts) != 4 or parts[3].strip():
        how = "did not end" if reply.exit_code is None else f"ended with {reply.exit_code}"
        problems.append(f"bqueues or bhosts {how}: {first_words(decoded(reply.stderr) or parts[-1])}.")
        return None, [], None
    names = [line.strip() for line in parts[0].split("\n") if line.strip()]
    sections = {} if BROKEN in parts[1] else dict(queue_sections(parts[1]))
    if not sections:
        problems.append("bqueues gave no whole answer.")
    served = {name: _served(text) for name, text in sections.items()}
    nodes = None if BROKEN in parts[2] or not sections else _nodes(parts[2], served)
    if nodes is None:
        problems.append("bhosts gave no whole answer.")
    user = names[-1] if names and BROKEN not in names[-1] else None
    return user, [_partition(name, text) for name, text in sections.items()], nodes


def _partition(name: str, text: str) -> QueuePartition:
    status = re.search(r"\b((?:Open|Closed):(?:Active|Inact(?:_Win|_Adm)?))\b", text)
    limit = re.search(r"^ *RUNLIMIT *\n *([0-9.]+) min", text.partition("MAXIMUM LIMITS:")[2] or text, re.MULTILINE)
    return QueuePartition(
        name=name,
        open=None if status is None else status[1] == "Open:Active",
        raw=status[1] if status else "",
        max_walltime_s=run_limit_s(limit[1]) if limit else None,
    )


def _served(text: str) -> frozenset[str] | None:
    """Return the hosts of a queue, an empty set for all of them, ``None`` where groups are named."""
    found = re.search(r"^HOSTS: *(.*)$", text, re.MULTILINE)
    words = found[1].split() if found else []
    if words[:1] == ["all"]:
        return frozenset()
    names = frozenset(word.partition("+")[0] for word in words)
    return names if names and not any("/" in name or "~" in name for name in names) else None


def _nodes(text: str, served: Mapping[str, frozenset[str] | None]) -> tuple[QueueNode, ...] | None:
    lines = [line.split() for line in text.split("\n") if line.strip()]
    head = next((place for place, cells in enumerate(lines) if cells[:2] == ["HOST_NAME", "STATUS"]), None)
    if head is None or not {"MAX", "NJOBS"} <= set(lines[head]):
        return None
    at = {word: place for place, word in enumerate(lines[head])}
    groups = any(hosts is None for hosts in served.values())
    nodes: dict[str, QueueNode] = {}
    for cells in lines[head + 1 :]:
        if len(cells) != len(lines[head]) or cells == lines[head]:
            continue
        name, raw = cells[0], cells[at["STATUS"]]
        cores, used = count(cells[at["MAX"]]), count(cells[at["NJOBS"]])
        state = _HOSTS.get(raw, NodeState.UNKNOWN)
        if raw == "ok":
            state = NodeState.MIXED if used else NodeState.IDLE
        partitions = tuple(
            queue for queue, hosts in served.items() if hosts is not None and (not hosts or name in hosts)
        )
        nodes[name] = QueueNode(
            name=name,
            state=state,
            raw=raw,
            partitions=None if groups else partitions,
            cores=cores,
            cores_used=used,
        )
    return tuple(nodes.values())
