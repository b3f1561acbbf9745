"""What runs around a task, in its process: commands, calls, and modules that come along. Covalent's names and order."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial, update_wrapper
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, Final, cast

from hpcflow.core.errors import HpcflowError, UserError
from hpcflow.sdk.by_value import let_import, send_by_value
from hpcflow.sdk.mistakes import show_plainly
from hpcflow.sdk.settled import settled

if TYPE_CHECKING:
    from hpcflow.sdk.transfer import FileTransfer

__all__ = ["DepsBash", "DepsCall", "DepsModule", "DepsPip", "HookFailed", "Hooked", "Hooks", "parse_hook"]


class HookFailed(HpcflowError):
    """A command around a task ended with another exit code than 0; the task was not run, or its result is lost."""


@dataclass(frozen=True, eq=False)
class DepsBash:
    """Shell commands to run before a task, in its directory, each in a bash of its own.

    Args:
        commands: one, or several; the first that fails, fails the task.
    """

    commands: str | Iterable[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "commands", _texts("DepsBash", self.commands))


@dataclass(frozen=True, eq=False)
class DepsPip:
    """Packages that a task needs: they are installed once on each cluster, as with ``env=hf.Env(requirements=[…])``.

    Args:
        packages: as pip names them, ``"ase==3.22.1"``; one, or several.
        reqs_path: a file of them, on the machine that dispatches.
    """

    packages: str | Iterable[str] = ()
    reqs_path: str | None = None

    def __post_init__(self) -> None:
        listed = _texts("DepsPip", self.packages)
        if self.reqs_path is not None:
            try:
                with open(self.reqs_path, encoding="utf-8") as file:
                    lines = [line.strip() for line in file]
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"DepsPip can't read {self.reqs_path!r}: {error}") from None
            listed += tuple(line for line in lines if line and not line.startswith("#"))
        object.__setattr__(self, "packages", listed)


@dataclass(frozen=True, eq=False)
class DepsModule:
    """A module of Python source that travels with a task, though it is installed where you dispatch.

    Your own modules outside of ``site-packages`` travel by themselves.

    Args:
        module: the module, or its name.
    """

    module: ModuleType | str

    def __post_init__(self) -> None:
        name = self.module.__name__ if isinstance(self.module, ModuleType) else self.module
        send_by_value(name)


@dataclass(frozen=True, eq=False)
class DepsCall:
    """A function to call before or after a task, in its process.

    Args:
        func: a plain function, or an electron, which runs as one.
        args: its arguments.
        kwargs: the same by name.
        retval_keyword: the task gets what it returned as this argument; named several times, a list of all.
    """

    func: Callable[..., Any]
    args: Iterable[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    retval_keyword: str = ""

    def __post_init__(self) -> None:
        if not callable(self.func):
            raise UserError(f"DepsCall calls functions, not {self.func!r}.")
        if self.retval_keyword and not self.retval_keyword.isidentifier():
            raise UserError(f"DepsCall: retval_keyword={self.retval_keyword!r} is no argument's name.")
        object.__setattr__(self, "args", tuple(self.args))
        object.__setattr__(self, "kwargs", dict(self.kwargs))


Step = DepsBash | DepsCall


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Hooks:
    """All that runs around a task: bash, files before, before, the task, after, files after."""

    bash: tuple[str, ...] = ()
    files: tuple[FileTransfer, ...] = ()
    modules: tuple[ModuleType, ...] = ()
    before: tuple[Step, ...] = ()
    after: tuple[Step, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.bash or self.files or self.modules or self.before or self.after)

    @property
    def injected(self) -> frozenset[str]:
        """Arguments of the task that hooks give."""
        return frozenset(step.retval_keyword for step in self.before if isinstance(step, DepsCall)) - {""}


class Hooked:
    """What a task with hooks calls."""

    #: Looked for where the user's own function is wanted.
    is_hooked: Final = True

    def __init__(self, function: Callable[..., object], hooks: Hooks) -> None:
        _refuse_unknown(function, hooks.injected)
        self.function = function
        self.hooks = hooks
        self._dress()

    def _dress(self) -> None:
        update_wrapper(cast("Callable[..., object]", self), self.function, updated=())
        self.builds_graph = getattr(self.function, "builds_graph", False)
        self._is_told_of_files = bool(self.hooks.files) and _takes_files(self.function)
        injected = self.hooks.injected | ({"files"} if self._is_told_of_files else set[str]())
        self.__signature__ = _without(self.function, injected)

    def __call__(self, *args: object, **kwargs: object) -> object:
        hooks = self.hooks
        for module in hooks.modules:
            let_import(module)
        for command in hooks.bash:
            _run(command, "deps_bash")
        _bring(hooks.files, "before")
        given: dict[str, list[object]] = {}
        for step in hooks.before:
            value = _step(step, "call_before")
            if isinstance(step, DepsCall) and step.retval_keyword:
                given.setdefault(step.retval_keyword, []).append(value)
        injected = {name: values[0] if len(values) == 1 else values for name, values in given.items()}
        if self._is_told_of_files:
            injected["files"] = [each.pair() for each in hooks.files]
        name: str = getattr(self, "__name__", type(self.function).__name__)
        result = settled(self.function(*args, **{**kwargs, **injected}), name)
        for step in hooks.after:
            _step(step, "call_after")
        _bring(hooks.files, "after")
        return result

    def __getstate__(self) -> object:
        hooks = self.hooks
        return self.function, (hooks.bash, hooks.files, hooks.modules, hooks.before, hooks.after)

    def __setstate__(self, state: object) -> None:
        self.function, around = cast("tuple[Callable[..., object], tuple[Any, ...]]", state)
        bash, files, modules, before, after = around
        self.hooks = Hooks(bash=bash, files=files, modules=modules, before=before, after=after)
        self._dress()


def _bring(files: Iterable[FileTransfer], order: str) -> None:
    for each in files:
        if each.order == order:
            each.carry_out()


def _takes_files(function: Callable[..., object]) -> bool:
    """Tell whether a function has an argument for what it is to know of its files: one that it names, or any."""
    try:
        parameters = inspect.signature(function).parameters
    except (ValueError, TypeError):
        return False
    # The arguments of a command are words for its shell.
    anything = isinstance(inspect.unwrap(function), FunctionType)
    return "files" in parameters or (anything and any(each.kind is each.VAR_KEYWORD for each in parameters.values()))


def _step(step: Step, where: str) -> object:
    if isinstance(step, DepsCall):
        try:
            return settled(step.func(*step.args, **step.kwargs), where)
        except BaseException as error:
            error.add_note(f"raised by {where}, {_called(step.func)}")
            raise
    for command in cast("tuple[str, ...]", step.commands):
        _run(command, where)
    return None


def _called(function: object) -> str:
    """Return what a hook's function is called."""
    while isinstance(function, partial):
        function = function.func
    return str(getattr(function, "__name__", None) or type(function).__name__)


