"""Commands about dispatches: what there is, one of them, and what shall become of it."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from hpcflow.cli.frame import FAILED, OK, the_server, write_json
from hpcflow.cli.starts import Starts, starts
from hpcflow.core.states import State
from hpcflow.core.words import counted, memory

if TYPE_CHECKING:
    from hpcflow.sdk.answers import ArrayLine, Summary, TaskRecord
    from hpcflow.sdk.connection import Server
    from hpcflow.sdk.results import NodeResult

__all__ = ["cancel", "list_dispatches", "pause", "redispatch", "resume", "retry", "show"]

_SHOWN_FAILURES: Final = 20
_NAMED: Final = 8
#: Characters of an argument that are shown.
_SPELLED: Final = 60
#: Home, and all that is there erased (ECMA-48: CUP, ED).
_CLEAR: Final = "\x1b[H\x1b[2J"


def list_dispatches(options: argparse.Namespace) -> int:
    from hpcflow.sdk.answers import parse_summary
    from hpcflow.sdk.terminal import table

    answer = the_server().ask("GET", "/dispatches", query={"limit": options.limit})
    if options.json:
        write_json(answer["dispatches"])
        return OK
    summaries = [parse_summary(raw) for raw in answer["dispatches"]]
    if not summaries:
        print("No dispatches yet.")
    else:
        table(("ID", "NAME", "STATUS", "ENDED", "CREATED", "TOOK"), map(_dispatch_row, summaries))
    return OK


def _dispatch_row(summary: Summary) -> tuple[str, ...]:
    from hpcflow.sdk.terminal import clock, took

    tasks = f"{summary.tasks_ended}/{summary.tasks}"
    length = took(summary.started_at, summary.ended_at, datetime.now(UTC))
    return summary.id, summary.name, _status(summary), tasks, clock(summary.created_at), length


def _status(summary: Summary) -> str:
    return f"{summary.status}, paused" if summary.paused else summary.status


def show(options: argparse.Namespace) -> int:
    from hpcflow.core.states import Status
    from hpcflow.core.usage import sentences
    from hpcflow.sdk.answers import parse_summary, parse_usage
    from hpcflow.sdk.client import changes, tell, until_ended, whole_id
    from hpcflow.sdk.delivery import deliver
    from hpcflow.sdk.plain import plain
    from hpcflow.sdk.results import Result, task_records
    from hpcflow.sdk.terminal import table

    server = the_server()
    dispatch_id = whole_id(server, options.id)
    raw = server.ask("GET", f"/dispatches/{dispatch_id}")
    waits = options.wait or options.watch
    if waits and not parse_summary(raw).ended:
        if options.watch and not options.json:
            _watch(changes(server, parse_summary(raw)), partial(_starts, server))
        else:
            until_ended(server, parse_summary(raw))
        raw = server.ask("GET", f"/dispatches/{dispatch_id}")
    summary = parse_summary(raw)
    for sentence in deliver(server, summary) if waits else ():
        tell(sentence)
    code = FAILED if waits and summary.status is not Status.COMPLETED else OK
    if options.task is not None:
        node = Result(server, summary).task(options.task)
        if options.json:
            task = server.ask("GET", f"/dispatches/{dispatch_id}/tasks/{options.task}")
            write_json({**task, "stdout": node.stdout, "stderr": node.stderr})
            return code
        about = server.ask("GET", f"/dispatches/{dispatch_id}/tasks/{options.task}/about")
        lines = about.get("arrays", ()) if node.state is State.QUEUED else ()
        jobs = [(line["cluster"], line["job_id"]) for line in lines if line["job_id"] and not line.get("up")]
        _write_task(node, about, summary.root, starts(server, jobs))
        return code
    shown = None if options.tasks else State.FAILED
    records: list[TaskRecord] = []
    if options.tasks or summary.counts.get(State.FAILED):
        records = list(task_records(server, dispatch_id, state=shown))
    if options.json:
        write_json({**raw, "tasks_shown": [asdict(record) for record in records]})
        return code
    _write_dispatch(summary, _starts(server, summary))
    if summary.ended and summary.arrays:
        for sentence in sentences(parse_usage(server.ask("GET", f"/dispatches/{dispatch_id}/usage"))):
            print(sentence)
    if summary.counts.get(State.FAILED):
        _write_failures(server.ask("GET", f"/dispatches/{dispatch_id}/failures"))
    if records:
        notes = [record.note for record in records]
        print()
        table(
            ("TASK", "NAME", "STATE", "JOB", "HOST", "CPU", "MEMORY", "NOTE" if any(notes) else "ERROR"),
            map(_task_row, records if options.tasks else records[:_SHOWN_FAILURES]),
        )
        if not options.tasks and len(records) > _SHOWN_FAILURES:
            print(f"… and {len(records) - _SHOWN_FAILURES} more that failed; --tasks shows all.")
        for record in records if options.tasks else ():
            if record.sublattice is not None:
                print(plain(f"Task {record.index} ({record.name}) is sublattice {record.sublattice}."))
    return code


def _write_failures(failures: Mapping[str, Any]) -> None:  # Any: JSON
    """Write which tasks failed of one cause; nothing where each has a cause of its own, as the table tells these."""
    from hpcflow.sdk.plain import plain

    if all(group["tasks"] == 1 for group in failures["groups"]):
        return
    print()
    for group in failures["groups"]:
        named = ", ".join(f"{task['name']} {task['index']}" for task in group["first"])
        more = "" if group["tasks"] == len(group["first"]) else ", …"
        print(plain(f"{counted(group['tasks'], 'task')} failed: {group['text'].partition(chr(10))[0]} ({named}{more})"))


def _starts(server: Server, summary: Summary) -> Starts:
    waiting = [] if summary.ended else [line for line in summary.arrays if _state(line) == "submitted"]
    return starts(server, [(line.cluster, line.job_id) for line in waiting if line.job_id is not None])


def _write_dispatch(summary: Summary, known: Starts) -> None:
    from hpcflow.sdk.plain import plain
    from hpcflow.sdk.terminal import clock, counts, table, took, why_paused

    print(plain(f"{summary.name}  {summary.id}  {_status(summary)}"))
    if summary.again and summary.started_at:
        # Nobody says how long nothing of it ran before it was tried again.
        ended = f", ended {clock(summary.ended_at)}" if summary.ended else ""
        print(f"created {clock(summary.created_at)}, began {clock(summary.started_at)}{ended}")
    else:
        length = took(summary.started_at, summary.ended_at, datetime.now(UTC))
        print(f"created {clock(summary.created_at)}, took {length}")
    print(counts(summary))
    if summary.parent:
        print(f"It is task {summary.parent[1]} of dispatch {summary.parent[0]}.")
    if summary.error:
        print(plain(summary.error))
    for message in summary.messages:
        if not (summary.paused and message.startswith(summary.paused)):
            print(plain(message))
    for told in filter(None, (summary.hint, summary.undelivered)):
        print(plain(told))
    if summary.paused:
        print(plain(why_paused(summary)))
    if summary.arrays:
        print()
        table(
            ("CLUSTER", "JOB", "WIDTH", "STATE", "REASON"),
            map(partial(_array_row, summary.ended, known), summary.arrays),
        )
    for cluster, at in known.at.items():
        print(plain(f"Starts and places are those of {cluster}'s queue at {clock(at)}."))
    for asked in summary.asked:
        if asked.unknown_since is not None:
            print(plain(f"{asked.cluster}: unknown since {clock(asked.unknown_since)}. {asked.problem}"))
            continue
        when = f"was asked last at {clock(asked.at)}" if asked.at else "has not been asked yet"
        # Between two looks at the accounting a job's reason is old, or not there yet.
        also = ", also when jobs are to start" if asked.cluster in known.unseen else ""
        now = "." if summary.ended else f"; `hpcflow queue {asked.cluster}` asks it now{also}."
        print(plain(f"{asked.cluster} {when}{f', and did not answer: {asked.problem}' if asked.problem else now}"))


def _array_row(ended: bool, known: Starts, line: ArrayLine) -> tuple[str, ...]:
    state, why = _state(line), _why(line)
    if said := known.words.get((line.cluster, line.job_id or "")):
        why = f"{why}; {said}" if why else said
    if ended and line.state == "submitted":
        # What it waited for is past: its tasks have ended.
        state, why = "ending", "accounting has not told its end yet"
    elif line.job_id is not None and state == "submitted" and not why:
        why = "not told yet"
    return line.cluster, line.job_id or "-", str(line.width), state, why


def _state(line: ArrayLine) -> str:
    if line.suspended and line.suspended >= line.up and line.state == "submitted":
        return "suspended"
    # Its workers' journals are read more often than schedulers are asked.
    return "running" if line.up and line.state == "submitted" else line.state


def _why(line: ArrayLine) -> str:
    if line.state == "ended":
        return ""
    if line.suspended < line.up and line.state == "submitted":
        told = [f"{line.up - line.suspended} of {counted(line.width, 'array task')} run"] * (line.up < line.width)
        return ", ".join([*told, *[f"{line.suspended} suspended"] * (line.suspended > 0)])
    return f"{line.why} ({line.reason})" if line.why else line.reason


def _watch(summaries: Iterable[Summary], known: Callable[[Summary], Starts]) -> None:
    """Show a dispatch anew with each change; where nobody sees a screen, only the lines that are new."""
    from hpcflow.sdk.plain import plain

    before: list[str] = []
    for summary in summaries:
        if sys.stdout.isatty():
            sys.stdout.write(_CLEAR)
            _write_dispatch(summary, known(summary))
        else:
            lines = _lines(summary)
            for line in lines:
                if line not in before:
                    print(f"{datetime.now():%H:%M:%S}  {plain(line)}")
            before = lines
        sys.stdout.flush()


def _lines(summary: Summary) -> list[str]:
    """Return what is worth a line when it changes."""
    from hpcflow.sdk.terminal import counts, why_paused

    arrays = [
        f"job {line.job_id} on {line.cluster}, {line.width} wide, {_state(line)}" + (f": {why}" if why else "")
        for line in summary.arrays
        if line.job_id is not None
        for why in (_why(line),)
    ]
    paused = [why_paused(summary)] if summary.paused else []
    return [counts(summary), *arrays, *summary.messages, *paused, *filter(None, [summary.undelivered])]


def _task_row(record: TaskRecord) -> tuple[str, ...]:
    from hpcflow.sdk.terminal import clock

    job = "-" if record.job_id is None else f"{record.job_id}_{record.array_index}"
    cpu = "-" if record.cpu_s is None else f"{record.cpu_s:.1f} s"
    peak = "-" if record.max_rss_kib is None else memory(record.max_rss_kib / 1024)
    error = (record.error or record.note).partition("\n")[0]
    state = str(record.state)
    if record.unknown_since is not None:
        state = f"unknown since {clock(record.unknown_since)} (was {state})"
    return str(record.index), record.name, state, job, record.host or "-", cpu, peak, error


def _write_task(node: NodeResult, about: Mapping[str, Any], root: str, known: Starts) -> None:  # Any: JSON
    from hpcflow.sdk.plain import plain
    from hpcflow.sdk.terminal import table

    print(plain(repr(node).strip("<>")))
    for told in filter(None, (node.hint, node.undelivered)):
        print(plain(told))
    attempts = about["attempts"]
    rows = [_attempt_row(each) for each in attempts]
    # Those that cost nothing leave no end: attempts are told by their numbers.
    if node.job_id is not None and node.attempt not in {each["attempt"] for each in attempts}:
        job = f"{node.job_id}_{node.array_index}"
        rows.append((str(node.attempt), job, node.host or "-", "-", "-", "-", str(node.state)))
    if rows:
        table(("ATTEMPT", "JOB", "HOST", "WALL", "CPU", "MEMORY", "END"), rows)
    if node.state is State.QUEUED:
        for line in about.get("arrays", ()):
            if line["job_id"] is not None and line["state"] == "submitted":
                why = f": {line['why'] or line['reason']}" if line["why"] or line["reason"] else ""
                if up := line.get("up"):
                    busy, which = line["busy"], "" if line["busy"] == up else f"{line['busy']} of "
                    why = f": {which}its {counted(up, 'array task')} {'is' if busy == 1 else 'are'} busy"
                elif said := known.words.get((line["cluster"], line["job_id"])):
                    why = f"{why}; {said}" if why else f": {said}"
                print(plain(f"It waits for job {line['job_id']} on {line['cluster']}, {line['width']} wide{why}"))
    if held_by := about.get("held_by", ())[:_NAMED]:
        names = ", ".join(f"{each['name']} (task {each['index']}, {each['state']})" for each in held_by)
        tasks = " ".join(f"--task {each['index']}" for each in held_by)
        # What ran out of something would run out of it again; to the others `--more` is nothing.
        more = " --more" if any(each["state"] == State.FAILED for each in held_by) else ""
        print(plain(f"It runs once these have completed: {names}. `hpcflow retry {root} {tasks}{more}` tries that."))
    if took := about.get("inputs"):
        print(plain(f"It took {', '.join(map(_input, took))}"))
    if node.workdir is not None:
        print(plain(f"It ran in {node.workdir}"))
    traceback = node.traceback or ""
    # The worker wrote it there as well, for whoever reads the logs alone.
    stderr = node.stderr.replace(traceback, "", 1) if traceback else node.stderr
    for title, text in (("traceback", traceback), ("stdout", node.stdout), ("stderr", stderr)):
        if text.strip():
            print(f"---- {title}\n{text.rstrip()}")


def _input(preview: Mapping[str, Any]) -> str:  # Any: JSON
    """Return an argument as its task spelled it, in a line's part; its type where it did not."""
    text, name = preview["text"], preview["name"]
    if text is None:
        text = f"<{' '.join(filter(None, (preview['type'], preview['shape'])))}>"
    short = text.partition("\n")[0][:_SPELLED]
    more = "…" if preview["cut"] or short != text else ""
    return f"{f'{name}=' if name else ''}{short}{more}"


