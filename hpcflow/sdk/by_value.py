"""The user's own modules travel inside the pickles: functions, classes and modules by value, and classes home again.

cloudpickle sends by value what is in ``__main__``, and by name what a module holds. Here a module that lies outside
the standard library and the installed packages counts as the user's, and goes by value as well.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import opcode
import os
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final, TypeVar, cast

import cloudpickle.cloudpickle as cp

from hpcflow.core.errors import UserError

__all__ = [
    "CACHED",
    "OF_THE_IMPORT",
    "Shared",
    "came_by_value",
    "class_by_value",
    "found_by_name",
    "import_statements",
    "importable_now",
    "let_import",
    "module_by_value",
    "note_import",
    "reduced_by_value",
    "send_by_value",
    "travels_by_value",
    "versions_here",
]


class Shared:
    """What the pickles of one trace have in common."""

    __slots__ = ("definitions", "imports", "modules")

    def __init__(self) -> None:
        #: Names of the user's modules that went along.
        self.modules: set[str] = set()
        #: For each class among the arguments the id that cloudpickle gave it, and its pickle; ``None``: by name.
        self.definitions: dict[type, tuple[str, bytes] | None] = {}
        #: Top-level modules of packages that must be where the pickles are opened; whoever pickles may set another.
        self.imports: set[str] = set()


def travels_by_value(module: str) -> bool:
    """Tell whether a module is the user's own: Python source outside the installed packages and the standard library.

    ``__main__`` is none: cloudpickle sends what is in it by value anyway.
    """
    known = _known.get(module)
    if known is None:
        loaded = sys.modules.get(module)
        if loaded is None:
            return False
        folders = getattr(loaded, "__path__", ())
        known = _known[module] = _is_the_users(module, getattr(loaded, "__file__", None), folders)
    return known


def send_by_value(module: str) -> ModuleType:
    """Import a module and let it travel by value from now on, wherever it is installed; return it.

    Raises:
        UserError: there is no such module, or it has no source.
    """
    try:
        loaded = importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"The module {module!r} can't be imported here, so it can't travel: {error}.") from None
    if not (getattr(loaded, "__file__", None) or "").endswith(".py"):
        raise UserError(f"The module {module!r} is no Python source: only that can travel with a task.")
    _known[module] = True
    return loaded


def module_by_value(module: str) -> ModuleType | None:
    """Return a module that is the user's own, imported, to go along; ``None``: it is none, or it is not here."""
    return sys.modules[module] if _loaded_from_the_user(module) else None


def reduced_by_value(pickler: Any, obj: Any, shared: Shared) -> Any:  # Any: pickle's own protocol
    """Return how to pickle a function, class, type variable or module; ``None``: as cloudpickle does it.

    Args:
        pickler: the cloudpickle.Pickler that asks.
        obj: what it meets.
        shared: takes the names of the user's modules that are met, and those of packages.
    """
    kind, travelled = type(obj), shared.modules
    if kind is FunctionType:
        if _noted(obj.__module__, travelled):
            return _with_imports(obj, pickler._dynamic_function_reduce(obj), shared)
        reduced = pickler._function_reduce(obj)
        if isinstance(reduced, tuple):
            return _with_imports(obj, reduced, shared)
        note_import(obj.__module__, shared.imports)
        return reduced
    if isinstance(obj, type):
        note_import(obj.__module__, shared.imports)
        reduced = cp._dynamic_class_reduce(obj) if _noted(obj.__module__, travelled) else cp._class_reduce(obj)
        # cloudpickle's reduction by value has six parts; what goes by name needs no more care.
        return _portable(obj, reduced) if isinstance(reduced, tuple) and len(reduced) == 6 else reduced
    if kind is ModuleType and not _noted(obj.__name__, travelled):
        note_import(obj.__name__, shared.imports)
        return None
    if kind is ModuleType:
        kept = {name: value for name, value in vars(obj).items() if name not in OF_THE_IMPORT}
        return _new_module, (obj.__name__,), kept, None, None, _fill_module
    if kind is TypeVar and _noted(obj.__module__, travelled):
        return cp._make_typevar, cp._decompose_typevar(obj)
    if kind is CACHED and (_noted(obj.__module__, travelled) or not found_by_name(obj)):
        own = {name: value for name, value in vars(obj).items() if name not in _OF_A_WRAPPER}
        return _cached, (obj.__wrapped__, obj.cache_parameters()), own or None
    # A compiled function names its module itself; that of its type may be made up, as Cython's is.
    note_import(getattr(obj, "__module__", None) or kind.__module__, shared.imports)
    return None


