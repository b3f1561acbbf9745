"""One ssh connection to one cluster: made when it is needed, shared by all that need it, made again after it broke.

asyncssh is imported here and nowhere else, and nothing but `Connection.execute` runs anything: a bare ``conn.run``
returns normally, with half of the output, when the connection breaks under it (asyncssh 2.24).
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shlex
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn

import asyncssh

from hpcflow.server.remote.shell import LINE, Answer, framed, parse_answer
from hpcflow.server.remote.transport import Ask, Challenge, NeedsLogin, TransportError

__all__ = ["Connection", "LinkLost"]

#: How long a host may take to let us in: by itself, and with a person who looks for a phone.
_LOGIN_S: Final = 30.0
_PERSON_S: Final = 300.0
#: After a failure nobody tries again for this long, doubled each time up to the second number.
_PAUSE_S: Final = (1.0, 60.0)
#: The same where the host said no: fail2ban and its like count such tries.
_REFUSED_PAUSE_S: Final = (60.0, 900.0)
#: A session that the host refused is asked for again after these times; nothing has run.
_REOPEN_S: Final = (0.05, 0.2, 0.5, 1.0, 2.0, 3.0, 5.0, 5.0)
#: Two refusals in a row while others run: the host allows fewer at once than we thought.
_PATIENT: Final = 2
_HOPS_AT_MOST: Final = 8
#: Kinds of host keys and their signatures (RFC 8332, RFC 8709, RFC 5656); SHA-1 signatures are none of them.
_RSA: Final = ("rsa-sha2-256", "rsa-sha2-512")
_HOST_KEYS: Final = ("ssh-ed25519", *(f"ecdsa-sha2-nistp{bits}" for bits in (256, 384, 521)), *_RSA)
_SAID_AT_MOST: Final = 400


class LinkLost(TransportError):
    """The connection broke before the end was seen: what was asked for may have happened or not."""


@dataclass(slots=True)
class _Seen:
    """What one attempt to connect met, which asyncssh's errors don't tell."""

    #: A host key that known_hosts does not hold, where it was offered, and whether another one is held for the host.
    key: asyncssh.SSHKey | None = None
    host: str = ""
    port: int = 22
    changed: bool = False
    #: Kinds of answers that only a person has, as the host offered them.
    wants: list[str] = field(default_factory=list[str])


class _Client(asyncssh.SSHClient):
    """Answers what a host asks while we log in: nothing, unless a person is at hand, and each thing once."""

    def __init__(
        self, who: str, seen: _Seen, known: asyncssh.SSHKnownHosts, ask: Ask | None, lost: Callable[[], None]
    ) -> None:
        self._who = who
        self._seen = seen
        self._known = known
        self._ask = ask
        self._lost = lost

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost()

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Remember a key that known_hosts does not hold, to be shown; never accept it."""
        held, _, _, *_ = self._known.match(host, addr, None if port == 22 else port)
        self._seen.key, self._seen.host, self._seen.port, self._seen.changed = key, host, port, bool(held)
        return False

    async def password_auth_requested(self) -> str | None:
        answers = await self._answers("a password", Challenge(self._who, "", (("Password: ", False),)))
        return answers[0] if answers else None

    def kbdint_auth_requested(self) -> str | None:
        first = "keyboard-interactive" not in self._seen.wants
        self._seen.wants.append("keyboard-interactive")
        return "" if first and self._ask is not None else None

    async def kbdint_challenge_received(
        self, name: str, instructions: str, lang: str, prompts: Sequence[tuple[str, bool]]
    ) -> Sequence[str] | None:
        if not prompts:
            return []
        text = "\n".join(filter(None, (name.strip(), instructions.strip())))
        return await self._answers(None, Challenge(self._who, text, tuple((p, bool(echo)) for p, echo in prompts)))

    async def _answers(self, kind: str | None, challenge: Challenge) -> Sequence[str] | None:
        if kind is not None:
            again = kind in self._seen.wants
            self._seen.wants.append(kind)
            if again:  # the answer was wrong: another try is the person's to begin
                return None
        answers = None if self._ask is None else await self._ask(challenge)
        return answers if answers is not None and len(answers) == len(challenge.prompts) else None


class _Session(asyncssh.SSHClientSession[bytes]):
    """One command's channel: keeps what it writes, and knows when it is over."""

    def __init__(self, most: int) -> None:
        self.out, self.err = bytearray(), bytearray()
        self.status: int | None = None
        self.fault: Exception | None = None
        self.ended = asyncio.Event()
        self.writable = asyncio.Event()
        self.writable.set()
        self._most = most
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self._channel = chan

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        (self.out if datatype is None else self.err).extend(data)
        if len(self.out) + len(self.err) > self._most and self._channel is not None:
            self.fault = LinkLost(f"a command wrote more than {self._most >> 20} MiB")
            self._channel.abort()

    def exit_status_received(self, status: int) -> None:
        self.status = status

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.fault = self.fault or exc
        self.ended.set()
        self.writable.set()


