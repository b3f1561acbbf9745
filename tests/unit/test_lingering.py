"""Who of a bag's idle workers waits for more: as many as tasks may come, and the last one always."""

from __future__ import annotations

from itertools import permutations

import pytest

from hpcflow.core.lingering import Idle, Leave, who_may_leave


def idle(name: str, since: float, *, read_at: float | None = None, array_task: str | None = None) -> Idle:
    return Idle(name, array_task or name, 1, since, since if read_at is None else read_at)


def names(leave: Leave) -> set[str]:
    assert not leave.everyone
    return set(leave.names)


FOUR = [idle(name, float(place)) for place, name in enumerate("abcd")]


@pytest.mark.parametrize(("coming", "leaving"), [(1, "abc"), (2, "ab"), (3, "a"), (4, ""), (9, "")])
def test_as_many_stay_as_tasks_may_come_and_they_are_those_that_became_idle_last(coming: int, leaving: str) -> None:
    for order in permutations(FOUR):
        assert names(who_may_leave(order, coming)) == set(leaving)


def test_who_became_idle_in_one_moment_does_not_leave_in_one_moment() -> None:
    assert names(who_may_leave([idle(name, 5.0) for name in "cab"], 1)) == {"a", "b"}


def test_the_only_one_stays_and_nobody_waits_for_nothing() -> None:
    assert who_may_leave([idle("a", 0.0)], 1) == Leave()
    assert who_may_leave([], 0) == Leave(everyone=True)


def test_where_nobody_knows_what_comes_all_stay() -> None:
    assert who_may_leave(FOUR, None) == Leave()


def test_nobody_leaves_for_one_whose_clock_is_ahead_or_whose_journal_was_seen_late() -> None:
    ahead = idle("ahead", 3600.0, read_at=1.0)
    assert names(who_may_leave([ahead, idle("true", 5.0, read_at=5.0)], 1)) == set()
    late = idle("late", 1.0, read_at=9.0)
    assert names(who_may_leave([late, idle("true", 5.0, read_at=5.0)], 1)) == set()


def test_the_workers_of_an_array_task_leave_together_and_not_while_one_of_them_is_busy() -> None:
    two = [idle("1+0_0", 1.0, array_task="1_0"), idle("1+1_0", 8.0, array_task="1_0")]
    others = [idle("1+0_1", 9.0, array_task="1_1"), idle("1+1_1", 3.0, array_task="1_1")]
    assert names(who_may_leave([*two, *others], 1)) == {"1+0_0", "1+1_0"}
    assert names(who_may_leave([*two, *others], 2)) == set()  # one of them is later than both
    assert names(who_may_leave([*two, *others], 1, busy={"1_0"})) == set()


def test_what_is_said_of_one_time_of_waiting_holds_for_no_other() -> None:
    leave = who_may_leave([Idle("a", "a", 3, 1.0, 1.0), Idle("b", "b", 1, 2.0, 2.0)], 1)
    assert [leave.covers("a", period) for period in (2, 3, 4)] == [False, True, False]
    assert Leave(everyone=True).covers("z", 7)
