"""Submitting to PBS: the command, the script, and what qsub's reply means."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from hpcflow.core.model import JobArray, JobId, Resources, UserError
from hpcflow.core.plugin import Accepted, Ambiguous, Refused
from hpcflow_pbs import PbsPlugin
from tests.unit.transcripts import Entry, a_reply, an_array, transcript

PLUGIN: Final = PbsPlugin(python="/usr/bin/python3", worker="/home/ada/worker.pyz", root="/home/ada/.hpcflow")
EVERYTHING: Final = Resources(
    nodes=2,
    ntasks=6,
    cpus=4,
    memory_mib=8000,
    gpus=2,
    walltime_s=600,
    partition="batch",
    account="proj",
    constraint="model=icelake",
    licenses="matlab:2,abaqus",
    extra=("-p100", "-lsite=a"),
)


def options(array: JobArray) -> list[str]:
    return list(PLUGIN.submit(array).argv)


def select(**resources: int | None) -> str:
    argv = options(an_array(resources=Resources(**resources)))  # type: ignore[arg-type]  # names are the test's
    return next(word for word in argv if word.startswith("select="))


# ---- the command


def test_every_annotation_is_an_option_of_qsub() -> None:
    assert options(an_array(resources=EVERYTHING, worker_walltime_s=3661, extra=("-Wsandbox=HOME",))) == [
        "qsub",
        *("-N", "relax-01JD"),
        *("-J", "0-3"),
        *("-q", "batch"),
        *("-A", "proj"),
        *("-S", "/bin/sh"),
        *("-o", "/dev/null"),
        *("-e", "/dev/null"),
        *("-m", "n"),
        *("-r", "y"),
        *("-l", "select=2:ncpus=12:mpiprocs=3:mem=8032mb:ngpus=2:model=icelake"),
        *("-l", "place=scatter"),
        *("-l", "walltime=3661"),
        *("-l", "matlab=2"),
        *("-l", "abaqus=1"),
        "-Wsandbox=HOME",
        "-p100",
        "-lsite=a",
    ]


def test_a_single_worker_is_no_array() -> None:
    assert "-J" not in options(an_array(width=1))
    assert "0-1" in options(an_array(width=2))


def test_processes_that_do_not_divide_make_two_kinds_of_chunks() -> None:
    assert select(nodes=2, ntasks=3, cpus=2) == "select=1:ncpus=4:mpiprocs=2+1:ncpus=2:mpiprocs=1"
    assert select(nodes=3) == "select=3:ncpus=1:mpiprocs=1"
    assert select(memory_mib=1000) == "select=1:ncpus=1:mpiprocs=1:mem=1032mb"


def test_a_place_of_the_users_own_takes_the_place_of_ours() -> None:
    argv = options(an_array(resources=Resources(extra=("-lplace=excl",))))

    assert [word for word in argv if "place=" in word] == ["-lplace=excl"]


def test_nodes_of_ones_own_are_a_place() -> None:
    assert "place=free:excl" in options(replace(an_array(), exclusive=True))
    assert "place=scatter:excl" in options(replace(an_array(resources=Resources(nodes=2)), exclusive=True))


def test_a_reservation_is_a_queue() -> None:
    argv = options(an_array(resources=Resources(reservation="R123")))

    assert argv[argv.index("-q") + 1] == "R123"


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        (Resources(qos="high"), "qos='high' means nothing to PBS"),
        (Resources(exclude="n1"), "can't leave out nodes"),
        (Resources(constraint="skylake&ib"), "a chunk of `select`"),
        (Resources(constraint="ncpus=1 -l x"), "a chunk of `select`"),
        (Resources(licenses="a b"), '"name:count,name:count"'),
        (Resources(reservation="R1", partition="batch"), "name one"),
        (Resources(partition="-x"), "is empty, an option"),
        (Resources(account="a\nb"), "control character"),
        (Resources(extra=("-N other",)), "finds its arrays again"),
        (Resources(extra=("-J0-9",)), "chooses the size"),
        (Resources(extra=("-lwalltime=1",)), "write walltime="),
        (Resources(extra=("-l", "x")), "write an option and its value as one argument"),
        (Resources(extra=("-lsite=1,select=2",)), "write nodes="),
        (Resources(extra=("-Wdepend=afterok:1",)), "orders tasks by itself"),
        (Resources(extra=("--", "rm")), "one dash and one letter"),
        (Resources(extra=("--queue=long",)), "That is -q of qsub's: write partition="),
        (Resources(extra=("--walltime=10",)), "That is a resource: write walltime="),
        (Resources(extra=("--priority=100",)), "Did you mean -p?"),
        (Resources(extra=("script.sh",)), "write an option"),
    ],
)
def test_what_pbs_has_not_or_hpcflow_needs_is_refused_in_a_sentence(resources: Resources, words: str) -> None:
    with pytest.raises(UserError, match=words.replace("(", r"\(")):
        PLUGIN.submit(an_array(resources=resources))


def test_a_name_that_pbs_would_refuse_is_refused_before() -> None:
    for token in ("a b", "a:b", "a/b", "", "x" * 231):
        with pytest.raises(UserError, match="name of a PBS job"):
            PLUGIN.submit(an_array(token))


# ---- the script


def run(script: str, tmp_path: Path, **environment: str) -> str:
    """Run a batch script as a node would, and return what its own output file holds."""
    (tmp_path / "logs").mkdir(exist_ok=True)
    subprocess.run(["/bin/sh"], input=script, text=True, env={"PATH": "/usr/bin:/bin", **environment}, check=True)
    (log,) = (tmp_path / "logs").iterdir()
    return f"{log.name}: {log.read_text()}"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"PBS_JOBID": "26[5].pbs01.site", "PBS_ARRAY_INDEX": "5"}, "26_5.log: 26 5\n"),
        ({"PBS_JOBID": "26.pbs01"}, "26_0.log: 26 0\n"),
    ],
)
def test_the_script_tells_the_worker_which_array_task_it_is(
    environment: dict[str, str], expected: str, tmp_path: Path
) -> None:
    command = ("sh", "-c", 'echo "$HPCFLOW_JOB $HPCFLOW_INDEX"')
    array = replace(an_array(path=str(tmp_path)), command=command)

    assert run(PLUGIN.submit(array).stdin.decode(), tmp_path, **environment) == expected


def test_a_prologue_runs_in_a_login_shell_before_the_worker(tmp_path: Path) -> None:
    array = replace(an_array(path=str(tmp_path), prologue="WHERE='a b'\nexport WHERE"), command=("printenv", "WHERE"))
    script = PLUGIN.submit(array).stdin.decode()

    assert script.startswith("#!/bin/bash -l\n")
    assert run(script, tmp_path, PBS_JOBID="1.x") == "1_0.log: a b\n"


def test_the_workers_exit_status_is_the_scripts(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    script = PLUGIN.submit(replace(an_array(path=str(tmp_path)), command=("sh", "-c", "exit 7"))).stdin

    assert subprocess.run(["/bin/sh"], input=script, env={"PBS_JOBID": "1.x"}, check=False).returncode == 7


# ---- the reply


ANSWERS: Final = [entry for name in ("01", "02", "14") for entry in transcript("pbs", name) if "qsub" in entry.command]


@pytest.mark.parametrize("entry", ANSWERS, ids=lambda entry: entry.command[:60])
def test_recorded_answers_are_taken_refused_or_in_doubt(entry: Entry) -> None:
    meaning = PLUGIN.parse_submit(an_array(), entry.reply)

    if "_CONF_FILE" in entry.command:
        assert isinstance(meaning, Ambiguous)
    elif entry.reply.stdout:
        number = entry.reply.stdout.decode().partition(".")[0].removesuffix("[]")
        # `-W block=true` ends with the job's own exit code, which hpcflow does not ask for.
        assert meaning == Accepted(JobId(number)) or "block" in entry.command
    else:
        assert isinstance(meaning, Refused)
        assert not meaning.retry_later
        assert "usage:" not in meaning.reason


def test_a_sites_own_words_come_whole() -> None:
    (entry,) = [entry for entry in ANSWERS if "-q short -- /bin/true" in entry.command]

    meaning = PLUGIN.parse_submit(an_array(), entry.reply)

    assert meaning == Refused(
        "PBS refused the job array: site policy: walltime required; see https://docs.example/walltime"
    )


@pytest.mark.parametrize("said", ["invalid option -- 't'", "option requires an argument -- 't'", "illegal -t value"])
def test_an_option_that_qsub_has_not_leads_to_extra(said: str) -> None:
    meaning = PLUGIN.parse_submit(an_array(), a_reply("", f"qsub: {said}\nusage: qsub [-a date_time]\n", 2))

    assert meaning == Refused(
        f"PBS refused the job array: {said}. qsub has no -t, or not with that: look at extra= and at clusters.toml."
    )


def test_too_large_an_array_says_what_to_change() -> None:
    (entry,) = [entry for entry in ANSWERS if "-J 0-10000" in entry.command]

    meaning = PLUGIN.parse_submit(an_array(width=10001), entry.reply)

    assert isinstance(meaning, Refused) and "lower max_width" in meaning.reason


def test_a_full_queue_is_tried_again() -> None:
    said = "qsub: would exceed complex's per-user limit of jobs in 'Q' state\n"

    meaning = PLUGIN.parse_submit(an_array(), a_reply("", said, 190))

    assert isinstance(meaning, Refused) and meaning.retry_later


def test_torque_is_recognised_by_its_option() -> None:
    meaning = PLUGIN.parse_submit(an_array(), a_reply("", "qsub: invalid option -- 'J'\nusage: qsub\n", 2))

    assert isinstance(meaning, Refused) and "Torque" in meaning.reason


@pytest.mark.parametrize(
    ("stdout", "stderr", "code"),
    [
        ("", "", None),
        ("", "", 0),
        ("26[].pbs0", "", 0),
        ("26\n", "", 0),
        ("26[].pbs01\nbye\n", "", 0),
        ("26[].pbs01\n", "", 1),
        ("", "Connection refused\nqsub: cannot connect to server pbs01 (errno=15010)\n", 162),
        ("", "qsub: End of File\n", 1),
        ("", "something else\n", 170),
        ("", "qsub: Unknown queue\n", 255),
    ],
)
def test_what_is_on_no_list_is_in_doubt(stdout: str, stderr: str, code: int | None) -> None:
    assert isinstance(PLUGIN.parse_submit(an_array(), a_reply(stdout, stderr, code)), Ambiguous)


def test_chatter_of_a_hook_before_the_id_is_borne() -> None:
    said = a_reply("Welcome to the cluster\n26[].pbs01.site.org\n")

    assert PLUGIN.parse_submit(an_array(), said) == Accepted(JobId("26"))


def test_a_qsub_that_is_not_there_is_said() -> None:
    meaning = PLUGIN.parse_submit(an_array(), a_reply("", "qsub: command not found", 127))

    assert isinstance(meaning, Refused) and "not found" in meaning.reason
