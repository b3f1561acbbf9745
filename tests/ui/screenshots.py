"""`python -m tests.ui.screenshots FOLDER`: pictures of every screen of HPCFLOW_HOME's server, in all sizes."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from tests.ui.browser import browser, chromium

WIDTHS = {1440: 900, 1280: 800, 768: 1024, 320: 640}
#: What comes late (a graph from its worker, a log) is there by then, in ms.
_SETTLE_MS = 700
#: As many tasks are too many to look at one by one.
_MANY = 1000

Act = Callable[[Page], None]


@dataclass(frozen=True)
class Screen:
    """A picture: where it is taken, and what a person does first and afterwards."""

    address: str
    act: Act | None = None
    undo: Act | None = None


def asked(*argv: str) -> str:
    return subprocess.run([*argv], capture_output=True, text=True, check=True).stdout


def told(*argv: str) -> Any:  # Any: JSON
    return json.loads(asked("hpcflow", *argv, "--json"))


def open_page(page: Page) -> str:
    """Log a browser in and return the page's address."""
    url = str(told("ui")["url"])
    page.goto(url)
    page.get_by_role("heading", level=1).wait_for()
    return url.partition("#")[0]


def press(name: str | re.Pattern[str], *then: str) -> Act:
    """Press a button, and others in the dialog that it opens."""

    def act(page: Page) -> None:
        page.get_by_role("button", name=name).first.click()
        page.get_by_role("dialog").or_(page.locator("form, .toast")).first.wait_for()
        for each in then:
            page.get_by_role("dialog").get_by_role("button", name=each).click()
            page.locator(".toast").first.wait_for()

    return act


def escape(page: Page) -> None:
    page.keyboard.press("Escape")


def undo(page: Page) -> None:
    page.get_by_role("button", name="Undo").click()


def log_in(page: Page) -> None:
    page.get_by_role("button", name="Log in").first.click()
    page.get_by_role("dialog").get_by_role("textbox").wait_for()


def not_now(page: Page) -> None:
    page.get_by_role("button", name="Not now").last.click()


def step_in(page: Page) -> None:
    page.get_by_role("group", name="Graph").focus()
    page.keyboard.press("s")
    page.wait_for_url(re.compile("in="))


def go_offline(page: Page) -> None:
    page.route("**/api/**", lambda route: route.abort())
    page.reload()
    page.wait_for_timeout(2 * _SETTLE_MS)


def go_online(page: Page) -> None:
    page.unroute("**/api/**")
    page.reload()


def task_in(dispatch: str, state: str) -> int | None:
    table = told("show", dispatch, "--tasks")
    # The last: of those that wait, it is the first ones that begin while pictures are taken.
    return max((int(task["index"]) for task in table["tasks_shown"] if task["state"] == state), default=None)


