"""The ``hpcflow`` command: a client of the server, and the one that starts and stops it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from hpcflow.core.model import HpcflowError, NotFound, UserError
from hpcflow.core.places import places

if TYPE_CHECKING:
    from hpcflow.sdk.answers import Summary, TaskRecord
    from hpcflow.sdk.connection import Server
    from hpcflow.sdk.results import NodeResult

__all__ = ["main"]

OK: Final = 0
FAILED: Final = 1
MISTAKE: Final = 2
NO_SERVER: Final = 3
REFUSED: Final = 4
NOT_FOUND: Final = 5
INTERRUPTED: Final = 130

_EPILOG: Final = """\
exit codes:
  0  done
  1  the dispatch or the test failed
  2  a mistake in the command, the script or the configuration
  3  no server here, or it does not work
  4  the server refused
  5  no such dispatch, task or cluster

ID may be the beginning of a dispatch's id, as long as one dispatch has it.
State lives in HPCFLOW_HOME (default: ~/.hpcflow).
"""
_SHOWN_FAILURES: Final = 20
_ULID_LENGTH: Final = 26
_LOOKED_THROUGH: Final = 100


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; a mistake is one sentence on stderr, never a traceback."""
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        code = run(options)
        sys.stdout.flush()
        return code
    except HpcflowError as error:
        from hpcflow.sdk.terminal import plain

        print(plain(str(error)), file=sys.stderr)
        return _exit_code(error)
    except BrokenPipeError:
        # The reader (`| head`) has enough. Python would complain about it once more at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt as interrupted:
        print(*interrupted.args, file=sys.stderr)
        return INTERRUPTED


def _exit_code(error: HpcflowError) -> int:
    from hpcflow.sdk.connection import (
        NotAuthorised,
        Refused,
        ServerFault,
        ServerUnreachable,
        VersionMismatch,
    )

    match error:
        case UserError():
            return MISTAKE
        case ServerUnreachable() | ServerFault():
            return NO_SERVER
        case NotAuthorised() | VersionMismatch() | Refused():
            return REFUSED
        case NotFound():
            return NOT_FOUND
        case _:
            return FAILED


# ---- the command line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hpcflow",
        description="Python workflows on Slurm and on your own machine.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show hpcflow's version")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        command.set_defaults(run=run)
        return command

    start = add("start", _start, "start the server and return once it answers; fine when it runs already")
    start.add_argument("--take-over", action="store_true", help="move it here from the host that it runs on")
    start.add_argument("--foreground", action="store_true", help="stay in the foreground until interrupted")
    start.add_argument("--from-dispatch", action="store_true", help=argparse.SUPPRESS)
    add("stop", _stop, "stop the server; jobs that run go on, and the next start finds them")
    add("restart", _restart, "stop the server and start it with this version and environment")
    _json(add("status", _status, "show whether the server runs, where, and with which clusters"))
    logs = add("logs", _logs, "show the server's log")
    logs.add_argument("-f", "--follow", action="store_true", help="go on as it grows")
    logs.add_argument("-n", "--lines", type=_count, default=50, metavar="N", help="the last N lines (default: 50)")

    dispatches = add("dispatches", _dispatches, "list dispatches, the newest first")
    dispatches.add_argument("-n", "--limit", type=_count, default=20, metavar="N", help="at most N (default: 20)")
    _json(dispatches)
    show = add("show", _show, "show a dispatch: its tasks, job arrays and failures")
    show.add_argument("id", metavar="ID")
    show.add_argument("--task", type=_count, metavar="N", help="task N with its output and traceback")
    show.add_argument("--tasks", action="store_true", help="every task, not only those that failed")
    show.add_argument("--wait", action="store_true", help="until it has ended; the exit code is 1 unless it completed")
    _json(show)
    cancel = add("cancel", _cancel, "cancel a dispatch: queued jobs leave the queue, running tasks are killed")
    cancel.add_argument("id", metavar="ID")
    cancel.add_argument("--task", type=_count, action="append", metavar="N", help="only task N; may be repeated")
    _json(cancel)

    clusters = commands.add_parser("clusters", help="list clusters, or test one", description="List or test clusters.")
    clusters_commands = clusters.add_subparsers(title="commands", metavar="COMMAND", required=True)
    listed = clusters_commands.add_parser("list", help="list the clusters that the server knows")
    listed.set_defaults(run=_clusters_list)
    _json(listed)
    test = clusters_commands.add_parser("test", help="test a cluster: answer, limits, work directory")
    test.set_defaults(run=_clusters_test)
    test.add_argument("name", metavar="NAME")
    _json(test)

    _json(add("ui", _ui, "print the address of the web page, and how to reach it from your own machine"))
    plan = add("plan", _plan, "run a script up to its first dispatch and show what it would submit; submits nothing")
    plan.add_argument("file", metavar="FILE")
    plan.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="arguments of the script")
    plan.add_argument("--json", action="store_true", help="write JSON; give it before FILE")
    add("demo", _demo, "run a small lattice on this machine")
    return parser


