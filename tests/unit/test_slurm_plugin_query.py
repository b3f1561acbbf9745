"""Asking Slurm: two commands for any number of arrays, and answers that are values or unknown, never wrong values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hpcflow.core.model import Cause, Observation, Observations, Phase, Resources, Stuck
from hpcflow.core.plugin import Reply
from tests.unit.scheduler_replies import INTENT_AT, PLUGIN, a_reply, an_array, transcript

TOKEN: Final = "relax-01JD"
SILENT: Final = a_reply("")


def queue(*rows: str) -> Reply:
    """Return squeue's answer from rows "id|state|reason", the rest filled in."""
    return a_reply("".join(f"{row}|1795446266|1795446366|node1|{TOKEN}\n" for row in rows))


def books(*rows: str) -> Reply:
    """Return sacct's answer from rows "id|state|exit code", the rest filled in."""
    return a_reply("".join(f"{row}|1795446266|1795446366|100|node1|{TOKEN}\n" for row in rows))


def observe(squeue: Reply, sacct: Reply | None = None, *, width: int = 10) -> Observations:
    replies = [squeue] if sacct is None else [squeue, sacct]
    return PLUGIN.parse_query([an_array(width=width)], replies)


def phases(seen: Observations) -> dict[int, Phase]:
    return {row.index: row.phase for row in seen.rows}


def causes(seen: Observations) -> dict[int, Cause | None]:
    return {row.index: row.cause for row in seen.rows}


# ---- the question


def test_a_thousand_arrays_cost_two_commands() -> None:
    commands = PLUGIN.query([an_array(f"relax-{i:04}") for i in range(1000)], accounting=True)

    assert [command.argv[0] for command in commands] == ["squeue", "sh"]
    assert commands[1].argv[2].count("$(sacct ") == 2
    assert all("relax-0000,relax-0001" in command.argv[-1] for command in commands)
    assert all(max(map(len, command.argv)) < 128 * 1024 for command in commands)


def test_more_names_than_one_argument_holds_are_not_asked_for_by_name() -> None:
    arrays = [an_array(f"relax-{i:060}") for i in range(2000)]

    commands = PLUGIN.query(arrays, accounting=True)

    assert not any(word.startswith("--name") for command in commands for word in command.argv)
    others = a_reply("9_0|RUNNING|None|1795446266|1795446366|node1|mine|with|bars\n")
    assert PLUGIN.parse_query(arrays, [others, SILENT]).complete == {array.token for array in arrays}


def test_without_accounting_the_queue_alone_is_asked() -> None:
    (command,) = PLUGIN.query([an_array()], accounting=False)

    assert command.argv == (
        "squeue",
        "--me",
        "--states=all",
        "--noheader",
        "--array",
        "--format=%i|%T|%r|%S|%e|%N|%j",
        "--name=relax-01JD",
    )


def test_accounting_is_searched_from_ten_minutes_before_the_first_intent_in_utc() -> None:
    later = INTENT_AT + timedelta(hours=3)
    east = INTENT_AT.astimezone(timezone(timedelta(hours=9)))

    for earliest in (INTENT_AT, east):
        arrays = [replace(an_array(), intent_at=at) for at in (later, earliest)]
        command = PLUGIN.query(arrays, accounting=True)[1]
        assert command.argv[command.argv.index("-S") + 1] == "2026-11-23T14:38:30"
        assert command.environment["TZ"] == "UTC"
        assert command.environment["SLURM_TIME_FORMAT"] == "%s"


# ---- states


@pytest.mark.parametrize(
    ("state", "code", "cause", "exit_code", "signal"),
    [
        ("COMPLETED", "0:0", Cause.DONE, 0, None),
        ("FAILED", "3:0", Cause.FAILED, 3, None),
        ("FAILED", "0:9", Cause.FAILED, None, 9),
        ("FAILED", "0:53", Cause.FAILED, None, 53),
        ("CANCELLED", "0:0", Cause.CANCELLED, None, None),
        ("CANCELLED by 1001", "0:15", Cause.CANCELLED, None, 15),
        ("TIMEOUT", "0:0", Cause.TIMEOUT, None, None),
        ("DEADLINE", "0:0", Cause.DEADLINE, None, None),
        ("DEADLINE", "1:0", Cause.DEADLINE, None, None),
        ("OUT_OF_MEMORY", "0:125", Cause.MEMORY, None, None),
        ("NODE_FAIL", "0:0", Cause.NODE_FAIL, None, None),
        ("BOOT_FAIL", "0:0", Cause.NODE_FAIL, None, None),
        ("PREEMPTED", "0:0", Cause.PREEMPTED, None, None),
    ],
)
def test_accounting_says_why_an_array_task_ended(
    state: str, code: str, cause: Cause, exit_code: int | None, signal: int | None
) -> None:
    (row,) = observe(SILENT, books(f"8123_4|{state}|{code}")).rows

    assert row == Observation(
        token=TOKEN,
        job_id=row.job_id,
        index=4,
        phase=Phase.ENDED,
        cause=cause,
        raw=state if code == "0:0" else f"{state} {code}",
        by="uid 1001" if state == "CANCELLED by 1001" else None,
        exit_code=exit_code,
        signal=signal,
        host="node1",
        started_at=datetime(2026, 11, 23, 15, 4, 26, tzinfo=UTC),
        ended_at=datetime(2026, 11, 23, 15, 6, 6, tzinfo=UTC),
        core_seconds=100.0,
    )
    assert row.job_id == "8123"


