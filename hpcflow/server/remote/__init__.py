"""The one door to a cluster: run a command, push files, read what workers wrote."""

from hpcflow.server.remote.this_machine import ThisMachine
from hpcflow.server.remote.transport import (
    Ask,
    Challenge,
    File,
    Gone,
    HostKey,
    Link,
    NeedsLogin,
    Transport,
    TransportError,
    UnknownHost,
    UntrustedHost,
    clean_environment,
)

__all__ = [
    "Ask",
    "Challenge",
    "File",
    "Gone",
    "HostKey",
    "Link",
    "NeedsLogin",
    "ThisMachine",
    "Transport",
    "TransportError",
    "UnknownHost",
    "UntrustedHost",
    "clean_environment",
]
