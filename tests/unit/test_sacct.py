"""sacct's words for tasks."""

from __future__ import annotations

import pytest

from hpcflow.core.sacct import exit_code, memory, milliseconds, state_of, whole_seconds
from hpcflow.core.states import State


@pytest.mark.parametrize("state", list(State))
def test_every_state_has_a_word(state: State) -> None:
    assert state_of(state, None, None).isupper()


@pytest.mark.parametrize(
    ("end", "raw", "word"),
    [
        ("error", None, "FAILED"),
        ("signal", None, "FAILED"),
        ("memory", None, "OUT_OF_MEMORY"),
        ("timeout", None, "TIMEOUT"),
        ("killed", "OUT_OF_MEMORY 0:125", "OUT_OF_MEMORY"),
        ("killed", "CANCELLED by 1001", "CANCELLED"),
        ("killed", "NODE_FAIL", "NODE_FAIL"),
        ("killed", "TERM_RUNLIMIT: job killed", "FAILED"),
        (None, None, "FAILED"),
    ],
)
def test_a_failed_task_is_called_by_its_end(end: str | None, raw: str | None, word: str) -> None:
    assert state_of(State.FAILED, end, raw) == word


@pytest.mark.parametrize(
    ("end", "code", "signal", "text"),
    [
        (None, None, None, ""),
        ("ok", None, None, "0:0"),
        ("error", None, None, "1:0"),
        ("exit", 3, None, "3:0"),
        ("signal", None, 11, "0:11"),
        ("killed", None, 9, "0:9"),
    ],
)
def test_exit_codes_have_status_and_signal(end: str | None, code: int | None, signal: int | None, text: str) -> None:
    assert exit_code(end, code, signal) == text


def test_times_and_memory_have_saccts_shapes() -> None:
    assert [whole_seconds(s) for s in (0.4, 67, 3600, 93784)] == ["00:00:00", "00:01:07", "01:00:00", "1-02:03:04"]
    assert [milliseconds(s) for s in (0.25, 67.5, 93784)] == ["00:00.250", "01:07.500", "1-02:03:04"]
    assert memory(20480) == "20480K"
