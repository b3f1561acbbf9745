"""What MkDocs can't do by itself: the nav of docs/index.md, a page of all public names, links that leave docs/."""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import hpcflow

log = logging.getLogger("mkdocs.hooks.docs_site")
ROOT = Path(__file__).parents[1]
DECISIONS = "adr/index.md"
#: The line of docs/reference/names.md that becomes one block of mkdocstrings for each public name.
PUBLIC_NAMES = "<!-- public names -->"
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s#:]+)(#[^)]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Take the nav from the list of docs/index.md, where a reader without the built pages finds it too."""
    sections: list[dict[str, list[str]]] = []
    for line in (Path(config.docs_dir) / "index.md").read_text().splitlines():
        if title := re.match(r"- \*\*(.+?)\*\*", line):
            sections.append({title[1]: []})
        if sections:
            (pages,) = sections[-1].values()
            pages += [page for _, target, _ in LINK.findall(line) if (page := _page(target)) not in pages]
    (last,) = sections[-1].values()
    last += sorted(f"adr/{path.name}" for path in (Path(config.docs_dir) / "adr").glob("*.md"))
    config.nav = ["index.md", *sections]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page that lists the decisions."""
    titles = [
        (path.name, path.read_text().split("\n", 1)[0].removeprefix("# "))
        for path in sorted((Path(config.docs_dir) / "adr").glob("*.md"))
    ]
    lines = [f"- [{title.replace('. ', ': ', 1)}]({name})" for name, title in titles]
    files.append(File.generated(config, DECISIONS, content="\n".join(["# Decisions", "", *lines, ""])))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Write the public names out, and name what lies outside of docs/ instead of linking to it."""
    folder = posixpath.dirname(page.file.src_uri)

    def relinked(found: re.Match[str]) -> str:
        text, target, anchor = found[1], found[2], found[3] or ""
        place = posixpath.normpath(posixpath.join("docs", folder, target))
        if place.startswith("docs/"):
            return f"[{text}]({_page(target)}{anchor})"
        if not (ROOT / place).exists():
            log.warning("%s links to %s, which does not exist", page.file.src_uri, target)
        return f"{text} (`{place}`)"

    return LINK.sub(relinked, markdown).replace(PUBLIC_NAMES, "\n".join(_block(name) for name in _public()))


def _page(target: str) -> str:
    return f"{target}index.md" if target.endswith("/") else target


def _public() -> list[str]:
    # Functions and classes first, then the modules that hold more names.
    names = [name for name in hpcflow.__all__ if name != "__version__"]
    return sorted(names, key=lambda name: (name not in hpcflow._HOMES, name.lower()))


def _block(name: str) -> str:
    home = hpcflow._HOMES.get(name, "hpcflow")
    return f"::: {home}.{name}\n    options:\n      heading: hpcflow.{name}\n      toc_label: {name}\n"
