"""`@electron` and `@lattice`: plain functions that record their calls while a lattice is traced. Runs on nodes too."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import update_wrapper
from types import FunctionType, MethodType
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Final,
    Generic,
    ParamSpec,
    Self,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from hpcflow.core.bag import stream_parts
from hpcflow.core.errors import WrongArguments
from hpcflow.core.model import UserError
from hpcflow.core.reuse import Matcher
from hpcflow.sdk import metadata
from hpcflow.sdk.annotations import Annotations
from hpcflow.sdk.functions import name_of
from hpcflow.sdk.manifest import manifest, refuse_brought
from hpcflow.sdk.mistakes import show_plainly
from hpcflow.sdk.options import LatticeOptions, Options, parse_lattice_options, parse_options
from hpcflow.sdk.pickling import dumps, load_with
from hpcflow.sdk.placeholder import PlaceholderError
from hpcflow.sdk.trace import FunctionText, Trace, Traced, brief, current_trace

if TYPE_CHECKING:
    from hpcflow.sdk.body import Body
    from hpcflow.sdk.hooks import Hooks

__all__ = [
    "Electron",
    "FunctionText",
    "Lattice",
    "PlaceholderError",
    "Sublattice",
    "Traced",
    "dumps",
    "electron",
    "lattice",
    "load_with",
    "wait",
]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")


# ---- decorated functions


class Electron(Generic[P, R_co]):
    """A function that becomes a task where a lattice calls it, and is called plainly everywhere else."""

    def __init__(
        self, function: Callable[P, R_co], annotations: Annotations, *, lattice: Annotations | None = None
    ) -> None:
        """Wrap a function.

        Args:
            function: a plain one.
            annotations: what it needs.
            lattice: the function is a lattice's, with these annotations: its tasks build its graph.
        """
        self.function = function
        self.annotations = annotations
        self._lattice = lattice
        _dress(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        trace = current_trace.get()
        if trace is None:
            return self.function(*args, **kwargs)
        if not self.composes:  # a lattice may well take electrons as arguments
            _refuse_uncalled(self.function, args, kwargs)
        return cast(R_co, trace.call(self, args, kwargs))

    def map(self, *iterables: Iterable[object]) -> list[R_co]:
        """Call it with one item of each iterable, up to the end of the shortest; return the list of what that gives.

        In a lattice these are the results of as many tasks, anywhere else values.
        """
        call = cast("Callable[..., R_co]", self)
        return [call(*items) for items in zip(*iterables, strict=False)]

    @property
    def composes(self) -> bool:
        """It is a lattice: called in another one, its graph is built by a task of its own, from values."""
        return self._lattice is not None

    def sent(
        self, inherited: Annotations, replaced: Mapping[str, Electron[..., object]]
    ) -> tuple[Callable[..., object], Annotations]:
        """Return what its tasks call, and what they ask for, where a lattice hands down ``inherited``.

        A sublattice calls what is in ``replaced`` in the place of electrons with these names.
        """
        if self._lattice is None:
            whole = self.annotations.over(inherited)
            return _run_by(_hooked(self.function, whole.hooks), whole.body), whole
        outer = self._lattice.for_electrons().over(inherited)
        inner = self.annotations.for_sublattice().over(outer)
        # Hooks of its own electron run around its building; those of lattices around each of the tasks in it.
        building = self.annotations.over(outer).for_building()
        return _hooked(Sublattice(self.function, inner, replaced), self.annotations.hooks), building

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...
    @overload
    def __get__(
        self: Electron[Concatenate[Any, Q], R_co], instance: object, owner: type | None = None
    ) -> Callable[Q, R_co]: ...
    def __get__(self, instance: object, owner: type | None = None) -> object:
        """In a class, bind as the function itself would: the object is its first argument, and travels as one."""
        binds = instance is not None and isinstance(self.function, FunctionType)
        return MethodType(self, instance) if binds else self

    def with_options(self, **options: Unpack[Options]) -> Electron[P, R_co]:
        """Return another electron of the same function; what ``options`` leave open stays as it is here."""
        where = f"The electron {name_of(self.function)!r}"
        annotations = parse_options(options, where).over(self.annotations)
        return Electron(self.function, annotations, lattice=self._lattice)

    @property
    def electron_object(self) -> Any:  # Any: Self, which mypy would bind here as it binds a method
        """The electron itself, which Covalent's programs ask for ``set_metadata`` and ``get_metadata``."""
        return self

    def get_metadata(self, name: str) -> object:
        """Return an annotation of this electron's own by its name, ``None`` where it is left to the lattice.

        Raises:
            UserError: there is no such annotation.
        """
        return metadata.told(self.annotations, name, f"The electron {name_of(self.function)!r}")

    def set_metadata(self, name: str, value: object) -> None:
        """Change one annotation of this electron wherever it is called from now on; ``None``: leave it to the lattice.

        `with_options` gives another electron instead, and leaves this one as it is for other lattices.

        Raises:
            UserError: there is no such annotation, or it can't have this value.
        """
        where = f"The electron {name_of(self.function)!r}"
        self.annotations = metadata.changed(self.annotations, name, value, where, parse_options)

    def __repr__(self) -> str:
        return f"<electron {name_of(self.function)}>"

    def __getstate__(self) -> object:
        return self.function, self.annotations, self._lattice

    def __setstate__(self, state: object) -> None:
        self.function, self.annotations, self._lattice = cast(
            "tuple[Callable[P, R_co], Annotations, Annotations | None]", state
        )
        _dress(self, self.function)


