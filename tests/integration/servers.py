"""A server of one test's own, and programs that use it the way a user does: as processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

COMMAND = str(Path(sys.executable).with_name("hpcflow"))


def run(*arguments: str, cwd: Path, seconds: float = 240) -> subprocess.CompletedProcess[str]:
    """Run a program with the test's environment; it may fail."""
    return subprocess.run(
        arguments, cwd=cwd, capture_output=True, text=True, timeout=seconds, check=False, stdin=subprocess.DEVNULL
    )


def hpcflow(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the ``hpcflow`` command."""
    return run(COMMAND, *arguments, cwd=cwd)


def ask(*arguments: str, cwd: Path) -> Any:  # Any: JSON
    """Run the ``hpcflow`` command with ``--json`` and return its answer."""
    done = hpcflow(*arguments, "--json", cwd=cwd)
    if done.returncode != 0:
        raise AssertionError(f"hpcflow {' '.join(arguments)} ended with {done.returncode}: {done.stderr}")
    return json.loads(done.stdout)


@contextmanager
def stopped_afterwards(cwd: Path) -> Generator[None]:
    """Stop the server of HPCFLOW_HOME at the end, whoever started it."""
    try:
        yield
    finally:
        stopped = hpcflow("stop", cwd=cwd)
        if stopped.returncode != 0:
            raise AssertionError(f"hpcflow stop ended with {stopped.returncode}: {stopped.stderr}")


def counting(name: str, folder: Path) -> Path:
    """Make ``folder/name``, which notes each call and then is the real command; return the file of notes.

    Put the folder first on PATH before the server starts.
    """
    notes = folder / f"{name}.calls"
    folder.mkdir(exist_ok=True)
    real = next(
        str(path)
        for path in (Path(part) / name for part in os.environ["PATH"].split(os.pathsep))
        if path.parent != folder and os.access(path, os.X_OK)
    )
    shim = folder / name
    shim.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >>"{notes}"\nexec "{real}" "$@"\n')
    shim.chmod(0o755)
    notes.touch()
    return notes
