"""The record of one lattice: each electron that it calls becomes a task of a graph, and returns a placeholder."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol, cast

from hpcflow.core.errors import WrongArguments
from hpcflow.core.model import Graph, Task, UserError
from hpcflow.core.reuse import Matcher, surroundings, without_dropped
from hpcflow.sdk.annotations import Annotations, Placement
from hpcflow.sdk.by_value import Shared, versions_here
from hpcflow.sdk.fetched import Wanted, brought_by, sent_by, wanted_by
from hpcflow.sdk.fingerprint import Fingerprints
from hpcflow.sdk.functions import (
    body_of,
    by_parameter,
    name_of,
    parameters_of,
    signature_of,
    unpicklable_name,
    without_defaults,
)
from hpcflow.sdk.pickling import CapturedError, Gathered, RenumberError, dumps
from hpcflow.sdk.placeholder import Frozen, Placeholder, result_of

if TYPE_CHECKING:
    from hpcflow.sdk.body import Body

__all__ = ["FunctionText", "Trace", "Traced", "brief", "current_trace"]


class Annotated(Protocol):
    """What a trace needs of an electron."""

    @property
    def function(self) -> Callable[..., object]: ...

    @property
    def annotations(self) -> Annotations: ...

    @property
    def composes(self) -> bool:
        """It is a lattice: its task builds a graph."""
        ...

    def sent(self, inherited: Annotations, replaced: Mapping[str, Any]) -> tuple[Callable[..., object], Annotations]:
        """Return what its tasks call, and what they ask for, where a lattice hands down ``inherited``.

        A sublattice calls what is in ``replaced`` in the place of electrons with these names.
        """
        ...


@dataclass(frozen=True, slots=True)
class FunctionText:
    """What people see of an electron's function. ``source`` is ``None`` where Python kept none."""

    name: str
    module: str
    source: str | None
    #: Top-level modules of packages that must be where it runs, and their versions here: "?" where they tell none,
    #: empty where they are not here.
    imports: Mapping[str, str] = field(default_factory=dict[str, str])
    #: What tells its code from others', in every process; ``None``: nothing does.
    digest: str | None = None
    #: What its executor says of itself, where that is one of the user's own.
    executor: Mapping[str, object] | None = None
    #: Names of its parameters in their order; "*names" and "**names" take what is left.
    parameters: tuple[str, ...] = ()
    #: Files that the server fetches for its tasks.
    fetched: tuple[Wanted, ...] = ()
    #: Where the server brings what its tasks leave.
    sent: tuple[Wanted, ...] = ()
    #: What its tasks leave for the machine that dispatches, and where there; the server is not told.
    brought: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """A lattice's call, ready to be sent: its graph and the pickles that the graph's numbers mean."""

    graph: Graph
    blobs: tuple[bytes, ...]
    #: By the number of the function's blob.
    functions: Mapping[int, FunctionText]
    #: The user's modules whose code travels along, sorted.
    modules_by_value: tuple[str, ...]
    #: Tasks of an earlier dispatch whose results stand for tasks of this one.
    reused: Mapping[int, int] = field(default_factory=dict[int, int])
    #: Of the tasks that are cached, what tells their calls from others'.
    keys: Mapping[int, str] = field(default_factory=dict[int, str])
    #: Electrons with calls that should be cached and can't be told from others, sorted.
    not_cached: tuple[str, ...] = ()
    #: How often the lattice itself called the electrons that were replaced.
    replaced: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(slots=True)
class _Call:
    prepared: _Prepared
    args: int
    deps: tuple[int, ...]
    after: set[int]


