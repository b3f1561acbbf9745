"""What PBS says about itself, and ending jobs there: on recorded answers, and on the double."""

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
from hpcflow_pbs import PbsPlugin
from tests.fakes.double import Double, running
from tests.integration.world import until
from tests.unit.transcripts import a_reply, an_array, recorded

PLUGIN: Final = PbsPlugin(python="/usr/bin/python3", worker="/home/ada/worker.pyz", root="/home/ada/.hpcflow")
MARK: Final = b"=== hpcflow 5c1f27e0 ===\n"


@pytest.fixture(scope="module")
def double(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Double]:
    with running("pbs", tmp_path_factory.mktemp("pbs") / "double", cores=4) as started:
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


def test_server_queues_and_nodes_are_limits() -> None:
    parts = (
        recorded("pbs", "03", command).stdout
        for command in ("qstat -B -f -F json", "qstat -Q -f -F json", "pbsnodes -a -F json")
    )

    found = PLUGIN.parse_limits(a_reply(MARK.join(parts)))

    assert (found.scheduler, found.version, found.accounting) == ("pbs", "23.06.06", True)
    assert found.array.max_width == 10_000
    queues = {queue.name: queue for queue in found.partitions}
    assert set(queues) == {"workq", "short", "closed", "stopped"}
    assert [queue.is_default for queue in queues.values()] == [True, False, False, False]
    assert (queues["short"].max_walltime_s, queues["short"].max_width) == (600, 50)
    assert queues["workq"].max_width is None
    assert (queues["workq"].cpus_per_node, queues["workq"].memory_mib_per_node) == (64, 36864 - 32)
    assert (queues["workq"].total_nodes, queues["workq"].gpus_per_node) == (1, 0)


def test_nodes_that_are_given_whole_make_a_queue_exclusive() -> None:
    parts = [
        recorded("pbs", "03", command).stdout
        for command in ("qstat -B -f -F json", "qstat -Q -f -F json", "pbsnodes -a -F json")
    ]
    parts[2] = parts[2].replace(b"default_shared", b"force_exclhost")

    assert all(queue.exclusive for queue in PLUGIN.parse_limits(a_reply(MARK.join(parts))).partitions)


def test_a_queue_has_the_nodes_that_carry_its_label() -> None:
    server = recorded("pbs", "03", "qstat -B -f -F json").stdout
    queues = b'{\n"Queue":{"cpu":{"default_chunk":{"Qlist":"cpu"}},"gpu":{"default_chunk":{"Qlist":"gpu"}}}}\n'
    nodes = (
        b'{\n"nodes":{"c1":{"resources_available":{"Qlist":"cpu,system","ncpus":128}},'
        b'"g1":{"resources_available":{"Qlist":"gpu","ncpus":64,"ngpus":4}}}}\n'
    )

    cpu, gpu = PLUGIN.parse_limits(a_reply(MARK.join([server, queues, nodes]))).partitions

    assert (cpu.cpus_per_node, cpu.gpus_per_node, cpu.total_nodes) == (128, 0, 1)
    assert (gpu.cpus_per_node, gpu.gpus_per_node, gpu.total_nodes) == (64, 4, 1)


def test_the_double_has_the_same_limits(double: Double) -> None:
    found = PLUGIN.parse_limits(ask(double, PLUGIN.limits()))

    assert found.array.max_width == 10_000
    assert found.partitions[0].cpus_per_node == 4
    assert PLUGIN.parse_probe(ask(double, PLUGIN.probe())) == "PBS 23.06.06, server pbs01"


def test_limits_of_a_user_and_a_server_without_history_are_read(double: Double) -> None:
    double.set(max_queued=200, no_history=True, max_array=500)
    try:
        found = PLUGIN.parse_limits(ask(double, PLUGIN.limits()))
    finally:
        double.set(max_queued=None, no_history=False, max_array=None)

    assert (found.array.max_width, found.accounting) == (200, False)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (a_reply("", "sh: 1: qstat: not found", 127), "no PBS here"),
        (
            a_reply("", "Connection refused\nqstat: cannot connect to server pbs01 (errno=15010)\n", 255),
            "does not answer",
        ),
        (a_reply("", "Version: 6.1.2\nCommit: 1234\n", 2), "This is Torque"),
        (a_reply("pbs_version = 13.1\n", "qstat: invalid option -- 'F'\nusage: qstat\n", 2), "older than PBS Pro 14"),
        (a_reply("", "", None), "did not answer"),
        (a_reply("pbs_version = 23.06.06\n{cut", "", 0), "did not answer"),
    ],
)
def test_what_is_no_answer_is_said_in_a_sentence(reply: Reply, words: str) -> None:
    with pytest.raises(HpcflowError, match=words):
        PLUGIN.parse_probe(reply)
    with pytest.raises(HpcflowError):
        PLUGIN.parse_limits(reply)


def test_torque_and_old_releases_are_refused_by_what_they_say(double: Double) -> None:
    for other, words in (("torque", "Torque"), ("old", "PBS Pro 14")):
        double.set(other=other)
        try:
            for command, parse in ((PLUGIN.probe(), PLUGIN.parse_probe), (PLUGIN.limits(), PLUGIN.parse_limits)):
                with pytest.raises(HpcflowError, match=words):
                    parse(ask(double, command))
        finally:
            double.set(other="")


# ---- ending jobs


SCRIPT: Final = "case $PBS_ARRAY_INDEX in 0|2) exit 3 ;; *) sleep 300 ;; esac\n"


def a_job(double: Double, name: str, width: int, *options: str, script: str = SCRIPT) -> str:
    span = ("-J", f"0-{width - 1}") if width > 1 else ()
    done = double.run("qsub", "-N", name, *span, "-o", "/dev/null", "-j", "oe", *options, stdin=script)
    assert done.returncode == 0, done.stderr
    return re.split(r"[\[.]", done.stdout)[0]