class Connection:
    """Runs programs on one host, at most ``channels`` at once, over at most one connection."""

    def __init__(
        self,
        host: str,
        *,
        cluster: str,
        keepalive_s: float,
        channels: int,
        config: Sequence[str] | None = None,
        slept: Callable[[], float] | None = None,
    ) -> None:
        """Connect to nothing yet.

        Args:
            host: what `ssh` would be told: an alias of ssh_config, a name, or ``user@name``.
            cluster: its name in clusters.toml, for sentences.
            keepalive_s: a host that is silent for three times as long is gone.
            channels: sshd's MaxSessions is 10 by default, and it frees a place late: more than 5 are refused at times.
            config: ssh_config files; ``None``: the user's own.
            slept: tells how long this machine has slept since it started, in seconds.
        """
        self.host = host
        self._cluster = cluster
        self._keepalive_s = keepalive_s
        self._config = [path for path in _default_config() if os.access(path, os.R_OK)] if config is None else config
        self._conn: asyncssh.SSHClientConnection | None = None
        self._hops: list[asyncssh.SSHClientConnection] = []
        self._connecting = asyncio.Lock()
        self._places = asyncio.Semaphore(channels)
        self._most = channels
        self._open = 0
        self._failure: TransportError | None = None
        self._failures = 0
        self._not_before = 0.0
        self._slept = slept or _time_asleep
        self._slept_before = self._slept()
        #: How often it was connected, this time included.
        self.count = 0

    @property
    def needs_login(self) -> bool:
        return isinstance(self._failure, NeedsLogin)

    async def connect(self, ask: Ask | None = None, *, now: bool = False) -> asyncssh.SSHClientConnection:
        """Return the connection; make it first where there is none. However many wait for it, it is made once.

        Args:
            ask: asks a person what the host asks.
            now: try even if that failed a moment ago.

        Raises:
            NeedsLogin: only a person can get in.
            TransportError: the host can't be reached, or is not who it should be.
        """
        loop = asyncio.get_running_loop()
        async with self._connecting:
            self._drop_if_slept()
            if self._conn is not None:
                return self._conn
            if self._failure is not None and not now and ask is None and loop.time() < self._not_before:
                raise type(self._failure)(str(self._failure))
            try:
                self._conn = await self._open_all(ask)
            except TransportError as error:
                first, most = _REFUSED_PAUSE_S if isinstance(error, NeedsLogin) else _PAUSE_S
                self._not_before = loop.time() + min(most, first * 2**self._failures)
                self._failure, self._failures = error, self._failures + 1
                raise
            self._failure, self._failures = None, 0
            self.count += 1
            return self._conn

    async def close(self) -> None:
        """Close it; a later call connects again. Whoever is just connecting is not waited for: it may be a person."""
        conn, self._conn = self._conn, None
        hops, self._hops = self._hops, []
        for each in filter(None, (conn, *reversed(hops))):
            each.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await each.wait_closed()

    async def execute(
        self, program: str, stdin: AsyncIterable[bytes] | bytes, *, deadline_s: float, most: int
    ) -> Answer:
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
        nonce = secrets.token_hex(16)
        first = framed(program, nonce)
        async with self._channel(most) as (channel, session):
            try:
                async with asyncio.timeout(deadline_s):
                    await _feed(channel, session, first, stdin)
                    await session.ended.wait()
            except TimeoutError:
                raise LinkLost(f"{self.host} gave no answer within {deadline_s:g} s") from None
            finally:
                if not session.ended.is_set():
                    channel.abort()
        answer = parse_answer(bytes(session.out), bytes(session.err), nonce)
        if answer is not None and session.status is not None and session.fault is None:
            return answer
        if isinstance(session.fault, LinkLost):
            raise session.fault
        if session.fault is not None or session.status is None:
            reason = f": {session.fault}" if session.fault is not None and str(session.fault) else ""
            raise LinkLost(f"the connection to {self.host} broke{reason}")
        said = bytes(session.err or session.out).decode(errors="replace").strip()[-_SAID_AT_MOST:]
        raise LinkLost(f"the login shell on {self.host} did not run a command. It wrote: {said or 'nothing'}")

    # ---- channels

    @asynccontextmanager
    async def _channel(self, most: int) -> AsyncGenerator[tuple[asyncssh.SSHClientChannel[bytes], _Session]]:
        """Open a session channel when there is a place for it."""
        await self._places.acquire()
        held = 1
        try:
            refusals = 0
            while True:
                conn = await self.connect()
                session = _Session(most)
                try:
                    channel, _ = await conn.create_session(
                        partial(_itself, session),
                        LINE,
                        encoding=None,
                        request_pty=False,
                        env={},
                        send_env=[],
                        x11_forwarding=False,
                    )
                    break
                except asyncssh.ChannelOpenError as error:
                    if refusals == len(_REOPEN_S):
                        raise TransportError(f"{self.host} refuses a session: {error}") from error
                except (OSError, asyncssh.Error) as error:
                    raise LinkLost(f"the connection to {self.host} broke: {error}") from error
                refusals += 1
                if self._conn is not conn:
                    continue  # it broke before anything was asked for
                await asyncio.sleep(_REOPEN_S[refusals - 1])
                if refusals >= _PATIENT and self._most > max(1, self._open):
                    # Somebody else's end makes room: wait for that, with one place less for good.
                    self._most -= 1
                    held = 0
                    await self._places.acquire()
                    held, refusals = 1, 0
            self._open += 1
            try:
                yield channel, session
            finally:
                self._open -= 1
        finally:
            if held:
                self._places.release()

    # ---- connecting

    async def _open_all(self, ask: Ask | None) -> asyncssh.SSHClientConnection:
        """Connect, through every host that ssh_config puts in between."""
        hops: list[asyncssh.SSHClientConnection] = []
        try:
            conn = await self._open_one(self.host, None, ask, hops)
        except BaseException:
            for hop in reversed(hops):
                hop.abort()
            raise
        self._hops = hops
        return conn

    async def _open_one(
        self, spec: str, tunnel: asyncssh.SSHClientConnection | None, ask: Ask | None, hops: list[Any]
    ) -> asyncssh.SSHClientConnection:
        # Any: a list of connections, which asyncssh makes generic in no way that helps.
        user, host, port = _split(spec)
        named: dict[str, Any] = {"username": user} if user else {}  # Any: keyword arguments
        if port:
            named["port"] = port
        who = f"{user or ''}@{host}".removeprefix("@")
        seen = _Seen()
        try:
            options = await asyncio.to_thread(
                asyncssh.SSHClientConnectionOptions, host=host, config=self._config, **named
            )
            known = await asyncio.to_thread(_known_hosts, options.known_hosts)
            named["server_host_key_algs"] = _host_key_algorithms(options, known)
            if tunnel is None and isinstance(options.tunnel, str) and options.tunnel.lower() != "none":
                for hop in options.tunnel.split(","):
                    if len(hops) >= _HOPS_AT_MOST:
                        raise TransportError(f"ssh_config leads to {self.host} over more than {_HOPS_AT_MOST} hosts.")
                    tunnel = await self._open_one(hop.strip(), tunnel, ask, hops)
                    hops.append(tunnel)
            conn: asyncssh.SSHClientConnection | None = None

            def lost() -> None:
                if conn is not None and self._conn is conn:
                    self._forget()

            conn = await asyncssh.connect(
                host,
                config=self._config,
                tunnel=tunnel or (),
                known_hosts=known,
                client_factory=lambda: _Client(f"{options.username}@{host}", seen, known, ask, lost),
                agent_forwarding=False,
                x11_forwarding=False,
                keepalive_interval=self._keepalive_s,
                keepalive_count_max=3,
                connect_timeout=_LOGIN_S if ask is None else None,
                login_timeout=_LOGIN_S if ask is None else _PERSON_S,
                **named,
            )
            return conn
        except TransportError:
            raise
        except TimeoutError:
            raise TransportError(f"{who} did not let us in within {_LOGIN_S:g} s.") from None
        except (OSError, ValueError, asyncssh.Error) as error:
            self._explain(who, error, seen, asked=ask is not None)

    def _explain(self, who: str, error: Exception, seen: _Seen, *, asked: bool) -> NoReturn:
        """Raise the sentence for what went wrong while connecting."""
        if seen.key is not None:
            place = seen.host if seen.port == 22 else f"[{seen.host}]:{seen.port}"
            shown = f"{seen.key.get_algorithm().removeprefix('ssh-').upper()} key {seen.key.get_fingerprint()}"
            if seen.changed:
                raise TransportError(
                    f"The host key of {place} changed: it shows the {shown}, known_hosts holds another. Somebody "
                    "may listen in, or the host was set up anew. Ask its administrators; if they confirm that "
                    f"fingerprint, remove the old key with `ssh-keygen -R {shlex.quote(place)}`."
                ) from error
            raise TransportError(
                f"The host {place} is unknown: it shows the {shown}, and known_hosts holds none for it. Compare "
                f"the fingerprint with the one that the site publishes, then run `ssh {self.host}` once and accept it."
            ) from error
        if isinstance(error, asyncssh.HostKeyNotVerifiable):
            raise TransportError(f"The host key of {who} can't be trusted: {error.reason}.") from error
        # "Too many authentication failures": an agent with many keys; sshd's MaxAuthTries is 6.
        if isinstance(error, asyncssh.PermissionDenied) or "authentication failures" in str(error):
            wants = " and ".join(dict.fromkeys(seen.wants))
            if asked and wants:
                raise NeedsLogin(f"{self._cluster} needs login: {who} did not accept what was answered.") from error
            if wants:
                raise NeedsLogin(
                    f"{self._cluster} needs login: {who} asks for {wants}. Run `hpcflow clusters login "
                    f"{self._cluster}`; hpcflow never answers by itself."
                ) from error
            raise NeedsLogin(
                f"{self._cluster} needs login: {who} accepts none of your keys ({error}). Load the right one "
                "into ssh-agent, or name it with IdentityFile in ~/.ssh/config."
            ) from error
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        raise TransportError(f"{who} can't be reached: {reason.rstrip('.')}.") from error

    def _drop_if_slept(self) -> None:
        """Drop a connection that this machine slept through: the other end has forgotten it."""
        before, self._slept_before = self._slept_before, self._slept()
        if self._slept_before - before > 3 * self._keepalive_s and self._conn is not None:
            self._conn.abort()
            self._forget()

    def _forget(self) -> None:
        """Take the connection for lost, and close what led to it."""
        self._conn = None
        hops, self._hops = self._hops, []
        for hop in reversed(hops):
            hop.abort()


