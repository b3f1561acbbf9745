"""Digests of functions and values that are the same in every process, where pickles are not.

Of the user's own functions and classes the code counts, with all that it refers to by name: not where it lies, nor its
comments. What is installed counts by its name; versions of packages are the caller's affair. What a function finds by
other ways than names (``getattr`` with a computed name, files, the environment) is not seen.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import sys
from collections.abc import Callable, Iterator
from types import (
    CellType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any, Final, TypeVar, cast

import cloudpickle.cloudpickle as cp

from hpcflow.sdk.by_value import CACHED, came_by_value, found_by_name, import_statements, travels_by_value
from hpcflow.sdk.pickling import Gathered, plain_pickle
from hpcflow.sdk.placeholder import Frozen, Placeholder

__all__ = ["Fingerprints"]

#: Says in whose place a task's result stands.
KeyOf = Callable[[int], str]

#: Of a class: what comes of how it was made, and what hangs on the process.
_OF_THE_MAKING: Final = frozenset(
    {
        "__abstractmethods__",
        "__annotate__",
        "__annotate_func__",
        "__annotations__",
        "__annotations_cache__",
        "__dataclass_fields__",
        "__dict__",
        "__doc__",
        "__firstlineno__",
        "__module__",
        "__qualname__",
        "__slotnames__",  # pickle leaves it there
        "__static_attributes__",
        "__weakref__",
        "_abc_impl",
    }
)
_DESCRIPTORS: Final = (GetSetDescriptorType, MemberDescriptorType, WrapperDescriptorType)
#: Pickle's opcodes that begin sets, whose order hangs on the process.
_SETS: Final = (pickle.EMPTY_SET, pickle.FROZENSET)


class _NoDigestError(Exception):
    """It holds something that has no digest."""


class Fingerprints:
    """Digests of what one trace meets, each function's made once."""

    def __init__(self) -> None:
        # What has a digest is kept alive: it is known by its id.
        self._known: dict[int, tuple[object, str | None]] = {}

    def of(self, function: object) -> str | None:
        """Return the SHA-256 in hex of a function or class, ``None`` where it has none."""
        known = self._known.get(id(function))
        if known is None:
            known = self._known[id(function)] = function, _digest(function, None, None)
        return known[1]

    def of_arguments(self, sent: object, key_of: KeyOf) -> str | None:
        """Return the SHA-256 in hex of a call's arguments, in which results of tasks stand as their keys.

        ``None`` where they have none: as what changes from process to process, or can't be pickled.
        """
        data = plain_pickle(sent)
        if data is not None and not any(opcode in data for opcode in _SETS):
            return hashlib.sha256(b"plain " + data).hexdigest()
        return _digest(sent, key_of, self)


def _digest(value: object, key_of: KeyOf | None, known: Fingerprints | None) -> str | None:
    with io.BytesIO() as file:
        try:
            _Stable(file, key_of, known).dump(value)
        except Exception:  # pickling runs the value's own code
            return None
        return hashlib.sha256(b"any " + file.getvalue()).hexdigest()


class _Used:
    """A module as some code refers to it."""

    __slots__ = ("module", "names")

    def __init__(self, module: ModuleType, names: frozenset[str]) -> None:
        self.module = module
        #: All names in the code.
        self.names = names


def _part(value: object, names: frozenset[str]) -> object:
    return _Used(value, names) if type(value) is ModuleType else value


