"""The example from beginning to end, as `make demo` runs it: a program, a server, workers."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from tests.integration.servers import ask, counting, hpcflow, run, stopped_afterwards

EOS = Path(__file__).parents[2] / "examples" / "eos" / "eos.py"
# relax, strain, fit, reduce
STAGES = 4


def run_the_example(executor: str, tmp_path: Path) -> str:
    """Return what it printed."""
    plot = tmp_path / "eos.png"
    done = run(sys.executable, str(EOS), "--executor", executor, "--plot", str(plot), cwd=tmp_path)
    assert done.returncode == 0, done.stderr + hpcflow("logs", "-n", "30", cwd=tmp_path).stdout
    assert plot.stat().st_size > 10_000
    return done.stdout


def the_one_dispatch(tmp_path: Path) -> str:
    (dispatch,) = ask("dispatches", cwd=tmp_path)
    return str(dispatch["id"])


@pytest.mark.slow
def test_the_example_completes_on_this_machine(hpcflow_home: Path, tmp_path: Path) -> None:
    pytest.importorskip("ase")
    with stopped_afterwards(tmp_path):
        printed = run_the_example("local", tmp_path)
        assert re.search(r"^Cu fcc +3\.590 +134 +3\.517 ", printed, re.MULTILINE)
        assert printed.splitlines()[-1] == f"completed: 379 electrons in dispatch {the_one_dispatch(tmp_path)}"
        shown = ask("show", the_one_dispatch(tmp_path), cwd=tmp_path)
    assert shown["counts"] == {"completed": 379}


@pytest.mark.slow
@pytest.mark.cluster
def test_the_example_completes_on_slurm_with_three_submissions_for_each_stage_at_most(
    hpcflow_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ase")
    submissions = counting("sbatch", tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    with stopped_afterwards(tmp_path):
        printed = run_the_example("slurm", tmp_path)
        shown = ask("show", the_one_dispatch(tmp_path), "--tasks", cwd=tmp_path)
    assert printed.splitlines()[-1].startswith("completed: 379 electrons")
    assert shown["counts"] == {"completed": 379}
    assert {task["cluster"] for task in shown["tasks_shown"]} == {"slurm"}
    assert len(submissions.read_text().splitlines()) <= 3 * STAGES
