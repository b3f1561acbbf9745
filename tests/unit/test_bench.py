"""The table of bench/: what its rows say of measured times."""

from __future__ import annotations

from collections import Counter

from bench.rows import Row, as_markdown, as_text, at_least, at_most, counted, left_out, told


def test_a_ratio_is_one_of_medians_and_is_judged_by_its_limit() -> None:
    row = at_least("no-ops", [5.0, 4.0, 50.0], "array", [26.0, 20.0, 25.0], 4)
    assert row == Row(
        what="no-ops",
        measured="5.00 s (4.00 to 50.0)",
        beside="array: 25.0 s (20.0 to 26.0)",
        ratio="5.00x faster",
        must=">= 4x faster",
        met=True,
    )
    assert at_least("no-ops", [5.0], "array", [19.9], 4).met is False


def test_a_slower_side_is_told_as_a_multiple_of_the_other() -> None:
    assert at_most("naps", [11.0], "pool", [10.0], 1.2).ratio == "1.10x its time"
    assert at_most("naps", [13.0], "pool", [10.0], 1.2).met is False
    assert at_most("naps", [13.0], "pool", [10.0], None).met is None


def test_commands_are_summed_and_listed() -> None:
    row = counted("commands", Counter(sinfo=1, sbatch=2), 10)
    assert (row.measured, row.must, row.met) == ("3 (2 sbatch, 1 sinfo)", "<= 10", True)
    assert counted("commands", Counter(squeue=11), 10).met is False
    assert counted("commands", Counter(), None).measured == "0"


def test_a_value_shows_three_digits_that_matter() -> None:
    shown = [told("x", [value], "MB").measured for value in (1234.5, 12.345, 1.2345, 0.01234)]
    assert shown == ["1234 MB", "12.3 MB", "1.23 MB", "0.012 MB"]
    assert told("x", [120.1], "MB", 120).met is False


def test_the_table_has_one_line_for_each_row_in_both_forms() -> None:
    rows = [told("memory", [74.0], "MB", 120), left_out("Slurm", "there is no sbatch on the PATH")]
    assert as_markdown(rows).splitlines() == [
        "| what | hpcflow | beside it | ratio | must | met |",
        "| --- | --- | --- | --- | --- | --- |",
        "| memory | 74.0 MB |  |  | <= 120 MB | yes |",
        "| Slurm | left out: there is no sbatch on the PATH |  |  |  |  |",
    ]
    heading, line, memory, slurm = as_text(rows).splitlines()
    assert heading.split() == ["what", "hpcflow", "beside", "it", "ratio", "must", "met"]
    assert set(line) == {"-"}
    assert memory.split() == ["memory", "74.0", "MB", "<=", "120", "MB", "yes"]
    assert slurm.endswith("left out: there is no sbatch on the PATH")
