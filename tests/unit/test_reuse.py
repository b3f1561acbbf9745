"""Which earlier results stand for tasks of a new dispatch, and which function is the same as another."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

import hpcflow as hf
from hpcflow.core.environment import Environment
from hpcflow.core.model import Task
from hpcflow.core.reuse import Earlier, Matcher, kept, surroundings, without_dropped
from hpcflow.sdk.by_value import versions_here
from hpcflow.sdk.fingerprint import Fingerprints
from hpcflow.sdk.pickling import dumps, load_with
from hpcflow.sdk.workflow import Lattice


def earlier(index: int, text: str, *deps: int) -> Earlier:
    return Earlier(index, "f", sha256(text.encode()).hexdigest(), deps, "here")


def never(numbers: Mapping[int, int]) -> bytes | None:
    raise AssertionError(f"nothing had to be renumbered to {numbers}")


def test_each_earlier_result_stands_for_one_task() -> None:
    matcher = Matcher([earlier(0, "same"), earlier(1, "same")])
    for index in range(3):
        matcher.look(index, "f", "here", (), b"same", renumbered=never)
    matcher.look(3, None, "here", (), b"same", renumbered=never)
    matcher.look(4, "g", "here", (), b"same", renumbered=never)
    assert matcher.found == {0: 0, 1: 1}


def test_an_earlier_result_stands_only_for_a_task_in_the_same_environment_with_the_same_packages() -> None:
    arguments = sha256(b"same").hexdigest()
    versions = [{"numpy": "2.1", "pandas": "3"}, {"numpy": "2.0"}, {"unknown": "?"}, {"absent": ""}]
    matcher = Matcher(Earlier(at, str(at), arguments, (), "here", each) for at, each in enumerate(versions))
    for index in range(4):
        matcher.look(index, str(index), "there", (), b"same", renumbered=never)
    assert matcher.found == {}
    for index in range(4):
        matcher.look(index, str(index), "here", (), b"same", renumbered=never)
    now = [{"numpy": "2.1"}, {"numpy": "2.1"}, {"unknown": "?"}, {"absent": ""}]
    assert matcher.of_these_versions(now.__getitem__) == {0: 0, 3: 3}
    task = Task(index=0, name="f", fn=0, args=1)
    assert surroundings(task) == surroundings(replace(task, index=2, args=5))
    assert surroundings(task) != surroundings(replace(task, env=Environment(requirements=("six==1.16.0",))))


def test_results_among_arguments_are_compared_by_the_tasks_that_they_stand_for() -> None:
    matcher = Matcher([earlier(0, "two"), earlier(1, "sum of 0", 0), earlier(2, "sum of 5", 5)])
    matcher.look(0, "f", "here", (), b"new", renumbered=never)
    matcher.look(1, "f", "here", (), b"two", renumbered=never)
    matcher.look(2, "f", "here", (1,), b"sum of 1", renumbered=lambda numbers: f"sum of {numbers[1]}".encode())
    matcher.look(3, "f", "here", (1,), b"sum of 1", renumbered=lambda numbers: None)
    matcher.look(4, "f", "here", (0,), b"sum of 0", renumbered=never)
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
    with file:
        assert prints.of(lambda: file) is None
        assert prints.of_arguments(((file,), {}), str) is None
    assert prints.of_arguments(((threading.Lock(),), {}), str) is None
    named = Named()
    assert prints.of_arguments(((named,), {}), str) is None  # its name tells nothing of what it holds
    assert prints.of_arguments((({named}, 1), {}), str) is None


class Named:
    """Pickles as what has this name where it is opened."""

    def __reduce__(self) -> str:
        return "NAMED"


NAMED = Named()


class Changing:
    """Something that can be changed, with a hash."""


def test_what_is_met_twice_is_told_from_two_that_are_equal() -> None:
    prints = Fingerprints()

    def of(*args: object) -> str:
        digest = prints.of_arguments((args, {}), str)
        assert digest is not None
        return digest

    one, changing, circle = [5], Changing(), list[object]()
    circle.append(circle)
    assert of(one, one) == of(*load_with(dumps((one, one)))) != of([5], [5])
    assert of(one, one, {1}) != of([5], [5], {1})
    assert of((one, one)) != of((one, [5]))
    assert of({"a": one}, {"a": one}) != of({"a": [5]}, {"a": [5]})
    assert of(changing, changing) != of(Changing(), Changing())
    assert of(one, one, [5]) != of(one, [5], one)
    assert of(circle) == of(load_with(dumps(circle))) != of([[]])
    assert of("text" * 2, "texttext") == of("texttext", "texttext")
    # In a set it can't be told which of them it is.
    assert prints.of_arguments(((changing, {changing}), {}), str) is None
    assert prints.of_arguments((({changing}, changing), {}), str) is None


@pytest.mark.parametrize(("one", "other"), [(1, 1.0), (1, True), ((1, 2), [1, 2]), ({"a": 1}, {"a": 2}), ("1", 1)])
def test_what_is_equal_but_not_the_same_has_another_digest(one: object, other: object) -> None:
    prints = Fingerprints()
    assert prints.of_arguments(((one,), {}), str) != prints.of_arguments(((other,), {}), str)


HELPERS = """
import functools
from dataclasses import dataclass, field

