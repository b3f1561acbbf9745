"""The queue as squeue and sinfo show it: everybody's jobs, every node."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from hpcflow.core.batch import BROKEN, MARK, decoded
from hpcflow.core.model import Phase
from hpcflow.core.plugin import Command, Reply
from hpcflow.core.queue import NodeState, QueuedJob, QueueNode, QueuePartition, QueueView, told, with_ahead
from hpcflow.core.words import counted
from hpcflow_slurm.reasons import in_plain_words, of_nodes
from hpcflow_slurm.states import SUSPENDED, state_of, stuck_of
from hpcflow_slurm.text import count, first_words, gpus, instant, seconds

__all__ = ["parse_queue", "queue"]

_ENVIRONMENT: Final = {"SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0", "TZ": "UTC"}
# The name comes last: a name may hold any character. Without --array what waits of an array is one row.
_JOB_FIELDS: Final = "%i|%T|%r|%P|%a|%u|%D|%C|%b|%l|%V|%S|%Q|%N|%j"
_BARS: Final = _JOB_FIELDS.count("|")
# So does the reason that an administrator wrote.
_NODE_FIELDS: Final = "%N|%P|%a|%l|%T|%C|%m|%G|%E"
# $1 the format. Constant text. What has no mark at its end was cut.
_JOBS: Final = f"id -un && squeue --noheader --format=\"$1\" && echo '{MARK}'"
_PLACES: Final = f"sinfo --noheader --Node --format=\"$1\" && echo '{MARK}'"

_JOB: Final = re.compile(r"([1-9][0-9]*)(?:_([0-9]+|\[[0-9,:-]+(?:%[0-9]+)?\])|\+[0-9]+)?")
_SPAN: Final = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9})(?::([0-9]{1,9}))?)?")
#: A line that begins so is a row, whatever else it is; others are noise, or the rest of a name with line ends in it.
_ROW: Final = re.compile(r"[1-9][0-9]*(?:_[0-9\[]|\+|\|)")
_NOTHING: Final = frozenset({"", "N/A", "(null)", "None", "none", "None assigned"})

#: What reasons begin with that keep a job in the line, where those of higher priority go first: it waits for room.
_IN_LINE: Final = frozenset(
    {"Priority", "Resources", "None", "", "WaitingForScheduling", "SchedDefer", "ReqNodeNotAvail"}
    | {"Nodes required for job are DOWN"}
)

#: sinfo(1), 22.05 to 24.11, without the marks behind a state.
_NODES: Final[Mapping[str, NodeState]] = {
    "idle": NodeState.IDLE,
    "planned": NodeState.IDLE,
    "mixed": NodeState.MIXED,
    "allocated": NodeState.ALLOCATED,
    "completing": NodeState.ALLOCATED,
    "draining": NodeState.ALLOCATED,
    "failing": NodeState.ALLOCATED,
    "reserved": NodeState.RESERVED,
    "maint": NodeState.RESERVED,
    "blocked": NodeState.RESERVED,
    "down": NodeState.DOWN,
    "drained": NodeState.DOWN,
    "fail": NodeState.DOWN,
    "error": NodeState.DOWN,
    "inval": NodeState.DOWN,
    "future": NodeState.DOWN,
    "powered_down": NodeState.DOWN,
    "powering_down": NodeState.DOWN,
    "reboot": NodeState.DOWN,
    "reboot_issued": NodeState.DOWN,
    "rebooting": NodeState.DOWN,
}
#: They take no further job.
_LEAVING: Final = frozenset({"draining", "failing"})
_CLEAR: Final = frozenset({NodeState.IDLE, NodeState.MIXED, NodeState.ALLOCATED, NodeState.DOWN})
#: "*": it does not respond; "^": it reboots; "$": in a reservation for maintenance.
_MARKED: Final[Mapping[str, NodeState]] = {"*": NodeState.DOWN, "^": NodeState.DOWN, "$": NodeState.RESERVED}
#: Others: asleep, waking up, to be rebooted, planned for a job.
_MARKS: Final = "*^$~#!%@-+"


def queue() -> tuple[Command, ...]:
    """Return squeue about everybody's jobs, and sinfo about every node."""
    return (
        Command(("sh", "-c", _JOBS, "hpcflow-queue", _JOB_FIELDS), environment=_ENVIRONMENT),
        Command(("sh", "-c", _PLACES, "hpcflow-nodes", _NODE_FIELDS), environment=_ENVIRONMENT),
    )


