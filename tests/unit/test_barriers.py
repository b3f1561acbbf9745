"""A stage of which every task needs all of the stage before: what they need is held once, not once for each."""

from __future__ import annotations

import json
from typing import Any

import pytest

import hpcflow
from hpcflow.core.graphs import check_graph, waves
from hpcflow.core.model import UserError
from hpcflow.core.needs import downstream
from hpcflow.sdk.manifest import manifest
from hpcflow.server.manifest import read_graph

WIDTH = 300


@hpcflow.electron
def first(number: int) -> int:
    return number


@hpcflow.electron
def second(number: int, before: list[int]) -> int:
    return number + sum(before)


@hpcflow.lattice
def two_stages(width: int) -> list[int]:
    before = [first(number) for number in range(width)]
    return [second(number, before) for number in range(width)]


def uploaded(width: int) -> tuple[dict[str, Any], list[bytes]]:  # Any: JSON
    written, blobs = manifest(two_stages.build_graph(width))
    return json.loads(json.dumps({**written, "blobs": [[len(blob), ""] for blob in blobs]})), blobs


def test_an_upload_says_once_what_a_whole_stage_needs() -> None:
    written, _ = uploaded(WIDTH)
    assert written["needs"] == [[], list(range(WIDTH))]
    assert [task[4:] for task in written["tasks"]] == [[0, 0]] * WIDTH + [[1, 0]] * WIDTH


def test_the_graph_holds_once_what_a_whole_stage_needs() -> None:
    written, _ = uploaded(WIDTH)
    graph = read_graph(written)
    assert len({id(task.deps) for task in graph.tasks[WIDTH:]}) == 1
    assert graph.tasks[-1].deps == tuple(range(WIDTH))
    after = downstream(graph)
    assert len({id(each) for each in after[:WIDTH]}) == 1
    assert list(after[0]) == list(range(WIDTH, 2 * WIDTH))
    assert list(after[-1]) == []
    check_graph(graph)
    assert waves(graph) == (tuple(range(WIDTH)), tuple(range(WIDTH, 2 * WIDTH)))


def test_a_task_that_waits_for_two_stages_follows_each_of_their_tasks_once() -> None:
    @hpcflow.lattice
    def three(width: int) -> int:
        a = [first(number) for number in range(width)]
        b = [second(number, a) for number in range(width)]
        return hpcflow.wait(second(0, b), a)

    written, blobs = manifest(three.build_graph(10))
    graph = read_graph(json.loads(json.dumps({**written, "blobs": [[len(blob), ""] for blob in blobs]})))
    after = downstream(graph)
    assert list(after[0]) == [*range(10, 20), 20]
    assert list(after[10]) == [20]
    assert waves(graph) == (tuple(range(10)), tuple(range(10, 20)), (20,))


def test_a_dispatch_that_was_stored_before_barriers_is_read_as_ever() -> None:
    written, _ = uploaded(WIDTH)
    needs = written.pop("needs")
    old = [[*task[:4], needs[task[4]], needs[task[5]]] for task in written["tasks"]]
    assert read_graph({**written, "v": 1, "tasks": old}).tasks == read_graph(uploaded(WIDTH)[0]).tasks


def test_a_circle_through_a_barrier_is_named_by_its_tasks() -> None:
    written, _ = uploaded(10)
    # The first task waits for the last one, which needs all of the first stage.
    written["needs"].append([19])
    written["tasks"][0][5] = 2
    with pytest.raises(UserError, match=r"goes round in a circle: (first \(0\) -> second \(19\)|second \(19\) -> )"):
        check_graph(read_graph(written))
