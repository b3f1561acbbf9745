"""What triggers see: moments, changes of a directory, new rows of a database."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from queue import Empty, Queue

import pytest
from sqlalchemy.exc import OperationalError

from hpcflow.core.model import HpcflowError, UserError
from hpcflow.sdk.watching import changes, until_next
from hpcflow.triggers import BaseTrigger, DatabaseTrigger, DirTrigger, SQLiteTrigger, TimeTrigger


class Noted:
    """Stands for the server: notes each firing."""

    def __init__(self, *, resumed: bool = False) -> None:
        self.attached_at = 0.0
        self.resumed = resumed
        self.firings: Queue[str] = Queue()
        self.count = 0

    def fire(self) -> str:
        self.count += 1
        self.firings.put(f"dispatch {self.count}")
        return f"dispatch {self.count}"

    def fired(self) -> str:
        return self.firings.get(timeout=60)

    def silent(self) -> bool:
        try:
            self.firings.get_nowait()
        except Empty:
            return True
        return False


@contextmanager
def observed(trigger: BaseTrigger, noted: Noted) -> Generator[None]:
    """Let a trigger observe in a thread of its own, as it does in a process of its own."""
    trigger._supervised = noted
    failed: list[BaseException] = []

    def observe() -> None:
        try:
            trigger.observe()
        except BaseException as error:  # it is looked at below
            failed.append(error)

    thread = threading.Thread(target=observe, daemon=True)
    thread.start()
    try:
        yield
    finally:
        end = time.monotonic() + 60
        while thread.is_alive() and time.monotonic() < end:
            trigger.stop()
            thread.join(0.05)
    assert not thread.is_alive()
    assert failed == []


def looks_again(trigger: DirTrigger | DatabaseTrigger) -> Callable[[], None]:
    """Return a function that comes back when the trigger has begun and ended another look."""
    turn = threading.Semaphore(0)
    look: Callable[..., object] = trigger._look

    def counted(*arguments: object) -> object:
        seen = look(*arguments)
        turn.release()
        return seen

    setattr(trigger, "_look", counted)  # noqa: B010  # mypy knows no other way to say so

    def again() -> None:
        while turn.acquire(blocking=False):
            pass
        for _ in range(3):  # the first look may have begun before, and the second's end is seen by the third
            assert turn.acquire(timeout=60)

    return again


# ---- times


@pytest.mark.parametrize(
    ("now", "wait"), [(100.0, 60.0), (100.5, 59.5), (159.0, 1.0), (160.0, 60.0), (999.0, 1.0), (90.0, 60.0)]
)
def test_a_time_trigger_keeps_to_whole_gaps_after_it_was_attached(now: float, wait: float) -> None:
    assert until_next(100.0, 60.0, now) == pytest.approx(wait)


def test_a_time_trigger_fires_until_it_is_stopped() -> None:
    noted = Noted()
    trigger = TimeTrigger(timedelta(milliseconds=20))
    with observed(trigger, noted):
        assert [noted.fired() for _ in range(3)] == ["dispatch 1", "dispatch 2", "dispatch 3"]
    assert trigger.new_dispatch_ids[:3] == ["dispatch 1", "dispatch 2", "dispatch 3"]
    assert trigger.about() == "every 0.02 s"


# ---- directories


def test_each_change_between_two_looks_has_its_event(tmp_path: Path) -> None:
    trigger = DirTrigger(tmp_path, DirTrigger.EVENTS)
    for name in ("stays", "grows", "goes", "old"):
        (tmp_path / name).write_text(name)
    first, open_files = trigger._look(), set[str]()
    (tmp_path / "grows").write_text("more than before")
    (tmp_path / "goes").unlink()
    (tmp_path / "old").rename(tmp_path / "new")
    (tmp_path / "made").mkdir()
    second = trigger._look()
    assert sorted(changes(first, second, open_files)) == [
        ("created", "made"),
        ("deleted", "goes"),
        ("modified", "grows"),
        ("moved", "new"),
    ]
    assert sorted(changes(second, trigger._look(), open_files)) == [("closed", "grows"), ("closed", "made")]
    assert list(changes(second, trigger._look(), open_files)) == []


def test_a_directory_trigger_fires_once_for_each_batch(tmp_path: Path) -> None:
    noted = Noted()
    trigger = DirTrigger(str(tmp_path), "created", batch_size=2, poll_interval=0.01)
    again = looks_again(trigger)
    with observed(trigger, noted):
        again()
        (tmp_path / "a").touch()
        again()
        assert noted.silent()
        (tmp_path / "b").touch()
        assert noted.fired() == "dispatch 1"
        for name in "cdef":
            (tmp_path / name).touch()
        assert (noted.fired(), noted.fired()) == ("dispatch 2", "dispatch 3")
        (tmp_path / "a").unlink()
        again()
        assert noted.silent()


def test_one_file_can_be_watched_and_one_that_is_missing_is_named(tmp_path: Path) -> None:
    file = tmp_path / "input.txt"
    with pytest.raises(HpcflowError, match=f"{file} is not there"):
        DirTrigger(file, "modified").observe()
    file.write_text("one")
    noted = Noted()
    trigger = DirTrigger(file, ["modified"], poll_interval=0.01)
    again = looks_again(trigger)
    with observed(trigger, noted):
        again()
        file.write_text("one and two")
        assert noted.fired() == "dispatch 1"
    assert trigger.about() == f"modified in {file}"


# ---- databases


@pytest.fixture
def jobs(tmp_path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(tmp_path / "jobs of mine.db", isolation_level=None)
    connection.execute("CREATE TABLE jobs (id INTEGER PRIMARY KEY, state TEXT, size INTEGER)")
    return connection


def add(connection: sqlite3.Connection, state: str, size: int = 9) -> None:
    connection.execute("INSERT INTO jobs (state, size) VALUES (?, ?)", (state, size))


def test_new_rows_that_fit_fire_once_and_others_never(tmp_path: Path, jobs: sqlite3.Connection) -> None:
    noted = Noted()
    trigger = SQLiteTrigger(tmp_path / "jobs of mine.db", "jobs", 0.01, ["state = 'new'", "size > 2"])
    add(jobs, "new")
    with observed(trigger, noted):
        assert noted.fired() == "dispatch 1"  # it was there before
        add(jobs, "old")
        add(jobs, "new", 1)
        jobs.execute("UPDATE jobs SET state = 'done' WHERE id = 1")
        add(jobs, "new")
        assert noted.fired() == "dispatch 2"
        jobs.execute("UPDATE jobs SET state = 'new' WHERE id = 1")
        assert noted.fired() == "dispatch 3"
    assert noted.silent()
    assert trigger.about() == "new rows of jobs where state = 'new' and size > 2"


def test_a_url_does_as_well_and_several_looks_with_news_may_be_needed(tmp_path: Path, jobs: sqlite3.Connection) -> None:
    noted = Noted()
    trigger = DatabaseTrigger(f"sqlite:///{tmp_path}/jobs of mine.db", "main.jobs", 0.01, trigger_after_n=2)
    again = looks_again(trigger)
    with observed(trigger, noted):
        add(jobs, "new")
        again()
        assert noted.silent()
        add(jobs, "new")
        assert noted.fired() == "dispatch 1"
        add(jobs, "new")
        again()
        assert noted.silent()


def test_a_restarted_trigger_takes_what_is_there_as_seen(tmp_path: Path, jobs: sqlite3.Connection) -> None:
    noted = Noted(resumed=True)
    add(jobs, "new")
    trigger = SQLiteTrigger(tmp_path / "jobs of mine.db", "jobs", 0.01)
    again = looks_again(trigger)
    with observed(trigger, noted):
        again()
        assert noted.silent()
        add(jobs, "new")
        assert noted.fired() == "dispatch 1"


def test_a_database_that_is_not_there_is_an_error_and_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(OperationalError, match="unable to open database file"):
        SQLiteTrigger(tmp_path / "none.db", "jobs").observe()
    assert not (tmp_path / "none.db").exists()


# ---- mistakes


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: TimeTrigger(0), r"time_gap=0 must be a number of seconds above 0"),
        (lambda: TimeTrigger(True), r"time_gap=True must be a number"),
        (lambda: DirTrigger("/tmp", "renamed"), r"knows no event 'renamed'; its events are created, deleted"),
        (lambda: DirTrigger("/tmp", []), r"DirTrigger waits for nothing"),
        (lambda: DirTrigger("/tmp", "created", 0), r"batch_size=0 must be a whole number of at least 1"),
        (lambda: SQLiteTrigger("x.db", "jobs", -1), r"poll_interval=-1 must be"),
        (lambda: DatabaseTrigger("sqlite://", "jobs", trigger_after_n=0), r"trigger_after_n=0 must be"),
    ],
)
def test_what_no_trigger_can_wait_for_is_refused_at_once(make: Callable[[], object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make()


def test_a_trigger_that_is_attached_to_nothing_says_so() -> None:
    with pytest.raises(UserError, match="TimeTrigger is attached to no dispatch"):
        TimeTrigger(1).trigger()
    with pytest.raises(NotImplementedError, match=r"BaseTrigger has no observe\(\)"):
        BaseTrigger().observe()


def test_its_attributes_are_covalents() -> None:
    told = TimeTrigger(5, "01J").to_dict()
    assert (told["name"], told["time_gap"], told["lattice_dispatch_id"]) == ("TimeTrigger", 5, "01J")
    assert (told["dispatcher_addr"], told["triggers_server_addr"], told["new_dispatch_ids"]) == (None, None, [])
    trigger = TimeTrigger(5)
    assert (trigger.observe_blocks, trigger.use_internal_funcs, trigger.stop_flag) == (True, True, None)
