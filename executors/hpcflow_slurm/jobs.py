"""What is built on PSI/J: a job array as a PSI/J job, its batch script, its submit and cancel argv, its id.

PSI/J 0.9.11 gives the vocabulary (`JobSpec`, `ResourceSpecV1`, `JobAttributes`) and the executor's seams. Its own
ways to act are shut: its poller takes a job that it can't see for completed, and its scripts hide exit codes.
"""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Final

from psij import Job, JobAttributes, JobSpec, ResourceSpecV1, SubmitException
from psij.executors.batch.script_generator import TemplatedScriptGenerator
from psij.executors.batch.slurm import SlurmExecutorConfig, SlurmJobExecutor

from hpcflow.core.model import WORKER_MEMORY_MIB, JobArray, JobId
from hpcflow_slurm.options import excluded
from hpcflow_templates import batch_template
from hpcflow_templates.renderer import STDIN, Renderer

__all__ = ["SlurmJobs"]

_MIB: Final = 1024 * 1024

# `--parsable` prints the id, and ";cluster" where several clusters are configured. Some sites wrap sbatch and lose the
# option. Nothing else on the line will do: a wrapper's chatter may end in a number.
_SUBMITTED: Final = re.compile(r"(?:Submitted batch job )?([1-9][0-9]*)(?:;[\w.-]+| on cluster [\w.-]+)?")

# Slurm looks at limits every half minute or so and may warn up to a minute early: not worth it below this.
_WARNED_FROM: Final = timedelta(minutes=30)


class SlurmJobs(Renderer, SlurmJobExecutor):
    """PSI/J's Slurm executor as a renderer: it writes scripts and argvs, and runs nothing."""

    # PSI/J sets this where it makes executors by name.
    _NAME_ = "hpcflow-slurm"

    def __init__(self) -> None:
        config = SlurmExecutorConfig()
        super().__init__(config=config)
        # No escaping: what goes into the script is quoted already, or the cluster owner's own shell.
        self.generator = TemplatedScriptGenerator(config, batch_template("slurm"), escape=str)

    def script(self, array: JobArray) -> str:
        """Return the batch script of an array."""
        return self.batch_script(
            self.job(array, comment=""), directory=array.path, prologue=array.prologue, command=array.command
        )

    def submit_argv(self, array: JobArray, *, comment: str) -> list[str]:
        """Return the submit command of an array, without its ``extra``; the script is read from stdin."""
        return self.get_submit_command(self.job(array, comment=comment), STDIN)

    def job(self, array: JobArray, *, comment: str) -> Job:
        """Return an array in PSI/J's words; what PSI/J has no word for is a custom attribute ``slurm.<option>``."""
        asked = array.resources
        memory = asked.memory_mib
        resources = ResourceSpecV1(
            node_count=asked.nodes,
            cpu_cores_per_process=asked.cpus,
            # PSI/J counts a job's memory over all its nodes, in bytes.
            memory=None if memory is None else (memory + WORKER_MEMORY_MIB) * asked.nodes * _MIB,
        )
        # The constructor refuses 3 processes on 2 nodes; Slurm doesn't. Fewer processes than nodes would make Slurm
        # lower the number of nodes, with no more than a warning (22.05).
        resources.process_count = max(asked.ntasks, asked.nodes)
        options: dict[str, str | None] = {
            "array": f"0-{array.width - 1}",
            "comment": comment or None,
            # --gpus-per-node needs select/cons_tres; --gres is understood everywhere.
            "gres": f"gpu:{asked.gpus}" if asked.gpus else None,
            "qos": asked.qos,
            "constraint": asked.constraint,
            "licenses": asked.licenses,
            "exclude": excluded(array),
            "exclusive": "" if array.exclusive else None,
        }
        return Job(
            JobSpec(
                executable=array.command[0],
                arguments=list(array.command[1:]),
                directory=array.path,
                name=array.token,
                # sbatch replaces %x in file names; a doubled % is one %.
                stdout_path=array.path.replace("%", "%%") + "/logs/%a.slurm",
                resources=resources,
                attributes=JobAttributes(
                    duration=timedelta(seconds=array.worker_walltime_s),
                    queue_name=asked.partition,
                    account=asked.account,
                    reservation_id=asked.reservation,
                    custom_attributes={f"slurm.{key}": value for key, value in options.items() if value is not None},
                ),
            )
        )

    def get_submit_command(self, job: Job, submit_file_path: Path) -> list[str]:
        """Return the argv of sbatch; ``submit_file_path`` is not used, because the script goes to stdin."""
        spec = job.spec
        assert spec is not None and spec.attributes is not None
        resources, attributes = spec.resources, spec.attributes
        assert isinstance(resources, ResourceSpecV1)
        nodes = resources.node_count or 1
        options: dict[str, object] = {
            "job-name": spec.name,
            "chdir": spec.directory,
            "output": spec.stdout_path,
            # A requeued array task goes on in the same file.
            "open-mode": "append",
            # A second submission under the same name, after a lost answer, waits until the first has ended.
            "dependency": "singleton",
            "nodes": nodes,
            "ntasks": resources.process_count,
            "cpus-per-task": resources.cpu_cores_per_process,
            "mem": None if resources.memory is None else f"{resources.memory // nodes // _MIB}M",
            # Whole minutes; 0 would mean no limit at all.
            "time": max(1, -(-attributes.duration // timedelta(minutes=1))),
            "partition": attributes.queue_name,
            "account": attributes.account,
            "reservation": attributes.reservation_id,
            # Only the batch shell, which has become the worker: it takes no further work, because the walltime is
            # nearly over by Slurm's clock, whatever time the prologue took.
            "signal": "B:USR1@60" if attributes.duration >= _WARNED_FROM else None,
            **{key.removeprefix("slurm."): value for key, value in (attributes.custom_attributes or {}).items()},
        }
        return [
            "sbatch",
            "--parsable",
            # The successor takes over what a requeued worker had claimed.
            "--requeue",
            *(f"--{key}={value}" if value != "" else f"--{key}" for key, value in options.items() if value is not None),
        ]

    def get_cancel_command(self, native_id: str) -> list[str]:
        """Return the argv of scancel for one job; without PSI/J's ``-Q``, so that a refusal is heard."""
        return ["scancel", native_id]

    def job_id_from_submit_output(self, out: str) -> JobId:
        """Return the id on the last line of sbatch's output.

        Raises:
            SubmitException: no such line, or it has no end: an id that was cut is another job's.
        """
        last = out.rstrip("\r\n").rpartition("\n")[2].rstrip("\r")
        found = _SUBMITTED.fullmatch(last)
        if found is None or not out.endswith("\n"):
            raise SubmitException(f"sbatch printed no job id: {last[:200]!r}")
        return JobId(found[1])
