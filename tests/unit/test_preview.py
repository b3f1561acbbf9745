"""Previews of what tasks took and returned: short, soon made, and harmless whatever the values do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import OrderedDict
from contextlib import suppress
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any

import pytest

from hpcflow.node import preview
from hpcflow.node.preview import of_arguments, of_result

ODD = "\x1b[31m<b>" + "\N{RIGHT-TO-LEFT OVERRIDE}" + "\N{GRINNING FACE}"


#: The process of the tests, which no repr may end.
OWN = os.getpid()


class Loops:
    def __repr__(self) -> str:
        while True:
            pass


class Raises:
    def __repr__(self) -> str:
        raise ValueError("no words")


class Leaves:
    def __repr__(self) -> str:
        os._exit(0)


class Exits:
    def __repr__(self) -> str:
        if os.getpid() == OWN:  # pytest asks as well, when a test fails
            return "not here"
        raise SystemExit("now")


class Grows:
    def __repr__(self) -> str:
        return "x" * 2**32


class Prints:
    def __repr__(self) -> str:
        print("y" * 10_000_000, flush=True)
        sys.stderr.write("z")
        return "it printed"


class Changes:
    def __init__(self) -> None:
        self.asked = 0

    def __repr__(self) -> str:
        self.asked += 1
        return f"asked {self.asked}"


class Ignores:
    """Has everything but its own end ignored."""

    def __repr__(self) -> str:
        import signal

        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        while True:
            pass


class Zone(tzinfo):
    def utcoffset(self, dt: datetime | None, /) -> None:
        return None

    dst = utcoffset

    def tzname(self, dt: datetime | None, /) -> None:
        return None

    def __repr__(self) -> str:
        raise AssertionError("the task itself asked")


def shown(value: object) -> dict[str, Any]:  # Any: JSON
    return of_result(value, alone=True)


def repr_or_type(value: object) -> str:
    """Name a case by its type: what is tested here has no good repr."""
    return type(value).__name__


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, {"type": "NoneType", "text": "None"}),
        (7, {"type": "int", "text": "7"}),
        (1 << 100_000, {"type": "int", "text": "an int of 100001 bits"}),
        ([1, 2.5, "a"], {"type": "list", "shape": "3 items", "text": "[1, 2.5, 'a']"}),
        ((1,), {"type": "tuple", "shape": "1 item", "text": "(1,)"}),
        ({"a": {1}, "b": set()}, {"type": "dict", "shape": "2 items", "text": "{'a': {1}, 'b': set()}"}),
        ([[[[[1]]]]], {"type": "list", "shape": "1 item", "text": "[[[[[\u2026]]]]]"}),
        ([Raises()], {"type": "list", "shape": "1 item", "text": "[<tests.unit.test_preview.Raises>]"}),
        (Path("/tmp"), {"type": "pathlib.PosixPath", "text": "PosixPath('/tmp')"}),
        (b"\0" * 3, {"type": "bytes", "shape": "3 bytes", "text": r"b'\x00\x00\x00'"}),
        (ODD, {"type": "str", "shape": "10 characters", "text": repr(ODD)}),
    ],
    ids=repr_or_type,
)
def test_plain_values_are_spelled_as_far_as_there_is_room(value: object, said: dict[str, Any]) -> None:
    assert shown(value) == said


@pytest.mark.parametrize("value", ["a" * 10**8, ["b" * 5000], dict.fromkeys(range(1000), "c" * 100)], ids=repr_or_type)
def test_what_is_long_is_cut_and_says_so(value: object) -> None:
    said = shown(value)
    assert said["cut"] is True
    assert len(said["text"]) == 1500


def test_many_items_are_counted() -> None:
    text = shown(list(range(100)))["text"]
    assert text.startswith("[0, 1, 2,")
    assert text.endswith("28, 29, \N{HORIZONTAL ELLIPSIS} 70 more]")


def test_arrays_say_their_shape_type_and_range() -> None:
    numpy = pytest.importorskip("numpy")
    said = shown(numpy.arange(12.0).reshape(3, 4))
    assert (said["type"], said["shape"]) == ("numpy.ndarray", "3 \N{MULTIPLICATION SIGN} 4, float64, 0 to 11")
    assert said["text"].startswith("[[ 0.  1.")
    assert shown(numpy.array([numpy.nan, 1.0]))["shape"] == "2, float64, 1 to 1, 1 NaN"
    assert shown(numpy.zeros((2000, 2000)))["text"].startswith("[[0. 0. 0. ... 0. 0. 0.]")
    assert "text" not in shown(numpy.zeros((1,) * 20)) or shown(numpy.zeros((1,) * 20))["shape"].count("1") == 16
    assert shown(numpy.float64(2.5))["text"] in {"2.5", "np.float64(2.5)"}
    assert shown(numpy.array([], dtype=object))["shape"] == "0, object"


def test_other_values_spell_themselves_and_are_not_changed_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview, "_REPR_S", 60.0)
    changes = Changes()
    assert shown(changes) == {"type": "tests.unit.test_preview.Changes", "text": "asked 1"}
    assert changes.asked == 0
    assert shown(OrderedDict(a=1))["text"] == repr(OrderedDict(a=1))


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (Raises(), "ValueError: no words"),
        (Exits(), "SystemExit: now"),
        (Loops(), "its repr did not come to an end within 0.3 s, or ended the process"),
        (Ignores(), "its repr did not come to an end within 0.3 s, or ended the process"),
        (Leaves(), "its repr did not come to an end within 60.0 s, or ended the process"),
        (Grows(), "MemoryError: "),
    ],
    ids=repr_or_type,
)
def test_a_repr_that_misbehaves_hurts_nobody(value: object, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not isinstance(value, (Loops, Ignores)):  # these end by themselves, on a busy machine later
        monkeypatch.setattr(preview, "_REPR_S", 60.0)
    others = children()  # of earlier tests
    before = time.process_time()
    assert shown(value)["why"] == why
    assert time.process_time() - before < 1
    assert children() <= others


def children() -> set[int]:
    """Return the processes that this one has not waited for."""
    found: set[int] = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[1]) == OWN:
                found.add(int(stat.parent.name))
    return found


@pytest.mark.parametrize("claims", ["datetime", "pathlib", "numpy", "uuid"])
def test_a_class_that_claims_to_be_python_s_own_spells_itself_apart(claims: str) -> None:
    mine = type("Mine", (Loops,), {"__module__": claims})()
    assert shown(mine)["why"] == "its repr did not come to an end within 0.3 s, or ended the process"
    assert shown([datetime(2026, 1, 2, tzinfo=Zone())])["text"] == "[<datetime.datetime>]"
    assert shown([datetime(2026, 1, 2, tzinfo=UTC)])["text"] == f"[{datetime(2026, 1, 2, tzinfo=UTC)!r}]"


def test_what_a_repr_prints_is_seen_by_nobody(tmp_path: Path) -> None:
    program = (
        "import sys; print('before', end='')\n"
        "from tests.unit.test_preview import Prints, preview, shown\n"
        "preview._REPR_S = 60.0\n"
        "said = shown(Prints()); print(said['text'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("beforeit printed\n", "")


def test_a_process_with_other_tasks_or_ranks_is_not_copied() -> None:
    assert of_result(Loops(), alone=False) == {"type": "tests.unit.test_preview.Loops"}


def test_arguments_have_their_names_and_share_their_room() -> None:
    def call(first: object, *, last: object = None) -> None:
        raise AssertionError

    assert of_arguments(call, (1, 2), {"last": Loops()}) == [
        {"name": "first", "type": "int", "text": "1"},
        {"name": "1", "type": "int", "text": "2"},
        {"name": "last", "type": "tests.unit.test_preview.Loops"},
    ]
    many = of_arguments(call, ["x" * 1000] * 30, {})
    assert len(many) == 20
    assert sum(len(each["text"]) for each in many) == 1000
    assert all(each["cut"] for each in many)


def test_a_short_value_costs_a_task_next_to_nothing() -> None:
    begun = time.process_time()
    for _ in range(2000):
        of_result(3, alone=True)
        of_arguments(shown, (1,), {})
    assert time.process_time() - begun < 1
