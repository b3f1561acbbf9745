"""Whatever a row holds, a store that is opened again gives it back equal."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from hpcflow.core.model import Bag, BagId, DispatchId, JobArray
from hpcflow.core.states import State, Status
from hpcflow.server.store import ArrayRow, ArrayState, BagRow, Changes, DispatchRow, EndRow, Store, TaskRow

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DISPATCH = DispatchId("01JNX5A0000000000000000001")

times = st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2200, 1, 1), timezones=st.just(UTC))
maybe_times = st.none() | times
maybe_text = st.none() | st.text()
numbers = st.integers(min_value=-(2**63), max_value=2**63 - 1)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
json_objects = st.dictionaries(st.text(), json_values, max_size=4)

dispatches = st.builds(
    DispatchRow,
    id=st.just(DISPATCH),
    name=st.text(),
    status=st.sampled_from(Status),
    created_at=times,
    started_at=maybe_times,
    ended_at=maybe_times,
    error=maybe_text,
    n_tasks=numbers,
    cancel_wanted=st.booleans(),
    python=st.tuples(numbers, numbers),
    counts=st.just({}),
)
tasks = st.builds(
    TaskRow,
    dispatch=st.just(DISPATCH),
    index=st.integers(min_value=0, max_value=2**40),
    name=st.text(),
    state=st.sampled_from(State),
    attempt=st.integers(min_value=1, max_value=2**40),
    bag=st.none() | st.builds(BagId, st.text()),
    worker=maybe_text,
    started_at=maybe_times,
    ended_at=maybe_times,
    error=maybe_text,
    cluster=maybe_text,
)
ends = st.builds(
    EndRow,
    dispatch=st.just(DISPATCH),
    index=st.integers(min_value=0, max_value=2**40),
    attempt=st.integers(min_value=1, max_value=2**40),
    worker=st.text(),
    bag=st.builds(BagId, st.text()),
    record=json_objects,
)
bags = st.builds(BagRow, bag=st.builds(Bag, dispatch=st.just(DISPATCH)), created_at=times, closed_at=maybe_times)
arrays = st.builds(
    ArrayRow,
    array=st.builds(JobArray, dispatch=st.just(DISPATCH), intent_at=times),
    state=st.sampled_from(ArrayState),
    reason=maybe_text,
    cancel_wanted=st.booleans(),
    submitted_at=maybe_times,
    ended_at=maybe_times,
    ends=st.dictionaries(st.integers(min_value=0), json_objects, max_size=4),
)


@settings(max_examples=25, deadline=None)
@given(
    dispatch=dispatches,
    manifest=json_objects,
    task=tasks,
    end=ends,
    bag=bags,
    array=arrays,
    message=st.text(),
    setting=json_values,
    on_network=st.booleans(),
)
def test_a_store_that_is_opened_again_gives_every_row_back_equal(
    *,
    dispatch: DispatchRow,
    manifest: dict[str, object],
    task: TaskRow,
    end: EndRow,
    bag: BagRow,
    array: ArrayRow,
    message: str,
    setting: object,
    on_network: bool,
) -> None:
    with TemporaryDirectory() as folder:
        path = str(Path(folder) / "hpcflow.db")
        with closing(Store.open(path, on_network=on_network)) as store:
            assert store.add_dispatch(dispatch, manifest, [])
            store.apply(Changes(NOW, [task], [end], [bag], [array], messages=[(DISPATCH, message)]))
            store.remember("key", setting)
        with closing(Store.open(path, on_network=not on_network)) as store:
            assert store.dispatch(DISPATCH) == replace(dispatch, counts={task.state: 1})
            assert store.manifest(DISPATCH) == manifest
            assert store.tasks(DISPATCH) == [task]
            assert store.ends(DISPATCH) == {end.index: end}
            assert store.bags(DISPATCH) == [bag]
            assert store.arrays(DISPATCH) == [array]
            assert store.messages(DISPATCH) == [(NOW, message)]
            assert store.recall("key") == setting
