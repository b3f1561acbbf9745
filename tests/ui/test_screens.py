"""The page in a real browser, against the real server."""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Callable
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, Page, expect

from hpcflow.server.page import page_files
from tests.integration.world import open_gate, until
from tests.ui.conftest import PATIENCE_MS, PROGRAM, Site, faults_by_axe

expect.set_options(timeout=PATIENCE_MS)
Show = Callable[[str], Page]


def test_what_is_loaded_first_is_small() -> None:
    files = page_files()
    index = files["/"].read_text()
    entry = [files["/" + name] for name in re.findall(r"\./(assets/[^\"]+)", index)]
    assert sum(len(gzip.compress(path.read_bytes(), 9)) for path in entry) <= 180_000
    lazy = [path for name, path in files.items() if name.endswith(".js") and path not in entry]
    assert max(len(gzip.compress(path.read_bytes(), 9)) for path in lazy) <= 60_000


def test_the_first_view_is_small_also_when_it_is_a_graph(show: Show, site: Site) -> None:
    page = show(f"/d/{site.screening}")
    asked: set[str] = set()
    page.on("request", lambda request: asked.add(urlsplit(request.url).path))
    page.reload()
    expect(page.get_by_role("tree")).to_be_visible()
    files = page_files()
    loaded = {path for path in asked if path in files}
    assert {re.sub("-.*", "", name) for name in loaded} >= {"/", "/assets/index", "/assets/GraphView"}
    assert sum(len(gzip.compress(files[path].read_bytes(), 9)) for path in loaded) <= 250_000


def test_on_a_phone_the_current_page_is_seen_and_a_long_table_scrolls_by_itself(show: Show, site: Site) -> None:
    page = show("/settings")
    page.set_viewport_size({"width": 320, "height": 500})
    show("/clusters")
    expect(page.get_by_role("navigation").get_by_role("link", name="Clusters")).to_be_in_viewport(ratio=0.9)
    # Without an end of its own all rows of 10,000 tasks were made.
    show(f"/d/{site.screening}?view=table")
    table = page.get_by_role("region", name="Tasks")
    expect(table).to_be_visible()
    assert 0 < table.evaluate("table => table.clientHeight") <= 425


def test_a_button_can_be_read_under_the_pointer(show: Show, site: Site) -> None:
    button = show(f"/d/{site.screening}").get_by_role("button", name="Retry 2 failed")
    colours = "button => [getComputedStyle(button).color, getComputedStyle(button).backgroundColor]"
    before = button.evaluate(colours)
    button.hover()
    assert button.evaluate("button => button.matches(':hover')")
    button.evaluate("button => Promise.all(button.getAnimations().map((each) => each.finished))")
    assert button.evaluate(colours) == before


def test_a_link_logs_one_browser_in_once(context: BrowserContext, site: Site) -> None:
    link = site.link()
    tab = context.new_page()
    tab.goto(link)
    expect(tab.get_by_role("heading", name="Now")).to_be_visible()
    assert link.partition("#")[2] not in tab.url
    tab.get_by_role("button", name="Log out").click()
    expect(tab.get_by_role("heading", name="Log in")).to_be_visible()
    tab.goto("about:blank")
    tab.goto(link)
    expect(tab.get_by_role("heading", name="Log in")).to_be_visible()


def test_now_says_what_needs_somebody(page: Page, site: Site) -> None:
    for dispatch in site.user.asks("dispatches"):  # what a test has left that was skipped in its middle
        if dispatch["status"] == "RUNNING":
            site.user.hpcflow("cancel", dispatch["id"])
    expect(page.get_by_text("has 2 failed tasks, and 1 skipped because of them")).to_be_visible()
    expect(page.get_by_text("Nothing is live.")).to_be_visible()


