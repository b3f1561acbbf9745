"""Whatever can't work is one clear sentence with the right exit code, and what was there before is still there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.world import PATIENCE_S, Ended, User

# ---- lattices that can't run

HEAD = """
import threading

import hpcflow as hf

@hf.electron
def one(x):
    return x

"""
GOOD = (
    HEAD
    + """
@hf.lattice(executor="local")
def good():
    return one(1)

print(hf.dispatch_sync(good)().result)
"""
)
IMPOSSIBLE = {
    "an unknown executor": (
        "executor='nowhere'",
        "return one(1)",
        r"There is no executor 'nowhere'; the clusters are local\.",
    ),
    "more cores than the machine has": (
        "executor='local', cpus=4000",
        "return one(1)",
        r".* 4000 cores on one node, and there are at most \d+ cores? on local, .*ask for less\.",
    ),
    "srun where there is no Slurm": (
        "executor='local', launcher='srun'",
        "return one(1)",
        r"Electron 'one': launcher='srun' needs Slurm, and 'local' is not under it; write launcher='mpirun'\.",
    ),
    "more memory than the machine has": (
        "executor='local', memory='100 TB'",
        "return one(1)",
        r".* [GT]iB of memory on one node, and there is at most [\d.]+ GiB on local, .*less\.",
    ),
    "a circle": (
        "executor='local'",
        "a = one(1); b = one(a); hf.wait(a, b); return b",
        r"In the lattice 'bad' wait\(\) closes a circle: .*one.*one.*\.",
    ),
    "nothing to run": (
        "executor='local'",
        "return 1",
        r"The lattice 'bad' calls no electron, so there is nothing to run: mark the functions .* with @electron\.",
    ),
    "an argument that can't be pickled": (
        "executor='local'",
        "return one([1, threading.Lock()])",
        r"The electron 'one' can't take .* as its argument 'x': .*lock.*\.",
    ),
    "a misspelt annotation": (
        "executor='local', memroy='1 GB'",
        "return one(1)",
        r"The lattice 'bad' has an unknown annotation 'memroy'; did you mean 'memory'\? Known: .*\.",
    ),
    "memory without a unit": (
        "executor='local', memory='8'",
        "return one(1)",
        r"The lattice 'bad': memory='8' is no amount of memory: write '8 GB' .*\.",
    ),
    "a truth value of what is not there yet": (
        "executor='local'",
        "return one(2) if one(1) == 1 else one(3)",
        r".*one.*(?:electron|lattice).*\.",
    ),
}


@pytest.mark.parametrize(("options", "body", "sentence"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_a_lattice_that_can_not_run_is_refused_with_one_sentence(
    options: str, body: str, sentence: str, user: User
) -> None:
    program = f"{HEAD}\n@hf.lattice({options})\ndef bad():\n    {body}\n\nhf.dispatch(bad)()\n"
    before = user.dispatches()

    dispatched = user.tries(program)
    planned = user.hpcflow("plan", str(user.folder / "program.py"))

    said = dispatched.stderr.splitlines()[-1]
    assert dispatched.returncode == 1
    assert "Traceback" not in dispatched.stderr
    assert re.fullmatch(sentence, said), said
    assert planned.returncode == 2
    assert planned.stdout == ""
    assert planned.stderr.rstrip("\n").split("\n")[-1] == said
    assert user.dispatches() == before


def test_the_server_serves_on_after_what_it_refused(user: User) -> None:
    refused = user.tries(GOOD.replace("'local'", '"nowhere"').replace('"local"', '"nowhere"'))

    assert refused.returncode == 1
    assert user.runs(GOOD) == "1"


# ---- servers that are not there, or not ours


@pytest.fixture
def alone(own_server: Callable[..., User]) -> User:
    """A user whose server has one dispatch that completed."""
    user = own_server()
    assert user.runs(GOOD) == "1"
    return user


def one_sentence(ended: Ended) -> str:
    """Return the one line that a command said, and check that it said it to nobody else."""
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1, ended.stderr
    return ended.stderr.rstrip("\n")


def server_process(user: User) -> Ended:
    """Run a server in the foreground where another one may run already."""
    return subprocess.run(
        [sys.executable, "-m", "hpcflow.server"],
        env=dict(user.environment),
        cwd=user.folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_a_dead_server_is_named_and_the_next_one_knows_all_dispatches(alone: User) -> None:
    (dispatch,) = alone.dispatches()
    pid = alone.server_pid()
    alone.kills_the_server()

    listed = alone.hpcflow("dispatches")
    status = alone.hpcflow("status", "--json")
    by_hand = alone.tries(GOOD, HPCFLOW_AUTOSTART="0")

    assert listed.returncode == 3
    assert f"(pid {pid}) is gone: nobody answers at" in one_sentence(listed)
    assert status.returncode == 3
    assert (json.loads(status.stdout)["pid"], json.loads(status.stdout)["home"]) == (None, alone.home.home)
    assert by_hand.returncode == 1
    assert "Start it with `hpcflow start`" in by_hand.stderr.splitlines()[-1]
    again = alone.tries(GOOD)
    assert (again.returncode, again.stdout) == (0, "1\n"), again.stderr
    assert again.stderr.splitlines()[0].startswith(f"Started the hpcflow server of {alone.home.home} (pid ")
    assert alone.dispatches()[1:] == [dispatch]


def test_a_wrong_token_is_refused_and_the_right_one_works_again(alone: User) -> None:
    before = alone.dispatches()
    token = Path(alone.home.token)
    right = token.read_text()
    token.write_text("A" * 43 + "\n")

    listed = alone.hpcflow("dispatches")
    dispatched = alone.tries(GOOD)

    assert listed.returncode == 4
    assert one_sentence(listed).startswith(f"The server refused the token in {alone.home.token}: ")
    assert dispatched.returncode == 1
    assert dispatched.stderr.splitlines()[-1].startswith("The server refused the token")
    token.write_text(right)
    assert alone.dispatches() == before


def test_a_second_server_on_this_host_says_who_is_there(alone: User) -> None:
    pid = alone.server_pid()

    second = server_process(alone)

    assert second.returncode == 4
    sentence = one_sentence(second)
    assert sentence.startswith(f"A server for {alone.home.home} runs already (pid {pid} on ")
    assert alone.server_pid() == pid
    assert alone.hpcflow("start").returncode == 0
    assert alone.server_pid() == pid


def test_a_server_on_another_host_is_left_alone_and_named_by_every_command(alone: User) -> None:
    notice = Path(alone.home.server_json)
    here = notice.read_text()
    pid = json.loads(here)["pid"]
    notice.write_text(json.dumps({**json.loads(here), "host": "login2.far"}))

    for arguments in (("status",), ("start",), ("stop",), ("restart",), ("dispatches",), ("show", "01"), ("ui",)):
        ended = alone.hpcflow(*arguments)
        assert ended.returncode == 3, arguments
        sentence = one_sentence(ended)
        assert f"runs on login2.far (pid {pid}" in sentence
        assert "`hpcflow start --take-over`" in sentence
    second = server_process(alone)
    assert second.returncode == 4
    assert "work from login2.far" in one_sentence(second)
    dispatched = alone.tries(GOOD)
    assert dispatched.returncode == 1
    assert "runs on login2.far" in dispatched.stderr.splitlines()[-1]

    notice.write_text(here)
    assert alone.server_pid() == pid
    assert alone.runs(GOOD) == "1"


# ---- a scheduler that is not there

SLURM = GOOD.replace('"local"', '"hpc"').replace("dispatch_sync(good)().result", "dispatch(good)()")


def test_a_cluster_whose_commands_are_missing_says_which_and_loses_no_dispatch(alone: User, tmp_path: Path) -> None:
    Path(alone.home.clusters).write_text('[hpc]\nscheduler = "slurm"\n')
    nowhere = tmp_path / "bin"
    nowhere.mkdir()
    assert alone.hpcflow("restart", PATH=f"{nowhere}{os.pathsep}{nowhere}").returncode == 0

    tested = alone.hpcflow("clusters", "test", "hpc")
    dispatch = alone.tries(SLURM)

    assert tested.returncode == 1
    (failed,) = (line for line in tested.stdout.splitlines() if line.startswith("FAILED"))
    assert re.search(r"\b(sinfo|scontrol|sbatch)\b", failed), failed
    assert "PATH" in failed or "not found" in failed or "no such" in failed.lower()
    assert "Traceback" not in tested.stdout + tested.stderr
    assert dispatch.returncode == 0, dispatch.stderr
    assert "hpc does not answer now" in dispatch.stderr
    assert "hpcflow restart" not in dispatch.stderr  # it would change nothing
    shown = alone.asks("show", dispatch.stdout.strip())
    assert (shown["status"], shown["counts"]) == ("RUNNING", {"ready": 1})
    assert alone.asks("cancel", dispatch.stdout.strip())["cancelled"] == 1
    assert alone.runs(GOOD.replace("executor='local'", "")) == "1"


@pytest.mark.parametrize(
    ("file", "text", "sentence"),
    [
        ("clusters.toml", "[hpc]\nscheduler = 'slurmm'\n", r".*slurmm.*"),
        ("clusters.toml", "[hpc]\nscheduler = 'slurm'\nqueue = 'x'\n", r".*\[hpc\].*no setting called 'queue'\..*"),
        ("clusters.toml", "[hpc\n", r".*clusters\.toml can't be read: .*"),
        ("config.toml", "default_executor = 'nowhere'\n", r".*default_executor is 'nowhere'; the clusters are .*"),
    ],
)
def test_a_configuration_that_can_not_be_is_told_by_start(
    file: str, text: str, sentence: str, own_server: Callable[..., User]
) -> None:
    user = own_server()
    path = Path(user.home.home) / file
    path.write_text(text)

    restarted = user.hpcflow("restart")

    path.unlink()
    assert restarted.returncode == 3
    assert re.fullmatch(sentence, one_sentence(restarted)), restarted.stderr
    assert user.runs(GOOD) == "1"
