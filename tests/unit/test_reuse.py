"""Which earlier results stand for tasks of a new dispatch, and which function is the same as another."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import pytest

import hpcflow as hf
from hpcflow.core.reuse import Earlier, Matcher, kept, without_dropped
from hpcflow.sdk.fingerprint import Fingerprints
from hpcflow.sdk.pickling import dumps, load_with
from hpcflow.sdk.workflow import Lattice


def earlier(index: int, text: str, *deps: int) -> Earlier:
    return Earlier(index, "f", sha256(text.encode()).hexdigest(), deps)


def never(numbers: Mapping[int, int]) -> bytes | None:
    raise AssertionError(f"nothing had to be renumbered to {numbers}")


def test_each_earlier_result_stands_for_one_task() -> None:
    matcher = Matcher([earlier(0, "same"), earlier(1, "same")])
    for index in range(3):
        matcher.look(index, "f", (), b"same", never)
    matcher.look(3, None, (), b"same", never)
    matcher.look(4, "g", (), b"same", never)
    assert matcher.found == {0: 0, 1: 1}


def test_results_among_arguments_are_compared_by_the_tasks_that_they_stand_for() -> None:
    matcher = Matcher([earlier(0, "two"), earlier(1, "sum of 0", 0), earlier(2, "sum of 5", 5)])
    matcher.look(0, "f", (), b"new", never)
    matcher.look(1, "f", (), b"two", never)
    matcher.look(2, "f", (1,), b"sum of 1", lambda numbers: f"sum of {numbers[1]}".encode())
    matcher.look(3, "f", (1,), b"sum of 1", lambda numbers: None)
    matcher.look(4, "f", (0,), b"sum of 0", never)
    assert matcher.found == {1: 0, 2: 1}


def test_a_task_is_dropped_with_what_it_waits_for_even_if_that_was_called_later() -> None:
    waits: dict[int, tuple[tuple[int, ...], ...]] = {0: ((), (3,)), 1: ((0,), ()), 2: ((), ()), 4: ((2,), ())}
    assert without_dropped({0: 9, 1: 8, 2: 7, 4: 6}, waits.__getitem__) == {2: 7, 4: 6}
    assert kept([0, 1, 2], waits.__getitem__) == {2}


# ---- functions

MODULE = """
import math
from dataclasses import dataclass

FACTOR = 3
NAMES = {"a", "b", "c", "d"}


@dataclass
class Box:
    x: int = 1

    def area(self):
        return helper(self.x)


def helper(x):
    return FACTOR * x + (other(x) if x else 0)


def other(x):
    return helper(x - 1) + math.pi


def inside(x):
    import second_of_mine
    return second_of_mine.thing(x), x in {"u", "v", "w"}
"""
SECOND = "def thing(x):\n    return x + 1\n\n\ndef unused():\n    return 1\n"
PROGRAM = """
import sys
import mine
from hpcflow.sdk.fingerprint import Fingerprints
from hpcflow.sdk.pickling import dumps, load_with
from hpcflow.sdk.workflow import Lattice

def local(x, y=[2]):
    return [mine.helper(x) + z for z in y], sorted(mine.NAMES)

prints = Fingerprints()
for value in (local, mine.helper, mine.Box, mine.inside):
    travelled = dumps(value)
    print(prints.of(value), Fingerprints().of(load_with(travelled)))
