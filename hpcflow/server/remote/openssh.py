"""Programs carried by OpenSSH's own client, for sites where only that can log in.

Every program is one ``ssh`` on this machine, and a session of one master connection: the user's, where ControlPath
leads to one that runs, else one of ours. None of these processes can ask anybody anything.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

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
from hpcflow.server.remote.transport import Ask, NeedsLogin, TransportError, UnknownHost, UntrustedHost
from hpcflow.server.scratch import SHORT, SSH, Kept

__all__ = ["OpenSsh"]

_LOGIN_S: Final = 30.0
#: What only asks this machine.
_LOCAL_S: Final = 10.0
#: How often a master of ours that is logging in is asked whether it got there.
_STEP_S: Final = 0.05
_READ: Final = 1 << 16
#: Kept of what a master of ours writes: with -v that is a lot.
_NOTES: Final = 64 * 1024
#: What ssh gets of our environment, and what only logging in needs of it.
_ENVIRONMENT: Final = ("HOME", "PATH", "USER", "LOGNAME", "LANG", "TMPDIR", "XDG_RUNTIME_DIR")
_FOR_LOGIN: Final = ("SSH_AUTH_SOCK", "KRB5CCNAME", "SSH_SK_PROVIDER")

#: Whatever ssh_config says: no person, nothing forwarded, no command but ours, host keys checked.
_ALWAYS: Final = (
    "-x",
    "-a",
    "-T",
    *("-o", "BatchMode=yes"),
    *("-o", "StrictHostKeyChecking=yes"),
    *("-o", "ClearAllForwardings=yes"),
    *("-o", "ForwardX11Trusted=no"),
    *("-o", "Tunnel=no"),
    *("-o", "PermitLocalCommand=no"),
    *("-o", "RemoteCommand=none"),
    *("-o", "UpdateHostKeys=no"),
)
_SHORT: Final = 60
#: Said by our ProxyCommand: ssh, whose master is gone, would otherwise open a connection of its own for one program.
_NO_MASTER: Final = "hpcflow: no master"
_PID: Final = re.compile(r"pid=(\d+)")
_KEY: Final = re.compile(r"debug1: Server host key: ([a-z0-9@.-]+) (\S+)")
_TO: Final = re.compile(r"debug1: Authenticating to (\S+) as ")
_UNKNOWN: Final = re.compile(r"host key is known for (\S+) and you have requested strict checking")
_CHANGED: Final = re.compile(r"[Hh]ost key for (\S+) has changed and you have requested strict checking")
#: "mux_client_request_session: session request failed: Session open refused by peer" (OpenSSH 9.2)
_REFUSED: Final = "Session open refused"


@dataclass(frozen=True, slots=True)
class _Master:
    """A connection that runs: where its socket is, and whose it is. The same one when all of it is the same."""

    path: str
    pid: int
    ours: bool


class _Session(asyncio.SubprocessProtocol):
    """One program's ssh: keeps what it writes, and knows when it is over."""

    def __init__(self, most: int) -> None:
        self.out, self.err = bytearray(), bytearray()
        self.fault: LinkLost | None = None
        self.ended = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._most = most
        self._process: asyncio.SubprocessTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.SubprocessTransport)
        self._process = transport

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        (self.out if fd == 1 else self.err).extend(data)
        if len(self.out) + len(self.err) > self._most and self._process is not None:
            self.fault = LinkLost(f"a command wrote more than {self._most >> 20} MiB")
            self._end()
            self._process.close()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        """The process has ended and closed its pipes, or nobody wants the rest."""
        self.ended.set()
        self._writable.set()

    async def feed(self, first: bytes, stdin: Stdin) -> None:
        """Write to the program until all is written or it has ended, which is no fault: it may not need the rest."""
        assert self._process is not None
        pipe = self._process.get_pipe_transport(0)
        assert isinstance(pipe, asyncio.WriteTransport)
        pipe.write(first + stdin if isinstance(stdin, bytes) else first)
        if not isinstance(stdin, bytes):
            async for piece in stdin():
                await self._writable.wait()
                if pipe.is_closing():
                    return
                pipe.write(piece)
        pipe.write_eof()


