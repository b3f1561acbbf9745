"""What `import hpcflow` gives, and what it costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import hpcflow as hf

# Where hpcflow is imported from: the checkout, or an installed wheel.
ROOT = Path(hf.__file__).parents[1]


def python(code: str, *paths: Path) -> str:
    start = f"import sys; sys.path[:0] = {[str(path) for path in paths or (ROOT,)]!r}\n"
    ran = subprocess.run([sys.executable, "-I", "-c", start + code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_every_public_name_is_there() -> None:
    assert {name: getattr(hf, name) is not None for name in hf.__all__} == dict.fromkeys(hf.__all__, True)
    assert set(hf.__all__) <= set(dir(hf))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'hpcflow' has no attribute 'elektron'"):
        _ = hf.elektron


def test_importing_hpcflow_loads_none_of_its_parts() -> None:
    assert python("import hpcflow; print([name for name in sys.modules if name.startswith('hpcflow.')])") == "[]\n"


def test_marking_electrons_loads_nothing_of_the_client() -> None:
    loaded = python(
        "import hpcflow as hf; hf.electron(len); hf.Status; print([n for n in sys.modules if 'client' in n])"
    )
    assert loaded == "[]\n"


def test_on_a_compute_node_the_clients_names_say_where_they_belong(tmp_path: Path) -> None:
    for name in ("__init__.py", "sdk/__init__.py", "core/__init__.py"):
        (tmp_path / "hpcflow" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "hpcflow" / name).write_bytes((ROOT / "hpcflow" / name).read_bytes())
    code = "import hpcflow as hf\ntry:\n    hf.dispatch\nexcept AttributeError as error:\n    print(error)"
    assert python(code, tmp_path) == "hpcflow.dispatch is for the machine that dispatches, not for electrons.\n"
