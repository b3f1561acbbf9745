"""The process behind a double's commands: ``python -m tests.fakes.daemon pbs FOLDER CORES FIRST``.

It listens on FOLDER/socket. A request whose argv begins with "control" changes faults or asks what was called.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.fakes.lsf import Lsf
from tests.fakes.pbs import Pbs
from tests.fakes.scheduler import Request

_TICK_S = 0.05


class Daemon:
    """One double: its socket, its scheduler, and answers that are not due yet."""

    def __init__(self, kind: str, folder: Path, cores: int, first: int) -> None:
        jobs = folder / "jobs"
        jobs.mkdir(exist_ok=True)
        self.double = _double(kind, jobs, cores, first)
        self.it = self.double.it
        os.chdir(folder)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind("socket.new")
        self.socket.listen(64)
        os.rename("socket.new", "socket")
        self.later: list[tuple[float, socket.socket, bytes]] = []
        self.stopping = False

    def run(self) -> None:
        while not self.stopping:
            ready, _, _ = select.select([self.socket], [], [], _TICK_S)
            if ready:
                self._take()
            self.it.tick()
            now = time.monotonic()
            for answer in [answer for answer in self.later if answer[0] <= now]:
                self.later.remove(answer)
                _send(answer[1], answer[2])
        self.it.stop()

    def _take(self) -> None:
        connection, _ = self.socket.accept()
        with connection.makefile("rb") as wire:
            line = wire.readline()
        if not line:
            connection.close()
            return
        asked: dict[str, Any] = json.loads(line)
        if asked["argv"][0] == "control":
            _send(connection, json.dumps(self._control(asked)).encode() + b"\n")
            return
        self.it.calls.append(asked["argv"])
        data = self._answer(Request(**asked))
        self.later.append((time.monotonic() + self.it.faults.latency_s, connection, data))

    def _answer(self, request: Request) -> bytes:
        faults = self.it.faults
        submits = request.argv[0] in {"qsub", "bsub"}
        if submits and faults.lose_requests:
            faults.lose_requests -= 1
            return b""
        code, out, err = self.double.answer(request)
        self.it.tick()
        if submits and code == 0 and faults.lose_replies:
            faults.lose_replies -= 1
            return b""
        raw = (faults.noise + out).encode("utf-8")[: faults.cut_at]
        return json.dumps([code, raw.decode("latin-1"), err]).encode() + b"\n"

    def _control(self, asked: dict[str, Any]) -> Any:
        for name, value in asked.get("faults", {}).items():
            if not hasattr(self.it.faults, name):
                raise AttributeError(name)
            setattr(self.it.faults, name, value)
        self.it.dirty = True
        if "queues" in asked:
            self.double.queues = asked["queues"]
        match asked.get("do"):
            case "stop":
                self.stopping = True
            case "fail_node":
                return self.it.fail_node()
            case "kill":
                job = self.it.jobs[asked["job"]]
                element = job.element(asked["index"])
                assert element is not None
                self.it.kill(job, element, asked["why"], asked.get("by", ""))
            case "hold":
                self.it.jobs[asked["job"]].held = asked["kind"]
            case "give":
                self.it.jobs[asked["job"]].user = asked["user"]
            case "forget":
                for number in [job.number for job in self.it.jobs.values() if job.over]:
                    del self.it.jobs[number]
            case "count_from":
                self.it.next = asked["number"]
            case _:
                pass
        return {
            "calls": self.it.calls,
            "faults": asdict(self.it.faults),
            "jobs": [
                {
                    "number": job.number,
                    "name": job.name,
                    "argv": job.argv,
                    "script": job.script,
                    "elements": [
                        {
                            "index": element.index,
                            "state": element.state,
                            "runs": element.runs,
                            "pid": element.process.pid if element.process else None,
                        }
                        for element in job.elements
                    ],
                }
                for job in self.it.jobs.values()
            ],
        }


def _double(kind: str, folder: Path, cores: int, first: int) -> Pbs | Lsf:
    if kind == "pbs":
        return Pbs(folder, cores=cores, first=first)
    if kind == "lsf":
        return Lsf(folder, cores=cores, first=first)
    raise ValueError(kind)


def _send(connection: socket.socket, data: bytes) -> None:
    with suppress(OSError):
        connection.sendall(data)
    connection.close()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    daemon = Daemon(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    try:
        daemon.run()
    finally:
        daemon.it.stop()
