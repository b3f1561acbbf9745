"""Dispatches on a real Slurm from end to end: what they cost the scheduler, what it is told, and what goes wrong."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable

import pytest

import hpcflow
from tests.cluster.conftest import Login
from tests.integration.world import is_alive, lines, open_gate, until

pytestmark = pytest.mark.cluster

HEAD = """
import json
import os
import signal
import sys

import hpcflow as hf

def note(ledger, what):
    fd = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, f"{what}\\n".encode())
    os.close(fd)

"""


# ---- what it costs and what comes back


def test_two_hundred_tasks_and_their_sum_cost_one_submission(login: Login) -> None:
    ledger = login.user.folder / "ledger"
    printed = login.user.runs(
        HEAD
        + """
@hf.electron
def square(i, ledger):
    note(ledger, i)
    return i * i

@hf.electron
def total(squares):
    return sum(squares)

@hf.lattice(executor="slurm", walltime="1 min")
def squares(n, ledger):
    return total([square(i, ledger) for i in range(n)])

result = hf.dispatch_sync(squares)(200, sys.argv[1])
nodes = result.tasks()
where = sorted({node.cluster for node in nodes}), sorted({node.job_id for node in nodes})
print(json.dumps([result.result, *where, result.dispatch_id]))
""",
        str(ledger),
    )
    value, clusters, jobs, dispatch = json.loads(printed)

    assert value == sum(i * i for i in range(200))
    assert clusters == ["slurm"]
    assert len(jobs) == 1
    assert all(job.isdigit() for job in jobs)
    assert sorted(map(int, lines(ledger))) == list(range(200))
    assert len(login.calls("sbatch")) == 1
    # Nobody knew that the tasks are short, and yet at most half of the array tasks were cancelled unused.
    spent = until(lambda: (answer := login.user.asks("usage", dispatch))["open"] == 0 and answer)
    assert spent["submitted"] == spent["used"] + spent["in_vain"] + spent["not_begun"] + spent["unknown"]
    assert (spent["unknown"], spent["uncharged"], spent["complete"]) == (0, 0, True)
    assert spent["not_begun"] <= spent["submitted"] / 2


def test_annotations_reach_slurm_and_what_it_gives_reaches_the_task(login: Login) -> None:
    gate = login.user.folder / "gate"
    os.mkfifo(gate)
    dispatch = login.user.runs(
        HEAD
        + """
GIVEN = (
    "CUDA_VISIBLE_DEVICES", "SLURM_CPUS_PER_TASK", "SLURM_JOB_PARTITION", "SLURM_JOB_ACCOUNT", "SLURM_MEM_PER_NODE"
)

@hf.electron(
    partition="batch", account="proj", qos="normal", cpus=2, memory="320 MB", gpus=2, walltime="20 min",
    extra=["--nice=77"],
)
def relax_cell(gate):
    open(gate).read()
    return {name: os.environ.get(name, "") for name in GIVEN}

@hf.lattice(executor="slurm")
def annotated(gate):
    return relax_cell(gate)

print(hf.dispatch(annotated)(sys.argv[1]))
""",
        str(gate),
    )
    ((job, _),) = until(lambda: [row for row in login.queue(dispatch) if row[1] == "RUNNING"])

    fields = dict(re.findall(r"(\S+?)=(\S+)", login.slurm("scontrol", "-o", "show", "job", job)))
    comment = re.search(r" Comment=(.*?) +\w+=", login.slurm("scontrol", "-o", "show", "job", job))
    assert re.fullmatch(r"relax_cell-[0-9A-HJKMNP-TV-Z]{26}", fields["JobName"])
    assert comment is not None
    assert comment[1] == f"hpcflow {hpcflow.__version__} {dispatch}"
    assert {name: fields[name] for name in ("Partition", "Account", "QOS", "CPUs/Task", "Nice", "Requeue")} == {
        "Partition": "batch",
        "Account": "proj",
        "QOS": "normal",
        "CPUs/Task": "2",
        "Nice": "77",
        "Requeue": "1",
    }
    # 320 MB are 306 MiB; the worker has some of its own beside its task.
    assert 306 <= int(fields["MinMemoryNode"].removesuffix("M")) <= 306 + 64
    hours, minutes, _ = map(int, fields["TimeLimit"].split(":"))
    assert 20 < 60 * hours + minutes <= 25
    assert "gpu" in fields["TresPerNode"]

    open_gate(gate)
    assert login.user.waits_for(dispatch)["status"] == "COMPLETED"
    given = json.loads(
        login.user.runs(
            "import sys, json, hpcflow as hf; print(json.dumps(hf.get_result(sys.argv[1]).result))", dispatch
        )
    )
    assert len(given["CUDA_VISIBLE_DEVICES"].split(",")) == 2
    assert given["SLURM_CPUS_PER_TASK"] == "2"
    assert (given["SLURM_JOB_PARTITION"], given["SLURM_JOB_ACCOUNT"]) == ("batch", "proj")
    assert given["SLURM_MEM_PER_NODE"] == fields["MinMemoryNode"].removesuffix("M")


def test_values_go_from_cluster_to_cluster_whole(login: Login) -> None:
    printed = login.user.runs(
        HEAD
        + """
