"""Wheels for another machine, and the environments that are made of them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from hpcflow.server.wheels import TARGET_CODE, Target, WheelsError, fetched, parse_target, wheel_files
from hpcflow.server.zipapp import build_environment_maker
from tests.processes import killed
from tests.wheelhouse import make_wheel, own_tag

GLIBC_2_28 = Target((3, 12), "Linux", "x86_64", ("glibc", 2, 28))


def names_of(requirements: Sequence[str], house: Path, target: Target) -> list[str]:
    async def fetch() -> list[str]:
        async with fetched(requirements, target, wheelhouse=str(house)) as wheels:
            return [wheel.name for wheel in wheels]

    return asyncio.run(fetch())


# ---- which machine


def test_a_machine_takes_wheels_for_its_glibc_and_older_ones() -> None:
    tags = GLIBC_2_28.tags
    assert tags[0] == "manylinux_2_28_x86_64"
    assert "manylinux_2_29_x86_64" not in tags
    assert tags.index("manylinux_2_17_x86_64") + 1 == tags.index("manylinux2014_x86_64")
    assert tags[-3:] == ("manylinux_2_5_x86_64", "manylinux1_x86_64", "linux_x86_64")


def test_an_arm_machine_has_no_tags_from_before_arm() -> None:
    tags = replace(GLIBC_2_28, machine="aarch64").tags
    assert "manylinux2014_aarch64" in tags
    assert not [tag for tag in tags if tag.startswith(("manylinux1_", "manylinux2010"))]


def test_musl_takes_wheels_for_musl() -> None:
    assert Target((3, 12), "Linux", "x86_64", ("musl", 1, 2)).tags == (
        "musllinux_1_2_x86_64",
        "musllinux_1_1_x86_64",
        "musllinux_1_0_x86_64",
    )


def test_an_interpreter_tells_what_it_is_among_whatever_login_scripts_print() -> None:
    said = subprocess.run([sys.executable, "-c", TARGET_CODE], capture_output=True, check=True).stdout
    assert parse_target(b"Welcome to \xff!\r\n" + said + b"bye\n") == Target.here()
    assert parse_target(b"hpcflow-target 3.12 Linux x86_64 unknown\n") == replace(GLIBC_2_28, libc=None)
    assert parse_target(b"sh: python: not found\n") is None


# ---- fetching


def test_what_a_requirement_needs_comes_along(tmp_path: Path) -> None:
    make_wheel(tmp_path, "outer", needs=["inner>=2"])
    make_wheel(tmp_path, "inner", "1.0")
    make_wheel(tmp_path, "inner", "2.5")
    assert names_of(["outer"], tmp_path, Target.here()) == ["inner-2.5-py3-none-any.whl", "outer-1.0-py3-none-any.whl"]


def test_wheels_are_chosen_for_the_other_machine_and_its_python(tmp_path: Path) -> None:
    for tag in ("cp312-cp312-manylinux_2_17_x86_64", "cp312-cp312-manylinux_2_28_aarch64"):
        make_wheel(tmp_path, "compiled", tag=tag)
    make_wheel(tmp_path, "compiled", "2.0", tag="cp312-cp312-manylinux_2_34_x86_64")
    old = "compiled-1.0-cp312-cp312-manylinux_2_17_x86_64.whl"
    assert names_of(["compiled"], tmp_path, GLIBC_2_28) == [old]
    with pytest.raises(WheelsError, match=r"Not all wheels for Python 3\.13 on Linux x86_64 with glibc 2\.28"):
        names_of(["compiled"], tmp_path, replace(GLIBC_2_28, python=(3, 13)))


@pytest.mark.skipif(shutil.which("uv", path=os.path.dirname(sys.executable)) is None, reason="needs uv")
def test_markers_count_for_the_other_python_where_uv_is_there(tmp_path: Path) -> None:
    for name in ("old", "new", "here"):
        make_wheel(tmp_path, name)
    other = replace(GLIBC_2_28, python=(3, 99), machine="aarch64")
    asked = ["new ; python_version >= '3.99'", "old ; python_version < '3.99'", "here ; platform_machine == 'aarch64'"]
    assert names_of(asked, tmp_path, other) == ["here-1.0-py3-none-any.whl", "new-1.0-py3-none-any.whl"]


def test_a_requirement_that_is_nowhere_is_told_with_the_words_of_pip(tmp_path: Path) -> None:
    make_wheel(tmp_path, "thing")
    with pytest.raises(WheelsError, match=r"in the wheelhouse .*No matching distribution found for nowhere==3"):
        names_of(["thing", "nowhere==3"], tmp_path, Target.here())


def test_a_wheelhouse_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(WheelsError, match="HPCFLOW_WHEELHOUSE"):
        names_of(["thing"], tmp_path / "nowhere", Target.here())


def test_a_large_wheel_travels_in_pieces(tmp_path: Path) -> None:
    data = os.urandom(2_500_000)
    (tmp_path / "a.whl").write_bytes(data)
    (file,) = wheel_files([tmp_path / "a.whl"])
    assert file.name == "a.whl"
    assert b"".join(file.pieces) == data
    assert [len(piece) for piece in file.pieces] == [1 << 20, 1 << 20, 2_500_000 - (2 << 20)]


# ---- building


def maker(tmp_path: Path) -> list[str]:
    app = tmp_path / "environment.pyz"
    app.write_bytes(build_environment_maker()[1])
    return [sys.executable, "-I", str(app)]


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False)


def says(folder: Path, program: str, **environment: str) -> str:
    done = subprocess.run(
        [str(folder / "bin/python"), "-c", program],
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_an_environment_has_its_packages_and_their_commands(tmp_path: Path) -> None:
    house = tmp_path / "wheels"
    make_wheel(house, "thing", "1.5", "def main():\n    print('it runs')", tag=own_tag(), script="do-thing")
    folder = tmp_path / "envs" / "key"
    done = run(*maker(tmp_path), folder, house, "alone")
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        says(folder, "import thing, importlib.metadata as m; print(thing.__version__, m.version('thing'))") == "1.5 1.5"
    )
    assert run(folder / "bin/do-thing").stdout == "it runs\n"
    record = json.loads((folder / "hpcflow.json").read_text())
    assert record["wheels"] == [f"thing-1.5-{own_tag()}.whl"]
    assert not house.exists()
    assert sorted(path.name for path in folder.parent.iterdir()) == ["key", "key.lock"]


def test_its_own_packages_go_before_those_below_and_those_of_pythonpath(tmp_path: Path) -> None:
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "thing.py").write_text("__version__ = 'of a module'")
    (modules / "other.py").write_text("")
    for alone in ("alone", ""):
        house = tmp_path / "wheels"
        make_wheel(house, "thing", "1.5")
        folder = tmp_path / f"env-{alone}"
        assert run(*maker(tmp_path), folder, house, *([alone] if alone else [])).returncode == 0
        program = (
            "import thing, importlib.util as u;"
            "print(thing.__version__, bool(u.find_spec('other')), bool(u.find_spec('pytest')))"
        )
        seen = says(folder, program, PYTHONPATH=str(modules))
        assert seen == ("1.5 False False" if alone else "1.5 True True")


def test_of_many_that_build_one_does_and_no_half_is_ever_used(tmp_path: Path) -> None:
    app, folder = maker(tmp_path), tmp_path / "envs" / "key"
    houses = [tmp_path / f"wheels-{number}" for number in range(4)]
    for house in houses:
        for number in range(20):
            make_wheel(house, f"package{number}", source="x = 1\n" * 200)
    stale = folder.parent / "key.part-left-by-one-that-was-killed"
    stale.mkdir(parents=True)
    builders = [subprocess.Popen([*app, str(folder), str(house), "alone"]) for house in houses]
    try:
        while any(builder.poll() is None for builder in builders):
            if folder.exists():  # whole, from the first moment on
                assert (folder / "lib").exists() and (folder / "hpcflow.json").exists()
        assert [builder.returncode for builder in builders] == [0, 0, 0, 0]
    finally:
        for builder in builders:
            killed(builder)
    assert says(folder, "import package0, package19; print(package19.x)") == "1"
    assert sorted(path.name for path in folder.parent.iterdir()) == ["key", "key.lock"]
    assert not any(house.exists() for house in houses)


def test_a_damaged_wheel_leaves_nothing_behind(tmp_path: Path) -> None:
    house = tmp_path / "wheels"
    make_wheel(house, "fine")
    (house / "broken-1.0-py3-none-any.whl").write_bytes(b"no zip at all")
    folder = tmp_path / "envs" / "key"
    done = run(*maker(tmp_path), folder, house)
    assert (done.returncode, done.stderr) == (70, "BadZipFile: File is not a zip file\n")
    assert [path.name for path in folder.parent.iterdir()] == ["key.lock"]
    assert not house.exists()
