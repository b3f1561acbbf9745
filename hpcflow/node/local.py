"""The scheduler of the `local` cluster: job arrays as processes of this machine, never more than it has room for.

Every command is ``<python> <worker.pyz> local VERB ROOT`` with one JSON object on stdin and one on stdout. ROOT is the
cluster's directory on this machine; all state is below ``ROOT/local``. Exit codes: 0 the answer is on stdout; 3 surely
refused, stdout is ``{"error": sentence, "retry_later": bool}``; 64 the request itself is wrong (sentence on stderr);
anything else is no answer. Times are seconds since the epoch, as floats.

``limits`` (stdin is not read) answers what this machine has::

    {"host": "node1", "version": "1", "cores": 8, "memory_mib": 31998, "gpus": 0}

``submit`` starts a detached supervisor and answers at once; the same token again answers with the first one's id::

    {"token": "relax-01J...", "width": 4, "command": ["/usr/bin/python3", "-I", ".../worker.pyz", "bag", DIR, KEY],
     "cpus": 1, "memory_mib": 512 | null, "walltime_s": 3600, "path": DIR, "prologue": "module load x\\n",
     "dispatch": "01J...", "grace_s": 30}
    -> {"job_id": "17", "new": true}

  ``command`` runs once for each index below ``width`` with HPCFLOW_JOB, HPCFLOW_INDEX and HPCFLOW_RESTART set, after
  the shell lines of ``prologue``, in ``path``; its output goes to ``path/logs/<job id>_<index>.log``. ``cpus`` and
  ``memory_mib`` (per array task; null reserves none) are taken from what the machine has; arrays are served in the
  order of arrival. At ``walltime_s`` the array task gets SIGTERM, and SIGKILL ``grace_s`` later (30 when left out).
  ``dispatch`` is told to those who wait for its cores. It, ``prologue`` and ``grace_s`` may be left out. Refused: more
  cores or memory for one array task than the machine has.

``query`` answers for each token it is asked about::

    {"tokens": ["relax-01J...", "fit-01J..."]}
    -> {"arrays": {"relax-01J...": {"job_id": "17", "host": "node1", "tasks": [TASK, ...]}, "fit-01J...": null},
        "problems": []}

  ``null``: no array of that name was ever submitted here, and that is sure. A token that is not in ``arrays`` is
  unknown (its supervisor runs on another host that shares ROOT), and ``problems`` has a sentence about it. TASK, one
  for each index in order::

    {"index": 0, "phase": "pending" | "running" | "ended", "cause": null | "done" | "failed" | "cancelled" | "timeout",
     "raw": "exit code 1", "exit_code": 1 | null, "signal": 9 | null, "cpu_s": 12.5 | null, "max_rss_kib": 48312 | null,
     "started_at": 1790000000.25 | null, "ended_at": 1790000003.5 | null}

  ``cause`` is null unless ended. ``cpu_s`` is user and system time of the array task and all that it waited for. A
  supervisor that was killed takes its workers with it; what had not ended is then ended by "node failure".

``queue`` (stdin is not read) answers with every array that has not ended, in the order of arrival::

    {"host": "node1", "user": "ada", "cores": 8, "memory_mib": 31998,
     "arrays": [{"token": "relax-01J...", "job_id": "17", "cpus": 1, "submitted_at": 1790000000.25,
                 "tasks": [TASK, ...]}]}

``cancel`` answers at once; the array tasks end within ``grace_s``::

    {"tokens": ["relax-01J..."], "pending_only": false}
    -> {"signalled": 1}

  The number of arrays that were still alive. Unknown and ended arrays are no error.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import sys
import time
from typing import Final

from hpcflow.core.words import counted, memory
from hpcflow.node.ledger import Desk, Json, Process, machine, read_json, signal_if_alive, why_waiting, write_json
from hpcflow.node.supervisor import CANCEL_ALL, CANCEL_PENDING, Array, start_supervisor

__all__ = ["command"]

VERSION: Final = "1"
EXIT_REFUSED: Final = 3
EXIT_USAGE: Final = 64
GRACE_S: Final = 30.0
#: Accounting is kept this long, and looked through for older files at every so many submissions.
_REMEMBERED_S: Final = 90 * 86400.0
_TIDY_EVERY: Final = 100


class _Refusal(Exception):
    """The submission can't ever be served here."""


class _BadRequest(Exception):
    """What came on stdin is no request."""


def command(verb: str, root: str) -> int:
    """Run one command of the module's docstring and return its exit code."""
    verbs = {"limits": _limits, "submit": _submit, "query": _query, "queue": _queue, "cancel": _cancel}
    try:
        if verb not in verbs:
            raise _BadRequest(f"{verb!r} is no command of the local scheduler; it has {', '.join(sorted(verbs))}.")
        request = {} if verb in {"limits", "queue"} else _request(sys.stdin.buffer.read())
        answer = verbs[verb](Desk(root), request)
    except _BadRequest as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    except _Refusal as error:
        print(json.dumps({"error": str(error), "retry_later": False}))
        return EXIT_REFUSED
    print(json.dumps(answer))
    return 0


def _request(raw: bytes) -> Json:
    try:
        request = json.loads(raw)
    except ValueError as error:
        raise _BadRequest(f"The request on stdin is no JSON: {error}.") from error
    if not isinstance(request, dict):
        raise _BadRequest("The request on stdin is no JSON object.")
    return request


def _limits(desk: Desk, request: Json) -> Json:
    here = machine()
    return {
        "host": os.uname().nodename,
        "version": VERSION,
        "cores": here.cores,
        "memory_mib": here.memory_mib,
        "gpus": 0,
    }


