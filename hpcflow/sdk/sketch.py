"""Shows a graph that was not dispatched on the page of a server that runs, and opens it where a browser can be."""

from __future__ import annotations

import os
import sys
import webbrowser
from collections.abc import Mapping

from hpcflow.core.model import HpcflowError
from hpcflow.core.places import places
from hpcflow.sdk.client import outgoing, packed, tell
from hpcflow.sdk.connection import Server, ServerElsewhere, ServerUnreachable
from hpcflow.sdk.far_page import page_here
from hpcflow.sdk.link import read_link
from hpcflow.sdk.notebook import proxied
from hpcflow.sdk.workflow import Traced

__all__ = ["show"]


def show(traced: Traced) -> None:
    """Hand a graph to the server of this environment, say where it is seen, and open that where it can be.

    Without a server nothing happens. What else keeps it from being seen is told in one sentence and is no error: the
    graph is there as text.
    """
    server = Server(places(os.environ))
    try:
        where = _sent(server, traced)
    except ServerElsewhere as error:
        tell(f"Drawn as text only. {error}")
    except ServerUnreachable:
        return
    except HpcflowError as error:
        tell(f"Drawn as text only. {error}")
    else:
        if where is not None:
            _open(where)


def _sent(server: Server, traced: Traced) -> str | None:
    """Return an address that logs a browser in and shows the graph, ``None`` where the user was told how else to."""
    described, blobs = outgoing(traced)
    # Values and sources have no place in the drawing: they stay here, however large they are.
    described["functions"] = {}
    nothing = [b""] * len(blobs)
    answer = server.upload("/sketches", lambda: packed(described, nothing))
    if not answer["page"]:
        tell("Drawn as text only: the server was built without its page.")
        return None
    place = f"/preview/{answer['id']}"
    page = server.ask("POST", "/ui")
    if (link := read_link(server.where)) is not None:
        return proxied(f"{page_here(link, page['url'])}{place}", os.environ)
    if page["ssh_forward"]:
        tell(f"From your own machine, first: {page['ssh_forward']}")
    return proxied(f"{page['url']}{place}", os.environ)


def _open(address: str) -> None:
    tell(f"The graph is drawn at {address}")
    if address.startswith("/") or not _has_browser(os.environ):
        return
    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return
    # Without $BROWSER this is one for terminals, which would take this one over.
    if "BROWSER" not in os.environ and type(browser) is webbrowser.GenericBrowser:
        return
    browser.open(address)


def _has_browser(environ: Mapping[str, str]) -> bool:
    if any(environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")):
        return True
    return sys.platform == "darwin" and "SSH_CONNECTION" not in environ
