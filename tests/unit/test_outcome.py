"""How a dispatch and its sublattices end of which the user cancelled single tasks, and in which words."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from hpcflow.core.model import DispatchId
from hpcflow.core.states import Event, State, Status
from hpcflow.server.manifest import moved, read_graph
from hpcflow.server.tasks import Child
from tests.unit.mini_world import a_dispatch, a_manifest

NOW = datetime(2026, 11, 27, tzinfo=UTC)


def test_a_cancelled_task_of_a_sublattice_is_told_on_every_level_and_all_tasks_are_counted(tmp_path: Path) -> None:
    live = a_dispatch(a_manifest([], [], [1]), tmp_path)  # step1 is a sublattice, and step2 needs it
    manifest = a_manifest([], [], [])
    known = DispatchId("01JD0000000000000000000001")
    child = Child(id=known, name="inner", task=1, depth=1, first=3, count=3, output=3, output_deps=(3, 4))
    graph = moved(read_graph(manifest), 3, 1)
    live.join(child, graph, [live.tasks[0].shape] * 3, manifest, str(tmp_path / "payload"))
    live.unfold(child, NOW)
    for index in (0, 3, 5):
        for event in (Event.BAGGED, Event.STARTED, Event.RETURNED):
            live.move(index, event, NOW)
    live.move(4, Event.CANCELLED, NOW, "Cancelled by you.")
    assert [live.tasks[index].state for index in (1, 2)] == [State.CANCELLED, State.SKIPPED]
    assert live.tasks[1].error == (
        f"Of the sublattice inner ({known}) 1 task was cancelled by you (step1 1), 2 completed."
    )
    assert live.left == 0
    live.close(NOW)
    assert (live.status, live.error) == (
        Status.CANCELLED,
        "1 task was cancelled by you (in step1 1), and 1 sublattice with it, 1 was not run because of it, 3 completed.",
    )


def test_failures_in_sublattices_are_told_by_their_path_and_the_first_cause(tmp_path: Path) -> None:
    live = a_dispatch(a_manifest([], []), tmp_path)
    ids = [DispatchId(f"01JD000000000000000000000{number}") for number in range(2)]
    for number, name in enumerate(("middle", "inner")):  # step0 is one, of which the first task is one
        manifest, first = a_manifest([], [], []), 2 + 3 * number
        output = tuple(range(first, first + 3))
        child = Child(
            id=ids[number], name=name, task=2 * number, depth=1 + number, first=first, count=3, output=first,
            output_deps=output,
        )  # fmt: skip
        graph = moved(read_graph(manifest), first, 1 + number)
        live.join(child, graph, [live.tasks[0].shape] * 3, manifest, str(tmp_path / "payload"))
        live.unfold(child, NOW)
    for index in (1, 3, 4, 5, 6, 7):
        for event in (Event.BAGGED, Event.STARTED):
            live.move(index, event, NOW)
        error = "ValueError: no minimum." if index in {6, 7} else None
        live.move(index, Event.RETURNED if error is None else Event.RAISED, NOW, error)
    live.close(NOW)
    inner = "1: step1: ValueError: no minimum; 2: step2: ValueError: no minimum"
    why = "step1 1: ValueError: no minimum"
    assert live.tasks[2].error == f"Of the sublattice inner ({ids[1]}) the following tasks failed: {inner}"
    assert live.tasks[0].error == (
        f"Of the sublattice middle ({ids[0]}) the following tasks failed: 0: step0: 2 tasks failed, first {why}"
    )
    assert live.error == f"The following tasks failed: 0: step0: 2 tasks failed, first step0 / {why}"


def test_of_many_cancelled_tasks_the_first_are_named(tmp_path: Path) -> None:
    live = a_dispatch(a_manifest(*[[]] * 6), tmp_path)
    for index in range(5):
        live.move(index, Event.CANCELLED, NOW, "Cancelled by you.")
    for event in (Event.BAGGED, Event.STARTED, Event.RETURNED):
        live.move(5, event, NOW)
    live.close(NOW)
    assert live.error == "5 tasks were cancelled by you (step0 0, step1 1, step2 2 and 2 more), 1 completed."
