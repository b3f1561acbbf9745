"""What the page shows when all is not well: slow, wrong, partial, away; each is told in words and by a shape."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, Page, expect

from tests.proxy import proxied
from tests.ui.conftest import PATIENCE_MS, PROGRAM, Site, faults_by_axe

expect.set_options(timeout=PATIENCE_MS)
Show = Callable[[str], Page]


def logged_in(context: BrowserContext, site: Site, port: int | None = None) -> Page:
    """Return a tab that is logged in, through another port of this machine if one is given."""
    link = urlsplit(site.link())
    tab = context.new_page()
    tab.goto(f"http://127.0.0.1:{port or link.port}/#{link.fragment}")
    tab.get_by_role("heading", name="Now").wait_for()
    return tab


def go(tab: Page, place: str) -> None:
    tab.goto(tab.url.partition("#")[0] + "#" + place)


def test_what_takes_long_shows_its_shape_until_it_is_there(context: BrowserContext, site: Site) -> None:
    port = urlsplit(site.link()).port
    assert port is not None
    with proxied(port) as wire:
        tab = logged_in(context, site, wire.port)
        wire.delay_s = 2.5
        go(tab, f"/d/{site.screening}?view=table")
        loading = tab.locator(".loading")
        expect(loading).to_have_attribute("role", "status")
        expect(loading).to_contain_text("Loading the dispatch")
        expect(loading.locator(".skeleton")).to_have_count(3)
        # Its words are for who hears the page, its shape for who sees it.
        assert loading.locator(".skeleton").first.evaluate("bar => bar.getBoundingClientRect().height") >= 16
        wire.delay_s = 0
        expect(tab.get_by_role("table", name="Tasks")).to_be_visible()
        expect(loading).to_have_count(0)
        tab.close()


def test_an_error_says_whose_it_is_and_is_tried_again(show: Show, site: Site) -> None:
    page = show("/queue/nowhere")
    fault = page.get_by_role("main").get_by_role("alert")
    expect(fault.locator("strong")).to_have_text("hpcflow says")
    expect(fault).to_contain_text(re.compile("no cluster.*nowhere", re.IGNORECASE))
    with page.expect_response(re.compile("/clusters/nowhere/queue")) as again:
        fault.get_by_role("button", name="Try again").click()
    assert again.value.status == 404
    expect(fault).to_be_visible()
    assert faults_by_axe(page) == []


def test_what_is_only_a_part_says_of_how_many(show: Show, site: Site) -> None:
    dispatch = site.user.runs(PROGRAM, "fine", "240")
    site.user.waits_for(dispatch)
    page = show(f"/d/{dispatch}?view=table")
    table = page.get_by_role("table", name="Tasks")
    expect(table).to_have_attribute("aria-rowcount", "242")
    expect(page.get_by_text("241 tasks", exact=True)).to_be_visible()
    # Only what can be seen is made, and the last of all is reached.
    assert table.locator("tbody tr").count() < 100
    page.get_by_role("region", name="Tasks").focus()
    page.keyboard.press("End")
    expect(table.get_by_role("link", name="199", exact=True)).to_be_visible()
    expect(table.get_by_role("link", name="201", exact=True)).to_be_attached()
    page.keyboard.press("End")
    expect(table.get_by_role("row").filter(has_text="collect")).to_have_attribute("aria-rowindex", "242")
    show(f"/d/{dispatch}/e/240")
    facts = page.get_by_label("Facts")
    facts.get_by_text("Needs 240 tasks").click()
    expect(facts.get_by_text("50 of 240 shown.")).to_be_visible()


TEMPLATE = """
import hpcflow as hf

@hf.electron(executor="local")
def prepare(n):
    return n

@hf.lattice(triggers=[hf.triggers.TimeTrigger(86400)])
def nightly(n):
    return prepare(n)