def _attempt_row(attempt: Mapping[str, Any]) -> tuple[str, ...]:  # Any: JSON
    wall_s, cpu_s, rss_kib = attempt["wall_s"], attempt["cpu_s"], attempt["max_rss_kib"]
    return (
        str(attempt["attempt"]),
        attempt["job"],
        attempt["host"] or "-",
        "-" if wall_s is None else f"{wall_s:.1f} s",
        "-" if cpu_s is None else f"{cpu_s:.1f} s",
        "-" if rss_kib is None else memory(rss_kib / 1024),
        # The last one's is told whole above; here is how they ended, in a line each.
        re.split(r"(?<=[^.])\. |\n", attempt["error"] or "returned", maxsplit=1)[0].rstrip("."),
    )


def cancel(options: argparse.Namespace) -> int:
    return _act(options, "cancel", {"tasks": options.task})


def pause(options: argparse.Namespace) -> int:
    return _act(options, "pause", None)


def resume(options: argparse.Namespace) -> int:
    return _act(options, "resume", None)


def retry(options: argparse.Namespace) -> int:
    from hpcflow.sdk.steering import retry_request

    request = retry_request(
        failed_only=options.failed,
        memory=options.memory,
        walltime=options.walltime,
        more=options.more,
        tasks=options.task,
        electrons=options.electron,
    )
    return _act(options, "retry", request)


def redispatch(options: argparse.Namespace) -> int:
    from hpcflow.sdk.client import whole_id
    from hpcflow.sdk.redispatch import redispatch_as_it_was

    server = the_server()
    before = whole_id(server, options.id)
    answer = redispatch_as_it_was(server, before, reuse=options.reuse)
    if options.json:
        write_json(answer)
        return OK
    for sentence in answer["messages"]:
        print(sentence, file=sys.stderr)
    print(answer["id"])
    return OK


def _act(options: argparse.Namespace, verb: str, body: Mapping[str, object] | None) -> int:
    """Ask the server to do something with a dispatch, and say what it did."""
    from hpcflow.sdk.client import whole_id

    server = the_server()
    answer = server.ask("POST", f"/dispatches/{whole_id(server, options.id)}/{verb}", body=body)
    if options.json:
        write_json(answer)
    else:
        print(answer["message"])
    return OK
