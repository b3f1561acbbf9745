"""Results that are used again on a real Slurm: they cost no job, and what needs them reads them in place."""

from __future__ import annotations

import pytest

from tests.cluster.conftest import Login

pytestmark = pytest.mark.cluster

PROGRAM = """
import os
import sys

import hpcflow as hf

@hf.electron(cache=True)
def large(x):
    return bytes([x]) * 100_000, os.environ["SLURM_JOB_ID"]

@hf.electron
def size(made, mend):
    if not os.path.exists(mend):
        raise ValueError("not yet")
    return len(made[0]), made[1]

@hf.lattice(executor="slurm", walltime="1 min")
def flow(mend):
    return size(large(7), mend)

print(hf.get_result(hf.dispatch(flow)(sys.argv[1]), wait=True).dispatch_id)
"""


def test_what_completed_costs_no_job_again(login: Login) -> None:
    mend = login.user.folder / "mend"
    first = login.user.runs(PROGRAM, str(mend))
    assert login.shown(first)["status"] == "FAILED"
    mend.touch()

    again = login.user.hpcflow("redispatch", first, "--reuse").stdout.strip()
    assert login.user.hpcflow("show", again, "--wait").returncode == 0
    large, size = login.tasks(again)
    assert large["origin"] == {"how": "reused", "dispatch": first, "task": 0} and large["job_id"] is None
    assert size["origin"] is None and size["job_id"] is not None
    assert [array["width"] for array in login.shown(again)["arrays"]] == [1]

    cached = login.user.runs(PROGRAM, str(mend))
    large, size = login.tasks(cached)
    assert large["origin"] == {"how": "cached", "dispatch": first, "task": 0}
    assert login.sbatches(cached) == 1
    printed = login.user.runs(
        "import sys, hpcflow as hf\nprint(*[hf.get_result(each).result for each in sys.argv[1:]])", again, cached
    )
    job = login.tasks(first)[0]["job_id"]
    assert printed == f"(100000, '{job}') (100000, '{job}')"
