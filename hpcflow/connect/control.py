"""Tells the process that holds the connection what to do, starts it where there is none, and answers for a person."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from hpcflow.core.model import HpcflowError, UserError
from hpcflow.core.places import Places, socket_path
from hpcflow.sdk.connection import NotAuthorised, ServerElsewhere, ServerUnreachable, VersionMismatch
from hpcflow.sdk.link import Link, read_link
from hpcflow.server.home import network_file_system

__all__ = ["Answer", "Person", "connect", "disconnect", "tail"]

_START_S: Final = 30.0
_TICK_S: Final = 0.05
_END_S: Final = 10.0
#: Exit code of a holder that finds another one.
_HELD: Final = 4

#: How mistakes come back over the socket. What can't be reached is the same to a script, whichever part of it fails.
_KINDS: Final[Mapping[str, type[HpcflowError]]] = {
    "UserError": UserError,
    "VersionMismatch": VersionMismatch,
    "ServerElsewhere": ServerElsewhere,
    "TransportError": ServerUnreachable,
    "UnknownHost": ServerUnreachable,
    "UntrustedHost": ServerUnreachable,
    "NeedsLogin": NotAuthorised,
    "LinkLost": ServerUnreachable,
    "NobodyThere": ServerUnreachable,
    "Forbidden": ServerUnreachable,
}

Answer = Mapping[str, Any]  # Any: JSON


@dataclass(frozen=True, slots=True)
class Person:
    """Who sits in front: takes sentences, and answers what a host asks, with ``None`` where nobody can."""

    say: Callable[[str], object]
    #: Takes who asks, a text, and prompts that are answered in the open or not.
    ask: Callable[[str, str, Sequence[tuple[str, bool]]], Sequence[str] | None] | None = None
    #: Takes the key of a host that is unknown (place, kind, fingerprint, file) and returns whether it is accepted.
    accept: Callable[[Mapping[str, str]], bool] | None = None


def connect(
    where: Places,
    to: str,
    person: Person,
    *,
    prologue: str = "",
    home: str = "",
    wheelhouse: str | None = None,
    upgrade: bool = False,
    take_over: bool = False,
    foreground: bool = False,
) -> tuple[Answer, subprocess.Popen[bytes] | None]:
    """Bring a login node's server up, and what leads to it; return what is known of it, and the process if it is new.

    Args:
        where: the home here.
        to: the login node, as `ssh` would be told it.
        person: who sits in front.
        prologue: lines of shell that lead to a Python there.
        home: HPCFLOW_HOME there.
        wheelhouse: a folder here with wheels.
        upgrade: replace an older server.
        take_over: move the server from another login node.
        foreground: the process ends with this one's terminal.

    Raises:
        UserError: this home is connected to another login node, or there is no Python there that will do.
        NotAuthorised: only a person can log in, and there is none, or the answers were wrong.
        VersionMismatch: another release runs there.
        ServerElsewhere: it runs on another login node.
        ServerUnreachable: the login node can't be reached.
    """
    link = read_link(where)
    if link is not None and link.to != to:
        raise UserError(f"This HPCFLOW_HOME is connected to {link.to}: run `hpcflow disconnect` first.")
    if link is not None and link.home != home:
        raise UserError(
            f"This HPCFLOW_HOME is connected to {link.server_home} on {to}, not to {home or 'the usual home'} there: "
            "run `hpcflow disconnect` first."
        )
    for folder in (where.home, where.run, os.path.dirname(where.link_log)):
        os.makedirs(folder, mode=0o700, exist_ok=True)
    control, address = _sockets(where)
    spoken, process = _speak(control), None
    if spoken is not None and foreground:
        spoken.close()
        raise UserError(
            f"Another process holds the connection to {to}: run `hpcflow disconnect` first, or leave out --foreground."
        )
    if spoken is None:
        process, spoken = _begin(where, to, control, address, foreground=foreground)
    order: dict[str, object] = {"do": "up", "to": to, "prologue": prologue, "home": home, "wheelhouse": wheelhouse}
    order |= {"upgrade": upgrade, "take_over": take_over, "ask": person.ask is not None}
    return _order(spoken, order, person), process


def disconnect(where: Places) -> Link | None:
    """End the connection, and return what it led to, ``None`` where there was none. The server there goes on."""
    if not os.path.isdir(where.run):
        return None  # nothing was ever connected from here
    link = read_link(where)
    spoken = _speak(link.control if link is not None else _sockets(where)[0])
    if spoken is not None:
        _order(spoken, {"do": "end"}, Person(say=lambda _: None))
    for path in (where.link, where.link_token):
        with suppress(FileNotFoundError):
            os.unlink(path)
    if link is not None and link.host == socket.gethostname():
        _wait_for_end(link.control)
    return link


def tail(link: Link, lines: int) -> list[str]:
    """Return the last lines of the server's log there."""
    answer = _order(_spoken_to(link), {"do": "tail", "lines": lines}, Person(say=lambda _: None))
    return [str(line) for line in answer["lines"]]


