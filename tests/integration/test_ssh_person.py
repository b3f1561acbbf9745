"""A cluster whose host asks a person: what waits, what goes on, and what an answer is good for."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from tests.integration.conftest import PATH
from tests.integration.person import FACTORS, a_host, in_a_terminal
from tests.integration.world import User, begun, ended, until
from tests.integration.world import served as a_server
from tests.unit.ssh_server import Door

LOGIN = ("clusters", "login", "far")
ANSWERS = (("Password: ", "sesame"), ("One-time code: ", "123456"))

PROGRAM = """
import sys
import hpcflow as hf

@hf.electron(executor=sys.argv[1])
def twice(x):
    return 2 * x

@hf.lattice
def flow():
    return twice(21)

print(hf.get_result(hf.dispatch(flow)(), wait=True).result)
"""


def test_a_cluster_that_asks_a_person_waits_alone_until_somebody_answers(tmp_path: Path) -> None:
    door = Door(rounds=FACTORS)
    host, home = tmp_path / "host", tmp_path / "laptop"
    host.mkdir()
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    table = (
        f'[far]\nscheduler = "local"\nhost = "cluster"\nworkdir = "{tmp_path}/work"\nkeys = "{tmp_path}/keys"\n'
        f'python = "{sys.executable}"\n'
    )
    with a_host(host, door):
        shutil.copy(host / "config", home / ".ssh/config")
        with a_server(tmp_path, {"HOME": str(home), "HPCFLOW_AFTER_FAULT": "0.2"}, PATH, clusters=table) as user:
            with begun(user, PROGRAM, "far") as waiting:
                until(lambda: _state(user) == "needs login")
                tried = door.logins
                assert user.runs(PROGRAM, "local") == "42"
                code, shown = in_a_terminal(user, [("Password: ", "guess")], *LOGIN)
                assert (code, "did not accept what was answered" in shown) == (4, True)
                assert (door.logins, door.answers, _state(user)) == (tried + 1, [["guess"]], "needs login")
                code, shown = in_a_terminal(user, ANSWERS, *LOGIN)
                assert (code, "You are in: far answers" in shown, "sesame" in shown) == (0, True, False)
                out, err = ended(user, waiting)
            assert (out.strip(), waiting.returncode) == ("42", 0), err
            assert door.answers == [["guess"], ["sesame"], ["123456"]]
            assert _state(user) == "ok"
            for file in (user.home.log, user.home.store):
                assert not any(secret in Path(file).read_bytes() for secret in (b"sesame", b"guess", b"123456"))


def test_who_adds_a_cluster_logs_in_once_and_that_connection_is_kept(tmp_path: Path) -> None:
    door = Door(rounds=FACTORS)
    host, home = tmp_path / "host", tmp_path / "laptop"
    host.mkdir()
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    flags = ("--host", "cluster", "--scheduler", "local", "--workdir", f"{tmp_path}/work", "--python", sys.executable)
    words = ("clusters", "add", "far", *flags, "--keys", f"{tmp_path}/keys")
    with a_host(host, door):
        shutil.copy(host / "config", home / ".ssh/config")
        with a_server(tmp_path, {"HOME": str(home)}, PATH) as user:
            code, shown = in_a_terminal(user, [("Password: ", "guess")], *words)
            assert (code, Path(user.home.clusters).exists()) == (4, False), shown
            code, shown = in_a_terminal(user, ANSWERS, *words)
            assert (code, "[far] is in" in shown) == (0, True), shown
            assert "ok      login: no person was needed" in shown
            assert door.answers == [["guess"], ["sesame"], ["123456"]]
            assert "[far]\n" in Path(user.home.clusters).read_text()


def _state(user: User) -> str:
    return next(str(cluster["state"]) for cluster in user.asks("clusters", "list") if cluster["name"] == "far")
