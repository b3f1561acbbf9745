"""The user's own modules on their way to a compute node that has none of them, and what comes back."""

# a lattice is a function that calls electrons, however short

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hpcflow as hf
from hpcflow.core.model import UserError
from hpcflow.sdk.by_value import travels_by_value
from hpcflow.sdk.trace import Traced
from hpcflow.sdk.workflow import dumps, load_with

# Where hpcflow is imported from: the checkout, or an installed wheel.
ROOT = Path(hf.__file__).parents[1]

PROJECT = {
    "hfproject/__init__.py": "from hfproject import shapes\nUNIT = 'eV'\n",
    "hfproject/shapes.py": """
import enum
import logging
import typing
from dataclasses import dataclass
import hfproject

T = typing.TypeVar("T")
logger = logging.getLogger(__name__)

class Kind(enum.Enum):
    FCC = 1
    BCC = 2

class Unstable(Exception):
    pass

@dataclass
class Cell:
    kind: Kind
    size: float
    made = 0
    def volume(self) -> float:
        return cube(self.size)
    class Site:
        def __init__(self, at): self.at = at

class Large(Cell):
    def volume(self):
        return super().volume() * 8

def cube(x: T) -> T:
    return x * x * x

def unit():
    return hfproject.UNIT
""",
    "hfproject/late.py": "def triple(x): return 3 * x\n",
    "hfproject/lazy.py": "def double(x): return 2 * x\nclass Late:\n    def __init__(self, x): self.x = x\n",
    "hfproject/steps.py": """
import hpcflow as hf
from hfproject import shapes
import hfproject.shapes
from hfproject.shapes import Cell, Kind, Large, unit

@hf.electron
def relax(cell):
    assert isinstance(cell, Cell), type(cell)
    assert cell.kind is Kind.FCC and cell.kind in Kind
    assert isinstance(cell, hfproject.shapes.Cell) and shapes.Cell is Cell
    return Large(Kind.BCC, cell.volume()), unit(), Cell.Site(3)

@hf.electron
def check(relaxed):
    cell, text, site = relaxed
    assert isinstance(cell, Large) and isinstance(cell, Cell) and cell.kind is Kind.BCC
    assert isinstance(site, Cell.Site)
    return cell.volume(), text, cell

@hf.electron
def fail():
    raise shapes.Unstable("melted")

@hf.electron
def imports_late(x):
    import hfproject.late
    from hfproject import lazy as renamed
    from .lazy import double
    def inner():
        from hfproject.shapes import cube
        return cube(x)
    return [hfproject.late.triple(x), renamed.double(x), double(x), inner(), hfproject.lazy.Late(x)]

@hf.lattice
def workflow():
    relaxed = relax(Cell(Kind.FCC, 2.0))
    return relaxed, check(relaxed)
""",
}

ALL_OF_IT = ("hfproject", "hfproject.late", "hfproject.lazy", "hfproject.shapes", "hfproject.steps")

NODE = """
import pickle, sys
sys.path.insert(0, sys.argv[1])
from hpcflow.sdk.workflow import dumps, load_with
tasks, blobs = pickle.load(sys.stdin.buffer)
results = {}
for index, (fn, args) in enumerate(tasks):
    function = load_with(blobs[fn])
    arguments, named = load_with(blobs[args], lambda i: load_with(results[i]))
    try:
        value = function(*arguments, **named)
    except Exception as error:
        value = error
    results[index] = dumps(value)
assert all(module.__spec__ is None for name, module in sys.modules.items() if name.startswith("hfproject"))
pickle.dump(results, sys.stdout.buffer)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The user's package, imported from a folder that only this process knows."""
    for name, text in PROJECT.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("hfproject.steps")
    for name in [name for name in sys.modules if name.split(".")[0] == "hfproject"]:
        del sys.modules[name]


