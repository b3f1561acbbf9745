"""Which server has an HPCFLOW_HOME: a lock between processes of one machine, a lease in the store between machines.

A take-over asks first, by the file run/take-over: the other server sees it, ends in order and gives both back. A server
that does not is fenced by the lease. On NFS the store itself is locked while its server lives: only asking helps there.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from hpcflow.core.model import HpcflowError
from hpcflow.core.places import Places
from hpcflow.server.home import Notice, read_notice, rewrite
from hpcflow.server.store import Lease, LeaseHeld, LeaseLost, Store, StoreError

__all__ = ["RENEW_S", "Claim", "LeaseLost", "RunsAlready", "claimed_store", "locked_home", "take_over_asked"]

logger = logging.getLogger(__name__)

#: Seconds between two renewals of the lease, and after how many without one it is free.
RENEW_S: Final = 10.0
_STALE_S: Final = 90.0
# flock(2) on file systems that were mounted without it: Lustre without -o flock, some FUSE.
_NO_LOCKS: Final = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL})
_TICK_S: Final = 0.2


class RunsAlready(HpcflowError):
    """Another server has this HPCFLOW_HOME."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A store that is ours to write, and how to keep it so."""

    store: Store
    #: Renews the lease, blocking; raises `LeaseLost` when another server took it.
    renew: Callable[[], None]


@contextmanager
def locked_home(where: Places, host: str, *, take_over: bool, patience_s: float) -> Generator[bool]:
    """Hold run/lock; the value says whether the file system has locks at all.

    Args:
        where: the home, prepared.
        host: this machine.
        take_over: ask another host's server to end, and go on without its lock if it does not.
        patience_s: how long that server may take.

    Raises:
        RunsAlready: another server holds the lock.
    """
    fd = _lock(where)
    other = read_notice(where)
    try:
        if take_over and other is not None and other.host != host:
            rewrite(_request(where), host + "\n")
            deadline = time.monotonic() + patience_s
            while (fd == _HELD or read_notice(where) == other) and time.monotonic() < deadline:
                time.sleep(_TICK_S)
                fd = _lock(where) if fd == _HELD else fd
            if fd != _HELD and read_notice(where) != other:
                _withdraw(where, host)
        elif fd == _HELD:
            raise RunsAlready(_held_by(where, host, other))
        yield fd >= 0
    finally:
        if fd >= 0:
            os.close(fd)
        _withdraw(where, host)


def take_over_asked(where: Places, host: str) -> bool:
    """Return whether another host wants this home."""
    try:
        return Path(_request(where)).read_text("utf-8").strip() != host
    except OSError:
        return False


@contextmanager
def claimed_store(
    where: Places, *, host: str, boot_id: str, on_network: bool, locked: bool, take_over: bool
) -> Generator[Claim]:
    """Open the store and hold its lease.

    Args:
        where: the home.
        host: this machine.
        boot_id: this boot of it.
        on_network: several hosts may see the home.
        locked: run/lock is ours: a server of this machine that has the lease is dead.
        take_over: take the lease from whoever has it.

    Raises:
        RunsAlready: another server has the store.
    """
    try:
        store = Store.open(where.store, on_network=on_network)
    except StoreError as error:
        other = read_notice(where)
        if other is None or other.host == host:
            raise
        raise RunsAlready(f"{_held_by(where, host, other)} ({error})") from error
    with closing(store):
        now = datetime.now(UTC)
        owner = Lease(id=str(uuid.uuid4()), host=host, pid=os.getpid(), boot_id=boot_id, taken_at=now, renewed_at=now)
        stale_after = timedelta(seconds=_STALE_S)
        try:
            store.take_lease(owner, now=now, stale_after=stale_after, take_over=take_over)
        except LeaseHeld as held:
            if not locked or held.lease.host != host:
                raise RunsAlready(str(held)) from held
            store.take_lease(owner, now=now, stale_after=stale_after, take_over=True)
        try:
            yield Claim(store, lambda: _renew(store, owner))
        finally:
            with suppress(StoreError):
                store.release_lease(owner)


def _renew(store: Store, owner: Lease) -> None:
    try:
        store.renew_lease(owner, datetime.now(UTC))
    except LeaseLost:
        raise
    except StoreError as error:
        # A full disk or a busy file loses no lease: the next renewal may succeed, and a thief is seen then.
        logger.warning("the lease was not renewed: %s", error)


_NONE: Final = -1
_HELD: Final = -2


def _lock(where: Places) -> int:
    """Return a descriptor that holds run/lock until it is closed, `_HELD`, or `_NONE` without locks."""
    fd = os.open(where.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        return _NONE if error.errno in _NO_LOCKS else _HELD
    return fd


def _withdraw(where: Places, host: str) -> None:
    """Remove our own request; another host's stays."""
    with suppress(OSError):
        if Path(_request(where)).read_text("utf-8").strip() == host:
            os.unlink(_request(where))


def _request(where: Places) -> str:
    return os.path.join(where.run, "take-over")


def _held_by(where: Places, host: str, other: Notice | None) -> str:
    if other is None:
        return f"Another server starts or ends in {where.home} just now: try again in a moment."
    if other.host == host:
        return f"A server for {where.home} runs already ({other}): `hpcflow status` shows it."
    return (
        f"A server for {where.home} runs already ({other}): work from {other.host}, "
        "or move it here with `hpcflow start --take-over`."
    )
