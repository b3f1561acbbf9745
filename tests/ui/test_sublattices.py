"""Sublattices in the graph: stepped into, and out of."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.integration.world import open_gate
from tests.ui.conftest import PATIENCE_MS, PROGRAM, Site, faults_by_axe

expect.set_options(timeout=PATIENCE_MS)
Show = Callable[[str], Page]

GROWS = """
import sys
import hpcflow as hf

@hf.electron(executor="local")
def wait(gate):
    return open(gate).read()

@hf.electron(executor="local")
def step(x):
    return x

@hf.electron(executor="local")
@hf.lattice
def built(text):
    return [step(text), step(text)]

@hf.lattice
def grows(gate):
    return built(wait(gate))

print(hf.dispatch(grows)(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def nested(site: Site) -> str:
    """Return the id of a dispatch with sublattices that has ended."""
    dispatch = site.user.runs(PROGRAM, "nested", "4")
    site.user.waits_for(dispatch)
    return dispatch


def test_what_is_dispatched_again_is_counted_as_the_command_line_counts_it(show: Show, nested: str, site: Site) -> None:
    page = show(f"/d/{nested}")
    page.get_by_role("button", name="Redispatch").click()
    dialog = page.get_by_role("dialog")
    summary = site.user.asks("show", nested)
    assert (summary["tasks"], summary["counts"]["completed"]) == (12, 8)
    expect(dialog).to_contain_text("12 tasks with the same functions and arguments")
    expect(dialog).to_contain_text("3 of the lattice itself, and 9 in its sublattices, which are built anew")
    expect(dialog).to_contain_text("take over 8 results that it has, those in its sublattices among them")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)


def test_sublattices_are_stepped_into_and_the_way_back_is_shown(show: Show, site: Site, nested: str) -> None:
    page = show(f"/d/{nested}")
    # Three calls of the lattice itself, and what they built: 1 + 5 in the one, 3 in the other.
    expect(page.get_by_text("3 tasks in 3 groups, and 9 tasks in 3 sublattices")).to_be_visible()
    tree = page.get_by_role("tree")
    expect(tree.get_by_role("treeitem")).to_have_count(3)
    tree.get_by_text("middle").click()
    page.get_by_label("Group middle").get_by_role("link", name="Step into 1 task").click()
    assert "in=" in page.url
    crumbs = page.get_by_role("navigation", name="Sublattices")
    expect(crumbs).to_have_text(re.compile(r"^nested / middle \d+$"))
    # On with the keyboard: into what is there, and out of it again. Keys find what is laid out.
    expect(tree.get_by_role("treeitem")).to_have_count(1)
    page.get_by_role("group", name="Graph").focus()
    page.keyboard.press("s")
    expect(crumbs).to_have_text(re.compile(r"^nested / middle \d+ / inner \d+$"))
    expect(page.get_by_text("5 tasks in 2 groups", exact=True)).to_be_visible()
    assert faults_by_axe(page) == []
    tree.get_by_text("relax").click()
    failed = page.get_by_label("Group relax").get_by_role("listitem").filter(has=page.get_by_role("link")).first
    expect(failed).to_contain_text("failed")
    # What is tried again is named by its number in the whole dispatch.
    number = int(failed.get_by_role("link").inner_text().removeprefix("task "))
    page.get_by_label("Group relax").get_by_role("button", name="Retry 1 failed").click()
    page.get_by_role("dialog").get_by_role("button", name="Retry").click()
    with page.expect_request("**/retry") as asked:
        page.get_by_role("button", name="Now", exact=True).click()
    assert json.loads(asked.value.post_data or "")["tasks"] == [number]
    expect(page.get_by_text(re.compile("tasks? to run again"))).to_be_visible()
    site.user.waits_for(nested)
    page.get_by_label("Group relax").get_by_role("link", name=f"task {number}", exact=True).click()
    expect(page.locator(".notice").first).to_contain_text("no convergence after 3 steps")
    page.go_back()
    expect(tree.get_by_role("treeitem")).to_have_count(2)
    page.get_by_role("group", name="Graph").focus()
    page.keyboard.press("u")
    expect(crumbs).to_have_text(re.compile(r"^nested / middle \d+$"))
    crumbs.get_by_role("link", name="nested").click()
    expect(page.get_by_text("3 tasks in 3 groups, and")).to_be_visible()


def test_a_sublattice_has_an_address_of_its_own(show: Show, nested: str) -> None:
    page = show(f"/d/{nested}")
    page.get_by_role("group", name="Graph").focus()
    page.keyboard.press("s")
    page.wait_for_url(re.compile(r"in=\w{26}"))
    child = page.url.rpartition("in=")[2]
    show(f"/d/{child}")
    page.wait_for_url(re.compile(rf"/d/{nested}\?in={child}"))
    expect(page.get_by_role("navigation", name="Sublattices")).to_be_visible()


def test_what_a_sublattice_builds_is_seen_as_soon_as_it_is_there(show: Show, site: Site) -> None:
    gate = site.user.folder / "grows"
    os.mkfifo(gate)
    dispatch = site.user.runs(GROWS, str(gate))
    page = show(f"/d/{dispatch}")
    expect(page.get_by_text("2 tasks in 2 groups", exact=True)).to_be_visible()
    open_gate(gate)
    expect(page.get_by_text("2 tasks in 2 groups, and 2 tasks in 1 sublattice")).to_be_visible()
    expect(page.locator(".title-line")).to_contain_text("completed")
