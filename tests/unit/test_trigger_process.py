"""A trigger's own process: what it says when the user's code fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpcflow.sdk.pickling import dumps


class Fails:
    def __init__(self, said: str) -> None:
        self.said = said

    def observe(self) -> None:
        raise ValueError(self.said)


@pytest.mark.parametrize(
    ("said", "last"),
    [
        ("no such column", "ValueError: no such column"),
        (
            "the table is odd:\n  a\n\n  b is missing\n",
            "ValueError: the table is odd: \N{HORIZONTAL ELLIPSIS} b is missing",
        ),
        ("", "ValueError: "),
    ],
)
def test_the_reason_is_one_line_with_the_type_the_first_line_and_the_last(tmp_path: Path, said: str, last: str) -> None:
    data = dumps(Fails(said))
    head = {"size": len(data), "attached_at": 0, "resumed": False, "trigger": "t", "run": "r", "dispatch": "d"}
    done = subprocess.run(
        [sys.executable, "-m", "hpcflow.sdk.trigger_process"],
        input=json.dumps(head).encode() + b"\n" + data,
        env={**os.environ, "HPCFLOW_HOME": str(tmp_path), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr.decode().split("\n")[-2]) == (1, last)
