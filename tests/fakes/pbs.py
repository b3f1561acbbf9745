"""OpenPBS 23.06.06's commands over the small scheduler: their argvs, their words, their exit codes, their traps.

What it says is what tests/data/pbs recorded; `test_pbs_double.py` compares the two.
"""

from __future__ import annotations

import getopt
import json
import os
import re
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.fakes.scheduler import ENDED, RUNNING, WAITING, Answer, Element, Job, Refusal, Request, Scheduler

SERVER = "pbs01"
VERSION = "23.06.06"

USAGE = """usage: qsub [-a date_time] [-A account_string] [-c interval]
	[-C directive_prefix] [-e path] [-f ] [-h ] [-I [-X]] [-j oe|eo] [-J X-Y[:Z]]
	[-k keep] [-l resource_list] [-m mail_options] [-M user_list]
	[-N jobname] [-o path] [-p priority] [-P project] [-q queue] [-r y|n]
	[-R o|e|oe] [-S path] [-u user_list] [-W otherattributes=value...]
	[-v variable_list] [-V ] [-z] [script | -- command [arg1 ...]]
       qsub --version
"""
QSUB = "a:A:c:C:e:fhIXj:J:k:l:m:M:N:o:p:P:q:r:R:S:u:W:v:Vz"
RESOURCES = {"ncpus", "mem", "vmem", "mpiprocs", "ngpus", "ompthreads", "host", "model", "matlab"}
SUBSTATE_QUEUED, SUBSTATE_HELD, SUBSTATE_RUNNING, SUBSTATE_BEGUN = 10, 20, 42, 70
SUBSTATE_TERMINATED, SUBSTATE_FINISHED, SUBSTATE_FAILED = 91, 92, 93

Pairs = list[tuple[str, Any]]