class Lattice(Generic[P, R_co]):
    """A function that composes electrons. Called, it runs as plain Python; dispatched, its electrons become tasks."""

    def __init__(self, function: Callable[P, R_co], annotations: Annotations) -> None:
        self.function = function
        self.annotations = annotations
        _dress(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        trace = current_trace.get()
        if trace is None:
            return self.function(*args, **kwargs)
        with trace.inside(self.annotations):
            return self.function(*args, **kwargs)

    def with_options(self, **options: Unpack[LatticeOptions]) -> Lattice[P, R_co]:
        """Return another lattice of the same function; what ``options`` leave open stays as it is here."""
        where = f"The lattice {name_of(self.function)!r}"
        return Lattice(self.function, parse_lattice_options(options, where).over(self.annotations))

    def build_graph(self, *args: P.args, **kwargs: P.kwargs) -> Traced:
        """Run the lattice's function once, with every electron's call recorded instead of run.

        Raises:
            UserError: it calls no electron, `wait` made a cycle, an argument can't be pickled, …
        """
        return self._built(args, kwargs, may_be_empty=False)

    def draw(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Show the graph that these arguments give on the page, and return it as a Mermaid flowchart; nothing runs.

        Where a server runs, the address is printed, and opened if there is a display or ``$BROWSER``. None is started.
        In a flowchart of more than 50 tasks those of one electron that are equally far from the beginning are one box.

        Raises:
            UserError: as `build_graph`.
        """
        from hpcflow.core.drawing import mermaid  # nodes have no use for these
        from hpcflow.sdk.sketch import show

        traced = self.build_graph(*args, **kwargs)
        show(traced)
        return mermaid(traced.graph)

    def get_metadata(self, name: str) -> object:
        """Return an annotation of this lattice's own by its name, ``None`` where there is none.

        Raises:
            UserError: there is no such annotation.
        """
        return metadata.told(self.annotations, name, f"The lattice {name_of(self.function)!r}")

    def set_metadata(self, name: str, value: object) -> None:
        """Change one annotation of this lattice from now on; ``None`` takes it away. `with_options` changes a copy.

        Raises:
            UserError: there is no such annotation, or it can't have this value.
        """
        where = f"The lattice {name_of(self.function)!r}"
        self.annotations = metadata.changed(self.annotations, name, value, where, parse_lattice_options)

    def build_with(
        self,
        replaced: Mapping[str, Electron[..., object]],
        args: tuple[object, ...],
        kwargs: dict[str, object],
        *,
        elsewhere: Collection[str] = (),
        earlier: Matcher | None = None,
    ) -> Traced:
        """Do as `build_graph`, with other electrons in the place of those with these names, in sublattices too.

        Names in ``elsewhere`` need not be called by the lattice itself. With ``earlier``, tasks of an earlier dispatch
        are found whose results stand for tasks here.

        Raises:
            UserError: it calls no electron of such a name.
        """
        return self._built(args, kwargs, may_be_empty=False, replaced=replaced, elsewhere=elsewhere, earlier=earlier)

    def _built(
        self,
        args: tuple[object, ...],
        kwargs: dict[str, object],
        *,
        may_be_empty: bool,
        replaced: Mapping[str, Electron[..., object]] | None = None,
        elsewhere: Collection[str] = (),
        earlier: Matcher | None = None,
    ) -> Traced:
        name = name_of(self.function)
        trace = Trace(name, self.annotations, replaced=replaced, elsewhere=elsewhere, earlier=earlier)
        _refuse_others(self.function, args, kwargs)
        token = current_trace.set(trace)
        try:
            returned = cast(Callable[..., object], self.function)(*args, **kwargs)
        finally:
            current_trace.reset(token)
        if (uncalled := _uncalled(returned)) is not None:
            name = name_of(uncalled.function)
            raise UserError(
                f"The lattice {trace.name!r} returns {uncalled!r} itself, not its result: call it, as in {name}(...)."
            )
        return trace.finished(returned, may_be_empty=may_be_empty)

    def __repr__(self) -> str:
        return f"<lattice {name_of(self.function)}>"

    def __getstate__(self) -> object:
        return self.function, self.annotations

    def __setstate__(self, state: object) -> None:
        self.function, self.annotations = cast("tuple[Callable[P, R_co], Annotations]", state)
        _dress(self, self.function)


class Sublattice:
    """What the task of a sublattice calls: it builds a lattice's graph from values, as an upload for the server."""

    #: Looked for by the worker, which then hands over the bytes as they are.
    builds_graph: Final = True

    def __init__(
        self,
        function: Callable[..., object],
        annotations: Annotations,
        replaced: Mapping[str, Electron[..., object]],
    ) -> None:
        self.function = function
        self.annotations = annotations
        self.replaced = dict(replaced)
        _dress(self, function)

    def __call__(self, *args: object, **kwargs: object) -> bytes:
        # A loop ends in a sublattice that calls nothing more.
        traced = Lattice(self.function, self.annotations)._built(
            args, kwargs, may_be_empty=True, replaced=self.replaced, elsewhere=self.replaced
        )
        refuse_brought(traced)
        described, blobs = manifest(traced)
        described |= {"id": "0" * 26, "client": {"host": "", "user": "", "version": ""}}
        return zlib.compress(b"".join(stream_parts(described, blobs)), 1)

    def __getstate__(self) -> object:
        # Nearly all have none, and are told from others by their pickles.
        return (self.function, self.annotations, *([self.replaced] if self.replaced else []))

    def __setstate__(self, state: object) -> None:
        self.function, self.annotations, *rest = cast("tuple[Any, ...]", state)
        self.replaced = cast("dict[str, Electron[..., object]]", rest[0]) if rest else {}
        _dress(self, self.function)


@overload
def electron(function: Callable[P, R], /) -> Electron[P, R]: ...
@overload
def electron(**options: Unpack[Options]) -> Callable[[Callable[P, R]], Electron[P, R]]: ...
def electron(
    function: Callable[P, R] | None = None, /, **options: Unpack[Options]
) -> Electron[P, R] | Callable[[Callable[P, R]], Electron[P, R]]:
    """Mark a function as a task: ``@electron``, or ``@electron(memory="8 GB", walltime="30 min")``.

    Options left open come from the lattice that calls it. A lattice may be marked too: called in another lattice it is
    a sublattice, whose graph is built when its arguments exist, so that it can loop and branch on results.

    Coroutine functions are awaited in their task, generators drained to a list. A method's object travels as its first
    argument.

    Raises:
        UserError: an unknown or impossible option; something that can't be called.
    """

    def decorate(decorated: Callable[P, R]) -> Electron[P, R]:
        inner = decorated.annotations if isinstance(decorated, Lattice) else None
        plain = decorated.function if isinstance(decorated, Lattice) else decorated
        _check_function(plain, "electron")
        return Electron(plain, parse_options(options, f"The electron {name_of(plain)!r}"), lattice=inner)

    show_plainly()
    return decorate if function is None else decorate(function)


@overload
def lattice(function: Callable[P, R], /) -> Lattice[P, R]: ...
@overload
def lattice(**options: Unpack[LatticeOptions]) -> Callable[[Callable[P, R]], Lattice[P, R]]: ...
def lattice(
    function: Callable[P, R] | None = None, /, **options: Unpack[LatticeOptions]
) -> Lattice[P, R] | Callable[[Callable[P, R]], Lattice[P, R]]:
    """Mark a function that composes electrons: ``@lattice``, or ``@lattice(executor="slurm")``.

    Its options hold for each electron that it calls and that leaves them open, but for two, which count over the whole
    dispatch: no more than ``max_running=`` tasks run at once, and with more than ``max_failures=`` failed ones it ends.
    An electron may be marked too: it is then the lattice's only task.

    Raises:
        UserError: an unknown or impossible option; a method, coroutine or generator function.
    """

    def decorate(decorated: Callable[P, R]) -> Lattice[P, R]:
        _check_function(decorated, "lattice")
        return Lattice(decorated, parse_lattice_options(options, f"The lattice {name_of(decorated)!r}"))

    show_plainly()
    return decorate if function is None else decorate(function)


def wait(child: T, parents: object = None) -> T:
    """Let the task behind ``child`` begin only after the tasks behind ``parents`` have completed.

    Args:
        child: what an electron's call returned.
        parents: the same, or a list, tuple or set of them.

    Returns:
        ``child``. Outside a lattice nothing else happens: calls are over when they return.
    """
    trace = current_trace.get()
    if trace is not None:
        trace.order(child, parents)
    return child


def _refuse_others(function: object, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
    """Refuse arguments that a lattice's function does not take, in words and without our frames."""
    try:
        signature = inspect.signature(cast(Callable[..., object], function))
    except (ValueError, TypeError):  # some callables have none
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise WrongArguments(f"The lattice {name_of(function)!r} is called wrongly: {error}.") from None


def _hooked(function: Callable[..., object], hooks: Hooks | None) -> Callable[..., object]:
    if hooks is None:
        return function
    from hpcflow.sdk.hooks import Hooked  # few programs need it

    return Hooked(function, hooks)


def _run_by(function: Callable[..., object], body: Body | None) -> Callable[..., object]:
    if body is None:
        return function
    from hpcflow.sdk.body import RunBy  # few programs need it

    return RunBy(function, body)


def _refuse_uncalled(function: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]) -> None:
    # Ten thousand calls with numbers and results need no look at each of them.
    if _LOOKED_INTO.isdisjoint(map(type, args)) and _LOOKED_INTO.isdisjoint(map(type, kwargs.values())):
        return
    uncalled = _uncalled((*args, *kwargs.values()))
    if uncalled is not None:
        name = name_of(uncalled.function)
        raise UserError(
            f"The electron {name_of(function)!r} is given {uncalled!r} itself and not its result: call it, as in "
            f"{name}(...). To hand over the function, write {name}.function."
        )


def _uncalled(value: object, depth: int = 8) -> Electron[..., object] | Lattice[..., object] | None:
    """Return an electron or lattice that lies in a value as it is, in Python's own containers ``depth`` deep."""
    if isinstance(value, (Electron, Lattice)):
        return cast("Electron[..., object] | Lattice[..., object]", value)
    if type(value) is dict:
        items: Collection[object] = cast("dict[object, object]", value).values()
    elif type(value) in _CONTAINERS:
        items = cast("Collection[object]", value)
    else:
        return None
    # A million numbers are looked through without one call of ours for each.
    if not depth or _LOOKED_INTO.isdisjoint(map(type, items)):
        return None
    return next((found for item in items if (found := _uncalled(item, depth - 1)) is not None), None)


_CONTAINERS: Final = frozenset({list, tuple, set, frozenset})
_LOOKED_INTO: Final = _CONTAINERS | {dict, Electron, Lattice}


def _dress(decorated: object, function: Callable[..., object]) -> None:
    update_wrapper(cast(Callable[..., object], decorated), function, updated=())


def _check_function(function: object, kind: str) -> None:
    name = name_of(function)
    if isinstance(function, Electron if kind == "electron" else Lattice):
        raise UserError(f"{name!r} is marked already; with_options() gives another one with other options.")
    if isinstance(function, (staticmethod, classmethod, property)):
        marker = type(function).__name__
        raise UserError(f"@{kind} marks functions: write @{marker} above @{kind}, not below it.")
    if not callable(function):
        raise UserError(f"@{kind} marks functions, not {brief(function)}.")
    if kind == "lattice":
        _check_lattice_function(function, name)


def _check_lattice_function(function: Callable[..., object], name: str) -> None:
    """A lattice is called once, where it is dispatched, and what it returns tells what its tasks give."""
    if isinstance(function, MethodType) or _is_in_a_class(function):
        raise UserError(
            f"{name!r} is a method, and only plain functions can be marked with @lattice: "
            "move it out of its class, and pass the object as an argument."
        )
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise UserError(f"{name!r} is async, and a lattice awaits nothing: write a plain function for @lattice.")
    if inspect.isgeneratorfunction(function):
        raise UserError(f"{name!r} yields, and a lattice returns all its results at once: return a list instead.")


def _is_in_a_class(function: object) -> bool:
    scope = function.__qualname__.rpartition(".")[0] if isinstance(function, FunctionType) else ""
    # "<locals>" of a function, "<listcomp>" and the like before Python 3.12.
    return bool(scope) and not scope.endswith(">")
