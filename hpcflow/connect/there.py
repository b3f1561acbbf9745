"""What runs on the login node when a laptop connects: one file, sent as text, with the standard library alone.

Its stdin is a JSON line that says what to do, and after it what that needs. Its stdout is one JSON line. Nothing that
it is told or tells is in a command line, where other users see it.
"""

from __future__ import annotations

import errno
import fcntl
import http.client
import json
import os
import platform
import shutil
import socket
import stat
import subprocess
import sys
import tarfile
import traceback
from typing import IO, Any, Final

#: How long a start or restart of the server may take, in seconds; it has its own, shorter patience.
_START_S: Final = 240.0
_ANSWER_S: Final = 5.0
#: Disk full, quota used up, and a limit on the size of files, which some sites set.
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main() -> None:
    line = sys.stdin.buffer.readline()
    os.umask(0o077)
    try:
        answer = _do(json.loads(line))
    except OSError as error:
        answer = {"error": f"{error.filename or 'HPCFLOW_HOME'}: {error.strerror or error}", "errno": error.errno}
    except Exception as error:  # whatever it is, the laptop says it in a sentence
        answer = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
    print(json.dumps(answer), flush=True)


def _do(request: dict[str, Any]) -> dict[str, Any]:  # Any: JSON
    home = os.path.abspath(os.path.expanduser(request["home"] or os.environ.get("HPCFLOW_HOME") or "~/.hpcflow"))
    if request["do"] == "install":
        _install(home, request["id"], request["version"], sys.stdin.buffer)
    elif request["do"] == "start":
        said = _start(home, request["arguments"])
        if said is not None:
            return {"error": said}
    elif request["do"] == "tail":
        return {"lines": _tail(os.path.join(home, "logs", "server.log"), request["lines"])}
    return _look(home)


# ---- looking


def _look(home: str) -> dict[str, Any]:  # Any: JSON
    """Return what there is: this Python, the installation, and the server of the home."""
    notice = _read_json(os.path.join(home, "run", "server.json"))
    host = socket.gethostname()
    here = notice is not None and notice.get("host") == host
    answers = here and notice is not None and _answers(str(notice["address"]))
    token = None
    if answers:
        with open(os.path.join(home, "token"), encoding="ascii") as file:
            token = file.read().strip()
    name, version = platform.libc_ver()
    return {
        "python": {
            "executable": sys.executable,
            "libc": [name, version],
            "markers": {
                "implementation_name": sys.implementation.name,
                "implementation_version": platform.python_version(),
                "os_name": os.name,
                "platform_machine": platform.machine(),
                "platform_python_implementation": platform.python_implementation(),
                "platform_release": platform.release(),
                "platform_system": platform.system(),
                "platform_version": platform.version(),
                "python_full_version": platform.python_version(),
                "python_version": ".".join(platform.python_version_tuple()[:2]),
                "sys_platform": sys.platform,
            },
        },
        "home": home,
        "host": host,
        "installed": _installed(home),
        "server": notice if here and answers else None,
        "elsewhere": notice if notice is not None and not here else None,
        "token": token,
    }


def _installed(home: str) -> dict[str, Any] | None:  # Any: JSON
    """Return what ``app/current`` holds, ``None`` where that is nothing, or nothing that runs."""
    current = os.path.join(home, "app", "current")
    found = _read_json(os.path.join(current, "installed.json"))
    # The symlink of a virtual environment points to nowhere when a module's Python was removed.
    return found if found is not None and os.path.exists(os.path.join(current, "bin", "python")) else None


def _read_json(path: str) -> dict[str, Any] | None:  # Any: JSON
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        return found if isinstance(found, dict) else None
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def _answers(address: str) -> bool:
    connection = http.client.HTTPConnection("localhost", timeout=_ANSWER_S)
    try:
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(_ANSWER_S)
        connection.sock.connect(address)
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _tail(path: str, lines: int) -> list[str]:
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 500 * lines))
            return file.read().decode("utf-8", "replace").splitlines()[-lines:] if lines > 0 else []
    except FileNotFoundError:
        return []


# ---- installing