def _itself(session: _Session) -> _Session:
    return session


async def _feed(
    channel: asyncssh.SSHClientChannel[bytes], session: _Session, first: bytes, stdin: AsyncIterable[bytes] | bytes
) -> None:
    """Write to a program until all is written or it has ended, which is no fault: it may not need the rest."""
    with suppress(BrokenPipeError):
        if isinstance(stdin, bytes):
            channel.write(first + stdin)
        else:
            channel.write(first)
            async for piece in stdin:
                await session.writable.wait()
                if session.ended.is_set() or session.status is not None:
                    return
                channel.write(piece)
        channel.write_eof()


def _default_config() -> Sequence[str]:
    return [os.path.expanduser("~/.ssh/config")]


def _known_hosts(paths: object) -> asyncssh.SSHKnownHosts:
    """Return the host keys of the user's and the machine's known_hosts; lines that can't be read are no keys.

    Always something to check against: ``UserKnownHostsFile none`` would make asyncssh 2.24 accept every key.
    """
    named = [str(path) for path in paths] if isinstance(paths, list) and paths else ["~/.ssh/known_hosts"]
    lines: list[str] = []
    for name in dict.fromkeys((*named, "/etc/ssh/ssh_known_hosts")):
        with suppress(OSError):
            lines += Path(name).expanduser().read_text(errors="replace").splitlines()
    try:
        return asyncssh.import_known_hosts("\n".join(lines))
    except ValueError:
        good: list[str] = []
        for line in lines:
            with suppress(ValueError):
                asyncssh.import_known_hosts(line)
                good.append(line)
        return asyncssh.import_known_hosts("\n".join(good))


