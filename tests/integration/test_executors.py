"""Executors with Covalent's names at work on this machine: folders, retries, executors of users' own."""

from __future__ import annotations

import re
from pathlib import Path

from tests.integration.world import User


def test_a_local_executors_folders_and_retries_act(user: User) -> None:
    work = user.folder / "work"
    printed = user.runs(
        f"""
import os
from pathlib import Path

import hpcflow as ct

here = ct.executor.LocalExecutor(workdir={str(work)!r})
shared = ct.executor.LocalExecutor(workdir={str(work)!r}, create_unique_workdir=False)
stubborn = ct.executor.LocalExecutor(retries=2)

@ct.electron(executor=here)
def folder():
    Path("mine").write_text("x")
    return os.getcwd()

@ct.electron(executor=shared)
def together():
    return os.getcwd()

@ct.electron(executor=stubborn)
def third_time(counter):
    with open(counter, "a") as file:
        file.write("x")
    if os.path.getsize(counter) < 3:
        raise OSError("not yet")
    return os.path.getsize(counter)

@ct.lattice(executor="local", workflow_executor="local")
def flow(counter):
    return folder(), folder(), together(), third_time(counter)

result = ct.dispatch_sync(flow)({str(user.folder / "counter")!r})
one, two, both, tries = result.result
print(one == {str(work)!r} + f"/{{result.dispatch_id}}/node_0", two.endswith("/node_1"), both == {str(work)!r}, tries)
"""
    )

    assert printed == "True True True 3"
    assert sorted(path.name for path in work.rglob("mine")) == ["mine", "mine"]


def test_an_executor_of_a_host_that_nobody_described_is_refused_with_the_command_that_does(user: User) -> None:
    ended = user.tries(
        """
import hpcflow as ct

@ct.electron(executor=ct.executor.SlurmExecutor(username="me", address="hpc.uni.edu"))
def far():
    return 1

ct.dispatch(ct.lattice(lambda: far()))()
"""
    )

    assert ended.returncode == 1
    assert "There is no cluster under 'slurm' whose host is 'me@hpc.uni.edu'" in ended.stderr
    assert "`hpcflow clusters add NAME --scheduler slurm --host me@hpc.uni.edu`" in ended.stderr


def test_the_executor_that_the_page_writes_runs_tasks_and_the_server_keeps_what_it_says_of_itself(user: User) -> None:
    page = (Path(__file__).parents[2] / "docs/howto/executors.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)

    printed = user.runs(program)

    assert printed == "[0, 1, 4]"
    assert sorted((user.folder / "sandbox.log").read_text().splitlines()) == sorted(
        [f"{what} {number}" for what in ("begin", "end") for number in range(3)]
    )
    assert 50 <= len(program.strip().splitlines()) <= 75


def test_an_asynchronous_executor_tidies_up_after_failures_and_is_told_of_a_cancel(user: User) -> None:
    log = user.folder / "log"
    printed = user.runs(
        f"""
import asyncio
import os
import time

import hpcflow as ct

class Patient(ct.executor.AsyncBaseExecutor):
    def note(self, text):
        with open({str(log)!r}, "a") as file:
            file.write(text + "\\n")

    async def setup(self, task_metadata):
        await asyncio.sleep(0)
        self.note("setup")

    async def run(self, function, args, kwargs, task_metadata):
        self.set_job_handle("job 7")
        value = function(*args, **kwargs)
        while value == "wait":
            await asyncio.sleep(0.05)
        return value + 1

    async def teardown(self, task_metadata):
        self.note("teardown")

    async def cancel(self, task_metadata, job_handle):
        self.note(f"cancelled {{job_handle}} {{self.get_cancel_requested()}}")

executor = Patient(retries=0, key="value")

@ct.electron(executor=executor)
def gives(x):
    if x == 2:
        raise ValueError("two")
    if x == "wait":
        with open({str(log)!r} + ".waits", "w"):
            pass
    return x

@ct.electron(accept_failed=True)
def told(one, two):
    return one, two.error

result = ct.dispatch_sync(ct.lattice(executor="local")(lambda: told(gives(1), gives(2))))()
print(*result.result)
held = ct.dispatch(ct.lattice(lambda: gives("wait")))()
while not os.path.exists({str(log)!r} + ".waits"):
    time.sleep(0.05)
ct.cancel(held)
print(ct.get_result(held, wait=True).status)
while "cancelled" not in open({str(log)!r}).read():
    time.sleep(0.05)
print(executor.to_dict()["attributes"]["key"])
"""
    )

    first, status, key = printed.splitlines()
    assert first.startswith("2 ")
    assert "two" in first
    assert (status, key) == ("CANCELLED", "value")
    noted = log.read_text().splitlines()
    assert (noted.count("setup"), noted.count("teardown")) == (3, 2)
    assert "cancelled job 7 True" in noted


def test_an_executor_without_a_run_is_refused_where_it_is_used(user: User) -> None:
    ended = user.tries(
        """
import hpcflow as ct

class Empty(ct.executor.BaseExecutor):
    pass

@ct.electron(executor=Empty())
def never():
    return 1
"""
    )

    assert ended.returncode == 1
    assert "Empty has no run(function, args, kwargs, task_metadata), which is what runs its tasks." in ended.stderr
