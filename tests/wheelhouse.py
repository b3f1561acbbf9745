"""Wheels of a few lines, made here: tests that install packages need no network."""

from __future__ import annotations

import base64
import hashlib
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path


def make_wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    source: str = "",
    *,
    needs: Sequence[str] = (),
    tag: str = "py3-none-any",
    script: str | None = None,
) -> Path:
    """Make ``name-version-tag.whl`` with one module ``name``.

    Args:
        folder: the wheelhouse, made if need be.
        name: of the distribution and its module.
        version: likewise; the module says it as ``__version__``.
        source: what else the module holds.
        needs: requirements, as Requires-Dist has them.
        tag: what it runs on.
        script: a command that calls the module's ``main``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    about = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files = {
        f"{name}.py": f'__version__ = "{version}"\n{source}\n',
        f"{about}/METADATA": metadata + "".join(f"Requires-Dist: {need}\n" for need in needs),
        f"{about}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    if script is not None:
        files[f"{about}/entry_points.txt"] = f"[console_scripts]\n{script} = {name}:main\n"
    rows = [f"{path},{_digest(text.encode())},{len(text.encode())}\n" for path, text in files.items()]
    files[f"{about}/RECORD"] = "".join(rows) + f"{about}/RECORD,,\n"
    wheel = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return wheel


def own_tag() -> str:
    """Return the tag of a wheel that this minor version alone takes, on any machine."""
    return f"py{sys.version_info[0]}{sys.version_info[1]}-none-any"


def _digest(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
