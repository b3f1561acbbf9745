"""What became of the core-seconds that a scheduler charged: every part, their sum, and the sentences."""

from __future__ import annotations

import random
from typing import Any

import pytest

from hpcflow.core.model import Cause
from hpcflow.core.usage import PARTS, Spent, Submission, account, amount, percents, sentences, shares_of

End = dict[str, Any]  # Any: JSON


def a_worker(**changes: float) -> End:
    """One worker of one core: ten tasks in 90 s, 4 s of waiting, 100 s from its first line to its last one."""
    return {
        "workers": 1,
        "cores": 1,
        "unfinished": 0,
        "tasks": 10,
        "up_s": 100.0,
        "span_s": 100.0,
        "tasks_s": 90.0,
        "idle_s": 4.0,
        "earlier_s": 0.0,
    } | changes


def an_end(core_seconds: float | None, worker: End | None, **changes: object) -> End:
    return {"cause": Cause.DONE, "core_seconds": core_seconds, "elapsed_s": core_seconds, "usage": worker} | changes


CANCELLED = an_end(0.0, None, cause=Cause.CANCELLED)


def an_array(*ends: End, cores: int = 1, over: bool = True) -> Submission:
    return Submission(width=len(ends), cores=cores, over=over, ends=dict(enumerate(ends)))


def parts(spent: Spent) -> dict[str, float]:
    return {part: value for part in PARTS if (value := round(getattr(spent, part), 6))}


def test_a_workers_time_is_told_apart() -> None:
    spent = account([an_array(an_end(103.0, a_worker()))])
    assert parts(spent) == {"tasks_s": 90, "idle_s": 4, "overhead_s": 6, "startup_s": 3}
    assert (spent.charged_s, spent.complete, spent.unexplained_s) == (103, True, 0)


def test_an_array_task_of_several_cores_costs_them_all() -> None:
    spent = account([an_array(an_end(412.0, a_worker(cores=4), elapsed_s=103.0), cores=4)])
    assert parts(spent) == {"tasks_s": 360, "idle_s": 16, "overhead_s": 24, "startup_s": 12}


def test_slots_that_leave_early_are_empty_while_others_go_on() -> None:
    slots = a_worker(workers=2, up_s=100.0, span_s=150.0, tasks_s=140.0, idle_s=0.0)
    spent = account([an_array(an_end(206.0, slots, elapsed_s=103.0), cores=2)])
    assert parts(spent) == {"tasks_s": 140, "overhead_s": 10, "slots_s": 50, "startup_s": 6}


def test_cores_that_nobody_asked_for_are_no_start_up() -> None:
    spent = account([an_array(an_end(824.0, a_worker(), elapsed_s=103.0))])
    assert parts(spent)["beyond_s"] == 721
    assert parts(spent)["startup_s"] == 3


def test_a_killed_workers_last_task_is_no_start_up() -> None:
    spent = account([an_array(an_end(300.0, a_worker(unfinished=1), cause=Cause.TIMEOUT))])
    assert (spent.killed_s, spent.startup_s) == (200, 0)


def test_a_whole_second_more_or_less_is_rounding_and_more_is_unexplained() -> None:
    spent = account([an_array(an_end(99.0, a_worker()))])
    assert (spent.rest_s, spent.rounding_s, spent.unexplained_s) == (-1, 1, 0)
    spent = account([an_array(an_end(95.0, a_worker()))])
    assert spent.unexplained_s == 4
    assert sentences(spent)[-1] == "4.0 core-seconds more were spent than charged, which rounding does not explain."


def test_a_run_before_a_requeue_is_not_taken_from_what_was_charged_for_the_last() -> None:
    spent = account([an_array(an_end(103.0, a_worker(earlier_s=500.0)))])
    assert (spent.requeued_s, sum(parts(spent).values())) == (500, 103)


def test_array_tasks_are_counted_by_what_became_of_them() -> None:
    late = an_end(2.0, a_worker(tasks=0, up_s=1.0, span_s=1.0, tasks_s=0.0, idle_s=0.0))
    over = an_array(an_end(103.0, a_worker()), late, an_end(5.0, None), CANCELLED, CANCELLED)
    spent = account([over, an_array(an_end(103.0, None), over=False)])
    assert (spent.submitted, spent.used, spent.in_vain, spent.not_begun, spent.open) == (6, 1, 2, 2, 1)
    assert spent.charged_s == 110
    assert spent.startup_s == 3 + 1 + 5
    assert not spent.complete


