"""`python -m tests.ui.screenshots FOLDER`: pictures of every screen of HPCFLOW_HOME's server, in all sizes."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from tests.ui.browser import browser, chromium

WIDTHS = {1440: 900, 768: 1024, 320: 640}
#: What comes late (a graph from its worker, a log) is there by then, in ms.
_SETTLE_MS = 700


def asked(*argv: str) -> str:
    return subprocess.run([*argv], capture_output=True, text=True, check=True).stdout


def open_page(page: Page) -> str:
    """Log a browser in and return the page's address."""
    url = json.loads(asked("hpcflow", "ui", "--json"))["url"]
    page.goto(url)
    page.get_by_role("heading", level=1).wait_for()
    return str(url).partition("#")[0]


def tasks_of(dispatch: dict[str, Any]) -> int:  # Any: JSON
    return int(dispatch["tasks"])


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
    dispatches: list[dict[str, Any]] = json.loads(asked("hpcflow", "dispatches", "--json"))  # Any: JSON
    failed = next((each for each in dispatches if each["counts"].get("failed")), dispatches[0])
    small, *_, big = sorted([*dispatches, *dispatches], key=tasks_of)
    table = json.loads(asked("hpcflow", "show", failed["id"], "--tasks", "--json"))
    wrong = next((task["index"] for task in table["tasks_shown"] if task["state"] == "failed"), 0)
    cluster = json.loads(asked("hpcflow", "status", "--json"))["default_cluster"]
    screens = {
        "now": "#/",
        "dispatches": "#/dispatches",
        "graph": f"#/d/{failed['id']}",
        "graph-group": f"#/d/{failed['id']}?group=1&lens=failed",
        "graph-small": f"#/d/{small['id']}",
        "graph-big": f"#/d/{big['id']}",
        "table": f"#/d/{failed['id']}?view=table",
        "timeline": f"#/d/{failed['id']}?view=timeline",
        "table-big": f"#/d/{big['id']}?view=table",
        "logs-big": f"#/d/{big['id']}?view=logs",
        "timeline-big": f"#/d/{big['id']}?view=timeline",
        "efficiency": f"#/d/{failed['id']}?view=efficiency",
        "efficiency-days": "#/efficiency",
        "settings": "#/settings",
        "server-log": "#/logs",
        "logs": f"#/d/{failed['id']}?view=logs",
        "jobs": f"#/d/{failed['id']}?view=jobs",
        "task": f"#/d/{failed['id']}/e/{wrong}",
        "code": f"#/d/{failed['id']}/e/{wrong}?tab=code",
        "clusters": "#/clusters",
        "queue": f"#/queue/{cluster}?mine=false",
    }
    nested = next((each["id"] for each in dispatches if each["tasks"] > each["own_tasks"]), None)
    dialogs = {
        "add-a-cluster": ("#/clusters", "Add a cluster"),
        "retry": (f"#/d/{failed['id']}", "Retry"),
        "redispatch": (f"#/d/{failed['id']}", "Redispatch"),
        "keys": ("#/", "Keys and help"),
    }
    screens |= {name: address for name, (address, _) in dialogs.items()}
    if nested is not None:
        screens["sublattices"] = f"#/d/{nested}?group=1"
    wanted = set(filter(None, options.only.split(","))) or set(screens)
    options.folder.mkdir(parents=True, exist_ok=True)
    with browser(path) as opened:
        for theme in options.themes.split(","):
            context = opened.new_context(color_scheme=theme, reduced_motion="reduce")
            page = context.new_page()
            base = open_page(page)
            for width in map(int, options.widths.split(",")):
                page.set_viewport_size({"width": width, "height": WIDTHS[width]})
                for name in sorted(wanted):
                    page.goto(base + screens[name])
                    page.get_by_role("heading", level=1).wait_for()
                    page.wait_for_timeout(_SETTLE_MS)
                    page.wait_for_function("() => !document.querySelector('.loading')")
                    if name in dialogs:
                        page.get_by_role("button", name=dialogs[name][1]).first.click()
                        page.get_by_role("dialog").or_(page.locator("form")).first.wait_for()
                    over = page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
                    if over > 0:
                        print(f"{name} is {over} px wider than {width} px")
                    page.screenshot(path=options.folder / f"{name}-{width}-{theme}.png", full_page=width < 1440)
                    if name in dialogs:
                        page.keyboard.press("Escape")
            context.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