def scale(x): return x * 2
cached = functools.lru_cache(scale)
def marked(x): return x * marked.k
marked.k = 2
@dataclass
class Data:
    x: int = field(default=1, metadata={"k": 2})
class Noted:
    x: float
"""
USES = """
import functools, json, sys
import helpers
from helpers import Data, Noted, cached, marked
from hpcflow.sdk.fingerprint import Fingerprints
from hpcflow.sdk.lepton import PythonFunction

def closure():
    import helpers as h
    return lambda x: h.scale(x)

def default(x, h=helpers): return h.scale(x)
ALL = {"h": helpers}
def in_dict(x): return ALL["h"].scale(x)
def run(m, x): return m.scale(x)
def passed_on(x): return run(helpers, x)
def imported(x):
    import helpers as h
    return run(h, x)
def from_cache(x): return cached(x)
def by_module(x): return helpers.cached(x)
def attribute(x): return marked(x)
def metadata(x): return Data.__dataclass_fields__["x"].metadata["k"]
def annotation(x): return Noted.__annotations__["x"](x)

prints = Fingerprints()
functions = [closure(), default, in_dict, passed_on, imported, from_cache, by_module, attribute, metadata, annotation]
functions += [functools.partial(run, helpers), PythonFunction("helpers", "scale")]
digests = [prints.of(function) for function in functions]
print(json.dumps([*digests, prints.of_arguments(((helpers, 3), {}), str)]))
"""


def test_what_is_not_reached_by_a_plain_name_counts_as_well(tmp_path: Path) -> None:
    def digests(helpers: str) -> list[str]:
        (tmp_path / "helpers.py").write_text(helpers)
        (tmp_path / "uses.py").write_text(USES)
        command = [sys.executable, "-B", str(tmp_path / "uses.py")]
        found: list[str] = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)
        return found

    first = digests(HELPERS)
    assert None not in first
    assert digests("# A comment.\n" + HELPERS) == first
    changed = digests(HELPERS.replace("2", "3").replace("float", "int"))
    assert [at for at, (old, new) in enumerate(zip(first, changed, strict=True)) if old == new] == []


def test_versions_of_packages_that_are_not_loaded_are_those_on_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "site-packages"
    for name, module in (("silent", "silent"), ("Other-Name", "another")):
        record = folder / f"{name.replace('-', '_')}-1.5.dist-info"
        record.mkdir(parents=True)
        (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
        (record / "RECORD").write_text(f"{module}.py,,\n")
        (folder / f"{module}.py").write_text("")
    (folder / "unrecorded.py").write_text("")
    monkeypatch.syspath_prepend(folder)
    here = versions_here(["silent", "another", "unrecorded", "nowhere"])
    assert here == {"silent": "1.5", "another": "1.5", "unrecorded": "?", "nowhere": ""}

    @hf.electron(cache=True)
    def unknown() -> None:
        import unrecorded  # type: ignore[import-not-found]  # it is made here

        print(unrecorded)

    @hf.lattice
    def flow() -> object:
        return unknown()

    assert flow.build_graph().not_cached == ("unknown",)


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

    @hf.lattice(cache=True)
    def flow() -> object:
        return kept(opened.with_options(cache=False)(NAMED)), kept(1), opened(2)

    built = flow.build_graph()
    assert set(built.keys) == {2, 3}
    assert built.not_cached == ("kept",)
