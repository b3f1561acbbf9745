"""One transfer beside the server: a process that brings a file with fsspec of the server's environment, and ends.

It is told what by JSON on stdin, and answers with a line of JSON on stdout: ``{"size": bytes}`` or ``{"error": why}``.
What it sends it counts in a file that is as long as what was sent so far. It opens no pickle, and imports nothing of
the user's but what that environment has.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any, Final

from hpcflow.sdk.fetched import refuse
from hpcflow.sdk.object_stores import FileSystem, file_system
from hpcflow.sdk.transfer import TransferFailed, said

__all__ = ["fetch", "main", "send"]

_PIECE: Final = 1 << 20


def fetch(address: str, options: Mapping[str, Any], path: str, limit: int) -> int:  # Any: each file system's own
    """Fetch a file to a new one at ``path``; return its size in bytes.

    Raises:
        TransferFailed: it is one of this machine, larger than ``limit``, or not what the other side promised.
        Exception: what fsspec's file system raises.
    """
    fs, name = _opened(address, options)
    told = fs.info(name).get("size")
    if told is not None and told > limit:
        raise _too_large(limit)
    size = 0
    with fs.open(name, "rb") as source, open(path, "xb") as file:
        while piece := source.read(_PIECE):
            size += len(piece)
            if size > limit:
                raise _too_large(limit)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    if told is not None and told != size:
        raise TransferFailed(f"{name} has {told} bytes, and {size} came")
    return size


def send(address: str, options: Mapping[str, Any], path: str, tally: str) -> int:  # Any: each file system's own
    """Bring the file at ``path`` to an address; return its size in bytes.

    Args:
        address: where it is wanted.
        options: what the file system is made with.
        path: a file of the server's.
        tally: a file that is made, as long as what was sent so far.

    Raises:
        TransferFailed: the address is one of this machine, or less is there afterwards.
        Exception: what fsspec's file system raises.
    """
    fs, name = _opened(address, options)
    size = 0
    with open(path, "rb") as source, open(tally, "xb") as sent:
        with fs.open(name, "wb") as target:
            while piece := source.read(_PIECE):
                target.write(piece)
                size += len(piece)
                sent.truncate(size)
        told = fs.info(name).get("size")
        if told is not None and told != size:
            raise TransferFailed(f"{size} bytes were sent to {name}, and {told} are there")
    return size


def _opened(address: str, options: Mapping[str, Any]) -> tuple[FileSystem, str]:  # Any: each file system's own
    if (why := refuse(address, options)) is not None:
        raise TransferFailed(why)
    fs, name = file_system(address, options, beside_server=True)
    if any(kind.__name__ == "LocalFileSystem" for kind in type(fs).__mro__):  # a scheme that a plugin gave another name
        raise TransferFailed(f"fsspec takes {address.partition('://')[0]}:// for files of the server's own machine")
    return fs, name


def _too_large(limit: int) -> TransferFailed:
    return TransferFailed(f"it has more than {limit} bytes; `max_fetch` in config.toml allows more")


def main() -> None:
    """Do what stdin asks for."""
    os.umask(0o077)
    answer = os.dup(1)
    os.dup2(2, 1)  # what libraries print is no answer
    asked = json.loads(sys.stdin.buffer.read())
    told: dict[str, object]
    try:
        address, options, path = asked["address"], asked["options"], asked["path"]
        if (tally := asked.get("tally")) is not None:
            told = {"size": send(address, options, path, tally)}
        else:
            told = {"size": fetch(address, options, path, asked["limit"])}
    except Exception as error:  # of a library of any kind
        told = {"error": said(error)}
    os.write(answer, json.dumps(told).encode() + b"\n")


if __name__ == "__main__":
    main()
