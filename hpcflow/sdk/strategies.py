"""How a file is brought, in the task's process: copied, by rsync, over HTTP, by fsspec, by the user's own functions.

What arrives is written beside its destination first, checked, and renamed: a task never finds half a file.
"""

from __future__ import annotations

import base64
import http.client
import os
import re
import shlex
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial
from typing import IO, Final
from urllib.parse import urlsplit

from hpcflow.core.errors import UserError
from hpcflow.sdk.arriving import Bring, FileTransferStrategy, opened, pour, sha256_of, target_of, written
from hpcflow.sdk.mistakes import show_plainly
from hpcflow.sdk.object_stores import FTP, S3, Blob, Fsspec, GCloud
from hpcflow.sdk.transfer import File, TransferFailed

__all__ = [
    "FTP",
    "HTTP",
    "S3",
    "Blob",
    "FileTransferStrategy",
    "Fsspec",
    "GCloud",
    "Rsync",
    "Shutil",
    "register_downloader",
    "register_uploader",
    "strategy_for",
]

#: How long nothing may come over HTTP, in seconds.
_SILENCE_S: Final = 60
#: Bytes of what a program or server said that an error repeats.
_TAIL: Final = 2000


def strategy_for(source: File, target: File) -> FileTransferStrategy:
    """Return how a file is brought when nothing is said of it.

    Raises:
        UserError: nothing is known for such an address.
    """
    remote = source if source.scheme != "file" else target
    registered = Registered.known(remote.scheme)
    if registered is not None:
        return registered
    match remote.scheme:
        case "file" if source.is_remote or target.is_remote:
            return Rsync()
        case "file":
            return Shutil()
        case "http" | "https":
            return HTTP()
        case "s3" | "s3a":
            return S3()
        case "gs" | "gcs":
            return GCloud()
        case "globus":
            raise UserError(f"{remote.uri}: Globus moves files by itself; nothing here asks it to.")
        case _:
            return Fsspec()


class Shutil(FileTransferStrategy):
    """Copies where the task runs, with rights and times."""

    def cp(self, from_file: File, to_file: File) -> Bring:
        return partial(_copy, from_file, to_file)

    download = upload = cp


def _copy(source: File, target: File) -> None:
    path = source.local
    if not (source.is_dir or os.path.isdir(path)):
        _copy_file(path, target_of(path, target))
        return
    folder = os.path.join(target.local, os.path.basename(path)) if source.include_folder else target.local
    if os.path.commonpath([path, folder]) == path:
        raise TransferFailed("a folder can't be copied into itself")
    for base, folders, names in os.walk(path):
        into = os.path.normpath(os.path.join(folder, os.path.relpath(base, path)))
        os.makedirs(into, exist_ok=True)
        for name in folders:
            if os.path.islink(link := os.path.join(base, name)):
                if os.path.islink(there := os.path.join(into, name)):  # an attempt before this one made it
                    os.unlink(there)
                os.symlink(os.readlink(link), there)
        for name in names:
            _copy_file(os.path.join(base, name), os.path.join(into, name))


def _copy_file(source: str, target: str) -> str:
    with opened(source) as file:
        if os.path.exists(target) and os.path.samestat(os.fstat(file.fileno()), os.stat(target)):
            raise TransferFailed("both are the same file")
        with written(target) as new:
            _, digest = pour(file, new)
            new.flush()
            if sha256_of(new.name) != digest.hexdigest():
                raise TransferFailed("what was written is not what was read")
            shutil.copystat(source, new.name)
    return target


# ---- rsync

_HOST: Final = re.compile(r"[A-Za-z0-9_\[][A-Za-z0-9_.:%\]-]*")
_LOGIN: Final = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.@+-]*")


class Rsync(FileTransferStrategy):
    """Copies by rsync, over ssh where a host is given. The host's key must be known where the task runs.

    Args:
        user: the login there.
        host: its name; ``None``: where the task runs.
        private_key_path: the ssh key, a path where the task runs.
    """

    def __init__(
        self, user: str | None = None, host: str | None = None, private_key_path: str | os.PathLike[str] | None = None
    ) -> None:
        show_plainly()
        if host is not None and not _HOST.fullmatch(host):
            raise UserError(f"Rsync: host={host!r} is no host's name.")
        if user is not None and not _LOGIN.fullmatch(user):
            raise UserError(f"Rsync: user={user!r} is no login.")
        if user is not None and host is None:
            raise UserError(f"Rsync: user={user!r} needs a host.")
        self.user, self.host = user, host
        self.private_key_path = None if private_key_path is None else os.fspath(private_key_path)

    def cp(self, from_file: File, to_file: File) -> Bring:
        return partial(self._rsync, from_file, to_file)

    download = upload = cp

    def command(self, source: File, target: File) -> list[str]:
        """Return the command, without a shell."""
        login = f"{self.user}@{self.host}" if self.user else self.host
        origin = source.filepath if source.is_remote and self.host else source.local
        goal = target.filepath if target.is_remote and self.host else target.local
        if source.is_dir and not source.include_folder:
            origin = origin.rstrip("/") + "/"
        elif source.include_folder:
            origin = origin.rstrip("/")
        if target.is_dir:
            goal = goal.rstrip("/") + "/"
        if self.host:
            origin = f"{login}:{origin}" if source.is_remote else origin
            goal = f"{login}:{goal}" if target.is_remote else goal
        shell = ["ssh", "-o", "BatchMode=yes"]
        if self.private_key_path:
            shell += ["-i", os.path.expanduser(self.private_key_path)]
        return ["rsync", "-a", "-s", *(["-e", shlex.join(shell)] if self.host else []), "--", origin, goal]

    def _rsync(self, source: File, target: File) -> None:
        try:
            done = subprocess.run(
                self.command(source, target),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
            )
        except FileNotFoundError:
            raise TransferFailed("there is no rsync") from None
        if done.returncode:
            said = done.stdout.decode(errors="replace").strip()[-_TAIL:]
            raise TransferFailed(f"rsync ended with exit code {done.returncode}: {said or 'without a word'}")


