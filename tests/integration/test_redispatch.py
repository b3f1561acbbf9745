"""A dispatch that runs once more: as it was, with other arguments, with other electrons."""

from __future__ import annotations

from pathlib import Path

from hpcflow.sdk.connection import Server
from tests.integration.world import User, lines, until

FLOW = """
import sys

import hpcflow as hf

@hf.electron
def scaled(x, factor):
    return x * factor

@hf.electron
def added(a, b):
    return a + b

@hf.lattice(executor="local")
def flow(x, *, factor=2, offset=100):
    return added(scaled(x, factor), offset)
"""


def test_new_arguments_take_the_place_of_stored_ones_and_the_others_stay(user: User) -> None:
    first = user.runs(f"{FLOW}\nprint(hf.get_result(hf.dispatch(flow)(1, factor=3), wait=True).dispatch_id)")
    # Neither the lattice nor an electron of it is known to this program.
    printed = user.runs(
        """
import sys

import hpcflow as hf

@hf.electron
def doubled(x, factor):
    return 2 * x * factor

def ran(again, *args, **kwargs):
    return hf.get_result(again(*args, **kwargs), wait=True).result

first = sys.argv[1]
as_it_was = hf.redispatch(first)()
assert as_it_was != first
print(hf.get_result(as_it_was, wait=True).result, ran(hf.redispatch(first[:12].lower() + first[12:]), 5))
other = hf.redispatch(first, replace_electrons={"scaled": doubled})()
print(hf.get_result(other, wait=True).result, ran(hf.redispatch(other), offset=0))
print(ran(hf.redispatch(other, replace_electrons={"doubled": hf.electron(lambda x, factor: -x)})))
print(hf.get_result(first).result)
""",
        first,
    )
    assert printed.splitlines() == ["103 115", "106 6", "99", "103"]


