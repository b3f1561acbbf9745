"""`hf.Executor` against what Python says of `concurrent.futures.Executor`, and what only a server does."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

from tests.integration.world import User, begun, ended, lines, until
from tests.processes import next_line


def test_an_executor_is_one_of_pythons_own(user: User) -> None:
    gate = user.folder / "gate"
    printed = user.runs(
        """
import concurrent.futures as cf
import json
import os
import sys
import threading
import time

import hpcflow as hf

gate = sys.argv[1]

def square(x):
    return x * x

def add(x, y=0):
    return x + y

def fails(x):
    raise LookupError(x)

def waits(gate):
    while not os.path.exists(gate):
        time.sleep(0.02)
    return "open"

def dies():
    os._exit(3)

taken = []

def numbers(n):
    for number in range(n):
        taken.append(number)
        yield number

said = {}
ex = hf.Executor("local", name="mine", cpus=1)
with ex:
    said["python's own"] = isinstance(ex, cf.Executor)
    said["map"] = [list(ex.map(add, numbers(5), [10, 20, 30])), len(taken)]
    taken.clear()
    said["chunks"] = [list(ex.map(square, range(7), chunksize=3)), ex.submit(add, 1, y=2).result(timeout=60)]
    lazily = ex.map(square, numbers(50), buffersize=4)
    said["buffer"] = [len(taken), next(lazily), len(taken)]
    lazily.close()
    futures = [ex.submit(square, number) for number in range(6)]
    said["completed"] = sorted(future.result() for future in hf.as_completed(futures))
    said["waited"] = [len(part) for part in cf.wait(futures)]
    seen = []
    futures[0].add_done_callback(lambda future: seen.append(future.result()))
    said["callback"] = seen
    failed = ex.submit(fails, "why")
    said["exception"] = [type(failed.exception()).__name__, str(failed.exception()), failed.exception().__notes__]
    said["arguments"] = isinstance(ex.submit(square, 1, 2).exception(), TypeError)
    said["unpicklable"] = str(ex.submit(add, threading.Lock()).exception())
    said["killed"] = [type(ex.submit(dies).exception()).__name__, str(ex.submit(dies).exception())]
    mapped = ex.map(fails, [1, 2])
    try:
        next(mapped)
    except LookupError as error:
        said["mapped"] = str(error)
    running = [ex.submit(waits, gate) for _ in range(len(os.sched_getaffinity(0)) + 4)]
    while not any(future.running() for future in running):
        time.sleep(0.02)
    began = next(future for future in running if future.running())
    late = ex.map(waits, [gate], timeout=0.05)
    try:
        next(late)
    except TimeoutError:
        said["timeout"] = True
    said["cancel"] = [running[-1].cancel(), running[-1].cancelled(), began.cancel()]
    try:
        running[-1].result()
    except cf.CancelledError:
        said["cancelled"] = len(cf.wait(running[-1:]).done)
    open(gate, "w").close()
    said["began"] = began.result()
    many = []
    def from_a_thread():
        many.append(ex.submit(square, 12).result())
    threads = [threading.Thread(target=from_a_thread) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    said["threads"] = many
    electron = hf.electron(max_running=1)(square)
    said["electron"] = list(ex.map(electron, [2, 3]))
    try:
        ex.submit(hf.lattice(lambda: square(1)))
    except hf.UserError as error:
        said["lattice"] = str(error)
    try:
        list(ex.map(square, [1], chunksize=0))
    except ValueError as error:
        said["chunksize"] = str(error)
try:
    ex.submit(square, 1)
except RuntimeError as error:
    said["after"] = str(error)
result = hf.get_result(ex.dispatch_id, wait=True)
said["dispatch"] = [result.status, result.name, result.to_rows("add")[0], len(result.tasks())]
try:
    hf.redispatch(ex.dispatch_id)()
except hf.HpcflowError as error:
    said["again"] = str(error)
held = hf.Executor("local")
waiting = [held.submit(waits, gate + "2") for _ in range(len(os.sched_getaffinity(0)) + 4)]
while not waiting[0].running():
    time.sleep(0.02)
held.shutdown(wait=False, cancel_futures=True)
open(gate + "2", "w").close()
cf.wait(waiting)
said["shut down"] = [waiting[0].result(), sum(future.cancelled() for future in waiting) > 0]
with hf.Executor("local") as never:
    pass
with hf.Executor("nowhere") as lost:
    said["nowhere"] = str(lost.submit(square, 1).exception())
said["never"] = never.dispatch_id
print(json.dumps(said))
""",
        str(gate),
    )

    said = json.loads(printed)
    assert said["python's own"] is True
    assert said["map"] == [[10, 21, 32], 4]
    assert said["chunks"] == [[0, 1, 4, 9, 16, 25, 36], 3]
    assert said["buffer"] == [4, 0, 5]
    assert said["completed"] == [0, 1, 4, 9, 16, 25]
    assert said["waited"] == [6, 0]
    assert said["callback"] == [0]
    name, text, notes = said["exception"]
    assert (name, text, len(notes)) == ("LookupError", "why", 1)
    assert notes[0].startswith("In task ")
    assert said["arguments"] is True
    assert "The electron 'add' can't take a value of type 'lock' as its argument 'x'" in said["unpicklable"]
    assert said["killed"][0] == "TaskFailed"
    assert "3" in said["killed"][1]
    assert said["mapped"] == "1"
    assert said["timeout"] is True
    assert said["cancel"] == [True, True, False]
    assert said["cancelled"] == 1
    assert said["began"] == "open"
    assert said["threads"] == [144] * 4
    assert said["electron"] == [4, 9]
    assert said["lattice"] == "An Executor calls functions, and 'lambda' is a lattice: dispatch it."
    assert said["chunksize"] == "chunksize must be >= 1."
    assert said["after"] == "cannot schedule new futures after shutdown"
    status, dispatched, row, count = said["dispatch"]
    assert (status, dispatched) == ("FAILED", "mine")
    assert (row["node_name"], row["x"], row["y"], row["output"]) == ("add", 0, 10, 10)
    assert count > 20
    assert "were sent one by one, by hf.Executor" in said["again"]
    assert said["shut down"] == ["open", True]
    assert said["never"] is None
    assert said["nowhere"] == "There is no executor 'nowhere'; the clusters are local."


def test_an_executor_goes_on_after_its_server_died_and_is_closed_after_its_program_did(
    own_server: Callable[..., User],
) -> None:
    user = own_server(HPCFLOW_OPEN_IDLE="1")
    gate = user.folder / "gate"
    with begun(
        user,
        """
import os
import sys
import time

import hpcflow as hf

def numbered(n):
    return n, os.getpid()

ex = hf.Executor("local", name="lasting")
first = [future.result()[0] for future in [ex.submit(numbered, n) for n in range(3)]]
print(ex.dispatch_id, flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.02)
print(first, [value for value, _ in ex.map(numbered, range(3, 6))], flush=True)
os._exit(0)
""",
        str(gate),
    ) as program:
        dispatch = next_line(program)
        os.kill(json.loads((user.folder / "home" / "run" / "server.json").read_text())["pid"], signal.SIGKILL)
        assert user.hpcflow("start").returncode == 0
        gate.touch()

        out, err = ended(user, program)
        assert (out, program.returncode) == ("[0, 1, 2] [3, 4, 5]\n", 0), err
    until(lambda: user.asks("show", dispatch)["status"] != "RUNNING")

    shown = user.asks("show", dispatch)
    assert (shown["status"], shown["tasks"]) == ("COMPLETED", 6)
    assert any("its program was not heard any more" in message["text"] for message in shown["messages"])


def test_the_page_about_futures_prints_what_it_says(user: User) -> None:
    page = (Path(__file__).parents[2] / "docs/howto/futures.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)

    assert user.runs(program).splitlines() == re.findall(r"print\(.*\)  # (.*)", program)


def test_map_of_an_electron_and_the_tasks_of_a_dispatch_as_they_end(user: User) -> None:
    ledger = user.folder / "ledger"
    printed = user.runs(
        """
import sys

import hpcflow as hf

@hf.electron
def add(x, y):
    return x + y

@hf.electron
def total(values):
    return sum(values)

@hf.lattice(executor="local")
def flow(n):
    return total(add.map(range(n), range(n, 0, -1)))

print(add.map([1, 2], [3, 4]), flow(3))
result = hf.get_result(hf.dispatch(flow)(4))
ended = list(hf.as_completed(result))
print(sorted(node.node_id for node in ended), ended[-1].name, ended[-1].result, ended[-1]["status"])
print(len(list(hf.as_completed(hf.get_result(result.dispatch_id), timeout=30))))
open(sys.argv[1], "w").write(result.dispatch_id)
""",
        str(ledger),
    )

    first, second, third = printed.splitlines()
    assert first == "[4, 6] 9"
    assert second == "[0, 1, 2, 3, 4] total 16 COMPLETED"
    assert third == "5"
    assert len(lines(ledger)) == 1


def test_an_interrupt_in_the_middle_of_a_call_costs_that_call_alone(user: User) -> None:
    printed = user.runs(
        """
import json
import sys
import threading

import hpcflow as hf

def tenfold(x):
    return x * 10

def interrupt_at(event, name):
    def look(frame, what, arg):
        here = arg.__name__ if what.startswith("c_") else frame.f_code.co_name
        if (what, here) == (event, name):
            sys.setprofile(None)
            raise KeyboardInterrupt
    sys.setprofile(look)

# Before the thread that sends is there, when it is there and not known yet; when the call is noted and its future
# is not; around the word that wakes the thread.
moments = [("call", "start"), ("return", "start"), ("call", "result_of"), ("c_call", "put"), ("c_return", "put")]
ex = hf.Executor("local", cpus=1)
futures, interrupted = {}, []
number = 0
for moment in moments:
    interrupt_at(*moment)
    try:
        futures[number] = ex.submit(tenfold, number)
    except KeyboardInterrupt:
        interrupted.append(number)
    sys.setprofile(None)
    number += 1
    if moment[1] != "start":
        for _ in range(3):
            futures[number] = ex.submit(tenfold, number)
            number += 1
threads = [thread.name for thread in threading.enumerate() if thread.name == "hpcflow-sender"]
interrupt_at("call", "result_of")
try:
    ex.map(tenfold, range(5))
except KeyboardInterrupt:
    interrupted.append("map")
values = list(ex.map(tenfold, range(100, 104)))
wrong = {number: future.result(60) for number, future in futures.items() if future.result(60) != number * 10}
ex.shutdown()
never = hf.Executor("local")
interrupt_at("call", "start")
try:
    never.submit(tenfold, 1)
except KeyboardInterrupt:
    interrupted.append("never")
never.shutdown()
print(json.dumps([interrupted, len(futures), wrong, values, len(threads)]))
"""
    )
    assert json.loads(printed) == [[0, 1, 2, 6, 10, "map", "never"], 9, {}, [1000, 1010, 1020, 1030], 1]