@pytest.mark.parametrize(
    ("state", "phase"),
    [
        ("PENDING", Phase.PENDING),
        ("CONFIGURING", Phase.PENDING),
        ("REQUEUED", Phase.PENDING),
        ("REQUEUE_HOLD", Phase.PENDING),
        ("SPECIAL_EXIT", Phase.PENDING),
        ("RUNNING", Phase.RUNNING),
        ("COMPLETING", Phase.RUNNING),
        ("SUSPENDED", Phase.RUNNING),
        ("STOPPED", Phase.RUNNING),
        ("STAGE_OUT", Phase.RUNNING),
    ],
)
def test_the_queue_says_what_lives(state: str, phase: Phase) -> None:
    seen = observe(queue(f"8123_0|{state}|None"), SILENT)

    assert phases(seen) == {0: phase}
    assert seen.rows[0].suspended is (state in {"SUSPENDED", "STOPPED"})
    assert seen.problems == ()


def test_a_state_that_nobody_knows_is_alive_and_said() -> None:
    seen = observe(queue("8123_0|HIBERNATING|None"), books("8123_1|TELEPORTED by 7|0:0"))

    assert phases(seen) == {0: Phase.RUNNING, 1: Phase.RUNNING}
    assert [problem for problem in seen.problems if "HIBERNATING of 8123_0" in problem]
    assert [problem for problem in seen.problems if "TELEPORTED of 8123_1" in problem]


def test_a_pending_row_has_no_times_but_its_reason() -> None:
    (row,) = observe(queue("8123_0|PENDING|PartitionTimeLimit"), SILENT).rows

    assert (row.raw, row.started_at, row.ended_at, row.cause) == ("PENDING PartitionTimeLimit", None, None, None)


def test_times_of_a_slurm_that_ignores_the_format_are_read_in_utc() -> None:
    row = f"8123_0|COMPLETED|0:0|2026-11-23T15:04:26|2026-11-23T15:06:06|100|None assigned|{TOKEN}\n"

    (seen,) = observe(SILENT, a_reply(row)).rows

    assert seen.started_at == datetime(2026, 11, 23, 15, 4, 26, tzinfo=UTC)
    assert seen.host is None


# ---- who, and why not


@pytest.mark.parametrize(
    ("state", "by"),
    [
        ("CANCELLED by 1001", "uid 1001"),
        ("CANCELLED by 0", "root"),
        ("CANCELLED", None),
        ("CANCELLED by", None),
        ("CANCELLED by 4294967294", None),
        ("COMPLETED", None),
    ],
)
def test_accounting_says_who_cancelled(state: str, by: str | None) -> None:
    (row,) = observe(SILENT, books(f"8123_0|{state}|0:0")).rows

    assert row.by == by


HELD_BY: Final = {
    "PENDING|JobHeldUser": "you",
    "PENDING|JobHeldAdmin": "an administrator",
    "PENDING|JobHoldMaxRequeue": None,
    "PENDING|job requeued in held state": None,
    "PENDING|launch failed requeued held": None,
    "SPECIAL_EXIT|job requeued in special exit state": None,
    "REQUEUE_HOLD|None": None,
    "RESV_DEL_HOLD|None": None,
}


@pytest.mark.parametrize("what", HELD_BY)
def test_what_is_held_is_held_by_somebody_or_by_slurm(what: str) -> None:
    (row,) = observe(queue(f"8123_0|{what}"), SILENT).rows

    assert (row.phase, row.stuck, row.by) == (Phase.PENDING, Stuck.HELD, HELD_BY[what])
    assert row.raw == what.replace("|", " ").removesuffix(" None")


