"""LSF's commands over the small scheduler: their argvs, their words, their exit codes, their traps.

What text commands say is what tests/data/lsf recorded of OpenLava; `test_lsf_double.py` compares the two. `bjobs -json`
and reasons of an end, which OpenLava has not, follow IBM's manual of 10.1.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.fakes.scheduler import ENDED, RUNNING, WAITING, Answer, Element, Job, Refusal, Request, Scheduler

HOST = "vm"
VERSION = "IBM Spectrum LSF Standard 10.1.0.12, Apr 10 2021"
WITH_VALUE = {
    *(
        "J",
        "Jd",
        "o",
        "oo",
        "e",
        "eo",
        "i",
        "n",
        "R",
        "M",
        "W",
        "We",
        "q",
        "P",
        "U",
        "gpu",
        "w",
        "cwd",
        "L",
        "m",
        "app",
    ),
    *("sla", "G", "g", "E", "Ep", "u", "sp", "c", "b", "t", "env", "Q"),
}
FLAGS = {"H", "x", "r", "rn", "B", "N", "Ne", "K", "ti"}
KNOWN_RESOURCES = {
    "mem",
    "ncpus",
    "hname",
    "type",
    "model",
    "swp",
    "tmp",
    "ut",
    "hosts",
    "ptile",
    "matlab",
    "any",
    "X86_64",
}
MAX_SLOTS = 4096


class Lsf:
    """The master host and its commands."""

    def __init__(self, folder: Path, *, cores: int = 4, first: int = 1) -> None:
        self.it = Scheduler(folder, cores=cores, first=first)
        interrupt = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
        self.it.signals = {"user": interrupt, "walltime": (signal.SIGUSR2, signal.SIGKILL), "mem": (signal.SIGKILL,)}
        self.it.grace_s = 1.0
        self.queues: dict[str, dict[str, Any]] = {
            "short": {"priority": 40, "limit_min": 10.0},
            "normal": {"priority": 30, "limit_min": None},
        }
        self.max_array = 1000

    def answer(self, request: Request) -> Answer:
        """Return exit code, stdout and stderr of one command."""
        command = os.path.basename(request.argv[0])
        run: Callable[[Request], Answer] = getattr(self, f"_{command}")
        if self.it.faults.down:
            words = "Cannot connect to LSF. Please wait ...\n"
            if command == "lsid":
                return 255, f"{VERSION}\n", "lsid: ls_getclustername() failed: LIM is down; try later.\n"
            return 255, words, "LSF daemon not responding\n"
        try:
            return run(request)
        except Refusal as refusal:
            return refusal.code, "", refusal.words

    # ---- bsub

    def _bsub(self, request: Request) -> Answer:
        options, command = self._options(request.argv[1:])
        script = request.stdin
        if command:
            script = f"{shlex.join(command)}\n"
        else:
            written = [
                word for line in re.findall(r"^#BSUB\s+(.*)$", script, re.MULTILINE) for word in shlex.split(line)
            ]
            options = self._options(written)[0] + options
        if not script.strip():
            raise _refusal("No command is specified.")
        chosen = dict(options)
        name, indices, at_once, spec = _array(chosen.get("J", ""))
        size = self.it.faults.max_array or self.max_array
        if indices and max(indices) > size:
            raise _refusal("Job array index too large.")
        queue = chosen.get("q", "normal")
        if queue not in self.queues:
            raise _refusal(f"{queue}: No such queue.")
        minutes = _minutes(chosen["W"]) if "W" in chosen else None
        if "W" in chosen and minutes is None:
            raise _refusal(f"{chosen['W']}: Bad RUNLIMIT specification.")
        most = self.queues[queue]["limit_min"]
        if minutes is not None and most is not None and minutes > most:
            raise _refusal("RUNLIMIT: Cannot exceed queue's hard limit(s).")
        for key, value in options:
            if key == "R":
                _check_requirement(value)
        cores = int(chosen.get("n", "1"))
        if cores > MAX_SLOTS:
            raise _refusal("Too many processors requested.")
        waits = re.search(r"(?:done|ended|exit)\((\d+)\)", chosen.get("w", ""))
        if waits and int(waits[1]) not in self.it.jobs:
            raise _refusal(f"{waits[1]}: No matching job found.")
        fault = self.it.faults
        if fault.reject:
            raise _refusal(f"{fault.reject}\nRequest aborted by esub.")
        pending = sum(element.state != ENDED for job in self.it.live.values() for element in job.elements)
        if fault.max_queued is not None and pending + max(1, len(indices)) > fault.max_queued:
            raise _refusal(f"User <{request.user}>: Pending job limit reached.")
        job = Job(
            number=self.it.number(),
            name=name or _title(script if not command else shlex.join(command)),
            user=request.user,
            queue=queue,
            script=script if script.startswith("#!") else f"#!/bin/sh\n{script}",
            argv=list(request.argv),
            arguments=request.argv[1:],
            directory=chosen.get("cwd", request.directory),
            environment={**request.environment, "LSB_QUEUE": queue, "LSB_HOSTS": HOST},
            shell="",
            cores=cores,
            walltime_s=None if minutes is None else minutes * 60,
            elements=[Element(index) for index in (indices or [0])],
            array=bool(indices),
            indices=spec,
            at_once=at_once,
            held="you" if "H" in chosen else "",
            stdout=chosen.get("o", chosen.get("oo", "")),
            append="oo" not in chosen,
            extras={
                "variables": _variables,
                "path": _output,
                "command": _itself,
                "stdin": _nothing,
                "never": bool(waits),
                "started": not waits,
                "command_line": _title(script if not command else shlex.join(command)),
                "spec": spec,
            },
        )
        self.it.submit(job)
        which = f"queue <{queue}>" if "q" in chosen else f"default queue <{queue}>"
        return 0, f"Job <{job.number}> is submitted to {which}.\n", ""

    def _options(self, words: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
        """bsub's own parser: options until the first word that is none; values are words of their own."""
        found: list[tuple[str, str]] = []
        rest = list(words)
        while rest and rest[0].startswith("-"):
            name = rest.pop(0)[1:]
            if name in FLAGS:
                found.append((name, ""))
            elif name in WITH_VALUE and rest:
                found.append((name, rest.pop(0)))
            else:
                raise Refusal(255, f"bsub: illegal option -- {name}\nUsage: bsub [options] command [arguments]\n")
        return found, rest

    # ---- which jobs an identifier means

    def _find(self, text: str) -> tuple[Job, list[Element]] | None:
        found = re.fullmatch(r"(\d+)(?:\[([\d,:-]+)\])?", text)
        job = self.it.jobs.get(int(found[1])) if found else None
        if found is None or job is None:
            return None
        wanted = None if found[2] is None else set(_expanded(found[2]))
        elements = [element for element in job.elements if wanted is None or element.index in wanted]
        return (job, elements) if elements else None

    def _asked(self, words: Sequence[str], request: Request) -> tuple[list[tuple[Job, Element]], str]:
        """Return the elements that a command is about, and what it says of those that are not there."""
        if not words or words == ["0"]:
            own = [job for job in self.it.jobs.values() if job.user == request.user]
            return [(job, element) for job in own for element in job.elements], ""
        shown: list[tuple[Job, Element]] = []
        said = ""
        for word in words:
            found = self._find(word)
            if found is None:
                said += f"Job <{word}> is not found\n"
                continue
            shown += [(found[0], element) for element in found[1]]
        return shown, said

    # ---- bjobs

    def _bjobs(self, request: Request) -> Answer:
        flags, values, words = _split(request.argv[1:], flags="aAwlpdrsxX", values=("o", "J", "u", "q", "m"))
        shown, said = self._asked(words, request)
        if values.get("u") == "all" and not words:
            shown = [(job, element) for job in self.it.jobs.values() for element in job.elements]
        if "J" in values:
            shown = [(job, element) for job, element in shown if job.name == values["J"].partition("[")[0]]
        forgotten = [job for job, element in shown if element.state == ENDED and self.it.faults.no_history]
        if forgotten:
            shown = [(job, element) for job, element in shown if job not in forgotten or element.state != ENDED]
            gone = dict.fromkeys(job.number for job in forgotten if not any(other is job for other, _ in shown))
            said += "".join(f"Job <{number}> is not found\n" for number in gone if words)
        if "a" not in flags and not words:
            shown = [(job, element) for job, element in shown if element.state != ENDED]
        if "p" in flags:
            shown = [(job, element) for job, element in shown if element.state == WAITING and not job.held]
        if "json" in flags:
            fields = values["o"].split()
            zone = request.environment.get("TZ", "")
            records: list[dict[str, str]] = [
                {field.upper(): self._field(field, job, element, zone) for field in fields} for job, element in shown
            ]
            if not records and not words:
                return 255, "", "No unfinished job found\n"
            missing = re.findall(r"Job <(\S+)> is not found", said)
            records += [{"JOBID": number, "ERROR": f"Job <{number}> is not found"} for number in missing]
            document = {"COMMAND": "bjobs", "JOBS": len(records), "RECORDS": records}
            return (
                (255 if said else 0),
                json.dumps(document, indent=2, separators=(",", ":")).replace("/", "\\/") + "\n",
                "",
            )
        if "o" in values:
            head = "" if "noheader" in flags else " ".join(word.upper() for word in values["o"].split()) + "\n"
            lines = [
                " ".join(self._field(field, job, element, "") or "-" for field in values["o"].split())
                for job, element in shown
            ]
            return (255 if said else 0), head + "".join(f"{line}\n" for line in lines), said
        if "A" in flags:
            return 0, self._summary({job.number: job for job, _ in shown}.values()), said
        if not shown:
            return 255, "", said or "No unfinished job found\n"
        return (255 if said else 0), self._table(shown, wide="w" in flags, reasons="p" in flags), said

    def _stat(self, job: Job, element: Element) -> str:
        if element.state == WAITING:
            return "PSUSP" if job.held else "PEND"
        if element.state == RUNNING:
            return "USUSP" if element.suspended else "RUN"
        return "DONE" if element.status == 0 and not element.killed else "EXIT"

    def _code(self, element: Element) -> str:
        if element.state != ENDED or element.status in {None, 0}:
            return ""
        status = element.status or 0
        return str(128 - status if status < 0 else status)

    def _reason(self, job: Job, element: Element) -> str:
        if element.state != ENDED:
            return ""
        match element.killed:
            case "walltime":
                return "TERM_RUNLIMIT: job killed after reaching LSF run time limit"
            case "mem":
                return "TERM_MEMLIMIT: job killed after reaching LSF memory usage limit"
            case "user" if element.killed_by in {"", job.user}:
                return "TERM_OWNER: job killed by owner"
            case "user":
                return "TERM_ADMIN: job killed by root or LSF administrator"
            case _:
                return ""

    def _waits(self, job: Job) -> str:
        if job.held:
            who = "the user" if job.held == "you" else "LSF administrator or root"
            return f"The job was suspended by {who} while pending;"
        if job.extras["never"]:
            return "Dependency condition invalid or never satisfied;"
        return "New job is waiting for scheduling;"

    def _field(self, field: str, job: Job, element: Element, zone: str) -> str:
        ran = element.runs > 0 and element.state != WAITING
        match field:
            case "jobid":
                return str(job.number)
            case "jobindex":
                return str(element.index)
            case "job_name":
                return _name(job, element)
            case "stat":
                return self._stat(job, element)
            case "exit_code":
                return self._code(element)
            case "exit_reason":
                return self._reason(job, element)
            case "pend_reason":
                return self._waits(job) if element.state == WAITING else ""
            case "exec_host":
                return (HOST if job.cores == 1 else f"{job.cores}*{HOST}") if ran else ""
            case "start_time":
                return _stamp(element.started_at, zone) if ran else ""
            case "finish_time":
                return _stamp(element.ended_at, zone) if element.state == ENDED else ""
            case "run_time":
                end = element.ended_at if element.state == ENDED else time.time()
                return f"{int(end - element.started_at) if ran else 0} second(s)"
            case "user":
                return job.user
            case "proj_name":
                return "default"
            case "queue":
                return job.queue
            case "nreq_slot":
                return str(job.cores)
            case "runtimelimit":
                return "" if job.walltime_s is None else f"{job.walltime_s / 60:.1f}"
            case "submit_time":
                return _stamp(job.created_at, zone)
            case "estimated_start_time":
                plan = self.it.faults.plan_s
                waits = element.state == WAITING and plan is not None
                return _stamp(job.created_at + plan, zone) if waits and plan is not None else ""
            case "max_mem":
                return "2 Mbytes" if ran else ""
            case _:
                return ""

    def _table(self, shown: Sequence[tuple[Job, Element]], *, wide: bool, reasons: bool) -> str:
        if reasons:
            head = "JOBID   USER    STAT  QUEUE       FROM_HOST      JOB_NAME           SUBMIT_TIME\n"
            lines = [
                f"{job.number:<7} {job.user:<7} {self._stat(job, element):<5} {job.queue:<11} {HOST:<14}"
                f" {_short(_name(job, element), 18):<18} {_day(job.created_at)}\n {self._waits(job)[:-1]}: 1 host;\n"
                for job, element in shown
            ]
            return head + "".join(lines)
        head = "JOBID   USER    STAT  QUEUE      FROM_HOST   EXEC_HOST   JOB_NAME   SUBMIT_TIME\n"
        lines = []
        for job, element in shown:
            name = _name(job, element)
            host = HOST if element.runs else ("   -" if wide else "")
            lines.append(
                f"{job.number:<7} {job.user:<7} {self._stat(job, element):<5} {job.queue:<10} {HOST:<11} {host:<11}"
                f" {name if wide else _short(name, 10):<10} {_day(job.created_at)}\n"
            )
        return head + "".join(lines)

    def _summary(self, jobs: Iterable[Job]) -> str:
        lines = ["JOBID    ARRAY_SPEC  OWNER   NJOBS PEND DONE  RUN EXIT SSUSP USUSP PSUSP\n"]
        for job in jobs:
            stats = [self._stat(job, element) for element in job.elements]
            counts = [stats.count(word) for word in ("PEND", "DONE", "RUN", "EXIT", "SSUSP", "USUSP", "PSUSP")]
            spec = f"{job.name}[{job.indices}]"[:8]
            lines.append(
                f"{job.number:<8} {spec:<11} {job.user:<5} {len(stats):>7} {counts[0]:>4} {counts[1]:>4} {counts[2]:>4}"
                f" {counts[3]:>4} {counts[4]:>5} {counts[5]:>5} {counts[6]:>5}\n"
            )
        return "".join(lines)

    # ---- bhist

    def _bhist(self, request: Request) -> Answer:
        flags, _, words = _split(request.argv[1:], flags="lawe", values=("n", "J", "u", "UF"))
        shown, said = self._asked(words, request)
        if said and not shown:
            return 255, "No matching job found\n", ""
        if "l" not in flags:
            head = (
                "Summary of time in seconds spent in various states:\n"
                "JOBID   USER    JOB_NAME  PEND    PSUSP   RUN     USUSP   SSUSP   UNKWN   TOTAL\n"
            )
            lines = [_spent_line(job, element) for job, element in shown]
            return 0, head + "".join(lines) + "\n", ""
        rule = "-" * 78 + "\n"
        return 0, rule.join(self._report(job, element) for job, element in shown), ""

    def _report(self, job: Job, element: Element) -> str:
        identifier = f"{job.number}[{element.index}]" if job.array else str(job.number)
        title = f"Job Name <{_name(job, element)}>, " if job.array or job.name != job.extras["command_line"] else ""
        home = job.environment.get("HOME", "/")
        place = job.directory.replace(home, "$HOME", 1)
        first = (
            f"Job <{identifier}>, {title}User <{job.user}>, Project <default>, Command <{job.extras['command_line']}>"
        )
        out = f", Output File <{job.stdout}>" if job.stdout else ""
        lines = [
            "",
            first,
            f"{_when(job.created_at)}: Submitted from host <{HOST}>, to Queue <{job.queue}>, CWD <{place}>{out};",
        ]
        if element.runs:
            start = _when(element.started_at)
            pid = element.process.pid if element.process else 0
            lines += [
                f"{start}: Dispatched to <{HOST}>;",
                f"{start}: Starting (Pid {pid});",
                f"{start}: Running with execution home <{home}>, Execution CWD <{job.directory}>,"
                f" Execution Pid <{pid}>;",
            ]
        if element.killed == "user":
            by = element.killed_by or job.user
            lines.append(f"{_when(element.ended_at)}: Signal <KILL> requested by user or administrator <{by}>;")
        if element.state == ENDED:
            code, reason = self._code(element), self._reason(job, element)
            how = (
                "Done successfully."
                if self._stat(job, element) == "DONE"
                else f"Exited with exit code {code}."
                if code
                else "Exited;"
            )
            cpu = " The CPU time used is 0.0 seconds;" if element.runs else ""
            lines.append(f"{_when(element.ended_at)}: {how}{cpu}")
            if reason and element.killed != "user":
                lines.append(f"{_when(element.ended_at)}: Completed <exit>; {reason};")
        now = element.ended_at if element.state == ENDED else time.time()
        wait, run = _spent(job, element)
        lines += [
            "",
            f"Summary of time in seconds spent in various states by  {_when(now)}",
            "  PEND     PSUSP    RUN      USUSP    SSUSP    UNKWN    TOTAL",
            f"  {wait:<8} 0        {run:<8} 0        0        0        {wait + run:<12}",
            "",
        ]
        return "".join(_wrapped(line) for line in lines)

    # ---- bkill, bstop, bresume

    def _bkill(self, request: Request) -> Answer:
        _, values, words = _split(request.argv[1:], flags="lr", values=("s", "J", "u", "q", "stat"))
        if not words:
            words = [str(max(self.it.jobs, default=0))]  # the last job that was submitted
        done = failed = ""
        if words == ["0"]:
            for job in reversed(list(self.it.live.values())):
                if job.user == request.user:
                    done += f"Job <{job.number}> is being terminated\n"
                    for element in job.elements:
                        self.it.kill(job, element, "user", request.user)
            return 0, done, ""
        for word in words:
            found = self._find(word)
            if found is None:
                failed += f"Job <{word}>: No matching job found\n"
                continue
            job, elements = found
            alive = [element for element in elements if element.state != ENDED]
            if not alive:
                failed += f"Job <{word}>: Job has already finished\n"
                continue
            for element in alive:
                identifier = f"{job.number}[{element.index}]" if job.array else str(job.number)
                if "s" in values:
                    self.it.signal(element, getattr(signal, f"SIG{values['s'].removeprefix('SIG')}"))
                    done += f"Job <{identifier}> is being signaled\n"
                    continue
                self.it.kill(job, element, "user", request.user)
                if "[" in word or not job.array:
                    done += f"Job <{identifier}> is being terminated\n"
            if job.array and "[" not in word and "s" not in values:
                done += f"Job <{job.number}> is being terminated\n"
        return (255 if failed else 0), done, failed

    def _bstop(self, request: Request) -> Answer:
        return self._suspend(request, held="you")

    def _bresume(self, request: Request) -> Answer:
        return self._suspend(request, held="")

    def _suspend(self, request: Request, *, held: str) -> Answer:
        done = failed = ""
        for word in request.argv[1:]:
            found = self._find(word)
            if found is None or found[0].over:
                failed += f"Job <{word}>: {'No matching job found' if found is None else 'Job has already finished'}\n"
                continue
            job, elements = found
            if not held and job.held == "administrator":
                failed += f"Job <{word}>: User permission denied\n"
                continue
            job.held = held
            for element in elements:
                self.it.signal(element, signal.SIGSTOP if held else signal.SIGCONT)
            done += f"Job <{word}> is being {'stopped' if held else 'resumed'}\n"
        self.it.dirty = True
        return (255 if failed else 0), done, failed

    # ---- the cluster

    def _lsid(self, request: Request) -> Answer:
        title = {"openlava": "OpenLava 2.2, Mar 22 2014", "old": "Platform LSF 9.1.3.0, Mar 04 2015"}.get(
            self.it.faults.other, VERSION
        )
        return 0, f"{title}\nCopyright\n\nMy cluster name is double\nMy master name is {HOST}\n", ""

    def _bparams(self, request: Request) -> Answer:
        size = self.it.faults.max_array or self.max_array
        return (
            0,
            (
                "Default Queues:  normal\nMAX_JOB_ARRAY_SIZE = "
                f"{size}\nCLEAN_PERIOD = 3600 (seconds)\nJOB_TERMINATE_INTERVAL = 10 (seconds)\n"
            ),
            "",
        )

    def _bqueues(self, request: Request) -> Answer:
        flags, _, words = _split(request.argv[1:], flags="lw", values=("u", "m"))
        for word in words:
            if word not in self.queues:
                raise Refusal(255, f"{word}: No such queue\n")
        shown = {name: queue for name, queue in self.queues.items() if not words or name in words}
        if "l" in flags:
            return 0, ("-" * 78 + "\n").join(self._queue(name, queue) for name, queue in shown.items()), ""
        lines = ["QUEUE_NAME      PRIO STATUS          MAX JL/U JL/P JL/H NJOBS  PEND   RUN  SUSP \n"]
        for name, queue in shown.items():
            counts = self._counts(name)
            lines.append(
                f"{name:<15} {queue['priority']:>3}   {'Open:Active':<14}"
                + "   -"
                + "    -" * 3
                + f" {sum(counts):>5} {counts[0]:>5} {counts[1]:>5} {counts[2]:>5}\n"
            )
        return 0, "".join(lines), ""

    def _counts(self, name: str) -> tuple[int, int, int]:
        stats = [
            self._stat(job, element) for job in self.it.live.values() if job.queue == name for element in job.elements
        ]
        return stats.count("PEND"), stats.count("RUN"), sum(stats.count(word) for word in ("PSUSP", "USUSP"))

    def _queue(self, name: str, queue: dict[str, Any]) -> str:
        waits, runs, stopped = self._counts(name)
        limit = queue["limit_min"]
        limits = f" RUNLIMIT                \n {limit} min of {'':<14}\n\n" if limit else ""
        return (
            f"\nQUEUE: {name}\n  -- {name}\n\nPARAMETERS/STATISTICS\n"
            "PRIO NICE STATUS          MAX JL/U JL/P JL/H NJOBS  PEND   RUN SSUSP USUSP  RSV \n"
            f" {queue['priority']}    0  Open:Active       -    -    -    - {waits + runs + stopped:>5} {waits:>5}"
            f" {runs:>5} {0:>5} {stopped:>5} {0:>4}\nInterval for a host to accept two jobs is 0 seconds\n\n{limits}"
            "SCHEDULING PARAMETERS\n"
            "           r15s   r1m  r15m   ut      pg    io   ls    it    tmp    swp    mem\n"
            " loadSched   -     -     -     -       -     -    -     -     -      -      -  \n"
            " loadStop    -     -     -     -       -     -    -     -     -      -      -  \n\n"
            "USERS:  all users\nHOSTS:  all hosts used by the LSF Batch system\n\n\n"
        )

    def _bhosts(self, request: Request) -> Answer:
        """Write the table of bhosts(1), whose widths are 10.1's."""
        cores, busy = self.it.cores, self.it.busy
        running = [element for job in self.it.live.values() for element in job.elements if element.state == RUNNING]
        held = sum(element.suspended for element in running)
        status = "closed_Full" if busy >= cores else "ok"
        head = f"{'HOST_NAME':<18} {'STATUS':<15} {'JL/U':>5}"
        head += "".join(f" {word:>6}" for word in ("MAX", "NJOBS", "RUN", "SSUSP", "USUSP", "RSV"))
        row = f"{HOST:<18} {status:<15} {'-':>5}"
        row += "".join(f" {number:>6}" for number in (cores, busy, busy - held, 0, held, 0))
        return 0, f"{head} \n{row}\n", ""

    def _lshosts(self, request: Request) -> Answer:
        return (
            0,
            (
                "HOST_NAME      type    model  cpuf ncpus maxmem maxswp server RESOURCES\n"
                f"{HOST:<14} X86_64  Intel_EM64T  60.0 {self.it.cores:>5}  36.0G      -    Yes (mg)\n"
                "login          X86_64  Intel_EM64T  60.0     -      -      -     No ()\n"
            ),
            "",
        )