class _Stable(pickle.Pickler):
    """Writes what nobody reads: equal bytes for equal code and values, whatever process they are in."""

    def __init__(self, file: io.BytesIO, key_of: KeyOf | None, known: Fingerprints | None) -> None:
        super().__init__(file, protocol=5)
        # Without a memo: whether two equal values are one object hangs on the process. A circle raises.
        self.fast = True
        self._key_of = key_of
        self._known = known
        #: Functions, classes and modules that were written before, in their order.
        self._seen: dict[object, int] = {}
        self._alive: list[object] = []

    def persistent_id(self, obj: Any) -> Any:  # Any: pickle's own protocol
        if type(obj) is set or type(obj) is frozenset:
            digests = [_digest(item, self._key_of, self._known) for item in cast("set[object]", obj)]
            if None in digests:
                raise _NoDigestError
            return type(obj).__name__, sorted(cast("list[str]", digests))
        return None

    def reducer_override(self, obj: Any) -> Any:  # Any: pickle's own protocol
        kind = type(obj)
        if obj is _mark:
            return NotImplemented
        if kind is Placeholder:
            return _mark, ("placeholder", *self._expression(obj))
        if kind is Gathered:
            return _mark, ("placeholder", obj.kind.__name__, tuple(map(self._key, obj.numbers)))
        if kind is FunctionType or isinstance(obj, type):
            if _has_its_name(obj):
                return _mark, ("by name", obj.__module__, obj.__qualname__)
            if self._known is not None:  # one digest for all arguments that refer to it
                digest = self._known.of(obj)
                if digest is None:
                    raise _NoDigestError
                return _mark, (
                    "by digest",
                    digest,
                )
            return self._once(obj, self._function if kind is FunctionType else self._class)
        if kind is _Used:
            return self._module(obj.module, obj.names)
        if kind is ModuleType:
            return self._module(obj, frozenset())
        if kind is CodeType:
            return _mark, ("code", *_code_fields(obj))
        if kind is CellType:
            return _mark, ("cell", *_contents(obj))
        if kind is property:
            return _mark, ("wrapped", "property", obj.fget, obj.fset, obj.fdel)
        if kind is staticmethod or kind is classmethod:
            return _mark, ("wrapped", kind.__name__, obj.__func__)
        if kind is TypeVar:
            return _mark, ("wrapped", "TypeVar", obj.__name__)
        if kind is CACHED and not found_by_name(obj):
            return _mark, ("wrapped", "cached", obj.__wrapped__, obj.cache_parameters())
        if isinstance(obj, _DESCRIPTORS):
            return _mark, ("wrapped", "descriptor", obj.__name__)
        return NotImplemented

    def _once(self, obj: object, written: Callable[[Any], tuple[object, ...]]) -> Any:  # Any: pickle's own protocol
        number = self._seen.get(id(obj))
        if number is not None:
            return _mark, (
                "again",
                number,
            )
        self._seen[id(obj)] = len(self._seen)
        self._alive.append(obj)
        return _mark, ("by code", *written(obj))

    def _function(self, function: FunctionType) -> tuple[object, ...]:
        names = frozenset(_names(function.__code__))
        own = function.__globals__
        used = [(name, _part(own[name], names)) for name in sorted(names) if name in own]
        modules = [_part(sys.modules[name], names) for name in sorted(_imported(function)) if name in sys.modules]
        return (
            function.__name__,
            function.__code__,
            function.__defaults__,
            function.__kwdefaults__,
            function.__closure__,
            used,
            modules,
        )

    def _class(self, cls: type) -> tuple[object, ...]:
        own = [(name, value) for name, value in sorted(vars(cls).items()) if name not in _OF_THE_MAKING]
        return cls.__name__, type(cls), cls.__bases__, own

    def _module(self, module: ModuleType, names: frozenset[str]) -> Any:  # Any: pickle's own protocol
        """Return what code of these names can refer to in a module."""
        name = module.__name__
        if not (came_by_value(module) or travels_by_value(name)):
            return _mark, ("name", name)
        wanted = sorted(names & vars(module).keys())
        key = (id(module), *wanted)
        if key in self._seen:
            return _mark, ("again", self._seen[key])
        self._seen[key] = len(self._seen)
        return _mark, ("module", name, [(each, _part(vars(module)[each], names)) for each in wanted])

    # ---- results of tasks

    def _key(self, task: int) -> str:
        if self._key_of is None:
            raise _NoDigestError
        return self._key_of(task)

    def _expression(self, node: Placeholder) -> tuple[object, ...]:
        if node._hf_task >= 0:
            return ("task", self._key(node._hf_task))
        return (node._hf_op, *map(self._operand, node._hf_operands))

    def _operand(self, operand: object) -> object:
        if not isinstance(operand, Frozen):
            return operand
        if operand.deps:  # its numbers of tasks lie in a pickle
            raise _NoDigestError
        return operand.pickle


def _has_its_name(obj: Any) -> bool:  # Any: a function or a class
    """Return whether a function or class is found by its name, in a module that does not travel itself."""
    module = getattr(obj, "__module__", None)
    if not isinstance(module, str) or module == "__main__" or travels_by_value(module):
        return False
    loaded = sys.modules.get(module)
    if loaded is not None and came_by_value(loaded):
        return False
    return bool(cp._should_pickle_by_reference(obj))


def _code_fields(code: CodeType) -> tuple[object, ...]:
    return (
        code.co_argcount,
        code.co_posonlyargcount,
        code.co_kwonlyargcount,
        code.co_flags,
        code.co_code,
        code.co_consts,
        code.co_names,
        code.co_varnames,
        code.co_freevars,
        code.co_cellvars,
        code.co_exceptiontable,
    )


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _imported(function: FunctionType) -> set[str]:
    """Return the modules that ``import`` statements in a function's body name, and what they may take from them."""
    package = str(function.__globals__.get("__package__") or "")
    names: set[str] = set()
    for level, base, parts, _ in import_statements(function.__code__):
        above = package.split(".")[: len(package.split(".")) - level + 1] if level else []
        name = ".".join(filter(None, [*above, base]))
        names |= {name, *(f"{name}.{part}" for part in parts)}
    return names


def _contents(cell: CellType) -> tuple[object, ...]:
    try:
        return (cell.cell_contents,)
    except ValueError:  # empty
        return ()


# ---- what stands in the stream for what it was


def _mark(*_: object) -> None:
    raise AssertionError("a fingerprint is not to be opened")
