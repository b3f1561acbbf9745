"""hpcflow's own wheels, and those of all that it needs, for the login node's Python.

The same versions as here: rebuilt from what is installed where that runs there as well, which needs no network and
no release on an index, else taken from a folder, else fetched.
"""

from __future__ import annotations

import asyncio
import base64
import csv
import hashlib
import io
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from hpcflow.core.model import UserError
from hpcflow.server.wheels import Target, WheelsError, fetched

__all__ = ["collect", "rebuild"]

#: What an installation adds to a wheel's files.
_ADDED: Final = frozenset({"INSTALLER", "REQUESTED", "RECORD", "RECORD.jws", "RECORD.p7s", "direct_url.json"})
# The earliest date that a zip file can hold: the same files give the same bytes.
_DATE: Final = (1980, 1, 1, 0, 0, 0)
_BUILD_S: Final = 300.0
_SAID: Final = 600
_ADVICE: Final = "Put wheels into a folder, on a machine with network, and name it with --wheelhouse."


async def collect(
    roots: Sequence[str],
    target: Target,
    markers: Mapping[str, str],
    folder: Path,
    *,
    wheelhouse: Path | None = None,
    tell: Callable[[str], Awaitable[None]],
) -> tuple[Path, ...]:
    """Return wheels of requirements and of all that they need, for another Python.

    Each comes from the wheelhouse where that has it, else from what is installed here if that runs there as well, else
    from an index. Versions are those that are installed here, where there are such.

    Args:
        roots: requirements, as ``name==version``.
        target: the Python that they are for.
        markers: its values of PEP 508's environment markers.
        folder: takes the files that have to be made or fetched.
        wheelhouse: a folder with wheels.
        tell: takes sentences on what is fetched.

    Raises:
        WheelsError: one can't be had.
        UserError: the wheelhouse is no folder.
    """
    if wheelhouse is not None and not wheelhouse.is_dir():
        raise UserError(f"The wheelhouse {wheelhouse} is no folder.")
    shelf = _Shelf(target, folder, wheelhouse)
    while True:
        wanted = _walk([Requirement(root) for root in roots], markers, shelf.requires)
        missing = [
            _Wanted(name, spec) for name, spec in wanted.items() if not await asyncio.to_thread(shelf.take, name, spec)
        ]
        if not missing:
            return tuple(shelf.files[name] for name in sorted(wanted))
        pins = [shelf.pin(each) for each in missing]
        await tell(f"Fetches wheels for {target}: {', '.join(pins)}.")
        try:
            async with fetched(pins, target) as wheels:
                for wheel in wheels:
                    shutil.copy(wheel, folder)
        except WheelsError as error:
            raise WheelsError(f"{error} {_ADVICE}") from error
        for each in missing:
            if not shelf.found(each.name, each.spec, folder):
                raise WheelsError(f"pip fetched no wheel of {each.name} that runs on {target}. {_ADVICE}")


@dataclass(frozen=True, slots=True)
class _Wanted:
    name: str
    spec: SpecifierSet


class _Shelf:
    """The wheels that were found so far, by normalised name."""

    def __init__(self, target: Target, folder: Path, wheelhouse: Path | None) -> None:
        self.files: dict[str, Path] = {}
        self._tags = _tags_of(target)
        self._folder = folder
        self._wheelhouse = wheelhouse

    def take(self, name: str, spec: SpecifierSet) -> bool:
        """Find or make a wheel without asking any network, and return whether there is one."""
        if name in self.files:
            return True
        if self._wheelhouse is not None and self.found(name, spec, self._wheelhouse):
            return True
        here = _installed(name)
        if here is None or not spec.contains(here.version, prereleases=True) or not self._runs_there(here):
            return False
        made = rebuild(here, self._folder)
        if made is None:
            return False
        self.files[name] = made
        return True

    def found(self, name: str, spec: SpecifierSet, folder: Path) -> bool:
        """Look for the newest wheel that fits, and of one version the closest; return whether there is one."""
        best: tuple[Version, int, Path] | None = None
        for path in folder.glob("*.whl"):
            try:
                found, version, _, tags = parse_wheel_filename(path.name)
            except ValueError:
                continue
            ranks = [self._tags[tag] for tag in tags if tag in self._tags]
            if found == name and ranks and spec.contains(version, prereleases=True):
                best = max(best or (version, -min(ranks), path), (version, -min(ranks), path))
        if best is None:
            return False
        self.files[name] = best[2]
        return True

    def pin(self, wanted: _Wanted) -> str:
        """Return what pip is asked for: the version that is installed here, where that will do."""
        here = _installed(wanted.name)
        if here is not None and wanted.spec.contains(here.version, prereleases=True):
            return f"{wanted.name}=={here.version}"
        return f"{wanted.name}{wanted.spec}"

    def requires(self, name: str) -> list[Requirement]:
        """Return what a distribution says that it needs: the wheel itself where it is there."""
        if name in self.files:
            return _requires(_metadata(self.files[name]))
        here = _installed(name)
        return [Requirement(line) for line in (here.requires or [])] if here is not None else []

    def _runs_there(self, here: Distribution) -> bool:
        if _editable(here) is not None:
            return True  # it is built anew, and only pure Python may be: `rebuild` sees to that
        # Built on this machine, for this machine's libraries: nobody promised that it runs anywhere else.
        return any(tag in self._tags and not tag.platform.startswith("linux_") for tag in _tags(here))


