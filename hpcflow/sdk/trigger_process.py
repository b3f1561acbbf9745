"""`python -m hpcflow.sdk.trigger_process`: one trigger, until the server closes its standard input.

The first line of that input is JSON that says what follows it: the trigger's pickle. Then it stays open as long as the
server lives. The exit code is 0 when `observe` has returned, or was told to stop; 1 when it raised, and then the last
line of the output is the reason.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import secrets
import sys
import threading
import time
import traceback
from collections.abc import Callable
from io import BufferedReader
from typing import Any, Final

from hpcflow.core.model import HpcflowError, ulid
from hpcflow.core.places import places
from hpcflow.sdk.connection import Server
from hpcflow.sdk.pickling import load_with

__all__ = ["main"]

#: A trigger that is told to stop gets so long, in seconds.
_GRACE_S: Final = 2.0


class _Fenced(BaseException):
    """The server has stopped this trigger, or has started another process for it: no ``except Exception`` keeps it."""


class _Supervised:
    """Fires through the server, which may refuse."""

    def __init__(self, head: dict[str, Any]) -> None:  # Any: JSON
        self.attached_at = float(head["attached_at"])
        self.resumed = bool(head["resumed"])
        self._trigger, self._run = str(head["trigger"]), str(head["run"])
        self._server = Server(places(os.environ))

    def fire(self) -> str:
        # The id is ours: the request may be sent again when its answer was lost.
        body = {"run": self._run, "id": ulid(time.time_ns() // 1_000_000, secrets.token_bytes(10))}
        answer = self._server.ask("POST", f"/triggers/{self._trigger}/fire", body=body)
        if answer["fenced"]:
            raise _Fenced
        return str(answer["id"])


def main() -> int:
    # Nothing that the trigger starts shall hold the pipe open, or read from it.
    stream = os.fdopen(os.dup(0), "rb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    head: dict[str, Any] = json.loads(stream.readline())  # Any: JSON
    data = stream.read(head["size"])
    try:
        trigger: Any = load_with(data)  # Any: a class of the user's
        trigger._supervised = _Supervised(head)
        trigger.lattice_dispatch_id = head["dispatch"]
        over = threading.Event()
        threading.Thread(target=_end_with, args=(stream, trigger, over), daemon=True).start()
        returned = trigger.observe()
        if inspect.iscoroutine(returned):
            asyncio.run(returned)
        if not getattr(trigger, "observe_blocks", True):
            over.wait()
        return 0
    except _Fenced:
        return 0
    except Exception as error:  # the user's own code may raise anything
        traceback.print_exc()
        said = [line.strip() for line in str(error).splitlines() if line.strip()]
        # One line: the first says what it is, the last mostly why.
        plain = " \N{HORIZONTAL ELLIPSIS} ".join(dict.fromkeys([*said[:1], *said[-1:]]))
        ours = isinstance(error, HpcflowError)
        print(plain if ours and plain else f"{type(error).__name__}: {plain}", file=sys.stderr, flush=True)
        return 1


def _end_with(stream: BufferedReader, trigger: Any, over: threading.Event) -> None:  # Any: a class of the user's
    """Wait for the end of the input, and then end the process: soon by the trigger's own means, else without."""
    stream.read()
    over.set()
    stop: Callable[[], object] | None = getattr(trigger, "stop", None)
    timer = threading.Timer(_GRACE_S, os._exit, (0,))
    timer.daemon = True
    timer.start()
    if callable(stop):
        try:
            stop()
        except Exception:  # it is over in any case
            traceback.print_exc()


if __name__ == "__main__":
    sys.exit(main())
