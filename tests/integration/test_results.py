"""What comes back from a dispatch: values as they were returned, and what became of each task."""

from __future__ import annotations

import json
import socket

from tests.integration.world import User, lines


def test_results_keep_their_nested_shape_and_tuples_stay_tuples(user: User) -> None:
    printed = user.runs("""
import hpcflow as hf

@hf.electron
def add(x, *more, scale=1):
    return (x + sum(more)) * scale

@hf.electron
def same(value):
    return value

@hf.lattice(executor="local")
def nested(x):
    a, b = add(x), add(x, 1, a_list := add(x, 2), scale=10)
    inside = same({"list": [a, (b, {"deep": (a,)})], "set": {a, 7}, 3: a * 2 + b})
    return [inside, (a, b), same((a,))[0], inside["list"][1][1]["deep"], a_list]

result = hf.dispatch_sync(nested)(1)
print(result.status)
print(repr(result.result))
""")

    assert printed.splitlines() == [
        "COMPLETED",
        "[{'list': [1, (50, {'deep': (1,)})], 'set': {1, 7}, 3: 52}, (1, 50), 1, (1,), 3]",
    ]


def test_classes_of_a_module_beside_the_script_are_the_same_classes_on_the_client(user: User) -> None:
    user.writes(
        "molecules.py",
        "from dataclasses import dataclass\n\n"
        "@dataclass(frozen=True)\nclass Molecule:\n    name: str\n    charges: tuple\n\n"
        "def total(molecule):\n    return sum(molecule.charges)\n",
    )

    printed = user.runs("""
import json
from dataclasses import dataclass

import hpcflow as hf
from molecules import Molecule, total

@dataclass
class Pair:
    left: Molecule
    right: object

@hf.electron
def charge(x):
    return x / 2

@hf.electron
def make(name, a, b):
    return Molecule(name, (a, b))

@hf.electron
def pair(given):
    # A Molecule that was made here and one that was made on another worker are of one class.
    return Pair(given, isinstance(given, Molecule)), total(given)

@hf.lattice(executor="local")
def molecules(x):
    return pair(make("water", charge(x), 1)), pair(Molecule("salt", (charge(x), -2)))

(made, made_total), (given, given_total) = hf.dispatch_sync(molecules)(3).result
print(json.dumps([
    isinstance(made, Pair), isinstance(made.left, Molecule), made.left == Molecule("water", (1.5, 1)), made.right,
    made_total, given.left == Molecule("salt", (1.5, -2)), given.right, given_total,
]))
""")

    assert json.loads(printed) == [True, True, True, True, 2.5, True, True, -0.5]


def test_an_electron_that_calls_electrons_runs_them_in_its_own_task(user: User) -> None:
    printed = user.runs("""
import os

import hpcflow as hf

@hf.electron
def where(x):
    return os.getpid(), x

@hf.lattice
def several(n):
    return [where(i) for i in range(n)]

@hf.electron
def calls_them(n):
    return os.getpid(), several(n)

@hf.lattice(executor="local")
def outer(n):
    return calls_them(n)

result = hf.dispatch_sync(outer)(3)
pid, inner = result.result
print(inner == [(pid, 0), (pid, 1), (pid, 2)], [node.name for node in result.tasks()])
""")

    assert printed == "True ['calls_them']"


def test_each_task_has_its_own_output_and_usage(user: User) -> None:
    printed = user.runs("""
import json
import os
import subprocess
import sys
import time

import hpcflow as hf

@hf.electron
def work(i):
    print("out", i)
    print("err", i, file=sys.stderr)
    os.write(1, b"raw %d\\n" % i)
    subprocess.run([sys.executable, "-c", f"print('child', {i})"], check=True)
    ballast = bytearray(b"x") * (60 << 20)
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    return len(ballast) * i

@hf.lattice(executor="local")
def usage(n):
    return [work(i) for i in range(n)]

result = hf.dispatch_sync(usage)(4)
nodes = [result.get_node_result(i) for i in range(4)]
print(json.dumps({
    "texts": [[sorted(node.stdout.splitlines()), node.stderr] for node in nodes],
    "values": [node.result for node in nodes],
    "cpu": min(node.cpu_s for node in nodes),
    "wall": min(node.wall_s for node in nodes),
    "rss": [min(node.max_rss_kib for node in nodes), max(node.max_rss_kib for node in nodes)],
    "hosts": [node.host for node in nodes],
    "jobs": [[bool(node.job_id), node.array_index in range(4)] for node in nodes],
    "in order": all(result.start_time <= n.started_at <= n.ended_at <= result.end_time for n in nodes),
    "as one": result.get_all_node_outputs() == {f"work({i})": node.result for i, node in enumerate(nodes)},
}))
""")
    said = json.loads(printed)

    assert said["texts"] == [[sorted([f"out {i}", f"raw {i}", f"child {i}"]), f"err {i}\n"] for i in range(4)]
    assert said["values"] == [(60 << 20) * i for i in range(4)]
    assert said["cpu"] >= 0.2
    assert said["wall"] >= 0.2
    assert 60 * 1024 <= said["rss"][0] <= said["rss"][1] < 200 * 1024
    assert said["hosts"] == [socket.gethostname()] * 4
    assert said["jobs"] == [[True, True]] * 4
    assert said["in order"]
    assert said["as one"]


