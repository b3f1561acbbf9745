"""What journals and accounting say together: the state rules S1 to S8, each with the fault that made it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hpcflow.core.follow import Ended, Ledger, Lost, Started, Usage, newest_first
from hpcflow.core.model import Bag, BagId, ClusterName, DispatchId, Resources, Shape

Record = dict[str, Any]  # Any: JSON

SHAPE = Shape(cluster=ClusterName("mini"), resources=Resources(), python="python3", python_version=(3, 11))


def a_bag(tasks: int, cuts: tuple[int, ...] | None = None) -> Bag:
    return Bag(
        id=BagId("B"),
        dispatch=DispatchId("D"),
        shape=SHAPE,
        tasks=tuple((index, 1) for index in range(tasks)),
        units=tuple((index,) for index in range(tasks)),
        cuts=cuts or tuple(range(tasks + 1)),
        path="/bag",
        limit_s=None,
        need_s=10,
        worker_walltime_s=300,
    )


def claim(k: int) -> Record:
    return {"ev": "claim", "t": 1.0, "k": k}


def start(i: int, n: int = 1) -> Record:
    return {"ev": "start", "t": 2.0, "i": i, "n": n}


def end(i: int, st: str = "ok", n: int = 1, **more: object) -> Record:
    return {"ev": "end", "t": 3.0, "i": i, "n": n, "st": st, "wall": 0.5, **more}


def leave(why: str) -> Record:
    return {"ev": "exit", "t": 4.0, "why": why, "n": 0}


def test_a_task_begins_and_ends() -> None:
    ledger = Ledger(a_bag(1))
    facts = ledger.read("7_0_0", [{"ev": "up", "host": "node1"}, claim(0), start(0), end(0)])
    assert facts == [Started(0, 1, "7_0_0", 2.0), Ended(0, 1, "7_0_0", end(0))]
    assert (ledger.drained, ledger.all_claimed, ledger.units_left, ledger.mean_wall_s) == (True, True, 0, 0.5)
    assert ledger.workers["7_0_0"].host == "node1"


def test_the_first_end_of_an_attempt_wins() -> None:
    ledger = Ledger(a_bag(1))
    ledger.read("7_0_0", [start(0), end(0)])
    assert ledger.read("7_1_0", [start(0), end(0, "error")]) == [Started(0, 1, "7_1_0", 2.0)]


def test_an_interrupted_task_never_counts_and_is_given_back_as_cut() -> None:
    ledger = Ledger(a_bag(1))
    facts = ledger.read("7_0_0", [claim(0), start(0), end(0, "interrupted"), leave("term")])
    assert [type(fact) for fact in facts] == [Started]
    assert ledger.lost(["7_0_0"], last=False) == Lost(running=(), free=(), cut=(((0, 1), "7_0_0"),))


def test_of_a_dead_workers_tasks_only_the_running_one_is_charged() -> None:
    ledger = Ledger(a_bag(4, cuts=(0, 3, 4)))
    ledger.read("7_0_0", [claim(0), start(0), end(0), start(1)])
    assert ledger.lost(["7_0_0"], last=False) == Lost(running=(((1, 1), "7_0_0"),), free=((2, 1),), cut=())


def test_an_array_task_has_left_when_each_of_its_workers_chose_to() -> None:
    ledger = Ledger(a_bag(2))
    ledger.read("7+0_0_0", [claim(0), leave("drained")])
    ledger.read("7+1_0_0", [claim(1)])
    ledger.read("7_1_0", [leave("walltime")])
    ledger.read("7_2_0", [leave("term")])
    before = ledger.left()
    ledger.read("7+1_0_0", [leave("warned")])
    assert (before, ledger.left()) == ({"7_1"}, {"7_0", "7_1"})
    assert ledger.array_tasks() == {"7_0", "7_1", "7_2"}


def test_what_was_given_back_once_is_not_given_back_again() -> None:
    ledger = Ledger(a_bag(2))
    ledger.read("7_0_0", [claim(0), start(0)])
    ledger.lost(["7_0_0"], last=False)
    assert ledger.lost(["7_0_0"], last=True) == Lost(running=(), free=((1, 1),), cut=())
    assert ledger.drained


def test_ranges_nobody_claimed_are_lost_only_when_nobody_is_left() -> None:
    ledger = Ledger(a_bag(3))
    ledger.read("7_0_0", [claim(0), start(0), end(0), leave("walltime")])
    assert ledger.lost(["7_0_0"], last=False).free == ()
    assert ledger.lost(["7_0_0"], last=True).free == ((1, 1), (2, 1))


def test_a_server_that_lost_its_lease_lets_ranges_be_that_it_does_not_know() -> None:
    ledger = Ledger(a_bag(2))
    ledger.read("7_0_0", [claim(0), start(0), end(0), claim(5), start(9)])
    assert ledger.units_left == 1
    assert ledger.lost(["7_0_0"], last=False).free == ()
    assert ledger.lost([], last=True).free == ((1, 1),)


@pytest.mark.parametrize("number", [9, 15])
def test_a_kill_signal_is_in_doubt_until_the_worker_goes_on(number: int) -> None:
    ledger = Ledger(a_bag(2))
    assert ledger.read("7_0_0", [start(0), end(0, "signal", sig=number)]) == [Started(0, 1, "7_0_0", 2.0)]
    facts = ledger.read("7_0_0", [start(1)])
    assert [(type(fact), fact.index) for fact in facts] == [(Ended, 0), (Started, 1)]


def test_that_a_worker_leaves_the_rest_does_not_say_that_it_goes_on() -> None:
    ledger = Ledger(a_bag(2))
    left = {"ev": "left", "t": 3.5, "k": 0, "u": 1}
    assert len(ledger.read("7_0_0", [claim(0), start(0), end(0, "signal", sig=15), left])) == 1
    assert ledger.read("7_0_0", [leave("term")]) == []
    assert ledger.lost(["7_0_0"], last=False).cut == (((0, 1), "7_0_0"),)


def test_a_kill_signal_before_the_workers_own_end_is_no_end_of_the_task() -> None:
    ledger = Ledger(a_bag(1))
    ledger.read("7_0_0", [claim(0), start(0), end(0, "signal", sig=15)])
    assert ledger.read("7_0_0", [leave("term")]) == []
    assert ledger.lost(["7_0_0"], last=True) == Lost(running=(), free=(), cut=(((0, 1), "7_0_0"),))


def test_a_crash_of_the_task_itself_is_never_in_doubt() -> None:
    ledger = Ledger(a_bag(1))
    assert isinstance(ledger.read("7_0_0", [start(0), end(0, "signal", sig=11)])[-1], Ended)


def test_a_requeued_worker_inherits_and_its_predecessor_leaves_nothing() -> None:
    ledger = Ledger(a_bag(2, cuts=(0, 2)))
    ledger.read("7_0_0", [claim(0), start(0)])
    ledger.read("7_0_1", [{"ev": "inherit", "k": [0], "ended": 0}, start(0)])
    assert ledger.lost(["7_0_0"], last=False) == Lost(running=(), free=(), cut=())
    assert ledger.lost(["7_0_1"], last=False) == Lost(running=(((0, 1), "7_0_1"),), free=((1, 1),), cut=())


def inherit(*k: int) -> Record:
    return {"ev": "inherit", "t": 2.0, "k": list(k), "ended": 0}


def test_a_failure_on_a_lost_node_is_nothing_beside_the_heir_that_runs_the_task() -> None:
    ledger = Ledger(a_bag(1))
    ledger.read("7_0_0", [claim(0), start(0)])
    ledger.read("7_0_1", [inherit(0), start(0)])
    assert ledger.read("7_0_0", [end(0, "exit", code=3), leave("superseded")]) == []
    assert ledger.read("7_0_1", [end(0), leave("drained")]) == [Ended(0, 1, "7_0_1", end(0))]


def test_a_result_from_a_lost_node_counts_though_its_heir_runs() -> None:
    ledger = Ledger(a_bag(1))
    ledger.read("7_0_0", [claim(0), start(0)])
    ledger.read("7_0_1", [inherit(0), start(0)])
    assert ledger.read("7_0_0", [end(0)]) == [Ended(0, 1, "7_0_0", end(0))]


def test_a_failure_that_the_heir_found_in_the_journal_counts_when_the_heir_leaves() -> None:
    ledger = Ledger(a_bag(2))
    ledger.read("7_0_1", [inherit(0, 1), start(1)])
    assert ledger.read("7_0_0", [claim(0), start(0), end(0, "error")]) == [Started(0, 1, "7_0_0", 2.0)]
    told = ledger.read("7_0_1", [end(1), leave("drained")])
    assert [(fact.index, fact.worker) for fact in told if isinstance(fact, Ended)] == [(1, "7_0_1"), (0, "7_0_0")]


def test_journals_of_heirs_come_first_and_others_files_not_at_all() -> None:
    names = ["7_0_0.jsonl", "7_0_10.jsonl", "7_0_9.jsonl", "7_0_0.jsonl~", "notes.jsonl"]
    assert newest_first(names) == ["7_0_10.jsonl", "7_0_9.jsonl", "7_0_0.jsonl"]


def test_an_array_tasks_time_is_that_of_its_slots_in_its_newest_run() -> None:
    ledger = Ledger(a_bag(4))
    ledger.read("7_0_0", [{"ev": "up", "t": 1.0}, claim(0), start(0)])
    ledger.read("7_0_1", [{"ev": "up", "t": 100.0}, start(0), end(0) | {"t": 103.0}, leave("drained") | {"t": 104.0}])
    waited = {"ev": "exit", "t": 110.0, "why": "drained", "n": 1, "idle": 2.5}
    ledger.read("7+1_0_1", [{"ev": "up", "t": 101.0}, claim(1), start(1), end(1) | {"t": 103.0}, waited])
    ledger.read("7_1_0", [{"ev": "up", "t": 1.0}])
    assert ledger.usage()["7_0"] == Usage(
        workers=2,
        cores=1,
        unfinished=0,
        tasks=2,
        first_at=100.0,
        up_s=10.0,
        span_s=13.0,
        tasks_s=1.0,
        idle_s=2.5,
        earlier_s=1.0,
    )
    silent = ledger.usage()["7_1"]
    assert silent is not None
    assert (silent.unfinished, silent.tasks, silent.span_s) == (1, 0, 0.0)
    assert "7_2" not in ledger.usage()


def test_cancelled_tasks_are_not_waited_for_and_their_ranges_need_no_worker() -> None:
    ledger = Ledger(a_bag(5, cuts=(0, 1, 3, 5)))
    ledger.read("7_0_0", [claim(0), start(0)])
    assert ledger.drop([(0, 1), (1, 1), (3, 1), (4, 1)]) == [(0, 1), (1, 1), (3, 1), (4, 1)]
    assert (ledger.units_left, ledger.all_claimed, ledger.drained) == (1, False, False)
    assert ledger.drop([(2, 1), (4, 1)]) == [(2, 1)]
    assert (ledger.units_left, ledger.all_claimed, ledger.drained) == (0, True, True)
    ledger.read("7_1_0", [claim(2)])
    assert (ledger.units_left, ledger.all_claimed) == (0, True)


def test_what_follows_a_cancelled_task_in_its_unit_is_not_waited_for_either() -> None:
    ledger = Ledger(replace(a_bag(3), units=((0, 1, 2),), cuts=(0, 1)))
    assert ledger.drop([(1, 1)]) == [(1, 1)]
    ledger.read("7_0_0", [claim(0), start(0), end(0)])
    assert ledger.drained


def test_how_far_a_cancelled_task_had_come_is_told_and_counts_as_no_end() -> None:
    ledger = Ledger(a_bag(2))
    ledger.read("7_0_0", [claim(0), start(0)])
    ledger.drop([(0, 1)])
    assert ledger.read("7_0_0", [end(0, "cancelled")]) == [Ended(0, 1, "7_0_0", end(0, "cancelled"))]
    assert (ledger.ended, ledger.mean_wall_s, ledger.workers["7_0_0"].running) == (0, None, None)
    assert ledger.lost(["7_0_0"], last=True) == Lost(running=(), free=((1, 1),), cut=())


@pytest.mark.parametrize("how", [end(0, "interrupted"), end(0, "signal", sig=15)])
def test_how_far_a_cancelled_task_had_come_is_told_when_its_worker_was_ended_as_well(how: dict[str, Any]) -> None:
    ledger = Ledger(a_bag(2))
    ledger.read("7_0_0", [claim(0), start(0)])
    ledger.drop([(0, 1), (1, 1)])
    told = [Ended(0, 1, "7_0_0", {**how, "st": "cancelled"})]
    assert ledger.read("7_0_0", [how, leave("term")]) == told
    assert not ledger.lost(["7_0_0"], last=True)
