"""The local scheduler from outside: submit, query, cancel, limits, as the server's transport runs them."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hpcflow.core.words import counted
from hpcflow.node.ledger import Desk, Machine, Process, born, grant, why_waiting
from tests.unit.bag_on_disk import SOURCE, Call, write_bag
from tests.waiting import until

CORES = len(os.sched_getaffinity(0))

Json = dict[str, Any]


@dataclass(frozen=True)
class LocalCluster:
    """A root of its own and the commands on it."""

    root: Path

    def run(self, verb: str, request: object = None) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "hpcflow.node", "local", verb, str(self.root)],
            input=request if isinstance(request, bytes) else json.dumps(request).encode(),
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
            capture_output=True,
            check=False,
            timeout=60,
        )

    def ask(self, verb: str, request: object = None) -> Json:
        reply = self.run(verb, request)
        assert (reply.returncode, reply.stderr) == (0, b"")
        answer: Json = json.loads(reply.stdout)
        return answer

    def submit(self, script: str, *, token: str = "relax-01", width: int = 1, **request: object) -> Json:
        full = {
            "token": token,
            "width": width,
            "command": ["/bin/sh", "-c", script],
            "cpus": 1,
            "memory_mib": None,
            "walltime_s": 60,
            "path": str(self.root),
            **request,
        }
        return self.ask("submit", full)

    def tasks(self, token: str = "relax-01") -> list[Json]:
        found: list[Json] = self.ask("query", {"tokens": [token]})["arrays"][token]["tasks"]
        return found

    def phases(self, token: str = "relax-01") -> list[str]:
        return [task["phase"] for task in self.tasks(token)]

    def supervisor(self, token: str = "relax-01") -> Process:
        known = json.loads((self.root / "local" / f"{token}.json").read_text())
        return Process(pid=known["pid"], born=known["born"])

    def wait(self, token: str = "relax-01") -> list[Json]:
        """Wait until the array's supervisor has left, and return what became of its array tasks."""
        try:
            pidfd = os.pidfd_open(self.supervisor(token).pid)
        except ProcessLookupError:
            return self.tasks(token)
        ready, _, _ = select.select([pidfd], [], [], 20)
        os.close(pidfd)
        assert ready, f"the supervisor of {token} is still there"
        return self.tasks(token)


@pytest.fixture
def cluster(tmp_path: Path) -> LocalCluster:
    return LocalCluster(tmp_path)


def make_fifo(folder: Path, name: str) -> Path:
    path = folder / name
    os.mkfifo(path)
    return path


def make_gate(folder: Path) -> Path:
    path = folder / "gate"
    path.touch()
    return path


def open_files(process: Process) -> list[str]:
    found: list[str] = []
    for path in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(path))
    return found


def waits_at(gate: Path) -> str:
    """Return shell that ends when the gate is removed."""
    return f"while [ -e {gate} ]; do sleep 0.02; done"


def test_limits_say_what_this_machine_has(cluster: LocalCluster) -> None:
    limits = cluster.ask("limits")
    assert limits["cores"] == CORES
    assert 0 < limits["memory_mib"] <= (os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) >> 20
    assert (limits["host"], limits["gpus"]) == (os.uname().nodename, 0)


def test_every_array_task_runs_once_and_is_accounted_for(cluster: LocalCluster) -> None:
    width = 2 * CORES + 1
    answer = cluster.submit("echo $HPCFLOW_JOB $HPCFLOW_INDEX $HPCFLOW_RESTART; exit $HPCFLOW_INDEX", width=width)
    assert answer == {"job_id": "1", "new": True}
    tasks = cluster.wait()
    assert [task["index"] for task in tasks] == list(range(width))
    assert [task["exit_code"] for task in tasks] == list(range(width))
    assert [task["cause"] for task in tasks] == ["done"] + ["failed"] * (width - 1)
    assert tasks[1]["raw"] == "exit code 1"
    for task in tasks:
        assert (task["phase"], task["signal"]) == ("ended", None)
        assert task["started_at"] <= task["ended_at"]
        assert task["cpu_s"] >= 0
        assert task["max_rss_kib"] > 0
    logs = [(cluster.root / "logs" / f"1_{index}.log").read_text() for index in range(width)]
    assert logs == [f"1 {index} 0\n" for index in range(width)]


def test_an_array_wider_than_the_machine_runs_in_turns(cluster: LocalCluster) -> None:
    ready, gate = make_fifo(cluster.root, "ready"), make_gate(cluster.root)
    cluster.submit(f"echo here > {ready}; {waits_at(gate)}", width=CORES + 1)
    assert read_lines_of(ready, CORES) == ["here"] * CORES
    assert cluster.phases() == ["running"] * CORES + ["pending"]
    gate.unlink()
    assert read_lines_of(ready, 1) == ["here"]
    assert [task["cause"] for task in cluster.wait()] == ["done"] * (CORES + 1)