def test_names_values_and_output_may_be_in_any_script(user: User) -> None:
    folder = user.folder / "Größe ☃"
    folder.mkdir()
    printed = User(folder, user.environment).runs("""
import hpcflow as hf

@hf.electron
def größe(имя, *, 値):
    print("印刷", имя)
    return {имя: (値, "Å")}

@hf.lattice(executor="local")
def 格子(x):
    return größe(x, 値="☃")

result = hf.dispatch_sync(格子)("Δ 'E\\" \\\\")
print(result.name, result.result, result.get_node_result(0).name, result.get_node_result(0).stdout)
""")

    assert printed == "格子 {'Δ \\'E\" \\\\': ('☃', 'Å')} größe 印刷 Δ 'E\" \\"
    (newest, *_) = user.asks("dispatches")
    assert newest["name"] == "格子"


def test_large_arguments_and_results_arrive_whole(user: User) -> None:
    printed = user.runs("""
import hashlib
import os

import hpcflow as hf

LARGE = os.urandom(20 << 20)

@hf.electron
def turned(data):
    return data[::-1]

@hf.electron
def digest(data):
    return hashlib.sha256(data).hexdigest()

@hf.lattice(executor="local")
def large(data):
    back = turned(data)
    return back, digest(back), digest(data)

back, of_back, of_data = hf.dispatch_sync(large)(LARGE).result
print(back == LARGE[::-1], of_back == hashlib.sha256(back).hexdigest(), of_data == hashlib.sha256(LARGE).hexdigest())
""")

    assert printed == "True True True"


def test_each_of_many_tasks_runs_once(user: User) -> None:
    ledger = user.folder / "ledger"
    printed = user.runs(
        """
import os
import sys

import hpcflow as hf

@hf.electron
def note(i, ledger):
    fd = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, b"%d\\n" % i)
    os.close(fd)
    return i * i

@hf.lattice(executor="local")
def many(n, ledger):
    return total([note(i, ledger) for i in range(n)])

@hf.electron
def total(values):
    return sum(values)

print(hf.dispatch_sync(many)(300, sys.argv[1]).result)
""",
        str(ledger),
    )

    assert int(printed) == sum(i * i for i in range(300))
    assert sorted(map(int, lines(ledger))) == list(range(300))


DISPATCHES = """
import hpcflow as hf

@hf.electron
def square(x):
    return Squared(x * x)

class Squared:
    def __init__(self, value):
        self.value = value

@hf.lattice(executor="local")
def squares(n):
    return [square(i) for i in range(n)]

if __name__ == "__main__":
    print(hf.dispatch(squares)(3))
"""


def test_another_process_reads_the_result_later(user: User) -> None:
    dispatch = user.runs(DISPATCHES)
    printed = user.runs(
        "import sys, json, hpcflow as hf\n"
        "result = hf.get_result(sys.argv[1], wait=True)\n"
        "ids = hf.get_result(sys.argv[1], status_only=True)\n"
        "print(json.dumps([ids, [square.value for square in result.result], result.get_node_result(2).result.value]))",
        dispatch,
    )

    assert json.loads(printed) == [{"id": dispatch, "status": "COMPLETED"}, [0, 1, 4], 4]


def test_tasks_find_a_clean_directory_and_leave_their_files_where_the_result_says(user: User) -> None:
    printed = user.runs("""
import os

import hpcflow as hf

@hf.electron
def writes(i):
    found = os.listdir()
    with open(f"file{i}", "w") as file:
        file.write(str(i))
    return found, os.path.abspath(f"file{i}")

@hf.lattice(executor="local")
def files(n):
    return [writes(i) for i in range(n)]

result = hf.dispatch_sync(files)(5)
for i, (found, path) in enumerate(result.result):
    print(found, open(path).read(), os.path.dirname(path) == result.get_node_result(i).workdir)
""")

    assert printed.splitlines() == [f"[] {i} True" for i in range(5)]
