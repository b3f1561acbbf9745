"""What both ways to carry programs over ssh have in common: one connection, few sessions at once, honest ends."""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import AsyncIterable, Awaitable, Callable
from copy import copy
from typing import Final, Generic, Protocol, TypeVar

from hpcflow.server.remote.shell import Answer, parse_answer
from hpcflow.server.remote.transport import Ask, NeedsLogin, TransportError

__all__ = [
    "Carrier",
    "Gate",
    "LinkLost",
    "SessionRefused",
    "Sessions",
    "Stdin",
    "answered",
    "cant_be_reached",
    "changed_key",
    "split_host",
    "time_asleep",
    "unknown_host",
]

C = TypeVar("C")
T = TypeVar("T")

#: What a program reads: bytes, or what makes them anew for each try.
Stdin = bytes | Callable[[], AsyncIterable[bytes]]

#: After a failure nobody tries again for this long, doubled each time up to the second number.
_PAUSE_S: Final = (1.0, 60.0)
#: The same where the host said no: fail2ban and its like count such tries.
_REFUSED_PAUSE_S: Final = (60.0, 900.0)
#: A session that the host refused is asked for again after these times; nothing has run.
_REOPEN_S: Final = (0.05, 0.2, 0.5, 1.0, 2.0, 3.0, 5.0, 5.0)
#: Two refusals in a row while others run: the host allows fewer at once than we thought.
_PATIENT: Final = 2
_SAID_AT_MOST: Final = 400


class LinkLost(TransportError):
    """The connection broke before the end was seen: what was asked for may have happened or not."""


class SessionRefused(Exception):
    """The host gave no session, so nothing has run. With ``gone`` there was no connection any more to ask over."""

    def __init__(self, reason: str, *, gone: bool = False) -> None:
        super().__init__(reason)
        self.gone = gone


class Carrier(Protocol):
    """Runs programs on one host over at most one connection."""

    @property
    def host(self) -> str: ...

    @property
    def count(self) -> int:
        """How often it was connected, this time included."""
        ...

    @property
    def needs_login(self) -> bool: ...

    async def connect(self, ask: Ask | None = None, *, now: bool = False) -> object:
        """Make the connection where there is none. However many wait for it, it is made once.

        Args:
            ask: asks a person what the host asks.
            now: try even if that failed a moment ago.

        Raises:
            NeedsLogin: only a person can get in.
            TransportError: the host can't be reached, or is not who it should be.
        """
        ...

    async def execute(self, program: str, stdin: Stdin, *, deadline_s: float, most: int) -> Answer:
        """Run one program in a shell there, and return what it wrote once its end was seen.

        Args:
            program: one line of sh.
            stdin: what it reads.
            deadline_s: for all but connecting.
            most: bytes that it may write.

        Raises:
            LinkLost: its end was not seen; it may have run, or still run.
            TransportError: it did not run.
        """
        ...

    async def close(self) -> None:
        """Close the connection; a later call connects again."""
        ...


class Gate(Generic[C]):
    """Holds one connection, made when it is needed, and not again at once where that failed."""

    def __init__(self, make: Callable[[Ask | None], Awaitable[C]]) -> None:
        self._make = make
        self._making = asyncio.Lock()
        self._last: C | None = None
        self._failures = 0
        self._not_before = 0.0
        self.held: C | None = None
        self.failure: TransportError | None = None
        self.count = 0

    async def enter(self, ask: Ask | None, *, now: bool, stale: Callable[[], None]) -> C:
        """Return the connection. ``stale`` is called first, and may forget one that is none any more."""
        loop = asyncio.get_running_loop()
        async with self._making:
            stale()
            if self.held is not None:
                return self.held
            if self.failure is not None and not now and ask is None and loop.time() < self._not_before:
                raise copy(self.failure)
            try:
                made = await self._make(ask)
            except TransportError as error:
                first, most = _REFUSED_PAUSE_S if isinstance(error, NeedsLogin) else _PAUSE_S
                self._not_before = loop.time() + min(most, first * 2**self._failures)
                self.failure, self._failures = error, self._failures + 1
                raise
            self.failure, self._failures = None, 0
            self.count += made != self._last
            self.held = self._last = made
            return made


