"""The plugin of the `local` cluster: JSON to and from ``worker.pyz local VERB ROOT``, hpcflow's own scheduler.

Nothing of PSI/J is in it: PSI/J's local executor is a thread of the process that calls it, so that its jobs die or are
forgotten with the server. Ours are started by a program of their own and outlive it; its requests and answers are in
the docstring of ``hpcflow/node/local.py``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, ClassVar, Final

from hpcflow.core.model import (
    ArrayLimits,
    Cause,
    HpcflowError,
    JobArray,
    JobId,
    Limits,
    Observation,
    Observations,
    Partition,
    Phase,
    UserError,
)
from hpcflow.core.plugin import Accepted, Ambiguous, Command, Plugin, Refused, Reply, Submission
from hpcflow.core.queue import NodeState, QueuedJob, QueueNode, QueuePartition, QueueView, spans, told
from hpcflow.core.words import counted

__all__ = ["LocalPlugin"]

_REFUSED: Final = 3
_WRONG_REQUEST: Final = 64
_NOT_FOUND: Final = 127

#: No array needs more processes than this at once: a machine has fewer cores.
_MAX_WIDTH: Final = 4096

#: Annotations that only a cluster of several users has.
_CLUSTER_ONLY: Final = ("account", "qos", "constraint", "reservation", "licenses", "exclude", "extra")


class LocalPlugin:
    """This machine as a cluster of one node with one partition. Holds its three paths and no state."""

    name: ClassVar[str] = "local"

    def __init__(self, *, python: str, worker: str, root: str) -> None:
        """Make a plugin that runs ``worker`` with ``python`` and keeps its state below ``root``."""
        self._python = python
        self._worker = worker
        self._root = root

    def probe(self) -> Command:
        """Ask what this machine has."""
        return self._command("limits")

    def parse_probe(self, reply: Reply) -> str:
        """Return "local scheduler, 8 cores on node1"."""
        answer = _limits(reply)
        return f"local scheduler, {counted(answer['cores'], 'core')} on {answer['host']}"

    def limits(self) -> Command:
        """Ask what this machine has."""
        return self._command("limits")

    def parse_limits(self, reply: Reply) -> Limits:
        """Return one partition, "local", that is the machine."""
        answer = _limits(reply)
        machine = Partition(
            name="local",
            is_default=True,
            max_nodes=1,
            cpus_per_node=answer["cores"],
            memory_mib_per_node=answer["memory_mib"],
            gpus_per_node=answer["gpus"],
            total_nodes=1,
        )
        return Limits(
            array=ArrayLimits(max_width=_MAX_WIDTH),
            partitions=(machine,),
            bounded=False,
            scheduler="local",
            version=str(answer["version"]),
            notes={"host": str(answer["host"])},
        )

    def submit(self, array: JobArray) -> Command:
        """Return the request to start an array.

        Raises:
            UserError: more than one node, GPUs, or another annotation that this machine can't honour.
        """
        asked = array.resources
        if asked.nodes > 1:
            raise UserError(f"nodes={asked.nodes} can't run on `local`, which is one machine: choose another executor.")
        if asked.partition not in (None, "local"):
            raise UserError(f"partition={asked.partition!r} is unknown on `local`, which has no partitions.")
        if asked.gpus:
            raise UserError(f"gpus={asked.gpus} can't run on `local`, which has no GPUs to share out.")
        for name in _CLUSTER_ONLY:
            if getattr(asked, name):
                raise UserError(f"{name}={getattr(asked, name)!r} means nothing to `local`: leave it out there.")
        return self._command(
            "submit",
            {
                "token": array.token,
                "width": array.width,
                "command": list(array.command),
                "cpus": asked.cores,
                "memory_mib": asked.memory_mib,
                "walltime_s": array.worker_walltime_s,
                "path": array.path,
                "prologue": array.prologue,
                "dispatch": array.dispatch,
            },
        )

    def parse_submit(self, array: JobArray, reply: Reply) -> Submission:
        """Classify: the scheduler says itself when it surely refuses."""
        answer = _object(reply.stdout)
        if reply.exit_code == 0:
            job_id = answer.get("job_id")
            if isinstance(job_id, str) and job_id:
                return Accepted(JobId(job_id))
            return Ambiguous(f"the local scheduler answered without a job id: {_start(reply.stdout)}")
        if reply.exit_code == _REFUSED and isinstance(answer.get("error"), str):
            return Refused(answer["error"], retry_later=answer.get("retry_later") is True)
        if reply.exit_code in (_WRONG_REQUEST, _NOT_FOUND) and not reply.stdout.strip():
            return Refused(f"the local scheduler can't start {array.token}: {_start(reply.stderr)}")
        return Ambiguous(_ended(reply))

    def query(self, arrays: Sequence[JobArray], *, accounting: bool) -> tuple[Command, ...]:
        """Return one request for all; queue and accounting are the same files here."""
        del accounting
        return (self._command("query", {"tokens": [array.token for array in arrays]}),)

    def parse_query(self, arrays: Sequence[JobArray], replies: Sequence[Reply]) -> Observations:
        """Read the answer; an array in it that can't be read is unknown."""
        reply = replies[0]
        answer = _object(reply.stdout) if reply.exit_code == 0 else {}
        if not isinstance(answer.get("arrays"), dict):
            return Observations(rows=(), complete=frozenset(), problems=(_ended(reply),))
        rows: list[Observation] = []
        complete: set[str] = set()
        problems = [str(problem) for problem in answer.get("problems") or ()]
        for array in arrays:
            # Absent: unknown. None: surely never submitted here.
            found = answer["arrays"].get(array.token, ...)
            if found is ...:
                continue
            try:
                rows += () if found is None else _observations(array, found)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                problems.append(f"The local scheduler's answer about {array.token} can't be read: {error!r}.")
                continue
            complete.add(array.token)
        return Observations(rows=tuple(rows), complete=frozenset(complete), problems=tuple(problems))

    def queue(self) -> tuple[Command, ...]:
        """Return one request for all that has not ended."""
        return (self._command("queue"),)

    def parse_queue(self, replies: Sequence[Reply]) -> QueueView:
        """Return one partition with one node, and hpcflow's own jobs: this machine has no others."""
        answer = _object(replies[0].stdout) if replies[0].exit_code == 0 else {}
        try:
            return _queue(answer)
        except (KeyError, TypeError, ValueError, AttributeError):
            return QueueView(user=None, problems=(_ended(replies[0]),))

    def why_pending(self, raw: str) -> str | None:
        """Return nothing: our own scheduler speaks plainly."""
        del raw
        return None

    def cancel(self, arrays: Sequence[JobArray], *, pending_only: bool) -> Command:
        """Return one request for all."""
        return self._command("cancel", {"tokens": [array.token for array in arrays], "pending_only": pending_only})

    def release(self, arrays: Sequence[JobArray]) -> Command | None:
        """Return nothing: nobody can hold a job of ours."""
        return None

    def parse_cancel(self, reply: Reply) -> str | None:
        """Return ``None`` when the scheduler took the wish."""
        return None if reply.exit_code == 0 and "signalled" in _object(reply.stdout) else _ended(reply)

    def _command(self, verb: str, request: Mapping[str, Any] | None = None) -> Command:  # Any: JSON
        # -I: nothing of the user's (PYTHONPATH, user site, current directory) may change the scheduler.
        return Command(
            (self._python, "-I", self._worker, "local", verb, self._root),
            stdin=b"" if request is None else json.dumps(request).encode(),
        )


