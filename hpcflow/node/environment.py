"""Makes an environment out of wheels, on the cluster, without a network: ``environment.pyz FOLDER WHEELS [alone]``.

FOLDER is an environment as `venv` makes them, with the wheels of WHEELS installed. It appears whole or not at all;
where it is there already nothing is done, and of several that make it at once one does and the others wait. WHEELS is
deleted afterwards. With ``alone`` nothing of the interpreter's own packages is seen from inside; without it they come
behind the installed ones. Exit code 0: FOLDER is there.

Known by its record, ``FOLDER/hpcflow.json``: what is installed, for which interpreter, on which host.
"""

from __future__ import annotations

import compileall
import fcntl
import json
import os
import shutil
import site
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from installer import install
from installer.destinations import SchemeDictionaryDestination
from installer.sources import WheelFile

__all__ = ["build", "main"]

RECORD: Final = "hpcflow.json"
_INSTALLED: Final = frozenset({"site-packages", "dist-packages"})

#: Orders the path of every interpreter that starts in the environment. PYTHONPATH, which modules set, would come
#: before what is installed; the packages of the interpreter below come last.
_ORDER: Final = '''"""Puts this environment's packages first. Made by hpcflow."""

import os
import site
import sys

_own = os.path.dirname(__file__)
_base = {base!r}
_alone = {alone!r}
_given = [os.path.abspath(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) not in _given]
if not _alone:
    sys.path += _given
    for _folder in _base:
        site.addsitedir(_folder)
'''


def main(arguments: Sequence[str]) -> int:
    """Run the command of the module's docstring."""
    if len(arguments) not in {2, 3} or arguments[2:] not in ([], ["alone"]):
        print("usage: environment.pyz FOLDER WHEELS [alone]", file=sys.stderr)
        return 64
    try:
        build(Path(arguments[0]), Path(arguments[1]), alone=len(arguments) == 3)
    except OSError as error:
        print(f"{error.filename or arguments[0]}: {error.strerror or error}", file=sys.stderr)
        return 73
    except Exception as error:  # a wheel may be damaged in any way; the server passes this line on
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 70
    return 0


def build(folder: Path, wheels: Path, *, alone: bool) -> None:
    """Make the environment, unless it is there.

    Raises:
        OSError: the disk is full, or something is in the way.
        Exception: a wheel can't be installed.
    """
    try:
        if (folder / RECORD).exists():
            return
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(folder) as sure:
            if (folder / RECORD).exists():
                return
            if sure:
                _remove(folder.parent.glob(f"{folder.name}.part-*"))
            _build(folder, sorted(wheels.glob("*.whl")), alone=alone)
            # Of builders that were killed, and of those that wait: they need theirs no more.
            _remove(folder.parent.glob(f"{folder.name}.wheels-*"))
    finally:
        shutil.rmtree(wheels, ignore_errors=True)


def _remove(folders: Iterable[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Generator[bool]:
    """Wait for others that make the same; yield whether the file system has locks. Without, renaming decides."""
    fd = os.open(folder.with_name(f"{folder.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)


def _build(folder: Path, wheels: Sequence[Path], *, alone: bool) -> None:
    part = Path(tempfile.mkdtemp(prefix=f"{folder.name}.part-", dir=folder.parent))
    try:
        venv.EnvBuilder(symlinks=True, with_pip=False).create(part)
        for script in (part / "bin").glob("[aA]ctivate*"):  # they name the folder that this is not going to be
            script.unlink()
        base = {"base": str(part), "platbase": str(part), "installed_base": str(part), "installed_platbase": str(part)}
        paths = sysconfig.get_paths("venv", vars=base)
        paths["headers"] = paths["include"]
        destination = SchemeDictionaryDestination(
            paths,
            interpreter=str(folder / "bin" / "python"),
            script_kind="posix",
            bytecode_optimization_levels=(),
            overwrite_existing=True,  # as pip does: packages of one namespace may share a file
        )
        for wheel in wheels:
            with WheelFile.open(wheel) as source:
                install(source, destination, {"INSTALLER": b"hpcflow\n"})
        packages = Path(paths["purelib"])
        below = [entry for entry in sys.path if os.path.basename(entry) in _INSTALLED]
        if site.ENABLE_USER_SITE and site.USER_SITE and os.path.isdir(site.USER_SITE):
            below.append(site.USER_SITE)
        order = _ORDER.format(base=list(dict.fromkeys(below)), alone=alone)
        (packages / "_hpcflow_environment.py").write_text(order, encoding="utf-8")
        (packages / "_hpcflow_environment.pth").write_text("import _hpcflow_environment\n", encoding="utf-8")
        # Now, and not by the first hundred workers at once.
        compileall.compile_dir(packages, quiet=2, stripdir=str(part), prependdir=str(folder))
        record = {
            "wheels": [wheel.name for wheel in wheels],
            "python": sys.version.split()[0],
            "executable": sys.executable,
            "host": os.uname().nodename,
            "machine": os.uname().machine,
            "alone": alone,
            "built_at": time.time(),
        }
        with (part / RECORD).open("w", encoding="utf-8") as file:
            json.dump(record, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        part.rename(folder)
    except OSError:
        with suppress(OSError):
            shutil.rmtree(part)
        if not (folder / RECORD).exists():  # somebody on a file system without locks was first
            raise
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
