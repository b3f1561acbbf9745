"""Files that a process beside the server brings to tasks and away from them: what may be asked. See ADR 0035."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypedDict, cast

from hpcflow.core.errors import UserError

if TYPE_CHECKING:
    from hpcflow.sdk.transfer import FileTransfer

__all__ = ["Wanted", "brought_by", "check_fetched", "refuse", "sent_by", "wanted", "wanted_by"]

#: What reads files of the machine that it runs on, by itself or through another scheme that its options name.
_OF_THE_MACHINE: Final = frozenset(
    {
        *("file", "local", "asynclocal", "async_wrapper", "dir", "dirfs", "generic", "git", "reference"),
        *("blockcache", "cached", "cachedfs", "filecache", "simplecache", "libarchive", "tar", "zip"),
    }
)
#: Options by which fsspec goes to another file system than the address says.
_TO_ANOTHER: Final = frozenset({"fo", "fs", "protocol", "remote_protocol", "target_options", "target_protocol"})


class Wanted(TypedDict):
    """One file, as the manifest of a dispatch names it."""

    #: What tells it from others, in 32 hexadecimal digits.
    key: str
    address: str
    #: What fsspec's file system is made with.
    options: dict[str, Any]  # Any: JSON


def refuse(address: str, options: Mapping[str, Any]) -> str | None:  # Any: each file system's own
    """Return why the server fetches nothing from an address, ``None`` when it may."""
    scheme, found, _ = address.partition("://")
    if not found or "::" in address or scheme.lower() in _OF_THE_MACHINE:
        return "the server goes to other machines alone, never to files of its own, nor through one scheme in another"
    if leading := sorted(_TO_ANOTHER & options.keys()):
        return f"the option {leading[0]}= leads to another scheme, and the server goes by the address alone"
    return None


def wanted(address: str, options: Mapping[str, Any]) -> Wanted:  # Any: each file system's own
    """Return what is said of a file to the server.

    Raises:
        UserError: the server may not fetch it, or its options are not JSON.
    """
    if (why := refuse(address, options)) is not None:
        raise UserError(f"{address} with where='server': {why}.")
    try:
        text = json.dumps([address, dict(options)], sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"{address} with where='server': its options must be JSON ({error}).") from None
    key = hashlib.sha256(text.encode()).hexdigest()[:32]
    return Wanted(key=key, address=address, options=json.loads(text)[1])


def check_fetched(transfer: FileTransfer) -> None:
    """Refuse a transfer that is to be the server's and is not one that it does.

    Raises:
        UserError: with what to do.
    """
    source, target = transfer.from_file, transfer.to_file
    comes = source.is_remote and transfer.order == "before"
    if not comes and not (target.is_remote and transfer.order == "after"):
        raise UserError(
            f"{transfer}: where='server' brings files from elsewhere to tasks, before them, and away after them; "
            "leave it out."
        )
    if source.is_dir or source.include_folder:
        raise UserError(f"{transfer}: where='server' brings single files, not folders: name each of them.")


def wanted_by(function: Callable[..., object]) -> tuple[Wanted, ...]:
    """Return what the server shall fetch for tasks that call a function, once for each file.

    Raises:
        UserError: it may not.
    """
    return _once(each.wanted for each in _files_of(function))


def sent_by(function: Callable[..., object]) -> tuple[Wanted, ...]:
    """Return where the server shall bring what tasks leave that call a function, once for each address.

    Raises:
        UserError: it may not.
    """
    return _once(each.leaving for each in _files_of(function))


def brought_by(function: Callable[..., object]) -> tuple[tuple[str, str], ...]:
    """Return what tasks that call a function leave for the machine that dispatches: where, and where it goes."""
    return tuple(pair for each in _files_of(function) if (pair := each.brought) is not None)


def _once(found: Iterable[Wanted | None]) -> tuple[Wanted, ...]:
    return tuple({each["key"]: each for each in found if each is not None}.values())


def _files_of(function: Callable[..., object]) -> tuple[FileTransfer, ...]:
    while getattr(function, "is_hooked", False):
        hooks = getattr(function, "hooks", None)
        if hooks is not None:
            return cast("tuple[FileTransfer, ...]", hooks.files)
        function = cast("Callable[..., object]", getattr(function, "function"))  # noqa: B009  # of wrappers alone
    return ()
