"""The Slurm plugin: which command asks what, and who reads the reply."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Final

from hpcflow import __version__
from hpcflow.core.batch import decoded
from hpcflow.core.model import JobArray
from hpcflow.core.plugin import Command, Plugin, Reply, Submission
from hpcflow_slurm.limits import limits, parse_limits, parse_probe, probe
from hpcflow_slurm.options import check_array, checked_extra, cluster_of, clusters_option
from hpcflow_slurm.query import parse_query, query
from hpcflow_slurm.queue import parse_queue, queue
from hpcflow_slurm.reasons import in_plain_words
from hpcflow_slurm.text import first_words
from hpcflow_templates.psij_import import importing_psij

if TYPE_CHECKING:
    from hpcflow_slurm.jobs import SlurmJobs

__all__ = ["SlurmPlugin"]

# $1 the tokens, $2 an option of scancel or nothing, then the ids that are known. Two scheduler commands for any number
# of arrays: squeue finds what came late under a name, scancel takes the ids, which costs the controller one request
# for each array, where `scancel --name` costs one for each array task. Constant text: values come as arguments.
_CANCEL: Final = """
names=$1 option=$2 clusters=$3
shift 3
found=$(squeue $clusters --me --noheader --array --format=%F --name="$names") || lost=1
set -- "$@" $(printf '%s\\n' "$found" | sort -u)
if [ $# -gt 0 ]; then scancel $clusters $option "$@" || exit; fi
[ -z "$lost" ] || exit 75
""".strip()

# $1 an option of scontrol or nothing, then ids. scontrol (22.05) ends with 1, and lists every array task in words, when
# one of an array runs ("64_0-2: No error") or has ended, though it released those that were held.
_RELEASE: Final = """
clusters=$1
shift
said=$(LC_ALL=C scontrol $clusters release "$@" 2>&1) && exit 0
left=$(printf '%s\\n' "$said" | grep -v -e ': No error$' -e 'already finished$' -e 'Invalid job id specified')
[ -n "$left" ] || exit 0
printf '%s\\n' "$left" >&2
exit 1
""".strip()

# All of it is gone already: what was wished (22.05 says so with --state=PENDING, and is silent without).
_GONE: Final = re.compile(r"^scancel: error: .*(?:Invalid job id specified|already completing or completed)\.?\s*$")


class SlurmPlugin:
    """Slurm by its commands, tested on 22.05. Holds PSI/J's renderer and no state."""

    name: ClassVar[str] = "slurm"

    probe = staticmethod(probe)
    parse_probe = staticmethod(parse_probe)
    limits = staticmethod(limits)
    parse_limits = staticmethod(parse_limits)
    query = staticmethod(query)
    parse_query = staticmethod(parse_query)
    queue = staticmethod(queue)
    parse_queue = staticmethod(parse_queue)
    why_pending = staticmethod(in_plain_words)

    def __init__(self, *, python: str, worker: str, root: str) -> None:
        """Make a plugin; Slurm needs none of the three."""
        del python, worker, root

    @cached_property
    def _jobs(self) -> SlurmJobs:
        """What speaks PSI/J, which takes a quarter of a second to import: who only asks does without it."""
        with importing_psij():
            from hpcflow_slurm.jobs import SlurmJobs
        return SlurmJobs()

    def submit(self, array: JobArray) -> Command:
        """Return sbatch with the script on stdin.

        The environment of sbatch is the job's: `--export=NONE` would make Slurm run the user's login shell on the node.
        """
        check_array(array)
        extra = checked_extra(array)
        argv = self._jobs.submit_argv(array, comment=f"hpcflow {__version__} {array.dispatch}")
        return Command((*argv, *extra), stdin=self._jobs.script(array).encode())

    def parse_submit(self, array: JobArray, reply: Reply) -> Submission:
        """Classify sbatch's reply."""
        jobs = self._jobs
        from hpcflow_slurm.submission import classify

        return classify(jobs, array.width, reply)

    def cancel(self, arrays: Sequence[JobArray], *, pending_only: bool) -> Command:
        """Return one command that cancels all of them, whether their ids are known or not.

        With ``pending_only`` and every id known nothing is looked up: such arrays have no work left, and a duplicate
        that comes late finds none. Ids mean one cluster's jobs: where arrays went to several, the first one's is spoken
        to, and the others' when it has none left.
        """
        there = cluster_of(arrays[0])
        arrays = [array for array in arrays if cluster_of(array) == there]
        clusters = clusters_option([there])
        ids = [array.job_id for array in arrays if array.job_id is not None]
        option = "--state=PENDING" if pending_only else ""
        if pending_only and len(ids) == len(arrays):
            program, first = self._jobs.get_cancel_command(ids[0])
            return Command((program, *clusters, option, first, *ids[1:]))
        names = ",".join(dict.fromkeys(array.token for array in arrays))
        return Command(("sh", "-c", _CANCEL, "hpcflow-cancel", names, option, *(clusters or ("",)), *ids))

    def release(self, arrays: Sequence[JobArray]) -> Command | None:
        """Return one command that releases what is held of the first array's cluster; an administrator's hold stays."""
        there = cluster_of(arrays[0])
        ids = [array.job_id for array in arrays if array.job_id is not None and cluster_of(array) == there]
        if not ids:
            return None
        return Command(("sh", "-c", _RELEASE, "hpcflow-release", *(clusters_option([there]) or ("",)), *ids))

    def parse_cancel(self, reply: Reply) -> str | None:
        """Return ``None`` when nothing is left that scancel was asked to end."""
        said = decoded(reply.stderr)
        lines = [line for line in said.splitlines() if line.strip()]
        if reply.exit_code == 0 or (reply.exit_code == 1 and lines and all(map(_GONE.match, lines))):
            return None
        if reply.exit_code is None:
            return f"scancel's end was not seen: {first_words(said)}"
        return f"scancel ended with {reply.exit_code}: {first_words(said)}"


_conforms: type[Plugin] = SlurmPlugin
