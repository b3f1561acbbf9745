"""What an electron's call returns while a lattice is traced: a stand-in for the result, and expressions on it."""

from __future__ import annotations

import opcode
import operator
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final, NamedTuple, NoReturn, Protocol

from hpcflow.core.errors import UserError

__all__ = ["ATOMS", "OPERATORS", "Frozen", "Placeholder", "PlaceholderError", "Tracer", "result_of"]


class PlaceholderError(UserError, TypeError):
    """Something was asked of a placeholder that only the result itself can answer.

    It is a TypeError as well, as Python's protocols raise it: a library that probes an object goes on.
    """


class Frozen(NamedTuple):
    """An operand that is neither a placeholder nor an atom, pickled when the expression was written."""

    pickle: bytes
    deps: frozenset[int]


class Tracer(Protocol):
    """The trace that a placeholder belongs to."""

    def freeze(self, operand: object) -> Frozen:
        """Return the operand as it is now: the lattice may change it after the expression."""
        ...

    def order(self, child: object, parents: object) -> None:
        """Let the tasks behind ``child`` begin only after those behind ``parents`` have completed."""
        ...


#: Operands that can't change, and stand in an expression as they are.
ATOMS: Final = frozenset({type(None), bool, int, float, complex, str, bytes, type(Ellipsis)})


def _part(whole: Any, count: int, index: int) -> object:  # Any: whatever the electron returned
    """Return one of the values of ``a, b = whole``, as strictly as Python unpacks."""
    values = tuple(whole)
    if len(values) != count:
        problem = "too many" if len(values) > count else "not enough"
        raise ValueError(f"{problem} values to unpack (expected {count}, got {len(values)})")
    return values[index]


_BINARY: Final = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "lshift", "rshift")
_BITWISE: Final = {"and": operator.and_, "or": operator.or_, "xor": operator.xor}
_UNARY: Final = ("neg", "pos", "abs", "invert")
_COMPARISONS: Final = ("eq", "ne", "lt", "le", "gt", "ge")

#: Every operation an expression can hold, by the name it has in a pickle.
OPERATORS: Final[dict[str, Callable[..., object]]] = {
    "getitem": operator.getitem,
    "getattr": getattr,
    "part": _part,
    **{name: getattr(operator, name) for name in (*_BINARY, *_UNARY, *_COMPARISONS)},
    **_BITWISE,
}


class Placeholder:
    """The result of an electron's call, or an expression on results, before anything has run.

    Hashed and kept by identity: ``==`` makes an expression.
    """

    __slots__ = ("_hf_name", "_hf_op", "_hf_operands", "_hf_task", "_hf_tracer")

    _hf_tracer: Tracer
    #: The task's number and the electron's name; -1 for an expression, with the name of its first task.
    _hf_task: int
    _hf_name: str
    _hf_op: str
    _hf_operands: tuple[object, ...]

    # numpy then leaves `array + placeholder` to the placeholder.
    __array_ufunc__ = None
    __hash__ = object.__hash__

    def __getattr__(self, name: str) -> Placeholder:
        # pickle, copy, numpy and IPython ask objects for protocols by such names; none of them is on the result.
        if name.startswith(("__", "_hf_", "_ipython_", "_repr_")):
            raise AttributeError(f"a placeholder has no {name!r}")
        return _expression("getattr", self, name)

    def __getitem__(self, key: object) -> Placeholder:
        return _expression("getitem", self, key)

    def __iter__(self) -> Iterator[Placeholder]:
        count = _count_to_unpack(sys._getframe(1))
        if count is None:
            self._refuse("`for`, `*` and `list()` can't go through it: loop inside an electron, or index it")
        return iter([_expression("part", self, count, index) for index in range(count)])

    def wait_for(self, parents: object) -> Placeholder:
        """Let its task begin only after the tasks behind ``parents`` have completed, as `hpcflow.wait` does."""
        self._hf_tracer.order(self, parents)
        return self

    def __setattr__(self, name: str, value: object) -> NoReturn:
        self._refuse(f"its attribute {name!r} can't be set: change it inside an electron")

    def __copy__(self) -> Placeholder:
        return self

    def __deepcopy__(self, memo: object) -> Placeholder:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        self._refuse("it can't be pickled by itself: pass it to an electron, or return it from the lattice")

    def __repr__(self) -> str:
        return f"<placeholder {_spell(self, 4)}>"

    def _refuse(self, what: str) -> NoReturn:
        raise PlaceholderError(
            f"The result of electron {self._hf_name!r} is not known while its lattice is traced; {what}."
        )


