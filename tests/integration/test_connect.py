"""`hpcflow connect`: the server runs on a login node, a real sshd's user, and a laptop uses it and goes away."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from urllib.request import urlopen

import pytest
from packaging.markers import default_environment

from hpcflow.connect.wheels import collect
from hpcflow.server.wheels import Target
from tests.integration.conftest import PATH
from tests.integration.person import FACTORS, a_host, in_a_terminal
from tests.integration.sshd import Sshd, sshd
from tests.integration.world import QUICK, Ended, User, begun, ended, is_alive, lines, open_gate, until
from tests.proxy import Proxy, proxied
from tests.unit.ssh_server import Door


@dataclass(frozen=True)
class Laptop:
    """A user whose home is empty, and a login node behind a proxy where HPCFLOW_HOME is ``there``."""

    user: User
    login: Sshd
    proxy: Proxy
    there: Path
    wheelhouse: Path

    def connects(self, *arguments: str, home: Path | None = None, prologue: str | None = None) -> Ended:
        words = ["--home", str(home or self.there), "--prologue", PROLOGUE if prologue is None else prologue]
        return self.user.hpcflow("connect", "cluster", *words, "--wheelhouse", str(self.wheelhouse), *arguments)

    def server_pid(self) -> int:
        return int(json.loads((self.there / "run/server.json").read_text())["pid"])

    def holder_pid(self) -> int:
        return int(json.loads(Path(self.user.home.link).read_text())["pid"])


#: A profile that talks, reads what is not meant for it, and leads to the Python that tests run on.
PROLOGUE = f"echo Welcome; cat; PATH={os.path.dirname(os.path.realpath(sys.executable))}:$PATH"


@pytest.fixture(scope="module")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the wheels of hpcflow and all that it needs, made from what is installed here."""
    folder = tmp_path_factory.mktemp("wheelhouse")
    wanted = [f"hpcflow-orchestrator=={version('hpcflow-orchestrator')}"]

    async def silent(_: str) -> None:
        pass

    asyncio.run(collect(wanted, Target.here(), {**default_environment()}, folder, tell=silent))  # type: ignore[dict-item]  # a TypedDict of str
    return folder


def _laptop(folder: Path, stack: ExitStack, wheelhouse: Path, *options: str, there: Path | None = None) -> Laptop:
    name = "laptop"
    login = stack.enter_context(sshd(folder / "login", *options))
    proxy = stack.enter_context(proxied(login.port))
    home = folder / name
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    (home / ".ssh/config").write_text(Path(login.config(proxy.port)).read_text())
    variables = {"HOME": str(home), "USER": os.environ.get("USER", "ada"), "LANG": "C.UTF-8", "PATH": PATH[0]}
    user = User(folder, {**variables, **QUICK, "HPCFLOW_HOME": str(home / ".hpcflow")})
    return Laptop(user, login, proxy, there or folder / "there", wheelhouse)


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory, wheelhouse: Path) -> Iterator[Laptop]:
    """A laptop that has connected once."""
    with ExitStack() as stack:
        made = _laptop(tmp_path_factory.mktemp("connect"), stack, wheelhouse)
        try:
            done = made.connects()
            assert done.returncode == 0, done.stderr + Path(made.user.home.link_log).read_text()
            yield made
        finally:
            made.user.hpcflow("stop")
            made.user.hpcflow("disconnect")


@pytest.fixture
def visitor(laptop: Laptop, tmp_path: Path) -> Iterator[Laptop]:
    """Another laptop of the same person, not connected yet; its login node has the same HPCFLOW_HOME."""
    with ExitStack() as stack:
        made = _laptop(tmp_path, stack, laptop.wheelhouse, there=laptop.there)
        stack.callback(made.user.hpcflow, "disconnect")
        yield made


PROGRAM = """
import sys
import hpcflow as hf

LEDGER, GATE = sys.argv[1:]

@hf.electron(executor="local")
def waits(x):
    with open(LEDGER, "a") as ledger:
        ledger.write(f"began {x}\\n")
    if GATE:
        open(GATE).close()
    with open(LEDGER, "a") as ledger:
        ledger.write(f"ended {x}\\n")
    return x * x

@hf.lattice
def flow(x):
    return waits(x)

id = hf.dispatch(flow)(7)
print(id, flush=True)
print(hf.get_result(id, wait=True).result)
"""


def _gate(folder: Path) -> str:
    os.mkfifo(folder / "gate")
    return str(folder / "gate")


def _began(ledger: Path) -> bool:
    return lines(ledger)[:1] == ["began 7"]


