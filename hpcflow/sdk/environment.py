"""What ``env=`` takes: `Env`, a short text such as "conda:NAME", or "project" with the packages that it names."""

from __future__ import annotations

import os
import re
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Final

from hpcflow.core.environment import Environment
from hpcflow.core.model import UserError
from hpcflow.sdk.mistakes import show_plainly

__all__ = ["Env", "parse_env", "read_requirements"]

_FILES: Final = ("uv.lock", "pylock.toml", "requirements.txt", "pyproject.toml")
#: Modules, names and images: no white space, nothing that a command could take for an option.
_WORD: Final = re.compile(r"[^\s-]\S*")
_URI: Final = re.compile(r"[a-z][a-z0-9+.-]*://\S+")
#: Options of a requirements file that say where packages come from, and are passed on.
_SOURCES: Final = ("--index-url", "-i", "--extra-index-url", "--find-links", "-f", "--pre", "--trusted-host")
_EXPORT_S: Final = 120
_DEEPEST: Final = 10


def Env(
    *,
    modules: str | Iterable[str] = (),
    conda: str | None = None,
    venv: str | os.PathLike[str] | None = None,
    container: str | None = None,
    binds: Iterable[str] = (),
    python: str | None = None,
    prologue: str = "",
    requirements: str | os.PathLike[str] | Iterable[str] = (),
    alone: bool = False,
    check: bool = True,
) -> Environment:
    """Return an environment for ``env=`` of electrons and lattices.

    Args:
        modules: what ``module load`` is called for, in this order.
        conda: an environment of conda, by name or by absolute path.
        venv: a virtual environment's folder on the cluster, absolute or as ``~/…``.
        container: an Apptainer image, by absolute path or URI; the worker runs in it.
        binds: folders that the container sees besides hpcflow's own, ``"/scratch"`` or ``"/data:/mnt:ro"``.
        python: the interpreter in all that, where it is not the one that goes without saying.
        prologue: your own lines of shell, after the modules and before the worker.
        requirements: packages as pip knows them, ``["numpy==2.1"]``, or the path of a requirements file here. Their
            wheels are fetched here, and installed once on each cluster, without a network there.
        alone: the packages of ``requirements`` are all there is: those of the interpreter are not seen.
        check: look for what functions import before anything is submitted. ``False`` where only compute nodes have it.

    Raises:
        UserError: a value that can't be, two interpreters, a requirement that has no wheels.
    """
    show_plainly()
    named = [name for name, value in (("conda", conda), ("venv", venv), ("container", container)) if value is not None]
    if len(named) > 1:
        raise UserError(f"env: {' and '.join(named)} each bring an interpreter; one task runs under one of them.")
    if "\r" in prologue or "\0" in prologue:
        raise UserError("env: prologue= has a carriage return or a NUL: shells stumble over them.")
    return Environment(
        modules=tuple(_word("modules", module) for module in ([modules] if isinstance(modules, str) else modules)),
        conda=None if conda is None else _word("conda", conda),
        venv=None if venv is None else _place("venv", os.fspath(venv)),
        container=None if container is None else _image(container),
        binds=tuple(_bind(bind) for bind in binds),
        python=None if python is None else _word("python", python),
        prologue=prologue if prologue.strip() else "",
        requirements=tuple(sorted(set(read_requirements(requirements)))),
        alone=_flag("alone", alone),
        check=_flag("check", check),
    )


def parse_env(name: str, value: object) -> Environment:
    """Return what ``env=`` means.

    Raises:
        UserError: it means nothing.
    """
    if isinstance(value, Environment):
        return value
    kind, colon, rest = value.partition(":") if isinstance(value, str) else ("", "", "")
    match kind, colon, rest:
        case "project", "", "":
            return _project(os.fspath(_start()))
        case "conda", ":", _:
            return Env(conda=rest)
        case "venv", ":", _:
            return Env(venv=rest)
        case "container", ":", _:
            return Env(container=rest)
        case "module", ":", _:
            return Env(modules=rest)
        case _:
            raise UserError(
                f"{name}={value!r} is no environment: write 'project', 'conda:NAME', 'venv:/path', 'module:NAME', "
                "'container:/image.sif', or hpcflow.Env(...)."
            )


# ---- single values


def _word(name: str, value: object) -> str:
    if not isinstance(value, str) or not _WORD.fullmatch(value) or not value.isprintable():
        raise UserError(f"env: {name}={value!r} must be one word that does not begin with '-'.")
    return value


def _place(name: str, value: str) -> str:
    if not (os.path.isabs(value) or value.startswith("~/")) or not value.isprintable():
        raise UserError(f"env: {name}={value!r} must be an absolute path on the cluster, or begin with '~/'.")
    return value.rstrip("/")


def _image(value: object) -> str:
    if isinstance(value, str) and value.isprintable() and (os.path.isabs(value) or _URI.fullmatch(value)):
        return value
    raise UserError(
        f"env: container={value!r} must be an absolute path on the cluster, or a URI: 'docker://python:3.12'."
    )


def _bind(value: object) -> str:
    if isinstance(value, str) and os.path.isabs(value) and value.isprintable() and "," not in value:
        return value
    raise UserError(
        f"env: {value!r} in binds= must be an absolute path, with ':/inside' and ':ro' after it if need be."
    )


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise UserError(f"env: {name}={value!r} must be True or False.")
    return value


# ---- requirements


