"""What can be told of a function: its name, what it takes, and what keeps it from being sent."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from types import FunctionType

from hpcflow.sdk.pickling import dumps

__all__ = [
    "body_of",
    "by_parameter",
    "name_of",
    "parameters_of",
    "signature_of",
    "unpicklable_name",
    "without_defaults",
]


def name_of(function: object) -> str:
    """Return a function's name as people and schedulers can read it."""
    inner = function
    while isinstance(inner, partial):
        inner = inner.func
    name = getattr(inner, "__name__", None) or type(inner).__name__
    return "lambda" if name == "<lambda>" else str(name)


def body_of(function: Callable[..., object]) -> Callable[..., object]:
    """Return the function that the user wrote: of a sublattice, its lattice's; of one with hooks, that without."""
    ours = getattr(function, "builds_graph", False) or getattr(function, "is_hooked", False)
    return inspect.unwrap(function) if ours else function


def signature_of(function: Callable[..., object]) -> inspect.Signature | None:
    """Return what a call may look like; ``None`` where Python does not know."""
    try:
        return inspect.signature(function)
    except (ValueError, TypeError):  # some builtins have none
        return None


def parameters_of(function: Callable[..., object]) -> tuple[str, ...]:
    """Return the parameters' names in their order; "*names" and "**names" take what is left."""
    signature = signature_of(function)
    if signature is None:
        return ()
    stars: dict[object, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return tuple(stars.get(each.kind, "") + name for name, each in signature.parameters.items())


def without_defaults(function: Callable[..., object]) -> FunctionType:
    """Return the same function, whose every argument has to be given."""
    assert isinstance(function, FunctionType)  # only functions have defaults
    bare = FunctionType(function.__code__, function.__globals__, function.__name__, None, function.__closure__)
    bare.__module__, bare.__qualname__, bare.__doc__ = function.__module__, function.__qualname__, function.__doc__
    bare.__dict__.update(function.__dict__)
    return bare


def by_parameter(
    signature: inspect.Signature | None, args: tuple[object, ...], kwargs: dict[str, object]
) -> dict[str, object]:
    """Return a call's values by the names of the parameters; without a signature, by their positions."""
    if signature is None:
        return {**{str(position): value for position, value in enumerate(args)}, **kwargs}
    return dict(signature.bind(*args, **kwargs).arguments)


def unpicklable_name(function: Callable[..., object]) -> str | None:
    """Return the name that a function takes from its module or its surroundings and that can't be pickled."""
    function = body_of(function)
    if not isinstance(function, FunctionType):
        return None
    used = inspect.getclosurevars(function)
    for name, value in {**used.globals, **used.nonlocals}.items():
        try:
            dumps(value)
        except Exception:  # pickling runs the value's own code
            return name
    return None
