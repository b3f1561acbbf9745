"""bhist -l: what LSF remembers of jobs that bjobs has forgotten (after CLEAN_PERIOD, one hour by default)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

__all__ = ["Past", "read_history"]

#: Lines are cut after 80 columns, in the middle of a word; what follows is indented by so many blanks.
_INDENT: Final = " " * 21

_HEAD: Final = re.compile(r"^Job <([0-9]+)(?:\[([0-9]+)\])?>, (?:Job Name <([^>]*)>, )?")
_WHEN: Final = re.compile(r"^[A-Z][a-z]{2} [A-Z][a-z]{2} +[0-9]+ [0-9]{2}:[0-9]{2}:[0-9]{2}(?: [0-9]{4})?: ")
_CODE: Final = re.compile(r"Exited (?:with exit code|by exit code) ([0-9]+)\.")
_SIGNAL: Final = re.compile(r"Exited by signal ([0-9]+)\.")
_SIGNAL_SENT: Final = re.compile(r"Signal <([A-Z0-9]+)> requested by user or administrator <([^>]+)>;")
_KILLS: Final = frozenset({"KILL", "TERM", "INT"})
_REASON: Final = re.compile(r"\b(TERM_[A-Z_]+\b[^;]*)")
#: What stands between two reports: the numbers of the summary, and a rule.
_BETWEEN: Final = re.compile(r"^[ 0-9]*$|^-+$|^ +PEND +PSUSP +RUN .*$")
_BROKEN: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\N{REPLACEMENT CHARACTER}]")
#: Words that decide how a job ended; where they stand in no event, an event was damaged.
_TELLING: Final = re.compile(r"Signal|requested by user|Exited|exit code|TERM_|successfully")
_END: Final = re.compile(r"^Summary of time in seconds spent in various states")
_AGAIN: Final = re.compile(r"^(?:Dispatched|Starting|Started|Pending|Requeue|Job has been requeued|Migrat)")


@dataclass(slots=True)
class Past:
    """One element's life, as far as the last event tells."""

    job: str
    #: As LSF counts: from 1, or 0 without an array.
    index: int
    name: str
    #: "DONE" or "EXIT"; empty: it has not ended.
    stat: str = ""
    code: str = ""
    reason: str = ""
    by: str | None = None


def read_history(text: str) -> tuple[list[Past], bool]:
    """Return the elements whose report is whole, and whether all were."""
    kept: list[Past] = []
    now: Past | None = None
    whole = True
    for line in _unwrapped(text):
        head = _HEAD.match(line)
        if _BROKEN.search(line):
            now, whole = None, False
        elif head is not None:
            whole = whole and now is None
            now = Past(job=head[1], index=int(head[2] or 0), name=head[3] or "")
        elif now is not None and _END.match(line):
            kept.append(now)
            now = None
        elif now is not None and (when := _WHEN.match(line)):
            if not _take(now, line[when.end() :]):
                now, whole = None, False
        elif now is not None and _TELLING.search(line):
            now, whole = None, False
        elif now is None and not _BETWEEN.match(line):
            whole = False
    return kept, whole and now is None


def _unwrapped(text: str) -> Iterator[str]:
    line = ""
    for part in text.split("\n"):
        piece = part.removesuffix("\r")
        if piece.startswith(_INDENT) and line:
            line += piece[len(_INDENT) :]
            continue
        if line:
            yield line
        line = piece
    if line:
        yield line


def _take(past: Past, event: str) -> bool:
    """Let one event change what is known; say whether it was whole."""
    sent = _SIGNAL_SENT.match(event)
    if sent is not None:
        past.by = sent[2] if sent[1] in _KILLS else past.by
    elif event.startswith("Done successfully"):
        past.stat, past.code, past.reason = "DONE", "", ""
    elif event.startswith(("Exited", "Completed <exit>")):
        reason = _REASON.search(event)
        code, signal = _CODE.match(event), _SIGNAL.match(event)
        past.stat = "EXIT"
        past.code = code[1] if code else str(128 + int(signal[1])) if signal else past.code
        past.reason = reason[1].strip() if reason else past.reason
    elif _AGAIN.match(event):
        past.stat = past.code = past.reason = ""
        past.by = None
    else:
        return not _TELLING.search(event)
    return True
