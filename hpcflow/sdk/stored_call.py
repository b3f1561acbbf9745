"""The call of a lattice as it is stored with its dispatch, for a later one with other arguments or electrons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hpcflow.sdk.pickling import dumps

if TYPE_CHECKING:
    from hpcflow.sdk.workflow import Electron, Lattice

__all__ = ["StoredCall", "stored_call"]

#: Bytes of pickled arguments that are stored besides the tasks' own.
_MOST: Final = 64 * 2**20
_MOST_SAID: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCall:
    """Pickles that nobody but the user's Python opens."""

    #: Of the lattice and of the electrons that were replaced in it; ``None``: it can't be pickled.
    lattice: bytes | None
    #: Of ``(args, kwargs)``; ``None``: they can't be pickled, or are too large.
    arguments: bytes | None
    #: Why something of it is not there; empty when all is.
    refused: str = ""

    def added_to(self, blobs: list[bytes]) -> dict[str, object]:
        """Append the pickles to an upload's blobs, and return what its manifest says of them."""
        note: dict[str, object] = {"lattice": None, "arguments": None, "refused": self.refused}
        for name, data in (("lattice", self.lattice), ("arguments", self.arguments)):
            if data is not None:
                note[name] = len(blobs)
                blobs.append(data)
        return note


def stored_call(
    lattice: Lattice[..., object],
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    replaced: Mapping[str, Electron[..., object]] | None = None,
) -> StoredCall:
    """Pickle a lattice's call as it is before the lattice runs, which may change its arguments."""
    try:
        whole = dumps((lattice, dict(replaced or {})))
    except Exception as error:  # pickling runs the code of whatever the lattice refers to
        return StoredCall(lattice=None, arguments=None, refused=_said("its lattice can't be pickled", error))
    try:
        # As arguments of tasks are pickled: classes stay one and the same wherever they come back to.
        arguments = dumps((args, dict(kwargs)), resolve_deps=set())
    except Exception as error:  # pickling runs the arguments' own code
        return StoredCall(lattice=whole, arguments=None, refused=_said("its arguments can't be pickled", error))
    if len(arguments) > _MOST:
        text = f"its arguments have {len(arguments) >> 20} MiB, and no more than {_MOST >> 20} are stored"
        return StoredCall(lattice=whole, arguments=None, refused=text)
    return StoredCall(lattice=whole, arguments=arguments)


def _said(what: str, error: Exception) -> str:
    reason = " ".join("".join(each if each.isprintable() else " " for each in str(error)).split()).rstrip(".")
    return f"{what}: {reason or type(error).__name__}"[:_MOST_SAID]