print(hf.dispatch(nightly)(1))
"""


def test_a_template_is_called_one_and_asks_nobody_for_anything(show: Show, site: Site) -> None:
    dispatch = site.user.runs(TEMPLATE).splitlines()[-1]
    page = show("/")
    card = page.get_by_role("listitem").filter(has=page.locator(f'a[href$="#/d/{dispatch}"]'))
    expect(card).to_have_count(1)
    expect(card.locator(".badge")).to_have_text("template")
    expect(card).to_contain_text("It is a template: its triggers run copies of it.")
    expect(page.get_by_text("nightly is paused")).to_have_count(0)
    show(f"/d/{dispatch}")
    expect(page.locator(".notice")).to_have_text("Template.It is a template: its triggers run copies of it.")
    assert site.user.hpcflow("cancel", dispatch).returncode == 0
    expect(page.locator(".title-line")).to_contain_text("cancelled")
    show("/")
    expect(page.get_by_text(re.compile(r"\.\."))).to_have_count(0)


def test_all_logs_are_one_download_and_those_of_what_failed_another(show: Show, site: Site) -> None:
    page = show(f"/d/{site.screening}?view=logs")
    tools = page.get_by_role("group", name="Download")
    with page.expect_download() as brought:
        tools.get_by_role("button", name="Download logs of 2 failed").click()
    assert brought.value.suggested_filename == f"{site.screening}-logs-failed.tar.gz"
    with tarfile.open(brought.value.path()) as tar:
        names = {Path(name).name for name in tar.getnames()}
        assert names == {"tasks.tsv"} | {
            f"{index:05d}-relax.{stream}.txt" for index in (4, 9) for stream in ("stdout", "stderr")
        }
        said = tar.extractfile(f"{site.screening}-logs/00004-relax.stderr.txt")
        assert said is not None and said.read().startswith(b"warning: <b>loose</b> convergence\n")
    expect(page.get_by_text("The logs are downloaded.")).to_be_visible()
    # Nobody gets them without being known, and the command line brings the same.
    status = "url => fetch(url).then(answer => answer.status)"
    assert page.evaluate(status, f"api/v1/dispatches/{site.screening}/logs") == 401
    told = site.user.hpcflow("logs", site.screening, "-o", "all.tar.gz")
    assert (told.returncode, told.stdout) == (0, "all.tar.gz\n"), told.stderr
    with tarfile.open(fileobj=io.BytesIO((site.user.folder / "all.tar.gz").read_bytes())) as tar:
        # Ten of relax wrote to both streams; prepare wrote nothing, and collect never ran.
        assert len(tar.getnames()) == 1 + 2 * 10
    refused = site.user.hpcflow("logs", site.screening, "-o", "all.tar.gz")
    assert refused.returncode == 2 and "all.tar.gz exists already" in refused.stderr


def test_a_server_that_stops_leaves_what_it_said_and_the_next_one_asks_for_a_link(
    context: BrowserContext, site: Site
) -> None:
    tab = logged_in(context, site)
    go(tab, f"/d/{site.screening}?view=table")
    expect(tab.get_by_role("table", name="Tasks")).to_be_visible()
    assert site.user.hpcflow("stop").returncode == 0
    banner = tab.get_by_role("alert").filter(has_text="The hpcflow server does not answer.")
    try:
        expect(banner).to_contain_text(re.compile(r"This is what it said at \d\d:\d\d:\d\d, \d+ s ago\."))
        expect(banner).to_contain_text("Jobs in the queue go on without it.")
        # What was there stays to be read, and nothing can be asked for.
        expect(tab.get_by_role("table", name="Tasks")).to_have_attribute("aria-rowcount", "13")
        for name in ("Retry 2 failed", "Redispatch"):
            expect(tab.get_by_role("button", name=name)).to_be_disabled()
        assert faults_by_axe(tab) == []
    finally:  # it is the server of the tests after this one, too
        started = site.user.hpcflow("start")
    assert started.returncode == 0
    # It is where the last one was, and knows nobody: sessions ended with that.
    expect(tab.get_by_role("heading", name="Log in")).to_be_visible()
    expect(tab.get_by_role("main")).to_contain_text("hpcflow ui")
    expect(banner).to_have_count(0)
    tab.goto("about:blank")
    tab.goto(site.link())
    expect(tab.get_by_role("heading", name="Now")).to_be_visible()
    tab.close()