def parse_queue(replies: Sequence[Reply]) -> QueueView:
    """Read both; a line that can't be read is left out, and said."""
    problems: list[str] = []
    user, jobs, all_jobs = _jobs(replies[0], problems)
    partitions, nodes, all_nodes = _nodes(replies[1], problems)
    counted = told(partitions, nodes=nodes if all_nodes else None, jobs=jobs if all_jobs else None, user=user)
    if jobs is not None and nodes is not None and all_nodes:
        jobs = tuple(_explained(jobs, nodes))
    return QueueView(user=user, partitions=counted, nodes=nodes, jobs=jobs, problems=tuple(problems))


def _explained(jobs: Iterable[QueuedJob], nodes: Sequence[QueueNode]) -> Iterator[QueuedJob]:
    """Yield the jobs, those that wait for nodes with what is known of the nodes that they may use."""
    told: dict[str, tuple[int, int] | None] = {}
    for job in jobs:
        if job.reason is not None and job.partition not in told:
            names = set(job.partition.split(","))
            own = [node for node in nodes if names.intersection(node.partitions or ())]
            away = [node for node in own if node.state is NodeState.DOWN or node.raw.rstrip(_MARKS) in _LEAVING]
            # Who keeps a reserved node, and what an unknown state means, is not told.
            clear = all(node.state in _CLEAR for node in own)
            told[job.partition] = (len(away), len(own)) if clear else None
        counts = told.get(job.partition)
        why = None
        if job.reason is not None and counts is not None:
            why = of_nodes(f"{job.raw} {job.reason}", job.partition, *counts)
        yield job if why is None else replace(job, why=why)


def _whole_lines(program: str, reply: Reply, problems: list[str]) -> list[str] | None:
    """Return the lines of a whole answer, ``None`` for anything else."""
    lines = decoded(reply.stdout).replace("\r\n", "\n").split("\n")[:-1]
    if reply.exit_code != 0:
        how = "did not end" if reply.exit_code is None else f"ended with {reply.exit_code}"
        problems.append(f"{program} {how}: {first_words(decoded(reply.stderr))}.")
        return None
    if MARK not in lines:
        problems.append(f"{program}'s answer was cut.")
        return None
    return lines[: lines.index(MARK)]


# ---- jobs


def _jobs(reply: Reply, problems: list[str]) -> tuple[str | None, tuple[QueuedJob, ...] | None, bool]:
    """Return the user, the jobs, and whether they are all."""
    lines = _whole_lines("squeue", reply, problems)
    if lines is None:
        return None, None, False
    rows: dict[tuple[str, str | None], QueuedJob] = {}
    first = next((place for place, line in enumerate(lines) if _ROW.match(line)), len(lines))
    # A login script may print before the name.
    user = next((line.strip() for line in reversed(lines[:first]) if line.strip()), "")
    unread = sum(line.count("|") >= _BARS or (BROKEN in line and "|" in line) for line in lines[:first])
    for line in lines[first:]:
        try:
            job = _job(line)
        except ValueError:
            unread += bool(_ROW.match(line)) or line.count("|") >= _BARS or (BROKEN in line and "|" in line)
            continue
        unread += _swallowed(job.name if job is not None else line, _BARS)
        if job is not None:
            rows.setdefault((job.job_id, job.indices), job)
    jobs = list(rows.values())
    if unread:
        problems.append(f"squeue printed {counted(unread, 'row')} that can't be read.")
    sound = user and BROKEN not in user
    return (user if sound else None), tuple(jobs if unread else with_ahead(jobs)), not unread


def _swallowed(words: str, bars: int) -> bool:
    """Say whether free text at the end of a row holds the row after it, because the line's end was damaged."""
    return BROKEN in words and words.count("|") >= bars