def test_dispatches_are_found_sorted_and_kept_in_the_address(show: Show, site: Site) -> None:
    names = [dispatch["name"] for dispatch in site.user.asks("dispatches")]  # other tests' as well
    page = show("/dispatches")
    rows = page.get_by_role("row")
    expect(rows).to_have_count(len(names) + 1)
    page.get_by_role("searchbox").fill("scree")
    expect(page.get_by_text(f"{names.count('screening')} of {len(names)} dispatches")).to_be_visible()
    assert "q=scree" in page.url
    # Now shows an id's end.
    page.get_by_role("searchbox").fill(f"…{site.fine[-6:]}")
    expect(rows).to_have_count(2)
    expect(rows.nth(1)).to_contain_text(site.fine)
    show("/dispatches?status=COMPLETED")
    expect(page.get_by_role("link", name="fine").first).to_be_visible()
    expect(page.get_by_role("link", name="screening")).to_have_count(0)
    show("/dispatches")
    page.get_by_role("button", name="Lattice").click()
    expect(rows.nth(1)).to_contain_text(min(names, key=str.lower))
    assert "sort=name" in page.url
    page.get_by_role("link", name="screening").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("screening")


def test_a_dispatch_says_what_became_of_it_in_words(show: Show, site: Site) -> None:
    page = show(f"/d/{site.screening}?view=logs")
    head = page.locator(".dispatch-head")
    expect(head).to_contain_text("12 of 12 tasks ended")
    expect(head).to_contain_text("2 failed")
    expect(head).to_contain_text("core-seconds charged")
    expect(page.get_by_text("2 tasks: relax 4, relax 9")).to_be_visible()
    show(f"/d/{site.screening}?view=jobs")
    expect(page.get_by_role("table")).to_contain_text("local")


def test_the_table_of_tasks_is_searched_and_sorted(show: Show, site: Site) -> None:
    page = show(f"/d/{site.screening}?view=table")
    expect(page.get_by_role("table", name="Tasks")).to_have_attribute("aria-rowcount", "13")
    page.get_by_role("button", name="failed", exact=True).click()
    expect(page.get_by_text("2 of 12 tasks", exact=True)).to_be_visible()
    assert "state=failed" in page.url
    expect(page.get_by_role("row").nth(1)).to_contain_text("no convergence after 3 steps")
    page.get_by_role("button", name="failed", exact=True).click()
    page.get_by_role("button", name="Time").click()
    expect(page.get_by_role("columnheader", name="Time")).to_have_attribute("aria-sort", "descending")
    page.get_by_role("searchbox").fill("after 8")
    expect(page.get_by_text("1 of 12 tasks", exact=True)).to_be_visible()


def test_a_task_says_first_why_it_ended_and_shows_what_it_wrote_as_text(show: Show, site: Site) -> None:
    page = show(f"/d/{site.screening}/e/4")
    expect(page.locator(".notice").first).to_contain_text("ValueError: no convergence after 3 steps <script>")
    expect(page.get_by_label("Standard error", exact=True)).to_contain_text("warning: <b>loose</b> convergence")
    output = page.get_by_label("Standard output", exact=True)
    expect(output).to_have_text("relax step 3\n")
    expect(output.locator(".ansi-2")).to_have_text("relax")
    expect(page.get_by_label("Facts")).to_contain_text("Array index")
    expect(page.get_by_label("Facts")).to_contain_text("10 min")
    expect(page.get_by_label("Facts")).to_contain_text("skipped")
    page.get_by_role("link", name="Code").click()
    expect(page.get_by_label("the source of relax", exact=True)).to_contain_text("def relax(x):")
    assert page.title() == "relax 4 · hpcflow"


def test_what_is_not_there_is_told(show: Show, site: Site) -> None:
    page = show("/d/01JD0000000000000000000001")
    expect(page.get_by_role("alert")).to_contain_text("There is no dispatch 01JD0000000000000000000001 here")
    show(f"/d/{site.fine}/e/99")
    expect(page.get_by_role("alert")).to_contain_text("has no task 99")
    show("/nowhere")
    expect(page.get_by_role("heading", name="There is no such page")).to_be_visible()


