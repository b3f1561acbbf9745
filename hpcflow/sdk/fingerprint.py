"""Digests of functions and values that are the same in every process, where pickles are not.

Of the user's own functions and classes the code counts, with all that it refers to by name: not where it lies, nor its
comments. A module that is reached otherwise than by its name, as an argument or in a dict, counts with all that it has.
What is installed counts by its name; versions of packages are the caller's affair. What a function finds by other ways
(``getattr`` with a computed name, files, the environment) is not seen.
"""

from __future__ import annotations

import copyreg
import dis
import hashlib
import inspect
import io
import pickle
import sys
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from enum import Enum
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MappingProxyType,
    MemberDescriptorType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any, Final, TypeVar, cast

import cloudpickle.cloudpickle as cp

from hpcflow.sdk.by_value import (
    CACHED,
    OF_THE_IMPORT,
    came_by_value,
    found_by_name,
    import_statements,
    travels_by_value,
    versions_here,
)
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
        "__annotations__",  # read another way
        "__annotations_cache__",
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
_CONTAINERS: Final = frozenset({list, dict, tuple})
#: Whether two of these are one object is no matter, or is seen elsewhere.
_NO_MATTER: Final = frozenset(
    {
        *(int, float, complex, bool, type(None), str, bytes, tuple, frozenset, range, slice, type(...)),
        *(type, FunctionType, BuiltinFunctionType, CodeType, ModuleType, TypeVar, Placeholder, Gathered, Frozen),
    }
)


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
        if data is not None and not any(opcode in data for opcode in _SETS) and not _shares(sent):
            return hashlib.sha256(b"plain " + data).hexdigest()
        return _digest(sent, key_of, self)


def _shares(value: object) -> bool:
    """Tell whether some list or dict is met twice among plain values: what a function does to one, it does to both."""
    met: set[int] = set()
    stack = [value]
    while stack:
        each = stack.pop()
        if type(each) is not tuple:
            if id(each) in met:
                return True
            met.add(id(each))
        items = cast("list[object]", each.values() if isinstance(each, dict) else each)
        stack += [item for item in items if type(item) in _CONTAINERS]
    return False


def _digest(
    value: object, key_of: KeyOf | None, known: Fingerprints | None, around: dict[int, object] | None = None
) -> str | None:
    with io.BytesIO() as file:
        try:
            _Stable(file, key_of, known, around).dump(value)
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


def _part(value: object, names: frozenset[str] | None) -> object:
    return _Used(value, names) if type(value) is ModuleType and names is not None else value


class _Stable(pickle.Pickler):
    """Writes what nobody reads: equal bytes for equal code and values, whatever process they are in."""

    def __init__(
        self,
        file: io.BytesIO,
        key_of: KeyOf | None,
        known: Fingerprints | None,
        around: dict[int, object] | None = None,
    ) -> None:
        super().__init__(file, protocol=5)
        # Without a memo: whether two equal texts are one object hangs on the process.
        self.fast = True
        #: All that can be changed and was met, in sets as well; alive, as it is known by its id.
        self._around: dict[int, object] = {} if around is None else around
        #: Of that what was met outside of sets, in its order: whether it is met again tells in the result.
        self._met: dict[int, int] = {}
        self._key_of = key_of
        self._known = known
        #: Functions, classes and modules that were written before, in their order.
        self._seen: dict[object, int] = {}
        self._alive: list[object] = []

    def persistent_id(self, obj: Any) -> Any:  # Any: pickle's own protocol
        if type(obj) is set or type(obj) is frozenset:
            if id(obj) in self._met:
                return "met", self._met[id(obj)]
            if type(obj) is set:
                self._meet(obj)
            items = cast("set[object]", obj)
            digests = [_digest(item, self._key_of, self._known, self._around) for item in items]
            if None in digests:
                raise _NoDigestError
            return type(obj).__name__, sorted(cast("list[str]", digests))
        if type(obj) not in _NO_MATTER and not isinstance(obj, (type, Enum)):
            if id(obj) in self._met:
                return "met", self._met[id(obj)]
            self._meet(obj)
        return None

    def _meet(self, obj: object) -> None:
        if id(obj) in self._around:  # in a set, whose order hangs on the process
            raise _NoDigestError
        self._around[id(obj)] = obj
        self._met[id(obj)] = len(self._met)

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
            return self._module(obj, None)
        if kind is CodeType:
            return _mark, ("code", *_code_fields(obj))
        if kind is CellType:
            return _mark, ("cell", *_contents(obj))
        if kind is property:
            return _mark, ("wrapped", "property", obj.fget, obj.fset, obj.fdel)
        if kind is staticmethod or kind is classmethod:
            return _mark, ("wrapped", kind.__name__, obj.__func__)
        if kind is CACHED:
            if _has_its_name(obj):
                return _mark, ("by name", obj.__module__, obj.__qualname__)
            return _mark, ("wrapped", "lru_cache", sorted(obj.cache_parameters().items()), obj.__wrapped__)
        if kind is MappingProxyType:
            return _mark, ("wrapped", "mappingproxy", dict(obj))
        if kind is TypeVar:
            return _mark, ("wrapped", "TypeVar", obj.__name__)
        if isinstance(obj, _DESCRIPTORS):
            return _mark, ("wrapped", "descriptor", obj.__name__)
        reduce = copyreg.dispatch_table.get(cast("type[object]", kind))
        reduced: Any = obj.__reduce_ex__(5) if reduce is None else reduce(obj)  # Any: pickle's own protocol
        # By its name alone nobody can tell what the user's own module has there now.
        if isinstance(reduced, str) and not _is_installed(_module_of(obj, reduced)):
            raise _NoDigestError
        return reduced

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
        imported, tried = _imported(function)
        modules = [_part(sys.modules[name], names) for name in sorted(imported) if name in sys.modules]
        if any(isinstance(value, _Used) for value in (*modules, *(value for _, value in used))):
            last = frozenset(name.rpartition(".")[2] for name in imported if name in sys.modules)
            passed = _passed_on(function.__code__, last)
            used = [(name, own[name] if name in passed else value) for name, value in used]
            if None in passed:
                modules = [value.module if isinstance(value, _Used) else value for value in modules]
        return (
            function.__name__,
            function.__code__,
            function.__defaults__,
            function.__kwdefaults__,
            function.__closure__,
            used,
            modules,
            # Nobody else asks for these: the function can do without them.
            sorted(versions_here(sorted(tried)).items()),
            sorted(vars(function).items()),
            inspect.get_annotations(function),
            function.__doc__,
        )

    def _class(self, cls: type) -> tuple[object, ...]:
        own = [(name, value) for name, value in sorted(vars(cls).items()) if name not in _OF_THE_MAKING]
        doc = cls.__doc__
        if is_dataclass(cls) and doc is not None and doc.startswith(f"{cls.__name__}("):
            doc = None  # made of its fields, with their addresses
        return cls.__name__, type(cls), cls.__bases__, own, inspect.get_annotations(cls), doc

    def _module(self, module: ModuleType, names: frozenset[str] | None) -> Any:  # Any: pickle's own protocol
        """Return what code of these names can refer to in a module; ``None``: all that is in it."""
        name = module.__name__
        if not (came_by_value(module) or travels_by_value(name)):
            return _mark, ("name", name)
        whole = vars(module).keys() - OF_THE_IMPORT - {"__file__", "__package__"}
        wanted = sorted(whole if names is None else names & vars(module).keys())
        key = (id(module), names is None, *wanted)
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
    if not isinstance(module, str) or not _is_installed(module):
        return False
    if type(obj) is CACHED:
        return found_by_name(obj)
    return bool(cp._should_pickle_by_reference(obj))