# ---- parts of a submission


def _refusal(words: str) -> Refusal:
    return Refusal(255, f"{words} Job not submitted.\n")


def _array(text: str) -> tuple[str, list[int], int | None, str]:
    """Read "name[1-8]%4"; indices count from 1."""
    found = re.fullmatch(r"([^\[\]]*)(?:\[([\d,:-]+)\](?:%(\d+))?)?", text)
    if found is None:
        raise _refusal("Bad job name.")
    if found[2] is None:
        return found[1], [], None, ""
    indices = _expanded(found[2])
    if not indices or min(indices) < 1:
        raise _refusal("Bad job name.")
    return found[1], indices, int(found[3]) if found[3] else None, found[2]


def _expanded(text: str) -> list[int]:
    found: list[int] = []
    for part in text.split(","):
        span, _, step = part.partition(":")
        first, dash, last = span.partition("-")
        found += range(int(first), int(last if dash else first) + 1, int(step or 1))
    return found


def _minutes(text: str) -> int | None:
    found = re.fullmatch(r"(?:(\d+):)?(\d+)", text)
    return int(found[1] or 0) * 60 + int(found[2]) if found else None


def _check_requirement(text: str) -> None:
    for section, inside in re.findall(r"(\w+)\[([^\]]*)\]", text) or [("", text)]:
        names = re.findall(r"(?<!['\w.])([A-Za-z_]\w*)(?!['\w])", re.sub(r"'[^']*'|\d+[KMGT]B", "", inside))
        if section not in {"select", "rusage", "span", "order", "same"} or not set(names) <= KNOWN_RESOURCES:
            raise _refusal("Bad resource requirement syntax.")


