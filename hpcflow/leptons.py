"""Decorators for tasks in other languages: ``@hf.leptons.bash``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, Unpack, overload

from hpcflow.core.errors import UserError
from hpcflow.sdk.lepton import CommandOf, read_outputs
from hpcflow.sdk.mistakes import show_plainly
from hpcflow.sdk.options import Options, parse_options
from hpcflow.sdk.workflow import Electron

__all__ = ["bash"]

P = ParamSpec("P")


@overload
def bash(function: Callable[P, str], /) -> Electron[P, Any]: ...
@overload
def bash(
    function: Callable[P, str],
    /,
    *,
    display_name: str = "",
    named_outputs: Iterable[str] = (),
    **options: Unpack[Options],
) -> Electron[P, Any]: ...
@overload
def bash(
    *, display_name: str = "", named_outputs: Iterable[str] = (), **options: Unpack[Options]
) -> Callable[[Callable[P, str]], Electron[P, Any]]: ...
def bash(
    function: Callable[P, str] | None = None,
    /,
    *,
    display_name: str = "",
    named_outputs: Iterable[str] = (),
    **options: Unpack[Options],
) -> Electron[P, Any] | Callable[[Callable[P, str]], Electron[P, Any]]:
    """Mark a function that returns a bash command: its task calls it, with values, and runs what it returned.

    What the function puts into the command is shell text: ``shlex.quote`` what comes from elsewhere.

    Args:
        function: returns the command.
        display_name: what people see; the function's name else.
        named_outputs: shell variables whose values are the result, as texts; ``None`` is the result without.
        options: annotations, as an electron has.
    """
    outputs = read_outputs("leptons.bash", tuple(named_outputs))

    def decorate(decorated: Callable[P, str]) -> Electron[P, Any]:
        if not callable(decorated):
            raise UserError("@leptons.bash marks a function that returns a command; for a text write hf.Lepton.")
        command = CommandOf(decorated, outputs)
        if display_name:
            command.__name__ = command.__qualname__ = " ".join(display_name.split())
        return Electron(command, parse_options(options, f"The lepton {command.__name__!r}"))

    show_plainly()
    return decorate if function is None else decorate(function)