@hf.electron(executor="slurm", walltime="1 min")
def makes(n):
    return {"large": bytes(range(256)) * n}

@hf.electron(executor="local")
def reverses(data):
    return data[::-1]

@hf.electron(executor="slurm", walltime="1 min")
def compares(made, back):
    return made["large"][::-1] == back

@hf.lattice
def across(n):
    made = makes(n)
    back = reverses(made["large"])
    return compares(made, back), back

result = hf.dispatch_sync(across)(20_000)
same, back = result.result
clusters = [node.cluster for node in result.tasks()]
print(json.dumps([same, back == (bytes(range(256)) * 20_000)[::-1], clusters]))
"""
    )

    assert json.loads(printed) == [True, True, ["slurm", "local", "slurm"]]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            "memory='900 GB'",
            r"A task asks for [\d.]+ [GT]iB of memory on one node, and there is at most [\d.]+ [MG]iB on slurm, .*",
        ),
        ("partition='nosuch'", r"slurm has no partition 'nosuch'; it has batch, debug, flaky\."),
        (
            "walltime='1 h'",
            r"A task asks for 1 h of walltime, .* Partition 'batch' can hold it\.",
        ),
        (
            "gpus=5",
            r"A task asks for 5 GPUs on one node, and there are at most 4 (?:GPUs|nodes) on slurm, .*",
        ),
        ("nodes=7", r"A task asks for 7 nodes, and there are at most 4 (?:GPUs|nodes) on slurm, .*"),
    ],
)
def test_what_no_node_can_give_is_refused_before_anything_is_submitted(
    options: str, sentence: str, login: Login
) -> None:
    program = f"""{HEAD}
@hf.electron({options})
def one(x):
    return x

@hf.lattice(executor="slurm")
def impossible():
    return one(1)

hf.dispatch(impossible)()
"""
    refused = login.user.tries(program)
    planned = login.user.hpcflow("plan", str(login.user.folder / "program.py"))

    said = refused.stderr.splitlines()[-1]
    assert refused.returncode == 1
    assert re.fullmatch(rf"Electron 'one' can't run\. {sentence}", said), said
    assert (planned.returncode, planned.stderr.splitlines()[-1]) == (2, said)
    assert login.calls("sbatch") == []


def test_a_plan_shows_the_exact_command_and_script_and_submits_nothing(login: Login) -> None:
    program = login.user.writes(
        "program.py",
        HEAD
        + """
@hf.electron(partition="batch", account="proj", cpus=2, walltime="20 min", extra=["--nice=5"])
def relax(x):
    return x

@hf.lattice(executor="slurm")
def planned(n):
    return [relax(i) for i in range(n)]

hf.dispatch_sync(planned)(40)
""",
    )

    plan = json.loads(login.user.hpcflow("plan", "--json", str(program)).stdout)
    text = login.user.hpcflow("plan", str(program)).stdout

    (bag,) = plan["bags"]
    assert (bag["electrons"], bag["tasks"], bag["cluster"]) == (["relax"], 40, "slurm")
    # Four nodes of 16 cores hold 32 of them at once.
    assert sum(bag["widths"]) == 32
    assert {"--partition=batch", "--account=proj", "--cpus-per-task=2", "--nice=5", "--array=0-31"} <= set(bag["argv"])
    assert bag["script"].startswith("#!")
    assert bag["script"].rstrip().splitlines()[-1] in text
    assert plan["core_hours_bound"] == pytest.approx(32 * 2 * bag["worker_walltime_s"] / 3600, rel=0.01)
    assert text.rstrip().endswith("Nothing was submitted.")
    assert login.calls("sbatch") == []


# ---- what people and the scheduler do to jobs

ENDLESS = (
    HEAD
    + """
@hf.electron(memory="100 MB")
def endless(i, ledger):
    note(ledger, os.getpid())
    while True:
        signal.pause()

@hf.electron(memory="100 MB", cpus=2, extra=["--begin=now+1hour"])
def waits(i):
    return i

@hf.lattice(executor="slurm", partition="batch", walltime="30 min")
def lasting(running, waiting, ledger):
    return [endless(i, ledger) for i in range(running)], [waits(i) for i in range(waiting)]