def test_a_cluster_s_test_is_followed_step_by_step_to_its_end(show: Show) -> None:
    page = show("/clusters")
    page.get_by_role("button", name="Test").first.click()
    steps = page.get_by_label("The test of local").get_by_role("listitem")
    expect(steps.first).to_be_visible()
    expect(page.get_by_role("button", name="Testing…")).to_have_count(0, timeout=3 * PATIENCE_MS)
    said = steps.all_inner_texts()
    # How far it comes depends on what is on the server's PATH; a step that failed says why.
    assert any("work directory" in step for step in said), said
    assert [step for step in said if "running" in step.splitlines()[0]] == []
    assert [step for step in said if "failed" in step and len(step.splitlines()) < 2] == []


GATED = """
import sys
import hpcflow as hf

@hf.electron(executor="local")
def wait(gate):
    return open(gate).read()

@hf.lattice
def gated(gates):
    return [wait(gate) for gate in gates]

print(hf.dispatch(gated)(sys.argv[1:]))
"""


def begun(site: Site, name: str) -> str:
    """Dispatch a task that waits until somebody opens its gate, and wait until it runs; return the dispatch's id."""
    gate = site.user.folder / name
    os.mkfifo(gate)
    dispatch = site.user.runs(GATED, str(gate))
    until(lambda: site.user.asks("show", dispatch)["counts"].get("running"))
    return dispatch


def test_cancelling_names_the_tasks_may_be_taken_back_and_is_seen_at_once(show: Show, site: Site) -> None:
    dispatch = begun(site, "cancelled")
    page = show(f"/d/{dispatch}?view=table")
    expect(page.get_by_role("row").nth(1)).to_contain_text("running")
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.get_by_role("dialog")).to_contain_text("1 running, 0 waiting")
    page.get_by_role("button", name="Cancel 1 task").click()
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_text("Taken back: nothing was sent.")).to_be_visible()
    assert site.user.asks("show", dispatch)["status"] == "RUNNING"
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Cancel 1 task").click()
    page.get_by_role("button", name="Now").click()
    expect(page.get_by_text("Cancelled 1 task; what had ended keeps its result.")).to_be_visible()
    expect(page.get_by_role("row").nth(1)).to_contain_text("cancelled")
    expect(page.locator(".title-line")).to_contain_text("cancelled")
    # Nothing failed: the way on is offered, and not urged.
    expect(page.get_by_role("button", name="Retry 1 cancelled")).to_have_attribute("class", "button")


#: The buttons of the drawing that a message lies on.
HIDDEN_BY_TOASTS = """() => {
  const toast = document.querySelector(".toast").getBoundingClientRect();
  const under = (each) => {
    const box = each.getBoundingClientRect();
    return box.right > toast.left && box.left < toast.right && box.bottom > toast.top && box.top < toast.bottom;
  };
  return [...document.querySelectorAll(".zoom button")].filter(under).map((each) => each.outerHTML);
}"""


def test_a_dispatch_is_paused_and_resumed_and_comes_to_its_end_by_itself(show: Show, site: Site) -> None:
    dispatch = begun(site, "paused")
    page = show(f"/d/{dispatch}")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator(".notice")).to_contain_text("You paused it at")
    expect(page.locator(".toast")).to_be_visible()
    hidden = page.evaluate(HIDDEN_BY_TOASTS)
    assert hidden == []
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    open_gate(site.user.folder / "paused")
    expect(page.locator(".title-line")).to_contain_text("completed")
    expect(page.get_by_role("button", name="Pause")).to_have_count(0)


