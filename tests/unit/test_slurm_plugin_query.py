"""Asking Slurm: two commands for any number of arrays, and answers that are values or unknown, never wrong values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcflow.core.model import Cause, Observation, Observations, Phase
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

    assert [command.argv[0] for command in commands] == ["squeue", "sacct"]
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
        ("DEADLINE", "0:0", Cause.TIMEOUT, None, None),
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
        ("STAGE_OUT", Phase.RUNNING),
    ],
)
def test_the_queue_says_what_lives(state: str, phase: Phase) -> None:
    seen = observe(queue(f"8123_0|{state}|None"), SILENT)

    assert phases(seen) == {0: phase}
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

    early = observe(squeue, books("8123_0|RUNNING|0:0"))
    trimmed = observe(queue("8123|CANCELLED|None", "8123_0|FAILED|JobLaunchFailure"), SILENT, width=2)
    later = observe(squeue, books("8123_0|FAILED|0:9"))
    without = observe(squeue, a_reply("", "sacct: error: Connection refused", 1))

    assert causes(early) == {1: None}
    assert early.complete == frozenset()
    assert causes(trimmed) == {1: Cause.CANCELLED}
    assert causes(later) == {0: Cause.FAILED, 1: None}
    assert later.complete == {TOKEN}
    assert causes(without) == {0: Cause.FAILED, 1: None}


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


# ---- what a real Slurm 22.05.8 said, whole and mutated

ARRAYS: Final = [
    an_array("eos-01JDA", width=6),
    an_array("eos-01JDB", width=10),
    an_array("eos-01JDC", width=4),
    an_array("eos-01JDD", width=2),
    an_array("eos-01JDE", width=4),
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


TRUTH: Final = {
    (name, row.token, row.index): row
    for name in ("middle", "later", "timeout")
    for row in PLUGIN.parse_query(ARRAYS, replies(name)).rows
}


def agrees(seen: Observations, name: str) -> bool:
    """Return whether every row is one that the whole answer gave, or says less: alive, or an end without details."""
    for row in seen.rows:
        true = TRUTH.get((name, row.token, row.index))
        if true is None or row.job_id != true.job_id:
            return False
        if row.phase is Phase.ENDED and row.cause is not true.cause:
            return False
        if row.exit_code not in (None, true.exit_code) or row.signal not in (None, true.signal):
            return False
    return True


def absent_as_in_truth(seen: Observations, name: str) -> bool:
    rows = {(name, row.token, row.index) for row in seen.rows}
    return all(key in rows for key in TRUTH if key[0] == name and key[1] in seen.complete)


NAMES = st.sampled_from(["middle", "later", "timeout"])


@given(NAMES, st.integers(0, 1), st.floats(0, 1))
def test_a_cut_anywhere_is_never_a_wrong_value(name: str, which: int, part: float) -> None:
    whole = replies(name)
    cut = int(part * len(whole[which].stdout))
    whole[which] = Reply(0, whole[which].stdout[:cut])

    seen = PLUGIN.parse_query(ARRAYS, whole)

    assert agrees(seen, name)
    if not whole[which].stdout.endswith(b"\n") and cut:
        assert seen.complete == frozenset()


def _lines(reply: Reply) -> list[bytes]:
    return reply.stdout.splitlines(keepends=True)


@given(NAMES, st.integers(0, 1), st.data())
def test_noise_and_repeated_lines_are_never_a_wrong_value(name: str, which: int, data: st.DataObject) -> None:
    whole = replies(name)
    lines = _lines(whole[which])
    noise = st.one_of(
        st.binary(max_size=60).map(lambda raw: raw + b"\n"),
        st.just(b"Last login: Mon Nov 23 14:48:37 2026 from 10.0.0.1\n"),
        st.sampled_from(lines),
    )
    for extra in data.draw(st.lists(noise, max_size=4)):
        lines.insert(data.draw(st.integers(0, len(lines))), extra)
    whole[which] = Reply(0, b"".join(lines))

    seen = PLUGIN.parse_query(ARRAYS, whole)

    assert agrees(seen, name)
    assert absent_as_in_truth(seen, name)


@given(NAMES, st.integers(0, 1), st.data())
def test_bytes_that_are_no_text_are_never_a_wrong_value(name: str, which: int, data: st.DataObject) -> None:
    whole = replies(name)
    raw = bytearray(whole[which].stdout)
    for place in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=5)):
        raw[place] = 0xFF
    whole[which] = Reply(0, bytes(raw))

    seen = PLUGIN.parse_query(ARRAYS, whole)

    assert agrees(seen, name)
    assert seen.complete == frozenset()


@pytest.mark.parametrize("name", ["middle", "later", "timeout"])
def test_dos_line_ends_change_nothing(name: str) -> None:
    dos: Sequence[Reply] = [Reply(0, reply.stdout.replace(b"\n", b"\r\n")) for reply in replies(name)]

    assert PLUGIN.parse_query(ARRAYS, dos) == PLUGIN.parse_query(ARRAYS, replies(name))
