"""The programs in the how-to pages, as a user would copy them."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from tests.integration.servers import ask, hpcflow, run, stopped_afterwards

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_program_about_failures_says_what_the_page_says(hpcflow_home: Path, tmp_path: Path) -> None:
    page = (ROOT / "docs/howto/failures.md").read_text()
    program = tmp_path / "program.py"
    code = "".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    # The same wherever the test runs, also where sbatch answers.
    program.write_text(re.sub(r"@hf.lattice\(?", '@hf.lattice(executor="local", ', code).replace(", \n", ")\n"))
    with stopped_afterwards(tmp_path):
        done = run(sys.executable, str(program), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        waited, retried, surveyed = ask("dispatches", cwd=tmp_path)
        after = json.loads(hpcflow("show", retried["id"], "--wait", "--tasks", "--json", cwd=tmp_path).stdout)
    status, rows, error, moved, _, last = done.stdout.splitlines()
    said = re.findall(r"print\(result\.\w+\)  # (.*)", page)
    assert [status, rows, error] == [said[0].partition(":")[0], *said[1:]]
    amounts = "954 MiB of memory and 2 h of walltime"
    assert moved == f"1 task to run again: what had failed asks for {amounts}; results that exist are kept."
    assert (waited["status"], last) == ("COMPLETED", "COMPLETED")
    assert surveyed["counts"] == {"completed": 3, "failed": 1}
    assert [(task["state"], task["attempt"]) for task in after["tasks_shown"]] == [
        ("completed", 1),
        ("failed", 2),
        ("completed", 1),
    ]
