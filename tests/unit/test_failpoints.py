"""Failpoints: what the variable says, and that every registered instant is one of the code."""

from __future__ import annotations

import ast
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import hpcflow.server
from hpcflow.core.model import HpcflowError
from hpcflow.server.failpoints import POINTS, VARIABLE, Failpoints, failpoint


def test_an_armed_instant_fails_at_its_time_and_once() -> None:
    points = Failpoints.read("before_flush=raise@2, after_push=sleep:0")
    points.reach("before_flush")
    points.reach("after_push")
    with pytest.raises(HpcflowError, match="before_flush"):
        points.reach("before_flush")
    points.reach("before_flush")


def test_nothing_is_armed_without_the_variable() -> None:
    assert Failpoints.read("").deeds == {}
    for name in POINTS:
        failpoint(name)


@pytest.mark.parametrize("text", ["before_submit", "nowhere=kill", "before_submit=explode", "after_push=kill@0", "x"])
def test_what_cannot_be_armed_is_refused_with_the_names(text: str) -> None:
    with pytest.raises(ValueError, match=f"the names are {', '.join(POINTS)}"):
        Failpoints.read(text)


def test_a_kill_ends_the_process_at_once() -> None:
    program = "from hpcflow.server.failpoints import failpoint\nfailpoint('after_flush')\nprint('still here')"
    ended = subprocess.run(
        [sys.executable, "-c", program], env={VARIABLE: "after_flush=kill"}, capture_output=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, b"")


def test_every_registered_instant_is_in_the_code_and_none_other() -> None:
    folder = Path(next(iter(hpcflow.server.__path__)))
    called: Counter[str] = Counter()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "failpoint":
                (name,) = node.args
                assert isinstance(name, ast.Constant)
                called[str(name.value)] += 1
    assert called.keys() == POINTS.keys()
