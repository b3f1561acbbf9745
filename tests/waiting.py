"""Waiting in tests for what tells nobody by itself: with a limit, and never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

#: How long anything may take before a test gives up on it, in seconds.
PATIENCE_S: Final = 60.0

T = TypeVar("T")


def until(
    look: Callable[[], T], why: Callable[[], str] = str, *, patience_s: float = PATIENCE_S, every_s: float = 0.01
) -> T:
    """Return what ``look`` returns as soon as that is true; fail with ``why`` when it never is."""
    end = time.monotonic() + patience_s
    while not (seen := look()):
        if time.monotonic() > end:
            raise AssertionError(f"nothing after {patience_s:.0f} s. {why()}")
        time.sleep(every_s)
    return seen
