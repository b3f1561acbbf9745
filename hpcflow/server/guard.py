"""Decides who may speak to the server: one layer around everything, closed but for a short list of exact paths."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hpcflow.server.origins import Origins, how_to_allow

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["KEY_HEADER", "OPEN", "Guard", "Login", "Sessions", "Token", "cookie_name"]

#: What anybody may ask for besides the page's files: nothing here depends on the user's data. Compared as a whole,
#: never as a prefix.
OPEN: Final = frozenset(
    {
        ("GET", "/healthz"),
        ("GET", "/"),
        ("POST", "/login"),
    }
)
#: Header in which the page sends the second half of its session.
KEY_HEADER: Final = "x-hpcflow-key"

_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_HOST: Final = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::(?P<port>[0-9]{1,5}))?")
_ORIGIN: Final = re.compile(rf"https?://{_HOST.pattern}")
#: Any port may follow: an ssh forward may end at another one. A rebound name can't be one of these.
_TCP_NAMES: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})
_UNIX_NAMES: Final = frozenset({"localhost", "hpcflow"})
_BODIES: Final = frozenset({"application/json"})
#: Bodies that are read whole; uploads are read as a stream, with a limit of their own.
_JSON_LIMIT: Final = 16 * 2**20
_CODE_TTL_S: Final = 600.0
_CODES: Final = 16
_SESSIONS: Final = 64

_HEADERS: Final = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)


@dataclass(frozen=True, slots=True)
class Login:
    """A browser's session: both halves are needed.

    Cookies don't know ports: a stranger's server on another port of 127.0.0.1 is sent ours by the browser. The key is
    kept by the page in storage that belongs to its port alone.
    """

    cookie: str
    key: str


class Token:
    """What SDK and command line send as ``Authorization: Bearer``; only its digest is kept."""

    def __init__(self, text: str) -> None:
        self._digest = _digest(text)

    def matches(self, text: str) -> bool:
        return hmac.compare_digest(_digest(text), self._digest)

    def replace(self, text: str) -> None:
        """Take this one from now on, and the old one no more."""
        self._digest = _digest(text)


class Sessions:
    """One-time codes and the browsers that redeemed one; lives and dies with the server's process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._codes: OrderedDict[bytes, float] = OrderedDict()
        self._logins: OrderedDict[bytes, None] = OrderedDict()

    def new_code(self) -> str:
        """Return a code that logs one browser in, within ten minutes."""
        code = secrets.token_urlsafe(32)
        self._codes[_digest(code)] = self._clock() + _CODE_TTL_S
        while len(self._codes) > _CODES:
            self._codes.popitem(last=False)
        return code

    def redeem(self, code: str) -> Login | None:
        """Return a new session for a code that nobody used yet, else ``None``."""
        ends = self._codes.pop(_digest(code), None)
        if ends is None or self._clock() > ends:
            return None
        login = Login(secrets.token_urlsafe(32), secrets.token_urlsafe(32))
        self._logins[_digest(login.cookie, login.key)] = None
        while len(self._logins) > _SESSIONS:
            self._logins.popitem(last=False)
        return login

    def knows(self, cookie: str, key: str) -> bool:
        # Digests of 256 random bits: how long a look-up takes tells nothing about the session.
        return _digest(cookie, key) in self._logins

    def forget(self, cookie: str, key: str) -> None:
        self._logins.pop(_digest(cookie, key), None)

    def forget_all(self) -> None:
        """End every session, and take back the codes that nobody redeemed."""
        self._logins.clear()
        self._codes.clear()


def cookie_name(port: int) -> str:
    """Return the cookie's name for the server at this port: several may run on one machine."""
    return f"hpcflow-{port}"