def _install(home: str, name: str, version: str, stream: IO[bytes]) -> None:
    """Make ``app/<name>`` of the wheels in a compressed tar, and point ``app/current`` and ``bin/hpcflow`` to it.

    The environment has no pip: it takes wheels that somebody else chose, and needs no network.
    """
    apps = os.path.join(home, "app")
    os.makedirs(apps, mode=0o700, exist_ok=True)
    _check_ours(apps)
    with open(os.path.join(apps, "lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two laptops of one person
        folder = os.path.join(apps, name)
        before = os.path.basename(os.path.realpath(os.path.join(apps, "current")))
        try:
            if _read_json(os.path.join(folder, "installed.json")) is None:
                shutil.rmtree(folder, ignore_errors=True)
                _unpack(folder, stream)
                with open(os.path.join(folder, "installed.json"), "w", encoding="utf-8") as file:
                    json.dump({"id": name, "version": version, "python": sys.executable}, file)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        _point(os.path.join(apps, "current"), name)
        os.makedirs(os.path.join(home, "bin"), mode=0o700, exist_ok=True)
        _point(os.path.join(home, "bin", "hpcflow"), os.path.join("..", "app", "current", "bin", "hpcflow"))
        # A server that runs from the one before imports from it until it ends.
        for entry in os.scandir(apps):
            if entry.is_dir(follow_symlinks=False) and entry.name not in {name, before}:
                shutil.rmtree(entry.path, ignore_errors=True)


def _check_ours(apps: str) -> None:
    """Refuse a place where somebody else could exchange what is going to run as us."""
    folder = apps
    while True:
        found = os.stat(folder)
        others = found.st_mode & stat.S_IWOTH or (found.st_mode & stat.S_IWGRP and found.st_gid != os.getegid())
        # In a sticky folder, as /tmp is one, nobody moves what is another's.
        open_to_others = others and (folder == apps or not found.st_mode & stat.S_ISVTX)
        if open_to_others or (folder == apps and found.st_uid != os.geteuid()):
            raise PermissionError(errno.EPERM, "others may replace what lies there; name another by --home", folder)
        above = os.path.dirname(os.path.realpath(folder))
        if above == folder:
            return
        folder = above


def _unpack(folder: str, stream: IO[bytes]) -> None:
    """Make an environment of the wheels in a compressed tar, by the program that comes with them."""
    wheels = f"{folder}.wheels"
    shutil.rmtree(wheels, ignore_errors=True)
    os.mkdir(wheels)
    try:
        with tarfile.open(fileobj=stream, mode="r|gz") as tar:
            for member in tar:
                content = tar.extractfile(member)
                if content is None or os.path.basename(member.name) != member.name:
                    raise ValueError(f"{member.name!r} is no file")
                with open(os.path.join(wheels, member.name), "wb") as file:
                    shutil.copyfileobj(content, file)
        done = subprocess.run(
            [sys.executable, "-I", os.path.join(wheels, "environment.pyz"), folder, wheels, "alone"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode != 0:
            said = done.stderr.strip().splitlines()
            full = [code for code in _FULL if os.strerror(code) in done.stderr]
            raise OSError(full[0] if full else 0, said[-1] if said else f"exit code {done.returncode}", folder)
    finally:
        shutil.rmtree(wheels, ignore_errors=True)


def _point(link: str, target: str) -> None:
    """Make a symbolic link, in the place of one that is there, at once."""
    fresh = f"{link}.{os.getpid()}"
    os.symlink(target, fresh)
    os.replace(fresh, link)


# ---- starting


def _start(home: str, arguments: list[str]) -> str | None:
    """Run one command of the installation, ``start`` or ``restart``; return what it said if it failed."""
    # The folder that `current` points to now: what a server runs from must not change under its feet.
    python = os.path.join(os.path.realpath(os.path.join(home, "app", "current")), "bin", "python")
    done = subprocess.run(
        [python, "-m", "hpcflow.cli", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=_START_S,
        cwd=home,
        env={**os.environ, "HPCFLOW_HOME": home},
    )
    return None if done.returncode == 0 else (done.stderr or done.stdout).strip()[-2000:] or "it gave no reason"


if __name__ == "__main__":
    main()