@pytest.mark.parametrize(
    "reason",
    [
        *("PartitionTimeLimit", "PartitionNodeLimit", "PartitionConfig", "BadConstraints", "DependencyNeverSatisfied"),
        *("InvalidAccount", "InvalidQOS", "AccountNotAllowed", "QOSNotAllowed", "MaxMemPerLimit", "DeadLine"),
        *("ReservationDeleted", "QOSMaxWallDurationPerJobLimit", "AssocMaxWallDurationPerJobLimit"),
        *("AssocMaxCpuPerJobLimit", "QOSMaxNodePerJobLimit", "QOSMaxGRESPerJob", "AssocMaxMemPerNode"),
        *("QOSMaxCpuMinutesPerJobLimit", "AssocMaxEnergyMinutesPerJob", "QOSMinCpuNotSatisfied", "QOSMinMemory"),
    ],
)
def test_what_can_never_start_as_it_was_asked_for(reason: str) -> None:
    (row,) = observe(queue(f"8123_0|PENDING|{reason}"), SILENT).rows

    assert (row.stuck, row.by, row.raw) == (Stuck.NEVER, None, f"PENDING {reason}")


@pytest.mark.parametrize(
    "reason",
    [
        *("None", "Resources", "Priority", "Dependency", "BeginTime", "JobArrayTaskLimit", "Licenses", "Cleaning"),
        *("PartitionDown", "PartitionInactive", "ReqNodeNotAvail, UnavailableNodes:node[3-4]", "Reservation"),
        "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions",
        *("AssocMaxJobsLimit", "AssocGrpCpuLimit", "AssocGrpMemRunMinutes", "QOSGrpNodeLimit", "QOSMaxCpuPerUserLimit"),
        *("QOSMaxGRESPerUser", "MaxCpuPerAccount", "QOSMaxJobsPerUserLimit", "AssocMaxSubmitJobLimit", "QOSJobLimit"),
        *("Constraints", "NodeDown", "BurstBufferStageIn", "withheld", "QOSUsageThreshold"),
    ],
)
def test_what_waits_for_its_turn_is_not_stuck(reason: str) -> None:
    (row,) = observe(queue(f"8123_0|PENDING|{reason}"), SILENT).rows

    assert (row.phase, row.stuck, row.by) == (Phase.PENDING, None, None)


def test_what_runs_or_has_ended_is_not_stuck_whatever_its_last_reason() -> None:
    seen = observe(
        queue("8123_0|RUNNING|JobHeldUser", "8123_1|COMPLETED|PartitionTimeLimit", "8123_2|COMPLETING|BadConstraints"),
        SILENT,
    )

    assert [(row.stuck, row.by) for row in seen.rows] == [(None, None)] * 3


# ---- memory without cgroups


def used(*lines: str, then: str = "8123_0|FAILED|0:9") -> Reply:
    """Return sacct's answer with the lines about memory that come before its rows."""
    return replace(books(then), stdout="".join(f"used|{line}\n" for line in lines).encode() + books(then).stdout)


@pytest.mark.parametrize(
    ("asked", "largest", "resources", "is_memory"),
    [
        ("96M", "317024K", Resources(), True),
        ("96M", "98304K", Resources(), False),
        ("96M", "98305K", Resources(), True),
        ("96M", "", Resources(), False),
        ("0", "317024K", Resources(), False),
        ("", "317024K", Resources(), False),
        (".", "317024K", Resources(), False),
        ("96M", "..K", Resources(), False),
        # Of the whole job since 21.08, of a node or of a core before.
        ("8G", "4.50G", Resources(nodes=2, ntasks=2), True),
        ("8Gn", "4.50G", Resources(nodes=2, ntasks=2), False),
        ("1Gc", "4.50G", Resources(cpus=4), True),
        ("2Gc", "4.50G", Resources(cpus=4), False),
    ],
)
def test_a_sigkill_is_memory_only_where_more_was_used_than_asked_for(
    asked: str, largest: str, resources: Resources, is_memory: bool
) -> None:
    answer = used(f"8123_0||{asked}", f"8123_0.batch|{largest}|", "8123_0.0|12K|")

    seen = PLUGIN.parse_query([an_array(resources=resources)], [SILENT, answer])

    (row,) = seen.rows
    assert (row.cause, row.signal) == (Cause.MEMORY if is_memory else Cause.FAILED, 9)
    assert ("MaxRSS" in row.raw) is is_memory
    assert seen.complete == {TOKEN}
    assert seen.problems == ()