_conforms: type[Plugin] = LocalPlugin


def _observations(array: JobArray, found: Mapping[str, Any]) -> list[Observation]:  # Any: JSON
    """Return one observation for each array task; raise what reading broken JSON raises."""
    job_id, host = found["job_id"], found["host"]
    if not isinstance(job_id, str) or not job_id:
        raise ValueError(f"job id {job_id!r}")
    if [task["index"] for task in found["tasks"]] != list(range(array.width)):
        raise ValueError(f"not one row for each of {array.width} array tasks")
    rows: list[Observation] = []
    for task in found["tasks"]:
        phase = Phase(task["phase"])
        ended = phase is Phase.ENDED
        began, end = _instant(task["started_at"]), _instant(task["ended_at"])
        rows.append(
            Observation(
                token=array.token,
                job_id=JobId(job_id),
                index=task["index"],
                phase=phase,
                cause=Cause(task["cause"]) if ended else None,
                raw=str(task["raw"]),
                exit_code=task["exit_code"] if ended else None,
                signal=task["signal"] if ended else None,
                host=host,
                started_at=began,
                ended_at=end,
                # What it kept from others, as Slurm charges it, and not what it used.
                core_seconds=(end - began).total_seconds() * array.resources.cores if began and end else None,
                max_rss_kib=task["max_rss_kib"],
            )
        )
    return rows


