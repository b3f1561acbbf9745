"""Ports for programs that take one by its number, which nobody else gets in between."""

from __future__ import annotations

import socket


def reserved() -> tuple[socket.socket, int]:
    """Return a port of 127.0.0.1, and the socket that keeps it while it is open.

    The kernel gives the port to nobody who asks for any. Who asks for it by its number with SO_REUSEADDR, as servers
    do, may listen there.
    """
    kept = socket.socket()
    kept.bind(("127.0.0.1", 0))
    # Only now: before, the kernel might have chosen the port of somebody who keeps one in this way.
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return kept, int(kept.getsockname()[1])