def test_a_sigkill_is_unknown_where_lines_about_memory_may_be_lost() -> None:
    answer = used("8123_0||96M", "8123_0.batch|317024K|")
    for damage in (b"31\xff", b"317\xff24K|\n", b"much|\n", b"317024K|9"):
        damaged = replace(answer, stdout=answer.stdout.replace(b"317024K|\n", damage))

        assert observe(queue("8123_0|FAILED|JobLaunchFailure"), damaged).rows == ()
        assert observe(SILENT, damaged).rows == ()
        assert observe(SILENT, damaged).complete == frozenset()


def test_memory_lines_speak_only_of_their_own_array_task_and_of_sigkill() -> None:
    lines = ("8123_0||96M", "8123_0.batch|317024K|")

    for then in ("8123_1|FAILED|0:9", "8124_0|FAILED|0:9", "8123_0|FAILED|0:11", "8123_0|FAILED|9:0"):
        assert causes(observe(SILENT, used(*lines, then=then))) == {int(then[5]): Cause.FAILED}


# ---- merging


def test_a_live_row_wins_over_an_older_end() -> None:
    seen = observe(
        queue("8123_0|PENDING|BeginTime", "8123_1|RUNNING|None"),
        books("8123_0|REQUEUED|0:0", "8123_1|NODE_FAIL|0:0"),
    )

    assert phases(seen) == {0: Phase.PENDING, 1: Phase.RUNNING}


def test_accounting_tells_more_of_what_the_queue_still_remembers() -> None:
    (row,) = observe(queue("8123_0|FAILED|NonZeroExitCode"), books("8123_0|FAILED|3:0")).rows

    assert (row.cause, row.exit_code, row.raw) == (Cause.FAILED, 3, "FAILED 3:0")


def test_the_queues_word_holds_until_accounting_has_it() -> None:
    seen = observe(queue("8123_0|COMPLETED|None", "8123_1|OUT_OF_MEMORY|OutOfMemory"), books("8123_[0-1]|PENDING|0:0"))

    assert causes(seen) == {0: Cause.DONE, 1: Cause.MEMORY}


def test_a_failure_is_unknown_until_accounting_knows_how() -> None:
    squeue = queue("8123_0|FAILED|JobLaunchFailure", "8123_1|RUNNING|None")
    exited = queue("8123_0|FAILED|NonZeroExitCode", "8123_1|RUNNING|None")
    refused = a_reply("", "sacct: error: Connection refused", 1)

    early = observe(squeue, books("8123_0|RUNNING|0:0"))
    trimmed = observe(queue("8123|CANCELLED|None", "8123_0|FAILED|JobLaunchFailure"), SILENT, width=2)
    later = observe(squeue, books("8123_0|FAILED|0:9"))

    assert causes(early) == {1: None}
    assert early.complete == frozenset()
    assert causes(trimmed) == {1: Cause.CANCELLED}
    assert causes(later) == {0: Cause.FAILED, 1: None}
    assert later.complete == {TOKEN}
    # Any signal may have been Slurm's own, for memory: while accounting does not answer that stays open.
    assert causes(observe(squeue, refused)) == {1: None}
    assert causes(observe(exited, refused)) == {0: Cause.FAILED, 1: None}


def test_who_cancelled_is_awaited_where_accounting_will_say_it() -> None:
    never_ran = a_reply(f"34_0|CANCELLED|BeginTime|1795456800|1795456800||{TOKEN}\n")

    early = observe(queue("24_0|CANCELLED|None"), SILENT)
    pending = observe(never_ran, books("34_[0-3]|PENDING|0:0"))
    later = observe(queue("24_0|CANCELLED|None"), books("24_0|CANCELLED by 0|0:0"))
    down = observe(queue("24_0|CANCELLED|None"), a_reply("", "sacct: error: Connection refused", 1))

    assert (early.rows, early.complete) == ((), frozenset())
    assert pending.complete == frozenset()
    assert [(row.cause, row.by) for row in later.rows] == [(Cause.CANCELLED, "root")]
    assert [(row.cause, row.by) for row in down.rows] == [(Cause.CANCELLED, None)]
    # It never ran, and accounting does not know it: it never will.
    assert causes(observe(never_ran, SILENT)) == {0: Cause.CANCELLED}


def test_what_an_array_task_cost_is_awaited_while_the_queue_shows_its_end() -> None:
    # As on a busy machine, where slurmdbd was seconds behind: all had left the queue's living, and none had a charge.
    ended = queue("8123_0|COMPLETED|None", "8123_1|COMPLETED|None")

    early = observe(ended, books("8123_0|COMPLETED|0:0", "8123_1|RUNNING|0:0"))
    unheard = observe(ended, SILENT)
    later = observe(ended, books("8123_0|COMPLETED|0:0", "8123_1|COMPLETED|0:0"))

    assert causes(early) == causes(unheard) == causes(later) == {0: Cause.DONE, 1: Cause.DONE}
    assert early.complete == unheard.complete == frozenset()
    assert later.complete == {TOKEN}
    assert all(row.core_seconds is not None for row in later.rows)
    # Nobody waits for ever: once the queue has forgotten them, accounting will not hear of them either.
    assert observe(SILENT, SILENT).complete == {TOKEN}


