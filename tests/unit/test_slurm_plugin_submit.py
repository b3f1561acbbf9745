"""Submitting to Slurm: the command, the script, and what sbatch's reply means."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcflow import __version__
from hpcflow.core.model import JobArray, JobId, Resources, UserError
from hpcflow.core.plugin import Accepted, Ambiguous, Refused, Reply
from tests.unit.scheduler_replies import DATA, PLUGIN, Entry, a_reply, an_array, transcript

EVERYTHING = Resources(
    nodes=2,
    ntasks=6,
    cpus=4,
    memory_mib=8000,
    gpus=2,
    walltime_s=600,
    partition="batch",
    account="proj",
    qos="high",
    constraint="skylake&ib",
    reservation="school",
    licenses="matlab:1",
    exclude="node[7-9]",
    extra=("--nice=100", "--exclusive"),
)


def options(array: JobArray) -> list[str]:
    return list(PLUGIN.submit(array).argv)


# ---- the command


def test_every_annotation_is_one_argument_of_sbatch() -> None:
    argv = options(an_array(resources=EVERYTHING, worker_walltime_s=3661, extra=("--mail-type=NONE",)))

    assert argv == [
        "sbatch",
        "--parsable",
        "--requeue",
        "--job-name=relax-01JD",
        "--chdir=/home/ada/.hpcflow/bags/01JD",
        "--output=/home/ada/.hpcflow/bags/01JD/logs/%a.slurm",
        "--open-mode=append",
        "--dependency=singleton",
        "--nodes=2",
        "--ntasks=6",
        "--cpus-per-task=4",
        "--mem=8032M",
        "--time=62",
        "--partition=batch",
        "--account=proj",
        "--reservation=school",
        "--signal=B:USR1@60",
        "--array=0-3",
        f"--comment=hpcflow {__version__} 01JDDISPATCH",
        "--gres=gpu:2",
        "--qos=high",
        "--constraint=skylake&ib",
        "--licenses=matlab:1",
        "--exclude=node[7-9]",
        "--mail-type=NONE",
        "--nice=100",
        "--exclusive",
    ]


def test_what_is_not_asked_for_is_left_to_the_cluster() -> None:
    named = {word.partition("=")[0] for word in options(an_array(worker_walltime_s=600))}

    assert named == {
        "sbatch",
        "--parsable",
        "--requeue",
        "--job-name",
        "--chdir",
        "--output",
        "--open-mode",
        "--dependency",
        "--nodes",
        "--ntasks",
        "--cpus-per-task",
        "--time",
        "--array",
        "--comment",
    }


def test_a_single_worker_is_an_array_too() -> None:
    assert "--array=0-0" in options(an_array(width=1))


@pytest.mark.parametrize(("seconds", "minutes"), [(1, 1), (60, 1), (61, 2), (3600, 60), (86401, 1441)])
def test_walltime_is_whole_minutes_rounded_up(seconds: int, minutes: int) -> None:
    assert f"--time={minutes}" in options(an_array(worker_walltime_s=seconds))


@pytest.mark.parametrize(("nodes", "ntasks", "asked"), [(1, 1, 1), (2, 1, 2), (2, 3, 3), (3, 12, 12)])
def test_no_node_goes_without_a_process(nodes: int, ntasks: int, asked: int) -> None:
    argv = options(an_array(resources=Resources(nodes=nodes, ntasks=ntasks)))

    assert f"--nodes={nodes}" in argv
    assert f"--ntasks={asked}" in argv


def test_memory_is_per_node_whatever_the_number_of_nodes() -> None:
    for nodes in (1, 2, 7):
        assert "--mem=1056M" in options(an_array(resources=Resources(nodes=nodes, memory_mib=1024)))


def test_a_percent_sign_in_the_path_is_no_pattern_of_slurms() -> None:
    argv = options(an_array(path="/scratch/100%a/bag"))

    assert "--output=/scratch/100%%a/bag/logs/%a.slurm" in argv
    assert "--chdir=/scratch/100%a/bag" in argv


# ---- the script


@pytest.mark.parametrize("name", ["plain", "prologue"])
def test_the_script_is_the_golden_one(name: str) -> None:
    prologue = "module purge\nmodule load gcc/13\nexport OMP_NUM_THREADS=1\n" if name == "prologue" else ""

    script = PLUGIN.submit(an_array(prologue=prologue, path="/home/ada/my bags/01JD")).stdin.decode()

    assert script == (DATA / f"script_{name}.sh").read_text(encoding="utf-8")


def test_the_script_becomes_the_command_with_each_argument_as_it_was() -> None:
    words = ["a b", "$HOME", "'", '"', "`id`", "{{command}}", "{{{x}}}", "#SBATCH --array=0-99", "\\", "ü", "*"]
    array = replace(an_array(), command=("/usr/bin/printf", "%s\\n", *words))

    script = PLUGIN.submit(array).stdin

    ran = subprocess.run(["/bin/sh"], input=script, capture_output=True, check=True)

    assert ran.stdout.decode().splitlines() == words


def test_no_directive_of_the_script_reaches_sbatch() -> None:
    script = PLUGIN.submit(an_array(prologue="#SBATCH --partition=gold\ntrue")).stdin.decode()

    # sbatch stops looking at the first line that is neither a comment nor empty.
    head = re.split(r"^(?![#\s])", script, maxsplit=1, flags=re.MULTILINE)[0]
    assert "#SBATCH" not in head


# ---- extra


@pytest.mark.parametrize(
    "word",
    [
        "--array=0-9",
        "--arr=0-9",
        "-a0-9",
        "-J",
        "-Jmine",
        "-Hpdebug",
        "--job-name=x",
        "--output=/tmp/x",
        "-o/tmp/x",
        "--wrap=id",
        "--parsable",
        "-d",
        "-dafterok:1",
        "--time=1",
        "-pbatch",
        "--partition=batch",
        "--clusters=all",
        "-Mall",
        "--wait",
        "-HW",
        "--signal=USR2@10",
        "--",
        "-",
        "script.sh",
        "100",
        "",
        "--nice=1\n2",
        "--nice=\0",
    ],
)
@pytest.mark.parametrize("where", ["task", "cluster"])
def test_an_extra_argument_that_is_hpcflows_own_is_refused_in_a_sentence(word: str, where: str) -> None:
    array = (
        an_array(resources=Resources(extra=("--nice=1", word)))
        if where == "task"
        else an_array(extra=("--nice=1", word))
    )

    with pytest.raises(UserError, match=r"^(extra=|clusters\.toml) has .*\.$") as caught:
        PLUGIN.submit(array)

    assert repr(word) in str(caught.value)


@pytest.mark.parametrize(
    "word", ["--nice=100", "--exclusive", "--gres=gpu:a100:1", "--mem=0", "--hint=nomultithread", "-H", "-Q", "-S2"]
)
def test_an_extra_argument_that_is_nobodys_comes_last(word: str) -> None:
    assert options(an_array(resources=Resources(extra=(word,))))[-1] == word


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("--error=x", "beside its bag"),
        ("-e/tmp/x", "beside its bag"),
        ("--input=x", "its own input"),
        ("--no-requeue", "always requeued"),
        ("--export=NONE", "its own environment"),
        ("--uid=0", "run as you"),
        ("--time-min=5", "write walltime="),
        ("--ntasks-per-node=2", "write nodes= and ntasks="),
    ],
)
def test_what_hpcflow_decides_for_tasks_is_left_to_clusters_toml(word: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        PLUGIN.submit(an_array(resources=Resources(extra=(word,))))
    assert word in options(an_array(extra=(word,)))


def test_clusters_toml_may_name_one_other_cluster_and_a_task_none() -> None:
    assert options(an_array(extra=("--clusters=joltik",)))[-1] == "--clusters=joltik"
    for extra in ("--clusters=all", "--clusters=joltik,doduo", "-Mall", "-M"):
        with pytest.raises(UserError, match="name one cluster"):
            options(an_array(extra=(extra,)))
    with pytest.raises(UserError, match="name one cluster"):
        options(an_array(resources=Resources(extra=("--clusters=joltik",))))


@pytest.mark.parametrize(
    ("exclude", "avoid", "asked"),
    [
        (None, (), None),
        ("node[7-9]", (), "node[7-9]"),
        (None, ("node3", "node1", "node3"), "node3,node1"),
        ("node[7-9]", ("node3", "node[1-2]"), "node[7-9],node3,node[1-2]"),
        ("/home/ada/bad_nodes", ("node3",), "/home/ada/bad_nodes"),
        (None, ("node 3", "--nice=1", "", "node4"), "node4"),
    ],
)
def test_nodes_to_avoid_join_those_that_the_task_excludes(
    exclude: str | None, avoid: tuple[str, ...], asked: str | None
) -> None:
    argv = options(replace(an_array(resources=Resources(exclude=exclude)), avoid=avoid))

    assert [word for word in argv if word.startswith("--exclude")] == ([f"--exclude={asked}"] if asked else [])


def test_extra_memory_and_gpus_collide_with_the_annotations_only() -> None:
    with pytest.raises(UserError, match="memory= is set already"):
        PLUGIN.submit(an_array(resources=Resources(memory_mib=100, extra=("--mem-per-cpu=1G",))))
    with pytest.raises(UserError, match="gpus= is set already"):
        PLUGIN.submit(an_array(resources=Resources(gpus=1, extra=("-G1",))))


@pytest.mark.parametrize(
    "resources",
    [Resources(partition="a\nb"), Resources(account=""), Resources(exclude="\0"), Resources(constraint="x\ry")],
)
def test_a_text_with_control_characters_never_reaches_slurm(resources: Resources) -> None:
    with pytest.raises(UserError, match="can't be passed to Slurm"):
        PLUGIN.submit(an_array(resources=resources))


@pytest.mark.parametrize("token", ["", "a b", "a,b", "-x", "a\nb", "x" * 201, "été"])
def test_a_token_that_is_no_job_name_is_refused(token: str) -> None:
    with pytest.raises(UserError, match="can't be the name of a Slurm job"):
        PLUGIN.submit(an_array(token))


def test_a_prologue_with_dos_line_ends_is_refused_before_sbatch_does() -> None:
    with pytest.raises(UserError, match="carriage return"):
        PLUGIN.submit(an_array(prologue="module load gcc\r\n"))


# ---- the reply


@pytest.mark.parametrize(
    ("stdout", "job_id"),
    [
        ("3393\n", "3393"),
        ("3395;mini\n", "3395"),
        ("3393\r\n", "3393"),
        ("Welcome to Mars\n3393\n", "3393"),
        ("Submitted batch job 3392\n", "3392"),
        ("Submitted batch job 3392 on cluster nautilus\n", "3392"),
    ],
)
def test_an_id_on_the_last_line_is_accepted(stdout: str, job_id: str) -> None:
    assert PLUGIN.parse_submit(an_array(), a_reply(stdout)) == Accepted(JobId(job_id))


@pytest.mark.parametrize(
    "reply",
    [
        a_reply(""),
        a_reply("3393"),
        a_reply("3393\nbye\n"),
        a_reply("quota: 81 of 100\n"),
        a_reply("0\n"),
        a_reply("3393_4\n"),
        a_reply(b"33\xff93\n"),
        a_reply("3393\n", exit_code=1),
        a_reply("3393\n", exit_code=None),
        a_reply("", "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation\n", 1),
        a_reply("", "sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received\n", 1),
        a_reply("", "sbatch: error: Batch job submission failed: Unexpected message received\n", 1),
        a_reply("", "the connection was cut", None),
        a_reply("", "", 143),
        a_reply("", "", 1),
    ],
)
def test_anything_that_is_no_answer_is_ambiguous(reply: Reply) -> None:
    assert isinstance(PLUGIN.parse_submit(an_array(), reply), Ambiguous)


def test_a_refusal_after_a_lost_first_try_is_ambiguous() -> None:
    said = (
        "sbatch: error: Socket timed out on send/recv operation\n"
        "sbatch: error: AssocMaxSubmitJobLimit\n"
        "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, ...)\n"
    )

    assert isinstance(PLUGIN.parse_submit(an_array(), a_reply("", said, 1)), Ambiguous)


def _refusals() -> list[Entry]:
    return [entry for entry in transcript("sbatch_errors") if entry.reply.exit_code and entry.reply.stderr]


@pytest.mark.parametrize("entry", _refusals(), ids=lambda entry: entry.command[:60])
def test_every_refusal_that_was_seen_is_refused(entry: Entry) -> None:
    submission = PLUGIN.parse_submit(an_array(), entry.reply)

    assert isinstance(submission, Refused)
    assert submission.retry_later == (b"SubmitJobLimit" in entry.reply.stderr)
    assert "sbatch:" not in submission.reason


def test_an_option_that_sbatch_has_not_is_told_with_the_nearest_that_it_has() -> None:
    said = "sbatch: unrecognized option '--nodelst=n1'\nTry \"sbatch --help\" for more information\n"
    submission = PLUGIN.parse_submit(an_array(), a_reply("", said, 1))
    assert isinstance(submission, Refused)
    assert "unrecognized option '--nodelst=n1'" in submission.reason
    assert submission.reason.endswith(". Did you mean --nodelist?")


def test_a_refusal_for_the_arrays_size_says_what_to_do() -> None:
    said = "sbatch: error: Batch job submission failed: Invalid job array specification\n"

    assert PLUGIN.parse_submit(an_array(width=5000), a_reply("", said, 1)) == Refused(
        "Slurm refused the job array: Invalid job array specification. "
        "5000 array tasks are more than MaxArraySize allows: lower max_width in clusters.toml.",
        too_wide=True,
    )


@pytest.mark.parametrize(
    ("said", "retry_later"),
    [
        ("sbatch: error: QOSMaxSubmitJobPerUserLimit", True),
        ("sbatch: error: AssocGrpSubmitJobsLimit", True),
        ("sbatch: error: QOSMaxWallDurationPerJobLimit", False),
        ("sbatch: error: AssocMaxCpuPerJobLimit", False),
        ("", True),
    ],
)
def test_a_full_queue_is_tried_again_and_a_job_too_large_is_not(said: str, retry_later: bool) -> None:
    policy = "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, ...)"

    submission = PLUGIN.parse_submit(an_array(), a_reply("", f"{said}\n{policy}\n", 1))

    assert isinstance(submission, Refused)
    assert submission.retry_later is retry_later


def test_a_controller_that_is_down_leaves_it_open() -> None:
    down = transcript("ctld_down")[0]

    assert down.command.endswith("sbatch --parsable --wrap true")
    assert isinstance(PLUGIN.parse_submit(an_array(), down.reply), Ambiguous)


def test_sbatch_missing_from_path_is_a_refusal_in_a_sentence() -> None:
    submission = PLUGIN.parse_submit(an_array(), a_reply("", "sh: 1: sbatch: command not found", 127))

    assert isinstance(submission, Refused)
    assert not submission.retry_later
    assert submission.reason.startswith("sbatch was not found")


@given(st.integers(0, 200), st.sampled_from([0, 1, 255, None]), st.sampled_from(_refusals()))
def test_a_cut_refusal_is_never_an_acceptance(cut: int, exit_code: int | None, entry: Entry) -> None:
    reply = Reply(exit_code, b"", entry.reply.stderr[:cut])

    assert not isinstance(PLUGIN.parse_submit(an_array(), reply), Accepted)


@given(st.binary(max_size=40), st.sampled_from([b"", b"8123\n", b"8123;mini\n"]), st.binary(max_size=40))
def test_noise_around_an_id_never_makes_another_id(before: bytes, answer: bytes, after: bytes) -> None:
    stdout = before + answer + after
    lines = stdout.rstrip(b"\r\n").split(b"\n")
    submission = PLUGIN.parse_submit(an_array(), Reply(0, stdout, b""))

    if isinstance(submission, Accepted):
        assert stdout.endswith(b"\n")
        assert re.match(
            rb"(?:Submitted batch job )?" + submission.job_id.encode() + rb"(?:;| on cluster |\r?$)", lines[-1]
        )


@given(st.integers(0, 4))
def test_a_cut_id_is_nobodys_id(cut: int) -> None:
    assert isinstance(PLUGIN.parse_submit(an_array(), Reply(0, b"8123\n"[:cut], b"")), Ambiguous)
