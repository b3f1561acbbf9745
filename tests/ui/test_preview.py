"""A lattice that is drawn is seen on the page before anybody dispatches it."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import BrowserContext, expect

from tests.ui.conftest import PROGRAM, Site

DRAWING = PROGRAM.partition("print(hf.dispatch")[0] + "print(screening.draw(10))\n"


def test_draw_opens_a_preview_with_the_graph_and_what_each_electron_asks_for(
    context: BrowserContext, site: Site
) -> None:
    browser = site.user.folder / "browser"
    browser.write_text('#!/bin/sh\nprintf %s "$1" > "$0.url"\n')
    browser.chmod(0o700)
    before = [each["id"] for each in site.user.asks("dispatches")]
    drawn = site.user.tries(DRAWING, BROWSER=str(browser))
    link = Path(f"{browser}.url").read_text()
    assert drawn.stdout.startswith("flowchart TD")
    assert f"The graph is drawn at {link}" in drawn.stderr

    tab = context.new_page()
    tab.goto(link)
    expect(tab.get_by_role("heading", level=1)).to_have_text("screening")
    expect(tab.get_by_text("12 tasks in 3 groups")).to_be_visible()
    expect(tab.get_by_role("treeitem")).to_have_count(3)
    tab.get_by_role("treeitem").filter(has_text="relax").click()
    panel = tab.get_by_label("Group relax")
    expect(panel).to_contain_text("245 MiB")
    expect(panel).to_contain_text("10 min")
    panel.get_by_role("link", name="Open as table").click()
    rows = tab.get_by_label("Electrons").get_by_role("row")
    expect(rows).to_have_count(2)
    expect(rows.nth(1)).to_contain_text("relax10local")
    assert [each["id"] for each in site.user.asks("dispatches")] == before

    tab.goto(f"{tab.url.partition('#')[0]}#/preview/01JD0000000000000000000009")
    expect(tab.get_by_role("alert")).to_contain_text("Call draw() again.")
