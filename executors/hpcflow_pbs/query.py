"""qstat: one question for any number of arrays, elements only, and what their records mean.

An array's own record never tells how its elements ended: its exit status is 1 when one failed, and was seen 0 all the
same (23.06). With `job_history_enable` the server remembers what ended, for two weeks unless the site says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from hpcflow.core.model import Cause, JobArray, JobId, Observation, Observations, Phase, Stuck
from hpcflow.core.plugin import Command, Reply
from hpcflow.core.words import counted
from hpcflow_pbs.answer import Record, read_answer
from hpcflow_pbs.reasons import SUSPENDED
from hpcflow_pbs.text import full_id, instant, seconds

__all__ = ["parse_query", "query"]

#: qstat gets seconds since the epoch and writes them in the zone of TZ, without saying which.
_ENVIRONMENT: Final = {"TZ": "UTC"}

# -E: one request for all ids; without it 23.06's development snapshot answers about the first id alone. It leaves out
# ids that it does not know, and says so only when it knows none.
_OPTIONS: Final = ("-E", "-t", "-f", "-F", "json")

# $1 "-x" or nothing, $2 how many names follow, then the names, then the ids that are known. qstat without an id would
# list everybody's jobs, so it is never called so. Constant text: values come as arguments.
_BY_NAME: Final = """
set -f
history=$1 names=$2
shift 2
user=$(id -un)
while [ "$names" -gt 0 ]; do
    found=$(qselect $history -u "$user" -N "$1") || exit 75
    shift
    set -- "$@" $found
    names=$((names - 1))