def test_electrons_are_replaced_inside_of_sublattices_however_deep(user: User) -> None:
    first = user.runs("""
import hpcflow as hf

@hf.electron
def step(x):
    return x + 1

@hf.electron
def plain(x):
    return x

@hf.electron
@hf.lattice
def walk(x, left):
    return walk(step(x), left - 1) if left else plain(x)

@hf.lattice(executor="local")
def flow(x, left=2):
    return step(x), walk(x, left)

print(hf.get_result(hf.dispatch(flow)(0), wait=True).dispatch_id)
""")
    ended = user.tries(
        """
import sys

import hpcflow as hf

def ran(again, *args, **kwargs):
    result = hf.get_result(again(*args, **kwargs), wait=True)
    print(result.result, result.error)
    return result.dispatch_id

far = hf.electron(lambda x: x + 10)
second = ran(hf.redispatch(sys.argv[1], replace_electrons={"step": far}))
ran(hf.redispatch(second, replace_electrons={"plain": hf.electron(lambda x: -x)}, reuse_previous_results=True), left=3)
try:
    hf.redispatch(sys.argv[1], replace_electrons={"stop": far})()
except hf.UserError as error:
    print(error)
""",
        first,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == [
        "(10, 20) None",
        "(10, -30) None",
        "The lattice 'flow' calls no electron 'stop' that could be replaced; it calls step, walk, and its sublattices "
        "call plain, step, walk.",
    ]
    told = [line for line in ended.stderr.splitlines() if "replaced" in line]
    assert told == [
        "step is replaced in 1 call of the lattice, and in its sublattices where they call it (2 times before).",
        "plain is replaced in 0 calls of the lattice, and in its sublattices where they call it (1 time before).",
    ]


def test_what_cannot_be_redispatched_is_refused_in_a_sentence(user: User) -> None:
    printed = user.runs(
        f"""{FLOW}
def said(again, *args, **kwargs):
    try:
        return again(*args, **kwargs)
    except hf.HpcflowError as error:
        return type(error).__name__, str(error)

held = hf.dispatch(flow, disable_run=True)(1)
copy = hf.redispatch(held)()
assert hf.redispatch(held, is_pending=True)() == held
print(hf.get_result(copy, wait=True).result, hf.get_result(held, wait=True).result)
print(said(hf.redispatch(held, is_pending=True))[1].replace(held, "HELD"))
print(said(hf.redispatch(held, is_pending=True), 5)[1].replace(held, "HELD"))
print(said(hf.redispatch("01JD0000000000000000000009"))[0])
print(said(hf.redispatch(held, replace_electrons={{"scald": scaled}}))[1])
print(said(hf.redispatch(held), 1, 2)[1])
print(said(lambda: hf.redispatch(held, replace_electrons={{"scaled": abs}}))[1])
""",
    )
    assert printed.splitlines() == [
        "102 102",
        "Dispatch HELD is not pending: it was started before. Leave is_pending=True out.",
        "is_pending=True starts HELD as it was dispatched: leave it out to run HELD with other arguments or electrons.",
        "DispatchNotFound",
        "The lattice 'flow' calls no electron 'scald' that could be replaced; it calls added, scaled.",
        "The lattice 'flow' does not take these arguments: too many positional arguments.",
        "replace_electrons has no electron for 'scaled': mark it with @hpcflow.electron.",
    ]


def test_what_completed_is_not_run_again(user: User) -> None:
    """A failed dispatch goes on, and one with other arguments runs only what they reach."""
    ledger = user.folder / "ledger"
    program = """
import sys

import hpcflow as hf

@hf.electron
def square(ledger, x):
    with open(ledger, "a") as file:
        file.write(f"square {x}\\n")
    return x * x

@hf.electron
def large(ledger, x):
    with open(ledger, "a") as file:
        file.write("large\\n")
    return bytes([x]) * 100_000

@hf.electron
def total(ledger, parts, blob, limit):
    import os
    with open(ledger, "a") as file:
        file.write("total\\n")
    if sum(parts) > limit and not os.path.exists(ledger + ".mended"):
        raise ValueError("too much")
    return sum(parts), len(blob)

@hf.electron
@hf.lattice
def inner(ledger, x):
    return square(ledger, x), total(ledger, [x], b"", 10)

@hf.lattice(executor="local")
def flow(ledger, xs, limit=20):
    return total(ledger, [square(ledger, x) for x in xs], large(ledger, 7), limit), inner(ledger, xs[0])

if __name__ == "__main__":
    print(hf.get_result(hf.dispatch(flow)(sys.argv[1], [11, 2, 3]), wait=True).dispatch_id)
"""
    first = user.runs(program, str(ledger))
    assert sorted(lines(ledger)) == ["large", "square 11", "square 11", "square 2", "square 3", "total", "total"]

    # As it was: both that failed run again, the inner one in the graph that is built already.
    (user.folder / "ledger.mended").touch()
    ledger.unlink()
    again = user.hpcflow("redispatch", first, "--reuse").stdout.strip()
    assert user.hpcflow("show", again, "--wait").returncode == 0
    assert sorted(lines(ledger)) == ["total", "total"]
    assert user.hpcflow("show", again, "--tasks").stdout.count(f"reused from dispatch {first}, task") == 4

    # With other arguments: 2 and 3 were squared, in other places.
    ledger.unlink()
    printed = user.runs(
        """
import sys

import hpcflow as hf

second = hf.redispatch(sys.argv[1], reuse_previous_results=True)(sys.argv[2], [4, 3, 11, 2])
result = hf.get_result(second, wait=True)
print(result.result)
print(sorted(node.note.replace(sys.argv[1], "FIRST") for node in result.tasks() if node.note))
third = hf.get_result(hf.redispatch(second, reuse_previous_results=True)(), wait=True)
print(third.status, third.result == result.result, third.start_time, third.get_node_result(4).note)
""",
        first,
        str(ledger),
    )
    outputs = printed.splitlines()
    assert outputs[0] == "((150, 100000), (16, (4, 0)))"
    assert outputs[1].count("reused from dispatch FIRST") == 4
    assert sorted(lines(ledger)) == ["square 4", "square 4", "total", "total"]
    assert outputs[2].startswith("COMPLETED True None reused from dispatch ")


def test_what_another_dispatch_uses_is_not_cleaned_away_and_what_is_damaged_runs_again(user: User) -> None:
    ledger = user.folder / "ledger"
    first = user.runs(
        """
import sys

import hpcflow as hf

@hf.electron
def large(ledger, x):
    with open(ledger, "a") as file:
        file.write(f"large {x}\\n")
    return bytes([x]) * 100_000

@hf.electron
def size(ledger, blob):
    with open(ledger, "a") as file:
        file.write("size\\n")
    return len(blob)

@hf.lattice(executor="local")
def flow(ledger):
    return size(ledger, large(ledger, 1)), large(ledger, 2)

if __name__ == "__main__":
    print(hf.get_result(hf.dispatch(flow)(sys.argv[1]), wait=True).dispatch_id)
""",
        str(ledger),
    )
    assert sorted(lines(ledger)) == ["large 1", "large 2", "size"]
    ledger.unlink()

    def again() -> str:
        second = user.hpcflow("redispatch", first, "--reuse").stdout.strip()
        assert user.hpcflow("show", second, "--wait").returncode == 0
        return second

    def sizes(dispatch: str) -> str:
        return user.runs(
            "import sys, hpcflow as hf\nsize, blob = hf.get_result(sys.argv[1]).result\nprint(size, len(blob))",
            dispatch,
        )

    using = again()
    assert lines(ledger) == []
    spared = user.hpcflow("clean", first).stdout
    assert f"{first} keeps " in spared and f"dispatch {using} uses results in there." in spared, spared
    assert sizes(using) == sizes(first) == "100000 100000"

    # One byte of the first result is another one now.
    (pack,) = [
        path for path in Path(user.home.home).rglob("data/*") if path.stat().st_size > 100_000 and first_byte(path, 1)
    ]
    data = bytearray(pack.read_bytes())
    data[data.index(b"\x01" * 1000)] = 9
    pack.write_bytes(data)
    mended = again()
    assert sorted(lines(ledger)) == ["large 1", "size"]
    assert sizes(mended) == "100000 100000"

    assert f"{using} would give up the results of others" in user.hpcflow("clean", using, "--dry-run").stdout
    assert f"{using} gives up the results of others that it uses" in user.hpcflow("clean", using).stdout
    assert "There is nothing to remove" in user.hpcflow("clean", using).stdout
    user.hpcflow("clean", mended)
    assert "removed" in (cleaned := user.hpcflow("clean", first).stdout) and "keeps" not in cleaned
    ended = user.tries("import sys, hpcflow as hf\nprint(hf.get_result(sys.argv[1]).result)", using)
    assert ended.returncode == 1 and "was removed from local at" in ended.stderr


def test_what_gave_up_results_uses_them_again_once_it_is_retried_and_keeps_small_values(user: User) -> None:
    folder = user.folder / "signs"
    folder.mkdir()
    first = user.runs(
        """
import sys

import hpcflow as hf

@hf.electron
def large(x):
    return bytes([x]) * 100_000

@hf.electron
def small(x):
    return x

@hf.electron
def shaky(folder, blob, number):
    import time
    from pathlib import Path

    if not (Path(folder) / "ready").exists():
        raise ValueError("not yet")
    (Path(folder) / "begun").touch()
    while not (Path(folder) / "go").exists():
        time.sleep(0.05)
    return len(blob) + number

@hf.lattice(executor="local")
def flow(folder):
    return shaky(folder, large(1), small(5))

if __name__ == "__main__":
    print(hf.get_result(hf.dispatch(flow)(sys.argv[1]), wait=True).dispatch_id)
""",
        str(folder),
    )
    second = user.hpcflow("redispatch", first, "--reuse").stdout.strip()
    assert user.waits_for(second)["status"] == "FAILED"

    def cleaned(dispatch: str) -> str:
        """Clean once nothing of it is live any more."""
        said = ""

        def done() -> bool:
            nonlocal said
            said = user.hpcflow("clean", dispatch).stdout
            return "nothing of it is removed" not in said

        until(done)
        return said

    third = user.hpcflow("redispatch", first, "--reuse").stdout.strip()
    assert user.waits_for(third)["status"] == "FAILED"
    assert f"{third} gives up the results of others" in cleaned(third)

    assert f"{second} gives up the results of others" in cleaned(second)
    (folder / "ready").touch()
    assert user.hpcflow("retry", second).returncode == 0
    until((folder / "begun").exists)
    assert f"dispatch {second} uses results in there." in cleaned(first)
    (folder / "go").touch()
    assert user.waits_for(second)["status"] == "COMPLETED"
    assert f"dispatch {second} uses results in there." in cleaned(first)

    assert f"{second} gives up the results of others" in cleaned(second)
    # What gave up a large result can't go on without it, once that is gone: it says so, and what to do.
    assert "removed" in cleaned(first)
    refused = user.hpcflow("retry", third)
    assert refused.returncode == 4
    assert f"was taken over from dispatch {first}, was given up when {third} was cleaned at " in refused.stderr
    assert f"`hpcflow redispatch {third}` runs all of it as a new dispatch." in refused.stderr
    deleted = Server(user.home).ask("POST", "/delete", body={"dispatches": [first]})
    assert deleted["deleted"] == [first], deleted
    values = """
import sys, hpcflow as hf
result = hf.get_result(sys.argv[1])
print(result.result, [result.get_node_result(node).result for node in (1, 2)])
"""
    assert user.runs(values, second) == "100005 [5, 100005]"


def first_byte(pack: Path, value: int) -> bool:
    return bytes([value]) * 1000 in pack.read_bytes()


def test_a_result_manager_brings_single_parts_into_files_and_reads_them_without_a_server(user: User) -> None:
    folder = user.folder / "parts"
    printed = user.runs(
        f"""{FLOW}
@hf.electron
def loud(x):
    print("said", x)
    return bytes([x]) * 200_000

@hf.lattice(executor="local")
def parts(x, *, y=2):
    '''Makes two parts.'''
    return loud(x), added(x, y)

manager = hf.get_result_manager(hf.dispatch(parts)(3, y=4), results_dir={str(folder)!r}, wait=True)
print(manager.dispatch_id)
assert manager.download_node_asset(0, "output").endswith("parts/node_0/output.pkl")
assert manager.load_node_asset(0, "output") == bytes([3]) * 200_000
assert manager.load_node_asset(0, "stdout") == "said 3\\n"
assert "def loud(x):" in manager.load_node_asset(0, "function_string")
assert manager.load_result_asset("result") == (bytes([3]) * 200_000, 7)
assert manager.load_lattice_asset("inputs") == {{"args": (3,), "kwargs": {{"y": 4}}}}
assert manager.load_lattice_asset("workflow_function")(1)[1] == 3
assert manager.load_lattice_asset("doc") == "Makes two parts."
assert manager.result_object.status == "COMPLETED"
assert manager.save() == {str(folder)!r} + "/manifest.json"
for wrong in (lambda: manager.download_node_asset(0, "colour"), lambda: manager.download_node_asset(9999, "output")):
    try:
        wrong()
    except hf.HpcflowError as error:
        assert "colour" in str(error) or "9999" in str(error), error
    else:
        raise AssertionError
"""
    )
    dispatch = printed.splitlines()[0]  # the lattice was called plainly, too
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == [
        "doc.txt",
        "function.py",
        "inputs.pkl",
        "manifest.json",
        "output.pkl",
        "result.pkl",
        "stdout.txt",
        "workflow_function.pkl",
    ]
    (folder / "node_0" / "stdout.txt").write_text("what lies there")
    ended = user.tries(
        "import sys\nfrom hpcflow.sdk.result_manager import ResultManager\n"
        "parts = ResultManager.load(sys.argv[1] + '/manifest.json', sys.argv[1])\n"
        "print(parts.dispatch_id, parts.load_node_asset(0, 'stdout'), len(parts.load_node_asset(0, 'output')))",
        str(folder),
        HPCFLOW_HOME=str(user.folder / "nowhere"),
    )
    assert ended.stdout == f"{dispatch} what lies there 200000\n", ended.stderr
