"""What this machine knows of a login node's server that it is connected to; `hpcflow connect` writes it down."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from hpcflow.core.places import Places

__all__ = ["Link", "read_link"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """run/connection.json: while it exists, clients here talk to that server, and to no other."""

    #: The login node, as `hpcflow connect` was told it.
    to: str
    #: This machine, and the process on it that holds the connection.
    host: str
    pid: int
    #: Unix sockets here: what leads to the server, and what tells the holder of the connection what to do.
    address: str
    control: str
    #: The server there: its process, machine, home and release.
    server_pid: int
    server_host: str
    server_home: str
    version: str
    started_at: str
    #: How `hpcflow connect` was told to find Python and home there.
    prologue: str
    home: str


def read_link(where: Places) -> Link | None:
    """Return what this home is connected to, ``None`` when it has a server of its own."""
    try:
        with open(where.link, encoding="utf-8") as file:
            raw: dict[str, Any] = json.load(file)  # Any: JSON
        return Link(
            pid=int(raw["pid"]),
            server_pid=int(raw["server_pid"]),
            **{name: str(raw[name]) for name in Link.__dataclass_fields__ if name not in {"pid", "server_pid"}},
        )
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None
    except PermissionError:
        # Whoever reads the server's own record, in the same folder, says so.
        return None