def test_pending_indices_in_brackets_are_expanded() -> None:
    seen = observe(SILENT, books("3477_0|RUNNING|0:0", "3477_[2-3,8-9%2]|PENDING|0:0"))

    assert phases(seen) == {
        0: Phase.RUNNING,
        2: Phase.PENDING,
        3: Phase.PENDING,
        8: Phase.PENDING,
        9: Phase.PENDING,
    }


def test_a_row_of_its_own_says_more_than_brackets() -> None:
    for rows in (
        ("3477_[3,9%2]|CANCELLED by 1001|0:0", "3477_3|COMPLETED|0:0"),
        ("3477_3|COMPLETED|0:0", "3477_[3,9]|CANCELLED|0:0"),
    ):
        assert causes(observe(SILENT, books(*rows))) == {3: Cause.DONE, 9: Cause.CANCELLED}


def test_the_bare_id_of_a_cancelled_array_is_all_that_never_started() -> None:
    seen = observe(queue("6|CANCELLED|JobArrayTaskLimit", "6_2|RUNNING|None"), books("6_0|COMPLETED|0:0"), width=4)

    assert causes(seen) == {0: Cause.DONE, 1: Cause.CANCELLED, 2: None, 3: Cause.CANCELLED}
    assert "6" not in seen.problems
    assert seen.complete == {TOKEN}


def test_accounting_may_have_a_row_with_the_bare_id_too() -> None:
    # As sacct (22.05) booked an array of eight of which four were cancelled while they were pending.
    rows = [f"2016_{i}|COMPLETED|0:0|1795461650|1795461651|4|node4|{TOKEN}\n" for i in range(4)]
    answer = a_reply("".join([*rows, f"2016|CANCELLED by 0|0:0|1795461651|1795461651|0|None assigned|{TOKEN}\n"]))

    seen = observe(SILENT, answer, width=8)

    assert causes(seen) == {**dict.fromkeys(range(4), Cause.DONE), **dict.fromkeys(range(4, 8), Cause.CANCELLED)}
    assert {row.by for row in seen.rows} == {None, "root"}
    assert seen.complete == {TOKEN}
    assert seen.problems == ()
    assert causes(observe(queue("2016_5|RUNNING|None"), answer, width=8))[5] is None
    assert phases(observe(a_reply("", "down", 1), answer, width=8)).keys() == {0, 1, 2, 3}


@pytest.mark.parametrize("whose", ["squeue", "sacct"])
def test_a_row_that_can_not_be_read_makes_its_own_array_unknown_and_no_other(whose: str) -> None:
    arrays = [an_array("relax-1"), an_array("relax-2")]
    squeue = a_reply("17_0|RUNNING|None|1795446266|1795446366|node1|relax-1\n")
    sacct = a_reply("18_0|FAILED|0:9|1795446266|1795446366|100|node1|relax-2\n")
    odd = {
        "squeue": b"17|PENDING|None|N/A|N/A||relax-2\n",
        "sacct": b"18|FAILED|1:0|1795446266|1795446366|0|None assigned|relax-2\n",
    }
    if whose == "squeue":
        squeue = replace(squeue, stdout=squeue.stdout + odd[whose])
    else:
        sacct = replace(sacct, stdout=sacct.stdout + odd[whose])

    seen = PLUGIN.parse_query(arrays, [squeue, sacct])

    assert seen.complete == {"relax-1"}
    assert seen.problems == (f"{whose} printed a row about relax-2 that can't be read.",)
    assert ("relax-1", Phase.RUNNING) in [(row.token, row.phase) for row in seen.rows]


def test_the_bare_id_says_nothing_about_the_others_while_accounting_is_silent() -> None:
    bare = queue("6|CANCELLED|JobArrayTaskLimit")

    assert observe(bare, a_reply("", "sacct: error: Connection refused", 1)).rows == ()
    assert observe(bare).rows == ()


def test_two_arrays_under_one_name_are_both_seen() -> None:
    seen = observe(queue("8123_0|RUNNING|None", "8124_0|PENDING|Dependency"), SILENT)

    assert [(row.job_id, row.phase) for row in seen.rows] == [("8123", Phase.RUNNING), ("8124", Phase.PENDING)]


