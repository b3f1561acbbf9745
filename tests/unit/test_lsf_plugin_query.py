"""Asking LSF: one command for any number of arrays, and answers that are values or unknown, never wrong values."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcflow.core.model import Cause, JobArray, Observation, Observations, Phase, Stuck
from hpcflow.core.plugin import Reply
from hpcflow_lsf import LsfPlugin
from tests.unit.damage import EXAMPLES, JSON, cuts, damaged, is_true_or_unknown
from tests.unit.transcripts import a_reply, an_array, recorded

PLUGIN: Final = LsfPlugin(python="/usr/bin/python3", worker="/home/ada/worker.pyz", root="/home/ada/.hpcflow")
MARK: Final = "=== hpcflow 5c1f27e0 ===\n"
BLANK: Final = {
    "JOBID": "5",
    "JOBINDEX": "1",
    "JOB_NAME": "relax-01JD[1]",
    "STAT": "RUN",
    "EXIT_CODE": "",
    "EXIT_REASON": "",
    "PEND_REASON": "",
    "EXEC_HOST": "",
    "START_TIME": "",
    "FINISH_TIME": "",
    "RUN_TIME": "0 second(s)",
    "MAX_MEM": "",
}


def a_record(index: int = 1, **cells: str) -> dict[str, str]:
    return {**BLANK, "JOBINDEX": str(index), "JOB_NAME": f"relax-01JD[{index}]", **cells}


def bjobs(records: Sequence[Mapping[str, str]]) -> str:
    """Return what bjobs prints about records, as the manual of 10.1 and published answers have it."""
    document = {"COMMAND": "bjobs", "JOBS": len(records), "RECORDS": records}
    return json.dumps(document, indent=2, separators=(",", ":")).replace("/", "\\/")


def an_answer(*records: Mapping[str, str], bhist: str = "", code: int = 0) -> Reply:
    return a_reply(f"{bjobs(records)}\n{MARK}{bhist}{MARK}", "", code)


def observe(reply: Reply, *arrays: JobArray) -> Observations:
    return PLUGIN.parse_query(arrays, [reply])


def of_one(**cells: str) -> Observation:
    """Return what a record of a single element means."""
    (row,) = observe(an_answer(a_record(1, **cells)), an_array(width=1, job_id="5")).rows
    return row


# ---- the question


def test_a_thousand_arrays_cost_one_command_that_names_them_all() -> None:
    arrays = [an_array(f"relax-{i:04}", job_id=str(i + 1)) for i in range(1000)]

    (command,) = PLUGIN.query(arrays, accounting=True)

    assert command.argv[:2] == ("sh", "-c")
    assert command.argv[4].startswith("jobid jobindex job_name stat exit_code exit_reason")
    assert command.argv[5:] == tuple(str(i + 1) for i in range(1000))
    assert command.environment["TZ"] == "UTC"


def test_with_an_unknown_id_all_of_the_users_jobs_are_looked_through() -> None:
    (command,) = PLUGIN.query([an_array("a-1"), an_array("a-2", job_id="7")], accounting=True)

    assert len(command.argv) == 5


# ---- elements


def test_elements_count_from_one_and_array_tasks_from_nought() -> None:
    seen = observe(
        an_answer(
            a_record(1, STAT="DONE", EXEC_HOST="n1", RUN_TIME="16038 second(s)", MAX_MEM="5.2 Gbytes"),
            a_record(2, STAT="EXIT", EXIT_CODE="3", EXEC_HOST="4*n1:4*n2", START_TIME="Feb  8 10:31:17 2026"),
            a_record(3, EXEC_HOST="n1", START_TIME="Feb  8 10:31:17 2026 L"),
            a_record(4, STAT="PEND", PEND_REASON="New job is waiting for scheduling;"),
        ),
        an_array(job_id="5"),
    )

    assert [(row.index, row.phase, row.cause, row.exit_code) for row in seen.rows] == [
        (0, Phase.ENDED, Cause.DONE, 0),
        (1, Phase.ENDED, Cause.FAILED, 3),
        (2, Phase.RUNNING, None, None),
        (3, Phase.PENDING, None, None),
    ]
    assert (seen.rows[0].core_seconds, seen.rows[0].max_rss_kib) == (16038.0, 5452595)
    assert seen.rows[1].host == "n1,n2"
    assert seen.rows[2].started_at == datetime(2026, 2, 8, 10, 31, 17, tzinfo=UTC)
    assert seen.rows[3].raw == "PEND New job is waiting for scheduling;"
    assert seen.complete == {"relax-01JD"}


def test_an_id_with_its_index_in_it_is_read_as_well() -> None:
    row = of_one(JOBID="5[1]", JOBINDEX="0", STAT="DONE")

    assert (row.job_id, row.index) == ("5", 0)


def test_a_name_that_was_cut_on_the_left_is_still_ours() -> None:
    assert of_one(JOB_NAME="*x-01JD[1]").phase is Phase.RUNNING


@pytest.mark.parametrize(
    ("reason", "code", "cause", "status", "signal", "by"),
    [
        ("", "3", Cause.FAILED, 3, None, None),
        ("", "44", Cause.FAILED, 44, None, None),
        ("", "139", Cause.FAILED, None, 11, None),
        ("", "140", Cause.TIMEOUT, None, None, None),
        ("", "255", Cause.FAILED, 255, None, None),
        ("", "", None, None, None, None),
        ("", "-", None, None, None, None),
        ("TERM_RUNLIMIT: job killed after reaching LSF run time limit", "140", Cause.TIMEOUT, None, None, None),
        ("TERM_CPULIMIT: job killed after reaching LSF CPU usage limit", "152", Cause.TIMEOUT, None, None, None),
        ("TERM_MEMLIMIT: job killed after reaching LSF memory usage limit", "130", Cause.MEMORY, None, None, None),
        ("TERM_OWNER: job killed by owner", "", Cause.CANCELLED, None, None, "you"),
        ("TERM_OWNER: job killed by owner", "130", Cause.CANCELLED, None, None, "you"),
        (
            "TERM_FORCE_ADMIN: job killed by root or LSF administrator",
            "137",
            Cause.CANCELLED,
            None,
            None,
            "an administrator",
        ),
        ("TERM_PREEMPT: job killed after preemption", "143", Cause.PREEMPTED, None, None, None),
        ("TERM_ZOMBIE: job exited while LSF is not available", "1", Cause.NODE_FAIL, None, None, None),
        ("TERM_EXTERNAL_SIGNAL: job killed by a signal external to LSF", "137", Cause.FAILED, None, 9, None),
        ("TERM_UNKNOWN: unknown termination reason", "140", Cause.FAILED, None, 12, None),
    ],
)
def test_an_end_has_its_cause(
    reason: str, code: str, cause: Cause | None, status: int | None, signal: int | None, by: str | None
) -> None:
    row = of_one(STAT="EXIT", EXIT_CODE=code, EXIT_REASON=reason)

    assert (row.phase, row.cause, row.exit_code, row.signal, row.by) == (Phase.ENDED, cause, status, signal, by)


@pytest.mark.parametrize("stat", ["RUN", "USUSP", "SSUSP", "UNKWN"])
def test_a_host_that_lost_contact_may_come_back(stat: str) -> None:
    assert of_one(STAT=stat).phase is Phase.RUNNING


def test_a_zombie_is_a_host_that_failed() -> None:
    assert of_one(STAT="ZOMBI").cause is Cause.NODE_FAIL


def test_a_state_that_nobody_knows_is_taken_for_alive_and_said() -> None:
    seen = observe(an_answer(a_record(STAT="FROZEN")), an_array(width=1, job_id="5"))

    assert seen.rows[0].phase is Phase.RUNNING
    assert "FROZEN" in seen.problems[0]


@pytest.mark.parametrize(
    ("stat", "reason", "stuck", "by"),
    [
        ("PSUSP", "The job was suspended by the user while pending;", Stuck.HELD, "you"),
        ("PSUSP", "The job was suspended by LSF administrator or root while pending;", Stuck.HELD, "an administrator"),
        ("PEND", "Dependency condition invalid or never satisfied;", Stuck.NEVER, None),
        ("PEND", "Job's requirements for resources not satisfied: 12 hosts;", None, None),
    ],
)
def test_what_waits_says_why(stat: str, reason: str, stuck: Stuck | None, by: str | None) -> None:
    row = of_one(STAT=stat, PEND_REASON=reason)

    assert (row.phase, row.stuck, row.by, row.raw) == (Phase.PENDING, stuck, by, f"{stat} {reason}")


# ---- absence


def test_what_neither_knows_is_gone() -> None:
    gone = {"JOBID": "5", "ERROR": "Job <5> is not found"}

    for bhist in ("No matching job found\n", ""):
        seen = observe(an_answer(gone, bhist=bhist, code=255), an_array(job_id="5"))
        assert seen.rows == () and seen.complete == {"relax-01JD"}


@pytest.mark.parametrize(
    "said", ["No unfinished job found", "Job <5> is not found", "No job found", "No matching job found"]
)
def test_nothing_at_all_is_an_answer_too(said: str) -> None:
    seen = observe(a_reply(f"{said}\n{MARK}{MARK}", "", 255), an_array(job_id="5"))

    assert seen.rows == () and seen.complete == {"relax-01JD"}


@pytest.mark.parametrize(
    "reply",
    [
        a_reply(f"Cannot connect to LSF. Please wait ...\nLSF daemon not responding\n{MARK}{MARK}", "", 255),
        a_reply(f"Cannot connect to LSF. Please wait ...\n{MARK}{MARK}", "", 255),
        a_reply("", "", None),
        a_reply("", "sh: 1: bjobs: not found", 127),
        a_reply(f"{bjobs([a_record()])}\n{MARK}", "", 0),
        a_reply(f'{{\n  "COMMAND":"bjobs",\n  "JOBS":2,\n  "RECORDS":[]\n}}\n{MARK}{MARK}', "", 0),
    ],
)
def test_an_answer_that_is_none_says_nothing(reply: Reply) -> None:
    seen = observe(reply, an_array(job_id="5"))

    assert seen.rows == () and seen.complete == frozenset() and seen.problems


def test_words_before_the_answer_are_borne() -> None:
    waited = a_reply(f"Cannot connect to LSF. Please wait ...\n{bjobs([a_record(STAT='DONE')])}\n{MARK}{MARK}")

    assert observe(waited, an_array(width=1, job_id="5")).rows[0].cause is Cause.DONE


def test_an_id_under_another_name_is_said_and_believed_in_nothing() -> None:
    seen = observe(an_answer(a_record(JOB_NAME="other[1]")), an_array(width=1, job_id="5"))

    assert seen.rows == () and seen.complete == frozenset()
    assert "is called 'other[1]'" in seen.problems[0]


def test_an_array_is_adopted_under_its_name_among_others() -> None:
    others = [a_record(JOBID="8", JOB_NAME="mine"), a_record(JOBID="9", STAT="DONE")]
    reply = a_reply(f"{bjobs(others)}\n{MARK}")

    seen = observe(reply, an_array(width=1))

    assert [(row.job_id, row.phase) for row in seen.rows] == [("9", Phase.ENDED)]
    assert seen.complete == {"relax-01JD"}


# ---- what bjobs has forgotten

GONE: Final = {"JOBID": "5", "ERROR": "Job <5> is not found"}
RECORDED: Final = "".join(
    recorded("lsf", "openlava_bhist", f'bhist -l "5[{index}]"').stdout.decode() for index in (2, 7)
)


def test_history_is_read_across_its_eighty_columns() -> None:
    seen = observe(an_answer(GONE, bhist=RECORDED), an_array("arr", width=8, job_id="5"))

    assert [(row.index, row.cause, row.exit_code, row.by) for row in seen.rows] == [
        (1, Cause.FAILED, 3, None),
        (6, Cause.CANCELLED, None, "hpc"),
    ]
    assert seen.rows[1].raw == "EXIT 130 signal by hpc"
    assert seen.complete == {"arr"}


@pytest.mark.parametrize(
    ("events", "cause", "code"),
    [
        (("Done successfully. The CPU time used is 0.0 seconds;",), Cause.DONE, 0),
        (("Exited by signal 9. The CPU time used is 0.0 seconds;",), Cause.FAILED, None),
        (
            (
                "Exited with exit code 140. The CPU time used is 0.0 seconds;",
                "Completed <exit>; TERM_RUNLIMIT: job killed after reaching LSF run time limit;",
            ),
            Cause.TIMEOUT,
            None,
        ),
        (
            (
                "Exited; job has been forced to exit",
                "Completed <exit>; TERM_MEMLIMIT: job killed after reaching LSF memory usage limit;",
            ),
            Cause.MEMORY,
            None,
        ),
        (("Exited with exit code 1.", "Pending: Job has been requeued;", "Done successfully."), Cause.DONE, 0),
    ],
)
def test_the_last_events_of_a_history_tell(events: Sequence[str], cause: Cause, code: int | None) -> None:
    seen = observe(an_answer(GONE, bhist=history(*events)), an_array(width=1, job_id="5"))

    assert [(row.cause, row.exit_code) for row in seen.rows] == [(cause, code)]


def test_a_history_without_an_end_is_unknown() -> None:
    seen = observe(
        an_answer(GONE, bhist=history("Exited with exit code 1.", "Pending: Job has been requeued;")),
        an_array(width=1, job_id="5"),
    )

    assert seen.rows == () and seen.complete == frozenset()


def history(*events: str) -> str:
    """Return a report of bhist, cut as it cuts."""
    lines = [
        "Job <5[1]>, Job Name <relax-01JD[1]>, User <hpc>, Project <default>, Command <a rather long command, sure>"
    ]
    lines += [f"Sun Nov 22 21:01:2{place}: {event}" for place, event in enumerate(("Starting (Pid 7);", *events))]
    lines += ["", "Summary of time in seconds spent in various states by  Sun Nov 22 21:01:28", "  PEND"]
    cut = [
        line[:79] + "".join("\n" + " " * 21 + line[at : at + 58] for at in range(79, len(line), 58)) for line in lines
    ]
    return "\n" + "\n".join(cut) + "\n"


# ---- speed


def test_ten_thousand_elements_are_read_in_half_a_second_of_cpu() -> None:
    answer = an_answer(
        *(a_record(i, STAT="DONE", EXEC_HOST="n1", START_TIME="Feb  8 10:31:17 2026") for i in range(1, 10_001))
    )

    began = time.process_time()
    seen = observe(answer, an_array(width=10_000, job_id="5"))
    spent = time.process_time() - began

    assert len(seen.rows) == 10_000 and seen.complete == {"relax-01JD"}
    # On a machine where others work as well; the number is printed by -rP.
    print(f"{len(answer.stdout) / 1e6:.1f} MB in {spent:.2f} s")


# ---- damage


KNOWN: Final = (
    (
        an_answer(
            a_record(1, STAT="DONE", EXEC_HOST="n1"),
            a_record(2, STAT="EXIT", EXIT_CODE="3", EXEC_HOST="n1"),
            a_record(3, STAT="EXIT", EXIT_CODE="130", EXIT_REASON="TERM_OWNER: job killed by owner", EXEC_HOST="n1"),
            a_record(4, STAT="PSUSP", PEND_REASON="The job was suspended by the user while pending;"),
            a_record(5, EXEC_HOST="n1"),
        ).stdout,
        an_array(width=5, job_id="5"),
    ),
    (an_answer(GONE, bhist=RECORDED).stdout, an_array("arr", width=8, job_id="5")),
    (
        an_answer(
            GONE,
            bhist=history(
                "Exited with exit code 140. The CPU time used is 0.0 seconds;",
                "Completed <exit>; TERM_RUNLIMIT: run time limit;",
            ),
        ).stdout,
        an_array(width=1, job_id="5"),
    ),
)
TRUTH: Final = tuple({row.index: row for row in observe(a_reply(stdout), array).rows} for stdout, array in KNOWN)


def check(stdout: bytes, which: int) -> None:
    """Whatever is left of an answer is the truth, or nothing; what is missing is never said to be missing."""
    assert is_true_or_unknown(observe(a_reply(stdout), KNOWN[which][1]), TRUTH[which])


@pytest.mark.parametrize("which", range(len(KNOWN)))
def test_an_answer_cut_at_every_byte_is_true_or_unknown(which: int) -> None:
    for cut in cuts(KNOWN[which][0]):
        check(cut, which)


@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_a_damaged_answer_is_true_or_unknown(data: st.DataObject) -> None:
    which = data.draw(st.integers(0, len(KNOWN) - 1))
    check(damaged(data, KNOWN[which][0], JSON), which)
