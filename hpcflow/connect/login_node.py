"""The login node as `hpcflow connect` needs it: look, install, start, each one command over the connection."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from hpcflow.connect.decide import Look, parse_look
from hpcflow.core.model import HpcflowError, UserError
from hpcflow.core.plugin import Command
from hpcflow.server.remote.ssh import SshTransport
from hpcflow.server.remote.transport import TransportError
from hpcflow.server.zipapp import build_environment_maker

__all__ = ["LoginNode", "NoSpace", "name_of", "packed"]

_LOOK_S: Final = 120.0
_START_S: Final = 300.0
#: Links slower than this, in bytes per second, are broken links.
_SLOWEST: Final = 30_000
_SAID: Final = 600
#: What is written in the place of an answer where no Python will do, before those that were found.
_NONE: Final = "no python:"

# Login scripts write to stdout and read stdin as they like: the program's own are kept aside on 3 and 4 until then.
_SHELL: Final = (
    "exec 3<&0 4>&1 </dev/null >/dev/null; "
    'if command -v bash >/dev/null 2>&1; then exec bash -l -c "$1"; else exec sh -l -c "$1"; fi'
)
# The program arrives on stdin, after its length: `ps` shows nothing of it.
_BOOT: Final = (
    "import sys; n = int(sys.stdin.buffer.readline()); "
    "exec(compile(sys.stdin.buffer.read(n), '<hpcflow connect>', 'exec'))"
)
# Any Python runs it, the oldest too; no single quote, because the shell's are around it.
_CHECK: Final = """import sys
v = "%d.%d.%d" % sys.version_info[:3]
if sys.version_info >= (3, 11):
    try:
        import ctypes, sqlite3, ssl, venv, zlib
    except ImportError as e:
        v = v + " without " + str(e.name)
    import sysconfig
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        v = v + " without its global lock"
print(v)"""


class NoSpace(HpcflowError):
    """The login node's disk, or the user's quota there, is full."""


class LoginNode:
    """One login node, with how a Python is found there and which HPCFLOW_HOME is meant."""

    def __init__(self, transport: SshTransport, *, prologue: str, home: str, python: tuple[int, int]) -> None:
        """Take a login node.

        Args:
            transport: the way there.
            prologue: lines of shell that come before, as ``module load python``.
            home: HPCFLOW_HOME there, perhaps with ``~``; empty: what the profile says, or ``~/.hpcflow``.
            python: minor version here, which is looked for first: pickles of its functions load there.
        """
        self._transport = transport
        self._prologue = prologue
        self._home = home
        self._python = python

    @property
    def host(self) -> str:
        return self._transport.connection.host

    async def look(self) -> Look:
        """Return what is there.

        Raises:
            UserError: there is no Python that hpcflow runs on.
            TransportError: the login node can't be reached, or its login shell runs nothing.
        """
        try:
            return parse_look(await self._tell({"do": "look"}, deadline_s=_LOOK_S))
        except TransportError:
            await self._transport.connection.connect()
            return parse_look(await self._tell({"do": "look"}, deadline_s=_LOOK_S))  # looking twice does no harm

    async def install(self, name: str, version: str, wheels: bytes) -> Look:
        """Install wheels there as ``app/<name>``.

        Raises:
            NoSpace: the disk or the quota is full.
        """
        request = {"do": "install", "id": name, "version": version}
        return parse_look(await self._tell(request, wheels, deadline_s=_START_S + len(wheels) / _SLOWEST))

    async def start(self, *arguments: str) -> Look:
        """Run ``hpcflow start`` or ``hpcflow restart`` there, with arguments."""
        look = parse_look(await self._tell({"do": "start", "arguments": arguments}, deadline_s=_START_S))
        if look.server is None:
            raise HpcflowError(f"The server on {self.host} started and ended again: `hpcflow logs` there may say why.")
        return look

    async def tail(self, lines: int) -> list[str]:
        """Return the last lines of the server's log there."""
        return [str(line) for line in (await self._tell({"do": "tail", "lines": lines}, deadline_s=_LOOK_S))["lines"]]

    async def _tell(
        self, request: Mapping[str, object], data: bytes = b"", *, deadline_s: float
    ) -> Mapping[str, Any]:  # Any: JSON
        program = (files("hpcflow.connect") / "there.py").read_bytes()
        line = json.dumps({"home": self._home, **request}).encode()
        stdin = b"%d\n%s%s\n%s" % (len(program), program, line, data)
        command = Command(("/bin/sh", "-c", _SHELL, "sh", self._script()), stdin)
        reply = await self._transport.run(command, deadline_s)
        said = reply.stderr.decode(errors="replace").strip()[-_SAID:]
        if reply.exit_code is None:
            raise TransportError(f"{self.host} gave no answer: {said}")
        if reply.stdout.startswith(_NONE.encode()):
            raise UserError(self._no_python(reply.stdout.decode(errors="replace").removeprefix(_NONE), said))
        try:
            answer: Mapping[str, Any] = json.loads(reply.stdout)  # Any: JSON
        except ValueError:
            what = said or reply.stdout.decode(errors="replace").strip()[-_SAID:] or f"exit code {reply.exit_code}"
            raise TransportError(f"The login shell on {self.host} did not run Python. It wrote: {what}") from None
        if "error" in answer:
            if answer.get("errno") in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
                raise NoSpace(
                    f"There is no room for hpcflow on {self.host}, which takes about 100 MB: {answer['error']}. "
                    "Make room, or name another folder with `--home /scratch/you/.hpcflow`."
                )
            raise HpcflowError(f"{request['do']!s} on {self.host} failed: {answer['error']}")
        return answer

    def _script(self) -> str:
        """Return what a login shell there runs: the prologue, and the first Python that will do."""
        minors = [self._python[1], *(minor for minor in range(16, 10, -1) if minor != self._python[1])]
        names = " ".join([*(f"python3.{minor}" for minor in minors if minor >= 11), "python3", "python"])
        return "\n".join(
            (
                self._prologue,
                "hpcflow_seen=",
                f"for hpcflow_name in {names}; do",
                '  hpcflow_python=$(command -v "$hpcflow_name" 2>/dev/null) || continue',
                f"  hpcflow_version=$(\"$hpcflow_python\" -c '{_CHECK}' 2>/dev/null) || hpcflow_version='a broken one'",
                '  case $hpcflow_version in *" "*) ;; 3.1[1-9].*|3.[2-9][0-9].*)',
                f'    exec "$hpcflow_python" -I -c "{_BOOT}" <&3 >&4 3<&- 4>&- ;;',
                "  esac",
                '  hpcflow_seen="$hpcflow_seen, $hpcflow_version at $hpcflow_python"',
                "done",
                f"printf '{_NONE}%s' \"$hpcflow_seen\" >&4",  # a prologue may have left a PATH with nothing on it
            )
        )

    def _no_python(self, seen: str, said: str) -> str:
        found = f"there is {seen.removeprefix(', ')}" if seen else "there is none on PATH"
        wrote = f" The login shell wrote: {said.splitlines()[-1]}" if said else ""
        return (
            f"{self.host} has no Python that hpcflow runs on: it needs 3.11 or later, and {found}. Name one with "
            f"`--prologue`, as in `hpcflow connect {self.host} --prologue 'module load python/3.12'`.{wrote}"
        )


def name_of(wheels: Sequence[Path], version: str, python: str) -> str:
    """Return a name that is unique for what these wheels become under that Python."""
    digest = hashlib.sha256(python.encode())
    for name, content in _contents(wheels):
        digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
    return f"{version}-{digest.hexdigest()[:12]}"


def packed(wheels: Sequence[Path]) -> bytes:
    """Return what `LoginNode.install` sends: a compressed tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1, format=tarfile.GNU_FORMAT) as tar:
        for name, content in _contents(wheels):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o600
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _contents(wheels: Sequence[Path]) -> Iterator[tuple[str, bytes]]:
    """Yield the wheels and the program that installs them, in an order that is always the same."""
    yield "environment.pyz", build_environment_maker()[1]
    for wheel in sorted(wheels, key=lambda path: path.name):
        yield wheel.name, wheel.read_bytes()