def test_what_may_have_been_requeued_is_unknown_without_the_queue() -> None:
    down = a_reply("", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)", 1)

    seen = observe(down, books("8123_0|NODE_FAIL|0:0", "8123_1|PREEMPTED|0:0", "8123_2|FAILED|3:0"))

    assert causes(seen) == {2: Cause.FAILED}
    assert seen.complete == frozenset()


def test_the_queue_alone_will_do_where_there_is_no_accounting() -> None:
    seen = observe(queue("8123_0|FAILED|NonZeroExitCode", "8123_1|RUNNING|None"))

    assert causes(seen) == {0: Cause.FAILED, 1: None}
    assert seen.complete == {TOKEN}


# ---- whole and unknown


def test_absence_in_two_whole_answers_is_a_fact() -> None:
    assert observe(SILENT, SILENT) == Observations(rows=(), complete=frozenset({TOKEN}))


@pytest.mark.parametrize(
    "broken",
    [
        a_reply("", "the connection was cut", None),
        a_reply("", "Unable to contact slurm controller", 1),
        a_reply("", "sh: 1: squeue: not found", 127),
        a_reply("", "squeue: error: Invalid user: ada", 0),
        a_reply("slurm_load_jobs\n"),
        a_reply("8123_0|RUNNING"),
        a_reply("8123_0|RUNNING|None\n"),
        a_reply(f"8123_0|RUNNING|None|1795446266|1795446366|node1|{TOKEN}"),
        a_reply(f"8123_0|RUN\x00ING|None|1795446266|1795446366|node1|{TOKEN}\n"),
        a_reply(f"8123_0|RUNNING|None|soon|1795446366|node1|{TOKEN}\n"),
        a_reply(f"8123_77|RUNNING|None|1795446266|1795446366|node1|{TOKEN}\n"),
        a_reply(f"8123|RUNNING|None|1795446266|1795446366|node1|{TOKEN}\n"),
        a_reply(f"8123_[0-7...]|RUNNING|None|1795446266|1795446366|node1|{TOKEN}\n"),
        a_reply("8123_0|RUNNING|None|1795446266|1795446366|node1|relax-01JX\n"),
        a_reply(b"8123_0|RUNNING|None|1795446266|1795446366|no\xffe1|relax-01JD\n"),
    ],
)
@pytest.mark.parametrize("whose", ["squeue", "sacct"])
def test_a_broken_answer_makes_absence_unknown(broken: Reply, whose: str) -> None:
    seen = observe(broken, SILENT) if whose == "squeue" else observe(SILENT, broken)

    assert seen.complete == frozenset()
    assert seen.rows == ()
    assert seen.problems
    assert all(problem.endswith(".") for problem in seen.problems)


def test_the_rows_of_a_broken_answer_that_can_be_read_still_count() -> None:
    cut = queue("8123_0|RUNNING|None", "8123_1|RUNNING|None").stdout[:-3]

    seen = observe(Reply(0, cut), SILENT)

    assert phases(seen) == {0: Phase.RUNNING}
    assert seen.complete == frozenset()


# ---- several clusters


def test_arrays_of_another_cluster_are_asked_for_there() -> None:
    there = [an_array("a-1", extra=("--clusters=joltik",)), an_array("a-2", extra=("--nice=1", "-Mjoltik"))]

    squeue, sacct = PLUGIN.query(there, accounting=True)

    assert squeue.argv[:2] == ("squeue", "--clusters=joltik")
    assert sacct.argv[4] == "--clusters=joltik"
    assert PLUGIN.parse_query(there, [SILENT, SILENT]).complete == {"a-1", "a-2"}


def test_absence_on_one_cluster_says_nothing_of_another() -> None:
    arrays = [an_array("here"), an_array("there", extra=("--clusters=joltik",))]

    assert not any("clusters" in word for command in PLUGIN.query(arrays, accounting=True) for word in command.argv)
    assert PLUGIN.parse_query(arrays, [SILENT, SILENT]).complete == {"here"}


# ---- what a real Slurm 22.05.8 said, whole and mutated

ARRAYS: Final = [
    an_array("eos-01JDA", width=6),
    an_array("eos-01JDB", width=10),
    an_array("eos-01JDC", width=4),
    an_array("eos-01JDD", width=2),
    an_array("eos-01JDE", width=4),
    *(an_array(f"eos-01JE{letter}", width=width) for letter, width in {"A": 4, "B": 3, "G": 3, "H": 1, "I": 1}.items()),
    *(an_array(f"eos-01JE{letter}", width=2) for letter in "CDEF"),
]


