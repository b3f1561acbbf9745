"""How functions and values travel: cloudpickle, with placeholders resolved on arrival and the user's modules by value.

A pickle made here is opened by `load_with` alone. In it a placeholder is a call of `_resolve`, which `load_with`
binds to the results at hand; an expression is a flat list of steps, so its depth costs no recursion.
"""

from __future__ import annotations

import importlib
import io
import os
import pickle
import sys
import sysconfig
from collections.abc import Callable, Mapping
from types import FunctionType, ModuleType
from typing import Any, Final, NoReturn, TypeVar, cast

import cloudpickle.cloudpickle as cp

from hpcflow.sdk.placeholder import OPERATORS, Frozen, Placeholder, PlaceholderError, Tracer

__all__ = ["CapturedError", "dumps", "load_with", "travels_by_value"]


class CapturedError(PlaceholderError):
    """A placeholder lies where none can be resolved; ``name`` is its electron's."""

    def __init__(self, name: str) -> None:
        super().__init__(f"it holds the result of electron {name!r}, which is not known yet")
        self.name = name


def dumps(
    value: object,
    *,
    resolve_deps: set[int] | None = None,
    tracer: Tracer | None = None,
    by_value: set[str] | None = None,
) -> bytes:
    """Return the value's pickle, with classes and functions of the user's own modules inside it.

    Args:
        value: anything; placeholders may lie at any depth.
        resolve_deps: takes the numbers of the tasks whose results `load_with` will need; ``None`` refuses placeholders.
        tracer: the trace that placeholders must belong to.
        by_value: takes the names of the modules that travelled by value.

    Raises:
        CapturedError: a placeholder, and none may be there.
        PlaceholderError: a placeholder of another lattice call.
        Exception: whatever the value's own pickling raises.
    """
    try:
        return _plain(value)
    except _NotPlainError:
        with io.BytesIO() as file:
            _Pickler(file, resolve_deps, tracer, by_value).dump(value)
            return file.getvalue()


def load_with(data: bytes, values: Callable[[int], object] | None = None) -> Any:  # Any: whatever was pickled
    """Return the pickled value, with ``values(i)`` wherever the result of task number i belongs.

    Raises:
        Exception: whatever unpickling, ``values`` or an expression on a result raises.
    """
    return _Unpickler(data, values).load()


# ---- out


class _NotPlainError(Exception):
    """The value holds more than Python's plain types."""


class _PlainPickler(pickle.Pickler):
    def reducer_override(self, obj: object) -> NoReturn:
        raise _NotPlainError


def _plain(value: object) -> bytes:
    """Return the pickle of numbers, texts and containers of them, and refuse all else: no class is saved by name."""
    file = io.BytesIO()
    _PlainPickler(file, 5).dump(value)
    return file.getvalue()


class _Pickler(cp.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    def __init__(
        self, file: io.BytesIO, deps: set[int] | None, tracer: Tracer | None, by_value: set[str] | None
    ) -> None:
        super().__init__(file, protocol=5)
        self._deps = deps
        self._tracer = tracer
        self._by_value = by_value
        self._steps: dict[int, int] = {}
        self._spelt: list[Placeholder] = []

    def reducer_override(self, obj: Any) -> Any:  # Any: pickle's own protocol
        kind = type(obj)
        if kind is Placeholder:
            return _resolve, self._program(obj)
        if kind is FunctionType:
            if self._travels(obj.__module__):
                return self._dynamic_function_reduce(obj)
        elif isinstance(obj, type):
            reduced = cp._dynamic_class_reduce(obj) if self._travels(obj.__module__) else cp._class_reduce(obj)
            return _portable(obj, reduced)
        elif kind is ModuleType:
            if self._travels(obj.__name__):
                kept = {name: value for name, value in vars(obj).items() if name not in _OF_THE_IMPORT}
                return _new_module, (obj.__name__,), kept, None, None, _fill_module
        elif kind is TypeVar and self._travels(obj.__module__):
            return cp._make_typevar, cp._decompose_typevar(obj)
        return super().reducer_override(obj)

    def _travels(self, module: str | None) -> bool:
        if module is None or not travels_by_value(module):
            return False
        if self._by_value is not None:
            self._by_value.add(module)
        return True

    def _program(self, root: Placeholder) -> tuple[object, ...]:
        """Return the arguments of `_resolve`: a task, or the step wanted and the steps not yet in this pickle."""
        if self._deps is None:
            raise CapturedError(root._hf_name)
        if self._tracer is not None and root._hf_tracer is not self._tracer:
            raise PlaceholderError(
                f"it holds a result of electron {root._hf_name!r} from another call of a lattice; "
                "a result outlives its lattice only as a value: fetch it with get_result"
            )
        if root._hf_task >= 0:
            self._deps.add(root._hf_task)
            return (root._hf_task,)
        steps: list[tuple[int, str, tuple[tuple[str, object], ...]]] = []
        stack = [root]
        while stack:
            node = stack[-1]
            if id(node) in self._steps:
                stack.pop()
                continue
            missing = [
                part
                for part in node._hf_operands
                if type(part) is Placeholder and part._hf_task < 0 and id(part) not in self._steps
            ]
            if missing:
                stack += missing
                continue
            number = self._steps[id(node)] = len(self._steps)
            self._spelt.append(node)  # alive, so that no other object takes its id
            steps.append((number, node._hf_op, tuple(self._operand(part) for part in node._hf_operands)))
            stack.pop()
        return self._steps[id(root)], steps

    def _operand(self, part: object) -> tuple[str, object]:
        assert self._deps is not None  # `_program` has refused
        if isinstance(part, Frozen):
            self._deps |= part.deps
            return "pickle", part.pickle
        if type(part) is not Placeholder:
            return "value", part
        if part._hf_task >= 0:
            self._deps.add(part._hf_task)
            return "task", part._hf_task
        return "step", self._steps[id(part)]


# ---- in


def _resolve(number: int, steps: object = None) -> NoReturn:
    """Stand for a placeholder in a pickle; `load_with` puts its own in place."""
    raise PlaceholderError("a pickle with placeholders can only be opened where the results are")


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, values: Callable[[int], object] | None) -> None:
        super().__init__(io.BytesIO(data))
        self._values = values
        self._done: dict[int, object] = {}

    def find_class(self, module: str, name: str, /) -> Any:  # Any: pickle's own protocol
        if name == "_resolve" and module == __name__:
            return self._resolve
        return super().find_class(module, name)

    def _resolve(
        self, number: int, steps: list[tuple[int, str, tuple[tuple[str, object], ...]]] | None = None
    ) -> object:
        if steps is None:
            return self._value(number)
        for step, op, operands in steps:
            self._done[step] = OPERATORS[op](*(self._operand(kind, operand) for kind, operand in operands))
        return self._done[number]

    def _value(self, task: int) -> object:
        if self._values is None:
            raise PlaceholderError(f"the result of task {task} is not at hand")
        return self._values(task)

    def _operand(self, kind: str, operand: object) -> object:
        match kind:
            case "value":
                return operand
            case "step":
                return self._done[cast(int, operand)]
            case "task":
                return self._value(cast(int, operand))
            case _:
                return load_with(cast(bytes, operand), self._values)


