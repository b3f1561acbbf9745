"""What a lattice costs before anything is sent, in CPU time, which other programs' load changes little."""

from __future__ import annotations

from bench.workloads import graph_cpu_s

TASKS = 10_000
MOST_S = 0.3


def test_a_graph_of_ten_thousand_electrons_takes_less_than_three_tenths_of_a_second() -> None:
    assert min(graph_cpu_s("fan-out and reduce", TASKS) for _ in range(3)) < MOST_S


def test_so_does_one_in_which_each_second_electron_takes_the_result_of_the_one_before_and_a_keyword() -> None:
    assert min(graph_cpu_s("pairs", TASKS) for _ in range(3)) < MOST_S
