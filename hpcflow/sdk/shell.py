"""What of this program's environment the server has not, and would need to find or to reach a scheduler as we do."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Final

__all__ = ["differing", "environment_of"]

#: By scheduler, and for clusters behind ssh: variables that lead to it, and its command on PATH.
_MATTERS: Final[Mapping[str, tuple[Sequence[str], str | None]]] = {
    "slurm": (("SLURM_CONF", "KRB5CCNAME"), "sbatch"),
    "pbs": (("PBS_CONF_FILE", "PBS_DEFAULT", "PBS_SERVER", "KRB5CCNAME"), "qsub"),
    "lsf": (("LSF_ENVDIR", "LSF_SERVERDIR", "KRB5CCNAME"), "bsub"),
    "ssh": (("SSH_AUTH_SOCK", "KRB5CCNAME"), None),
}


def environment_of(pid: int) -> dict[str, str] | None:
    """Return the environment that a process of this user began with.

    ``None``: it is gone, or nobody may look, or nothing is there to read: so Linux tells of a process that has
    ended but was not waited for, and for an instant of one that begins another program.
    """
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except OSError:
        return None
    pairs = (os.fsdecode(entry).partition("=") for entry in entries if b"=" in entry)
    return {name: value for name, _, value in pairs} or None


def differing(server: Mapping[str, str], mine: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the names of variables that matter and that the server has otherwise, by scheduler, "ssh" among them.

    PATH is one only where a scheduler's command is found by ours, and another or none by the server's.
    """
    found: dict[str, list[str]] = {}
    for scheduler, (names, command) in _MATTERS.items():
        others = [name for name in names if server.get(name) != mine.get(name)]
        if command is not None and (here := _found(command, mine)) is not None and here != _found(command, server):
            others.append("PATH")
        if others:
            found[scheduler] = others
    return found


def _found(command: str, environ: Mapping[str, str]) -> str | None:
    path = shutil.which(command, path=environ.get("PATH", os.defpath))
    return None if path is None else os.path.realpath(path)
