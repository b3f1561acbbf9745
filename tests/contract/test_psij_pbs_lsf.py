"""The members of PSI/J's PBS and LSF executors that hpcflow stands on, and the faults for which it goes its own way."""

from __future__ import annotations

import inspect
import json
import signal
import threading
from pathlib import Path

import pytest
from psij import JobState, ResourceSpecV1, SubmitException
from psij.executors.batch.batch_scheduler_executor import BatchSchedulerExecutor
from psij.executors.batch.lsf import LsfJobExecutor
from psij.executors.batch.pbs import PBSJobExecutor

from hpcflow.core.model import Resources
from hpcflow_lsf.jobs import LsfJobs
from hpcflow_pbs.jobs import PbsJobs
from tests.unit.transcripts import an_array, recorded

OURS = (PbsJobs, LsfJobs)
STOCK = {PbsJobs: PBSJobExecutor, LsfJobs: LsfJobExecutor}


@pytest.fixture(autouse=True)
def _sigchld() -> None:
    """Give SIGCHLD back after psij was imported here: its handler would start a thread at the next child's end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


@pytest.mark.parametrize("ours", OURS)
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("generate_submit_script", ["self", "job", "context", "submit_file"]),
        ("get_submit_command", ["self", "job", "submit_file_path"]),
        ("get_cancel_command", ["self", "native_id"]),
        ("job_id_from_submit_output", ["self", "out"]),
        ("_start_queue_poll_thread", ["self"]),
        ("_run_command", ["self", "cmd"]),
        ("submit", ["self", "job"]),
    ],
)
def test_each_member_that_we_call_or_shut_is_there(
    ours: type[PbsJobs | LsfJobs], name: str, parameters: list[str]
) -> None:
    assert issubclass(ours, STOCK[ours]) and issubclass(ours, BatchSchedulerExecutor)
    assert list(inspect.signature(getattr(STOCK[ours], name)).parameters) == parameters


@pytest.mark.parametrize("ours", OURS)
def test_the_renderer_starts_no_thread_makes_no_directory_and_refuses_to_act(
    ours: type[PbsJobs | LsfJobs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    before = threading.active_count()
    array = an_array(prologue="true", resources=Resources(gpus=1))

    jobs = ours()
    script = jobs.script(array)
    job = jobs.job(array, place=None) if isinstance(jobs, PbsJobs) else jobs.job(array)

    assert script.rstrip().rpartition("\n")[2].startswith("exec ")
    assert threading.active_count() == before
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(NotImplementedError):
        jobs.submit(job)
    job._native_id = "17"
    with pytest.raises(NotImplementedError):
        jobs.cancel(job)


@pytest.mark.parametrize("ours", OURS)
def test_the_renderer_knows_what_an_array_is_in_psijs_words(ours: type[PbsJobs | LsfJobs]) -> None:
    jobs = ours()
    array = an_array(resources=Resources(nodes=2, ntasks=6, cpus=4, memory_mib=1000, gpus=2, account="proj"))

    spec = (jobs.job(array, place=None) if isinstance(jobs, PbsJobs) else jobs.job(array)).spec

    assert spec is not None
    assert spec.attributes is not None
    assert isinstance(spec.resources, ResourceSpecV1)
    assert (spec.name, spec.attributes.account) == ("relax-01JD", "proj")
    assert (spec.resources.node_count, spec.resources.process_count) == (2, 6)
    assert (spec.resources.cpu_cores_per_process, spec.resources.gpu_cores_per_process) == (4, 2)
    assert spec.resources.memory == 2 * 1032 * 2**20


# ---- the faults for which the stock executors are not asked


class StockPbs(PBSJobExecutor):
    """PSI/J's own executor, without its thread."""

    _NAME_ = "pbs"

    def _start_queue_poll_thread(self) -> None:  # type: ignore[override]  # the thread is not made
        return None


class StockLsf(LsfJobExecutor):
    """PSI/J's own executor, without its thread."""

    _NAME_ = "lsf"

    def _start_queue_poll_thread(self) -> None:  # type: ignore[override]  # the thread is not made
        return None


def test_the_stock_poller_calls_an_array_what_its_own_record_says() -> None:
    answer = recorded("pbs", "04", "qstat -f -F json 26[]").stdout.decode().replace('"B"', '"F"', 1)

    states = StockPbs().parse_status_output(0, answer)

    # Elements 1, 2, 3 and 5 had failed, each in its own way; of them it knows nothing.
    assert {name: status.state for name, status in states.items()} == {"26[].pbs01": JobState.FAILED}


def test_the_stock_poller_takes_a_job_that_never_ran_for_completed() -> None:
    answer = recorded("pbs", "13", "qstat -x -f -F json 1017.pbs01").stdout.decode()

    assert StockPbs().parse_status_output(0, answer)["1017.pbs01"].state is JobState.COMPLETED


def test_the_stock_submission_gives_bsub_a_file_that_it_reads_no_directives_from() -> None:
    job = LsfJobs().job(an_array())

    assert StockLsf(None).get_submit_command(job, Path("/tmp/job")) == ["bsub", "/tmp/job"]
    assert LsfJobs().get_submit_command(job, Path("/dev/stdin"))[-1] != "/dev/stdin"


def test_the_stock_poller_fails_on_a_job_with_a_reason() -> None:
    record = {"JOBID": "5", "STAT": "EXIT", "EXIT_REASON": "TERM_OWNER: job killed by owner"}
    record |= {"KILL_REASON": "", "SUSPEND_REASON": ""}
    answer = json.dumps({"COMMAND": "bjobs", "JOBS": 1, "RECORDS": [record]})

    with pytest.raises(KeyError):
        StockLsf(None).parse_status_output(0, answer)


def test_the_stock_id_parsers_take_any_words() -> None:
    assert StockPbs().job_id_from_submit_output("quota is 17") == "17"
    with pytest.raises(SubmitException):
        PbsJobs().job_id_from_submit_output("quota is 17\n")
    chatter = "Job <4> is your last one.\nJob <5> is submitted to default queue <normal>.\n"
    assert StockLsf(None).job_id_from_submit_output(chatter) == "4"
    assert LsfJobs().job_id_from_submit_output(chatter) == "5"
