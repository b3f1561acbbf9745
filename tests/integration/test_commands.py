"""The command line against a real server: what it says as text and as JSON, and its exit codes."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.integration.world import User, open_gate, until

MIXED = """
import sys

import hpcflow as hf

@hf.electron
def twice(x):
    print("twice of", x)
    return 2 * x

@hf.electron(cpus=1, memory="100 MB")
def fails(x):
    print("about to fail", file=sys.stderr)
    raise RuntimeError(f"no luck with {x}")

@hf.lattice(executor="local")
def mixed(n):
    return [twice(i) for i in range(n)], fails(7)

print(hf.dispatch(mixed)(3))
"""


def test_show_tells_what_became_of_a_dispatch_and_of_one_task(user: User) -> None:
    dispatch = user.runs(MIXED)

    waited = user.hpcflow("show", dispatch, "--wait")
    assert waited.returncode == 1
    assert waited.stdout.splitlines()[0] == f"mixed  {dispatch}  FAILED"
    assert "3 of 4 done, 1 failed · local" in waited.stdout
    assert "RuntimeError: no luck with 7" in waited.stdout

    shown = user.asks("show", dispatch)
    assert (shown["name"], shown["status"], shown["tasks"]) == ("mixed", "FAILED", 4)
    assert shown["counts"] == {"completed": 3, "failed": 1}
    assert [task["name"] for task in shown["tasks_shown"]] == ["fails"]
    assert {array["cluster"] for array in shown["arrays"]} == {"local"}

    every = user.asks("show", dispatch, "--tasks")["tasks_shown"]
    assert [(task["index"], task["name"], task["state"]) for task in every] == [
        (0, "twice", "completed"),
        (1, "twice", "completed"),
        (2, "twice", "completed"),
        (3, "fails", "failed"),
    ]

    failed = user.asks("show", dispatch, "--task", "3")
    assert failed["error_type"] == "RuntimeError"
    assert failed["stderr"].splitlines()[0] == "about to fail"
    assert failed["stderr"].splitlines()[-1] == "RuntimeError: no luck with 7"
    assert failed["traceback"].rstrip().endswith("RuntimeError: no luck with 7")
    assert user.asks("show", dispatch, "--task", "2")["stdout"] == "twice of 2\n"


def test_dispatches_are_listed_the_newest_first(user: User) -> None:
    older, newer = user.runs(MIXED), user.runs(MIXED)

    assert [dispatch["id"] for dispatch in user.asks("dispatches", "-n", "2")] == [newer, older]
    table = user.hpcflow("dispatches", "-n", "2").stdout.splitlines()
    assert [line.split()[:2] for line in table[1:3]] == [[newer, "mixed"], [older, "mixed"]]
    for dispatch in (older, newer):
        user.waits_for(dispatch)


def test_the_beginning_of_an_id_is_enough_while_it_is_the_only_one(user: User) -> None:
    dispatch = user.runs(MIXED)
    user.waits_for(dispatch)

    assert user.asks("show", dispatch[:-1])["id"] == dispatch
    ambiguous = user.hpcflow("show", dispatch[:1])
    none = user.hpcflow("show", "7ZZZZ")

    assert (none.returncode, none.stderr) == (
        5,
        "No dispatch has an id that begins with '7ZZZZ'; `hpcflow dispatches` lists them.\n",
    )
    # Alone in this run, it is the only dispatch of this server.
    assert ambiguous.returncode == (2 if len(user.dispatches()) > 1 else 0)


def test_what_is_not_there_is_exit_code_5_and_one_sentence(user: User) -> None:
    unknown = "01JD0000000000000000000000"
    dispatch = user.runs(MIXED)
    user.waits_for(dispatch)

    for arguments in (
        ("show", unknown),
        ("cancel", unknown),
        ("show", dispatch, "--task", "4"),
        ("clusters", "test", "nowhere"),
    ):
        ended = user.hpcflow(*arguments)
        assert ended.returncode == 5, arguments
        assert ended.stdout == ""
        assert ended.stderr.count("\n") == 1, ended.stderr


def test_a_cancel_of_what_has_ended_changes_nothing(user: User) -> None:
    dispatch = user.runs(MIXED)
    before = user.waits_for(dispatch)

    assert user.asks("cancel", dispatch) == {"cancelled": 0, "message": f"Dispatch {dispatch} has ended already."}
    assert user.waits_for(dispatch)["counts"] == before["counts"]


def test_the_log_names_dispatches_and_says_nothing_of_their_values(user: User) -> None:
    dispatch = user.runs(MIXED)
    user.waits_for(dispatch)

    log = user.hpcflow("logs", "-n", "1000")

    assert log.returncode == 0
    assert f"dispatch {dispatch}: FAILED" in log.stdout
    assert "twice of" not in log.stdout
    assert Path(user.home.token).read_text().strip() not in log.stdout
    assert user.hpcflow("logs", "-n", "1").stdout.count("\n") == 1


def test_the_one_cluster_is_this_machine_and_passes_its_test(user: User) -> None:
    (cluster,) = user.asks("clusters", "list")
    assert (cluster["name"], cluster["scheduler"], cluster["default"]) == ("local", "local", True)

    tested = user.asks("clusters", "test", "local")
    assert tested["ok"]
    assert all(step["ok"] for step in tested["steps"])


PLANNED = """
import sys