def _module_of(obj: object, name: str) -> str:
    return str(pickle.whichmodule(obj, name))  # type: ignore[attr-defined]  # pickle finds it so, typeshed has it not


def _is_installed(module: str) -> bool:
    if module == "__main__" or travels_by_value(module):
        return False
    loaded = sys.modules.get(module)
    return loaded is None or not came_by_value(loaded)


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


def _passed_on(code: CodeType, modules: frozenset[str]) -> set[str | None]:
    """Return the global names that code does more with than to take an attribute; ``None``: a module it imports.

    Args:
        code: a function's.
        modules: last parts of the names of modules, as they may stand in ``from package import module``.
    """
    passed: set[str | None] = set()
    imported: set[str] = set()
    used: set[str] = set()
    loaded: tuple[str, ...] = ()
    place = used
    importing = False
    for instruction in dis.get_instructions(code):
        name = instruction.opname
        if name in _BESIDE:
            continue
        if name not in _ATTRIBUTE:
            place.update(loaded)
        loaded = ()
        # Several names at once, as in LOAD_FAST_LOAD_FAST, are a tuple.
        argument: object = instruction.argval
        names = cast("tuple[str, ...]", argument) if isinstance(argument, tuple) else (str(argument),)
        if name.startswith("STORE_"):
            if importing:
                imported.update(names)
                if name in _GLOBAL_STORES:
                    passed.add(None)
            importing = False
        elif name == "IMPORT_NAME" or (name == "IMPORT_FROM" and str(argument) in modules):
            importing = True
        elif name not in _TURNS:
            importing = False
        if isinstance(argument, tuple) and "LOAD_FAST" in name:
            used.update(names)
        elif name in _GLOBAL:
            loaded, place = names, cast("set[str]", passed)
        elif name.startswith(_LOCAL):
            loaded, place = names, used
    if imported & used:
        passed.add(None)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            passed |= _passed_on(constant, modules)
    return passed


_GLOBAL: Final = frozenset({"LOAD_GLOBAL", "LOAD_NAME"})
_GLOBAL_STORES: Final = frozenset({"STORE_GLOBAL", "STORE_ATTR", "STORE_SUBSCR"})
_ATTRIBUTE: Final = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
_LOCAL: Final = ("LOAD_FAST", "LOAD_DEREF", "LOAD_CLOSURE")
#: Between an import and the name that it is given.
_TURNS: Final = frozenset({"SWAP", "POP_TOP"})
#: Opcodes that do nothing to what was loaded.
_BESIDE: Final = frozenset({"CACHE", "EXTENDED_ARG", "NOP", "RESUME", "PRECALL"})


def _imported(function: FunctionType) -> tuple[set[str], set[str]]:
    """Return what ``import`` statements in a function's body name, and what they may take from them.

    The second are the packages that it can do without.
    """
    package = str(function.__globals__.get("__package__") or "")
    names: set[str] = set()
    tried: set[str] = set()
    for level, base, parts, guarded in import_statements(function.__code__):
        above = package.split(".")[: len(package.split(".")) - level + 1] if level else []
        name = ".".join(filter(None, [*above, base]))
        names |= {name, *(f"{name}.{part}" for part in parts)}
        top = name.partition(".")[0]
        if guarded and top not in sys.stdlib_module_names and _is_installed(top):
            tried.add(top)
    return names, tried


def _contents(cell: CellType) -> tuple[object, ...]:
    try:
        return (cell.cell_contents,)
    except ValueError:  # empty
        return ()


# ---- what stands in the stream for what it was


def _mark(*_: object) -> None:
    raise AssertionError("a fingerprint is not to be opened")
