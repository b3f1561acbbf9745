"""Text that others wrote, made fit for a terminal."""

from __future__ import annotations

__all__ = ["plain"]


def plain(text: str) -> str:
    """Return a text in which control characters are spelled out: an exception's words may not drive the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)
