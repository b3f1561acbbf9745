"""`hpcflow path`: where a task's files are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcflow.cli import main
from tests.unit.fake_server import DISPATCH, FakeServer, a_summary, a_task


@pytest.fixture
def server(hpcflow_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    monkeypatch.setenv("HPCFLOW_AUTOSTART", "0")
    with FakeServer(hpcflow_home) as fake:
        fake.answers["GET", f"/dispatches/{DISPATCH}"] = (200, a_summary())
        yield fake


def test_the_directory_of_a_task_is_all_that_is_printed(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    place = "/scratch/me/bags/1/work/8123_0_0-1"
    server.answers["GET", f"/dispatches/{DISPATCH}/tasks/1"] = (200, a_task(1, workdir=place))
    assert main(["path", DISPATCH, "1"]) == 0
    assert capsys.readouterr().out == f"{place}\n"


def test_a_task_that_left_no_files_has_no_directory(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.answers["GET", f"/dispatches/{DISPATCH}/tasks/1"] = (200, a_task(1, workdir=None))
    assert main(["path", DISPATCH, "1"]) == 5
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "Task 1 (relax) is completed and has no directory to show: it left no files.\n"


def test_the_directory_of_a_task_that_runs_is_not_known_yet(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    task = a_task(1, state="running", ended_at=None, workdir=None)
    server.answers["GET", f"/dispatches/{DISPATCH}/tasks/1"] = (200, task)
    assert main(["path", DISPATCH, "1"]) == 5
    assert "is running and has no directory to show: that is known when it has ended." in capsys.readouterr().err