class Guard:
    """Lets a request through to the application, or answers it itself."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: Token,
        sessions: Sessions,
        uid: int,
        uploads: Iterable[tuple[str, str]] = (),
        files: Iterable[str] = (),
        origins: Origins | None = None,
    ) -> None:
        """Wrap an application.

        Args:
            app: what is protected.
            token: what SDK and command line must send.
            sessions: the browsers that are logged in.
            uid: the only user whose processes may speak on the unix socket.
            uploads: (path, media type) of the routes that read something else than JSON.
            files: whole paths of the page's files, which anybody may read.
            origins: where the page may be reached besides 127.0.0.1.
        """
        self._app = app
        self._token = token
        self._sessions = sessions
        self._uid = uid
        self._uploads = frozenset(uploads)
        self._open = OPEN | {("GET", path) for path in files}
        self._origins = origins or Origins()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] == "http" and (path := self._origins.below(scope["path"])) != scope["path"]:
            scope = {**scope, "path": path, "raw_path": path.encode()}
        refusal = self._refusal(scope)
        if refusal is not None:
            await _answer(scope, send, *refusal)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                named = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(pair for pair in _HEADERS if pair[0] not in named)]
            await send(message)

        await self._app(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Return status and sentence for a request that must not pass."""
        if scope["type"] not in {"http", "websocket"}:
            return 400, "This server speaks HTTP."
        headers = _Headers(scope["headers"])
        port: int | None = (scope.get("server") or ("", None))[1]
        if port is None and scope.get("state", {}).get("peer_uid") != self._uid:
            return 403, "This socket is private to its owner."
        host = headers.only("host")
        parsed = _HOST.fullmatch(host or "")
        if parsed is None or int(parsed["port"] or 1) not in range(1, 65536):
            return 400, "The Host header is missing, doubled or malformed."
        here = parsed["name"].lower() in (_UNIX_NAMES if port is None else _TCP_NAMES)
        if not here and (port is None or not self._origins.has_host(host or "")):
            advice = "" if port is None else f" {how_to_allow(f'https://{host}')}"
            return 403, f"This server answers to 127.0.0.1 and localhost only, not to {parsed['name']}.{advice}"
        method: str = scope.get("method", "GET")
        unsafe = scope["type"] == "websocket" or method not in _SAFE_METHODS
        if unsafe and not self._same_origin(headers, f"http://{host}" if here else None):
            return 403, _foreign(headers)
        if (method, scope["path"]) not in self._open or scope["type"] == "websocket":
            problem = self._stranger(headers, port, unsafe=unsafe)
            if problem:
                return 401, problem
        return self._body_refusal(scope, headers, method)

    def _same_origin(self, headers: _Headers, here: str | None) -> bool:
        """Return whether nothing says that another site's page sent this; programs send neither header.

        ``here`` is the origin of a page that came from this machine itself, without a proxy.
        """
        origins, sites = headers.all("origin"), headers.all("sec-fetch-site")
        known = all(origin == here or self._origins.has(origin) for origin in origins)
        return known and all(site == "same-origin" for site in sites)

    def _stranger(self, headers: _Headers, port: int | None, *, unsafe: bool) -> str | None:
        """Return why this request has not shown who sent it, ``None`` when it has."""
        given = headers.all("authorization")
        if given:
            scheme, _, token = given[0].partition(" ")
            if len(given) == 1 and scheme.lower() == "bearer" and self._token.matches(token):
                return None
            return "The token is wrong: the right one is in the file `token` in HPCFLOW_HOME."
        if port is not None and (not unsafe or headers.only("origin")):
            cookies = [part.strip().partition("=") for line in headers.all("cookie") for part in line.split(";")]
            key = headers.only(KEY_HEADER) or ""
            if any(name == cookie_name(port) and self._sessions.knows(value, key) for name, _, value in cookies):
                return None
        return "Who asks? Send the token, or log in with the link that `hpcflow ui` prints."

    def _body_refusal(self, scope: Scope, headers: _Headers, method: str) -> tuple[int, str] | None:
        if method in _SAFE_METHODS:
            return None
        length = headers.only("content-length")
        chunked = bool(headers.all("transfer-encoding"))
        if not chunked and length in {None, "0"}:
            return None
        media = (headers.only("content-type") or "").partition(";")[0].strip().lower()
        if (scope["path"], media) in self._uploads:
            return None
        if media not in _BODIES or any(path == scope["path"] for path, _ in self._uploads):
            return 415, "The body has a type that this path does not take."
        if chunked or length is None or not length.isdigit():
            return 411, "Say how long the body is."
        if len(length) > 12 or int(length) > _JSON_LIMIT:
            return 413, f"The body has more than {_JSON_LIMIT} bytes."
        return None


class _Headers:
    """Header fields by lower-case name, doubled ones kept."""

    def __init__(self, raw: Iterable[tuple[bytes, bytes]]) -> None:
        self._fields = [(name.lower(), value.decode("latin-1")) for name, value in raw]

    def all(self, name: str) -> list[str]:
        wanted = name.encode()
        return [value for found, value in self._fields if found == wanted]

    def only(self, name: str) -> str | None:
        """Return the value when the field is there once."""
        values = self.all(name)
        return values[0] if len(values) == 1 else None


def _foreign(headers: _Headers) -> str:
    """Say why a request is refused that another page may have sent."""
    origin = headers.only("origin") or ""
    if headers.all("sec-fetch-site") in ([], ["same-origin"]) and _ORIGIN.fullmatch(origin):
        return f"The request comes from another site, {origin}. {how_to_allow(origin)}"
    return "The request comes from another site."


async def _answer(scope: Scope, send: Send, status: int, sentence: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": sentence})
        return
    body = json.dumps({"error": sentence}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *([(b"www-authenticate", b"Bearer")] if status == 401 else []),
        *_HEADERS,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _digest(*parts: str) -> bytes:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).digest()
