"""The one door to a cluster: run a command, push files, read what workers wrote."""

from hpcflow.server.remote.this_machine import ThisMachine
from hpcflow.server.remote.transport import (
    Ask,
    Challenge,
    File,
    Gone,
    Link,
    NeedsLogin,
    Transport,
    TransportError,
    clean_environment,
)

__all__ = [
    "Ask",
    "Challenge",
    "File",
    "Gone",
    "Link",
    "NeedsLogin",
    "ThisMachine",
    "Transport",
    "TransportError",
    "clean_environment",
]
