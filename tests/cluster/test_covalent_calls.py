"""Calls of Covalent on a real Slurm: redispatch, modules that travel, copies by a trigger."""

from __future__ import annotations

import json

import pytest

from hpcflow.sdk.connection import Server
from tests.cluster.conftest import Login
from tests.integration.world import until

pytestmark = pytest.mark.cluster

PROGRAM = """
import json
import os
import sys

import hpcflow as ct


class Once(ct.triggers.BaseTrigger):
    def observe(self):
        self.trigger()


@ct.electron(deps_module=ct.DepsModule("rules_of_mine"))
def ruled(x, *, by=2):
    import rules_of_mine

    return rules_of_mine.scaled(x, by), os.environ["SLURM_JOB_ID"]


@ct.lattice(executor="slurm", walltime="1 min")
def flow(x, by=2):
    return ruled(x, by=by)


first = ct.dispatch(flow)(3, by=5)
one = ct.get_result(first, wait=True).result
again = ct.get_result(ct.redispatch(first)(4), wait=True).result
same = ct.get_result(ct.redispatch(first)(), wait=True).result
Once().attach(first)
print(json.dumps([first, one, again, same]))
"""


def test_what_ran_on_slurm_runs_there_again_by_hand_and_by_a_trigger(login: Login) -> None:
    login.user.writes("rules_of_mine.py", "def scaled(x, by):\n    return x * by\n")
    first, one, again, same = json.loads(login.user.runs(PROGRAM))
    assert (one[0], again[0], same[0]) == (15, 20, 15)
    assert len({one[1], again[1], same[1]}) == 3

    def fired() -> str:
        listed = Server(login.user.home).ask("GET", "/triggers")["triggers"]
        return str(next(row["last_dispatch"] or "" for row in listed if row["dispatch"] == first))

    copy = until(fired)
    assert login.user.waits_for(copy)["status"] == "COMPLETED"
    value = login.user.runs(f"import hpcflow; print(hpcflow.get_result({copy!r}).result[0])")
    assert value == "15"
