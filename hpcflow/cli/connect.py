"""Commands about the server on a login node: connect to it, disconnect, and what other commands do meanwhile."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence

from hpcflow.cli.adding import accepts
from hpcflow.cli.frame import OK
from hpcflow.core.model import UserError
from hpcflow.core.places import places
from hpcflow.sdk.link import Link, read_link

__all__ = ["bring_back", "connect_login_node", "disconnect_login_node", "refuse_while_connected"]


def connect_login_node(options: argparse.Namespace) -> int:
    from hpcflow import __version__
    from hpcflow.connect.control import Person, connect

    where = places(os.environ)
    link = read_link(where)
    to = options.to or (link.to if link is not None else "")
    if not to:
        raise UserError("Name a login node, as in `hpcflow connect you@login.example.org`.")
    known = link if link is not None and link.to == to else None
    # A wheelhouse is a folder here; the process that looks into it has another working directory.
    wheelhouse = os.path.abspath(options.wheelhouse) if options.wheelhouse else None
    answer, process = connect(
        where,
        to,
        Person(
            say=_tell,
            ask=_ask if sys.stdin.isatty() else None,
            accept=lambda key: key["fingerprint"] in options.accept_host_key or accepts(key),
        ),
        prologue=options.prologue if options.prologue is not None else (known.prologue if known else ""),
        home=options.home if options.home is not None else (known.home if known else ""),
        wheelhouse=wheelhouse,
        upgrade=options.upgrade,
        take_over=options.take_over,
        foreground=options.foreground,
    )
    host, pid, version = answer["server_host"], answer["server_pid"], answer["version"]
    state = "is up" if answer["started"] else "runs already"
    print(f"Connected to {to}: the server of {answer['server_home']} on {host} {state} (hpcflow {version}, pid {pid}).")
    if version != __version__:
        print(f"This is hpcflow {__version__}; `hpcflow connect {to} --upgrade` brings the server there to it.")
    if options.foreground and process is not None:
        print("The connection stays until you interrupt this; the server there goes on.", flush=True)
        _wait(process)
    return OK


def disconnect_login_node(_: argparse.Namespace) -> int:
    from hpcflow.connect.control import disconnect

    where = places(os.environ)
    link = disconnect(where)
    if link is None:
        print(f"{where.home} is connected to no login node.")
    else:
        print(f"Disconnected from {link.to}. What runs there goes on, and commands here mean this machine's server.")
    return OK


def bring_back(link: Link) -> None:
    """Start what is missing of a connection: the process here, or the server there."""
    from hpcflow.connect.control import Person, connect

    ask = _ask if sys.stdin.isatty() else None
    connect(places(os.environ), link.to, Person(say=_tell, ask=ask), prologue=link.prologue, home=link.home)


def refuse_while_connected(command: str, instead: str) -> None:
    """Refuse a command that only makes sense for a server of this machine.

    Raises:
        UserError: this home is connected to a login node.
    """
    link = read_link(places(os.environ))
    if link is not None:
        raise UserError(f"This HPCFLOW_HOME is connected to {link.to}, where `{command}` does not reach: {instead}")


def _wait(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()


def _tell(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def _ask(host: str, text: str, prompts: Sequence[tuple[str, bool]]) -> list[str] | None:
    """Answer what a host asks, from the terminal; the answers are kept nowhere."""
    from getpass import getpass

    from hpcflow.sdk.plain import plain

    # Whose words follow is said first: a host may write anything.
    print(f"{plain(host)} asks:", file=sys.stderr)
    if text:
        print(plain(text), file=sys.stderr)
    try:
        return [input(plain(prompt)) if shown else getpass(plain(prompt)) for prompt, shown in prompts]
    except EOFError:
        return None
