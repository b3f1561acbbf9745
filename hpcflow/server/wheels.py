"""Fetches the wheels of a set of requirements for another machine's Python, with pip, or from a folder of wheels.

One module for all that is installed elsewhere: the environments of tasks, and hpcflow itself on a login node. Nothing
is built and nothing of the packages is run here: only wheels count.
"""

from __future__ import annotations

import asyncio
import os
import platform
import re
import shutil
import sys
import sysconfig
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, overload

from hpcflow.core.model import HpcflowError
from hpcflow.server.children import kill_session
from hpcflow.server.remote import File
from hpcflow.server.scratch import scratch

__all__ = ["TARGET_CODE", "Target", "WheelsError", "fetched", "parse_target", "wheel_files"]

#: Prints what `parse_target` reads, on any Python 3: ``hpcflow-target 3.12 Linux x86_64 glibc-2.28``.
TARGET_CODE: Final = """
import os, platform, sys, sysconfig
try:
    libc = os.confstr("CS_GNU_LIBC_VERSION").replace(" ", "-")
except (AttributeError, OSError, ValueError):
    libc = "musl-1.2" if "musl" in str(sysconfig.get_config_var("HOST_GNU_TYPE")) else "unknown"
print("hpcflow-target", "%d.%d" % sys.version_info[:2], platform.system(), platform.machine(), libc)
"""

_TARGET: Final = re.compile(r"^hpcflow-target (\d+)\.(\d+) (\w+) (\w+) (?:(glibc|musl)-(\d+)\.(\d+)\S*|unknown)$", re.M)
#: The oldest glibc that a manylinux tag exists for, and the tags that are older than numbers in tags (PEP 600).
_OLDEST_GLIBC: Final = 5
_OLD_TAGS: Final = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
#: glibc versions of the Linux platforms that uv knows by name, the newest first.
_UV_GLIBC: Final = (*range(40, 30, -1), 28, 17)
#: The largest packages have gigabytes.
_DEADLINE_S: Final = 3600.0
_SAID_LINES: Final = 3
_PIECE: Final = 1 << 20


class WheelsError(HpcflowError):
    """There is no wheel for some requirement, or no way to it."""


@dataclass(frozen=True, slots=True)
class Target:
    """The interpreter and the machine that wheels are for."""

    python: tuple[int, int]
    #: As `platform.system` and `platform.machine` spell them there: "Linux", "x86_64".
    system: str
    machine: str
    #: ("glibc", major, minor) or ("musl", major, minor); ``None``: it is neither.
    libc: tuple[str, int, int] | None

    @classmethod
    def here(cls) -> Target:
        """Return this interpreter and this machine."""
        libc, version = platform.libc_ver()
        numbers = re.match(r"(\d+)\.(\d+)", version)
        known = (libc, int(numbers[1]), int(numbers[2])) if libc == "glibc" and numbers else None
        if known is None and "musl" in str(sysconfig.get_config_var("HOST_GNU_TYPE")):
            known = ("musl", 1, 2)
        return cls((sys.version_info[0], sys.version_info[1]), platform.system(), platform.machine(), known)

    @property
    def tags(self) -> tuple[str, ...]:
        """Platform tags of wheels that run there, the most demanding first; empty where only pip itself knows them."""
        match self.libc:
            case ("glibc", 2, int(minor)):
                tags: list[str] = []
                for number in range(minor, _OLDEST_GLIBC - 1, -1):
                    tags.append(f"manylinux_2_{number}")
                    if number in _OLD_TAGS and (number == 17 or self.machine in {"x86_64", "i686"}):
                        tags.append(_OLD_TAGS[number])
                return tuple(f"{tag}_{self.machine}" for tag in (*tags, "linux"))
            case ("musl", int(major), int(minor)):
                return tuple(f"musllinux_{major}_{number}_{self.machine}" for number in range(minor, -1, -1))
            case _:
                return ()

    def __str__(self) -> str:
        libc = "" if self.libc is None else " with {} {}.{}".format(*self.libc)
        return f"Python {self.python[0]}.{self.python[1]} on {self.system} {self.machine}{libc}"


def parse_target(said: bytes) -> Target | None:
    """Return what `TARGET_CODE` printed, among whatever login scripts print; ``None``: nothing of it is there."""
    found = _TARGET.search(said.decode(errors="replace").replace("\r", ""))
    if found is None:
        return None
    major, minor, system, machine, libc, first, second = found.groups()
    return Target((int(major), int(minor)), system, machine, (libc, int(first), int(second)) if libc else None)