def test_what_accounting_does_not_tell_is_not_guessed() -> None:
    silent = Submission(width=3, cores=1, over=True, ends={0: an_end(None, a_worker()), 1: an_end(None, None)})
    spent = account([silent])
    assert (spent.charged_s, spent.used, spent.in_vain, spent.unknown, spent.uncharged) == (0, 1, 1, 1, 2)
    assert not spent.complete
    assert not account([Submission(width=1, cores=1, over=True, ends={0: an_end(None, a_worker())})]).complete
    assert sentences(spent) == (
        "3 array tasks: 1 used, 1 began and ran no task, 1 of unknown end.",
        "Accounting did not tell what 3 array tasks cost.",
    )


@pytest.mark.parametrize("seed", range(50))
def test_the_parts_are_what_was_charged_whatever_was_written(seed: int) -> None:
    chance = random.Random(seed)
    cores = chance.choice((1, 2, 48))

    def end() -> End:
        worker = a_worker(
            cores=chance.choice((1, cores)),
            unfinished=chance.randrange(2),
            tasks=chance.randrange(3),
            up_s=chance.uniform(0, 50),
            span_s=chance.uniform(0, 100),
            tasks_s=chance.uniform(0, 100),
            idle_s=chance.uniform(0, 9),
        )
        charged = chance.choice((None, 0.0, chance.uniform(0, 9000)))
        elapsed = chance.choice((None, 0.0, chance.uniform(0, 120)))
        return an_end(charged, chance.choice((None, worker)), elapsed_s=elapsed)

    untold = Submission(width=7, cores=cores, over=True, ends={3: end()})
    spent = account([an_array(*(end() for _ in range(30)), cores=cores), an_array(end(), over=False), untold])
    assert spent.submitted == spent.used + spent.in_vain + spent.not_begun + spent.open + spent.unknown == 38
    assert spent.uncharged <= spent.used + spent.in_vain
    assert sum(getattr(spent, part) for part in PARTS) == pytest.approx(spent.charged_s)
    assert all(getattr(spent, part) >= 0 for part in PARTS if part != "rest_s")


def test_it_reads_as_two_sentences() -> None:
    spent = account(
        [an_array(*[an_end(10300.0, a_worker(up_s=1e4, span_s=1e4, tasks_s=9500.0))] * 4, *[CANCELLED] * 12)]
    )
    assert sentences(spent) == (
        "A task was running in 92 % of 11.4 core-hours charged; the rest: 3 % start-up and end, 5 % workers' own work.",
        "16 array tasks: 4 used, 12 cancelled before they began.",
    )


def test_nothing_submitted_is_said() -> None:
    assert sentences(account([])) == ("Nothing was submitted.",)
    assert sentences(account([an_array(CANCELLED)])) == ("1 array task: 1 cancelled before they began.",)


@pytest.mark.parametrize(
    ("core_seconds", "words"),
    [(0.4, "0.4 core-seconds"), (59.0, "59.0 core-seconds"), (90.0, "1.5 core-minutes"), (5400.0, "1.5 core-hours")],
)
def test_an_amount_has_the_largest_unit_of_which_there_is_one(core_seconds: float, words: str) -> None:
    assert amount(core_seconds) == words


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ([1.0, 1.0, 1.0], [34, 33, 33]),
        ([0.3, 2.0, 2.0, 1.7], [5, 34, 33, 28]),
        ([0.12, 0.874, 0.006], [12, 87, 1]),
        ([0.0, 0.0], [0, 0]),
    ],
)
def test_percents_add_up(parts: list[float], told: list[int]) -> None:
    assert percents(parts) == told


@pytest.mark.parametrize("rest_s", [-0.001, -0.5, -40.0])
def test_shares_add_up_to_the_whole_and_rounding_is_none_of_them(rest_s: float) -> None:
    spent = Spent(charged_s=10.1 + rest_s, tasks_s=6.1, startup_s=4.0, rest_s=rest_s, submitted=1)
    shares = shares_of(spent)
    assert [shares[part] for part in ("tasks_s", "startup_s", "rest_s")] == [60, 40, 0]
    assert sum(shares.values()) == 100
    assert min(shares.values()) == 0
