"""`hpcflow clusters test` before hosts as they are: which step fails, and in which words."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hpcflow.core.model import ulid
from hpcflow.core.places import Places
from hpcflow.server.finding import cluster_maker
from hpcflow.server.settings import ClusterSettings, Settings
from hpcflow.server.trial import Asked, Trial
from tests.integration.sshd import Sshd, key, sshd
from tests.integration.test_ssh_hosts import NOISE, a_wrapper
from tests.integration.test_ssh_transport import in_loop
from tests.unit.ssh_server import Door, served

Step = dict[str, Any]  # Any: JSON


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Sshd]]:
    """A function that starts an sshd, which ``ssh cluster`` of this test's user reaches."""
    (tmp_path / "laptop/.ssh").mkdir(parents=True, mode=0o700)
    monkeypatch.setenv("HOME", str(tmp_path / "laptop"))
    with ExitStack() as stack:

        def begin(*options: str) -> Sshd:
            node = stack.enter_context(sshd(tmp_path / "node", *options))
            shutil.copy(node.config(), tmp_path / "laptop/.ssh/config")
            return node

        yield begin


async def trial_of(folder: Path, *, jobs: bool = False, **table: str) -> dict[str, Step]:
    """Test the cluster that an alias leads to, and return its steps by their names."""
    home = Places(str(folder / "home"))
    named = {"scheduler": "local", "host": "cluster", "python": sys.executable, "workdir": f"{folder}/work"}
    settings = ClusterSettings.model_validate({**named, "keys": f"{folder}/keys", **table})
    cluster = cluster_maker(home, Settings(ssh_journal_poll=0.1), dict(os.environ), sys.executable)("far", settings)
    trial = Trial(
        cluster,
        Asked(python=(sys.version_info[0], sys.version_info[1]), executable=sys.executable, jobs=jobs),
        Settings(ssh_journal_poll=0.1),
        keep_at=home.verdict("far"),
        now=lambda: datetime.now(UTC),
        new_id=lambda: ulid(0, os.urandom(10)),
    )
    try:
        answer = trial.report.told()
        while not answer["done"]:
            answer = await trial.report.changed(answer["version"], 10)
    finally:
        await trial.close()
        await cluster.close()
    return {step["step"]: step for step in answer["steps"]}


def states(steps: dict[str, Step]) -> dict[str, str]:
    return {name: step["state"] for name, step in steps.items()}


@in_loop
async def test_a_noisy_host_passes_up_to_a_job_and_its_noise_is_told(
    start: Callable[..., Sshd], tmp_path: Path
) -> None:
    shell = tmp_path / "shell"
    shell.write_text(f'#!/bin/sh\n{NOISE}\nexec /bin/sh "$@"\n')
    shell.chmod(0o755)
    start(a_wrapper(tmp_path, f'export SHELL={shell}; {NOISE}; sh -c "$SSH_ORIGINAL_COMMAND"; s=$?; {NOISE}; exit $s'))
    steps = await trial_of(tmp_path, jobs=True)
    assert set(states(steps).values()) == {"ok", "skipped"}, steps
    assert states(steps)["claims of two nodes"] == "skipped"
    assert "characters of its own, which do no harm: 'Welcome!'" in steps["login shell"]["detail"]
    assert steps["host key"]["detail"] == "it is one that known_hosts holds"
    assert os.listdir(tmp_path / "work/probes") == []


@pytest.mark.skipif(shutil.which("tcsh") is None, reason="needs tcsh")
@in_loop
async def test_csh_is_named_and_passes(start: Callable[..., Sshd], tmp_path: Path) -> None:
    start(a_wrapper(tmp_path, 'export SHELL=/bin/tcsh; exec /bin/tcsh -f -c "$SSH_ORIGINAL_COMMAND"'))
    steps = await trial_of(tmp_path)
    assert set(states(steps).values()) == {"ok"}, steps
    assert steps["login shell"]["detail"].startswith("/bin/tcsh: its start files are not read")


