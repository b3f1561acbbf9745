"""What journals and accounting say together: the state rules S1 to S8, each with the fault that made it."""

from __future__ import annotations

from typing import Any

import pytest

from hpcflow.core.follow import Ended, Ledger, Lost, Started, explain, explain_death, is_charged
from hpcflow.core.model import (
    Bag,
    BagId,
    Cause,
    ClusterName,
    DispatchId,
    JobId,
    Observation,
    Phase,
    Resources,
    Shape,
)

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


def an_end(cause: Cause | None, **more: Any) -> Observation:  # Any: keywords of Observation
    return Observation(token="t", job_id=JobId("7"), index=0, phase=Phase.ENDED, cause=cause, **more)


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
    assert ledger.lost(["7_0_0"], last=False) == Lost(running=(), free=(), cut=((0, 1),))


def test_of_a_dead_workers_tasks_only_the_running_one_is_charged() -> None:
    ledger = Ledger(a_bag(4, cuts=(0, 3, 4)))
    ledger.read("7_0_0", [claim(0), start(0), end(0), start(1)])
    assert ledger.lost(["7_0_0"], last=False) == Lost(running=(((1, 1), "7_0_0"),), free=((2, 1),), cut=())


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


@pytest.mark.parametrize("number", [9, 15])
def test_a_kill_signal_is_in_doubt_until_the_worker_goes_on(number: int) -> None:
    ledger = Ledger(a_bag(2))
    assert ledger.read("7_0_0", [start(0), end(0, "signal", sig=number)]) == [Started(0, 1, "7_0_0", 2.0)]
    facts = ledger.read("7_0_0", [start(1)])
    assert [(type(fact), fact.index) for fact in facts] == [(Ended, 0), (Started, 1)]


def test_a_kill_signal_before_the_workers_own_end_is_no_end_of_the_task() -> None:
    ledger = Ledger(a_bag(1))
    ledger.read("7_0_0", [claim(0), start(0), end(0, "signal", sig=15)])
    assert ledger.read("7_0_0", [leave("term")]) == []
    assert ledger.lost(["7_0_0"], last=True).running == (((0, 1), "7_0_0"),)


def test_a_crash_of_the_task_itself_is_never_in_doubt() -> None:
    ledger = Ledger(a_bag(1))
    assert isinstance(ledger.read("7_0_0", [start(0), end(0, "signal", sig=11)])[-1], Ended)


def test_a_requeued_worker_inherits_and_its_predecessor_leaves_nothing() -> None:
    ledger = Ledger(a_bag(2, cuts=(0, 2)))
    ledger.read("7_0_0", [claim(0), start(0)])
    ledger.read("7_0_1", [{"ev": "inherit", "k": [0], "ended": 0}, start(0)])
    assert ledger.lost(["7_0_0"], last=False) == Lost(running=(), free=(), cut=())
    assert ledger.lost(["7_0_1"], last=False) == Lost(running=(((0, 1), "7_0_1"),), free=((1, 1),), cut=())


@pytest.mark.parametrize(
    ("cause", "first", "charged"),
    [
        (Cause.NODE_FAIL, True, False),
        (Cause.PREEMPTED, True, False),
        (Cause.TIMEOUT, True, True),
        (Cause.TIMEOUT, False, False),
        (Cause.MEMORY, False, True),
        (Cause.FAILED, False, True),
        (Cause.DONE, False, True),
    ],
)
def test_a_death_is_charged_by_its_cause(cause: Cause, first: bool, charged: bool) -> None:
    assert is_charged(an_end(cause), first=first) is charged


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        (end(0, "ok"), None),
        (end(0, "error", exc="ValueError", msg="no 2"), "ValueError: no 2"),
        (end(0, "error", exc="KeyError", msg=""), "KeyError"),
        (end(0, "exit", code=3), "The task's process ended with exit code 3 before the function returned."),
        (end(0, "exit", code=75), "The task could not report: the function closed descriptors that were not its own."),
        (end(0, "signal", sig=11), "The task's process was killed by signal 11 (SIGSEGV)."),
        (end(0, "timeout"), "The task ran longer than its walltime of 60 s. Ask for more with walltime=."),
        (end(0, "memory"), "The task used more memory than it asked for. Ask for more with memory=."),
    ],
)
def test_an_end_is_told_in_a_sentence(record: Record, sentence: str | None) -> None:
    assert explain(record, 60) == sentence


def test_a_timeout_without_a_walltime_of_its_own_blames_the_array_tasks() -> None:
    assert explain(end(0, "timeout"), None) == (
        "The task used up its array task's walltime. Ask for more with walltime=."
    )


@pytest.mark.parametrize(
    ("observation", "sentence"),
    [
        (None, "The task's worker vanished: no scheduler answer knows it any more."),
        (an_end(Cause.MEMORY, raw="OUT_OF_MEMORY"), "The task was killed for its memory (OUT_OF_MEMORY)."),
        (an_end(Cause.FAILED, raw="FAILED", signal=9), "ended by signal 9 (SIGKILL) (FAILED). Often that is memory"),
        (an_end(Cause.FAILED, raw="FAILED", exit_code=53), "ended by exit code 53 (FAILED)."),
        (an_end(Cause.NODE_FAIL, raw="NODE_FAIL"), "The task's worker is gone (NODE_FAIL)."),
        (an_end(Cause.CANCELLED, raw="CANCELLED by 0"), "was cancelled outside hpcflow (CANCELLED by 0)."),
    ],
)
def test_a_death_is_told_in_a_sentence(observation: Observation | None, sentence: str) -> None:
    assert sentence in explain_death(observation)
