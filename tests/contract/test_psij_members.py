"""The members of PSI/J that hpcflow stands on, and the faults for which it goes its own way.

When one of these fails after an upgrade: read what has changed, then widen or keep the pin in pyproject.toml.
"""

from __future__ import annotations

import inspect
import io
import signal
import subprocess
import sys
import threading
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path

import pytest
from psij import InvalidJobException, Job, JobAttributes, JobSpec, JobState, ResourceSpecV1, SubmitException
from psij.executors.batch.batch_scheduler_executor import (
    BatchSchedulerExecutor,
    BatchSchedulerExecutorConfig,
    _QueuePollThread,
)
from psij.executors.batch.script_generator import TemplatedScriptGenerator
from psij.executors.batch.slurm import SlurmExecutorConfig, SlurmJobExecutor

from hpcflow.core.model import Resources
from hpcflow_slurm.jobs import SlurmJobs
from tests.unit.scheduler_replies import an_array


def test_the_release_is_the_one_that_was_read() -> None:
    assert version("psij-python").startswith("0.9.11")


# ---- what we call


def test_a_job_has_the_words_we_use() -> None:
    spec = JobSpec(
        executable="/bin/true",
        arguments=["a"],
        directory="/tmp",
        name="relax-01JD",
        stdout_path="/tmp/%a.slurm",
        resources=ResourceSpecV1(node_count=2, cpu_cores_per_process=4, memory=2**30),
        attributes=JobAttributes(
            duration=timedelta(minutes=5),
            queue_name="batch",
            account="proj",
            reservation_id="school",
            custom_attributes={"slurm.qos": "high"},
        ),
    )

    assert (spec.executable, spec.arguments, spec.name) == ("/bin/true", ["a"], "relax-01JD")
    assert (str(spec.directory), str(spec.stdout_path)) == ("/tmp", "/tmp/%a.slurm")
    assert isinstance(spec.resources, ResourceSpecV1)
    assert (spec.resources.node_count, spec.resources.cpu_cores_per_process, spec.resources.memory) == (2, 4, 2**30)
    assert spec.attributes is not None
    assert spec.attributes.duration == timedelta(minutes=5)
    assert (spec.attributes.queue_name, spec.attributes.account) == ("batch", "proj")
    assert spec.attributes.reservation_id == "school"
    assert spec.attributes.custom_attributes == {"slurm.qos": "high"}
    assert Job(spec).spec is spec


def test_a_number_of_processes_that_nodes_do_not_divide_must_be_set_later() -> None:
    with pytest.raises(InvalidJobException):
        ResourceSpecV1(node_count=2, process_count=3)

    resources = ResourceSpecV1(node_count=2)
    resources.process_count = 3
    assert (resources.node_count, resources.process_count) == (2, 3)


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
def test_each_member_that_we_call_or_shut_is_there(name: str, parameters: list[str]) -> None:
    assert list(inspect.signature(getattr(SlurmJobExecutor, name)).parameters) == parameters


def test_a_template_is_rendered_with_the_escaping_that_is_asked_for(tmp_path: Path) -> None:
    template = tmp_path / "job.mustache"
    template.write_text("{{a}} {{{a}}}\n{{#no}}\nnever\n{{/no}}\n", encoding="utf-8")
    out = io.StringIO()

    generator = TemplatedScriptGenerator(SlurmExecutorConfig(), template, escape=str)
    generator.generate_submit_script(Job(), {"a": "x 'y' <z>", "no": ""}, out)

    assert out.getvalue() == "x 'y' <z> x 'y' <z>\n"


# ---- our subclass acts on nothing


def test_the_renderer_starts_no_thread_and_makes_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    before = threading.active_count()

    jobs = SlurmJobs()
    jobs.submit_argv(an_array(resources=Resources(gpus=1)), comment="hpcflow")
    jobs.script(an_array(prologue="true"))

    assert threading.active_count() == before
    assert list(tmp_path.iterdir()) == []


def test_the_renderer_refuses_to_act() -> None:
    jobs = SlurmJobs()
    job = jobs.job(an_array(job_id="17"), comment="")

    with pytest.raises(NotImplementedError):
        jobs.submit(job)
    with pytest.raises(NotImplementedError):
        jobs.list()
    job._native_id = "17"
    with pytest.raises(NotImplementedError):
        jobs.cancel(job)


