"""The page behind proxies: below a path, under another name, and where streams are kept back."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from hpcflow.server.origins import Origins
from tests.ui.conftest import PATIENCE_MS, PROGRAM, Site
from tests.ui.reverse_proxy import ReverseProxy, running

expect.set_options(timeout=PATIENCE_MS)


@contextmanager
def opened(
    context: BrowserContext, site: Site, made: Callable[[int], ReverseProxy], host: str = "127.0.0.1"
) -> Generator[tuple[Page, ReverseProxy]]:
    """Open the page through a proxy, logged in."""
    link = urlsplit(site.link())
    assert link.port is not None
    with running(made(link.port)) as proxy:
        tab = context.new_page()
        tab.goto(f"http://{host}:{proxy.port}{proxy.prefix}#{link.fragment}")
        yield tab, proxy
        tab.close()


def walk(tab: Page, site: Site, prefix: str) -> None:
    """Go to a graph, which is drawn by a worker, and to a screen that is loaded when it is wanted."""
    expect(tab.get_by_role("heading", name="Now")).to_be_visible()
    tab.goto(tab.url.partition("#")[0] + f"#/d/{site.screening}")
    expect(tab.get_by_role("tree")).to_be_visible()
    tab.get_by_role("link", name="Settings").click()
    expect(tab.get_by_role("region", name="Settings", exact=True)).to_be_visible()
    assert f"{prefix}#/settings" in tab.url


@pytest.mark.parametrize("prefix", ["/rnode/n1/4242/", "/user/ada/proxy/4242/"])
def test_the_page_works_below_any_path_that_a_proxy_takes_off(context: BrowserContext, site: Site, prefix: str) -> None:
    with opened(context, site, lambda port: ReverseProxy(port, prefix)) as (tab, proxy):
        walk(tab, site, prefix)
        assert all(path.startswith(prefix) for path in proxy.asked)


def test_the_page_works_below_a_path_that_a_proxy_leaves_and_under_a_name_that_was_allowed(
    context: BrowserContext, site: Site
) -> None:
    prefix = "/node/n1/4242/"

    def made(port: int) -> ReverseProxy:
        return ReverseProxy(port, prefix, strips=False, port=site.proxy_port)

    with opened(context, site, made, "ood.example.org") as (tab, _):
        walk(tab, site, prefix)


def test_another_name_is_refused_with_what_to_write_where(context: BrowserContext, site: Site) -> None:
    def made(port: int) -> ReverseProxy:
        return ReverseProxy(port, "/p/")

    with opened(context, site, made, "evil.example.org") as (tab, proxy):
        expect(tab.locator("body")).to_contain_text("answers to 127.0.0.1 and localhost only, not to evil.example.org")
        expect(tab.locator("body")).to_contain_text(f"page_origins = ['https://evil.example.org:{proxy.port}']")


def test_a_page_of_another_origin_is_refused_what_it_sends_and_reads_nothing(
    context: BrowserContext, site: Site
) -> None:
    def made(port: int) -> ReverseProxy:
        return ReverseProxy(port, "/p/", keeps_host=False)

    with opened(context, site, made, "evil.example.org") as (tab, _):
        # The proxy makes its own name disappear; the browser says all the same from where a login comes.
        expect(tab.get_by_role("heading", name="Log in")).to_be_visible()
        said = tab.evaluate(
            """async (url) => {
                const headers = { "content-type": "application/json" };
                const answer = await fetch(url, { method: "POST", headers, body: "{}" });
                return [answer.status, (await answer.json()).error];
            }""",
            "login",
        )
        assert said[0] == 403
        assert "another site, http://evil.example.org:" in said[1]
        direct = urlsplit(site.link())
        read = "(url) => fetch(url).then((answer) => answer.text(), () => 'nothing')"
        tab.route("**/csp", lambda route: route.fulfill(body="<h1>evil</h1>", content_type="text/html"))
        tab.goto(tab.url.partition("/p/")[0] + "/csp")
        assert tab.evaluate(read, f"http://127.0.0.1:{direct.port}/healthz") == "nothing"


def test_news_come_through_a_proxy_that_keeps_streams_back(context: BrowserContext, site: Site) -> None:
    def made(port: int) -> ReverseProxy:
        return ReverseProxy(port, "/p/", buffers=True)

    with opened(context, site, made) as (tab, proxy):
        expect(tab.get_by_role("heading", name="Now")).to_be_visible()
        tab.goto(tab.url.partition("#")[0] + "#/dispatches")
        expect(tab.get_by_role("table", name="Dispatches")).to_be_visible()
        with tab.expect_request(lambda request: "once=true" in request.url, timeout=PATIENCE_MS):
            pass
        dispatch = site.user.runs(PROGRAM, "fine", "1")
        expect(tab.locator(f'a[href$="#/d/{dispatch}"]')).to_be_visible()
        site.user.waits_for(dispatch)
        row = tab.get_by_role("row").filter(has=tab.locator(f'a[href$="#/d/{dispatch}"]'))
        expect(row).to_contain_text("completed")
        assert sum("/events" in path and "once" not in path for path in proxy.asked) == 1


@pytest.mark.parametrize(
    ("addresses", "host", "path", "known", "below"),
    [
        (["https://ood.example.org"], "ood.example.org", "/api/v1/status", True, "/api/v1/status"),
        (["https://OOD.example.org:443/"], "ood.example.org", "/", True, "/"),
        (["https://ood.example.org/node/*/*"], "ood.example.org", "/node/n1/42/assets/a.js", True, "/assets/a.js"),
        (["https://ood.example.org/node/*/*"], "ood.example.org", "/node/n1/42", True, "/node/n1/42"),
        (["https://ood.example.org/node/*/*"], "ood.example.org", "/node/n1//42/", True, "/node/n1//42/"),
        (["https://ood.example.org"], "ood.example.org.evil.com", "/", False, "/"),
        (["http://h:8000"], "h:8001", "/", False, "/"),
        ([], "ood.example.org", "/", False, "/"),
    ],
)
def test_an_address_is_known_as_a_whole_and_its_path_segment_by_segment(
    addresses: list[str], host: str, path: str, known: bool, below: str
) -> None:
    origins = Origins(addresses)
    assert (origins.has_host(host), origins.below(path)) == (known, below)


@pytest.mark.parametrize("text", ["", "*", "https://*", "ood.example.org", "ftp://h", "https://h/a b", "https://h/?x"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no address of a page"):
        Origins([text])
