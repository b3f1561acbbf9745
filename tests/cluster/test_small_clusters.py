"""A Slurm that keeps no accounting and takes only small arrays, as some sites' do: a cluster of this module's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from tests.cluster.conftest import Login
from tests.cluster.mini_slurm import a_mini_slurm
from tests.integration.world import lines, until

pytestmark = [pytest.mark.cluster, pytest.mark.root]


@pytest.fixture(scope="module")
def slurm_conf() -> Iterator[str]:
    with a_mini_slurm("--nodes", "2", "--no-accounting", "--max-array-size", "11") as conf:
        yield conf


HEAD = """
import json
import os
import signal
import sys

import hpcflow as hf

def note(ledger, what):
    with open(ledger, "a") as file:
        file.write(f"{what}\\n")

"""


def test_more_workers_than_one_array_may_have_come_in_several(slurm_conf: str, own_login: Callable[..., Login]) -> None:
    login = own_login(slurm_conf)
    ledger = login.user.folder / "ledger"
    printed = login.user.runs(
        HEAD
        + """
@hf.electron(walltime="20 min", partition="batch")
def long(i, ledger):
    note(ledger, i)
    return i

@hf.lattice(executor="slurm")
def wide(n, ledger):
    return [long(i, ledger) for i in range(n)]

result = hf.dispatch_sync(wide)(25, sys.argv[1])
print(json.dumps([result.dispatch_id, result.result]))
""",
        str(ledger),
    )
    dispatch, values = json.loads(printed)

    assert values == list(range(25))
    assert sorted(map(int, lines(ledger))) == values
    assert [array["width"] for array in login.user.asks("show", dispatch)["arrays"]] == [11, 11, 3]
    (slurm,) = (cluster for cluster in login.user.asks("clusters", "list") if cluster["name"] == "slurm")
    assert slurm["max_array_size"] == 11


def test_without_accounting_the_queue_alone_tells_of_a_dead_worker(
    slurm_conf: str, own_login: Callable[..., Login]
) -> None:
    login = own_login(slurm_conf)
    printed = login.user.runs(
        HEAD
        + """
@hf.electron(walltime="20 min", partition="batch")
def ends_its_worker(i):
    if i == 1:
        os.kill(os.getppid(), signal.SIGKILL)
        signal.pause()
    return i

@hf.lattice(executor="slurm")
def killed(n):
    return [ends_its_worker(i) for i in range(n)]

result = hf.dispatch_sync(killed)(4)
nodes = result.tasks()
print(json.dumps([result.status, [node.state for node in nodes], nodes[1].error]))
"""
    )
    status, states, error = json.loads(printed)

    assert status == "FAILED"
    assert states == ["completed", "failed", "completed", "completed"]
    assert "worker" in error
    assert login.calls("sacct") == []


def test_without_accounting_a_cancel_by_hand_is_seen_all_the_same(
    slurm_conf: str, own_login: Callable[..., Login]
) -> None:
    login = own_login(slurm_conf)
    ledger = login.user.folder / "ledger"
    dispatch = login.user.runs(
        HEAD
        + """
@hf.electron(walltime="20 min", partition="batch")
def endless(i, ledger):
    note(ledger, i)
    while True:
        signal.pause()

@hf.lattice(executor="slurm")
def lasting(n, ledger):
    return [endless(i, ledger) for i in range(n)]

print(hf.dispatch(lasting)(2, sys.argv[1]))
""",
        str(ledger),
    )
    until(lambda: len(lines(ledger)) == 2)

    login.slurm("scancel", login.queue(dispatch)[0][0].partition("_")[0])

    why = until(lambda: login.shown(dispatch)["paused"])
    assert "was cancelled, outside hpcflow (CANCELLED" in why
    until(lambda: login.shown(dispatch)["counts"] == {"paused": 2}, lambda: str(login.shown(dispatch)))
    assert len(login.calls("sbatch")) == 1
    login.user.asks("cancel", dispatch)
    shown = login.user.waits_for(dispatch)
    assert (shown["status"], shown["counts"]) == ("CANCELLED", {"cancelled": 2})
    assert len(login.calls("sbatch")) == 1
