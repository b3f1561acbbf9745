"""A scheduler's double for a test: its commands in a folder to put on PATH, its process, and its faults."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.processes import killed

ROOT: Final = Path(__file__).parents[2]
COMMANDS: Final[Mapping[str, Sequence[str]]] = {
    "pbs": ("qsub", "qstat", "qdel", "qselect", "pbsnodes", "qhold", "qrls", "qsig"),
    "lsf": ("bsub", "bjobs", "bkill", "bhist", "bqueues", "bhosts", "bparams", "lsid", "lshosts", "bstop", "bresume"),
}


@dataclass(frozen=True)
class Double:
    """One scheduler that runs."""

    kind: str
    folder: Path

    @property
    def path(self) -> Path:
        """The folder of its commands."""
        return self.folder / "bin"

    def run(
        self, *argv: str, stdin: str = "", cwd: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run one of its commands as a user would."""
        return subprocess.run(
            [str(self.path / argv[0]), *argv[1:]],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=cwd or self.folder,
            env={"HOME": str(self.folder), "PATH": f"{self.path}:/usr/bin:/bin", **environment},
            timeout=120,
            check=False,
        )

    def control(self, **asked: Any) -> Any:  # Any: JSON
        """Change what it does, and return what it knows."""
        # A socket's name may not be long; the folder's may.
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with socket.socket(socket.AF_UNIX) as wire:
                wire.settimeout(60)
                wire.connect(f"/proc/self/fd/{fd}/socket")
                wire.sendall(json.dumps({"argv": ["control"], **asked}).encode() + b"\n")
                with wire.makefile("rb") as answer:
                    return json.loads(answer.readline())
        finally:
            os.close(fd)

    def set(self, **faults: Any) -> None:
        """Switch faults on and off; see `scheduler.Faults`."""
        self.control(faults=faults)

    def calls(self, command: str) -> list[list[str]]:
        """Return the argvs of every call of a command so far."""
        return [call for call in self.control()["calls"] if call[0] == command]


@contextmanager
def running(kind: str, folder: Path, *, cores: int = 4, first: int = 1) -> Generator[Double]:
    """Run a double in ``folder`` until the end; its jobs end with it."""
    double = Double(kind, folder)
    double.path.mkdir(parents=True)
    source = (Path(__file__).parent / "command.py").read_text()
    for name in COMMANDS[kind]:
        command = double.path / name
        command.write_text(f"#!{os.path.realpath(sys.executable)} -IS\n{source}")
        command.chmod(0o755)
    with (folder / "double.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.daemon", kind, str(folder), str(cores), str(first)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + 120
        while not (folder / "socket").exists():
            if process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"the double is not up: {(folder / 'double.log').read_text()}")
            try:
                process.wait(0.02)
            except subprocess.TimeoutExpired:
                continue
        yield double
    finally:
        process.terminate()  # its jobs end with it
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        killed(process)
