"""What LSF says about itself, and ending jobs there: on the double."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from hpcflow.core.model import HpcflowError
from hpcflow.core.plugin import Command, Reply
from hpcflow_lsf import LsfPlugin
from tests.fakes.double import Double, running
from tests.integration.world import until
from tests.unit.transcripts import a_reply, an_array

PLUGIN: Final = LsfPlugin(python="/usr/bin/python3", worker="/home/ada/worker.pyz", root="/home/ada/.hpcflow")
MARK: Final = "=== hpcflow 5c1f27e0 ===\n"


@pytest.fixture(scope="module")
def double(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Double]:
    with running("lsf", tmp_path_factory.mktemp("lsf") / "double", cores=4) as started:
        yield started


def ask(double: Double, command: Command, *, first: Path | None = None) -> Reply:
    """Run a plugin's command as the transport does; ``first``: a folder that comes before all others on PATH."""
    before = "" if first is None else f"{first}:"
    done = subprocess.run(
        command.argv,
        input=command.stdin,
        capture_output=True,
        env={"PATH": f"{before}{double.path}:/usr/bin:/bin", "HOME": str(double.folder), **command.environment},
        cwd="/",
        check=False,
    )
    return Reply(done.returncode, done.stdout, done.stderr)


# ---- limits


def test_parameters_queues_and_hosts_are_limits(double: Double) -> None:
    found = PLUGIN.parse_limits(ask(double, PLUGIN.limits()))

    assert PLUGIN.parse_probe(ask(double, PLUGIN.probe())) == "LSF 10.1.0.12, cluster double"
    assert (found.scheduler, found.version, found.array.max_width) == ("lsf", "10.1.0.12", 1000)
    queues = {queue.name: queue for queue in found.partitions}
    assert [(name, queue.is_default) for name, queue in queues.items()] == [("short", False), ("normal", True)]
    assert (queues["short"].max_walltime_s, queues["normal"].max_walltime_s) == (600, None)
    assert (queues["normal"].cpus_per_node, queues["normal"].total_nodes) == (4, 1)
    assert queues["normal"].memory_mib_per_node == 36 * 1024 - 32
    assert found.notes["CLEAN_PERIOD"] == "3600"


def test_the_limits_that_refuse_stand_behind_the_default_ones() -> None:
    queue = (
        "QUEUE: long\nDEFAULT LIMITS:\n RUNLIMIT\n 60.0 min\n\nMAXIMUM LIMITS:\n RUNLIMIT\n 1440.0 min\n\n"
        " CORELIMIT MEMLIMIT\n      0 M      64 G\n"
    ).replace("      0 M      64 G", "      64 G")
    reply = a_reply(MARK.join(["IBM Spectrum LSF Standard 10.1.0.6, May\n", "MAX_JOB_ARRAY_SIZE = 5000\n", queue, ""]))

    found = PLUGIN.parse_limits(reply)

    assert found.array.max_width == 5000
    assert (found.partitions[0].max_walltime_s, found.partitions[0].memory_mib_per_node) == (86400, 64 * 1024 - 32)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (a_reply("", "sh: 1: lsid: not found", 127), "no LSF here"),
        (a_reply("OpenLava 2.2, Mar 22 2014\n"), "This is OpenLava"),
        (a_reply("Platform LSF 9.1.3.0, Mar 04 2015\n"), "This is LSF 9.1.3.0"),
        (a_reply("IBM Spectrum LSF Standard 10.1.0.0, Jun 2016\n"), "came with LSF 10.1.0.2"),
        (a_reply("", "lsid: ls_getclustername() failed: LIM is down; try later.\n", 255), "LIM is down"),
        (a_reply("", "", None), "does not answer"),
    ],
)
def test_what_is_no_answer_is_said_in_a_sentence(reply: Reply, words: str) -> None:
    with pytest.raises(HpcflowError, match=words):
        PLUGIN.parse_probe(reply)
    with pytest.raises(HpcflowError):
        PLUGIN.parse_limits(reply)


def test_openlava_and_old_releases_are_refused_by_what_they_say(double: Double) -> None:
    for other, words in (("openlava", "OpenLava"), ("old", "LSF 9.1.3.0")):
        double.set(other=other)
        try:
            for command, parse in ((PLUGIN.probe(), PLUGIN.parse_probe), (PLUGIN.limits(), PLUGIN.parse_limits)):
                with pytest.raises(HpcflowError, match=words):
                    parse(ask(double, command))
        finally:
            double.set(other="")


# ---- ending jobs


SCRIPT: Final = "case $LSB_JOBINDEX in 1|3) exit 3 ;; *) sleep 300 ;; esac\n"


def a_job(double: Double, name: str, width: int, *options: str, script: str = SCRIPT) -> str:
    done = double.run("bsub", "-J", f"{name}[1-{width}]", "-o", "/dev/null", *options, stdin=script)
    assert done.returncode == 0, done.stderr
    return str(re.findall(r"<(\d+)>", done.stdout)[0])


def states(double: Double, number: str) -> list[str]:
    return double.run("bjobs", "-a", "-noheader", "-o", "stat", number).stdout.split()


def cancel(double: Double, name: str, width: int, number: str | None, *, pending_only: bool) -> str | None:
    array = an_array(name, width=width, job_id=number)
    return PLUGIN.parse_cancel(ask(double, PLUGIN.cancel([array], pending_only=pending_only)))


