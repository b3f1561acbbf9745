"""Whether the server that feeds this machine's workers is there: what is still to come comes from it alone."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Final

__all__ = ["ServerWatch"]

#: A server that is gone for less was perhaps restarted.
_PATIENCE_S: Final = 4.0
_LOOK_S: Final = 1.0


class ServerWatch:
    """Looks at the server's notice, at most once a second."""

    def __init__(self, notice: str | None, clock: Callable[[], float] = time.monotonic) -> None:
        """Watch the server that wrote run/server.json at this path; ``None``: nobody can be watched from here."""
        self._notice = notice
        self._clock = clock
        self._looked_at = self._seen_at = clock()

    def gone(self) -> bool:
        """Return whether no server has been there for some seconds, as far as was looked."""
        now = self._clock()
        if self._notice is None or now - self._looked_at < _LOOK_S:
            return False
        self._looked_at = now
        if _is_there(self._notice):
            self._seen_at = now
        return now - self._seen_at >= _PATIENCE_S


def _is_there(notice: str) -> bool:
    """Return whether a server of this machine lives that wrote this notice; what can't be read is no answer."""
    try:
        with open(notice, encoding="utf-8") as file:
            server = json.load(file)
        here: bool = server["host"] == os.uname().nodename
        return here and os.path.exists(f"/proc/{int(server['pid'])}")
    except FileNotFoundError:
        return False
    except (OSError, ValueError, TypeError, KeyError):
        return True
