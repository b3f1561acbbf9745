"""What runs around tasks on a real Slurm: in the job, in the order that is promised."""

from __future__ import annotations

import json

import pytest

from tests.cluster.conftest import Login

pytestmark = pytest.mark.cluster


def test_hooks_run_in_the_task_s_job_and_give_it_arguments(login: Login) -> None:
    ledger = login.user.folder / "ledger"
    printed = login.user.runs(
        """
import json
import os
import sys

import hpcflow as hf

def job():
    return os.environ["SLURM_JOB_ID"]

@hf.electron(call_before=[hf.DepsCall(job, retval_keyword="jobs"), hf.DepsCall(job, retval_keyword="jobs")])
def own(jobs):
    return jobs == [os.environ["SLURM_JOB_ID"]] * 2, jobs[0]

@hf.electron
@hf.lattice
def inner(n):
    return [own() for _ in range(n)]

@hf.lattice(executor="slurm", walltime="1 min", deps_bash=f"echo $SLURM_JOB_ID >>{sys.argv[1]}")
def flow():
    return inner(2)

print(json.dumps(hf.dispatch_sync(flow)().result))
""",
        str(ledger),
    )
    answers = json.loads(printed)

    assert [same for same, _ in answers] == [True, True]
    assert sorted(ledger.read_text().split()) == sorted(job for _, job in answers)
