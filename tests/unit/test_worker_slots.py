"""Array tasks that run several tasks at once: each slot has its own worker, cores and journal."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from hpcflow.node.slots import Share, share_out
from tests.unit.bag_on_disk import Call, start_worker, wait_for, write_bag
from tests.waiting import PATIENCE_S, until


def cores_and_gpus(folder: str, expected: int) -> tuple[list[int], str | None]:
    """Wait until as many as expected run at once."""
    Path(folder, str(os.getpid())).touch()
    while len(list(Path(folder).iterdir())) < expected:
        time.sleep(0.01)
    return sorted(os.sched_getaffinity(0)), os.environ.get("CUDA_VISIBLE_DEVICES")


def die_with_the_worker(mark: str) -> str:
    if not os.path.exists(mark):
        Path(mark).touch()
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(PATIENCE_S)
    return "again"


def double(x: int) -> int:
    return 2 * x


def test_cores_and_gpus_are_shared_out_in_order() -> None:
    assert share_out(2, cores=frozenset({4, 5, 6, 7}), cpus=2, visible="0,1,2,3", gpus=2) == [
        Share(frozenset({4, 5}), "0,1"),
        Share(frozenset({6, 7}), "2,3"),
    ]


def test_slots_without_cores_enough_are_not_tied_to_any() -> None:
    assert share_out(3, cores=frozenset({0, 1}), cpus=1, visible=None, gpus=0) == [Share(None, None)] * 3


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_slots_run_at_once_on_cores_of_their_own(tmp_path: Path) -> None:
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    bag = write_bag(tmp_path, *[Call(cores_and_gpus, (str(meeting), 2))] * 2, slots=2)
    assert wait_for([start_worker(bag)]) == [(0, "")]
    (first, _), (second, _) = bag.result(0), bag.result(1)
    assert (len(first), len(second)) == (1, 1)
    assert first != second
    assert sorted(bag.journals()) == ["7+0_0_0", "7+1_0_0"]


def test_slots_share_the_ranges_of_a_bag(tmp_path: Path) -> None:
    bag = write_bag(tmp_path, *[Call(double, (index,)) for index in range(20)], slots=3)
    assert wait_for([start_worker(bag), start_worker(bag, index=1)]) == [(0, "")] * 2
    assert [bag.result(index) for index in range(20)] == [2 * index for index in range(20)]
    assert len(bag.journals()) == 6


def test_a_worker_that_dies_in_its_slot_is_followed_by_another_and_its_task_is_told_dead(tmp_path: Path) -> None:
    bag = write_bag(tmp_path, Call(die_with_the_worker, (str(tmp_path / "mark"),)), Call(double, (1,)), slots=2)
    assert wait_for([start_worker(bag)])[0][0] == 0
    died = [name for name, records in bag.journals().items() if records[-1].get("why") == "died"]
    assert len(died) == 1
    assert (bag.end(0)["st"], bag.end(0)["sig"]) == ("signal", signal.SIGKILL)
    assert bag.result(1) == 2
    heir = died[0].rpartition("_")[0] + "_1"
    assert [record["ev"] for record in bag.journals()[heir]][:2] == ["up", "inherit"]
    assert [record["i"] for record in bag.records("end")].count(0) == 1


def test_a_signal_of_the_scheduler_reaches_every_slot(tmp_path: Path) -> None:
    bag = write_bag(tmp_path, *[Call(time.sleep, (PATIENCE_S,))] * 3, slots=3, grace=1)
    worker = start_worker(bag)
    until(lambda: len(bag.records("start")) == 3)
    worker.send_signal(signal.SIGTERM)
    assert wait_for([worker])[0][0] == 143
    assert [end["st"] for end in bag.records("end")] == ["interrupted"] * 3
