"""Workers that wait for more: what comes through the inbox of a bag that is at work."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

from hpcflow.core.bag import INBOX, pack, sign_line
from hpcflow.sdk.pickling import dumps
from tests.unit.bag_on_disk import BagOnDisk, Call, start_worker, wait_for, write_bag
from tests.waiting import PATIENCE_S, until


def double(x: int) -> int:
    return 2 * x


def triple(x: int) -> int:
    return 3 * x


def plus_one(x: int) -> int:
    return x + 1


def tell(bag: BagOnDisk, **record: Any) -> None:  # Any: JSON
    with (bag.path / INBOX).open("ab") as inbox:
        inbox.write(b"\n" + sign_line(record, bag.key))


def add(
    bag: BagOnDisk, number: int, *calls: Call, first: int, cuts: list[int], **more: Any
) -> dict[str, Any]:  # Any: JSON
    """Put a further part beside the bag; return the line that tells of it."""
    blobs: list[bytes] = []
    rows: list[object] = []
    for place, call in enumerate(calls):
        blobs += [dumps(call.function), call.pickled or dumps((call.args, {}))]
        name = f"task{first + place}"
        rows.append([first + place, 0, blobs.index(blobs[2 * place]), 2 * place + 1, place, name])
    pieces, digest = pack(blobs)
    folder = bag.path / f"more-{number}"
    folder.mkdir(mode=0o700)
    (folder / "payload.pack").write_bytes(b"".join(pieces))
    (folder / "payload.pack").chmod(0o600)
    inputs = [{str(upstream): ref for upstream, ref in call.refs.items()} for call in calls]
    told = {"ev": "more", "n": number, "index": digest, "tasks": rows, "inputs": inputs, "units": None, "cuts": cuts}
    return {**told, **more}


def test_a_worker_that_waits_takes_what_comes_and_leaves_when_nothing_more_will(tmp_path: Path) -> None:
    bag = write_bag(tmp_path, Call(double, (1,)), linger=PATIENCE_S)
    worker = start_worker(bag)
    until(lambda: bag.records("idle"))
    tell(bag, **add(bag, 1, Call(double, (2,)), Call(triple, (3,)), first=1, cuts=[2, 3]))
    until(lambda: len(bag.records("end")) == 3)
    tell(bag, ev="close", n=2)
    assert wait_for([worker]) == [(0, "")]
    assert [bag.result(index) for index in range(3)] == [2, 4, 9]
    (left,) = bag.records("exit")
    assert (left["why"], left["n"]) == ("drained", 3)
    assert left["idle"] > 0


def test_a_worker_without_leave_to_wait_leaves_at_once(tmp_path: Path) -> None:
    bag = write_bag(tmp_path, Call(double, (1,)), linger=PATIENCE_S, lingerers=1)
    assert wait_for([start_worker(bag, index=1)]) == [(0, "")]
    assert bag.records("idle") == []


def test_waiting_ends_when_it_was_long_enough(tmp_path: Path) -> None:
    bag = write_bag(tmp_path, Call(double, (1,)), linger=0.2)
    assert wait_for([start_worker(bag)]) == [(0, "")]
    assert bag.records("exit")[0]["idle"] >= 0.2


def test_what_was_told_before_a_worker_came_is_part_of_the_bag(tmp_path: Path) -> None:
    bag = write_bag(tmp_path, Call(double, (1,)))
    tell(bag, **add(bag, 1, Call(triple, (2,)), first=1, cuts=[2]))
    assert wait_for([start_worker(bag)]) == [(0, "")]
    assert [bag.result(index) for index in range(2)] == [2, 6]


def test_a_part_that_is_told_twice_or_by_somebody_else_is_taken_once_or_not_at_all(tmp_path: Path) -> None:
    bag = write_bag(tmp_path, Call(double, (1,)))
    line = add(bag, 1, Call(triple, (2,)), first=1, cuts=[2])
    tell(bag, **line)
    tell(bag, **line)
    with (bag.path / INBOX).open("ab") as inbox:
        inbox.write(b"\n" + sign_line({**line, "n": 2}, b"x" * 32) + b"{torn")
    assert wait_for([start_worker(bag)]) == [(0, "")]
    assert [end["i"] for end in bag.records("end")] == [0, 1]


def test_a_chain_that_comes_later_is_one_unit(tmp_path: Path) -> None:
    bag = write_bag(tmp_path, Call(double, (1,)))
    first = Call(double, (5,))
    follows = Call(plus_one, pickled=dumps(((4,), {})), refs={})
    tell(bag, **add(bag, 1, first, follows, first=1, cuts=[2], units=[[1, 2]]))
    assert wait_for([start_worker(bag)]) == [(0, "")]
    assert [bag.result(index) for index in range(3)] == [2, 10, 5]
    assert [(claim["a"], claim["b"]) for claim in bag.records("claim")] == [(0, 1), (1, 2)]


def test_workers_that_wait_share_what_comes(tmp_path: Path) -> None:
    bag = write_bag(tmp_path, Call(double, (1,)), linger=PATIENCE_S)
    workers = [start_worker(bag, index=index) for index in range(3)]
    until(lambda: len(bag.records("idle")) == 3)
    calls = [Call(double, (index,)) for index in range(12)]
    tell(bag, **add(bag, 1, *calls, first=1, cuts=list(range(2, 14))))
    until(lambda: len(bag.records("end")) == 13)
    tell(bag, ev="close", n=2)
    assert wait_for(workers) == [(0, "")] * 3
    assert sorted(end["i"] for end in bag.records("end")) == list(range(13))


def test_a_function_that_a_part_brings_again_is_not_loaded_again(tmp_path: Path) -> None:
    from hpcflow.node.bagdir import open_bag

    bag = write_bag(tmp_path, Call(double, (1,)))
    tell(bag, **add(bag, 1, Call(triple, (2,)), Call(double, (3,)), first=1, cuts=[2, 3]))
    opened = open_bag(str(bag.path), str(bag.key_file))
    numbers = [opened.task(position).fn for position in range(3)]
    assert numbers[0] == numbers[2] != numbers[1]


def wait_in(folder: str, index: int) -> None:
    """Say that it runs, and go on until somebody ends it."""
    Path(folder, f"runs{index}").touch()
    time.sleep(PATIENCE_S)


def cancel(bag: BagOnDisk, *tasks: int, attempt: int = 0) -> None:
    tell(bag, ev="cancel", n=0, tasks=[[task, attempt] for task in tasks])


def test_a_cancelled_task_that_runs_is_ended_and_the_worker_goes_on(tmp_path: Path) -> None:
    bag = write_bag(tmp_path, Call(wait_in, (str(tmp_path), 0)), Call(double, (2,)))
    worker = start_worker(bag)
    until((tmp_path / "runs0").exists)
    cancel(bag, 0)
    assert wait_for([worker]) == [(0, "")]
    ended = bag.end(0)
    assert (ended["st"], ended["sig"]) == ("cancelled", signal.SIGTERM)
    assert ended["wall"] < PATIENCE_S
    assert bag.result(1) == 4


def test_cancelled_tasks_that_have_not_begun_never_do_nor_what_follows_in_their_chain(tmp_path: Path) -> None:
    calls = [Call(wait_in, (str(tmp_path), 0)), Call(double, (1,)), Call(double, (2,)), Call(plus_one, (3,))]
    bag = write_bag(tmp_path, *calls, units=[[0], [1, 2], [3]], cuts=[0, 3])
    worker = start_worker(bag)
    until((tmp_path / "runs0").exists)
    cancel(bag, 0, 1)
    assert wait_for([worker]) == [(0, "")]
    assert [(end["i"], end["st"]) for end in bag.records("end")] == [(0, "cancelled"), (3, "ok")]


def wait_for_gate(folder: str) -> None:
    Path(folder, "runs").touch()
    until(Path(folder, "gate").exists)


def test_a_task_that_was_cancelled_before_the_one_before_it_ended_does_not_begin(tmp_path: Path) -> None:
    bag = write_bag(tmp_path, Call(wait_for_gate, (str(tmp_path),)), *(Call(double, (i,)) for i in range(1, 7)))
    worker = start_worker(bag)
    until((tmp_path / "runs").exists)
    cancel(bag, 1, 3)
    (tmp_path / "gate").touch()
    assert wait_for([worker]) == [(0, "")]
    assert [start["i"] for start in bag.records("start")] == [0, 2, 4, 5, 6]


def sleep_and_wait_in(folder: str, index: int) -> None:
    time.sleep(1.4)
    if index:
        wait_in(folder, index)


def test_a_task_that_was_cancelled_right_after_it_began_is_ended_long_before_the_next_look(tmp_path: Path) -> None:
    calls = [Call(sleep_and_wait_in, (str(tmp_path), index)) for index in range(2)]
    bag = write_bag(tmp_path, *calls, cuts=[0, 2], nfs=True)
    for peer in range(10 * 10 * 60):  # the next look is in ten minutes
        (bag.path / "claims" / f".{peer}").touch()
    worker = start_worker(bag)
    until(lambda: len(bag.records("start")) == 2)
    cancel(bag, 1)
    assert wait_for([worker]) == [(0, "")]
    assert [end["st"] for end in bag.records("end")] == ["ok", "cancelled"]


def test_a_cancel_that_was_told_before_a_worker_came_or_of_another_attempt(tmp_path: Path) -> None:
    bag = write_bag(tmp_path, *(Call(double, (index,)) for index in range(3)))
    cancel(bag, 0)
    cancel(bag, 1, attempt=7)
    assert wait_for([start_worker(bag)]) == [(0, "")]
    assert [end["i"] for end in bag.records("end")] == [1, 2]


def test_parts_that_come_while_a_worker_looks_for_cancels_are_taken_in_their_turn(tmp_path: Path) -> None:
    bag = write_bag(tmp_path, Call(wait_in, (str(tmp_path), 0)), linger=PATIENCE_S)
    worker = start_worker(bag)
    until((tmp_path / "runs0").exists)
    tell(bag, **add(bag, 1, Call(double, (4,)), Call(triple, (5,)), first=1, cuts=[2, 3]))
    cancel(bag, 0, 2)
    until(lambda: len(bag.records("end")) == 2)
    tell(bag, ev="close", n=2)
    assert wait_for([worker]) == [(0, "")]
    assert [(end["i"], end["st"]) for end in bag.records("end")] == [(0, "cancelled"), (1, "ok")]


def hang_at(folder: str, index: int, last: int) -> int:
    """Be short, but for the last one, which says that it runs and goes on."""
    if index == last:
        wait_in(folder, index)
    return index


def test_a_cancelled_task_of_a_series_is_ended_and_those_after_it_run(tmp_path: Path) -> None:
    calls = [Call(hang_at, (str(tmp_path), index, 8)) for index in range(12)]
    bag = write_bag(tmp_path, *calls, cuts=[0, 12])
    worker = start_worker(bag)
    until((tmp_path / "runs8").exists)
    cancel(bag, 8, 10)
    assert wait_for([worker]) == [(0, "")]
    ends = {end["i"]: end["st"] for end in bag.records("end")}
    assert ends == {index: "cancelled" if index == 8 else "ok" for index in range(12) if index != 10}
