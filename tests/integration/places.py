"""One server on one scheduler, whichever: what the suite for all schedulers stands on."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.fakes.double import Double, running
from tests.integration.world import User, lines, served

#: Where a user of each scheduler looks for programs.
PATH: Final = (os.path.dirname(sys.executable), "/usr/bin", "/bin")

HEAD: Final = """
import json
import os
import signal
import sys
import time

import hpcflow as hf

def note(ledger, what):
    fd = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, f"{what}\\n".encode())
    os.close(fd)

"""


@dataclass(frozen=True)
class Place:
    """A user before a scheduler."""

    #: The scheduler's name, which is its cluster's.
    name: str
    user: User
    #: The scheduler, where it is a double.
    double: Double | None = None

    def program(self, text: str) -> str:
        """Return a program whose lattices run here: only the executor's name differs from place to place."""
        return HEAD + text.replace("PLACE", self.name)

    def dispatches(self, text: str, *arguments: object) -> str:
        """Run a program that prints a dispatch's id, and return that."""
        return self.user.runs(self.program(text), *map(str, arguments))

    def ended(self, dispatch: str) -> str:
        """Wait for a dispatch, and return its status."""
        return str(self.user.waits_for(dispatch)["status"])

    def result(self, dispatch: str) -> str:
        return self.user.runs("import sys, hpcflow as hf; print(hf.get_result(sys.argv[1]).result)", dispatch)

    def jobs(self, dispatch: str) -> list[str]:
        """Return the scheduler's ids of a dispatch's arrays."""
        return [array["job_id"] for array in self.user.asks("show", dispatch)["arrays"] if array["job_id"]]

    def noted(self, ledger: Path) -> list[str]:
        return sorted(lines(ledger))


@contextmanager
def place(name: str, folder: Path, *, table: str = "", **environment: str) -> Generator[Place]:
    """Start a server of its own at a scheduler: ``local``, ``slurm`` (as SLURM_CONF says), ``pbs`` or ``lsf``.

    Args:
        name: the scheduler's, and its cluster's.
        folder: where nothing of this was made before.
        table: further lines of the cluster's table in clusters.toml.
        environment: the server's settings.
    """
    with ExitStack() as stack:
        double: Double | None = None
        path: tuple[Path | str, ...] = PATH
        # By name, because a busy machine may not answer within the few seconds that a scheduler is looked for.
        clusters = f'[{name}]\nscheduler = "{name}"\n{table}' if table or name == "slurm" else ""
        if name == "slurm":
            path = (PATH[0], "/usr/local/bin", *PATH[1:])
            environment = {"SLURM_CONF": os.environ["SLURM_CONF"], **environment}
        elif name != "local":
            double = stack.enter_context(running(name, folder / "double", cores=4))
            path = (double.path, *PATH)
        (folder / "user").mkdir()
        user = stack.enter_context(served(folder / "user", environment, path, clusters=clusters))
        yield Place(name, user, double)
