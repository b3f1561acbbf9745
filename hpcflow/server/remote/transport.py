"""What the server asks of every way to reach a cluster, and the errors of all of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from hpcflow.core.model import HpcflowError
from hpcflow.core.plugin import Command, Reply

__all__ = [
    "INHERITED",
    "Ask",
    "Challenge",
    "File",
    "Gone",
    "HostKey",
    "Link",
    "NeedsLogin",
    "Transport",
    "TransportError",
    "UnknownHost",
    "UntrustedHost",
    "clean_environment",
]

#: What a command, and so a job, inherits from the login side. Everything else stays: no key, no SBATCH_* default.
INHERITED: Final = frozenset(
    {
        *("HOME", "USER", "LOGNAME", "SHELL", "PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "XDG_RUNTIME_DIR"),
        *("SLURM_CONF", "PBS_CONF_FILE", "LSF_ENVDIR", "MODULEPATH", "MODULESHOME", "LMOD_CMD"),
        *("LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "CONDA_PREFIX", "EBPYTHONPREFIXES"),
    }
)


class TransportError(HpcflowError):
    """The cluster could not be reached or a file there not be read or written; nothing is known about its tasks."""


class Gone(TransportError):
    """A bag's directory was deleted, or its journals: they are missing, though the directory of all bags is there."""


@dataclass(frozen=True, slots=True)
class HostKey:
    """A key that a host showed and no known_hosts holds, and what `ssh` would write down if a person accepts it."""

    #: As a sentence calls the host: a name, or ``[name]:port``.
    place: str
    #: ``ED25519``.
    kind: str
    #: ``SHA256:…``, as sites publish it.
    fingerprint: str
    #: The known_hosts file, and the line for it without its end.
    file: str
    line: str


class UntrustedHost(TransportError):
    """The host may be another than it should be: its key changed, was revoked, or is not known."""


class UnknownHost(UntrustedHost):
    """No key is known for the host. Only a person may accept the one that it shows."""

    key: HostKey | None = None


class NeedsLogin(TransportError):
    """The cluster lets nobody in without a person: a password, a second factor, a key that was not offered."""


@dataclass(frozen=True, slots=True)
class File:
    """One file to push: a path below the destination, and its content in pieces."""

    name: str
    #: May be gone through more than once; with a ``size`` of their own they are not gone through to know it.
    pieces: Iterable[bytes]

    @property
    def size(self) -> int:
        known = getattr(self.pieces, "size", None)
        return known if isinstance(known, int) else sum(map(len, self.pieces))


class Transport(Protocol):
    """How the server reaches one cluster. Every call has a deadline and raises `TransportError`, but for `run`."""

    async def run(self, command: Command, deadline_s: float) -> Reply:
        """Run one command there. Never raises: an end that was not seen is a reply without exit code."""
        ...

    async def push(self, directory: str, folders: Sequence[str], files: Sequence[File]) -> None:
        """Make a directory with all its files appear at once (0700, files 0600); does nothing where it exists."""
        ...

    async def append(self, path: str, data: bytes) -> None:
        """Add bytes to the end of a file that exists, on disk when this returns.

        After an error they may be there or not, or in part; when it is repeated they may be there twice.
        """
        ...

    async def read_new(self, directory: str, offsets: Mapping[str, int]) -> dict[str, bytes]:
        """Return what the directory's files hold beyond the given offsets; files without news are left out.

        Raises:
            Gone: there is no such directory, though the one of its parent exists.
        """
        ...

    async def read(self, path: str, offset: int, size: int) -> bytes:
        """Return up to ``size`` bytes of one file from ``offset`` on."""
        ...


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a host asks a person: some text, and prompts of which some are answered in the open."""

    #: Who asks, as ``user@host``: a cluster behind a bastion has two hosts that may ask.
    host: str
    text: str
    #: Each prompt, and whether its answer may be shown while it is typed.
    prompts: tuple[tuple[str, bool], ...]


#: Asks a person and returns an answer for each prompt, or ``None`` when there will be none.
Ask = Callable[[Challenge], Awaitable[Sequence[str] | None]]


class Link(Protocol):
    """What a cluster has, beside its transport, that is reached over a network."""

    @property
    def needs_login(self) -> bool:
        """Whether only a person can bring the connection back (`login`)."""
        ...

    async def reach(self) -> None:
        """Connect now, even if that failed a moment ago; raise `TransportError` with the reason if it fails."""
        ...

    async def home(self) -> str:
        """Return the user's home directory there."""
        ...

    async def login(self, ask: Ask) -> None:
        """Connect with a person at hand. Answers are used once and kept nowhere.

        Raises:
            NeedsLogin: an answer was wrong, or there was none.
            TransportError: the host can't be reached or is not who it should be.
        """
        ...

    async def close(self) -> None:
        """Close the connection; what runs there goes on."""
        ...


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the part of an environment that commands on the cluster's login side get."""
    return {name: value for name, value in environ.items() if name in INHERITED}
