"""A real server with real dispatches on this machine, and a real browser that is logged in."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from tests.integration.world import User, served
from tests.ports import reserved
from tests.ui.browser import browser as launched
from tests.ui.browser import chromium

#: How long anything may take before a test gives up on it, in ms.
PATIENCE_MS = 60_000

PROGRAM = """
import sys
import hpcflow as hf

@hf.electron(executor="local")
def prepare(n):
    return n

@hf.electron(executor="local", memory="256 MB", walltime="10 min")
def relax(x):
    print(f"\\x1b[32mrelax\\x1b[0m step {x}")
    print("warning: <b>loose</b> convergence", file=sys.stderr)
    if x % 5 == 3:
        raise ValueError(f"no convergence after {x} steps <script>document.title='hacked'</script>")
    return x

@hf.electron(executor="local")
def collect(values):
    return sum(values)

@hf.lattice
def screening(n):
    prepare(n)
    return collect([relax(k) for k in range(n)])

@hf.electron(executor="local", accept_failed=True)
def tally(values):
    return len(values)

@hf.lattice
def tolerant(n):
    return tally([relax(k) for k in range(n)])

@hf.lattice
def fine(n):
    return collect([prepare(k) for k in range(n)])

@hf.electron(executor="local")
@hf.lattice
def inner(n):
    return collect([relax(k) for k in range(n)])

@hf.electron(executor="local")
@hf.lattice
def middle(n):
    return inner(n)

@hf.lattice
def nested(n):
    return [middle(n), inner(prepare(2))]

lattices = {"screening": screening, "fine": fine, "tolerant": tolerant, "nested": nested}
print(hf.dispatch(lattices[sys.argv[1]])(int(sys.argv[2])))
"""


@dataclass(frozen=True)
class Site:
    """A server with two dispatches that have ended, one of them with failures."""

    user: User
    screening: str
    fine: str
    #: Where a proxy may listen whose address, `http://ood.example.org:PORT/node/*/*`, the settings name.
    proxy_port: int

    def link(self) -> str:
        """Return an address that logs one browser in."""
        return str(self.user.asks("ui")["url"])


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    kept, port = reserved()
    environment = {"HPCFLOW_PAGE_ORIGINS": f"http://ood.example.org:{port}/node/*/*"}
    with kept, served(tmp_path_factory.mktemp("site"), environment, (os.path.dirname(sys.executable),)) as user:
        screening = user.runs(PROGRAM, "screening", "10")
        fine = user.runs(PROGRAM, "fine", "3")
        for dispatch in (screening, fine):
            user.waits_for(dispatch)
        yield Site(user, screening, fine, port)


@pytest.fixture(scope="session")
def chrome() -> Iterator[Browser]:
    path = chromium()
    if path is None:
        pytest.skip("no Chromium here: `apt-get install chromium`, or tools/test as root, brings one")
    with launched(path) as opened:
        yield opened


@pytest.fixture
def context(chrome: Browser) -> Iterator[BrowserContext]:
    made = chrome.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    made.set_default_timeout(PATIENCE_MS)
    yield made
    made.close()


#: What the browser says of a page that is wrong: it broke its policy, or sent a form that was gone.
_FAULTS: Final = re.compile("Content Security Policy|form is not connected")


@pytest.fixture
def page(context: BrowserContext, site: Site) -> Generator[Page]:
    """A tab that is logged in; the test fails when anything failed in it, or broke the content security policy."""
    tab = context.new_page()
    faults: list[str] = []
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("console", lambda said: faults.append(said.text) if _FAULTS.search(said.text) else None)
    tab.goto(site.link())
    tab.get_by_role("heading", name="Now").wait_for()
    yield tab
    assert faults == []


@pytest.fixture
def show(page: Page) -> Callable[[str], Page]:
    """Open a place of the page: what follows `#`."""

    def go(place: str) -> Page:
        page.goto(page.url.partition("#")[0] + "#" + place)
        page.get_by_role("heading", level=1).first.wait_for()
        return page

    return go


def axe_source() -> str | None:
    """Return axe-core, where the page's development packages are installed."""
    source = Path(__file__).parents[2] / "ui" / "node_modules" / "axe-core" / "axe.min.js"
    return source.read_text("utf-8") if source.is_file() else None


def faults_by_axe(page: Page) -> list[str]:
    """Return what axe finds wrong at AA with what is shown; skip where axe-core is not installed."""
    source = axe_source()
    if source is None:
        pytest.skip("axe-core is not installed: `npm ci` in ui/, or tools/ui-check, brings it")
    # Its own frame would be refused by the content security policy; what the debugger evaluates is not.
    page.evaluate(source)
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
    said = page.evaluate("(tags) => axe.run(document, { runOnly: tags })", tags)
    return [f"{each['id']}: {node['html'][:200]}" for each in said["violations"] for node in each["nodes"]]


def a_tab(context: BrowserContext, user: User) -> Page:
    """Return a tab that is logged in to a user's server."""
    tab = context.new_page()
    tab.goto(str(user.asks("ui")["url"]))
    tab.get_by_role("heading", name="Now").wait_for()
    return tab
