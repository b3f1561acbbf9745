"""Tasks that do their worst, alone and among others in one process: each gets its own end, and the next one runs."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest

from hpcflow.core.bag import read_lines
from tests.unit.bag_on_disk import BagOnDisk, Call, Record, run_worker, start_worker, wait_for, write_bag
from tests.unit.test_worker_series import act, start_a_daemon
from tests.unit.test_worker_takeover import events, make_gate, wait_until_it_runs

# ---- deaths


def leave() -> None:
    os._exit(3)


def crash() -> None:
    ctypes.string_at(0)


def abort() -> None:
    os.abort()


def kill_myself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_my_group() -> None:
    os.killpg(0, signal.SIGKILL)


def become_another_program() -> None:
    os.execv("/bin/sh", ["sh", "-c", "exit 5"])


def close_every_descriptor() -> None:
    os.closerange(3, 4096)


class KillsWhenPickled:
    def __reduce__(self) -> NoReturn:
        os._exit(6)


def return_a_killer() -> object:
    return KillsWhenPickled()


class KillsWhenPrinted(Exception):
    def __str__(self) -> str:
        kill_myself()
        return ""


def raise_a_killer() -> NoReturn:
    raise KillsWhenPrinted


# ---- hangs


def ignore_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)


def stop_myself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def become_a_program_that_hangs() -> None:
    os.execv("/bin/sleep", ["sleep", "600"])


def wait_in_a_thread() -> None:
    thread = threading.Thread(target=time.sleep, args=(600,))
    thread.start()
    thread.join()


# ---- errors


class Interrupted(BaseException):
    pass


def raise_interrupt() -> NoReturn:
    raise Interrupted("by hand")


def raise_keyboard_interrupt() -> NoReturn:
    raise KeyboardInterrupt


def raise_generator_exit() -> NoReturn:
    raise GeneratorExit


def recurse() -> None:
    recurse()


def hit_a_limit_of_my_own() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    bytes(1 << 40)


class RaisesWhenPrinted(Exception):
    def __str__(self) -> NoReturn:
        raise Interrupted


def raise_what_can_not_be_printed() -> NoReturn:
    raise RaisesWhenPrinted


class ExitsWhenPickled:
    def __reduce__(self) -> NoReturn:
        sys.exit(4)


def return_what_exits() -> object:
    return ExitsWhenPickled()


# ---- nuisances


def print_much() -> None:
    for _ in range(50):
        sys.stdout.write("x" * 1_000_000)


def print_much_at_once_to_both() -> None:
    os.write(2, b"y" * 3_000_000)
    print("z" * 3_000_000, end="")


def close_the_standard_streams() -> None:
    os.closerange(0, 3)


def lose_the_standard_streams() -> None:
    for name in ("stdout", "stderr"):
        setattr(sys, name, None)


def change_everything() -> None:
    os.chdir("/")
    os.umask(0o777)
    os.environ.clear()
    os.nice(5)
    sys.path.clear()


def delete_my_directory() -> None:
    Path.cwd().rmdir()


def use_a_pool() -> list[int]:
    with multiprocessing.get_context("fork").Pool(3) as pool:
        return pool.map(abs, [-1, -2, -3])


def abandon_a_pool() -> int:
    pool = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork"))
    return pool.submit(abs, -4).result()


def abandon_a_process() -> None:
    multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,)).start()


def leave_threads() -> None:
    for _ in range(3):
        threading.Thread(target=time.sleep, args=(600,)).start()


def lower_all_limits() -> None:
    for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC, resource.RLIMIT_CORE):
        resource.setrlimit(limit, (0, 0))


def end_my_parent() -> None:
    os.kill(os.getppid(), signal.SIGTERM)
    os.kill(os.getppid(), signal.SIGUSR1)
    time.sleep(0.05)


def scribble_into_every_descriptor() -> None:
    for fd in range(3, 1024):
        try:
            os.write(fd, b"scribble")
        except OSError:
            continue


def fork_and_raise() -> None:
    if not os.fork():
        raise LookupError("in the child")
    os.wait()


def has_result(end: Record) -> bool:
    return end["st"] == "ok" and "r" in end


def is_exit(code: int) -> Callable[[Record], bool]:
    return lambda end: (end["st"], end.get("code")) == ("exit", code)


def is_signal(number: int) -> Callable[[Record], bool]:
    return lambda end: (end["st"], end.get("sig")) == ("signal", number)


def is_timeout(number: int) -> Callable[[Record], bool]:
    return lambda end: (end["st"], end.get("sig")) == ("timeout", number)


def is_error(*kinds: str) -> Callable[[Record], bool]:
    return lambda end: (end["st"], end.get("exc"), end.get("kinds")) == ("error", kinds[0], list(kinds))


def is_left(count: int) -> Callable[[Record], bool]:
    return lambda end: has_result(end) and end.get("left") == count


def has_written(out: int, err: int) -> Callable[[Record], bool]:
    return lambda end: has_result(end) and [end[name][1] - end[name][0] for name in ("out", "err")] == [out, err]


HOSTILE: dict[Callable[[], object], Callable[[Record], bool]] = {
    leave: is_exit(3),
    crash: is_signal(signal.SIGSEGV),
    abort: is_signal(signal.SIGABRT),
    kill_myself: is_signal(signal.SIGKILL),
    kill_my_group: is_signal(signal.SIGKILL),
    become_another_program: is_exit(5),
    close_every_descriptor: is_exit(75),
    return_a_killer: is_exit(6),
    raise_a_killer: is_signal(signal.SIGKILL),
    ignore_sigterm: is_timeout(signal.SIGKILL),
    stop_myself: is_timeout(signal.SIGKILL),
    become_a_program_that_hangs: is_timeout(signal.SIGTERM),
    wait_in_a_thread: is_timeout(signal.SIGTERM),
    raise_interrupt: is_error("Interrupted", "BaseException"),
    raise_keyboard_interrupt: is_error("KeyboardInterrupt", "BaseException"),
    raise_generator_exit: is_error("GeneratorExit", "BaseException"),
    hit_a_limit_of_my_own: is_error("MemoryError", "Exception", "BaseException"),
    recurse: is_error("RecursionError", "RuntimeError", "Exception", "BaseException"),
    raise_what_can_not_be_printed: is_error("RaisesWhenPrinted", "Exception", "BaseException"),
    return_what_exits: is_error("ResultNotPicklable"),
    print_much: has_written(50_000_000, 0),
    print_much_at_once_to_both: has_written(3_000_000, 3_000_000),
    close_the_standard_streams: has_result,
    lose_the_standard_streams: has_result,
    change_everything: has_result,
    delete_my_directory: has_result,
    use_a_pool: has_result,
    abandon_a_pool: has_result,
    abandon_a_process: is_left(1),
    leave_threads: has_result,
    lower_all_limits: has_result,
    end_my_parent: has_result,
    start_a_daemon: is_left(1),
    scribble_into_every_descriptor: has_result,
    fork_and_raise: has_result,
}

HANGING = {ignore_sigterm, stop_myself, become_a_program_that_hangs, wait_in_a_thread}


def look_around() -> tuple[object, ...]:
    """Return what a task finds that a task before it could have changed."""
    umask = os.umask(0)
    os.umask(umask)
    return (
        Path.cwd().name.rpartition("-")[0],
        umask,
        "PATH" in os.environ,
        os.getpriority(os.PRIO_PROCESS, 0),
        threading.active_count(),
        signal.getsignal(signal.SIGTERM),
        resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 0,
        sys.stdout.writable(),
        bool(sys.path),
    )


def ends(bag: BagOnDisk) -> dict[int, Record]:
    """Return the tasks' ends; lines that a task has scribbled into the journal are bad, and the others are whole."""
    (path,) = (bag.path / "journal").iterdir()
    records, _, _ = read_lines(path.read_bytes(), bag.key)
    assert [record["i"] for record in records if record["ev"] == "start"] == list(range(len(records) // 2 - 1))
    return {record["i"]: record for record in records if record["ev"] == "end"}


@pytest.mark.parametrize("others_before", [0, 4], ids=["alone", "in_a_series"])
@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda each: each.__name__)
def test_a_hostile_task_has_an_end_of_its_own(
    tmp_path: Path, hostile: Callable[[], object], others_before: int
) -> None:
    tasks = [*[look_around] * others_before, hostile, look_around, look_around]
    limit_s = 1.5 if hostile in HANGING else 60
    bag = write_bag(tmp_path, *(Call(act, (each,)) for each in tasks), cuts=[0, len(tasks)], limit=limit_s, grace=0.2)
    code, stderr = run_worker(bag)
    assert code == 0
    assert stderr in ("", "scribble")  # the scheduler's log is open to tasks like any descriptor of their worker
    found = ends(bag)
    assert HOSTILE[hostile](found[others_before]), found[others_before]
    seen = {bag.stored(found[index]["r"]) for index in found if index != others_before}
    assert len(seen) == 1
    assert len(found) == len(tasks)


# ---- tasks that reach their worker


def kill_my_parent(gate: Path) -> int:
    if gate.exists():
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)
    return 5