keyed = ((mine.Box(3), {"p", "q", "r"}), {"f": mine.helper})
print(prints.of_arguments(keyed, str), Fingerprints().of_arguments(load_with(dumps(keyed)), str))
"""


def printed(folder: Path, module: str = MODULE, second: str = SECOND) -> list[list[str]]:
    """Digests of functions and arguments as a process of its own has them, of each as it is and as it travelled."""
    (folder / "mine.py").write_text(module)
    (folder / "second_of_mine.py").write_text(second)
    (folder / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-B", str(folder / "program.py")]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return [line.split() for line in out.splitlines()]


def test_digests_are_the_same_in_every_process_and_change_with_what_is_used(tmp_path: Path) -> None:
    first = printed(tmp_path)
    assert all(len(a) == 64 and a == b for a, b in first)
    assert len({a for a, _ in first}) == 5

    moved = "# A comment.\n\n" + MODULE
    assert printed(tmp_path, moved, SECOND.replace("return 1", "return 2")) == first

    def changed(module: str = MODULE, second: str = SECOND) -> list[bool]:
        return [new != old for new, old in zip(printed(tmp_path, module, second), first, strict=True)]

    # In the order of the program: local, helper, Box, inside, arguments.
    assert changed(MODULE.replace("FACTOR = 3", "FACTOR = 4")) == [True, True, True, False, True]
    assert changed(MODULE.replace('"d"}', '"e"}')) == [True, False, False, False, False]
    assert changed(second=SECOND.replace("x + 1", "x + 2")) == [False, False, False, True, False]


def test_what_hangs_on_the_process_has_no_digest(tmp_path: Path) -> None:
    prints = Fingerprints()
    file = (tmp_path / "file").open("w")
    circle: list[object] = []
    circle.append(circle)
    with file:
        assert prints.of(lambda: file) is None
        assert prints.of_arguments(((file,), {}), str) is None
    assert prints.of_arguments(((circle,), {}), str) is None


@pytest.mark.parametrize(("one", "other"), [(1, 1.0), (1, True), ((1, 2), [1, 2]), ({"a": 1}, {"a": 2}), ("1", 1)])
def test_what_is_equal_but_not_the_same_has_another_digest(one: object, other: object) -> None:
    prints = Fingerprints()
    assert prints.of_arguments(((one,), {}), str) != prints.of_arguments(((other,), {}), str)
    # Whether equal parts are one object is no matter.
    twin = load_with(dumps([one]))[0]
    assert prints.of_arguments(((one, one),), str) == prints.of_arguments(((one, twin),), str)


# ---- keys of calls


def traced(program: str) -> dict[int, str]:
    names: dict[str, object] = {}
    exec(compile(program, "program.py", "exec"), names)
    flow = names["flow"]
    assert isinstance(flow, Lattice)
    built = flow.build_graph()
    assert built.not_cached == ()
    return dict(built.keys)


KEYED = """
import hpcflow as hf

@hf.electron
def plus(a, b):
    return a + b

@hf.electron(cache=True)
def double(x, *, by=2):
    return x * by

@hf.lattice
def flow():
    first = plus(1, 2)
    return double(first), double([first, plus(3, 4)][1]), double(double(5)[0] + 1), hf.wait(double(6), first)
"""


def test_a_key_holds_what_a_call_was_made_of_and_not_where_it_stands() -> None:
    keys = list(traced(KEYED).values())
    assert len(set(keys)) == 5
    # Electrons that are called before move all numbers.
    moved = KEYED.replace("    first = plus(1, 2)", "    plus(8, 9)\n    plus(8, 9)\n    first = plus(1, 2)")
    assert list(traced(moved).values()) == keys

    def same(text: str, other: str) -> list[bool]:
        changed = traced(KEYED.replace(text, other)).values()
        return [old == new for old, new in zip(keys, changed, strict=True)]

    assert same("plus(1, 2)", "plus(1, 3)") == [False, True, True, True, False]
    assert same("a + b", "b + a") == [False, False, True, True, False]
    assert same("by=2", "by=3") == [False] * 5
    assert same("(5)[0] + 1", "(5)[0] + 2") == [True, True, True, False, True]
    assert same("cache=True", "cache=True, env='venv:/opt/venv'") == [False] * 5
    assert same("cache=True", "cache=True, memory='8 GB', executor='slurm'") == [True] * 5


def test_what_cannot_be_told_from_others_is_named_and_has_no_key() -> None:
    @hf.electron(cache=True)
    def kept(value: object) -> object:
        return value

    @hf.electron
    def opened(value: object) -> object:
        return value

    circle: list[object] = []
    circle.append(circle)

    @hf.lattice(cache=True)
    def flow() -> object:
        return kept(opened.with_options(cache=False)(circle)), kept(1), opened(2)

    built = flow.build_graph()
    assert set(built.keys) == {2, 3}
    assert built.not_cached == ("kept",)
