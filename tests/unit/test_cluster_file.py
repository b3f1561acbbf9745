"""clusters.toml as its owner wrote it, plus or minus one table."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcflow.core.model import HpcflowError
from hpcflow.server.cluster_file import add_table, remove_table

OWN = """# My clusters.

[old]           # decommissioned in May
scheduler = "pbs"
extra = [
    "-l", "x",  # asked for by Grace
]
"""


def test_a_table_comes_and_every_comment_stays(tmp_path: Path) -> None:
    file = tmp_path / "clusters.toml"
    file.write_text(OWN)
    file.chmod(0o644)
    prologue = "module load python/3.12\nexport X='1'\n"
    add_table(str(file), "far", {"scheduler": "slurm", "host": "ada@far", "prologue": prologue, "channels": 3})
    text = file.read_text()
    assert text.startswith(OWN)
    assert '\nprologue = """\nmodule load python/3.12\n' in text
    assert tomllib.loads(text)["far"] == {
        "scheduler": "slurm",
        "host": "ada@far",
        "prologue": prologue,
        "channels": 3,
    }
    assert file.stat().st_mode & 0o777 == 0o600
    remove_table(str(file), "far")
    assert file.read_text().strip() == OWN.strip()
    assert os.listdir(tmp_path) == ["clusters.toml"]


def test_a_file_that_is_not_there_is_made_private(tmp_path: Path) -> None:
    file = tmp_path / "clusters.toml"
    add_table(str(file), "far", {"scheduler": "slurm"})
    assert file.read_text() == '[far]\nscheduler = "slurm"\n'
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "dotfiles").mkdir()
    own = tmp_path / "dotfiles/clusters.toml"
    own.write_text(OWN.rstrip())
    (tmp_path / "clusters.toml").symlink_to(own)
    add_table(str(tmp_path / "clusters.toml"), "far", {"scheduler": "slurm"})
    assert (tmp_path / "clusters.toml").is_symlink()
    assert set(tomllib.loads(own.read_text())) == {"old", "far"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (OWN.replace("old", "far"), r"has a table \[far\] already"),
        ("[far\n", "can't be read"),
        ("\xff", "can't be read"),
    ],
)
def test_what_can_not_be_added_changes_nothing(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "clusters.toml"
    file.write_text(text, "latin-1")
    with pytest.raises(HpcflowError, match=sentence):
        add_table(str(file), "far", {"scheduler": "slurm"})
    assert file.read_text("latin-1") == text


def test_a_folder_that_takes_no_file_leaves_the_old_one(tmp_path: Path) -> None:
    file = tmp_path / "clusters.toml"
    file.write_text(OWN)
    (tmp_path / f"clusters.toml.part-{os.getpid()}").mkdir()
    with pytest.raises(HpcflowError, match="can't be written"):
        add_table(str(file), "far", {"scheduler": "slurm"})
    assert file.read_text() == OWN


def test_a_table_that_is_not_there_can_not_go(tmp_path: Path) -> None:
    with pytest.raises(HpcflowError, match=r"no table \[far\]"):
        remove_table(str(tmp_path / "clusters.toml"), "far")


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_written_as_it_is_meant(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.mktemp("file") / "clusters.toml"
    try:
        add_table(str(file), "far", {"prologue": text})
    except HpcflowError:
        assert not file.exists()
    else:
        assert tomllib.loads(file.read_text("utf-8"))["far"]["prologue"] == text