def read_lines_of(fifo: Path, count: int) -> list[str]:
    """Read lines that several processes write into a named pipe, one each."""
    lines: list[str] = []
    while len(lines) < count:
        lines += fifo.read_text().split()
    return lines


def test_arrays_share_the_machine_in_the_order_of_arrival(cluster: LocalCluster) -> None:
    ready, gate = make_fifo(cluster.root, "ready"), make_gate(cluster.root)
    cluster.submit(f"echo here > {ready}; {waits_at(gate)}", token="first", width=CORES)
    assert len(read_lines_of(ready, CORES)) == CORES
    cluster.submit("exit 0", token="large", cpus=CORES)
    cluster.submit("exit 0", token="small")
    assert (cluster.phases("large"), cluster.phases("small")) == (["pending"], ["pending"])
    gate.unlink()
    (large,), (small,) = cluster.wait("large"), cluster.wait("small")
    assert large["ended_at"] <= small["started_at"]


def test_more_than_the_machine_has_is_refused(cluster: LocalCluster) -> None:
    request = {"token": "a", "width": 1, "command": ["true"], "cpus": CORES + 1, "memory_mib": None}
    reply = cluster.run("submit", {**request, "walltime_s": 1, "path": str(cluster.root)})
    assert reply.returncode == 3
    assert json.loads(reply.stdout) == {
        "error": f"This machine has {counted(CORES, 'core')} for hpcflow, the array task asks for {CORES + 1}.",
        "retry_later": False,
    }
    request = {**request, "cpus": 1, "memory_mib": 1 << 40}
    reply = cluster.run("submit", {**request, "walltime_s": 1, "path": str(cluster.root)})
    assert reply.returncode == 3
    assert " GiB of memory" in json.loads(reply.stdout)["error"]
    assert cluster.ask("query", {"tokens": ["a"]})["arrays"] == {"a": None}


@pytest.mark.parametrize(
    ("verb", "request_", "sentence"),
    [
        ("submit", b"not json", "is no JSON"),
        ("submit", [], "no JSON object"),
        ("submit", {"token": "a"}, "lacks something"),
        ("query", {"tokens": ["../../etc/passwd"]}, "names of arrays"),
        ("cancel", {}, "names of arrays"),
        ("list", {}, "no command of the local scheduler"),
    ],
)
def test_a_wrong_request_is_a_sentence(cluster: LocalCluster, verb: str, request_: object, sentence: str) -> None:
    reply = cluster.run(verb, request_)
    assert (reply.returncode, reply.stdout) == (64, b"")
    assert sentence in reply.stderr.decode()


def test_the_same_token_twice_is_one_array(cluster: LocalCluster) -> None:
    ledger = cluster.root / "ledger"
    assert cluster.submit(f"echo ran >> {ledger}") == {"job_id": "1", "new": True}
    assert cluster.submit(f"echo ran >> {ledger}") == {"job_id": "1", "new": False}
    cluster.wait()
    assert cluster.submit(f"echo ran >> {ledger}") == {"job_id": "1", "new": False}
    assert cluster.submit("exit 0", token="other") == {"job_id": "2", "new": True}
    cluster.wait("other")
    assert ledger.read_text() == "ran\n"


def test_an_unknown_array_is_surely_absent(cluster: LocalCluster) -> None:
    assert cluster.ask("query", {"tokens": ["never"]}) == {"arrays": {"never": None}, "problems": []}


def test_an_array_of_another_host_is_unknown_not_absent(cluster: LocalCluster) -> None:
    cluster.submit("exit 0")
    cluster.wait()
    path = cluster.root / "local" / "relax-01.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "host": "elsewhere"}))
    answer = cluster.ask("query", {"tokens": ["relax-01"]})
    assert answer["arrays"] == {}
    assert answer["problems"][0].startswith("The local array relax-01 runs on elsewhere")


def test_the_prologue_runs_first_and_its_failure_is_the_array_tasks(cluster: LocalCluster) -> None:
    cluster.submit('test "$MODULE" = "two words"', prologue="export MODULE='two words'\n")
    cluster.submit("exit 0", token="broken", prologue="exit 5\n")
    assert [cluster.wait(token)[0]["exit_code"] for token in ("relax-01", "broken")] == [0, 5]


def test_a_command_that_does_not_exist_fails_with_a_sentence_in_the_log(cluster: LocalCluster) -> None:
    cluster.submit("", command=["/no/such/python", "worker.pyz"])
    (task,) = cluster.wait()
    assert (task["cause"], task["exit_code"]) == ("failed", 127)
    assert "The array task can't begin: [Errno 2]" in (cluster.root / "logs" / "1_0.log").read_text()


