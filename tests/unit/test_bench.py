"""The table of bench/: what its rows say of measured times, what accounting said, and the work that is measured."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from pathlib import Path

import pytest

from bench.accounting import parse_charge
from bench.rows import Limit, Row, as_markdown, as_text, at_least, at_most, counted, left_out, told
from bench.sizes import FULL, QUICK
from bench.table import ROWS, main, summary
from bench.workloads import KINDS, bound_s, mixed, uneven_seconds


def test_a_ratio_is_one_of_medians_and_is_judged_by_both_limits() -> None:
    row = at_least("no-ops", [5.0, 4.0, 50.0], "array", [26.0, 20.0, 25.0], must=4, aim=6)
    assert row == Row(
        what="no-ops",
        measured="5.00 s (4.00 to 50.0)",
        beside="array: 25.0 s (20.0 to 26.0)",
        ratio="5.00x faster",
        must=Limit(">= 4x faster", kept=True),
        aim=Limit(">= 6x faster", kept=False),
    )
    assert row.cells[-2:] == (">= 4x faster: yes", ">= 6x faster: NO")
    assert at_least("no-ops", [5.0], "array", [19.9], must=4).must == Limit(">= 4x faster", kept=False)
    assert at_least("imports", [2.0], "array", [8.0], better="less CPU").ratio == "4.00x less CPU"


def test_a_slower_side_is_told_as_a_multiple_of_the_other() -> None:
    row = at_most("naps", [11.0], "pool", [10.0], must=1.2, aim=1.05)
    assert (row.ratio, str(row.must), str(row.aim)) == ("1.10x its time", "<= 1.2x: yes", "<= 1.05x: NO")
    assert str(at_most("naps", [13.0], "pool", [10.0], must=1.2).must) == "<= 1.2x: NO"
    assert at_most("naps", [13.0], "pool", [10.0]).must is None


def test_commands_are_summed_and_listed() -> None:
    row = counted("commands", Counter(sinfo=1, sbatch=2), must=10)
    assert (row.measured, str(row.must)) == ("3 (2 sbatch, 1 sinfo)", "<= 10: yes")
    assert str(counted("commands", Counter(squeue=11), must=10).must) == "<= 10: NO"
    assert counted("commands", Counter()).measured == "0"


def test_a_value_shows_three_digits_that_matter() -> None:
    shown = [told("x", [value], "MB").measured for value in (1234.5, 12.345, 1.2345, 0.01234)]
    assert shown == ["1234 MB", "12.3 MB", "1.23 MB", "0.012 MB"]
    assert str(told("x", [120.1], "MB", must=120).must) == "<= 120 MB: NO"


def test_the_table_has_one_line_for_each_row_in_both_forms() -> None:
    rows = [told("memory", [74.0], "MB", must=120, aim=80), left_out("Slurm", "there is no sbatch on the PATH")]
    assert as_markdown(rows).splitlines() == [
        "| what | hpcflow | beside it | ratio | must | aim |",
        "| --- | --- | --- | --- | --- | --- |",
        "| memory | 74.0 MB |  |  | <= 120 MB: yes | <= 80 MB: yes |",
        "| Slurm | left out: there is no sbatch on the PATH |  |  |  |  |",
    ]
    heading, line, memory, slurm = as_text(rows).splitlines()
    assert heading.split() == ["what", "hpcflow", "beside", "it", "ratio", "must", "aim"]
    assert set(line) == {"-"}
    assert memory.split() == ["memory", "74.0", "MB", "<=", "120", "MB:", "yes", "<=", "80", "MB:", "yes"]
    assert slurm.endswith("left out: there is no sbatch on the PATH")


# ---- accounting


# sacct --noheader --parsable2 --format=JobID,State,TotalCPU,CPUTimeRAW, Slurm 22.05.8
SACCT = """\
688_0|COMPLETED|00:00.236|2
688_0.batch|COMPLETED|00:00.236|2
688_1|CANCELLED by 1001|01:00.250|61
688_1.batch|CANCELLED|01:00.250|62
689_[1-60,62,64%8]|CANCELLED by 1001|00:00:00|0
689_0|FAILED|00:00.000|0
"""


WIDTHS = {"688": 2, "689": 63}


def test_accounting_is_summed_over_array_tasks_and_not_over_their_steps() -> None:
    charge = parse_charge(SACCT, WIDTHS)
    assert charge is not None
    assert (charge.core_s, charge.completed) == (63, 1)
    assert charge.cpu_s == pytest.approx(60.486)


def test_accounting_is_not_read_before_all_array_tasks_are_there() -> None:
    for line in SACCT.splitlines():
        without = "".join(f"{other}\n" for other in SACCT.splitlines() if other != line)
        assert (parse_charge(without, WIDTHS) is None) == (".batch" not in line)
    assert parse_charge(SACCT, {**WIDTHS, "690": 1}) is None
    assert parse_charge("", WIDTHS) is None


def test_an_array_that_was_cancelled_before_any_task_started_is_one_row() -> None:
    assert parse_charge(SACCT + "690|COMPLETED|00:00:00|0\n", {**WIDTHS, "690": 48}) is None
    charge = parse_charge(SACCT + "690|CANCELLED by 0|00:00:00|0\n", {**WIDTHS, "690": 48})
    assert charge is not None
    assert charge.core_s == 63


@pytest.mark.parametrize("state", ["RUNNING", "PENDING", "REQUEUED"])
def test_accounting_is_not_read_before_all_array_tasks_are_over(state: str) -> None:
    assert parse_charge(SACCT + f"690_1|{state}|00:00:00|0\n", {**WIDTHS, "690": 1}) is None


@pytest.mark.parametrize(
    ("text", "seconds"), [("00:00.236", 0.236), ("02:03", 123), ("01:02:03", 3723), ("2-01:00:00", 176400)]
)
def test_every_shape_of_cpu_time_is_read(text: str, seconds: float) -> None:
    charge = parse_charge(f"1_0|COMPLETED|{text}|1", {"1": 1})
    assert charge is not None
    assert charge.cpu_s == pytest.approx(seconds)


# ---- the work


def test_uneven_times_are_log_normal_the_same_each_time_and_as_much_work_as_asked_for() -> None:
    times = uneven_seconds(FULL.uneven, FULL.uneven_work_s)
    assert times == uneven_seconds(FULL.uneven, FULL.uneven_work_s)
    assert sum(times) == pytest.approx(FULL.uneven_work_s, rel=0.02)  # the longest are cut
    assert max(times) <= 3
    logs = [math.log(each) for each in times]
    means = [statistics.mean(logs[kind::KINDS]) for kind in range(KINDS)]
    within = statistics.mean(statistics.pstdev(logs[kind::KINDS]) for kind in range(KINDS))
    assert within == pytest.approx(0.5, abs=0.03)
    # Ten functions are few: their spread is of the order of the other, no more can be said.
    assert 0.25 < statistics.pstdev(means) < 1


def test_the_bound_is_all_work_over_all_slots_or_the_longest_task() -> None:
    assert bound_s([1.0] * 6, 3) == 2
    assert bound_s([5.0, 1.0], 3) == 5


def test_each_stage_changes_what_comes_out() -> None:
    assert mixed(1, 3) == [0, 1, 2]
    assert mixed(2, 3) == [3, 4, 5]
    assert mixed(3, 3) == [12, 13, 14]


# ---- the program


def test_every_row_says_in_one_line_what_it_measures() -> None:
    assert all(20 < len(summary(name)) <= 120 for name in ROWS)


def test_quick_sizes_are_smaller() -> None:
    for name in ("few", "many", "naps", "seconds", "uneven", "links", "stages", "imports", "charged", "ends"):
        assert getattr(QUICK, name) < getattr(FULL, name)


def test_without_slurm_its_rows_say_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    names = ("noops", "seconds", "uneven", "chain", "stages", "numpy", "charged")
    assert main([part for name in names for part in ("--only", name)]) == 0
    table = capsys.readouterr().out
    assert table.count("left out: there is no sbatch on the PATH") == len(names)
    assert "no Slurm" in table


def test_a_row_that_is_not_there_is_refused_with_those_that_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--only", "chains"])
    assert left.value.code == 2
    assert "'chain'" in capsys.readouterr().err
