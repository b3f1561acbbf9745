"""Which tasks run again, what holds back those that do not, and which failures have one cause."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from hpcflow.core.again import held_by, holders, runs_again, skipped_by, stay
from hpcflow.core.causes import cause_of, shortage, told
from hpcflow.core.model import Cause, Graph
from hpcflow.core.states import State
from hpcflow.server.manifest import read_graph
from tests.unit.mini_world import a_manifest

F, X, S, C = State.FAILED, State.CANCELLED, State.SKIPPED, State.COMPLETED


def a_graph(*deps: Sequence[int]) -> Graph:
    return read_graph(a_manifest(*deps))


#: 0 and 1 are sources; 2 needs 0, 3 needs both, 4 needs 3.
DIAMOND = a_graph([], [], [0], [0, 1], [3])


def test_what_a_cancel_lets_no_more_run_is_known_before() -> None:
    open_states = [State.RUNNING, C, State.WAITING, State.WAITING, State.WAITING]
    assert skipped_by(DIAMOND, open_states, {0}) == [2, 3, 4]
    assert skipped_by(DIAMOND, open_states, {0, 2, 3}) == [4]
    third = replace(DIAMOND.tasks[3], accept_failed=True)
    accepting = replace(DIAMOND, tasks=(*DIAMOND.tasks[:3], third, DIAMOND.tasks[4]))
    assert skipped_by(accepting, open_states, {0}) == [2]


@pytest.mark.parametrize(
    ("states", "failed_only", "only", "again", "held"),
    [
        ([F, C, S, S, S], True, None, [0, 2, 3, 4], {}),
        ([F, X, S, S, S], True, None, [0, 2], {3: 1, 4: 1}),
        ([F, X, S, S, S], False, None, [0, 1, 2, 3, 4], {}),
        ([F, F, S, S, S], False, {0}, [0, 2], {3: 1, 4: 1}),
        ([F, F, S, S, S], False, {1}, [1], {3: 0, 4: 0}),
        ([C, X, C, S, S], False, {3, 4}, [], {}),
        ([C, C, F, C, C], True, None, [2], {}),
    ],
)
def test_what_was_skipped_runs_again_when_all_that_held_it_does(
    states: list[State], failed_only: bool, only: set[int] | None, again: list[int], held: dict[int, int]
) -> None:
    chosen = runs_again(DIAMOND, states, failed_only=failed_only, only=only)
    assert sorted(chosen) == again
    assert stay(DIAMOND, states, chosen) == held


def test_what_holds_a_skipped_task_is_what_was_lost_and_not_what_was_skipped_with_it() -> None:
    states = [F, X, S, S, S]
    assert held_by(DIAMOND, states) == {2: 0, 3: 0, 4: 0}
    assert holders(DIAMOND.tasks, states, 4) == [0, 1]
    done: list[State] = [C, X, C, S, S]
    assert held_by(DIAMOND, done) == {3: 1, 4: 1}
    assert holders(DIAMOND.tasks, done, 4) == [1]


def test_a_stage_behind_a_barrier_is_looked_at_once() -> None:
    class Counting(tuple[int, ...]):
        looks = 0

        def __iter__(self) -> Any:  # Any: an iterator, whose type has no public name
            Counting.looks += 1
            return super().__iter__()

    first = a_graph(*[[] for _ in range(30)])
    needs = Counting(range(30))
    model = first.tasks[0]
    behind = tuple(replace(model, index=index, deps=needs) for index in range(30, 60))
    graph = replace(first, tasks=(*first.tasks, *behind))
    states = [F] * 30 + [S] * 30
    Counting.looks = 0
    assert len(runs_again(graph, states, failed_only=True)) == 60
    assert Counting.looks < 10


# ---- causes


OUT_OF_MEMORY: list[dict[str, Any]] = [  # Any: JSON
    {"st": "memory", "mem": 300, "asked": 128},
    {"st": "memory", "mem": 120, "rss": 340 * 1024, "asked": 128},
    {"st": "killed", "raw": "OUT_OF_MEMORY", "cause": Cause.MEMORY, "asked": 128, "rss": 310 * 1024},
    {"st": "killed", "raw": "FAILED 0:9, MaxRSS 340000K, ReqMem 128M", "cause": "out of memory", "asked": 128},
    {"st": "killed", "raw": "OUT_OF_MEMORY", "said": "The task was killed for its memory (OUT_OF_MEMORY)."},
]


def test_who_noticed_that_memory_ran_out_makes_no_difference() -> None:
    lacked = [shortage(record) for record in OUT_OF_MEMORY]
    assert [(each.asked, each.used) for each in lacked if each is not None and each.lack == "memory"] == [
        (128, 300),
        (128, 340.0),
        (128, 310.0),
        (128, 0),
        (None, 0),
    ]
    assert {cause_of(record, f"sentence {k}") for k, record in enumerate(OUT_OF_MEMORY)} == {"memory"}
    known = [each for each in lacked if each is not None]
    assert told(["The first."] * 5, known) == "They ran out of memory: up to 340 MiB were in use when one was ended."
    assert told(["The first."], known[:1]) == "The first."


def test_walltime_that_ran_out_is_one_cause_as_well_and_other_errors_are_told_by_their_words() -> None:
    ends: list[dict[str, Any]] = [  # Any: JSON
        {"st": "timeout", "limit": 60, "worker_s": 600},
        {"st": "timeout", "limit": None, "worker_s": 600},
        {"st": "killed", "raw": "TIMEOUT", "cause": Cause.TIMEOUT, "worker_s": 600},
    ]
    lacked = [each for end in ends if (each := shortage(end)) is not None]
    assert [each.asked for each in lacked] == [60, 600, 600]
    assert told(["The first."] * 3, lacked) == "They used up their walltime."
    assert cause_of({"st": "error"}, "ValueError: no 2") == cause_of({"st": "error"}, "ValueError: no 13")
    assert cause_of({"st": "error"}, "ValueError: no 2") != cause_of({"st": "error"}, "KeyError: 2")
    assert shortage({"st": "killed", "raw": "NODE_FAIL", "cause": Cause.NODE_FAIL}) is None
    assert shortage(None) is None
    assert told([None, None], []) == "No reason is known."
    assert told(["ValueError: no 2", "ValueError: no 2"], []) == "ValueError: no 2"
    # What the first one says is not true of the others.
    assert told(["ValueError: no 2", "ValueError: no 13"], []) == "ValueError: no 2, or with other numbers"
    assert told(["It broke at 2.\nSee 5", "It broke at 3.\nSee 5"], []) == (
        "It broke at 2, or with other numbers.\nSee 5"
    )
