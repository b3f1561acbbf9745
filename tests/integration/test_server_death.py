"""A server that dies in the middle: the next one goes on, runs nothing again and submits nothing again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tests.integration.world import User, lines, open_gate, until

STAGES = """
import os
import sys

import hpcflow as hf

def note(ledger, what):
    fd = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, (what + "\\n").encode())
    os.close(fd)

@hf.electron
def first(i, ledger, gate):
    note(ledger, f"first {i}")
    if gate:
        open(gate).read()
    return i

@hf.electron
def second(i, ledger):
    note(ledger, f"second {i}")
    return i

@hf.electron
def total(values, ledger):
    note(ledger, "total")
    return sum(values)

@hf.lattice(executor="local")
def stages(n, ledger, gate):
    ones = [first(i, ledger, gate if i == 2 else None) for i in range(n)]
    return total([second(i, ledger) for i in ones], ledger)

print(hf.dispatch(stages)(20, *sys.argv[1:]))
"""
ALL = sorted([*(f"{stage} {i}" for stage in ("first", "second") for i in range(20)), "total"])


def tokens(user: User, dispatch: str) -> set[str]:
    return {array["token"] for array in user.asks("show", dispatch)["arrays"]}


def test_a_dispatch_survives_the_death_of_its_server(own_server: Callable[..., User]) -> None:
    user = own_server()
    ledger, gate = user.folder / "ledger", user.folder / "gate"
    os.mkfifo(gate)
    dispatch = user.runs(STAGES, str(ledger), str(gate))
    until(lambda: "second 1" in lines(ledger))
    before = tokens(user, dispatch)

    user.kills_the_server()
    open_gate(gate)
    assert user.hpcflow("start").returncode == 0

    shown = user.waits_for(dispatch)
    assert shown["status"] == "COMPLETED", shown
    assert sorted(lines(ledger)) == ALL
    assert before <= tokens(user, dispatch)
    assert {task["attempt"] for task in shown["tasks_shown"]} == {shown["tasks_shown"][0]["attempt"]}
    value = user.runs("import sys, hpcflow as hf; print(hf.get_result(sys.argv[1]).result)", dispatch)
    assert int(value) == sum(range(20))


def test_a_server_that_dies_again_and_again_loses_nothing(own_server: Callable[..., User]) -> None:
    user = own_server()
    ledger, gate = user.folder / "ledger", user.folder / "gate"
    os.mkfifo(gate)
    dispatch = user.runs(STAGES, str(ledger), str(gate))

    for _ in range(2):
        user.kills_the_server()
        assert user.hpcflow("start").returncode == 0
    until(lambda: "first 2" in lines(ledger))
    user.kills_the_server()
    open_gate(gate)
    assert user.hpcflow("start").returncode == 0

    assert user.waits_for(dispatch)["status"] == "COMPLETED"
    assert sorted(lines(ledger)) == ALL


def test_workers_finish_what_they_have_while_no_server_lives(own_server: Callable[..., User]) -> None:
    user = own_server()
    ledger, gate = user.folder / "ledger", user.folder / "gate"
    os.mkfifo(gate)
    dispatch = user.runs(STAGES, str(ledger), str(gate))
    until(lambda: "first 2" in lines(ledger))

    assert user.hpcflow("stop").returncode == 0
    open_gate(gate)
    until(lambda: {f"first {i}" for i in range(20)} <= set(lines(ledger)))
    assert user.hpcflow("start").returncode == 0

    assert user.waits_for(dispatch)["status"] == "COMPLETED"
    assert sorted(lines(ledger)) == ALL


MANY = """
import os
import sys

import hpcflow as hf

@hf.electron
def one(i, ledger, gate):
    if gate:
        open(gate).read()
    fd = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, f"{i}\\n".encode())
    os.close(fd)
    return i

@hf.lattice(executor="local")
def many(n, ledger, gate):
    return [one(i, ledger, gate if i == n // 2 else None) for i in range(n)]

print(hf.dispatch(many)(10_000, *sys.argv[1:]))
"""
#: What a server may spend before it answers, in seconds of CPU: with cores to itself that is how long it takes.
READY_CPU_S = 15.0


def test_a_server_with_ten_thousand_tasks_is_ready_in_seconds_and_submits_nothing_again(
    own_server: Callable[..., User],
) -> None:
    user = own_server()
    ledger, gate = user.folder / "ledger", user.folder / "gate"
    os.mkfifo(gate)
    dispatch = user.runs(MANY, str(ledger), str(gate))
    until(lambda: len(lines(ledger)) > 1000)
    before = tokens(user, dispatch)

    user.kills_the_server()
    assert user.hpcflow("start").returncode == 0
    assert cpu_seconds(user.server_pid()) < READY_CPU_S
    open_gate(gate)

    assert user.waits_for(dispatch)["status"] == "COMPLETED"
    assert sorted(map(int, lines(ledger))) == list(range(10_000))
    assert tokens(user, dispatch) == before


def cpu_seconds(pid: int) -> float:
    """Return what a process has used so far, over all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
