"""What a user's script shows at its end when something in it can't work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import hpcflow as hf

ROOT = Path(hf.__file__).parents[1]

LATTICE = """\
import hpcflow as hf

@hf.electron
def add(x, y):
    return x + y

@hf.lattice
def flow():
    return add(add, 1)

hf.dispatch(flow)()
"""


def shown(folder: Path, text: str, **environment: str) -> tuple[int, str]:
    """Run a script and return its exit code and its stderr, with ``SCRIPT`` for the script's path."""
    script = folder / "script.py"
    script.write_text(text)
    home = folder / "home"
    ran = subprocess.run(
        [sys.executable, str(script)],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "HPCFLOW_HOME": str(home),
            "HPCFLOW_AUTOSTART": "0",
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return ran.returncode, ran.stderr.replace(str(script), "SCRIPT")


def test_a_mistake_in_a_lattice_is_shown_with_its_line_and_nothing_else(tmp_path: Path) -> None:
    code, said = shown(tmp_path, LATTICE)
    assert code == 1
    first, second, *others = said.splitlines()
    assert first == '  File "SCRIPT", line 9, in flow'
    assert second == "    return add(add, 1)"
    assert others[-1].startswith("The electron 'add' is given <electron add> itself and not its result")
    assert "hpcflow/sdk" not in said
    assert "Traceback" not in said


def test_a_misspelt_annotation_is_shown_with_its_line(tmp_path: Path) -> None:
    code, said = shown(tmp_path, "import hpcflow as hf\n\nsmall = hf.electron(cpus=0)\nsmall(len)\n")
    assert code == 1
    assert said.splitlines()[0] == '  File "SCRIPT", line 4, in <module>'
    assert said.splitlines()[-1] == "The electron 'len': cpus=0 must be between 1 and 4096."


@pytest.mark.parametrize("maker", ["hf.executor.Slurm(cpus=0)", "hf.Retries(1, memory=0)"])
def test_what_is_made_beside_electrons_is_shown_likewise(tmp_path: Path, maker: str) -> None:
    said = shown(tmp_path, f"import hpcflow as hf\n{maker}\n")[1]
    assert said.splitlines()[:2] == ['  File "SCRIPT", line 2, in <module>', f"    {maker}"]
    assert "Traceback" not in said


def test_what_is_no_mistake_in_the_script_is_the_sentence_alone(tmp_path: Path) -> None:
    assert shown(tmp_path, "import hpcflow as hf\nhf.get_result('01K')\n") == (
        1,
        f"No server runs for {tmp_path}/home. Start one with `hpcflow start`.\n",
    )


def test_the_traceback_comes_back_where_it_is_asked_for(tmp_path: Path) -> None:
    said = shown(tmp_path, LATTICE, HPCFLOW_TRACEBACK="1")[1]
    assert said.startswith("Traceback (most recent call last):\n")
    assert "hpcflow/sdk/workflow.py" in said


def test_other_errors_and_other_ways_to_show_them_stay_as_they_are(tmp_path: Path) -> None:
    said = shown(tmp_path, "import hpcflow as hf\nhf.electron(len)\n1 / 0\n")[1]
    assert said.startswith("Traceback (most recent call last):\n")
    assert said.endswith("ZeroDivisionError: division by zero\n")
    own = "import sys\nsys.excepthook = lambda *_: print('mine', file=sys.stderr)\n"
    assert shown(tmp_path, own + LATTICE) == (1, "mine\n")


# ---- calls with other arguments than a function has


@hf.electron
def double(x: int) -> int:
    return 2 * x


@hf.lattice
def sums(a: int, b: int) -> int:
    return double(a) + double(b)


@hf.lattice
def forgets(a: int) -> int:
    return double()  # type: ignore[call-arg]  # what is tested


def test_a_lattice_called_without_an_argument_says_which() -> None:
    with pytest.raises(hf.UserError, match="The lattice 'sums' is called wrongly: missing a required argument: 'b'"):
        sums.build_graph(1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'c'"):
        sums.build_graph(1, b=2, c=3)  # type: ignore[call-arg]


def test_an_electron_called_without_an_argument_says_which() -> None:
    with pytest.raises(hf.UserError, match="The electron 'double' is called wrongly: missing a required argument: 'x'"):
        forgets.build_graph(1)


def test_a_hook_cannot_give_what_the_function_does_not_take() -> None:
    @hf.electron(call_before=[hf.DepsCall(int, retval_keyword="cell")])
    def relax(x: int) -> int:
        return x

    @hf.electron(call_before=[hf.DepsCall(int, retval_keyword="cell")])
    def takes_all(x: int, **more: object) -> int:
        return x

    @hf.lattice
    def one() -> int:
        return relax(1)

    @hf.lattice
    def other() -> int:
        return takes_all(1)

    with pytest.raises(hf.UserError, match="retval_keyword='cell' is no argument of 'relax', which has x"):
        one.build_graph()
    assert len(other.build_graph().graph.tasks) == 1


#: What IPython's InteractiveShell.showtraceback does with an error that nobody caught in a cell.
CELL = """\
import sys

def run(cell):
    try:
        exec(compile(cell, "<ipython-input-1>", "exec"), {"__name__": "__main__"})
    except Exception as error:
        shown = error._render_traceback_() if hasattr(error, "_render_traceback_") else ["as ever"]
        print(chr(10).join(shown), file=sys.stderr)

run("import hpcflow as hf" + chr(10) + "hf.electron(cpus=0)(len)")
run("1 / 0")
"""


def test_a_notebook_shows_a_mistake_as_a_script_does(tmp_path: Path) -> None:
    code, said = shown(tmp_path, CELL)
    assert (code, said.splitlines()) == (
        0,
        [
            '  File "<ipython-input-1>", line 2, in <module>',
            "The electron 'len': cpus=0 must be between 1 and 4096.",
            "as ever",
        ],
    )
    assert "Traceback (most recent call last)" in shown(tmp_path, CELL, HPCFLOW_TRACEBACK="1")[1]
