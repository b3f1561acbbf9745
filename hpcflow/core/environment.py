"""What a task finds around it on the cluster: one value, and its spelling as lines of shell, an argv and a key."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final

__all__ = ["EXIT_ENVIRONMENT", "Environment", "environment_key", "inside", "missing_from", "shell_lines"]

#: What a batch script ends with when a module, a conda environment or a venv is not there (EX_CONFIG).
EXIT_ENVIRONMENT: Final = 78


#: A sentence of `shell_lines`; a shell's own complaint ("hpcflow: 2: module: not found") has a line's number.
_OURS: Final = re.compile(r"hpcflow: (?![0-9]+: |line [0-9])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The environment of a task; equal values share a bag.

    In this order: modules, conda environment, venv, own lines of shell; then the container, and in it the interpreter.
    """

    modules: tuple[str, ...] = ()
    #: A conda environment by its name or its absolute path.
    conda: str | None = None
    #: A virtual environment's folder on the cluster: absolute, or below the home directory as ``~/…``.
    venv: str | None = None
    #: An Apptainer image: an absolute path on the cluster, or a URI such as ``docker://python:3.12``.
    container: str | None = None
    #: Further folders of the cluster that are seen in the container, as ``apptainer --bind`` takes them.
    binds: tuple[str, ...] = ()
    #: The interpreter in all that; ``None``: that of the conda environment, venv or container, else the cluster's.
    python: str | None = None
    #: The user's own lines of shell.
    prologue: str = ""
    #: Lines of a requirements file, of packages that are installed once beside that interpreter's own.
    requirements: tuple[str, ...] = ()
    #: Only these are seen, and nothing of the interpreter's own packages.
    alone: bool = False
    #: Whether packages that functions import are looked for before anything is submitted.
    check: bool = True

    @property
    def has_python(self) -> bool:
        """It brings an interpreter, so that the cluster's does not count."""
        return (self.conda, self.venv, self.container, self.python) != (None, None, None, None)

    @property
    def base(self) -> Environment:
        """What its requirements are installed upon."""
        return replace(self, requirements=(), alone=False, check=True)

    def over(self, usual: Environment) -> Environment:
        """Return this environment on a cluster that has a usual one: modules and folders of both, one interpreter."""
        inner = self if self.has_python else replace(self, conda=usual.conda, venv=usual.venv, python=usual.python)
        if not self.has_python:
            inner = replace(inner, container=usual.container)
        return replace(
            inner,
            modules=tuple(dict.fromkeys((*usual.modules, *self.modules))),
            binds=tuple(dict.fromkeys((*usual.binds, *self.binds))),
        )

    def adding(self, requirements: Sequence[str]) -> Environment:
        """Return this environment with further packages, lines of a requirements file, installed once per cluster.

        This is what `DepsPip` needs: equal sets give equal values, whatever their order, and so share bags and builds.
        """
        if not requirements:
            return self
        return replace(self, requirements=tuple(sorted({*self.requirements, *requirements})))

    def interpreter(self, usual: str) -> str:
        """Return how the interpreter is called in it, its requirements aside.

        Args:
            usual: that of the cluster.
        """
        if self.python is not None:
            return self.python
        if self.container is not None:
            return "python3"
        # The lines put its folder first on PATH, and have looked that there is one.
        return "python" if self.conda is not None or self.venv is not None else usual


# ---- spelling

_MODULE_COMMAND: Final = (
    "command -v module >/dev/null 2>&1 || "
    'for hpcflow_init in "${MODULESHOME:-/usr/share/modules}/init/sh" "${LMOD_CMD%/libexec/lmod}/init/sh" '
    "/etc/profile.d/modules.sh /etc/profile.d/lmod.sh; do "
    'if test -r "$hpcflow_init"; then . "$hpcflow_init"; break; fi; done'
)
_CONDA_COMMAND: Final = (
    "hpcflow_conda=conda; command -v conda >/dev/null 2>&1 || "
    'for hpcflow_conda in "${CONDA_EXE:-}" "$HOME/miniforge3/bin/conda" "$HOME/miniconda3/bin/conda" '
    '"$HOME/mambaforge/bin/conda" "$HOME/anaconda3/bin/conda"; do '
    'if test -x "$hpcflow_conda"; then break; fi; hpcflow_conda=; done'
)
_CONDA_HOOK: Final = 'hpcflow_hook=$("$hpcflow_conda" shell.posix hook) && eval "$hpcflow_hook"'
#: The one that is there; sites that have not followed the new name have the old one.
_CONTAINER_COMMAND: Final = (
    "hpcflow_box=$(command -v apptainer || command -v singularity) || "
    f"{{ echo 'hpcflow: neither apptainer nor singularity is on PATH' >&2; exit {EXIT_ENVIRONMENT}; }}; "
    'exec "$hpcflow_box" "$@"'
)


