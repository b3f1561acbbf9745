"""How the tasks of one worker end, and what its journal says of them."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from hpcflow.core.bag import sign
from hpcflow.sdk.pickling import dumps
from hpcflow.sdk.placeholder import result_of
from tests.unit.bag_on_disk import BagOnDisk, Call, run_worker, start_worker, wait_for, write_bag


class NoTrace:
    """A lattice call in which no operand is frozen."""

    def freeze(self, operand: object) -> NoReturn:
        raise AssertionError(operand)

    def order(self, child: object, parents: object) -> None:
        raise AssertionError("nothing is ordered here")


def with_result_of(task: int) -> bytes:
    """Return the pickle of the arguments of a call whose only one is the result of a task."""
    return dumps(((result_of(NoTrace(), task, "earlier"),), {}), resolve_deps=set())


def double(number: int) -> int:
    return 2 * number


def run_one(folder: Path, call: Call, **spec: object) -> BagOnDisk:
    """Run a bag of one task and return it; the worker itself must have survived."""
    bag = write_bag(folder, call, **spec)
    assert run_worker(bag) == (0, "")
    return bag


# ---- ends


def test_a_drained_bag_has_a_result_for_every_task(tmp_path: Path) -> None:
    bag = write_bag(tmp_path, *(Call(double, (number,)) for number in range(5)))
    assert run_worker(bag) == (0, "")
    assert [bag.result(index) for index in range(5)] == [0, 2, 4, 6, 8]
    (left,) = bag.records("exit")
    assert (left["why"], left["n"]) == ("drained", 5)


def test_the_journal_tells_the_worker_its_claims_and_its_tasks_in_order(tmp_path: Path) -> None:
    bag = write_bag(tmp_path, Call(double, (1,)), Call(double, (2,)), cuts=[0, 2])
    run_worker(bag, job="99[].pbs", index=3)
    ((worker, records),) = bag.journals().items()
    assert worker == "99-.pbs_3_0"
    assert [record["ev"] for record in records] == ["up", "claim", "start", "end", "start", "end", "exit"]
    assert {record["w"] for record in records} == {worker}
    up, claim, start, end = records[:4]
    assert (up["job"], up["index"], up["host"]) == ("99-.pbs", 3, os.uname().nodename)
    assert (claim["k"], claim["a"], claim["b"]) == (0, 0, 2)
    assert (start["i"], start["n"]) == (0, 0)
    assert (end["i"], end["n"], end["st"]) == (0, 0, "ok")
    assert up["t"] <= start["t"] <= end["t0"] <= end["t"]
    assert end["wall"] >= 0
    assert len(end["cpu"]) == 2
    assert end["rss"] > 1000


def test_an_exception_comes_back_with_type_text_and_traceback(tmp_path: Path) -> None:
    def fail() -> NoReturn:
        raise LookupError("no such lattice constant")

    bag = run_one(tmp_path, Call(fail))
    end = bag.end(0)
    assert (end["st"], end["exc"], end["msg"]) == ("error", "LookupError", "no such lattice constant")
    assert end["tb"].startswith("Traceback")
    assert "in fail" in end["tb"]
    assert "_outcome" not in end["tb"]
    assert bag.out(0, "err") == end["tb"]
    error = bag.result(0)
    assert isinstance(error, LookupError)
    assert error.args == ("no such lattice constant",)


def test_an_exception_that_can_not_be_loaded_comes_back_as_text(tmp_path: Path) -> None:
    def fail() -> NoReturn:
        class Diverged(Exception):
            def __init__(self, step: int, energy: float) -> None:
                super().__init__(f"step {step}: {energy} eV")

        raise Diverged(3, 1.5)

    end = run_one(tmp_path, Call(fail)).end(0)
    assert (end["st"], end["exc"], end["msg"]) == ("error", "Diverged", "step 3: 1.5 eV")
    assert "r" not in end


def test_sys_exit_is_the_failure_of_its_task(tmp_path: Path) -> None:
    end = run_one(tmp_path, Call(sys.exit, (4,))).end(0)
    assert (end["st"], end["exc"], end["msg"]) == ("error", "SystemExit", "4")


def test_a_process_that_leaves_without_a_word_has_an_exit_code(tmp_path: Path) -> None:
    end = run_one(tmp_path, Call(os._exit, (3,))).end(0)
    assert (end["st"], end["code"]) == ("exit", 3)


def test_a_segmentation_fault_is_its_tasks_and_the_next_one_runs(tmp_path: Path) -> None:
    def crash() -> None:
        import ctypes

        ctypes.string_at(0)

    bag = write_bag(tmp_path, Call(crash), Call(double, (4,)))
    assert run_worker(bag) == (0, "")
    assert (bag.end(0)["st"], bag.end(0)["sig"]) == ("signal", signal.SIGSEGV)
    assert bag.result(1) == 8


def test_a_task_that_kills_itself_is_followed_by_another_line(tmp_path: Path) -> None:
    def end_myself() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    bag = run_one(tmp_path, Call(end_myself))
    assert (bag.end(0)["st"], bag.end(0)["sig"]) == ("signal", signal.SIGKILL)
    assert bag.records("exit")[0]["why"] == "drained"


def test_a_task_over_its_limit_is_a_timeout_even_when_it_ignores_sigterm(tmp_path: Path) -> None:
    def linger() -> None:
        import signal
        import time

        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(60)

    bag = write_bag(tmp_path, Call(linger), Call(double, (1,)), limit=0.3, grace=0.2)
    assert run_worker(bag) == (0, "")
    end = bag.end(0)
    assert (end["st"], end["sig"]) == ("timeout", signal.SIGKILL)
    assert 0.5 <= end["wall"] < 5
    assert bag.result(1) == 2


def test_a_result_that_can_not_be_pickled_is_an_error_in_a_sentence(tmp_path: Path) -> None:
    def locked() -> object:
        import threading

        return [b"x" * 20_000, threading.Lock()]

    bag = write_bag(tmp_path, Call(locked), Call(double, (1,)))
    assert run_worker(bag) == (0, "")
    end = bag.end(0)
    assert (end["st"], end["exc"]) == ("error", "ResultNotPicklable")
    assert end["msg"].startswith("The result of task0 is of type builtins.list and can't be pickled: ")
    assert (bag.path / "data" / f"{end['w']}.pack").stat().st_size == 0  # no room is left to what nobody can read


def test_coroutines_are_awaited_and_generators_drained_with_a_note(tmp_path: Path) -> None:
    async def waits(number: int) -> int:
        import asyncio

        await asyncio.sleep(0)
        return number + 1

    async def streams() -> AsyncIterator[int]:
        yield await waits(1)
        yield await waits(2)

    def counts() -> Iterator[int]:
        yield from range(3)

    async def raises() -> None:
        raise LookupError("nothing there")

    bag = write_bag(tmp_path, Call(waits, (1,)), Call(streams), Call(counts), Call(raises))
    assert run_worker(bag) == (0, "")
    assert [bag.result(index) for index in range(3)] == [2, [2, 3], [0, 1, 2]]
    assert bag.out(2, "err") == (
        "task2 yields, and a generator can't travel: its result is the list of its 3 values.\n"
    )
    assert (bag.end(3)["exc"], bag.end(3)["msg"]) == ("LookupError", "nothing there")


def test_a_large_array_is_never_in_memory_twice_on_its_way_out_and_in(tmp_path: Path) -> None:
    def produce(size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        import resource

        here = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (here + size * 3 // 2, -1))
        return np.full(size, 7, np.uint8)

    def consume(array: np.ndarray[Any, np.dtype[np.uint8]]) -> tuple[int, int]:
        return len(array), int(array[-1])

    size = 200_000_000
    bag = write_bag(
        tmp_path, Call(produce, (size,)), Call(consume, (), with_result_of(0), {0: None}), units=[[0, 1]], cuts=[0, 1]
    )
    assert run_worker(bag) == (0, "")
    ends = [bag.end(0), bag.end(1)]
    assert [end["st"] for end in ends] == ["ok", "ok"]
    assert bag.result(1) == (size, 7)
    assert max(end["rss"] for end in ends) < 1.5 * size / 1024


def test_a_result_above_the_tasks_own_file_size_limit_is_its_error(tmp_path: Path) -> None:
    def limited() -> bytes:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        return b"z" * 100_000

    end = run_one(tmp_path, Call(limited)).end(0)
    assert (end["st"], end["exc"]) == ("error", "ResultTooLarge")
    assert "more than its process may write into one file" in end["msg"]


def test_a_function_that_closes_all_low_descriptors_still_has_a_result(tmp_path: Path) -> None:
    def closes_and_opens(path: str) -> bytes:
        import os

        os.closerange(3, 256)
        kept = [os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) for _ in range(60)]
        assert kept
        return b"y" * 100_000

    mine = tmp_path / "mine"
    bag = run_one(tmp_path, Call(closes_and_opens, (str(mine),)))
    assert bag.result(0) == b"y" * 100_000
    assert mine.read_bytes() == b""


def test_a_large_result_goes_to_the_data_pack(tmp_path: Path) -> None:
    def produce(size: int) -> bytes:
        return b"x" * size

    bag = write_bag(tmp_path, Call(produce, (20_000_000,)), Call(produce, (17_000,)), Call(double, (1,)))
    assert run_worker(bag) == (0, "")
    name, offset, size, digest = bag.end(0)["r"]["f"]
    assert (name, offset) == ("data/7_0_0.pack", 0)
    assert hashlib.sha256(bag.stored(bag.end(0)["r"])).hexdigest() == digest
    assert bag.end(1)["r"]["f"][1] == size
    assert (len(bag.result(0)), len(bag.result(1)), bag.result(2)) == (20_000_000, 17_000, 2)


def test_a_long_error_does_not_stop_the_worker(tmp_path: Path) -> None:
    def fail() -> NoReturn:
        raise ValueError("\N{ANGSTROM SIGN}" * 100_000)

    end = run_one(tmp_path, Call(fail)).end(0)
    assert (end["st"], end["exc"]) == ("error", "ValueError")
    assert end["msg"] == "\N{ANGSTROM SIGN}" * 2000
    assert len(end["tb"]) < 17_000


# ---- what a task finds


def test_each_task_has_its_own_output(tmp_path: Path) -> None:
    def speak(word: str) -> None:
        print(word)
        print(word.upper(), file=sys.stderr)
        subprocess.run(["echo", "child of", word], check=True)

    bag = write_bag(tmp_path, Call(speak, ("one",)), Call(double, (1,)), Call(speak, ("two",)))
    assert run_worker(bag) == (0, "")
    assert [bag.out(index) for index in range(3)] == ["one\nchild of one\n", "", "two\nchild of two\n"]
    assert [bag.out(index, "err") for index in range(3)] == ["ONE\n", "", "TWO\n"]


def test_a_directory_stays_with_the_task_that_wrote_into_it(tmp_path: Path) -> None:
    def write(name: str | None) -> str:
        if name is not None:
            Path(name).write_text(name)
        return os.getcwd()

    bag = write_bag(tmp_path, *(Call(write, (name,)) for name in (None, "a", None, "b", None)))
    assert run_worker(bag) == (0, "")
    assert [Path(bag.result(index)).name for index in range(5)] == [
        "7_0_0-1",
        "7_0_0-1",
        "7_0_0-2",
        "7_0_0-2",
        "7_0_0-3",
    ]
    assert [bag.end(index).get("dir") for index in range(5)] == [None, bag.result(1), None, bag.result(3), None]
    assert sorted(path.name for path in (bag.path / "work").iterdir()) == ["7_0_0-1", "7_0_0-2"]
    assert (Path(bag.result(1)) / "a").read_text() == "a"


def test_a_workdir_is_where_tasks_run(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    bag = run_one(tmp_path, Call(os.getcwd), workdir=str(place))
    assert bag.result(0) == str(place)
    assert list((bag.path / "work").iterdir()) == []


def test_what_a_task_changes_in_its_process_is_gone_for_the_next(tmp_path: Path) -> None:
    def disturb() -> None:
        os.chdir("/")
        os.environ["OMP_NUM_THREADS"] = "99"
        os.close(1)
        os.umask(0o777)

    def look() -> tuple[str, str, int]:
        umask = os.umask(0)
        return Path.cwd().name, os.environ["OMP_NUM_THREADS"], umask

    bag = write_bag(tmp_path, Call(disturb), Call(look), cpus=3)
    mine = os.umask(0o027)
    try:
        assert run_worker(bag) == (0, "")
    finally:
        os.umask(mine)
    assert bag.result(1) == ("7_0_0-1", "3", 0o027)


def test_tasks_draw_different_random_numbers(tmp_path: Path) -> None:
    def draw(_: object) -> tuple[float, float]:
        return random.random(), float(np.random.random())

    # The argument makes the worker import numpy.random: from the second task on, all begin with its state.
    bag = write_bag(tmp_path, *(Call(draw, (np.random.PCG64(1),)) for _ in range(4)))
    assert run_worker(bag) == (0, "")
    drawn = [bag.result(index) for index in range(4)]
    assert len({first for first, _ in drawn}) == 4
    assert len({second for _, second in drawn}) == 4


class NeedsAModule:
    """Opens as whether a module was there already, and imports it."""

    def __reduce__(self) -> tuple[object, ...]:
        return import_mailbox, ()


def import_mailbox() -> bool:
    there = "mailbox" in sys.modules
    importlib.import_module("mailbox")

    return there


def test_a_module_that_arguments_need_is_imported_once_for_all(tmp_path: Path) -> None:
    bag = write_bag(tmp_path, *(Call(bool, (NeedsAModule(),)) for _ in range(3)))
    assert run_worker(bag) == (0, "")
    assert [bag.result(index) for index in range(3)] == [False, True, True]


def test_processes_that_a_task_leaves_behind_are_killed(tmp_path: Path) -> None:
    def leave() -> list[int]:
        plain = subprocess.Popen(["sleep", "600"])
        session = subprocess.Popen(["sleep", "600"], start_new_session=True)
        return [plain.pid, session.pid]

    bag = run_one(tmp_path, Call(leave))
    assert bag.end(0)["left"] == 2
    assert [Path(f"/proc/{pid}").exists() for pid in bag.result(0)] == [False, False]


def test_a_function_that_forks_and_returns_twice_has_one_result(tmp_path: Path) -> None:
    def fork() -> str:
        return "parent" if os.fork() else "child"

    bag = write_bag(tmp_path, *(Call(fork) for _ in range(3)))
    assert run_worker(bag) == (0, "")
    assert [bag.result(index) for index in range(3)] == ["parent"] * 3


# ---- values of other tasks


def test_results_come_from_the_pack_from_files_and_from_the_unit_itself(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.pack"
    stored = dumps({"energy": -3.5})
    elsewhere.write_bytes(b"before" + stored + b"after")
    bag = write_bag(
        tmp_path,
        Call(double, (21,)),
        Call(double, pickled=with_result_of(0), refs={0: None}),
        Call(
            dict,
            pickled=with_result_of(9),
            refs={9: [str(elsewhere), 6, len(stored), hashlib.sha256(stored).hexdigest()]},
        ),
        Call(str, pickled=with_result_of(8), refs={8: 1}),
        units=[[0, 1], [2], [3]],
        cuts=[0, 1, 2, 3],
    )
    assert run_worker(bag) == (0, "")
    assert bag.result(1) == 84
    assert bag.result(2) == {"energy": -3.5}
    assert bag.result(3) == "((21,), {})"


def test_a_damaged_value_is_an_error_of_the_task_that_needs_it(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.pack"
    elsewhere.write_bytes(b"something else")
    call = Call(double, pickled=with_result_of(9), refs={9: [str(elsewhere), 0, 14, "00" * 32]})
    end = run_one(tmp_path, call).end(0)
    assert (end["st"], end["exc"]) == ("error", "DamagedError")


def test_the_rest_of_a_chain_does_not_run_after_a_failure(tmp_path: Path) -> None:
    bag = write_bag(
        tmp_path,
        Call(os._exit, (1,)),
        Call(double, pickled=with_result_of(0), refs={0: None}),
        Call(double, (5,)),
        units=[[0, 1], [2]],
        cuts=[0, 2],
    )
    assert run_worker(bag) == (0, "")
    assert [record["i"] for record in bag.records("start")] == [0, 2]
    assert bag.result(2) == 10


# ---- isolation


def test_a_new_interpreter_for_each_task_gives_the_same_results(tmp_path: Path) -> None:
    def where() -> tuple[int, str]:
        print("hello")
        return os.getppid(), Path.cwd().name

    bag = write_bag(
        tmp_path,
        Call(where),
        Call(double, (1,)),
        Call(double, pickled=with_result_of(1), refs={1: None}),
        iso="spawn",
        units=[[0], [1, 2]],
        cuts=[0, 2],
    )
    assert run_worker(bag) == (0, "")
    assert bag.result(0) == (bag.records("up")[0]["pid"], "7_0_0-1")
    assert bag.out(0) == "hello\n"
    assert bag.result(2) == 4


def test_a_function_whose_import_starts_a_thread_is_not_forked(tmp_path: Path) -> None:
    class Threaded:
        def __call__(self) -> int:
            import threading

            return threading.active_count()

        def __reduce__(self) -> tuple[object, ...]:
            return start_thread, ()

    bag = write_bag(tmp_path, Call(Threaded()), Call(double, (1,)))
    assert run_worker(bag) == (0, "")
    (note,) = bag.records("isolation")
    assert note["iso"] == "spawn"
    assert "watcher" in note["msg"]
    assert bag.result(1) == 2


def start_thread() -> object:
    import threading

    threading.Thread(target=threading.Event().wait, daemon=True, name="watcher").start()
    return threading.active_count


# ---- refusals


def test_another_minor_version_is_refused_before_anything_is_claimed(tmp_path: Path) -> None:
    bag = write_bag(tmp_path, Call(double, (1,)), py=[3, 10])
    code, stderr = run_worker(bag)
    assert code == 11
    assert "made by Python 3.10" in stderr
    assert "clusters.toml" in stderr
    assert [record["ev"] for record in bag.journals()["7_0_0"]] == ["up", "exit"]
    assert bag.records("exit")[0]["why"] == "python"
    assert list((bag.path / "claims").iterdir()) == []


def test_a_bag_that_was_changed_is_refused(tmp_path: Path) -> None:
    bag = write_bag(tmp_path, Call(double, (1,)))
    content = json.loads((bag.path / "bag.json").read_text())
    content["tasks"][0][3] = 0
    (bag.path / "bag.json").write_text(json.dumps(content))
    code, stderr = run_worker(bag)
    assert code == 12
    assert "isn't signed with this cluster's key" in stderr
    assert bag.journals() == {}


def test_a_payload_that_was_exchanged_is_refused(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "mine", Call(double, (1,)))
    other = write_bag(tmp_path / "other", Call(double, (2,)))
    os.replace(other.path / "payload.pack", bag.path / "payload.pack")
    code, stderr = run_worker(bag)
    assert code == 12
    assert "not the pack that bag.json names" in stderr


def test_a_bag_of_another_key_is_refused(tmp_path: Path) -> None:
    bag = write_bag(tmp_path, Call(double, (1,)))
    (bag.path / "bag.sig").write_text(sign((bag.path / "bag.json").read_bytes(), b"another key"))
    assert run_worker(bag)[0] == 12


def test_a_short_key_file_is_refused(tmp_path: Path) -> None:
    bag = write_bag(tmp_path, Call(double, (1,)))
    bag.key_file.write_bytes(b"short")
    code, stderr = run_worker(bag)
    assert (code, "has 5 bytes instead of 32" in stderr) == (12, True)


def test_files_of_a_bag_are_private(tmp_path: Path) -> None:
    bag = run_one(tmp_path, Call(double, (1,)))
    files = [path for name in ("claims", "journal", "data", "logs") for path in (bag.path / name).iterdir()]
    assert len(files) >= 5
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


def test_several_workers_run_each_task_once(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"

    def note(number: int) -> None:
        with open(ledger, "a") as file:
            file.write(f"{number}\n")

    bag = write_bag(tmp_path, *(Call(note, (number,)) for number in range(40)))
    # The same array twice, as after a lost reply of the scheduler.
    workers = [start_worker(bag, job=job, index=index) for job in ("7", "8") for index in range(2)]
    assert wait_for(workers) == [(0, "")] * 4
    assert sorted(map(int, ledger.read_text().split())) == list(range(40))
    assert sorted(record["i"] for record in bag.records("end")) == list(range(40))
