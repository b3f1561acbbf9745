"""Asking PBS: one command for any number of arrays, and answers that are values or unknown, never wrong values."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcflow.core.model import Cause, JobArray, Observation, Observations, Phase, Stuck
from hpcflow.core.plugin import Reply
from hpcflow_pbs import PbsPlugin
from tests.unit.damage import ANY, EXAMPLES, cuts, damaged, is_true_or_unknown
from tests.unit.transcripts import a_reply, an_array, recorded

PLUGIN: Final = PbsPlugin(python="/usr/bin/python3", worker="/home/ada/worker.pyz", root="/home/ada/.hpcflow")


def an_answer(*records: str) -> Reply:
    """Return qstat's answer about jobs, each given as `"26[4].pbs01" job_state=R substate=42 comment=text`."""
    blocks: list[str] = []
    for record in records:
        name, _, rest = record.partition(" ")
        pairs = {"Job_Name": "relax-01JD", **dict(part.split("=", 1) for part in rest.split("; ") if part)}
        lines = [
            f'\t\t\t"{key}":\t{value if re.fullmatch("-?[0-9]+", value) else chr(34) + value + chr(34)}'
            for key, value in pairs.items()
        ]
        blocks.append(f'\t\t"{name}.pbs01":\t{{\n' + ",\n".join(lines) + "\n\t\t}")
    jobs = ',\n\t"Jobs":\t{\n' + ",\n".join(blocks) + "\n\t}" if blocks else ""
    return a_reply(
        '{\n\t"timestamp":\t1795380032,\n\t"pbs_version":\t"23.06.06",\n\t"pbs_server":\t"pbs01"' + jobs + "\n}\n"
    )


def observe(reply: Reply, *arrays: JobArray) -> Observations:
    return PLUGIN.parse_query(arrays, [reply])


def one(reply: Reply, token: str, job_id: str) -> Observation:
    (row,) = observe(reply, an_array(token, width=1, job_id=job_id)).rows
    return row


def of_one(record: str) -> Observation:
    """Return what a record of a single job means."""
    (row,) = observe(an_answer(f"26 {record}"), an_array(width=1, job_id="26")).rows
    return row


# ---- the question


def test_a_thousand_arrays_cost_one_command_that_names_them_all() -> None:
    arrays = [an_array(f"relax-{i:04}", job_id=str(i), width=1 + i % 2) for i in range(1000)]

    (command,) = PLUGIN.query(arrays, accounting=True)

    assert command.argv[:8] == ("qstat", "-x", "-E", "-t", "-f", "-F", "json", "0")
    assert "1[]" in command.argv and len(command.argv) == 1007
    assert command.environment == {"TZ": "UTC"}


def test_without_history_only_what_lives_is_asked_for() -> None:
    (command,) = PLUGIN.query([an_array(job_id="26")], accounting=False)

    assert command.argv == ("qstat", "-E", "-t", "-f", "-F", "json", "26[]")


def test_an_array_without_an_id_is_looked_up_by_its_name() -> None:
    (command,) = PLUGIN.query([an_array("a-1"), an_array("a-2", job_id="7")], accounting=True)

    assert command.argv[:2] == ("sh", "-c")
    assert command.argv[3:] == ("hpcflow-query", "-x", "1", "a-1", "7[]")


# ---- elements, as recorded


def test_every_element_has_its_own_end_and_the_arrays_counts_for_nothing() -> None:
    seen = observe(recorded("pbs", "04", "qstat -x -t -f -F json 26[]"), an_array("arrjob", width=8, job_id="26"))

    assert [(row.phase, row.cause, row.exit_code, row.signal) for row in seen.rows] == [
        (Phase.ENDED, Cause.DONE, 0, None),
        (Phase.ENDED, Cause.FAILED, 3, None),
        (Phase.ENDED, Cause.FAILED, None, 11),
        (Phase.ENDED, Cause.FAILED, None, 15),
        (Phase.RUNNING, None, None, None),
        (Phase.ENDED, Cause.FAILED, 255, None),
        (Phase.RUNNING, None, None, None),
        (Phase.RUNNING, None, None, None),
    ]
    first = seen.rows[0]
    assert (first.host, first.max_rss_kib, first.core_seconds) == ("pbs01", 6040, 0.0)
    assert first.started_at == first.ended_at == datetime(2026, 11, 22, 20, 40, 59, tzinfo=UTC)
    assert seen.complete == {"arrjob"}
    assert seen.problems == ()


