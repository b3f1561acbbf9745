"""Which arguments a user or a cluster's owner may add to sbatch's: all but those that are hpcflow's own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from hpcflow.core.batch import check_texts
from hpcflow.core.model import JobArray, UserError

__all__ = ["check_array", "checked_extra", "cluster_of", "clusters_option", "excluded"]

#: Long options that are never taken from ``extra``, and what to write instead.
_RESERVED: Final[Mapping[str, str]] = {
    "job-name": "hpcflow finds its arrays again by their names",
    "array": "hpcflow chooses the size of an array",
    "comment": "hpcflow's comment names the dispatch",
    "output": "hpcflow keeps each array task's output beside its bag",
    "open-mode": "hpcflow keeps each array task's output beside its bag",
    "chdir": "write workdir=",
    "dependency": "hpcflow orders tasks by itself, and needs it for `singleton`",
    "signal": "hpcflow warns its workers with it",
    "parsable": "hpcflow reads sbatch's answer",
    "wrap": "hpcflow sends a script of its own",
    "test-only": "write `hpcflow plan`",
    "wait": "hpcflow doesn't wait for sbatch",
    "help": "it submits nothing",
    "usage": "it submits nothing",
    "version": "it submits nothing",
    "clusters": 'name one cluster in clusters.toml, as extra = ["--clusters=NAME"]',
    "cluster": 'name one cluster in clusters.toml, as extra = ["--clusters=NAME"]',
    "nodes": "write nodes=",
    "ntasks": "write ntasks=",
    "cpus-per-task": "write cpus=",
    "time": "write walltime=",
    "partition": "write partition=",
    "account": "write account=",
    "qos": "write qos=",
    "constraint": "write constraint=",
    "reservation": "write reservation=",
    "licenses": "write licenses=",
    "exclude": "write exclude=",
}
#: The same of a task, which has annotations for them; clusters.toml may set them for all of a cluster's tasks.
_OF_TASKS: Final[Mapping[str, str]] = {
    "error": "hpcflow keeps each array task's output beside its bag",
    "input": "hpcflow's script has its own input",
    "requeue": "arrays are always requeued",
    "no-requeue": "arrays are always requeued",
    "export": "hpcflow's script has its own environment",
    "uid": "tasks run as you",
    "gid": "tasks run as you",
    "time-min": "write walltime=",
    "ntasks-per-node": "write nodes= and ntasks=",
}
#: Options that collide only with an annotation that is there: memory= and gpus=.
_WITH_MEMORY: Final = ("mem", "mem-per-cpu", "mem-per-gpu")
_WITH_GPUS: Final = ("gres", "gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket")

#: sbatch's one-letter spellings (sbatch(1), 22.05).
_SHORT: Final[Mapping[str, str]] = {
    "J": "job-name",
    "a": "array",
    "o": "output",
    "e": "error",
    "i": "input",
    "D": "chdir",
    "d": "dependency",
    "W": "wait",
    "h": "help",
    "V": "version",
    "M": "clusters",
    "N": "nodes",
    "n": "ntasks",
    "c": "cpus-per-task",
    "t": "time",
    "p": "partition",
    "A": "account",
    "q": "qos",
    "C": "constraint",
    "L": "licenses",
    "x": "exclude",
    "G": "gpus",
}
#: One-letter options without a value, which others may follow in the same argument.
_FLAGS: Final = "HIkOQsv"

#: One other cluster of a multi-cluster installation, which clusters.toml may name and a task may not.
_CLUSTER: Final = re.compile(r"(?:--clusters?=|-M)(?!all$)([A-Za-z0-9][\w.-]*)")
#: A node, or several as squeue and sacct write them: "node[1-2,7]".
_HOSTS: Final = re.compile(r"[A-Za-z0-9][\w.,\[\]-]*")

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


def checked_extra(array: JobArray) -> tuple[str, ...]:
    """Return the cluster's and then the task's further arguments of sbatch.

    Raises:
        UserError: one of them is no option, or collides with an option of hpcflow's own.
    """
    taken = dict(_RESERVED)
    if array.resources.memory_mib is not None:
        taken |= dict.fromkeys(_WITH_MEMORY, "memory= is set already")
    if array.resources.gpus:
        taken |= dict.fromkeys(_WITH_GPUS, "gpus= is set already")
    for source, words in (("clusters.toml", array.extra), ("extra=", array.resources.extra)):
        for word in words:
            if source == "extra=":
                _check(word, source, {**_OF_TASKS, **taken})
            elif not _CLUSTER.fullmatch(word):
                _check(word, source, taken)
    return (*array.extra, *array.resources.extra)


def cluster_of(array: JobArray) -> str | None:
    """Return the Slurm cluster that clusters.toml sends an array to, ``None`` for the login node's own."""
    named = [found[1] for word in array.extra if (found := _CLUSTER.fullmatch(word))]
    return named[-1] if named else None


def clusters_option(clusters: Sequence[str | None]) -> tuple[str, ...]:
    """Return the option, none or one, with which Slurm's commands speak of these clusters."""
    names = dict.fromkeys(name for name in clusters if name is not None)
    return (f"--clusters={','.join(names)}",) if names else ()


def excluded(array: JobArray) -> str | None:
    """Return the nodes that an array must not run on, in one list as sbatch takes it.

    A task's own list may be the name of a file, which has a slash and takes no further nodes: then it stands alone.
    """
    asked = array.resources.exclude
    if asked is not None and "/" in asked:
        return asked
    nodes = dict.fromkeys(name for name in array.avoid if _HOSTS.fullmatch(name))
    return ",".join([*([asked] if asked else []), *nodes]) or None


def check_array(array: JobArray) -> None:
    """Refuse what would mean something else to sbatch or to the script than to its writer.

    Raises:
        UserError: a control character in a text, a name that is no name for a job, no array task at all.
    """
    check_texts(array, a_job="a Slurm job", scheduler="Slurm", dashes=True)


def _check(word: str, source: str, taken: Mapping[str, str]) -> None:
    if _CONTROL.search(word):
        raise UserError(f"{source} has {word!r}: a control character can't be passed to sbatch.")
    if not word.startswith("-") or word in {"-", "--"}:
        # sbatch would take a bare word for the script's file, and what follows for the script's arguments.
        raise UserError(f'{source} has {word!r}: write an option and its value as one argument, such as "--nice=100".')
    for name in _options(word):
        for reserved, instead in taken.items():
            # sbatch takes any beginning of a long option's name that is not ambiguous.
            if reserved.startswith(name):
                raise UserError(f"{source} has {word!r}, which sets sbatch's --{reserved}: {instead}.")


def _options(word: str) -> Iterable[str]:
    """Yield the long names, perhaps shortened, of the options in one argument."""
    if word.startswith("--"):
        yield word[2:].partition("=")[0]
        return
    for letter in word[1:]:
        if letter in _SHORT:
            yield _SHORT[letter]
        if letter not in _FLAGS:
            return
