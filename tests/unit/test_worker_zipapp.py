"""The zipapp: the same bytes from the same files, and a worker where nothing is installed."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import hpcflow as hf
from hpcflow.server.zipapp import build_worker
from tests.unit.bag_on_disk import Call, write_bag


def test_the_name_tells_the_content() -> None:
    name, content = build_worker()
    assert (name, content) == build_worker()
    assert name.startswith("worker-")
    assert name.endswith(f"-{hashlib.sha256(content).hexdigest()[:12]}.pyz")


def test_it_carries_what_a_node_needs_and_no_more() -> None:
    names = zipfile.ZipFile(io.BytesIO(build_worker()[1])).namelist()
    assert {"__main__.py", "cloudpickle/__init__.py", "hpcflow/__init__.py", "hpcflow/sdk/workflow.py"} <= set(names)
    assert not [name for name in names if name.startswith(("hpcflow/server", "hpcflow/sdk/client"))]
    assert {name.split("/")[0] for name in names} == {
        "__main__.py",
        "__main__.pyc",
        "hpcflow",
        "cloudpickle",
    }


def run_isolated(worker: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the zipapp with nothing else importable but the standard library."""
    return subprocess.run(
        [sys.executable, "-I", "-S", str(worker), *arguments],
        env={"PATH": os.environ["PATH"]},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def write_worker(folder: Path) -> Path:
    name, content = build_worker()
    path = folder / name
    path.write_bytes(content)
    return path


def test_an_electron_that_calls_an_electron_runs_where_hpcflow_is_not_installed(tmp_path: Path) -> None:
    @hf.electron
    def inner(number: int) -> int:
        return number + 1

    def outer(number: int) -> int:
        return 10 * inner(number)

    for isolation in ("fork", "spawn"):
        bag = write_bag(tmp_path / isolation, Call(outer, (3,)), iso=isolation)
        reply = run_isolated(write_worker(tmp_path), "bag", str(bag.path), str(bag.key_file))
        assert (reply.returncode, reply.stderr) == (0, "")
        assert bag.result(0) == 40


def test_the_words_for_failures_are_known_where_hpcflow_is_not_installed(tmp_path: Path) -> None:
    def sort_out(values: list[object]) -> tuple[list[object], list[str], object]:
        import hpcflow

        lost = [value.error for value in values if isinstance(value, hpcflow.Failed)]
        return [value for value in values if value], lost, hpcflow.Retries(2, exceptions=[OSError])

    failed = hf.Failed("relax", 7, "failed", "ValueError: no minimum")
    bag = write_bag(tmp_path, Call(sort_out, ([1, failed],)))
    reply = run_isolated(write_worker(tmp_path), "bag", str(bag.path), str(bag.key_file))
    assert (reply.returncode, reply.stderr) == (0, "")
    assert bag.result(0) == ([1], ["ValueError: no minimum"], hf.Retries(2, exceptions=[OSError]))


def test_a_wrong_command_line_is_answered_with_the_right_one(tmp_path: Path) -> None:
    reply = run_isolated(write_worker(tmp_path), "help")
    assert reply.returncode == 64
    assert reply.stderr.startswith("usage: worker.pyz bag")
