"""Lattices that are built when their arguments exist: from end to end, with workers of this machine."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.world import User, lines, open_gate, until

HEAD = """
import json
import os
import sys

import hpcflow as hf

@hf.electron
def double(x):
    return 2 * x

@hf.electron
def count(n):
    return n

@hf.electron
def total(values):
    return sum(values)

@hf.electron
@hf.lattice
def doubled(n):
    return total([double(i) for i in range(n)])

"""


def test_sublattices_nest_and_their_results_are_there_by_level(user: User) -> None:
    printed = user.runs(
        HEAD
        + """
@hf.electron
@hf.lattice
def outer(n):
    first = doubled(n)
    return {"first": first, "second": doubled(first)}

@hf.lattice(executor="local")
def flow(n):
    both = outer(count(n))
    return both["second"] + 1, total([both["first"], 1])

result = hf.dispatch_sync(flow)(3)
print(result.result)
nodes = result.tasks()
print([(node.name, node.state.value) for node in nodes])
print(result.get_all_node_outputs())
inner = result.get_node_result(1)["sublattice_result"]
print(inner.status, inner.name, inner.result, inner.parent == (result.dispatch_id, 1))
print([(node.name, node.node_id, node.result) for node in inner.tasks()])
innermost = inner.get_node_result(1)["sublattice_result"]
print(innermost.get_all_node_outputs())
print(hf.get_result(innermost.dispatch_id).result, hf.get_result(innermost.dispatch_id[:22]).name)
print(nodes[0]["sublattice_result"], sorted(result.sublattices()))
"""
    )

    assert printed.splitlines() == [
        "(31, 7)",
        "[('count', 'completed'), ('outer', 'completed'), ('total', 'completed')]",
        "{'count(0)': 3, 'outer(1)': {'first': 6, 'second': 30}, 'total(2)': 7}",
        "COMPLETED outer {'first': 6, 'second': 30} True",
        "[('doubled', 0, 6), ('doubled', 1, 30)]",
        str({f"double({i})": 2 * i for i in range(6)} | {"total(6)": 30}),
        "30 doubled",
        "None [1]",
    ]


def test_a_loop_of_sublattices_runs_until_a_result_says_so(user: User) -> None:
    printed = user.runs(
        HEAD
        + """
@hf.electron
@hf.lattice
def halve(value, steps):
    if value < 1:
        return steps
    return halve(half(value), [*steps, value])

@hf.electron
def half(x):
    return x / 2

@hf.lattice(executor="local")
def flow():
    return halve(count(300), []), double(halve(3, []))

result = hf.dispatch_sync(flow)()
print(result.result)
"""
    )

    assert printed == str(([300, 150.0, 75.0, 37.5, 18.75, 9.375, 4.6875, 2.34375, 1.171875], [3, 1.5, 3, 1.5]))


def test_large_results_and_graphs_go_through_a_sublattice_whole(user: User) -> None:
    printed = user.runs(
        HEAD
        + """
@hf.electron
def long(n):
    return list(range(n))

@hf.electron
@hf.lattice
def spread(values):
    return [total(values[i::4]) for i in range(4)], long(20_000)

@hf.lattice(executor="local")
def flow():
    sums, values = spread(long(20_000))
    return sums, total(values), values[-1]

print(hf.dispatch_sync(flow)().result)
"""
    )

    every = range(20_000)
    assert printed == str(([sum(every[i::4]) for i in range(4)], sum(every), 19_999))


def test_a_task_that_fails_in_a_sublattice_fails_it_with_a_sentence_and_can_be_tried_again(user: User) -> None:
    printed = user.runs(
        HEAD
        + """
@hf.electron
def need(path):
    return open(path).read()

@hf.electron
@hf.lattice
def inner(path):
    return need(path) + "!", double(2)

@hf.electron(accept_failed=True)
def look(value):
    return isinstance(value, hf.Failed) and value.error

@hf.lattice(executor="local")
def flow(path):
    return double(inner(path)), look(inner(path))

