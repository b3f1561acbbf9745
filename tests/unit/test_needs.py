"""What tasks wait for: the same wait is one object, however many share it."""

from __future__ import annotations

from hpcflow.core.model import Graph, Task
from hpcflow.core.needs import downstream, needs, waiting


def a_graph(*waits: tuple[tuple[int, ...], tuple[int, ...], bool]) -> Graph:
    tasks = tuple(
        Task(index=index, name="t", fn=0, args=0, deps=deps, after=after, accept_failed=accepts)
        for index, (deps, after, accepts) in enumerate(waits)
    )
    return Graph(name="flow", tasks=tasks, output=0, output_deps=())


def test_tasks_that_wait_for_the_same_share_one_wait() -> None:
    nothing, both = ((), (), False), ((0, 1), (), False)
    graph = a_graph(nothing, nothing, both, both, ((0, 1), (), True), ((0,), (1,), False))
    found = needs(graph)
    assert [id(found[2]), found[2].tasks, found[2].missing] == [id(found[3]), [2, 3], 2]
    # Who takes failures, and who waits for one only to have ended, waits for something else.
    assert len({id(need) for need in found}) == 4
    assert [need.upstreams for need in found[4:]] == [(0, 1), (0, 1)]
    assert [[need.tasks for need in of] for of in waiting(found)] == [[[2, 3], [4], [5]]] * 2 + [[]] * 4


def test_an_upstream_that_is_needed_twice_is_waited_for_once() -> None:
    [_, need] = needs(a_graph(((), (), False), ((0,), (0,), False)))
    assert (need.upstreams, need.missing) == ((0,), 1)


def test_who_follows_is_the_same_list_for_all_of_a_stage() -> None:
    stage = tuple(range(1000))
    found = downstream(a_graph(*[((), (), False)] * 1000, *[(stage, (), False)] * 1000))
    assert found[0] == list(range(1000, 2000))
    assert len({id(of) for of in found[:1000]}) == 1
    assert found[1000:] == [[]] * 1000


def test_followers_of_several_waits_are_told_in_order() -> None:
    nothing = ((), (), False)
    found = downstream(a_graph(nothing, nothing, ((0, 1), (), False), ((0,), (), False), ((0, 1), (), False)))
    assert found == [[2, 3, 4], [2, 4], [], [], []]
