"""Settings: the environment over config.toml over the defaults, and a sentence for every slip."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcflow.core.model import UserError
from hpcflow.core.places import Places
from hpcflow.server.cluster_file import add_table
from hpcflow.server.settings import read_clusters, read_settings


@pytest.fixture
def where(hpcflow_home: Path) -> Places:
    return Places(str(hpcflow_home))


def test_the_environment_beats_the_file_and_the_file_the_default(
    where: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(where.config).write_text("accounting_poll = 45\nfirst_width = 8\n")
    monkeypatch.setenv("HPCFLOW_FIRST_WIDTH", "16")
    settings = read_settings(where)
    assert (settings.accounting_poll, settings.first_width, settings.local_poll) == (45, 16, 2)


def test_the_clients_variables_are_none_of_the_servers_business(where: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPCFLOW_PROGRESS", "0")
    assert read_settings(where).journal_poll == 0.1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("acounting_poll = 3", "there is no setting called 'acounting_poll'"),
        ("accounting_poll = -3", "accounting_poll is -3: input should be greater than 0"),
        ("accounting_poll = ", "is not TOML"),
        ("log = '\udcff'", "is not TOML: 'utf-8' codec can't decode byte 0xff"),
        ('job_names = "short"', "job_names is 'short': input should be 'readable' or 'opaque'"),
    ],
)
def test_a_slip_in_the_file_is_named(where: Places, text: str, sentence: str) -> None:
    Path(where.config).write_text(text, errors="surrogateescape")
    with pytest.raises(UserError, match=sentence):
        read_settings(where)


def test_no_file_means_no_clusters(where: Places) -> None:
    assert read_clusters(where) == {}


def test_a_cluster_is_read_with_its_defaults(where: Places) -> None:
    Path(where.clusters).write_text('[big]\nscheduler = "slurm"\npartition = "long"\nextra = ["--nice=10"]\n')
    big = read_clusters(where)["big"]
    assert (big.scheduler, big.partition, big.extra, big.max_width) == ("slurm", "long", ("--nice=10",), None)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[big]\nscheduler = "slurm"\npartitoin = "x"', r"\[big\]: there is no setting called 'partitoin'"),
        ('[big]\npartition = "x"', r"\[big\]: scheduler is"),
        ('[big]\nscheduler = "slurm"\nworkdir = "scratch"', "workdir is 'scratch'; write an absolute path"),
        ('["../big"]\nscheduler = "slurm"', "a cluster can't be called '../big'"),
        ("[big", "can't be read"),
        ("# \udcff", "can't be read: 'utf-8' codec can't decode byte 0xff"),
        ("big = 3", r"\[big\]: 3 is no table of settings\."),
    ],
)
def test_a_slip_in_a_cluster_is_named(where: Places, text: str, sentence: str) -> None:
    Path(where.clusters).write_text(text, errors="surrogateescape")
    with pytest.raises(UserError, match=sentence):
        read_clusters(where)


def test_a_mark_before_the_first_byte_as_windows_editors_write_it_is_no_fault(tmp_path: Path) -> None:
    where = Places(str(tmp_path))
    Path(where.config).write_bytes(b"\xef\xbb\xbfbreaker = 7\n")
    Path(where.clusters).write_bytes(b'\xef\xbb\xbf[far]\nscheduler = "slurm"\n')

    assert read_settings(where).breaker == 7
    assert list(read_clusters(where)) == ["far"]
    add_table(where.clusters, "near", {"scheduler": "pbs"})
    assert list(read_clusters(where)) == ["far", "near"]
