"""How a dispatch looks in a notebook: a small table with its progress, which goes on as long as it runs."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from html import escape
from importlib import import_module
from typing import Any, Final
from urllib.parse import urlsplit

from hpcflow.core.model import HpcflowError
from hpcflow.core.states import State, Status
from hpcflow.core.words import counted
from hpcflow.sdk.answers import Summary
from hpcflow.sdk.connection import Server
from hpcflow.sdk.far_page import page_here
from hpcflow.sdk.link import read_link
from hpcflow.sdk.plain import plain
from hpcflow.sdk.terminal import counts, why_paused

__all__ = ["as_html", "page_of", "proxied", "show"]

#: A notebook is drawn anew at most so often, in seconds.
_BREATH_S: Final = 0.5
#: Shape and colour of each status: never the colour alone.
_MARKS: Final[Mapping[Status, tuple[str, str]]] = {
    Status.RUNNING: ("▶", "#0687ff"),
    Status.COMPLETED: ("✓", "#2b7064"),
    Status.FAILED: ("✕", "#c10a10"),
    Status.CANCELLED: ("⊘", "#6f13ae"),
}
#: What is drawn in a bar, from its left to its right, in the page's colours on white.
_PARTS: Final[Mapping[State, str]] = {
    State.COMPLETED: "#2b7064",
    State.RUNNING: "#0687ff",
    State.SKIPPED: "#8f82a3",
    State.CANCELLED: "#6f13ae",
    State.FAILED: "#c10a10",
}
_LONGEST: Final = 2000


def as_html(summary: Summary, page: str | None) -> str:
    """Return a dispatch as HTML that holds nothing of what others wrote but as text.

    Args:
        summary: where it is.
        page: its address on the web page; ``None``: there is no page.
    """
    sign, colour = _MARKS[summary.status]
    paused = summary.paused is not None and not summary.ended
    word = "paused" if paused else summary.status.lower()
    lines = [
        f"<div><strong>{_text(summary.name or 'dispatch')}</strong> "
        f'<span style="color:{colour}">{sign}</span> {word} <code>{_text(summary.id)}</code></div>',
        _bar(summary),
        f"<div>{_text(counts(summary))}</div>",
    ]
    if summary.error:
        edge = colour if summary.status is Status.CANCELLED else "#c10a10"
        style = f"white-space:pre-wrap;border-left:3px solid {edge};padding-left:8px"
        lines.append(f'<div style="{style}">{_text(summary.error)}</div>')
    for told in filter(None, (summary.hint, summary.undelivered)):
        lines.append(f"<div>{_text(told)}</div>")
    if paused:
        lines.append(f"<div>{_text(why_paused(summary))}</div>")
    if page is not None:
        address = escape(page, quote=True)
        lines.append(f'<div><a href="{address}" target="_blank" rel="noopener noreferrer">Open its page</a></div>')
    return f'<div style="font-family:system-ui,sans-serif;line-height:1.5;max-width:720px">{"".join(lines)}</div>'


def page_of(server: Server, dispatch: str, environ: Mapping[str, str]) -> str | None:
    """Return the address of a dispatch on the web page; ``None`` while the server has no port for browsers open."""
    try:
        address: str | None = server.ask("GET", "/status").get("ui")
    except HpcflowError:
        return None
    if address is None:
        return None
    if (link := read_link(server.where)) is not None:
        try:
            address = page_here(link, address)
        except HpcflowError:
            return None
    return proxied(f"{address}#/d/{dispatch}", environ)


def proxied(address: str, environ: Mapping[str, str]) -> str:
    """Return an address of the web page as a browser has it.

    Under JupyterHub the browser is on another machine: there it is the path that jupyter-server-proxy gives a port.
    """
    prefix = environ.get("JUPYTERHUB_SERVICE_PREFIX", "")
    if not prefix.startswith("/"):
        return address
    parts = urlsplit(address)
    return f"{prefix.rstrip('/')}/proxy/{parts.port}/#{parts.fragment}"


def show(server: Server, summary: Summary, text: str) -> None:
    """Show a dispatch in the cell that runs, and while it lives draw it anew with each change.

    Args:
        server: whom to ask.
        summary: where it is.
        text: what frontends without HTML show.
    """
    # It is there, as IPython itself calls this; hpcflow does not ask for it.
    display: Any = import_module("IPython.display").display  # Any: no types where it is not installed
    page = page_of(server, summary.id, os.environ)

    def bundle(now: Summary) -> dict[str, str]:
        return {"text/html": as_html(now, page), "text/plain": text}

    handle = display(bundle(summary), raw=True, display_id=True)
    if summary.ended or handle is None:
        return
    threading.Thread(target=_follow, args=(server, summary, handle, bundle), daemon=True).start()


def _follow(server: Server, summary: Summary, handle: Any, bundle: Any) -> None:  # Any: IPython's own, and ours above
    from hpcflow.sdk.client import changes

    breath = threading.Event()
    # The cell that waits says what became of a server that is gone; this picture only stays as it is.
    with suppress(HpcflowError):
        for now in changes(server, summary):
            if now.version == summary.version:
                continue
            handle.update(bundle(now), raw=True)
            if not now.ended:
                breath.wait(_BREATH_S)


def _bar(summary: Summary) -> str:
    whole = max(summary.tasks, 1)
    spans = "".join(
        f'<span style="display:block;width:{100 * many / whole:.2f}%;background:{colour}"></span>'
        for state, colour in _PARTS.items()
        if (many := summary.counts.get(state, 0))
    )
    label = escape(f"{summary.tasks_ended} of {counted(summary.tasks, 'task')} ended", quote=True)
    return (
        f'<div role="img" aria-label="{label}" style="display:flex;height:8px;border-radius:4px;overflow:hidden;'
        f'background:#8885;margin:4px 0">{spans}</div>'
    )


def _text(text: str) -> str:
    short = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"
    return f"<bdi>{escape(plain(short), quote=True)}</bdi>"
