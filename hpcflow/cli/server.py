"""Commands about the server: start, stop, status, log, token."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from hpcflow.cli.connect import bring_back, refuse_while_connected
from hpcflow.cli.frame import OK, exit_code, write_json
from hpcflow.core.model import HpcflowError
from hpcflow.core.places import Places, places
from hpcflow.sdk.link import read_link

__all__ = ["restart_server", "rotate_token", "show_log", "show_status", "start_server", "stop_server"]


def start_server(options: argparse.Namespace) -> int:
    import socket

    from hpcflow.sdk.connection import read_record
    from hpcflow.sdk.startup import running, server_command, start

    where = places(os.environ)
    link = read_link(where)
    if link is not None:
        if options.foreground or options.take_over:
            refuse_while_connected("hpcflow start", "`hpcflow connect --take-over`, or `hpcflow disconnect` first.")
        if running(where) is None:
            bring_back(link)
        print(f"The server on {link.to} runs.")
        return OK
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


def stop_server(_: argparse.Namespace) -> int:
    from hpcflow.sdk.startup import stop

    where = places(os.environ)
    record = stop(where)
    if record is None:
        print(f"No server runs for {where.home}.")
    elif record.via:
        print(f"The server on {record.via} has stopped. Jobs in the queue go on; `hpcflow connect` starts it again.")
    else:
        print(f"The server of {where.home} (pid {record.pid}) has stopped. Jobs in the queue go on.")
    return OK


def restart_server(_: argparse.Namespace) -> int:
    from hpcflow.sdk.startup import start, stop

    where = places(os.environ)
    refuse_while_connected("hpcflow restart", "`hpcflow stop`, then `hpcflow connect`; or `hpcflow connect --upgrade`.")
    had_page = _has_page(where)
    stop(where)
    record, _started = start(where)
    print(f"The server of {where.home} is up (pid {record.pid}).")
    if had_page:
        from hpcflow.sdk.connection import Server

        # Pages that are open ask for a login then, where they would go on saying that nobody answers.
        Server(where).ask("POST", "/ui")
        print("Its web page is there again; browsers log in anew with the link of `hpcflow ui`.")
    return OK


def _has_page(where: Places) -> bool:
    """Return whether a server runs that serves browsers; one that doesn't answer, serves none."""
    from hpcflow.sdk.connection import Server
    from hpcflow.sdk.startup import running

    try:
        return running(where) is not None and bool(Server(where, any_version=True).ask("GET", "/status").get("ui"))
    except HpcflowError:
        return False


def show_status(options: argparse.Namespace) -> int:
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
        "connected_to": None,
        "problem": None,
    }
    problem: HpcflowError | None = None
    try:
        where = places(os.environ)
        left, link = read_record(where), read_link(where)
        status |= {"home": where.home, "host": left and left.host}
        if link is not None:
            status |= {"home": link.server_home, "host": link.server_host, "connected_to": link.to}
        record = running(where)
        if record is None and link is not None:
            Server(where, any_version=True).ask("GET", "/status")  # says what is broken, the way or the server
        if record is None:
            raise ServerUnreachable(f"No server runs for {where.home}. Start one with `hpcflow start`.")
        status |= {"pid": record.pid, "version": record.version, "host": record.host, "address": record.address}
        server = Server(where, any_version=True)
        status |= server.ask("GET", "/status")
        status["states"] = {
            cluster["name"]: {name: cluster[name] for name in ("state", "unknown_since", "problem")}
            for cluster in server.ask("GET", "/clusters")["clusters"]
        }
    except HpcflowError as error:
        problem = error
        status["problem"] = str(error)
    if options.json:
        write_json(status)
    elif problem is None:
        _write_status(status)
    if problem is None:
        return OK
    print(problem, file=sys.stderr)
    return exit_code(problem)


def _write_status(status: Mapping[str, Any]) -> None:  # Any: JSON
    from hpcflow.sdk.answers import parse_time
    from hpcflow.sdk.plain import plain
    from hpcflow.sdk.terminal import clock

    clusters = [_with_state(name, status) for name in status["clusters"]]
    since = clock(parse_time(status["started_at"]))
    print(f"hpcflow {status['version']} runs on {status['host']}, pid {status['pid']}, since {since}")
    print(f"home        {status['home']}")
    if status["connected_to"]:
        print(f"reached     through the connection to {status['connected_to']}")
    if status.get("problem"):
        print(f"problem     {status['problem']}")
    print(f"clusters    {', '.join(clusters)}")
    for name, known in status["states"].items():
        if known["problem"]:
            print(f"            {name}: {plain(known['problem'])}")
    print(f"dispatches  {status['live_dispatches']} live")
    here = status.get("ui") if not status["connected_to"] else None  # the port there is none of this machine's
    print(f"web page    {here or 'off; `hpcflow ui` opens it'}")


def _with_state(name: str, status: Mapping[str, Any]) -> str:  # Any: JSON
    """Return a cluster's name with what is to be known of it; nothing is asked for that."""
    from hpcflow.sdk.answers import parse_time
    from hpcflow.sdk.terminal import clock

    known = status["states"].get(name, {"state": "unknown", "unknown_since": None})
    since = parse_time(known["unknown_since"])
    notes = ["default"] if name == status["default_cluster"] else []
    notes.append("not asked yet" if known["state"] == "unknown" else known["state"])
    if since is not None:
        notes.append(f"unknown since {clock(since)}")
    return f"{name} ({', '.join(notes)})"


def show_log(options: argparse.Namespace) -> int:
    from hpcflow.sdk.startup import follow_log, tail

    where = places(os.environ)
    link = read_link(where)
    if link is not None:
        from hpcflow.connect import control

        if options.follow:
            refuse_while_connected(
                "hpcflow logs --follow", f"`ssh {link.to} tail -f {link.server_home}/logs/server.log`."
            )
        for line in control.tail(link, options.lines):
            print(line)
        return OK
    lines = tail(where, options.lines)
    if not lines and not os.path.exists(where.log):
        print(f"There is no log at {where.log} yet: no server has run.", file=sys.stderr)
    for line in lines:
        print(line)
    if options.follow:
        sys.stdout.flush()
        follow_log(where, lambda piece: print(piece, end="", flush=True))
    return OK


def rotate_token(_: argparse.Namespace) -> int:
    from hpcflow.sdk.connection import Server
    from hpcflow.sdk.startup import running

    where = places(os.environ)
    link = read_link(where)
    if running(where) is not None:
        Server(where).ask("POST", "/token")
        if link is not None:
            bring_back(link)  # the token here is the old one now
        print("There is a new token, and the old one is refused. Browsers log in again with `hpcflow ui`.")
    else:
        refuse_while_connected("hpcflow token rotate", "the server there does not answer; run `hpcflow connect` first.")
        with suppress(FileNotFoundError):
            os.unlink(where.token)
        print("The old token is gone; the next start of the server makes a new one.")
    return OK