def _variables(job: Job, element: Element) -> dict[str, str]:
    return {
        "LSB_JOBID": str(job.number),
        "LSB_JOBINDEX": str(element.index),
        "LSB_JOBNAME": _name(job, element),
    }


def _output(given: str, job: Job, element: Element) -> str:
    path = given.replace("%J", str(job.number)).replace("%I", str(element.index)) or os.devnull
    path = os.path.join(job.directory, path)
    return path if os.path.isdir(os.path.dirname(path)) else os.devnull


def _itself(job: Job, text: Path) -> list[str]:
    return [str(text)]


def _nothing(text: Path) -> bytes:
    return b""


def _title(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[0] if lines else ""


def _split(words: Sequence[str], *, flags: str, values: Sequence[str]) -> tuple[set[str], dict[str, str], list[str]]:
    """Read LSF's options: words of one letter or more behind one dash."""
    found: set[str] = set()
    given: dict[str, str] = {}
    rest: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        if word.startswith("-") and word[1:] in values:
            given[word[1:]] = left.pop(0)
        elif word.startswith("-") and (word[1:] in {"json", "noheader", "sum"} or set(word[1:]) <= set(flags)):
            found |= {word[1:]} if len(word) > 4 else set(word[1:])
        else:
            rest.append(word)
    return found, given, rest


# ---- parts of a report


def _name(job: Job, element: Element) -> str:
    return f"{job.name}[{element.index}]" if job.array else job.name


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else f"*{name[-(most - 1) :]}"


def _stamp(at: float, zone: str) -> str:
    return time.strftime("%b %e %H:%M:%S %Y", time.gmtime(at) if zone == "UTC" else time.localtime(at))


def _day(at: float) -> str:
    return time.strftime("%b %d %H:%M", time.localtime(at))


def _when(at: float) -> str:
    return time.strftime("%a %b %d %H:%M:%S", time.localtime(at))


def _spent(job: Job, element: Element) -> tuple[int, int]:
    now = element.ended_at if element.state == ENDED else time.time()
    began = element.started_at if element.runs else now
    return int(began - job.created_at), int(now - began)


def _spent_line(job: Job, element: Element) -> str:
    wait, run = _spent(job, element)
    spent = (wait, 0, run, 0, 0, 0)
    times = " ".join(f"{seconds:<7}" for seconds in spent)
    return f"{job.number:<7} {job.user:<7} {_short(_name(job, element), 9):<9} {times} {wait + run:<10}\n"


def _wrapped(line: str) -> str:
    """Cut a line after 80 columns as bhist does, wherever that is; a full line is followed by an empty one."""
    pieces = [line[:79]]
    rest = line[79:]
    while rest or (len(pieces) == 1 and len(line) == 79):
        pieces.append(rest[:58])
        rest = rest[58:]
        if not rest:
            break
    return ("\n" + " " * 21).join(pieces) + "\n"
