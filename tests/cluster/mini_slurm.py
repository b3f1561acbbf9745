"""Mini Slurms of a test's own, beside the one that all share. They need root."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.integration.world import PATIENCE_S

_SCRIPTS: Final = Path(__file__).parents[2] / "docker" / "slurm-cluster"


@contextmanager
def a_mini_slurm(*options: str) -> Generator[str]:
    """Bring a mini Slurm up with options of `up`, and take it down; yield the path of its slurm.conf."""
    # Beside the shared one, whose folder is root's, as munged wants; and short, because sockets lie below it.
    root = tempfile.mkdtemp(prefix="hpcflow-mini-", dir=Path(os.environ["SLURM_CONF"]).parents[1])

    def run(command: str, *options: str) -> None:
        with tempfile.TemporaryFile("w+") as said:  # daemons would keep a pipe open
            argv = [str(_SCRIPTS / command), "--root", root, *options]
            done = subprocess.run(argv, stdout=said, stderr=said, timeout=PATIENCE_S, check=False)
            said.seek(0)
            assert done.returncode == 0, said.read()

    try:
        run("up", *options)
        yield f"{root}/slurm.conf"
    finally:
        run("down")
