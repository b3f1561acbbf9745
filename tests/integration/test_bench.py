"""bench/table.py as somebody runs it who wants to know whether its rows still run; no figure is looked at."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.integration.servers import run

pytestmark = pytest.mark.timeout(900)

TABLE = Path(__file__).parents[2] / "bench" / "table.py"


def rows(*names: str, cwd: Path) -> list[list[str]]:
    """Return the cells of the table of these rows."""
    only = [part for name in names for part in ("--only", name)]
    done = run(sys.executable, str(TABLE), "--quick", "--markdown", *only, cwd=cwd, seconds=800)
    assert done.returncode == 0, done.stderr
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in done.stdout.splitlines()
        if line.startswith("| ") and not line.startswith(("| what", "| ---"))
    ]


@pytest.mark.slow
def test_rows_of_this_machine_run(tmp_path: Path) -> None:
    table = rows("local", "graph", "futures", "covalent", "page", "idle", "start", cwd=tmp_path)
    assert [len(row) for row in table] == [6] * len(table)
    judged = [row[0] for row in table if row[4]]
    assert [what.partition(",")[0] for what in judged] == [
        "local",
        "local",
        "a graph of 400 electrons",
        "a graph of 400 electrons",
        "400 calls by Executor.map",
        "the call of dispatch",
        "a sublattice of 10 no-ops",
        "a task with DepsPip",
        "journal to page",
        *(["journal to page"] if "left out" not in str(table) else []),
        "idle server over 2 s",
        "idle server",
        "import hpcflow",
        "hpcflow --help",
    ]


@pytest.mark.slow
def test_the_rows_of_a_cluster_behind_ssh_run(tmp_path: Path) -> None:
    table = rows("ssh", cwd=tmp_path)
    if "left out" in str(table):
        pytest.skip("needs sshd")
    assert [row[0].split(",")[0] for row in table if row[4]] == [
        "the same",
        "connections to the cluster",
        "push of 1",
        "one look at 16 journals with news",
        "a command after a cut",
    ]
    assert [row[1] for row in table if row[0].startswith("connections")] == ["1"]


@pytest.mark.slow
@pytest.mark.cluster
def test_rows_that_need_slurm_run(tmp_path: Path) -> None:
    table = rows("chain", "stages", "uneven", "numpy", "charged", cwd=tmp_path)
    assert "left out" not in str(table)
    assert [row[3] != "" for row in table if row[4]] == [True] * 5
