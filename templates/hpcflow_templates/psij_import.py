"""How PSI/J is imported: late, and without what it does to the process."""

from __future__ import annotations

import signal
from collections.abc import Generator
from contextlib import contextmanager

__all__ = ["importing_psij"]


@contextmanager
def importing_psij() -> Generator[None]:
    """Leave SIGCHLD as it was.

    psij 0.9.11 installs a handler when it is imported in the main thread: the first child that ends would start a
    thread that looks every 0.1 s for ever.
    """
    before = signal.getsignal(signal.SIGCHLD)
    yield
    if signal.getsignal(signal.SIGCHLD) is not before:
        signal.signal(signal.SIGCHLD, before)
