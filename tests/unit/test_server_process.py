"""The server's process: private files, one server at a time, a clean end, and the moves between hosts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from hpcflow.core.model import HpcflowError
from hpcflow.core.places import Places, places, socket_path
from hpcflow.server import home
from hpcflow.server.claim import RunsAlready, claimed_store, locked_home, take_over_asked
from tests.processes import killed
from tests.unit.served import an_upload

# The process as it is, with a service that runs nothing on the other side of the seam, and a claim on a real store.
PROGRAM = """
import asyncio, json, sys
from contextlib import asynccontextmanager
from hpcflow.core import model
from hpcflow.server.__main__ import Opened, main
from hpcflow.server.claim import claimed_store
from tests.unit.served import MemoryService

given = json.loads(sys.argv[1])

@asynccontextmanager
async def open_service(start):
    with claimed_store(start.where, host=start.host, boot_id=start.boot_id, on_network=start.network is not None,
                       locked=start.locked, take_over=start.take_over) as claim:
        async with asyncio.TaskGroup() as group:
            if given["fault"]:
                group.create_task(fail())
            yield Opened(MemoryService(names=given["clusters"]), claim.renew)

async def fail():
    raise getattr(model, given["fault"], OSError)("no such table")

sys.exit(main(sys.argv[2:], open_service=open_service, host=given["host"], beat_s=given["beat_s"],
              take_over_s=given["take_over_s"], f_type=lambda path: given["f_type"]))
"""
#: How long anything may take before a test gives up on it, in seconds.
PATIENCE_S = 60.0
EXT4 = 0xEF53
NFS = 0x6969


@dataclass
class Running:
    process: subprocess.Popen[str]
    where: Places

    @property
    def notice(self) -> home.Notice:
        found = home.read_notice(self.where)
        assert found is not None
        return found

    def ask(
        self, method: str, path: str, *, body: bytes | None = None, media: str = "application/json"
    ) -> Any:  # Any: JSON
        connection = HTTPConnection("localhost", timeout=PATIENCE_S)
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.settimeout(PATIENCE_S)
            connection.sock.connect(self.notice.address)
            token = Path(self.where.token).read_text().strip()
            headers = {"Authorization": f"Bearer {token}", **({"Content-Type": media} if body else {})}
            connection.request(method, path, body, headers)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def end(self) -> tuple[int, str]:
        """Wait for its end, and return the exit code and what it said."""
        try:
            _, said = self.process.communicate(timeout=PATIENCE_S)
        finally:
            killed(self.process)
        return self.process.returncode, said


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"ended: {process.poll()}")
        time.sleep(0.02)


def launch(
    folder: Path,
    *options: str,
    host: str = "login1",
    clusters: tuple[str, ...] = ("local", "slurm"),
    beat_s: float = 0.1,
    f_type: int = EXT4,
    environ: Mapping[str, str] | None = None,
    fault: str = "",
) -> Running:
    """Start a server and don't wait for it."""
    given = {"host": host, "clusters": clusters, "beat_s": beat_s, "f_type": f_type, "take_over_s": 10.0}
    given |= {"fault": fault}
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "USER") if name in os.environ}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, json.dumps(given), *options],
        env={**kept, "HPCFLOW_HOME": str(folder), **(environ or {})},
        stderr=subprocess.PIPE,
        text=True,
        umask=0,
    )
    return Running(process, Places(str(folder)))


@contextmanager
def running(folder: Path, *options: str, **given: Any) -> Generator[Running]:  # Any: as in launch
    """A server that answers."""
    before = home.read_notice(Places(str(folder)))
    here = launch(folder, *options, **given)
    try:
        until(lambda: home.read_notice(here.where) not in {None, before}, here.process)
        yield here
        if here.process.poll() is None:
            here.process.terminate()
        here.process.communicate(timeout=PATIENCE_S)
    finally:
        killed(here.process)


def test_it_says_where_it_is_and_answers_there(tmp_path: Path) -> None:
    with running(tmp_path / "home") as server:
        notice = server.notice
        assert (notice.pid, notice.host, notice.home) == (server.process.pid, "login1", str(tmp_path / "home"))
        assert notice.boot_id == home.boot_id()
        assert notice.address == str(tmp_path / "home" / "run" / "sock")
        assert notice.started_at.endswith("Z")
        assert server.ask("GET", "/healthz") == {"ok": True}
        status = server.ask("GET", "/api/v1/status")
        assert (status["pid"], status["clusters"]) == (server.process.pid, ["local", "slurm"])