def replies(name: str) -> list[Reply]:
    return [entry.reply for entry in transcript(name)]


def told(seen: Observations, token: str) -> list[tuple[int, str, str | None]]:
    return [(row.index, row.phase.value, row.cause and row.cause.value) for row in seen.rows if row.token == token]


def test_an_array_that_was_just_submitted_is_pending_before_accounting_knows_it() -> None:
    seen = PLUGIN.parse_query(ARRAYS, replies("started"))

    assert seen.complete == {array.token for array in ARRAYS}
    assert seen.problems == ()
    assert len(seen.rows) == 26
    assert {row.phase for row in seen.rows} == {Phase.PENDING}


def test_arrays_in_the_middle_of_their_lives() -> None:
    seen = PLUGIN.parse_query(ARRAYS, replies("middle"))

    assert told(seen, "eos-01JDA") == [
        (0, "ended", "done"),
        (1, "ended", "failed"),
        (2, "ended", "failed"),
        (3, "ended", "failed"),
        (4, "ended", "failed"),
        (5, "ended", "done"),
    ]
    assert [(row.exit_code, row.signal) for row in seen.rows if row.token == "eos-01JDA"] == [
        (0, None),
        (3, None),
        (None, 9),
        (None, 11),
        (9, None),  # the script said 137; Slurm books 128 less
        (0, None),
    ]
    # 2 was cancelled alone while it was pending: it is nowhere.
    assert told(seen, "eos-01JDC") == [(0, "pending", None), (1, "pending", None), (3, "pending", None)]
    # 1 was requeued: the queue's word counts, not accounting's REQUEUED with an end.
    assert told(seen, "eos-01JDD") == [(0, "running", None), (1, "pending", None)]


def test_arrays_some_of_which_were_cancelled_while_pending() -> None:
    seen = PLUGIN.parse_query(ARRAYS, replies("later"))

    assert told(seen, "eos-01JDC") == [
        (0, "ended", "cancelled"),
        (1, "ended", "cancelled"),
        (3, "ended", "cancelled"),
    ]
    assert told(seen, "eos-01JDD") == [(0, "ended", "done"), (1, "running", None)]
    assert told(seen, "eos-01JDE") == [
        (0, "ended", "done"),
        (1, "ended", "done"),
        (2, "ended", "cancelled"),
        (3, "ended", "cancelled"),
    ]


def test_array_tasks_that_ran_out_of_walltime() -> None:
    seen = PLUGIN.parse_query(ARRAYS, replies("timeout"))

    assert told(seen, "eos-01JDB")[:2] == [(0, "ended", "timeout"), (1, "ended", "timeout")]


def test_ends_holds_and_hopeless_requests_are_told_apart() -> None:
    seen = PLUGIN.parse_query(ARRAYS, replies("ends"))
    rows = {(row.token[-1], row.index): row for row in seen.rows}

    assert seen.problems == ()
    assert seen.complete == {array.token for array in ARRAYS}
    assert {key: (row.cause, row.signal, row.exit_code) for key, row in rows.items() if key[0] == "A"} == {
        ("A", 0): (Cause.FAILED, 9, None),
        ("A", 1): (Cause.MEMORY, 9, None),
        ("A", 2): (Cause.FAILED, None, 3),
        ("A", 3): (Cause.DONE, None, 0),
    }
    assert rows["A", 1].raw == "FAILED 0:9, MaxRSS 317024K, ReqMem 96M"
    assert rows["A", 1].max_rss_kib == 317024
    assert {key: (row.cause, row.by) for key, row in rows.items() if key[0] in "BG"} == {
        ("B", 0): (Cause.CANCELLED, "uid 1001"),
        ("B", 1): (Cause.CANCELLED, "root"),
        ("B", 2): (None, None),
        # Cancelled while it was pending: accounting has no row, and Slurm does not say by whom.
        ("G", 0): (Cause.CANCELLED, None),
        ("G", 1): (Cause.CANCELLED, None),
        ("G", 2): (Cause.CANCELLED, None),
    }
    assert {key: (row.stuck, row.by) for key, row in rows.items() if row.phase is Phase.PENDING} == {
        ("C", 0): (Stuck.HELD, "you"),
        ("C", 1): (Stuck.HELD, "you"),
        ("D", 0): (Stuck.HELD, "an administrator"),
        ("D", 1): (Stuck.HELD, "an administrator"),
        ("E", 0): (Stuck.HELD, None),
        ("I", 0): (Stuck.HELD, None),
        ("F", 0): (Stuck.NEVER, None),
        ("F", 1): (Stuck.NEVER, None),
        ("H", 0): (None, None),
    }