def on_a_node(traced: Traced) -> dict[int, bytes]:
    """Return the results' pickles of a lattice that ran in a fresh, isolated interpreter."""
    tasks = [(task.fn, task.args) for task in traced.graph.tasks]
    ran = subprocess.run(
        [sys.executable, "-I", "-c", NODE, str(ROOT)],
        input=pickle.dumps((tasks, traced.blobs)),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr.decode()
    results: dict[int, bytes] = pickle.loads(ran.stdout)
    return results


def test_a_package_of_the_users_runs_where_it_is_not_installed(project: Any) -> None:
    traced = project.workflow.build_graph()
    results = on_a_node(traced)
    assert load_with(results[1])[:2] == (4096.0, "eV")
    # A module that is named as a whole goes as a whole: the package knows all of them.
    assert traced.modules_by_value == ALL_OF_IT


def test_values_come_back_as_the_classes_that_the_client_knows(project: Any) -> None:
    shapes = sys.modules["hfproject.shapes"]
    volume = shapes.Cell.volume
    results = on_a_node(project.workflow.build_graph())
    cell, _, site = load_with(results[0])
    assert (type(cell), type(site), cell.kind) == (shapes.Large, shapes.Cell.Site, shapes.Kind.BCC)
    assert cell == shapes.Large(shapes.Kind.BCC, 8.0)
    assert shapes.Cell.volume is volume


def test_an_exception_comes_back_as_the_class_that_the_client_knows(project: Any) -> None:
    raised = load_with(on_a_node(hf.lattice(lambda: project.fail()).build_graph())[0])
    with pytest.raises(sys.modules["hfproject.shapes"].Unstable, match="melted"):
        raise raised


def test_modules_that_a_function_imports_when_it_runs_go_along(project: Any) -> None:
    traced = hf.lattice(lambda: project.imports_late(5)).build_graph()
    *numbers, late = load_with(on_a_node(traced)[0])
    assert numbers == [15, 10, 10, 125]
    assert (type(late), late.x) == (importlib.import_module("hfproject.lazy").Late, 5)
    assert traced.modules_by_value == ALL_OF_IT


def test_an_import_behind_hundreds_of_constants_is_seen(project: Any) -> None:
    lines = "\n".join(f"    n = {number}.5\n    v{number} = n" for number in range(300))
    scope: dict[str, Any] = {"__package__": "hfproject"}
    exec(f"def late():\n{lines}\n    from .lazy import double\n    return double(n)", scope)
    traced = hf.lattice(lambda: hf.electron(scope["late"])()).build_graph()
    assert traced.modules_by_value == ALL_OF_IT
    assert load_with(on_a_node(traced)[0]) == 599.0


def test_an_import_of_an_installed_module_inside_a_function_loads_nothing_here() -> None:
    def late() -> object:
        import wsgiref.validate  # nothing else imports it

        return wsgiref.validate

    assert "wsgiref" not in sys.modules
    hf.lattice(lambda: hf.electron(late)()).build_graph()
    assert "wsgiref" not in sys.modules


CLIENT = """
import pickle, sys
sys.path[:0] = sys.argv[1:]
from hpcflow.sdk.workflow import load_with
cell, text, site = load_with(sys.stdin.buffer.read())
print(type(cell).__module__, type(cell).__name__, cell.size, "hfproject.shapes" in sys.modules, end=" ")
if len(sys.argv) > 2:
    from hfproject.shapes import Cell, Kind
    print(isinstance(cell, Cell), cell.kind is Kind.BCC, isinstance(site, Cell.Site))
"""


@pytest.mark.parametrize(
    ("knows_the_project", "expected"),
    [
        (True, "hfproject.shapes Large 8.0 True True True True"),
        (False, "hfproject.shapes Large 8.0 False"),
    ],
)
def test_a_later_session_gets_its_own_classes_and_any_session_gets_the_values(
    project: Any, tmp_path: Path, knows_the_project: bool, expected: str
) -> None:
    result = on_a_node(project.workflow.build_graph())[0]
    paths = [str(ROOT), str(tmp_path)] if knows_the_project else [str(ROOT)]
    ran = subprocess.run([sys.executable, "-I", "-c", CLIENT, *paths], input=result, capture_output=True, check=False)
    assert (ran.stdout.decode().strip(), ran.stderr.decode()) == (expected, "")


SCRIPT = """
import sys
sys.path[:0] = sys.argv[1:2]
import pickle
from dataclasses import dataclass
import hpcflow as hf

@dataclass
class Point:
    x: int

@hf.electron
def helper(x):
    return Point(x)

@hf.electron
def make(x):
    return helper(x + 1)

@hf.lattice
def workflow():
    return make(1)

if sys.argv[2] == "trace":
    traced = workflow.build_graph()
    pickle.dump(traced, sys.stdout.buffer)
else:
    from hpcflow.sdk.workflow import load_with
    value = load_with(sys.stdin.buffer.read())
    print(isinstance(value, Point), value.x)
"""


def test_classes_of_a_script_are_found_again_when_the_script_runs_again(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)

    def run(what: str, stdin: bytes = b"") -> bytes:
        command = [sys.executable, "-I", str(script), str(ROOT), what]
        return subprocess.run(command, input=stdin, capture_output=True, check=True).stdout

    traced: Traced = pickle.loads(run("trace"))
    assert traced.modules_by_value == ()
    assert run("read", on_a_node(traced)[0]) == b"True 2\n"


def test_a_module_with_something_unpicklable_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hflocked.py").write_text("import threading\nlock = threading.Lock()\ndef f(): return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    hflocked = importlib.import_module("hflocked")
    try:
        with pytest.raises(UserError, match=r"can't be sent because of 'hflocked', which it uses: cannot pickle"):
            hf.lattice(lambda: hf.electron(lambda: hflocked.f())()).build_graph()
    finally:
        del sys.modules["hflocked"]


@pytest.mark.parametrize("module", ["os", "json.decoder", "cloudpickle", "pytest", "hypothesis", "hpcflow.core.model"])
def test_installed_modules_travel_by_name(module: str) -> None:
    importlib.import_module(module)
    assert not travels_by_value(module)


def test_a_test_module_travels_by_value() -> None:
    assert travels_by_value(__name__)


def test_nothing_of_cloudpickles_registry_changes(project: Any) -> None:
    cloudpickle = importlib.import_module("cloudpickle")
    project.workflow.build_graph()
    assert cloudpickle.list_registry_pickle_by_value() == set()


def test_a_value_without_placeholders_is_opened_without_results() -> None:
    value = {"a": [1, (2.5, None)], "b": b"x" * 1000}
    assert load_with(dumps(value)) == value


def test_a_pickle_with_placeholders_says_so_to_plain_pickle() -> None:
    data = hf.lattice(lambda: hf.electron(len)(hf.electron(list)())).build_graph()
    with pytest.raises(UserError, match="can only be opened where the results are"):
        pickle.loads(data.blobs[data.graph.tasks[1].args])


def test_an_open_file_is_refused_instead_of_arriving_as_something_else(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("text")
    with (
        (tmp_path / "notes").open() as file,
        pytest.raises(pickle.PicklingError, match=r"the open file '.*notes' can't travel: pass its path"),
    ):
        dumps([file])