def _run(command: str, where: str) -> None:
    # What the function printed so far comes first.
    sys.stdout.flush()
    sys.stderr.flush()
    for bash in ("bash", "/bin/bash"):  # the task's own first; PATH may hold none
        try:
            code = subprocess.run([bash, "-c", command], stdin=subprocess.DEVNULL, check=False).returncode
            break
        except FileNotFoundError:
            continue
    else:
        raise HookFailed(f"{where}: there is no bash on {os.uname().nodename}.")
    if code:
        how = f"ended with exit code {code}" if code > 0 else f"was killed by signal {-code}"
        raise HookFailed(f"{where}: {command!r} {how}; what it wrote is in the task's output.")


def _refuse_unknown(function: Callable[..., object], injected: frozenset[str]) -> None:
    """Refuse what hooks would give to arguments that the function does not have, before anything waits in a queue."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):
        return
    kinds = inspect.Parameter
    if any(each.kind is kinds.VAR_KEYWORD for each in parameters):
        return
    taken = {each.name for each in parameters if each.kind in {kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY}}
    for name in sorted(injected - taken):
        raise UserError(
            f"DepsCall: retval_keyword={name!r} is no argument of {getattr(function, '__name__', function)!r}, "
            f"which has {', '.join(sorted(taken)) or 'none that has a name'}."
        )


def _without(function: Callable[..., object], injected: frozenset[str]) -> inspect.Signature | None:
    """Return the signature by which a lattice calls a task: what hooks give need not be given."""
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # some builtins have none
        return None
    kinds = inspect.Parameter
    own = [each for name, each in signature.parameters.items() if name not in injected]
    rest = [each for each in own if each.kind is kinds.VAR_KEYWORD]
    given = [
        each.replace(kind=kinds.KEYWORD_ONLY, default=None)
        for name, each in signature.parameters.items()
        if name in injected and each.kind not in {kinds.VAR_KEYWORD, kinds.VAR_POSITIONAL}
    ]
    return signature.replace(parameters=[each for each in own if each not in rest] + given + rest)


# ---- what the user writes


def parse_hook(name: str, value: object) -> Any:  # Any: each field's own type
    """Return what ``deps_bash=`` and the like mean: texts, packages, modules, or steps.

    Raises:
        UserError: it is none of these.
    """
    show_plainly()
    items = _listed(value)
    match name:
        case "deps_bash":
            return tuple(command for item in items for command in _commands(name, item))
        case "deps_pip":
            return tuple(package for item in items for package in _packages(name, item))
        case "files":
            return tuple(_transfer(item) for item in items)
        case "deps_module":
            return tuple(_module(name, item) for item in items)
        case _:
            return tuple(_parsed_step(name, item) for item in items)


def _listed(value: object) -> tuple[object, ...]:
    several = isinstance(value, (list, tuple))
    return tuple(cast("Iterable[object]", value)) if several else (value,)


def _commands(name: str, item: object) -> tuple[str, ...]:
    if isinstance(item, DepsBash):
        return cast("tuple[str, ...]", item.commands)
    return _texts(name, item)


def _packages(name: str, item: object) -> tuple[str, ...]:
    if isinstance(item, DepsPip):
        return cast("tuple[str, ...]", item.packages)
    return _texts(name, item)


def _transfer(item: object) -> FileTransfer:
    from hpcflow.sdk.transfer import FileTransfer  # few programs need it

    if isinstance(item, FileTransfer):
        return item
    raise UserError(f"files={item!r} must be an hf.fs.FileTransfer or what TransferFromRemote and the like return.")


def _module(name: str, item: object) -> ModuleType:
    wanted = item.module if isinstance(item, DepsModule) else item
    if not isinstance(wanted, (ModuleType, str)):
        raise UserError(f"{name}={item!r} must be a module or the name of one.")
    return send_by_value(wanted.__name__ if isinstance(wanted, ModuleType) else wanted)


def _parsed_step(name: str, item: object) -> Step:
    if isinstance(item, (DepsBash, DepsCall)):
        return item
    if isinstance(item, str):
        return DepsBash(item)
    if callable(item):
        return DepsCall(item)
    raise UserError(f"{name}={item!r} must be a DepsCall, a function, a shell command, or a list of them.")


def _texts(name: str, value: object) -> tuple[str, ...]:
    listed = _listed(value)
    for text in listed:
        if not isinstance(text, str) or not text.strip() or "\0" in text:
            raise UserError(f"{name}: {text!r} must be a text.")
    return cast("tuple[str, ...]", listed)
