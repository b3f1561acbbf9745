"""Tasks that fail, die, take too long or are cancelled, and what becomes of the rest of their dispatch."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from tests.integration.world import User, begun, ended, is_alive, lines, open_gate, until


def test_a_failure_skips_what_depends_on_it_and_stops_nothing_else(user: User) -> None:
    printed = user.runs("""
import json

import hpcflow as hf

class Diverged(Exception):
    def __init__(self, at):
        super().__init__(f"no minimum at {at}")
        self.at = at

@hf.electron
def solve(x):
    if x == 1:
        raise Diverged(x)
    return x

@hf.electron
def after(x):
    return -x

@hf.lattice(executor="local")
def branches(n):
    return [after(after(solve(i))) for i in range(n)]

result = hf.dispatch_sync(branches)(3)
nodes = result.tasks()
failed = next(node for node in nodes if node.exception)
print(json.dumps({
    "status": result.status,
    "error": result.error,
    "value": result.result,
    "states": [node.state for node in nodes],
    "values": [node.result for node in nodes],
    "exception": [isinstance(failed.exception, Diverged), failed.exception.at, failed.node_id],
    "last line": failed.traceback.splitlines()[-1],
}))
""")
    said = json.loads(printed)

    assert said["status"] == "FAILED"
    assert "solve" in said["error"] and "no minimum at 1" in said["error"]
    assert said["value"] is None
    assert said["states"] == ["completed"] * 3 + ["failed", "skipped", "skipped"] + ["completed"] * 3
    assert said["values"] == [0, 0, 0, None, None, None, 2, -2, 2]
    assert said["exception"] == [True, 1, 3]
    assert said["last line"].endswith("Diverged: no minimum at 1")


def test_a_result_that_can_not_be_pickled_fails_its_task_alone(user: User) -> None:
    printed = user.runs("""
import threading

import hpcflow as hf

@hf.electron
def lock(i):
    return threading.Lock() if i else i

@hf.lattice(executor="local")
def locks():
    return [lock(0), lock(1)]

result = hf.dispatch_sync(locks)()
print([node.state.value for node in result.tasks()])
print(result.get_node_result(1).error)
""")
    states, error = printed.splitlines()

    assert states == "['completed', 'failed']"
    assert "lock" in error
    assert "pickle" in error


DIES = """
import json
import os
import signal
import sys

import hpcflow as hf

def ran(ledger, what):
    with open(ledger, "a") as file:
        file.write(what + "\\n")
    with open(ledger) as file:
        return file.read().split().count(what)

@hf.electron
def dies(what, ledger, times):
    if ran(ledger, what) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return what

@hf.electron
def raises(what, ledger):
    ran(ledger, what)
    raise ValueError(what)

@hf.lattice(executor="local", retries=2)
def deaths(ledger):
    return [dies("twice", ledger, 2), dies("always", ledger, 99), raises("raises", ledger), dies("never", ledger, 0)]

result = hf.dispatch_sync(deaths)(sys.argv[1])
print(json.dumps([[node.state, node.attempt, node.signal, node.error] for node in result.tasks()]))
"""


def test_retries_are_for_tasks_that_were_killed_never_for_those_that_raised(user: User) -> None:
    ledger = user.folder / "ledger"
    twice, always, raises, never = json.loads(user.runs(DIES, str(ledger)))

    assert (twice[0], never[0], never[3]) == ("completed", "completed", None)
    assert (always[0], always[2]) == ("failed", signal.SIGKILL)
    assert "signal 9" in always[3] or "SIGKILL" in always[3]
    assert raises[0] == "failed"
    assert "ValueError: raises" in raises[3]
    counts = {what: lines(ledger).count(what) for what in ("twice", "always", "raises", "never")}
    assert counts == {"twice": 3, "always": 3, "raises": 1, "never": 1}
    assert twice[1] - never[1] == 2


def test_a_task_is_stopped_at_its_own_walltime_and_its_neighbours_are_not(user: User) -> None:
    printed = user.runs("""
