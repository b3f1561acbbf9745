"""How people read numbers: how many of what, how much memory, how long. Amounts of memory are in powers of 1024."""

from __future__ import annotations

__all__ = ["counted", "length", "memory", "these"]


def counted(number: int, one: str, several: str | None = None) -> str:
    """Return "1 task", "2 tasks", or "2 dispatches" where another plural is given."""
    return f"{number} {these(number, one, several)}"


def these(number: int, one: str, several: str | None = None) -> str:
    """Return the word alone, in the right number: "task", "tasks"."""
    return one if number == 1 else several or f"{one}s"


def memory(mib: float) -> str:
    """Return an amount of memory in powers of 1024, as it may be asked for again: "500 MiB", "1.5 GiB", "12 TiB"."""
    if mib < 1:
        return f"{mib * 1024:.0f} KiB"
    if round(mib) < 1024:
        return (f"{mib:.1f} MiB" if mib < 10 else f"{mib:.0f} MiB").replace(".0 ", " ")
    amount, unit = (mib / 2**10, "GiB") if mib < 10 * 2**20 else (mib / 2**20, "TiB")
    return f"{amount:.1f} {unit}".replace(".0 ", " ")


def length(seconds: float) -> str:
    """Return a length of time as it may be asked for again: "45 s", "20 min", "1 h 30 min", "2 d"."""
    left, parts = round(seconds), list[str]()
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        number, left = divmod(left, size)
        if number:
            parts.append(f"{number} {unit}")
    return " ".join(parts) or "0 s"