print(hf.dispatch(lasting)(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
"""
)


def test_a_cancel_empties_the_queue_and_kills_what_runs(login: Login) -> None:
    ledger = login.user.folder / "ledger"
    dispatch = login.user.runs(ENDLESS, "3", "5", str(ledger))
    until(lambda: len(lines(ledger)) == 3 and len(login.queue(dispatch)) == 8)

    assert login.user.asks("cancel", dispatch)["cancelled"] == 8

    shown = login.user.waits_for(dispatch)
    assert (shown["status"], shown["counts"]) == ("CANCELLED", {"cancelled": 8})
    until(lambda: login.queue(dispatch) == [], lambda: str(login.queue(dispatch)))
    until(lambda: not any(is_alive(int(pid)) for pid in lines(ledger)))
    assert len(login.calls("sbatch")) == 2


def test_a_requeued_array_task_goes_on_and_its_neighbours_notice_nothing(login: Login) -> None:
    ledger, gate = login.user.folder / "ledger", login.user.folder / "gate"
    os.mkfifo(gate)
    dispatch = login.user.runs(
        HEAD
        + """
@hf.electron(memory="100 MB")
def gated(i, ledger, gate):
    note(ledger, i)
    if i == 0:
        open(gate).read()
    return i

@hf.lattice(executor="slurm", partition="batch", walltime="30 min")
def requeued(n, ledger, gate):
    return [gated(i, ledger, gate) for i in range(n)]

print(hf.dispatch(requeued)(3, *sys.argv[1:]))
""",
        str(ledger),
        str(gate),
    )
    until(lambda: len(lines(ledger)) == 3 and len(login.queue(dispatch)) == 1)
    ((job, _),) = login.queue(dispatch)

    login.slurm("scontrol", "requeue", job)

    until(lambda: len(lines(ledger)) == 4, lambda: f"{lines(ledger)} {login.queue(dispatch)}")
    open_gate(gate)
    shown = login.user.waits_for(dispatch)
    assert shown["status"] == "COMPLETED", shown
    assert sorted(lines(ledger)) == ["0", "0", "1", "2"]
    assert {task["job_id"] for task in shown["tasks_shown"]} == {job.partition("_")[0]}
    assert len(login.calls("sbatch")) == 1


def test_a_task_over_its_memory_fails_with_a_hint_and_its_neighbours_complete(login: Login) -> None:
    printed = login.user.runs(
        HEAD
        + """
@hf.electron(memory="150 MB")
def allocates(i):
    if i == 1:
        kept = bytearray(b"x") * (700 << 20)
        while True:
            signal.pause()
    return i

@hf.lattice(executor="slurm", walltime="2 min")
def memory(n):
    return [allocates(i) for i in range(n)]

result = hf.dispatch_sync(memory)(5)
nodes = result.tasks()
print(json.dumps([result.status, [node.state for node in nodes], nodes[1].error]))
"""
    )
    status, states, error = json.loads(printed)

    assert status == "FAILED"
    assert states == ["completed", "failed", "completed", "completed", "completed"]
    assert "memory" in error.lower()


# ---- what the server goes through


def test_a_dispatch_survives_the_death_of_its_server(own_login: Callable[..., Login]) -> None:
    login = own_login()
    ledger, gate = login.user.folder / "ledger", login.user.folder / "gate"
    os.mkfifo(gate)
    dispatch = login.user.runs(
        HEAD
        + """
@hf.electron
def first(i, ledger, gate):
    note(ledger, f"first {i}")
    if i == 2:
        open(gate).read()
    return i

@hf.electron
def total(values, ledger):
    note(ledger, "total")
    return sum(values)

@hf.lattice(executor="slurm", walltime="2 min")
def stages(n, ledger, gate):
    return total([first(i, ledger, gate) for i in range(n)], ledger)

print(hf.dispatch(stages)(30, *sys.argv[1:]))
""",
        str(ledger),
        str(gate),
    )
    until(lambda: "first 2" in lines(ledger))

    login.user.kills_the_server()
    open_gate(gate)
    assert login.user.hpcflow("start").returncode == 0

    shown = login.user.waits_for(dispatch)
    assert shown["status"] == "COMPLETED", shown
    assert sorted(lines(ledger)) == sorted([*(f"first {i}" for i in range(30)), "total"])
    assert len(login.calls("sbatch")) == 1


def test_a_dispatch_waits_for_a_scheduler_whose_commands_are_missing(own_login: Callable[..., Login]) -> None:
    login = own_login()
    nowhere = login.user.folder / "nowhere"
    nowhere.mkdir()
    assert login.user.hpcflow("restart", PATH=str(nowhere)).returncode == 0
    dispatched = login.user.tries(
        HEAD
        + """
@hf.electron
def one(x):
    return x

@hf.lattice(executor="slurm", walltime="1 min")
def patient():
    return one(1)

print(hf.dispatch(patient)())
"""
    )
    dispatch = dispatched.stdout.strip()
    assert dispatched.returncode == 0, dispatched.stderr
    assert "slurm does not answer now" in dispatched.stderr
    assert login.user.asks("show", dispatch)["status"] == "RUNNING"

    assert login.user.hpcflow("restart").returncode == 0

    assert login.user.waits_for(dispatch)["status"] == "COMPLETED"
    assert len(login.calls("sbatch")) == 1