import json
import signal

import hpcflow as hf

@hf.electron(walltime="1 s")
def waits(i):
    if i == 1:
        print("waits", flush=True)
        signal.pause()
    return i

@hf.lattice(executor="local")
def limited(n):
    return [waits(i) for i in range(n)]

result = hf.dispatch_sync(limited)(4)
nodes = result.tasks()
print(json.dumps([[node.state for node in nodes], nodes[1].error, nodes[1].stdout]))
""")
    states, error, stdout = json.loads(printed)

    assert states == ["completed", "failed", "completed", "completed"]
    assert "walltime" in error
    assert "1 s" in error
    assert stdout == "waits\n"


LASTS = """
import os
import subprocess
import sys

import hpcflow as hf

@hf.electron
def lasts(pids):
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
    with open(pids + ".part", "w") as file:
        file.write(f"{os.getpid()} {child.pid}")
    os.rename(pids + ".part", pids)
    child.wait()

@hf.electron
def quick():
    return 1

@hf.electron
def after(x):
    return x

@hf.lattice(executor="local")
def long(pids):
    return quick(), after(lasts(pids))

print(hf.dispatch(long)(sys.argv[1]))
"""


def test_a_cancel_kills_running_tasks_and_their_children(user: User) -> None:
    pids = user.folder / "pids"
    dispatch = user.runs(LASTS, str(pids))
    until(pids.exists)
    until(lambda: user.asks("show", dispatch)["counts"].get("completed") == 1)

    cancelled = user.asks("cancel", dispatch)

    assert cancelled == {"cancelled": 2, "message": "Cancelled 2 tasks; what had ended keeps its result."}
    shown = user.waits_for(dispatch)
    assert shown["status"] == "CANCELLED"
    assert [task["state"] for task in shown["tasks_shown"]] == ["completed", "cancelled", "cancelled"]
    task, child = map(int, pids.read_text().split())
    until(lambda: not is_alive(task) and not is_alive(child), lambda: f"{task} or {child} still lives")


def test_a_cancelled_task_takes_those_that_depend_on_it_along_and_no_others(user: User) -> None:
    pids = user.folder / "pids"
    dispatch = user.runs(LASTS, str(pids))
    until(pids.exists)

    assert user.hpcflow("cancel", dispatch, "--task", "1").returncode == 0

    shown = user.waits_for(dispatch)
    states = [task["state"] for task in shown["tasks_shown"]]
    assert (states[0], states[1]) == ("completed", "cancelled")
    assert states[2] in {"cancelled", "skipped"}
    task, child = map(int, pids.read_text().split())
    until(lambda: not is_alive(task) and not is_alive(child), lambda: f"{task} or {child} still lives")


GATED = """
import sys

import hpcflow as hf

@hf.electron
def gated(gate):
    with open(gate) as file:
        file.read()
    return 42

@hf.lattice(executor="local")
def waiting(gate):
    return gated(gate)

hf.dispatch_sync(waiting)(sys.argv[1])
"""


def test_an_interrupt_ends_the_waiting_program_and_not_the_dispatch(user: User) -> None:
    gate: Path = user.folder / "gate"
    os.mkfifo(gate)
    before = set(user.dispatches())
    with begun(user, GATED, str(gate)) as program:
        (dispatch,) = until(lambda: set(user.dispatches()) - before)
        until(lambda: user.asks("show", dispatch)["counts"] == {"running": 1})

        program.send_signal(signal.SIGINT)
        _, err = ended(user, program)

    assert program.returncode in {1, 130, -signal.SIGINT}
    assert f"Dispatch {dispatch} goes on." in err
    assert f"`hpcflow cancel {dispatch}`" in err
    assert user.asks("show", dispatch)["status"] == "RUNNING"
    open_gate(gate)
    assert user.waits_for(dispatch)["status"] == "COMPLETED"
