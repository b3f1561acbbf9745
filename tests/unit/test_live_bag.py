"""When nobody will take what is left of a bag: its workers' own last lines say so, or it is not said yet."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcflow.core.follow import Ledger
from hpcflow.core.model import Cause, JobId, Observation, Phase
from hpcflow.server.bags import LiveArray, LiveBag
from hpcflow.server.store import ArrayState
from tests.unit.mini_world import a_dispatch, a_manifest
from tests.unit.test_follow import a_bag, claim, leave, start
from tests.unit.test_live_array import BEGAN, an_array

UP = {"ev": "up", "t": 0.5, "host": "node1"}


def serves(bag: LiveBag, job: str | None, width: int, state: ArrayState = ArrayState.SUBMITTED) -> LiveArray:
    array = an_array(state, job=job, width=width)
    bag.arrays.append(array)
    return array


def ended(array: LiveArray, index: int, cause: Cause, *, began: bool) -> None:
    array.state = ArrayState.ENDED
    array.ends[index] = Observation(
        token=array.array.token,
        job_id=JobId(str(array.array.job_id)),
        index=index,
        phase=Phase.ENDED,
        cause=cause,
        raw="END",
        started_at=BEGAN if began else None,
    )


@pytest.fixture
def bag(tmp_path: Path) -> LiveBag:
    """A bag of four tasks that nobody has claimed, and no array yet."""
    four = a_bag(4)
    return LiveBag(four, a_dispatch(a_manifest([], [], [], []), tmp_path), Ledger(four), b"", BEGAN)


def test_a_bag_is_deserted_when_every_array_task_came_up_and_left_by_itself(bag: LiveBag) -> None:
    serves(bag, "7", 2)
    seen = [bag.deserted]
    bag.ledger.read("7_0_0", [UP, claim(0), leave("drained")])
    seen.append(bag.deserted)  # 7_1 may still come up
    bag.ledger.read("7_1_0", [UP])
    seen.append(bag.deserted)
    bag.ledger.read("7_1_0", [leave("walltime")])
    assert [*seen, bag.deserted] == [False, False, False, True]


@pytest.mark.parametrize("why", ["term", "fault"])
def test_who_was_told_to_leave_or_could_not_go_on_may_be_followed_by_another(bag: LiveBag, why: str) -> None:
    serves(bag, "7", 1)
    bag.ledger.read("7_0_0", [UP, leave(why)])
    before = bag.deserted
    bag.ledger.read("7_0_1", [UP, leave("drained")])
    assert (before, bag.deserted) == (False, True)


def test_all_slots_of_an_array_task_have_to_leave(bag: LiveBag) -> None:
    serves(bag, "7", 1)
    bag.ledger.read("7+0_0_0", [UP, leave("drained")])
    bag.ledger.read("7+1_0_0", [UP])
    before = bag.deserted
    bag.ledger.read("7+1_0_0", [leave("drained")])
    assert (before, bag.deserted) == (False, True)


@pytest.mark.parametrize("state", [ArrayState.INTENT, ArrayState.AMBIGUOUS])
def test_an_array_that_the_scheduler_may_yet_take_will_serve(bag: LiveBag, state: ArrayState) -> None:
    serves(bag, "7", 1)
    bag.ledger.read("7_0_0", [UP, leave("drained")])
    second = serves(bag, None, 1, state)
    before = bag.deserted
    second.state = ArrayState.REFUSED
    assert (before, bag.deserted) == (False, True)


def test_who_began_and_was_called_ended_may_still_be_heard_of_until_it_is_dealt_with(bag: LiveBag) -> None:
    """Simulation seed 347: accounting knew the end of an array whose worker's last lines were not seen here yet."""
    first = serves(bag, "7", 1)
    bag.ledger.read("7_0_0", [UP, claim(0), start(0)])
    ended(first, 0, Cause.NODE_FAIL, began=True)
    serves(bag, "8", 1)
    bag.ledger.read("8_0_0", [UP, claim(1), leave("drained")])
    before = bag.deserted
    assert bag.ledger.lost(["7_0_0"], last=False).running == (((0, 1), "7_0_0"),)
    assert (before, bag.deserted) == (False, True)


@pytest.mark.parametrize(
    ("cause", "began", "deserted"),
    [(Cause.CANCELLED, False, True), (Cause.CANCELLED, True, False), (Cause.NODE_FAIL, False, False)],
)
def test_of_an_array_that_is_over_whoever_may_have_run_has_to_be_heard_of(
    bag: LiveBag, cause: Cause, began: bool, deserted: bool
) -> None:
    first = serves(bag, "7", 1)
    ended(first, 0, cause, began=began)
    serves(bag, "8", 1)
    bag.ledger.read("8_0_0", [UP, leave("drained")])
    before = bag.deserted
    bag.ledger.read("7_0_0", [UP, leave("term")])
    assert (before, bag.deserted) == (deserted, True)


def test_of_an_array_task_that_nobody_was_told_the_end_of_a_line_is_waited_for(bag: LiveBag) -> None:
    first = serves(bag, "7", 2, ArrayState.ENDED)
    ended(first, 0, Cause.CANCELLED, began=False)
    serves(bag, "8", 1)
    bag.ledger.read("8_0_0", [UP, leave("drained")])
    before = bag.deserted
    bag.ledger.read("7_1_0", [UP, leave("drained")])
    assert (before, bag.deserted) == (False, True)
