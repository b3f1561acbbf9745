"""The program in the README, as a new user would copy it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.integration.servers import ask, run, stopped_afterwards

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(("page", "tasks"), [("README.md", 100), ("docs/quickstart.md", 101)])
def test_the_first_program_of_the_page_computes_pi(page: str, tasks: int, hpcflow_home: Path, tmp_path: Path) -> None:
    match = re.search(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert match is not None
    program = tmp_path / "pi.py"
    # The same wherever the test runs, also where sbatch answers.
    program.write_text(match[1].replace("@hf.lattice", '@hf.lattice(executor="local")'))
    with stopped_afterwards(tmp_path):
        done = run(sys.executable, str(program), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        (dispatch,) = ask("dispatches", cwd=tmp_path)
    status, value = done.stdout.split()[-2:]
    assert status == "COMPLETED"
    assert float(value) == pytest.approx(3.1416, abs=0.002)
    assert dispatch["tasks"] == tasks
    assert "Started the hpcflow server" in done.stderr
