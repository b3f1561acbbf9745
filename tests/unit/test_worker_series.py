"""Short tasks share a process, one after the other, and each is told from the others in all that it does."""

from __future__ import annotations

import atexit
import collections
import contextlib
import hashlib
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from hpcflow.sdk.pickling import load_with
from tests.processes import killed
from tests.unit.bag_on_disk import BagOnDisk, Call, run_worker, start_worker, wait_for, write_bag
from tests.unit.test_worker_takeover import events, make_gate, run_with_file_size, wait_until_it_runs

Act = Callable[[], object]


def act(function: Act) -> object:
    """Stand for a user's function: what it does is its argument, so that all tasks are of one function."""
    return function()


def a_series(folder: Path, *acts: Act, **spec: object) -> BagOnDisk:
    """Write a bag of one range: three tasks that prove their function to be short, then these and one that's last."""
    calls = [Call(act, (each,)) for each in (os.getpid,) * 3 + acts + (os.getpid,)]
    return write_bag(folder, *calls, **{"cuts": [0, len(calls)], **spec})


def run_series(folder: Path, *acts: Act, **spec: object) -> BagOnDisk:
    bag = a_series(folder, *acts, **spec)
    assert run_worker(bag) == (0, "")
    assert sorted(record["i"] for record in bag.records("end")) == list(range(len(acts) + 4))
    return bag


def test_short_tasks_share_a_process_after_three_of_their_own(tmp_path: Path) -> None:
    bag = run_series(tmp_path, *(os.getpid,) * 5)
    pids = [bag.result(index) for index in range(9)]
    assert len(set(pids[:4])) == 4
    assert set(pids[4:]) == {pids[3]}


COMPUTES = """
import time
from hpcflow.node.processes import waited_for_a_core
begun, waited, cpu = time.monotonic(), waited_for_a_core(), time.process_time()
while time.process_time() < cpu + 0.5:
    pass
print(time.monotonic() - begun, waited_for_a_core() - waited)
"""


@pytest.mark.skipif(
    shutil.which("taskset") is None or not Path("/proc/self/schedstat").exists(),
    reason="needs taskset, and a kernel that counts how long processes wait for a core",
)
def test_how_long_others_had_the_core_is_not_how_long_a_task_takes() -> None:
    pinned = ("taskset", "--cpu-list", str(max(os.sched_getaffinity(0))), sys.executable, "-c")
    others = [subprocess.Popen([*pinned, "while True: pass"]) for _ in range(3)]
    try:
        said = subprocess.run([*pinned, COMPUTES], capture_output=True, text=True, check=True, timeout=60).stdout
    finally:
        for other in others:
            killed(other)
    took, waited = map(float, said.split())
    assert took > 1.0
    assert 0.4 < took - waited < 0.8


def test_the_journal_of_a_series_reads_like_any_other(tmp_path: Path) -> None:
    bag = run_series(tmp_path, *(os.getpid,) * 3)
    (records,) = bag.journals().values()
    tasks = [(record["ev"], record["i"]) for record in records if "i" in record]
    assert tasks == [(event, index) for index in range(7) for event in ("start", "end")]
    for record in bag.records("end"):
        assert record["t0"] <= record["t"] + 0.001
        assert record["wall"] >= 0
        assert min(record["cpu"]) >= 0
        assert record["rss"] > 1000
    assert bag.records("exit")[0]["n"] == 7


def test_each_task_of_a_series_has_its_own_output(tmp_path: Path) -> None:
    def speak(word: str) -> Act:
        def say() -> None:
            print(word, end="")
            print(word.upper(), file=sys.stderr)

        return say

    bag = run_series(tmp_path, *(speak(word) for word in ("one", "two", "three")))
    assert [bag.out(index) for index in range(2, 7)] == ["", "one", "two", "three", ""]
    assert [bag.out(index, "err") for index in range(2, 7)] == ["", "ONE\n", "TWO\n", "THREE\n", ""]


def test_an_error_in_a_series_is_its_tasks_alone(tmp_path: Path) -> None:
    def fail() -> NoReturn:
        raise LookupError("\N{ANGSTROM SIGN}" * 100_000)

    bag = run_series(tmp_path, os.getpid, fail, os.getpid)
    end = bag.end(4)
    assert (end["st"], end["exc"]) == ("error", "LookupError")
    assert end["kinds"] == ["LookupError", "Exception", "BaseException"]
    assert len(end["msg"]) == 2000
    assert len(end["tb"]) < 17_000
    assert bag.result(3) == bag.result(5) == bag.result(6)


