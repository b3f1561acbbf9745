"""What to ask for the next time."""

from __future__ import annotations

import pytest

from hpcflow.core.advice import ENOUGH, Runs, Shortage, advise, beyond, quantile
from hpcflow.core.model import Partition


def ran(runs: Runs, count: int = 10, *, wall_s: float = 100.0, cores: float = 1.0, rss_mib: float = 100.0) -> Runs:
    for _ in range(count):
        runs.add("ok", wall_s, wall_s * cores, rss_mib * 1024)
    return runs


def test_cores_that_nobody_keeps_busy_are_advised_away() -> None:
    advice = advise(ran(Runs(32), cores=4.1))
    assert (advice.cpus, advice.options) == (5, "cpus=5")
    assert advice.why == ("Of 32 cores, 95 % of the tasks keep 4.1 or fewer busy; 10 % are added, in whole cores.",)


@pytest.mark.parametrize(
    "runs",
    [
        ran(Runs(4), cores=3.9),
        ran(Runs(4), cores=1.0, wall_s=0.5),
        ran(Runs(4, ntasks=4), cores=1.0),
        ran(Runs(32), ENOUGH - 1, cores=1.0),
        ran(Runs(1, memory_mib=150, walltime_s=150)),
        Runs(8, memory_mib=4096, walltime_s=3600),
    ],
    ids=["all are busy", "too short to tell", "ranks of MPI", "too few", "near to what was asked", "none ended"],
)
def test_nothing_is_advised_where_nothing_is_known_or_to_be_gained(runs: Runs) -> None:
    assert advise(runs).options == ""


def test_memory_and_walltime_are_advised_with_a_margin_beyond_the_largest() -> None:
    runs = ran(Runs(1, memory_mib=16 * 1024, walltime_s=24 * 3600), 9)
    ran(runs, 1, wall_s=1000.0, rss_mib=1500.0)
    advice = advise(runs)
    assert advice.options == 'memory="2 GiB", walltime="25 min"'
    assert advice.why == (
        "The largest of 10 took 1.5 GiB; 30 % are added, rounded up to a multiple of 512 MiB.",
        "The longest of 10 took 17 min; 50 % are added, in whole minutes. Short jobs start sooner.",
    )


def test_advice_says_below_what_it_never_goes() -> None:
    advice = advise(ran(Runs(1, memory_mib=1024, walltime_s=3600), wall_s=0.5, rss_mib=16.0))
    assert advice.options == 'memory="256 MiB", walltime="1 min"'
    assert advice.why == (
        "The largest of 10 took 16 MiB; 30 % are added, and less than 256 MiB is never advised: worker and interpreter "
        "need that.",
        "The longest of 10 took less than 1 s; 50 % are added, in whole minutes. Short jobs start sooner.",
    )


def test_what_ran_out_is_asked_for_half_as_much_again_at_once() -> None:
    runs = Runs(1, memory_mib=16 * 1024, walltime_s=600)
    runs.add("memory", 10.0, 9.0, None)
    runs.add("timeout", 600.0, 600.0, None)
    advice = advise(runs)
    assert (advice.memory_mib, advice.walltime_s, runs.lost) == (24 * 1024, 900, 2)
    assert advice.options == 'memory="24 GiB", walltime="15 min"'
    assert advice.why[0] == (
        "1 ran out of memory: half as much again is a first try, rounded up to a multiple of 1 GiB."
    )


def test_what_was_used_by_one_that_ran_out_counts_where_it_is_more_than_half_as_much_again() -> None:
    runs = Runs(1, memory_mib=128)
    for rss_mib in (300.0, 340.0, None):
        runs.add("memory", 10.0, 9.0, None if rss_mib is None else rss_mib * 1024)
    advice = advise(runs)
    assert advice.options == 'memory="704 MiB"'
    assert advice.why == (
        "3 ran out of memory: the largest had 340 MiB when it was ended; as much again is added, rounded up to a "
        "multiple of 64 MiB.",
    )


