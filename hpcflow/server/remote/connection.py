"""One ssh connection to one cluster: made when it is needed, shared by all that need it, made again after it broke.

asyncssh is imported here and nowhere else, and nothing but `Connection.execute` runs anything: a bare ``conn.run``
returns normally, with half of the output, when the connection breaks under it (asyncssh 2.24).
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn

import asyncssh

from hpcflow.server.remote.carrier import (
    Carrier,
    Gate,
    LinkLost,
    SessionRefused,
    Sessions,
    Stdin,
    answered,
    cant_be_reached,
    changed_key,
    split_host,
    time_asleep,
    unknown_host,
)
from hpcflow.server.remote.shell import LINE, Answer, framed
from hpcflow.server.remote.transport import (
    Ask,
    Challenge,
    HostKey,
    NeedsLogin,
    TransportError,
    UnknownHost,
    UntrustedHost,
)

__all__ = ["Connection"]

#: How long a host may take to let us in: by itself, and with a person who looks for a phone.
_LOGIN_S: Final = 30.0
_PERSON_S: Final = 300.0
_HOPS_AT_MOST: Final = 8
#: Kinds of host keys and their signatures (RFC 8332, RFC 8709, RFC 5656); SHA-1 signatures are none of them.
_RSA: Final = ("rsa-sha2-256", "rsa-sha2-512")
_HOST_KEYS: Final = ("ssh-ed25519", *(f"ecdsa-sha2-nistp{bits}" for bits in (256, 384, 521)), *_RSA)


@dataclass(slots=True)
class _Seen:
    """What one attempt to connect met, which asyncssh's errors don't tell."""

    #: A host key that known_hosts does not hold, where it was offered, and whether another one is held for the host.
    key: asyncssh.SSHKey | None = None
    host: str = ""
    port: int = 22
    changed: bool = False
    #: Where an accepted key would be written down, and under which name; empty: under the one that it was offered with.
    file: str = ""
    alias: str = ""
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
        login: str = "",
        slept: Callable[[], float] | None = None,
    ) -> None:
        """Connect to nothing yet.

        Args:
            host: what `ssh` would be told: an alias of ssh_config, a name, or ``user@name``.
            cluster: its name in clusters.toml, for sentences.
            keepalive_s: a host that is silent for three times as long is gone.
            channels: sshd's MaxSessions is 10 by default, and it frees a place late: more than 5 are refused at times.
            config: ssh_config files; ``None``: the user's own.
            login: the command by which a person logs in, for sentences.
            slept: tells how long this machine has slept since it started, in seconds.
        """
        self._host = host
        self._cluster = cluster
        self._login = login or f"hpcflow clusters login {cluster}"
        self._keepalive_s = keepalive_s
        self._config = [path for path in _default_config() if os.access(path, os.R_OK)] if config is None else config
        self._gate: Gate[asyncssh.SSHClientConnection] = Gate(self._open_all)
        self._sessions = Sessions(host, channels)
        self._hops: list[asyncssh.SSHClientConnection] = []
        self._slept = slept or time_asleep
        self._slept_before = self._slept()

    @property
    def host(self) -> str:
        return self._host

    @property
    def count(self) -> int:
        return self._gate.count

    @property
    def needs_login(self) -> bool:
        return isinstance(self._gate.failure, NeedsLogin)

    async def connect(self, ask: Ask | None = None, *, now: bool = False) -> asyncssh.SSHClientConnection:
        return await self._gate.enter(ask, now=now, stale=self._drop_if_slept)

    async def close(self) -> None:
        """Close it; a later call connects again. Whoever is just connecting is not waited for: it may be a person."""
        conn, self._gate.held = self._gate.held, None
        hops, self._hops = self._hops, []
        for each in filter(None, (conn, *reversed(hops))):
            each.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await each.wait_closed()

    async def execute(self, program: str, stdin: Stdin, *, deadline_s: float, most: int) -> Answer:
        return await self._sessions.use(lambda: self._execute(program, stdin, deadline_s, most))

    async def _execute(self, program: str, stdin: Stdin, deadline_s: float, most: int) -> Answer:
        nonce = secrets.token_hex(16)
        first = framed(program, nonce)
        channel, session = await self._session(most)
        try:
            async with asyncio.timeout(deadline_s):
                await _feed(channel, session, first, stdin)
                await session.ended.wait()
        except TimeoutError:
            raise LinkLost(f"{self.host} gave no answer within {deadline_s:g} s") from None
        finally:
            if not session.ended.is_set():
                channel.abort()
        out, err = bytes(session.out), bytes(session.err)
        return answered(self.host, nonce, out, err, status=session.status, fault=session.fault)

    async def _session(self, most: int) -> tuple[asyncssh.SSHClientChannel[bytes], _Session]:
        """Open a session channel."""
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
        except asyncssh.ChannelOpenError as error:
            raise SessionRefused(str(error), gone=self._gate.held is not conn) from error
        except (OSError, asyncssh.Error) as error:
            raise LinkLost(f"the connection to {self.host} broke: {error}") from error
        return channel, session

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
        user, host, port = split_host(spec)
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
            seen.file, seen.alias = _known_hosts_files(options.known_hosts)[0], options.host_key_alias or ""
            named["server_host_key_algs"] = _host_key_algorithms(options, known)
            if tunnel is None and isinstance(options.tunnel, str) and options.tunnel.lower() != "none":
                for hop in options.tunnel.split(","):
                    if len(hops) >= _HOPS_AT_MOST:
                        raise TransportError(f"ssh_config leads to {self.host} over more than {_HOPS_AT_MOST} hosts.")
                    tunnel = await self._open_one(hop.strip(), tunnel, ask, hops)
                    hops.append(tunnel)
            conn: asyncssh.SSHClientConnection | None = None

            def lost() -> None:
                if conn is not None and self._gate.held is conn:
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
                raise UntrustedHost(changed_key(place, shown)) from error
            unknown = UnknownHost(unknown_host(place, shown, self.host))
            kind, _, fingerprint = shown.partition(" key ")
            text = seen.key.export_public_key("openssh").decode().split()
            line = " ".join([seen.alias or place, *text[:2]])
            unknown.key = HostKey(place, kind, fingerprint, os.path.expanduser(seen.file), line)
            raise unknown from error
        if isinstance(error, asyncssh.HostKeyNotVerifiable):
            raise UntrustedHost(f"The host key of {who} can't be trusted: {error.reason}.") from error
        # "Too many authentication failures": an agent with many keys; sshd's MaxAuthTries is 6.
        if isinstance(error, asyncssh.PermissionDenied) or "authentication failures" in str(error):
            wants = " and ".join(dict.fromkeys(seen.wants))
            if asked and wants:
                raise NeedsLogin(f"{self._cluster} needs login: {who} did not accept what was answered.") from error
            if wants:
                raise NeedsLogin(
                    f"{self._cluster} needs login: {who} asks for {wants}. Run `{self._login}`; "
                    "hpcflow never answers by itself."
                ) from error
            raise NeedsLogin(
                f"{self._cluster} needs login: {who} accepts none of your keys ({error}). Load the right one "
                "into ssh-agent, or name it with IdentityFile in ~/.ssh/config."
            ) from error
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        raise TransportError(cant_be_reached(who, reason)) from error

    def _drop_if_slept(self) -> None:
        """Drop a connection that this machine slept through: the other end has forgotten it."""
        before, self._slept_before = self._slept_before, self._slept()
        if self._slept_before - before > 3 * self._keepalive_s and self._gate.held is not None:
            self._gate.held.abort()
            self._forget()

    def _forget(self) -> None:
        """Take the connection for lost, and close what led to it."""
        self._gate.held = None
        hops, self._hops = self._hops, []
        for hop in reversed(hops):
            hop.abort()


_conforms: type[Carrier] = Connection


def _itself(session: _Session) -> _Session:
    return session


async def _feed(channel: asyncssh.SSHClientChannel[bytes], session: _Session, first: bytes, stdin: Stdin) -> None:
    """Write to a program until all is written or it has ended, which is no fault: it may not need the rest."""
    with suppress(BrokenPipeError):
        if isinstance(stdin, bytes):
            channel.write(first + stdin)
        else:
            channel.write(first)
            async for piece in stdin():
                await session.writable.wait()
                if session.ended.is_set() or session.status is not None:
                    return
                channel.write(piece)
        channel.write_eof()


def _default_config() -> Sequence[str]:
    return [os.path.expanduser("~/.ssh/config")]


def _known_hosts_files(paths: object) -> list[str]:
    """Return the user's own files of host keys, the one that new keys go to first."""
    return [str(path) for path in paths] if isinstance(paths, list) and paths else ["~/.ssh/known_hosts"]


def _known_hosts(paths: object) -> asyncssh.SSHKnownHosts:
    """Return the host keys of the user's and the machine's known_hosts; lines that can't be read are no keys.

    Always something to check against: ``UserKnownHostsFile none`` would make asyncssh 2.24 accept every key.
    """
    lines: list[str] = []
    for name in dict.fromkeys((*_known_hosts_files(paths), "/etc/ssh/ssh_known_hosts")):
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