def _spoken_to(link: Link) -> socket.socket:
    spoken = _speak(link.control)
    if spoken is None:
        raise ServerUnreachable(
            f"Nothing here holds the connection to {link.to} any more. The server there goes on, and "
            "`hpcflow connect` leads to it again."
        )
    return spoken


def _sockets(where: Places) -> tuple[str, str]:
    """Return the paths of the sockets that take orders, and that lead to the server."""
    folder = os.path.dirname(socket_path(where, os.environ, on_network=network_file_system(where.run) is not None))
    return os.path.join(folder, "ctl"), os.path.join(folder, "far")


def _speak(control: str) -> socket.socket | None:
    spoken = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        spoken.connect(control)
    except OSError:
        spoken.close()
        return None
    return spoken


def _begin(
    where: Places, to: str, control: str, address: str, *, foreground: bool
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start the process that holds the connection, and return it with a line to it."""
    log = os.open(where.link_log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "hpcflow.connect.holder", to, control, address],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=not foreground,
            cwd=where.home,
            env={**os.environ, "HPCFLOW_HOME": where.home},
        )
    finally:
        os.close(log)
    end = time.monotonic() + _START_S
    while time.monotonic() < end:
        spoken = _speak(control)
        if spoken is not None:
            if not foreground:
                process.returncode = process.returncode or 0  # it outlives this process: no warning about that
            return process, spoken
        if process.poll() not in (None, _HELD):
            break
        time.sleep(_TICK_S)
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    with open(where.link_log, encoding="utf-8", errors="replace") as file:
        said = file.read().strip().splitlines()
    raise HpcflowError(f"The process that holds the connection ended. Its last words: {said[-1] if said else 'none'}")


def _order(spoken: socket.socket, order: Mapping[str, object], person: Person) -> Answer:
    """Give an order and return the answer; sentences and questions on the way go to the person."""
    with spoken, spoken.makefile("rwb") as lines:
        lines.write(json.dumps(order).encode() + b"\n")
        lines.flush()
        for raw in lines:
            line: Answer = json.loads(raw)
            if "say" in line:
                person.say(str(line["say"]))
            elif "ask" in line:
                asked = line["ask"]
                prompts = [(str(text), bool(shown)) for text, shown in asked["prompts"]]
                answers = person.ask(str(asked["host"]), str(asked["text"]), prompts) if person.ask else None
                lines.write(json.dumps(None if answers is None else list(answers)).encode() + b"\n")
                lines.flush()
            elif "key" in line:
                accepted = person.accept is not None and person.accept(line["key"])
                lines.write(json.dumps(accepted).encode() + b"\n")
                lines.flush()
            elif "error" in line:
                raise _KINDS.get(str(line["kind"]), HpcflowError)(str(line["error"]))
            else:
                answer: Answer = line["done"]
                return answer
    raise ServerUnreachable("The process that holds the connection ended before it answered; run `hpcflow connect`.")


def _wait_for_end(control: str) -> None:
    end = time.monotonic() + _END_S
    while os.path.lexists(control) and time.monotonic() < end:
        time.sleep(_TICK_S)
