"""Whose fault the end of an attempt is, what it costs, and what the next one asks for."""

from __future__ import annotations

from typing import Any

import pytest

from hpcflow.core.blame import judge, judge_death, likeness, next_resources, sentence_of
from hpcflow.core.model import Cause, JobId, Observation, Partition, Phase, Resources, Retries

Record = dict[str, Any]  # Any: JSON

BATCH = Partition(name="batch", max_walltime_s=7200, memory_mib_per_node=3000)


def end(st: str, **more: Any) -> Record:  # Any: JSON
    return {"ev": "end", "i": 0, "n": 1, "st": st, **more}


def an_end(cause: Cause, **more: Any) -> Observation:  # Any: fields
    return Observation(token="t", job_id=JobId("7"), index=0, phase=Phase.ENDED, cause=cause, **more)


@pytest.mark.parametrize(
    ("cause", "first", "losses", "charged"),
    [
        (Cause.NODE_FAIL, True, 0, False),
        (Cause.NODE_FAIL, True, 2, False),
        (Cause.NODE_FAIL, True, 3, True),
        (Cause.PREEMPTED, True, 9, False),
        (Cause.CANCELLED, True, 0, False),
        (Cause.TIMEOUT, True, 0, True),
        (Cause.TIMEOUT, False, 0, False),
        (Cause.DEADLINE, False, 0, True),
        (Cause.MEMORY, False, 0, True),
        (Cause.FAILED, False, 0, True),
        (Cause.DONE, False, 0, True),
    ],
)
def test_a_death_is_charged_by_its_cause(cause: Cause, first: bool, losses: int, charged: bool) -> None:
    assert judge_death(an_end(cause), first=first, losses=losses).charged is charged


def test_a_worker_that_could_not_write_costs_nothing() -> None:
    assert not judge_death(an_end(Cause.FAILED, exit_code=75), first=True, losses=0).charged


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        (end("error", exc="ValueError", msg="no 2"), "ValueError: no 2"),
        (end("error", exc="KeyError", msg=""), "KeyError"),
        (end("exit", code=3), "The task's process ended with exit code 3 before the function returned."),
        (end("exit", code=75), "The task could not report: the function closed descriptors that were not its own."),
        (end("signal", sig=11), "The task's process was killed by signal 11 (SIGSEGV)."),
        (end("timeout"), "The task ran longer than its walltime of 1 min."),
        (
            end("memory"),
            "The task used up the memory that it asked for.",
        ),
        (
            end("memory", mem=512),
            "The task used up the memory that it asked for: it had 512 MiB at the last look.",
        ),
    ],
)
def test_an_end_is_told_in_a_sentence(record: Record, sentence: str) -> None:
    verdict = judge(record, 60)
    assert verdict is not None
    assert verdict.sentence == sentence


def test_who_ran_out_of_memory_is_told_what_was_asked_and_what_was_used() -> None:
    verdict = judge(end("memory", mem=1100), None, 1000)
    assert verdict is not None
    assert verdict.sentence == (
        "The task used up the 1000 MiB of memory that it asked for: it had 1.1 GiB at the last look."
    )
    within = judge(end("memory", mem=88), None, 96)
    assert within is not None
    assert within.sentence == (
        "The task used up the 96 MiB of memory that it asked for: it had 88 MiB at the last look, and its worker "
        "the rest."
    )
    killed = judge_death(an_end(Cause.MEMORY, raw="OUT_OF_MEMORY"), first=True, losses=0, asked_mib=2048)
    assert killed.sentence == ("The task was killed for its memory (OUT_OF_MEMORY): it had asked for 2 GiB.")


def test_what_is_kept_of_an_end_tells_the_same_later() -> None:
    assert sentence_of(end("ok")) is None
    assert sentence_of(end("timeout", limit=90)) == ("The task ran longer than its walltime of 1 min 30 s.")
    assert sentence_of(end("memory", mem=1100, asked=1000)) == getattr(
        judge(end("memory", mem=1100), None, 1000), "sentence", None
    )
    assert sentence_of({"st": "killed", "raw": "NODE_FAIL", "said": "The task's node failed."}) == (
        "The task's node failed."
    )
    assert sentence_of({"st": "killed", "raw": ""}) == "Killed with its worker (no reason given)."


def test_a_result_is_nobodys_fault() -> None:
    assert judge(end("ok"), 60) is None


def test_a_timeout_without_a_walltime_of_its_own_blames_the_array_tasks() -> None:
    verdict = judge(end("timeout"), None)
    assert verdict is not None
    assert verdict.sentence == "The task used up its array task's walltime."