@asynccontextmanager
async def fetched(
    requirements: Sequence[str], target: Target, *, wheelhouse: str = "", environ: Mapping[str, str] | None = None
) -> AsyncGenerator[list[Path]]:
    """Yield the wheels of some requirements and of all that they need, in a folder that goes away afterwards.

    Args:
        requirements: lines of a requirements file: "numpy>=2", "--index-url https://…".
        target: what they are for.
        wheelhouse: a folder of wheels; nothing else is looked at then. Without it, pip's own configuration holds.
        environ: what pip is given; the process's own environment by default.

    Raises:
        WheelsError: with the last lines that pip wrote.
    """
    variables = dict(os.environ if environ is None else environ)
    if wheelhouse:
        if not os.path.isdir(wheelhouse):
            raise WheelsError(f"The wheelhouse {wheelhouse!r} is no folder; HPCFLOW_WHEELHOUSE names it.")
        variables = {name: value for name, value in variables.items() if not name.startswith(("PIP_", "UV_"))}
        variables["PIP_CONFIG_FILE"] = os.devnull
    with scratch() as folder:
        asked, wheels = Path(folder, "requirements.txt"), Path(folder, "wheels")
        asked.write_text("".join(f"{line}\n" for line in requirements), encoding="utf-8")
        wheels.mkdir()
        source = ["--no-index", "--find-links", os.path.abspath(wheelhouse)] if wheelhouse else []
        exact = await _resolved(asked, target, source, variables)
        code, said = await _run(_download(exact or asked, target, wheels, source, alone=exact is not None), variables)
        if code != 0:
            where = f"in the wheelhouse {wheelhouse}" if wheelhouse else "with pip"
            raise WheelsError(f"Not all wheels for {target} were found {where}: {_last_lines(said)}")
        yield sorted(wheels.glob("*.whl"))


def _download(asked: Path, target: Target, into: Path, source: Sequence[str], *, alone: bool) -> list[str]:
    tags = [word for tag in target.tags for word in ("--platform", tag)]
    if tags:
        tags += ["--python-version", "{}.{}".format(*target.python), "--implementation", "cp"]
    quiet = ["--quiet", "--no-input", "--disable-pip-version-check", "--no-color"]
    words = [sys.executable, "-m", "pip", "download", *quiet, "--only-binary=:all:", *tags, *source]
    return [*words, *(["--no-deps"] if alone else []), "--dest", str(into), "--requirement", str(asked)]


async def _resolved(asked: Path, target: Target, source: Sequence[str], environ: Mapping[str, str]) -> Path | None:
    """Return a file that pins everything, where uv can make it; ``None``: pip has to find out what is needed.

    pip evaluates the markers of requirements ("; sys_platform == 'linux'") for the Python that runs it, whatever
    --platform and --python-version say (pip#11664). uv evaluates them for the target.
    """
    here = Target.here()
    own = (here.python, here.system, here.machine) == (target.python, target.system, target.machine)
    uv = shutil.which("uv", path=os.pathsep.join([os.path.dirname(sys.executable), environ.get("PATH", "")]))
    if own or uv is None or target.libc is None:
        return None
    family, _, minor = target.libc
    known = next((f"manylinux_2_{number}" for number in _UV_GLIBC if number <= minor), "manylinux2014")
    name = f"{target.machine}-{known}" if family == "glibc" else f"{target.machine}-unknown-linux-musl"
    out = asked.with_name("exact.txt")
    words = [uv, "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--only-binary", ":all:", *source]
    words += ["--python-platform", name, "--python-version", "{}.{}".format(*target.python), "-o", str(out), str(asked)]
    code, _ = await _run(words, environ)
    # What uv can't do, pip may: it reads other settings. What neither can, pip says.
    return out if code == 0 and out.exists() else None


async def _run(argv: Sequence[str], environ: Mapping[str, str]) -> tuple[int | None, bytes]:
    """Run one command; return its exit code and what it wrote."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environ,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(_DEADLINE_S):
            said, _ = await process.communicate()
    except BaseException as error:
        if process.returncode is None:
            kill_session(process)
            await process.wait()
        if isinstance(error, TimeoutError):
            return None, f"no end after {_DEADLINE_S:.0f} s".encode()
        raise
    return process.returncode, said


def _last_lines(said: bytes) -> str:
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    # pip lists every version that it has seen.
    return " ".join(line if len(line) < 400 else f"{line[:400]}…" for line in lines[-_SAID_LINES:]) or "no reason given"


# ---- on their way


class _Pieces(Sequence[bytes]):
    """A file's content, read piece by piece: wheels may be larger than memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = path.stat().st_size

    @property
    def size(self) -> int:
        return self._size

    def __len__(self) -> int:
        return (self._size + _PIECE - 1) // _PIECE

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        with self._path.open("rb") as file:
            file.seek(index * _PIECE)
            return file.read(_PIECE)

    def __iter__(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            while piece := file.read(_PIECE):
                yield piece


def wheel_files(wheels: Sequence[Path]) -> list[File]:
    """Return wheels as files to push."""
    return [File(wheel.name, _Pieces(wheel)) for wheel in wheels]
