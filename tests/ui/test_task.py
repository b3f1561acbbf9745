"""A task on the page: what it writes while it runs, what it took and returned, and what may be done about it."""

from __future__ import annotations

import os
from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.integration.world import open_gate, until
from tests.ui.conftest import PATIENCE_MS, Site

expect.set_options(timeout=PATIENCE_MS)
Show = Callable[[str], Page]

TALKS = """
import sys
import hpcflow as hf

@hf.electron(executor="local")
def talk(gate, more):
    print("\\x1b[31mbegun\\x1b[0m <b>here</b>", flush=True)
    open(gate).close()
    for line in range(more):
        print("line", line, "of many", flush=line % 100 == 0)
    open(gate).close()
    print("a line without an end " * 20_000, file=sys.stderr)

@hf.lattice
def talks(gate, more):
    return talk(gate, more)

print(hf.dispatch(talks)(sys.argv[1], 30_000))
"""


def test_what_a_task_writes_is_seen_while_it_runs_found_in_all_of_it_and_kept(show: Show, site: Site) -> None:
    gate = site.user.folder / "talks"
    os.mkfifo(gate)
    dispatch = site.user.runs(TALKS, str(gate))
    until(lambda: site.user.asks("show", dispatch)["counts"].get("running"))
    page = show(f"/d/{dispatch}?view=logs")
    output = page.get_by_role("region", name="Standard output")
    expect(output).to_have_text("begun <b>here</b>\n")
    expect(output.locator(".ansi-1")).to_have_text("begun")
    page.get_by_role("link", name="talk 0").click()
    expect(output).to_have_text("begun <b>here</b>\n")
    open_gate(gate)
    expect(output.locator(".log-line").last).to_have_text("line 29999 of many\n")
    expect(page.get_by_role("button", name="Following").first).to_have_attribute("aria-pressed", "true")
    find = page.get_by_role("searchbox", name="Find in standard output")
    find.fill("LINE 17 OF")
    find.press("Enter")
    found = page.get_by_role("list", name="Found in standard output")
    expect(found).to_contain_text("line 17 of many")
    found.get_by_role("button").first.click()
    assert "stream=stdout" in page.url
    expect(output.locator(".log-mark")).to_have_text("line 17 of many\n")
    page.get_by_role("button", name="To the end").click()
    open_gate(gate)
    expect(page.locator(".title-line")).to_contain_text("completed")
    expect(output.locator(".log-line").last).to_have_text("line 29999 of many\n")
    expect(page.get_by_role("region", name="Standard error")).to_contain_text("characters more")
    with page.expect_download() as saved:
        page.get_by_role("button", name="Download").last.click()
    text = saved.value.path().read_text()
    assert text.count("\n") == 30_001
    assert text.endswith("line 29999 of many\n")
