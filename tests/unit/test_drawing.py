"""A lattice drawn as text."""

from __future__ import annotations

import hpcflow as hf


@hf.electron
def load(name: str) -> str:
    return name


@hf.electron
def join(*parts: str) -> str:
    return "".join(parts)


@hf.electron
@hf.lattice
def again(text: str) -> str:
    return join(text, text)


@hf.lattice
def small() -> str:
    first, second = load("a"), load("b")
    hf.wait(second, first)
    return again(join(first, second))


@hf.lattice
def wide(count: int) -> str:
    return join(*[join(load(str(number))) for number in range(count)])


def test_every_task_is_a_box_with_arrows_for_arguments_and_dots_for_order() -> None:
    assert small.draw().splitlines() == [
        "flowchart TD",
        '    t0["load"]',
        '    t1["load"]',
        '    t2["join"]',
        '    t3[["again"]]',
        '    result(["result"])',
        "    t0 --> t2",
        "    t1 --> t2",
        "    t2 --> t3",
        "    t0 -.-> t1",
        "    t3 --> result",
    ]


def test_alike_tasks_of_a_large_graph_are_one_box_with_their_number() -> None:
    assert wide.draw(1000).splitlines() == [
        "flowchart TD",
        '    t0["load x 1,000"]',
        '    t1["join x 1,000"]',
        '    t2000["join"]',
        '    result(["result"])',
        "    t0 --> t1",
        "    t1 --> t2000",
        "    t2000 --> result",
    ]


def test_an_order_that_leads_to_a_later_call_is_drawn_too() -> None:
    @hf.lattice
    def backwards(count: int) -> list[str]:
        early = [load("a") for _ in range(count)]
        late = [join("b") for _ in range(count)]
        for one in early:
            hf.wait(one, late)
        return early

    drawn = backwards.draw(40)
    assert '    t0["load x 40"]' in drawn
    assert "    t40 -.-> t0" in drawn
