"""Did PBS take the array? Accepted, surely refused, or nobody knows."""

from __future__ import annotations

import re
from typing import Final

from psij import SubmitException

from hpcflow.core.batch import decoded, not_found
from hpcflow.core.plugin import Accepted, Ambiguous, Refused, Reply, Submission
from hpcflow.core.words import counted
from hpcflow_pbs.jobs import PbsJobs
from hpcflow_pbs.text import first_words

__all__ = ["classify"]

# qsub's exit status is the server's error number less 15000, modulo 256 (23.06); beside a text of qsub's it is a
# refusal. 162 and 160 (no server) are not here: qsub asks its own background process first, which may have got through.
_REFUSED: Final = frozenset(
    {
        1,  # qsub's own words before it asked: no such script, `-v` that can't be
        2,  # usage: an option that this qsub does not know
        3,  # more elements than the server or the queue allows
        5,  # -l resource= beside select
        6,  # nodes beside select
        32,  # a site's own check (a hook) rejects
        159,  # not authorised: not on the queue's list
        166,  # bad value of an attribute or a resource
        170,  # unknown queue
        173,  # queue is not enabled
        187,  # unknown resource
        188,  # over a limit of the queue or the server
    }
)
_TEXT: Final = re.compile(r"^qsub: ", re.MULTILINE)
# Room comes back when somebody's jobs have ended (svr_func.c: limits on queued jobs and on their resources).
_FULL: Final = re.compile(r"would exceed|Maximum number of jobs already", re.IGNORECASE)
_NO_OPTION: Final = re.compile(r"(?:invalid option|option requires an argument) -- '(\S)'|illegal -(\S) value")
_LOST: Final = re.compile(
    r"cannot connect to server|Connection (?:refused|reset)|timed? ?out|End of File", re.IGNORECASE
)


def classify(jobs: PbsJobs, width: int, reply: Reply) -> Submission:
    """Return what qsub's reply says about an array of ``width`` array tasks."""
    said = decoded(reply.stderr)
    if reply.exit_code is None:
        return Ambiguous(f"qsub's end was not seen: {first_words(said)}")
    if reply.exit_code == 0:
        try:
            return Accepted(jobs.job_id_from_submit_output(decoded(reply.stdout)))
        except SubmitException as error:
            return Ambiguous(str(error))
    if reply.stdout.strip():
        return Ambiguous(f"qsub ended with {reply.exit_code}, yet printed {decoded(reply.stdout)[:200]!r}")
    if not_found(reply):
        return Refused("qsub was not found on the cluster's login side: is this a PBS cluster, and is its bin on PATH?")
    if _LOST.search(said):
        return Ambiguous(f"qsub lost its way to the server: {first_words(said)}")
    if _FULL.search(said):
        return Refused(
            f"PBS's limit on queued jobs leaves no room for {counted(width, 'array task')} now: {first_words(said)}",
            retry_later=True,
        )
    if reply.exit_code in _REFUSED and _TEXT.search(said):
        hint = _hint(said, width)
        too_wide = "max_array_size" in hint
        return Refused(f"PBS refused the job array: {first_words(said)}{hint}", too_wide=too_wide)
    return Ambiguous(f"qsub ended with {reply.exit_code}: {first_words(said)}")


def _hint(said: str, width: int) -> str:
    """Return what to do about a refusal that PBS words too shortly."""
    if "size limit" in said:
        return f". {width} array tasks are more than max_array_size allows: lower max_width in clusters.toml."
    if "invalid option -- 'J'" in said:
        return ". This qsub knows no -J: it is Torque or older than PBS Pro 8, which hpcflow does not serve."
    if (letter := _NO_OPTION.search(said)) is not None:
        return f". qsub has no -{letter[1] or letter[2]}, or not with that: look at extra= and at clusters.toml."
    return ""
