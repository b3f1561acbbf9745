"""Workers that are warned, ended, killed and started again: nothing is lost, and nobody is blamed for the scheduler."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

from hpcflow.node.files import append_all
from tests.unit.bag_on_disk import SOURCE, BagOnDisk, Call, run_worker, start_worker, wait_for, write_bag


def note(ledger: Path, word: str) -> str:
    with open(ledger, "a") as file:
        file.write(word + "\n")
    return word


def wait_at(gate: Path, ledger: Path, word: str) -> str:
    """Say that the task runs and wait to be killed, unless the gate is gone."""
    if gate.exists():
        gate.write_text("here")
        time.sleep(600)
    return note(ledger, word)


def make_gate(folder: Path) -> Path:
    gate = folder / "gate"
    os.mkfifo(gate)
    return gate


def wait_until_it_runs(gate: Path) -> None:
    gate.read_text()


def events(bag: BagOnDisk, worker: str) -> list[str]:
    return [record["ev"] for record in bag.journals()[worker]]


def test_a_worker_started_again_takes_over_what_its_predecessor_claimed(tmp_path: Path) -> None:
    gate, ledger = make_gate(tmp_path), tmp_path / "ledger"
    bag = write_bag(
        tmp_path,
        Call(note, (ledger, "before")),
        Call(wait_at, (gate, ledger, "killed")),
        Call(note, (ledger, "behind it in its range")),
        Call(note, (ledger, "never claimed")),
        cuts=[0, 3, 4],
    )
    first = start_worker(bag)
    wait_until_it_runs(gate)
    first.kill()
    assert wait_for([first])[0][0] == -signal.SIGKILL
    gate.unlink()
    assert run_worker(bag, restart=1) == (0, "")
    assert ledger.read_text().splitlines() == ["before", "killed", "behind it in its range", "never claimed"]
    second = bag.journals()["7_0_1"]
    (inherit,) = (record for record in second if record["ev"] == "inherit")
    assert (inherit["k"], inherit["ended"]) == ([0], 1)
    assert [record["i"] for record in second if record["ev"] == "end"] == [1, 2, 3]


def test_a_killed_worker_takes_its_task_with_it(tmp_path: Path) -> None:
    gate = make_gate(tmp_path)
    pid_file = tmp_path / "pid"

    def run() -> None:
        pid_file.write_text(str(os.getpid()))
        gate.write_text("here")
        time.sleep(600)

    worker = start_worker(write_bag(tmp_path, Call(run)))
    wait_until_it_runs(gate)
    task = os.pidfd_open(int(pid_file.read_text()))
    worker.kill()
    wait_for([worker])
    poll_until_gone(task)


def poll_until_gone(pidfd: int) -> None:
    import select

    ready, _, _ = select.select([pidfd], [], [], 20)
    os.close(pidfd)
    assert ready, "the process still runs"


def test_a_chain_goes_on_behind_the_last_good_result(tmp_path: Path) -> None:
    from tests.unit.test_worker import double, with_result_of

    gate, ledger = make_gate(tmp_path), tmp_path / "ledger"

    def step(number: int) -> int:
        if gate.exists():
            gate.write_text("here")
            time.sleep(600)
        note(ledger, str(number))
        return number + 1

    bag = write_bag(
        tmp_path,
        Call(double, (5,)),
        Call(step, pickled=with_result_of(0), refs={0: None}),
        Call(double, pickled=with_result_of(1), refs={1: None}),
        units=[[0, 1, 2]],
        cuts=[0, 1],
    )
    first = start_worker(bag)
    wait_until_it_runs(gate)
    first.kill()
    wait_for([first])
    gate.unlink()
    assert run_worker(bag, restart=1) == (0, "")
    assert bag.result(2) == 22
    assert [record["i"] for record in bag.records("start")] == [0, 1, 1, 2]


def test_a_journal_that_exists_already_makes_a_worker_a_successor(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    bag = write_bag(tmp_path, Call(note, (ledger, "once")))
    assert run_worker(bag) == (0, "")
    # A scheduler that counts no restarts starts it as if it were the first.
    assert run_worker(bag) == (0, "")
    assert ledger.read_text() == "once\n"
    assert events(bag, "7_0_1") == ["up", "inherit", "claim", "exit"]


def test_sigterm_interrupts_the_task_and_frees_the_rest(tmp_path: Path) -> None:
    gate, ledger = make_gate(tmp_path), tmp_path / "ledger"
    bag = write_bag(
        tmp_path, Call(wait_at, (gate, ledger, "interrupted")), Call(note, (ledger, "not begun")), cuts=[0, 2]
    )
    worker = start_worker(bag)
    wait_until_it_runs(gate)
    worker.terminate()
    assert wait_for([worker]) == [(143, "")]
    assert events(bag, "7_0_0") == ["up", "claim", "start", "end", "left", "exit"]
    assert bag.end(0)["st"] == "interrupted"
    assert (bag.records("left")[0]["k"], bag.records("left")[0]["u"]) == (0, 1)
    assert bag.records("exit")[0]["why"] == "term"
    assert not ledger.exists()


def test_a_task_that_gets_the_schedulers_sigterm_first_is_not_blamed(tmp_path: Path) -> None:
    gate = make_gate(tmp_path)
    pid_file = tmp_path / "pid"

    def run() -> None:
        pid_file.write_text(str(os.getpid()))
        gate.write_text("here")
        time.sleep(600)

    bag = write_bag(tmp_path, Call(run))
    worker = start_worker(bag)
    wait_until_it_runs(gate)
    os.kill(int(pid_file.read_text()), signal.SIGTERM)
    worker.terminate()
    assert wait_for([worker]) == [(143, "")]
    assert bag.end(0)["st"] == "interrupted"


def test_a_warned_worker_finishes_its_task_and_begins_no_other(tmp_path: Path) -> None:
    gate, warned = make_gate(tmp_path), tmp_path / "warned"
    os.mkfifo(warned)

    def run() -> str:
        gate.write_text("here")
        return warned.read_text()

    bag = write_bag(tmp_path, Call(run), Call(run))
    worker = start_worker(bag)
    wait_until_it_runs(gate)
    worker.send_signal(signal.SIGUSR1)
    warned.write_text("go on")
    assert wait_for([worker]) == [(0, "")]
    assert bag.result(0) == "go on"
    assert bag.records("exit")[0]["why"] == "warned"
    assert len(bag.records("start")) == 1


def test_a_further_task_begins_only_with_enough_walltime_left(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    bag = write_bag(
        tmp_path, *(Call(note, (ledger, word)) for word in ("first", "second")), cuts=[0, 2], walltime=100, need=1000
    )
    assert run_worker(bag) == (0, "")
    assert ledger.read_text() == "first\n"
    assert [record["u"] for record in bag.records("left")] == [1]
    assert bag.records("exit")[0]["why"] == "walltime"


def test_a_worker_without_walltime_for_another_task_leaves_its_range_to_others(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    bag = write_bag(tmp_path, *(Call(note, (ledger, word)) for word in ("a", "b", "c")), walltime=100, need=100)
    assert [run_worker(bag, index=index) for index in range(4)] == [(0, "")] * 4
    assert sorted(ledger.read_text().split()) == ["a", "b", "c"]
    assert bag.records("left") == []
    assert [record["why"] for record in bag.records("exit")] == ["walltime", "walltime", "walltime", "drained"]


def test_without_a_limit_of_its_own_a_task_ends_before_its_worker_does(tmp_path: Path) -> None:
    bag = write_bag(tmp_path, Call(time.sleep, (600,)), limit=None, walltime=1.2, grace=0.1)
    assert run_worker(bag) == (0, "")
    assert bag.end(0)["st"] == "timeout"


def test_a_worker_whose_successor_runs_takes_nothing_more(tmp_path: Path) -> None:
    def come_back_elsewhere(journal: Path) -> None:
        (journal / "7_0_1.jsonl").touch()
        time.sleep(1.1)

    bag = write_bag(tmp_path, Call(come_back_elsewhere, (tmp_path / "bag" / "journal",)), Call(int))
    assert run_worker(bag) == (0, "")
    assert bag.records("exit")[0]["why"] == "superseded"
    assert len(bag.records("start")) == 1


def run_with_file_size(bag: BagOnDisk, size: int) -> tuple[int, str]:
    """Run a worker that can't make any file larger than this, as on a full disk."""
    worker = subprocess.run(
        [sys.executable, "-m", "hpcflow.node", "bag", str(bag.path), str(bag.key_file)],
        env={**os.environ, "PYTHONPATH": str(SOURCE), "HPCFLOW_JOB": "7"},
        stderr=subprocess.PIPE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
        check=False,
    )
    return worker.returncode, worker.stderr.decode()


def test_a_result_that_finds_no_room_is_not_the_tasks_failure(tmp_path: Path) -> None:
    bag = write_bag(tmp_path, Call(bytes, (100_000,)), Call(int))
    assert run_with_file_size(bag, 50_000)[0] == 75
    end = bag.end(0)
    assert end["st"] == "interrupted"
    assert "A result of more than " in end["msg"]
    assert "can't be stored" in end["msg"]
    assert bag.records("exit")[0]["why"] == "fault"
    assert len(bag.records("start")) == 1


def test_a_worker_that_can_not_write_its_journal_says_so_and_leaves(tmp_path: Path) -> None:
    bag = write_bag(tmp_path, *(Call(int) for _ in range(20)))
    code, stderr = run_with_file_size(bag, 1500)
    assert code == 75
    assert "The journal of worker 7_0_0 can't be written" in stderr


def test_append_all_writes_everything(tmp_path: Path) -> None:
    path = tmp_path / "file"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    append_all(fd, b"abc" * 1000)
    os.close(fd)
    assert path.read_bytes() == b"abc" * 1000