@pytest.mark.parametrize(
    ("shortages", "advised"),
    [
        ([("memory", 128, 0.0)], 384),
        ([("memory", 128, 150.0)], 448),
        ([("memory", 128, 0.0), ("memory", 128, 340.0), ("memory", 128, 310.0)], 704),
        ([("memory", 256, 300.0)], 576),
        ([("memory", None, 0.0)], None),
        ([("memory", None, 500.0)], 768),
        ([("memory", 1800, 0.0)], 2000),
        ([("memory", 2000, 2100.0)], None),
        ([("walltime", 60, 0.0)], 120),
        ([("walltime", 600, 601.0)], 960),
        ([("walltime", 3600, 3600.0)], 5000),
        ([("walltime", 5000, 5000.0)], None),
    ],
)
def test_tasks_that_ran_out_of_one_thing_are_told_one_amount_and_no_more_than_there_is(
    shortages: list[Shortage], advised: int | None
) -> None:
    batch = Partition(name="batch", memory_mib_per_node=2000, max_walltime_s=5000)
    assert beyond([Shortage(*each) for each in shortages], batch) == advised


def test_what_is_known_to_be_too_little_is_never_advised_to_others_of_the_electron() -> None:
    small, middle, large = Runs(1, memory_mib=128, walltime_s=60), Runs(1, memory_mib=320), Runs(1, memory_mib=512)
    small.add("memory", 1.0, 1.0, 186 * 1024)
    small.add("timeout", 60.0, 60.0, None)
    middle.add("memory", 1.0, 1.0, 310 * 1024)
    assert advise(small, middle).options == 'memory="576 MiB", walltime="2 min"'
    ran(large, 1, wall_s=70.0, rss_mib=315)
    large.walltime_s = 600
    advice = advise(small, middle, large)
    assert advice.options == 'memory="448 MiB", walltime="2 min"'
    assert advice.why == (
        "2 ran out of memory with 320 MiB or less; with more the largest took 315 MiB; 30 % are added, rounded up to a "
        "multiple of 64 MiB.",
        "1 ran out of time with 1 min or less; with more the longest took 70 s: with 50 % and whole minutes, and no "
        "more than was enough, that is 2 min.",
    )
    ran(large, 1, wall_s=70.0, rss_mib=500)
    assert advise(small, middle, large).memory_mib == 512
    large.add("memory", 1.0, 1.0, None)
    assert advise(small, middle, large).memory_mib == 768


def test_without_a_limit_that_was_asked_for_a_death_for_memory_says_nothing_without_a_peak() -> None:
    runs = Runs(1)
    runs.add("memory", None, None, None)
    assert advise(runs).options == ""


def test_runs_of_several_dispatches_are_counted_as_one() -> None:
    one, other = ran(Runs(32), 3, cores=2.0), ran(Runs(32), 3, cores=2.0)
    one.join(other)
    assert (one.held_core_s, one.used_core_s, advise(one).cpus) == (19200.0, 1200.0, 3)


def test_what_attempts_took_that_failed_or_were_repeated_is_lost() -> None:
    runs = Runs(4)
    runs.add("ok", 10.0, 40.0, 1.0)
    runs.add("ok", 5.0, 20.0, 1.0, again=True)
    runs.add("error", 2.0, 1.0, 1.0)
    runs.add("timeout", 3.0, 1.0, None, again=True)
    runs.add("killed", None, None, None)
    assert (runs.held_core_s, runs.lost_core_s, runs.lost) == (80.0, 40.0, 3)
    runs.join(runs)
    assert runs.lost_core_s == 80.0


def test_a_quantile_is_one_of_the_values() -> None:
    assert [quantile([3, 1, 2], share) for share in (0.0, 0.5, 0.95, 1.0)] == [1, 2, 3, 3]
    assert quantile([], 0.5) is None
