"""A private HPCFLOW_HOME with a real server, and users who run their programs as files of their own against it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from hpcflow.core.places import Places
from hpcflow.sdk.connection import read_record
from tests import waiting
from tests.integration.servers import COMMAND
from tests.processes import killed

#: The server's waits, short enough for tests. In seconds.
QUICK: Final = {
    "HPCFLOW_SETTLE": "0.05",
    "HPCFLOW_JOURNAL_POLL": "0.05",
    "HPCFLOW_JOURNAL_POLL_MAX": "0.2",
    "HPCFLOW_LOCAL_POLL": "0.3",
    "HPCFLOW_ACCOUNTING_POLL": "1",
    "HPCFLOW_QUEUE_POLL": "0.5",
    "HPCFLOW_SUBMIT_SETTLE": "5",
    "HPCFLOW_SUBMIT_RETRY": "1",
    "HPCFLOW_KILL_GRACE": "1",
    "HPCFLOW_PROGRESS": "0",
}
#: How long anything may take before a test gives up on it, in seconds; a busy machine is slow, a busy site slower.
PATIENCE_S: Final = float(os.environ.get("LIVE_PATIENCE", "240"))
#: How often something that tells nobody by itself is looked at, in seconds.
_LOOK_S: Final = 0.1

Ended = subprocess.CompletedProcess[str]
T = TypeVar("T")


def until(look: Callable[[], T], why: Callable[[], str] = str) -> T:
    """Return what ``look`` returns as soon as that is true; fail with ``why`` when it never is."""
    return waiting.until(look, why, patience_s=PATIENCE_S, every_s=_LOOK_S)


def lines(ledger: Path) -> list[str]:
    """Return the whole lines that tasks appended to a file."""
    return ledger.read_text().splitlines() if ledger.exists() else []


def open_gate(gate: Path) -> None:
    """Let the one task go on that reads, or will read, from the named pipe ``gate``."""

    def open_for_writing() -> list[int]:
        try:
            return [os.open(gate, os.O_WRONLY | os.O_NONBLOCK)]
        except OSError:  # ENXIO: nobody reads yet
            return []

    os.close(until(open_for_writing)[0])


def is_alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except (FileNotFoundError, ProcessLookupError):
        return False


@dataclass(frozen=True)
class User:
    """Somebody with a folder of programs and an environment that names a server's home."""

    folder: Path
    environment: Mapping[str, str]

    @property
    def home(self) -> Places:
        return Places(self.environment["HPCFLOW_HOME"])

    def writes(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text, "utf-8")
        return path

    def begins(self, text: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Run a program and return while it runs."""
        program = self.writes("program.py", text)
        return subprocess.Popen(
            [sys.executable, str(program), *arguments],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def tries(self, text: str, *arguments: str, **environment: str) -> Ended:
        """Run a program to its end; it may fail."""
        begun = self.begins(text, *arguments, **environment)
        try:
            out, err = begun.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired as late:
            raise AssertionError(f"the program did not end.\n{late.output!r}\n{late.stderr!r}\n{self.log()}") from None
        finally:
            killed(begun)
        return Ended(begun.args, begun.returncode, out, err)

    def runs(self, text: str, *arguments: str) -> str:
        """Run a program that has to succeed and return what it printed, without the newline at its end."""
        ended = self.tries(text, *arguments)
        assert ended.returncode == 0, f"{ended.stderr}\n{self.log()}"
        return ended.stdout.rstrip("\n")

    def hpcflow(self, *arguments: str, **environment: str) -> Ended:
        """Run the ``hpcflow`` command; it may fail."""
        return subprocess.run(
            [COMMAND, *arguments],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def asks(self, *arguments: str) -> Any:  # Any: JSON
        """Return the answer of an ``hpcflow`` command as JSON."""
        ended = self.hpcflow(*arguments, "--json")
        assert ended.returncode == 0, f"{ended.stderr}\n{self.log()}"
        return json.loads(ended.stdout)

    def waits_for(self, dispatch: str) -> Any:  # Any: JSON
        """Wait for the end of a dispatch; return it with all its tasks in ``tasks_shown``."""
        ended = self.hpcflow("show", dispatch, "--wait", "--tasks", "--json")
        assert ended.returncode in {0, 1}, f"{ended.stderr}\n{self.log()}"
        return json.loads(ended.stdout)

    def dispatches(self) -> list[str]:
        """Return the ids of all dispatches, the newest first."""
        return [dispatch["id"] for dispatch in self.asks("dispatches")]

    def log(self) -> str:
        """Return the end of the server's log."""
        return self.hpcflow("logs", "-n", "40").stdout

    def server_pid(self) -> int:
        return int(self.asks("status")["pid"])

    def kills_the_server(self) -> None:
        """End the server as a crash would, and wait until it is gone."""
        pid = self.server_pid()
        watched = os.pidfd_open(pid)
        try:
            os.kill(pid, signal.SIGKILL)
            assert select.select([watched], [], [], PATIENCE_S)[0]
        finally:
            os.close(watched)


@contextmanager
def served(
    folder: Path, environment: Mapping[str, str], path: Iterable[Path | str], *, clusters: str = ""
) -> Generator[User]:
    """Start a server for a new home in ``folder``, and stop whichever serves it at the end.

    Args:
        folder: where nothing of this was made before.
        environment: beside HOME, USER, LANG and the short waits.
        path: folders of PATH.
        clusters: text of clusters.toml.
    """
    home = folder / "home"
    home.mkdir(mode=0o700)
    if clusters:
        (home / "clusters.toml").write_text(clusters)
    (folder / "tmp").mkdir()
    kept = {name: os.environ[name] for name in ("HOME", "USER", "LANG") if name in os.environ}
    variables = {
        **kept,
        **QUICK,
        "HPCFLOW_HOME": str(home),
        "TMPDIR": str(folder / "tmp"),
        "PATH": os.pathsep.join(map(str, path)),
        **environment,
    }
    user = User(folder, variables)
    try:
        started = user.hpcflow("start")
        assert started.returncode == 0, started.stderr
        yield user
    finally:
        _stop(user)


def _stop(user: User) -> None:
    """Stop the server, and fail where it does not stop in order; it is gone in any case."""
    record = read_record(user.home)
    try:
        stopped = user.hpcflow("stop")
        assert stopped.returncode == 0, stopped.stderr
    except (AssertionError, subprocess.TimeoutExpired):
        if record is not None:
            with suppress(ProcessLookupError):
                os.kill(record.pid, signal.SIGKILL)
        raise


@contextmanager
def begun(user: User, text: str, *arguments: str, **environment: str) -> Generator[subprocess.Popen[str]]:
    """Run a program beside the test, until the context is left at the latest."""
    running = user.begins(text, *arguments, **environment)
    try:
        yield running
    finally:
        killed(running)


def ended(user: User, running: subprocess.Popen[str]) -> tuple[str, str]:
    """Wait for a program's end, and return what it wrote; fail with the server's log when there is none."""
    try:
        return running.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"the program did not end.\n{user.log()}") from None
