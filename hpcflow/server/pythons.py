"""The interpreters of a cluster behind ssh: which are there, and one more by uv where clusters.toml says "auto"."""

from __future__ import annotations

import os
import re
import secrets
import zipfile
from typing import Final

from hpcflow.core.model import HpcflowError
from hpcflow.core.plugin import Command
from hpcflow.server.remote import File, Transport, TransportError
from hpcflow.server.wheels import Target, WheelsError, fetched

__all__ = ["MINORS", "PythonsError", "find_pythons", "install_python"]

#: The minor versions of Python 3 that workers run under.
MINORS: Final = range(11, 20)
_VERSION: Final = re.compile(r"\d+\.\d+")
_FIND_S: Final = 60.0
_INSTALL_S: Final = 900.0

#: Prints "hpcflow-python 3.11 /usr/bin/python3.11" for each interpreter that starts, after the prologue ($1): those of
#: these names ($2) on PATH, then those that hpcflow had installed in its folder ($3).
_FIND: Final = """
echo "hpcflow-machine $(uname -m) $(getconf GNU_LIBC_VERSION 2>/dev/null || echo unknown)"
eval "$1" </dev/null >/dev/null 2>&1
say() {
    "$1" -c 'import sys; print("hpcflow-python %d.%d %s" % (*sys.version_info[:2], sys.argv[1]))' "$1" 2>/dev/null
}
for name in $2; do
    path=$(command -v "$name" 2>/dev/null) && say "$path"
done
for path in "$3"/pythons/*/bin/python3.[0-9][0-9]; do
    test -x "$path" && say "$path"
done
exit 0
"""

#: Installs a Python ($2) below the folder ($1) by the uv on PATH after the prologue ($3), or by the one given ($4).
_INSTALL: Final = """
eval "$3" </dev/null >/dev/null 2>&1
uv=$(command -v uv) || uv=$4
test -n "$uv" || exit 69
test -x "$uv" || chmod 700 "$uv"
UV_PYTHON_INSTALL_DIR=$1/pythons UV_PYTHON_INSTALL_BIN=0 UV_PYTHON_PREFERENCE=only-managed
UV_CACHE_DIR=$1/pythons/.cache UV_NO_PROGRESS=1
export UV_PYTHON_INSTALL_DIR UV_PYTHON_INSTALL_BIN UV_PYTHON_PREFERENCE UV_CACHE_DIR UV_NO_PROGRESS
mkdir -p "$1/pythons" && exec "$uv" python install "$2"
"""
_NO_UV: Final = 69


class PythonsError(HpcflowError):
    """An interpreter can't be installed."""


class Found:
    """What a cluster has."""

    __slots__ = ("libc", "machine", "pythons")

    def __init__(self) -> None:
        #: Interpreters by (major, minor).
        self.pythons: dict[tuple[int, int], str] = {}
        #: What `uname -m` says; empty: it said nothing.
        self.machine = ""
        #: ("glibc", major, minor); ``None``: it has another one.
        self.libc: tuple[str, int, int] | None = None


async def find_pythons(transport: Transport, *, prologue: str, named: str | None, root: str) -> Found:
    """Ask a login shell which interpreters it has after the prologue.

    Args:
        transport: the way to the cluster.
        prologue: lines of shell.
        named: the only one that counts; ``None``: all whose names are usual.
        root: hpcflow's folder there.

    Raises:
        TransportError: nothing was said.
    """
    names = named or " ".join([*(f"python3.{minor}" for minor in MINORS), "python3", "python"])
    argv = ("-lc", _FIND, "hpcflow", prologue, names, root)
    reply = await transport.run(Command(("bash", *argv)), _FIND_S)
    if reply.exit_code == 127:
        reply = await transport.run(Command(("sh", "-c", *argv[1:])), _FIND_S)
    if reply.exit_code is None:
        raise TransportError(f"Its interpreters could not be looked for: {reply.stderr.decode(errors='replace')}")
    found = Found()
    for line in reply.stdout.decode(errors="replace").splitlines():
        match line.split(maxsplit=2):
            case ["hpcflow-python", version, path] if _VERSION.fullmatch(version):
                major, _, minor = version.partition(".")
                found.pythons.setdefault((int(major), int(minor)), path)
            case ["hpcflow-machine", machine, libc]:
                found.machine = machine
                if numbers := re.fullmatch(r"glibc (\d+)\.(\d+)\S*", libc):
                    found.libc = ("glibc", int(numbers[1]), int(numbers[2]))
            case _:
                pass
    return found


async def install_python(
    transport: Transport, *, prologue: str, root: str, version: tuple[int, int], here: Found, wheelhouse: str
) -> None:
    """Install a Python below hpcflow's folder with uv, the cluster's own or one that is sent. The cluster fetches it.

    Raises:
        PythonsError: with what uv wrote.
        TransportError: the cluster can't be reached.
    """
    wanted = "{}.{}".format(*version)

    async def tried(uv: str) -> int:
        words = ("bash", "-lc", _INSTALL, "hpcflow", root, wanted, prologue, uv)
        reply = await transport.run(Command(words), _INSTALL_S)
        if reply.exit_code is None:
            raise TransportError(reply.stderr.decode(errors="replace"))
        if reply.exit_code in {0, _NO_UV}:
            return reply.exit_code
        said = " ".join(reply.stderr.decode(errors="replace").split())[-600:]
        raise PythonsError(f"uv could not install Python {wanted} there: {said or f'exit code {reply.exit_code}'}")

    if await tried("") == _NO_UV:
        await tried(await _send_uv(transport, root, here, wheelhouse))


async def _send_uv(transport: Transport, root: str, here: Found, wheelhouse: str) -> str:
    """Bring uv to a cluster, out of its wheel; return where it is."""
    # Its wheels name no Python. One for musl runs everywhere, but pip takes it for musl alone.
    target = Target((3, MINORS[0]), "Linux", here.machine or "x86_64", here.libc or ("musl", 1, 2))
    folder = os.path.join(root, "bin", f"uv-{secrets.token_hex(4)}")
    try:
        async with fetched(["uv"], target, wheelhouse=wheelhouse) as wheels:
            with zipfile.ZipFile(wheels[0]) as wheel:
                (name,) = (name for name in wheel.namelist() if name.endswith(".data/scripts/uv"))
                await transport.push(folder, (), [File("uv", [wheel.read(name)])])
    except (WheelsError, ValueError, zipfile.BadZipFile) as error:
        raise PythonsError(f"There is no uv there, and none to send: {error}") from None
    return os.path.join(folder, "uv")
