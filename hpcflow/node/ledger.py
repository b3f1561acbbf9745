"""What the arrays of the `local` cluster share: the machine, and a ledger of who has taken how much of it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from hpcflow.core.words import counted, memory
from hpcflow.node.files import append_all

__all__ = [
    "Desk",
    "Json",
    "Machine",
    "Process",
    "born",
    "grant",
    "machine",
    "read_json",
    "signal_if_alive",
    "why_waiting",
    "write_json",
]

Json = dict[str, Any]  # Any: JSON


# ---- the machine


@dataclass(frozen=True, slots=True)
class Machine:
    """What array tasks of all local arrays may use together."""

    cores: int
    memory_mib: int


def machine() -> Machine:
    """Return the cores this process may run on, and the memory of the machine or of the innermost limited cgroup."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Machine(len(os.sched_getaffinity(0)), min(total, *_cgroup_limits(total)) >> 20)


def _cgroup_limits(default: int) -> list[int]:
    found = [default]
    with contextlib.suppress(OSError), open("/proc/self/cgroup", encoding="utf-8") as file:
        for line in file.read().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                candidate = f"/sys/fs/cgroup{path}/memory.max"
            elif "memory" in controllers.split(","):
                candidate = f"/sys/fs/cgroup/memory{path}/memory.limit_in_bytes"
            else:
                continue
            # A container may not see its own path; "max" is no number.
            with contextlib.suppress(OSError, ValueError), open(candidate, encoding="ascii") as limit:
                found.append(int(limit.read()))
    return found


# ---- processes


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process of one host, for ever: pids come back, their start times since a boot do not."""

    pid: int
    born: str

    def alive(self) -> bool:
        return born(self.pid) == self.born


def born(pid: int) -> str | None:
    """Return boot and start time of a process, ``None`` for none and for one that only waits to be reaped."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
    except OSError:
        return None
    return None if fields[0] in "ZX" else f"{boot}:{fields[19]}"  # proc(5): state is field 3, starttime field 22


def signal_if_alive(process: Process, number: signal.Signals) -> bool:
    """Send a signal; return whether the process was there to get it."""
    if not process.alive():
        return False
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        return False
    return True


# ---- state on disk


class Desk:
    """The files below ``ROOT/local``: a lock, the ledger of live arrays, and what became of each array.

    ``ledger.json`` holds, in the order of arrival, what each live array has taken and whether it waits for more.
    ``<token>.json`` is written once, before its supervisor begins; ``<token>.jsonl`` is its accounting.
    """

    def __init__(self, root: str) -> None:
        self.path = os.path.join(root, "local")

    def file(self, name: str) -> str:
        return os.path.join(self.path, name)

    @contextlib.contextmanager
    def locked(self) -> Generator[Json]:
        """Yield the ledger without the dead; write it back when it has changed."""
        os.makedirs(self.path, 0o700, exist_ok=True)
        fd = os.open(self.file("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            before = read_json(self.file("ledger.json")) or {"next": 1, "arrays": {}}
            ledger: Json = json.loads(json.dumps(before))
            for token, entry in before["arrays"].items():
                if not Process(pid=entry["pid"], born=entry["born"]).alive():
                    del ledger["arrays"][token]
            yield ledger
            if ledger != before:
                write_json(self.file("ledger.json"), ledger)
        finally:
            os.close(fd)

    def forget_before(self, then: float) -> None:
        """Delete the accounting of arrays whose last word is older than that."""
        with os.scandir(self.path) as entries:
            old = [entry.path for entry in entries if entry.name.endswith(".jsonl") and entry.stat().st_mtime < then]
        for path in old:
            for each in (path, path.removesuffix("l")):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(each)


def read_json(path: str) -> Json | None:
    try:
        with open(path, encoding="utf-8") as file:
            content: Json = json.load(file)
    except FileNotFoundError:
        return None
    return content


def write_json(path: str, content: Json) -> None:
    temporary = f"{path}.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        append_all(fd, json.dumps(content).encode())
        os.fsync(fd)
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise
    finally:
        os.close(fd)


#: So many dispatches are named that hold what another one waits for.
_HOLDERS: Final = 3


def grant(ledger: Mapping[str, Any], token: str, wanted: int, here: Machine) -> int:  # Any: JSON
    """Return how many of the ``wanted`` array tasks may begin now, in the order of arrival.

    Nobody overtakes: an array that asks for much would otherwise wait as long as small ones keep coming.
    """
    arrays = ledger["arrays"]
    for earlier, entry in arrays.items():
        if earlier == token:
            break
        if entry["waits"]:
            return 0
    mine = arrays[token]
    free_cores = here.cores - sum(entry["running"] * entry["cpus"] for entry in arrays.values())
    free_memory_mib = here.memory_mib - sum(entry["running"] * entry["memory_mib"] for entry in arrays.values())
    fitting = free_cores // mine["cpus"]
    if mine["memory_mib"]:
        fitting = min(fitting, free_memory_mib // mine["memory_mib"])
    return max(0, min(wanted, int(fitting)))


def why_waiting(ledger: Mapping[str, Any], token: str, here: Machine) -> str:  # Any: JSON
    """Return what an array waits for, and which dispatches have that: "waits for cores: dispatch 01J… has 3 of 4"."""
    arrays: Mapping[str, Json] = ledger["arrays"]
    mine = arrays.get(token)
    if mine is None:  # its supervisor has not come to the books yet
        return "waits for cores or memory"
    for earlier, entry in arrays.items():
        if earlier == token:
            break
        if entry["waits"]:
            return f"waits for its turn behind {_owner(entry, mine)}; {_holders(arrays, mine, here)}"
    return f"waits for {_holders(arrays, mine, here)}"


def _holders(arrays: Mapping[str, Json], mine: Json, here: Machine) -> str:
    cores = sum(entry["running"] * entry["cpus"] for entry in arrays.values())
    memory_mib = sum(entry["running"] * entry["memory_mib"] for entry in arrays.values())
    cores_lack = here.cores - cores < mine["cpus"]
    if not cores_lack and here.memory_mib - memory_mib >= mine["memory_mib"]:
        return "cores or memory"  # they have just become free
    what, most = ("cores", here.cores) if cores_lack else ("memory", here.memory_mib)
    told: Callable[[int], str] = str if cores_lack else memory
    held: dict[str, int] = {}
    for entry in arrays.values():
        amount = entry["running"] * entry["cpus" if cores_lack else "memory_mib"]
        if amount:
            held[_owner(entry, mine)] = held.get(_owner(entry, mine), 0) + amount
    largest = sorted(held.items(), key=lambda each: -each[1])
    shown = [f"{owner} has {told(amount)}" for owner, amount in largest[:_HOLDERS]]
    if rest := sum(amount for _, amount in largest[_HOLDERS:]):
        shown.append(f"{counted(len(largest) - _HOLDERS, 'other')} {told(rest)}")
    return f"{what}: {', '.join(shown)} of {told(most)}"


def _owner(entry: Json, mine: Json) -> str:
    dispatch = entry.get("dispatch")  # what an earlier release wrote names none
    if not dispatch:
        return "another dispatch"
    return "this dispatch" if dispatch == mine.get("dispatch") else f"dispatch {dispatch}"