def rebuild(here: Distribution, folder: Path) -> Path | None:
    """Return a wheel made from an installed distribution's files, ``None`` where they are not known or not all there.

    An editable installation is built from its source tree.

    Raises:
        WheelsError: that tree is gone or can't be built.
    """
    tree = _editable(here)
    if tree is not None:
        return _built(here, tree, folder)
    tags = _tags(here)
    record = here.read_text("RECORD")
    if not tags or record is None:
        return None
    name = canonicalize_name(here.metadata["Name"]).replace("-", "_")
    python, abi, platform = (
        ".".join(sorted({getattr(tag, part) for tag in tags})) for part in ("interpreter", "abi", "platform")
    )
    path = folder / f"{name}-{here.version}-{python}-{abi}-{platform}.whl"
    lines: list[tuple[str, str, str]] = []
    entry = ""
    with zipfile.ZipFile(path, "w") as archive:
        for relative in _own_files(record):
            try:
                content = Path(str(here.locate_file(relative))).read_bytes()
            except OSError:
                path.unlink()
                return None
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
            lines.append((relative, f"sha256={digest}", str(len(content))))
            archive.writestr(_zip_entry(relative), content)
            if relative.endswith(".dist-info/METADATA"):
                entry = relative.rpartition("/")[0] + "/RECORD"
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([*lines, (entry, "", "")])
        archive.writestr(_zip_entry(entry), text.getvalue())
    return path


def _own_files(record: str) -> Iterator[str]:
    """Yield the files of a RECORD that came in the wheel: below site-packages, nothing that was made there."""
    for row in sorted(csv.reader(record.splitlines())):
        relative = row[0] if row else ""
        folder, _, base = relative.rpartition("/")
        made = relative.endswith(".pyc") or (folder.endswith(".dist-info") and base in _ADDED)
        if relative and not relative.startswith(("..", "/")) and not made:
            yield relative


def _zip_entry(relative: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(relative, _DATE)
    entry.external_attr = 0o644 << 16
    return entry


def _built(here: Distribution, tree: Path, folder: Path) -> Path:
    name = here.metadata["Name"]
    if not (tree / "pyproject.toml").is_file():
        raise WheelsError(
            f"{name} is installed here in editable mode from {tree}, and that folder is gone: install {name} from a "
            "wheel, or put its wheel into a folder and name that with --wheelhouse."
        )
    before = set(folder.glob("*.whl"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--wheel-dir", str(folder), str(tree)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_BUILD_S,
        )
    except subprocess.TimeoutExpired:
        raise WheelsError(f"{name} was not built from {tree} within {_BUILD_S:.0f} s. {_ADVICE}") from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        last = said[-1].removeprefix("ERROR: ").strip()[:_SAID] if said else f"pip ended with {done.returncode}"
        raise WheelsError(f"{name} can't be built from {tree}: {last.rstrip('.')}. {_ADVICE}")
    (made,) = set(folder.glob("*.whl")) - before
    if not made.name.endswith("-none-any.whl"):
        raise WheelsError(f"{name} is installed here in editable mode and holds compiled parts: use --wheelhouse.")
    return made


# ---- what needs what


def _tags_of(target: Target) -> dict[Tag, int]:
    """Return the tags of wheels that run there, each with its rank; 0 is the closest."""
    short = "cp{}{}".format(*target.python)
    tags = [
        *cpython_tags(target.python, [short], target.tags),
        *compatible_tags(target.python, short, target.tags),
    ]
    return {tag: rank for rank, tag in reversed(list(enumerate(tags)))}


def _walk(
    roots: Sequence[Requirement], target: Mapping[str, str], requires: Callable[[str], Sequence[Requirement]]
) -> dict[str, SpecifierSet]:
    """Return the names of all that the roots need there, each with what all of them together say of its version."""
    wanted: dict[str, SpecifierSet] = {}
    waiting, seen = list(roots), set[tuple[str, str]]()
    while waiting:
        each = waiting.pop()
        name = canonicalize_name(each.name)
        wanted[name] = wanted.get(name, SpecifierSet()) & each.specifier
        for extra in ("", *each.extras):
            if (name, extra) not in seen:
                seen.add((name, extra))
                markers = {**target, "extra": extra}
                waiting += [need for need in requires(name) if need.marker is None or need.marker.evaluate(markers)]
    return wanted


def _installed(name: str) -> Distribution | None:
    try:
        return Distribution.from_name(name)
    except PackageNotFoundError:
        return None


def _editable(here: Distribution) -> Path | None:
    """Return the source tree of an editable installation, ``None`` for an ordinary one."""
    raw = json.loads(here.read_text("direct_url.json") or "{}")
    if not raw.get("dir_info", {}).get("editable"):
        return None
    return Path(unquote(urlsplit(str(raw["url"])).path))


def _tags(here: Distribution) -> frozenset[Tag]:
    lines = HeaderParser().parsestr(here.read_text("WHEEL") or "").get_all("Tag", [])
    return frozenset(Tag(*str(line).strip().split("-", 2)) for line in lines)


def _metadata(wheel: Path) -> str:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith(".dist-info/METADATA") and name.count("/") == 1:
                return archive.read(name).decode("utf-8", "replace")
    raise WheelsError(f"{wheel} is no wheel: it has no METADATA.")


def _requires(metadata: str) -> list[Requirement]:
    return [Requirement(str(line)) for line in HeaderParser().parsestr(metadata).get_all("Requires-Dist", [])]
