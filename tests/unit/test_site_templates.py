"""Templates of real sites: each says where it is from, holds nothing that clusters.toml does not, and gives way."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from urllib.parse import urlparse

import pytest

from hpcflow.cli import main
from hpcflow.core.model import JobArray, UserError
from hpcflow.core.places import Places
from hpcflow.server import plugins
from hpcflow.server.settings import ClusterSettings, cluster_settings, read_clusters
from hpcflow.server.site_templates import site_templates
from tests.unit.transcripts import an_array

NAMES = sorted(site_templates())


def test_there_are_templates_of_two_schedulers() -> None:
    assert {template.cluster["scheduler"] for template in site_templates().values()} == {"slurm", "pbs"}


@pytest.mark.parametrize("name", NAMES)
def test_a_template_is_a_table_of_clusters_toml_with_its_source(name: str) -> None:
    template = site_templates()[name]

    assert template.read >= date(2026, 11, 26)
    assert all(urlparse(page).scheme == "https" and urlparse(page).path != "/" for page in template.source)
    settings = ClusterSettings.model_validate(template.cluster)
    assert (settings.host, settings.site) == (None, None)
    assert settings.partition is None or settings.partition in template.partitions
    assert settings.qos is None or settings.qos in template.qos


@pytest.mark.parametrize("name", NAMES)
def test_a_scheduler_takes_what_a_template_says(name: str) -> None:
    settings = cluster_settings("here", "there", {"site": name})
    plugin = plugins.load(settings.scheduler)(python="", worker="", root="")
    array: JobArray = an_array(extra=settings.extra)

    argv = plugin.submit(array).argv

    assert all(word in argv for word in settings.extra)


def test_a_table_takes_its_sites_values_and_its_own_win(tmp_path: Path) -> None:
    where = Places(str(tmp_path))
    own = {"site": "archer2", "qos": "taskfarm", "account": "e123", "host": "ada@archer2"}
    Path(where.clusters).write_text("[a2]\n" + "".join(f'{key} = "{value}"\n' for key, value in own.items()))

    settings = read_clusters(where)["a2"]

    assert (settings.scheduler, settings.partition, settings.whole_nodes) == ("slurm", "standard", True)
    assert (settings.qos, settings.account, settings.host, settings.poll) == ("taskfarm", "e123", "ada@archer2", 60)
    assert settings.model_dump(exclude_unset=True) == own


def test_a_site_that_nobody_knows_is_a_mistake_in_the_table(tmp_path: Path) -> None:
    where = Places(str(tmp_path))
    Path(where.clusters).write_text('[x]\nsite = "atlantis"\n')

    with pytest.raises(UserError, match=r"\[x\]: There is no template for a site 'atlantis'; there are archer2, "):
        read_clusters(where)


def test_sites_are_listed_and_one_is_shown_with_its_limits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clusters", "sites"]) == 0
    listed = capsys.readouterr().out
    assert main(["clusters", "sites", "archer2"]) == 0
    shown = capsys.readouterr().out
    assert main(["clusters", "sites", "atlantis"]) == 2

    assert all(name in listed for name in NAMES)
    assert 'site = "archer2"' in shown and "20 min" in shown and "docs.archer2.ac.uk" in shown
    assert "no template for a site 'atlantis'" in capsys.readouterr().err