def test_what_failed_is_tried_again_with_more_memory(show: Show, site: Site) -> None:
    dispatch = site.user.runs(PROGRAM, "screening", "4")
    site.user.waits_for(dispatch)
    page = show(f"/d/{dispatch}?view=table")
    page.get_by_role("button", name="Retry 1 failed").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("1 task that was skipped because of it runs as well.")
    dialog.get_by_label("Memory").fill("lots")
    dialog.get_by_role("button", name="Retry").click()
    # The question stays, with what was typed and what is wrong with it.
    memory = dialog.get_by_label("Memory")
    expect(memory).to_be_focused()
    expect(memory).to_have_value("lots")
    expect(memory).to_have_accessible_description(re.compile("“lots” is no amount of memory"))
    page.go_back()
    expect(dialog).to_have_count(0)
    show(f"/d/{dispatch}?view=table")
    page.get_by_role("button", name="Retry 1 failed").click()
    dialog.get_by_label("Memory").fill("300 MB")
    dialog.get_by_role("button", name="Retry").click()
    page.get_by_role("button", name="Now", exact=True).click()
    asks = "hat had failed asks for 287 MiB of memory, what was skipped for what it had"
    expect(page.get_by_text(f"2 tasks to run again: w{asks}; results that exist are kept.")).to_be_visible()
    expect(page.locator(".dispatch-head")).to_contain_text(f"W{asks}.")
    site.user.waits_for(dispatch)
    show(f"/d/{dispatch}/e/4")
    expect(page.get_by_label("Facts")).to_contain_text("287 MiB")
    expect(page.get_by_label("Facts")).to_contain_text("Attempts")


def test_a_retry_of_failures_that_were_accepted_is_not_the_first_thing_to_do_and_says_what_it_does_not_reach(
    show: Show, site: Site
) -> None:
    dispatch = site.user.runs(PROGRAM, "tolerant", "4")
    site.user.waits_for(dispatch)
    page = show(f"/d/{dispatch}")
    button = page.locator(".title-line").get_by_role("button", name="Retry 1 failed")
    expect(button).to_have_class("button")
    button.click()
    expect(page.get_by_role("dialog")).to_contain_text("has its result, and does not run again to take the new one.")


def test_news_reach_every_tab_through_one_stream(context: BrowserContext, site: Site) -> None:
    streams: list[str] = []
    context.on("request", lambda request: streams.append(request.url) if "/events" in request.url else None)
    first = context.new_page()
    first.goto(site.link())
    expect(first.get_by_role("heading", name="Now")).to_be_visible()
    base = first.url.partition("#")[0]
    tabs = [context.new_page() for _ in range(7)]
    for tab in tabs:
        tab.goto(base + "#/dispatches")
        expect(tab.get_by_role("table", name="Dispatches")).to_be_visible()
    dispatch = site.user.runs(PROGRAM, "fine", "2")
    for tab in (first, tabs[-1]):
        expect(tab.get_by_role("link", name="fine").first).to_be_visible()
    expect(tabs[-1].locator(f'a[href$="#/d/{dispatch}"]')).to_be_visible()
    assert len(streams) == 1


def test_a_server_that_goes_is_told_and_what_was_there_stays(show: Show, site: Site) -> None:
    page = show("/dispatches")
    page.route("**/api/**", lambda route: route.abort())
    page.evaluate("dispatchEvent(new Event('offline'))")
    page.get_by_role("button", name="Lattice").click()
    expect(page.get_by_role("alert").first).to_contain_text("The hpcflow server does not answer.")
    page.unroute("**/api/**")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("link", name="fine").first).to_be_visible()
    expect(page.get_by_text("The hpcflow server does not answer.")).to_have_count(0)


def test_the_graph_has_a_group_for_each_electron_and_a_tree_with_the_same(show: Show, site: Site) -> None:
    page = show(f"/d/{site.screening}")
    tree = page.get_by_role("tree")
    expect(tree.get_by_role("treeitem")).to_have_count(3)
    expect(tree.get_by_role("treeitem", name="relax 2 failed 8 completed")).to_be_visible()
    expect(page.get_by_role("img", name="screening: 12 tasks in 3 groups, 2 failed")).to_be_visible()
    page.get_by_role("button", name="Failed 2").click()
    assert "lens=failed" in page.url
    tree.get_by_role("treeitem", name="prepare").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    expect(tree.get_by_role("treeitem", name="task 4 failed")).to_be_visible()
    page.keyboard.press("Enter")
    panel = page.get_by_label("Group relax")
    expect(panel).to_contain_text("10 tasks at depth 0")
    panel.get_by_role("link", name="task 9").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("relax task 9")


