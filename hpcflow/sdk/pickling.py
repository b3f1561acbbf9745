"""How functions and values travel: cloudpickle, with placeholders resolved on arrival and the user's modules by value.

A pickle made here is opened by `load_with` alone. In it a placeholder is a call of `_resolve`, which `load_with`
binds to the results at hand; an expression is a flat list of steps, so its depth costs no recursion.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable, Mapping
from pickle import PicklingError
from types import CodeType
from typing import Any, BinaryIO, Final, NoReturn, Protocol, cast

import cloudpickle

from hpcflow.sdk.by_value import Shared, class_by_value, reduced_by_value
from hpcflow.sdk.placeholder import OPERATORS, Frozen, Placeholder, PlaceholderError, Tracer

__all__ = [
    "CapturedError",
    "Gathered",
    "RenumberError",
    "Upstream",
    "dump",
    "dumps",
    "load_marked",
    "load_with",
    "plain_pickle",
]


#: Shorter lists cost no more item by item.
_FEW: Final = 8


class CapturedError(PlaceholderError):
    """A placeholder lies where none can be resolved; ``name`` is its electron's."""

    def __init__(self, name: str) -> None:
        super().__init__(f"it holds the result of electron {name!r}, which is not known yet")
        self.name = name


class RenumberError(Exception):
    """The numbers of tasks can't be exchanged in a pickle."""


class Gathered:
    """A list or tuple of nothing but results of tasks, of which each task of the next stage may have the same."""

    __slots__ = ("kind", "numbers")

    def __init__(self, kind: type[list[object]] | type[tuple[object, ...]], numbers: tuple[int, ...]) -> None:
        self.kind = kind
        self.numbers = numbers

    @classmethod
    def of(cls, value: object, tracer: Tracer) -> object:
        """Return the value in this form where it can be, else as it is."""
        if type(value) is not list and type(value) is not tuple:
            return value
        items = cast("list[object] | tuple[object, ...]", value)
        if len(items) < _FEW or not all(type(item) is Placeholder for item in items):
            return value
        results = cast("list[Placeholder] | tuple[Placeholder, ...]", items)
        if not all(item._hf_task >= 0 and item._hf_tracer is tracer for item in results):
            return value  # expressions, and what must be refused
        return cls(type(items), tuple([item._hf_task for item in results]))


def dumps(
    value: object,
    *,
    resolve_deps: set[int] | None = None,
    tracer: Tracer | None = None,
    shared: Shared | None = None,
    numbers: Mapping[int, int] | None = None,
) -> bytes:
    """Return the value's pickle, with classes and functions of the user's own modules inside it.

    Args:
        value: anything; placeholders may lie at any depth.
        resolve_deps: takes the numbers of the tasks whose results `load_with` will need; ``None`` refuses placeholders.
        tracer: the trace that placeholders must belong to.
        shared: what earlier pickles of the same trace have in common with this one; it grows.
        numbers: what to write in the place of each task's number; ``None``: that itself.

    Raises:
        RenumberError: an operand of an expression was pickled with the tasks' own numbers in it.
        CapturedError: a placeholder, and none may be there.
        PlaceholderError: a placeholder of another lattice call.
        Exception: whatever the value's own pickling raises.
    """
    try:
        return _plain(value, resolve_deps, tracer, numbers)
    except _NotPlainError:
        with io.BytesIO() as file:
            _Pickler(file, resolve_deps, tracer, shared or Shared(), numbers).dump(value)
            return file.getvalue()


class Writable(Protocol):
    """Takes a pickle bit by bit."""

    def write(self, data: bytes, /) -> object: ...
    def begin_again(self) -> None:
        """Forget what was written."""
        ...


def dump(value: object, to: Writable) -> None:
    """Write what `dumps` returns for a value without placeholders, large buffers as they lie in memory.

    Raises:
        Exception: whatever the value's own pickling or ``to`` raises.
    """
    try:
        _PlainPickler(to, None, None).dump(value)
    except _NotPlainError:
        to.begin_again()
        _Pickler(to, None, None, Shared()).dump(value)


def load_with(
    data: bytes | BinaryIO, values: Callable[[int], object] | None = None
) -> Any:  # Any: whatever was pickled
    """Return the pickled value, with ``values(i)`` wherever the result of task number i belongs.

    Args:
        data: the pickle, or a file that stands at its begin.
        values: gives results of tasks; ``None``: the pickle needs none.

    Raises:
        Exception: whatever unpickling, ``values`` or an expression on a result raises.
    """
    return _Unpickler(data, values).load()


class Upstream:
    """Stands in what `load_marked` returns where the result of a task, or something computed with one, belongs."""


def load_marked(data: bytes) -> Any:  # Any: whatever was pickled
    """Return the pickled value with an `Upstream` wherever it needs the result of a task; none is computed.

    Raises:
        Exception: whatever unpickling raises.
    """
    return _Marker(data, None).load()


# ---- out


class _NotPlainError(Exception):
    """The value holds more than Python's plain types."""


class _PlainPickler(pickle.Pickler):
    """For what most arguments are; to make one of cloudpickle's costs more than to write them."""

    def __init__(
        self,
        file: io.BytesIO | Writable,
        deps: set[int] | None,
        tracer: Tracer | None,
        numbers: Mapping[int, int] | None = None,
    ) -> None:
        super().__init__(file, 5)
        self._deps = deps
        self._tracer = tracer
        self._numbers = numbers

    def reducer_override(self, obj: Any, /) -> Any:  # Any: pickle's own protocol
        if self._deps is not None:
            if type(obj) is Placeholder and obj._hf_task >= 0 and obj._hf_tracer is self._tracer:
                self._deps.add(obj._hf_task)
                return _resolve, (obj._hf_task if self._numbers is None else self._numbers[obj._hf_task],)
            if type(obj) is Gathered:
                self._deps.update(obj.numbers)
                return _gather, (obj.kind is tuple, _renumbered(obj.numbers, self._numbers))
            if obj is _resolve or obj is _gather:
                return NotImplemented
        raise _NotPlainError


