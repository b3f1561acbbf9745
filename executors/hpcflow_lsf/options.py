"""Which arguments a user or a cluster's owner may add to bsub's: all but those that are hpcflow's own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from hpcflow.core.batch import check_texts
from hpcflow.core.model import JobArray, UserError
from hpcflow.core.submit_options import near_option

__all__ = ["check_array", "checked_extra", "selection"]

_OUTPUT: Final = "hpcflow keeps each array task's output beside its bag"
#: Options of bsub (10.1) that are never taken from ``extra``, and what to write instead.
_RESERVED: Final[Mapping[str, str]] = {
    "J": "hpcflow finds its arrays again by their names",
    "o": _OUTPUT,
    "oo": _OUTPUT,
    "e": _OUTPUT,
    "eo": _OUTPUT,
    "i": "hpcflow's script has its own input",
    "is": "hpcflow's script has its own input",
    "I": "there is no terminal",
    "Ip": "there is no terminal",
    "Is": "there is no terminal",
    "ISp": "there is no terminal",
    "ISs": "there is no terminal",
    "K": "hpcflow doesn't wait for bsub",
    "w": "hpcflow orders tasks by itself",
    "ti": "hpcflow orders tasks by itself",
    "r": "workers are always rerunnable",
    "rn": "workers are always rerunnable",
    "Q": "hpcflow decides what is tried again",
    "h": "it submits nothing",
    "V": "it submits nothing",
    "Zs": "hpcflow sends a script of its own",
    "pack": "hpcflow sends a script of its own",
    "cwd": "write workdir=",
    "n": "write ntasks= and cpus=",
    "W": "write walltime=",
    "We": "write walltime=",
    "M": "write memory=",
    "q": "write partition=",
    "P": "write account=",
    "U": "write reservation=",
    "gpu": "write gpus=",
}
#: Options without a value.
_FLAGS: Final = frozenset(
    {"x", "B", "N", "Ne", "H", "a", "ar", "notify", "csm", "XF", "nnodes"} - {"a", "notify", "csm", "nnodes"}
)
_RESOURCES: Final[Mapping[str, str]] = {"span": "write nodes=, ntasks= and cpus=", "mem": "write memory="}

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_HOST: Final = re.compile(r"[A-Za-z0-9][\w.-]*")
_LICENSE: Final = re.compile(r"[A-Za-z][\w-]*[:=][0-9]+")


def checked_extra(array: JobArray) -> tuple[str, ...]:
    """Return the cluster's and then the task's further arguments of bsub, an option and its value one after the other.

    Raises:
        UserError: one of them is no option, or collides with an option of hpcflow's own.
    """
    words: list[str] = []
    for source, given in (("clusters.toml", array.extra), ("extra=", array.resources.extra)):
        for word in given:
            words += _checked(word, source)
    return tuple(words)


def selection(array: JobArray) -> str | None:
    """Return what goes into ``select[...]``: the task's constraint, and the nodes to leave out."""
    asked = array.resources
    nodes = [part.strip() for part in (asked.exclude or "").split(",") if part.strip()]
    names = dict.fromkeys([*nodes, *(name for name in array.avoid if _HOST.fullmatch(name))])
    parts = [f"({asked.constraint})"] if asked.constraint else []
    return " && ".join([*parts, *(f"hname!='{name}'" for name in names)]) or None


def check_array(array: JobArray) -> None:
    """Refuse what would mean something else to bsub or to the script than to its writer.

    Raises:
        UserError: a control character in a text, a name that is no name for a job, an annotation that LSF has not.
    """
    check_texts(array, a_job="an LSF job", scheduler="LSF", dashes=False)
    asked = array.resources
    if asked.qos:
        raise UserError(f"qos={asked.qos!r} means nothing to LSF: name a queue by partition=, or leave it out there.")
    if asked.constraint is not None and re.search(r"[\[\]]", asked.constraint):
        raise UserError(
            f'constraint={asked.constraint!r}: on LSF it is the inside of select[...], such as "type==X86_64 && ib".'
        )
    for host in (asked.exclude or "").split(",") if asked.exclude else ():
        if not _HOST.fullmatch(host.strip()):
            raise UserError(f"exclude={asked.exclude!r}: on LSF it is a list of hosts with commas between them.")
    for part in (asked.licenses or "").split(",") if asked.licenses else ():
        if not _LICENSE.fullmatch(part.strip()):
            raise UserError(f'licenses={asked.licenses!r}: write them as "name:count,name:count".')


def _checked(word: str, source: str) -> list[str]:
    if _CONTROL.search(word):
        raise UserError(f"{source} has {word!r}: a control character can't be passed to bsub.")
    if word.startswith("--"):
        raise UserError(f"{source} has {word!r}: bsub's options have one dash.{_meant(word[2:].partition('=')[0])}")
    if not re.match(r"-[A-Za-z]", word):
        # bsub would take a bare word for the job's command, and forget the script.
        raise UserError(f'{source} has {word!r}: write an option and its value as one text, such as "-sp 50" or "-x".')
    option, _, value = word.partition(" ")
    name, value = option[1:], value.strip()
    if name in _RESERVED:
        raise UserError(f"{source} has {word!r}, which sets bsub's -{name}: {_RESERVED[name]}.")
    near = near_option("bsub", name)
    if near is not None and near in _RESERVED:
        raise UserError(f"{source} has {word!r}: bsub has no such option.{_meant(name)}")
    if name == "R":
        for resource, instead in _RESOURCES.items():
            if re.search(rf"\b{resource}\s*[\[=]", value):
                raise UserError(f"{source} has {word!r}, which sets {resource}: {instead}.")
    if name in _FLAGS:
        if value:
            raise UserError(f"{source} has {word!r}: bsub's -{name} has no value, and takes {value!r} for the command.")
        return [option]
    if not value:
        raise UserError(f"{source} has {word!r}: bsub's -{name} needs a value behind it, in the same text.")
    return [option, value]


def _meant(name: str) -> str:
    """Return what somebody probably meant who wrote another system's name of an option; empty where nobody can tell."""
    near = near_option("bsub", name)
    if near is None:
        return ""
    return f" That is -{near} of bsub's: {_RESERVED[near]}." if near in _RESERVED else f" Did you mean -{near}?"
