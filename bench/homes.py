"""A server of its own for each measurement: a fresh HPCFLOW_HOME, scheduler commands counted, CPU and memory read."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hpcflow.core.places import places
from hpcflow.sdk.connection import read_record
from hpcflow.sdk.startup import ensure

__all__ = ["SCHEDULER_COMMANDS", "Home", "fresh_home"]

SCHEDULER_COMMANDS: Final = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo", "sacctmgr", "srun")
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Home:
    """One HPCFLOW_HOME that the environment names at the moment."""

    path: Path
    calls: Path

    def start(self) -> None:
        """Start the server, as a first dispatch would, and return once it answers."""
        ensure(places(os.environ), tell=lambda _: None)

    def commands(self) -> Counter[str]:
        """Return how often the server called each command of the scheduler so far."""
        return Counter(self.calls.read_text(encoding="utf-8").split()) if self.calls.exists() else Counter()

    def cpu_s(self) -> float:
        """Return the CPU time of the server so far: user and system, all threads, without the commands that it ran."""
        fields = Path(f"/proc/{self._pid()}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S

    def memory_mb(self, field: str) -> float:
        """Return ``VmRSS`` or ``VmHWM`` of the server in units of 1,000,000 bytes."""
        for line in Path(f"/proc/{self._pid()}/status").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name == field:
                return int(value.split()[0]) * 1024 / 1e6
        raise LookupError(f"/proc/{self._pid()}/status has no {field}.")

    def _pid(self) -> int:
        record = read_record(places(os.environ))
        if record is None:
            raise LookupError(f"No server runs in {self.path}.")
        return record.pid


@contextmanager
def fresh_home() -> Generator[Home]:
    """Point HPCFLOW_HOME at an empty folder and the PATH at counting scheduler commands; stop and delete at the end."""
    root = Path(tempfile.mkdtemp(prefix="hf-bench-"))
    home = Home(root / "home", root / "calls")
    home.path.mkdir(mode=0o700)
    path = _counting_commands(root / "bin", home.calls)
    before = dict(os.environ)
    try:
        os.environ.update(HPCFLOW_HOME=str(home.path), HPCFLOW_PROGRESS="0", PATH=f"{path}:{before['PATH']}")
        yield home
    finally:
        # Each stop is a moment of a server that is up; one that never came up has nothing to stop.
        subprocess.run([sys.executable, "-m", "hpcflow.cli", "stop"], check=False, capture_output=True)
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(root, ignore_errors=True)


def _counting_commands(folder: Path, calls: Path) -> Path:
    """Make commands that write down their names and become the real ones; a command that is not here stays away."""
    folder.mkdir()
    for name in SCHEDULER_COMMANDS:
        real = shutil.which(name)
        if real is not None:
            shim = folder / name
            shim.write_text(f"#!/bin/sh\necho {name} >>'{calls}'\nexec '{real}' \"$@\"\n", encoding="utf-8")
            shim.chmod(0o755)
    return folder
