"""Answers as they come when something goes wrong on the way: cut, noisy, doubled, half of it no text."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from hypothesis import strategies as st

from hpcflow.core.model import Observation, Observations, Phase

__all__ = ["ANY", "EXAMPLES", "JSON", "TEXT", "cuts", "damaged", "is_true_or_unknown"]

#: Cases of each property; DAMAGE_EXAMPLES=5500 is what a parser has to bear before its release.
EXAMPLES: Final = int(os.environ.get("DAMAGE_EXAMPLES", "150"))

#: Kinds of damage that a table of text survives, since what it says can't be told from what it does not say ...
TEXT: Final = ("noise", "crlf", "doubled", "bytes")
#: ... those of JSON whose records say how many they are ...
JSON: Final = (*TEXT, "inserted")
#: ... and of JSON whose records name what they are.
ANY: Final = (*JSON, "lost")


def cuts(stdout: bytes, most: int = 1000) -> Iterator[bytes]:
    """Yield an answer cut at every byte, or at ``most`` of them."""
    for end in range(0, len(stdout), max(1, len(stdout) // most)):
        yield stdout[:end]


def damaged(data: st.DataObject, stdout: bytes, kinds: Sequence[str]) -> bytes:
    """Draw one damage and return the answer with it."""
    lines = stdout.splitlines(keepends=True)
    at = data.draw(st.integers(0, len(lines) - 1))
    match data.draw(st.sampled_from(kinds)):
        case "noise":
            words = data.draw(st.binary(max_size=60)).replace(b"\n", b" ")
            return words + b"\n" + stdout if data.draw(st.booleans()) else stdout + words
        case "crlf":
            return stdout.replace(b"\n", b"\r\n")
        case "doubled":
            return b"".join([*lines[: at + 1], *lines[at:]])
        case "bytes":
            place = data.draw(st.integers(0, len(stdout) - 1))
            return stdout[:place] + b"\xff" + stdout[place + 1 :]
        case "lost":
            return b"".join([*lines[:at], *lines[at + 1 :]])
        case _:
            place = data.draw(st.integers(0, len(stdout)))
            piece = data.draw(st.sampled_from([b"\n", b"\x00", b"}", b"{", b'"', b"\nslow down!\n"]))
            return stdout[:place] + piece + stdout[place:]


def is_true_or_unknown(seen: Observations, truth: Mapping[int, Observation]) -> bool:
    """Say whether each row is as it was without damage, or ended without anybody saying how; complete means all."""
    for row in seen.rows:
        true = truth[row.index]
        if row.phase is Phase.ENDED is true.phase and row.cause is None:
            continue
        if (row.phase, row.cause, row.exit_code, row.signal) != (true.phase, true.cause, true.exit_code, true.signal):
            return False
    return not seen.complete or {row.index for row in seen.rows} == set(truth)
