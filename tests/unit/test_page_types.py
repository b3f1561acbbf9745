"""The types that the page is checked with are those of the API as it is."""

from __future__ import annotations

from pathlib import Path

from tests.ui.openapi import written

UI = Path(__file__).parents[2] / "ui"


def test_the_written_description_is_that_of_the_routes() -> None:
    said = (UI / "openapi.json").read_text("utf-8")
    assert said == written(), "the API has changed: run tools/ui-types"


def test_the_lock_of_the_page_names_no_host() -> None:
    lock = (UI / "package-lock.json").read_text()
    assert '"integrity"' in lock
    assert '"resolved"' not in lock
    assert "http://" not in lock
