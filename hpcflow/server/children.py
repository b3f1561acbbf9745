"""Ends what the server started: each process of it is the leader of a session of its own."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress

__all__ = ["kill_session"]


def kill_session(process: asyncio.subprocess.Process) -> None:
    """Kill a process and all that it started, which would keep its output open, and may outlive it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
