"""How numbers are told, and that what is told may be asked for again."""

from __future__ import annotations

import pytest

from hpcflow.core.words import counted, length, memory
from hpcflow.sdk.units import parse_memory, parse_walltime


def test_one_of_a_thing_is_told_without_an_s() -> None:
    assert [counted(number, "GPU") for number in (0, 1, 2)] == ["0 GPUs", "1 GPU", "2 GPUs"]
    assert counted(2, "dispatch", "dispatches") == "2 dispatches"


@pytest.mark.parametrize(
    ("mib", "told"),
    [
        (0, "0 KiB"),
        (0.25, "256 KiB"),
        (1.5, "1.5 MiB"),
        (20, "20 MiB"),
        (1000, "1000 MiB"),
        (1023.7, "1 GiB"),
        (7630, "7.5 GiB"),
        (2**20 - 1, "1024 GiB"),
        (12 * 2**20, "12 TiB"),
    ],
)
def test_memory_is_told_in_powers_of_1024(mib: float, told: str) -> None:
    assert memory(mib) == told
    if mib >= 1:
        assert parse_memory("memory", told) == pytest.approx(mib, rel=0.01, abs=1)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0, "0 s"), (45, "45 s"), (60, "1 min"), (5400, "1 h 30 min"), (90061, "1 d 1 h 1 min 1 s")],
)
def test_lengths_of_time_are_told_as_they_are_asked_for(seconds: int, told: str) -> None:
    assert length(seconds) == told
    if seconds:
        assert parse_walltime("walltime", told) == seconds
