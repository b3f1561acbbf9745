"""The seam between the server and a scheduler: commands out, replies in, and nothing that waits.

A plugin is a class with the methods of `Plugin`, found by an entry point in the group ``hpcflow.executors``.
It holds no connection and keeps nothing between calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from hpcflow.core.model import JobArray, JobId, Limits, Observations
from hpcflow.core.queue import QueueView

__all__ = ["Accepted", "Ambiguous", "Command", "Plugin", "Refused", "Reply", "Submission"]


@dataclass(frozen=True, slots=True)
class Command:
    """One program to run on the cluster's login side: an argv (never a shell line), its stdin, added environment."""

    argv: tuple[str, ...]
    stdin: bytes = b""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back. ``exit_code`` is ``None`` when the end was not seen: a deadline, a cut connection.

    ``stderr`` then says why. A reply without an exit code is never evidence of anything.
    """

    exit_code: int | None
    stdout: bytes = b""
    stderr: bytes = b""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The scheduler took the array under this id."""

    job_id: JobId


@dataclass(frozen=True, slots=True)
class Refused:
    """The scheduler surely did not take it.

    ``retry_later``: a limit was full, the same array may be taken later. ``too_wide``: it takes arrays, none so wide.
    """

    reason: str
    retry_later: bool = False
    too_wide: bool = False


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """Nobody knows whether the array exists: look for its name before anything else."""

    reason: str


Submission = Accepted | Refused | Ambiguous


class Plugin(Protocol):
    """One scheduler's spelling. Every method is pure; each ``x() -> Command`` has its ``parse_x(Reply)``."""

    #: The scheduler's name in clusters.toml, and the name of the cluster where nothing is configured.
    name: ClassVar[str]

    def __init__(self, *, python: str, worker: str, root: str) -> None:
        """Make a plugin for one cluster.

        Args:
            python: interpreter that the cluster's commands may use (only `local` runs one).
            worker: absolute path of the worker's zipapp on the cluster.
            root: absolute path of hpcflow's directory on the cluster.
        """
        ...

    def probe(self) -> Command:
        """Ask whether the scheduler is here and answers."""
        ...

    def parse_probe(self, reply: Reply) -> str:
        """Return scheduler and version in a few words; raise `HpcflowError` with a sentence if it does not answer."""
        ...

    def limits(self) -> Command:
        """Ask for partitions, array sizes and the accounting's presence, in one command."""
        ...

    def parse_limits(self, reply: Reply) -> Limits:
        """Raise `HpcflowError` when the answer is no answer."""
        ...

    def submit(self, array: JobArray) -> Command:
        """Render the batch script (on stdin) and the submit command. Raise `UserError` for an option that can't be."""
        ...

    def parse_submit(self, array: JobArray, reply: Reply) -> Submission:
        """Classify: accepted, surely refused, or ambiguous; everything not on a known list is ambiguous."""
        ...

    def query(self, arrays: Sequence[JobArray], *, accounting: bool) -> tuple[Command, ...]:
        """Ask for every array task of these arrays by name: a fixed number of commands whatever the number of arrays.

        Args:
            arrays: at least one.
            accounting: whether the cluster keeps accounting (`Limits.accounting`).
        """
        ...

    def parse_query(self, arrays: Sequence[JobArray], replies: Sequence[Reply]) -> Observations:
        """Merge the replies, in the order of the commands. Never raises: what can't be read is unknown."""
        ...

    def queue(self) -> tuple[Command, ...]:
        """Ask for partitions, nodes and everybody's jobs: a fixed number of commands whatever the number of jobs."""
        ...

    def parse_queue(self, replies: Sequence[Reply]) -> QueueView:
        """Read the replies, in the order of the commands. Never raises: what can't be read is unknown."""
        ...

    def why_pending(self, raw: str) -> str | None:
        """Return in plain words why an array task waits or is suspended, as a phrase that begins with a verb.

        Args:
            raw: `Observation.raw` of a pending or suspended one. ``None``: the scheduler's own words are all that is to
                be said.
        """
        ...

    def cancel(self, arrays: Sequence[JobArray], *, pending_only: bool) -> Command:
        """End these arrays, by id and by name; ``pending_only`` spares array tasks that run."""
        ...

    def release(self, arrays: Sequence[JobArray]) -> Command | None:
        """Let array tasks go that somebody holds; ``None``: this scheduler holds nothing. Exit code 0: done."""
        ...

    def parse_cancel(self, reply: Reply) -> str | None:
        """Return ``None`` when the scheduler took the wish (or nothing was left to cancel), else what it said."""
        ...
