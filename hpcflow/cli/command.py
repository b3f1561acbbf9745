"""The command line: which commands there are, what they take, and how mistakes end."""

from __future__ import annotations

import argparse
import errno
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Final

from hpcflow.cli import (
    adding,
    cache,
    clusters,
    connect,
    dispatches,
    files,
    login,
    queue,
    reports,
    server,
    sites,
    triggers,
)
from hpcflow.cli.frame import FAILED, INTERRUPTED, OK, exit_code
from hpcflow.cli.path import path
from hpcflow.core.model import HpcflowError

__all__ = ["main"]

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

_ONLY_TASKS: Final = "only task N; also 3-5 or 3,8-10; may be repeated"
#: Tasks that one range may name.
_MANY: Final = 1_000_000
_SACCT: Final = "JobID,JobName,State,Elapsed,CPUTime,MaxRSS,NodeList,ExitCode,Task,Attempt"

#: How a write fails where the output of a command is put into a file.
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})

Run = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; a mistake is one sentence on stderr, never a traceback."""
    _have_streams()
    try:
        try:
            options = _parser().parse_args(arguments)
        finally:
            sys.stdout.flush()
        run: Run = options.run
        code = run(options)
        sys.stdout.flush()
        return code
    except HpcflowError as error:
        from hpcflow.sdk.plain import plain

        print(plain(str(error)), file=sys.stderr)
        return exit_code(error)
    except BrokenPipeError:
        # The reader (`| head`) has enough. Python would complain about it once more at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except OSError as error:
        if error.errno not in _NO_ROOM or error.filename is not None:  # then it is about a file
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"hpcflow: what it prints can't be written: {error.strerror}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt as interrupted:
        print(*interrupted.args, file=sys.stderr)
        return INTERRUPTED


def _have_streams() -> None:
    """Let what is printed go nowhere if a stream was closed before Python started, as some daemons do."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # for as long as the process


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hpcflow",
        description="Python workflows on Slurm and on your own machine.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show hpcflow's version")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, run: Run, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        command.set_defaults(run=run)
        return command

    def add_group(name: str, text: str) -> Callable[[str, Run, str], argparse.ArgumentParser]:
        group = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        members = group.add_subparsers(title="commands", metavar="COMMAND", required=True)

        def add_member(member: str, run: Run, text: str) -> argparse.ArgumentParser:
            command = members.add_parser(member, help=text, description=text[0].upper() + text[1:] + ".")
            command.set_defaults(run=run)
            return command

        return add_member

    start = add("start", server.start_server, "start the server and return once it answers; fine when it runs already")
    start.add_argument("--take-over", action="store_true", help="move it here from the host that it runs on")
    start.add_argument("--foreground", action="store_true", help="stay in the foreground until interrupted")
    start.add_argument("--from-dispatch", action="store_true", help=argparse.SUPPRESS)
    add("stop", server.stop_server, "stop the server; jobs that run go on, and the next start finds them")
    add("restart", server.restart_server, "stop the server and start it with this version and environment")
    _json(add("status", server.show_status, "show whether the server runs, where, and with which clusters"))
    logs = add("logs", files.logs, "show the server's log, or bring what the tasks of a dispatch wrote as one archive")
    logs.add_argument("id", nargs="?", metavar="ID", help="of a dispatch: writes ID-logs.tar.gz")
    logs.add_argument("--failed", action="store_true", help="with ID: only of tasks that have failed")
    logs.add_argument("-o", "--output", metavar="FILE", help="with ID: where to write; - is the standard output")
    logs.add_argument("-f", "--follow", action="store_true", help="go on as it grows")
    logs.add_argument("-n", "--lines", type=_count, default=50, metavar="N", help="the last N lines (default: 50)")
    far = add(
        "connect", connect.connect_login_node, "install and start the server on a login node, and use it from here"
    )
    far.add_argument("to", nargs="?", metavar="USER@LOGIN", help="as ssh is told it; needed the first time")
    far.add_argument("--prologue", metavar="LINES", help="shell lines that lead to a Python there: module load python")
    far.add_argument("--home", metavar="DIR", help="HPCFLOW_HOME there (default: what the profile says, or ~/.hpcflow)")
    far.add_argument("--wheelhouse", metavar="DIR", help="take wheels from this folder here before fetching any")
    far.add_argument(
        "--accept-host-key",
        metavar="SHA256:…",
        action="append",
        default=[],
        help="accept an unknown login node, or bastion, that shows this key; may be repeated",
    )
    far.add_argument("--upgrade", action="store_true", help="bring the server there to this version; jobs go on")
    far.add_argument("--take-over", action="store_true", help="move the server to this login node from another one")
    far.add_argument("--foreground", action="store_true", help="hold the connection until interrupted")
    add("disconnect", connect.disconnect_login_node, "end the connection; the server on the login node goes on")
    token = add_group("token", "what clients show to the server")
    token("rotate", server.rotate_token, "make a new token; the old one and every browser's session end at once")

    listed = add("dispatches", dispatches.list_dispatches, "list dispatches, the newest first")
    listed.add_argument("-n", "--limit", type=_count, default=20, metavar="N", help="at most N (default: 20)")
    _json(listed)
    show = add("show", dispatches.show, "show a dispatch: its tasks, job arrays and failures")
    _id(show)
    show.add_argument("--task", type=_count, metavar="N", help="task N with its output and traceback")
    show.add_argument("--tasks", action="store_true", help="every task, not only those that failed")
    waiting = show.add_mutually_exclusive_group()
    waiting.add_argument(
        "--wait", action="store_true", help="until it has ended; the exit code is 1 unless it completed"
    )
    waiting.add_argument("--watch", action="store_true", help="the same, and show what changes meanwhile")
    _json(show)
    used = add("usage", reports.usage, "show what a dispatch was charged, and how that was spent")
    _id(used)
    _json(used)
    sacct = add("sacct", reports.sacct, "list a dispatch's tasks as sacct lists jobs, one row for each")
    _id(sacct)
    sacct.add_argument("-P", "--parsable2", action="store_true", help="columns with | between them, none cut")
    sacct.add_argument("-n", "--noheader", action="store_true", help="no line of column names")
    sacct.add_argument(
        "-o",
        "--format",
        default=_SACCT,
        metavar="COLUMN[%WIDTH],...",
        help=f"which columns (default: {_SACCT}); also TotalCPU, NCPUS, ElapsedRaw, Start, End, Cluster",
    )
    job = add("which", reports.which, "show what a job was for: its dispatch, its end, and the tasks that ran in it")
    job.add_argument("job", metavar="JOB", help="an array (8123), or an array task (8123_7)")
    _json(job)
    place = add("path", path, "print the directory in which a task ran and left files")
    _id(place)
    place.add_argument("task", type=_count, metavar="N", help="its number, as `hpcflow show ID --tasks` lists it")
    bring = add("fetch", files.fetch, "bring a file, a folder or the result of a task to this machine")
    _id(bring)
    bring.add_argument("task", type=_count, metavar="N", help="its number, as `hpcflow show ID --tasks` lists it")
    bring.add_argument("path", nargs="?", metavar="PATH", help="below the task's directory (. for all), or absolute")
    bring.add_argument("destination", nargs="?", metavar="DEST", help="here; default: under its own name")
    bring.add_argument("--result", nargs="?", const="", metavar="DEST", help="what it returned, as a pickle")
    cleaned = add("clean", files.clean, "remove results and logs of dispatches that have ended from their clusters")
    cleaned.add_argument("ids", nargs="*", metavar="ID", help="these dispatches")
    cleaned.add_argument("--older-than", metavar="AGE", help="only what ended so long ago: 30d, 12h")
    cleaned.add_argument("--cluster", metavar="NAME", help="only what lies there")
    cleaned.add_argument("--files", action="store_true", help="also what tasks left in directories of their own")
    cleaned.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    _json(cleaned)
    cancel = add(
        "cancel", dispatches.cancel, "cancel a dispatch: queued jobs leave the queue, running tasks are killed"
    )
    _id(cancel)
    cancel.add_argument("--task", type=_tasks, action="extend", metavar="N", help=_ONLY_TASKS)
    _json(cancel)
    pause = add("pause", dispatches.pause, "submit nothing more of a dispatch; what runs goes on")
    _id(pause)
    _json(pause)
    resume = add("resume", dispatches.resume, "go on with a dispatch that was paused, by whomever")
    _id(resume)
    _json(resume)
    retry = add("retry", dispatches.retry, "try what did not complete once more, also of a dispatch that has ended")
    _id(retry)
    retry.add_argument("--failed", action="store_true", help="only tasks that failed, and what was skipped for them")
    retry.add_argument("--task", type=_tasks, action="extend", metavar="N", help=_ONLY_TASKS)
    retry.add_argument(
        "--electron", action="append", metavar="NAME", help="only tasks of electron NAME; may be repeated"
    )
    retry.add_argument(
        "--more",
        action="store_true",
        help="what ran out of memory or walltime asks for as much as `hpcflow show` advises, the rest for what it had",
    )
    retry.add_argument("--memory", metavar="SIZE", help="what failed or was cancelled asks for this much now: 24GB")
    retry.add_argument("--walltime", metavar="TIME", help="what failed or was cancelled asks for this long now: 2h")
    _json(retry)

    anew = add("redispatch", dispatches.redispatch, "run what a dispatch ran as a new dispatch, and print its id")
    _id(anew)
    anew.add_argument("--reuse", action="store_true", help="run only what did not complete")
    _json(anew)

    fired = add("triggers", triggers.list_triggers, "list what runs dispatches again by itself, or stop some of it")
    _json(fired)
    stopped = fired.add_subparsers(title="commands", metavar="COMMAND").add_parser(
        "stop", help="stop triggers for good", description="Stop triggers for good; what they dispatched goes on."
    )
    stopped.set_defaults(run=triggers.stop_triggers)
    stopped.add_argument("ids", nargs="+", metavar="ID", help="a trigger, or a dispatch for all of its triggers")
    _json(stopped)
    kept = add("cache", cache.cache, "list results that are cached, or clear them")
    kept.add_argument("action", nargs="?", choices=("list", "clear"), default="list", help="(default: list)")
    kept.add_argument("--function", metavar="NAME", help="only those of this electron")
    kept.add_argument("--older-than", metavar="AGE", help="clear only what was computed so long ago: 30d, 12h")
    _json(kept)

    queued = add("queue", queue.show_queue, "show a cluster's queue: partitions, jobs, and why they wait")
    queued.add_argument("cluster", nargs="?", metavar="CLUSTER", help="which one (default: the default cluster)")
    queued.add_argument("--mine", action="store_true", help="only your own jobs")
    _json(queued)
    cluster = add_group("clusters", "list clusters, add, test or remove one, log in to one")
    _json(cluster("list", clusters.list_clusters, "list the clusters that the server knows"))
    added = cluster("add", adding.add_cluster, "describe a cluster, reach it, write it to clusters.toml, and test it")
    added.add_argument("name", metavar="NAME")
    for flag, metavar, text in (
        ("--site", "NAME", "take what a template says of the site; `hpcflow clusters sites` lists them"),
        ("--host", "HOST", "as you would tell ssh; without it the cluster is this machine"),
        ("--scheduler", "NAME", "slurm, pbs, lsf or local; asked for when it is left out"),
        ("--workdir", "PATH", "where bags lie there"),
        ("--keys", "PATH", "folder of the key that signs bags, where compute nodes do not see your home"),
        ("--python", "PATH", "the interpreter of the workers"),
        ("--prologue", "SHELL", "lines of shell before the worker starts"),
        ("--account", "NAME", "who pays"),
        ("--partition", "NAME", "for electrons that name none"),
    ):
        added.add_argument(flag, metavar=metavar, help=text)
    added.add_argument(
        "--accept-host-key",
        action="append",
        metavar="SHA256:...",
        help="write this key to known_hosts if an unknown host shows it; once for each host on the way",
    )
    added.add_argument("--no-test", action="store_true", help="add it without a test")
    sites_known = cluster(
        "sites", sites.list_sites, "list sites that there are templates for, or what one of them says"
    )
    sites_known.add_argument("site", nargs="?", metavar="SITE", help="one of them, with its published limits")
    _json(sites_known)
    removed = cluster("remove", adding.remove_cluster, "take a cluster out of clusters.toml")
    removed.add_argument("name", metavar="NAME")
    logged_in = cluster("login", login.login_cluster, "answer what a cluster asks for: a password, a second factor")
    logged_in.add_argument("name", metavar="NAME")
    test = cluster("test", clusters.test_cluster, "test a cluster step by step, up to two nodes that race for names")
    test.add_argument("name", metavar="NAME")
    test.add_argument("--no-jobs", action="store_true", help="submit nothing: look at the login side only")
    test.add_argument(
        "--wait",
        type=float,
        default=120.0,
        metavar="SECONDS",
        help="how long a job may wait in the queue (default: 120)",
    )
    _json(test)
    _json(add("ui", clusters.show_page, "print the address of the web page, and how to reach it from your own machine"))
    plan = add(
        "plan", clusters.plan, "run a script up to its first dispatch and show what it would submit; submits nothing"
    )
    plan.add_argument("file", metavar="FILE")
    plan.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="arguments of the script")
    plan.add_argument("--json", action="store_true", help="write JSON; give it before FILE")
    add("demo", clusters.demo, "run a small lattice on this machine")
    return parser


class _Version(argparse.Action):
    """Looks the version up only when it is asked for: that takes longer than all else here."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from hpcflow import __version__

        print(f"hpcflow {__version__}")
        parser.exit()


def _id(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID")


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="write JSON")


def _count(text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"'{text}' is no number from 0 on")
    return int(text)


def _tasks(text: str) -> list[int]:
    """Return the tasks that `3`, `3-5` or `3,8-10` means, as `squeue` writes array tasks."""
    tasks: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        start = _count(first)
        end = _count(last) if dash else start
        if not start <= end < start + _MANY:
            raise argparse.ArgumentTypeError(f"'{part}' is no range of tasks; write it as 3-5")
        tasks.extend(range(start, end + 1))
    return tasks