@dataclass(frozen=True, slots=True)
class _Function:
    """A function that is among the blobs."""

    #: Kept alive, as it is known by its id.
    function: Callable[..., object]
    name: str
    fn: int
    signature: inspect.Signature | None
    #: Its defaults hold placeholders, so each call sends them.
    sends_defaults: bool
    #: Packages that it and its arguments refer to; it grows.
    imports: set[str]
    #: Calls that its signature takes, as the number of positional arguments and the names of the others; it grows.
    fitting: set[tuple[int, tuple[str, ...]]]


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What all calls of one electron from one lattice share."""

    #: Kept alive, as they are known by their ids.
    electron: Annotated
    annotations: Annotations
    inherited: Annotations
    function: _Function
    placement: Placement
    sublattice: bool


class Trace:
    """The calls that one lattice made so far."""

    def __init__(
        self,
        name: str,
        annotations: Annotations,
        *,
        replaced: Mapping[str, Annotated] | None = None,
        elsewhere: Collection[str] = (),
        earlier: Matcher | None = None,
    ) -> None:
        """Begin.

        Args:
            name: the lattice's.
            annotations: what it hands down.
            replaced: what is called in the place of electrons with these names, in its sublattices too.
            elsewhere: what its sublattices call: it need not call these itself.
            earlier: an earlier dispatch, whose results are used where they stand for a call here.
        """
        self.name = name
        self._replaced = dict(replaced or {})
        self._elsewhere = elsewhere
        self._named: Counter[str] = Counter()
        self._earlier = earlier
        self._prints = Fingerprints()
        self.inherited = annotations.for_electrons()
        self._max_failures, self._max_running = annotations.max_failures, annotations.max_running
        self._calls: list[_Call] = []
        self._blobs: dict[bytes, int] = {}
        self._texts: dict[int, FunctionText] = {}
        self._imports: dict[int, set[str]] = {}
        self._functions: dict[int, _Function] = {}
        self._sources: dict[CodeType, str | None] = {}
        self._prepared: dict[tuple[int, int, int], _Prepared] = {}
        #: By the ids of what is prepared, which lives on.
        self._around: dict[int, str] = {}
        self._inner: dict[tuple[Annotations, Annotations], Annotations] = {}
        self._shared = Shared()
        self._needs: dict[tuple[int, ...], tuple[int, ...]] = {}

    def call(self, called: Annotated, args: tuple[object, ...], kwargs: dict[str, object]) -> Placeholder:
        if self._replaced:
            name = name_of(called.function)
            self._named[name] += 1
            called = self._replaced.get(name, called)
        prepared = self._prepared.get(self._key(called)) or self._prepare(called)
        function = prepared.function
        # Whether a call fits, its form alone says. To bind ten thousand of one form costs more than to pickle them.
        form = (len(args), tuple(kwargs))
        if function.signature is not None and (function.sends_defaults or form not in function.fitting):
            try:
                bound = function.signature.bind(*args, **kwargs)
            except TypeError as error:
                raise WrongArguments(f"The electron {function.name!r} is called wrongly: {error}.") from None
            function.fitting.add(form)
            if function.sends_defaults:
                bound.apply_defaults()
                args, kwargs = bound.args, bound.kwargs
        deps: set[int] = set()
        self._shared.imports = function.imports
        sent = (
            tuple([Gathered.of(arg, self) for arg in args]),
            {k: Gathered.of(arg, self) for k, arg in kwargs.items()},
        )
        try:
            data = dumps(sent, resolve_deps=deps, tracer=self, shared=self._shared)
        except Exception as error:  # pickling runs the argument's own code
            self._refuse_argument(function, args, kwargs, error)
        needs = tuple(sorted(deps))
        if self._earlier is not None:
            digest = self._texts[function.fn].digest
            around = self._around.get(id(prepared)) or surroundings(_task(0, _Call(prepared, 0, (), set())))
            self._around[id(prepared)] = around
            self._earlier.look(
                len(self._calls), digest, around, needs, data, renumbered=partial(self._renumbered, sent)
            )
        # The tasks of a stage that each need all of the stage before have one tuple together.
        self._calls.append(_Call(prepared, self._blob(data), self._needs.setdefault(needs, needs), set()))
        return result_of(self, len(self._calls) - 1, function.name)

    def _renumbered(self, sent: object, numbers: Mapping[int, int]) -> bytes | None:
        try:
            return dumps(sent, resolve_deps=set(), tracer=self, shared=self._shared, numbers=numbers)
        except RenumberError:
            return None

    def freeze(self, operand: object) -> Frozen:
        deps: set[int] = set()
        try:
            data = dumps(operand, resolve_deps=deps, tracer=self, shared=self._shared)
        except Exception as error:  # pickling runs the operand's own code
            raise UserError(f"An expression can't hold {brief(operand)}: {_reason(error)}.") from None
        return Frozen(data, frozenset(deps))

    def order(self, child: object, parents: object) -> None:
        children = self._tasks_behind(child)
        if not children:
            raise UserError(f"wait() takes the result of an electron's call as its child, not {brief(child)}.")
        before = self._tasks_behind(parents)
        for number in children:
            self._calls[number].after |= before

    def inside(self, annotations: Annotations) -> Inside:
        # The same object for equal annotations: electrons are prepared once for each.
        inner = annotations.for_electrons().over(self.inherited)
        merged = self._inner.setdefault((annotations, self.inherited), inner)
        return Inside(self, merged)

    def finished(self, returned: object, *, may_be_empty: bool = False) -> Traced:
        if not self._calls and not may_be_empty:
            raise UserError(
                f"The lattice {self.name!r} calls no electron, so there is nothing to run: "
                "mark the functions that it calls with @electron."
            )
        for name in self._replaced.keys() - self._named.keys() - {*self._elsewhere}:
            deeper = f", and its sublattices call {', '.join(sorted(self._elsewhere))}" if self._elsewhere else ""
            raise UserError(
                f"The lattice {self.name!r} calls no electron {name!r} that could be replaced; it calls "
                f"{', '.join(sorted(self._named))}{deeper}."
            )
        self._refuse_cycles()
        deps: set[int] = set()
        try:
            output = self._blob(dumps(returned, resolve_deps=deps, tracer=self, shared=self._shared))
        except Exception as error:  # pickling runs the value's own code
            raise UserError(f"The lattice {self.name!r} can't return {brief(returned)}: {_reason(error)}.") from None
        tasks = tuple(_task(index, call) for index, call in enumerate(self._calls))
        texts = {
            number: replace(text, imports=versions_here(sorted(self._imports.get(number, ()))))
            for number, text in self._texts.items()
        }
        keys = self._keys(tasks, texts)
        return Traced(
            graph=Graph(
                name=self.name,
                tasks=tasks,
                output=output,
                output_deps=tuple(sorted(deps)),
                max_failures=self._max_failures,
                max_running=self._max_running,
            ),
            blobs=tuple(self._blobs),
            functions=texts,
            modules_by_value=tuple(sorted(self._shared.modules)),
            reused=self._reused(texts),
            keys={index: key for index, key in keys.items() if key is not None},
            not_cached=tuple(sorted({tasks[index].name for index, key in keys.items() if key is None})),
            replaced={name: self._named[name] for name in self._replaced},
        )

    def _keys(self, tasks: tuple[Task, ...], texts: Mapping[int, FunctionText]) -> dict[int, str | None]:
        cached = [index for index, call in enumerate(self._calls) if call.prepared.placement.cache]
        if not cached:
            return {}
        from hpcflow.sdk.keys import keys_of  # few programs need it

        found = keys_of(
            cached,
            tasks,
            tuple(self._blobs),
            texts=texts,
            prints=self._prints,
            stand_in=lambda task: result_of(self, task, tasks[task].name),
        )
        return {index: found[index] for index in cached}

    def _reused(self, texts: Mapping[int, FunctionText]) -> dict[int, int]:
        if self._earlier is None:
            return {}
        found = self._earlier.of_these_versions(lambda index: texts[self._calls[index].prepared.function.fn].imports)
        return without_dropped(found, lambda index: (self._calls[index].deps, tuple(self._calls[index].after)))

    def _blob(self, data: bytes) -> int:
        return self._blobs.setdefault(data, len(self._blobs))

    def _prepare(self, called: Annotated) -> _Prepared:
        sent, annotations = called.sent(self.inherited, self._replaced)
        function = self._functions.get(id(sent)) or self._send(sent)
        try:
            placement = annotations.placed()
        except UserError as error:
            raise UserError(f"The electron {function.name!r} in the lattice {self.name!r}: {error}") from None
        prepared = _Prepared(called, called.annotations, self.inherited, function, placement, called.composes)
        self._prepared[self._key(called)] = prepared
        return prepared

    def _key(self, called: Annotated) -> tuple[int, int, int]:
        # set_metadata() may change an electron between two calls of it.
        return id(called), id(called.annotations), id(self.inherited)

    def _send(self, function: Callable[..., object]) -> _Function:
        name = name_of(function)
        sends_defaults = self._has_placeholder_defaults(function)
        imports = self._shared.imports = set[str]()
        fn = self._function_blob(without_defaults(function) if sends_defaults else function, name)
        imports = self._imports.setdefault(fn, imports)
        signature = signature_of(function)
        sent = _Function(function, name, fn, signature, sends_defaults, imports, set())
        self._functions[id(function)] = sent
        return sent

    def _has_placeholder_defaults(self, function: Callable[..., object]) -> bool:
        if not isinstance(function, FunctionType) or not (function.__defaults__ or function.__kwdefaults__):
            return False
        deps: set[int] = set()
        try:
            dumps((function.__defaults__, function.__kwdefaults__), resolve_deps=deps, tracer=self)
        except Exception:  # the function's own pickle will tell what is wrong
            return False
        return bool(deps)

    def _function_blob(self, function: Callable[..., object], name: str) -> int:
        try:
            data = dumps(function, tracer=self, shared=self._shared)
        except CapturedError as error:
            raise UserError(
                f"The electron {name!r} uses the result of electron {error.name!r} from outside its own arguments "
                "(a closure or a global name): pass it as an argument."
            ) from None
        except Exception as error:  # pickling runs the code of whatever the function refers to
            culprit = unpicklable_name(function)
            used = f" because of {culprit!r}, which it uses" if culprit else ""
            raise UserError(
                f"The electron {name!r} can't be sent{used}: {_reason(error)}. "
                "Make what can't be pickled inside the electron, or pass it as something that can."
            ) from None
        number = self._blob(data)
        if number not in self._texts:
            module = getattr(function, "__module__", None) or ""
            body = getattr(function, "body", None) if getattr(function, "is_hooked", False) else None
            described = cast("Body", body).described() if body is not None else None
            self._texts[number] = FunctionText(
                name,
                module,
                self._source(function),
                digest=self._prints.of(function),
                executor=described or None,
                parameters=parameters_of(function),
                fetched=wanted_by(function),
                sent=sent_by(function),
                brought=brought_by(function),
            )
        return number

    def _source(self, function: Callable[..., object]) -> str | None:
        code = getattr(body_of(function), "__code__", None)
        if not isinstance(code, CodeType):
            return None
        if code not in self._sources:
            try:
                self._sources[code] = inspect.getsource(code)
            except (OSError, TypeError, IndexError, SyntaxError):
                self._sources[code] = None
        return self._sources[code]

    def _refuse_argument(
        self, function: _Function, args: tuple[object, ...], kwargs: dict[str, object], error: Exception
    ) -> NoReturn:
        beginning = f"The electron {function.name!r} can't take"
        for parameter, value in by_parameter(function.signature, args, kwargs).items():
            try:
                dumps(value, resolve_deps=set(), tracer=self)
            except Exception as own:  # pickling runs the argument's own code
                what = f"{brief(value)} as its argument {parameter!r}"
                raise UserError(f"{beginning} {what}: {_reason(own)}.") from None
        raise UserError(f"{beginning} its arguments: {_reason(error)}.") from None

    def _tasks_behind(self, value: object) -> set[int]:
        deps: set[int] = set()
        items = value if isinstance(value, (list, tuple, set, frozenset)) else (value,)
        for item in cast(Iterable[object], items):
            if isinstance(item, (list, tuple, set, frozenset)):
                deps |= self._tasks_behind(cast(object, item))
            elif type(item) is Placeholder:
                dumps(item, resolve_deps=deps, tracer=self)
            elif item is not None:
                raise UserError(f"wait() takes results of electrons' calls, not {brief(item)}.")
        return deps

    def _refuse_cycles(self) -> None:
        """Raise when `wait` closed a circle. Arguments alone can't: they come from calls made before."""
        if all(not call.after or max(call.after) < index for index, call in enumerate(self._calls)):
            return
        before = [{*call.deps, *call.after} for call in self._calls]
        after: list[list[int]] = [[] for _ in before]
        for index, parents in enumerate(before):
            for parent in parents:
                after[parent].append(index)
        open_parents = [len(parents) for parents in before]
        ready = [index for index, count in enumerate(open_parents) if not count]
        while ready:
            for child in after[ready.pop()]:
                open_parents[child] -= 1
                if not open_parents[child]:
                    ready.append(child)
        stuck = next((index for index, count in enumerate(open_parents) if count), None)
        if stuck is None:
            return
        path = [stuck]
        while path[-1] not in path[:-1]:
            path.append(next(parent for parent in sorted(before[path[-1]]) if open_parents[parent]))
        circle = path[path.index(path[-1]) :]
        names = " waits for ".join(f"{self._calls[index].prepared.function.name} (call {index})" for index in circle)
        raise UserError(f"In the lattice {self.name!r} wait() closes a circle: {names}.")


