"""Progress for whoever waits for the table."""

from __future__ import annotations

import sys

__all__ = ["tell"]


def tell(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
