"""How much is measured: the sizes that DESIGN's numbers are for, and small ones to try that a row runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["FULL", "QUICK", "Size"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Counts are tasks unless they say otherwise, all times seconds."""

    few: int = 1000
    many: int = 10_000
    #: Naps on this machine.
    naps: int = 400
    #: Array tasks that hpcflow may have at once where a row compares with an ideal, and those of a packed array.
    slots: int = 48
    #: Tasks of one second each.
    seconds: int = 100
    uneven: int = 1000
    #: Run time of all uneven tasks together.
    uneven_work_s: float = 383.0
    links: int = 20
    stages: int = 10
    stage_width: int = 100
    #: Tasks of a map before one that needs them all, and the longest of them; the shortest takes half of that.
    mapped: int = 64
    mapped_s: float = 8.0
    imports: int = 200
    #: Tasks of a second in each of two stages.
    charged: int = 2400
    #: Ends whose way to the page is timed.
    ends: int = 40
    repetitions: int = 3
    interpreters: int = 10
    idle_s: float = 20.0
    settle_s: float = 3.0


FULL: Final = Size()
QUICK: Final = Size(
    few=200,
    many=400,
    naps=40,
    slots=8,
    seconds=16,
    uneven=40,
    uneven_work_s=12.0,
    links=4,
    stages=3,
    stage_width=10,
    mapped=8,
    mapped_s=0.5,
    imports=16,
    charged=16,
    ends=8,
    repetitions=1,
    interpreters=2,
    idle_s=2.0,
    settle_s=0.5,
)