def test_large_results_of_a_series_lie_in_the_data_pack(tmp_path: Path) -> None:
    def produce() -> bytes:
        return b"large" * 10_000

    bag = run_series(tmp_path, *(produce,) * 3, sync=0.0)
    for index in range(3, 6):
        stored = bag.end(index)["r"]
        assert hashlib.sha256(bag.stored(stored)).hexdigest() == stored["f"][3]
        assert bag.result(index) == b"large" * 10_000


def test_tasks_of_a_series_draw_different_random_numbers(tmp_path: Path) -> None:
    def draw() -> tuple[float, float]:
        drawn = random.random(), float(np.random.random())
        random.seed(1)
        np.random.seed(1)
        return drawn

    bag = run_series(tmp_path, *(draw,) * 4)
    drawn = [bag.result(index) for index in range(3, 7)]
    assert len({first for first, _ in drawn}) == 4
    assert len({second for _, second in drawn}) == 4


def test_cpu_time_in_a_series_is_each_tasks_own(tmp_path: Path) -> None:
    def compute() -> None:
        end = time.process_time() + 0.06
        while time.process_time() < end:
            pass

    bag = run_series(tmp_path, os.getpid, compute, os.getpid)
    assert [sum(bag.end(index)["cpu"]) >= 0.05 for index in range(3, 7)] == [False, True, False, False]


# ---- what ends a series


def leave_a_file() -> None:
    Path("left").write_text("mine")


def leave_a_descriptor() -> None:
    os.open("/dev/null", os.O_RDONLY)


def change_the_directory() -> None:
    os.chdir("/")


def delete_the_directory() -> None:
    Path.cwd().rmdir()


def change_the_environment() -> None:
    os.environ["OMP_NUM_THREADS"] = "99"


def change_the_umask() -> None:
    os.umask(0o777)


def close_stdout() -> None:
    os.close(1)


def replace_stdout() -> None:
    sys.stdout = io.StringIO()


def start_a_thread() -> None:
    threading.Thread(target=threading.Event().wait, daemon=True).start()


def start_a_process() -> None:
    if not os.fork():
        time.sleep(600)
        os._exit(0)


def start_a_daemon() -> None:
    if not os.fork():
        os.setsid()
        if not os.fork():
            time.sleep(600)
        os._exit(0)
    os.wait()


def ignore_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def block_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])


def set_an_alarm() -> None:
    signal.alarm(1)


def register_an_exit() -> None:
    atexit.register(print, "bye")


def lower_a_limit() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))


def be_nice() -> None:
    os.nice(1)


def extend_the_path() -> None:
    sys.path.insert(0, "/nowhere")


def grow() -> None:
    sys.modules["ballast"] = types.ModuleType("ballast", "x" * (40 << 20))


def take_long() -> None:
    # Much more than what the tasks before it may have waited for a core, which is not counted.
    time.sleep(1)


@pytest.mark.parametrize(
    "disturb",
    [
        leave_a_file,
        leave_a_descriptor,
        change_the_directory,
        delete_the_directory,
        change_the_environment,
        change_the_umask,
        close_stdout,
        replace_stdout,
        start_a_thread,
        start_a_process,
        start_a_daemon,
        ignore_sigterm,
        block_signals,
        set_an_alarm,
        register_an_exit,
        lower_a_limit,
        be_nice,
        extend_the_path,
        grow,
        take_long,
    ],
    ids=lambda each: each.__name__,
)
def test_a_task_that_leaves_something_behind_is_the_last_of_its_process(tmp_path: Path, disturb: Act) -> None:
    if disturb is be_nice and os.nice(0) == 19:
        pytest.skip("nothing is nicer than these tests")
    bag = run_series(tmp_path, os.getpid, disturb, os.getpid, os.getpid)
    assert {record["st"] for record in bag.records("end")} == {"ok"}
    before, after, last = bag.result(3), bag.result(5), bag.result(7)
    assert before != after
    assert after == bag.result(6) == last
    # What belongs to the end of a task alone belongs to its end here.
    assert bag.out(4) == ("bye\n" if disturb is register_an_exit else "")
    assert bag.end(4).get("left", 0) == (disturb in (start_a_process, start_a_daemon))
    assert ("dir" in bag.end(4)) == (disturb is leave_a_file)