# ---- the user's modules

#: Entries of a module that belong to how it was imported here.
_OF_THE_IMPORT: Final = frozenset({"__builtins__", "__loader__", "__spec__", "__cached__", "__path__"})
_OWN_PACKAGES: Final = frozenset(
    {"hpcflow", "hpcflow_slurm", "hpcflow_pbs", "hpcflow_lsf", "hpcflow_local", "hpcflow_templates", "cloudpickle"}
)
_INSTALLED: Final = tuple(
    {os.path.join(os.path.realpath(path), "") for path in sysconfig.get_paths().values() if "python" in path}
    | {os.path.join(os.path.realpath(os.path.dirname(os.__file__)), "")}
)
_known_modules: dict[str, bool] = {}


def travels_by_value(module: str) -> bool:
    """Tell whether a module is one of the user's own: Python source outside the installed packages and the stdlib.

    ``__main__`` is none: cloudpickle sends what is in it by value anyway.
    """
    known = _known_modules.get(module)
    if known is None:
        loaded = sys.modules.get(module)
        if loaded is None:
            return False
        known = _known_modules[module] = _is_the_users(module, loaded)
    return known


def _is_the_users(name: str, module: ModuleType) -> bool:
    path = getattr(module, "__file__", None)
    if name == "__main__" or name.partition(".")[0] in _OWN_PACKAGES or not isinstance(path, str):
        return False
    folders = os.path.realpath(path).split(os.sep)
    if not path.endswith(".py") or "site-packages" in folders or "dist-packages" in folders:
        return False
    return not os.path.realpath(path).startswith(_INSTALLED)


def _new_module(name: str) -> ModuleType:
    return ModuleType(name)


def _fill_module(module: ModuleType, contents: Mapping[str, object]) -> None:
    vars(module).update(contents)


# ---- the user's classes, which must be one and the same wherever they come back to


_unfilled: dict[int, type] = {}


def _portable(cls: type, reduced: Any) -> Any:  # Any: pickle's own protocol
    """Return a reduction by which an existing class is found again instead of being made, or filled, a second time.

    A class that is not at home here came by value, so where it goes next may be its home: it is looked up there
    by name. The other way round the definition that travels wins over a module of the same name on the cluster.
    """
    if not isinstance(reduced, tuple) or len(reduced) != 6:  # cloudpickle's reduction by value
        return reduced
    make, arguments, state = reduced[:3]
    home = None if _at_home(cls) or "<locals>" in cls.__qualname__ else (cls.__module__, cls.__qualname__)
    return _find_or_make, (home, make, arguments), state, None, None, _fill_class


def _at_home(cls: type) -> bool:
    return _find(cls.__module__, cls.__qualname__) is cls


def _find(module: str, qualname: str) -> object:
    found: object = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


def _find_or_make(home: tuple[str, str] | None, make: Callable[..., type], arguments: tuple[Any, ...]) -> type:
    tracked: type | None = cp._DYNAMIC_CLASS_TRACKER_BY_ID.get(arguments[-2])
    if tracked is not None:
        return tracked
    if home is not None:
        found = _imported(*home)
        if found is not None:
            return found
    made = make(*arguments)
    _unfilled[id(made)] = made
    return made


def _imported(module: str, qualname: str) -> type | None:
    if module not in sys.modules:
        try:
            importlib.import_module(module)
        except Exception:  # the user's module may raise anything; its class came along by value
            return None
    found = _find(module, qualname)
    return found if isinstance(found, type) else None


def _fill_class(cls: type, state: object) -> None:
    if _unfilled.pop(id(cls), None) is not None:
        cp._class_setstate(cls, state)
