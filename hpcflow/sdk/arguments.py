"""What tasks were called with, read from what was dispatched: parameters by name, and which of them are literal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from hpcflow.sdk.answers import Item, parse_items
from hpcflow.sdk.pickling import Upstream, load_marked, load_with

if TYPE_CHECKING:
    from hpcflow.sdk.connection import Server

__all__ = ["CalledWith", "arguments_of"]


@dataclass(frozen=True, slots=True)
class CalledWith:
    """One task's arguments, as a pickle, and what its function calls them."""

    #: Its number in the whole dispatch.
    task: int
    pickle: bytes
    #: Names of the function's parameters; "*names" and "**names" take what is left.
    parameters: tuple[str, ...]

    def named(self, args: Sequence[object], kwargs: Mapping[str, object]) -> dict[str, object]:
        """Return arguments by the names that the function has for them."""
        plain = [name for name in self.parameters if not name.startswith("*")]
        rest = next((name[1:] for name in self.parameters if name.startswith("*") and name[1:2] != "*"), None)
        found: dict[str, object] = dict(zip(plain, args, strict=False))
        if rest is not None and len(args) > len(found):
            found[rest] = tuple(args[len(found) :])
        elif len(args) > len(found):
            found |= {str(position): args[position] for position in range(len(found), len(args))}
        return {**found, **kwargs}

    def values(self, value_of: Callable[[int], object]) -> dict[str, object]:
        """Return the arguments by name, with results of other tasks where these belong."""
        args, kwargs = cast("tuple[tuple[object, ...], dict[str, object]]", load_with(self.pickle, value_of))
        return self.named(args, kwargs)

    def literals(self) -> dict[str, object]:
        """Return the arguments that hold no result of another task; none where they can't be read here."""
        try:
            args, kwargs = cast("tuple[tuple[object, ...], dict[str, object]]", load_marked(self.pickle))
        except Exception:  # unpickling runs the user's own code
            return {}
        return {name: value for name, value in self.named(args, kwargs).items() if not _holds_result(value)}


def _holds_result(value: object) -> bool:
    if isinstance(value, Upstream):
        return True
    if isinstance(value, (list, tuple, set, frozenset)):
        return any(map(_holds_result, cast("Sequence[object]", value)))
    if isinstance(value, dict):
        return any(map(_holds_result, cast("Mapping[object, object]", value).values()))
    return False


def arguments_of(server: Server, dispatch_id: str, tasks: str = "all", *, small: bool = False) -> Iterator[CalledWith]:
    """Yield what tasks were called with, in their order.

    Args:
        server: whom to ask.
        dispatch_id: the dispatch.
        tasks: "all", or numbers with commas.
        small: leave large ones out.
    """
    query: dict[str, str | int] = {"tasks": tasks}
    if small:
        query["small"] = "true"
    items: Iterator[Item] = parse_items(server.fetch(f"/dispatches/{dispatch_id}/arguments", query=query))
    for item in items:
        if item.task is not None and item.pickle:
            yield CalledWith(item.task, item.pickle, item.parameters)
