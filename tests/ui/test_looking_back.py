"""Timeline, efficiency, settings and the server's log, in a real browser against the real server."""

from __future__ import annotations

import re
from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.ui.conftest import PATIENCE_MS, PROGRAM, Site

expect.set_options(timeout=PATIENCE_MS)
Show = Callable[[str], Page]


def test_a_timeline_has_a_lane_for_each_worker_and_the_table_the_same(show: Show, site: Site) -> None:
    page = show(f"/d/{site.screening}")
    page.get_by_role("link", name="Timeline").click()
    canvas = page.get_by_role("img", name=re.compile(r"^\d+ workers? from "))
    expect(canvas).to_have_attribute("data-drawn", re.compile(r"\d+"))
    # Eleven tasks ran; the twelfth was skipped.
    expect(page.get_by_text(re.compile(r"^11 attempts in \d+ workers?\."))).to_be_visible()
    table = page.get_by_role("table", name="Workers")
    expect(table).to_contain_text("lost")
    lanes = int(table.get_attribute("aria-rowcount") or 0) - 1
    expect(table.locator("tbody tr")).to_have_count(lanes)
    table.get_by_role("button", name="Attempts").click()
    expect(table.get_by_role("columnheader", name="Attempts")).to_have_attribute("aria-sort", "descending")


def test_a_timeline_is_zoomed_with_the_keyboard_and_the_address_says_where(show: Show, site: Site) -> None:
    page = show(f"/d/{site.screening}?view=timeline")
    lanes = page.get_by_role("region", name="Timeline.")
    lanes.focus()
    for key in ("+", "+", "+", "ArrowRight"):
        page.keyboard.press(key)
    page.wait_for_url(re.compile(r"from=.*to="))
    where = page.url
    page.goto("about:blank")
    page.goto(where)
    expect(page.locator("canvas[data-drawn]")).to_be_visible()
    assert page.url == where
    page.get_by_role("region", name="Timeline.").focus()
    page.keyboard.press("0")
    page.wait_for_url(re.compile(r"view=timeline$"))


def test_a_bar_of_a_timeline_leads_to_its_task(show: Show, site: Site) -> None:
    page = show(f"/d/{site.screening}?view=timeline")
    canvas = page.locator("canvas[data-drawn]")
    box = canvas.bounding_box()
    assert box is not None
    told = page.locator(".timeline-told")
    # In one of the lanes lies a bar wide enough: the pointer looks for it, as a hand does.
    for spot in range(120):
        row, step = spot % 2, spot // 2
        page.mouse.click(box["x"] + 172 + step * (box["width"] - 180) / 60, box["y"] + 66 + 18 * row + 9)
        if told.get_by_role("link").count():
            break
    link = told.get_by_role("link")
    expect(link).to_be_visible()
    link.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("task")


def test_efficiency_says_what_was_asked_and_used_and_what_to_ask(show: Show, site: Site) -> None:
    page = show(f"/d/{site.screening}?view=efficiency")
    expect(page.get_by_role("img", name=re.compile(r"^Of .* charged: .*a task was running"))).to_be_visible()
    relax = page.get_by_role("table", name="Electrons").get_by_role("row").filter(has_text="relax")
    expect(relax).to_contain_text("2 lost")
    expect(relax).to_contain_text("of 10 min")
    expect(relax).to_contain_text('walltime="1 min"')
    expect(relax).to_contain_text(re.compile("The longest of 8 took .* 50 % are added, in whole minutes"))
    expect(relax.get_by_role("button", name="Copy what relax had better ask")).to_be_visible()
    show("/efficiency?days=7")
    expect(page.get_by_role("button", name="7 days")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("table", name="Electrons")).to_contain_text("relax")
    page.get_by_role("region", name="Costly dispatches").get_by_role("link", name="screening").first.click()
    expect(page.get_by_role("table", name="Electrons")).to_be_visible()


def test_settings_say_what_holds_and_who_said_so(show: Show, site: Site) -> None:
    page = show("/settings")
    page.get_by_role("searchbox").fill("queue_poll")
    row = page.get_by_role("region", name="Settings", exact=True).get_by_role("row").nth(1)
    expect(row).to_contain_text("How often a cluster's queue is looked at")
    assert "q=queue_poll" in page.url
    expect(row).to_contain_text("500 ms")
    expect(row.locator("[title='queue_poll = 0.5']")).to_have_count(1)
    page.get_by_role("searchbox").fill("ramp_width")
    expect(page.get_by_role("region", name="Settings", exact=True).locator("code").first).to_have_text("ramp_after")
    assert "`" not in page.get_by_role("main").inner_text()
    show("/settings?set=true")
    for row in page.get_by_role("region", name="Settings", exact=True).get_by_role("row").all()[1:]:
        expect(row).to_contain_text(re.compile(r"HPCFLOW_|config\.toml"))


def test_the_server_s_log_is_followed_and_searched(show: Show, site: Site) -> None:
    page = show("/logs")
    # Narrow enough that entries take several lines each, and low enough that they don't all fit.
    page.set_viewport_size({"width": 660, "height": 420})
    entries = page.get_by_role("list", name="Entries").get_by_role("listitem")
    expect(entries.filter(has_text="serves").first).to_be_visible()
    dispatch = site.user.runs(PROGRAM, "fine", "1")
    expect(entries.filter(has_text=f"{dispatch}: COMPLETED")).to_be_visible()
    to_the_end = "box => box.scrollHeight - box.scrollTop - box.clientHeight"
    assert page.get_by_role("list", name="Entries").evaluate(to_the_end) < 2
    page.get_by_role("searchbox").fill(dispatch)
    expect(page.locator("mark").first).to_have_text(dispatch)
    expect(entries.filter(has_text="serves")).to_have_count(0)
    page.get_by_role("button", name="Errors", exact=True).click()
    expect(page.get_by_text("No entry fits.")).to_be_visible()
    assert "level=ERROR" in page.url
