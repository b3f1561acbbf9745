"""The types that the page is checked with are those of the API as it is."""

from __future__ import annotations

import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.version import Version

from tests.ui.openapi import described, written

UI = Path(__file__).parents[2] / "ui"


def _is_older(package: str) -> bool:
    """Return whether an older release is installed than the one that the description was written with."""
    locked = {each["name"]: each["version"] for each in tomllib.loads((UI.parent / "uv.lock").read_text())["package"]}
    return Version(version(package)) < Version(locked[package])


@pytest.mark.skipif(
    _is_older("pydantic") or _is_older("fastapi"), reason="older releases describe the same routes in other words"
)
def test_the_written_description_is_that_of_the_routes() -> None:
    said = (UI / "openapi.json").read_text("utf-8")
    assert said == written(), "the API has changed: run tools/ui-types"


def test_the_lock_of_the_page_names_no_host() -> None:
    lock = (UI / "package-lock.json").read_text()
    assert '"integrity"' in lock
    assert '"resolved"' not in lock
    assert "http://" not in lock


def test_a_login_that_is_refused_is_described() -> None:
    for path in ("/login", "/logout", "/healthz"):
        for operation in described()["paths"][path].values():
            refused = {code for code in operation["responses"] if code.startswith("4")}
            assert (
                refused
                == {
                    "/login": {"400", "401", "403", "404", "411", "413", "415", "422"},
                    "/logout": {"400", "401", "403", "409", "411", "413", "415"},
                    "/healthz": {"400", "403"},
                }[path]
            )