def test_a_function_that_forks_and_returns_twice_has_one_result_in_a_series(tmp_path: Path) -> None:
    def fork() -> str:
        return "parent" if os.fork() else "child"

    bag = run_series(tmp_path, os.getpid, fork, os.getpid, os.getpid)
    assert bag.result(4) == "parent"
    assert bag.result(3) != bag.result(5) == bag.result(6)


def test_what_a_task_changes_in_its_modules_is_seen_by_the_next(tmp_path: Path) -> None:
    def count() -> int:
        sys.argv.append("called")
        return sys.argv.count("called")

    bag = run_series(tmp_path, *(count,) * 3)
    assert [bag.result(index) for index in range(3, 6)] == [1, 2, 3]
    alone = run_series(tmp_path / "alone", *(count,) * 3, iso="alone")
    assert [alone.result(index) for index in range(3, 6)] == [1, 1, 1]


def test_tasks_that_may_not_share_a_process_never_do(tmp_path: Path) -> None:
    bag = run_series(tmp_path, *(os.getpid,) * 3, iso="alone")
    assert len({bag.result(index) for index in range(7)}) == 7


def test_tasks_that_take_long_have_processes_of_their_own(tmp_path: Path) -> None:
    def nap() -> int:
        time.sleep(0.03)
        return os.getpid()

    bag = write_bag(tmp_path, *(Call(nap) for _ in range(6)), cuts=[0, 6])
    assert run_worker(bag) == (0, "")
    assert len({bag.result(index) for index in range(6)}) == 6


def test_a_function_whose_tasks_always_leave_something_behind_gets_no_more_series(tmp_path: Path) -> None:
    bag = run_series(tmp_path, *(leave_a_file,) * 5, *(os.getpid,) * 3)
    assert len({bag.result(index) for index in range(8, 12)}) == 4


# ---- deaths and orders


def test_a_death_in_a_series_is_charged_to_the_task_in_flight_and_ends_all_series(tmp_path: Path) -> None:
    def end_myself() -> None:
        print("last words", flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)

    bag = run_series(tmp_path, os.getpid, end_myself, os.getpid, os.getpid)
    end = bag.end(4)
    assert (end["st"], end["sig"]) == ("signal", signal.SIGSEGV)
    assert bag.out(4) == "last words\n"
    assert len({bag.result(index) for index in (0, 1, 2, 3, 5, 6, 7)}) == 7
    assert bag.records("exit")[0]["n"] == 8
    assert [record["i"] for record in bag.records("start")] == list(range(8))


def test_the_limit_holds_for_each_task_of_a_series(tmp_path: Path) -> None:
    def hang() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(60)

    bag = run_series(tmp_path, os.getpid, hang, os.getpid, limit=1.5, grace=0.2)
    end = bag.end(4)
    assert (end["st"], end["sig"]) == ("timeout", signal.SIGKILL)
    assert end["wall"] >= 1.5
    assert [bag.end(index)["st"] for index in (3, 5, 6)] == ["ok", "ok", "ok"]


def test_a_series_longer_than_a_tasks_limit_goes_on(tmp_path: Path) -> None:
    def nap() -> None:
        time.sleep(0.02)

    bag = run_series(tmp_path, *(nap,) * 50, limit=0.8, grace=0.2)
    assert {record["st"] for record in bag.records("end")} == {"ok"}
    assert sum(record["wall"] for record in bag.records("end")) > 0.8


def test_sigterm_interrupts_the_task_in_flight_of_a_series(tmp_path: Path) -> None:
    gate = make_gate(tmp_path)

    def wait() -> None:
        gate.write_text("here")
        time.sleep(600)

    bag = a_series(tmp_path, os.getpid, wait)
    worker = start_worker(bag)
    wait_until_it_runs(gate)
    worker.terminate()
    assert wait_for([worker]) == [(143, "")]
    assert bag.end(4)["st"] == "interrupted"
    assert events(bag, "7_0_0")[-4:] == ["start", "end", "left", "exit"]
    assert bag.records("left")[0]["u"] == 5


def test_a_warned_worker_ends_its_series(tmp_path: Path) -> None:
    gate = make_gate(tmp_path)

    def wait() -> None:
        gate.write_text("here")

    def nap() -> None:
        time.sleep(0.01)

    bag = a_series(tmp_path, os.getpid, wait, *(nap,) * 1000)
    worker = start_worker(bag)
    wait_until_it_runs(gate)
    worker.send_signal(signal.SIGUSR1)
    assert wait_for([worker]) == [(0, "")]
    assert bag.records("exit")[0]["why"] == "warned"
    (left,) = bag.records("left")
    assert 5 <= left["u"] < 1000
    assert len(bag.records("end")) == left["u"]


