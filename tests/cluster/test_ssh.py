"""A laptop drives the mini Slurm over ssh, as another user who shares no home with it, through a jump host.

The jump host wants a second factor from a person, each time that somebody connects.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.conftest import PATH
from tests.integration.person import FACTORS, a_host, in_a_terminal
from tests.integration.sshd import Sshd, sshd, who_logs_in
from tests.integration.world import User, begun, ended, lines, served, until
from tests.proxy import Proxy, proxied
from tests.unit.ssh_server import Door

pytestmark = [pytest.mark.cluster, pytest.mark.root]


@dataclass(frozen=True)
class Laptop:
    """A user whose server reaches Slurm through a proxy and a jump host."""

    user: User
    login: Sshd
    proxy: Proxy
    #: Who was asked at the jump host, and what they said.
    door: Door
    #: A folder that tasks there can write to.
    there: Path

    def state(self) -> str:
        return next(str(each["state"]) for each in self.user.asks("clusters", "list") if each["name"] == "far")

    def logs_in(self) -> None:
        """Answer the jump host, as a person at a terminal."""
        answers = [("Password: ", "sesame"), ("One-time code: ", "123456")]
        code, shown = in_a_terminal(self.user, answers, "clusters", "login", "far")
        assert (code, "You are in" in shown) == (0, True), shown


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laptop]:
    folder = tmp_path_factory.mktemp("laptop")
    name = who_logs_in()
    with ExitStack() as stack:
        login = stack.enter_context(sshd(folder / "login", f"SetEnv SLURM_CONF={os.environ['SLURM_CONF']}", user=name))
        door = Door(rounds=FACTORS)
        (folder / "jump").mkdir()
        stack.enter_context(a_host(folder / "jump", door))
        known = folder / "jump/known_hosts"
        place, _, public = known.read_text().partition(" ")
        known.write_text(f"jump {public}")
        proxy = stack.enter_context(proxied(int(place.rpartition(":")[2])))
        home = folder / "laptop"
        (home / ".ssh").mkdir(parents=True, mode=0o700)
        (home / ".ssh/config").write_text(
            f"Host jump\n  HostName 127.0.0.1\n  Port {proxy.port}\n  User ada\n  IdentityFile {folder}/jump/user\n"
            f"  IdentityAgent none\n  HostKeyAlias jump\n  UserKnownHostsFile {known}\n"
            + Path(login.config(more="  ProxyJump jump")).read_text()
        )
        there = login.home / f".hpcflow-test-{os.getpid()}"
        text = f'[far]\nscheduler = "slurm"\nhost = "cluster"\nworkdir = "~/{there.name}/work"\n'
        text += f'keys = "~/{there.name}/keys"\n'
        text += f'python = "{sys.executable}"\n'
        there.mkdir()
        shutil.chown(there, name)
        stack.callback(shutil.rmtree, there, ignore_errors=True)
        user = stack.enter_context(
            served(folder, {"HOME": str(home), "HPCFLOW_AFTER_FAULT": "0.2"}, PATH, clusters=text)
        )
        yield Laptop(user, login, proxy, door, there)


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


def test_after_one_login_the_clusters_user_runs_the_tasks_over_one_connection(laptop: Laptop) -> None:
    tested = laptop.user.hpcflow("clusters", "test", "far")
    assert (tested.returncode, "needs login" in tested.stdout) == (1, True), tested.stdout + tested.stderr
    assert laptop.door.answers == []
    before = laptop.proxy.connections
    laptop.logs_in()
    assert laptop.door.answers == [["sesame"], ["123456"]]
    ledger = laptop.there / "plain"
    printed = laptop.user.runs(PROGRAM, str(ledger), "30", "0")
    assert printed == f"{sum(x * x for x in range(30))} {laptop.login.user} True"
    assert sorted(map(int, lines(ledger))) == list(range(30))
    assert laptop.proxy.connections == before + 1


@pytest.mark.slow
def test_a_connection_severed_twice_on_the_way_loses_and_doubles_nothing(laptop: Laptop) -> None:
    ledger = laptop.there / "severed"
    if laptop.state() != "ok":
        laptop.logs_in()
    before = laptop.proxy.connections
    with begun(laptop.user, PROGRAM, str(ledger), "24", "0.5") as running:
        for so_many in (1, 12):
            until(lambda: len(lines(ledger)) >= so_many)  # noqa: B023
            laptop.proxy.cut()
            until(lambda: laptop.state() == "needs login", laptop.user.log)
            laptop.logs_in()
        out, err = ended(laptop.user, running)
    assert (out.split()[:1], running.returncode) == ([str(sum(x * x for x in range(24)))], 0), err
    assert sorted(map(int, lines(ledger))) == list(range(24))
    # Each login is a connection; so is each time that the server found out by itself that it needs one.
    assert before + 2 < laptop.proxy.connections <= before + 6


EOS = """
import sys
import hpcflow as hf
from examples.eos import eos

table = hf.get_result(hf.dispatch(hf.lattice(eos.equations_of_state))(eos.METALS, eos.STRAINS), wait=True).result
print(eos.as_text(table))
"""


@pytest.mark.slow
def test_the_example_runs_from_laptop_to_cluster_with_the_connection_severed_twice(laptop: Laptop) -> None:
    pytest.importorskip("ase")
    if laptop.state() != "ok":
        laptop.logs_in()
    examples = Path(__file__).parents[2]
    laptop.proxy.cut_after = 30_000  # while the first bag is on its way
    with begun(laptop.user, f"import sys\nsys.path.insert(0, {str(examples)!r})\n{EOS}") as running:
        for more in (20_000, None):
            until(lambda: laptop.state() == "needs login" or running.poll() is not None, laptop.user.log)
            assert running.poll() is None, running.communicate()
            laptop.logs_in()
            laptop.proxy.cut_after = more  # while journals come
        out, err = ended(laptop.user, running)
    assert running.returncode == 0, err
    copper = next(line for line in out.splitlines() if line.split()[:2] == ["Cu", "fcc"])
    assert copper.split()[2:5] == ["3.590", "134", "3.517"]
    newest = laptop.user.asks("dispatches", "-n", "1")[0]
    assert (newest["status"], newest["counts"]) == ("COMPLETED", {"completed": 379})
