"""What a Slurm cluster says about itself, and what scancel's answers mean."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcflow.core.model import ArrayLimits, HpcflowError, JobId, Limits, Partition
from hpcflow.core.plugin import Reply
from tests.unit.scheduler_replies import PLUGIN, a_reply, an_array, transcript

MARK: Final = "=== hpcflow 5c1f27e0 ===\n"


def config(
    *, max_array_size: str = "1001", storage: str = "accounting_storage/slurmdbd", scheduler: str = "bf_continue"
) -> str:
    return (
        "Configuration data as of 2026-11-23T14:48:37\n"
        f"AccountingStorageType   = {storage}\n"
        "ClusterName             = mini\n"
        "EnforcePartLimits       = NO\n"
        f"MaxArraySize            = {max_array_size}\n"
        "MaxJobCount             = 50000\n"
        "MinJobAge               = 300 sec\n"
        f"SchedulerParameters     = {scheduler}\n"
        "SLURM_VERSION           = 22.05.8\n"
        "\n"
        "Slurmctld(primary) at vm is UP\n"
    )


def answer(*nodes: str, text: str | None = None) -> Reply:
    rows = "".join(line + "\n" for line in nodes)
    return a_reply(f"{text or config()}{MARK}{rows}{MARK}")


NODES: Final = (
    "debug*|5:00|1-infinite|4|16|32000|gpu:fake:4|NO",
    "batch|2-00:00:00|1-4|3|16|32000|(null)|FORCE:4",
    "batch|2-00:00:00|1-4|1|64|512000|gpu:a100:4(S:0-1),gpu:v100:2,shard:8|FORCE:4",
    "long|infinite|1|2|48+|190000+|craynetwork:4|EXCLUSIVE",
)


def test_a_cluster_tells_versions_sizes_and_partitions() -> None:
    assert PLUGIN.parse_limits(answer(*NODES)) == Limits(
        array=ArrayLimits(max_width=1001),
        partitions=(
            Partition(
                name="debug",
                is_default=True,
                max_walltime_s=300,
                cpus_per_node=16,
                memory_mib_per_node=31968,
                gpus_per_node=4,
                total_nodes=4,
            ),
            Partition(
                name="batch",
                max_walltime_s=172800,
                max_nodes=4,
                cpus_per_node=64,
                memory_mib_per_node=511968,
                gpus_per_node=6,
                total_nodes=4,
            ),
            Partition(
                name="long",
                max_nodes=1,
                cpus_per_node=48,
                memory_mib_per_node=189968,
                gpus_per_node=0,
                total_nodes=2,
                exclusive=True,
            ),
        ),
        scheduler="slurm",
        version="22.05.8",
        accounting=True,
        notes={"ClusterName": "mini", "EnforcePartLimits": "NO", "MaxJobCount": "50000", "MinJobAge": "300 sec"},
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5:00", 300), ("1:00:00", 3600), ("30:00", 1800), ("7-12:30:15", 649815), ("infinite", None), ("n/a", None)],
)
def test_a_partitions_walltime_is_seconds(text: str, seconds: int | None) -> None:
    limits = PLUGIN.parse_limits(answer(f"debug|{text}|1-infinite|4|16|32000|(null)|NO"))

    assert limits.partitions[0].max_walltime_s == seconds


@pytest.mark.parametrize(
    ("scheduler", "width"), [("max_array_tasks=100,bf_continue", 100), ("bf_continue,max_array_tasks=5000", 1001)]
)
def test_the_smaller_of_two_array_limits_holds(scheduler: str, width: int) -> None:
    assert PLUGIN.parse_limits(answer(text=config(scheduler=scheduler))).array.max_width == width


@pytest.mark.parametrize("storage", ["accounting_storage/none", "(null)", "accounting_storage/filetxt"])
def test_only_slurmdbd_counts_as_accounting(storage: str) -> None:
    assert PLUGIN.parse_limits(answer(text=config(storage=storage))).accounting is False


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (a_reply("", "sh: 1: scontrol: not found", 127), "There is no Slurm here"),
        (a_reply("", "slurm_load_ctl_conf error: Unable to contact slurm controller", 1), "Unable to contact"),
        (a_reply("", "a deadline passed", None), "a deadline passed"),
        (a_reply(config()), "did not tell its limits"),
        (answer(text=config(max_array_size="0")), "job arrays turned off"),
        (answer(text="MaxJobCount = 5\n"), "names no MaxArraySize"),
    ],
)
def test_no_answer_about_limits_is_an_error_in_a_sentence(reply: Reply, sentence: str) -> None:
    with pytest.raises(HpcflowError, match=sentence):
        PLUGIN.parse_limits(reply)


WHOLE: Final = answer(*NODES)


@given(st.integers(0, len(WHOLE.stdout)))
def test_cut_limits_are_the_limits_or_an_error(cut: int) -> None:
    try:
        limits = PLUGIN.parse_limits(Reply(0, WHOLE.stdout[:cut]))
    except HpcflowError:
        return
    assert limits == PLUGIN.parse_limits(WHOLE)


@given(st.binary(max_size=300))
def test_noise_is_no_limits(noise: bytes) -> None:
    with pytest.raises(HpcflowError):
        PLUGIN.parse_limits(Reply(0, noise))


def test_a_controller_that_is_up_names_itself() -> None:
    up = a_reply("slurm-wlm 22.05.8\nSlurmctld(primary) at vm is UP\n")
    backup = a_reply("slurm 23.11.4\nSlurmctld(primary) at a1 is DOWN\nSlurmctld(backup) at a2 is UP\n")

    assert PLUGIN.parse_probe(up) == "Slurm 22.05.8, controller vm"
    assert PLUGIN.parse_probe(backup) == "Slurm 23.11.4, controller a2"


def test_a_controller_that_is_down_is_an_error_in_a_sentence() -> None:
    (down,) = [entry for entry in transcript("ctld_down") if entry.command == "scontrol ping"]

    with pytest.raises(HpcflowError, match="controller is down"):
        PLUGIN.parse_probe(down.reply)
    with pytest.raises(HpcflowError, match="no Slurm here"):
        PLUGIN.parse_probe(a_reply("", "sh: 1: scontrol: not found", 127))
    with pytest.raises(HpcflowError, match="did not answer"):
        PLUGIN.parse_probe(a_reply("", "", None))


def test_a_slurm_that_is_installed_and_not_set_up_is_told_from_one_that_is_down() -> None:
    # Slurm 22.05.8 of Debian 12 without any slurm.conf
    said = (
        "scontrol: error: resolve_ctls_from_dns_srv: res_nsearch error: Unknown host\n"
        "scontrol: error: fetch_config: DNS SRV lookup failed\n"
        "scontrol: error: _establish_config_source: failed to fetch config\n"
        "scontrol: fatal: Could not establish a configuration source\n"
    )

    with pytest.raises(HpcflowError, match=r"^Slurm is installed on this machine and not set up: .* no slurm\.conf"):
        PLUGIN.parse_probe(a_reply("slurm-wlm 22.05.8\n", said, 1))


# ---- cancel


def test_pending_array_tasks_with_known_ids_cost_one_command() -> None:
    arrays = [an_array("a-1", job_id="17"), an_array("a-2", job_id="18")]

    assert PLUGIN.cancel(arrays, pending_only=True).argv == ("scancel", "--state=PENDING", "17", "18")


@pytest.mark.parametrize("pending_only", [True, False])
def test_unknown_ids_are_looked_up_by_name(pending_only: bool) -> None:
    arrays = [an_array("a-1", job_id="17"), an_array("a-2")]

    command = PLUGIN.cancel(arrays, pending_only=pending_only)

    assert command.argv[:2] == ("sh", "-c")
    assert command.argv[3:] == ("hpcflow-cancel", "a-1,a-2", "--state=PENDING" if pending_only else "", "", "17")
    assert PLUGIN.cancel([an_array("b")], pending_only=pending_only).argv[2] == command.argv[2]


def test_every_cancel_of_running_work_looks_for_duplicates() -> None:
    argv = PLUGIN.cancel([an_array("a-1", job_id=JobId("17"))], pending_only=False).argv

    assert "squeue" in argv[2]
    assert argv[3:] == ("hpcflow-cancel", "a-1", "", "", "17")


def test_a_cancel_speaks_to_the_cluster_that_has_the_array_and_to_no_other() -> None:
    there = [an_array("a-1", job_id="17", extra=("--clusters=joltik",)), an_array("a-2", extra=("-Mjoltik",))]
    here = an_array("a-3", job_id="17")

    assert PLUGIN.cancel(there[:1], pending_only=True).argv == ("scancel", "--clusters=joltik", "--state=PENDING", "17")
    assert PLUGIN.cancel([*there, here], pending_only=False).argv[3:] == (
        *("hpcflow-cancel", "a-1,a-2", "", "--clusters=joltik", "17"),
    )
    assert PLUGIN.cancel([here, *there], pending_only=False).argv[3:] == ("hpcflow-cancel", "a-3", "", "", "17")


def run_release(folder: Path, said: str, exit_code: int) -> tuple[int, str, str]:
    """Run the command for two arrays with an scontrol that says this; return status, arguments seen and stderr."""
    scontrol = folder / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >{folder}/seen\ncat >&2 <<"EOF"\n{said}EOF\nexit {exit_code}\n')
    scontrol.chmod(0o755)
    command = PLUGIN.release([an_array("a-1", job_id="17"), an_array("a-2", job_id="18")])
    assert command is not None
    path = f"{folder}:/usr/bin:/bin"
    ended = subprocess.run(command.argv, env={"PATH": path}, capture_output=True, text=True, check=False)
    return ended.returncode, (folder / "seen").read_text(), ended.stderr


@pytest.mark.parametrize(
    ("said", "exit_code"),
    [
        ("", 0),
        ("17_0-2: No error\n17_3: Job has already finished\n", 1),
        ("slurm_suspend error: Invalid job id specified\n", 1),
    ],
)
def test_a_release_is_done_though_scontrol_lists_what_runs_or_has_ended(
    tmp_path: Path, said: str, exit_code: int
) -> None:
    assert run_release(tmp_path, said, exit_code) == (0, "release 17 18\n", "")


def test_a_release_that_is_denied_is_said(tmp_path: Path) -> None:
    said = "17_0-3: Access/permission denied\n18_0: No error\n"

    assert run_release(tmp_path, said, 1) == (1, "release 17 18\n", "17_0-3: Access/permission denied\n")


def test_a_release_speaks_to_the_cluster_that_has_the_array() -> None:
    command = PLUGIN.release([an_array("a-1", job_id="17", extra=("--clusters=joltik",)), an_array("b", job_id="9")])

    assert command is not None
    assert command.argv[3:] == ("hpcflow-release", "--clusters=joltik", "17")


@pytest.mark.parametrize(
    ("stderr", "exit_code"),
    [
        ("", 0),
        ("scancel: error: Kill job error on job id 2: Invalid job id specified\n", 1),
        ("scancel: error: Kill job error on job id 2_[0-3]: Job/step already completing or completed\n", 1),
    ],
)
def test_what_is_gone_counts_as_cancelled(stderr: str, exit_code: int) -> None:
    assert PLUGIN.parse_cancel(a_reply("", stderr, exit_code)) is None


@pytest.mark.parametrize(
    ("stderr", "exit_code"),
    [
        ("", 1),
        ("", None),
        ("scancel: error: Invalid job id notajob\n", 1),
        ("scancel: error: Kill job error on job id 1: Access/permission denied\n", 210),
        ("scancel: error: Kill job error on job id 1: Unable to contact slurm controller (connect failure)\n", 8),
        (
            "scancel: error: Kill job error on job id 1: Invalid job id specified\n"
            "scancel: error: Kill job error on job id 2: Access/permission denied\n",
            1,
        ),
        ("slurm_load_jobs error: Socket timed out on send/recv operation\n", 75),
    ],
)
def test_what_may_still_run_is_said(stderr: str, exit_code: int | None) -> None:
    said = PLUGIN.parse_cancel(a_reply("", stderr, exit_code))

    assert said is not None
    assert said.startswith("scancel")