def test_the_login_nodes_server_runs_what_the_laptop_dispatches(laptop: Laptop, tmp_path: Path) -> None:
    printed = laptop.user.runs(PROGRAM, str(tmp_path / "ledger"), "").split()
    assert printed[1] == "49"
    status = laptop.user.asks("status")
    assert (status["connected_to"], status["home"], status["pid"]) == (
        "cluster",
        str(laptop.there),
        laptop.server_pid(),
    )
    assert is_alive(laptop.server_pid())
    assert not Path(laptop.user.home.store).exists()
    assert (laptop.there / "dispatches").is_dir()
    log = laptop.user.hpcflow("logs", "-n", "1000").stdout
    assert f"serves {laptop.there}" in log


def test_all_of_it_is_for_this_user_alone(laptop: Laptop) -> None:
    link = json.loads(Path(laptop.user.home.link).read_text())
    for path in (link["address"], link["control"], laptop.user.home.link, laptop.user.home.link_token):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600, path
    for folder in (os.path.dirname(link["address"]), laptop.user.home.home, laptop.there, laptop.there / "app"):
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700, folder
    token = Path(laptop.user.home.link_token).read_text()
    assert token == (laptop.there / "token").read_text()
    Path(laptop.user.home.link_token).write_text("another\n")
    try:
        refused = laptop.user.hpcflow("dispatches")
        assert (refused.returncode, "refused the token" in refused.stderr) == (4, True), refused.stderr
    finally:
        Path(laptop.user.home.link_token).write_text(token)


def test_the_laptop_goes_away_and_its_dispatch_ends_without_it(laptop: Laptop, tmp_path: Path) -> None:
    ledger, gate, server = tmp_path / "ledger", _gate(tmp_path), laptop.server_pid()
    with begun(laptop.user, PROGRAM, str(ledger), gate) as running:
        until(lambda: _began(ledger))
        running.kill()
        os.kill(laptop.holder_pid(), signal.SIGKILL)
        laptop.proxy.refuse = True
        laptop.proxy.cut()
        open_gate(Path(gate))
        until(lambda: lines(ledger) == ["began 7", "ended 7"])
    away = laptop.user.hpcflow("status")
    assert away.returncode == 3
    assert "Nothing here holds the connection to cluster any more. The server there goes on" in away.stderr
    unreached = laptop.user.hpcflow("connect")
    assert (unreached.returncode, "can't be reached" in unreached.stderr) == (3, True), unreached.stderr
    laptop.proxy.refuse = False
    back = laptop.user.hpcflow("connect")
    assert back.returncode == 0, back.stderr
    assert f"runs already (hpcflow {version('hpcflow-orchestrator')}, pid {server})" in back.stdout
    assert laptop.user.waits_for(laptop.user.dispatches()[0])["status"] == "COMPLETED"


def test_a_cut_connection_comes_back_by_itself_under_a_program_that_waits(laptop: Laptop, tmp_path: Path) -> None:
    ledger, gate, holder = tmp_path / "ledger", _gate(tmp_path), laptop.holder_pid()
    before = laptop.proxy.connections
    with begun(laptop.user, PROGRAM, str(ledger), gate) as running:
        until(lambda: _began(ledger))
        laptop.proxy.cut()
        until(lambda: laptop.proxy.connections > before)
        open_gate(Path(gate))
        out, err = ended(laptop.user, running)
    assert (out.split()[1:], running.returncode) == (["49"], 0), err
    assert (laptop.proxy.connections > before, laptop.holder_pid()) == (True, holder)


def test_a_killed_server_is_named_and_the_next_dispatch_starts_it_again(laptop: Laptop, tmp_path: Path) -> None:
    killed = laptop.server_pid()
    os.kill(killed, signal.SIGKILL)
    until(lambda: not is_alive(killed))
    status = laptop.user.hpcflow("status")
    assert (status.returncode, "No server answers on cluster" in status.stderr) == (3, True), status.stderr
    assert laptop.user.runs(PROGRAM, str(tmp_path / "ledger"), "").split()[1] == "49"
    assert laptop.server_pid() != killed


def test_stop_ends_the_server_there_and_connect_starts_it(laptop: Laptop) -> None:
    stopped, server = laptop.user.hpcflow("stop"), laptop.server_pid
    assert stopped.stdout == (
        "The server on cluster has stopped. Jobs in the queue go on; `hpcflow connect` starts it again.\n"
    )
    assert not (laptop.there / "run/server.json").exists()
    assert "is up" in laptop.user.hpcflow("connect").stdout
    assert is_alive(server())
    restart = laptop.user.hpcflow("restart")
    assert (restart.returncode, "hpcflow connect --upgrade" in restart.stderr) == (2, True)


