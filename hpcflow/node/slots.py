"""Several workers in one array task: each has cores of its own, and none of them takes the others along."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from hpcflow.core.bag import read_lines, sign_line
from hpcflow.node.bagdir import BagDirectory
from hpcflow.node.files import append_all
from hpcflow.node.processes import adopt_orphans, die_with_parent, kill_strangers

__all__ = ["Share", "share_out", "work_in_slots"]

_WATCHED: Final = (signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1)
#: A worker that dies is followed by another in its slot, so often.
_HEIRS: Final = 3
#: Exit codes by which a worker says itself that it is done, or why it can't work: `hpcflow.node.worker`.
_OWN_WORD: Final = frozenset({0, 11, 12, 75, 143})


class Share(NamedTuple):
    """What one slot has of its array task."""

    #: ``None``: there are not enough cores for each slot to have its own.
    cores: frozenset[int] | None
    #: As CUDA_VISIBLE_DEVICES wants it; ``None``: nobody gave GPUs.
    gpus: str | None


def share_out(slots: int, *, cores: frozenset[int], cpus: int, visible: str | None, gpus: int) -> list[Share]:
    """Share cores and GPUs out among slots.

    Args:
        slots: how many.
        cores: those that this process may use.
        cpus: cores of each slot.
        visible: CUDA_VISIBLE_DEVICES of the array task.
        gpus: of each slot.
    """
    mine = sorted(cores)
    devices = [device for device in (visible or "").split(",") if device]
    shares: list[Share] = []
    for slot in range(slots):
        own = mine[slot * cpus : (slot + 1) * cpus] if len(mine) >= slots * cpus else None
        given = ",".join(devices[slot * gpus : (slot + 1) * gpus]) if visible is not None else None
        shares.append(Share(frozenset(own) if own is not None else None, given))
    return shares


def work_in_slots(bag: BagDirectory, work: Callable[[int, int], int], name: Callable[[int], str]) -> int:
    """Run one worker for each slot until all have left; return the exit code of the array task.

    Args:
        bag: theirs.
        work: is the worker of a slot: takes the slot and how many were there before it, returns its exit code.
        name: a slot's workers as their journals are called, without the restart: ``8123+2_7``.
    """
    shares = share_out(
        bag.slots,
        cores=frozenset(os.sched_getaffinity(0)),
        cpus=bag.cpus,
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        gpus=bag.gpus,
    )
    for number in _WATCHED:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    adopt_orphans()
    here = {_start(slot, 0, shares[slot], work): slot for slot in range(bag.slots)}
    generation = dict.fromkeys(range(bag.slots), 0)
    codes: list[int] = []
    told = False
    while here:
        received = signal.sigwaitinfo(_WATCHED)
        if received.si_signo != signal.SIGCHLD:
            told = told or received.si_signo == signal.SIGTERM
            for pid in here:
                os.kill(pid, received.si_signo)
            continue
        for pid, status in _reaped():
            slot = here.pop(pid, None)
            if slot is None:
                continue  # what a dead worker left behind
            code = os.waitstatus_to_exitcode(status)
            if code in _OWN_WORD:
                codes.append(code)
                continue
            kill_strangers(frozenset(here))
            generation[slot] += 1
            _close_journal(bag, name(slot), -code if code < 0 else None)
            if generation[slot] <= _HEIRS and not told:
                here[_start(slot, generation[slot], shares[slot], work)] = slot
            else:
                codes.append(1)
    # All of one kind: that is what happened. Otherwise those that found nothing to do are the rule.
    return codes[0] if len(set(codes)) == 1 else max(codes, key=lambda code: (code == 143, code in {75, 1}, code))


def _start(slot: int, generation: int, share: Share, work: Callable[[int, int], int]) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        die_with_parent(parent)
        if share.cores:
            os.sched_setaffinity(0, share.cores)
        if share.gpus is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = share.gpus
        code = work(slot, generation)
    finally:
        sys.stderr.flush()
        os._exit(code)


def _reaped() -> list[tuple[int, int]]:
    ended: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if not pid:
            return ended
        ended.append((pid, status))


def _close_journal(bag: BagDirectory, slot: str, number: int | None) -> None:
    """Write down for a worker that was killed what became of its task: nobody else will look into this array task."""
    folder = os.path.join(bag.path, "journal")
    restarts = [int(name[len(slot) + 1 : -6]) for name in os.listdir(folder) if name.startswith(f"{slot}_")]
    if not restarts:
        return
    worker = f"{slot}_{max(restarts)}"
    path = os.path.join(folder, f"{worker}.jsonl")
    with open(path, "rb") as file:
        records, _, _ = read_lines(file.read(), bag.key)
    running: Mapping[str, object] | None = None
    for record in records:
        running = record if record["ev"] == "start" else None if record["ev"] == "end" else running
    last = {"t": records[-1]["t"] if records else 0.0, "w": worker}
    lines = b"\n"
    if running is not None:
        end = {"i": running["i"], "n": running["n"], "st": "signal", "sig": number or signal.SIGKILL}
        lines += sign_line({"ev": "end", **last, **end, "wall": 0.0}, bag.key)
    lines += sign_line({"ev": "exit", **last, "why": "died", "n": 0, "ops": 0}, bag.key)
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        append_all(fd, lines)
        os.fsync(fd)
    finally:
        os.close(fd)
