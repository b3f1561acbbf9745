"""The PBS plugin: which command asks what, and who reads the reply."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Final

from hpcflow.core.batch import decoded
from hpcflow.core.model import JobArray
from hpcflow.core.plugin import Command, Plugin, Reply, Submission
from hpcflow_pbs.limits import limits, parse_limits, parse_probe, probe
from hpcflow_pbs.options import check_array, checked_extra, job_resources, own_place
from hpcflow_pbs.query import parse_query, query
from hpcflow_pbs.queue import parse_queue, queue
from hpcflow_pbs.reasons import in_plain_words
from hpcflow_pbs.text import first_words, full_id
from hpcflow_templates.psij_import import importing_psij

if TYPE_CHECKING:
    from hpcflow_pbs.jobs import PbsJobs

__all__ = ["PbsPlugin"]

# $1 the states that are to end, $2 how many names follow, then the names, then the ids that are known.
# qselect finds what came late under a name; qstat tells which elements of an array live. Of an array of which something
# has ended only the living are deleted: with `qdel 'N[]'`, or a range over them, the ended ones would lose their exit
# status (23.06). Single elements go in one qdel; a range in one of its own, because a range beside another id has
# crashed the server (23.06). What is gone meanwhile (35, 55, 153) is what was wished. Constant text.
_CANCEL: Final = """
set -f
states=$1 names=$2
shift 2
user=$(id -un)
while [ "$names" -gt 0 ]; do
    found=$(qselect -u "$user" -N "$1") || exit 75
    shift
    set -- "$@" $found
    names=$((names - 1))
done
[ $# -gt 0 ] || exit 0
said=$(qstat -E -t -f -F dsv "$@" 2>&1) || case $? in 35|153) exit 0;; *) printf '%s\\n' "$said" >&2; exit 75;; esac
wanted=$(printf '%s\\n' "$said" | awk -v states="$states" '
    BEGIN { FS = "|" }
    !/^Job Id: / { next }
    {
        id = substr($1, 9); sub(/[.].*/, "", id); if (seen[id]++) next; state = ""
        for (i = 2; i <= NF && state == ""; i++) if ($i ~ /^job_state=/) state = substr($i, 11)
        if (id ~ /\\[\\]$/) { arrays[id] = state; next }
        array = id; if (sub(/\\[.*/, "[]", array) == 0) { if (index(states, state)) print "one", id; next }
        if (!(array in arrays)) next
        all[array]++
        if (index(states, state)) { live[array]++; element = id; gsub(/.*\\[|\\].*/, "", element)
            if (live[array] > 1 && last[array] == element - 1) last[array] = element
            else { flush(array); first[array] = last[array] = element } }
    }
    function flush(array,   number) {
        if (!(array in first)) return
        number = array; sub(/\\[\\]/, "", number)
        if (first[array] == last[array]) kept[array] = kept[array] "one " number "[" first[array] "]\\n"
        else kept[array] = kept[array] "range " number "[" first[array] "-" last[array] "]\\n"
    }
    END { for (array in live) {
        if (live[array] == all[array]) print "one", array
        else { flush(array); printf "%s", kept[array] } } }
')
worst=0
delete() {
    qdel "$@" || case $? in 35|55|153|156) ;; *) worst=$?;; esac
}
ones=$(printf '%s\\n' "$wanted" | sed -n 's/^one //p')
[ -z "$ones" ] || delete $ones
for range in $(printf '%s\\n' "$wanted" | sed -n 's/^range //p'); do delete "$range"; done
exit $worst
""".strip()

#: States of what can still be ended; "waiting" ones first.
_WAITING: Final = "QHWT"
_LIVING: Final = "QHWTRSUB"

_GONE: Final = re.compile(
    r"^qdel: (?:Job has finished|Request invalid for finished array subjob|Unknown Job Id|Invalid request) ?\S*\s*$"
)


class PbsPlugin:
    """OpenPBS and PBS Pro by their commands, after 23.06. Holds PSI/J's renderer and no state."""

    name: ClassVar[str] = "pbs"

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
        """Make a plugin; PBS needs none of the three."""
        del python, worker, root

    @cached_property
    def _jobs(self) -> PbsJobs:
        """What speaks PSI/J, which takes a quarter of a second to import: who only asks does without it."""
        with importing_psij():
            from hpcflow_pbs.jobs import PbsJobs
        return PbsJobs()

    def submit(self, array: JobArray) -> Command:
        """Return qsub with the script on stdin; the job's environment is that of a login, not of qsub."""
        check_array(array)
        extra = checked_extra(array)
        place = "scatter" if array.resources.nodes > 1 else "free"
        if array.exclusive:
            place += ":excl"
        argv = self._jobs.submit_argv(array, place=None if own_place(extra) else place)
        return Command((*argv, *job_resources(array), *extra), stdin=self._jobs.script(array).encode())

    def parse_submit(self, array: JobArray, reply: Reply) -> Submission:
        """Classify qsub's reply."""
        jobs = self._jobs
        from hpcflow_pbs.submission import classify

        return classify(jobs, array.width, reply)

    def cancel(self, arrays: Sequence[JobArray], *, pending_only: bool) -> Command:
        """Return one command that ends all of them, whether their ids are known or not, and spares what has ended.

        With ``pending_only`` and every id known nothing is looked up by name: such arrays have no work left, and a
        duplicate that comes late finds none.
        """
        ids = [full_id(array.job_id, array.width) for array in arrays if array.job_id is not None]
        names: list[str] = []
        if not pending_only or len(ids) < len(arrays):
            names = list(dict.fromkeys(array.token for array in arrays))
        states = _WAITING if pending_only else _LIVING
        return Command(("sh", "-c", _CANCEL, "hpcflow-cancel", states, str(len(names)), *names, *dict.fromkeys(ids)))

    def release(self, arrays: Sequence[JobArray]) -> Command | None:
        """Return one command that takes the user's own hold off; an operator's and PBS's own stay."""
        ids = [full_id(array.job_id, array.width) for array in arrays if array.job_id is not None]
        return Command(("qrls", *ids)) if ids else None

    def parse_cancel(self, reply: Reply) -> str | None:
        """Return ``None`` when nothing is left that qdel was asked to end."""
        said = decoded(reply.stderr)
        lines = [line for line in said.splitlines() if line.strip()]
        if reply.exit_code == 0 and all(map(_GONE.match, lines)):
            return None
        if reply.exit_code is None:
            return f"qdel's end was not seen: {first_words(said)}"
        return f"qdel ended with {reply.exit_code}: {first_words(said)}"


_conforms: type[Plugin] = PbsPlugin
