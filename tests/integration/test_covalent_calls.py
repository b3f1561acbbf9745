"""Covalent's small calls: get_context, wait_for, a dispatch that is held."""

from __future__ import annotations

from tests.integration.world import User, lines


def test_an_electron_knows_its_task_and_a_held_dispatch_waits_to_be_resumed(user: User) -> None:
    ledger = user.folder / "ledger"
    printed = user.runs(
        """
import sys

import hpcflow as hf

@hf.electron
def where(ledger):
    here = hf.get_context()
    with open(ledger, "a") as file:
        file.write(f"{here.node_id}\\n")
    return here.dispatch_id, here.node_id, here.task_id

@hf.electron
@hf.lattice
def inner(ledger):
    return where(ledger)

@hf.lattice(executor="local")
def flow(ledger):
    last, first = where(ledger), where(ledger)
    return first, last.wait_for([first]), inner(ledger)

dispatch = hf.dispatch(flow, disable_run=True)(sys.argv[1])
held = hf.get_result(dispatch)
print(held.status, held.paused)
print(hf.resume(dispatch))
result = hf.get_result(dispatch, wait=True, results_dir=".", workflow_output=True, sublattice_results=False)
print(result.result == tuple((dispatch, number, number) for number in (1, 0, 3)), hf.get_context())
shown = result.get_all_node_results()
print([node["node_name"].replace(sys.argv[1], "LEDGER") for node in shown], {str(node["status"]) for node in shown})
print(shown[0]["output"] == (dispatch, 0, 0), shown[3]["output"] == sys.argv[1], shown[2]["sublattice_result"].status)
print(result.inputs == {"args": (sys.argv[1],), "kwargs": {}}, result.get_node_result(2)["sublattice_result"].to_rows()
      == [{"node_id": 0, "node_name": "where", "ledger": sys.argv[1], "status": "COMPLETED",
           "output": (dispatch, 3, 3), "error": None}])
""",
        str(ledger),
    )

    status, resumed, known, names, nodes, inner = printed.splitlines()
    assert status == "NEW_OBJECT It was dispatched with disable_run=True."
    assert resumed.startswith("It goes on; ")
    assert known == "True Context(dispatch_id=None, node_id=None)"
    assert names == str(["where", "where", "inner", *[":parameter:LEDGER"] * 3]) + " {'COMPLETED'}"
    assert (nodes, inner) == ("True True COMPLETED", "True True")
    told = lines(ledger)
    assert sorted(told) == ["0", "1", "3"]
    assert told.index("1") < told.index("0")
