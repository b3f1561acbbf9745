"""Programs that tests start beside themselves: heard with a limit, and killed at the end whatever happened."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from contextlib import suppress
from typing import Final

#: How long what was killed may take to be gone, in seconds; more than that is a process that the kernel can't end.
_GONE_S: Final = 30.0


def killed(process: subprocess.Popen[str] | subprocess.Popen[bytes], *, group: bool = False) -> None:
    """Kill a program, unless it has ended, and close what it was read by.

    Args:
        process: the program; it may have been waited for.
        group: it leads a process group, all of which is killed.
    """
    with suppress(ProcessLookupError):
        if group:
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
    for pipe in (process.stdin, process.stdout, process.stderr):
        # Without reading on: a grandchild may hold the other end for as long as it likes.
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_GONE_S)


def next_line(process: subprocess.Popen[str], patience_s: float = 120.0) -> str:
    """Return the next line that a program writes to its stdout, a pipe, without the line's end.

    All of it is read this way, or by `communicate` once the lines that matter were read.
    """
    assert process.stdout is not None
    end, line = time.monotonic() + patience_s, b""
    while not line.endswith(b"\n"):
        ready = select.select([process.stdout], [], [], max(0.0, end - time.monotonic()))[0]
        byte = os.read(process.stdout.fileno(), 1) if ready else b""
        if not byte:
            why = f"ended with {process.poll()}" if ready else f"was silent for {patience_s:.0f} s"
            raise AssertionError(f"the program {why} after {line!r}")
        line += byte
    return line.decode().rstrip("\n")
