"""What a task took and returned, as short text for people: made where the values are, so that nobody else opens them.

Plain values and arrays are spelled here, item by item and only as far as there is room. Anything else would run code of
its own to spell itself: that is done in a process which a clock ends, which may grow by little, and whose output nobody
sees.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta, timezone
from datetime import time as time_of_day
from itertools import islice
from pathlib import PosixPath, PurePosixPath, PureWindowsPath
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

from hpcflow.core.words import counted

__all__ = ["of_arguments", "of_result"]

#: Characters of a result's text, of one argument's, and of all arguments together; arguments that are listed.
_RESULT: Final = 1500
_ARGUMENT: Final = 200
_ARGUMENTS: Final = 1000
_LISTED: Final = 20
#: Items of a container, and how deep containers lie in each other.
_ITEMS: Final = 30
_DEPTH: Final = 4
#: How long a value's own repr may take, how much memory it may need, and how large a process is copied for it.
_REPR_S: Final = 0.3
_REPR_BYTES: Final = 256 * 2**20
_LARGEST: Final = 512 * 2**20
#: Bits of an int that is written out: the digits of longer ones take Python too long.
_BITS: Final = 4000
#: Libraries whose arrays are described by shape and dtype, and those of them whose repr may have to ask a device.
_ARRAYS: Final = frozenset(
    {"torch", "jax", "jaxlib", "cupy", "tensorflow", "dask", "xarray", "numpy", "pandas", "polars"}
)
_ON_DEVICES: Final = frozenset({"torch", "jax", "jaxlib", "cupy", "tensorflow"})
#: Elements of an array that are looked through for its smallest and largest one, and dimensions that are written out.
_LOOKED_THROUGH: Final = 100_000
_DIMENSIONS: Final = 4

#: Types of Python's that spell themselves without code of the user's, a time only in a zone of Python's.
_PLAIN: Final = frozenset(
    {date, datetime, time_of_day, timedelta, timezone, PosixPath, PurePosixPath, PureWindowsPath, UUID}
)
_ZONES: Final = frozenset({type(None), timezone, ZoneInfo})

Preview = dict[str, Any]  # Any: JSON
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class _Full(Exception):
    """There is no more room."""


class _Foreign(Exception):
    """Only the value itself knows how it is spelled."""


def of_result(value: object, *, alone: bool) -> Preview:
    """Return the preview of what a task returned.

    Args:
        value: the result.
        alone: this process runs one task, and may be copied to let the value spell itself.
    """
    return _preview(value, _RESULT, alone=alone)


def of_arguments(function: object, args: Iterable[object], kwargs: Mapping[str, object]) -> list[Preview]:
    """Return previews of a call's arguments with their names; none of them spells itself."""
    code = getattr(function, "__code__", None)
    names: Sequence[str] = code.co_varnames[: code.co_argcount] if code is not None else ()
    room = _ARGUMENTS
    found: list[Preview] = []
    pairs = [(names[k] if k < len(names) else str(k), value) for k, value in enumerate(args)]
    for name, value in islice([*pairs, *kwargs.items()], _LISTED):
        preview = _preview(value, min(room, _ARGUMENT), alone=False)
        room -= len(preview.get("text", ""))
        found.append({"name": str(name)[:100], **preview})
    return found


def _preview(value: object, room: int, *, alone: bool) -> Preview:
    preview: Preview = {}
    try:
        preview["type"] = _type_name(value)
        if (shape := _shape(value)) is not None:
            preview["shape"] = shape + _range(value)
        writer = _Writer(room)
        try:
            writer.write(value, _DEPTH)
        except _Full:
            preview["cut"] = True
        except _Foreign:
            apart = alone and _library(value) not in _ON_DEVICES
            return {**preview, **(_spelled_apart(value, room) if apart else {})}
        return {**preview, "text": "".join(writer.parts)}
    except Exception as error:  # a class may answer to any question with one
        return {**preview, "why": _why(error)}


def _why(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:200]
    except BaseException:  # its own __str__
        return type(error).__name__[:200]


def _type_name(value: object) -> str:
    kind = type(value)
    module, name = str(kind.__module__), str(kind.__qualname__)
    return (name if module == "builtins" else f"{module}.{name}")[:120]


def _library(value: object) -> str:
    return str(type(value).__module__).partition(".")[0]


def _shape(value: object) -> str | None:
    kind: type = type(value)
    if kind in {list, tuple, dict, set, frozenset}:
        assert isinstance(value, (list, tuple, dict, set, frozenset))
        return counted(len(value), "item")  # pyright: ignore[reportUnknownArgumentType]
    if kind is str:
        assert isinstance(value, str)
        return counted(len(value), "character")
    if kind in {bytes, bytearray}:
        assert isinstance(value, (bytes, bytearray))
        return counted(len(value), "byte")
    if _library(value) not in _ARRAYS:
        return None
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if not isinstance(shape, tuple) or (shape == () and kind.__name__ != "ndarray"):
        return None
    numbers: list[Any] = list(shape)  # pyright: ignore[reportUnknownArgumentType]  # Any: a dimension may be unknown
    size = " \N{MULTIPLICATION SIGN} ".join(str(each) for each in numbers[:16]) or "one value"
    return size if dtype is None else f"{size}, {str(dtype)[:80]}"