def test_a_series_begins_a_task_only_with_enough_walltime_left(tmp_path: Path) -> None:
    naps = [time.sleep] * 40
    calls = [*(Call(act, (os.getpid,)) for _ in range(3)), *(Call(each, (0.05,)) for each in naps)]
    quick = [Call(time.sleep, (0,)) for _ in range(3)]
    bag = write_bag(tmp_path, *quick, *calls[3:], cuts=[0, 43], walltime=1.5, need=1)
    assert run_worker(bag) == (0, "")
    assert bag.records("exit")[0]["why"] == "walltime"
    assert 4 <= len(bag.records("start")) < 43
    assert len(bag.records("end")) == len(bag.records("start")) == bag.records("left")[0]["u"]


def test_a_killed_worker_takes_its_series_with_it_and_the_next_goes_on_behind_it(tmp_path: Path) -> None:
    gate = make_gate(tmp_path)

    def wait() -> int:
        if gate.exists():
            gate.write_text("here")
            time.sleep(600)
        return os.getpid()

    bag = a_series(tmp_path, os.getpid, wait, os.getpid)
    first = start_worker(bag)
    wait_until_it_runs(gate)
    first.kill()
    wait_for([first])
    gate.unlink()
    assert run_worker(bag, restart=1) == (0, "")
    assert [record["i"] for record in bag.records("start")] == [0, 1, 2, 3, 4, 4, 5, 6]
    assert [record["i"] for record in bag.records("end")] == [0, 1, 2, 3, 4, 5, 6]


def test_a_journal_that_takes_no_more_bytes_in_a_series_is_nobodys_failure(tmp_path: Path) -> None:
    bag = a_series(tmp_path, *(os.getpid,) * 30)
    code, stderr = run_with_file_size(bag, 3000)
    assert code == 75
    assert "The journal of worker 7_0_0 can't be written" in stderr
    assert {record["st"] for record in bag.records("end")} == {"ok"}


def test_a_result_of_a_series_that_finds_no_room_is_not_the_tasks_failure(tmp_path: Path) -> None:
    def produce() -> bytes:
        return b"x" * 100_000

    bag = a_series(tmp_path, os.getpid, produce, os.getpid)
    assert run_with_file_size(bag, 50_000)[0] == 75
    assert bag.end(4)["st"] == "interrupted"
    assert "can't be stored" in bag.end(4)["msg"]
    assert bag.records("exit")[0]["why"] == "fault"


def kill_now_and_then(worker: subprocess.Popen[bytes], luck: random.Random) -> None:
    """Kill the worker's child several times, and then the worker, unless it ends before."""
    for _ in range(luck.randrange(1, 5)):
        try:
            worker.wait(luck.uniform(0.03, 0.15))
            return
        except subprocess.TimeoutExpired:
            children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
            for child in children[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(child), luck.choice([signal.SIGKILL, signal.SIGSEGV]))
    worker.kill()


@pytest.mark.parametrize("seed", range(3))
def test_kills_at_any_moment_lose_no_task_and_repeat_only_what_ran(tmp_path: Path, seed: int) -> None:
    luck = random.Random(seed)
    ledger = tmp_path / "ledger"
    count = 1000

    def note(number: int) -> int:
        with open(ledger, "a") as file:
            file.write(f"{number}\n")
        return number

    bag = write_bag(tmp_path, *(Call(note, (number,)) for number in range(count)), cuts=[*range(0, count + 1, 200)])
    restart = 0
    while True:
        worker = start_worker(bag, restart=restart)
        if restart < 8:
            kill_now_and_then(worker, luck)
        ((code, _),) = wait_for([worker])
        if code == 0:
            break
        assert code == -signal.SIGKILL
        restart += 1
    ends = bag.records("end")
    assert sorted(record["i"] for record in ends) == list(range(count))
    assert {record["st"] for record in ends} <= {"ok", "signal"}
    assert all(load_with(bag.stored(record["r"])) == record["i"] for record in ends if record["st"] == "ok")
    begun = collections.Counter(record["i"] for record in bag.records("start"))
    ran = collections.Counter(map(int, ledger.read_text().split()))
    assert all(ran[number] <= begun[number] for number in range(count))
    # Only the task in flight of a killed worker begins again.
    assert sum(begun.values()) <= count + restart