def test_a_record_that_was_lost_with_its_array_is_an_end_without_a_cause() -> None:
    seen = observe(recorded("pbs", "05", "qstat -x -t -f -F json '1002[]'"), an_array("arrjob", width=8, job_id="1002"))

    causes = [row.cause for row in seen.rows]
    assert causes == [None, None, None, None, Cause.CANCELLED, None, Cause.CANCELLED, Cause.CANCELLED]
    assert {row.phase for row in seen.rows} == {Phase.ENDED}
    assert {row.exit_code for row in seen.rows} == {None}
    assert {row.by for row in seen.rows if row.cause is Cause.CANCELLED} == {"hpc"}
    assert seen.rows[0].raw == "F its own record is lost"
    assert seen.rows[6].raw == "F Exit_status=271 terminated by hpc@pbs01"


@pytest.mark.parametrize(
    ("name", "command", "nth", "token", "job", "cause", "raw"),
    [
        (
            "13",
            "qstat -x -f -F json 1016",
            0,
            "trapjob",
            "1016",
            Cause.TIMEOUT,
            "Exit_status=-29 exceeded resource walltime",
        ),
        (
            "13",
            "qstat -x -f -F json 2046.pbs01",
            0,
            "memx",
            "2046",
            Cause.MEMORY,
            "Exit_status=-27 exceeded resource mem",
        ),
        ("13", "qstat -x -f -F json 1028.pbs01", 0, "cputx", "1028", Cause.TIMEOUT, "Exit_status=265"),
        (
            "13",
            "qstat -x -f -F json 1019.pbs01",
            0,
            "trap2.sh",
            "1019",
            Cause.CANCELLED,
            "Exit_status=271 terminated by root@pbs01",
        ),
        ("13", "qstat -x -f -F json 1017.pbs01", 0, "trap2.sh", "1017", Cause.CANCELLED, "terminated"),
        ("13", "qstat -x -f -F json 1013", 0, "memx", "1013", Cause.FAILED, "Exit_status=1"),
        ("03", "qstat -x -f -F json 2", 0, "okjob", "2", Cause.DONE, "Exit_status=0"),
        ("03", "qstat -x -f -F json 9", 0, "STDIN", "9", Cause.FAILED, "Exit_status=1"),
    ],
)
def test_an_end_has_its_cause(name: str, command: str, nth: int, token: str, job: str, cause: Cause, raw: str) -> None:
    row = one(recorded("pbs", name, command, nth), token, job)

    assert (row.phase, row.cause, row.raw) == (Phase.ENDED, cause, f"F {raw}")


def test_json_that_is_none_is_read_line_by_line() -> None:
    unescaped = recorded("pbs", "17", "[client 23.06.06] qstat -x -f -F json 1014")
    numbers = recorded("pbs", "17", "[client 23.06.06] qstat -x -f -F json 54")

    assert one(unescaped, "cputx", "1014").exit_code == 1
    assert one(numbers, "envjob", "54").cause is Cause.DONE
    assert observe(unescaped, an_array("cputx", width=1, job_id="1014")).complete == {"cputx"}


# ---- what waits


def test_what_waits_says_why() -> None:
    row = one(recorded("pbs", "13", "qstat -x -f -F json 1013.pbs01"), "memx", "1013")

    assert (row.phase, row.stuck) == (Phase.PENDING, None)
    assert row.raw == "Q Not Running: Not enough free nodes available"
    assert row.started_at is None


def test_what_can_never_run_is_stuck() -> None:
    row = of_one(
        "job_state=Q; substate=10; comment=Can Never Run: Insufficient amount of resource: ncpus (R: 500 A: 64 T: 64)"
    )

    assert row.stuck is Stuck.NEVER


@pytest.mark.parametrize(
    ("kind", "who"), [("u", "you"), ("o", "an operator"), ("s", "PBS itself"), ("us", "PBS itself")]
)
def test_who_holds_a_job_is_said(kind: str, who: str) -> None:
    row = of_one(f"job_state=H; Job_Owner=hpc@pbs01; Hold_Types={kind}; substate=20")

    assert (row.phase, row.stuck, row.by) == (Phase.PENDING, Stuck.HELD, who)