def _range(value: Any) -> str:  # Any: the user's value, of the type that is looked at
    """Return the smallest and the largest element of an array of numbers that is not large, and how many are none."""
    numpy: Any = sys.modules.get("numpy")  # Any: it may not be installed
    if numpy is None or type(value) is not numpy.ndarray or value.dtype.kind not in "iuf":
        return ""
    if not 0 < value.size <= _LOOKED_THROUGH:
        return ""
    known = value[~numpy.isnan(value)] if value.dtype.kind == "f" else value
    ends = f", {known.min():.6g} to {known.max():.6g}" if known.size else ""
    return ends + (f", {value.size - known.size} NaN" if known.size < value.size else "")


class _Writer:
    """Spells values of Python's own types into a given room."""

    def __init__(self, room: int) -> None:
        self.parts: list[str] = []
        self._room = room

    def _add(self, text: str) -> None:
        if len(text) > self._room:
            self.parts.append(text[: self._room])
            self._room = 0
            raise _Full
        self.parts.append(text)
        self._room -= len(text)

    def write(self, value: Any, depth: int) -> None:  # Any: the user's value, of the type that was looked at
        kind = type(value)
        if value is None or value is ... or kind in {bool, float, complex, range}:
            self._add(repr(value))
        elif kind is int:
            self._add(repr(value) if value.bit_length() <= _BITS else f"an int of {value.bit_length()} bits")
        elif kind in {str, bytes, bytearray}:
            self._add(repr(value[: self._room + 1]))
        elif kind in {list, tuple, set, frozenset, dict}:
            self._container(value, kind, depth)
        elif kind in _PLAIN and (kind not in {datetime, time_of_day} or type(value.tzinfo) in _ZONES):
            self._add(repr(value))
        elif _library(value) == "numpy":
            self._of_numpy(value)
        else:
            raise _Foreign

    def _container(self, value: Any, kind: type, depth: int) -> None:  # Any: one of five types
        begin, end = "[]" if kind is list else "()" if kind is tuple else "{}"
        if not value and kind in {set, frozenset}:
            return self._add(f"{kind.__name__}()")
        self._add("frozenset({" if kind is frozenset else begin)
        if depth == 0 and value:
            self._add("\N{HORIZONTAL ELLIPSIS}")
        else:
            for k, item in enumerate(islice(value.items() if kind is dict else value, _ITEMS)):
                self._add(", " if k else "")
                for part, each in enumerate(item if kind is dict else (item,)):
                    self._add(": " if part else "")
                    self._item(each, depth - 1)
            if len(value) > _ITEMS:
                self._add(f", \N{HORIZONTAL ELLIPSIS} {len(value) - _ITEMS} more")
            elif kind is tuple and len(value) == 1:
                self._add(",")
        self._add("})" if kind is frozenset else end)

    def _item(self, value: object, depth: int) -> None:
        try:
            self.write(value, depth)
        except _Foreign:
            self._add(f"<{_type_name(value)}>")

    def _of_numpy(self, value: Any) -> None:  # Any: of a library that may not be installed here
        numpy: Any = sys.modules.get("numpy")  # Any: likewise
        # A class of the user's may claim to be numpy's.
        if numpy is None or type(value) not in {numpy.ndarray, *numpy.sctypeDict.values()}:
            raise _Foreign
        if value.dtype.kind not in "biufcmMSU" or value.dtype.itemsize > 1024:
            raise _Foreign
        if isinstance(value, numpy.generic):
            self._add(repr(value))
        elif type(value) is numpy.ndarray and value.ndim <= _DIMENSIONS:
            self._add(numpy.array2string(value, threshold=40, edgeitems=3, max_line_width=100))
        else:
            raise _Foreign


# ---- what only the value itself can spell


def _spelled_apart(value: object, room: int) -> Preview:
    """Return a value's own repr, or why there is none: made by a copy of this process, which is thrown away."""
    size = _size()
    if size is None or size > _LARGEST:
        return {}
    try:
        end, begin = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
    except OSError as error:
        return {"why": _why(error)}
    if not pid:
        _spell(value, room, begin)
    os.close(begin)
    try:
        said = _read(end, _REPR_S * 1.5)
    finally:
        os.close(end)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):  # the task's code has its children reaped by somebody else
            os.waitpid(pid, 0)
    try:
        return dict(json.loads(said))
    except ValueError:
        return {"why": f"its repr did not come to an end within {_REPR_S} s, or ended the process"}


def _spell(value: object, room: int, pipe: int) -> None:
    """Be the copy: write the repr, and leave."""
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
        signal.setitimer(signal.ITIMER_REAL, _REPR_S)
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        wanted = _mapped() + _REPR_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (wanted if most < 0 else min(wanted, most), most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        try:
            text = repr(value)
            said: Preview = {"text": text[:room], **({"cut": True} if len(text) > room else {})}
        except BaseException as error:  # it is the user's code: SystemExit as well
            said = {"why": _why(error)}
        os.write(pipe, json.dumps(said).encode())
    finally:
        os._exit(0)


def _read(pipe: int, within_s: float) -> bytes:
    ends = time.monotonic() + within_s
    said = b""
    readable = select.poll()  # a task may have more files open than select(2) can tell apart
    readable.register(pipe, select.POLLIN)
    while (left := ends - time.monotonic()) > 0 and readable.poll(left * 1000):
        piece = os.read(pipe, 65536)
        if not piece:
            return said
        said += piece
    return b""


def _size() -> int | None:
    """Return the bytes that this process has in memory."""
    return _of_statm(1)


def _mapped() -> int:
    return _of_statm(0) or 0


def _of_statm(field: int) -> int | None:
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[field]) * _PAGE
    except (OSError, ValueError, IndexError):
        return None
