"""What a call returned, as a value that can travel: a coroutine's result, a generator's values."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Callable
from importlib import import_module
from inspect import isasyncgenfunction, iscoroutinefunction, unwrap
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, Final, cast

from hpcflow.core.words import counted

__all__ = ["prepare", "settled"]

_UNSETTLED: Final = frozenset({CoroutineType, AsyncGeneratorType, GeneratorType})


def settled(returned: object, name: str) -> object:
    """Return the value itself; what was awaited or drained in this process for a coroutine or a generator.

    A list in a generator's place is said on stderr: whoever takes the result gets a list.

    Args:
        name: the electron's, for that line.

    Raises:
        BaseException: whatever the coroutine or generator raises.
    """
    if type(returned) not in _UNSETTLED:
        return returned
    if type(returned) is GeneratorType:
        values = list(cast("GeneratorType[object, None, None]", returned))
    else:
        import asyncio  # few electrons are async

        if type(returned) is CoroutineType:
            return settled(asyncio.run(cast("CoroutineType[Any, Any, object]", returned)), name)
        values = asyncio.run(_drained(cast("AsyncGenerator[object]", returned)))
    sys.stdout.flush()
    print(
        f"{name} yields, and a generator can't travel: its result is the list of its {counted(len(values), 'value')}.",
        file=sys.stderr,
    )
    return values


def prepare(function: Callable[..., object]) -> None:
    """Import what `settled` needs for a function's results: once in a worker, not in each of its tasks' processes."""
    body = unwrap(function)
    if iscoroutinefunction(body) or isasyncgenfunction(body):
        import_module("asyncio")


async def _drained(generator: AsyncGenerator[object]) -> list[object]:
    return [value async for value in generator]
