"""What can be done from the page: tried again, dispatched again, cancelled and deleted, each with second thoughts."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from playwright.sync_api import BrowserContext, Page, expect

from tests.integration.world import until
from tests.ui.conftest import PATIENCE_MS, PROGRAM, Site, faults_by_axe

expect.set_options(timeout=PATIENCE_MS)
Show = Callable[[str], Page]

ODD = (
    "<img src=x onerror=alert(1)> [31mred \N{TEST TUBE} \N{RIGHT-TO-LEFT OVERRIDE}gnihtemos"
    " \N{HEBREW LETTER SHIN}\N{HEBREW LETTER LAMED} " + "long " * 800
)

OTHERS = """
import sys
import hpcflow as hf

@hf.electron(executor="local", memory="64 MB")
def hungry():
    print("before", flush=True)
    import time
    kept = []
    for _ in range(25):  # so slowly that it is seen not long after it is too much
        kept.append(bytearray(16 * 2**20))
        time.sleep(0.05)
    time.sleep(3)

@hf.electron(executor="local")
def wait(gate):
    open(gate).close()

@hf.lattice
def starving():
    return hungry()

@hf.electron(executor="local")
def after(first, second):
    return first

@hf.lattice
def doomed(gate):
    return wait(gate)

@hf.electron(executor="local")
def fails():
    raise ValueError("no convergence")

@hf.lattice
def parted(gate):
    return after(fails(), wait(gate))

def odd():
    name = sys.argv[2]
    def call(x):
        print(x)
        raise ValueError(x)
    def flow():
        return electron(name)
    call.__name__ = call.__qualname__ = flow.__name__ = flow.__qualname__ = name
    electron = hf.electron(call, executor="local")
    return hf.lattice(flow)