@in_loop
async def test_a_missing_tool_is_named(start: Callable[..., Sshd], tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "bash", "mkdir", "rm", "env", "grep", "gzip", "awk", "dd", "mv"):
        (tools / name).symlink_to(shutil.which(name) or name)
    start(a_wrapper(tmp_path, f'PATH={tools} SHELL=; export PATH SHELL; exec sh -c "$SSH_ORIGINAL_COMMAND"'))
    steps = await trial_of(tmp_path)
    assert list(states(steps).items())[-1] == ("tools", "failed")
    assert steps["tools"]["detail"].startswith("tar can't be found in the PATH of cluster")
    assert "command -v" in steps["tools"]["command"]


@in_loop
async def test_a_quota_that_is_used_up_fails_the_work_directory(start: Callable[..., Sshd], tmp_path: Path) -> None:
    start(a_wrapper(tmp_path, "trap '' XFSZ; ulimit -f 0; exec sh -c \"$SSH_ORIGINAL_COMMAND\""))
    steps = await trial_of(tmp_path)
    assert list(states(steps).items())[-1] == ("work directory", "failed")
    assert "on cluster: " in steps["work directory"]["detail"]


@in_loop
async def test_who_the_host_is_comes_before_who_you_are(start: Callable[..., Sshd], tmp_path: Path) -> None:
    node = start()
    public = " ".join((node.folder / "host.pub").read_text().split()[:2])
    for line, words in (
        ("", "is unknown: it shows the ED25519 key SHA256:"),
        (f"login {key(tmp_path / 'other')}", "changed: it shows the ED25519 key SHA256:"),
        (f"@revoked login {public}\n", "can't be trusted: "),
    ):
        node.known_hosts.write_text(line)
        steps = await trial_of(tmp_path)
        assert states(steps) == {"reach": "ok", "host key": "failed"}
        assert words in steps["host key"]["detail"]


@in_loop
async def test_a_key_that_was_revoked_there_fails_the_login(start: Callable[..., Sshd], tmp_path: Path) -> None:
    node = start(f"RevokedKeys {tmp_path}/revoked")
    shutil.copy(node.folder / "user.pub", tmp_path / "revoked")
    steps = await trial_of(tmp_path)
    assert states(steps) == {"reach": "ok", "host key": "ok", "login": "failed"}
    assert "accepts none of your keys" in steps["login"]["detail"]


@in_loop
async def test_a_second_factor_that_nobody_gives_fails_the_login(start: Callable[..., Sshd], tmp_path: Path) -> None:
    (tmp_path / "door").mkdir()
    door = Door(rounds=((([("Code: ", True)]), ["123"]),))
    async with served(tmp_path / "door", door):
        shutil.copy(tmp_path / "door/config", tmp_path / "laptop/.ssh/config")
        steps = await trial_of(tmp_path)
    assert states(steps) == {"reach": "ok", "host key": "ok", "login": "failed"}
    assert "asks for keyboard-interactive. Run `hpcflow clusters login far`" in steps["login"]["detail"]
    assert door.answers == []


@in_loop
async def test_a_host_that_is_not_there_fails_the_first_step(start: Callable[..., Sshd], tmp_path: Path) -> None:
    steps = await trial_of(tmp_path, host="no-such-host.invalid")
    assert states(steps) == {"reach": "failed"}
    assert "no-such-host.invalid can't be reached: " in steps["reach"]["detail"]


@in_loop
async def test_a_clock_that_is_off_is_told_and_stops_nothing(start: Callable[..., Sshd], tmp_path: Path) -> None:
    early = tmp_path / "early"
    early.mkdir()
    real = shutil.which("date") or "date"
    (early / "date").write_text(f'#!/bin/sh\nexec {real} -d "10 minutes ago" "$@"\n')
    (early / "date").chmod(0o755)
    start(a_wrapper(tmp_path, f'PATH={early}:$PATH SHELL=; export PATH SHELL; exec sh -c "$SSH_ORIGINAL_COMMAND"'))
    steps = await trial_of(tmp_path)
    assert states(steps)["work directory"] == "ok"
    assert " s behind this machine's" in steps["clock"]["detail"]


@in_loop
async def test_a_scheduler_that_is_not_there_fails_with_what_was_asked(
    start: Callable[..., Sshd], tmp_path: Path
) -> None:
    start()
    steps = await trial_of(tmp_path, scheduler="pbs")
    assert list(states(steps).items())[-1] == ("scheduler answers", "failed")
    assert steps["scheduler answers"]["command"]
