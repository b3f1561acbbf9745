"""What a login node needs before its server can be used: decided from what was found there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hpcflow.connect.decide import Look, Server, Step, decide, parse_look
from hpcflow.sdk.connection import ServerElsewhere, VersionMismatch
from hpcflow.server.wheels import Target

MARKERS = {"python_version": "3.12", "platform_system": "Linux", "platform_machine": "x86_64"}
NOTHING = Look(
    python="/usr/bin/python3.12",
    target=Target((3, 12), "Linux", "x86_64", ("glibc", 2, 28)),
    markers=MARKERS,
    home="/home/ada/.hpcflow",
    host="login1",
    installed_id="",
    installed_version="",
    server=None,
    elsewhere=None,
    token="",
)


def _server(version: str, host: str = "login1") -> Server:
    return Server(pid=12, host=host, address="/home/ada/.hpcflow/run/sock", version=version, started_at="")


def _installed(version: str) -> Look:
    return replace(NOTHING, installed_id=f"{version}-0", installed_version=version)


def _decided(look: Look, *, upgrade: bool = False, take_over: bool = False) -> Step:
    return decide(look, to="ada@login", own="1.4.2", upgrade=upgrade, take_over=take_over)


@pytest.mark.parametrize(
    ("look", "upgrade", "step"),
    [
        (NOTHING, False, Step.INSTALL),
        (_installed("1.4.2"), False, Step.START),
        (_installed("1.4.2"), True, Step.INSTALL),
        (_installed("1.3.0"), False, Step.INSTALL),
        (_installed("1.4.9"), False, Step.INSTALL),
        (replace(NOTHING, server=_server("1.4.2")), False, Step.JOIN),
        (replace(NOTHING, server=_server("1.4.9")), False, Step.JOIN),
        (replace(NOTHING, server=_server("0+unknown")), True, Step.UPGRADE),
        (replace(_installed("1.3.0"), server=_server("1.3.0")), True, Step.UPGRADE),
        (replace(_installed("1.4.2"), server=_server("1.3.0")), True, Step.UPGRADE),
    ],
)
def test_what_is_there_decides_what_is_done(look: Look, upgrade: bool, step: Step) -> None:
    assert _decided(look, upgrade=upgrade) is step


def test_an_older_server_is_restarted_only_when_that_is_asked_for() -> None:
    with pytest.raises(VersionMismatch) as raised:
        _decided(replace(NOTHING, server=_server("1.3.0")))
    assert str(raised.value) == (
        "The server on ada@login is hpcflow 1.3.0, and this is hpcflow 1.4.2. `hpcflow connect ada@login --upgrade` "
        "installs 1.4.2 there and restarts the server; jobs and dispatches go on."
    )


@pytest.mark.parametrize("look", [_installed("1.5.0"), replace(NOTHING, server=_server("2.0.0"))])
def test_what_is_newer_is_never_replaced(look: Look) -> None:
    with pytest.raises(VersionMismatch, match=r"which is older: install hpcflow [12]"):
        _decided(look, upgrade=True)


def test_a_server_on_another_login_node_is_moved_only_when_that_is_asked_for() -> None:
    elsewhere = replace(_installed("1.4.2"), elsewhere=_server("1.4.2", "login2"))
    with pytest.raises(ServerElsewhere, match=r"runs on login2, and ada@login led to login1\. Connect to login2"):
        _decided(elsewhere)
    assert _decided(elsewhere, take_over=True) is Step.START


def test_a_machine_without_glibc_is_taken_for_one_with_musl() -> None:
    raw = {
        "python": {"executable": "/usr/bin/python3", "libc": ["", ""], "markers": MARKERS},
        "home": "/home/ada/.hpcflow",
        "host": "login1",
        "installed": None,
        "server": None,
        "elsewhere": None,
        "token": None,
    }
    assert parse_look(raw).target == Target((3, 12), "Linux", "x86_64", ("musl", 1, 2))
    raw["python"] = {"executable": "/usr/bin/python3", "libc": ["glibc", "2.28"], "markers": MARKERS}
    assert parse_look(raw) == replace(NOTHING, python="/usr/bin/python3")