def _job(line: str) -> QueuedJob | None:
    """Read one row; ``None`` for a job that has ended."""
    cells = line.split("|", _BARS)
    if len(cells) != _BARS + 1 or BROKEN in "".join(cells[:-1]):
        raise ValueError(line)
    job, word, reason, partition, account, user, nodes, cores, gres, limit, submit, start, priority, hosts, name = cells
    found = _JOB.fullmatch(job)
    if found is None or not user or not partition:
        raise ValueError(job)
    phase, _, _ = state_of(word, job)
    if phase is Phase.ENDED:
        return None
    which = found[2] and found[2].strip("[]")
    pending = phase is Phase.PENDING
    node_count = count(nodes)
    begins = instant(start)
    waits = reason if pending else None
    raw = word if reason in _NOTHING else f"{word} {reason}"
    return QueuedJob(
        job_id=found[1],
        indices=which,
        tasks=_tasks(which) if which else 1,
        name=name,
        user=user,
        account=None if account in _NOTHING else account,
        partition=partition,
        phase=phase,
        suspended=word in SUSPENDED,
        raw=word,
        reason=None if waits in _NOTHING else waits,
        why=in_plain_words(raw) if pending or word in SUSPENDED else None,
        stuck=stuck_of(word, reason)[0] if pending else None,
        nodes=node_count,
        cores=count(cores),
        gpus=None if (each := gpus(gres)) is None else each * (node_count or 1),
        walltime_s=seconds(limit),
        submitted_at=instant(submit),
        started_at=None if pending else begins,
        hosts=None if pending or hosts in _NOTHING else hosts,
        starts_at=begins if pending else None,
        starts_from=None if not pending or begins is None else "begin time" if reason == "BeginTime" else "scheduler",
        priority=count(priority) if pending and reason.partition(",")[0] in _IN_LINE else None,
    )


def _tasks(which: str) -> int:
    """Count "2-3,8-20:4%2"."""
    total = 0
    for part in which.partition("%")[0].split(","):
        found = _SPAN.fullmatch(part)
        if found is None:
            raise ValueError(which)
        first, last, step = int(found[1]), int(found[2] or found[1]), int(found[3] or 1)
        total += max(0, last - first) // max(1, step) + 1
    return total


# ---- nodes


def _nodes(reply: Reply, problems: list[str]) -> tuple[list[QueuePartition], tuple[QueueNode, ...] | None, bool]:
    """Return partitions, nodes, and whether they are all."""
    lines = _whole_lines("sinfo", reply, problems)
    if lines is None:
        return [], None, False
    nodes: dict[str, QueueNode] = {}
    members: dict[str, list[str]] = {}
    partitions: dict[str, QueuePartition] = {}
    unread = 0
    for line in lines:
        cells = line.split("|", 8)
        state = _state(cells[4]) if len(cells) == 9 else None
        cores = cells[5].split("/") if len(cells) == 9 else []
        if state is None or len(cores) != 4 or BROKEN in "".join(cells[:-1]):
            # Noise has few columns; so has the rest of a reason with line ends in it.
            unread += line.count("|") > 3 or BROKEN in line
            continue
        name, label, up, limit, raw, _, memory, gres, reason = cells
        unread += _swallowed(reason, 8)
        partition = label.rstrip("*")
        partitions[partition] = QueuePartition(
            name=partition,
            is_default=label.endswith("*"),
            open=up == "up",
            raw=up,
            max_walltime_s=seconds(limit),
        )
        members.setdefault(name, []).append(partition)
        nodes[name] = QueueNode(
            name=name,
            state=state,
            raw=raw,
            partitions=tuple(dict.fromkeys(members[name])),
            cores=count(cores[3]),
            cores_used=count(cores[0]),
            memory_mib=count(memory),
            gpus=gpus(gres),
            reason=None if reason in _NOTHING else reason,
        )
    if unread:
        problems.append(f"sinfo printed {counted(unread, 'row')} that can't be read.")
        nodes = {name: replace(node, partitions=None) for name, node in nodes.items()}
    return list(partitions.values()), tuple(nodes.values()), not unread


def _state(word: str) -> NodeState | None:
    """Return what a node's state means; ``None`` for what is no state."""
    base = word.rstrip(_MARKS)
    if not re.fullmatch(r"[a-z_]{3,}", base):
        return None
    marked = next((_MARKED[mark] for mark in word[len(base) :] if mark in _MARKED), None)
    return marked or _NODES.get(base, NodeState.UNKNOWN)
