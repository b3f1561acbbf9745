"""Why a job waits, in plain words: the sentences that PBS's scheduler writes into a job's comment."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["SUSPENDED", "in_plain_words"]

_RESOURCE: Final = {
    "ncpus": "cores",
    "mem": "memory",
    "ngpus": "GPUs",
    "vmem": "memory",
    "walltime": "walltime",
    "nodect": "nodes",
}
#: What its scheduler says (job_info.cpp of 23.06; the first fits). ``{0}``: what the pattern caught, in our words.
_WORDS: Final[tuple[tuple[re.Pattern[str], str], ...]] = tuple(
    (re.compile(pattern, re.IGNORECASE), words)
    for pattern, words in (
        (r"Insufficient amount of (?:queue|server) resource: (\w+)", "waits for {0} that the whole site shares"),
        (r"Insufficient amount of resource: (\w+)", "waits for enough {0} to become free"),
        (r"Not enough (?:of the right type of nodes are|free nodes) available", "waits for enough free nodes"),
        (r"Not enough total nodes available", "asks for more nodes than are up"),
        (r"set \S+ has too few free resources", "waits for nodes that lie close enough to each other"),
        (r"fit in the largest placement set", "asks for more nodes than lie close to each other"),
        (r"conflict with reservation or top job", "waits its turn: it would delay a reservation, or a job ahead of it"),
        (
            r"interfere with a (?:top|confirmed|backfill)",
            "waits its turn: it would delay a reservation, or a job ahead",
        ),
        (r"Strict (?:fifo|sorted) order|strict sorted order", "waits its turn: jobs start strictly in order here"),
        (r"Draining system to allow", "waits its turn: nodes are kept free for a job that has waited long"),
        (r"concurrent running subjobs", "waits for others of its array: no more of them may run at once"),
        (r"^(?:Server|Queue \S+|Queue) job limit has been reached", "waits for others to end: no more may run at once"),
        (
            r"User has reached (?:server|queue)|per-user (?:job )?limit|limit reached for user|exceed user \S+ limit",
            "waits for others to end: you may have no more at once",
        ),
        (
            r"Group has reached|per-group (?:job )?limit|limit reached for group|exceed group \S+ limit",
            "waits for others to end: your group may have no more at once",
        ),
        (
            r"Project has reached|per-project (?:job )?limit|limit reached for project|exceed project \S+ limit",
            "waits for others to end: your project may have no more at once",
        ),
        (r"exceed overall limit on resource (\w+)", "waits for others to end: all jobs together may use no more {0}"),
        (r"Queue not started", "waits for its queue, which starts no jobs now"),
        (r"Queue not an execution queue", "waits in a queue that only passes jobs on"),
        (r"dedicated time", "waits: it would run into a time that is set aside, often for a maintenance"),
        (r"(?:non-)?prime ?time", "waits for the hours in which its queue starts jobs"),
        (r"Node is in an ineligible state", "waits for nodes that are down, busy or offline"),
        (r"requesting an exclusive node and node is in use", "waits for a node that nobody else uses"),
        (r"zero shares for fairshare", "waits: its user has no share here"),
        (r"under job_sort_formula threshold", "waits until its priority is high enough"),
        (r"Node has reached (?:job|user|group) run limit", "waits for others to end: its nodes may run no more jobs"),
        (r"^PBS Error:", "could not be started; PBS tries again"),
        (r"^Hold_Types=\w*s\b.*depend=|^depend=", "waits for another job that it depends on"),
        (r"^Hold_Types=\w*s", "is held by PBS: it could not be started too often, or its turn is not to come yet"),
        (r"^Hold_Types=\w*o|held by operator", "is held by an operator"),
        (r"^Hold_Types=\w*u|^Job held by", "is held by you"),
    )
)
_STATES: Final = {
    "Q": "was not looked at yet: the scheduler's next round will",
    "H": "is held",
    "W": "has an earliest time to begin, which has not come yet",
    "T": "is on its way to another server",
}
#: What began and stands still.
SUSPENDED: Final = {
    "S": "is suspended: an operator, or a job that goes first, has its cores; it goes on after that",
    "U": "is suspended: somebody works at its machine; it goes on when that is idle",
}


def in_plain_words(raw: str) -> str | None:
    """Return why a job waits or is suspended, as a phrase that begins with a verb; ``None`` for what is in no table.

    Args:
        raw: state and comment, "Q Not Running: Not enough free nodes available".
    """
    state, _, comment = raw.partition(" ")
    if state in SUSPENDED:
        return _sentence(SUSPENDED[state])
    if state not in _STATES:
        return None
    if not comment:
        return _sentence(_STATES[state])
    never = comment.startswith("Can Never Run")
    said = re.sub(r"^(?:Not Running|Can Never Run): *", "", comment)
    for pattern, words in _WORDS:
        found = pattern.search(said)
        if found is None:
            continue
        what = _RESOURCE.get(found[1].lower(), found[1]) if pattern.groups else ""
        if never:
            return f"Never starts: asks for more {what} than there is" if what else "Never starts: asks for too much"
        return _sentence(words.format(what))
    return "Never starts: asks for what this cluster can't give" if never else None


def _sentence(phrase: str) -> str:
    return phrase[0].upper() + phrase[1:]
