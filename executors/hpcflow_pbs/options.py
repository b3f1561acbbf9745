"""Which arguments a user or a cluster's owner may add to qsub's: all but those that are hpcflow's own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from hpcflow.core.batch import check_texts
from hpcflow.core.model import JobArray, UserError
from hpcflow.core.submit_options import near_option

__all__ = ["check_array", "checked_extra", "job_resources", "own_place"]

#: Options of qsub (23.06) that are never taken from ``extra``, and what to write instead.
_RESERVED: Final[Mapping[str, str]] = {
    "N": "hpcflow finds its arrays again by their names",
    "J": "hpcflow chooses the size of an array",
    "t": "hpcflow chooses the size of an array",
    "o": "hpcflow keeps each array task's output beside its bag",
    "e": "hpcflow keeps each array task's output beside its bag",
    "j": "hpcflow keeps each array task's output beside its bag",
    "k": "hpcflow keeps each array task's output beside its bag",
    "R": "hpcflow keeps each array task's output beside its bag",
    "C": "hpcflow's script has no directives",
    "S": "hpcflow's script has its own shell",
    "r": "arrays are always rerunnable",
    "I": "there is no terminal",
    "X": "there is no terminal",
    "G": "there is no terminal",
    "z": "hpcflow reads qsub's answer",
    "f": "hpcflow reads qsub's answer",
    "q": "write partition=",
    "A": "write account=",
}
#: Resources of ``-l`` that are hpcflow's own (the value, as far as its "="), and what to write instead.
_RESOURCES: Final[Mapping[str, str]] = {
    "select": "write nodes=, ntasks=, cpus=, memory=, gpus= and constraint=",
    "nodes": "write nodes=, ntasks= and cpus=",
    "ncpus": "write cpus=",
    "ngpus": "write gpus=",
    "mem": "write memory=",
    "walltime": "write walltime=",
}
_ATTRIBUTES: Final[Mapping[str, str]] = {
    "depend": "hpcflow orders tasks by itself",
    "block": "hpcflow doesn't wait for qsub",
    "umask": "hpcflow's files are the user's alone",
}
#: What `-W` may not set is the same whatever its case.
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_CHUNK: Final = re.compile(r"[A-Za-z][\w-]*=[^\s:+=\\\"']+(?::[A-Za-z][\w-]*=[^\s:+=\\\"']+)*")
_LICENSE: Final = re.compile(r"([A-Za-z][\w.-]*)(?:[:=]([0-9]+))?")


def checked_extra(array: JobArray) -> tuple[str, ...]:
    """Return the cluster's and then the task's further arguments of qsub.

    Raises:
        UserError: one of them is no option, or collides with an option of hpcflow's own.
    """
    for source, words in (("clusters.toml", array.extra), ("extra=", array.resources.extra)):
        for word in words:
            _check(word, source)
    return (*array.extra, *array.resources.extra)


def own_place(extra: tuple[str, ...]) -> bool:
    """Return whether somebody wrote a ``place`` of their own, such as "-lplace=excl" for whole nodes."""
    return any(re.match(r"-l\s*(?:.*,)?place=", word) for word in extra)


def job_resources(array: JobArray) -> list[str]:
    """Return ``-l`` arguments for licences, which PBS counts as resources of the whole job."""
    if array.resources.licenses is None:
        return []
    words: list[str] = []
    for part in array.resources.licenses.split(","):
        found = _LICENSE.fullmatch(part.strip())
        if found is None:
            raise UserError(f'licenses={array.resources.licenses!r}: write them as "name:count,name:count".')
        words += ["-l", f"{found[1]}={found[2] or 1}"]
    return words


def check_array(array: JobArray) -> None:
    """Refuse what would mean something else to qsub or to the script than to its writer.

    Raises:
        UserError: a control character in a text, a name that is no name for a job, an annotation that PBS has not.
    """
    check_texts(array, a_job="a PBS job", scheduler="PBS", dashes=False)
    asked = array.resources
    if asked.qos:
        raise UserError(f"qos={asked.qos!r} means nothing to PBS: name a queue by partition=, or leave it out there.")
    if asked.exclude:
        raise UserError(
            f"exclude={asked.exclude!r}: PBS can't leave out nodes. Use constraint= where the site has one."
        )
    if asked.constraint is not None and not _CHUNK.fullmatch(asked.constraint):
        raise UserError(
            f"constraint={asked.constraint!r}: on PBS it is what a chunk of `select` asks for besides,"
            ' such as "model=icelake" or "model=icelake:scratch=ssd".'
        )
    if asked.reservation is not None and asked.partition is not None:
        raise UserError(
            f"reservation={asked.reservation!r} and partition={asked.partition!r}: a reservation of PBS is a queue,"
            " so name one."
        )


def _check(word: str, source: str) -> None:
    if _CONTROL.search(word):
        raise UserError(f"{source} has {word!r}: a control character can't be passed to qsub.")
    if not re.match(r"-[A-Za-z-]", word):
        # qsub would take a bare word for the script's file.
        raise UserError(f'{source} has {word!r}: write an option and its value as one argument, such as "-p100".')
    if word.startswith("--"):
        meant = _meant(word[2:].partition("=")[0])
        raise UserError(f"{source} has {word!r}: qsub's options have one dash and one letter.{meant}")
    letter, value = word[1], word[2:].strip()
    if letter in _RESERVED:
        raise UserError(f"{source} has {word!r}, which sets qsub's -{letter}: {_RESERVED[letter]}.")
    table = {"l": _RESOURCES, "W": _ATTRIBUTES}.get(letter, {})
    for part in value.split(","):
        name = part.partition("=")[0].strip()
        if name in table:
            raise UserError(f"{source} has {word!r}, which sets {name}: {table[name]}.")


def _meant(name: str) -> str:
    """Return what somebody probably meant who wrote another system's name of an option; empty where nobody can tell."""
    if name in _RESOURCES:
        return f" That is a resource: {_RESOURCES[name]}."
    near = near_option("qsub", name)
    if near is None:
        return ""
    return f" That is -{near} of qsub's: {_RESERVED[near]}." if near in _RESERVED else f" Did you mean -{near}?"