def states(double: Double, number: str, width: int) -> str:
    identifier = f"{number}[]" if width > 1 else number
    rows = double.run("qstat", "-x", "-t", identifier).stdout.splitlines()[2:]
    return "".join(row.split()[4] for row in rows)


def test_a_cancel_spares_the_records_of_what_has_ended(double: Double) -> None:
    number = a_job(double, "spared", 8)
    until(lambda: states(double, number, 8).count("X") == 2)
    before = len(double.calls("qdel"))

    said = PLUGIN.parse_cancel(
        ask(double, PLUGIN.cancel([an_array("spared", width=8, job_id=number)], pending_only=False))
    )

    assert said is None
    until(lambda: set(states(double, number, 8)) == {"F"})
    rows = PLUGIN.parse_query(
        [an_array("spared", width=8, job_id=number)],
        [ask(double, PLUGIN.query([an_array("spared", width=8, job_id=number)], accounting=True)[0])],
    ).rows
    assert [row.cause and row.cause.value for row in rows] == ["failed", "cancelled", "failed"] + ["cancelled"] * 5
    assert [row.exit_code for row in rows if row.exit_code is not None] == [3, 3]
    # Never a range beside another id: the server does not survive that.
    assert [call[1:] for call in double.calls("qdel")[before:]] == [[f"{number}[1]"], [f"{number}[3-7]"]]


@pytest.mark.parametrize("awk", ["gawk", "mawk", "busybox"])
def test_any_awk_finds_what_lives(awk: str, double: Double, tmp_path: Path) -> None:
    program = shutil.which(awk)
    if program is None:
        pytest.skip(f"needs {awk}")
    (tmp_path / "awk").symlink_to(program)
    number = a_job(double, f"by-{awk}", 8)
    until(lambda: states(double, number, 8).count("X") == 2)
    before = len(double.calls("qdel"))

    wish = PLUGIN.cancel([an_array(f"by-{awk}", width=8, job_id=number)], pending_only=False)
    assert PLUGIN.parse_cancel(ask(double, wish, first=tmp_path)) is None

    assert [call[1:] for call in double.calls("qdel")[before:]] == [[f"{number}[1]"], [f"{number}[3-7]"]]
    until(lambda: set(states(double, number, 8)) == {"F"})


def test_only_what_waits_is_ended_when_only_that_is_wished(double: Double) -> None:
    number = a_job(double, "waits", 9, script="sleep 300\n")
    until(lambda: states(double, number, 9).count("R") == 4)

    assert (
        PLUGIN.parse_cancel(ask(double, PLUGIN.cancel([an_array("waits", width=9, job_id=number)], pending_only=True)))
        is None
    )

    assert states(double, number, 9) == "B" + "R" * 4 + "X" * 5
    ask(double, PLUGIN.cancel([an_array("waits", width=9, job_id=number)], pending_only=False))
    until(lambda: set(states(double, number, 9)) == {"F"})


def test_a_whole_array_that_waits_is_one_deletion_found_by_its_name(double: Double) -> None:
    held = a_job(double, "unknown", 5, "-h")
    single = a_job(double, "alone", 1, "-h")
    before = len(double.calls("qdel"))

    arrays = [an_array("unknown", width=5), an_array("alone", width=1, job_id=single)]
    assert PLUGIN.parse_cancel(ask(double, PLUGIN.cancel(arrays, pending_only=False))) is None

    (call,) = double.calls("qdel")[before:]
    assert sorted(call[1:]) == sorted([f"{held}[]", single])
    assert set(states(double, held, 5) + states(double, single, 1)) == {"F"}


def test_nothing_to_end_is_what_was_wished(double: Double) -> None:
    before = len(double.calls("qdel"))
    for array in (
        an_array("never-submitted"),
        an_array("long-gone", job_id="99999"),
        an_array("gone", job_id="99999", width=1),
    ):
        assert PLUGIN.parse_cancel(ask(double, PLUGIN.cancel([array], pending_only=False))) is None
    assert double.calls("qdel")[before:] == []


def test_a_server_that_is_down_is_said_and_the_wish_repeated(double: Double) -> None:
    double.set(down=True)
    try:
        said = PLUGIN.parse_cancel(ask(double, PLUGIN.cancel([an_array("x", job_id="1")], pending_only=False)))
    finally:
        double.set(down=False)

    assert said is not None and "Connection refused" in said


@pytest.mark.parametrize("code", [None, 75, 162, 1])
def test_a_deletion_whose_end_was_not_seen_is_no_deletion(code: int | None) -> None:
    assert PLUGIN.parse_cancel(a_reply("", "", code)) is not None


def test_an_array_is_found_by_its_name_and_nobody_elses_history_is_listed(double: Double) -> None:
    number = a_job(double, "adopted", 3, "-h")

    (command,) = PLUGIN.query([an_array("adopted", width=3)], accounting=True)
    rows = PLUGIN.parse_query([an_array("adopted", width=3)], [ask(double, command)]).rows
    (nothing,) = PLUGIN.query([an_array("no-such-name", width=3)], accounting=True)
    calls = len(double.calls("qstat"))
    seen = PLUGIN.parse_query([an_array("no-such-name", width=3)], [ask(double, nothing)])

    assert {row.job_id for row in rows} == {number}
    assert {row.stuck and row.stuck.value for row in rows} == {"held"}
    assert {row.by for row in rows} == {"you"}
    assert seen.rows == () and seen.complete == {"no-such-name"}
    assert len(double.calls("qstat")) == calls  # without an id it would list everybody's jobs