class Inside:
    """While a lattice calls another, the inner one's annotations go before the outer one's."""

    def __init__(self, trace: Trace, annotations: Annotations) -> None:
        self._trace = trace
        self._annotations = annotations
        self._outer = trace.inherited

    def __enter__(self) -> None:
        self._trace.inherited = self._annotations

    def __exit__(self, *raised: object) -> None:
        self._trace.inherited = self._outer


current_trace: Final[ContextVar[Trace | None]] = ContextVar("hpcflow_trace", default=None)


def _task(index: int, call: _Call) -> Task:
    prepared = call.prepared
    placement = prepared.placement
    return Task(
        index=index,
        name=prepared.function.name,
        fn=prepared.function.fn,
        args=call.args,
        deps=call.deps,
        after=tuple(sorted(call.after.difference(call.deps))),
        executor=placement.executor,
        resources=placement.resources,
        workdir=placement.workdir,
        retries=placement.retries,
        accept_failed=placement.accept_failed,
        on_cancelled=placement.on_cancelled,
        max_running=placement.max_running,
        launcher=placement.launcher,
        isolation=placement.isolation,
        env=placement.env,
        sublattice=prepared.sublattice,
    )


def _reason(error: Exception) -> str:
    return str(error).strip().rstrip(".") or type(error).__name__


def brief(value: object) -> str:
    return f"a value of type {type(value).__name__!r}"
