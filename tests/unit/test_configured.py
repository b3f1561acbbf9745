"""The server's settings, told to clients and changed by them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hpcflow.core.model import HpcflowError, UserError
from hpcflow.core.places import Places
from hpcflow.server.configured import Configured
from hpcflow.server.settings import Settings, read_settings


@pytest.fixture
def where(tmp_path: Path) -> Places:
    return Places(str(tmp_path))


def test_a_change_is_written_beside_the_comments_and_told_to_hold_after_a_restart(where: Places) -> None:
    Path(where.config).write_text("# why we wait\nlinger = 20\n")
    desk = Configured(where, read_settings(where))
    answer = asyncio.run(desk.change({"settle": 0.25, "job_names": "opaque"}))
    assert Path(where.config).read_text() == '# why we wait\nlinger = 20\nsettle = 0.25\njob_names = "opaque"\n'
    assert Path(where.config).stat().st_mode & 0o777 == 0o600
    assert answer["after_restart"] == ["job_names", "settle"]
    assert answer["message"] == f"{where.config} is written. It holds from the next `hpcflow restart`."
    assert (answer["settings"]["settle"], answer["settings"]["linger"]) == (0.25, 20.0)
    back = asyncio.run(desk.change({"settle": None, "job_names": None}))
    assert Path(where.config).read_text() == "# why we wait\nlinger = 20\n"
    assert (back["after_restart"], back["message"]) == ([], f"{where.config} is written.")


def test_a_variable_that_wins_is_named(where: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPCFLOW_LINGER", "3")
    answer = asyncio.run(Configured(where, read_settings(where)).change({"linger": 5}))
    assert answer["message"].endswith("HPCFLOW_LINGER in the server's environment wins over it.")
    assert answer["settings"]["linger"] == 3.0


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"lingr": 5}, "There is no setting 'lingr'; did you mean 'linger'"),
        ({"linger": -1}, "was left as it is: linger"),
        ({"linger": [1]}, "was left as it is: linger"),
        ({"linger": "5"}, "was left as it is: linger is '5': input should be a valid number"),
        ({"linger": {"a": 1}}, "was left as it is: linger"),
    ],
)
def test_what_no_server_could_start_with_is_not_written(where: Places, values: dict[str, int], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        asyncio.run(Configured(where, Settings()).change(dict(values)))
    assert not Path(where.config).exists()


def test_a_file_that_is_no_toml_stays(where: Places) -> None:
    desk = Configured(where, Settings())
    Path(where.config).write_text("linger = = 3\n")
    with pytest.raises(HpcflowError, match="can't be read"):
        asyncio.run(desk.change({"linger": 5}))
    assert Path(where.config).read_text() == "linger = = 3\n"
