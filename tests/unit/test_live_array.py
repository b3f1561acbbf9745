"""When an array that nobody names may be submitted again: never while it may still turn up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hpcflow.core.model import BagId, ClusterName, DispatchId, JobArray, JobId, Observation, Phase, Resources, Stuck
from hpcflow.server.bags import LiveArray
from hpcflow.server.store import ArrayState

BEGAN = datetime(2026, 11, 23, 12, tzinfo=UTC)


def an_array(state: ArrayState, *, job: str | None = None, width: int = 1) -> LiveArray:
    """An array of which the intent was stored long before anything else happened."""
    return LiveArray(
        JobArray(
            token="step-1",
            bag=BagId("B"),
            dispatch=DispatchId("D"),
            cluster=ClusterName("mini"),
            resources=Resources(),
            width=width,
            worker_walltime_s=60,
            command=("python3",),
            path="/bag",
            intent_at=BEGAN - timedelta(hours=1),
            job_id=None if job is None else JobId(job),
        ),
        state,
    )


def look(array: LiveArray, after_s: float, *rows: Observation, complete: bool = True) -> None:
    array.observe(rows, complete=complete, now=BEGAN + timedelta(seconds=after_s), settle_s=120)


def test_the_time_in_which_an_array_may_turn_up_begins_when_it_is_looked_for() -> None:
    array = an_array(ArrayState.AMBIGUOUS)
    look(array, 0)
    states = [array.state]
    for after_s in (119, 121):
        look(array, after_s)
        states.append(array.state)
    assert states == [ArrayState.AMBIGUOUS, ArrayState.AMBIGUOUS, ArrayState.INTENT]


def test_a_second_lost_reply_is_waited_for_as_long_as_the_first() -> None:
    array = an_array(ArrayState.AMBIGUOUS)
    look(array, 0)
    look(array, 121)
    array.state = ArrayState.AMBIGUOUS
    look(array, 150)
    assert array.state is ArrayState.AMBIGUOUS


def test_an_answer_that_is_not_whole_begins_nothing() -> None:
    array = an_array(ArrayState.AMBIGUOUS)
    look(array, 0, complete=False)
    look(array, 121)
    assert array.state is ArrayState.AMBIGUOUS


def test_an_accepted_array_that_no_answer_names_yet_is_not_over() -> None:
    array = an_array(ArrayState.INTENT)
    array.accept(JobId("7"), BEGAN)
    look(array, 30)
    look(array, 60)
    assert array.state is ArrayState.SUBMITTED


def test_what_turns_up_late_is_taken() -> None:
    array = an_array(ArrayState.AMBIGUOUS)
    look(array, 0)
    look(array, 60, Observation(token="step-1", job_id=JobId("7"), index=0, phase=Phase.PENDING))
    assert (array.state, array.array.job_id) == (ArrayState.SUBMITTED, "7")


def test_what_is_being_submitted_is_not_submitted_again() -> None:
    array = an_array(ArrayState.INTENT)
    assert array.is_due(BEGAN)
    array.submitting = True
    assert not array.is_due(BEGAN)


def test_what_was_found_by_name_and_is_in_doubt_again_is_found_again() -> None:
    array = an_array(ArrayState.INTENT)
    pending = Observation(token="step-1", job_id=JobId("7"), index=0, phase=Phase.PENDING)
    look(array, 0, pending)
    array.state = ArrayState.AMBIGUOUS
    look(array, 30, pending)
    assert array.state is ArrayState.SUBMITTED


def test_a_held_array_stays_held_until_an_answer_names_it_or_is_whole() -> None:
    array = an_array(ArrayState.SUBMITTED, job="7")
    held = Observation(token="step-1", job_id=JobId("7"), index=0, phase=Phase.PENDING, stuck=Stuck.HELD)
    look(array, 0, held)
    look(array, 30, complete=False)
    assert array.held is held
    look(array, 60, Observation(token="step-1", job_id=JobId("7"), index=0, phase=Phase.PENDING), complete=False)
    assert array.held is None
