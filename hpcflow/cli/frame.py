"""What all commands share: their exit codes, the server that they ask, and JSON."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Final

from hpcflow.core.model import HpcflowError, NotFound, UserError
from hpcflow.core.places import places

if TYPE_CHECKING:
    from hpcflow.sdk.connection import Server

__all__ = ["FAILED", "INTERRUPTED", "MISTAKE", "OK", "exit_code", "the_server", "write_json"]

OK: Final = 0
FAILED: Final = 1
MISTAKE: Final = 2
NO_SERVER: Final = 3
REFUSED: Final = 4
NOT_FOUND: Final = 5
INTERRUPTED: Final = 130


def exit_code(error: HpcflowError) -> int:
    """Return the exit code that stands for an error."""
    from hpcflow.sdk.connection import (
        NotAuthorised,
        Refused,
        ServerFault,
        ServerUnreachable,
        VersionMismatch,
    )

    match error:
        case UserError():
            return MISTAKE
        case ServerUnreachable() | ServerFault():
            return NO_SERVER
        case NotAuthorised() | VersionMismatch() | Refused():
            return REFUSED
        case NotFound():
            return NOT_FOUND
        case _:
            return FAILED


def the_server() -> Server:
    """Return the server of this environment, which must run: a command starts none by itself."""
    from hpcflow.sdk.connection import Server

    return Server(places(os.environ))


def write_json(value: object) -> None:
    print(json.dumps(value, indent=2, default=str))
