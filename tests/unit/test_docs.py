"""The reference pages name what the code has, no more and no less."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from hpcflow.cli import main
from hpcflow.sdk.options import LatticeOptions
from hpcflow.server.settings import ClusterSettings, Settings
from hpcflow.server.site import SiteRules
from tests.unit.served import served

DOCS = Path(__file__).parents[2] / "docs"


def rows(page: str, begin: str = "", end: str = "") -> list[list[str]]:
    """Return the cells of the page's tables between two marks."""
    text = (DOCS / page).read_text()
    text = text[text.index(begin) :]
    text = text[: text.index(end, 1)] if end else text
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def codes(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_the_page_names_every_setting_with_its_default() -> None:
    written = {codes(row[0])[0]: row[1].strip("`") for row in rows(CONFIGURATION, "settings: begin", "settings: end")}
    assert written == {
        name: f"{field.default:g}"
        if isinstance(field.default, float)
        else "empty"
        if field.default in ("", ())
        else str(field.default)
        for name, field in Settings.model_fields.items()
    }


def test_the_page_names_every_key_of_a_cluster() -> None:
    written = [name for row in rows(CONFIGURATION, "clusters: begin", "clusters: end") for name in codes(row[0])]
    assert sorted(written) == sorted(ClusterSettings.model_fields)


def test_the_page_names_every_rule_of_a_site_and_the_example_has_them_all() -> None:
    written = [name for row in rows(CONFIGURATION, "site: begin", "site: end") for name in codes(row[0])]
    assert written == list(SiteRules.model_fields)
    page = (DOCS / "howto/for-admins.md").read_text()
    example = tomllib.loads(page.split("```toml\n")[1].split("```")[0])
    assert sorted(SiteRules.model_validate(example).model_fields_set) == sorted(SiteRules.model_fields)


def test_the_page_names_every_annotation() -> None:
    assert [codes(row[0])[0] for row in rows("reference/resources.md")] == list(LatticeOptions.__annotations__)


def test_the_page_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    commands = re.findall(r"^    (\w+)(?:  .*)?$", capsys.readouterr().out, re.MULTILINE)
    written = {codes(row[0])[0].split()[1] for row in rows("reference/cli.md") if row[0].startswith("`hpcflow")}
    assert written == set(commands) - {"COMMAND"}


def test_the_page_names_every_request(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        described = server.ask("GET", "/api/v1/openapi.json").json["paths"]
    known = {
        f"{method.upper()} {path.removeprefix('/api/v1')}"
        for path, methods in described.items()
        for method in methods
        if path.startswith("/api/v1")
    }
    assert {codes(row[0])[0] for row in rows("reference/api.md")} == known


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: str(page.relative_to(DOCS)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_list_of_the_first_page_names_every_page() -> None:
    named = set(re.findall(r"\]\(([^)#:]+\.md)\)", (DOCS / "index.md").read_text())) | {"index.md"}
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert pages - named == {page for page in pages if page.startswith("adr/")}


CONFIGURATION = "reference/configuration.md"
