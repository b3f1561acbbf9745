"""A dispatch that runs once more: as it was, with other arguments, with other electrons."""

from __future__ import annotations

from tests.integration.world import User

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
