"""What an executor does around each of its tasks, in the task's own process."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import update_wrapper
from typing import Final, Protocol, cast

from hpcflow.core.errors import HpcflowError
from hpcflow.sdk.context import get_context
from hpcflow.sdk.functions import name_of
from hpcflow.sdk.settled import settled

__all__ = ["Body", "CallEach", "RunBy", "Surroundings"]


class Body(Protocol):
    """What calls the function of each task of an executor."""

    def call(self, function: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object]) -> object: ...

    def described(self) -> dict[str, object]:
        """Return what the server keeps of it, as JSON."""
        ...


@dataclass(frozen=True)
class Surroundings:
    """A folder of its own for each task, and commands after it."""

    #: Where the folders lie: absolute, or below the home directory. ``None``: tasks stay where their worker puts them.
    folder: str | None = None
    #: For bash, each by itself; the first that fails, fails the task.
    after: tuple[str, ...] = ()
    #: All tasks run in the folder itself.
    shared: bool = False

    def call(self, function: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object]) -> object:
        if self.folder is not None:
            here = get_context()
            beginning = os.path.expanduser(os.path.join("~", self.folder))
            parts = () if self.shared else (here.dispatch_id or "", f"node_{here.node_id}")
            own = os.path.join(beginning, *parts)
            os.makedirs(own, mode=0o700, exist_ok=True)
            os.chdir(own)
        result = settled(function(*args, **kwargs), name_of(function))
        for command in self.after:
            sys.stdout.flush()
            code = subprocess.run(["bash", "-c", command], stdin=subprocess.DEVNULL, check=False).returncode
            if code:
                raise HpcflowError(f"postrun_commands: {command!r} ended with exit code {code}.")
        return result

    def described(self) -> dict[str, object]:
        return {}


class CallEach:
    """Several calls of one function as one task."""

    #: Looked for where the user's own function is wanted.
    is_hooked: Final = True

    def __init__(self, function: Callable[..., object]) -> None:
        self.function = function
        update_wrapper(cast("Callable[..., object]", self), function, updated=())
        self.__signature__ = inspect.Signature([inspect.Parameter("calls", inspect.Parameter.POSITIONAL_ONLY)])

    def __call__(self, calls: Sequence[tuple[object, ...]]) -> list[object]:
        name = name_of(self.function)
        return [settled(self.function(*call), name) for call in calls]

    def __reduce__(self) -> tuple[object, ...]:
        return CallEach, (self.function,)


class RunBy:
    """What a task calls whose executor does something around it."""

    #: Looked for where the user's own function is wanted.
    is_hooked: Final = True

    def __init__(self, function: Callable[..., object], body: Body) -> None:
        self.function = function
        self.body = body
        self._dress()

    def _dress(self) -> None:
        update_wrapper(cast("Callable[..., object]", self), self.function, updated=())
        self.__signature__: inspect.Signature | None
        try:
            self.__signature__ = inspect.signature(self.function)
        except (ValueError, TypeError):  # some builtins have none
            self.__signature__ = None

    def __call__(self, *args: object, **kwargs: object) -> object:
        return self.body.call(self.function, args, kwargs)

    def __getstate__(self) -> object:
        return self.function, self.body

    def __setstate__(self, state: object) -> None:
        self.function, self.body = cast("tuple[Callable[..., object], Body]", state)
        self._dress()
