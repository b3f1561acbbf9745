"""Decides what a login node needs before its server can be used from here: nothing, a start, or a new installation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from packaging.version import InvalidVersion, Version

from hpcflow.sdk.connection import ServerElsewhere, VersionMismatch
from hpcflow.server.wheels import Target

__all__ = ["Look", "Server", "Step", "decide", "parse_look"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server there, as its run/server.json says it."""

    pid: int
    host: str
    address: str
    version: str
    started_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was found on the login node."""

    #: The Python that the prologue, PATH and login shell lead to.
    python: str
    target: Target
    #: Its values of PEP 508's environment markers.
    markers: Mapping[str, str]
    #: HPCFLOW_HOME there, and the machine that answered: behind one name there may be several.
    home: str
    host: str
    #: Id and version of what `hpcflow connect` installed there; empty: nothing.
    installed_id: str
    installed_version: str
    #: The server that answers there, and one that runs for the same home on another machine.
    server: Server | None
    elsewhere: Server | None
    token: str


class Step(Enum):
    """What is to be done there."""

    JOIN = "use the server that runs"
    START = "start what is installed"
    INSTALL = "install and start"
    UPGRADE = "install and restart"


def decide(look: Look, *, to: str, own: str, upgrade: bool, take_over: bool) -> Step:
    """Return what is to be done.

    Args:
        look: what was found.
        to: the login node, as the user calls it.
        own: the version of hpcflow here.
        upgrade: replace an older server, and what is installed, by this version.
        take_over: move the server to this login node from another one.

    Raises:
        ServerElsewhere: the home's server runs on another machine, and ``take_over`` is not set.
        VersionMismatch: what is there is newer, or older and ``upgrade`` is not set.
    """
    if look.elsewhere is not None and not take_over:
        raise ServerElsewhere(
            f"The server of {look.home} runs on {look.elsewhere.host}, and {to} led to {look.host}. Connect to "
            f"{look.elsewhere.host} itself, or move the server here with `hpcflow connect {to} --take-over`."
        )
    present = look.server or look.elsewhere
    there = present.version if present is not None else look.installed_version
    if there and _newer(there, own):
        what = "runs" if present is not None else "is installed"
        raise VersionMismatch(
            f"hpcflow {there} {what} on {to}, and this is hpcflow {own}, which is older: install hpcflow {there} here."
        )
    if look.server is None:
        return Step.START if look.installed_version == own and not upgrade else Step.INSTALL
    if upgrade:
        return Step.UPGRADE
    if there.split(".")[:2] != own.split(".")[:2]:
        raise VersionMismatch(
            f"The server on {to} is hpcflow {there}, and this is hpcflow {own}. `hpcflow connect {to} --upgrade` "
            f"installs {own} there and restarts the server; jobs and dispatches go on."
        )
    return Step.JOIN


def _newer(there: str, own: str) -> bool:
    """Return whether a version is of a later release than ours; patch releases understand each other."""
    try:
        return Version(there).release[:2] > Version(own).release[:2]
    except InvalidVersion:
        return False


def parse_look(raw: Mapping[str, Any]) -> Look:  # Any: JSON
    """Return what `hpcflow.connect.there` found."""
    python = raw["python"]
    markers = {str(key): str(value) for key, value in python["markers"].items()}
    name, version = python["libc"]
    major, _, minor = str(version or "1.2").partition(".")
    # Python tells the version of glibc alone; where there is none, musl 1.2 has been usual since 2021.
    libc = ("glibc" if name == "glibc" else "musl", int(major), int(minor.partition(".")[0] or 0))
    first, _, second = markers["python_version"].partition(".")
    installed = raw["installed"] or {}
    return Look(
        python=str(python["executable"]),
        target=Target((int(first), int(second)), markers["platform_system"], markers["platform_machine"], libc),
        markers=markers,
        home=str(raw["home"]),
        host=str(raw["host"]),
        installed_id=str(installed.get("id", "")),
        installed_version=str(installed.get("version", "")),
        server=_server(raw["server"]),
        elsewhere=_server(raw["elsewhere"]),
        token=str(raw["token"] or ""),
    )


def _server(raw: Mapping[str, Any] | None) -> Server | None:  # Any: JSON
    if raw is None:
        return None
    return Server(
        pid=int(raw["pid"]),
        host=str(raw["host"]),
        address=str(raw["address"]),
        version=str(raw["version"]),
        started_at=str(raw.get("started_at", "")),
    )