def test_nothing_of_it_is_for_other_users_even_under_an_open_umask(tmp_path: Path) -> None:
    with running(tmp_path / "home") as server:
        server.ask("POST", "/api/v1/dispatches", body=an_upload(), media="application/x-hpcflow-dispatch")
        seen = [tmp_path / "home", *(tmp_path / "home").rglob("*")]
        modes = {path.name: stat.S_IMODE(path.lstat().st_mode) for path in seen}
    assert {name for name, mode in modes.items() if mode & 0o077} == set()
    assert (modes["home"], modes["run"], modes["sock"], modes["token"]) == (0o700, 0o700, 0o600, 0o600)
    assert {"hpcflow.db", "lock", "server.json", "server.log"} <= set(modes)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path / "home") as server:
        address = server.notice.address
        server.process.send_signal(number)
        assert server.end() == (0, "")
    assert not os.path.exists(address)
    assert home.read_notice(server.where) is None


def test_a_shutdown_ends_it_in_order(tmp_path: Path) -> None:
    with running(tmp_path / "home") as server:
        assert server.ask("POST", "/api/v1/shutdown") == {"ok": True}
        assert server.end() == (0, "")
    assert home.read_notice(server.where) is None


@pytest.mark.parametrize("fault", ["HpcflowError", "OSError"])
def test_a_server_whose_engine_ended_ends_too_and_its_log_says_why(tmp_path: Path, fault: str) -> None:
    here = launch(tmp_path, fault=fault)
    assert here.end() == (1, "")
    log = Path(here.where.log).read_text()
    assert log.splitlines()[-1].endswith("CRITICAL hpcflow.server: ends, because a part of it did: no such table")
    assert ("Traceback" in log) == (fault == "OSError")
    assert home.read_notice(here.where) is None


def test_a_second_server_is_refused_in_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "home"
    with running(folder) as first:
        for options in ((), ("--take-over",)):
            second = launch(folder, *options)
            code, said = second.end()
            assert code == 4
            assert said == f"A server for {folder} runs already ({first.notice}): `hpcflow status` shows it.\n"
        assert first.ask("GET", "/healthz") == {"ok": True}


def test_a_server_that_was_killed_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    folder = tmp_path / "home"
    with running(folder) as first:
        part = folder / "dispatches" / "01JD0000000000000000000001.0000.part"
        part.touch(0o600)
        first.process.kill()
        first.process.wait(PATIENCE_S)
        token = Path(first.where.token).read_text()
        assert os.path.exists(first.notice.address)
        with running(folder) as second:
            assert second.notice.pid == second.process.pid
            assert second.ask("GET", "/healthz") == {"ok": True}
            assert Path(second.where.token).read_text() == token
            assert not part.exists()


def test_a_server_whose_home_was_made_anew_under_another_one_ends(tmp_path: Path) -> None:
    folder = tmp_path / "home"
    with running(folder) as first:
        shutil.rmtree(folder)
        with running(folder) as second:
            assert first.end() == (5, "")
            assert second.ask("GET", "/healthz") == {"ok": True}
            assert home.read_notice(second.where) == second.notice


def test_another_host_is_refused_and_told_where_to_go(tmp_path: Path) -> None:
    folder = tmp_path / "home"
    with running(folder, host="login1") as first:
        code, said = launch(folder, host="login2").end()
        assert code == 4
        assert said == (
            f"A server for {folder} runs already ({first.notice}): work from login1, "
            "or move it here with `hpcflow start --take-over`.\n"
        )


@pytest.mark.parametrize("f_type", [EXT4, NFS])
def test_a_take_over_ends_the_other_hosts_server_in_order(tmp_path: Path, f_type: int) -> None:
    folder = tmp_path / "home"
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    with ExitStack() as stack:
        first = stack.enter_context(running(folder, host="login1", f_type=f_type, environ=environ))
        second = stack.enter_context(running(folder, "--take-over", host="login2", f_type=f_type, environ=environ))
        assert first.end() == (5, "")
        assert "Another host takes this HPCFLOW_HOME over" in Path(first.where.log).read_text()
        until(lambda: second.notice.host == "login2", second.process)
        assert second.ask("GET", "/healthz") == {"ok": True}
        assert not (folder / "run" / "take-over").exists()