def test_a_second_connect_changes_nothing(laptop: Laptop) -> None:
    holder, server, connections = laptop.holder_pid(), laptop.server_pid(), laptop.proxy.connections
    again = laptop.connects()
    assert (again.returncode, "runs already" in again.stdout) == (0, True), again.stderr
    assert (laptop.holder_pid(), laptop.server_pid(), laptop.proxy.connections) == (holder, server, connections)
    other = laptop.user.hpcflow("connect", "elsewhere")
    assert other.returncode == 2
    assert other.stderr == "This HPCFLOW_HOME is connected to cluster: run `hpcflow disconnect` first.\n"
    for more, sentence in (("--home=/elsewhere", "not to /elsewhere there"), ("--foreground", "Another process holds")):
        refused = laptop.connects(more)
        assert (refused.returncode, sentence in refused.stderr) == (2, True), refused.stderr
    assert laptop.holder_pid() == holder


def test_the_page_is_reached_at_an_address_of_the_laptop(laptop: Laptop) -> None:
    answer = laptop.user.asks("ui")
    assert answer["ssh_forward"] is None
    with urlopen(answer["url"].partition("#")[0], timeout=60) as page:
        assert (page.status, b"hpcflow" in page.read()) == (200, True)
    told = laptop.user.tries("""
import hpcflow as hf

@hf.lattice
def flow():
    return hf.electron(abs)(1)

flow.draw()
""").stderr.splitlines()
    (drawn,) = [line.removeprefix("The graph is drawn at ") for line in told if "drawn" in line]
    assert "#" in drawn
    assert "/preview/" in drawn
    with urlopen(drawn.partition("#")[0], timeout=60) as page:
        assert (page.status, b"hpcflow" in page.read()) == (200, True)


def test_a_new_token_reaches_the_laptop(laptop: Laptop) -> None:
    before = Path(laptop.user.home.link_token).read_text()
    rotated = laptop.user.hpcflow("token", "rotate")
    assert rotated.returncode == 0, rotated.stderr
    assert Path(laptop.user.home.link_token).read_text() not in {before, ""}
    assert laptop.user.hpcflow("dispatches").returncode == 0


def test_an_older_server_is_named_and_upgraded_in_order(laptop: Laptop) -> None:
    own, server = version("hpcflow-orchestrator"), laptop.server_pid()
    dispatches = laptop.user.dispatches()
    _says_version(laptop.there, "0.0.7")
    old = laptop.user.hpcflow("connect")
    assert old.returncode == 4
    assert f"is hpcflow 0.0.7, and this is hpcflow {own}. `hpcflow connect cluster --upgrade`" in old.stderr
    upgraded = laptop.connects("--upgrade")
    assert upgraded.returncode == 0, upgraded.stderr
    assert f"Restarts the server on {socket.gethostname()} as hpcflow {own}" in upgraded.stderr
    assert laptop.server_pid() != server
    assert laptop.user.dispatches() == dispatches


def test_a_newer_server_asks_for_a_newer_laptop(laptop: Laptop, visitor: Laptop) -> None:
    _says_version(laptop.there, "9.1.0")
    try:
        newer = visitor.connects("--upgrade")
    finally:
        _says_version(laptop.there, version("hpcflow-orchestrator"))
    assert newer.returncode == 4
    assert "hpcflow 9.1.0 runs on cluster" in newer.stderr
    assert newer.stderr.endswith("which is older: install hpcflow 9.1.0 here.\n")


def test_a_server_on_another_login_node_is_not_started_twice(laptop: Laptop, visitor: Laptop) -> None:
    notice = laptop.there / "run/server.json"
    text = notice.read_text()
    notice.write_text(json.dumps({**json.loads(text), "host": "login2"}))
    try:
        elsewhere = visitor.connects()
    finally:
        notice.write_text(text)
    assert elsewhere.returncode == 3
    assert (
        f"The server of {laptop.there} runs on login2, and cluster led to {socket.gethostname()}." in elsewhere.stderr
    )


def test_a_second_factor_is_asked_once_in_a_terminal_and_kept_nowhere(laptop: Laptop, tmp_path: Path) -> None:
    door, host, home = Door(rounds=FACTORS), tmp_path / "host", tmp_path / "laptop"
    host.mkdir()
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    user = User(tmp_path, {**laptop.user.environment, "HOME": str(home), "HPCFLOW_HOME": str(home / ".hpcflow")})
    words = ("connect", "cluster", "--home", str(laptop.there), "--prologue", PROLOGUE)
    answers = (("Password: ", "sesame"), ("One-time code: ", "123456"))
    with a_host(host, door):
        shutil.copy(host / "config", home / ".ssh/config")
        alone = user.hpcflow(*words)
        assert (alone.returncode, door.answers) == (4, [])
        assert "cluster needs login: cluster asks for keyboard-interactive. Run `hpcflow connect cluster`" in (
            alone.stderr
        )
        code, shown = in_a_terminal(user, [("Password: ", "guess")], *words)
        assert (code, "did not accept what was answered" in shown) == (4, True), shown
        code, shown = in_a_terminal(user, answers, *words)
        assert (code, "runs already" in shown, "sesame" in shown) == (0, True, False), shown
        logins = door.logins
        assert user.asks("status")["pid"] == laptop.server_pid()
        assert user.hpcflow("connect").returncode == 0
        assert (door.logins, door.answers) == (logins, [["guess"], ["sesame"], ["123456"]])
        kept = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
        assert not any(secret in kept for secret in (b"sesame", b"guess", b"123456"))
        assert user.hpcflow("disconnect").returncode == 0