path = sys.argv[1]
result = hf.dispatch_sync(flow)(path)
children = result.sublattices()
print(json.dumps([result.status, result.error, [node.state for node in result.tasks()]]))
print(json.dumps([children[0].status, children[0].error, children[0].dispatch_id]))
print(json.dumps([node.state for node in children[0].tasks()]))
open(path, "w").write("here")
try:
    hf.retry(children[0].dispatch_id)
except hf.UserError as error:
    print(json.dumps(str(error).replace(result.dispatch_id, "ROOT")))
hf.retry(result.dispatch_id)
again = hf.get_result(result.dispatch_id, wait=True)
print(json.dumps([again.status, again.result, again.sublattices()[0].result]))
""",
        str(user.folder / "input"),
    )
    whole, child, states, refused, again = map(json.loads, printed.splitlines())

    why = f"0: need: FileNotFoundError: [Errno 2] No such file or directory: '{user.folder}/input'"
    told = f"Of the sublattice inner ({child[2]}) the following tasks failed: {why}"
    cause = why.removeprefix("0: need: ")
    assert whole[:2] == ["FAILED", f"The following tasks failed: 0: inner / need 0: {cause}"]
    assert whole[2] == ["failed", "skipped", "failed", "completed"]
    assert child[:2] == ["FAILED", told]
    assert states == ["failed", "completed"]
    assert refused == (
        f"{child[2]} is a sublattice in dispatch ROOT, and only a whole dispatch can be retried: name ROOT."
    )
    assert again[0] == "COMPLETED"
    assert again[1][0] == ["here!", 4, "here!", 4]
    assert again[2] == ["here!", 4]


def test_a_sublattice_that_can_t_be_built_or_run_says_why(own_server: Callable[..., User]) -> None:
    user = own_server(HPCFLOW_MAX_DEPTH="12")
    printed = user.runs(
        HEAD
        + """
@hf.electron
@hf.lattice
def broken(n):
    return double(1 / n)

@hf.electron
@hf.lattice
def nowhere(n):
    return double.with_options(executor="moon")(n)

@hf.electron
@hf.lattice
def endless(n):
    return endless(double(n))

@hf.electron
@hf.lattice
def unpicklable(n):
    return double(i for i in range(n))

@hf.lattice(executor="local")
def flow():
    return broken(count(0)), nowhere(count(0)), endless(count(0)), unpicklable(count(0))

result = hf.dispatch_sync(flow)()
for node in result.tasks()[1::2]:
    print(node.error)
print(result.get_node_result(1).traceback.splitlines()[-1])
"""
    )
    broken, nowhere, endless, unpicklable, last = printed.splitlines()

    assert broken == "ZeroDivisionError: The sublattice broken could not be built: division by zero"
    assert nowhere == "The sublattice nowhere can't run: There is no executor 'moon'; the clusters are local."
    # However deep it is, where it began and why it ended are told.
    assert endless.startswith("Of the sublattice endless (")
    assert len(endless) < 1100
    assert endless.endswith(
        "The sublattice endless can't run: sublattices lie 13 deep in each other here, and the server takes 12. If the "
        "recursion ends, raise `max_depth` in config.toml"
    )
    assert unpicklable.startswith(
        "UserError: The sublattice unpicklable could not be built: The electron 'double' can't take a value of type "
        "'generator' as its argument 'x'"
    )
    assert last == "ZeroDivisionError: division by zero"


GATED = (
    HEAD
    + """
@hf.electron
def gated(i, ledger, gate):
    with open(ledger, "a") as file:
        file.write(f"{i}\\n")
    return open(gate).read() if i == 0 else str(i)

@hf.electron
@hf.lattice
def inner(ledger, gate):
    return total_of([gated(i, ledger, gate) for i in range(2)])

@hf.electron
def total_of(values):
    return "+".join(values)

@hf.lattice(executor="local")
def flow(ledger, gate):
    return double(inner(ledger, gate)), inner.with_options(cpus=1)(ledger + "2", "/dev/null")