def test_a_server_that_a_dispatch_started_ends_when_nothing_is_live(tmp_path: Path) -> None:
    environ = {"HPCFLOW_IDLE_EXIT": "0.3"}
    with running(tmp_path / "a", "--from-dispatch", environ=environ) as server:
        assert server.end() == (0, "")
    with running(tmp_path / "b", "--from-dispatch", environ={"HPCFLOW_IDLE_EXIT": "5"}) as server:
        server.ask("POST", "/api/v1/dispatches", body=an_upload(), media="application/x-hpcflow-dispatch")
        with pytest.raises(subprocess.TimeoutExpired):
            server.process.wait(timeout=6)
    with running(tmp_path / "c", environ=environ) as server, pytest.raises(subprocess.TimeoutExpired):
        server.process.wait(timeout=1)


def test_browsers_have_a_port_at_once_only_where_no_scheduler_is(tmp_path: Path) -> None:
    with running(tmp_path / "laptop", clusters=("local",)) as server:
        assert server.ask("GET", "/api/v1/status")["ui"] is not None
        assert server.ask("POST", "/api/v1/ui")["ssh_forward"] is None
    with running(tmp_path / "login", clusters=("local", "slurm")) as server:
        assert server.ask("GET", "/api/v1/status")["ui"] is None
        answer = server.ask("POST", "/api/v1/ui")
        port = int(answer["url"].split(":")[2].split("/")[0])
        assert answer["ssh_forward"].startswith(f"ssh -N -L {port}:127.0.0.1:{port} ")
        assert answer["ssh_forward"].endswith("@login1")
        assert server.ask("POST", "/api/v1/ui")["url"].startswith(f"http://127.0.0.1:{port}/#")
        assert server.ask("GET", "/api/v1/status")["ui"] == f"http://127.0.0.1:{port}/"
        browser = HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        browser.request("GET", "/")
        assert b"hpcflow" in browser.getresponse().read()
        browser.close()


def test_a_user_who_came_by_ssh_is_told_the_forward(tmp_path: Path) -> None:
    environ = {"SSH_CONNECTION": "10.0.0.1 5000 10.0.0.2 22"}
    with running(tmp_path / "home", clusters=("local",), environ=environ) as server:
        assert server.ask("POST", "/api/v1/ui")["ssh_forward"].startswith("ssh -N -L ")


def test_the_token_is_in_no_log_and_on_no_command_line(tmp_path: Path) -> None:
    with running(tmp_path / "home") as server:
        url: str = server.ask("POST", "/api/v1/ui")["url"]
        server.ask("GET", "/api/v1/status")
        secrets = [Path(server.where.token).read_text().strip(), url.partition("#")[2]]
        process = Path(f"/proc/{server.process.pid}")
        exposed = (process / "cmdline").read_text() + (process / "environ").read_text()
    exposed += Path(server.where.log).read_text()
    assert [secret for secret in secrets if secret in exposed] == []
    assert all(len(secret) == 43 for secret in secrets)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        ("token_readable", "Others may have read {home}/token (mode 0644)"),
        ("token_empty", "{home}/token is empty: remove it"),
        ("token_a_link", "{home}/token is no ordinary file"),
        ("store_readable", "Others may have read {home}/hpcflow.db (mode 0640)"),
        ("clusters_planted", "Others may have changed {home}/clusters.toml (mode 0666)"),
        ("unknown_setting", "there is no setting called 'colour'."),
        ("keys_a_link", "{home}/keys is no folder"),
        ("file_for_socket", "{home}/run/sock is in the way and is no socket"),
    ],
)
def test_it_refuses_a_home_that_is_not_private(tmp_path: Path, spoil: str, sentence: str) -> None:
    folder = tmp_path / "home"
    home.prepare(Places(str(folder)))
    home.read_token(Places(str(folder)))
    spoiled(folder, spoil)
    code, said = launch(folder).end()
    assert code == 1
    assert sentence.format(home=folder) in said
    assert said.count("\n") == 1


def spoiled(folder: Path, how: str) -> None:
    """Do one wrong thing to a home."""
    match how:
        case "token_readable":
            (folder / "token").chmod(0o644)
        case "token_empty":
            (folder / "token").write_text("")
        case "token_a_link":
            (folder / "token").unlink()
            (folder / "token").symlink_to("/etc/hostname")
        case "store_readable":
            (folder / "hpcflow.db").touch()
            (folder / "hpcflow.db").chmod(0o640)
        case "clusters_planted":
            (folder / "clusters.toml").touch()
            (folder / "clusters.toml").chmod(0o666)
        case "unknown_setting":
            (folder / "config.toml").write_text("colour = 1")
        case "keys_a_link":
            (folder / "keys").rename(folder / "elsewhere")
            (folder / "keys").symlink_to("elsewhere")
        case _:
            (folder / "run" / "sock").write_text("")