def test_the_walltime_ends_an_array_task_with_sigterm_then_sigkill(cluster: LocalCluster) -> None:
    deaf = "trap '' TERM; while true; do sleep 0.05; done"
    cluster.submit("exec sleep 600", walltime_s=0.2)
    cluster.submit(deaf, token="deaf", walltime_s=0.2, grace_s=0.2)
    (polite,), (killed,) = cluster.wait(), cluster.wait("deaf")
    assert (polite["cause"], polite["signal"]) == ("timeout", signal.SIGTERM)
    assert polite["raw"] == "walltime of 0.2 s used up, killed by signal 15"
    assert (killed["cause"], killed["signal"]) == ("timeout", signal.SIGKILL)
    assert killed["ended_at"] - killed["started_at"] >= 0.4


def test_cancel_ends_what_runs_and_what_waits(cluster: LocalCluster) -> None:
    ready = make_fifo(cluster.root, "ready")
    cluster.submit(f"echo here > {ready}; exec sleep 600", width=CORES + 2)
    read_lines_of(ready, CORES)
    request = {"tokens": ["relax-01", "never"], "pending_only": False}
    assert cluster.ask("cancel", request) == {"signalled": 1}
    tasks = cluster.wait()
    assert [task["cause"] for task in tasks] == ["cancelled"] * (CORES + 2)
    assert [task["signal"] for task in tasks] == [signal.SIGTERM] * CORES + [None] * 2
    assert [task["started_at"] is None for task in tasks] == [False] * CORES + [True] * 2
    assert cluster.ask("cancel", request) == {"signalled": 0}


def test_cancelling_what_waits_spares_what_runs(cluster: LocalCluster) -> None:
    ready, gate = make_fifo(cluster.root, "ready"), make_gate(cluster.root)
    cluster.submit(f"echo here > {ready}; {waits_at(gate)}", width=CORES + 2)
    read_lines_of(ready, CORES)
    assert cluster.ask("cancel", {"tokens": ["relax-01"], "pending_only": True}) == {"signalled": 1}
    gate.unlink()
    tasks = cluster.wait()
    assert [task["cause"] for task in tasks] == ["done"] * CORES + ["cancelled"] * 2


def test_a_killed_supervisor_takes_its_workers_along_and_is_noticed(cluster: LocalCluster) -> None:
    ready = make_fifo(cluster.root, "ready")
    cluster.submit(f"echo $$ > {ready}; exec sleep 600", width=CORES + 1)
    workers = [os.pidfd_open(int(pid)) for pid in read_lines_of(ready, CORES)]
    os.kill(cluster.supervisor().pid, signal.SIGKILL)
    tasks = cluster.wait()
    for worker in workers:
        assert select.select([worker], [], [], 60)[0], "a worker outlived its supervisor"
        os.close(worker)
    assert {(task["phase"], task["cause"], task["raw"]) for task in tasks} == {
        ("ended", "node failure", "supervisor gone")
    }
    # What it had taken is free again.
    cluster.submit("exit 0", token="next", cpus=CORES)
    assert [task["cause"] for task in cluster.wait("next")] == ["done"]


def test_what_a_killed_array_task_leaves_behind_dies_as_well(cluster: LocalCluster) -> None:
    ready = make_fifo(cluster.root, "ready")
    cluster.submit(f"setsid sh -c 'echo $$ > {ready}; exec sleep 600' & sleep 600", grace_s=0.1)
    (pid,) = read_lines_of(ready, 1)
    leftover = os.pidfd_open(int(pid))
    cluster.ask("cancel", {"tokens": ["relax-01"]})
    cluster.wait()
    assert select.select([leftover], [], [], 0)[0], "it still runs"
    os.close(leftover)


def test_the_supervisor_outlives_who_submitted_and_holds_none_of_its_files(cluster: LocalCluster) -> None:
    gate = make_gate(cluster.root)
    # `run` waits for the end of stdout and stderr: a supervisor that kept them would keep it waiting.
    cluster.submit(f"{waits_at(gate)}")
    supervisor = cluster.supervisor()
    assert os.getsid(supervisor.pid) != os.getsid(0)

    def ours() -> list[str]:
        return [name for name in open_files(supervisor) if "pipe" in name or name.endswith("/lock")]

    # Let go when it begins, and of the lock again each time that it looks into the books.
    until(lambda: not ours(), lambda: str(open_files(supervisor)))
    gate.unlink()
    assert cluster.wait()[0]["cause"] == "done"


