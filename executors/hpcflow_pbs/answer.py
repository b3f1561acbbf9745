"""qstat's JSON, as far as it can be trusted: records that are whole, and whether the answer is.

Releases differ: 23.06.06 escapes nothing (a backslash in an argument makes the whole of it no JSON), later ones turn
"007" into 7 and 1e400 into null. What no JSON reader takes is read line by line, which the format allows: one
attribute a line, indented by one tab or four blanks for each level.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from hpcflow.core.batch import BROKEN, decoded
from hpcflow.core.plugin import Reply
from hpcflow_pbs.text import first_words

__all__ = ["Answer", "Record", "Wanted", "read_answer", "read_object"]

Record = Mapping[str, str | int]

#: Names of attributes by group; "" is the record itself. Those of a group are called "group.name" in a `Record`.
Wanted = Mapping[str, frozenset[str]]
#: What tells how jobs do and how they ended.
_ENDS: Final[Wanted] = {
    "": frozenset(
        {
            *("Job_Name", "Job_Owner", "job_state", "substate", "comment", "Exit_status", "Hold_Types"),
            *("stime", "obittime", "exec_host", "array", "array_index", "array_indices_submitted", "run_count"),
        }
    ),
    "resources_used": frozenset({"walltime", "cput", "mem"}),
    "Resource_List": frozenset({"walltime", "cput", "mem", "ncpus"}),
}
#: Free text of the user's, of which qstat makes a number when it looks like one: "007" is written 7 (23.06).
_FREE: Final = frozenset({"Account_Name"})
_HEAD: Final = frozenset({"pbs_version"})
_TOP: Final = _HEAD | {"timestamp", "pbs_server", "Jobs"}
#: 26.pbs01, 26[].pbs01, 26[4].pbs01
_ID: Final = re.compile(r"([0-9]+(?:\[[0-9]*\])?)\.[A-Za-z0-9][A-Za-z0-9.-]*")

#: Login scripts may print before it.
_BEGIN: Final = re.compile(r"^\{[ \t\r]*$", re.MULTILINE)
_LINE: Final = re.compile(r'((?: {4})+|\t*)(?:"([^"]*)":[ \t]*)?(.*?)(,?)[ \t\r]*')
#: Nothing but these on stderr is no reason to doubt the answer: an id is unknown, or its job has ended (without -x).
_ABSENT: Final = re.compile(
    r"qstat: (?:Unknown Job Id [^\s]+|[^\s]+ Job has finished, use -x or -H to obtain historical job information)\s*"
)


@dataclass(frozen=True, slots=True)
class Answer:
    """Jobs by their ids without the server's name: "26", "26[]", "26[4]"."""

    jobs: Mapping[str, Record]
    #: Nothing was cut, damaged or refused: what is not in it is not there.
    whole: bool
    problems: tuple[str, ...] = ()


def read_answer(reply: Reply, wanted: Wanted = _ENDS) -> Answer:
    """Return what one qstat said of the attributes that are wanted. Never raises."""
    said = decoded(reply.stderr)
    jobs, whole = _read(decoded(reply.stdout), wanted)
    complaints = [line for line in said.splitlines() if line.strip()]
    absent = bool(complaints) and all(_ABSENT.fullmatch(line) for line in complaints)
    if reply.exit_code != 0 and not (absent and reply.exit_code in {35, 153}):
        # The prologue of an answer comes even when no server was reached: only the exit status tells.
        how = "did not end" if reply.exit_code is None else f"ended with {reply.exit_code}"
        return Answer(jobs if reply.exit_code is not None else {}, False, (f"qstat {how}: {first_words(said)}.",))
    if not whole:
        return Answer(jobs, False, ("qstat's answer was cut or damaged.",))
    return Answer(jobs, True)


def read_object(text: str, group: str) -> Mapping[str, Mapping[str, Any]]:  # Any: JSON
    """Return a group of one JSON answer, such as "Queue" or "nodes", by name; an empty one when it can't be read."""
    start = _BEGIN.search(text)
    try:
        value, _ = json.JSONDecoder(strict=False).raw_decode(text, start.start() if start else 0)
    except ValueError:
        return {}
    found = value.get(group) if isinstance(value, dict) else None
    if not isinstance(found, dict):
        return {}
    return {str(name): each for name, each in found.items() if isinstance(each, dict)}


