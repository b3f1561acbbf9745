"""Submitting to LSF: the command, the script, and what bsub's reply means."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from hpcflow.core.model import JobArray, JobId, Resources, UserError
from hpcflow.core.plugin import Accepted, Ambiguous, Refused
from hpcflow_lsf import LsfPlugin
from tests.unit.transcripts import Entry, a_reply, an_array, transcript

PLUGIN: Final = LsfPlugin(python="/usr/bin/python3", worker="/home/ada/worker.pyz", root="/home/ada/.hpcflow")
EVERYTHING: Final = Resources(
    nodes=2,
    ntasks=6,
    cpus=4,
    memory_mib=8000,
    gpus=2,
    walltime_s=600,
    partition="batch",
    account="proj",
    constraint="type==X86_64",
    reservation="school",
    licenses="matlab:2",
    exclude="n7,n8",
    extra=("-sp 50", "-x"),
)


def options(array: JobArray) -> list[str]:
    return list(PLUGIN.submit(array).argv)


# ---- the command


def test_every_annotation_is_an_option_of_bsub() -> None:
    array = an_array(resources=EVERYTHING, worker_walltime_s=3661, extra=("-app big",))

    assert options(replace(array, avoid=("n9", "n7"))) == [
        "bsub",
        "-r",
        *("-J", "relax-01JD[1-4]"),
        *("-q", "batch"),
        *("-P", "proj"),
        *("-U", "school"),
        *("-o", "/dev/null"),
        *("-n", "24"),
        *("-W", "62"),
        *("-M", "8032MB"),
        *("-gpu", "num=2"),
        *("-R", "span[ptile=12]"),
        *("-R", "rusage[mem=8032MB,matlab=2]"),
        *("-R", "select[(type==X86_64) && hname!='n7' && hname!='n8' && hname!='n9']"),
        *("-app", "big"),
        *("-sp", "50"),
        "-x",
    ]


def test_what_is_not_asked_for_is_left_to_the_cluster() -> None:
    assert options(an_array(worker_walltime_s=60)) == [
        *("bsub", "-r", "-J", "relax-01JD[1-4]", "-o", "/dev/null", "-n", "1", "-W", "1", "-R", "span[hosts=1]")
    ]


def test_hosts_of_ones_own_are_an_option() -> None:
    assert options(replace(an_array(), exclusive=True))[:3] == ["bsub", "-r", "-x"]


def test_a_single_worker_is_an_array_too() -> None:
    assert "relax-01JD[1]" in options(an_array(width=1))


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        (Resources(qos="high"), "qos='high' means nothing to LSF"),
        (Resources(constraint="select[ib]"), "the inside of select"),
        (Resources(exclude="n[1-2]"), "a list of hosts"),
        (Resources(licenses="matlab"), '"name:count,name:count"'),
        (Resources(partition="-x"), "is empty, an option"),
        (Resources(account="a\nb"), "has a control character"),
        (Resources(extra=("-J other",)), "finds its arrays again"),
        (Resources(extra=("-W 10",)), "write walltime="),
        (Resources(extra=("-R span[hosts=2]",)), "write nodes="),
        (Resources(extra=("-R rusage[mem=2]",)), "write memory="),
        (Resources(extra=("-w done(1)",)), "orders tasks by itself"),
        (Resources(extra=("-x rm",)), "takes 'rm' for the command"),
        (Resources(extra=("-sp",)), "needs a value"),
        (Resources(extra=("rm",)), "write an option and its value"),
        (Resources(extra=("--app=dft",)), "bsub's options have one dash."),
        (Resources(extra=("--queue=long",)), "That is -q of bsub's: write partition="),
        (Resources(extra=("-queue long",)), "That is -q of bsub's: write partition="),
        (Resources(extra=("--datagrpp=x",)), "Did you mean -datagrp?"),
    ],
)
def test_what_lsf_has_not_or_hpcflow_needs_is_refused_in_a_sentence(resources: Resources, words: str) -> None:
    with pytest.raises(UserError, match=words.replace("(", r"\(")):
        PLUGIN.submit(an_array(resources=resources))


def test_a_name_that_lsf_would_refuse_is_refused_before() -> None:
    for token in ("a b", "a[1]", "a/b", "", "x" * 201):
        with pytest.raises(UserError, match="name of an LSF job"):
            PLUGIN.submit(an_array(token))


# ---- the script


def test_the_script_tells_the_worker_which_array_task_it_is(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    command = ("sh", "-c", 'echo "$HPCFLOW_JOB $HPCFLOW_INDEX"; kill -INT $$; echo lives')
    script = PLUGIN.submit(replace(an_array(path=str(tmp_path)), command=command)).stdin

    environment = {"PATH": "/usr/bin:/bin", "LSB_JOBID": "5", "LSB_JOBINDEX": "3"}
    subprocess.run(["/bin/sh"], input=script, env=environment, check=True)

    (log,) = (tmp_path / "logs").iterdir()
    assert (log.name, log.read_text()) == ("5_2.log", "5 2\nlives\n")


def test_a_prologue_runs_in_a_login_shell() -> None:
    script = PLUGIN.submit(an_array(prologue="module load python")).stdin.decode()

    assert script.startswith("#!/bin/bash -l\n")
    assert script.index("module load python") < script.index("exec /usr/bin/python3")


# ---- the reply


ANSWERS: Final = transcript("lsf", "openlava_bsub")


@pytest.mark.parametrize("entry", ANSWERS, ids=lambda entry: entry.command[:60])
def test_recorded_answers_are_taken_refused_or_in_doubt(entry: Entry) -> None:
    meaning = PLUGIN.parse_submit(an_array(), entry.reply)

    if entry.reply.stdout:
        number = entry.reply.stdout.decode().partition("<")[2].partition(">")[0]
        assert meaning == Accepted(JobId(number))
    elif "library call" in entry.reply.stderr.decode():
        assert isinstance(meaning, Ambiguous)
    else:
        assert isinstance(meaning, Refused) and not meaning.retry_later


def test_too_large_an_array_says_what_to_change() -> None:
    (entry,) = [entry for entry in ANSWERS if "big[1-2000]" in entry.command]

    meaning = PLUGIN.parse_submit(an_array(width=2000), entry.reply)

    assert isinstance(meaning, Refused) and "lower max_width" in meaning.reason


def test_a_full_queue_is_tried_again() -> None:
    said = "User <ada>: Pending job limit reached. Job not submitted.\n"

    meaning = PLUGIN.parse_submit(an_array(), a_reply("", said, 255))

    assert isinstance(meaning, Refused) and meaning.retry_later


def test_a_sites_own_words_come_whole() -> None:
    said = "Please add a project.\nSee https://docs.example\nRequest aborted by esub. Job not submitted.\n"

    meaning = PLUGIN.parse_submit(an_array(), a_reply("", said, 255))

    assert isinstance(meaning, Refused)
    assert "Please add a project.; See https://docs.example;" in meaning.reason


@pytest.mark.parametrize(
    ("stdout", "stderr", "code"),
    [
        ("", "", None),
        ("", "", 0),
        ("", "", 255),
        ("Job <5", "", 0),
        ("Job <5> is submitted to queue <a>.\nJob <6> is submitted to queue <a>.\n", "", 0),
        ("Job <5> is submitted to queue <a>.\n", "", 255),
        ("", "LSF daemon not responding. Job not submitted.\n", 255),
        ("", "Cannot connect to LSF. Please wait ...\n", 255),
    ],
)
def test_what_is_on_no_list_is_in_doubt(stdout: str, stderr: str, code: int | None) -> None:
    assert isinstance(PLUGIN.parse_submit(an_array(), a_reply(stdout, stderr, code)), Ambiguous)


@pytest.mark.parametrize(
    ("option", "meant"), [("datagrpp", " Did you mean -datagrp?"), ("y", ""), ("memory", " Did you mean -M?")]
)
def test_an_option_that_bsub_has_not_is_a_refusal_and_no_doubt(option: str, meant: str) -> None:
    said = f"bsub: illegal option -- {option}\nUsage: bsub [options] command [arguments]\n"

    meaning = PLUGIN.parse_submit(an_array(), a_reply("", said, 255))

    assert meaning == Refused(
        f"LSF refused the job array: bsub has no option -{option}, or not without a value: look at extra= and at "
        f"clusters.toml.{meant}"
    )


def test_chatter_around_the_id_is_borne() -> None:
    said = a_reply(
        "Cannot connect to LSF. Please wait ...\nProject proj is charged.\n"
        "Job <5> is submitted to default queue <normal>.\nLogs in /tmp\n"
    )

    assert PLUGIN.parse_submit(an_array(), said) == Accepted(JobId("5"))


def test_a_bsub_that_is_not_there_is_said() -> None:
    meaning = PLUGIN.parse_submit(an_array(), a_reply("", "bsub: command not found", 127))

    assert isinstance(meaning, Refused) and "not found" in meaning.reason