import hpcflow as hf

@hf.electron(cpus=1, memory="100 MB")
def relax(x):
    return x

@hf.electron(walltime="10 min")
def reduce(values):
    return sum(values)

@hf.lattice(executor="local")
def curve(n):
    return reduce([relax(i) for i in range(n)])

if sys.argv[1:] == ["as a value"]:
    plan = hf.dispatch(curve, plan=True)(6)
    print([(bag.electrons, bag.tasks, bag.cluster) for bag in plan.bags])
    print(str(plan).splitlines()[-1])
else:
    hf.dispatch_sync(curve)(int(sys.argv[1]))
"""


def test_plan_shows_what_would_be_submitted_and_submits_nothing(user: User) -> None:
    program = user.writes("program.py", PLANNED)
    before = user.dispatches()

    text = user.hpcflow("plan", str(program), "6")
    plan = json.loads(user.hpcflow("plan", "--json", str(program), "6").stdout)

    assert text.returncode == 0, text.stderr
    assert "Bag 1: 6 tasks of relax on local" in text.stdout
    assert "Bag 2: 1 task of reduce on local" in text.stdout
    assert "worker" in text.stdout
    assert text.stdout.rstrip().endswith("Nothing was submitted.")
    assert [(bag["electrons"], bag["tasks"], bag["cluster"]) for bag in plan["bags"]] == [
        (["relax"], 6, "local"),
        (["reduce"], 1, "local"),
    ]
    assert all(bag["argv"] for bag in plan["bags"])
    assert user.dispatches() == before


def test_a_plan_as_a_value_submits_nothing_either(user: User) -> None:
    before = user.dispatches()

    bags, last = user.runs(PLANNED, "as a value").splitlines()

    assert bags == "[(('relax',), 6, 'local'), (('reduce',), 1, 'local')]"
    assert last.startswith("7 tasks in 2 bags and 2 job arrays, ")
    assert last.endswith("Nothing was submitted.")
    assert user.dispatches() == before


def test_a_script_that_can_not_be_planned_is_a_mistake_of_the_user(user: User) -> None:
    silent = user.hpcflow("plan", str(user.writes("silent.py", "import hpcflow\n")))
    broken = user.hpcflow("plan", str(user.writes("broken.py", "1 / 0\n")))
    missing = user.hpcflow("plan", "missing.py")

    assert [ended.returncode for ended in (silent, broken, missing)] == [2, 2, 2]
    assert "ended without a dispatch" in silent.stderr
    assert "ZeroDivisionError" in broken.stderr
    assert "hpcflow/cli/" not in broken.stderr
    assert missing.stderr == "There is no script missing.py.\n"


STAGES = """
import os
import sys

import hpcflow as hf

@hf.electron
def gated(gate):
    with open(gate) as file:
        file.read()

@hf.electron(memory="100 MB")
def second(_, good):
    if not os.path.exists(good):
        raise RuntimeError("not yet")
    return "done"

@hf.lattice(executor="local")
def stages(gate, good):
    return second(gated(gate), good)

print(hf.dispatch(stages)(*sys.argv[1:]))
"""


def test_a_dispatch_is_paused_resumed_and_tried_again(user: User) -> None:
    gate, good = user.folder / "gate", user.folder / "good"
    os.mkfifo(gate)
    dispatch = user.runs(STAGES, str(gate), str(good))
    until(lambda: user.asks("show", dispatch)["counts"].get("running"), user.log)

    paused = user.hpcflow("pause", dispatch[:20])
    assert (paused.returncode, paused.stderr) == (0, "")
    assert paused.stdout.startswith(f"Nothing more is submitted until `hpcflow resume {dispatch}`.")
    open_gate(gate)
    until(lambda: user.asks("show", dispatch)["counts"].get("paused"), user.log)
    shown = user.hpcflow("show", dispatch).stdout.splitlines()
    assert shown[0] == f"stages  {dispatch}  RUNNING, paused"
    assert shown[2] == "1 of 2 done, 1 paused · local"
    assert [line for line in shown if line.startswith("Paused: You paused it at ")]
    assert "RUNNING, paused" in user.hpcflow("dispatches", "-n", "1").stdout

    assert user.asks("resume", dispatch)["moved"] == 1
    assert user.waits_for(dispatch)["counts"] == {"completed": 1, "failed": 1}
    good.touch()
    assert user.asks("retry", dispatch, "--failed", "--memory", "200MB") == {
        "moved": 1,
        "message": "1 task to run again: what had failed asks for 191 MiB of memory; results that exist are kept.",
    }
    ended = user.waits_for(dispatch)
    assert (ended["status"], ended["error"], ended["paused"]) == ("COMPLETED", None, None)
    assert [task["attempt"] for task in ended["tasks_shown"]] == [1, 2]
    assert user.asks("retry", dispatch)["message"] == "Nothing to try again: 2 tasks have completed."
