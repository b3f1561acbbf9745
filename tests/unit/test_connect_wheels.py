"""Wheels for the login node: rebuilt from what is installed here where that runs there, or taken from a folder."""

from __future__ import annotations

import asyncio
import json
import sys
import zipfile
from collections.abc import Mapping
from importlib.metadata import Distribution
from pathlib import Path

import pytest
from installer.sources import WheelFile

from hpcflow.connect.wheels import collect, rebuild
from hpcflow.core.model import UserError
from hpcflow.server.wheels import Target, WheelsError
from tests.wheelhouse import make_wheel

FAR = Target((3, 12), "Linux", "aarch64", ("glibc", 2, 28))
MARKERS = {
    "python_version": "3.12",
    "python_full_version": "3.12.1",
    "platform_machine": "aarch64",
    "platform_system": "Linux",
    "sys_platform": "linux",
}


def _collected(
    folder: Path, *roots: str, wheelhouse: Path | None = None, markers: Mapping[str, str] = MARKERS
) -> list[str]:
    said: list[str] = []

    async def tell(sentence: str) -> None:
        said.append(sentence)

    folder.mkdir(exist_ok=True)
    wheels = asyncio.run(collect(roots, FAR, markers, folder, wheelhouse=wheelhouse, tell=tell))
    assert said == []  # nothing was fetched
    return [wheel.name for wheel in wheels]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of installed packages that this Python sees."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


def _install(wheel: Path, site: Path) -> Distribution:
    """Unpack a pure wheel as pip does."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    about = next(site.glob(f"{wheel.name.partition('-')[0]}-*.dist-info"))
    (about / "INSTALLER").write_text("pip\n")
    with (about / "RECORD").open("a") as record:
        record.write(f"{about.name}/INSTALLER,,\n__pycache__/x.cpython-312.pyc,,\n../../bin/x,,\n")
    return Distribution.at(about)


def test_an_installed_package_becomes_the_wheel_that_it_came_from(installed: Path, tmp_path: Path) -> None:
    here = _install(make_wheel(tmp_path / "house", "pure", "2.5", "answer = 42", script="pure"), installed)
    made = rebuild(here, tmp_path)
    assert made is not None
    assert made.name == "pure-2.5-py3-none-any.whl"
    with WheelFile.open(made) as wheel:
        wheel.validate_record()
        files = sorted(str(element[0][0]) for element in wheel.get_contents())
    about = "pure-2.5.dist-info"
    assert files == [f"{about}/METADATA", f"{about}/RECORD", f"{about}/WHEEL", f"{about}/entry_points.txt", "pure.py"]
    first = made.read_bytes()
    assert rebuild(here, tmp_path) == made
    assert made.read_bytes() == first


def test_what_is_not_all_there_is_not_rebuilt(installed: Path, tmp_path: Path) -> None:
    here = _install(make_wheel(tmp_path / "house", "pure"), installed)
    (installed / "pure.py").unlink()
    assert rebuild(here, tmp_path) is None
    assert list(tmp_path.glob("*.whl")) == []


def test_what_is_needed_there_goes_along_and_what_only_this_machine_needs_does_not(
    installed: Path, tmp_path: Path
) -> None:
    needs = ["arms; platform_machine=='aarch64'", "winds; sys_platform=='win32'", "extras; extra=='more'"]
    for name, wants in (("top", needs), ("arms", ["deep>=1"]), ("winds", []), ("extras", []), ("deep", ["top"])):
        _install(make_wheel(tmp_path / "house", name, needs=wants), installed)
    names = [f"{name}-1.0-py3-none-any.whl" for name in ("arms", "deep", "top")]
    assert _collected(tmp_path / "one", "top==1.0") == names
    assert _collected(tmp_path / "two", "top[more]==1.0") == sorted([*names, "extras-1.0-py3-none-any.whl"])


def test_a_wheelhouse_comes_first_with_the_newest_wheel_that_runs_there(installed: Path, tmp_path: Path) -> None:
    _install(make_wheel(tmp_path / "house", "pure", "1.0"), installed)
    shelf = tmp_path / "shelf"
    make_wheel(shelf, "pure", "1.1")
    for tag in (
        "cp312-cp312-manylinux_2_17_aarch64",
        "cp312-cp312-manylinux_2_39_aarch64",
        "cp311-cp311-linux_aarch64",
    ):
        make_wheel(shelf, "pure", "1.2", tag=tag)
    make_wheel(shelf, "pure", "2.0")
    (shelf / "notes.whl").write_text("no wheel")
    assert _collected(tmp_path / "made", "pure<2", wheelhouse=shelf) == [
        "pure-1.2-cp312-cp312-manylinux_2_17_aarch64.whl"
    ]
    with pytest.raises(UserError, match="is no folder"):
        _collected(tmp_path / "made", "pure", wheelhouse=tmp_path / "none")


def test_what_is_built_for_this_machine_is_not_sent_to_another(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = tmp_path / "house"
    for tag in ("cp312-cp312-linux_aarch64", "cp312-cp312-manylinux_2_34_aarch64"):
        _install(make_wheel(house, "built", tag=tag), installed)
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
        with pytest.raises(AssertionError, match=r"Fetches wheels for Python 3\.12 on Linux aarch64"):
            _fetching(tmp_path / "made")
        for file in installed.glob("built*/*"):
            file.unlink()
        next(installed.glob("built-*")).rmdir()


def _fetching(folder: Path) -> None:
    async def tell(sentence: str) -> None:
        raise AssertionError(sentence)

    folder.mkdir(exist_ok=True)
    asyncio.run(collect(["built==1.0"], FAR, MARKERS, folder, tell=tell))


def test_without_a_network_the_sentence_names_the_wheelhouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PATH", "")

    async def tell(_: str) -> None:
        pass

    with pytest.raises(WheelsError, match=r"hpcflow-no-such-package.*Put wheels into a folder.*--wheelhouse"):
        asyncio.run(collect(["hpcflow-no-such-package==1.0"], FAR, MARKERS, tmp_path, tell=tell))


def test_an_editable_installation_without_its_tree_is_a_sentence(installed: Path, tmp_path: Path) -> None:
    here = _install(make_wheel(tmp_path / "house", "pure"), installed)
    gone = tmp_path / "no such folder"
    direct = {"url": gone.as_uri(), "dir_info": {"editable": True}}
    (installed / "pure-1.0.dist-info/direct_url.json").write_text(json.dumps(direct))
    with pytest.raises(WheelsError) as raised:
        rebuild(here, tmp_path)
    assert str(raised.value).startswith(f"pure is installed here in editable mode from {gone}, and that folder is gone")


def test_this_interpreters_own_tags_are_among_those_that_run_here() -> None:
    from packaging.tags import sys_tags

    from hpcflow.connect.wheels import _tags_of

    here = _tags_of(Target.here())
    own = [tag for tag in sys_tags() if tag.interpreter == f"cp{sys.version_info[0]}{sys.version_info[1]}"]
    assert own
    assert set(own) <= set(here)