print(hf.dispatch(flow)(*sys.argv[1:]))
"""
)


def test_a_child_is_cancelled_by_its_own_id_and_the_rest_goes_on(user: User) -> None:
    ledger, gate = user.folder / "ledger", user.folder / "gate"
    os.mkfifo(gate)
    dispatch = user.runs(GATED, str(ledger), str(gate))
    until(lambda: "0" in lines(ledger))
    child = user.asks("show", dispatch, "--task", "0")["sublattice"]
    assert user.asks("show", child)["parent"] == {"dispatch": dispatch, "task": 0}

    done = user.hpcflow("cancel", child)

    assert done.returncode == 0, done.stderr
    shown = user.waits_for(dispatch)
    assert shown["status"] == "CANCELLED"
    assert re.match(r"\d tasks? (was|were) cancelled by you \(in inner 0\), and 1 sublattice with ", shown["error"])
    assert [task["state"] for task in shown["tasks_shown"]] == ["cancelled", "skipped", "completed"]
    inner = user.asks("show", child, "--tasks")
    assert inner["status"] == "CANCELLED"
    assert {task["state"] for task in inner["tasks_shown"]} <= {"cancelled", "completed"}
    assert "total_of" in [task["name"] for task in inner["tasks_shown"] if task["state"] == "cancelled"]


def test_a_server_that_is_killed_goes_on_with_sublattices_where_they_were(own_server: Callable[..., User]) -> None:
    user = own_server()
    ledger, gate = user.folder / "ledger", user.folder / "gate"
    os.mkfifo(gate)
    dispatch = user.runs(GATED, str(ledger), str(gate))
    until(lambda: "0" in lines(ledger))
    child = user.asks("show", dispatch, "--task", "0")["sublattice"]
    user.kills_the_server()
    open_gate(gate)

    assert user.hpcflow("start").returncode == 0
    shown = user.waits_for(dispatch)

    assert shown["status"] == "COMPLETED", shown
    assert sorted(lines(ledger)) == ["0", "1"]
    assert user.asks("show", dispatch, "--task", "0")["sublattice"] == child
    assert (
        user.runs(f"import hpcflow as hf; print(hf.get_result({dispatch!r}).result, hf.get_result({child!r}).result)")
        == "('+1+1', '+1') +1"
    )


@pytest.mark.parametrize("wanted", ["sacct", "show"])
def test_the_commands_show_what_lies_within(wanted: str, user: User) -> None:
    dispatch = user.runs(
        HEAD
        + """
@hf.lattice(executor="local")
def flow():
    return doubled(2)

print(hf.dispatch_sync(flow)().dispatch_id)
"""
    )
    if wanted == "sacct":
        rows = user.hpcflow("sacct", dispatch, "-n", "-P", "-o", "JobName").stdout
        assert rows.splitlines() == ["doubled", "double", "double", "total"]
    else:
        told = user.hpcflow("show", dispatch, "--tasks").stdout
        assert "4/4" in told or "4 of 4" in told
        assert user.asks("show", dispatch, "--task", "0")["sublattice"] in told


def test_workers_are_let_go_when_a_sublattice_turns_out_to_need_none(own_server: Callable[..., User]) -> None:
    # Nobody would wait for ten minutes: whoever lingered would hold the machine's cores for that long.
    user = own_server(HPCFLOW_LINGER="600")
    program = (
        HEAD
        + """
@hf.electron
@hf.lattice
def same(x):
    return x

@hf.lattice(executor="local")
def flow(x):
    return same(x), same(double(x))

print(hf.dispatch_sync(flow)(2).result)
"""
    )
    assert user.runs(program) == "(2, 4)"
    assert user.runs(program) == "(2, 4)"
    bags = list((Path(user.home.home) / "work/local/bags").iterdir())
    waited = [bag for bag in bags if json.loads((bag / "bag.json").read_text())["linger"] > 0]
    assert waited
    until(lambda: all('"ev":"close"' in (bag / "inbox.jsonl").read_text() for bag in waited))