# ---- HTTP


class HTTP(FileTransferStrategy):
    """Gets a file over HTTP or HTTPS, or puts one. Redirects lead to HTTP or HTTPS only, and from HTTPS to HTTPS."""

    def download(self, from_file: File, to_file: File) -> Bring:
        return partial(_get, from_file.uri, to_file)

    def upload(self, from_file: File, to_file: File) -> Bring:
        return partial(_put, from_file.local, to_file.uri)


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(  # noqa: PLR0917  # urllib's own
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        scheme = urlsplit(newurl).scheme
        if scheme != "https" and not (scheme == "http" and req.type == "http"):
            fp.close()
            raise TransferFailed(f"the server sends on to {newurl}, and only http and https are followed from there")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(request: urllib.request.Request) -> http.client.HTTPResponse:
    """Ask a server, and nothing but one: no other scheme is known to this opener.

    Raises:
        TransferFailed: it can't be reached, or it refuses.
    """
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        _Redirects(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    try:
        answer: http.client.HTTPResponse = opener.open(request, timeout=_SILENCE_S)
        return answer
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(_TAIL).decode(errors="replace").strip()
        raise TransferFailed(f"the server answers {error.code} {error.reason}{': ' + said if said else ''}") from None
    except urllib.error.URLError as error:
        raise TransferFailed(f"the server can't be reached from here: {error.reason}") from None


def _get(address: str, target: File) -> None:
    path = target_of(urlsplit(address).path, target)
    with _open(urllib.request.Request(address)) as answer, written(path) as file:
        try:
            size, digest = pour(answer, file)
        except (http.client.IncompleteRead, ConnectionError, TimeoutError) as error:
            raise TransferFailed(f"the connection broke after {file.tell()} bytes: {error}") from None
        told = answer.headers.get("Content-Length")
        if told is not None and told.isdecimal() and int(told) != size:
            raise TransferFailed(f"the server promised {told} bytes, and {size} came")
        wanted = _digest_of(answer.headers)
        if wanted is not None and wanted != digest.digest():
            raise TransferFailed("what came is not what the server's checksum says")


def _digest_of(headers: http.client.HTTPMessage) -> bytes | None:
    """Return the SHA-256 that a server told (RFC 9530, or RFC 3230 before it); ``None``: it told none."""
    told = f"{headers.get('Repr-Digest', '')},{headers.get('Digest', '')}"
    match = re.search(r"sha-256=:?([A-Za-z0-9+/]{43}=)", told, re.IGNORECASE)
    # A digest of what was compressed on the way is none of the file.
    return None if match is None or headers.get("Content-Encoding") else base64.b64decode(match[1])


def _put(path: str, address: str) -> None:
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        request = urllib.request.Request(address, data=file, method="PUT")
        request.add_header("Content-Length", str(size))
        request.add_header("Content-Type", "application/octet-stream")
        with _open(request) as answer:
            answer.read()


# ---- schemes of the user's own


class Registered(FileTransferStrategy):
    """Functions that the user gave for a scheme; they travel with the transfer."""

    _downloaders: Final[dict[str, Callable[[str, str], object]]] = {}
    _uploaders: Final[dict[str, Callable[[str, str], object]]] = {}

    def __init__(self, scheme: str) -> None:
        self.scheme = scheme
        self.downloader = self._downloaders.get(scheme)
        self.uploader = self._uploaders.get(scheme)

    @classmethod
    def known(cls, scheme: str) -> Registered | None:
        """Return what is registered for a scheme, if anything is."""
        return cls(scheme) if scheme in cls._downloaders or scheme in cls._uploaders else None

    @classmethod
    def add(cls, scheme: str, *, up: bool, function: Callable[[str, str], object]) -> None:
        """Take a function for a scheme."""
        (cls._uploaders if up else cls._downloaders)[scheme.lower()] = function

    def download(self, from_file: File, to_file: File) -> Bring:
        if self.downloader is None:
            raise TransferFailed(f"no downloader is registered for {self.scheme}://")
        return partial(self._call, self.downloader, from_file.uri, to_file)

    def upload(self, from_file: File, to_file: File) -> Bring:
        if self.uploader is None:
            raise TransferFailed(f"no uploader is registered for {self.scheme}://")
        return partial(self._send, self.uploader, from_file, to_file.uri)

    @staticmethod
    def _call(function: Callable[[str, str], object], address: str, target: File) -> None:
        function(address, target.local)

    @staticmethod
    def _send(function: Callable[[str, str], object], source: File, address: str) -> None:
        function(source.local, address)


def register_downloader(scheme: str, function: Callable[[str, str], object]) -> None:
    """Let ``function(address, path)`` bring files of a scheme to where the task runs, in transfers made later."""
    Registered.add(scheme, up=False, function=function)


def register_uploader(scheme: str, function: Callable[[str, str], object]) -> None:
    """Let ``function(path, address)`` bring files of a scheme from where the task runs, in transfers made later."""
    Registered.add(scheme, up=True, function=function)