def shell_lines(environment: Environment) -> str:
    """Return lines of POSIX shell that set the environment up, up to its container; empty where there is nothing to do.

    What the user named is quoted, but for the prologue, which is the user's own shell. Where something is missing
    the shell ends with `EXIT_ENVIRONMENT` and a sentence.
    """
    lines: list[str] = []
    if environment.modules:
        lines.append(_MODULE_COMMAND)
        for module in environment.modules:
            lines.append(f"module load {shlex.quote(module)} || {_end(f'module load {module} failed')}")
    if environment.conda is not None:
        name = environment.conda
        lines += [
            _CONDA_COMMAND,
            f'test -n "$hpcflow_conda" || {_end("conda was not found: load it as a module, or put it on PATH")}',
            f"{_CONDA_HOOK} || {_end('conda could not set its shell up')}",
        ]
        lines.append(f"conda activate {shlex.quote(name)} || {_end(f'conda activate {name} failed')}")
    if environment.venv is not None:
        folder = _path(environment.venv)
        lines.append(f"VIRTUAL_ENV={folder} PATH={folder}/bin:$PATH; export VIRTUAL_ENV PATH")
        lines.append(f'test -x "$VIRTUAL_ENV/bin/python" || {_end(f"{environment.venv} is no virtual environment")}')
    if environment.prologue.strip():
        lines.append(environment.prologue.strip("\n"))
    return "".join(f"{line}\n" for line in lines)


def missing_from(said: str) -> str:
    """Return what is missing, of all that a shell wrote before it ended with `EXIT_ENVIRONMENT`.

    Args:
        said: its output; our own sentence in it is put first, what the shell and its programs said after it.
    """
    ours, others = list[str](), list[str]()
    for line in filter(None, map(str.strip, said.splitlines())):
        (ours if _OURS.match(line) else others).append(line)
    first = " ".join(line.removeprefix("hpcflow: ") for line in ours)
    if not ours:
        return " ".join(others) or "its shell said nothing"
    return f"{first}. It wrote: {' '.join(others)}" if others else f"{first}."


def _end(sentence: str) -> str:
    return f"{{ echo {shlex.quote(f'hpcflow: {sentence}')} >&2; exit {EXIT_ENVIRONMENT}; }}"


def _path(path: str) -> str:
    return f'"$HOME"/{shlex.quote(path[2:])}' if path.startswith("~/") else shlex.quote(path)


def inside(
    environment: Environment, command: Sequence[str], *, folders: Sequence[str], gpus: bool = False
) -> tuple[str, ...]:
    """Return an argv that runs a command inside of the environment's container; the command itself without one.

    Args:
        environment: after its `shell_lines`.
        command: an argv in the container.
        folders: absolute paths that it reads and writes.
        gpus: whether it uses NVIDIA's.
    """
    if environment.container is None:
        return tuple(command)
    words = ["exec", *(["--nv"] if gpus else [])]
    for folder in dict.fromkeys((*folders, *environment.binds)):
        words += ["--bind", folder]
    return ("/bin/sh", "-c", _CONTAINER_COMMAND, "hpcflow", *words, environment.container, *command)


def environment_key(environment: Environment, *, cluster: str, machine: str, python: tuple[int, int]) -> str:
    """Return what tells installed requirements from others: what they are, upon what, for which Python and machine."""
    fields = {**asdict(environment), "check": True, "requirements": sorted(environment.requirements)}
    raw = json.dumps([1, fields, cluster, machine, python], sort_keys=True)
    return hashlib.sha256(raw.encode()).hexdigest()[:20]