def test_an_unknown_login_node_is_let_in_by_a_person_or_by_its_fingerprint(visitor: Laptop) -> None:
    known = visitor.login.known_hosts
    line = known.read_text()
    known.unlink()
    refused = visitor.connects()
    assert refused.returncode != 0
    named = re.search(r"--accept-host-key (SHA256:\S+)\.", refused.stderr)
    assert named is not None, refused.stderr
    other = visitor.connects("--accept-host-key", "SHA256:another")
    assert (other.returncode != 0, known.exists()) == (True, False)

    words = ("connect", "cluster", "--home", str(visitor.there), "--prologue", PROLOGUE)
    code, screen = in_a_terminal(visitor.user, [("(yes/no): ", "perhaps"), ("(yes/no): ", "no")], *words)
    assert (code != 0, known.exists()) == (True, False), screen
    code, screen = in_a_terminal(visitor.user, [("(yes/no): ", "yes")], *words)
    assert code == 0, screen
    assert named[1] in screen
    assert known.read_text().split()[-1] == line.split()[2]
    visitor.user.hpcflow("disconnect")

    known.unlink()
    assert visitor.connects("--accept-host-key", named[1]).returncode == 0


def test_a_site_that_forwards_nothing_is_named(laptop: Laptop, tmp_path: Path) -> None:
    with ExitStack() as stack:
        closed = _laptop(tmp_path, stack, laptop.wheelhouse, "AllowStreamLocalForwarding no", there=laptop.there)
        refused = closed.connects()
    assert refused.returncode == 3
    assert "cluster forwards no unix sockets (sshd's AllowStreamLocalForwarding or Dis" in refused.stderr
    assert is_alive(laptop.server_pid())


def test_a_login_node_without_a_python_for_it_is_told_what_was_found(visitor: Laptop, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for name, said in (("python3", "3.6.8"), ("python3.12", "3.12.1 without venv")):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\necho {said}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    none = visitor.connects(home=tmp_path / "new", prologue=f"PATH={tmp_path}/bin")
    assert none.returncode == 2
    assert (
        f"needs 3.11 or later, and there is 3.12.1 without venv at {tmp_path}/bin/python3.12, "
        f"3.6.8 at {tmp_path}/bin/python3. Name one with `--prologue`"
    ) in none.stderr
    assert not (tmp_path / "new").exists()


def test_a_full_disk_is_a_sentence_and_leaves_nothing_behind(visitor: Laptop, tmp_path: Path) -> None:
    full = visitor.connects(home=tmp_path / "new", prologue=f"{PROLOGUE}\nulimit -f 1000")
    assert full.returncode == 1
    assert "There is no room for hpcflow on cluster" in full.stderr, full.stderr
    assert sorted(path.name for path in (tmp_path / "new/app").iterdir()) == ["lock"]
    assert not Path(visitor.user.home.link).exists()


def test_nothing_is_installed_where_others_could_exchange_it(visitor: Laptop, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    refused = visitor.connects(home=tmp_path / "shared/home")
    assert refused.returncode == 1
    assert f"{tmp_path}/shared: others may replace what lies there" in refused.stderr
    assert sorted(path.name for path in (tmp_path / "shared/home").rglob("*")) == ["app"]


def test_disconnect_ends_the_way_and_nothing_else(laptop: Laptop) -> None:
    holder, server = laptop.holder_pid(), laptop.server_pid()
    left = laptop.user.hpcflow("disconnect")
    assert left.stdout.startswith("Disconnected from cluster. What runs there goes on")
    until(lambda: not is_alive(holder))
    assert not Path(laptop.user.home.link_token).exists()
    assert is_alive(server)
    assert "No server runs for" in laptop.user.hpcflow("status").stderr
    assert laptop.user.hpcflow("disconnect").stdout.endswith("is connected to no login node.\n")
    again = laptop.connects()
    assert (again.returncode, "runs already" in again.stdout) == (0, True), again.stderr


def _says_version(there: Path, text: str) -> None:
    notice = there / "run/server.json"
    notice.write_text(json.dumps({**json.loads(notice.read_text()), "version": text}))
