"""The store keeps what it was given, moves nothing that is final, and writes all or nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hpcflow.core.model import Bag, BagId, ClusterName, DispatchId, HpcflowError, JobArray, JobId, Resources, Shape
from hpcflow.core.states import State, Status
from hpcflow.server.store import (
    SCHEMA,
    ArrayRow,
    ArrayState,
    BagRow,
    Changes,
    DispatchRow,
    EndRow,
    EventKind,
    Jobs,
    Store,
    StoreError,
    TaskRow,
)

NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
DISPATCH = DispatchId("01JNX5A0000000000000000001")
BAG = BagId("01JNX5A0000000000000000002")


def a_dispatch(number: int = 1, **fields: Any) -> DispatchRow:  # Any: the fields of DispatchRow
    row = DispatchRow(
        id=DispatchId(f"01JNX5A{number:019d}"),
        name="eos",
        status=Status.RUNNING,
        created_at=NOW + timedelta(seconds=number),
        n_tasks=3,
        python=(3, 11),
    )
    return replace(row, **fields)


def a_task(index: int, state: State = State.READY, **fields: Any) -> TaskRow:  # Any: the fields of TaskRow
    return replace(TaskRow(dispatch=DISPATCH, index=index, name="relax", state=state), **fields)


def an_end(index: int, *, attempt: int = 1, worker: str = "8123_0_0", st: str = "ok") -> EndRow:
    record = {"ev": "end", "i": index, "n": attempt, "st": st, "wall": 0.25, "cpu": [0.2, 0.01]}
    return EndRow(dispatch=DISPATCH, index=index, attempt=attempt, worker=worker, bag=BAG, record=record)


def a_bag(n_tasks: int = 3) -> Bag:
    shape = Shape(
        cluster=ClusterName("slurm"),
        resources=Resources(cpus=4, memory_mib=2048, extra=("--nice=100",)),
        python="/usr/bin/python3",
        python_version=(3, 11),
    )
    return Bag(
        id=BAG,
        dispatch=DISPATCH,
        shape=shape,
        tasks=tuple((index, 1) for index in range(n_tasks)),
        units=tuple((index,) for index in range(n_tasks)),
        cuts=(0, n_tasks),
        path="/scratch/hpcflow/bag",
        limit_s=None,
        need_s=60,
        worker_walltime_s=3600,
    )


def an_array(token: str = "relax-1", *, minutes: int = 0) -> JobArray:
    return JobArray(
        token=token,
        bag=BAG,
        dispatch=DISPATCH,
        cluster=ClusterName("slurm"),
        resources=Resources(gpus=1),
        width=2,
        worker_walltime_s=3600,
        command=("/usr/bin/python3", "worker.pyz", "bag"),
        path="/scratch/hpcflow/bag",
        intent_at=NOW + timedelta(minutes=minutes),
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store.open(str(tmp_path / "hpcflow.db"), on_network=False)) as opened:
        yield opened


@pytest.fixture
def filled(store: Store) -> Store:
    """A store with the dispatch 1 and its tasks 0, 1 and 2, ready."""
    assert store.add_dispatch(a_dispatch(), {"v": 1}, [a_task(index) for index in range(3)])
    return store


# ---- dispatches


def test_a_dispatch_comes_back_with_its_tasks_counted_by_state(store: Store) -> None:
    row = a_dispatch(error="No cluster answers.", started_at=NOW, ended_at=NOW, cancel_wanted=True)
    store.add_dispatch(row, {}, [a_task(0), a_task(1), a_task(2, State.WAITING)])
    assert store.dispatch(DISPATCH) == replace(row, counts={State.READY: 2, State.WAITING: 1})


def test_adding_a_dispatch_twice_changes_nothing(filled: Store) -> None:
    assert not filled.add_dispatch(a_dispatch(name="other"), {"v": 2}, [a_task(9)])
    found = filled.dispatch(DISPATCH)
    assert found is not None
    assert found.name == "eos"
    assert filled.manifest(DISPATCH) == {"v": 1}
    assert [task.index for task in filled.tasks(DISPATCH)] == [0, 1, 2]


def test_a_large_manifest_comes_back_as_it_was(store: Store) -> None:
    manifest = {"v": 1, "tasks": [["relax", 0, index, 0, [], []] for index in range(2000)], "name": "Größe"}
    store.add_dispatch(a_dispatch(), manifest, [])
    assert store.manifest(DISPATCH) == manifest


def test_what_is_unknown_is_none_and_an_unknown_manifest_is_a_sentence(store: Store) -> None:
    assert store.dispatch(DISPATCH) is None
    assert store.task(DISPATCH, 0) is None
    assert store.end(DISPATCH, 0) is None
    assert store.bag(BAG) is None
    assert store.recall("limits slurm") is None
    with pytest.raises(StoreError, match=rf"^No dispatch {DISPATCH} here\.$"):
        store.manifest(DISPATCH)


def test_dispatches_are_listed_newest_first_page_by_page(store: Store) -> None:
    for number in (2, 1, 3):
        store.add_dispatch(a_dispatch(number), {}, [])
    first = store.dispatches(limit=2)
    assert [row.id[-1] for row in first] == ["3", "2"]
    assert [row.id[-1] for row in store.dispatches(limit=2, before=first[-1].id)] == ["1"]


def test_dispatches_are_found_by_what_their_ids_begin_or_end_with(store: Store) -> None:
    ids = [DispatchId(f"01K{letter * 17}8HEART") for letter in "AB"]
    for each in ids:
        store.add_dispatch(a_dispatch(1, id=each, name="flow"), {}, [])
    found = {
        text: [row.id for row in store.dispatches(limit=9, text=text)] for text in ("01kb", "heart", "…8HEART", "art")
    }
    assert found == {"01kb": ids[1:], "heart": ids[::-1], "…8HEART": ids[::-1], "art": []}


def test_dispatches_of_one_instant_are_each_listed_once(store: Store) -> None:
    for number in range(4):
        store.add_dispatch(a_dispatch(number, created_at=NOW), {}, [])
    seen = [row.id for row in store.dispatches(limit=3)]
    seen += [row.id for row in store.dispatches(limit=3, before=seen[-1])]
    assert seen == sorted(seen, reverse=True)
    assert len(seen) == 4


def test_every_dispatch_of_a_list_has_its_own_counts(store: Store) -> None:
    for number in (1, 2):
        row = a_dispatch(number)
        store.add_dispatch(row, {}, [a_task(index, dispatch=row.id) for index in range(number)])
    assert [row.counts for row in store.dispatches(limit=5)] == [{State.READY: 2}, {State.READY: 1}]


def test_only_running_dispatches_are_live(store: Store) -> None:
    for number, status in enumerate(Status):
        store.add_dispatch(a_dispatch(number, status=status), {}, [])
    assert [row.status for row in store.live_dispatches()] == [Status.RUNNING]


@pytest.mark.parametrize(("prefix", "found"), [("01jnx5a", 10), (DISPATCH, 1), ("01JNX5B", 0), ("%", 0), ("_1", 0)])
def test_a_dispatch_is_found_by_how_its_id_begins(store: Store, prefix: str, found: int) -> None:
    for number in range(12):
        store.add_dispatch(a_dispatch(number), {}, [])
    assert len(store.find_dispatches(prefix)) == found


def test_the_fields_of_a_dispatch_that_may_change_do(filled: Store) -> None:
    done = a_dispatch(
        status=Status.FAILED, started_at=NOW, ended_at=NOW, error="1 of 3 electrons failed.", cancel_wanted=True
    )
    filled.apply(Changes(NOW, dispatches=[replace(done, name="never stored", n_tasks=99)]))  # an open one grows
    assert filled.dispatch(DISPATCH) == replace(done, n_tasks=99, counts={State.READY: 3})


# ---- tasks


def test_a_task_comes_back_as_it_was_written(filled: Store) -> None:
    task = a_task(
        1,
        State.RUNNING,
        attempt=2,
        bag=BAG,
        worker="8123_7_1",
        started_at=NOW,
        ended_at=NOW,
        error="The node n03 went down.",
        cluster="slurm",
    )
    filled.apply(Changes(NOW, tasks=[task]))
    assert filled.task(DISPATCH, 1) == task
    assert filled.tasks(DISPATCH) == [a_task(0), task, a_task(2)]


@pytest.mark.parametrize("index", [-1, 3])
def test_a_task_that_is_not_there_is_none_even_beside_others(filled: Store, index: int) -> None:
    assert filled.task(DISPATCH, index) is None


def test_tasks_are_read_by_state_and_page(filled: Store) -> None:
    filled.apply(Changes(NOW, tasks=[a_task(1, State.RUNNING)]))
    assert [task.index for task in filled.tasks(DISPATCH, state=State.READY)] == [0, 2]
    assert [task.index for task in filled.tasks(DISPATCH, after=0, limit=1)] == [1]
    assert filled.tasks(DISPATCH, after=2) == []


@pytest.mark.parametrize("final", [State.COMPLETED, State.FAILED, State.CANCELLED, State.SKIPPED])
def test_a_final_task_never_moves(filled: Store, final: State) -> None:
    ended = a_task(0, final, ended_at=NOW)
    filled.apply(Changes(NOW, tasks=[ended]))
    filled.apply(Changes(NOW, tasks=[a_task(0, state) for state in State]))
    assert filled.task(DISPATCH, 0) == ended
    assert len(filled.events(DISPATCH)) == 2


def test_a_skipped_task_that_stays_so_may_name_another_that_holds_it(filled: Store) -> None:
    skipped = a_task(0, State.SKIPPED, ended_at=NOW, error="Not run, because step1 (task 1) failed.")
    filled.apply(Changes(NOW, tasks=[skipped]))
    now = replace(skipped, error="Not run, because step2 (task 2) was cancelled.")
    filled.apply(Changes(NOW, tasks=[now]))
    assert filled.task(DISPATCH, 0) == now


def test_a_final_task_moves_to_a_higher_attempt_and_never_back(filled: Store) -> None:
    filled.apply(Changes(NOW, tasks=[a_task(0, State.FAILED)]))
    again = a_task(0, State.COMPLETED, attempt=2)
    filled.apply(Changes(NOW, tasks=[replace(again, state=State.QUEUED), again, a_task(0, State.FAILED)]))
    assert filled.task(DISPATCH, 0) == again


def test_moves_of_one_task_in_one_batch_take_effect_in_order(filled: Store) -> None:
    moves = [a_task(0, State.QUEUED), a_task(0, State.RUNNING), a_task(0, State.COMPLETED), a_task(0, State.RUNNING)]
    filled.apply(Changes(NOW, tasks=moves))
    assert filled.task(DISPATCH, 0) == a_task(0, State.COMPLETED)
    assert filled.events(DISPATCH)[-1].content == [[0, "queued"], [0, "running"], [0, "completed"]]


def test_more_tasks_than_a_statement_takes_parameters_are_guarded_and_read(store: Store) -> None:
    tasks = [a_task(index) for index in range(2500)]
    store.add_dispatch(a_dispatch(n_tasks=2500), {}, tasks)
    done = [replace(task, state=State.COMPLETED) for task in tasks]
    store.apply(Changes(NOW, tasks=done, ends=[an_end(task.index) for task in tasks]))
    store.apply(Changes(NOW, tasks=tasks))
    assert store.tasks(DISPATCH) == done
    assert sorted(store.ends(DISPATCH, range(0, 2500, 2))) == list(range(0, 2500, 2))


def test_text_that_is_no_utf_8_is_stored_escaped(filled: Store) -> None:
    filled.apply(Changes(NOW, tasks=[a_task(0, State.FAILED, error="No such file: caf\udce9")]))
    task = filled.task(DISPATCH, 0)
    assert task is not None
    assert task.error == "No such file: caf\\udce9"


# ---- ends


def test_the_first_end_of_an_attempt_stays_and_the_second_is_told(filled: Store) -> None:
    filled.apply(Changes(NOW, ends=[an_end(0), an_end(1)]))
    filled.apply(Changes(NOW, ends=[an_end(0, worker="8124_3_0", st="error"), an_end(2)]))
    assert filled.ends(DISPATCH) == {0: an_end(0), 1: an_end(1), 2: an_end(2)}
    told = [event for event in filled.events(DISPATCH) if event.kind is EventKind.SECOND_END]
    assert [event.content for event in told] == [[[0, 1, "8124_3_0"]]]


def test_of_two_ends_in_one_batch_the_first_stays(filled: Store) -> None:
    filled.apply(Changes(NOW, ends=[an_end(0), an_end(0, st="error")]))
    assert filled.end(DISPATCH, 0) == an_end(0)


def test_an_end_that_is_read_twice_is_no_second_end(filled: Store) -> None:
    filled.apply(Changes(NOW, ends=[an_end(0)]))
    filled.apply(Changes(NOW, ends=[an_end(0)]))
    assert [event.kind for event in filled.events(DISPATCH)] == [EventKind.ADDED]


def test_the_end_of_the_highest_attempt_is_read(filled: Store) -> None:
    filled.apply(Changes(NOW, ends=[an_end(0, attempt=2), an_end(0, attempt=1, st="signal"), an_end(1)]))
    assert filled.end(DISPATCH, 0) == an_end(0, attempt=2)
    assert filled.ends(DISPATCH, [0, 2]) == {0: an_end(0, attempt=2)}
    assert filled.ends(DISPATCH, []) == {}


def test_a_record_with_a_large_result_comes_back_as_it_was(filled: Store) -> None:
    end = replace(an_end(0), record={"r": {"b": "gASV" * 4096}, "x": "a record that is compressed"})
    filled.apply(Changes(NOW, ends=[end]))
    assert filled.end(DISPATCH, 0) == end


# ---- bags and arrays


def test_a_bag_comes_back_and_can_be_closed(filled: Store) -> None:
    row = BagRow(bag=a_bag(5000), created_at=NOW)
    filled.apply(Changes(NOW, bags=[row]))
    assert filled.bags(DISPATCH) == [row]
    closed = replace(row, closed_at=NOW + timedelta(hours=1))
    filled.apply(Changes(NOW, bags=[closed]))
    assert filled.bag(BAG) == closed
    assert [event.content for event in filled.events(DISPATCH)[1:]] == [[BAG, 5000, False], [BAG, 5000, True]]


def test_an_array_is_stored_before_and_after_it_has_an_id(filled: Store) -> None:
    intent = ArrayRow(array=an_array(), state=ArrayState.INTENT)
    filled.apply(Changes(NOW, arrays=[intent]))
    assert filled.arrays(DISPATCH) == [intent]
    ended = ArrayRow(
        array=replace(an_array(), job_id=JobId("8123")),
        state=ArrayState.ENDED,
        reason="Cancelled by root.",
        cancel_wanted=True,
        submitted_at=NOW,
        ended_at=NOW,
        ends={index: {"cause": "timeout", "host": f"n{index:04d}", "exit_code": None} for index in range(1000)},
    )
    filled.apply(Changes(NOW, arrays=[ended]))
    assert filled.arrays(DISPATCH) == [ended]


def test_arrays_that_a_scheduler_may_still_know_are_open(filled: Store) -> None:
    rows = [
        ArrayRow(array=an_array(f"relax-{number}", minutes=-number), state=state)
        for number, state in enumerate(ArrayState)
    ]
    filled.apply(Changes(NOW, arrays=rows))
    open_states = [row.state for row in filled.open_arrays()]
    assert open_states == [ArrayState.AMBIGUOUS, ArrayState.SUBMITTED, ArrayState.INTENT]


def test_an_array_is_found_by_its_jobs_id_alone_whether_its_row_is_compressed_or_not(filled: Store) -> None:
    def named(token: str, job: str, **fields: Any) -> ArrayRow:  # Any: the fields of JobArray
        return ArrayRow(array=replace(an_array(token), job_id=JobId(job), **fields), state=ArrayState.ENDED)

    long = "module load chemistry\n" * 1000
    rows = [
        named("short", "8123"),
        named("compressed", "8123", prologue=long),
        named("longer", "81234"),
        named("other", "812", prologue=long),
        named("trap", "7", prologue='"job_id":"8123"'),
    ]
    filled.apply(Changes(NOW, arrays=rows))
    assert {row.array.token for row in Jobs(filled).arrays(JobId("8123"))} == {"short", "compressed"}
    assert Jobs(filled).arrays(JobId("23")) == []


def test_what_ran_in_an_array_is_told_by_its_workers_names(filled: Store) -> None:
    array = replace(an_array(), job_id=JobId("8123"))
    workers = ("8123_0_0", "8123+1_0_0", "81230_0_0")
    ends = [an_end(index, worker=worker) for index, worker in enumerate(workers)]
    other = replace(an_end(0, attempt=2), bag=BagId("another"))
    running = a_task(2, State.RUNNING, worker="8123_1_0", bag=BAG)
    filled.apply(Changes(NOW, ends=[*ends, other], tasks=[running, a_task(1, State.RUNNING, worker="7_0_0", bag=BAG)]))
    assert Jobs(filled).ended(array) == {"8123_0_0": 1, "8123+1_0_0": 1}
    found = Jobs(filled).ends(array, ["8123+1_0_0"])
    assert [(end.index, end.worker, name) for end, name in found] == [(1, "8123+1_0_0", a_task(1).name)]
    assert [task.index for task in Jobs(filled).running(array)] == [2]


# ---- the log, messages, settings


def test_the_log_has_one_row_for_many_tasks(filled: Store) -> None:
    later = NOW + timedelta(seconds=5)
    filled.apply(Changes(later, tasks=[a_task(0, State.QUEUED), a_task(2, State.QUEUED)]))
    added, moved = filled.events(DISPATCH)
    assert (added.kind, added.content) == (EventKind.ADDED, {"name": "eos", "tasks": 3})
    assert (moved.kind, moved.at, moved.content) == (EventKind.TASKS, later, [[0, "queued"], [2, "queued"]])
    assert filled.events(DISPATCH, after=added.number) == [moved]
    assert filled.events(DISPATCH, limit=1) == [added]


def test_messages_come_back_in_the_order_they_were_said(filled: Store) -> None:
    filled.apply(Changes(NOW, messages=[(DISPATCH, "Array 8123 waits: Priority."), (DISPATCH, "It runs.")]))
    later = NOW + timedelta(seconds=1)
    filled.apply(Changes(later, messages=[(DISPATCH, "Ünd €.")]))
    assert filled.messages(DISPATCH) == [(NOW, "Array 8123 waits: Priority."), (NOW, "It runs."), (later, "Ünd €.")]


@pytest.mark.parametrize("value", [None, 0, "slurm", {"at": 1.5, "partitions": ["cpu", None]}, ["x"] * 5000])
def test_a_setting_is_remembered_until_the_next(store: Store, value: object) -> None:
    store.remember("limits slurm", "before")
    store.remember("limits slurm", value)
    assert store.recall("limits slurm") == value


def test_empty_changes_are_false_and_any_row_makes_them_true() -> None:
    assert not Changes(NOW)
    assert Changes(NOW, messages=[(DISPATCH, "Hello.")])
    assert Changes(NOW, tasks=[a_task(0)])


# ---- all or nothing


def test_a_row_that_does_not_fit_leaves_nothing_of_its_batch(filled: Store) -> None:
    stranger = replace(an_end(1), dispatch=DispatchId("01JNX5A0000000000000000099"))
    changes = Changes(
        NOW,
        tasks=[a_task(0, State.COMPLETED)],
        bags=[BagRow(bag=a_bag(), created_at=NOW)],
        ends=[an_end(0), stranger],
        messages=[(DISPATCH, "Never stored.")],
    )
    with pytest.raises(StoreError, match=r"did not take a statement: FOREIGN KEY constraint failed\.$"):
        filled.apply(changes)
    assert filled.task(DISPATCH, 0) == a_task(0)
    assert (filled.bags(DISPATCH), filled.ends(DISPATCH), filled.messages(DISPATCH)) == ([], {}, [])
    assert len(filled.events(DISPATCH)) == 1
    filled.apply(replace(changes, ends=[an_end(0)]))
    assert filled.end(DISPATCH, 0) == an_end(0)


def test_a_change_to_an_unknown_dispatch_is_refused_with_all_that_came_with_it(filled: Store) -> None:
    with pytest.raises(StoreError, match=r"^No dispatch 01JNX5A0000000000000000007 here\.$"):
        filled.apply(Changes(NOW, dispatches=[a_dispatch(status=Status.FAILED), a_dispatch(7)]))
    assert [row.status for row in filled.live_dispatches()] == [Status.RUNNING]


def test_a_record_that_is_no_json_leaves_nothing_and_the_store_usable(filled: Store) -> None:
    with pytest.raises(TypeError):
        filled.apply(Changes(NOW, tasks=[a_task(0, State.COMPLETED)], messages=[(DISPATCH, object())]))  # type: ignore[list-item]  # the fault
    assert filled.task(DISPATCH, 0) == a_task(0)
    filled.remember("still", "here")


def test_a_naive_time_is_refused(filled: Store) -> None:
    with pytest.raises(TypeError):
        filled.apply(Changes(NOW, tasks=[a_task(0, ended_at=datetime(2026, 3, 1))]))
    assert filled.task(DISPATCH, 0) == a_task(0)


def test_errors_are_sentences_of_hpcflow(filled: Store) -> None:
    filled.close()
    with pytest.raises(HpcflowError, match=r"hpcflow\.db is closed\.$"):
        filled.dispatch(DISPATCH)


def test_ten_threads_write_and_read_at_once_and_nothing_is_lost(filled: Store) -> None:
    def write(number: int) -> int:
        filled.apply(Changes(NOW, messages=[(DISPATCH, f"{number}")]))
        return len(filled.messages(DISPATCH))

    with ThreadPoolExecutor(10) as pool:
        seen = list(pool.map(write, range(60)))
    assert sorted(int(text) for _, text in filled.messages(DISPATCH)) == list(range(60))
    assert max(seen) == 60


def test_the_file_names_its_schema_and_holds_times_as_microseconds(filled: Store, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "hpcflow.db")) as raw:
        pragma = {name: raw.execute(f"PRAGMA {name}").fetchone()[0] for name in ("user_version", "journal_mode")}
        created = raw.execute("SELECT created_at FROM dispatch").fetchone()[0]
    assert pragma == {"user_version": SCHEMA, "journal_mode": "wal"}
    assert created == 1772366401123456
