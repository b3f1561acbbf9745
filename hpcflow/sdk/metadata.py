"""Single annotations of an electron or a lattice by name, read and changed in place as Covalent's programs do it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta

from hpcflow.sdk.annotations import Annotations
from hpcflow.sdk.options import PARSERS, unknown

__all__ = ["changed", "told"]

#: `parse_options`, or what a lattice's are parsed by.
Parse = Callable[[Mapping[str, object], str], Annotations]


def told(annotations: Annotations, name: str, where: str) -> object:
    """Return an annotation as it may be written again, ``None`` where none was.

    Args:
        annotations: an electron's or a lattice's own.
        name: as in ``@electron(…)``.
        where: the beginning of an error's sentence.

    Raises:
        UserError: there is no such annotation.
    """
    if name not in PARSERS:
        raise unknown(name, where, PARSERS)
    value: object = getattr(annotations, PARSERS[name][0])
    if value is not None and name == "memory":
        return f"{value} MiB"
    if isinstance(value, int) and name == "walltime":
        return timedelta(seconds=value)
    return value


def changed(annotations: Annotations, name: str, value: object, where: str, parse: Parse) -> Annotations:
    """Return annotations in which one is another, or with ``None`` is none; the arguments are those of `told`."""
    if name not in PARSERS:
        raise unknown(name, where, PARSERS)
    left: Mapping[str, None] = {PARSERS[name][0]: None}
    return parse({name: value}, where).over(replace(annotations, **left))
