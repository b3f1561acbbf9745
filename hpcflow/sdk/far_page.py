"""The page of a login node's server as it is reached from here: the process that holds the connection leads there."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

from hpcflow.sdk.connection import ServerUnreachable
from hpcflow.sdk.link import Link

__all__ = ["page_here"]

#: How long that process may take to open a way, in seconds.
_ANSWER_S: Final = 60.0


def page_here(link: Link, address: str) -> str:
    """Return an address of the page there as it is reached from here: the process that holds the connection leads on.

    Raises:
        ServerUnreachable: nothing holds the connection, or the page can't be reached.
    """
    parts = urlsplit(address)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as spoken:
            spoken.settimeout(_ANSWER_S)
            spoken.connect(link.control)
            spoken.sendall(json.dumps({"do": "page", "port": parts.port or 80}).encode() + b"\n")
            with spoken.makefile("rb") as lines:
                # Sentences for people come before the answer.
                parsed: Iterator[dict[str, Any]] = map(json.loads, lines)  # Any: JSON
                answer = next((line for line in parsed if "say" not in line), {})
    except (OSError, ValueError) as error:
        raise ServerUnreachable(
            f"Nothing here holds the connection to {link.to} any more ({error}). The server there goes on, and "
            "`hpcflow connect` leads to it again."
        ) from None
    if "done" not in answer:
        raise ServerUnreachable(str(answer.get("error") or f"The connection to {link.to} ended before it answered."))
    return parts._replace(netloc=f"127.0.0.1:{answer['done']['port']}").geturl()
