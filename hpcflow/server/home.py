"""HPCFLOW_HOME as the server wants it: private folders, a token, a socket, and a notice of where the server is."""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from hpcflow.core.model import HpcflowError
from hpcflow.core.places import NETWORK_FILE_SYSTEMS, Places

__all__ = [
    "Notice",
    "boot_id",
    "drop_parts",
    "file_system_type",
    "last_port",
    "listen_unix",
    "network_file_system",
    "prepare",
    "read_notice",
    "read_token",
    "remove_notice",
    "rewrite",
    "write_notice",
]

_PRIVATE: Final = 0o700


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """run/server.json: who serves this HPCFLOW_HOME, and where."""

    pid: int
    host: str
    boot_id: str
    #: Absolute path of the unix socket on ``host``.
    address: str
    version: str
    home: str
    #: ISO 8601, UTC.
    started_at: str

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}, since {self.started_at}"


# ---- the folder


def prepare(where: Places) -> None:
    """Make the home and its folders, all 0700; a folder of ours that others could enter is closed to them.

    Raises:
        HpcflowError: something here belongs to somebody else, others may change it, or they could read a secret.
    """
    os.makedirs(os.path.dirname(where.home), exist_ok=True)
    _check_parents(Path(where.home))
    for folder in (where.home, where.run, where.keys, where.dispatches, os.path.dirname(where.log)):
        _private_folder(folder)
    # Whoever could write into the home before it was closed may have left a clusters.toml, whose prologue is code.
    for entry in os.scandir(where.home):
        _check_ours(entry.path, entry.stat(follow_symlinks=False))
    for secret in (where.token, where.store, where.store + "-wal", where.store + "-shm"):
        with suppress(FileNotFoundError):
            _check_secret(secret, os.lstat(secret))


def drop_parts(where: Places) -> None:
    """Remove uploads that an earlier server did not finish; call it with the lock held."""
    for left in Path(where.dispatches).glob("*.part"):
        left.unlink(missing_ok=True)


def file_system_type(path: str) -> int:
    """Return ``f_type`` of statfs(2), which os.statvfs leaves out.

    Raises:
        OSError: the path can't be asked.
    """
    # f_type is the first field, and a long, on every 64-bit Linux; 512 bytes hold the whole structure anywhere.
    buffer = ctypes.create_string_buffer(512)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.statfs(os.fsencode(path), buffer) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
    return int(ctypes.c_long.from_buffer(buffer).value) & 0xFFFFFFFF


def network_file_system(path: str, f_type: Callable[[str], int] = file_system_type) -> str | None:
    """Return the name of the network file system that ``path`` lies on, ``None`` when it lies on this machine."""
    return NETWORK_FILE_SYSTEMS.get(f_type(path))


def boot_id() -> str:
    """Return what tells this boot of this machine from every other: a pid means nothing without it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


# ---- where the server is


def read_notice(where: Places) -> Notice | None:
    """Return what run/server.json says; ``None`` when there is none, or it is damaged."""
    try:
        raw = json.loads(Path(where.server_json).read_text("utf-8"))
        return Notice(**{name: raw[name] for name in Notice.__dataclass_fields__})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write_notice(where: Places, notice: Notice) -> None:
    rewrite(where.server_json, json.dumps(asdict(notice), indent=1) + "\n")


def remove_notice(where: Places, notice: Notice) -> None:
    """Remove run/server.json unless another server has written its own since."""
    if read_notice(where) == notice:
        Path(where.server_json).unlink(missing_ok=True)


def last_port(where: Places) -> int:
    """Return the port on which browsers were served last; 0 when there was none."""
    try:
        text = Path(where.ui_port).read_text("utf-8")
    except (OSError, UnicodeError):
        return 0
    port = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0
    return port if port < 65536 else 0


def rewrite(path: str, text: str) -> None:
    """Write a file so that a reader sees the old text or the new one, never a part; 0600."""
    fresh = f"{path}.{secrets.token_hex(4)}"
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    except BaseException:
        Path(fresh).unlink(missing_ok=True)
        raise


def new_token(where: Places) -> str:
    """Write a new token in the place of the old one, and return it; call it with the lock held."""
    token = secrets.token_urlsafe(32)
    rewrite(where.token, token + "\n")
    return token


def read_token(where: Places) -> str:
    """Return the token that every request needs, made with the first call; call it with the lock held.

    Raises:
        HpcflowError: the file is empty, or others may read it.
    """
    if not os.path.lexists(where.token):
        return new_token(where)
    fd = os.open(where.token, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(fd, encoding="ascii") as file:
        _check_secret(where.token, os.fstat(fd))
        token = file.read().strip()
    if not token:
        raise HpcflowError(f"{where.token} is empty: remove it, and the next start makes a new one.")
    return token


def listen_unix(path: str) -> socket.socket:
    """Return a listening socket at ``path``, 0600 in a folder of 0700; call it with the lock held.

    Raises:
        HpcflowError: the folder is not private, or something that is no socket lies there.
    """
    _private_folder(os.path.dirname(path))
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise HpcflowError(f"{path} is in the way and is no socket: remove it.")
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # uvicorn's own --uds would make the socket 0666, whatever the umask.
    before = os.umask(0o177)
    try:
        listener.bind(path)
        listener.listen(128)
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener


# ---- private


def _private_folder(path: str) -> None:
    with suppress(FileExistsError):
        os.mkdir(path, _PRIVATE)
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise HpcflowError(f"{path} is no folder: remove it, or set HPCFLOW_HOME to another folder.")
    if found.st_uid != os.geteuid():
        raise HpcflowError(f"{path} belongs to user {found.st_uid}, not to you: set HPCFLOW_HOME to a folder of yours.")
    if stat.S_IMODE(found.st_mode) != _PRIVATE:
        os.chmod(path, _PRIVATE)


def _check_ours(path: str, found: os.stat_result) -> None:
    if found.st_uid != os.geteuid():
        raise HpcflowError(f"{path} belongs to user {found.st_uid}, not to you: look at it, then remove it.")
    if not stat.S_ISLNK(found.st_mode) and found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise HpcflowError(
            f"Others may have changed {path} (mode {stat.S_IMODE(found.st_mode):04o}): "
            f"look at it, then chmod go-w {path}"
        )


def _check_secret(path: str, found: os.stat_result) -> None:
    _check_ours(path, found)
    if not stat.S_ISREG(found.st_mode):
        raise HpcflowError(f"{path} is no ordinary file: remove it.")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise HpcflowError(
            f"Others may have read {path} (mode {stat.S_IMODE(found.st_mode):04o}): "
            f"chmod 600 {path}, or remove a token that they may know."
        )


def _check_parents(home: Path) -> None:
    """Refuse a home that somebody else could move away and replace."""
    for parent in home.resolve().parents:
        found = parent.stat()
        strangers = found.st_mode & stat.S_IWOTH or (found.st_mode & stat.S_IWGRP and found.st_gid != os.getegid())
        if strangers and not found.st_mode & stat.S_ISVTX:
            raise HpcflowError(
                f"Others may replace what lies in {parent} (mode {stat.S_IMODE(found.st_mode):04o}): "
                "set HPCFLOW_HOME to a folder in a place that only you can write to."
            )
