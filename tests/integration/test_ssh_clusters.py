"""A laptop's server and a cluster behind ssh: whole dispatches over one connection, which breaks on the way."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.integration.conftest import PATH
from tests.integration.sshd import FAR_BEHIND_A_GATE, Sshd, sshd
from tests.integration.world import User, begun, ended, lines, served, until
from tests.proxy import Proxy, proxied


@dataclass(frozen=True)
class Laptop:
    """A user whose server reaches a cluster called ``far`` through a proxy; the two share no directory."""

    user: User
    node: Sshd
    proxy: Proxy
    #: Its work directory there.
    work: Path


@contextmanager
def a_laptop(
    folder: Path,
    *options: str,
    user: str | None = None,
    table: str = "",
    path: Sequence[str | Path] = PATH,
    python: str = sys.executable,
    **settings: str,
) -> Generator[Laptop]:
    """Run sshd, proxy and server. ``table``: further lines of the cluster's table; ``settings``: the server's."""
    with ExitStack() as stack:
        node = stack.enter_context(sshd(folder / "node", *options, user=user))
        proxy = stack.enter_context(proxied(node.port))
        home = folder / "laptop"
        (home / ".ssh").mkdir(parents=True, mode=0o700)
        shutil.copy(node.config(proxy.port), home / ".ssh/config")
        work = folder / "work" if user is None else node.home / f".hpcflow/work/far-{os.getpid()}"
        text = f'[far]\nscheduler = "local"\nhost = "cluster"\n{table}\n'
        if user is None:
            text += f'workdir = "{work}"\nkeys = "{folder}/keys"\npython = "{python}"\n'
        else:
            text += f'workdir = "~/.hpcflow/work/{work.name}"\nkeys = "~/.hpcflow/work/{work.name}/keys"\n'
        environment = {
            "HOME": str(home),
            "HPCFLOW_SSH_JOURNAL_POLL": "0.1",
            "HPCFLOW_SSH_JOURNAL_POLL_MAX": "0.5",
            **settings,
        }
        yield Laptop(stack.enter_context(served(folder, environment, path, clusters=text)), node, proxy, work)


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laptop]:
    with a_laptop(tmp_path_factory.mktemp("laptop")) as running:
        yield running


MANY = """
import sys
import hpcflow as hf

LEDGER = sys.argv[1]

@hf.electron(executor="far")
def square(x):
    with open(LEDGER, "a") as ledger:
        ledger.write(f"{x}\\n")
    return x * x

@hf.electron(executor="far")
def total(values):
    return sum(values)

@hf.lattice
def flow(n):
    return total([square(i) for i in range(n)])

id = hf.dispatch(flow)(int(sys.argv[2]))
print(hf.get_result(id, wait=True).result)
"""


def test_a_dispatch_runs_on_the_cluster_over_one_connection(laptop: Laptop, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    assert laptop.user.runs(MANY, str(ledger), "40") == str(sum(i * i for i in range(40)))
    assert sorted(map(int, lines(ledger))) == list(range(40))
    assert laptop.proxy.connections == 1
    assert len(list((laptop.work / "bags").iterdir())) in {1, 2}


def test_its_key_lies_private_and_in_nobodys_argv(laptop: Laptop, tmp_path: Path) -> None:
    laptop.user.runs(MANY, str(tmp_path / "ledger"), "2")
    (key,) = (laptop.work.parent / "keys").glob("*/key")
    assert [os.stat(path).st_mode & 0o777 for path in (key.parent, key)] == [0o700, 0o600]
    assert key.read_bytes() == (Path(laptop.user.home.keys) / "far").read_bytes()
    log = Path(laptop.user.home.log).read_text()
    assert key.read_bytes().hex() not in log


def test_a_dispatch_runs_by_openssh_over_one_connection_and_its_end_is_the_servers(tmp_path: Path) -> None:
    # ssh takes the home of the user database; here it has to be the laptop's.
    ssh = tmp_path / "ssh-of-the-laptop/ssh"
    ssh.parent.mkdir()
    ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F "$HOME/.ssh/config" "$@"\n')
    ssh.chmod(0o755)
    with a_laptop(tmp_path, table='transport = "openssh"', path=(ssh.parent, *PATH)) as laptop:
        ledger = tmp_path / "ledger"
        assert laptop.user.runs(MANY, str(ledger), "30") == str(sum(i * i for i in range(30)))
        assert sorted(map(int, lines(ledger))) == list(range(30))
        assert laptop.proxy.connections == 1


#: The electron of `MANY` that takes its time, in seconds.
SLOW = "__import__('time').sleep({}) or x * x"


def is_as_long(ledger: Path, so_many: int) -> bool:
    return len(lines(ledger)) >= so_many


LARGE = """
import sys
import hpcflow as hf

@hf.electron(executor="far")
def make(n):
    return bytes(range(256)) * n

@hf.electron(executor="local")
def measure(data):
    return len(data), data[-3:]

@hf.lattice
def flow(n):
    data = make(n)
    return data, measure(data)