class Pbs:
    """The server and its commands."""

    def __init__(self, folder: Path, *, cores: int = 64, first: int = 1) -> None:
        self.it = Scheduler(folder, cores=cores, first=first)
        self.queues: dict[str, dict[str, Any]] = {
            "workq": {},
            "short": {
                "resources_max": {"walltime": "00:10:00"},
                "resources_default": {"walltime": "00:05:00"},
                "max_array_size": 50,
            },
            "closed": {"enabled": "False"},
            "stopped": {"started": "False"},
        }
        self.max_array = 10_000
        self.finished_total = 0

    COMMANDS = ("qsub", "qstat", "qdel", "qselect", "pbsnodes", "qhold", "qrls", "qsig")

    def answer(self, request: Request) -> Answer:
        """Return exit code, stdout and stderr of one command."""
        command = os.path.basename(request.argv[0])
        run: Callable[[Request], Answer] = getattr(self, f"_{command}")
        if self.it.faults.other == "torque":
            return _torque(command, request)
        if request.argv[1:] == ["--version"]:
            return 0, f"pbs_version = {VERSION}\n", ""
        if self.it.faults.down:
            return self._down(command, request)
        try:
            return run(request)
        except Refusal as refusal:
            return refusal.code, "", refusal.words

    def _down(self, command: str, request: Request) -> Answer:
        if command == "qdel":
            return 162, "", f"Connection refused\nCouldn't connect to cluster: {SERVER}\n"
        words = f"Connection refused\n{command}: cannot connect to server {SERVER} (errno=15010)\n"
        prologue = "json" in request.argv and "-E" in request.argv
        out = self._json([], None) if prologue else ""
        return (162 if command in {"qsub", "qhold", "qrls", "qsig"} else 255), out, words

    # ---- qsub

    def _qsub(self, request: Request) -> Answer:
        options, rest = self._options(request.argv[1:])
        executable: list[str] | None = None
        if "--" in request.argv[1:] and rest and request.argv[-len(rest) - 1] == "--":
            executable = rest
            script = "exec " + shlex.join(rest) + "\n"
        elif rest:
            path = os.path.join(request.directory, rest[0])
            if not os.path.exists(path):
                raise Refusal(1, "qsub: script file:: No such file or directory\n")
            script = Path(path).read_text()
        else:
            script = request.stdin
        if executable is None:
            written = [
                word for line in re.findall(r"^#PBS\s+(.*)$", script, re.MULTILINE) for word in shlex.split(line)
            ]
            directives, _ = self._options(written)
            options = directives + options
        fault = self.it.faults
        chosen = {letter: value for letter, value in options if letter not in {"l", "W"}}
        if chosen.get("v"):
            _check_variables(chosen["v"])
        limits = _limits(value for letter, value in options if letter == "l")
        number = self.it.number()
        queue = chosen.get("q", "workq")
        if queue not in self.queues:
            raise Refusal(170, "qsub: Unknown queue\n")
        if self.queues[queue].get("enabled") == "False":
            raise Refusal(173, "qsub: Queue is not enabled\n")
        place = _check_limits(limits)
        walltime = _seconds(limits.get("walltime", ""))
        most = _seconds(str(self.queues[queue].get("resources_max", {}).get("walltime", "")))
        if most is not None and walltime is not None and walltime > most:
            raise Refusal(188, "qsub: Job violates queue and/or server resource limits\n")
        indices, at_once = _indices(chosen.get("J", ""))
        size = fault.max_array or self.queues[queue].get("max_array_size", self.max_array)
        if len(indices) > size:
            raise Refusal(3, "qsub: Array job exceeds server or queue size limit\n")
        if fault.reject:
            raise Refusal(32, f"qsub: {fault.reject}\n")
        queued = sum(element.state != ENDED for job in self.it.live.values() for element in job.elements)
        if fault.max_queued is not None and queued + max(1, len(indices)) > fault.max_queued:
            raise Refusal(188 + 2, "qsub: would exceed complex's per-user limit of jobs in 'Q' state\n")
        held = "u" if any(letter == "h" for letter, _ in options) else ""
        depend = next(
            (
                value.removeprefix("depend=")
                for letter, value in options
                if letter == "W" and value.startswith("depend=")
            ),
            "",
        )
        name = chosen.get("N") or (os.path.basename(rest[0]) if rest and executable is None else "STDIN")
        resources = _resources(limits, place)
        job = Job(
            number=number,
            name=name,
            user=request.user,
            queue=queue,
            script=script,
            argv=list(request.argv),
            arguments=request.argv[1:],
            directory=request.environment.get("HOME", "/"),
            environment=_login(request),
            shell=chosen.get("S", "/bin/bash"),
            cores=_cores(str(resources["select"])),
            walltime_s=walltime,
            elements=[Element(index) for index in (indices or [0])],
            array=bool(indices),
            indices=chosen.get("J", "").partition("%")[0],
            at_once=at_once,
            held=held,
            stdout=chosen.get("o", ""),
            append=False,
            extras={
                "resources": resources,
                "variables": _variables,
                "path": self._output,
                "command": _shell,
                "stdin": _told,
                "submit_directory": request.directory,
                "joined": chosen.get("j") in {"oe", "eo"},
                "executable": executable,
                "depend": depend,
                "account": chosen.get("A", ""),
                "started": self.queues[queue].get("started") != "False",
                "host": request.environment,
            },
        )
        self.it.submit(job)
        if depend and not self._satisfied(depend):
            job.extras["failed_dependency"] = True
            for element in job.elements:
                self.it.end(job, element, None)
        return 0, f"{self._id(job)}\n", ""

    def _satisfied(self, depend: str) -> bool:
        kind, *parents = re.sub(r"@\S*", "", depend).split(":")
        for parent in parents:
            job = self.it.jobs.get(int(re.split(r"[\[.]", parent)[0]))
            if job is None:
                return False
            if kind == "afterok" and job.over and any(element.status for element in job.elements):
                return False
        return True

    def _options(self, words: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
        try:
            found, rest = getopt.getopt(list(words), QSUB)
        except getopt.GetoptError as error:
            letter = str(error.opt)
            if "not recognized" in str(error):
                raise Refusal(2, f"qsub: invalid option -- '{letter}'\n{USAGE}") from None
            raise Refusal(2, f"qsub: option requires an argument -- '{letter}'\n{USAGE}") from None
        options = [(key[1:], value) for key, value in found]
        for letter, value in options:
            if letter == "N":
                if len(value) > 230:
                    raise Refusal(2, "qsub: Job name is too long \n")
                if not re.fullmatch(r"[^\s:/=\"]+", value):
                    raise Refusal(2, f"qsub: illegal -N value\n{USAGE}")
            if letter == "J" and not _good_range(value):
                raise Refusal(2, f"qsub: illegal -J value\n{USAGE}")
            if (
                letter == "W"
                and value.startswith("depend=")
                and not re.fullmatch(r"depend=(after|afterok|afternotok|afterany)(:\d+(\[\])?(\.[\w.-]+)?)+", value)
            ):
                raise Refusal(2, f"qsub: illegal -W value\n{USAGE}")
        return options, rest

    def _output(self, given: str, job: Job, element: Element) -> str:
        path = given or f"{job.name}.o{job.number}" + (f".{element.index}" if job.array else "")
        path = path.rpartition(":")[2].replace("^array_index^", str(element.index))
        path = os.path.join(job.extras["submit_directory"], path)
        if os.path.isdir(path):
            path = os.path.join(path, f"{self._id(job, element)}.OU")
        return path if os.path.isdir(os.path.dirname(path)) else os.devnull

    def _id(self, job: Job, element: Element | None = None) -> str:
        if not job.array:
            return f"{job.number}.{SERVER}"
        return f"{job.number}[{'' if element is None else element.index}].{SERVER}"

    # ---- which jobs an identifier means

    def _find(self, command: str, text: str) -> tuple[Job, list[Element] | None]:
        """Return a job, and the elements that were named (``None``: the whole)."""
        found = re.fullmatch(r"(\d+)(?:\[(\d*|\d+-\d+)\])?(?:\.([\w.-]+))?", text)
        if found is None and re.fullmatch(r"[A-Za-z]\w*", text) and command == "qstat":
            raise Refusal(170, f"qstat: Unknown queue destination {text}\n")
        if found is None or found[3] not in {None, SERVER}:
            raise Refusal(1, f"{command}: illegally formed job identifier: {text}\n")
        job = self.it.jobs.get(int(found[1]))
        full = text if found[3] else f"{text}.{SERVER}"
        unknown = Refusal(153, f"{command}: Unknown Job Id {full}\n")
        if job is None or job.extras.get("forgotten") or job.array != (found[2] is not None):
            raise unknown
        if not found[2]:
            return job, None
        first, _, last = found[2].partition("-")
        elements = [element for element in job.elements if int(first) <= element.index <= int(last or first)]
        if not elements:
            raise Refusal(156, f"qdel: Invalid request {full}\n") if command == "qdel" else unknown
        return job, elements

    # ---- qdel, qhold, qrls, qsig

    def _qdel(self, request: Request) -> Answer:
        words = [word for word in request.argv[1:] if not word.startswith("-W")]
        forget = "-x" in words
        words = [word for word in words if word != "-x"]
        if len(words) > 1 and any("-" in word for word in words):
            self.it.faults.down = True  # req_deletejob of 23.06 does not survive a range beside another id
            return 0, "", ""
        worst, said = 0, ""
        for word in words:
            try:
                job, elements = self._find("qdel", word)
                self._delete(request.user, job, elements, word, forget=forget)
            except Refusal as refusal:
                worst, said = refusal.code, said + refusal.words
        return worst, "", said

    def _delete(self, user: str, job: Job, elements: list[Element] | None, word: str, *, forget: bool) -> None:
        full = word if word.endswith(SERVER) else f"{word}.{SERVER}"
        if forget:
            job.extras["forgotten"] = True
            return
        if elements is None and job.over:
            raise Refusal(35, f"qdel: Job has finished {full}\n")
        if elements is not None and len(elements) == 1 and elements[0].state == ENDED:
            raise Refusal(55, f"qdel: Request invalid for finished array subjob {full}\n")
        if elements is None:
            job.deleted_by = user
        for element in elements if elements is not None else job.elements:
            if element.state == ENDED and job.array:
                element.cloned = True
            self.it.kill(job, element, "user", user)

    def _qhold(self, request: Request) -> Answer:
        job, elements = self._find("qhold", request.argv[-1])
        if elements is not None:
            raise Refusal(156, f"qhold: Invalid request {self._id(job, elements[0])}\n")
        job.held = job.held + "u"
        return 0, "", ""

    def _qrls(self, request: Request) -> Answer:
        job, _ = self._find("qrls", request.argv[-1])
        job.held = ""
        self.it.dirty = True
        return 0, "", ""

    def _qsig(self, request: Request) -> Answer:
        job, elements = self._find("qsig", request.argv[-1])
        raise Refusal(159, f"qsig: Unauthorized Request  {self._id(job, elements[0] if elements else None)}\n")

    # ---- qselect

    def _qselect(self, request: Request) -> Answer:
        found, _ = getopt.getopt(request.argv[1:], "xu:N:s:q:")
        options = dict(found)
        history = "-x" in options and not self.it.faults.no_history
        lines: list[str] = []
        for job in self.it.jobs.values():
            if job.extras.get("forgotten") or (job.over and not history):
                continue
            if options.get("-u", job.user) != job.user or options.get("-N", job.name) != job.name:
                continue
            if "-s" in options and self._state(job, None) not in options["-s"]:
                continue
            lines.append(self._id(job))
        return 0, "".join(f"{line}\n" for line in lines), ""

    # ---- qstat

    def _qstat(self, request: Request) -> Answer:
        found, words = getopt.gnu_getopt(request.argv[1:], "xtfF:EQBu:HawsGnpi")
        given = [key for key, _ in found]
        options = dict(found)
        form = options.get("-F", "")
        if self.it.faults.other == "old" and form:
            raise Refusal(2, "qstat: invalid option -- 'F'\nusage: qstat [-f] [-J] [-p] [-t] [-x] [-E]\n")
        if "-B" in given:
            return 0, self._json(self._server(), "Server"), ""
        if "-Q" in given:
            return 0, (self._json(self._queue_records(), "Queue") if form else self._queue_table()), ""
        history = "-x" in given and not self.it.faults.no_history
        shown: list[tuple[Job, list[Element] | None]] = []
        worst, said = 0, ""
        if words:
            # Without -E this build asks for JSON about the first identifier only.
            asked = words[:1] if form == "json" and "-E" not in given and not self.it.faults.old_json else words
            for word in asked:
                try:
                    job, elements = self._find("qstat", word)
                    if job.over and not history:
                        if self.it.faults.no_history:
                            raise Refusal(153, f"qstat: Unknown Job Id {self._id(job)}\n")
                        raise Refusal(
                            35,
                            f"qstat: {self._id(job)} Job has finished, use -x or -H to obtain historical"
                            " job information\n",
                        )
                    shown.append((job, elements))
                except Refusal as refusal:
                    worst, said = refusal.code, (refusal.words if "-E" in given else said + refusal.words)
            if "-E" in given:
                shown.sort(key=lambda pair: pair[0].number)
                if shown:
                    worst, said = 0, ""
        else:
            shown = [
                (job, None)
                for job in self.it.jobs.values()
                if not job.extras.get("forgotten")
                and (history or not job.over)
                and options.get("-u", job.user) == job.user
            ]
        rows = list(self._rows(shown, subjobs="-t" in given))
        zone = request.environment.get("TZ", "")
        if form == "json":
            out = self._json(
                [(self._id(job, element), self._record(job, element, zone)) for job, element in rows], "Jobs"
            )
        elif form == "dsv":
            out = "".join(_dsv(self._id(job, element), self._record(job, element, zone)) for job, element in rows)
        elif "-f" in given:
            out = "".join(_text(self._id(job, element), self._record(job, element, zone)) for job, element in rows)
        else:
            out = self._table(rows)
        return worst, out, said

    def _rows(
        self, shown: Iterable[tuple[Job, list[Element] | None]], *, subjobs: bool
    ) -> Iterator[tuple[Job, Element | None]]:
        for job, elements in shown:
            if elements is not None:
                yield from ((job, element) for element in elements)
                continue
            yield job, None
            if subjobs and job.array:
                yield from ((job, element) for element in job.elements)

    def _state(self, job: Job, element: Element | None) -> str:
        if element is None and job.array:
            if job.over:
                return "F"
            return "H" if job.held else "B" if job.began else "Q"
        one = element or job.elements[0]
        if one.state == WAITING:
            return "H" if job.held and not job.array else "Q"
        if one.state == RUNNING:
            return "S" if one.suspended else "R"
        return "F" if job.over else "X"

    def _table(self, rows: Iterable[tuple[Job, Element | None]]) -> str:
        lines = [
            f"{'Job id':<17} {'Name':<16} {'User':<16}  {'Time Use'} S Queue",
            "----------------  ---------------- ----------------  -------- - -----",
        ]
        for job, element in rows:
            one = element or (None if job.array else job.elements[0])
            ran = one is not None and one.runs and not one.cloned and (one.state == ENDED or element is None)
            used = "00:00:00" if ran or (one is not None and one.state == ENDED and one.runs) else "0"
            lines.append(
                f"{self._id(job, element):<17} {job.name:<16} {job.user:<16}  {used:>8} {self._state(job, element)}"
                f" {job.queue:<16}"
            )
        return "\n".join(lines) + "\n" if len(lines) > 2 else ""

    def _record(self, job: Job, element: Element | None, zone: str) -> Pairs:
        """Return a job's attributes in the order in which the server sends them."""
        own = (
            element is not None
            and job.array
            and not element.cloned
            and not (element.state == WAITING or element.never_ran)
        )
        one = element if own else None if job.array else job.elements[0]
        began = one is not None and one.runs > 0 and one.state != WAITING
        state = self._state(job, element)
        suffix = f"{job.number}" + (
            "" if not job.array else f".{element.index}" if own and element else ".^array_index^"
        )
        host = job.extras["host"]
        directory = job.extras["submit_directory"]

        def stamp(at: float) -> str:
            return _stamp(at, zone)

        node = _vnode(job.extras["resources"])
        pairs: Pairs = [("Job_Name", job.name), ("Job_Owner", f"{job.user}@{SERVER}")]
        if began and one is not None and (one.state == ENDED or job.array or one.runs):
            spent = int((one.ended_at if one.state == ENDED else time.time()) - one.started_at)
            used = {
                "cpupercent": 0,
                "cput": "00:00:00",
                "mem": one_memory(one),
                "ncpus": job.cores,
                "vmem": "0kb",
                "walltime": time.strftime("%H:%M:%S", time.gmtime(spent)),
            }
            pairs.append(("resources_used", used))
        pairs += [("job_state", state), ("queue", job.queue), ("server", SERVER)]
        if job.extras["account"]:
            pairs.append(("Account_Name", job.extras["account"]))
        if not own:
            pairs.append(("Checkpoint", "u"))
        pairs.append(("ctime", stamp(job.created_at)))
        if job.extras["depend"]:
            pairs.append(("depend", f"{_with_server(job.extras['depend'])}@{SERVER}"))
        default = f"{SERVER}:{directory}/{job.name}"
        given = job.stdout
        pairs.append(("Error_Path", f"{default}.e{suffix}" if not given else f"{SERVER}:{given}"))
        if began and one is not None:
            pairs += [("exec_host", f"{SERVER}/{one.slot}"), ("exec_vnode", node)]
        if not own:
            holds = "s" if job.extras.get("failed_dependency") else job.held or "n"
            pairs.append(("Hold_Types", holds))
        plan = self.it.faults.plan_s
        if plan is not None and state == "Q":
            # A resource of the attribute `estimated`; qstat writes its time as it does others (23.06).
            pairs.append(("estimated", {"start_time": stamp(job.created_at + plan)}))
        pairs += [
            ("Join_Path", "oe" if job.extras["joined"] else "n"),
            ("Keep_Files", "n"),
            ("Mail_Points", "a"),
            ("mtime", stamp(job.changed_at)),
            ("Output_Path", f"{default}.o{suffix}" if not given else f"{SERVER}:{given}"),
            ("Priority", 0),
            ("qtime", stamp(job.created_at)),
            ("Rerunable", "True"),
            ("Resource_List", job.extras["resources"]),
        ]
        first = min((other.started_at for other in job.elements if other.runs), default=0.0)
        last = max((other.ended_at for other in job.elements), default=0.0)
        start = one.started_at if began and one is not None else first if job.array and first else 0.0
        if start:
            pairs.append(("stime", stamp(start)))
        if began and one is not None and one.state == ENDED:
            pairs.append(("obittime", stamp(one.ended_at)))
        elif job.array and not own and job.over and first:
            pairs.append(("obittime", stamp(last)))
        if began and one is not None:
            if one.process is not None and (one.state == RUNNING or one.killed):
                pairs.append(("session_id", one.process.pid))
            pairs.append(("jobdir", host.get("HOME", "/")))
        pairs.append(("substate", self._substate(job, element, own=own)))
        pairs.append(
            (
                "Variable_List",
                {
                    "PBS_O_HOME": host.get("HOME", "/"),
                    "PBS_O_LOGNAME": job.user,
                    "PBS_O_PATH": host.get("PATH", ""),
                    "PBS_O_MAIL": f"/var/mail/{job.user}",
                    "PBS_O_SHELL": "/bin/bash",
                    "PBS_O_INTERACTIVE_AUTH_METHOD": "resvport",
                    "PBS_O_INTERACTIVE_ENCRYPT_METHOD": "",
                    "PBS_O_WORKDIR": directory,
                    "PBS_O_SYSTEM": "Linux",
                    "PBS_O_QUEUE": job.queue,
                    "PBS_O_HOST": SERVER,
                },
            )
        )
        comment = self._comment(job, element, own=own)
        if comment:
            pairs.append(("comment", comment))
        if not (job.held and not job.began) and not job.extras.get("failed_dependency"):
            pairs.append(("etime", stamp(job.created_at)))
        if began and one is not None:
            pairs.append(("run_count", one.runs))
        ended = one is not None and one.state == ENDED and one.runs > 0
        if ended and one is not None:
            pairs += [("Stageout_status", 1), ("Exit_status", _status(one))]
        elif job.array and not own and first and any(other.state == ENDED and other.runs for other in job.elements):
            failed = any(other.state == ENDED and other.runs and _status(other) for other in job.elements)
            pairs += [("Stageout_status", 1), ("Exit_status", int(failed))]
        if not own:
            pairs.append(("Submit_arguments", _joined(job.arguments)))
        if job.extras["executable"]:
            program, *arguments = job.extras["executable"]
            pairs.append(("executable", f"<jsdl-hpcpa:Executable>{program}</jsdl-hpcpa:Executable>"))
            if arguments:
                pairs.append(
                    (
                        "argument_list",
                        "".join(f"<jsdl-hpcpa:Argument>{_escaped(word)}</jsdl-hpcpa:Argument>" for word in arguments),
                    )
                )
        if job.array and element is None:
            pairs += self._array_attributes(job)
        if own and element is not None:
            pairs += [("array_id", self._id(job)), ("array_index", element.index)]
        if element is not None and job.array and not own:
            return pairs  # a copy of the array's record, as far as it goes
        if (one is not None and one.state == ENDED) or job.over:
            pairs.append(("history_timestamp", int(one.ended_at if one is not None else last)))
        pairs += [("project", "_pbs_project_default"), ("Submit_Host", SERVER)]
        return pairs

    def _array_attributes(self, job: Job) -> Pairs:
        queued = sum(element.state == WAITING for element in job.elements)
        running = sum(element.state == RUNNING for element in job.elements)
        ended = sum(element.state == ENDED for element in job.elements)
        remaining = _ranges([element.index for element in job.elements if element.state == WAITING])
        pairs: Pairs = [
            ("array", "True"),
            ("array_state_count", f"Queued:{queued} Running:{running} Exiting:0 Expired:{ended}"),
            ("array_indices_submitted", job.indices),
            ("array_indices_remaining", remaining or "-"),
        ]
        if job.at_once is not None:
            pairs.append(("max_run_subjobs", job.at_once))
        return pairs

    def _substate(self, job: Job, element: Element | None, *, own: bool) -> int:
        one = element if own else None if job.array else job.elements[0]
        if one is None:
            if job.over:
                deleted = bool(job.deleted_by) or not job.began
                return SUBSTATE_TERMINATED if deleted else SUBSTATE_FINISHED
            return SUBSTATE_HELD if job.held else SUBSTATE_BEGUN if job.began else SUBSTATE_QUEUED
        if one.state == WAITING:
            return SUBSTATE_HELD if job.held else SUBSTATE_QUEUED
        if one.state == RUNNING:
            return SUBSTATE_RUNNING
        if one.killed == "user":
            return SUBSTATE_TERMINATED
        return SUBSTATE_FAILED if one.runs and _status(one) else SUBSTATE_FINISHED

    def _comment(self, job: Job, element: Element | None, *, own: bool) -> str:
        if element is not None and job.array and (element.cloned):
            return "Subjob finished"
        one = element if own else None if job.array else job.elements[0]
        if one is None and job.began:
            first = min(other.started_at for other in job.elements if other.runs)
            began = time.strftime("Job Array Began at %a %b %d at %H:%M", time.localtime(first))
            return f"{began} and terminated" if job.over and job.deleted_by else began
        if job.extras.get("failed_dependency"):
            return ""
        if one is None or one.state == WAITING or not one.runs:
            text = "" if job.held else self._waits(job)
            return f"{text} and terminated".strip() if job.over and text else text
        node = _vnode(job.extras["resources"])
        run = time.strftime(f"Job run at %a %b %d at %H:%M on {node}", time.localtime(one.started_at))
        if one.state != ENDED:
            return run
        if one.killed == "user":
            return f"{run} and terminated by {one.killed_by}@{SERVER}"
        if one.killed:
            return f"{run} and exceeded resource {one.killed}"
        return f"{run} and {'failed' if _status(one) else 'finished'}"

    def _waits(self, job: Job) -> str:
        if not self.it.fits(job):
            return (
                f"Can Never Run: Insufficient amount of resource: ncpus (R: {job.cores} A: {self.it.cores}"
                f" T: {self.it.cores})"
            )
        if self.it.faults.stopped:
            return "Not Running: Not enough free nodes available"
        free = self.it.cores - self.it.busy
        return f"Not Running: Insufficient amount of resource: ncpus (R: {job.cores} A: {free} T: {self.it.cores})"

    # ---- server, queues, nodes

    def _counts(self, jobs: Iterable[Job]) -> str:
        states = [self._state(job, None) for job in jobs]
        return (
            f"Transit:0 Queued:{states.count('Q')} Held:{states.count('H')} Waiting:0 Running:{states.count('R')}"
            f" Exiting:0 Begun:{states.count('B')} "
        )

    def _server(self) -> list[tuple[str, Pairs]]:
        live = list(self.it.live.values())
        history: Pairs = [] if self.it.faults.no_history else [("job_history_enable", "True")]
        limit = self.it.faults.max_queued
        queued: Pairs = [] if limit is None else [("max_queued", f"[u:PBS_GENERIC={limit}]")]
        return [
            (
                SERVER,
                [
                    ("server_state", "Active"),
                    ("server_host", SERVER),
                    ("scheduling", "True"),
                    ("total_jobs", len(self.it.jobs)),
                    ("state_count", self._counts(live)),
                    *queued,
                    ("acl_roots", "root"),
                    ("default_queue", "workq"),
                    ("log_events", 511),
                    ("mailer", "/usr/sbin/sendmail"),
                    ("mail_from", "adm"),
                    ("query_other_jobs", "True"),
                    ("resources_default", {"ncpus": 1}),
                    ("default_chunk", {"ncpus": 1}),
                    ("resources_assigned", {"mem": "0mb", "ncpus": 0, "nodect": 0}),
                    ("scheduler_iteration", 600),
                    ("flatuid", "True"),
                    ("resv_enable", "True"),
                    ("node_fail_requeue", 310),
                    ("max_array_size", self.it.faults.max_array or self.max_array),
                    ("resend_term_delay", 5),
                    ("pbs_license_min", 0),
                    ("pbs_license_max", 2147483647),
                    ("pbs_license_linger_time", 31536000),
                    ("license_count", "Avail_Global:1000000 Avail_Local:1000000 Used:0 High_Use:0"),
                    ("pbs_version", VERSION),
                    ("eligible_time_enable", "False"),
                    *history,
                    ("max_concurrent_provision", 5),
                    ("clear_topjob_estimates_enable", "False"),
                    ("max_job_sequence_id", 9999999),
                ],
            )
        ]

    def _queue_records(self) -> list[tuple[str, Pairs]]:
        records: list[tuple[str, Pairs]] = []
        for name, queue in self.queues.items():
            jobs = [job for job in self.it.live.values() if job.queue == name]
            pairs: Pairs = [("queue_type", "Execution"), ("total_jobs", len(jobs)), ("state_count", self._counts(jobs))]
            pairs += [
                (key, queue[key]) for key in ("resources_max", "resources_default", "max_array_size") if key in queue
            ]
            if name == "workq":
                pairs.append(("resources_assigned", {"mem": "0mb", "ncpus": 0, "nodect": 0}))
            pairs += [("enabled", queue.get("enabled", "True")), ("started", queue.get("started", "True"))]
            records.append((name, pairs))
        return records

    def _queue_table(self) -> str:
        lines = [
            "Queue              Max   Tot Ena Str   Que   Run   Hld   Wat   Trn   Ext Type",
            "---------------- ----- ----- --- --- ----- ----- ----- ----- ----- ----- ----",
        ]
        for name, queue in self.queues.items():
            states = [self._state(job, None) for job in self.it.live.values() if job.queue == name]
            on = ["yes" if queue.get(key, "True") == "True" else " no" for key in ("enabled", "started")]
            counts = [states.count("Q"), states.count("R"), states.count("H"), 0, 0, 0]
            lines.append(
                f"{name:<16} {0:>5} {len(states):>5} {on[0]:>3} {on[1]:>3} "
                + " ".join(f"{count:>5}" for count in counts)
                + " Exe*"
            )
        return "\n".join(lines) + "\n"

    def _pbsnodes(self, request: Request) -> Answer:
        now = int(time.time())
        cores, busy = self.it.cores, self.it.busy
        node: Pairs = [
            ("Mom", SERVER),
            ("ntype", "PBS"),
            ("state", "free" if busy < cores else "job-busy"),
            ("pcpus", 2),
            ("resv_enable", "True"),
            ("sharing", "default_shared"),
            ("license", "l"),
            ("last_state_change_time", now),
            ("last_used_time", now),
            (
                "resources_available",
                {
                    "arch": "linux",
                    "host": SERVER,
                    "mem": "37748736kb",
                    "ncpus": cores,
                    "vnode": "<various>",
                    "accelerator_memory": "0kb",
                    "hbmem": "0kb",
                    "naccelerators": 0,
                    "vmem": "0kb",
                },
            ),
            ("resources_assigned", {"ncpus": busy} if busy else {}),
        ]
        return 0, self._json([(SERVER, node)], "nodes"), ""

    # ---- forms

    def _json(self, records: Sequence[tuple[str, Pairs]], group: str | None) -> str:
        head: Pairs = [("timestamp", int(time.time())), ("pbs_version", VERSION), ("pbs_server", SERVER)]
        if records and group is not None:
            head.append((group, [(name, pairs) for name, pairs in records]))
        old = self.it.faults.old_json
        return _written(head, 0, "    " if old else "\t", old=old) + "\n"


# ---- parts of a submission


def _login(request: Request) -> dict[str, str]:
    """Return the environment of a job: a login's, and where it was submitted."""
    home = request.environment.get("HOME", "/")
    return {
        "HOME": home,
        "USER": request.user,
        "LOGNAME": request.user,
        "SHELL": "/bin/bash",
        "LANG": "C",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "PBS_O_WORKDIR": request.directory,
        "PBS_ENVIRONMENT": "PBS_BATCH",
    }


def _variables(job: Job, element: Element) -> dict[str, str]:
    found = {
        "PBS_JOBID": f"{job.number}[{element.index}].{SERVER}" if job.array else f"{job.number}.{SERVER}",
        "PBS_JOBNAME": job.name,
        "PBS_QUEUE": job.queue,
        "NCPUS": str(job.cores),
        "OMP_NUM_THREADS": str(job.cores),
        "TMPDIR": "/tmp",
    }
    if job.array:
        found |= {"PBS_ARRAY_INDEX": str(element.index), "PBS_ARRAY_ID": f"{job.number}[].{SERVER}"}
    return found


def _shell(job: Job, text: Path) -> list[str]:
    """The user's shell as a login shell, which is told the script's name."""
    return [f"-{os.path.basename(job.shell)}"]


def _told(text: Path) -> bytes:
    return f"{text}\n".encode()


def _good_range(text: str) -> bool:
    found = re.fullmatch(r"(\d+)-(\d+)(?::(\d+))?(?:%(\d+))?", text)
    return found is not None and int(found[1]) < int(found[2])


def _indices(text: str) -> tuple[list[int], int | None]:
    if not text:
        return [], None
    span, _, most = text.partition("%")
    ends, _, step = span.partition(":")
    first, _, last = ends.partition("-")
    return list(range(int(first), int(last) + 1, int(step or 1))), int(most) if most else None


def _check_variables(text: str) -> None:
    bare = re.sub(r"'[^'\"{]*'|\"[^\"{]*\"|\\,", "", text)
    for part in bare.split(","):
        if "=" not in part or "{" in part or '"' in part:
            raise Refusal(1, "qsub: cannot send environment with the job\n")


def _limits(values: Iterable[str]) -> dict[str, str]:
    limits: dict[str, str] = {}
    for value in values:
        for part in value.split(","):
            name, _, given = part.partition("=")
            if name == "place":
                limits.setdefault(name, given)
            limits[name] = given
    return limits


def _check_limits(limits: dict[str, str]) -> str:
    """Refuse what qsub or the server does; return the place."""
    chunked = "select" in limits or "place" in limits
    if "nodes" in limits and chunked:
        raise Refusal(6, "qsub: Cannot be used with select or place: nodes\n")
    for name in ("ncpus", "mem", "ngpus", "mpiprocs"):
        if name in limits and chunked:
            raise Refusal(5, f'qsub: "-lresource=" cannot be used with "select" or "place", resource is: {name}\n')
    for name in limits:
        if name not in RESOURCES | {"select", "place", "nodes", "walltime", "cput"}:
            raise Refusal(187, f"qsub: Unknown resource Resource_List.{name}\n")
    for name in ("walltime", "cput"):
        if name in limits and _seconds(limits[name]) is None:
            raise Refusal(166, f"qsub: Illegal attribute or resource value Resource_List.{name}\n")
    for chunk in limits.get("select", "1").split("+"):
        for part in chunk.split(":")[1:]:
            name, _, value = part.partition("=")
            if name not in RESOURCES:
                raise Refusal(187, f"qsub: Unknown resource: {name}\n")
            shape = r"\d+(b|kb|mb|gb|tb)?" if name in {"mem", "vmem"} else r"\d+" if name != "model" else r".+"
            if not re.fullmatch(shape, value):
                raise Refusal(166, f"qsub: Illegal attribute or resource value select.{name}\n")
    return limits.get("place") or ("free" if "select" in limits else "pack")


def _resources(limits: dict[str, str], place: str) -> dict[str, Any]:
    select = limits.get("select", "1:ncpus=1")
    if "nodes" in limits:
        count, _, ranks = limits["nodes"].partition(":ppn=")
        select, place = f"{count}:ncpus={ranks or 1}:mpiprocs={ranks or 1}", "scatter"
    found: dict[str, Any] = {
        "ncpus": _cores(select),
        "nodect": sum(int(c.split(":")[0]) for c in select.split("+")),
        "place": place,
        "select": select,
    }
    memory = re.search(r"\bmem=(\w+)", select)
    if memory:
        found["mem"] = memory[1]
    if "nodes" in limits:
        found["nodes"] = limits["nodes"]
    for name in ("walltime", "cput"):
        if name in limits:
            whole = _seconds(limits[name]) or 0
            found[name] = f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"
    return dict(sorted(found.items()))


def _cores(select: str) -> int:
    total = 0
    for chunk in select.split("+"):
        count, *parts = chunk.split(":")
        found = dict(part.split("=", 1) for part in parts)
        total += int(count) * int(found.get("ncpus", 1))
    return total


def _seconds(text: str) -> int | None:
    if not re.fullmatch(r"\d+(:\d\d){0,2}", text):
        return None
    total = 0
    for part in text.split(":"):
        total = total * 60 + int(part)
    return total


# ---- parts of a record


def one_memory(element: Element) -> str:
    return "301044kb" if element.killed == "mem" else "0kb"


def _status(element: Element) -> int:
    if element.killed == "walltime":
        return -29
    if element.killed == "mem":
        return -27
    status = element.status or 0
    return 256 - status if status < 0 else status


def _vnode(resources: dict[str, Any]) -> str:
    memory = re.fullmatch(r"(\d+)mb", str(resources.get("mem", "")))
    return f"({SERVER}:ncpus={resources['ncpus']}" + (f":mem={int(memory[1]) * 1024}kb" if memory else "") + ")"


def _stamp(at: float, zone: str) -> str:
    return time.strftime("%a %b %d %H:%M:%S %Y", time.gmtime(at) if zone == "UTC" else time.localtime(at))


def _joined(words: Iterable[str]) -> str:
    return " ".join(_escaped(word) for word in words)


def _escaped(word: str) -> str:
    return word.replace(" ", "\\ ")


def _with_server(depend: str) -> str:
    return re.sub(r"(\d+(?:\[\])?)(?![\w.\[])", rf"\1.{SERVER}", depend)


def _ranges(numbers: Sequence[int]) -> str:
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def _written(pairs: Any, depth: int, unit: str, *, old: bool) -> str:
    """Write nested pairs as qstat does: its own indentation, its own idea of escapes."""
    if isinstance(pairs, dict):
        pairs = list(pairs.items())
    if not isinstance(pairs, list):
        if old and isinstance(pairs, str):
            return f'"{pairs}"'
        return json.dumps(pairs, ensure_ascii=False)
    gap = "" if old else "\t"
    lines = [f'{unit * (depth + 1)}"{key}":{gap}{_written(value, depth + 1, unit, old=old)}' for key, value in pairs]
    inner = ",\n".join(lines)
    return "{\n" + (inner + "\n" if inner else "") + unit * depth + "}"


def _flat(pairs: Pairs) -> Iterator[tuple[str, str]]:
    for key, value in pairs:
        if key == "Variable_List":
            yield key, ",".join(f"{name}={given}" for name, given in value.items())
        elif isinstance(value, dict):
            yield from ((f"{key}.{name}", str(given)) for name, given in value.items())
        else:
            yield key, str(value)


def _dsv(identifier: str, pairs: Pairs) -> str:
    return "|".join([f"Job Id: {identifier}", *(f"{key}={value}" for key, value in _flat(pairs))]) + "\n"


def _text(identifier: str, pairs: Pairs) -> str:
    lines = [f"Job Id: {identifier}"]
    for key, value in _flat(pairs):
        line = f"    {key} = {value}"
        pieces: list[str] = []
        while len(line) > 79:
            cut = max(line.rfind(mark, 1, 78) for mark in ",:") + 1
            if cut <= 8:
                break
            pieces.append(line[:cut])
            line = "\t" + line[cut:]
        lines += [*pieces, line]
    return "\n".join(lines) + "\n\n"


def _torque(command: str, request: Request) -> Answer:
    if request.argv[1:] == ["--version"]:
        return 0, "", "Version: 6.1.2\nCommit: 0000000000000000000000000000000000000000\n"
    return 2, "", f"{command}: invalid option -- 'F'\nusage: {command} [-f [-1]] [-W site_specific] [-x]\n"
