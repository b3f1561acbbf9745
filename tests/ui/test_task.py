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


VALUES = """
import hpcflow as hf

class Loop:
    def __repr__(self):
        while True:
            pass

class Crystal:
    def __repr__(self):
        return "Crystal(<b>NaCl</b>)"

@hf.electron(executor="local")
def build(kind, size=3):
    return Crystal() if kind == "good" else Loop()

@hf.electron(executor="local")
def table(crystal):
    return {"energies": [-1.5, 2.25], "name": "\\x1b[31m\\u202eodd"}

@hf.lattice
def values():
    return table(build("good", size=7)), build("bad")

print(hf.dispatch(values)())
"""


def test_what_a_task_took_and_returned_is_shown_as_text_and_a_repr_that_loops_hurts_nobody(
    show: Show, site: Site
) -> None:
    dispatch = site.user.runs(VALUES)
    assert site.user.waits_for(dispatch)["status"] == "COMPLETED"
    page = show(f"/d/{dispatch}/e/0?tab=values")
    inputs = page.get_by_role("list", name="Inputs")
    expect(inputs.get_by_role("listitem").nth(0)).to_contain_text("kind")
    expect(inputs.get_by_role("listitem").nth(0)).to_contain_text("str · 4 characters")
    expect(inputs.get_by_role("listitem").nth(1)).to_contain_text("7")
    expect(page.get_by_label("Text of the result")).to_have_text("Crystal(<b>NaCl</b>)")
    show(f"/d/{dispatch}/e/1")
    expect(page.get_by_label("Result", exact=True)).to_contain_text("2 items")
    expect(page.get_by_label("Text of the result")).to_contain_text("'energies': [-1.5, 2.25]")
    expect(page.get_by_label("Text of the result")).to_contain_text(r"\x1b[31m\u202eodd")
    page.get_by_role("link", name="Inputs and result").click()
    expect(inputs).to_contain_text("__main__.Crystal")
    expect(inputs).to_contain_text("Only its type is known")
    show(f"/d/{dispatch}/e/2")
    expect(page.get_by_label("Result", exact=True)).to_contain_text("It cannot be previewed: its repr did not come")
