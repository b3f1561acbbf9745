"""What is printed for people."""

from __future__ import annotations

from hpcflow.sdk.plain import plain


def test_control_characters_are_spelled_out_and_lines_stay_lines() -> None:
    assert plain("cleared\x1b[2J\r\nnext\ttab é") == "cleared\\x1b[2J\\x0d\nnext\ttab é"
