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
""",
        str(ledger),
    )

    status, resumed, known = printed.splitlines()
    assert status == "RUNNING It was dispatched with disable_run=True."
    assert resumed.startswith("It goes on; ")
    assert known == "True Context(dispatch_id=None, node_id=None)"
    told = lines(ledger)
    assert sorted(told) == ["0", "1", "3"]
    assert told.index("1") < told.index("0")
