"""The page on a real scheduler, as a new user would try it, without a mouse."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.cluster.conftest import Login, own_login
from tests.integration.world import until
from tests.ui.conftest import PATIENCE_MS

__all__ = ["own_login"]

pytestmark = pytest.mark.cluster

expect.set_options(timeout=PATIENCE_MS)

PROGRAM = """
import os, sys
import hpcflow as hf

@hf.electron(executor="slurm", memory="100 MB")
def relax(x, mended):
    if x == 1 and not os.path.exists(mended):
        raise ValueError("no convergence")
    return x

@hf.electron(executor="slurm", memory="100 MB", extra=["--begin=now+1hour"])
def tomorrow(x):
    return x

@hf.lattice
def study(mended):
    return [relax(k, mended) for k in range(3)], tomorrow(1)

print(hf.dispatch(study)(sys.argv[1]))
"""


def tab_to(page: Page, role: str, name: str) -> None:
    """Press Tab until the focus is on something, as somebody does who has no mouse."""
    wanted = page.get_by_role(role, name=name, exact=role == "button").first  # type: ignore[arg-type]  # any role of ARIA
    expect(wanted).to_be_visible()
    for _ in range(80):
        page.keyboard.press("Tab")
        if wanted.evaluate("(element) => element === document.activeElement"):
            return
    raise AssertionError(f"no Tab leads to {role} {name!r}")


def test_why_a_task_waits_is_found_and_what_failed_is_retried_without_a_mouse(
    own_login: Callable[..., Login],
    context: BrowserContext,
) -> None:
    login = own_login()
    mended = login.user.folder / "mended"
    dispatch = login.user.runs(PROGRAM, str(mended))
    page = context.new_page()
    page.goto(str(login.user.asks("ui")["url"]))
    expect(page.get_by_role("heading", name="Now")).to_be_visible()
    tab_to(page, "link", "study")
    page.keyboard.press("Enter")
    expect(page.locator(".dispatch-head")).to_contain_text("1 failed", timeout=3 * PATIENCE_MS)
    (job,) = {task.partition("_")[0] for task, _ in until(lambda: login.queue(dispatch))}
    # Why it waits: on the dispatch, in plain words with Slurm's own beside.
    words = re.compile(r"[Hh]as an earliest time to begin, which has not come yet")
    tab_to(page, "link", "Jobs")
    page.keyboard.press("Enter")
    row = page.get_by_role("row").filter(has_text=words)
    expect(row.get_by_role("cell").first).to_contain_text(job, timeout=3 * PATIENCE_MS)
    expect(row).to_contain_text("BeginTime")
    # For what it works, where the queue has it, when it is to start, and why it asks for so much time.
    expect(row.get_by_role("link", name="tomorrow")).to_be_visible()
    # The queue is looked at every 30 s.
    expect(row).to_contain_text("1 pending", timeout=3 * PATIENCE_MS)
    expect(row).to_contain_text(re.compile(r"not before .*\d\d:\d\d .+, in "))
    expect(page.locator(".screen")).to_contain_text("because its tasks name no walltime")
    # An array of which a task failed is no success.
    over = page.get_by_role("row").filter(has=page.get_by_role("link", name="relax"))
    expect(over).to_contain_text(re.compile("1 failed, 2 completed"), timeout=3 * PATIENCE_MS)
    # And in the queue, beside the workflow, with when it is to start and who says so.
    tab_to(page, "link", "slurm")
    page.keyboard.press("Enter")
    queued = page.get_by_role("table", name="Jobs").get_by_role("row").filter(has_text=re.compile(rf"^{job}_"))
    expect(queued).to_contain_text(words)
    expect(queued).to_contain_text("not before ")
    tab_to(page, "link", "tomorrow")
    page.keyboard.press("Enter")
    # The group and the task say it as well, with the job that is to run it.
    page.get_by_role("treeitem").filter(has_text="tomorrow").first.click()
    panel = page.get_by_role("region", name="Why it waits")
    expect(panel).to_contain_text(words)
    expect(panel).to_contain_text("1 job array, 1 array task")
    page.get_by_role("complementary", name="Group tomorrow").get_by_role("link", name="task 3").click()
    expect(page.locator(".notice")).to_contain_text(
        re.compile(r"Starts not before .*\d\d:\d\d .+, in .*\(its begin time\)")
    )
    expect(page.get_by_role("complementary", name="Facts").get_by_role("link", name=job)).to_be_visible()
    page.go_back()
    # What failed, and once more when that is mended.
    tab_to(page, "link", "Table")
    page.keyboard.press("Enter")
    failed = page.get_by_role("row").filter(has_text="no convergence")
    expect(failed).to_contain_text(re.compile(r"\d+_\d+"))
    mended.touch()
    page.keyboard.press("Shift+Tab")
    tab_to(page, "button", "Retry 1 failed")
    page.keyboard.press("Enter")
    tab_to(page, "button", "Retry")
    page.keyboard.press("Enter")
    tab_to(page, "button", "Now")
    page.keyboard.press("Enter")
    expect(page.get_by_text(re.compile(r"^1 task to run again"))).to_be_visible()
    expect(page.locator(".dispatch-head")).to_contain_text("3 completed", timeout=3 * PATIENCE_MS)
    tab_to(page, "button", "Cancel")
    page.keyboard.press("Enter")
    tab_to(page, "button", "Cancel 1 task")
    page.keyboard.press("Enter")
    tab_to(page, "button", "Now")
    page.keyboard.press("Enter")
    expect(page.locator(".title-line")).to_contain_text("cancelled")
    until(lambda: not login.queue(dispatch))
