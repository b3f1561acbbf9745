"""A laptop drives the mini Slurm over ssh, as another user who shares no home with it, through a jump host."""

from __future__ import annotations

import os
import pwd
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.conftest import PATH
from tests.integration.sshd import Sshd, begun, ended, sshd
from tests.integration.world import User, lines, served, until
from tests.proxy import Proxy, proxied

pytestmark = pytest.mark.cluster


@dataclass(frozen=True)
class Laptop:
    """A user whose server reaches Slurm through a proxy and a jump host."""

    user: User
    login: Sshd
    proxy: Proxy
    #: A folder that tasks there can write to.
    there: Path


def _user() -> str:
    """Return who logs in: ``hpc`` where root tests and that user has our Python, else whoever tests."""
    found = shutil.which(f"python3.{sys.version_info[1]}", path="/usr/local/bin:/usr/bin:/bin")
    other = os.getuid() == 0 and found is not None and any(entry.pw_name == "hpc" for entry in pwd.getpwall())
    return "hpc" if other else pwd.getpwuid(os.getuid()).pw_name


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laptop]:
    folder = tmp_path_factory.mktemp("laptop")
    name = _user()
    with ExitStack() as stack:
        login = stack.enter_context(sshd(folder / "login", f"SetEnv SLURM_CONF={os.environ['SLURM_CONF']}", user=name))
        jump = stack.enter_context(sshd(folder / "jump"))
        proxy = stack.enter_context(proxied(jump.port))
        jump.known_hosts.write_text(jump.known_hosts.read_text().replace("login", "jump"))
        home = folder / "laptop"
        (home / ".ssh").mkdir(parents=True, mode=0o700)
        (home / ".ssh/config").write_text(
            Path(jump.config(proxy.port, alias="jump")).read_text().replace("HostKeyAlias login", "HostKeyAlias jump")
            + Path(login.config(more="  ProxyJump jump")).read_text()
        )
        there = login.home / f".hpcflow-test-{os.getpid()}"
        text = f'[far]\nscheduler = "slurm"\nhost = "cluster"\nworkdir = "~/{there.name}/work"\n'
        text += f'keys = "~/{there.name}/keys"\n'
        text += "" if name == "hpc" else f'python = "{sys.executable}"\n'
        there.mkdir()
        shutil.chown(there, name)
        stack.callback(shutil.rmtree, there, ignore_errors=True)
        user = stack.enter_context(served(folder, {"HOME": str(home)}, PATH, clusters=text))
        yield Laptop(user, login, proxy, there)


PROGRAM = """
import getpass, os, sys, time
import hpcflow as hf

LEDGER, N, SECONDS = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])

@hf.electron
def square(x):
    with open(LEDGER, "a") as ledger:
        ledger.write(f"{x}\\n")
    time.sleep(SECONDS)
    return x * x

@hf.electron
def total(values):
    return sum(values), getpass.getuser(), "SLURM_JOB_ID" in os.environ

@hf.lattice
def flow():
    return total([square(x) for x in range(N)])

print(*hf.get_result(hf.dispatch(flow)(), wait=True).result)
"""


def test_the_default_executor_is_the_cluster_and_its_user_runs_the_tasks(laptop: Laptop) -> None:
    tested = laptop.user.hpcflow("clusters", "test", "far")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    ledger = laptop.there / "plain"
    printed = laptop.user.runs(PROGRAM, str(ledger), "30", "0")
    assert printed == f"{sum(x * x for x in range(30))} {laptop.login.user} True"
    assert sorted(map(int, lines(ledger))) == list(range(30))
    assert laptop.proxy.connections == 1


@pytest.mark.slow
def test_a_connection_severed_twice_on_the_way_loses_and_doubles_nothing(laptop: Laptop) -> None:
    ledger = laptop.there / "severed"
    assert laptop.user.hpcflow("clusters", "test", "far").returncode == 0
    before = laptop.proxy.connections
    with begun(laptop.user, PROGRAM, str(ledger), "24", "0.5") as running:
        for cuts, so_many in ((1, 1), (2, 12)):
            until(lambda: len(lines(ledger)) >= so_many)  # noqa: B023
            laptop.proxy.cut()
            until(lambda: laptop.proxy.connections == before + cuts)  # noqa: B023
        out, err = ended(laptop.user, running)
    assert (out.split()[:1], running.returncode) == ([str(sum(x * x for x in range(24)))], 0), err
    assert sorted(map(int, lines(ledger))) == list(range(24))
    assert laptop.proxy.connections == before + 2
