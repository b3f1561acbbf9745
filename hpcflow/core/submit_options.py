"""Options of the submit commands by their names: which are real, and which real one a slip was meant to be. Pure.

No list is complete: sites add options by plugins (Slurm's SPANK), and releases bring new ones. So a name that is not
here is doubted only where it is close to one that is, or where the command can't have it at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

__all__ = ["near_option", "unrecognized"]

#: sbatch(1) of 22.05 to 25.05, and Pyxis' for containers, which many sites have.
_SBATCH: Final = frozenset({
    "account", "acctg-freq", "array", "batch", "bb", "bbf", "begin", "chdir", "cluster", "clusters",
    "cluster-constraint", "comment", "constraint", "consolidate-segments", "container", "container-id",
    "contiguous", "core-spec", "cores-per-socket", "cpu-freq", "cpus-per-gpu", "cpus-per-task", "deadline",
    "delay-boot", "dependency", "distribution", "error", "exclude", "exclusive", "export", "export-file", "extra",
    "extra-node-info", "get-user-env", "gid", "gpu-bind", "gpu-freq", "gpus", "gpus-per-node", "gpus-per-socket",
    "gpus-per-task", "gres", "gres-flags", "help", "hint", "hold", "ignore-pbs", "input", "job-name",
    "kill-on-invalid-dep", "licenses", "mail-type", "mail-user", "mcs-label", "mem", "mem-bind", "mem-per-cpu",
    "mem-per-gpu", "mincpus", "network", "nice", "no-kill", "no-requeue", "nodefile", "nodelist", "nodes", "ntasks",
    "ntasks-per-core", "ntasks-per-gpu", "ntasks-per-node", "ntasks-per-socket", "oom-kill-step", "open-mode",
    "output", "overcommit", "oversubscribe", "parsable", "partition", "power", "prefer", "priority", "profile",
    "propagate", "qos", "quiet", "reboot", "requeue", "reservation", "resv-ports", "segment", "share", "signal",
    "sockets-per-node", "spread-job", "spread-segments", "stepmgr", "switches", "test-only", "thread-spec",
    "threads-per-core", "time", "time-min", "tmp", "tres-bind", "tres-per-task", "uid", "usage", "use-min-nodes",
    "verbose", "version", "wait", "wait-all-nodes", "wait-for-children", "wckey", "workdir", "wrap", "x11",
    "container-image", "container-mounts", "container-workdir", "container-name", "container-save",
    "container-mount-home", "no-container-mount-home", "container-remap-root", "no-container-remap-root",
    "container-entrypoint", "no-container-entrypoint", "container-entrypoint-log", "container-writable",
    "container-readonly", "container-env",
})  # fmt: skip
#: bsub (10.1); those of one letter are left out: no slip can be told from another option.
_BSUB: Final = frozenset({
    "alloc_flags", "app", "ar", "clusters", "cn_cu", "cn_mem", "core_isolation", "csm", "cwd", "data", "datagrp",
    "env", "eo", "Ep", "eptl", "ext", "freq", "gpu", "hl", "hostfile", "Ip", "IS", "ISp", "ISs", "Is", "IX", "is",
    "Jd", "jobaff", "json", "jsdl", "jsdl_strict", "jsm", "Lp", "Lic", "mig", "Ne", "nnodes", "notify", "oo",
    "outdir", "pack", "ptl", "rn", "rnc", "sla", "smt", "sp", "stage", "step_cgroup", "ti", "tty", "ul", "We", "wa",
    "wt", "XF", "yaml", "Zs",
})  # fmt: skip
#: What people call things that the command calls otherwise.
_MEANT: Final[Mapping[str, Mapping[str, str]]] = {
    "sbatch": {"memory": "mem", "walltime": "time", "queue": "partition", "project": "account", "name": "job-name"},
    "qsub": {
        "queue": "q",
        "partition": "q",
        "account": "A",
        "project": "P",
        "name": "N",
        "priority": "p",
        "walltime": "l",
        "time": "l",
        "mem": "l",
        "memory": "l",
        "select": "l",
        "ncpus": "l",
        "cpus": "l",
        "ngpus": "l",
        "gpus": "l",
    },
    "bsub": {
        "queue": "q",
        "partition": "q",
        "project": "P",
        "account": "P",
        "name": "J",
        "walltime": "W",
        "time": "W",
        "mem": "M",
        "memory": "M",
        "ntasks": "n",
        "gpus": "gpu",
    },
}
#: How alike a slip and a real name are: "partion" and "partition" are, "container-name" and "container-id" are not.
_ALIKE: Final = 0.85
_SLIP: Final = re.compile(r"unrecognized option '--([\w-]+)|option '--([\w-]+)[^']*' is ambiguous")


def near_option(command: str, name: str) -> str | None:
    """Return the real option that a name was probably meant to be; ``None``: it is real, or nobody can tell.

    Args:
        command: "sbatch", "qsub" or "bsub".
        name: as somebody wrote it, without dashes before it.
    """
    known = {"sbatch": _SBATCH, "bsub": _BSUB}.get(command, frozenset[str]())
    # sbatch takes any beginning of a name that is one option's alone.
    if len(name) == 1 or name in known or (command == "sbatch" and len(_begun(name, known)) == 1):
        return None
    spelled = name.replace("_", "-") if command == "sbatch" else name
    if spelled in known:
        return spelled
    if (meant := _MEANT[command].get(spelled.lower())) is not None:
        return meant
    return _closest(spelled, known)


def unrecognized(said: str) -> str | None:
    """Return the option of sbatch that it was probably meant, from its own words about one that it has not."""
    found = _SLIP.search(said)
    return None if found is None else near_option("sbatch", found[1] or found[2])


def _begun(name: str, known: Iterable[str]) -> list[str]:
    return [each for each in known if each.startswith(name)]


def _closest(name: str, known: Iterable[str]) -> str | None:
    from difflib import get_close_matches  # only where something is wrong

    return next(iter(get_close_matches(name, sorted(known), n=1, cutoff=_ALIKE)), None)