def test_the_graph_is_walked_with_the_keyboard(show: Show, site: Site) -> None:
    page = show(f"/d/{site.screening}")
    page.get_by_role("group", name="Graph").focus()
    page.keyboard.press("]")
    expect(page.get_by_label("Group relax")).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_label("Group collect")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_label("Group collect")).to_have_count(0)
    page.keyboard.press("]")
    page.keyboard.press("t")
    expect(page.get_by_text("10 of 12 tasks", exact=True)).to_be_visible()
    assert "name=relax" in page.url
    # The drawing that had the focus is gone: what comes next is the table's search field, and from there the first hit.
    page.keyboard.press("Tab")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.type("after 8 steps")
    page.keyboard.press("Enter")
    expect(page.get_by_role("region", name="Tasks").get_by_role("link", name="9", exact=True)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    # A single task is found in the graph too.
    show(f"/d/{site.screening}")
    page.get_by_role("searchbox").fill("relax 9")
    expect(page.get_by_role("button", name="Show relax 9")).to_be_visible()
    expect(page.get_by_text("1 found")).to_be_visible()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Group relax").get_by_role("link", name="relax 9")).to_be_visible()


def test_the_first_tab_skips_to_the_content(page: Page) -> None:
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("to the search field")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_axe_finds_nothing_on_any_screen_or_dialog_in_light_and_on_a_small_one_in_the_dark(
    show: Show, site: Site
) -> None:
    page = show("/")
    failed = f"/d/{site.screening}"
    views = ("table", "timeline", "logs", "jobs", "efficiency")
    tasks = ("4", "4?tab=code", "1?tab=values")
    screens = ["/dispatches", failed, f"{failed}?group=1", "/clusters", "/queue/local", "/efficiency", "/settings"]
    screens += [f"{failed}?view={view}" for view in views] + [f"{failed}/e/{task}" for task in tasks]
    screens += ["/logs", "/nowhere", "/d/none"]
    dialogs = {"/": "Keys and help", f"{failed}?lens=failed": "Retry 2 failed", f"{failed}?": "Redispatch"}
    found: dict[str, list[str]] = {}
    for screen, button in (dict.fromkeys(screens, "") | dialogs).items():
        show(screen)
        expect(page.locator(".loading")).to_have_count(0)
        if button:
            page.get_by_role("button", name=button).click()
            expect(page.get_by_role("dialog")).to_be_visible()
        page.emulate_media(color_scheme="light")
        found[screen] = faults_by_axe(page)
        # In the dark the colours are others, and on a small screen what is shown.
        page.emulate_media(color_scheme="dark")
        page.set_viewport_size({"width": 320, "height": 640})
        found[f"{screen} on a small screen"] = faults_by_axe(page)
        if button:
            page.keyboard.press("Escape")
        page.set_viewport_size({"width": 1280, "height": 900})
    assert "\n".join(f"{screen} {fault}" for screen, faults in found.items() for fault in faults) == ""


def test_the_queue_of_a_cluster_says_what_waits_and_why(show: Show, site: Site) -> None:
    dispatch = begun(site, "queued")
    page = show("/queue/local")
    table = page.get_by_role("table", name="Jobs")
    expect(table.get_by_role("row").nth(1)).to_contain_text("running")
    expect(page.get_by_role("table").first).to_contain_text("local")
    # Nothing of it is lost on a smaller screen: it is on a second line, and no column is cut off.
    page.set_viewport_size({"width": 768, "height": 900})
    expect(table.get_by_text(re.compile("^you, 1 core"))).to_be_visible()
    assert page.get_by_role("region", name="Jobs").evaluate("(element) => element.scrollWidth <= element.clientWidth")
    table.locator(f'a[href$="#/d/{dispatch}"]:visible').click()
    expect(page.get_by_role("heading", level=1)).to_have_text("gated")
    open_gate(site.user.folder / "queued")
    expect(page.locator(".title-line")).to_contain_text("completed")
