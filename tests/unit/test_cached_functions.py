"""Functions that keep their values, and modules that change, on their way to where neither is."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import hpcflow as hf
from hpcflow.sdk.fingerprint import Fingerprints
from hpcflow.sdk.workflow import dumps

ROOT = Path(hf.__file__).parents[1]

#: Opens pickled functions one after the other, and calls each with 20.
NODE = """
import pickle, sys
sys.path.insert(0, sys.argv[1])
from hpcflow.sdk.workflow import load_with
print([load_with(each)(20) for each in pickle.load(sys.stdin.buffer)])
"""

HELPERS = """
import functools

@functools.lru_cache(maxsize=7, typed=True)
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)

class Shape:
    @functools.cache
    def area(self, n):
        return n * n

def uses(n):
    return fib(n), fib.cache_parameters(), fib.cache_info().misses, Shape().area(n)

def late(n):
    import hfkept
    return hfkept.fib(n), hfkept.Shape().area(n)
"""


def on_a_node(*functions: object) -> str:
    ran = subprocess.run(
        [sys.executable, "-I", "-c", NODE, str(ROOT)],
        input=pickle.dumps([dumps(function) for function in functions]),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr.decode()
    return ran.stdout.decode().strip()


def test_a_function_that_keeps_its_values_travels_with_what_it_is_made_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hfkept.py").write_text(HELPERS)
    monkeypatch.syspath_prepend(tmp_path)
    kept = importlib.import_module("hfkept")
    try:
        said = on_a_node(kept.fib, kept.uses, kept.late)
        assert said == "[6765, (6765, {'maxsize': 7, 'typed': True}, 21, 400), (6765, 400)]"
        assert len(Fingerprints().of(kept.uses) or "") == 64
    finally:
        del sys.modules["hfkept"]


def test_a_function_of_the_script_keeps_its_values_where_it_runs(tmp_path: Path) -> None:
    script = f"""
import functools, sys
sys.path.insert(0, {str(ROOT)!r})
from hpcflow.sdk.fingerprint import Fingerprints
from hpcflow.sdk.workflow import dumps

@functools.lru_cache
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)

def uses(n):
    return fib(n), fib.cache_info().misses

assert len(Fingerprints().of(uses)) == 64
import pickle
sys.stdout.buffer.write(pickle.dumps([dumps(fib), dumps(uses)]))
"""
    path = tmp_path / "script.py"
    path.write_text(script)
    sent = subprocess.run([sys.executable, path], capture_output=True, check=True, timeout=60).stdout
    command = [sys.executable, "-I", "-c", NODE, str(ROOT)]
    ran = subprocess.run(command, input=sent, capture_output=True, check=True, timeout=60)
    assert ran.stdout.decode().strip() == "[6765, (6765, 21)]"


def test_one_that_is_installed_goes_by_its_name() -> None:
    import fnmatch

    cached = vars(fnmatch)["_compile_pattern"]
    assert pickle.loads(dumps(cached)) is cached


def test_a_module_that_is_loaded_anew_runs_anew_where_an_earlier_version_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "hfanew.py"
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(tmp_path)

    def late(n: int) -> object:
        import hfanew  # type: ignore[import-not-found]  # made below

        return hfanew.value * n

    file.write_text("value = 1\n")
    anew = importlib.import_module("hfanew")
    try:
        first = dumps(late)
        file.write_text("value = 1000\n")
        importlib.reload(anew)
        second = dumps(late)
    finally:
        del sys.modules["hfanew"]
    command = [sys.executable, "-I", "-c", NODE, str(ROOT)]
    ran = subprocess.run(
        command, input=pickle.dumps([first, second, first]), capture_output=True, check=True, timeout=60
    )
    assert ran.stdout.decode().strip() == "[20, 20000, 20]"


def test_a_module_that_is_installed_stays_and_one_that_came_can_be_brought_back() -> None:
    code = """
import json, pickle, sys
sys.path.insert(0, sys.argv[1])
from hpcflow.sdk.by_value import _new_module, importable_now, let_import
installed, mine = sys.modules["json"], [_new_module("hfmine"), _new_module("hfmine")]
let_import(_new_module("json"))
let_import(mine[0])
then = importable_now()
let_import(mine[1])
said = [sys.modules["json"] is installed, sys.modules["hfmine"] is mine[1]]
[let_import(each) for each in then]
print(said + [sys.modules["hfmine"] is mine[0]])
"""
    ran = subprocess.run([sys.executable, "-I", "-c", code, str(ROOT)], capture_output=True, check=True, timeout=60)
    assert ran.stdout.decode().strip() == "[True, True, True]"
