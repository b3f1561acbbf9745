"""Did LSF take the array? Accepted, surely refused, or nobody knows."""

from __future__ import annotations

import re
from typing import Final

from psij import SubmitException

from hpcflow.core.batch import decoded, not_found
from hpcflow.core.plugin import Accepted, Ambiguous, Refused, Reply, Submission
from hpcflow.core.submit_options import near_option
from hpcflow.core.words import counted
from hpcflow_lsf.jobs import LsfJobs
from hpcflow_lsf.text import first_words

__all__ = ["classify"]

# bsub's exit status is 255 for everything. It says "Job not submitted." when it knows that; what it says besides tells
# whether it asked.
_NOT_SUBMITTED: Final = re.compile(r"\b[Jj]ob not submitted\b")
# Its own words about an option, before it asked anybody; then it says nothing of a job.
_NO_OPTION: Final = re.compile(r"illegal option -- (\S+)|option requires an argument -- (\S+)")
_UNSURE: Final = re.compile(
    r"library call|daemon|timed? ?out|connect|not respond|LSF is down|try(?:ing)? again|Communication", re.IGNORECASE
)
_FULL: Final = re.compile(
    r"pending job (?:threshold|limit)|limit (?:is |has been )?reached|too many (?:pending|unfinished)", re.IGNORECASE
)
_PLEASE_WAIT: Final = re.compile(r"^.*Please wait \.\.\.\s*$", re.MULTILINE)


def classify(jobs: LsfJobs, width: int, reply: Reply) -> Submission:
    """Return what bsub's reply says about an array of ``width`` array tasks."""
    said = _PLEASE_WAIT.sub("", decoded(reply.stderr))
    if reply.exit_code is None:
        return Ambiguous(f"bsub's end was not seen: {first_words(said)}")
    if reply.exit_code == 0:
        try:
            return Accepted(jobs.job_id_from_submit_output(decoded(reply.stdout)))
        except SubmitException as error:
            return Ambiguous(str(error))
    if "is submitted" in decoded(reply.stdout):
        return Ambiguous(f"bsub ended with {reply.exit_code}, yet printed {decoded(reply.stdout)[:200]!r}")
    if not_found(reply):
        return Refused("bsub was not found on the cluster's login side: is this an LSF cluster, with its bin on PATH?")
    if _FULL.search(said):
        return Refused(
            f"LSF's limit on pending jobs leaves no room for {counted(width, 'array task')} now: {first_words(said)}",
            retry_later=True,
        )
    if (option := _NO_OPTION.search(said)) is not None:
        name = option[1] or option[2]
        near = near_option("bsub", name)
        meant = f" Did you mean -{near}?" if near is not None else ""
        return Refused(
            f"LSF refused the job array: bsub has no option -{name}, or not without a value: look at extra= and "
            f"at clusters.toml.{meant}"
        )
    if _NOT_SUBMITTED.search(said) and not _UNSURE.search(said):
        hint = _hint(said, width)
        too_wide = "MAX_JOB_ARRAY_SIZE" in hint
        return Refused(f"LSF refused the job array: {first_words(said)}{hint}", too_wide=too_wide)
    return Ambiguous(f"bsub ended with {reply.exit_code}: {first_words(said)}")


def _hint(said: str, width: int) -> str:
    """Return what to do about a refusal that LSF words too shortly."""
    if "array index too large" in said:
        return f" {width} array tasks are more than MAX_JOB_ARRAY_SIZE allows: lower max_width in clusters.toml."
    return ""
