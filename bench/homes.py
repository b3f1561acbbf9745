"""A server of its own for each measurement: a fresh HPCFLOW_HOME, scheduler commands counted, CPU and memory read."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hpcflow.core.model import DispatchId
from hpcflow.core.places import places
from hpcflow.sdk.answers import Summary, parse_summary
from hpcflow.sdk.connection import Server, read_record
from hpcflow.sdk.startup import ensure
from hpcflow.server.store import ArrayRow, Store

__all__ = ["SCHEDULER_COMMANDS", "Home", "fresh_home"]

SCHEDULER_COMMANDS: Final = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo", "sacctmgr", "srun")
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_LONG_POLL_S: Final = 25
_POLL_S: Final = 1.0
_PATIENCE_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class Home:
    """One HPCFLOW_HOME that the environment names at the moment."""

    path: Path
    calls: Path

    def start(self) -> None:
        """Start the server, as a first dispatch would, and return once it answers."""
        ensure(places(os.environ), tell=lambda _: None)

    def stop(self) -> None:
        """Stop the server, if one is up; jobs in the queue go on."""
        subprocess.run([sys.executable, "-m", "hpcflow.cli", "stop"], check=False, capture_output=True)

    def newest(self) -> str:
        """Return the id of the dispatch that was made last."""
        newest: str = self._ask("/dispatches", limit=1)["dispatches"][0]["id"]
        return newest

    def changes(self, dispatch: str) -> Iterator[tuple[int, float]]:
        """Yield how many tasks have ended, and when this was told, until the dispatch has ended; as the page waits."""
        summary = self._summary(dispatch)
        yield summary.tasks_ended, time.time()
        while not summary.ended:
            summary = self._summary(dispatch, since=summary.version, wait=_LONG_POLL_S)
            yield summary.tasks_ended, time.time()

    def jobs(self, dispatch: str) -> dict[str, int]:
        """Return array tasks of each job array of a dispatch, by the scheduler's id of it."""
        return {array.job_id: array.width for array in self._summary(dispatch).arrays if array.job_id is not None}

    def wait_for_accounting(self, dispatch: str) -> None:
        """Wait until the server has heard from accounting how all array tasks of a dispatch ended.

        Raises:
            TimeoutError: it has not for five minutes.
        """
        until = time.monotonic() + _PATIENCE_S
        while any(array.state not in {"ended", "refused"} for array in self._summary(dispatch).arrays):
            if time.monotonic() > until:
                raise TimeoutError(f"Accounting did not tell the end of {dispatch} within {_PATIENCE_S:g} s.")
            time.sleep(_POLL_S)

    def arrays(self, dispatch: str) -> list[ArrayRow]:
        """Return what the store has of the arrays of a dispatch, once the server is stopped."""
        where = places(os.environ)
        store = Store.open(where.store, on_network=False)
        try:
            return store.arrays(DispatchId(dispatch))
        finally:
            store.close()

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

    def _summary(self, dispatch: str, **query: int) -> Summary:
        return parse_summary(self._ask(f"/dispatches/{dispatch}", **query))

    def _ask(self, path: str, **query: int) -> Any:  # Any: JSON
        return Server(places(os.environ)).ask("GET", path, query=dict(query), wait_s=query.get("wait", 0))

    def _pid(self) -> int:
        record = read_record(places(os.environ))
        if record is None:
            raise LookupError(f"No server runs in {self.path}.")
        return record.pid


@contextmanager
def fresh_home(clusters: str = "", environment: Mapping[str, str] | None = None) -> Generator[Home]:
    """Point HPCFLOW_HOME at an empty folder and the PATH at counting scheduler commands; stop and delete at the end.

    Args:
        clusters: what clusters.toml says; empty: there is none.
        environment: further variables for the server and the program.
    """
    root = Path(tempfile.mkdtemp(prefix="hf-bench-"))
    home = Home(root / "home", root / "calls")
    home.path.mkdir(mode=0o700)
    if clusters:
        (home.path / "clusters.toml").write_text(clusters, encoding="utf-8")
    path = _counting_commands(root / "bin", home.calls)
    before = dict(os.environ)
    try:
        os.environ.update(HPCFLOW_HOME=str(home.path), HPCFLOW_PROGRESS="0", PATH=f"{path}:{before['PATH']}")
        os.environ.update(environment or {})
        yield home
    finally:
        home.stop()
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
