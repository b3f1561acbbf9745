"""What every test stands on: an environment without the user's own settings, and a home of its own."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest


def pytest_configure() -> None:
    """Drop what would make a test depend on who runs it, before anything is imported."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's `&` hands that down, to every child of a test
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in list(os.environ):
        if name.startswith("HPCFLOW_") or (name.startswith("SLURM_") and name != "SLURM_CONF"):
            del os.environ[name]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cluster") is not None and "SLURM_CONF" not in os.environ:
        pytest.skip("needs the mini Slurm: docker/slurm-cluster/up, then source its env")


@pytest.fixture
def hpcflow_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty HPCFLOW_HOME, private to the test."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("HPCFLOW_HOME", str(home))
    return home
