"""Folders of wheels that a kill leaves behind: the next server removes them, and no others."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from hpcflow.server.scratch import PREFIXES, scratch, sweep

HOLDS = """
import sys
from pathlib import Path
from hpcflow.server.scratch import Kept
kept = Kept(sys.argv[1])
folder = Path(kept.path)
(folder / "wheels").mkdir()
(folder / "wheels" / "big.whl").write_bytes(b"x" * 1000)
print(folder, flush=True)
sys.stdin.read()
kept.close()
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def swept(place: Path) -> list[Path]:
    """Return what was removed here; other tests' servers may have been killed beside it."""
    return [path for path in map(Path, sweep()) if path.parent == place]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_what_a_killed_process_left_is_removed_and_what_a_live_one_uses_stays(place: Path, prefix: str) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HOLDS, prefix],
            env={**os.environ, "TMPDIR": str(place)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        killed, lives = (Path(process.stdout.readline().strip()) for process in processes if process.stdout is not None)
        processes[0].kill()
        processes[0].wait(30)
        assert killed.is_dir()
        assert swept(place) == [killed]
        assert not killed.exists()
        assert (lives / "wheels" / "big.whl").is_file()
        processes[1].communicate(timeout=30)
        assert not lives.exists()
    finally:
        for process in processes:
            process.kill()
            process.communicate(timeout=30)


def test_what_is_no_folder_of_ours_or_being_made_just_now_stays(place: Path) -> None:
    with scratch() as used:
        young, old = place / "hpcflow-wheels-young", place / "hpcflow-wheels-old"
        young.mkdir()
        old.mkdir()
        os.utime(old, (0, 0))
        (place / "hpcflow-wheels-file").touch()
        (place / "hpcflow-wheels-link").symlink_to(used)
        assert swept(place) == [old]
        assert used.is_dir()
        assert young.is_dir()
    assert not used.exists()