data, (size, end) = hf.get_result(hf.dispatch(flow)(50_000), wait=True).result
print(len(data) == size == 50_000 * 256, end == bytes([253, 254, 255]))
"""


def test_large_results_come_from_the_cluster_and_go_on_to_another(laptop: Laptop) -> None:
    assert laptop.user.runs(LARGE) == "True True"


MIDDLING = """
import hpcflow as hf

@hf.electron(executor="far")
def make(n):
    return bytes([n % 256]) * (20_000 + n)

@hf.lattice
def flow():
    return [make(n) for n in range(300)]

id = hf.dispatch(flow)()
print(id, hf.get_result(id, wait=True).result == [bytes([n % 256]) * (20_000 + n) for n in range(300)])
"""

AGAIN = """
import sys
import hpcflow as hf

result = hf.get_result(sys.argv[1])
print(sum(map(len, result.get_all_node_outputs().values())))
"""


def test_many_results_of_one_file_come_with_few_round_trips(laptop: Laptop) -> None:
    dispatch, right = laptop.user.runs(MIDDLING).split()
    assert right == "True"
    # One look at a file is 8 MiB: what a command costs would be seen in the bytes of hundreds of them.
    until(lambda: all(line["state"] == "ended" for line in laptop.user.asks("show", dispatch)["arrays"]))
    before = laptop.proxy.passed
    length = sum(20_000 + n for n in range(300))
    assert laptop.user.runs(AGAIN, dispatch) == str(length)
    assert laptop.proxy.passed - before < length + 150_000


def peak_kib(pid: int) -> int:
    """Return the most memory that a process had since its peak was reset."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


@pytest.mark.slow
def test_a_large_result_crosses_from_cluster_to_cluster_without_being_in_the_servers_memory(laptop: Laptop) -> None:
    pid = laptop.user.server_pid()
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # VmHWM begins anew
    before = peak_kib(pid)
    program = LARGE.replace("return data, measure(data)", "return 1, measure(data)")
    program = program.partition("data, (size, end)")[0]
    program += "print(*hf.get_result(hf.dispatch(flow)(300_000), wait=True).result[1])\n"
    assert laptop.user.runs(program) == f"{300_000 * 256} {bytes([253, 254, 255])!r}"
    assert peak_kib(pid) - before < 45 * 1024  # of 75 MiB
    assert list(Path(laptop.user.home.dispatches).glob("between-*")) == []