def plain_pickle(value: object) -> bytes | None:
    """Return a pickle that is the same for equal values of Python's plain types, but for the order of sets.

    ``None``: the value holds something else, or itself.
    """
    file = io.BytesIO()
    pickler = _PlainPickler(file, None, None, None)
    pickler.fast = True  # whether two equal values are one object is no matter
    try:
        pickler.dump(value)
    except (_NotPlainError, ValueError, RecursionError):
        return None
    return file.getvalue()


def _plain(value: object, deps: set[int] | None, tracer: Tracer | None, numbers: Mapping[int, int] | None) -> bytes:
    """Return the pickle of numbers, texts, results and containers of them, and refuse all else.

    No class is saved by name here, nor is an expression on results, whose parts may be anything.
    """
    file = io.BytesIO()
    _PlainPickler(file, deps, tracer, numbers).dump(value)
    return file.getvalue()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    def __init__(
        self,
        file: io.BytesIO | Writable,
        deps: set[int] | None,
        tracer: Tracer | None,
        shared: Shared,
        numbers: Mapping[int, int] | None = None,
    ) -> None:
        super().__init__(file, protocol=5)
        self._numbers = numbers
        self._deps = deps
        self._tracer = tracer
        self._shared = shared
        self._steps: dict[int, int] = {}
        self._spelt: list[Placeholder] = []

    def reducer_override(self, obj: Any) -> Any:  # Any: pickle's own protocol
        if type(obj) is Placeholder:
            return _resolve, self._program(obj)
        if type(obj) is Gathered and self._deps is not None:
            self._deps.update(obj.numbers)
            return _gather, (obj.kind is tuple, _renumbered(obj.numbers, self._numbers))
        if isinstance(obj, CodeType):
            return self._code(obj)
        if isinstance(obj, io.TextIOWrapper) and obj is not sys.stdout and obj is not sys.stderr:
            # cloudpickle reads it to its end, and what arrives is no file any more.
            raise PicklingError(
                f"the open file {getattr(obj, 'name', '')!r} can't travel: pass its path or what is in it, or bring "
                "it by files="
            )
        if self._deps is not None and isinstance(obj, type):
            return class_by_value(obj, self._shared, self._definition)
        reduced = reduced_by_value(self, obj, self._shared)
        return super().reducer_override(obj) if reduced is None else reduced

    def _code(self, code: CodeType) -> Any:  # Any: pickle's own protocol
        """Return code as cloudpickle has it, with its file's name: tracebacks show its lines where that file is."""
        reduced: Any = self.dispatch_table[CodeType](code)  # Any: cloudpickle has no types
        make, fields = reduced
        # cloudpickle 3.1.3 writes this in the name's place.
        return make, tuple(code.co_filename if field == "<dynamic-code>" else field for field in fields)

    def _definition(self, cls: type) -> bytes:
        """Return a class's own pickle. It can't hold placeholders: they belong to arguments."""
        with io.BytesIO() as file:
            _Pickler(file, None, self._tracer, self._shared).dump(cls)
            return file.getvalue()

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
            return _renumbered((root._hf_task,), self._numbers)
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
            if part.deps and self._numbers is not None:
                raise RenumberError("an operand holds the numbers of tasks in a pickle of its own")
            self._deps |= part.deps
            return "pickle", part.pickle
        if type(part) is not Placeholder:
            return "value", part
        if part._hf_task >= 0:
            self._deps.add(part._hf_task)
            return "task", _renumbered((part._hf_task,), self._numbers)[0]
        return "step", self._steps[id(part)]


def _renumbered(tasks: tuple[int, ...], numbers: Mapping[int, int] | None) -> tuple[int, ...]:
    return tasks if numbers is None else tuple(numbers[task] for task in tasks)


# ---- in


def _resolve(number: int, steps: object = None) -> NoReturn:
    """Stand for a placeholder in a pickle; `load_with` puts its own in place."""
    raise PlaceholderError("a pickle with placeholders can only be opened where the results are")


def _gather(as_tuple: bool, numbers: tuple[int, ...]) -> NoReturn:
    """Stand for a `Gathered` in a pickle, as `_resolve` does for one placeholder."""
    _resolve(len(numbers), as_tuple)


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes | BinaryIO, values: Callable[[int], object] | None) -> None:
        super().__init__(io.BytesIO(data) if isinstance(data, bytes) else data)
        self._values = values
        self._done: dict[int, object] = {}

    def find_class(self, module: str, name: str, /) -> Any:  # Any: pickle's own protocol
        if module == __name__ and name in {"_resolve", "_gather"}:
            return self._resolve if name == "_resolve" else self._gather
        return super().find_class(module, name)

    def _resolve(
        self, number: int, steps: list[tuple[int, str, tuple[tuple[str, object], ...]]] | None = None
    ) -> object:
        if steps is None:
            return self._value(number)
        for step, op, operands in steps:
            self._done[step] = OPERATORS[op](*(self._operand(kind, operand) for kind, operand in operands))
        return self._done[number]

    def _gather(self, as_tuple: bool, numbers: tuple[int, ...]) -> object:
        values = map(self._value, numbers)
        return tuple(values) if as_tuple else list(values)

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


class _Marker(_Unpickler):
    def _resolve(self, number: int, steps: object = None) -> object:
        return Upstream()

    def _gather(self, as_tuple: bool, numbers: tuple[int, ...]) -> object:
        return Upstream()
