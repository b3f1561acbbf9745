"""Runs the process that brings one file between the server and elsewhere, and watches whether it still gets on."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from hpcflow.server.children import kill_session

__all__ = ["shown", "transferred"]

_MODULE: Final = "hpcflow.sdk.transfer_process"
#: How often somebody looks whether a transfer still grows and is still wanted, in seconds.
_LOOK_S: Final = 5.0
#: How long nothing is said of how far it is, in seconds; then each time that it has taken twice as long.
_TOLD_S: Final = 30.0
_TAIL: Final = 2000
_UNITS: Final = ("bytes", "kB", "MB", "GB", "TB")


async def transferred(
    asked: Mapping[str, object],
    *,
    folder: str,
    grows: str,
    silence_s: float,
    wanted: Callable[[], bool],
    told: Callable[[str], object],
) -> str | None:
    """Run a transfer to its end; return why it failed, ``None`` when it did not.

    Args:
        asked: what `sdk.transfer_process` reads.
        folder: its working directory.
        grows: a file that grows as long as it gets on.
        silence_s: how long that file may stay as it is.
        wanted: says whether anybody still waits for it.
        told: takes how much is done, now and then.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        _MODULE,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=folder,
        start_new_session=True,
        # Neither a token nor where one lies; what clouds look for in variables stays.
        env={name: value for name, value in os.environ.items() if not name.startswith("HPCFLOW_")},
    )
    talk = asyncio.ensure_future(process.communicate(json.dumps(asked).encode()))
    loop = asyncio.get_running_loop()
    size, begun_at, told_s = 0, loop.time(), _TOLD_S
    grown_at = begun_at
    try:
        while not (await asyncio.wait({talk}, timeout=min(_LOOK_S, silence_s)))[0]:
            if not wanted():
                return "it is not wanted any more"
            before, size = size, _size(grows)
            if size != before:
                grown_at = loop.time()
            elif loop.time() - grown_at >= silence_s:
                verb = "went" if "tally" in asked else "came"
                return f"nothing {verb} for {silence_s:g} s, after {size} bytes"
            if loop.time() - begun_at >= told_s:
                told_s *= 2
                told(_amount(size))
        out, err = talk.result()
    finally:
        if process.returncode is None:
            kill_session(process)
            await asyncio.shield(process.wait())
        talk.cancel()
    return _answer(process.returncode, out, err)


def shown(file: Mapping[str, Any]) -> str:  # Any: a checked upload.FileNote
    """Return an address without the password and the signature that it may hold."""
    parts = urlsplit(file["address"])
    shorter: str = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
    return shorter


def _answer(code: int | None, out: bytes, err: bytes) -> str | None:
    """Return why a process failed by what it said, ``None`` when it did not."""
    try:
        said = json.loads(out)
        return None if code == 0 and "size" in said else str(said["error"])[:_TAIL]
    except (ValueError, KeyError, TypeError):
        last = err.decode(errors="replace").strip()[-_TAIL:].splitlines()[-1:]
        return f"its process ended with code {code}{f' and said: {last[0]}' if last else ''}"


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _amount(size: float) -> str:
    for unit in _UNITS[:-1]:
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} {_UNITS[-1]}"