def test_elements_of_a_held_array_are_held_while_those_that_run_go_on() -> None:
    answer = an_answer(
        "26[] job_state=H; Hold_Types=u; Job_Owner=ada@pbs01; substate=20",
        "26[0] job_state=R; substate=42; exec_host=n1/0*2+n2/0*2; array_index=0",
        "26[1] job_state=Q; substate=20",
    )

    running, held = observe(answer, an_array(width=2, job_id="26")).rows

    assert (running.phase, running.stuck, running.host) == (Phase.RUNNING, None, "n1,n2")
    assert (held.phase, held.stuck, held.by) == (Phase.PENDING, Stuck.HELD, "you")


# ---- ends that records tell by halves


@pytest.mark.parametrize(
    ("record", "cause", "code", "signal"),
    [
        ("Exit_status=0; substate=92; exec_host=n/0", Cause.DONE, 0, None),
        ("Exit_status=44; substate=93; exec_host=n/0", Cause.FAILED, 44, None),
        ("Exit_status=254; substate=93; exec_host=n/0", Cause.FAILED, 254, None),
        ("Exit_status=137; substate=93; exec_host=n/0", Cause.FAILED, None, 9),
        ("Exit_status=265; substate=93; exec_host=n/0", Cause.FAILED, None, 9),
        ("Exit_status=-4; substate=93; exec_host=n/0", Cause.NODE_FAIL, None, None),
        ("Exit_status=-1; substate=93; exec_host=n/0", Cause.FAILED, None, None),
        ("Exit_status=-28; substate=93; exec_host=n/0", Cause.TIMEOUT, None, None),
        ("Exit_status=42; substate=91; exec_host=n/0", Cause.CANCELLED, None, None),
        ("substate=92; Hold_Types=s", Cause.CANCELLED, None, None),
        ("substate=91", Cause.CANCELLED, None, None),
    ],
)
def test_exit_statuses_of_pbs(record: str, cause: Cause, code: int | None, signal: int | None) -> None:
    row = of_one(f"job_state=F; {record}")

    assert (row.cause, row.exit_code, row.signal) == (cause, code, signal)


def test_a_walltime_that_an_older_release_calls_271_is_a_timeout() -> None:
    answer = an_answer("26 job_state=F; Exit_status=271; substate=93; exec_host=n/0")
    used = '\t\t\t"resources_used":\t{\n\t\t\t\t"walltime":\t"00:10:03"\n\t\t\t},\n'
    asked = '\t\t\t"Resource_List":\t{\n\t\t\t\t"walltime":\t"00:10:00",\n\t\t\t\t"ncpus":\t4\n\t\t\t},\n'
    text = answer.stdout.decode().replace('\t\t\t"Job_Name"', used + asked + '\t\t\t"Job_Name"')

    row = one(a_reply(text), "relax-01JD", "26")

    assert (row.cause, row.core_seconds) == (Cause.TIMEOUT, 603 * 4.0)


def test_an_end_without_an_exit_status_is_not_success() -> None:
    row = of_one("job_state=F; substate=92; exec_host=n/0; stime=Sun Nov 22 20:40:59 2026")

    assert (row.phase, row.cause, row.exit_code) == (Phase.ENDED, None, None)


def test_a_state_that_nobody_knows_is_taken_for_alive_and_said() -> None:
    seen = observe(an_answer("26 job_state=M; substate=10"), an_array(width=1, job_id="26"))

    assert seen.rows[0].phase is Phase.RUNNING
    assert "moved to another server" in seen.problems[0]


# ---- absence


def test_an_id_that_a_whole_answer_leaves_out_is_gone() -> None:
    seen = observe(an_answer("27 job_state=R; substate=42"), an_array(width=4, job_id="26"))

    assert seen.rows == () and seen.complete == {"relax-01JD"}