def _array(request: Json) -> Array:
    try:
        memory_mib = request["memory_mib"]
        array = Array(
            token=str(request["token"]),
            width=int(request["width"]),
            command=tuple(str(word) for word in request["command"]),
            cpus=int(request["cpus"]),
            memory_mib=0 if memory_mib is None else int(memory_mib),
            walltime_s=float(request["walltime_s"]),
            grace_s=float(request.get("grace_s", GRACE_S)),
            path=str(request["path"]),
            prologue=str(request.get("prologue") or ""),
            dispatch=str(request.get("dispatch") or ""),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _BadRequest(f"The submission lacks something or has it in a wrong form: {error!r}.") from error
    if not _is_name(array.token):
        raise _BadRequest(f"{array.token!r} can't be the name of an array: letters, digits and ._+- only.")
    if array.width < 1 or array.cpus < 1 or not array.command:
        raise _BadRequest("An array needs at least one array task, one core and a command.")
    return array


def _is_name(token: str) -> bool:
    return bool(token) and token[0].isalnum() and all(letter.isalnum() or letter in "._+-" for letter in token)


def _submit(desk: Desk, request: Json) -> Json:
    array = _array(request)
    here = machine()
    if array.cpus > here.cores:
        raise _Refusal(
            f"This machine has {counted(here.cores, 'core')} for hpcflow, the array task asks for {array.cpus}."
        )
    if array.memory_mib > here.memory_mib:
        raise _Refusal(
            f"This machine has {memory(here.memory_mib)} of memory, the array task asks for {memory(array.memory_mib)}."
        )
    with desk.locked() as ledger:
        known = read_json(desk.file(array.token + ".json"))
        if known is not None:
            return {"job_id": known["job_id"], "new": False}
        job_id = str(ledger["next"])
        ledger["next"] += 1
        if ledger["next"] % _TIDY_EVERY == 0:
            desk.forget_before(time.time() - _REMEMBERED_S)
        process = start_supervisor(desk, array, job_id, here)
        # From here on the array exists, whatever happens to this process.
        write_json(
            desk.file(array.token + ".json"),
            {
                "job_id": job_id,
                "host": os.uname().nodename,
                "width": array.width,
                "pid": process.pid,
                "born": process.born,
                "submitted_at": time.time(),
            },
        )
    return {"job_id": job_id, "new": True}


def _cancel(desk: Desk, request: Json) -> Json:
    number = CANCEL_PENDING if request.get("pending_only") else CANCEL_ALL
    signalled = 0
    for token in _tokens(request):
        known = read_json(desk.file(token + ".json"))
        if known is not None and known["host"] == os.uname().nodename:
            signalled += signal_if_alive(Process(pid=known["pid"], born=known["born"]), number)
    return {"signalled": signalled}


def _query(desk: Desk, request: Json) -> Json:
    arrays: Json = {}
    problems: list[str] = []
    for token in _tokens(request):
        known = read_json(desk.file(token + ".json"))
        if known is None:
            arrays[token] = None
        elif known["host"] != os.uname().nodename:
            problems.append(
                f"The local array {token} runs on {known['host']}; ask there, not on {os.uname().nodename}."
            )
        else:
            arrays[token] = {"job_id": known["job_id"], "host": known["host"], "tasks": _tasks(desk, token, known)}
    return {"arrays": arrays, "problems": problems}


def _queue(desk: Desk, request: Json) -> Json:
    here = machine()
    with desk.locked() as ledger:
        live = {token: entry["cpus"] for token, entry in ledger["arrays"].items()}
    arrays: list[Json] = []
    for token, cpus in live.items():
        known = read_json(desk.file(token + ".json"))
        if known is not None:
            about = {"token": token, "job_id": known["job_id"], "cpus": cpus, "submitted_at": known["submitted_at"]}
            arrays.append({**about, "tasks": _tasks(desk, token, known)})
    return {
        "host": os.uname().nodename,
        "user": _user(),
        "cores": here.cores,
        "memory_mib": here.memory_mib,
        "arrays": arrays,
    }


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container's uid without an entry in passwd
        return str(os.geteuid())


def _tokens(request: Json) -> list[str]:
    tokens = request.get("tokens")
    if not isinstance(tokens, list) or not all(isinstance(token, str) and _is_name(token) for token in tokens):
        raise _BadRequest("`tokens` must be a list of names of arrays.")
    return tokens


def _tasks(desk: Desk, token: str, known: Json) -> list[Json]:
    # Life first, accounting second: a supervisor writes its last line before it goes.
    alive = Process(pid=known["pid"], born=known["born"]).alive()
    latest: dict[int, Json] = {}
    with contextlib.suppress(FileNotFoundError), open(desk.file(token + ".jsonl"), encoding="utf-8") as file:
        for line in file:
            # A full disk may have cut a line; it stands again, whole, behind an empty one.
            with contextlib.suppress(ValueError):
                record: Json = json.loads(line)
                latest[record["index"]] = record
    nothing: Json = dict.fromkeys(("cause", "exit_code", "signal", "cpu_s", "max_rss_kib", "started_at", "ended_at"))
    tasks: list[Json] = []
    waiting = ""
    if alive and len(latest) < known["width"]:
        waiting = why_waiting(read_json(desk.file("ledger.json")) or {"arrays": {}}, token, machine())
    for index in range(known["width"]):
        task = {
            "index": index,
            "phase": "pending",
            **nothing,
            "raw": waiting,
            **latest.get(index, {}),
        }
        if not alive and task["phase"] != "ended":
            task.update(phase="ended", cause="node failure", raw="supervisor gone")
        tasks.append(task)
    return tasks