def test_a_moment_earlier_what_only_accounting_tells_is_unknown() -> None:
    seen = PLUGIN.parse_query(ARRAYS, replies("ends_early"))

    assert told(seen, "eos-01JEA") == [(3, "ended", "done")]
    assert told(seen, "eos-01JEB") == [(2, "running", None)]
    assert {"eos-01JEA", "eos-01JEB"}.isdisjoint(seen.complete)


def test_a_deadline_is_its_own_end() -> None:
    seen = PLUGIN.parse_query(ARRAYS, replies("ends_later"))

    assert told(seen, "eos-01JEH") == [(0, "ended", "deadline")]
    assert told(seen, "eos-01JEB")[2] == (2, "ended", "timeout")


NAMES: Final = ("started", "middle", "later", "timeout", "ends_early", "ends", "ends_later")
TRUTH: Final = {
    (name, row.token, row.index): row for name in NAMES for row in PLUGIN.parse_query(ARRAYS, replies(name)).rows
}


#: What accounting did not know yet at one moment it told at another.
TOLD_LATER: Final = {"ends_early": "ends"}


def agrees(seen: Observations, name: str) -> bool:
    """Return whether every row is one that the whole answer gave, or says less: alive, or an end without details."""
    for row in seen.rows:
        true = TRUTH.get((name, row.token, row.index)) or TRUTH.get((TOLD_LATER.get(name, ""), row.token, row.index))
        if true is None or row.job_id != true.job_id:
            return False
        if row.phase is Phase.ENDED and row.cause is not true.cause:
            return False
        if row.stuck not in (None, true.stuck) or row.by not in (None, true.by):
            return False
        if row.exit_code not in (None, true.exit_code) or row.signal not in (None, true.signal):
            return False
    return True


def absent_as_in_truth(seen: Observations, name: str) -> bool:
    rows = {(name, row.token, row.index) for row in seen.rows}
    return all(key in rows for key in TRUTH if key[0] == name and key[1] in seen.complete)


@pytest.mark.parametrize("which", [0, 1], ids=["squeue", "sacct"])
@pytest.mark.parametrize("name", NAMES)
def test_a_cut_at_any_byte_is_never_a_wrong_value(name: str, which: int) -> None:
    whole = replies(name)
    stdout = whole[which].stdout
    for cut in range(len(stdout)):
        whole[which] = Reply(0, stdout[:cut])

        seen = PLUGIN.parse_query(ARRAYS, whole)

        assert agrees(seen, name), stdout[:cut]
        if not whole[which].stdout.endswith(b"\n") and cut:
            assert seen.complete == frozenset()


def _lines(reply: Reply) -> list[bytes]:
    return reply.stdout.splitlines(keepends=True)


@given(st.sampled_from(NAMES), st.integers(0, 1), st.data())
def test_noise_and_repeated_lines_are_never_a_wrong_value(name: str, which: int, data: st.DataObject) -> None:
    whole = replies(name)
    lines = _lines(whole[which])
    noise = st.one_of(
        st.binary(max_size=60).map(lambda raw: raw + b"\n"),
        st.just(b"Last login: Mon Nov 23 14:48:37 2026 from 10.0.0.1\n"),
        st.sampled_from([b"\n", *lines]),
    )
    for extra in data.draw(st.lists(noise, max_size=4)):
        lines.insert(data.draw(st.integers(0, len(lines))), extra)
    whole[which] = Reply(0, b"".join(lines))

    seen = PLUGIN.parse_query(ARRAYS, whole)

    assert agrees(seen, name)
    assert absent_as_in_truth(seen, name)


@given(st.sampled_from(NAMES), st.integers(0, 1), st.data())
def test_bytes_that_are_no_text_are_never_a_wrong_value(name: str, which: int, data: st.DataObject) -> None:
    whole = replies(name)
    raw = bytearray(whole[which].stdout)
    assume(raw)
    for place in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=5)):
        raw[place] = 0xFF
    whole[which] = Reply(0, bytes(raw))

    seen = PLUGIN.parse_query(ARRAYS, whole)

    assert agrees(seen, name)
    assert seen.complete == frozenset()


@pytest.mark.parametrize("name", NAMES)
def test_dos_line_ends_change_nothing(name: str) -> None:
    dos: Sequence[Reply] = [Reply(0, reply.stdout.replace(b"\n", b"\r\n")) for reply in replies(name)]

    assert PLUGIN.parse_query(ARRAYS, dos) == PLUGIN.parse_query(ARRAYS, replies(name))
