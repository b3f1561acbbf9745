"""A list of nothing but results is one step of a pickle: stages that each need all of the last are made of such."""

from __future__ import annotations

from typing import Any

import pytest

import hpcflow as hf
from hpcflow.sdk.pickling import load_with


@hf.electron
def first(number: int) -> int:
    return number


@hf.electron
def gather(values: object, *, named: object = None) -> object:
    return values, named


def opened(traced: Any, task: int) -> Any:  # Any: a trace, and whatever the arguments are
    return load_with(traced.blobs[traced.graph.tasks[task].args], lambda number: number * number)


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_list_or_tuple_of_results_arrives_as_what_it_was(kind: type[Any]) -> None:  # Any: of anything
    @hf.lattice
    def stages() -> object:
        before = [first(number) for number in range(20)]
        return gather(kind(before), named=kind(before[:3]))

    traced = stages.build_graph()
    assert opened(traced, 20) == (
        (kind(number * number for number in range(20)),),
        {"named": kind([0, 1, 4])},
    )
    assert traced.graph.tasks[20].deps == tuple(range(20))


def test_expressions_among_results_are_still_worked_out() -> None:
    @hf.lattice
    def stages() -> object:
        before = [first(number) for number in range(20)]
        return gather([*before[:10], before[10] + 1, "text"])

    ((values,), _) = opened(stages.build_graph(), 20)
    assert values == [*(number * number for number in range(10)), 101, "text"]


def test_results_of_another_lattice_call_are_refused_in_a_list_too() -> None:
    kept: list[Any] = []  # Any: placeholders

    @hf.lattice
    def leaks() -> object:
        kept.extend(first(number) for number in range(20))
        return kept[0]

    @hf.lattice
    def uses() -> object:
        return gather(kept)

    leaks.build_graph()
    with pytest.raises(hf.HpcflowError, match="from another call of a lattice"):
        uses.build_graph()


def test_what_a_whole_stage_needs_costs_a_few_bytes_for_each_result_and_one_tuple_for_all() -> None:
    @hf.lattice
    def stages() -> object:
        before = [first(number) for number in range(300)]
        return [gather(before, named=number) for number in range(5)]

    traced = stages.build_graph()
    assert max(len(traced.blobs[task.args]) for task in traced.graph.tasks) < 200 + 4 * 300
    assert len({id(task.deps) for task in traced.graph.tasks[300:]}) == 1
