"""The one table that moves a task's state, pair by pair."""

from __future__ import annotations

import pytest

from hpcflow.core.model import HpcflowError
from hpcflow.core.states import FINAL, TRANSITIONS, Event, State, step


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("event", list(Event))
def test_every_pair_is_in_the_table_or_refused(state: State, event: Event) -> None:
    following = TRANSITIONS[state].get(event)
    if following is None:
        with pytest.raises(HpcflowError, match=f"a {state} task can't take"):
            step(state, event)
    else:
        assert step(state, event) is following


def test_final_states_are_those_that_nothing_leaves() -> None:
    assert {State.COMPLETED, State.FAILED, State.CANCELLED, State.SKIPPED} == FINAL


def test_every_state_but_the_final_ones_can_be_cancelled() -> None:
    assert {state for state in State if Event.CANCELLED in TRANSITIONS[state]} == set(State) - FINAL
