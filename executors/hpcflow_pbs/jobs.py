"""What is built on PSI/J: a job array as a PSI/J job, its batch script, its submit and cancel argv, its id.

PSI/J 0.9.11 gives the vocabulary (`JobSpec`, `ResourceSpecV1`, `JobAttributes`) and the executor's seams. Its own
ways to act are shut: its poller takes a finished job without an exit status for completed, reads the first of several
jobs only, and its scripts hide exit codes.
"""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from psij import Job, JobAttributes, JobSpec, ResourceSpecV1, SubmitException
from psij.executors.batch.pbs import PBSJobExecutor
from psij.executors.batch.pbs_base import PBSExecutorConfig
from psij.executors.batch.script_generator import TemplatedScriptGenerator

from hpcflow.core.model import WORKER_MEMORY_MIB, JobArray, JobId
from hpcflow_templates import batch_template
from hpcflow_templates.renderer import SHELL, STDIN, Renderer

__all__ = ["PbsJobs"]

_MIB: Final = 1024 * 1024

# "26.pbs01" or "26[].pbs01". Hooks may print before it; nothing else on the line will do.
_SUBMITTED: Final = re.compile(r"([0-9]+)(\[\])?\.[A-Za-z0-9][A-Za-z0-9.-]*")


class PbsJobs(Renderer, PBSJobExecutor):
    """PSI/J's PBS executor as a renderer: it writes scripts and argvs, and runs nothing."""

    # PSI/J sets this where it makes executors by name.
    _NAME_ = "hpcflow-pbs"

    def __init__(self) -> None:
        config = PBSExecutorConfig()
        super().__init__(config=config)
        # No escaping: what goes into the script is quoted already, or the cluster owner's own shell.
        self.generator = TemplatedScriptGenerator(config, batch_template("pbs"), escape=str)

    def script(self, array: JobArray) -> str:
        """Return the batch script of an array."""
        return self.batch_script(
            self.job(array, place=None), directory=array.path, prologue=array.prologue, command=array.command
        )

    def submit_argv(self, array: JobArray, *, place: str | None) -> list[str]:
        """Return the submit command of an array, without its ``extra``; the script is read from stdin."""
        return self.get_submit_command(self.job(array, place=place), STDIN)

    def job(self, array: JobArray, *, place: str | None) -> Job:
        """Return an array in PSI/J's words; what PSI/J has no word for is a custom attribute ``pbs.<option>``."""
        asked = array.resources
        memory = asked.memory_mib
        resources = ResourceSpecV1(
            node_count=asked.nodes,
            cpu_cores_per_process=asked.cpus,
            gpu_cores_per_process=asked.gpus,
            # PSI/J counts a job's memory over all its nodes, in bytes.
            memory=None if memory is None else (memory + WORKER_MEMORY_MIB) * asked.nodes * _MIB,
        )
        # The constructor refuses 3 processes on 2 nodes; PBS doesn't.
        resources.process_count = max(asked.ntasks, asked.nodes)
        options = {
            # PBS refuses an array of one element (23.06: "illegal -J value").
            "J": f"0-{array.width - 1}" if array.width > 1 else None,
            "chunk": asked.constraint,
            "place": place,
        }
        return Job(
            JobSpec(
                executable=array.command[0],
                arguments=list(array.command[1:]),
                directory=array.path,
                name=array.token,
                resources=resources,
                attributes=JobAttributes(
                    duration=timedelta(seconds=array.worker_walltime_s),
                    # A reservation of PBS is a queue.
                    queue_name=asked.reservation or asked.partition,
                    account=asked.account,
                    custom_attributes={f"pbs.{key}": value for key, value in options.items() if value},
                ),
            )
        )

    def get_submit_command(self, job: Job, submit_file_path: Path) -> list[str]:
        """Return the argv of qsub; ``submit_file_path`` is not used, because the script goes to stdin."""
        spec = job.spec
        assert spec is not None and spec.attributes is not None
        assert isinstance(spec.resources, ResourceSpecV1)
        attributes = spec.attributes
        custom: dict[str, Any] = attributes.custom_attributes or {}  # Any: PSI/J's own type is object
        options: dict[str, object] = {
            "-N": spec.name,
            "-J": custom.get("pbs.J"),
            "-q": attributes.queue_name,
            "-A": attributes.account,
            # The user's login shell may be csh.
            "-S": SHELL,
            # The script writes to a file of its own: PBS copies these after the end, and mails what it can't copy.
            "-o": "/dev/null",
            "-e": "/dev/null",
            "-m": "n",
            # The successor takes over what a worker had claimed; arrays must be rerunnable anyway.
            "-r": "y",
        }
        place = custom.get("pbs.place")
        limits = [
            f"select={_select(spec.resources, custom.get('pbs.chunk'))}",
            *([f"place={place}"] if place else []),
            f"walltime={int(attributes.duration.total_seconds())}",
        ]
        return [
            "qsub",
            *(word for key, value in options.items() if value for word in (key, str(value))),
            *(word for limit in limits for word in ("-l", limit)),
        ]

    def get_cancel_command(self, native_id: str) -> list[str]:
        """Return the argv of qdel for one job or one range of an array."""
        return ["qdel", native_id]

    def job_id_from_submit_output(self, out: str) -> JobId:
        """Return the number on the last line of qsub's output, without "[]" and the server's name.

        Raises:
            SubmitException: no such line, or it has no end: an id that was cut is another job's.
        """
        last = out.rstrip("\r\n").rpartition("\n")[2].rstrip("\r")
        found = _SUBMITTED.fullmatch(last)
        if found is None or not out.endswith("\n"):
            raise SubmitException(f"qsub printed no job id: {last[:200]!r}")
        return JobId(found[1])


def _select(asked: ResourceSpecV1, chunk: str | None) -> str:
    """Return PBS's chunks: one for each node, of two kinds where processes don't divide evenly.

    PSI/J's own template leaves out cores per process and GPUs, and has one kind of chunk only.
    """
    nodes, processes = asked.node_count or 1, asked.process_count or 1
    each, more = divmod(processes, nodes)
    cpus = asked.cpu_cores_per_process or 1
    rest = ""
    if asked.memory is not None:
        rest += f":mem={asked.memory // nodes // _MIB}mb"
    if asked.gpu_cores_per_process:
        rest += f":ngpus={asked.gpu_cores_per_process}"
    if chunk:
        rest += f":{chunk}"
    kinds = [(more, each + 1), (nodes - more, each)]
    return "+".join(f"{count}:ncpus={ranks * cpus}:mpiprocs={ranks}{rest}" for count, ranks in kinds if count)
