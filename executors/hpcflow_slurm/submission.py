"""Did Slurm take the array? Accepted, surely refused, or nobody knows."""

from __future__ import annotations

import re
from typing import Final

from psij import SubmitException

from hpcflow.core.batch import decoded, not_found
from hpcflow.core.plugin import Accepted, Ambiguous, Refused, Reply, Submission
from hpcflow.core.submit_options import unrecognized
from hpcflow.core.words import counted
from hpcflow_slurm.jobs import SlurmJobs
from hpcflow_slurm.text import first_words

__all__ = ["classify"]

# After one of these the controller may have taken the job all the same (22.05: "Socket timed out" and "Zero Bytes" with
# the job running a second later), whatever a further try of sbatch's own was told.
_UNSURE: Final = re.compile(
    r"timed out|Zero Bytes were transmitted|Unable to contact|connect failure|Communication (?:connection|shutdown)"
    r"|Connection (?:refused|reset)|Network is unreachable|munge|Protocol authentication error",
    re.IGNORECASE,
)

# Room comes back when somebody's jobs have ended. Slurm names the limit in a line of its own; where it names none
# ("Job violates accounting/QOS policy (job submit limit, ...)" alone), the limit on submitted jobs is the likeliest.
_FULL: Final = re.compile(
    r"(?:Assoc|QOS|QoS)\w*SubmitJob\w*|Resource temporarily unavailable|Slurm temporarily unable to accept job"
)
_POLICY: Final = re.compile(r"Job violates accounting/QOS policy", re.IGNORECASE)
_LIMIT: Final = re.compile(r"\b(?:Assoc|QOS|QoS)[A-Z]\w+")

# Texts of Slurm 17.11 to 24.05 (slurm_errno.c) that mean: looked at, and refused.
_REFUSED: Final = re.compile(
    r"Batch job submission failed: (?:"
    r"Invalid (?:partition name|qos|account|job array|feature|node name|licen[cs]e|generic resource|gres|wckey)"
    r"|Job dependency problem|More processors requested|Node count specification|Memory required by task"
    r"|Requested (?:node configuration|time limit|reservation|GRES|partition configuration)"
    r"|Access denied|Access/permission denied|User's group not permitted|Job submission disabled"
    r"|Required (?:partition|node) not available|Job size specification"
    r"|Pathname of a file, directory or other parameter too long"
    r")",
    re.IGNORECASE,
)

# sbatch's own words before it asked the controller: exit status 255 for options, 1 for the script.
_OPTION: Final = re.compile(
    r"Invalid --[\w-]+ specification|unrecognized option|invalid option|option .{1,60} requires an argument"
    r"|option .{1,60} is ambiguous|Batch script is empty|does not look like a batch script|contains DOS line breaks"
    r"|Unable to open file|invalid (?:time limit|number of|memory)",
    re.IGNORECASE,
)


def classify(jobs: SlurmJobs, width: int, reply: Reply) -> Submission:
    """Return what sbatch's reply says about an array of ``width`` array tasks."""
    said = decoded(reply.stderr)
    if reply.exit_code is None:
        return Ambiguous(f"sbatch's end was not seen: {first_words(said)}")
    if reply.exit_code == 0:
        try:
            return Accepted(jobs.job_id_from_submit_output(decoded(reply.stdout)))
        except SubmitException as error:
            return Ambiguous(str(error))
    if reply.stdout.strip():
        return Ambiguous(f"sbatch ended with {reply.exit_code}, yet printed {decoded(reply.stdout)[:200]!r}")
    if not_found(reply):
        return Refused(
            "sbatch was not found on the cluster's login side: is this a Slurm cluster, and is its bin on PATH?"
        )
    if _UNSURE.search(said):
        return Ambiguous(f"sbatch lost its way to the controller: {first_words(said)}")
    if _FULL.search(said) or (_POLICY.search(said) and not _LIMIT.search(said)):
        what = counted(width, "array task")
        return Refused(
            f"Slurm's limit on submitted jobs leaves no room for {what} now: {first_words(said)}", retry_later=True
        )
    if _REFUSED.search(said) or _POLICY.search(said) or _OPTION.search(said):
        hint = _hint(said, width)
        near = unrecognized(said)
        meant = f". Did you mean --{near}?" if near is not None else ""
        return Refused(f"Slurm refused the job array: {first_words(said)}{hint}{meant}", too_wide=bool(hint))
    return Ambiguous(f"sbatch ended with {reply.exit_code}: {first_words(said)}")


def _hint(said: str, width: int) -> str:
    """Return what to do about a refusal that Slurm words too shortly."""
    if "Invalid job array specification" in said:
        return f". {width} array tasks are more than MaxArraySize allows: lower max_width in clusters.toml."
    return ""
