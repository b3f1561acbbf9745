"""Covalent's executor and Python's own, on a real Slurm: what a job finds, and what single calls cost the queue."""

from __future__ import annotations

import json

import pytest

from tests.cluster.conftest import Login

pytestmark = pytest.mark.cluster


def test_a_slurm_executors_arguments_reach_its_jobs(login: Login) -> None:
    work = login.user.folder / "runs"
    told = json.loads(
        login.user.runs(
            f"""
import json
import os
import subprocess

import hpcflow as ct

slurm = ct.executor.SlurmExecutor(
    remote_workdir={str(work)!r},
    options={{"c": 2, "t": "2", "nice": 1}},
    variables={{"GREETING": "hello there"}},
    prerun_commands=["export PREPARED=$(( 20 + 3 ))"],
    postrun_commands=["echo $GREETING > after"],
    retries=1,
)

@ct.electron(executor=slurm)
def look(attempts):
    with open(attempts, "a") as file:
        file.write("x")
    if os.path.getsize(attempts) < 2:
        raise OSError("once more")
    names = ("SLURM_CPUS_PER_TASK", "GREETING", "PREPARED")
    return [os.getcwd(), *(os.environ[name] for name in names)]

hpc = ct.executor.HPCExecutor(
    instance="slurm",
    resource_spec_kwargs={{"cpu_cores_per_process": 3}},
    job_attributes_kwargs={{"queue_name": "batch", "account": "proj", "duration": 7}},
    environment={{"GREETING": "good day"}},
    remote_workdir={str(work)!r},
)

@ct.electron(executor=hpc)
def look_too():
    names = ("SLURM_CPUS_PER_TASK", "SLURM_JOB_PARTITION", "SLURM_JOB_ACCOUNT", "GREETING")
    job = os.environ["SLURM_ARRAY_JOB_ID"] + "_" + os.environ["SLURM_ARRAY_TASK_ID"]
    limit = subprocess.run(["squeue", "-h", "-o", "%l", "-j", job], capture_output=True, text=True).stdout.strip()
    return [limit, *(os.environ[name] for name in names)]

@ct.lattice
def both(path):
    return look(path), look_too()

result = ct.dispatch_sync(both)({str(login.user.folder / "attempts")!r})
assert result.status == ct.status.COMPLETED, result.error
found, found_too = result.result
node = result.get_node_result(0)
print(json.dumps([result.dispatch_id, found, found_too, node.cluster, node.attempt]))
"""
        )
    )

    dispatch, found, found_too, cluster, attempt = told
    assert found_too[1:] == ["3", "batch", "proj", "good day"]
    # Seven minutes for the task, and room for what its worker does besides.
    assert 7 <= int(found_too[0].partition(":")[0]) < 14
    assert found == [f"{work}/{dispatch}/node_0", "2", "hello there", "23"]
    assert (cluster, attempt) == ("slurm", 2)
    assert (work / dispatch / "node_0" / "after").read_text() == "hello there\n"


def test_calls_one_by_one_share_a_few_job_arrays(login: Login) -> None:
    told = json.loads(
        login.user.runs(
            """
import json
import os
import time

import hpcflow as hf

def square(x):
    return x * x

def slot(x):
    return os.environ["SLURM_CPUS_PER_TASK"]

with hf.Executor("slurm", cpus=1, walltime="1 min") as ex:
    first = []
    for number in range(30):  # none has begun yet, and each is sent by itself
        first.append(ex.submit(square, number))
        time.sleep(0.05)
    several = [future.result() for future in first]
    alone = [ex.submit(square, number).result() for number in range(10)]
    mapped = sum(ex.map(square, range(500)))
    cpus = set(ex.map(slot, range(5)))
print(json.dumps([ex.dispatch_id, several, alone, mapped, sorted(cpus)]))
"""
        )
    )

    dispatch, several, alone, mapped, cpus = told
    assert several == [number**2 for number in range(30)]
    assert alone == several[:10]
    assert (mapped, cpus) == (sum(number**2 for number in range(500)), ["1"])
    assert login.shown(dispatch)["tasks"] == 545
    # 42 times something was sent; what waits for the first worker may get an array each time it has doubled, and how
    # often that is, is a matter of how fast this machine is.
    arrays = login.shown(dispatch)["arrays"]
    assert login.submitted(dispatch) <= 20, [array["width"] for array in arrays]
