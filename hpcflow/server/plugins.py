"""Finds schedulers' plugins by entry point, and imports the ones that are asked for."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Final, cast

from hpcflow.core.model import UserError
from hpcflow.core.plugin import Plugin

__all__ = ["found_on_path", "load", "names"]

#: The submit command of each scheduler we look for where nothing is configured.
_SUBMIT_COMMANDS: Final = {"slurm": "sbatch", "pbs": "qsub", "lsf": "bsub"}


def _entries() -> Mapping[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group="hpcflow.executors")}


def names() -> tuple[str, ...]:
    """Return the schedulers that plugins are installed for."""
    return tuple(sorted(_entries()))


def found_on_path(path: str) -> tuple[str, ...]:
    """Return the schedulers with a plugin whose submit command is in ``path`` (as PATH spells it)."""
    known = _entries()
    return tuple(
        name for name, command in _SUBMIT_COMMANDS.items() if name in known and shutil.which(command, path=path)
    )


def load(scheduler: str) -> type[Plugin]:
    """Import one scheduler's plugin. Call it in the main thread only.

    Raises:
        UserError: no such plugin is installed.
    """
    entry = _entries().get(scheduler)
    if entry is None:
        raise UserError(f"There is no plugin for the scheduler {scheduler!r}; installed are {', '.join(names())}.")
    plugin = cast("type[Plugin]", entry.load())  # an entry point's value has no type; the plugin proves itself
    # psij 0.9.11 installs a SIGCHLD handler when it is imported: the first child that ends would start a thread that
    # looks every 0.1 s for ever.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    return plugin
