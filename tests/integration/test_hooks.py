"""What runs around tasks: commands, calls, modules and packages that come along, in Covalent's names and order."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.integration.world import User
from tests.wheelhouse import make_wheel

HEAD = """
import json
import os
import sys

import hpcflow as hf

def note(ledger, what):
    with open(ledger, "a") as file:
        file.write(what + "\\n")
    return what

ledger = sys.argv[1]
"""


def test_hooks_run_in_covalent_s_order_in_the_task_s_process_and_its_directory(user: User) -> None:
    ledger = user.folder / "ledger"
    printed = user.runs(
        HEAD
        + """
@hf.electron(
    deps_bash=[f"echo bash1 >>{ledger}", hf.DepsBash([f"pwd >>{ledger}"])],
    call_before=[
        hf.DepsCall(note, [ledger, "before1"], retval_keyword="told"),
        hf.DepsCall(lambda: os.getpid(), retval_keyword="pid"),
        hf.DepsCall(note, kwargs={"ledger": ledger, "what": "before2"}, retval_keyword="told"),
        f"echo step >>{ledger}",
    ],
    call_after=[hf.DepsCall(note, args=[ledger, "after"])],
)
def task(x, *, told, pid):
    note(ledger, f"task {x}")
    return told, pid == os.getpid(), os.getcwd()

@hf.lattice(executor="local", call_after=lambda: 1 / 0)
def flow():
    return task(7)

result = hf.dispatch_sync(flow)()
print(json.dumps([result.status, result.error, result.result]))
""",
        str(ledger),
    )
    status, error, result = json.loads(printed)

    assert (status, error) == ("COMPLETED", None)
    assert result[:2] == [["before1", "before2"], True]
    assert ledger.read_text().splitlines() == ["bash1", result[2], "before1", "before2", "step", "task 7", "after"]


def test_a_lattice_s_hooks_hold_for_its_electrons_and_those_of_its_sublattices(user: User) -> None:
    ledger = user.folder / "ledger"
    printed = user.runs(
        HEAD
        + """
@hf.electron
def plain(x):
    return x

@hf.electron(deps_bash=[])
def bare(x):
    return x

@hf.electron(call_before=hf.DepsCall(note, [ledger, "building"]))
@hf.lattice
def inner(n):
    return [plain(i) for i in range(n)]

@hf.lattice(executor="local", deps_bash=f"echo lattice >>{ledger}")
def flow():
    return inner(bare(2))

print(hf.dispatch_sync(flow)().result)
""",
        str(ledger),
    )

    assert printed == "[0, 1]"
    assert ledger.read_text().splitlines() == ["building", "lattice", "lattice"]


def test_a_hook_that_fails_fails_its_task_with_a_sentence(user: User) -> None:
    printed = user.runs(
        HEAD
        + """
@hf.electron(deps_bash="echo no such thing >&2; exit 3")
def first():
    return 1

@hf.electron(call_before=hf.DepsCall(lambda: {}["key"]))
def second():
    return 2

@hf.electron(call_after=["true", "kill -9 $$"])
def third():
    print("ran")
    return 3

@hf.electron
def fourth():
    return open(__file__)

@hf.lattice(executor="local")
def flow():
    return first(), second(), third(), fourth()

result = hf.dispatch_sync(flow)()
nodes = result.tasks()
print(json.dumps([node.error for node in nodes]))
print(json.dumps([nodes[0].stderr.splitlines()[0], nodes[2].stdout]))
print(type(nodes[0].exception).__name__)
for wrong in ({"deps_bash": 3}, {"call_before": 4}, {"deps_module": "no_such_module"}, {"deps_pip": [""]}):
    try:
        hf.electron(**wrong)(lambda: 1)
    except hf.UserError as error:
        print(error)
""",
        "unused",
    )
    errors, told, kind, *refusals = printed.splitlines()

    *of_hooks, opened = json.loads(errors)
    assert of_hooks == [
        "HookFailed: deps_bash: 'echo no such thing >&2; exit 3' ended with exit code 3; what it wrote is in the "
        "task's output.",
        "KeyError: 'key' (raised by call_before, <lambda>)",
        "HookFailed: call_after: 'kill -9 $$' was killed by signal 9; what it wrote is in the task's output.",
    ]
    assert opened.startswith(
        "ResultNotPicklable: The result of fourth is of type _io.TextIOWrapper and can't be pickled: "
    )
    assert "can't travel: pass its path or what is in it, or bring it by files=" in opened
    assert json.loads(told) == ["no such thing", "ran\n"]
    assert kind == "HookFailed"
    assert refusals == [
        "The electron 'lambda': deps_bash: 3 must be a text.",
        "The electron 'lambda': call_before=4 must be a DepsCall, a function, a shell command, or a list of them.",
        "The electron 'lambda': The module 'no_such_module' can't be imported here, so it can't travel: No module "
        "named 'no_such_module'.",
        "The electron 'lambda': deps_pip: '' must be a text.",
    ]


def test_modules_travel_and_packages_are_installed_once(own_server: Callable[..., User], tmp_path: Path) -> None:
    house = tmp_path / "wheelhouse"
    make_wheel(house, "thing", "1.5", "VALUE = 42")
    user = own_server(HPCFLOW_WHEELHOUSE=str(house))
    (user.folder / "site-packages").mkdir()
    (user.folder / "site-packages" / "installed.py").write_text("def answer():\n    return 'by value'\n")
    printed = user.runs(
        """
import sys

import hpcflow as hf

sys.path.append(sys.argv[1])

@hf.electron(deps_pip=hf.DepsPip(packages=["thing==1.5"]), deps_module="installed")
def both(i):
    import installed
    import thing

    return thing.VALUE + i, installed.answer(), installed.__file__ in sys.modules

@hf.lattice(executor="local")
def flow():
    return both(0), both(1)

result = hf.dispatch_sync(flow)()
print(result.result, result.error)
again = hf.dispatch_sync(flow)()
print(again.status)
""",
        str(user.folder / "site-packages"),
    )

    assert printed.splitlines() == ["((42, 'by value', False), (43, 'by value', False)) None", "COMPLETED"]
    assert user.log().count("packages installed") <= 1