def _read(text: str, wanted: Wanted) -> tuple[dict[str, Record], bool]:
    start = _BEGIN.search(text)
    if start is None:
        return {}, False
    try:
        value, end = json.JSONDecoder(strict=False).raw_decode(text, start.start())
    except (ValueError, RecursionError):
        return _read_lines(text, wanted)
    if not isinstance(value, dict) or not _HEAD <= value.keys() <= _TOP or text[end : end + 1] not in {"", "\n", "\r"}:
        return _read_lines(text, wanted)
    jobs: dict[str, Record] = {}
    whole = True
    # Without a job there is no "Jobs" at all.
    found = value.get("Jobs", {})
    for name, attributes in found.items() if isinstance(found, dict) else ():
        identifier = _ID.fullmatch(name)
        record = _record(attributes, wanted) if identifier is not None and isinstance(attributes, dict) else None
        if identifier is None or record is None:
            whole = False
        else:
            jobs[identifier[1]] = record
    return jobs, whole and isinstance(found, dict)


def _record(attributes: Mapping[str, Any], wanted: Wanted) -> Record | None:  # Any: JSON
    """Return what we want of one job; ``None`` when a value is none that PBS writes."""
    record: dict[str, str | int] = {}
    for group, names in wanted.items():
        inner = attributes.get(group) if group else attributes
        if isinstance(inner, dict):
            if BROKEN in "".join(inner):
                return None  # the name of one that is wanted, perhaps
            found = names & inner.keys()
            record |= {f"{group}.{name}" if group else name: inner[name] for name in found}
    for name in _FREE & record.keys():
        if not isinstance(record[name], str):
            del record[name]
    return record if all(map(_sound, record.values())) else None


def _sound(value: object) -> bool:
    return type(value) is int or (isinstance(value, str) and BROKEN not in value)


def _read_lines(text: str, wanted: Wanted) -> tuple[dict[str, Record], bool]:
    """Read jobs that have a beginning, an end, and nothing but attributes between them."""
    jobs: dict[str, Record] = {}
    whole = closed = False
    identifier: str | None = None
    group: str | None = None
    record: dict[str, str | int] = {}
    sound = True
    for line in text.split("\n"):
        found = _LINE.fullmatch(line)
        if found is None or not line.strip():
            continue
        indent, name, value, _ = found.groups()
        depth = len(indent) if indent.startswith("\t") else len(indent) // 4
        if depth < 2 and identifier is not None and BROKEN in line:
            sound = False  # an attribute, perhaps, whose beginning was damaged
        elif depth == 0:
            closed = closed or (value == "}" and name is None and whole)
        elif depth == 1:
            whole = whole or name == "pbs_version"
        elif depth == 2 and name is not None and value == "{":
            if identifier is not None and not (record == {} and identifier == name):
                sound = False  # the one before has no end, and so this one's beginning may belong to it
                whole = False
            if identifier != name or record:
                identifier, record, group = name, {}, None
                sound = True
        elif depth == 2 and name is None and value == "}":
            if identifier is None:
                continue  # a line that came twice
            key = _ID.fullmatch(identifier)
            if key is None or not sound or not all(map(_sound, record.values())):
                whole = False
            elif jobs.get(key[1], record) != record:
                jobs.pop(key[1])
                whole = False
            else:
                jobs[key[1]] = record
            identifier, record, group = None, {}, None
        elif identifier is None:
            whole = False
        elif depth == 3 and name is not None and value == "{":
            group = name
        elif depth == 3 and value == "}" and name is None:
            group = None
        elif depth in {3, 4} and name is not None:
            sound = _take(record, wanted, group if depth == 4 else "", name, value) and sound
        else:
            sound = False
    return jobs, whole and closed and identifier is None


def _take(record: dict[str, str | int], wanted: Wanted, group: str | None, name: str, value: str) -> bool:
    """Add one attribute; say whether it was whole. Those that we don't want may hold anything."""
    if group is None or BROKEN in name:
        return False
    if name not in wanted.get(group, ()):
        return True
    key = f"{group}.{name}" if group else name
    if re.fullmatch(r"-?[0-9]+", value):
        kept: str | int = int(value)
    elif len(value) >= 2 and value[0] == value[-1] == '"':
        kept = value[1:-1]
    else:
        return name in _FREE
    if name in _FREE and not isinstance(kept, str):
        return True
    return record.setdefault(key, kept) == kept