def test_a_real_worker_drains_a_bag(cluster: LocalCluster) -> None:
    bag = write_bag(cluster.root, *(Call(int, (number,)) for number in range(6)))
    command = [sys.executable, "-m", "hpcflow.node", "bag", str(bag.path), str(bag.key_file)]
    environment = f"export PYTHONPATH={SOURCE}"
    cluster.submit("", command=command, width=2, path=str(bag.path), prologue=environment)
    assert [task["cause"] for task in cluster.wait()] == ["done", "done"]
    assert [bag.result(index) for index in range(6)] == list(range(6))
    assert sorted(bag.journals()) == ["1_0_0", "1_1_0"]


def test_old_accounting_is_forgotten(cluster: LocalCluster) -> None:
    for token in ("old", "new"):
        cluster.submit("exit 0", token=token)
        cluster.wait(token)
    os.utime(cluster.root / "local" / "old.jsonl", (1e9, 1e9))
    Desk(str(cluster.root)).forget_before(1.5e9)
    answer = cluster.ask("query", {"tokens": ["old", "new"]})["arrays"]
    assert answer["old"] is None
    assert answer["new"]["tasks"][0]["cause"] == "done"


# ---- who may begin


def an_entry(*, cpus: int = 1, memory_mib: int = 0, running: int = 0, waits: bool = True) -> Json:
    return {"cpus": cpus, "memory_mib": memory_mib, "running": running, "waits": waits}


def test_as_many_begin_as_cores_and_memory_allow() -> None:
    here = Machine(cores=8, memory_mib=1000)
    ledger = {"arrays": {"busy": an_entry(cpus=2, running=1, waits=False), "mine": an_entry(cpus=2)}}
    assert grant(ledger, "mine", 10, here) == 3
    assert grant(ledger, "mine", 2, here) == 2
    ledger["arrays"]["mine"]["memory_mib"] = 600
    assert grant(ledger, "mine", 10, here) == 1


def test_nobody_overtakes_an_array_that_waits() -> None:
    here = Machine(cores=4, memory_mib=1000)
    ledger = {"arrays": {"large": an_entry(cpus=4, running=0), "small": an_entry()}}
    assert grant(ledger, "small", 1, here) == 0
    assert grant(ledger, "large", 1, here) == 1


def test_a_machine_that_is_full_grants_nothing() -> None:
    ledger = {"arrays": {"mine": an_entry(running=9)}}
    assert grant(ledger, "mine", 1, Machine(cores=8, memory_mib=1000)) == 0


def test_a_process_is_known_by_its_birth_not_its_pid_alone() -> None:
    me = os.getpid()
    since = born(me)
    assert since is not None
    assert Process(pid=me, born=since).alive()
    assert not Process(pid=me, born=since + "1").alive()
    assert born(2**22 + 1) is None


def test_who_waits_is_told_which_dispatches_have_what_it_waits_for(cluster: LocalCluster) -> None:
    ready, gate = make_fifo(cluster.root, "ready"), make_gate(cluster.root)
    cluster.submit(f"echo here > {ready}; {waits_at(gate)}", token="first-01", width=CORES, dispatch="01AAA")
    read_lines_of(ready, CORES)
    cluster.submit("exit 0", token="second-01", dispatch="01BBB")
    held = f"cores: dispatch 01AAA has {CORES} of {CORES}"
    until(lambda: cluster.tasks("second-01")[0]["raw"] == f"waits for {held}")
    cluster.submit("exit 0", token="third-01", dispatch="01CCC")
    until(lambda: cluster.tasks("third-01")[0]["raw"] == f"waits for its turn behind dispatch 01BBB; {held}")
    gate.unlink()
    assert [cluster.wait(token)[0]["cause"] for token in ("first-01", "second-01", "third-01")] == ["done"] * 3


def test_holders_are_added_up_and_the_smallest_are_not_named() -> None:
    here = Machine(cores=60, memory_mib=8192)

    def entry(dispatch: str, running: int, memory_mib: int = 0) -> Json:
        waits = {"waits": not running}
        return {
            "pid": 1,
            "born": "",
            "cpus": 4,
            "memory_mib": memory_mib,
            "running": running,
            "dispatch": dispatch,
            **waits,
        }

    arrays = {f"t{place}": entry(f"01{name}", 1 + place) for place, name in enumerate("ABCAD")} | {
        "me": entry("01E", 0)
    }
    assert why_waiting({"arrays": arrays}, "me", here) == (
        "waits for cores: dispatch 01A has 20, dispatch 01D has 20, dispatch 01C has 12, 1 other 8 of 60"
    )
    short = {"old": {**entry("", 1, 6144)}, "me": entry("01E", 0, 4096)}
    del short["old"]["dispatch"]
    assert why_waiting({"arrays": short}, "me", here) == "waits for memory: another dispatch has 6 GiB of 8 GiB"
    assert why_waiting({"arrays": {}}, "me", here) == "waits for cores or memory"