@pytest.mark.parametrize(
    "command",
    ["qstat -E -x -t -f -F json 99998 99999", "PBS_CONF_FILE=/scratch/down.conf qstat -E -x -t -f -F json 29 30"],
)
def test_only_a_server_that_answers_makes_absence_a_fact(command: str) -> None:
    seen = observe(recorded("pbs", "18", command), an_array(width=4, job_id="29"))

    assert seen.rows == ()
    assert bool(seen.complete) == ("CONF" not in command)
    assert bool(seen.problems) == ("CONF" in command)


def test_a_finished_job_without_history_is_gone() -> None:
    seen = observe(recorded("pbs", "03", "qstat -f -F json 2"), an_array(width=1, job_id="2"))

    assert seen.rows == () and seen.complete == {"relax-01JD"}


def test_an_array_without_all_its_elements_is_unknown_as_far_as_they_lack() -> None:
    answer = an_answer("26[] job_state=B; substate=70", "26[0] job_state=R; substate=42; exec_host=n/0; array_index=0")

    seen = observe(answer, an_array(width=2, job_id="26"))

    assert [row.index for row in seen.rows] == [0]
    assert seen.complete == frozenset()
    assert "no record of 1 array task" in seen.problems[0]


def test_an_id_under_another_name_is_said_and_believed_in_nothing() -> None:
    seen = observe(
        an_answer("26 job_state=F; Job_Name=other; substate=92; Exit_status=0"), an_array(width=1, job_id="26")
    )

    assert seen.rows == () and seen.complete == frozenset()
    assert "is called 'other'" in seen.problems[0]


def test_an_array_is_adopted_under_its_name_duplicates_and_all() -> None:
    answer = an_answer("26 job_state=R; substate=42; exec_host=n/0", "28 job_state=Q; substate=10")

    seen = observe(answer, an_array(width=1))

    assert [(row.job_id, row.phase) for row in seen.rows] == [("26", Phase.RUNNING), ("28", Phase.PENDING)]
    assert seen.complete == {"relax-01JD"}


def test_a_reply_without_an_end_says_nothing() -> None:
    whole = an_answer("26 job_state=F; substate=92; Exit_status=0; exec_host=n/0")

    seen = observe(replace(whole, exit_code=None), an_array(width=1, job_id="26"))

    assert seen.rows == () and seen.complete == frozenset()


# ---- speed


def test_ten_thousand_elements_are_read_in_half_a_second_of_cpu() -> None:
    text = recorded("pbs", "04", "qstat -x -t -f -F json 26[]").stdout.decode()
    head, parent, element, _ = re.split(r"(?=\t\t\"26\[\d*\]\.pbs01\")", text, maxsplit=3)
    elements = (
        element.replace("26[0]", f"26[{i}]").replace('"array_index":\t0', f'"array_index":\t{i}') for i in range(10_000)
    )
    answer = a_reply(head + parent + "".join(elements).rstrip().rstrip(",") + "\n\t}\n}\n")
    array = an_array("arrjob", width=10_000, job_id="26")

    began = time.process_time()
    seen = observe(answer, array)
    spent = time.process_time() - began

    assert len(seen.rows) == 10_000 and seen.complete == {"arrjob"}
    # On a machine where others work as well; the number is printed by -rP.
    print(f"{len(answer.stdout) / 1e6:.1f} MB in {spent:.2f} s")


# ---- damage


ELEMENTS: Final = recorded("pbs", "04", "qstat -x -t -f -F json 26[]").stdout
DELETED: Final = recorded("pbs", "05", "qstat -x -t -f -F json '1002[]'").stdout
OLD: Final = recorded("pbs", "17", "[client 23.06.06] qstat -x -f -F json 29 99999 30").stdout
KNOWN: Final = (
    (ELEMENTS, an_array("arrjob", width=8, job_id="26")),
    (DELETED, an_array("arrjob", width=8, job_id="1002")),
    (OLD, an_array("e7", width=1, job_id="30")),
    (recorded("pbs", "13", "qstat -x -f -F json 1016").stdout, an_array("trapjob", width=1, job_id="1016")),
    (recorded("pbs", "13", "qstat -x -f -F json 1013.pbs01").stdout, an_array("memx", width=1, job_id="1013")),
    (
        recorded("pbs", "17", "[client 23.06.06] qstat -x -f -F json 1014").stdout,
        an_array("cputx", width=1, job_id="1014"),
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
    check(damaged(data, KNOWN[which][0], ANY), which)