def read_requirements(given: str | os.PathLike[str] | Iterable[str]) -> list[str]:
    """Return lines of a requirements file, flat: files that it includes are part of it.

    Args:
        given: one requirement, several, or the path of a file.

    Raises:
        UserError: a file can't be read, or something in it has no wheel by nature.
    """
    if isinstance(given, os.PathLike):
        return _of_file(Path(given), _DEEPEST)
    if isinstance(given, str):
        return _of_file(Path(given), _DEEPEST) if given.endswith(".txt") else [_line(given, "requirements")]
    lines = [_line(line, "requirements") for line in given]
    return [line for line in lines if line]


def _of_file(path: Path, depth: int) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The requirements file {path} can't be read: {error}.") from None
    lines: list[str] = []
    for raw in re.sub(r"\\\n", " ", text).splitlines():
        line = re.sub(r"(^|\s)#.*$", "", raw).strip()
        included = re.fullmatch(r"(?:-r|--requirement)[ =]?\s*(\S+)", line)
        if included and depth:
            lines += _of_file(path.parent / included[1], depth - 1)
        elif not re.match(r"(-e|--editable)[ =]?\s*\.|\.(\[|$|/)", line):  # the project itself: it travels by value
            lines.append(_line(line, str(path)))
    return [line for line in lines if line]


def _line(line: object, where: str) -> str:
    """Return one line as pip gets it, without hashes and comments."""
    if not isinstance(line, str) or not line.isprintable():
        raise UserError(f"{where}: {line!r} is no requirement: write 'numpy' or 'numpy>=2,<3'.")
    line = re.sub(r"\s--hash[ =]\S+", "", line).strip()
    if not line or line.startswith(_SOURCES):
        return line
    if re.match(r"(git|hg|svn|bzr)\+|-e\b|--editable|[./~]|.*@\s*(git|hg|svn|bzr)\+", line):
        raise UserError(
            f"{where}: {line!r} would have to be built, and only wheels travel: build its wheel, and put it in a "
            "folder that HPCFLOW_WHEELHOUSE names. Your own modules travel with the functions anyway."
        )
    if line.startswith(("-c", "--constraint")):
        raise UserError(
            f"{where}: {line!r}: write the constraint at the requirement itself; constraint files stay here."
        )
    if line.startswith("-"):
        raise UserError(f"{where}: the option {line.split()[0]!r} means nothing here; requirements and indexes do.")
    return line


# ---- the project


def _start() -> Path:
    """Return the folder of the program that runs, or the working directory of a notebook."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return Path(file).resolve().parent if isinstance(file, str) else Path.cwd()


def _project(start: str) -> Environment:
    """Return the environment of the project around a folder: its packages and nothing else."""
    for folder in (Path(start), *Path(start).parents):
        found = next((folder / name for name in _FILES if (folder / name).is_file()), None)
        if found is not None:
            lines = _of_project(found, found.stat().st_mtime_ns)
            if not lines:
                raise UserError(f"env='project': {found} names no packages.")
            return replace(Environment(), requirements=tuple(sorted(set(lines))), alone=True)
    raise UserError(
        f"env='project' found no {', '.join(_FILES[:-1])} or {_FILES[-1]} in {start} or above it: write one, or name "
        "packages with env=hpcflow.Env(requirements=[...])."
    )


@cache
def _of_project(file: Path, changed_at: int) -> list[str]:
    """Return what a file names that was changed last at this time."""
    match file.name:
        case "uv.lock":
            return _of_uv(file)
        case "pylock.toml":
            return _of_pylock(file)
        case "requirements.txt":
            return _of_file(file, _DEEPEST)
        case _:
            dependencies = _toml(file).get("project", {}).get("dependencies", [])
            return [_line(line, str(file)) for line in dependencies]


def _of_uv(file: Path) -> list[str]:
    import shutil
    import subprocess

    uv = shutil.which("uv", path=os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")]))
    if uv is None:
        raise UserError(
            f"env='project': {file} is read by uv, which is not on PATH: install it, or write the requirements down "
            "with `uv export --no-emit-project --no-hashes > requirements.txt`, and name that file in "
            "hpcflow.Env(requirements=...)."
        )
    words = [uv, "export", "--quiet", "--frozen", "--no-dev", "--no-emit-project", "--no-hashes", "--no-header"]
    done = subprocess.run(
        [*words, "--no-annotate", "--format", "requirements-txt", "--project", str(file.parent)],
        capture_output=True,
        text=True,
        timeout=_EXPORT_S,
        check=False,
    )
    if done.returncode != 0:
        raise UserError(f"env='project': uv can't export {file}: {' '.join(done.stderr.split()[-40:])}")
    return [line for line in (_line(raw, str(file)) for raw in done.stdout.splitlines() if raw[:1] != "#") if line]


def _of_pylock(file: Path) -> list[str]:
    """Return the packages of a lock file as PEP 751 has it."""
    lines: list[str] = []
    for package in _toml(file).get("packages", []):
        name, version, marker = package.get("name"), package.get("version"), package.get("marker")
        if "directory" in package:
            continue  # the project itself
        if not isinstance(name, str) or not isinstance(version, str) or not package.get("wheels"):
            raise UserError(f"env='project': {file} locks {name!r} to something that is no wheel; only wheels travel.")
        lines.append(f"{name}=={version}" + (f" ; {marker}" if marker else ""))
    return lines


def _toml(file: Path) -> dict[str, Any]:  # Any: TOML
    try:
        with file.open("rb") as opened:
            return tomllib.load(opened)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"env='project': {file} can't be read: {error}.") from None