def screens_of(
    dispatches: Sequence[dict[str, Any]], clusters: Sequence[dict[str, Any]]
) -> dict[str, Screen]:  # Any: JSON
    """Return all that can be pictured of a server: what it has nothing for is left out."""
    usual = next(each["name"] for each in clusters if each["default"])
    screens = {
        "now": Screen("#/"),
        "dispatches": Screen("#/dispatches"),
        "efficiency-days": Screen("#/efficiency"),
        "settings": Screen("#/settings"),
        "server-log": Screen("#/logs"),
        "clusters": Screen("#/clusters"),
        "queue": Screen(f"#/queue/{usual}?mine=false"),
        "add-a-cluster": Screen("#/clusters", press("Add a cluster"), not_now),
        "keys": Screen("#/", press("Keys and help"), escape),
        "no-such-page": Screen("#/nowhere"),
        "no-such-dispatch": Screen("#/d/01K0000000000000000000NONE"),
        "offline": Screen("#/dispatches", go_offline, go_online),
    }
    for cluster in clusters:
        if cluster["state"] == "ok":
            screens[f"queue-of-{cluster['name']}"] = Screen(f"#/queue/{cluster['name']}?mine=false")
        if cluster["state"] == "needs login":
            screens["log-in-to-a-cluster"] = Screen("#/clusters", log_in, not_now)
        if cluster["state"] == "unreachable":
            screens["queue-unreachable"] = Screen(f"#/queue/{cluster['name']}")
    if not dispatches:
        return screens
    failed = next(
        (each for each in dispatches if each["counts"].get("failed") and each["tasks"] < _MANY), dispatches[0]
    )
    views = {"small": min(dispatches, key=lambda each: int(each["tasks"])), "failed": failed}
    views["big"] = max(dispatches, key=lambda each: (int(each["tasks"]), int(each["counts"].get("failed", 0))))
    live = next((each for each in dispatches if each["counts"].get("running")), None)
    if live is not None:
        views["live"] = live
        screens["graph-live-group"] = Screen(f"#/d/{live['id']}?group=0")
    for name, dispatch in views.items():
        for view in ("graph", "table", "timeline", "logs", "jobs", "efficiency"):
            screens[f"{view}-{name}"] = Screen(f"#/d/{dispatch['id']}?view={view}")
    screens["graph-group"] = Screen(f"#/d/{failed['id']}?group=1&lens=failed")
    screens["graph-big-group"] = Screen(f"#/d/{views['big']['id']}?group=0")
    for state, owner in (("failed", failed), ("completed", failed), ("running", live), ("queued", live)):
        index = None if owner is None else task_in(owner["id"], state)
        if owner is not None and index is not None:
            at = f"#/d/{owner['id']}/e/{index}"
            screens[f"task-{state}"] = Screen(at)
            screens[f"task-{state}-values"] = Screen(f"{at}?tab=values")
            if state == "failed":
                screens["code"] = Screen(f"{at}?tab=code")
                screens["undo"] = Screen(at, press("Retry"), undo)
    if failed["counts"].get("failed"):
        screens["retry"] = Screen(f"#/d/{failed['id']}", press(re.compile("^Retry")), escape)
    over = next((each for each in dispatches if each["status"] != "RUNNING"), None)
    if over is not None:
        screens["redispatch"] = Screen(f"#/d/{over['id']}", press("Redispatch"), escape)
    if live is not None:
        screens["cancel"] = Screen(f"#/d/{live['id']}", press("Cancel"), escape)
        screens["cancel-undo"] = Screen(f"#/d/{live['id']}", press("Cancel", "Cancel"), undo)
    nested = next((each["id"] for each in dispatches if each["tasks"] > each["own_tasks"]), None)
    if nested is not None:
        screens["sublattices"] = Screen(f"#/d/{nested}?group=1")
        screens["sublattice-inside"] = Screen(f"#/d/{nested}", step_in)
    return screens


def take(page: Page, address: str, screen: Screen, picture: Path, *, whole: bool) -> None:
    """Go to a screen, do what it takes, picture it, and leave nothing open for the next."""
    page.goto(address)
    page.get_by_role("heading", level=1).wait_for()
    page.wait_for_timeout(_SETTLE_MS)
    page.wait_for_function("() => !document.querySelector('.loading')")
    if screen.act is None and page.locator("dialog[open], .toast").count():
        raise RuntimeError(f"something hides {picture.name}")
    if screen.act is not None:
        screen.act(page)
        page.wait_for_timeout(_SETTLE_MS)
    over = page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
    if over > 0:
        print(f"{picture.name} is {over} px wider than its window")
    page.screenshot(path=picture, full_page=whole)
    if screen.undo is not None:
        screen.undo(page)
        page.locator("dialog[open], .toast").first.wait_for(state="detached")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="names of pictures with commas")
    parser.add_argument("--widths", default="1440,768,320")
    parser.add_argument("--themes", default="light,dark")
    options = parser.parse_args()
    path = chromium()
    if path is None:
        print("There is no Chromium here: `apt-get install chromium`.", file=sys.stderr)
        return 1
    screens = screens_of(told("dispatches"), told("clusters", "list"))
    wanted = set(filter(None, options.only.split(","))) or set(screens)
    if missing := wanted - set(screens):
        print(f"This server has nothing for {', '.join(sorted(missing))}.", file=sys.stderr)
    options.folder.mkdir(parents=True, exist_ok=True)
    with browser(path) as opened:
        for theme in options.themes.split(","):
            context = opened.new_context(color_scheme=theme, reduced_motion="reduce")
            page = context.new_page()
            base = open_page(page)
            for width in map(int, options.widths.split(",")):
                page.set_viewport_size({"width": width, "height": WIDTHS[width]})
                for name in sorted(wanted & set(screens)):
                    picture = options.folder / f"{name}-{width}-{theme}.png"
                    take(page, base + screens[name].address, screens[name], picture, whole=width < 1440)
            context.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
