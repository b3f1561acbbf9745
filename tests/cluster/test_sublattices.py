"""Sublattices on a real Slurm: what they inherit, and what they cost the queue."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.cluster.conftest import Login

pytestmark = pytest.mark.cluster

PROGRAM = """
import json
import os

import hpcflow as hf

@hf.electron
def cores(x):
    return int(os.environ["SLURM_CPUS_PER_TASK"])

@hf.electron
def total(values):
    return sum(values)

@hf.electron
@hf.lattice
def inner(n):
    return total([cores(i) for i in range(n)])

@hf.electron
@hf.lattice
def outer(n):
    return total([inner(n), inner(1)])

@hf.lattice(executor="slurm", cpus=2, walltime="1 min", max_running=1)
def flow(n):
    return outer(n) + 100

result = hf.dispatch_sync(flow)(5)
jobs, stack = set(), [result]
while stack:
    level = stack.pop()
    jobs |= {(node.cluster, node.job_id) for node in level.tasks()}
    stack += level.sublattices().values()
again = hf.redispatch(result.dispatch_id, replace_electrons={"cores": hf.electron(lambda x: 7)})()
print(json.dumps([result.dispatch_id, result.result, sorted(jobs), hf.get_result(again, wait=True).result]))
"""


def test_a_sublattice_s_tasks_inherit_what_they_ask_for_and_join_the_workers_that_live(
    own_login: Callable[..., Login],
) -> None:
    login = own_login(HPCFLOW_LINGER="60")
    dispatch, value, jobs, replaced = json.loads(login.user.runs(PROGRAM))

    # Two cores each, five tasks and one, two levels down.
    assert value == 2 * 5 + 2 + 100
    assert replaced == 7 * 5 + 7 + 100
    assert len(jobs) == 1
    assert jobs[0][0] == "slurm"
    assert login.submitted(dispatch) == 1
    assert login.shown(dispatch)["tasks"] == 1 + 3 + 6 + 2
