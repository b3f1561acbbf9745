"""The one door to the server: finds it, asks it over its unix socket, and turns each refusal into one sentence."""

from __future__ import annotations

import http.client
import json
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from hpcflow.core.model import HpcflowError, NotFound, UserError
from hpcflow.core.places import Places
from hpcflow.sdk.link import read_link

__all__ = [
    "DispatchNotFound",
    "NotAuthorised",
    "Refused",
    "Server",
    "ServerElsewhere",
    "ServerFault",
    "ServerRecord",
    "ServerUnreachable",
    "VersionMismatch",
    "answers",
    "read_record",
]

#: Seconds that one request may take, the wait of a long poll not counted.
REQUEST_TIMEOUT_S: Final = 60.0
#: Seconds to the next piece of a stream: the cluster that it comes from may be away for a while.
STREAM_TIMEOUT_S: Final = 300.0
#: After so many seconds without an answer a person at a terminal is told that it takes its time.
SILENCE_S: Final = 5.0
_PIECE: Final = 1 << 20
#: Pauses before a request is sent once more, in seconds. Every request may be repeated: a dispatch carries its own id.
RETRY_PAUSES_S: Final = (0.1, 0.5)

# struct ucred of SO_PEERCRED: pid, uid, gid (unix(7)).
_PEER_CREDENTIALS: Final = struct.Struct("3i")


class ServerUnreachable(HpcflowError):
    """No server answers here; `hpcflow start` brings one up."""


class ServerElsewhere(ServerUnreachable):
    """The server of this HPCFLOW_HOME runs on another host: go there, or move it here."""


class NotAuthorised(HpcflowError):
    """The server, or whoever holds its socket, is not ours to talk to."""


class VersionMismatch(HpcflowError):
    """Server and client are of different releases; a restart of the server brings them together."""


class Refused(HpcflowError):
    """The server understood and will not: the thing's state does not allow it."""


class DispatchNotFound(NotFound):
    """The server knows no dispatch with this id."""


class ServerFault(HpcflowError):
    """The server failed inside; its log says more."""


# ---- finding it


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerRecord:
    """What a running server wrote about itself in ``run/server.json``, or `hpcflow connect` about it."""

    pid: int
    host: str
    #: Path of its unix socket, or of the one here that leads to it.
    address: str
    version: str
    started_at: str = ""
    #: The login node that it runs on, as `hpcflow connect` was told it; empty: it is this home's own.
    via: str = ""


