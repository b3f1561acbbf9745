"""Names that sort by time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hpcflow.core.model import is_ulid, ulid


def test_a_ulid_is_written_as_its_specification_says() -> None:
    assert ulid(0, bytes(10)) == "0" * 26
    assert ulid(2**48 - 1, b"\xff" * 10) == "7" + "Z" * 25


@given(st.integers(0, 2**48 - 2), st.binary(min_size=10, max_size=10), st.binary(min_size=10, max_size=10))
def test_a_later_one_is_known_as_one_and_sorts_behind(milliseconds: int, first: bytes, second: bytes) -> None:
    assert is_ulid(ulid(milliseconds, first))
    assert ulid(milliseconds, first) < ulid(milliseconds + 1, second)