@pytest.mark.slow
def test_a_link_that_breaks_again_and_again_loses_and_doubles_nothing(laptop: Laptop, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    assert laptop.user.hpcflow("clusters", "test", "far").returncode == 0
    before = laptop.proxy.connections
    with begun(laptop.user, MANY.replace("x * x", SLOW.format(0.2)), str(ledger), "60") as running:
        for so_many in (1, 20, 40):
            until(partial(is_as_long, ledger, so_many))
            laptop.proxy.cut_after = 700 * so_many
            until(lambda: laptop.proxy.cut_after is None)
        out, err = ended(laptop.user, running)
    assert (out.strip(), running.returncode) == (str(sum(i * i for i in range(60))), 0), err
    assert sorted(map(int, lines(ledger))) == list(range(60))
    assert laptop.proxy.connections >= before + 3


@pytest.mark.slow
def test_a_host_that_is_away_for_a_while_is_waited_for(laptop: Laptop, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    assert laptop.user.hpcflow("clusters", "test", "far").returncode == 0
    earlier = set(laptop.user.dispatches())
    laptop.proxy.refuse = True
    laptop.proxy.cut()
    with begun(laptop.user, MANY, str(ledger), "4") as running:
        (dispatch,) = until(lambda: set(laptop.user.dispatches()) - earlier)
        until(lambda: "can't be reached" in str(laptop.user.asks("show", dispatch)["messages"]))
        assert not ledger.exists()
        laptop.proxy.refuse = False
        out, err = ended(laptop.user, running)
    assert (out.strip(), running.returncode) == ("14", 0), err
    assert sorted(lines(ledger)) == ["0", "1", "2", "3"]


def test_what_runs_on_a_host_that_is_away_is_unknown_since_then_and_not_failed(laptop: Laptop, tmp_path: Path) -> None:
    gate, ledger = tmp_path / "gate", tmp_path / "ledger"
    os.mkfifo(gate)
    dispatch = laptop.user.runs(FAR_BEHIND_A_GATE, str(gate), str(ledger))
    until(lambda: laptop.user.asks("show", dispatch)["counts"].get("running") == 1, laptop.user.log)
    assert laptop.user.asks("show", dispatch, "--tasks")["tasks_shown"][0]["unknown_since"] is None
    laptop.proxy.refuse = True
    laptop.proxy.cut()
    until(lambda: laptop.user.asks("show", dispatch, "--tasks")["tasks_shown"][0]["unknown_since"], laptop.user.log)
    shown = laptop.user.hpcflow("show", dispatch, "--tasks").stdout
    assert re.search(r"^far: unknown since 20\d\d-.*can't be reached", shown, re.MULTILINE), shown
    assert re.search(r"^0 +wait +unknown since 20\d\d-.* \(was running\)", shown, re.MULTILINE), shown
    (far,) = (cluster for cluster in laptop.user.asks("clusters", "list") if cluster["name"] == "far")
    assert (far["state"], far["unknown_since"] is not None) == ("unreachable", True)
    gate_opened = os.open(gate, os.O_RDWR)
    os.write(gate_opened, b"done")
    os.close(gate_opened)
    laptop.proxy.refuse = False
    until(lambda: laptop.user.asks("show", dispatch)["status"] == "COMPLETED", laptop.user.log)
    assert laptop.user.asks("show", dispatch, "--tasks")["tasks_shown"][0]["unknown_since"] is None
    assert lines(ledger) == ["up"]


@pytest.mark.slow
def test_a_bag_that_is_deleted_under_its_workers_is_told_and_its_tasks_run_again(
    laptop: Laptop, tmp_path: Path
) -> None:
    gate, ledger = tmp_path / "gate", tmp_path / "ledger"
    os.mkfifo(gate)
    before = set(laptop.work.glob("bags/*"))
    dispatch = laptop.user.runs(FAR_BEHIND_A_GATE, str(gate), str(ledger))
    until(lambda: lines(ledger) == ["up"], laptop.user.log)
    (bag,) = set(laptop.work.glob("bags/*")) - before
    shutil.rmtree(bag)
    until(lambda: lines(ledger) == ["up", "up"], laptop.user.log)
    assert f"{bag} was deleted while jobs worked there." in str(laptop.user.asks("show", dispatch)["messages"])
    gate_opened = os.open(gate, os.O_RDWR)
    os.write(gate_opened, b"done")
    os.close(gate_opened)
    until(lambda: laptop.user.asks("show", dispatch)["status"] == "COMPLETED", laptop.user.log)


@pytest.mark.slow
def test_a_cluster_whose_clock_is_ten_minutes_behind_is_as_good_as_any(tmp_path: Path) -> None:
    folder = tmp_path / "clock"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text("import time\nreal = time.time\ntime.time = lambda: real() - 600\n")
    with a_laptop(tmp_path, table=f'prologue = "export PYTHONPATH={folder}"') as laptop:
        ledger = tmp_path / "ledger"
        program = MANY.replace("ledger.write", "__import__('sys').modules.get('sitecustomize').real and ledger.write")
        assert laptop.user.runs(program, str(ledger), "20") == str(sum(i * i for i in range(20)))
        assert sorted(map(int, lines(ledger))) == list(range(20))
        (dispatch,) = laptop.user.dispatches()
        assert laptop.user.asks("show", dispatch)["status"] == "COMPLETED"


@pytest.mark.slow
def test_the_server_dies_and_the_next_one_finds_what_runs(laptop: Laptop, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    earlier = set(laptop.user.dispatches())
    with begun(laptop.user, MANY.replace("x * x", SLOW.format(1)), str(ledger), "6"):
        until(ledger.exists)
        (dispatch,) = set(laptop.user.dispatches()) - earlier
        laptop.user.kills_the_server()
        assert laptop.user.hpcflow("start").returncode == 0
        until(lambda: laptop.user.asks("show", dispatch)["status"] == "COMPLETED", laptop.user.log)
    assert sorted(lines(ledger)) == [str(i) for i in range(6)]


def test_a_program_of_another_python_is_refused_in_words(tmp_path: Path) -> None:
    with a_laptop(tmp_path) as laptop:
        other = tmp_path / "python"
        told = 'echo "hpcflow-python 3.99 $3"'
        other.write_text(f'#!/bin/sh\ncase "$2" in *version_info*) {told};; *) exec {sys.executable} "$@";; esac\n')
        other.chmod(0o755)
        tables = Path(laptop.user.home.clusters)
        tables.write_text(tables.read_text().replace(f'"{sys.executable}"', f'"{other}"'))
        assert laptop.user.hpcflow("restart").returncode == 0
        ended = laptop.user.tries(MANY, str(tmp_path / "ledger"), "2")
        assert ended.returncode != 0
        assert f"run under {other}, which is Python 3.99, and this program under 3." in ended.stderr


def has_own_python(user: str) -> bool:
    """Say whether another user's login shell finds an interpreter of our minor version."""
    name = f"python3.{sys.version_info[1]}"
    found = shutil.which(name, path="/usr/local/bin:/usr/bin:/bin")
    return found is not None and any(entry.pw_name == user for entry in pwd.getpwall())


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0 or not has_own_python("hpc"), reason="needs root, a user hpc and its Python")
def test_another_user_there_needs_nothing_installed_but_python(tmp_path: Path) -> None:
    with a_laptop(tmp_path, user="hpc") as laptop:
        ledger = laptop.node.home / f"ledger-{os.getpid()}"
        try:
            program = MANY.replace("ledger.write", "__import__('getpass').getuser() == 'hpc' and ledger.write")
            assert laptop.user.runs(program, str(ledger), "8") == "140"
            assert sorted(map(int, lines(ledger))) == list(range(8))
            assert laptop.proxy.connections == 1
        finally:
            shutil.rmtree(laptop.work, ignore_errors=True)
            ledger.unlink(missing_ok=True)