def _host_key_algorithms(
    options: asyncssh.SSHClientConnectionOptions, known: asyncssh.SSHKnownHosts
) -> tuple[str, ...]:
    """Return in which order keys are asked for: of the kinds that known_hosts holds first, then all others.

    asyncssh asks for the known kinds alone; a host that has lost its key of that kind then hangs up, and nobody could
    tell a changed key from a cut. Nothing is returned, and asyncssh's choice holds, where the host is known by its
    address alone, or the user chose.
    """
    if options.config.get("HostKeyAlgorithms"):
        return ()
    port = None if options.port == 22 else options.port
    keys, authorities, *_ = known.match(options.host_key_alias or options.host, "", port)
    kinds = dict.fromkeys(key.get_algorithm() for key in keys)
    held = [name for kind in kinds for name in (_RSA if kind == "ssh-rsa" else (kind,))]
    certified = [f"{kind}-cert-v01@openssh.com" for kind in _HOST_KEYS] if authorities else []
    return tuple(dict.fromkeys([*certified, *held, *_HOST_KEYS])) if keys or authorities else ()


def _split(spec: str) -> tuple[str | None, str, int | None]:
    """Return user, host and port of ``[ssh://][user@]host[:port]``, as ProxyJump writes it."""
    user, _, place = spec.removeprefix("ssh://").rpartition("@")
    host, _, port = place.rpartition(":")
    if host and port.isdigit() and ":" not in host.strip("[]").replace("]", ""):
        return user or None, host.strip("[]"), int(port)
    return user or None, place.strip("[]"), None


def _time_asleep() -> float:
    """Return how long this machine has slept since its start, in seconds, but for a constant."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
