"""What is built on PSI/J: a job array as a PSI/J job, its batch script, its submit and cancel argv, its id.

PSI/J 0.9.11 gives the vocabulary (`JobSpec`, `ResourceSpecV1`, `JobAttributes`) and the executor's seams. Its own
ways to act are shut: it submits a file that bsub doesn't read for directives, its poller keeps one state for a whole
array and fails on a job with a reason, and its scripts hide exit codes.
"""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from psij import Job, JobAttributes, JobSpec, ResourceSpecV1, SubmitException
from psij.executors.batch.lsf import LsfExecutorConfig, LsfJobExecutor
from psij.executors.batch.script_generator import TemplatedScriptGenerator

from hpcflow.core.model import WORKER_MEMORY_MIB, JobArray, JobId
from hpcflow_lsf.options import selection
from hpcflow_templates import batch_template
from hpcflow_templates.renderer import STDIN, Renderer

__all__ = ["LsfJobs"]

_MIB: Final = 1024 * 1024

# bsub talks on the same stream: "Cannot connect to LSF. Please wait ..." before it, a site's words around it.
_SUBMITTED: Final = re.compile(r"^Job <([1-9][0-9]*)> is submitted to (?:default )?queue <[^>\n]+>\.\r?$", re.MULTILINE)


class LsfJobs(Renderer, LsfJobExecutor):
    """PSI/J's LSF executor as a renderer: it writes scripts and argvs, and runs nothing."""

    # PSI/J sets this where it makes executors by name.
    _NAME_ = "hpcflow-lsf"

    def __init__(self) -> None:
        config = LsfExecutorConfig()
        super().__init__(url=None, config=config)
        # No escaping: what goes into the script is quoted already, or the cluster owner's own shell.
        self.generator = TemplatedScriptGenerator(config, batch_template("lsf"), escape=str)

    def script(self, array: JobArray) -> str:
        """Return the batch script of an array."""
        return self.batch_script(self.job(array), directory=array.path, prologue=array.prologue, command=array.command)

    def submit_argv(self, array: JobArray) -> list[str]:
        """Return the submit command of an array, without its ``extra``; the script is read from stdin."""
        return self.get_submit_command(self.job(array), STDIN)

    def job(self, array: JobArray) -> Job:
        """Return an array in PSI/J's words; what PSI/J has no word for is a custom attribute ``lsf.<option>``."""
        asked = array.resources
        memory = asked.memory_mib
        resources = ResourceSpecV1(
            node_count=asked.nodes,
            cpu_cores_per_process=asked.cpus,
            gpu_cores_per_process=asked.gpus,
            # PSI/J counts a job's memory over all its nodes, in bytes.
            memory=None if memory is None else (memory + WORKER_MEMORY_MIB) * asked.nodes * _MIB,
        )
        # The constructor refuses 3 processes on 2 nodes; LSF doesn't.
        resources.process_count = max(asked.ntasks, asked.nodes)
        options = {
            "array": f"[1-{array.width}]" if array.width > 1 else "[1]",
            "U": asked.reservation,
            "select": selection(array),
            "licenses": asked.licenses,
            "x": "its host is nobody else's" if array.exclusive else None,
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
                    queue_name=asked.partition,
                    account=asked.account,
                    custom_attributes={f"lsf.{key}": value for key, value in options.items() if value},
                ),
            )
        )

    def get_submit_command(self, job: Job, submit_file_path: Path) -> list[str]:
        """Return the argv of bsub; ``submit_file_path`` is not used, because the script goes to stdin."""
        spec = job.spec
        assert spec is not None and spec.attributes is not None
        asked = spec.resources
        assert isinstance(asked, ResourceSpecV1)
        attributes = spec.attributes
        custom: dict[str, Any] = attributes.custom_attributes or {}  # Any: PSI/J's own type is object
        nodes, processes, cpus = asked.node_count or 1, asked.process_count or 1, asked.cpu_cores_per_process or 1
        memory = None if asked.memory is None else f"{asked.memory // nodes // _MIB}MB"
        uses = [
            # With a unit, whatever LSF_UNIT_FOR_LIMITS says on the site (10.1).
            *([f"mem={memory}"] if memory else []),
            *(part.strip().replace(":", "=") for part in str(custom.get("lsf.licenses") or "").split(",") if part),
        ]
        options: dict[str, object] = {
            "-J": f"{spec.name}{custom['lsf.array']}",
            "-q": attributes.queue_name,
            "-P": attributes.account,
            "-U": custom.get("lsf.U"),
            # Without it the report is sent by mail; the script writes to a file of its own.
            "-o": "/dev/null",
            "-n": processes * cpus,
            # Whole minutes; 0 would mean no limit at all.
            "-W": max(1, -(-attributes.duration // timedelta(minutes=1))),
            "-M": memory,
            "-gpu": f"num={asked.gpu_cores_per_process}" if asked.gpu_cores_per_process else None,
        }
        requirements = [
            "span[hosts=1]" if nodes == 1 else f"span[ptile={-(-processes // nodes) * cpus}]",
            *([f"rusage[{','.join(uses)}]"] if uses else []),
            *([f"select[{custom['lsf.select']}]"] if custom.get("lsf.select") else []),
        ]
        return [
            "bsub",
            # The successor takes over what a worker had claimed on a host that failed.
            "-r",
            *(["-x"] if custom.get("lsf.x") else []),
            *(word for key, value in options.items() if value for word in (key, str(value))),
            *(word for requirement in requirements for word in ("-R", requirement)),
        ]

    def get_cancel_command(self, native_id: str) -> list[str]:
        """Return the argv of bkill for one job; it sends INT, TERM and KILL one after the other."""
        return ["bkill", native_id]

    def job_id_from_submit_output(self, out: str) -> JobId:
        """Return the number that bsub printed.

        Raises:
            SubmitException: no such line, several of them, or one without an end.
        """
        found = _SUBMITTED.findall(out)
        if len(found) != 1:
            raise SubmitException(f"bsub printed no job id: {out.strip()[-200:]!r}")
        return JobId(found[0])