def _queue(answer: Mapping[str, Any]) -> QueueView:  # Any: JSON
    """Read the scheduler's answer; raise what reading broken JSON raises."""
    user, cores = str(answer["user"]), int(answer["cores"])
    jobs: list[QueuedJob] = []
    for array in answer["arrays"]:
        array_task = QueuedJob(
            job_id=str(array["job_id"]),
            name=str(array["token"]),
            user=user,
            partition="local",
            phase=Phase.RUNNING,
            raw="running",
            nodes=1,
            cores=int(array["cpus"]),
            submitted_at=_instant(array["submitted_at"]),
        )
        phases = {int(task["index"]): (Phase(task["phase"]), task) for task in array["tasks"]}
        for index, (phase, task) in phases.items():
            if phase is Phase.RUNNING:
                began = _instant(task["started_at"])
                jobs.append(replace(array_task, indices=str(index), started_at=began, hosts=str(answer["host"])))
        if waiting := [index for index, (phase, _) in phases.items() if phase is Phase.PENDING]:
            reason = str(phases[waiting[0]][1]["raw"])
            pending = replace(array_task, phase=Phase.PENDING, raw="pending", reason=reason, tasks=len(waiting))
            jobs.append(replace(pending, indices=spans(waiting), why=reason[:1].upper() + reason[1:]))
    used = sum(job.cores or 0 for job in jobs if job.phase is Phase.RUNNING)
    state = NodeState.IDLE if not used else NodeState.MIXED if used < cores else NodeState.ALLOCATED
    node = QueueNode(
        name=str(answer["host"]),
        state=state,
        raw=state.value,
        partitions=("local",),
        cores=cores,
        cores_used=used,
        memory_mib=int(answer["memory_mib"]),
    )
    machine = QueuePartition(name="local", is_default=True, open=True, raw="up")
    partitions = told([machine], nodes=[node], jobs=jobs, user=user)
    return QueueView(user=user, partitions=partitions, nodes=(node,), jobs=tuple(jobs))


def _limits(reply: Reply) -> Mapping[str, Any]:  # Any: JSON
    if reply.exit_code != 0:
        raise HpcflowError(_ended(reply))
    answer = _object(reply.stdout)
    if not all(isinstance(answer.get(key), int) for key in ("cores", "memory_mib", "gpus")):
        raise HpcflowError(f"The local scheduler did not tell what this machine has: {_start(reply.stdout)}")
    return answer


def _object(raw: bytes) -> dict[str, Any]:  # Any: JSON
    """Return a JSON object, an empty one for anything else."""
    try:
        value = json.loads(raw)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _instant(seconds: float | None) -> datetime | None:
    if seconds is None:
        return None
    if not math.isfinite(seconds):
        raise ValueError(f"time {seconds}")
    return datetime.fromtimestamp(seconds, UTC)


def _ended(reply: Reply) -> str:
    how = "did not end" if reply.exit_code is None else f"ended with {reply.exit_code}"
    return f"The local scheduler {how}: {_start(reply.stderr or reply.stdout)}"


def _start(raw: bytes) -> str:
    """Return the last line, at most 300 characters: where a program says why it failed."""
    lines = raw.decode("utf-8", errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "it said nothing"
