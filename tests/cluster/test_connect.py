"""The server on the mini Slurm's login node, used from a laptop that goes away while its dispatch runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.conftest import PATH
from tests.integration.sshd import Sshd, sshd, who_logs_in
from tests.integration.world import QUICK, User, begun, lines, open_gate, until

pytestmark = pytest.mark.cluster

PROLOGUE = f"PATH={os.path.dirname(os.path.realpath(sys.executable))}:$PATH"


@dataclass(frozen=True)
class Laptop:
    """A user who shares no home with the login node, and the folder there that is its HPCFLOW_HOME."""

    user: User
    login: Sshd
    there: Path


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laptop]:
    folder, name = tmp_path_factory.mktemp("connect"), who_logs_in()
    with ExitStack() as stack:
        login = stack.enter_context(sshd(folder / "login", f"SetEnv SLURM_CONF={os.environ['SLURM_CONF']}", user=name))
        home = folder / "laptop"
        (home / ".ssh").mkdir(parents=True, mode=0o700)
        shutil.copy(login.config(), home / ".ssh/config")
        # No scheduler is on the laptop's PATH, nor does its environment name one.
        variables = {"HOME": str(home), "USER": "ada", "LANG": "C.UTF-8", "PATH": PATH[0], **QUICK}
        user = User(folder, {**variables, "HPCFLOW_HOME": str(home / ".hpcflow")})
        there = login.home / f".hpcflow-connect-{os.getpid()}"
        stack.callback(shutil.rmtree, there, ignore_errors=True)
        stack.callback(user.hpcflow, "disconnect")
        stack.callback(user.hpcflow, "stop")
        # Another user's Python may be closed to the one who logs in: then the one on PATH serves.
        prologue = [] if name == "hpc" else ["--prologue", PROLOGUE]
        done = user.hpcflow("connect", "cluster", "--home", f"~/{there.name}", *prologue)
        assert done.returncode == 0, done.stderr + Path(user.home.link_log).read_text()
        yield Laptop(user, login, there)


PROGRAM = """
import getpass, os, sys
import hpcflow as hf

LEDGER, GATE = sys.argv[1:]

@hf.electron
def square(x):
    if x == 0:
        open(GATE).close()
    with open(LEDGER, "a") as ledger:
        ledger.write(f"{x}\\n")
    return x * x

@hf.electron
def total(values):
    with open(LEDGER, "a") as ledger:
        ledger.write("total\\n")
    return sum(values), getpass.getuser(), "SLURM_JOB_ID" in os.environ, sys.executable

@hf.lattice
def flow():
    return total([square(x) for x in range(12)])

id = hf.dispatch(flow)()
print(id, flush=True)
hf.get_result(id, wait=True)
"""

LATER = """
import sys
import hpcflow as hf
print(*hf.get_result(sys.argv[1], wait=True).result)
"""


def test_the_login_nodes_server_goes_on_to_the_next_stage_while_the_laptop_is_away(laptop: Laptop) -> None:
    # What tasks there write is seen by the test, and by nothing of the laptop's.
    ledger, gate = laptop.there / "ledger", laptop.there / "gate"
    os.mkfifo(gate, 0o600)
    shutil.chown(gate, laptop.login.user)
    with begun(laptop.user, PROGRAM, str(ledger), str(gate)) as running:
        until(lambda: len(lines(ledger)) == 11, laptop.user.log)
        running.kill()
    (dispatch,) = laptop.user.dispatches()
    link = json.loads(Path(laptop.user.home.link).read_text())
    os.kill(link["pid"], signal.SIGKILL)
    assert laptop.user.hpcflow("dispatches").returncode == 3
    open_gate(gate)
    until(lambda: lines(ledger)[11:] == ["0", "total"])
    back = laptop.user.hpcflow("connect")
    assert (back.returncode, f"pid {link['server_pid']})" in back.stdout) == (0, True), back.stderr
    squares, user, on_slurm, python = laptop.user.runs(LATER, dispatch).split()
    assert (squares, user, on_slurm) == (str(sum(x * x for x in range(12))), laptop.login.user, "True")
    assert python != sys.executable  # the laptop's own is no path that means anything there
    status = laptop.user.asks("status")
    assert (status["default_cluster"], status["connected_to"]) == ("slurm", "cluster")