def result_of(tracer: Tracer, task: int, name: str) -> Placeholder:
    """Return the stand-in for the result of task number ``task``, a call of the electron ``name``."""
    return _made(tracer, task, name, "", ())


_set: Final = object.__setattr__


def _made(tracer: Tracer, task: int, name: str, op: str, operands: tuple[object, ...]) -> Placeholder:
    made = Placeholder.__new__(Placeholder)
    _set(made, "_hf_tracer", tracer)
    _set(made, "_hf_task", task)
    _set(made, "_hf_name", name)
    _set(made, "_hf_op", op)
    _set(made, "_hf_operands", operands)
    return made


def _expression(op: str, *operands: object) -> Placeholder:
    first = next(operand for operand in operands if type(operand) is Placeholder)
    tracer = first._hf_tracer
    kept = tuple(
        operand if type(operand) is Placeholder or type(operand) in ATOMS else tracer.freeze(operand)
        for operand in operands
    )
    return _made(tracer, -1, first._hf_name, op, kept)


def _spell(value: object, depth: int) -> str:
    if isinstance(value, Frozen):
        return "…"
    if type(value) is not Placeholder:
        return repr(value)
    if value._hf_task >= 0:
        return f"{value._hf_name}#{value._hf_task}"
    if not depth:
        return "…"
    parts = [_spell(operand, depth - 1) for operand in value._hf_operands]
    match value._hf_op:
        case "getattr":
            return f"{parts[0]}.{value._hf_operands[1]}"
        case "getitem":
            return f"{parts[0]}[{parts[1]}]"
        case "part":
            return f"{parts[0]}[{parts[2]}]"
        case op:
            return f"{op}({', '.join(parts)})"


_UNPACK: Final = opcode.opmap["UNPACK_SEQUENCE"]
_EXTENDED: Final = opcode.opmap["EXTENDED_ARG"]


def _count_to_unpack(frame: FrameType) -> int | None:
    """Return n where the calling line is ``a, b = placeholder`` with n names, else ``None``."""
    code, at = frame.f_code.co_code, frame.f_lasti
    if code[at] != _UNPACK:
        return None
    count, shift = code[at + 1], 8
    while at >= 2 and code[at - 2] == _EXTENDED:  # an instruction has two bytes
        at -= 2
        count |= code[at + 1] << shift
        shift += 8
    return count


# ---- the operators, from the tables above


def _binary(op: str) -> Callable[[Placeholder, object], Placeholder]:
    return lambda self, other: _expression(op, self, other)


def _reflected(op: str) -> Callable[[Placeholder, object], Placeholder]:
    return lambda self, other: _expression(op, other, self)


def _unary(op: str) -> Callable[[Placeholder], Placeholder]:
    return lambda self: _expression(op, self)


def _refused(what: str) -> Callable[..., NoReturn]:
    def refuse(self: Placeholder, *arguments: object, **named: object) -> NoReturn:
        self._refuse(what)

    return refuse


_REFUSED: Final = {
    "bool": "`if`, `while`, `and`, `or`, `not` and a comparison used as a truth value can't decide on it: "
    "move the decision into an electron",
    "len": "len() can't count it: count inside an electron",
    "contains": "`in` can't search it: search inside an electron",
    "call": "it can't be called, nor can its methods: call them inside an electron",
    "setitem": "its items can't be set: change it inside an electron",
    "delitem": "its items can't be deleted: change it inside an electron",
    "delattr": "its attributes can't be deleted: change it inside an electron",
    "format": "an f-string or format() can't spell it: make the text inside an electron",
    **{
        name: f"{name}() can't convert it: convert inside an electron"
        for name in ("int", "float", "complex", "round", "divmod", "rdivmod")
    },
    "index": "it can't be an index, a count or a range() of something else: do that inside an electron",
}

for _name in (*_BINARY, *_BITWISE):
    setattr(Placeholder, f"__{_name}__", _binary(_name))
    setattr(Placeholder, f"__r{_name}__", _reflected(_name))
for _name in _COMPARISONS:
    setattr(Placeholder, f"__{_name}__", _binary(_name))
for _name in _UNARY:
    setattr(Placeholder, f"__{_name}__", _unary(_name))
for _name, _what in _REFUSED.items():
    setattr(Placeholder, f"__{_name}__", _refused(_what))
