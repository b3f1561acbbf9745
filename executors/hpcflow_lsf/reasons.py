"""Why an element waits, in plain words: LSF's pending reasons."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["SUSPENDED", "in_plain_words"]

#: What bjobs says (IBM's manual of 10.1, its lsbatch messages, and what OpenLava was seen to say); the first fits.
#: A site may word them anew (lsb.reasons): then its own words stand alone.
_WORDS: Final[tuple[tuple[re.Pattern[str], str], ...]] = tuple(
    (re.compile(pattern, re.IGNORECASE), words)
    for pattern, words in (
        (r"never satisfied|never be satisfied", "never starts: the job that it depends on did not end as it had to"),
        (r"suspended by (?:the )?(?:LSF )?admin\w*|suspended by.*root", "is held by an administrator"),
        (r"suspended by (?:the )?user", "is held by you"),
        (r"New job is waiting for scheduling", "was not looked at yet: the scheduler's next round will"),
        (r"dependency condition not satisfied", "waits for another job that it depends on"),
        (r"job array has reached its (?:job|running element) (?:slot )?limit", "waits for others of its array"),
        (r"specified start time|start time .*not (?:yet )?(?:reached|come)", "has an earliest time to begin"),
        (r"queue is (?:inactive|closed)|not active|run windows?|dispatch windows? .*closed", "waits for its queue"),
        (r"user has reached .*limit|per-user .*limit", "waits for others to end: you may have no more at once"),
        (r"user group has reached|group.*limit", "waits for others to end: your group may have no more at once"),
        (r"project.*limit", "waits for others to end: your project may have no more at once"),
        (r"queue has reached its job slot limit", "waits for others to end: its queue may run no more at once"),
        (r"resource .*limit .*(?:reached|defined)|limit .*reached", "waits for others to end: a limit is reached"),
        (r"licen[cs]e", "waits for a licence to become free"),
        (r"not enough (?:job )?slot|job slot limit reached|not enough processors", "waits for enough free cores"),
        (r"not enough hosts|span\w* requirement", "waits for enough free hosts"),
        (r"not enough .*(?:memory|mem\b)|mem\w* .*not (?:enough|satisfied)", "waits for enough memory to become free"),
        (r"not enough .*gpu|gpu.*not (?:enough|available|satisfied)", "waits for enough GPUs to become free"),
        (r"requirements? (?:for .*)?not satisfied", "waits for hosts that have what it asks for and are free"),
        (r"closed by LSF admin|host is (?:closed|unavailable|unreachable)", "waits for hosts that are closed or down"),
        (r"load information unavailable|load threshold|just started a job", "waits for hosts that are less busy"),
        (r"higher priority|preempt", "waits its turn: other jobs have a higher priority"),
        (r"reserved for|advance reservation", "waits for hosts that are kept for others"),
    )
)
_STATES: Final = {
    "PEND": "was not looked at yet: the scheduler's next round will",
    "PSUSP": "is held",
    "WAIT": "waits for others of its chunk",
    "PROV": "is being given a host that starts up for it",
}
#: What began and stands still (bjobs(1)).
SUSPENDED: Final = {
    "USUSP": "is suspended: you or an administrator stopped it; it goes on after `bresume`",
    "SSUSP": "is suspended by LSF: its host is too busy, its queue is closed now, or another job goes first",
}


def in_plain_words(raw: str) -> str | None:
    """Return why an element waits or is suspended, as a phrase that begins with a verb; ``None``: it is in no table.

    Args:
        raw: state and reasons, "PEND New job is waiting for scheduling;".
    """
    state, _, reason = raw.partition(" ")
    if state in SUSPENDED:
        return SUSPENDED[state][0].upper() + SUSPENDED[state][1:]
    if state not in _STATES:
        return None
    phrase = next((words for pattern, words in _WORDS if pattern.search(reason)), None) if reason else _STATES[state]
    if phrase is None and state == "PSUSP":
        phrase = _STATES[state]
    return phrase and phrase[0].upper() + phrase[1:]
