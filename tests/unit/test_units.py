"""Memory and walltime as people write them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcflow.core.model import UserError
from hpcflow.sdk.units import parse_memory, parse_walltime


@pytest.mark.parametrize(
    ("text", "mib"),
    [
        ("8 GiB", 8192),
        ("8GiB", 8192),
        ("512 MiB", 512),
        ("8 GB", 7630),  # 8e9 / 2**20 = 7629.4
        ("500 MB", 477),
        ("1.5 GiB", 1536),
        ("1 KiB", 1),
        ("2 tib", 2 * 2**20),
        (" 1 GB ", 954),
    ],
)
def test_memory_becomes_mebibytes_rounded_up(text: str, mib: int) -> None:
    assert parse_memory("memory", text) == mib


@pytest.mark.parametrize(
    "wrong", ["8", 8, 8192, "8 G", "512M", "0 GB", "-1 GB", "8 GBit", "lots", "", None, True, "300 TiB", "8 GB 2 MB"]
)
def test_memory_that_can_be_read_in_two_ways_or_none_is_refused(wrong: object) -> None:
    with pytest.raises(UserError, match="memory="):
        parse_memory("memory", wrong)


def test_a_single_letter_is_refused_with_both_readings() -> None:
    with pytest.raises(UserError) as refused:
        parse_memory("memory", "512M")
    assert str(refused.value) == (
        "memory='512M': 'M' means MB to some and MiB to others; "
        "write '512 MB' (512 x 1000^2 bytes) or '512 MiB' (512 x 1024^2 bytes)."
    )


@settings(deadline=None)
@given(st.integers(min_value=1, max_value=2**27))
def test_mebibytes_are_kept_as_they_are_written(mib: int) -> None:
    assert parse_memory("memory", f"{mib} MiB") == mib


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("30 min", 1800),
        ("30min", 1800),
        ("2 h", 7200),
        ("1 hour", 3600),
        ("90 s", 90),
        ("1 d", 86400),
        ("1.5 h", 5400),
        ("1 h 30 min", 5400),
        ("1h30min", 5400),
        ("02:00:00", 7200),
        ("48:00:00", 172800),
        ("1-00:00:00", 86400),
        ("2-12:30:15", 217815),
        (timedelta(minutes=10), 600),
        (timedelta(milliseconds=1), 1),
        (timedelta(seconds=1, microseconds=1), 2),
        ("0.5 s", 1),
    ],
)
def test_walltime_becomes_seconds_rounded_up(written: object, seconds: int) -> None:
    assert parse_walltime("walltime", written) == seconds


@pytest.mark.parametrize(
    "wrong",
    [
        "10:30", "30", 30, 1.5, "0 min", "-5 min", "1-24:00:00", "00:60:00", "00:00:60", "2 moons", "30 min 1 h",
        "1 h 1 h", "soon", "", None, True, timedelta(0), timedelta(seconds=-5), timedelta(days=400), "367 d", "1-00",
    ],
)  # fmt: skip
def test_walltime_that_can_be_read_in_two_ways_or_none_is_refused(wrong: object) -> None:
    with pytest.raises(UserError, match="walltime="):
        parse_walltime("walltime", wrong)


def test_two_numbers_and_a_colon_are_refused_as_ambiguous() -> None:
    with pytest.raises(UserError, match="hours and minutes, or minutes and seconds"):
        parse_walltime("walltime", "10:30")


@settings(deadline=None)
@given(st.integers(min_value=1, max_value=366 * 86400))
def test_slurms_own_spelling_of_a_time_is_understood(seconds: int) -> None:
    days, rest = divmod(seconds, 86400)
    text = f"{days}-{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    assert parse_walltime("walltime", text) == seconds
    assert parse_walltime("walltime", timedelta(seconds=seconds)) == seconds
