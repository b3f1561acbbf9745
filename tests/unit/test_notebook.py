"""A result in a notebook."""

from __future__ import annotations

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hpcflow.core.places import Places
from hpcflow.sdk.answers import parse_summary
from hpcflow.sdk.connection import Server
from hpcflow.sdk.notebook import as_html, page_of
from tests.unit.fake_server import DISPATCH, FakeServer, a_summary

RUNNING = a_summary(status="RUNNING", ended_at=None, counts={"completed": 1, "queued": 1}, version=1)
#: IPython as far as it is asked here: each display and each update is a line.
IPYTHON = """
import json

def show(kind, data, raw):
    assert raw
    print(json.dumps([kind, data["text/html"], data["text/plain"]]), flush=True)

class Handle:
    def update(self, data, raw):
        show("update", data, raw)

def display(data, raw, display_id):
    assert display_id is True
    show("display", data, raw)
    return Handle()
"""
NOTEBOOK = """
import json, sys, threading
from hpcflow.core.places import Places
from hpcflow.sdk.answers import parse_summary
from hpcflow.sdk.connection import Server
from hpcflow.sdk.results import Result

server = Server(Places(sys.argv[1]))
Result(server, parse_summary(json.loads(sys.argv[2])))._ipython_display_()
for thread in threading.enumerate():
    if thread is not threading.main_thread():
        thread.join(60)
"""


class Parts(HTMLParser):
    """The tags and the text of a piece of HTML."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str | None] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name == "href"]
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_what_others_wrote_is_text_and_never_markup() -> None:
    name = "<img src=x onerror=alert(1)>"
    error = "3: relax: </div><script>alert('x')</script>\x1b[31m & more"
    parts = Parts(as_html(parse_summary(a_summary(name=name, error=error, status="FAILED")), 'http://h/"><script>'))
    assert set(parts.tags) <= {"div", "strong", "span", "code", "bdi", "a"}
    assert name in parts.text
    assert "</div><script>alert('x')</script>\\x1b[31m & more" in parts.text
    assert parts.links == ['http://h/"><script>']


def test_it_says_status_counts_and_why_it_is_paused() -> None:
    paused = parse_summary(a_summary(status="RUNNING", ended_at=None, paused="You paused it.", counts={"queued": 2}))
    text = Parts(as_html(paused, None)).text
    assert "▶ paused" in text
    assert "0 of 2 done, 2 queued" in text
    assert f"Paused: You paused it. Go on with `hpcflow resume {DISPATCH}`." in text
    assert "✓ completed" in Parts(as_html(parse_summary(a_summary()), None)).text


@pytest.mark.parametrize(
    ("environ", "address"),
    [
        ({}, f"http://127.0.0.1:8123/#/d/{DISPATCH}"),
        ({"JUPYTERHUB_SERVICE_PREFIX": "/user/ada/"}, f"/user/ada/proxy/8123/#/d/{DISPATCH}"),
    ],
)
def test_its_page_is_where_the_notebook_s_browser_reaches_it(
    hpcflow_home: Path, environ: dict[str, str], address: str
) -> None:
    with FakeServer(hpcflow_home) as fake:
        server = Server(Places(str(hpcflow_home)))
        fake.answers["GET", "/status"] = (200, {"ui": "http://127.0.0.1:8123/"})
        assert page_of(server, DISPATCH, environ) == address
        fake.answers["GET", "/status"] = (200, {"ui": None})
        assert page_of(server, DISPATCH, environ) is None
    assert page_of(server, DISPATCH, environ) is None


def test_it_is_drawn_anew_with_each_change_until_it_ends(hpcflow_home: Path, tmp_path: Path) -> None:
    (tmp_path / "IPython").mkdir()
    (tmp_path / "IPython" / "__init__.py").write_text("")
    (tmp_path / "IPython" / "display.py").write_text(IPYTHON)
    with FakeServer(hpcflow_home) as fake:
        fake.answers["GET", "/status"] = (200, {"ui": None})
        fake.answers["GET", f"/dispatches/{DISPATCH}"] = [(200, {**RUNNING, "version": 2}), (200, a_summary(version=3))]
        command = [sys.executable, "-c", NOTEBOOK, str(hpcflow_home), json.dumps(RUNNING)]
        environment = {"PYTHONPATH": str(tmp_path), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
        ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=60)
    assert ran.stderr == ""
    drawn = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [kind for kind, _, _ in drawn] == ["display", "update", "update"]
    assert ["completed</" in html or "✓" in html for _, html, _ in drawn] == [False, False, True]
    assert all(text.startswith(f"<Result {DISPATCH} of flow") for _, _, text in drawn)
