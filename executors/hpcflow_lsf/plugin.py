"""The LSF plugin: which command asks what, and who reads the reply."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Final

from hpcflow.core.batch import decoded
from hpcflow.core.model import JobArray
from hpcflow.core.plugin import Command, Plugin, Reply, Submission
from hpcflow_lsf.limits import limits, parse_limits, parse_probe, probe
from hpcflow_lsf.options import check_array, checked_extra
from hpcflow_lsf.query import parse_query, query
from hpcflow_lsf.queue import parse_queue, queue
from hpcflow_lsf.reasons import in_plain_words
from hpcflow_lsf.text import first_words
from hpcflow_templates.psij_import import importing_psij

if TYPE_CHECKING:
    from hpcflow_lsf.jobs import LsfJobs

__all__ = ["LsfPlugin"]

# $1 "pending" or "all", $2 how many names follow, then the names, then the ids that are known. bkill without an id ends
# the last job that was submitted, and with 0 all of them: it is never called so. Constant text: values are arguments.
_CANCEL: Final = """
which=$1 names=$2
shift 2
while [ "$names" -gt 0 ]; do
    found=$(bjobs -noheader -o jobid -J "$1" 2>/dev/null | sed -n 's/^ *\\([0-9][0-9]*\\).*/\\1/p' | sort -u)
    shift
    set -- "$@" $found
    names=$((names - 1))
done
[ $# -gt 0 ] || exit 0
if [ "$which" = pending ]; then
    waiting=$(bjobs -p -noheader -o 'jobid jobindex' "$@" 2>/dev/null | awk '
        $1 ~ /^[0-9]+$/ && $2 ~ /^[0-9]+$/ { kept[$1] = kept[$1] (kept[$1] == "" ? "" : ",") $2 }
        END { for (job in kept) print job "[" kept[job] "]" }
    ')
    [ -n "$waiting" ] || exit 0
    set -f
    set -- $waiting
fi
exec bkill "$@"
""".strip()

# Then ids. What runs, or waits for its turn, is no fault.
_RELEASE: Final = """
said=$(bresume "$@" 2>&1) && exit 0
left=$(printf '%s\\n' "$said" | grep -i -e 'permission' -e 'cannot' -e 'denied')
[ -n "$left" ] || exit 0
printf '%s\\n' "$left" >&2
exit 1
""".strip()

#: Words of bkill that are no refusal (10.1; "Operation is in progress" while an array is being worked on).
_FINE: Final = re.compile(
    r"^Job <[0-9]+(?:\[[^\]]*\])?>(?: is being terminated|: (?:Job has already finished|No matching job found"
    r"|Operation is in progress))\s*$|^\s*$"
)


class LsfPlugin:
    """Spectrum LSF from 10.1.0.2 on, by its commands. Holds PSI/J's renderer and no state."""

    name: ClassVar[str] = "lsf"

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
        """Make a plugin; LSF needs none of the three."""
        del python, worker, root

    @cached_property
    def _jobs(self) -> LsfJobs:
        """What speaks PSI/J, which takes a quarter of a second to import: who only asks does without it."""
        with importing_psij():
            from hpcflow_lsf.jobs import LsfJobs
        return LsfJobs()

    def submit(self, array: JobArray) -> Command:
        """Return bsub with the script on stdin; the environment of bsub is the job's."""
        check_array(array)
        extra = checked_extra(array)
        return Command((*self._jobs.submit_argv(array), *extra), stdin=self._jobs.script(array).encode())

    def parse_submit(self, array: JobArray, reply: Reply) -> Submission:
        """Classify bsub's reply."""
        jobs = self._jobs
        from hpcflow_lsf.submission import classify

        return classify(jobs, array.width, reply)

    def cancel(self, arrays: Sequence[JobArray], *, pending_only: bool) -> Command:
        """Return one command that ends all of them, whether their ids are known or not.

        With ``pending_only`` and every id known nothing is looked up by name: such arrays have no work left, and a
        duplicate that comes late finds none.
        """
        ids = list(dict.fromkeys(array.job_id for array in arrays if array.job_id is not None))
        names: list[str] = []
        if not pending_only or any(array.job_id is None for array in arrays):
            names = list(dict.fromkeys(array.token for array in arrays))
        which = "pending" if pending_only else "all"
        return Command(("sh", "-c", _CANCEL, "hpcflow-cancel", which, str(len(names)), *names, *ids))

    def release(self, arrays: Sequence[JobArray]) -> Command | None:
        """Return one command that takes suspensions off; an administrator's stays."""
        ids = [array.job_id for array in arrays if array.job_id is not None]
        return Command(("sh", "-c", _RELEASE, "hpcflow-release", *ids)) if ids else None

    def parse_cancel(self, reply: Reply) -> str | None:
        """Return ``None`` when nothing is left that bkill was asked to end; its exit status says nothing."""
        said = decoded(reply.stdout + reply.stderr)
        if reply.exit_code is None:
            return f"bkill's end was not seen: {first_words(said)}"
        fine = all(_FINE.match(line) for line in said.splitlines())
        if fine and (reply.exit_code == 0 or (reply.exit_code == 255 and said.strip())):
            return None
        return f"bkill ended with {reply.exit_code}: {first_words(said)}"


_conforms: type[Plugin] = LsfPlugin
