"""The programs in the how-to page about small tasks, as a user would copy them."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.integration.servers import ask, run, stopped_afterwards

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "small-tasks.md"


@pytest.mark.slow
def test_the_programs_about_small_tasks_say_what_the_page_says(hpcflow_home: Path, tmp_path: Path) -> None:
    page = PAGE.read_text()
    program = tmp_path / "program.py"
    code = "".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    # The same wherever the test runs, also where sbatch answers.
    program.write_text(code.replace("@hf.lattice", '@hf.lattice(executor="local")'))
    with stopped_afterwards(tmp_path):
        done = run(sys.executable, str(program), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        dispatches = ask("dispatches", cwd=tmp_path)
    said = re.findall(r"print\(.*\)  # ([^,:\n]*)", page)
    assert len(said) == 6
    assert done.stdout.splitlines() == said
    assert [dispatch["status"] for dispatch in dispatches] == ["COMPLETED"] * 5


def test_the_function_that_no_program_calls_is_right() -> None:
    code = PAGE.read_text().split("## Import at the top")[1].split("```python\n")[1].split("```")[0]
    names: dict[str, object] = {}
    exec("import hpcflow as hf\n" + code + "\nvalue = harmonic(4)", names)
    assert str(names["value"]) == "25/12"
