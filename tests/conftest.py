"""What every test stands on: an environment without the user's own settings, a home of its own, and an end."""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, settings

#: How long each thing may take that the cleanup of a test waits for, in seconds.
_CLEANUP_S: Final = 120.0
#: How long threads that are left when all tests are over may go on, in seconds.
_LEFT_S: Final = 30.0


def pytest_configure() -> None:
    """Drop what would make a test depend on who runs it, before anything is imported."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's `&` hands that down, to every child of a test
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # A busy machine is no fault of an example; what CI asks of hypothesis beside that stays.
    settings.register_profile("patient", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("patient")
    for name in list(os.environ):
        if name.startswith("HPCFLOW_") or (name.startswith("SLURM_") and name != "SLURM_CONF"):
            del os.environ[name]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cluster") is not None and "SLURM_CONF" not in os.environ:
        pytest.skip("needs the mini Slurm: docker/slurm-cluster/up, then source its env")


# pytest-timeout's alarm rings once, and never again after a test has failed: a cleanup that waits for what does not end
# would wait for ever.


@pytest.hookimpl(optionalhook=True, wrapper=True)
def pytest_timeout_set_timer() -> Generator[None, object, object]:
    """Let a test's alarm ring again and again: it also ends what the blocks wait for that are left by it."""
    done = yield
    left_s = signal.getitimer(signal.ITIMER_REAL)[0]
    if left_s > 0:
        signal.setitimer(signal.ITIMER_REAL, left_s, _CLEANUP_S)
    return done


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Give each thing that fixtures wait for a time of its own, where tests have one."""
    if not item.config.getoption("timeout", None) or threading.current_thread() is not threading.main_thread():
        return (yield)

    def give_up(*_: object) -> None:
        pytest.fail(f"The cleanup waited for {_CLEANUP_S:.0f} s.")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, _CLEANUP_S, _CLEANUP_S)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


_ended_with = pytest.StashKey[int]()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[_ended_with] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Let no thread that a test has left keep the run from ending as its tests did."""
    status = config.stash.get(_ended_with, 1)

    def leave() -> None:
        time.sleep(_LEFT_S)
        print(f"\nThreads that tests left still go on after {_LEFT_S:.0f} s; the run ends without them:", flush=True)
        faulthandler.dump_traceback(1)
        os._exit(status)

    threading.Thread(target=leave, daemon=True).start()


@pytest.fixture
def hpcflow_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty HPCFLOW_HOME, private to the test."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("HPCFLOW_HOME", str(home))
    return home