@pytest.mark.parametrize(
    ("observation", "sentence"),
    [
        (None, "The task's worker vanished: no scheduler answer knows it any more."),
        (an_end(Cause.MEMORY, raw="OUT_OF_MEMORY"), "The task was killed for its memory (OUT_OF_MEMORY)."),
        (an_end(Cause.FAILED, raw="FAILED", signal=9), "ended by signal 9 (SIGKILL) (FAILED). Often that is memory"),
        (an_end(Cause.FAILED, raw="FAILED", exit_code=53), "ended by exit code 53 (FAILED)."),
        (an_end(Cause.FAILED, raw="FAILED", host="node3"), "The task's worker is gone on node3 (FAILED)."),
        (an_end(Cause.NODE_FAIL, raw="NODE_FAIL", host="node5"), "The task's node failed on node5 (NODE_FAIL)."),
        (an_end(Cause.DEADLINE, raw="DEADLINE"), "The deadline of the task's job went by (DEADLINE)."),
    ],
)
def test_a_death_is_told_in_a_sentence(observation: Observation | None, sentence: str) -> None:
    assert sentence in judge_death(observation, first=True, losses=0).sentence


def after(
    verdict: Record | Observation, resources: Resources, retries: Retries, charged: int = 1
) -> Resources | str | None:
    """What follows the end of an attempt in the partition `batch`."""
    judged = judge(verdict, None) if isinstance(verdict, dict) else judge_death(verdict, first=True, losses=0)
    assert judged is not None
    return next_resources(resources, judged, retries, charged=charged, partition=BATCH, worker_walltime_s=3600)


def test_without_retries_nothing_is_tried_again() -> None:
    assert after(end("exit", code=3), Resources(), Retries()) == ""


def test_an_exit_is_tried_again_as_it_was_until_the_attempts_are_used_up() -> None:
    assert after(end("exit", code=3), Resources(cpus=2), Retries(times=2), charged=2) == Resources(cpus=2)
    assert after(end("exit", code=3), Resources(), Retries(times=2), charged=3) == "Tried 3 times."


def test_an_exception_is_tried_again_only_when_its_class_or_a_base_of_it_is_named() -> None:
    raised = end("error", exc="FileNotFoundError", msg="x", kinds=["FileNotFoundError", "OSError", "Exception"])
    assert after(raised, Resources(), Retries(times=2)) == ""
    assert after(raised, Resources(), Retries(times=2, exceptions=("ValueError",))) == ""
    assert after(raised, Resources(), Retries(times=2, exceptions=("OSError",))) == Resources()
    assert after(raised, Resources(), Retries(times=2, exceptions=("*",))) == Resources()


@pytest.mark.parametrize(
    "death", [end("memory"), end("signal", sig=9), an_end(Cause.MEMORY), an_end(Cause.FAILED, signal=9)]
)
def test_after_a_death_by_memory_the_next_attempt_asks_for_twice_as_much(death: Record | Observation) -> None:
    assert after(death, Resources(memory_mib=1000), Retries(times=1)) == Resources(memory_mib=2000)
    assert after(death, Resources(memory_mib=1000), Retries(times=1, memory=1.5)) == Resources(memory_mib=1500)
    assert after(death, Resources(memory_mib=2000), Retries(times=1)) == Resources(memory_mib=3000)


def test_a_task_that_had_all_the_memory_of_a_node_is_not_tried_again() -> None:
    assert after(end("memory"), Resources(memory_mib=3000), Retries(times=5)) == (
        "Its partition 'batch' has no more than 2.9 GiB on a node, so it is not tried again."
    )


def test_memory_that_nobody_named_cannot_be_doubled() -> None:
    assert after(end("memory"), Resources(), Retries(times=1)) == Resources()


def test_after_a_timeout_the_next_attempt_asks_for_twice_as_long() -> None:
    assert after(end("timeout"), Resources(walltime_s=600), Retries(times=1)) == Resources(walltime_s=1200)
    # Without a walltime of its own it had its worker's, 3600 s.
    assert after(end("timeout"), Resources(), Retries(times=1)) == Resources(walltime_s=7200)
    assert after(an_end(Cause.TIMEOUT), Resources(walltime_s=7200), Retries(times=1)) == (
        "Its partition 'batch' gives no more than 2 h, so it is not tried again."
    )


def test_errors_are_alike_when_only_numbers_differ() -> None:
    first, second = end("error", exc="E", msg="row 7 at 0x7f3a"), end("error", exc="E", msg="row 12 at 0x81bc")
    assert likeness(first) == likeness(second) == "E: row # at #"
    assert likeness(end("error", exc="F", msg="row 7")) != likeness(first)
    assert likeness(end("signal", sig=11)) != likeness(end("signal", sig=6))
