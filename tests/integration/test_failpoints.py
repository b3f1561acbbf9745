"""A server is killed at every registered instant; the next one goes on, and each result is published once."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from hpcflow.core.model import DispatchId
from hpcflow.server.failpoints import POINTS, VARIABLE
from hpcflow.server.store import EventKind, Store
from tests.integration.world import PATIENCE_S, User, is_alive, lines, open_gate, until
from tests.unit.served import a_manifest, an_upload

FLOW = """
import os
import sys

import hpcflow as hf

def note(ledger, what):
    fd = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, (what + "\\n").encode())
    os.close(fd)

@hf.electron
def one(i, ledger, gate):
    note(ledger, f"one {i}")
    if gate:
        open(gate).read()
    return i

@hf.electron
def total(values, ledger):
    note(ledger, "total")
    return sum(values)

@hf.electron
@hf.lattice
def ones(n, ledger, gate):
    return [one(i, ledger, gate if i == 0 else None) for i in range(n)]

@hf.lattice(executor="local")
def flow(n, ledger, gate=None):
    return total(ones(n, ledger, gate), ledger)

print(hf.dispatch(flow)(4, *sys.argv[1:]))
"""
ALL = sorted([*(f"one {i}" for i in range(4)), "total"])
LONG = """
import os
import sys
import time

import hpcflow as hf

@hf.electron(executor="local")
def sleeper(ledger):
    with open(ledger, "a") as file:
        file.write(f"{os.getpid()}\\n")
    time.sleep(600)

@hf.lattice
def flow(ledger):
    return sleeper(ledger)

print(hf.dispatch(flow)(sys.argv[1]))
"""
#: What brings a server to the instants that an ordinary dispatch does not pass.
CANCELS = {"after_cancel_commit", "before_cancel", "after_cancel"}
SOME = "before_cancel_told"


def begin_armed(user: User, name: str) -> int:
    """Begin a server anew that dies at an instant; return its process id."""
    assert user.hpcflow("stop").returncode == 0
    assert user.hpcflow("start", **{VARIABLE: f"{name}=kill"}).returncode == 0
    return user.server_pid()


def published(user: User, dispatch: str) -> dict[int, str]:
    """Return the kind of the one end that the store holds of each task."""
    with closing(Store.open(user.home.store, on_network=False)) as store:
        ends = store.ends(DispatchId(dispatch))
        kinds = {event.kind for event in store.events(DispatchId(dispatch))}
    assert EventKind.SECOND_END not in kinds
    return {index: end.record["st"] for index, end in ends.items()}


@pytest.mark.parametrize("name", sorted(POINTS.keys() - CANCELS - {"after_take_over", "during_upload", SOME}))
def test_a_server_that_is_killed_there_loses_and_doubles_nothing(name: str, own_server: Callable[..., User]) -> None:
    user = own_server()
    ledger = user.folder / "ledger"
    pid = begin_armed(user, name)

    told = user.tries(FLOW, str(ledger), HPCFLOW_AUTOSTART="0")
    until(lambda: not is_alive(pid), lambda: f"the instant {name} never came. {user.log()}")
    assert user.hpcflow("start").returncode == 0

    known = user.dispatches()
    assert len(known) == 1 or (told.returncode != 0 and not known)
    shown = user.waits_for(known[0] if known else user.runs(FLOW, str(ledger)))
    assert shown["status"] == "COMPLETED", shown
    assert sorted(lines(ledger)) == ALL
    assert published(user, shown["id"]) == dict.fromkeys(range(len(ALL) + 1), "ok")  # and the sublattice


LARGE = """
import os
import sys

import hpcflow as hf

@hf.electron(executor="local")
def size(ledger, data):
    with open(ledger, "a") as file:
        file.write("ran\\n")
    return len(data)

@hf.lattice
def flow(ledger, data):
    return size(ledger, data)