def test_the_renderer_knows_what_an_array_is_in_psijs_words() -> None:
    job = SlurmJobs().job(
        an_array(resources=Resources(nodes=2, ntasks=6, cpus=4, memory_mib=1000, partition="batch", account="proj")),
        comment="hpcflow",
    )

    assert job.spec is not None
    assert (job.spec.name, job.spec.executable) == ("relax-01JD", "/usr/bin/python3")
    assert isinstance(job.spec.resources, ResourceSpecV1)
    assert job.spec.resources.process_count == 6
    assert job.spec.resources.memory == 2 * 1032 * 2**20
    assert job.spec.attributes is not None
    assert job.spec.attributes.duration == timedelta(hours=1)
    assert job.spec.attributes.queue_name == "batch"
    assert job.spec.attributes.get_custom_attribute("slurm.array") == "0-3"


# ---- the faults for which the stock executor is not asked


class StockSlurm(SlurmJobExecutor):
    """PSI/J's own executor; only the command is answered by the test, and the thread is never started."""

    _NAME_ = "slurm"

    def __init__(self, squeue: str, work_directory: Path) -> None:
        self.squeue = squeue
        super().__init__(config=SlurmExecutorConfig(work_directory=work_directory))

    def _start_queue_poll_thread(self) -> _QueuePollThread:
        assert isinstance(self.config, BatchSchedulerExecutorConfig)
        return _QueuePollThread("poll", self.config, self)

    def _run_command(self, cmd: list[str]) -> str:
        return self.squeue

    def states_after_a_poll(self, *native_ids: str) -> list[JobState]:
        jobs = [Job(JobSpec(executable="/bin/true")) for _ in native_ids]
        for job, native_id in zip(jobs, native_ids, strict=True):
            self.attach(job, native_id)
        self._queue_poll_thread._poll()
        return [job.status.state for job in jobs]


HEADER = "ARRAY_JOB_ID        ST                  REASON              \n"


def test_the_stock_poller_takes_a_job_that_it_cannot_see_for_completed(tmp_path: Path) -> None:
    assert StockSlurm(HEADER, tmp_path).states_after_a_poll("99999999") == [JobState.COMPLETED]


def test_the_stock_poller_takes_a_pending_array_for_completed(tmp_path: Path) -> None:
    pending = HEADER + "3382_[0-3]          PD                  Resources           \n"

    assert StockSlurm(pending, tmp_path).states_after_a_poll("3382") == [JobState.COMPLETED]


def test_the_stock_poller_can_be_blinded_by_another_jobs_reason(tmp_path: Path) -> None:
    running = HEADER + "17                  R                   None                \n"
    held = running + "18                  PD                  job requeued in held\n"

    assert StockSlurm(running, tmp_path).states_after_a_poll("17") == [JobState.ACTIVE]
    assert StockSlurm(held, tmp_path).states_after_a_poll("17") == [JobState.NEW]


def test_the_stock_id_parser_takes_any_last_word() -> None:
    chatter = "Submitted batch job 17 on cluster nautilus"

    assert SlurmJobExecutor.job_id_from_submit_output(SlurmJobs(), chatter) == "nautilus"
    assert SlurmJobs().job_id_from_submit_output(chatter + "\n") == "17"
    with pytest.raises(SubmitException):
        SlurmJobs().job_id_from_submit_output("quota: 17\n")


def test_the_stock_script_hides_the_exit_status_from_accounting() -> None:
    template = Path(inspect.getfile(SlurmJobExecutor)).parent / "slurm" / "slurm.mustache"

    assert template.read_text(encoding="utf-8").rstrip().endswith('.ec"')
    assert SlurmJobs().script(an_array()).rstrip().rpartition("\n")[2].startswith("exec ")


def test_importing_psij_takes_sigchld_which_the_server_gives_back() -> None:
    program = (
        "import signal, hpcflow_slurm.jobs\n"
        "print(signal.getsignal(signal.SIGCHLD) not in (signal.SIG_DFL, signal.SIG_IGN, None))"
    )

    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert said.stdout == "True\n"


@pytest.fixture(autouse=True)
def _sigchld() -> None:
    """Give SIGCHLD back after psij was imported here: its handler would start a thread at the next child's end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def test_the_base_class_is_what_the_subclass_says() -> None:
    assert issubclass(SlurmJobs, SlurmJobExecutor)
    assert issubclass(SlurmJobExecutor, BatchSchedulerExecutor)
