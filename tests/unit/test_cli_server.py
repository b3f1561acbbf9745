"""Starting, finding and stopping a real server process."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import hpcflow
from hpcflow.cli import main
from hpcflow.core.places import Places
from hpcflow.sdk.connection import read_record
from tests.processes import killed

pytestmark = pytest.mark.skipif(
    not entry_points(group="hpcflow.executors"), reason="needs hpcflow installed: its executors are entry points"
)

#: How long anything may take before a test gives up on it, in seconds.
PATIENCE_S = 120.0


@pytest.fixture
def home(hpcflow_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Places]:
    # No scheduler of the machine may decide what these tests see.
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))
    monkeypatch.setenv("HPCFLOW_PROGRESS", "0")
    yield Places(str(hpcflow_home))
    assert main(["stop"]) == 0


def _hpcflow(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "hpcflow.cli", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _ended(command: subprocess.Popen[str]) -> tuple[str, str]:
    """Wait for a command's end, and return what it wrote."""
    try:
        return command.communicate(timeout=PATIENCE_S)
    finally:
        killed(command)


def _pid(home: Places) -> int:
    record = read_record(home)
    assert record is not None
    return record.pid


def _kill(pid: int) -> None:
    watched = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    assert select.select([watched], [], [], PATIENCE_S)[0] == [watched]
    os.close(watched)


@hpcflow.electron(executor="local")
def double(x: int) -> int:
    print("doubling", x)
    return 2 * x


@hpcflow.electron(executor="local")
def fail(x: int) -> int:
    raise ValueError(f"no minimum below {x}")


@hpcflow.lattice
def doubled(x: int) -> dict[str, object]:
    return {"two": double(x), "four": (double(double(x)), [x])}


@hpcflow.lattice
def half_failing(x: int) -> list[object]:
    return [double(x), fail(double(x))]


def test_a_server_starts_answers_and_stops(home: Places, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["start"]) == 0
    pid = _pid(home)
    assert capsys.readouterr().out == f"The server of {home.home} is up (pid {pid}).\n"
    assert main(["start"]) == 0
    assert _pid(home) == pid
    assert "runs already" in capsys.readouterr().out
    assert main(["status", "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["pid"], status["home"], status["clusters"]) == (pid, home.home, ["local"])
    # With a cluster other people may be on this machine, and the page is served when it is asked for: it was here.
    Path(home.clusters).write_text('[far]\nscheduler = "slurm"\n')
    assert main(["restart"]) == 0
    assert _pid(home) != pid
    assert "Its web page is there again; browsers log in anew" in capsys.readouterr().out
    assert main(["status", "--json"]) == 0
    # At the same address, unless somebody took the port meanwhile.
    assert json.loads(capsys.readouterr().out)["ui"] is not None
    assert main(["stop"]) == 0
    assert main(["status"]) == 3


def test_two_starts_at_once_bring_up_one_server(home: Places) -> None:
    starts = [_hpcflow("start"), _hpcflow("start")]
    ends = [_ended(start) for start in starts]
    assert [start.returncode for start in starts] == [0, 0], ends
    pid = _pid(home)
    assert all(f"(pid {pid})" in out for out, _ in ends)


def test_a_server_that_dies_at_its_start_says_why(home: Places, capsys: pytest.CaptureFixture[str]) -> None:
    Path(home.config).write_text("setle = 3\n")
    assert main(["start"]) == 3
    error = capsys.readouterr().err
    assert error.startswith(f"The server of {home.home} ended (exit code 1) before it answered.")
    assert "there is no setting called 'setle'." in error
    assert home.log in error
    Path(home.config).unlink()


def test_the_server_lives_on_when_its_starter_is_interrupted(home: Places) -> None:
    start = _hpcflow("start")
    _ended(start)
    assert os.getsid(_pid(home)) == _pid(home)
    assert os.getpgid(_pid(home)) != os.getpgid(0)


def test_the_first_dispatch_starts_a_server_and_says_so(home: Places, capsys: pytest.CaptureFixture[str]) -> None:
    result = hpcflow.dispatch_sync(doubled)(3)
    assert result.status is hpcflow.Status.COMPLETED
    assert result.result == {"two": 6, "four": (12, [3])}
    pid = _pid(home)
    first = capsys.readouterr().err.splitlines()[0]
    assert first == f"Started the hpcflow server of {home.home} (pid {pid}); `hpcflow stop` ends it."
    # Not a child of the process that dispatched, where it would stay a zombie after its end.
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def test_a_killed_server_is_started_again_and_the_dispatch_goes_on(home: Places) -> None:
    dispatch_id = hpcflow.dispatch(doubled)(4)
    pid = _pid(home)
    _kill(pid)
    result = hpcflow.get_result(dispatch_id, wait=True)
    assert result.result == {"two": 8, "four": (16, [4])}
    assert _pid(home) != pid


def test_a_failed_dispatch_keeps_what_completed(home: Places) -> None:
    result = hpcflow.dispatch_sync(half_failing)(5)
    assert result.status is hpcflow.Status.FAILED
    assert result.result is None
    assert result.error is not None
    assert "fail" in result.error
    assert "no minimum below 10" in result.error
    first, _, failed = result.tasks()
    assert (first.name, first.result, first.stdout) == ("double", 10, "doubling 5\n")
    assert isinstance(failed.exception, ValueError)
    assert failed.traceback is not None
    assert failed.traceback.rstrip().endswith("ValueError: no minimum below 10")


def test_the_demo_completes(home: Places) -> None:
    demo = _hpcflow("demo")
    out, err = _ended(demo)
    assert demo.returncode == 0, err
    assert "Solid argon: lattice constant 5.24" in out
    assert out.rstrip().endswith("completed.")