class _Version(argparse.Action):
    """Looks the version up only when it is asked for: that takes longer than all else here."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from hpcflow import __version__

        print(f"hpcflow {__version__}")
        parser.exit()


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="write JSON")


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number


# ---- the server


def _start(options: argparse.Namespace) -> int:
    import socket

    from hpcflow.sdk.connection import read_record
    from hpcflow.sdk.startup import running, server_command, start

    where = places(os.environ)
    if options.foreground:
        present = running(where) if not options.take_over else None
        if present is not None:
            print(f"The server of {where.home} runs already (pid {present.pid}).")
            return OK
        command = server_command(take_over=options.take_over)
        sys.stdout.flush()
        os.execv(command[0], command)
    elsewhere = read_record(where)
    if options.take_over and elsewhere is not None and elsewhere.host != socket.gethostname():
        print(
            f"Asks the server on {elsewhere.host} (pid {elsewhere.pid}) to end; this may take two minutes.",
            file=sys.stderr,
        )
    record, started = start(where, take_over=options.take_over, from_dispatch=options.from_dispatch)
    if not started:
        print(f"The server of {where.home} runs already (pid {record.pid}).")
    elif options.from_dispatch:
        print(f"Started the hpcflow server of {where.home} (pid {record.pid}); `hpcflow stop` ends it.")
    else:
        print(f"The server of {where.home} is up (pid {record.pid}).")
    return OK


def _stop(_: argparse.Namespace) -> int:
    from hpcflow.sdk.startup import stop

    where = places(os.environ)
    record = stop(where)
    if record is None:
        print(f"No server runs for {where.home}.")
    else:
        print(f"The server of {where.home} (pid {record.pid}) has stopped. Jobs in the queue go on.")
    return OK


def _restart(_: argparse.Namespace) -> int:
    from hpcflow.sdk.startup import start, stop

    where = places(os.environ)
    stop(where)
    record, _started = start(where)
    print(f"The server of {where.home} is up (pid {record.pid}).")
    return OK


def _status(options: argparse.Namespace) -> int:
    from hpcflow import __version__
    from hpcflow.sdk.connection import Server, ServerUnreachable, read_record
    from hpcflow.sdk.startup import running

    status: dict[str, Any] = {  # Any: JSON
        "pid": None,
        "version": __version__,
        "host": None,
        "address": None,
        "home": None,
        "clusters": [],
        "problem": None,
    }
    problem: HpcflowError | None = None
    try:
        where = places(os.environ)
        left = read_record(where)
        status |= {"home": where.home, "host": left and left.host}
        record = running(where)
        if record is None:
            raise ServerUnreachable(f"No server runs for {where.home}. Start one with `hpcflow start`.")
        status |= {"pid": record.pid, "version": record.version, "host": record.host, "address": record.address}
        status |= Server(where, any_version=True).ask("GET", "/status")
    except HpcflowError as error:
        problem = error
        status["problem"] = str(error)
    if options.json:
        _write_json(status)
    elif problem is None:
        _write_status(status)
    if problem is None:
        return OK
    print(problem, file=sys.stderr)
    return _exit_code(problem)


def _write_status(status: Mapping[str, Any]) -> None:  # Any: JSON
    clusters = [name + " (default)" * (name == status.get("default_cluster")) for name in status["clusters"]]
    print(f"hpcflow {status['version']} runs on {status['host']}, pid {status['pid']}, since {status['started_at']}")
    print(f"home        {status['home']}")
    if status.get("problem"):
        print(f"problem     {status['problem']}")
    print(f"clusters    {', '.join(clusters)}")
    print(f"dispatches  {status['live_dispatches']} live")
    print(f"web page    {status.get('ui') or 'off; `hpcflow ui` opens it'}")


def _logs(options: argparse.Namespace) -> int:
    from hpcflow.sdk.startup import follow_log, tail

    where = places(os.environ)
    lines = tail(where, options.lines)
    if not lines and not os.path.exists(where.log):
        print(f"There is no log at {where.log} yet: no server has run.", file=sys.stderr)
    for line in lines:
        print(line)
    if options.follow:
        sys.stdout.flush()
        follow_log(where, lambda piece: print(piece, end="", flush=True))
    return OK


# ---- dispatches


def _dispatches(options: argparse.Namespace) -> int:
    from hpcflow.sdk.answers import parse_summary
    from hpcflow.sdk.terminal import table

    answer = _server().ask("GET", "/dispatches", query={"limit": options.limit})
    if options.json:
        _write_json(answer["dispatches"])
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
    return summary.id, summary.name, summary.status, tasks, clock(summary.created_at), length


def _show(options: argparse.Namespace) -> int:
    from hpcflow.core.states import State, Status
    from hpcflow.sdk.answers import parse_summary
    from hpcflow.sdk.client import until_ended
    from hpcflow.sdk.results import Result, task_records
    from hpcflow.sdk.terminal import plain, table

    server = _server()
    dispatch_id = _whole_id(server, options.id)
    raw = server.ask("GET", f"/dispatches/{dispatch_id}")
    if options.wait and not parse_summary(raw).ended:
        until_ended(server, parse_summary(raw))
        raw = server.ask("GET", f"/dispatches/{dispatch_id}")
    summary = parse_summary(raw)
    code = FAILED if options.wait and summary.status is not Status.COMPLETED else OK
    if options.task is not None:
        node = Result(server, summary).get_node_result(options.task)
        if options.json:
            task = server.ask("GET", f"/dispatches/{dispatch_id}/tasks/{options.task}")
            _write_json({**task, "stdout": node.stdout, "stderr": node.stderr})
            return code
        print(plain(repr(node).strip("<>")))
        table(("ATTEMPT", "JOB", "WALL", "CPU", "MEMORY", "DIRECTORY"), [_usage_row(node)])
        for title, text in (("traceback", node.traceback), ("stdout", node.stdout), ("stderr", node.stderr)):
            if text:
                print(f"---- {title}\n{text.rstrip()}")
        return code
    shown = None if options.tasks else State.FAILED
    records: list[TaskRecord] = []
    if options.tasks or summary.counts.get(State.FAILED):
        records = list(task_records(server, dispatch_id, state=shown))
    if options.json:
        _write_json({**raw, "tasks_shown": [asdict(record) for record in records]})
        return code
    _write_dispatch(summary)
    if records:
        print()
        table(
            ("TASK", "NAME", "STATE", "JOB", "HOST", "CPU", "MEMORY", "ERROR"),
            map(_task_row, records if options.tasks else records[:_SHOWN_FAILURES]),
        )
        if not options.tasks and len(records) > _SHOWN_FAILURES:
            print(f"… and {len(records) - _SHOWN_FAILURES} more that failed; --tasks shows all.")
    return code


def _write_dispatch(summary: Summary) -> None:
    from hpcflow.sdk.terminal import clock, counts, plain, table, took

    print(plain(f"{summary.name}  {summary.id}  {summary.status}"))
    print(f"created {clock(summary.created_at)}, took {took(summary.started_at, summary.ended_at, datetime.now(UTC))}")
    print(counts(summary))
    if summary.error:
        print(plain(summary.error))
    for message in summary.messages:
        print(plain(message))
    if summary.arrays:
        print()
        table(
            ("CLUSTER", "JOB", "WIDTH", "STATE", "REASON"),
            ((line.cluster, line.job_id or "-", str(line.width), line.state, line.reason) for line in summary.arrays),
        )


def _task_row(record: TaskRecord) -> tuple[str, ...]:
    job = "-" if record.job_id is None else f"{record.job_id}_{record.array_index}"
    cpu = "-" if record.cpu_s is None else f"{record.cpu_s:.1f} s"
    memory = "-" if record.max_rss_kib is None else f"{record.max_rss_kib / 1024:.0f} MiB"
    error = (record.error or "").partition("\n")[0]
    return str(record.index), record.name, record.state, job, record.host or "-", cpu, memory, error


def _usage_row(node: NodeResult) -> tuple[str, ...]:
    return (
        str(node.attempt),
        "-" if node.job_id is None else f"{node.job_id}_{node.array_index}",
        "-" if node.wall_s is None else f"{node.wall_s:.1f} s",
        "-" if node.cpu_s is None else f"{node.cpu_s:.1f} s",
        "-" if node.max_rss_kib is None else f"{node.max_rss_kib / 1024:.0f} MiB",
        node.workdir or "-",
    )


def _cancel(options: argparse.Namespace) -> int:
    server = _server()
    dispatch_id = _whole_id(server, options.id)
    answer = server.ask("POST", f"/dispatches/{dispatch_id}/cancel", body={"tasks": options.task})
    if options.json:
        _write_json(answer)
    else:
        print(answer["message"])
    return OK


def _whole_id(server: Server, beginning: str) -> str:
    """Return the id that begins so.

    Raises:
        DispatchNotFound: no dispatch has such an id.
        UserError: several have.
    """
    from hpcflow.sdk.connection import DispatchNotFound

    if len(beginning) >= _ULID_LENGTH:
        return beginning
    start = beginning.upper()
    found: list[str] = []
    query: dict[str, str | int] = {"limit": _LOOKED_THROUGH}
    while len(found) < 2:
        page = [str(raw["id"]) for raw in server.ask("GET", "/dispatches", query=query)["dispatches"]]
        found += [dispatch_id for dispatch_id in page if dispatch_id.startswith(start)]
        # Newest first, and ids sort by time: below the beginning that was given, none can match.
        if len(page) < _LOOKED_THROUGH or page[-1] < start:
            break
        query["before"] = page[-1]
    match found:
        case [only]:
            return only
        case []:
            raise DispatchNotFound(
                f"No dispatch has an id that begins with {beginning!r}; `hpcflow dispatches` lists them."
            )
        case _:
            raise UserError(
                f"Several dispatches have ids that begin with {beginning!r}, {found[0]} among them: give more of it."
            )


# ---- clusters, the page, plans


def _clusters_list(options: argparse.Namespace) -> int:
    from hpcflow.sdk.terminal import table

    answer = _server().ask("GET", "/clusters")
    if options.json:
        _write_json(answer["clusters"])
        return OK
    rows: list[tuple[str, ...]] = []
    for cluster in answer["clusters"]:
        partitions = ", ".join(partition["name"] for partition in cluster["partitions"])
        name = cluster["name"] + (" (default)" if cluster["default"] else "")
        scheduler = " ".join(filter(None, (cluster["scheduler"], cluster["version"])))
        rows.append((name, scheduler, cluster["state"], partitions, cluster["problem"] or ""))
    table(("CLUSTER", "SCHEDULER", "STATE", "PARTITIONS", "PROBLEM"), rows)
    return OK


def _clusters_test(options: argparse.Namespace) -> int:
    from urllib.parse import quote

    answer = _server().ask("POST", f"/clusters/{quote(options.name, safe='')}/test", wait_s=600)
    if options.json:
        _write_json(answer)
    else:
        for step in answer["steps"]:
            print(f"{'ok    ' if step['ok'] else 'FAILED'}  {step['step']}: {step['detail']}")
            if not step["ok"] and step["command"]:
                print(f"        {step['command']}")
    return OK if answer["ok"] else FAILED


def _ui(options: argparse.Namespace) -> int:
    answer = _server().ask("POST", "/ui")
    if options.json:
        _write_json(answer)
        return OK
    print(answer["url"])
    if answer["ssh_forward"]:
        print(f"From your own machine, first: {answer['ssh_forward']}", file=sys.stderr)
    return OK


def _plan(options: argparse.Namespace) -> int:
    import runpy
    import traceback

    from hpcflow.sdk.client import Planned, planning

    script = os.path.abspath(options.file)
    if not os.path.isfile(script):
        raise UserError(f"There is no script {options.file}.")
    sys.argv = [options.file, *options.arguments]
    sys.path.insert(0, os.path.dirname(script))
    try:
        with planning():
            runpy.run_path(script, run_name="__main__")
    except Planned as planned:
        if options.json:
            _write_json(asdict(planned.plan))
        else:
            print(planned.plan)
        return OK
    except HpcflowError:
        raise
    except SystemExit as end:
        raise UserError(f"{options.file} exited ({end.code}) before it dispatched anything.") from end
    except Exception as error:  # the user's script may raise anything, and needs its own traceback, without our frames
        frames = error.__traceback__
        while frames is not None and frames.tb_frame.f_code.co_filename != script:
            frames = frames.tb_next
        traceback.print_exception(type(error), error, frames)
        print(f"{options.file} failed before it dispatched anything.", file=sys.stderr)
        return MISTAKE
    raise UserError(f"{options.file} ended without a dispatch: it has to call hpcflow.dispatch(lattice)(…) by itself.")


def _demo(_: argparse.Namespace) -> int:
    import runpy

    # As __main__, and so by value: the workers' copy of hpcflow has no demo in it.
    demo = runpy.run_module("hpcflow.demo", run_name="__main__", alter_sys=True)
    return OK if demo["completed"] else FAILED


# ---- shared


def _server() -> Server:
    from hpcflow.sdk.connection import Server

    return Server(places(os.environ))


def _write_json(value: object) -> None:
    print(json.dumps(value, indent=2, default=str))


if __name__ == "__main__":
    sys.exit(main())