#: What `functools.lru_cache` and `functools.cache` make; pickle knows it by its name alone.
CACHED: Final = type(functools.cache(len))
_OF_A_WRAPPER: Final = {*functools.WRAPPER_ASSIGNMENTS, "__wrapped__"}


def found_by_name(cached: Any) -> bool:  # Any: its type has no name
    """Tell whether what `functools.lru_cache` made is found by its name wherever its module is installed."""
    return cp._lookup_module_and_qualname(cached) is not None and not travels_by_value(cached.__module__)


def _cached(function: Callable[..., object], parameters: Mapping[str, Any]) -> object:  # Any: numbers and flags
    return functools.lru_cache(**parameters)(function)


def class_by_value(cls: type, shared: Shared, define: Callable[[type], bytes]) -> Any:  # Any: pickle's own protocol
    """Return how to pickle a class that ten thousand arguments may be of: ``define`` makes its pickle once."""
    if cls not in shared.definitions:
        by_name = cp._should_pickle_by_reference(cls) and not travels_by_value(cls.__module__)
        if by_name:
            note_import(cls.__module__, shared.imports)
        shared.definitions[cls] = None if by_name else (cp._get_or_create_tracker_id(cls), define(cls))
    definition = shared.definitions[cls]
    return NotImplemented if definition is None else (_find_or_load, definition)


def _find_or_load(tracker: str, definition: bytes) -> type:
    tracked: type | None = cp._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker)
    return pickle.loads(definition) if tracked is None else tracked


def _noted(module: str | None, travelled: set[str]) -> bool:
    if module is None or not travels_by_value(module):
        return False
    travelled.add(module)
    return True


# ---- whose module is it

_OWN_PACKAGES: Final = frozenset(
    {"hpcflow", "hpcflow_slurm", "hpcflow_pbs", "hpcflow_lsf", "hpcflow_local", "hpcflow_templates", "cloudpickle"}
)
_STANDARD_LIBRARY: Final = os.path.join(os.path.realpath(os.path.dirname(os.__file__)), "")
#: Where every install scheme of sysconfig puts packages, Debian's included: told by the folder's name, so that other
#: environments on the path count as well. Asking sysconfig costs a worker 5 ms.
_INSTALLED: Final = frozenset({"site-packages", "dist-packages"})
_known: Final[dict[str, bool]] = {}


def _is_the_users(name: str, file: str | None, folders: Iterable[str]) -> bool:
    if name == "__main__" or name.partition(".")[0] in _OWN_PACKAGES:
        return False
    # A package without __init__.py has folders only; what is built in, or compiled, can't go by value.
    place = next(iter(folders), None) if file is None else file if file.endswith(".py") else None
    if place is None:
        return False
    path = os.path.realpath(place)
    return not path.startswith(_STANDARD_LIBRARY) and _INSTALLED.isdisjoint(path.split(os.sep))


# ---- packages that must be there


def note_import(module: object, imports: set[str]) -> None:
    """Note the top-level name of a module that travels by name; Python's own and hpcflow's are everywhere."""
    if isinstance(module, str):
        top = module.partition(".")[0]
        if top not in imports and top not in _EVERYWHERE and not _goes_along(top):
            imports.add(top)


