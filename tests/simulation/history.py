"""What happened in a world, in order: the only thing that the checks look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["Entry", "History"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened."""

    #: Virtual seconds since the world began.
    at: float
    what: str
    fields: dict[str, Any]  # Any: each kind of entry has its own

    def __getattr__(self, name: str) -> Any:  # Any: as above
        try:
            return self.fields[name]
        except KeyError:
            raise AttributeError(f"{self.what} has no {name}") from None

    def __str__(self) -> str:
        said = " ".join(f"{name}={value}" for name, value in self.fields.items() if value is not None)
        return f"{self.at:12.3f}  {self.what:<12} {said}"


class History:
    """The entries of one world."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.entries: list[Entry] = []
        self._clock = clock

    def add(self, what: str, **fields: Any) -> None:  # Any: as in `Entry`
        self.entries.append(Entry(self._clock(), what, fields))

    def of(self, *what: str) -> Iterator[Entry]:
        """Yield the entries of some kinds, in order."""
        return (entry for entry in self.entries if entry.what in what)

    def __str__(self) -> str:
        return "\n".join(map(str, self.entries))
