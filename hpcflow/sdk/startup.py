"""Starts and stops the server's process; the process that starts it is never its parent for long."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from hpcflow.core.model import HpcflowError
from hpcflow.core.places import Places
from hpcflow.sdk.connection import (
    Server,
    ServerElsewhere,
    ServerRecord,
    ServerUnreachable,
    answers,
    on_this_host,
)

__all__ = [
    "EXIT_HELD",
    "ServerStartFailed",
    "ensure",
    "follow_log",
    "running",
    "server_command",
    "start",
    "started_by_command",
    "stop",
    "tail",
]

#: The server's exit code when another one holds its home.
EXIT_HELD: Final = 4
#: How long a start or a stop may take. A server that migrates a large store or sits on a slow file system needs it.
PATIENCE_S: Final = 60.0
#: A take-over also waits for the other host's server to end.
TAKE_OVER_PATIENCE_S: Final = 180.0
_TICK_S: Final = 0.05
_HELD_PAUSE_S: Final = 0.5
#: How long a server that nobody needs may take to end before it is left to itself.
_OUTRUN_S: Final = 10.0


class ServerStartFailed(ServerUnreachable):
    """The server ended before it answered."""


def running(where: Places) -> ServerRecord | None:
    """Return the server of this home that answers on this host, or ``None``.

    Raises:
        ServerElsewhere: it runs on another host.
    """
    record = on_this_host(where)
    while record is not None and answers(record):
        # The successor of a server that was killed answers at the same socket: only its own record tells its pid.
        again = on_this_host(where)
        if again == record:
            return record
        record = again
    return None


def ensure(where: Places, *, tell: Callable[[str], None]) -> None:
    """Bring a server up if none answers.

    Args:
        where: the home.
        tell: takes the sentence that says so.

    Raises:
        ServerStartFailed: it ended before it answered.
        ServerElsewhere: it runs on another host.
    """
    if running(where) is None:
        tell(started_by_command(where, "--from-dispatch"))


def started_by_command(where: Places, *options: str) -> str:
    """Bring a server up by `hpcflow start`, which knows of login nodes as well, and return what that says.

    Raises:
        ServerStartFailed: it ended before it answered, or runs elsewhere.
    """
    # A command of its own: the server must not be a child of the user's Python, where it would stay a zombie.
    done = subprocess.run(
        [sys.executable, "-m", "hpcflow.cli", "start", *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HPCFLOW_HOME": where.home},
    )
    if done.returncode:
        raise ServerStartFailed(done.stderr.strip() or f"`hpcflow start` ended with exit code {done.returncode}.")
    return done.stdout.strip()


def start(where: Places, *, take_over: bool = False, from_dispatch: bool = False) -> tuple[ServerRecord, bool]:
    """Return the server's record once it answers, and whether this call started it.

    Args:
        where: the home.
        take_over: move the server here from another host.
        from_dispatch: a dispatch asked for it, so it may end by itself when nothing is live for long.

    Raises:
        ServerStartFailed: it ended before it answered, or did not answer in time.
        ServerElsewhere: it runs on another host, and ``take_over`` is not set.
    """
    present = _answering(where) if take_over else running(where)
    if present is not None:
        return present, False
    command = server_command(take_over=take_over, from_dispatch=from_dispatch)
    patience_s = TAKE_OVER_PATIENCE_S if take_over else PATIENCE_S
    try:
        for folder in (where.home, os.path.dirname(where.log)):
            os.makedirs(folder, mode=0o700, exist_ok=True)
        log_start = os.path.getsize(where.log) if os.path.exists(where.log) else 0
        deadline = time.monotonic() + patience_s
        process = _spawn(where, command)
    except OSError as error:
        raise ServerStartFailed(
            f"The server of {where.home} can't start: {error.filename or where.home}: {error.strerror}. "
            "HPCFLOW_HOME names a folder of yours for hpcflow's state, by default ~/.hpcflow."
        ) from error
    held_pause_s = _HELD_PAUSE_S
    while time.monotonic() < deadline:
        record = _answering(where)
        if record is not None:
            if record.pid != process.pid and _is_server(record.pid):
                # Another start was faster. Ours, which is not that far yet, would take the home when that one stops.
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_OUTRUN_S)
            process.returncode = process.returncode or 0  # it outlives this process: no warning about that
            return record, record.pid == process.pid
        exit_code = process.poll()
        if exit_code == EXIT_HELD:
            # Another start was a moment faster, or a server is ending: it answers soon, or leaves the home to us.
            time.sleep(held_pause_s)
            held_pause_s *= 2
            process = process if _answering(where) else _spawn(where, command)
        elif exit_code is not None:
            raise ServerStartFailed(_why(where, log_start, f"ended (exit code {exit_code}) before it answered"))
        time.sleep(_TICK_S)
    if process.poll() is None:
        process.kill()
        process.wait()
    raise ServerStartFailed(_why(where, log_start, f"did not answer within {patience_s:.0f} s"))


def server_command(*, take_over: bool = False, from_dispatch: bool = False) -> list[str]:
    """Return the argv of a server."""
    return [
        sys.executable,
        "-m",
        "hpcflow.server",
        *(["--take-over"] if take_over else []),
        *(["--from-dispatch"] if from_dispatch else []),
    ]


def stop(where: Places) -> ServerRecord | None:
    """Stop the server in order and return what it was, ``None`` when none ran. Jobs that run go on.

    Raises:
        ServerElsewhere: it runs on another host.
        ServerUnreachable: it did not end.
    """
    record = on_this_host(where)
    if record is not None and record.via:
        _stop_there(where, record)
        return record
    if record is None or not _is_server(record.pid):
        return None
    try:
        Server(where, any_version=True).ask("POST", "/shutdown")
    except HpcflowError:
        # It holds its home yet does not answer, or not with this token: it is still this user's process.
        os.kill(record.pid, signal.SIGTERM)
    deadline = time.monotonic() + PATIENCE_S
    while _is_server(record.pid):
        if time.monotonic() > deadline:
            raise ServerUnreachable(
                f"The server (pid {record.pid}) did not end within {PATIENCE_S:.0f} s. "
                f"`kill -9 {record.pid}` loses no dispatch: the next server goes on where it was."
            )
        time.sleep(_TICK_S)
    return record


def _stop_there(where: Places, record: ServerRecord) -> None:
    """Stop a login node's server in order."""
    Server(where, any_version=True).ask("POST", "/shutdown")
    deadline = time.monotonic() + PATIENCE_S
    while answers(record):
        if time.monotonic() > deadline:
            raise ServerUnreachable(f"The server on {record.via} did not end within {PATIENCE_S:.0f} s.")
        time.sleep(_TICK_S)