done
if [ $# -eq 0 ]; then printf '{\\n\\t"pbs_version":\\t""\\n}\\n'; exit; fi
exec qstat -E $history -t -f -F json "$@"
""".strip()

_ALIVE: Final[Mapping[str, Phase]] = {
    "Q": Phase.PENDING,
    "H": Phase.PENDING,
    "W": Phase.PENDING,
    "T": Phase.PENDING,
    "R": Phase.RUNNING,
    "E": Phase.RUNNING,
    "S": Phase.RUNNING,
    "U": Phase.RUNNING,
    "B": Phase.RUNNING,
}
_ENDED: Final = frozenset({"F", "X"})

#: Exit statuses below zero are the server's or the node's own (job.h, 23.06).
_LIMITS: Final[Mapping[int, Cause]] = {
    -26: Cause.MEMORY,
    -27: Cause.MEMORY,
    -28: Cause.TIMEOUT,
    -29: Cause.TIMEOUT,
}
#: The node could not start or keep the job: aborted when its daemon came up, connection lost, a node's hook failed.
_NODE_FAILED: Final = frozenset({-3, -4, -5, -6, -7, -11, -14, -15, -16, -18, -20, -22, -30, -32})
_EXCEEDED: Final = re.compile(r"\bexceeded resource (\w+)")
_TERMINATED: Final = re.compile(r"\band terminated by ([^\s@]+)(?:@\S*)?$")
#: With a `qdel` of the whole array, finished elements lose their own records: they show the array's, and this (23.06).
_CLONES: Final = frozenset({"Subjob finished", "Subjob failed"})
_TERMINATED_SUBSTATE: Final = 91
_LAST_SIGNAL: Final = 64

_UNITS: Final[Mapping[str, int]] = {"b": 1, "kb": 1024, "mb": 1024**2, "gb": 1024**3, "tb": 1024**4}
_HOLDERS: Final[Mapping[str, str]] = {"o": "an operator", "s": "PBS itself", "p": "PBS itself"}


def query(arrays: Sequence[JobArray], *, accounting: bool) -> tuple[Command, ...]:
    """Return one qstat for all; one qselect before it for each array whose id is not known."""
    history = ("-x",) if accounting else ()
    names = list(dict.fromkeys(array.token for array in arrays if array.job_id is None))
    ids = list(dict.fromkeys(full_id(array.job_id, array.width) for array in arrays if array.job_id is not None))
    if names:
        argv = ("sh", "-c", _BY_NAME, "hpcflow-query", "".join(history), str(len(names)), *names, *ids)
    else:
        argv = ("qstat", *history, *_OPTIONS, *ids)
    return (Command(argv, environment=_ENVIRONMENT),)


def parse_query(arrays: Sequence[JobArray], replies: Sequence[Reply]) -> Observations:
    """Read qstat's answer: every element by its own record, or not at all."""
    answer = read_answer(replies[0])
    by_name: dict[str, list[str]] = {}
    for key, record in answer.jobs.items():
        if not key.endswith("]") or key.endswith("[]"):
            by_name.setdefault(str(record.get("Job_Name", "")), []).append(key)
    rows: list[Observation] = []
    complete: set[str] = set()
    problems = list(answer.problems)
    for array in arrays:
        if array.job_id is None:
            keys = [key for key in by_name.get(array.token, ()) if key.endswith("[]") == (array.width > 1)]
        else:
            keys = [full_id(array.job_id, array.width)]
        sure = answer.whole
        for key in keys:
            if key not in answer.jobs:
                continue
            if answer.jobs[key].get("Job_Name") != array.token:
                sure = False
                problems.append(
                    f"PBS's job {key} is called {answer.jobs[key].get('Job_Name')!r} and not {array.token}:"
                    " somebody renamed it, or the server began to count anew."
                )
                continue
            seen = list(_elements(array, key, answer.jobs, problems))
            rows += seen
            sure = sure and len(seen) == array.width
        if sure:
            complete.add(array.token)
    return Observations(rows=tuple(rows), complete=frozenset(complete), problems=tuple(dict.fromkeys(problems)))


def _elements(array: JobArray, key: str, jobs: Mapping[str, Record], problems: list[str]) -> Iterator[Observation]:
    """Yield what is known of each element; one that can't be read is left out."""
    parent = jobs[key]
    number = key.removesuffix("[]")
    unread = 0
    for index in range(array.width):
        record = jobs.get(f"{number}[{index}]") if array.width > 1 else parent
        try:
            if record is None:
                raise ValueError(f"{key}: no record of {index}")
            yield _observation(array, (JobId(number), index), record, parent, problems)
        except ValueError:
            unread += 1
    if unread:
        problems.append(
            f"qstat's answer about {key} has no record of {counted(unread, 'array task')} that can be read."
        )


def _observation(
    array: JobArray, which: tuple[JobId, int], record: Record, parent: Record, problems: list[str]
) -> Observation:
    """Read one element's record; raise ValueError when it can't be."""
    job_id, index = which
    if record.get("Job_Name") != array.token or record.get("array_index", index) != index:
        raise ValueError(f"{job_id}: another job's record")
    state = str(record.get("job_state", ""))
    comment = str(record.get("comment", ""))
    began = "exec_host" in record  # an element without a record of its own shows the array's time of start
    common = {
        "token": array.token,
        "job_id": job_id,
        "index": index,
        "host": _host(str(record["exec_host"])) if began else None,
        "started_at": instant(record.get("stime")) if began else None,
    }
    if state in _ENDED:
        cause, status, signal = _end(record)
        used, cores = seconds(str(record.get("resources_used.walltime", ""))), record.get("Resource_List.ncpus")
        by = _TERMINATED.search(comment)
        return Observation(
            **common,  # type: ignore[arg-type]  # each of these has its field's type
            phase=Phase.ENDED,
            cause=cause,
            raw=_words(state, record, comment),
            by=by[1] if by and cause is Cause.CANCELLED else None,
            exit_code=status,
            signal=signal,
            ended_at=instant(record.get("obittime")),
            core_seconds=float(used * cores) if used is not None and isinstance(cores, int) else None,
            # Sampled every few minutes: a short job has 0kb, which is no measurement.
            max_rss_kib=_kib(str(record.get("resources_used.mem", ""))) or None,
        )
    phase = _ALIVE.get(state)
    if phase is None:
        if not re.fullmatch(r"[A-Z]", state):
            raise ValueError(state)
        phase = Phase.RUNNING
        what = "moved to another server" if state == "M" else f"in state {state}, which hpcflow does not know"
        problems.append(f"PBS says that {job_id} is {what}: taken as running.")
    if phase is not Phase.PENDING:
        return Observation(**common, phase=phase, raw=state, suspended=state in SUSPENDED)  # type: ignore[arg-type]  # as above
    holder = parent if parent.get("job_state") == "H" else record
    held = "H" in {state, parent.get("job_state")}
    never = comment.startswith("Can Never Run")
    return Observation(
        **{**common, "started_at": None},  # type: ignore[arg-type]  # as above
        phase=phase,
        raw=" ".join(filter(None, ("H" if held else state, comment))),
        by=_holder(holder) if held else None,
        stuck=Stuck.HELD if held else Stuck.NEVER if never else None,
    )


def _end(record: Record) -> tuple[Cause | None, int | None, int | None]:
    """Return cause, exit status and signal of what has ended; ``None`` for the cause where the record does not tell."""
    comment = str(record.get("comment", ""))
    status, substate = record.get("Exit_status"), record.get("substate")
    own = "exec_host" in record
    if comment in _CLONES:
        return None, None, None
    if own and (substate == _TERMINATED_SUBSTATE or _TERMINATED.search(comment)):
        # qdel leaves 271, 143, 265 or the script's own: whichever of shell and script died first.
        return Cause.CANCELLED, None, None
    if not own and comment and not comment.startswith("Job run at "):
        # It shows the array's own comment: it was deleted before it had a record of its own.
        return Cause.CANCELLED, None, None
    if status is None and not own and "stime" not in record and "run_count" not in record:
        # Deleted before it ran, or its dependency did not come true, of which PBS says no more.
        return Cause.CANCELLED, None, None
    if not isinstance(status, int) or not isinstance(substate, int) or not own:
        return None, None, None
    exceeded = _EXCEEDED.search(comment)
    if status in _LIMITS:
        return _LIMITS[status], None, None
    if exceeded is not None:
        return (Cause.MEMORY if "mem" in exceeded[1] else Cause.TIMEOUT), None, None
    if status < 0:
        return (Cause.NODE_FAIL if status in _NODE_FAILED else Cause.FAILED), None, None
    if status == 0:
        return Cause.DONE, 0, None
    signal = status - 256 if status > 256 else status - 128
    if not 0 < signal <= _LAST_SIGNAL:
        return Cause.FAILED, status, None
    # Releases before 14 have no status of their own for limits: only what was used tells.
    over = _over_limit(record) if status > 256 else None
    return (over or Cause.FAILED), None, signal


def _over_limit(record: Record) -> Cause | None:
    for name in ("walltime", "cput"):
        used = seconds(str(record.get(f"resources_used.{name}", "")))
        limit = seconds(str(record.get(f"Resource_List.{name}", "")))
        if used is not None and limit is not None and used >= limit:
            return Cause.TIMEOUT
    used_kib, limit_kib = (_kib(str(record.get(f"{group}.mem", ""))) for group in ("resources_used", "Resource_List"))
    return Cause.MEMORY if used_kib and limit_kib and used_kib > limit_kib else None


# ---- cells


def _words(state: str, record: Record, comment: str) -> str:
    """Return PBS's own words about an end: "F Exit_status=271 terminated by ada@pbs01"."""
    status = record.get("Exit_status")
    # "Job run at Sun Nov 22 at 20:41 on (pbs01:ncpus=1) and exceeded resource walltime"
    last = comment.rpartition(" and ")[2]
    how = "" if comment in _CLONES or last in {"finished", "failed"} else last
    kept = "its own record is lost" if comment in _CLONES else f"Exit_status={status}" if status is not None else ""
    return " ".join(filter(None, (state, kept, how)))


def _holder(record: Record) -> str | None:
    """Return who holds a job: its owner, an operator, or PBS itself (after too many failures to start it)."""
    kinds = str(record.get("Hold_Types", ""))
    for kind, who in _HOLDERS.items():
        if kind in kinds:
            return who
    return "you" if "u" in kinds else None


def _host(text: str) -> str | None:
    """Read "n1/0*4+n2/0*4"."""
    names = dict.fromkeys(part.partition("/")[0] for part in text.split("+"))
    return ",".join(name for name in names if name) or None


def _kib(text: str) -> int | None:
    """Read "301044kb", "64mb", "4gb" or bare bytes."""
    found = re.fullmatch(r"([0-9]+)(b|kb|mb|gb|tb)?", text, re.IGNORECASE)
    if found is None:
        return None
    return int(found[1]) * _UNITS[(found[2] or "b").lower()] // 1024