# ---- the parts


def test_a_folder_that_others_could_enter_is_closed(tmp_path: Path) -> None:
    folder = tmp_path / "home"
    folder.mkdir()
    folder.chmod(0o777)
    home.prepare(Places(str(folder)))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_home_that_others_could_replace_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(HpcflowError, match="Others may replace what lies in"):
        home.prepare(Places(str(tmp_path / "open" / "home")))
    (tmp_path / "open").chmod(0o1777)
    home.prepare(Places(str(tmp_path / "open" / "home")))


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_home_of_somebody_else_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    with pytest.raises(HpcflowError, match=f"{tmp_path} belongs to user 65534, not to you"):
        home.prepare(Places(str(tmp_path)))


def test_the_kernel_says_what_file_system_a_path_is_on(tmp_path: Path) -> None:
    assert home.file_system_type("/proc") == 0x9FA0
    assert home.network_file_system("/proc") is None
    assert home.network_file_system(str(tmp_path), lambda _: 0x0BD00BD0) == "Lustre"
    with pytest.raises(FileNotFoundError):
        home.file_system_type(str(tmp_path / "missing"))


def test_a_long_path_or_a_network_home_gets_its_socket_elsewhere(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path / ("x" * 90)
    runtime = tmp_path_factory.mktemp("run")  # a short path, as the real one is
    environ = {"XDG_RUNTIME_DIR": str(runtime), "USER": "somebody"}
    with running(folder, environ=environ) as server:
        address = server.notice.address
        assert address == socket_path(places({"HPCFLOW_HOME": str(folder)}), environ, on_network=False)
        assert address.startswith(str(runtime))
        assert server.ask("GET", "/healthz") == {"ok": True}
        assert stat.S_IMODE(os.stat(os.path.dirname(address)).st_mode) == 0o700


def test_a_damaged_notice_is_no_notice(tmp_path: Path) -> None:
    where = Places(str(tmp_path))
    home.prepare(where)
    for text in ("", "{", "[]", "null", '{"pid": 1}'):
        Path(where.server_json).write_text(text)
        assert home.read_notice(where) is None


def test_a_servers_own_end_leaves_its_successors_notice(tmp_path: Path) -> None:
    where = Places(str(tmp_path))
    home.prepare(where)
    old, new = (
        home.Notice(pid=pid, host="login1", boot_id="b", address="a", version="1", home=where.home, started_at="t")
        for pid in (1, 2)
    )
    home.write_notice(where, new)
    home.remove_notice(where, old)
    assert home.read_notice(where) == new
    home.remove_notice(where, new)
    assert home.read_notice(where) is None


def claim(where: Places, host: str, *, locked: bool, take_over: bool = False) -> Any:  # Any: a context manager
    return claimed_store(where, host=host, boot_id="b", on_network=False, locked=locked, take_over=take_over)


def test_a_lease_of_another_host_is_respected_until_it_is_taken_over(tmp_path: Path) -> None:
    where = Places(str(tmp_path))
    home.prepare(where)
    with claim(where, "login1", locked=False) as first:
        first.renew()
        with pytest.raises(RunsAlready, match="login1"), claim(where, "login2", locked=True):
            pass
        with pytest.raises(RunsAlready, match="login1"), claim(where, "login1", locked=False):
            pass
        with claim(where, "login2", locked=True, take_over=True) as second:
            second.renew()
            with pytest.raises(HpcflowError, match="login2"):
                first.renew()
    with claim(where, "login3", locked=False):
        pass


def test_a_request_to_move_is_for_other_hosts_only(tmp_path: Path) -> None:
    where = Places(str(tmp_path))
    home.prepare(where)
    assert not take_over_asked(where, "login1")
    home.rewrite(os.path.join(where.run, "take-over"), "login2\n")
    assert take_over_asked(where, "login1")
    assert not take_over_asked(where, "login2")


def test_a_server_that_does_not_give_its_lock_back_is_passed_by(tmp_path: Path) -> None:
    where = Places(str(tmp_path))
    home.prepare(where)
    notice = home.Notice(pid=1, host="login1", boot_id="b", address="a", version="1", home="h", started_at="t")
    with locked_home(where, "login1", take_over=False, patience_s=0.0) as locked:
        assert locked
        home.write_notice(where, notice)
        with locked_home(where, "login2", take_over=True, patience_s=0.0) as also:
            assert not also
            assert take_over_asked(where, "login1")
        assert not take_over_asked(where, "login1")
