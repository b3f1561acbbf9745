"""What the plugins of all batch schedulers share: replies as text, and what no job array of theirs may hold."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from hpcflow.core.model import JobArray, UserError
from hpcflow.core.plugin import Reply

__all__ = ["BROKEN", "MARK", "check_texts", "count", "decoded", "in_one_line", "not_found"]

#: Printed between the answers of one command that asks several questions, and after the last.
MARK: Final = "=== hpcflow 5c1f27e0 ==="
#: What a byte becomes that is no UTF-8; no parser accepts it in what it reads.
BROKEN: Final = "\N{REPLACEMENT CHARACTER}"

_SENTENCE: Final = 500
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
#: What every scheduler takes for a job's name: PBS has 230 characters, LSF 255 with the indices.
_TOKEN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,199}")


# ---- replies


def decoded(raw: bytes) -> str:
    """Return UTF-8 as text; a byte that is none becomes `BROKEN`."""
    return raw.decode("utf-8", errors="replace")


def in_one_line(lines: Iterable[str]) -> str:
    """Return what a command said, in one line of at most 500 characters, each sentence once."""
    kept = dict.fromkeys(stripped for line in lines if (stripped := line.strip()))
    return "; ".join(kept)[:_SENTENCE] or "it said nothing"


def not_found(reply: Reply) -> bool:
    """Return whether the program does not exist on the cluster: the shell's status 127, and nothing on stdout."""
    said = reply.stderr.lower()
    return reply.exit_code == 127 and not reply.stdout.strip() and (b"not found" in said or b"no such file" in said)


def count(value: object) -> int | None:
    """Return a count, which may come as a number or as a text; ``None`` for anything else."""
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() else None


# ---- job arrays


def check_texts(array: JobArray, *, a_job: str, scheduler: str, dashes: bool) -> None:
    """Refuse what would mean something else to a submit command or to the script than to its writer.

    Args:
        array: what is to be submitted.
        a_job: "a Slurm job", for the sentence.
        scheduler: "Slurm", for the sentence.
        dashes: whether a value may begin like an option.

    Raises:
        UserError: a control character in a text, a name that is no name for a job, no array task at all.
    """
    if not _TOKEN.fullmatch(array.token):
        raise UserError(f"{array.token!r} can't be the name of {a_job}: letters, digits and ._+- only, at most 200.")
    if array.width < 1:
        raise UserError(f"The array {array.token} has {array.width} array tasks: it needs one at least.")
    for name in ("partition", "account", "qos", "constraint", "reservation", "licenses", "exclude"):
        text: str | None = getattr(array.resources, name)
        if text is not None and (not text.strip() or (text.startswith("-") and not dashes) or _CONTROL.search(text)):
            how = "empty or" if dashes else "empty, an option, or"
            raise UserError(f"{name}={text!r} can't be passed to {scheduler}: it is {how} has a control character.")
    if "\r" in array.prologue or "\0" in array.prologue:
        raise UserError("The prologue in clusters.toml has a carriage return or a NUL: no shell takes such scripts.")
    for text in (array.path, *array.command):
        if _CONTROL.search(text):
            raise UserError(f"{text!r} can't stand in a batch script: it has a control character.")
