"""Calls that were made before, in another program: their results are used, and what is damaged is computed anew."""

from __future__ import annotations

import json
from pathlib import Path

from tests.integration.world import User, lines

PROGRAM = """
import sys
from dataclasses import dataclass

import hpcflow as hf

@dataclass
class Box:
    x: int

    def area(self):
        return FACTOR * self.x

FACTOR = 2

def noted(text):
    with open({ledger!r}, "a") as file:
        file.write(text + "\\n")

@hf.electron(cache=True)
def cached_area(box, names):
    noted(f"area {{box.x}}")
    return box.area()

@hf.electron
def plus(a, b):
    noted("plus")
    return a + b

@hf.electron(cache=True)
def cached_blob(size, of=7):
    noted(f"blob {{size}}")
    return bytes([of]) * size

@hf.electron
@hf.lattice
def cached_inner(n):
    return [cached_area(Box(10 + k), set()) for k in range(n)], plus(n, n)

@hf.lattice(executor="local", workflow_executor="local")
def flow(x):
    area = cached_area(Box(x), {{"a", "b", "c"}})
    return area, cached_blob(plus(area, 100_000)), cached_inner(2)

def run():
    result = hf.get_result(hf.dispatch(flow)(3), wait=True)
    area, blob, inner = result.result
    print(result.dispatch_id, area, len(blob), blob[:1], inner)
    for number in range(4):
        node = result.get_node_result(number)
        print(node.name, node.note)

if __name__ == "__main__":
    run()
"""


def test_a_call_that_was_made_before_is_not_made_again(user: User) -> None:
    ledger = user.folder / "ledger"
    program = PROGRAM.format(ledger=str(ledger))
    first, *notes = user.runs(program).splitlines()
    dispatch, said = first.split(" ", 1)
    assert said == "6 100006 b'\\x07' ([20, 22], 4)"
    assert {note.split(" ", 1)[1] for note in notes} == {""}
    assert sorted(lines(ledger)) == ["area 10", "area 11", "area 3", "blob 100006", "plus", "plus"]
    ledger.unlink()

    # Another process, and electrons in another order in the file: only what is not cached runs.
    moved = program.replace("FACTOR = 2\n\n", "").replace(
        "import hpcflow as hf\n", "import hpcflow as hf\n\nFACTOR = 2\n"
    )
    again, *notes = user.runs(moved).splitlines()
    assert again.split(" ", 1)[1] == said and again.split()[0] != dispatch
    assert notes == [
        f"cached_area cached from dispatch {dispatch}, task 0",
        "plus ",
        f"cached_blob cached from dispatch {dispatch}, task 2",
        "cached_inner ",
    ]
    assert sorted(lines(ledger)) == ["plus", "plus"]
    ledger.unlink()

    # What code refers to counts, and so does what an input was made of.
    other = user.runs(program.replace("FACTOR = 2", "FACTOR = 3")).splitlines()
    assert other[0].split(" ", 1)[1] == "9 100009 b'\\x07' ([30, 33], 4)"
    assert sorted(lines(ledger)) == ["area 10", "area 11", "area 3", "blob 100009", "plus", "plus"]
    ledger.unlink()

    # One that is damaged is found before it is used.
    packs = {path: path.read_bytes() for path in Path(user.home.home).rglob("data/*")}
    (pack,) = [path for path, data in packs.items() if b"\x07" * 100_006 in data and b"\x07" * 100_009 not in data]
    pack.write_bytes(pack.read_bytes().replace(b"\x07" * 100_006, b"\x08" * 100_006))
    third, *notes = user.runs(program).splitlines()
    assert third.split(" ", 1)[1] == said
    assert notes[2] == "cached_blob "
    assert sorted(lines(ledger)) == ["blob 100006", "plus", "plus"]
    shown = user.hpcflow("show", third.split()[0]).stdout
    assert (
        f"The cached result of cached_blob, which task 2 of dispatch {dispatch} computed, is gone or damaged" in shown
    )

    listed = json.loads(user.hpcflow("cache", "--json", "--function", "cached_blob").stdout)
    assert sorted(entry["size"] // 1000 for entry in listed["entries"]) == [100, 100]
    assert {entry["dispatch"] for entry in listed["entries"]} == {third.split()[0], other[0].split()[0]}
    table = user.hpcflow("cache", "--function", "cached_area").stdout.splitlines()
    assert table[0].split() == ["KEY", "FUNCTION", "DISPATCH", "TASK", "SIZE", "COMPUTED"] and len(table) == 7
    assert user.hpcflow("cache", "clear", "--function", "cached_area", "--older-than", "1h").stdout.startswith("0 ")
    cleared = user.hpcflow("cache", "clear", "--function", "cached_area").stdout
    assert cleared == "6 results are cached no longer; dispatches keep them.\n"
    ledger.unlink()
    user.runs(program)
    assert sorted(lines(ledger)) == ["area 10", "area 11", "area 3", "plus", "plus"]


def test_calls_of_an_open_executor_are_looked_up_as_they_are_sent(user: User) -> None:
    ledger = user.folder / "ledger"
    printed = user.runs(
        """
import sys

import hpcflow as hf

def noted(ledger, x):
    with open(ledger, "a") as file:
        file.write(f"{x}\\n")
    return x * x

with hf.Executor("local", cache=True) as ex:
    values = [ex.submit(noted, sys.argv[1], x).result() for x in (2, 3, 2, 3, 4)]
notes = [node.note.rpartition(" from ")[0] for node in hf.get_result(ex.dispatch_id, wait=True).tasks()]
print(values, notes)
""",
        str(ledger),
    )
    assert printed == "[4, 9, 4, 9, 16] ['', '', 'cached', 'cached', '']"
    assert lines(ledger) == ["2", "3", "4"]
