"""A person at a terminal: reads what a command shows there, answers it, presses Ctrl-C. Nothing here waits for ever."""

from __future__ import annotations

import codecs
import os
import pty
import select
import shutil
import subprocess
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from tests.processes import killed

#: How long a command may show nothing of what is waited for, in seconds.
PATIENCE_S: Final = 120.0
#: How long a person waits for a Ctrl-C to be heard before pressing it again, in seconds.
_AGAIN_S: Final = 1.0


class Terminal:
    """A terminal in which one command runs, as the leader of its session."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None) -> None:
        self._screen, keyboard = pty.openpty()
        # Python can't give a child a controlling terminal without code between fork and exec; util-linux can.
        setsid = [shutil.which("setsid") or "setsid", "--ctty", "--wait"]
        self._process = subprocess.Popen(
            [*setsid, *command], env=environment, stdin=keyboard, stdout=keyboard, stderr=keyboard
        )
        os.close(keyboard)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.shown = ""
        self._answered = 0

    def answer(self, prompt: str, answer: str) -> None:
        """Wait for a prompt that was not answered yet, and type the answer and Enter."""
        self.see(prompt)
        os.write(self._screen, f"{answer}\n".encode())

    def see(self, text: str) -> None:
        """Wait for a text after all that was waited for before."""
        end = time.monotonic() + PATIENCE_S
        while (found := self.shown.find(text, self._answered)) < 0:
            if not self._read(end - time.monotonic()):
                raise AssertionError(f"{text!r} was never shown, but {self.shown!r}")
        self._answered = found + len(text)

    def interrupt(self) -> int:
        """Press Ctrl-C until the command has ended; return its exit code.

        Once is not always enough: what arrives after Python wrote a prompt and before it reads the answer is only
        looked at when something was read (CPython 3.11, `PyOS_StdioReadline`).
        """
        for _ in range(int(PATIENCE_S / _AGAIN_S)):
            os.write(self._screen, b"\x03")
            again = time.monotonic() + _AGAIN_S
            while self._read(again - time.monotonic()):
                pass
            # The screen is closed a moment before the command has ended.
            with suppress(subprocess.TimeoutExpired):
                return self._process.wait(max(0.0, again - time.monotonic()))
        raise AssertionError(f"Ctrl-C did not end the command. It showed {self.shown!r}")

    def end(self) -> int:
        """Wait for the command's end; return its exit code."""
        end = time.monotonic() + PATIENCE_S
        while self._read(end - time.monotonic()):
            pass
        return self._process.wait(max(1.0, end - time.monotonic()))

    def close(self) -> None:
        """Hang up; what still runs in the terminal is killed."""
        os.close(self._screen)
        killed(self._process)

    def _read(self, wait_s: float) -> bool:
        """Take in what is shown next; return whether anything was, before the time was up and the command gone."""
        if not select.select([self._screen], [], [], max(0.0, wait_s))[0]:
            return False
        try:
            piece = os.read(self._screen, 1000)
        except OSError:  # EIO: nobody holds the other end any more
            return False
        self.shown += self._decoder.decode(piece)
        return bool(piece)


@contextmanager
def terminal(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Generator[Terminal]:
    """Run a command in a terminal of its own."""
    opened = Terminal(command, environment)
    try:
        yield opened
    finally:
        opened.close()