def _goes_along(top: str) -> bool:
    if top in sys.modules:
        made_up = getattr(sys.modules[top], "__spec__", None) is None  # nobody ever imports it
        return made_up or travels_by_value(top)
    try:
        return _found_at_the_users(top)
    except (ImportError, ValueError):
        return False


def versions_here(imports: Iterable[str]) -> dict[str, str]:
    """Return the version of each of these modules that is here; "?" where none is known, nothing where it is not here.

    It is what a loaded module says, else what the record of its package says.
    """
    versions: dict[str, str] = {}
    for name in imports:
        loaded = sys.modules.get(name)
        version = getattr(loaded, "__version__", None)
        try:
            here = loaded is not None or importlib.util.find_spec(name) is not None
        except (ImportError, ValueError):
            here = False
        known = version if isinstance(version, str) and version else None
        versions[name] = (known or _version_on_record(name) or "?") if here else ""
    return versions


def _version_on_record(module: str) -> str | None:
    from importlib import metadata  # most modules that are loaded tell it themselves

    try:
        return metadata.version(module)
    except metadata.PackageNotFoundError:
        pass
    # The package has another name. Reading all of a record costs ten times as much as looking for one line in it.
    lines = f"\n{module}/__init__.py,", f"\n{module}.py,"
    for package in metadata.distributions():
        record = "\n" + (package.read_text("RECORD") or "")
        if module in (package.read_text("top_level.txt") or "").split() or any(line in record for line in lines):
            return package.version
    return None


_EVERYWHERE: Final = sys.stdlib_module_names | _OWN_PACKAGES | {"__main__", "__mp_main__", "builtins"}


# ---- modules

#: Entries of a module that belong to how it was imported here.
OF_THE_IMPORT: Final = frozenset({"__builtins__", "__loader__", "__spec__", "__cached__", "__path__"})
_MARK: Final = "__hpcflow_by_value__"


def came_by_value(module: ModuleType) -> bool:
    """Tell whether a module was made of what travelled, and not imported."""
    return hasattr(module, _MARK)


def let_import(module: ModuleType) -> None:
    """Let a module that travelled be imported by its name from now on, unless one that is installed here has it.

    It takes the place of one that travelled before: a process that lives on may be sent a later version.
    """
    here = sys.modules.get(module.__name__)
    if here is None or came_by_value(here):
        sys.modules[module.__name__] = _importable[module.__name__] = module


def importable_now() -> list[ModuleType]:
    """Return the modules that travelled and can be imported, for `let_import` to bring back after later ones."""
    return list(_importable.values())


_importable: Final[dict[str, ModuleType]] = {}


def _new_module(name: str) -> ModuleType:
    module = ModuleType(name)
    setattr(module, _MARK, True)
    return module


def _fill_module(module: ModuleType, contents: Mapping[str, object]) -> None:
    vars(module).update(contents)


def _with_imports(function: FunctionType, reduced: Any, shared: Shared) -> Any:  # Any: pickle's own protocol
    """Return a reduction that brings along the user's modules which the function's body imports."""
    modules = [sys.modules[name] for name in _imported_inside(function) if _noted(name, shared.modules)]
    for level, base, _, guarded in _imports[function.__code__]:
        if not level and not guarded:
            note_import(base, shared.imports)
    if not modules:
        return reduced
    make, arguments, state = reduced[:3]
    return make, arguments, (modules, state), None, None, _fill_function


def _fill_function(function: FunctionType, state: tuple[list[ModuleType], object]) -> None:
    modules, own = state
    for module in modules:
        let_import(module)
    cp._function_setstate(function, own)