def read_record(where: Places) -> ServerRecord | None:
    """Return what the last server of this home said about itself, ``None`` when it left nothing or ended in order.

    A record proves nothing: its server may be dead. `answers` asks.
    """
    try:
        with open(where.server_json, encoding="utf-8") as file:
            raw: dict[str, Any] = json.load(file)  # Any: JSON
        return ServerRecord(
            pid=int(raw["pid"]),
            host=str(raw["host"]),
            address=str(raw["address"]),
            version=str(raw["version"]),
            started_at=str(raw.get("started_at", "")),
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise NotAuthorised(f"{where.server_json} can't be read: {error.strerror}. Is {where.home} yours?") from error
    except (ValueError, KeyError, TypeError):
        return None


def on_this_host(where: Places) -> ServerRecord | None:
    """Return the record of a server on this host, or of the login node's that this home is connected to.

    Raises:
        ServerElsewhere: the home's server runs on another host.
    """
    link = read_link(where)
    if link is not None:
        if link.host != socket.gethostname():
            raise ServerElsewhere(
                f"{where.home} is connected to {link.to} from {link.host}, and this is {socket.gethostname()}. "
                "Work there, or run `hpcflow disconnect` and `hpcflow connect` here."
            )
        return ServerRecord(
            pid=link.server_pid,
            host=link.server_host,
            address=link.address,
            version=link.version,
            started_at=link.started_at,
            via=link.to,
        )
    record = read_record(where)
    if record is not None and record.host != socket.gethostname():
        since = f", since {record.started_at}" if record.started_at else ""
        raise ServerElsewhere(
            f"The server of {where.home} runs on {record.host} (pid {record.pid}{since}), and this is "
            f"{socket.gethostname()}. Work there, or move it here with `hpcflow start --take-over`."
        )
    return record


def answers(record: ServerRecord, *, timeout_s: float = 5.0) -> bool:
    """Return whether a server answers at the record's socket."""
    connection = _UnixConnection(record.address, timeout_s)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException, NotAuthorised):
        return False
    finally:
        connection.close()


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket, to a server of the same user only."""

    def __init__(self, address: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._address = address
        self._timeout_s = timeout_s

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._timeout_s)
        self.sock.connect(self._address)
        if hasattr(socket, "SO_PEERCRED"):
            raw = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
            uid: int = _PEER_CREDENTIALS.unpack(raw)[1]
            if uid != os.geteuid():
                raise NotAuthorised(
                    f"The socket {self._address} is served by another user (uid {uid}); nothing was sent to it. "
                    "Remove it, or ask who put it there."
                )


# ---- asking it


class Server:
    """A server as its client sees it. Each request makes its own connection, so that a restart is no matter."""

    def __init__(self, where: Places, *, any_version: bool = False) -> None:
        """Take the server of one home.

        Args:
            where: the home.
            any_version: talk to a server of another release too, as `hpcflow stop` must.
        """
        self.where = where
        self._any_version = any_version

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int] | None = None,
        body: Mapping[str, object] | None = None,
        wait_s: float = 0.0,
    ) -> dict[str, Any]:  # Any: JSON
        """Return the server's answer, a JSON object.

        Args:
            method: GET or POST.
            path: below ``/api/v1``.
            query: parameters of the URL.
            body: sent as JSON.
            wait_s: how long the server may hold the answer back (a long poll).
        """
        raw = json.dumps(body).encode() if body is not None else b""
        headers = {"Content-Type": "application/json"} if body is not None else {}
        answer: dict[str, Any] = json.loads(  # Any: JSON
            self._exchange(method, _target(path, query), lambda: raw, headers, REQUEST_TIMEOUT_S + wait_s)
        )
        return answer

    def fetch(self, path: str, *, query: Mapping[str, str | int] | None = None) -> bytes:
        """Return the bytes at a path below ``/api/v1``."""
        return self._exchange("GET", _target(path, query), lambda: b"", {}, REQUEST_TIMEOUT_S)

    @contextmanager
    def stream(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> Generator[tuple[Mapping[str, str], Iterator[bytes]]]:
        """Give headers (names in small letters) and pieces of an answer too large for memory; nothing is repeated.

        Raises:
            ServerUnreachable: the server does not answer, or the stream was cut.
            HpcflowError: it refuses.
        """
        record = self._record()
        raw = json.dumps(body).encode() if body is not None else b""
        headers = {"Content-Type": "application/json"} if body is not None else {}
        headers["Authorization"] = f"Bearer {self._token(record)}"
        connection = _UnixConnection(record.address, STREAM_TIMEOUT_S)

        def cut(error: Exception) -> ServerUnreachable:
            said = f"{type(error).__name__} {error}".strip()
            return ServerUnreachable(f"The server of {self.where.home} (pid {record.pid}) cut the stream: {said}.")

        def pieces() -> Iterator[bytes]:
            try:
                while piece := response.read1(_PIECE):
                    yield piece
                if response.length:
                    raise cut(http.client.IncompleteRead(b"", response.length))
            except (OSError, http.client.HTTPException) as error:
                raise cut(error) from error

        try:
            try:
                connection.request(method, _target(path, query), raw, headers)
                response = connection.getresponse()
                refused = response.read() if response.status >= 300 else None
            except (OSError, http.client.HTTPException) as error:
                raise cut(error) from error
            if refused is not None:
                raise self._refusal(response.status, refused, f"{method} {path}", record)
            yield {name.lower(): value for name, value in response.headers.items()}, pieces()
        finally:
            connection.close()

    def upload(
        self, path: str, pieces: Callable[[], Iterable[bytes]], *, query: Mapping[str, str | int] | None = None
    ) -> dict[str, Any]:  # Any: JSON
        """Send a stream and return the answer.

        Args:
            path: below ``/api/v1``.
            pieces: makes the stream; called again when the request is repeated.
            query: parameters of the URL.
        """
        headers = {"Content-Type": "application/x-hpcflow-dispatch", "Transfer-Encoding": "chunked"}
        answer: dict[str, Any] = json.loads(  # Any: JSON
            self._exchange("POST", _target(path, query), pieces, headers, REQUEST_TIMEOUT_S)
        )
        return answer

    def _exchange(
        self,
        method: str,
        target: str,
        body: Callable[[], bytes | Iterable[bytes]],
        headers: Mapping[str, str],
        timeout_s: float,
    ) -> bytes:
        for pause in (*RETRY_PAUSES_S, None):
            record = self._record()
            token = self._token(record)
            headers = {**headers, "Authorization": f"Bearer {token}"}
            try:
                status, raw = _once(record.address, method, target, body(), headers, timeout_s=timeout_s)
            except (FileNotFoundError, ConnectionRefusedError) as error:
                if record.via:
                    raise ServerUnreachable(
                        f"Nothing here holds the connection to {record.via} any more. The server there goes on, and "
                        "`hpcflow connect` leads to it again."
                    ) from error
                raise ServerUnreachable(
                    f"The server of {self.where.home} (pid {record.pid}) is gone: nobody answers at {record.address}. "
                    "Start it with `hpcflow start`; dispatches go on where they were."
                ) from error
            except TimeoutError as error:
                raise ServerUnreachable(
                    f"The server of {self.where.home} (pid {record.pid}) did not answer within {timeout_s:.0f} s. "
                    "`hpcflow logs` shows what it does; `hpcflow restart` loses nothing."
                ) from error
            except (OSError, http.client.HTTPException) as error:
                if pause is None:
                    raise ServerUnreachable(
                        f"The server of {self.where.home} (pid {record.pid}) cut the connection: {error}. "
                        "`hpcflow logs` may say why."
                    ) from error
                time.sleep(pause)
                continue
            if status < 300:
                return raw
            if status == 401 and pause is not None and token != self._token(record):
                continue  # `hpcflow token rotate` came between the look into the file and the request
            raise self._refusal(status, raw, f"{method} {target}", record)
        raise AssertionError("the last pass of the loop returns or raises")

    def _record(self) -> ServerRecord:
        record = on_this_host(self.where)
        if record is None:
            raise ServerUnreachable(f"No server runs for {self.where.home}. Start one with `hpcflow start`.")
        if not self._any_version:
            check_version(record.version, via=record.via)
        return record

    def _token(self, record: ServerRecord) -> str:
        path = self.where.link_token if record.via else self.where.token
        try:
            with open(path, encoding="ascii") as file:
                return file.read().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise NotAuthorised(
                f"The server's token can't be read from {path}: {error}. "
                f"`hpcflow {'connect' if record.via else 'restart'}` writes a new one where it is missing."
            ) from error

    def _refusal(self, status: int, raw: bytes, request: str, record: ServerRecord) -> HpcflowError:
        sentence = _sentence(raw)
        match status:
            case 503 if record.via:  # what holds the connection answers so when it can't pass a request on
                return ServerUnreachable(sentence)
            case 401 | 403 if record.via:
                return NotAuthorised(
                    f"The server on {record.via} refused the token in {self.where.link_token}: {sentence} "
                    "`hpcflow connect` fetches the one that it has now."
                )
            case 401 | 403:
                return NotAuthorised(
                    f"The server refused the token in {self.where.token}: {sentence} "
                    "Is it the token of the server that runs? `hpcflow restart` makes them agree."
                )
            case 404:
                return (DispatchNotFound if "/dispatches/" in request else NotFound)(sentence)
            case 400 | 413 | 415 | 422:
                return UserError(sentence)
            case 409 | 429:
                return Refused(sentence)
            case _:
                return ServerFault(
                    f"The server failed at {request} (HTTP {status}): {sentence} `hpcflow logs` shows more."
                )


def check_version(version: str, *, via: str = "") -> None:
    """Refuse a server of another release; patch releases of one minor version understand each other."""
    from hpcflow import __version__ as own

    if version.split(".")[:2] != own.split(".")[:2]:
        if via:
            raise VersionMismatch(
                f"The server on {via} is hpcflow {version} and this is hpcflow {own}: `hpcflow connect` says more."
            )
        raise VersionMismatch(
            f"The server is hpcflow {version} and this is hpcflow {own}. `hpcflow restart` from the environment "
            "that you want to use starts the server anew; dispatches go on where they were."
        )


def _target(path: str, query: Mapping[str, str | int] | None) -> str:
    return f"/api/v1{path}" + (f"?{urlencode(query, errors='surrogateescape')}" if query else "")


def _once(
    address: str,
    method: str,
    target: str,
    body: bytes | Iterable[bytes],
    headers: Mapping[str, str],
    *,
    timeout_s: float,
) -> tuple[int, bytes]:
    connection = _UnixConnection(address, timeout_s)
    try:
        try:
            connection.request(method, target, body, headers, encode_chunked=not isinstance(body, bytes))
        except (BrokenPipeError, ConnectionResetError):
            # A server that refuses an upload answers before it has read all of it: the answer may lie there.
            if connection.sock is None:
                raise
        _say_that_it_takes_long(connection.sock, after_s=timeout_s - REQUEST_TIMEOUT_S + SILENCE_S)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _say_that_it_takes_long(sock: socket.socket | None, *, after_s: float) -> None:
    """Wait so long for the first byte of an answer; tell the person at the terminal when none came."""
    if sock is None or not sys.stderr.isatty():
        return
    waiting = select.poll()
    waiting.register(sock, select.POLLIN)
    if not waiting.poll(after_s * 1000):
        print("Still waits for the server; a cluster that it asks may be slow to answer.", file=sys.stderr)


def _sentence(raw: bytes) -> str:
    """Return what an error answer says, as a sentence."""
    try:
        answer: Any = json.loads(raw)  # Any: JSON
        if isinstance(answer, dict):
            return str(answer.get("error") or answer.get("detail") or answer)
        return str(answer)
    except ValueError:
        return raw[:500].decode("utf-8", "replace").strip() or "it gave no reason."