def test_a_cancel_ends_what_lives_and_no_more(double: Double) -> None:
    number = a_job(double, "lives", 8)
    until(lambda: states(double, number).count("EXIT") == 2)

    assert cancel(double, "lives", 8, number, pending_only=False) is None

    until(lambda: states(double, number) == ["EXIT"] * 8)
    array = an_array("lives", width=8, job_id=number)
    rows = PLUGIN.parse_query([array], [ask(double, PLUGIN.query([array], accounting=True)[0])]).rows
    assert [row.cause and row.cause.value for row in rows] == ["failed", "cancelled", "failed"] + ["cancelled"] * 5
    assert {row.by for row in rows} == {None, "you"}
    assert cancel(double, "lives", 8, number, pending_only=False) is None


def test_only_what_waits_is_ended_when_only_that_is_wished(double: Double) -> None:
    number = a_job(double, "waits", 9, script="sleep 300\n")
    until(lambda: states(double, number).count("RUN") == 4)

    assert cancel(double, "waits", 9, number, pending_only=True) is None

    assert sorted(states(double, number)) == ["EXIT"] * 5 + ["RUN"] * 4
    assert cancel(double, "waits", 9, None, pending_only=False) is None
    until(lambda: states(double, number) == ["EXIT"] * 9)


@pytest.mark.parametrize("awk", ["gawk", "mawk", "busybox"])
def test_any_awk_finds_what_waits(awk: str, double: Double, tmp_path: Path) -> None:
    program = shutil.which(awk)
    if program is None:
        pytest.skip(f"needs {awk}")
    (tmp_path / "awk").symlink_to(program)
    number = a_job(double, f"by-{awk}", 6, script="sleep 300\n")
    until(lambda: states(double, number).count("RUN") == 4)
    before = len(double.calls("bkill"))

    wish = PLUGIN.cancel([an_array(f"by-{awk}", width=6, job_id=number)], pending_only=True)
    assert PLUGIN.parse_cancel(ask(double, wish, first=tmp_path)) is None

    assert double.calls("bkill")[before:] == [["bkill", f"{number}[5,6]"]]
    assert cancel(double, f"by-{awk}", 6, number, pending_only=False) is None
    until(lambda: states(double, number) == ["EXIT"] * 6)


def test_bkill_is_never_called_without_an_id(double: Double) -> None:
    innocent = a_job(double, "innocent", 1, script="sleep 300\n")
    before = len(double.calls("bkill"))

    for pending_only in (True, False):
        assert cancel(double, "no-such-name", 4, None, pending_only=pending_only) is None

    assert double.calls("bkill")[before:] == []
    assert set(states(double, innocent)) <= {"RUN", "PEND"}
    assert cancel(double, "innocent", 1, innocent, pending_only=False) is None


def test_a_job_that_is_gone_was_what_was_wished(double: Double) -> None:
    assert cancel(double, "long-gone", 4, "99999", pending_only=False) is None


@pytest.mark.parametrize(
    ("said", "code", "fine"),
    [
        ("Job <7>: Operation is in progress\n", 255, True),
        ("Job <5[1]>: Job has already finished\n", 255, True),
        ("Job <5> is being terminated\n", 0, True),
        ("", 0, True),
        ("", 255, False),
        ("LSF daemon not responding\n", 255, False),
        ("Job <5>: User permission denied\n", 255, False),
        ("", None, False),
    ],
)
def test_what_bkill_says_counts_and_not_how_it_ends(said: str, code: int | None, fine: bool) -> None:
    assert (PLUGIN.parse_cancel(a_reply("", said, code)) is None) is fine


def test_a_held_array_is_released_by_its_owner_only(double: Double) -> None:
    mine = a_job(double, "mine", 2, "-H", script="true\n")
    theirs = a_job(double, "theirs", 2, "-H", script="true\n")
    double.control(do="hold", job=int(theirs), kind="administrator")

    released, refused = (
        PLUGIN.release([an_array(name, job_id=job)]) for name, job in (("mine", mine), ("theirs", theirs))
    )
    assert released is not None and refused is not None

    assert ask(double, released).exit_code == 0
    until(lambda: states(double, mine) == ["DONE", "DONE"])
    said = ask(double, refused)
    assert said.exit_code == 1 and b"permission denied" in said.stderr
    assert cancel(double, "theirs", 2, theirs, pending_only=False) is None


def test_what_bjobs_has_forgotten_is_asked_of_bhist(double: Double) -> None:
    number = a_job(double, "forgotten", 3)
    until(lambda: states(double, number).count("EXIT") == 2)
    assert cancel(double, "forgotten", 3, number, pending_only=False) is None
    until(lambda: states(double, number) == ["EXIT"] * 3)
    array = an_array("forgotten", width=3, job_id=number)
    double.set(no_history=True)
    try:
        seen = PLUGIN.parse_query([array], [ask(double, PLUGIN.query([array], accounting=True)[0])])
    finally:
        double.set(no_history=False)

    assert [(row.cause and row.cause.value, row.exit_code) for row in seen.rows] == [
        ("failed", 3),
        ("cancelled", None),
        ("failed", 3),
    ]
    assert seen.complete == {"forgotten"}