def _imported_inside(function: FunctionType) -> set[str]:
    """Return the user's modules that ``import`` statements in a function's body name, and their packages."""
    code = function.__code__
    if code not in _imports:
        _imports[code] = tuple(import_statements(code))
    names: set[str] = set()
    for level, base, parts, _ in _imports[code]:
        name = base
        if level:
            try:
                name = importlib.util.resolve_name("." * level + base, function.__globals__.get("__package__"))
            except ImportError:
                continue
        if _loaded_from_the_user(name):
            names |= {name.rsplit(".", up)[0] for up in range(name.count(".") + 1)}
            names |= {f"{name}.{part}" for part in parts if _loaded_from_the_user(f"{name}.{part}")}
    return names


_imports: Final[dict[CodeType, tuple[tuple[int, str, tuple[str, ...], bool], ...]]] = {}
_IMPORT: Final = opcode.opmap["IMPORT_NAME"]
_EXTENDED: Final = opcode.opmap["EXTENDED_ARG"]


def import_statements(code: CodeType) -> Iterator[tuple[int, str, tuple[str, ...], bool]]:
    """Yield (level, module, names) of each import in the code and in the functions inside it.

    The last value: the import stands in a block that catches exceptions, so that the function may do without it.
    """
    if _IMPORT in code.co_code[::2]:
        import dis  # workers seldom need it

        level, parts = 0, None  # loaded just before, in this order
        bytecode = dis.Bytecode(code)
        entries = bytecode.exception_entries  # type: ignore[attr-defined]  # documented nowhere, there since 3.11
        for instruction in bytecode:
            if instruction.opcode == _IMPORT:
                at = instruction.offset
                guarded = any(entry.start <= at < entry.end for entry in entries)
                yield level, instruction.argval, parts or (), guarded
            elif instruction.opcode != _EXTENDED:
                level, parts = cast(int, parts), instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from import_statements(constant)


def _loaded_from_the_user(name: str) -> bool:
    """Import a module of the user's, as the function itself would, and tell whether it is one."""
    if name not in sys.modules:
        try:
            if not _found_at_the_users(name.partition(".")[0]):
                return False
            importlib.import_module(name)
        except Exception:  # the user's module may raise anything, and may be meant for the cluster alone
            return False
    return travels_by_value(name)


def _found_at_the_users(top: str) -> bool:
    """Tell whether a top-level module is the user's, without importing it."""
    if top in sys.modules:
        return travels_by_value(top)
    if top not in _known:
        spec = importlib.util.find_spec(top)
        _known[top] = spec is not None and _is_the_users(
            top, spec.origin if spec.has_location else None, spec.submodule_search_locations or ()
        )
    return _known[top]


# ---- classes, which must be one and the same wherever they come back to


def _portable(cls: type, reduced: Any) -> Any:  # Any: pickle's own protocol
    """Return a reduction by which an existing class is found again instead of being made, or filled, a second time.

    A class that is not at home here came by value, so where it goes next may be its home: it is looked up there
    by name. The other way round the definition that travels wins over a module of the same name on the cluster.
    """
    make, arguments, state = reduced[:3]
    away = not _is_at_home(cls) and "<locals>" not in cls.__qualname__
    return _find_or_make, (cls.__module__, cls.__qualname__, away, make, arguments), state, None, None, _fill_class


def _is_at_home(cls: type) -> bool:
    home = sys.modules.get(cls.__module__)
    return _find(cls.__module__, cls.__qualname__) is cls and not hasattr(home, _MARK)


def _find(module: str, qualname: str) -> object:
    found: object = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


def _find_or_make(
    module: str,
    qualname: str,
    away: bool,
    make: Callable[..., type],
    arguments: tuple[Any, ...],  # Any: cloudpickle's own
) -> type:
    tracked: type | None = cp._DYNAMIC_CLASS_TRACKER_BY_ID.get(arguments[-2])
    if tracked is not None:
        return tracked
    if away:
        found = _imported(module, qualname)
        if found is not None:
            return found
    made = make(*arguments)
    # cloudpickle drops the outer classes' names.
    made.__qualname__ = qualname
    _unfilled[id(made)] = made
    return made


_unfilled: Final[dict[int, type]] = {}


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
