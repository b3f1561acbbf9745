"""`hpcflow clusters add`: a server that runs takes a cluster in, once its host is known to be who it should be."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import asyncssh
import pytest

from tests.integration.conftest import PATH
from tests.integration.servers import COMMAND
from tests.integration.sshd import Sshd, key, sshd
from tests.integration.world import User, begun, ended, lines, served, until
from tests.terminal import terminal

OWN = "# Mine.\n[other]\nscheduler = 'local'  # for a rainy day\n"

PROGRAM = """
import os, sys
import hpcflow as hf

@hf.electron(executor=sys.argv[1])
def note(x, ledger, gate):
    if gate:
        open(gate).read()
    with open(ledger, "a") as file:
        file.write(f"{x}\\n")
    return x

@hf.lattice
def flow():
    return [note(x, sys.argv[2], sys.argv[3]) for x in range(2)]

print(hf.get_result(hf.dispatch(flow)(), wait=True).result)
"""


@dataclass(frozen=True)
class Laptop:
    """A user with a server, and a host that neither knows."""

    user: User
    node: Sshd
    flags: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        return str(asyncssh.read_public_key(self.node.folder / "host.pub").get_fingerprint())

    @property
    def table(self) -> str:
        return Path(self.user.home.clusters).read_text()

    def adds(self, *more: str) -> tuple[int, str, str]:
        done = self.user.hpcflow("clusters", "add", "far", *self.flags, *more)
        return done.returncode, done.stdout, done.stderr


@pytest.fixture
def laptop(tmp_path: Path) -> Iterator[Laptop]:
    with ExitStack() as stack:
        node = stack.enter_context(sshd(tmp_path / "node"))
        node.known_hosts.unlink()
        home = tmp_path / "laptop"
        (home / ".ssh").mkdir(parents=True, mode=0o700)
        shutil.copy(node.config(), home / ".ssh/config")
        user = stack.enter_context(served(tmp_path, {"HOME": str(home)}, PATH, clusters=OWN))
        flags = (
            "--host",
            "cluster",
            "--scheduler",
            "local",
            "--workdir",
            f"{tmp_path}/work",
            "--python",
            sys.executable,
        )
        yield Laptop(user, node, flags)


def open_for_all(gate: Path) -> bool:
    with suppress(OSError):  # nobody waits just now
        os.close(os.open(gate, os.O_WRONLY | os.O_NONBLOCK))
    return True


def test_a_live_server_takes_a_cluster_in_and_gives_it_back_while_others_run(laptop: Laptop, tmp_path: Path) -> None:
    code, out, err = laptop.adds()
    assert (code, out) == (1, "")
    assert f"it shows the ED25519 key {laptop.fingerprint}" in err
    assert f"--accept-host-key {laptop.fingerprint}" in err
    code, _, err = laptop.adds("--accept-host-key", "SHA256:another")
    assert (code, "SHA256:another was to be accepted: no key was accepted" in err) == (4, True)
    assert (laptop.node.known_hosts.exists(), laptop.table) == (False, OWN)

    gate, ledger = tmp_path / "gate", tmp_path / "ledger"
    os.mkfifo(gate)
    with begun(laptop.user, PROGRAM, "local", str(ledger), str(gate)) as running:
        code, out, err = laptop.adds("--accept-host-key", laptop.fingerprint)
        assert code == 0, out + err
        assert laptop.node.known_hosts.read_text() == f"login {' '.join(_public(laptop.node))}\n"
        assert laptop.table.startswith(OWN)
        assert '[far]\nscheduler = "local"\nhost = "cluster"\n' in laptop.table
        assert laptop.user.runs(PROGRAM, "far", str(tmp_path / "far"), "") == "[0, 1]"
        assert sorted(lines(tmp_path / "far")) == ["0", "1"]
        # One opening lets in all who wait: both at once, or one after the other.
        until(lambda: open_for_all(gate) and running.poll() is not None)
        out, err = ended(laptop.user, running)
    assert (out.strip(), running.returncode) == ("[0, 1]", 0), err

    assert "already" in laptop.adds()[2]
    until(lambda: not laptop.user.hpcflow("clusters", "remove", "far").returncode)  # its array may end just now
    assert laptop.table == OWN
    assert laptop.user.hpcflow("clusters", "test", "far").returncode == 5
    assert "There is no executor 'far'" in laptop.user.tries(PROGRAM, "far", str(ledger), "").stderr


def test_a_restart_finds_what_was_added(laptop: Laptop, tmp_path: Path) -> None:
    assert laptop.adds("--accept-host-key", laptop.fingerprint, "--no-test")[0] == 0
    assert laptop.user.hpcflow("restart").returncode == 0
    assert laptop.user.runs(PROGRAM, "far", str(tmp_path / "ledger"), "") == "[0, 1]"


def test_a_changed_or_revoked_host_key_is_never_accepted(laptop: Laptop, tmp_path: Path) -> None:
    for line in (f"login {key(tmp_path / 'other')}", f"@revoked login {' '.join(_public(laptop.node))}\n"):
        laptop.node.known_hosts.write_text(line)
        code, _, err = laptop.adds("--accept-host-key", laptop.fingerprint)
        assert code == 4
        assert "The host key of" in err
        assert laptop.node.known_hosts.read_text() == line
        assert laptop.table == OWN


def test_what_can_not_be_reached_or_is_no_cluster_is_not_written(laptop: Laptop) -> None:
    for flags, code, sentence in (
        (("--host", "no-such-host.invalid"), 4, "no-such-host.invalid can't be reached"),
        (("--host", "-oProxyCommand=x"), 2, "host is '-oProxyCommand=x'"),
        (("--scheduler", "slurmm"), 2, "'slurmm'"),
        (("--workdir", "here"), 2, "workdir is 'here'"),
    ):
        done = laptop.user.hpcflow("clusters", "add", "far", *laptop.flags, *[f"{flags[0]}={flags[1]}"])
        assert (done.returncode, sentence in done.stderr) == (code, True), done.stderr
    assert laptop.user.hpcflow("clusters", "add", "a/b", *laptop.flags).returncode in {2, 5}
    assert laptop.table == OWN


def _in_a_terminal(laptop: Laptop, *answers: tuple[str, str], stop: str | None = None) -> tuple[int, str]:
    """Run `clusters add` in a terminal, answer its prompts, or press Ctrl-C at one; return exit code and screen."""
    flags = [flag for flag in laptop.flags if flag not in {"--scheduler", "local"}]
    with terminal([COMMAND, "clusters", "add", "far", *flags], laptop.user.environment) as adding:
        for prompt, answer in answers:
            adding.answer(prompt, answer)
        if stop is not None:
            adding.see(stop)
            return adding.interrupt(), adding.shown
        return adding.end(), adding.shown


ASKED = (("Scheduler", "local"), ("Account", ""), ("Partition", ""), ("Line of shell", "true # nothing"))


def test_a_person_is_asked_and_may_stop_before_anything_is_written(laptop: Laptop) -> None:
    code, shown = _in_a_terminal(laptop, ASKED[0], stop="Account")
    assert (code, "Nothing was written." in shown) == (130, True)
    code, shown = _in_a_terminal(laptop, *ASKED, ("(yes/no)", "perhaps"), ("(yes/no)", "no"))
    assert (code, laptop.fingerprint in shown, "Nothing was written." in shown) == (1, True, True)
    assert (laptop.node.known_hosts.exists(), laptop.table) == (False, OWN)
    code, shown = _in_a_terminal(laptop, *ASKED, ("(yes/no)", "yes"))
    assert code == 0, shown
    assert 'prologue = "true # nothing"' in laptop.table
    assert laptop.node.known_hosts.exists()


def test_a_key_that_the_host_revoked_needs_login_and_can_be_added_all_the_same(laptop: Laptop) -> None:
    laptop.node.authorized.write_text("")
    code, out, err = laptop.adds("--accept-host-key", laptop.fingerprint)
    assert (code, "far needs login: " in err, "[far] is in" in out) == (1, True, True)
    assert "accepts none of your keys" in err
    assert "[far]" in laptop.table  # for the day on which the key is right


def _public(node: Sshd) -> list[str]:
    return (node.folder / "host.pub").read_text().split()[:2]


def test_a_site_is_added_by_its_name_and_only_what_was_said_is_written(tmp_path: Path) -> None:
    with served(tmp_path, {}, PATH, clusters=OWN) as user:
        done = user.hpcflow("clusters", "add", "a2", "--site", "archer2", "--account", "e123", "--no-test")
        unknown = user.hpcflow("clusters", "add", "a3", "--site", "atlantis", "--no-test")

        assert done.returncode == 0, done.stderr
        assert "https://docs.archer2.ac.uk/" in done.stderr and "--host login.archer2.ac.uk" in done.stderr
        added = Path(user.home.clusters).read_text().partition("[a2]\n")[2]
        assert sorted(filter(None, added.splitlines())) == ['account = "e123"', 'site = "archer2"']
        (cluster,) = [each for each in user.asks("clusters", "list") if each["name"] == "a2"]
        assert cluster["scheduler"] == "slurm"
        assert (unknown.returncode, "no template for a site 'atlantis'" in unknown.stderr) == (2, True)
