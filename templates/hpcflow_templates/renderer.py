"""PSI/J's batch executors as renderers: what those of all schedulers have in common, and what none of them may do."""

from __future__ import annotations

import io
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from psij import Job
from psij.executors.batch.batch_scheduler_executor import BatchSchedulerExecutor

__all__ = ["SHELL", "STDIN", "Renderer"]

# The prologue may need `module`, which only login shells know; without one the smallest shell is the fastest.
_LOGIN_SHELL: Final = "/bin/bash -l"
SHELL: Final = "/bin/sh"

#: What PSI/J is told for a script's file: ours go to stdin.
STDIN: Final = Path("/dev/stdin")


class Renderer(BatchSchedulerExecutor):
    """Goes before one of PSI/J's batch executors among the bases: it writes scripts and argvs, and runs nothing."""

    def batch_script(self, job: Job, *, directory: str, prologue: str, command: Sequence[str]) -> str:
        """Return the batch script of a job.

        Args:
            job: in PSI/J's words.
            directory: where it lies, for schedulers whose commands can't be told.
            prologue: lines of shell by the cluster's owner.
            command: an argv, run after them.
        """
        context: dict[str, object] = {
            "interpreter": _LOGIN_SHELL if prologue.strip() else SHELL,
            "directory": shlex.quote(directory),
            "prologue": prologue.strip("\n"),
            "command": shlex.join(command),
        }
        out = io.StringIO()
        self.generate_submit_script(job, context, out)
        return out.getvalue()

    # ---- shut

    def _start_queue_poll_thread(self) -> Any:  # Any: PSI/J's thread class; none is made, and none of its users is left
        return None

    def submit(self, job: Job) -> NoReturn:
        """Refuse: hpcflow's server submits."""
        raise NotImplementedError("hpcflow submits through its own transport, never through PSI/J")

    def _run_command(self, cmd: list[str]) -> NoReturn:
        raise NotImplementedError(f"hpcflow runs {cmd[0]} through its own transport, never through PSI/J")
