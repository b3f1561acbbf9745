"""The queue as qstat and pbsnodes show it: everybody's jobs, every queue, every node."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from hpcflow.core.batch import BROKEN, MARK, count, decoded
from hpcflow.core.model import Phase, Stuck
from hpcflow.core.plugin import Command, Reply
from hpcflow.core.queue import NodeState, QueuedJob, QueueNode, QueuePartition, QueueView, told
from hpcflow.core.words import counted
from hpcflow_pbs.answer import Record, Wanted, read_answer, read_object
from hpcflow_pbs.limits import as_object, nodes_of
from hpcflow_pbs.reasons import SUSPENDED, in_plain_words
from hpcflow_pbs.text import first_words, instant, mib, seconds

__all__ = ["parse_queue", "queue"]

Json = Mapping[str, Any]  # Any: JSON

_ENVIRONMENT: Final = {"TZ": "UTC"}
# Constant text. A site may hide nodes from its users.
_PLACES: Final = (
    f"id -un && echo '{MARK}' && qstat -Q -f -F json && echo '{MARK}' && {{ pbsnodes -a -F json || true; }} && "
    f"echo '{MARK}'"
)
#: Without ids: everybody's jobs, as far as the site shows them, an array as one. Without -x: none that has ended.
_JOBS: Final = ("qstat", "-f", "-F", "json")

_WANTED: Final[Wanted] = {
    "": frozenset(
        {
            *("Job_Name", "Job_Owner", "job_state", "queue", "comment", "Hold_Types", "Account_Name", "depend"),
            *("qtime", "stime", "exec_host", "array_state_count", "array_indices_submitted"),
            *("array_indices_remaining", "max_run_subjobs"),
        }
    ),
    "Resource_List": frozenset({"walltime", "ncpus", "nodect", "ngpus"}),
    "estimated": frozenset({"start_time"}),
}
_PENDING: Final = frozenset("QHWT")
_RUNNING: Final = frozenset("RESUB")
_COUNTS: Final = re.compile(r"\b(Queued|Running|Exiting):([0-9]+)")

_COMMENT: Final = re.compile(r'"comment":.*')

#: Words of a node's state, of which it may have several; the first of these that it has decides (23.06).
_NODES: Final[Sequence[tuple[str, NodeState]]] = (
    *((word, NodeState.DOWN) for word in ("down", "offline", "state-unknown", "stale", "unresolvable", "sleep")),
    *((word, NodeState.DOWN) for word in ("provisioning", "wait-provisioning", "initializing", "maintenance")),
    *((word, NodeState.RESERVED) for word in ("resv-exclusive",)),
    *((word, NodeState.ALLOCATED) for word in ("job-exclusive", "job-busy", "busy")),
    ("free", NodeState.IDLE),
)


def queue() -> tuple[Command, ...]:
    """Return qstat about everybody's jobs, and one command about queues and nodes."""
    return (
        Command(_JOBS, environment=_ENVIRONMENT),
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
    answer = read_answer(reply, _WANTED)
    problems += answer.problems
    if not answer.whole and (reply.exit_code != 0 or not answer.jobs):
        return None
    rows: list[QueuedJob] = []
    unread = 0
    for key, record in answer.jobs.items():
        if key.endswith("]") and not key.endswith("[]"):
            continue  # some builds list elements as well
        try:
            rows += _rows(key, record)
        except ValueError:
            unread += 1
    if unread:
        problems.append(f"qstat showed {counted(unread, 'job')} that can't be read.")
    return tuple(rows)


def _rows(key: str, record: Record) -> Iterator[QueuedJob]:
    """Yield a job, or what waits and what runs of an array, of which PBS does not tell what is suspended."""
    state, queue_name, owner = (str(record.get(name, "")) for name in ("job_state", "queue", "Job_Owner"))
    if not queue_name or not owner or not re.fullmatch(r"[A-Z]", state):
        raise ValueError(key)
    if not key.endswith("[]"):
        if state in _PENDING:
            yield _row(key, record, Phase.PENDING, indices=None, tasks=1)
        elif state in _RUNNING:
            yield _row(key, record, Phase.RUNNING, indices=None, tasks=1)
        return
    counts = {word: int(number) for word, number in _COUNTS.findall(str(record.get("array_state_count", "")))}
    if len(counts) != 3:
        raise ValueError(key)
    left = str(record.get("array_indices_remaining", "")).strip("- ")
    at_once = record.get("max_run_subjobs")
    if counts["Queued"]:
        which = left or (str(record.get("array_indices_submitted", "")) if state in "QH" else "")
        indices = f"{which}%{at_once}" if which and at_once and "%" not in which else which or None
        yield _row(key, record, Phase.PENDING, indices=indices, tasks=counts["Queued"])
    if running := counts["Running"] + counts["Exiting"]:
        yield _row(key, record, Phase.RUNNING, indices=None, tasks=running)


def _row(key: str, record: Record, phase: Phase, *, indices: str | None, tasks: int) -> QueuedJob:
    state, comment = str(record["job_state"]), str(record.get("comment", ""))
    pending = phase is Phase.PENDING
    holds, depend = str(record.get("Hold_Types", "n")), str(record.get("depend", ""))
    reason = comment if pending and not comment.startswith("Job Array Began") else ""
    if state == "H" and not comment:
        reason = f"Hold_Types={holds}" + (f" depend={depend}" if depend else "")
    waits = "Q" if state == "B" else state
    number = key.removesuffix("[]")
    start = _time(record.get("estimated.start_time")) if pending else None
    stuck = None
    if pending and state == "H":
        # What waits for another job is held by PBS itself until that has ended.
        stuck = None if depend and "u" not in holds and "o" not in holds else Stuck.HELD
    elif pending and comment.startswith("Can Never Run"):
        stuck = Stuck.NEVER
    host = record.get("exec_host")
    return QueuedJob(
        job_id=number,
        indices=indices,
        tasks=tasks,
        name=str(record.get("Job_Name", "")),
        user=str(record["Job_Owner"]).partition("@")[0],
        account=str(record["Account_Name"]) if "Account_Name" in record else None,
        partition=str(record["queue"]),
        phase=phase,
        suspended=not pending and state in SUSPENDED,
        raw=state,
        reason=reason or None,
        why=in_plain_words(f"{waits} {reason}".strip()) if pending or state in SUSPENDED else None,
        stuck=stuck,
        nodes=count(record.get("Resource_List.nodect")),
        cores=count(record.get("Resource_List.ncpus")),
        gpus=count(record.get("Resource_List.ngpus")),
        walltime_s=seconds(str(record.get("Resource_List.walltime", ""))),
        submitted_at=_time(record.get("qtime")),
        started_at=None if pending else _time(record.get("stime")),
        hosts=_hosts(str(host)) if host is not None and not pending else None,
        starts_at=start,
        starts_from=None if start is None else "scheduler",
    )


def _time(value: str | int | None) -> datetime | None:
    try:
        return instant(value)
    except ValueError:
        return None  # "UNSET", or a release's own way


def _hosts(text: str) -> str | None:
    names = dict.fromkeys(part.partition("/")[0] for part in text.split("+"))
    return ",".join(name for name in names if name) or None


# ---- queues and nodes


def _places(reply: Reply, problems: list[str]) -> tuple[str | None, list[QueuePartition], tuple[QueueNode, ...] | None]:
    parts = decoded(reply.stdout).replace("\r\n", "\n").split(f"{MARK}\n")
    if reply.exit_code != 0 or len(parts) != 4 or parts[3].strip():
        how = "did not end" if reply.exit_code is None else f"ended with {reply.exit_code}"
        problems.append(f"qstat -Q or pbsnodes {how}: {first_words(decoded(reply.stderr))}.")
        return None, [], None
    queues, nodes = (_objects(part, group) for part, group in ((parts[1], "Queue"), (parts[2], "nodes")))
    user = next((name.strip() for name in reversed(parts[0].split("\n")) if name.strip()), None)
    if user is not None and BROKEN in user:
        user = None
    if not queues:
        problems.append("qstat -Q gave no whole answer.")
    if not nodes:
        problems.append("pbsnodes told of no nodes: the site hides them, or its answer was damaged.")
    rows = None
    if nodes:
        members: dict[str, list[str]] = {name: [] for name in nodes}
        for queue, served in nodes_of(queues, nodes).items():
            if queues[queue].get("queue_type") != "Route":
                for name in served:
                    members[name].append(queue)
        rows = tuple(_node(name, node, tuple(members[name]) if queues else None) for name, node in nodes.items())
    return user, [_partition(name, each) for name, each in queues.items()], rows


def _objects(text: str, group: str) -> Mapping[str, Json]:
    """Return queues or nodes by name; none of them when bytes of it are no text, but for what people wrote."""
    return {} if BROKEN in _COMMENT.sub("", text) else read_object(text, group)


def _partition(name: str, queue: Json) -> QueuePartition:
    enabled, started = queue.get("enabled"), queue.get("started")
    known = {"True", "False"}
    words = [
        f"{'' if value == 'True' else 'not '}{word}"
        for word, value in (("enabled", enabled), ("started", started))
        if value in known
    ]
    most = queue.get("resources_max")
    return QueuePartition(
        name=name,
        open=enabled == started == "True" if enabled in known and started in known else None,
        raw=", ".join(words),
        max_walltime_s=seconds(str(most.get("walltime", ""))) if isinstance(most, dict) else None,
    )


def _node(name: str, node: Json, partitions: tuple[str, ...] | None) -> QueueNode:
    has, taken = as_object(node.get("resources_available")), as_object(node.get("resources_assigned"))
    raw = str(node.get("state", ""))
    cores, used = count(has.get("ncpus")), count(taken.get("ncpus", 0))
    words = {word.strip().lower() for word in raw.split(",")}
    state = next((state for word, state in _NODES if word in words), NodeState.UNKNOWN)
    if state is NodeState.IDLE and used:
        state = NodeState.MIXED
    return QueueNode(
        name=name,
        state=state,
        raw=raw,
        partitions=partitions,
        cores=cores,
        cores_used=used,
        memory_mib=mib(has.get("mem")),
        gpus=count(has.get("ngpus")),
        reason=str(node["comment"]) if node.get("comment") else None,
    )