class OpenSsh:
    """Runs programs on one host, at most ``channels`` at once, as sessions of one master connection."""

    def __init__(
        self,
        host: str,
        *,
        cluster: str,
        keepalive_s: float,
        channels: int,
        config: str | None = None,
        slept: Callable[[], float] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Connect to nothing yet.

        Args:
            host: what `ssh` would be told: an alias of ssh_config, a name, or ``user@name``.
            cluster: its name in clusters.toml, for sentences.
            keepalive_s: a host that is silent for three times as long is gone, where the master is ours.
            channels: sshd's MaxSessions is 10 by default.
            config: an ssh_config file; ``None``: the user's own.
            slept: tells how long this machine has slept since it started, in seconds.
            environ: the server's environment.
        """
        self._host = host
        self._cluster = cluster
        self._keepalive_s = keepalive_s
        user, name, port = split_host(host)
        where = ["-l", user] if user else []
        where += ["-p", str(port)] if port else []
        self._where = [*([] if config is None else ["-F", config]), *where]
        self._name = name
        environ = os.environ if environ is None else environ
        self._environment = {key: environ[key] for key in _ENVIRONMENT if key in environ}
        self._login_environment = self._environment | {key: environ[key] for key in _FOR_LOGIN if key in environ}
        self._gate: Gate[_Master] = Gate(self._open)
        self._sessions = Sessions(host, channels)
        self._slept = slept or time_asleep
        self._slept_before = self._slept()
        #: The user's ControlPath, ``""`` where there is none, ``None`` before ssh was asked.
        self._theirs: str | None = None
        #: Our own master, and the private folder of its socket.
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._folder: Kept | None = None

    @property
    def host(self) -> str:
        return self._host

    @property
    def count(self) -> int:
        return self._gate.count

    @property
    def needs_login(self) -> bool:
        return isinstance(self._gate.failure, NeedsLogin)

    async def connect(self, ask: Ask | None = None, *, now: bool = False) -> object:
        """See `Carrier`. Nobody is asked anything: a person opens a master, which is found at once."""
        return await self._master(now=now or ask is not None)

    async def close(self) -> None:
        """Close our own connection; the user's goes on."""
        self._gate.held = None
        await self._end_ours()
        if self._folder is not None:
            await asyncio.to_thread(self._folder.close)
            self._folder = None

    async def execute(self, program: str, stdin: Stdin, *, deadline_s: float, most: int) -> Answer:
        return await self._sessions.use(lambda: self._execute(program, stdin, deadline_s, most))

    async def _execute(self, program: str, stdin: Stdin, deadline_s: float, most: int) -> Answer:
        nonce = secrets.token_hex(16)
        master = await self._master()
        # A session has its connection already: BatchMode and host keys were the master's.
        options = [*_ALWAYS, *_socket(master.path), "-o", f"ProxyCommand=echo {_NO_MASTER} >&2; exit 1"]
        ssh, session = await self._session([*options, "-o", "LogLevel=ERROR"], most)
        try:
            async with asyncio.timeout(deadline_s):
                await session.feed(framed(program, nonce), stdin)
                await session.ended.wait()
        except TimeoutError:
            self._doubt(master)
            raise LinkLost(f"{self.host} gave no answer within {deadline_s:g} s") from None
        finally:
            ssh.close()  # kills it where it runs; the master holds its pipes as long as the program there does
        if session.fault is not None:
            raise session.fault
        return self._told(master, nonce, bytes(session.out), bytes(session.err), ssh.get_returncode())

    def _told(self, master: _Master, nonce: str, out: bytes, err: bytes, status: int | None) -> Answer:
        """Return the answer, or raise what its absence means. ssh's own exit code is 255 when it failed itself."""
        if status == 255 and f"<{nonce}>".encode() not in out:
            said = err.decode(errors="replace")
            if _REFUSED in said:
                raise SessionRefused("open failed")
            self._doubt(master)
            if _NO_MASTER in said and "mux_client" not in said:
                raise SessionRefused("the master connection is gone", gone=True)
        try:
            return answered(self.host, nonce, out, err, status=None if status == 255 else status)
        except LinkLost:
            # An exit code of 255 may be the program's own: then the marks say so.
            if status == 255 and f"</{nonce} 255>".encode() in out:
                return answered(self.host, nonce, out, err, status=status)
            self._doubt(master)
            raise

    def _doubt(self, master: _Master) -> None:
        """Look, before the next program, whether that master still runs."""
        if self._gate.held == master:
            self._gate.held = None

    # ---- connecting

    async def _master(self, *, now: bool = False) -> _Master:
        if self._gate.failure is not None and not now:
            now = await self._user_s() is not None  # it costs nobody anything to look
        return await self._gate.enter(None, now=now, stale=self._drop_if_slept)

    async def _open(self, _: Ask | None) -> _Master:
        """Return the user's master where one runs, else ours, started if need be."""
        if (found := await self._user_s()) is not None:
            await self._end_ours()
            return found
        if self._process is not None and self._process.returncode is None and self._folder is not None:
            path = os.path.join(self._folder.path, "m")
            if await self._running(path) is not None:
                return _Master(path, self._process.pid, ours=True)
        return await self._start_master()

    async def _user_s(self) -> _Master | None:
        """Return the user's own master, ``None`` where none runs."""
        if self._theirs is None:
            code, out, err = await self._asked("-G", self._name)
            if code != 0:
                raise TransportError(cant_be_reached(self.host, _last(err) or "ssh can't read its configuration"))
            found = re.search(rb"^controlpath (.*)$", out, re.MULTILINE | re.IGNORECASE)
            path = os.fsdecode(found[1]).strip() if found is not None else ""
            self._theirs = "" if path.lower() == "none" else path
        if not self._theirs:
            return None
        pid = await self._running(self._theirs)
        return None if pid is None else _Master(self._theirs, pid, ours=False)

    async def _running(self, path: str) -> int | None:
        """Return the process of the master at a socket, ``None`` where there is none."""
        if not os.path.exists(path):
            return None
        code, out, err = await self._asked(*_socket(path), "-O", "check", self._name)
        found = _PID.search((out + err).decode(errors="replace"))
        return int(found[1]) if code == 0 and found is not None else None

    async def _start_master(self) -> _Master:
        await self._end_ours()
        if self._folder is None:
            self._folder = await asyncio.to_thread(_private_folder)
        path = os.path.join(self._folder.path, "m")
        with suppress(FileNotFoundError):
            os.unlink(path)
        # -v: only there does ssh say which key a host shows. No ControlPersist: it ends with us.
        options = [*("-v", "-M", "-N"), *_ALWAYS, *("-S", _literal(path), "-o", "ControlPersist=no")]
        options += [*("-o", f"ConnectTimeout={_LOGIN_S:.0f}", "-o", "ConnectionAttempts=1")]
        options += [*("-o", f"ServerAliveInterval={max(1, round(self._keepalive_s))}", "-o", "ServerAliveCountMax=3")]
        process = await self._start(options, "--", self._name, login=True)
        self._process = process
        notes = bytearray()
        reading = self._reading = asyncio.create_task(_keep(process.stderr, notes))
        try:
            async with asyncio.timeout(_LOGIN_S):
                while process.returncode is None:
                    if os.path.exists(path) and await self._running(path) is not None:
                        reading.add_done_callback(lambda _: self._gone(process))
                        return _Master(path, process.pid, ours=True)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_STEP_S):
                            await process.wait()
        except TimeoutError:
            await _end(process)
            raise TransportError(f"{self.host} did not let us in within {_LOGIN_S:g} s.") from None
        except BaseException:
            with suppress(ProcessLookupError):
                process.kill()
            raise
        await reading
        raise self._explained(notes.decode(errors="replace"))

    def _gone(self, process: asyncio.subprocess.Process) -> None:
        """Forget our master, whose end of stderr was seen."""
        held = self._gate.held
        if held is not None and held.ours and held.pid == process.pid:
            self._gate.held = None

    def _explained(self, said: str) -> TransportError:
        """Return the error for what ssh wrote while it tried to log in."""
        shown = "key that ssh does not show"
        if (keys := _KEY.findall(said)) != []:
            kind, fingerprint = keys[-1]
            shown = f"{kind.removeprefix('ssh-').upper()} key {fingerprint}"
        lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith("debug1: ")]
        text = "\n".join(lines)
        if (changed := _CHANGED.search(text)) is not None or "HOST IDENTIFICATION HAS CHANGED" in text:
            return UntrustedHost(changed_key(changed[1] if changed is not None else self.host, shown))
        if (unknown := _UNKNOWN.search(text)) is not None or "Host key verification failed" in text:
            places = [unknown[1]] if unknown is not None else (_TO.findall(said) or [self.host])
            return UnknownHost(unknown_host(places[-1], shown, self.host))
        last = next((line for line in reversed(lines) if not line.startswith(("OpenSSH_", "Authenticated"))), "")
        if "Permission denied" in text or "authentication failures" in text:
            return NeedsLogin(
                f"{self._cluster} needs login: {self.host} accepts none of your keys without a person ({last}). "
                f"{self._how_to_log_in()}"
            )
        return TransportError(cant_be_reached(self.host, last or "ssh ended and said nothing"))

    def _how_to_log_in(self) -> str:
        if self._theirs:
            return f"Open a master with `ssh {self.host}` in a terminal; hpcflow finds it and leaves it open."
        return (
            f"Give {self._name} the lines `ControlMaster auto`, `ControlPath ~/.ssh/master-%C` and `ControlPersist "
            f"yes` in ~/.ssh/config, and open a master with `ssh {self.host}` in a terminal."
        )

    def _drop_if_slept(self) -> None:
        """Drop a connection that this machine slept through, as far as it is ours to drop."""
        before, self._slept_before = self._slept_before, self._slept()
        if self._slept_before - before > 3 * self._keepalive_s and self._gate.held is not None:
            if self._gate.held.ours and self._process is not None and self._process.returncode is None:
                self._process.kill()
                self._process = None
            self._gate.held = None

    async def _end_ours(self) -> None:
        if self._process is not None:
            await _end(self._process)
            self._process = None

    # ---- processes

    async def _asked(self, *words: str) -> tuple[int, bytes, bytes]:
        """Ask what ssh on this machine knows without connecting."""
        process = await self._start([], *words)
        try:
            async with asyncio.timeout(_LOCAL_S):
                out, err = await process.communicate()
        except TimeoutError:
            raise TransportError(f"`ssh {words[0]}` on this machine gave no answer within {_LOCAL_S:g} s.") from None
        finally:
            await _end(process)
        return process.returncode or 0, out, err

    async def _start(self, options: Sequence[str], *words: str, login: bool = False) -> asyncio.subprocess.Process:
        """Start ssh, which reads nothing and has no terminal where it could ask."""
        try:
            return await asyncio.create_subprocess_exec(
                *self._argv(options, *words),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL if login else asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=self._login_environment if login else self._environment,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise self._no_ssh() from None

    async def _session(self, options: Sequence[str], most: int) -> tuple[asyncio.SubprocessTransport, _Session]:
        loop = asyncio.get_running_loop()
        argv = self._argv(options, "--", self._name, LINE)
        try:
            return await loop.subprocess_exec(
                lambda: _Session(most), *argv, env=self._environment, start_new_session=True
            )
        except FileNotFoundError:
            raise self._no_ssh() from None

    def _argv(self, options: Sequence[str], *words: str) -> list[str]:
        return ["ssh", *self._where, *options, *words]

    def _no_ssh(self) -> TransportError:
        return TransportError(
            f'{self._cluster} has transport = "openssh", and there is no `ssh` on this machine\'s PATH.'
        )


_conforms: type[Carrier] = OpenSsh


def _literal(path: str) -> str:
    """Return a path as ControlPath takes it, in which ``%`` begins a token."""
    return path.replace("%", "%%")


def _private_folder() -> Kept:
    """Make a folder (0700) in which a socket's path is short enough: ssh adds 17 characters, and 108 are the limit."""
    short = len(tempfile.gettempdir()) <= _SHORT
    return Kept(SSH, within=None if short else SHORT)


def _socket(path: str) -> list[str]:
    return ["-S", _literal(path), "-o", "ControlMaster=no"]


def _last(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else ""


async def _keep(stream: asyncio.StreamReader | None, notes: bytearray) -> None:
    """Keep the beginning of what a process writes, and read on so that it never waits for us."""
    assert stream is not None
    while piece := await stream.read(_READ):
        notes.extend(piece[: max(0, _NOTES - len(notes))])


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