def tail(where: Places, lines: int) -> list[str]:
    """Return the last lines of the server's log, none when there is no log."""
    try:
        with open(where.log, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            # 500 bytes a line are generous; long tracebacks may give fewer lines than were asked for.
            file.seek(max(0, size - 500 * lines))
            return file.read().decode("utf-8", "replace").splitlines()[-lines:] if lines > 0 else []
    except FileNotFoundError:
        return []


def follow_log(where: Places, write: Callable[[str], object]) -> None:
    """Hand over each piece that is added to the log, until interrupted; a new file after a rotation is followed too."""
    position = os.path.getsize(where.log) if os.path.exists(where.log) else 0
    while True:
        size = os.path.getsize(where.log) if os.path.exists(where.log) else 0
        if size < position:
            position = 0
        if size > position:
            with open(where.log, "rb") as file:
                file.seek(position)
                piece = file.read(size - position)
            position += len(piece)
            write(piece.decode("utf-8", "replace"))
        time.sleep(0.3)


def _spawn(where: Places, command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a server in a session of its own: neither a terminal's end nor its Ctrl-C reaches it."""
    log = os.open(where.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=where.home,
            env=_environment(where),
        )
    finally:
        os.close(log)


def _answering(where: Places) -> ServerRecord | None:
    """Return the server of this home that answers here; one on another host does not."""
    try:
        return running(where)
    except ServerElsewhere:
        return None


def _is_server(pid: int) -> bool:
    """Return whether this pid is a live hpcflow server of this user: no zombie, no stranger with its old pid."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state = file.read().rpartition(b")")[2].split()[0]
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            argv = file.read().split(b"\0")
        return state != b"Z" and b"hpcflow.server" in argv and os.stat(f"/proc/{pid}").st_uid == os.geteuid()
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return False


def _environment(where: Places) -> dict[str, str]:
    """Return the server's environment: ours, with what is relative to this working directory made absolute."""
    environment = {**os.environ, "HPCFLOW_HOME": where.home}
    if environment.get("PYTHONPATH"):
        folders = environment["PYTHONPATH"].split(os.pathsep)
        environment["PYTHONPATH"] = os.pathsep.join(os.path.abspath(folder) for folder in folders)
    return environment


def _why(where: Places, log_start: int, what: str) -> str:
    """Return a sentence with the last thing that the server wrote in this start."""
    with open(where.log, "rb") as file:
        file.seek(log_start)
        lines = [line for line in file.read()[-20_000:].decode("utf-8", "replace").splitlines() if line.strip()]
    said = f" Its last words: {lines[-1].strip()}" if lines else ""
    return f"The server of {where.home} {what}.{said} All of its log: {where.log}"
