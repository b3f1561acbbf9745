"""A headless Chromium, as tests and `tools/screenshots` use it."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

#: The sandbox needs what containers lack; nothing here opens pages of others. The rest keeps Chromium from asking the
#: network for anything of its own.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Names of proxies that a test runs on this machine.
    "--host-resolver-rules=MAP *.example.org 127.0.0.1",
)


def chromium() -> str | None:
    """Return the path of the distribution's Chromium."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def browser(path: str) -> Generator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, headless=True, args=list(FLAGS))
        try:
            yield opened
        finally:
            opened.close()
