"""Since when what a cluster's jobs do is unknown."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tests.unit.test_environments_asked import LoginSide, here

FIRST = datetime(2026, 11, 27, 8, 0, tzinfo=UTC)
LATER = FIRST + timedelta(minutes=5)


def test_it_is_unknown_since_its_first_failure_however_often_it_is_asked_again() -> None:
    cluster = here(LoginSide())
    said = [cluster.unknown_since]
    for problem, now in (("It needs a login.", FIRST), ("It still needs a login.", LATER)):
        cluster.fail(problem, now)
        said.append(cluster.unknown_since)
    assert cluster.problem == "It still needs a login."
    assert said == [None, FIRST, FIRST]


def test_after_an_answer_it_is_unknown_since_that_was_heard() -> None:
    cluster = here(LoginSide())
    cluster.fail("It needs a login.", FIRST)
    cluster.problem, cluster.heard_at = None, LATER
    said = [cluster.unknown_since]
    cluster.fail("It is away.", LATER + timedelta(minutes=1))
    assert [*said, cluster.unknown_since] == [None, LATER]
