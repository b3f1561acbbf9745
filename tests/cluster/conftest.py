"""Servers on the mini Slurm that SLURM_CONF names, with the scheduler's commands counted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import hpcflow
from hpcflow.sdk.connection import Server
from tests.integration.servers import counting
from tests.integration.world import PATIENCE_S, User, served

PATH = (os.path.dirname(sys.executable), "/usr/local/bin", "/usr/bin", "/bin")
COUNTED = ("sbatch", "squeue", "sacct", "scancel")
#: By name, because a busy machine may not answer within the few seconds that a scheduler is looked for.
CLUSTERS = '[slurm]\nscheduler = "slurm"\n'


@dataclass(frozen=True)
class Login:
    """A login node of a Slurm cluster: a user there, and what the server asked of the scheduler."""

    user: User
    notes: Mapping[str, Path]

    def calls(self, command: str) -> list[str]:
        """Return the arguments of each call of a scheduler's command by the server."""
        return self.notes[command].read_text().splitlines()

    def slurm(self, *command: str) -> str:
        """Run a command of the scheduler as the user would, and return what it printed."""
        done = subprocess.run(
            command,
            env={**os.environ, "SLURM_CONF": self.user.environment["SLURM_CONF"]},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def queue(self, dispatch: str) -> list[tuple[str, str]]:
        """Return id and state of each array task of a dispatch that is in the queue."""
        names = ",".join(array["token"] for array in self.user.asks("show", dispatch)["arrays"])
        listed = self.slurm("squeue", "--me", "--array", "--noheader", "--format=%i %T", f"--name={names}")
        return [(task, state) for task, state in map(str.split, listed.splitlines())]

    def ask(self, path: str) -> dict[str, Any]:  # Any: JSON
        """Return what the server answers to GET, without the cost of a command."""
        return Server(self.user.home).ask("GET", path)

    def shown(self, dispatch: str) -> dict[str, Any]:  # Any: JSON
        """Return a dispatch as the server shows it."""
        return self.ask(f"/dispatches/{dispatch}")

    def tasks(self, dispatch: str) -> list[dict[str, Any]]:  # Any: JSON
        """Return the tasks of a dispatch as the server shows them."""
        answer = self.ask(f"/dispatches/{dispatch}/tasks")
        return [dict(zip(answer["columns"], row, strict=True)) for row in answer["rows"]]

    def said(self, dispatch: str) -> str:
        """Return all messages of a dispatch, one line each."""
        return "\n".join(message["text"] for message in self.shown(dispatch)["messages"])

    def sbatches(self, dispatch: str) -> int:
        """Return how often sbatch was called for a dispatch."""
        return sum(f"--comment=hpcflow {hpcflow.__version__} {dispatch}" in call for call in self.calls("sbatch"))

    def submitted(self, dispatch: str) -> int:
        """Return how many job arrays Slurm got for a dispatch, by the calls of sbatch and by the jobs' names."""
        calls = self.sbatches(dispatch)
        names = ",".join(array["token"] for array in self.shown(dispatch)["arrays"])
        listed = self.slurm("squeue", "--me", "--states=all", "--array", "--noheader", "--format=%F", f"--name={names}")
        jobs = set(listed.split())
        assert len(jobs) == calls, f"{calls} calls of sbatch, jobs {jobs}"
        return calls


@pytest.fixture(scope="session")
def _lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Login]:
    with ExitStack() as stack:
        yield log_in(stack, tmp_path_factory.mktemp("login"), os.environ["SLURM_CONF"], {})


@pytest.fixture
def login(_lasting: Login, tmp_path: Path) -> Login:
    """The server that all tests share; its counts begin with the test, and the user's folder is the test's own."""
    for notes in _lasting.notes.values():
        notes.write_text("")
    return replace(_lasting, user=replace(_lasting.user, folder=tmp_path))


@pytest.fixture
def own_login(tmp_path: Path) -> Iterator[Callable[..., Login]]:
    """A function that starts a server for this test alone, on any cluster, with further environment."""
    with ExitStack() as stack:

        def start(slurm_conf: str = os.environ.get("SLURM_CONF", ""), **environment: str) -> Login:
            return log_in(stack, tmp_path, slurm_conf, environment)

        yield start


def log_in(
    stack: ExitStack, folder: Path, slurm_conf: str, environment: Mapping[str, str], clusters: str = CLUSTERS
) -> Login:
    shims = folder / "bin"
    notes = {name: counting(name, shims) for name in COUNTED}
    variables = {"SLURM_CONF": slurm_conf, "HPCFLOW_FIRST_WIDTH": "8", **environment}
    return Login(stack.enter_context(served(folder, variables, (shims, *PATH), clusters=clusters)), notes)
