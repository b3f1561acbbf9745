"""Bags written by hand for the tests of the worker, and the workers' journals as values."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hpcflow
from hpcflow.core.bag import BAG_VERSION, DIRECTORIES, INBOX, bag_key, pack, read_lines, sign
from hpcflow.sdk.pickling import dumps, load_with
from tests.processes import killed

CLUSTER_KEY = b"k" * 32
BAG_ID = "01JD0000000000000000000BAG"
SOURCE = Path(str(hpcflow.__file__)).parent.parent

Record = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """One task: a function, its arguments, or their pickle where it holds results of other tasks."""

    function: Callable[..., object]
    args: tuple[object, ...] = ()
    pickled: bytes | None = None
    refs: Mapping[int, object] = field(default_factory=dict[int, object])


@dataclass(frozen=True)
class BagOnDisk:
    path: Path
    key_file: Path
    key: bytes

    def journals(self) -> dict[str, list[Record]]:
        """Every worker's records; no line may be bad."""
        found: dict[str, list[Record]] = {}
        for path in sorted((self.path / "journal").iterdir()):
            records, _, bad = read_lines(path.read_bytes(), self.key)
            assert bad == 0
            found[path.stem] = records
        return found

    def records(self, event: str) -> list[Record]:
        return [record for records in self.journals().values() for record in records if record["ev"] == event]

    def end(self, index: int) -> Record:
        (found,) = (record for record in self.records("end") if record["i"] == index)
        return found

    def result(self, index: int) -> Any:
        return load_with(self.stored(self.end(index)["r"]))

    def stored(self, result: Record) -> bytes:
        if "b" in result:
            return base64.b64decode(result["b"])
        name, offset, size, _ = result["f"]
        content: bytes = (self.path / name).read_bytes()[offset : offset + size]
        assert len(content) == size
        return content

    def out(self, index: int, stream: str = "out") -> str:
        end = self.end(index)
        begin, stop = end[stream]
        return (self.path / "logs" / f"{end['w']}.{stream}").read_bytes()[begin:stop].decode()


def write_bag(folder: Path, *calls: Call, **spec: object) -> BagOnDisk:
    """Write a bag of these calls, a unit and a range each unless ``spec`` (fields of bag.json) says otherwise."""
    path = folder / "bag"
    path.mkdir(parents=True, mode=0o700)
    for name in DIRECTORIES:
        (path / name).mkdir(mode=0o700)
    blobs: list[bytes] = []
    rows: list[object] = []
    for index, call in enumerate(calls):
        blobs += [dumps(call.function), call.pickled or dumps((call.args, {}))]
        rows.append([index, 0, blobs.index(blobs[2 * index]), 2 * index + 1, index, f"task{index}"])
    pieces, digest = pack(blobs)
    (path / "payload.pack").write_bytes(b"".join(pieces))
    (path / INBOX).touch()
    full: dict[str, object] = {
        "v": BAG_VERSION,
        "bag": BAG_ID,
        "dispatch": "01JD00000000000000DISPATCH",
        "py": list(sys.version_info[:2]),
        "index": digest,
        "tasks": rows,
        "inputs": [{str(upstream): ref for upstream, ref in call.refs.items()} for call in calls],
        "units": None,
        "cuts": list(range(len(calls) + 1)),
        "iso": "fork",
        "inline": 16384,
        "limit": None,
        "grace": 1,
        "walltime": 3600,
        "need": 0,
        "sync": None,
        "nfs": False,
        "workdir": None,
        "cpus": 1,
        "memory_mib": None,
        "gpus": 0,
        "ntasks": 1,
        "launch": None,
        "slots": 1,
        "linger": 0,
        "lingerers": 64,
        **spec,
    }
    key = bag_key(CLUSTER_KEY, BAG_ID)
    raw = json.dumps(full).encode()
    (path / "bag.sig").write_text(sign(raw, key))
    (path / "bag.json").write_bytes(raw)
    key_file = folder / "key"
    key_file.write_bytes(CLUSTER_KEY)
    for file in (key_file, *path.glob("*.*")):
        file.chmod(0o600)
    return BagOnDisk(path, key_file, key)


def start_worker(
    bag: BagOnDisk, *, job: str = "7", index: int = 0, restart: int = 0, through: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    """Start a worker as an array task would; its stderr is a pipe.

    ``through`` is a command that becomes the one after it, like ``nice``.
    """
    return subprocess.Popen(
        [*through, sys.executable, "-m", "hpcflow.node", "bag", str(bag.path), str(bag.key_file)],
        env={
            **os.environ,
            "PYTHONPATH": str(SOURCE),
            "HPCFLOW_JOB": job,
            "HPCFLOW_INDEX": str(index),
            "HPCFLOW_RESTART": str(restart),
        },
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def wait_for(workers: Sequence[subprocess.Popen[bytes]]) -> list[tuple[int, str]]:
    """Return exit code and stderr of each worker."""
    ended: list[tuple[int, str]] = []
    for worker in workers:
        try:
            _, stderr = worker.communicate(timeout=120)
        finally:
            killed(worker)
        ended.append((worker.returncode, stderr.decode()))
    return ended


def run_worker(
    bag: BagOnDisk, *, job: str = "7", index: int = 0, restart: int = 0, through: Sequence[str] = ()
) -> tuple[int, str]:
    """Run one worker to its end; return exit code and stderr."""
    return wait_for([start_worker(bag, job=job, index=index, restart=restart, through=through)])[0]