what = sys.argv[1]
lattice = {"starving": starving, "doomed": doomed, "parted": parted}.get(what) or odd()
print(hf.dispatch(lattice)(*sys.argv[2:] if what in {"doomed", "parted"} else ()))
"""


def test_a_task_that_was_too_large_is_tried_again_with_more_and_the_dispatch_as_a_whole_once_more(
    show: Show, site: Site
) -> None:
    dispatch = site.user.runs(OTHERS, "starving")
    site.user.waits_for(dispatch)
    page = show(f"/d/{dispatch}/e/0")
    expect(page.locator(".notice").first).to_contain_text("used up the 62 MiB of memory that it asked for")
    first = page.get_by_role("button", name=re.compile(r"^Retry with \d+ MiB$"))
    amount = first.inner_text().removeprefix("Retry with ")
    # The same amount wherever one looks, and before anything else.
    expect(page.locator(".notice").first).to_contain_text(f"Ask for {amount}")
    assert f"ask for {amount} instead of 62 MiB" in site.user.asks("show", dispatch)["hint"]
    for screen, group in (
        (f"/d/{dispatch}?view=table", page),
        (f"/d/{dispatch}?group=0", page.get_by_label("Group hungry")),
    ):
        show(screen)
        group.get_by_role("button", name=f"Retry 1 failed, with {amount}").last.click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text(f"{amount} of memory instead of 62 MiB for 1 of hungry")
        expect(dialog.get_by_role("radio", name="more of what 1 task ran out of:")).to_be_checked()
        expect(dialog.get_by_role("radio", name="as it was")).not_to_be_checked()
        expect(dialog.get_by_label("Memory of each")).to_have_count(0)
        dialog.get_by_role("radio", name="another amount").check()
        # What no node has is told before anything is sent, beside what was typed.
        memory = dialog.get_by_label("Memory of each")
        memory.fill("200 TB")
        dialog.get_by_role("button", name="Retry").click()
        expect(memory).to_have_accessible_description(re.compile("asks for 181.9 TiB of memory .* there is at most"))
        expect(memory).to_have_value("200 TB")
        page.keyboard.press("Escape")
    show(f"/d/{dispatch}?view=logs")
    expect(page.get_by_role("list", name="Failures")).to_contain_text(f"hungry: Ask for {amount} instead of 62 MiB.")
    show(f"/d/{dispatch}/e/0")
    page.get_by_role("button", name="Retry with…").click()
    page.get_by_role("dialog").get_by_label("Walltime").fill("90 min")
    page.get_by_role("dialog").get_by_role("button", name="Retry").click()
    expect(page.get_by_text("Trying hungry 0 again, with 90 min, in 5 s.")).to_be_visible()
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_text("Taken back: nothing was sent.")).to_be_visible()
    page.get_by_role("button", name="Dismiss").click()
    page.get_by_role("button", name=re.compile(r"Retry with \d+ MiB")).click()
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_text("Taken back: nothing was sent.")).to_be_visible()
    page.get_by_role("button", name=re.compile(r"Retry with \d+ MiB")).click()
    page.get_by_role("button", name="Now", exact=True).click()
    expect(page.get_by_text("1 task to run again")).to_be_visible()
    site.user.waits_for(dispatch)
    expect(page.get_by_label("Facts")).to_contain_text("Attempts")
    task = site.user.asks("show", dispatch, "--task", "0")
    assert task["attempt"] == 2
    show(f"/d/{dispatch}?view=efficiency")
    rows = page.get_by_role("table", name="Electrons").get_by_role("row").filter(has_text="hungry")
    expect(rows.filter(has_text="asked 62 MiB")).to_have_count(1)
    expect(rows.filter(has_text="As above: one electron, one advice.")).to_have_count(1)
    show(f"/d/{dispatch}/e/0")
    page.get_by_role("link", name="← starving").click()
    told = f"Tried again by you: 1 task. 1 of hungry asks for {amount} of memory instead of 62 MiB."
    expect(page.locator(".dispatch-head")).to_contain_text(told)
    expect(page.locator(".dispatch-head")).to_contain_text(re.compile("began .+, ended "))
    page.get_by_role("button", name="Redispatch").click()
    expect(page.get_by_role("dialog")).to_contain_text("1 task with the same functions and arguments")
    page.get_by_role("dialog").get_by_role("button", name="Redispatch").click()
    expect(page.get_by_text("Dispatched again as")).to_be_visible()
    expect(page).not_to_have_url(re.compile(dispatch))
    expect(page.get_by_role("heading", level=1)).to_have_text("starving")
    again = page.url.partition("#/d/")[2][:26]
    assert again != dispatch
    site.user.hpcflow("cancel", again)


def test_a_skipped_task_names_all_that_holds_it_and_has_a_way_on(show: Show, site: Site) -> None:
    gate = site.user.folder / "parted"
    os.mkfifo(gate)
    dispatch = site.user.runs(OTHERS, "parted", str(gate))
    until(lambda: site.user.asks("show", dispatch)["counts"] == {"failed": 1, "running": 1, "skipped": 1})
    page = show(f"/d/{dispatch}?group=1")
    page.get_by_label("Group wait").get_by_role("button", name="Cancel 1 task").click()
    expect(page.get_by_role("dialog")).to_contain_text(re.compile(r"Job \S+ serves (no others|other tasks too)"))
    expect(page.get_by_role("dialog")).not_to_contain_text("will not run")  # what needs it is skipped already
    page.get_by_role("dialog").get_by_role("button", name="Cancel 1 task").click()
    page.get_by_role("button", name="Now", exact=True).click()
    site.user.waits_for(dispatch)
    show(f"/d/{dispatch}?view=table")
    page.get_by_role("button", name="Retry 1 failed").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("1 task stays skipped, because wait 1 was cancelled too.")
    dialog.get_by_role("radio", name="these, and 1 cancelled task").check()
    expect(dialog).to_contain_text("1 task that was skipped because of them runs as well.")
    # Some of them, with an amount of one's own: which are none is told beside what was typed.
    only = dialog.get_by_label("Only some of them")
    for numbers, wrong in (
        ("one", "are no tasks"),
        ("9", "has no task 9"),
        ("2", "None of them failed or was cancelled"),
    ):
        only.fill(numbers)
        dialog.get_by_role("button", name="Retry").click()
        expect(only).to_have_accessible_description(re.compile(wrong))
    only.fill("1")
    dialog.get_by_label("Walltime of each").fill("2 h")
    dialog.get_by_role("button", name="Retry").click()
    expect(page.get_by_text("Trying 1 task of parted again, with 2 h, in 5 s.")).to_be_visible()
    page.get_by_role("button", name="Undo").click()
    show(f"/d/{dispatch}/e/2")
    notice = page.locator(".notice").first
    expect(notice).to_contain_text("It runs when these have completed: fails 0 (failed), wait 1 (cancelled).")
    assert faults_by_axe(page) == []
    notice.get_by_role("button", name="Retry the 2 tasks that hold it").click()
    page.get_by_role("button", name="Now", exact=True).click()
    expect(page.get_by_text("3 tasks to run again")).to_be_visible()
    site.user.hpcflow("cancel", dispatch)


def test_several_dispatches_are_cancelled_and_deleted_by_name(show: Show, site: Site) -> None:
    gate = site.user.folder / "doomed"
    os.mkfifo(gate)
    live = site.user.runs(OTHERS, "doomed", str(gate))
    over = site.user.runs(PROGRAM, "fine", "2")
    site.user.waits_for(over)
    until(lambda: site.user.asks("show", live)["counts"].get("running"))
    page = show("/dispatches")
    for dispatch in (live, over):
        page.get_by_role("checkbox", name=re.compile(dispatch)).check()
    chosen = page.get_by_role("group", name="Chosen dispatches")
    expect(chosen).to_contain_text("2 dispatches chosen")
    assert faults_by_axe(page) == []
    chosen.get_by_role("button", name="Cancel 1 live").click()
    expect(page.get_by_role("dialog")).to_contain_text("doomed")
    expect(page.get_by_role("dialog")).to_contain_text("1 job")
    page.get_by_role("button", name="Cancel 1 dispatch").click()
    page.get_by_role("button", name="Now", exact=True).click()
    expect(page.get_by_text("Cancelled 1 task of 1 dispatch.")).to_be_visible()
    page.get_by_role("checkbox", name=re.compile(over)).check()
    chosen.get_by_role("button", name="Delete 1 ended").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Their results, logs and history go")
    dialog.get_by_role("button", name="Delete 1 dispatch").click()
    page.get_by_role("button", name="Now", exact=True).click()
    expect(page.get_by_text("1 dispatch deleted.")).to_be_visible()
    expect(page.locator(f'a[href$="#/d/{over}"]')).to_have_count(0)
    assert over not in site.user.dispatches()
    show(f"/d/{over}")
    expect(page.get_by_role("alert")).to_contain_text(f"There is no dispatch {over} here.")


def test_any_name_is_text_at_any_width(show: Show, site: Site) -> None:
    dispatch = site.user.runs(OTHERS, "odd", ODD)
    site.user.waits_for(dispatch)
    page = show("/dispatches")
    for width in (1280, 1241, 320):
        page.set_viewport_size({"width": width, "height": 800})
        for screen in ("/dispatches", f"/d/{dispatch}", f"/d/{dispatch}?view=table", f"/d/{dispatch}/e/0?tab=values"):
            show(screen)
            expect(page.get_by_text("<img src=x").first).to_be_visible()
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, (screen, wide)
        show("/dispatches")
        table = page.get_by_role("region", name="Dispatches")
        expect(table.get_by_role("link").first).to_be_visible()
        assert table.evaluate("(box) => box.scrollWidth - box.clientWidth") <= 0
    assert page.locator("img").count() == 0


def test_a_wrong_an_expired_and_a_missing_session_ask_for_a_link(context: BrowserContext, site: Site) -> None:
    base = site.link().partition("#")[0]
    for fragment in ("", "#" + "x" * 43, "#/dispatches"):
        tab = context.new_page()
        tab.goto(base + fragment)
        expect(tab.get_by_role("heading", name="Log in")).to_be_visible()
        expect(tab.get_by_role("main")).to_contain_text("hpcflow ui")
        tab.close()
    tab = context.new_page()
    tab.goto(site.link())
    expect(tab.get_by_role("heading", name="Now")).to_be_visible()
    context.clear_cookies()  # as after `hpcflow token rotate`, or a restart
    tab.get_by_role("link", name="Dispatches", exact=True).click()
    expect(tab.get_by_role("heading", name="Log in")).to_be_visible()
    tab.goto("about:blank")
    tab.goto(site.link())
    expect(tab.get_by_role("heading", name="Now")).to_be_visible()
