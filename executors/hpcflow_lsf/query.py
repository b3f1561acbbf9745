"""bjobs, and bhist for what it has forgotten: one command for any number of arrays, and what the answers mean.

An element's row goes an hour after its end (CLEAN_PERIOD); its history stays until the event files are rotated away.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hpcflow.core.batch import MARK, decoded
from hpcflow.core.model import Cause, JobArray, JobId, Observation, Observations, Phase
from hpcflow.core.plugin import Command, Reply
from hpcflow_lsf.history import Past, read_history
from hpcflow_lsf.reasons import SUSPENDED
from hpcflow_lsf.states import ALIVE, end_of, ended_by, stuck_of
from hpcflow_lsf.text import first_words, instant, kib

__all__ = ["hosts_of", "parse_query", "query", "read_records"]

#: Times come in the zone of the command.
_ENVIRONMENT: Final = {"TZ": "UTC", "LSB_DISPLAY_YEAR": "Y"}

#: The default id of an element lacks its index, so both are asked for.
_FIELDS: Final = (
    *("jobid", "jobindex", "job_name", "stat", "exit_code", "exit_reason", "pend_reason"),
    *("exec_host", "start_time", "finish_time", "run_time", "max_mem"),
)

# $1 the fields, then ids; without ids all jobs of the user, which is how a name is found. bjobs ends with 0 or 255 for
# ids that it does not know, as the site has it (LSB_BJOBS_CONSISTENT_EXIT_CODE); of these bhist is asked.
_QUERY: Final = f"""
fields=$1
shift
said=$(bjobs -a -json -o "$fields" "$@" 2>&1)
code=$?
printf '%s\\n{MARK}\\n' "$said"
[ $# -gt 0 ] || exit $code
gone=$(printf '%s\\n' "$said" | sed -n 's/.*Job <\\([0-9]*\\)> is not found.*/\\1/p' | sort -u)
[ -z "$gone" ] || bhist -n 0 -l $gone 2>&1
echo '{MARK}'
exit $code
""".strip()

_JOB: Final = re.compile(r"([1-9][0-9]*)(?:\[([0-9]+)\])?")
_NOBODY: Final = re.compile(r"^(?:No (?:unfinished |matching )?job found|Job <[0-9]+(?:\[[0-9]+\])?> is not found)\s*$")
_BEGIN: Final = re.compile(r"^\{[ \t\r]*$", re.MULTILINE)
_ERROR: Final = re.compile(r"Job <([0-9]+)(?:\[[0-9]+\])?> is not found")
_SECONDS: Final = re.compile(r"([0-9]+) second\(s\)|([0-9]+):([0-9]+):([0-9]+)")


@dataclass(frozen=True, slots=True)
class _Answer:
    rows: tuple[Observation, ...]
    #: Nothing was cut, damaged or refused: what is not in it is not there.
    whole: bool
    problems: tuple[str, ...] = ()


def query(arrays: Sequence[JobArray], *, accounting: bool) -> tuple[Command, ...]:
    """Return one command that asks bjobs, and bhist for the ids that bjobs does not know."""
    del accounting  # LSF always has its event files
    ids = [array.job_id for array in arrays if array.job_id is not None]
    known = list(dict.fromkeys(ids)) if len(ids) == len(arrays) else []
    argv = ("sh", "-c", _QUERY, "hpcflow-query", " ".join(_FIELDS), *known)
    return (Command(argv, environment=_ENVIRONMENT),)


def parse_query(arrays: Sequence[JobArray], replies: Sequence[Reply]) -> Observations:
    """Read bjobs's answer, and bhist's; an element is what its own row says, or unknown."""
    reply = replies[0]
    known = all(array.job_id is not None for array in arrays)
    parts = decoded(reply.stdout).split(f"{MARK}\n")
    if reply.exit_code is None or len(parts) != 2 + known or parts[-1].strip():
        how = "did not end" if reply.exit_code is None else f"ended with {reply.exit_code}"
        said = first_words(decoded(reply.stderr) or parts[0])
        return Observations(rows=(), complete=frozenset(), problems=(f"bjobs {how}: {said}.",))
    answer = _live(arrays, parts[0])
    past = _past(arrays, parts[1]) if known else _Answer((), True)
    seen = {(row.token, row.job_id, row.index) for row in answer.rows}
    whole = answer.whole and past.whole
    return Observations(
        rows=(*answer.rows, *(row for row in past.rows if (row.token, row.job_id, row.index) not in seen)),
        complete=frozenset(array.token for array in arrays) if whole else frozenset(),
        problems=tuple(dict.fromkeys((*answer.problems, *past.problems))),
    )


# ---- bjobs


def _live(arrays: Sequence[JobArray], text: str) -> _Answer:
    records = read_records(text)
    if records is None:
        lines = [line for line in text.splitlines() if line.strip() and "Please wait" not in line]
        if lines and all(map(_NOBODY.match, lines)):
            return _Answer((), True)
        return _Answer((), False, (f"bjobs gave no whole answer: {first_words(text)}.",))
    rows: list[Observation] = []
    problems: list[str] = []
    whole = True
    by_id = {array.job_id: array for array in arrays if array.job_id is not None}
    by_name = {array.token: array for array in arrays if array.job_id is None}
    for record in records:
        error = record.get("ERROR")
        if error is not None:
            whole = whole and _ERROR.fullmatch(error) is not None
            continue
        try:
            row, problem = _row(record, by_id, by_name)
        except ValueError:
            whole = False
            problems.append("bjobs gave a record that can't be read.")
            continue
        if row is not None:
            rows.append(row)
        if problem is not None:
            problems.append(problem[0])
            whole = whole and problem[1]
    return _Answer(tuple(rows), whole, tuple(problems))


def read_records(text: str) -> list[Mapping[str, str]] | None:
    """Return the records of a whole answer, ``None`` for anything else: LSF counts them itself."""
    begin = _BEGIN.search(text)
    if begin is None:
        return None
    try:
        value, _ = json.JSONDecoder(strict=False).raw_decode(text, begin.start())
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or value.get("COMMAND") != "bjobs":
        return None
    records, count = value.get("RECORDS"), value.get("JOBS")
    if not isinstance(records, list) or str(count) != str(len(records)):
        return None
    if not all(
        isinstance(record, dict) and all(isinstance(cell, str) for cell in record.values()) for record in records
    ):
        return None
    return records


def _row(
    record: Mapping[str, str], by_id: Mapping[JobId, JobArray], by_name: Mapping[str, JobArray]
) -> tuple[Observation | None, tuple[str, bool] | None]:
    """Return what one record says about one of ours, and a problem with whether the answer is whole all the same.

    Raises:
        ValueError: a field is missing, or is none that LSF writes.
    """
    cells = {name: record.get(name.upper()) for name in _FIELDS}
    if any(cell is None or "\N{REPLACEMENT CHARACTER}" in cell for cell in cells.values()):
        raise ValueError("a field is missing")
    cell = {name: text or "" for name, text in cells.items()}
    found = _JOB.fullmatch(cell["jobid"])
    if found is None:
        raise ValueError(cell["jobid"])
    number, index = JobId(found[1]), int(found[2] or cell["jobindex"])
    name = cell["job_name"]
    array = by_id.get(number) or by_name.get(name.partition("[")[0])
    if array is None:
        return None, None
    if not _is_called(name, array.token, index):
        text = f"LSF's job {number} is called {name!r} and not {array.token}: it is another one, or was renamed."
        return None, (text, False)
    if not 1 <= index <= array.width:
        raise ValueError(f"{number}[{index}]: the array has {array.width} array tasks")
    row, unknown = _observation(array, number, index, cell)
    return row, (unknown, True) if unknown else None


def _is_called(name: str, token: str, index: int) -> bool:
    own = f"{token}[{index}]"
    # What is too long for a column is cut on the left: "*y_test[1]".
    return name in {own, token} or (name.startswith("*") and len(name) > 4 and own.endswith(name[1:]))


def _observation(array: JobArray, number: JobId, index: int, cell: Mapping[str, str]) -> tuple[Observation, str | None]:
    stat, reason = cell["stat"], cell["exit_reason"]
    host = hosts_of(cell["exec_host"])
    common = {"token": array.token, "job_id": number, "index": index - 1}
    phase, problem = ALIVE.get(stat), None
    if phase is None:
        try:
            cause, code, signal = end_of(stat, cell["exit_code"], reason)
        except ValueError:
            if not re.fullmatch(r"[A-Z]{2,10}", stat) or stat == "EXIT":
                raise
            phase = Phase.RUNNING
            problem = f"LSF says {stat} of {number}[{index}], a state that hpcflow does not know: taken as running."
        else:
            used = _run_time(cell["run_time"])
            return Observation(
                **common,  # type: ignore[arg-type]  # each of these has its field's type
                phase=Phase.ENDED,
                cause=cause,
                raw=" ".join(filter(None, (stat, cell["exit_code"].strip("-"), reason.strip("-")))),
                by=ended_by(reason),
                exit_code=code,
                signal=signal,
                host=host,
                started_at=instant(cell["start_time"]) if host else None,
                ended_at=instant(cell["finish_time"]),
                core_seconds=None if used is None else float(used * array.resources.cores),
                max_rss_kib=kib(cell["max_mem"]),
            ), None
    if phase is not Phase.PENDING:
        started = instant(cell["start_time"])
        idle = stat in SUSPENDED
        return Observation(**common, phase=phase, raw=stat, suspended=idle, host=host, started_at=started), problem  # type: ignore[arg-type]  # as above
    waits = cell["pend_reason"].strip("-").strip()
    stuck, by = stuck_of(stat, waits)
    raw = " ".join(filter(None, (stat, waits)))
    return Observation(**common, phase=phase, raw=raw, stuck=stuck, by=by), None  # type: ignore[arg-type]  # as above


# ---- bhist


def _past(arrays: Sequence[JobArray], text: str) -> _Answer:
    """Return the ends of what bjobs has forgotten; what has not ended there is unknown."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines or all(line.strip() == "No matching job found" for line in lines):
        return _Answer((), True)
    found, whole = read_history(text)
    if not found:
        return _Answer((), False, (f"bhist gave no whole answer: {first_words(text)}.",))
    by_id = {array.job_id: array for array in arrays if array.job_id is not None}
    rows: list[Observation] = []
    for past in found:
        array = by_id.get(JobId(past.job))
        if array is None or not _is_called(past.name, array.token, past.index) or not 1 <= past.index <= array.width:
            whole = False
        elif not past.stat:
            whole = False  # neither alive, by bjobs, nor ended
        else:
            rows.append(_ended(array, past))
    return _Answer(tuple(rows), whole)


def _ended(array: JobArray, past: Past) -> Observation:
    cause, code, signal = end_of(past.stat, past.code, past.reason)
    by = past.by if past.by is not None else ended_by(past.reason)
    if past.by is not None and cause in {Cause.FAILED, None}:
        cause, code, signal = Cause.CANCELLED, None, None
    return Observation(
        token=array.token,
        job_id=JobId(past.job),
        index=past.index - 1,
        phase=Phase.ENDED,
        cause=cause,
        raw=" ".join(filter(None, (past.stat, past.code, past.reason, f"signal by {past.by}" if past.by else ""))),
        by=by if cause is Cause.CANCELLED else None,
        exit_code=code,
        signal=signal,
    )


# ---- cells


def hosts_of(text: str) -> str | None:
    """Read "4*n1:4*n2" or "n1:n2"; ``None`` for "-"."""
    names = dict.fromkeys(part.rpartition("*")[2] for part in text.split(":"))
    return ",".join(name for name in names if name not in {"", "-"}) or None


def _run_time(text: str) -> int | None:
    found = _SECONDS.fullmatch(text.strip())
    if found is None:
        return None
    if found[1] is not None:
        return int(found[1])
    hours, minutes, seconds = (int(part) for part in found.groups()[1:])
    return (hours * 60 + minutes) * 60 + seconds