@pytest.mark.parametrize("others_before", [0, 4], ids=["alone", "in_a_series"])
def test_a_task_that_kills_its_worker_is_the_one_that_ran(tmp_path: Path, others_before: int) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    tasks = [*[Call(act, (look_around,))] * others_before, Call(act, (partial(kill_my_parent, gate),))]
    bag = write_bag(tmp_path, *tasks, Call(act, (look_around,)), cuts=[0, len(tasks) + 1])
    assert run_worker(bag) == (-signal.SIGKILL, "")
    records = bag.journals()["7_0_0"]
    assert (records[-1]["ev"], records[-1]["i"]) == ("start", others_before)
    gate.unlink()
    assert run_worker(bag, restart=1) == (0, "")
    assert bag.result(others_before) == 5
    assert bag.end(others_before + 1)["st"] == "ok"


def test_a_schedulers_sigterm_is_heard_beside_a_tasks_own(tmp_path: Path) -> None:
    gate = make_gate(tmp_path)

    def annoy() -> None:
        end_my_parent()
        gate.write_text("here")
        time.sleep(600)

    bag = write_bag(tmp_path, Call(annoy), Call(look_around), cuts=[0, 2])
    worker = start_worker(bag)
    wait_until_it_runs(gate)
    worker.terminate()
    assert wait_for([worker]) == [(143, "")]
    assert bag.end(0)["st"] == "interrupted"
    assert events(bag, "7_0_0")[-2:] == ["left", "exit"]