class Sessions:
    """At most so many programs at once on one connection."""

    def __init__(self, host: str, most: int) -> None:
        self._host = host
        self._places = asyncio.Semaphore(most)
        self._most = most
        self._open = 0

    async def use(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Do what opens one session, when there is a place for it, and again where the host refused one.

        Raises:
            TransportError: the host refuses for long.
        """
        await self._places.acquire()
        held = 1
        refusals = 0
        try:
            while True:
                self._open += 1
                try:
                    return await attempt()
                except SessionRefused as error:
                    if refusals == len(_REOPEN_S):
                        raise TransportError(f"{self._host} refuses a session: {error}") from error
                    gone = error.gone
                finally:
                    self._open -= 1
                refusals += 1
                if gone:
                    continue  # it broke before anything was asked for
                await asyncio.sleep(_REOPEN_S[refusals - 1])
                if refusals >= _PATIENT and self._most > max(1, self._open):
                    # Somebody else's end makes room: wait for that, with one place less for good.
                    self._most -= 1
                    held = 0
                    await self._places.acquire()
                    held, refusals = 1, 0
        finally:
            if held:
                self._places.release()


def answered(
    host: str, nonce: str, out: bytes, err: bytes, *, status: int | None, fault: Exception | None = None
) -> Answer:
    """Return what a program wrote, if its end was seen.

    Args:
        host: for sentences.
        nonce: of the marks around it.
        out: all of stdout.
        err: all of stderr.
        status: exit status of the session; ``None``: none came.
        fault: why there is none.

    Raises:
        LinkLost: its end was not seen.
    """
    answer = parse_answer(out, err, nonce)
    if answer is not None and status is not None and fault is None:
        return answer
    if isinstance(fault, LinkLost):
        raise fault
    if fault is not None or status is None:
        reason = f": {fault}" if fault is not None and str(fault) else ""
        raise LinkLost(f"the connection to {host} broke{reason}")
    said = (err or out).decode(errors="replace").strip()[-_SAID_AT_MOST:]
    raise LinkLost(f"the login shell on {host} did not run a command. It wrote: {said or 'nothing'}")


# ---- sentences


def unknown_host(place: str, shown: str, host: str) -> str:
    """Return what is said of a host that known_hosts does not hold; ``shown``: kind and fingerprint of its key."""
    return (
        f"The host {place} is unknown: it shows the {shown}, and known_hosts holds none for it. Compare "
        f"the fingerprint with the one that the site publishes, then run `ssh {host}` once and accept it."
    )


def changed_key(place: str, shown: str) -> str:
    """Return what is said of a host that shows another key than known_hosts holds."""
    return (
        f"The host key of {place} changed: it shows the {shown}, known_hosts holds another. Somebody "
        "may listen in, or the host was set up anew. Ask its administrators; if they confirm that "
        f"fingerprint, remove the old key with `ssh-keygen -R {shlex.quote(place)}`."
    )


def cant_be_reached(who: str, reason: str) -> str:
    return f"{who} can't be reached: {reason.rstrip('.')}."


# ---- small things


def split_host(spec: str) -> tuple[str | None, str, int | None]:
    """Return user, host and port of ``[ssh://][user@]host[:port]``, as ProxyJump writes it."""
    user, _, place = spec.removeprefix("ssh://").rpartition("@")
    host, _, port = place.rpartition(":")
    if host and port.isdigit() and ":" not in host.strip("[]").replace("]", ""):
        return user or None, host.strip("[]"), int(port)
    return user or None, place.strip("[]"), None


def time_asleep() -> float:
    """Return how long this machine has slept since its start, in seconds, but for a constant."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
