"""What an installation has to bring along, from a wheel and under ``pip install -e`` alike."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points, version
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[2]


def in_a_new_python(code: str, folder: Path) -> str:
    """Run ``code`` where neither checkout nor tests can be imported, and return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


SCHEDULERS = ("local", "lsf", "pbs", "slurm")


@pytest.mark.parametrize("package", ["hpcflow", "hpcflow_templates", *(f"hpcflow_{name}" for name in SCHEDULERS)])
def test_every_package_is_found_from_any_folder_and_typed(package: str, tmp_path: Path) -> None:
    code = f"from importlib.resources import files; print((files({package!r}) / 'py.typed').is_file())"
    assert in_a_new_python(code, tmp_path).strip() == "True"


def test_the_executors_are_found_by_their_entry_points() -> None:
    found = {point.name: point.load().name for point in entry_points(group="hpcflow.executors")}
    assert found == {name: name for name in SCHEDULERS}


def test_the_batch_templates_and_the_page_are_installed() -> None:
    for name in ("lsf", "pbs", "slurm"):
        assert (files("hpcflow_templates") / "batch" / f"{name}.mustache").read_text().startswith("#!")
    assert (files("hpcflow.server") / "static" / "index.html").is_file()


def test_the_command_says_the_version_of_the_distribution(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("hpcflow")
    done = subprocess.run([command, "--version"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f"hpcflow {version('hpcflow-orchestrator')}\n"


def test_importing_hpcflow_brings_nothing_heavy(tmp_path: Path) -> None:
    code = "import json, sys; import hpcflow; print(json.dumps(sorted(sys.modules)))"
    loaded = set(json.loads(in_a_new_python(code, tmp_path)))
    assert not loaded & {"asyncio", "cloudpickle", "fastapi", "networkx", "psij", "pydantic", "rich", "sqlalchemy"}


# In CPU time, which others' load hardly changes.


def test_importing_hpcflow_takes_less_than_150_ms(tmp_path: Path) -> None:
    code = "import time; start = time.process_time(); import hpcflow; print(time.process_time() - start)"
    assert min(float(in_a_new_python(code, tmp_path)) for _ in range(5)) < 0.15


def test_help_takes_less_than_300_ms(tmp_path: Path) -> None:
    code = (
        "import contextlib, io, time; start = time.process_time()\n"
        "from hpcflow.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): main(['--help'])\n"
        "print(time.process_time() - start)"
    )
    assert min(float(in_a_new_python(code, tmp_path)) for _ in range(5)) < 0.3


def test_the_lock_covers_every_dependency_and_names_public_hosts_only() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(line for extra in extras for line in extra)]
    lock = (ROOT / "uv.lock").read_text()
    locked = {package["name"] for package in tomllib.loads(lock)["package"]}
    assert {re.split(r"[\[<>=]", line)[0] for line in wanted} <= locked
    assert {urlsplit(url).hostname for url in re.findall(r'"(https?://[^"]+)"', lock)} == {
        "pypi.org",
        "files.pythonhosted.org",
    }


def test_every_dependency_has_a_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [line for line in project["dependencies"] if not re.search(r">=[\d.]+,<[\d.]+$", line)] == []