# It does not compress: the most of it is still to be sent when the first of it has arrived.
dispatch = hf.dispatch(flow)(sys.argv[1], os.urandom(8_000_000))
print(dispatch, hf.get_result(dispatch, wait=True).result)
"""


def test_an_upload_that_a_killed_server_cut_is_sent_again_by_its_client_and_runs_once(
    own_server: Callable[..., User],
) -> None:
    user = own_server()
    ledger = user.folder / "ledger"
    pid = begin_armed(user, "during_upload")

    dispatch, size = user.runs(LARGE, str(ledger)).split()

    assert not is_alive(pid)
    assert user.server_pid() != pid
    assert (size, lines(ledger), user.dispatches()) == ("8000000", ["ran"], [dispatch])
    assert os.listdir(user.home.dispatches) == [f"{dispatch}.blobs"]


def test_a_restart_ends_an_upload_that_goes_on_and_leaves_nothing_of_it(own_server: Callable[..., User]) -> None:
    user = own_server()
    raw = an_upload(a_manifest(), (b"a function", os.urandom(500_000), b""))
    token = Path(user.home.token).read_text().strip()
    address = str(json.loads(Path(user.home.server_json).read_text())["address"])
    head = [
        "POST /api/v1/dispatches HTTP/1.1",
        "Host: localhost",
        f"Authorization: Bearer {token}",
        "Content-Type: application/x-hpcflow-dispatch",
        f"Content-Length: {len(raw)}",
    ]
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE_S)
        client.connect(address)
        client.sendall("\r\n".join([*head, "", ""]).encode() + raw[: len(raw) // 2])
        until(lambda: os.listdir(user.home.dispatches), user.log)
        assert user.hpcflow("restart").returncode == 0
        with suppress(ConnectionResetError):
            assert b" 201 " not in client.recv(65536)
    assert os.listdir(user.home.dispatches) == []
    assert user.dispatches() == []


def test_a_server_that_is_killed_right_after_it_took_over_loses_nothing(own_server: Callable[..., User]) -> None:
    user = own_server()
    ledger, gate = user.folder / "ledger", user.folder / "gate"
    os.mkfifo(gate)
    dispatch = user.runs(FLOW, str(ledger), str(gate))
    until(lambda: "one 0" in lines(ledger))
    user.kills_the_server()
    assert user.hpcflow("start", **{VARIABLE: "after_take_over=kill"}).returncode != 0

    open_gate(gate)
    assert user.hpcflow("start").returncode == 0
    assert user.waits_for(dispatch)["status"] == "COMPLETED"
    assert sorted(lines(ledger)) == ALL


@pytest.mark.parametrize("name", sorted(CANCELS))
def test_a_server_that_is_killed_while_it_cancels_leaves_nothing_running(
    name: str, own_server: Callable[..., User]
) -> None:
    user = own_server()
    ledger = user.folder / "ledger"
    pid = begin_armed(user, name)
    dispatch = user.runs(LONG, str(ledger))
    (task,) = until(lambda: lines(ledger))

    user.hpcflow("cancel", dispatch, HPCFLOW_AUTOSTART="0")
    until(lambda: not is_alive(pid), lambda: f"the instant {name} never came. {user.log()}")
    assert user.hpcflow("start").returncode == 0
    user.hpcflow("cancel", dispatch)

    assert user.waits_for(dispatch)["status"] == "CANCELLED"
    until(lambda: not is_alive(int(task)), user.log)


TWO = LONG.replace("return sleeper(ledger)", "return [sleeper(ledger) for _ in range(2)]")


def test_a_server_that_is_killed_before_workers_hear_of_a_cancel_tells_them_when_it_is_back(
    own_server: Callable[..., User],
) -> None:
    user = own_server()
    ledger = user.folder / "ledger"
    pid = begin_armed(user, SOME)
    dispatch = user.runs(TWO, str(ledger))
    until(lambda: len(lines(ledger)) == 2)

    user.hpcflow("cancel", dispatch, "--task", "0", HPCFLOW_AUTOSTART="0")
    until(lambda: not is_alive(pid), lambda: f"the instant {SOME} never came. {user.log()}")
    both = [int(line) for line in lines(ledger)]
    assert all(map(is_alive, both))
    assert user.hpcflow("start").returncode == 0

    until(lambda: sorted(map(is_alive, both)) == [False, True], user.log)
    assert user.asks("show", dispatch)["counts"] == {"cancelled": 1, "running": 1}
    user.hpcflow("cancel", dispatch)
    assert user.waits_for(dispatch)["counts"] == {"cancelled": 2}
