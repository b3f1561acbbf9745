"""The store's file: who may read it, who may write it, and what a crash, a kill or a full disk leaves of it."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hpcflow.core.model import DispatchId
from hpcflow.core.states import State, Status
from hpcflow.server.store import (
    SCHEMA,
    Changes,
    DispatchRow,
    Lease,
    LeaseHeld,
    LeaseLost,
    Store,
    StoreError,
    StoreFull,
    TaskRow,
)
from tests.processes import killed

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DISPATCH = DispatchId("01JNX5A0000000000000000001")
STALE_AFTER = timedelta(seconds=30)
LARGE = 200_000


def a_dispatch() -> DispatchRow:
    return DispatchRow(
        id=DISPATCH, name="eos", status=Status.RUNNING, created_at=NOW, n_tasks=1, python=(3, 11), counts={}
    )


def a_lease(host: str = "login1") -> Lease:
    return Lease(id=f"id of {host}", host=host, pid=4711, boot_id="b", taken_at=NOW, renewed_at=NOW)


def a_message(text: str = "Hello.") -> Changes:
    return Changes(NOW, messages=[(DISPATCH, text)])


def noise(size: int) -> str:
    """Text that hardly compresses."""
    return os.urandom(size // 2).hex()


def in_another_process(code: str, path: Path) -> subprocess.Popen[str]:
    """Start a Python that runs the code, with the file's path as ``sys.argv[1]``."""
    head = "import sys\nfrom hpcflow.server.store import *\n"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", head + code, str(path)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def opened(path: Path, *, on_network: bool = False) -> closing[Store]:
    return closing(Store.open(str(path), on_network=on_network))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hpcflow.db"


# ---- who may read it


def test_every_file_of_the_store_is_private_under_any_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        with opened(path) as store:
            store.add_dispatch(a_dispatch(), {}, [])
            modes = {name.name: stat.S_IMODE(name.stat().st_mode) for name in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == {"hpcflow.db": 0o600, "hpcflow.db-wal": 0o600, "hpcflow.db-shm": 0o600}


@pytest.mark.parametrize("suffix", ["", "-wal"])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_store_that_others_may_read_or_write_is_refused(path: Path, suffix: str, mode: int) -> None:
    Store.open(str(path), on_network=False).close()
    name = Path(f"{path}{suffix}")
    name.touch()
    name.chmod(mode)
    with pytest.raises(StoreError, match=rf"\(mode {mode:04o}\).*chmod 600 {name}$"):
        Store.open(str(path), on_network=False)


def test_a_missing_folder_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"hpcflow\.db can't be made: No such file or directory\.$"):
        Store.open(str(tmp_path / "missing" / "hpcflow.db"), on_network=False)


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(path: Path) -> None:
    path.write_bytes(b"a letter to my mother " * 100)
    path.chmod(0o600)
    with pytest.raises(StoreError, match=r"is not hpcflow's store"):
        Store.open(str(path), on_network=False)
    assert path.read_bytes() == b"a letter to my mother " * 100


def test_a_newer_schema_is_refused_and_left_as_it_is(path: Path) -> None:
    Store.open(str(path), on_network=False).close()
    with closing(sqlite3.connect(path)) as raw:
        raw.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    with pytest.raises(StoreError, match=rf"newer hpcflow \(schema {SCHEMA + 1}; this one knows {SCHEMA}\).*Upgrade"):
        Store.open(str(path), on_network=False)
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("PRAGMA user_version").fetchone() == (SCHEMA + 1,)


# ---- who may write it


def test_a_second_server_is_refused_while_the_lease_is_fresh(path: Path) -> None:
    with opened(path) as first, opened(path) as second:
        first.take_lease(a_lease(), now=NOW, stale_after=STALE_AFTER, take_over=False)
        with pytest.raises(LeaseHeld, match=r"^A server on login1 \(process 4711\) runs .* --take-over`\.$") as caught:
            second.take_lease(a_lease("login2"), now=NOW + STALE_AFTER, stale_after=STALE_AFTER, take_over=False)
        assert caught.value.lease == a_lease()
        assert first.add_dispatch(a_dispatch(), {}, [])


def test_a_renewed_lease_is_fresh_again(path: Path) -> None:
    later = NOW + timedelta(minutes=5)
    with opened(path) as first, opened(path) as second:
        first.take_lease(a_lease(), now=NOW, stale_after=STALE_AFTER, take_over=False)
        first.renew_lease(a_lease(), later)
        with pytest.raises(LeaseHeld) as caught:
            second.take_lease(a_lease("login2"), now=later, stale_after=STALE_AFTER, take_over=False)
        assert caught.value.lease == replace(a_lease(), renewed_at=later)


def test_a_stale_or_given_back_lease_is_free(path: Path) -> None:
    later = NOW + STALE_AFTER + timedelta(microseconds=1)
    with opened(path) as first, opened(path) as second, opened(path) as third:
        first.take_lease(a_lease(), now=NOW, stale_after=STALE_AFTER, take_over=False)
        second.take_lease(a_lease("login2"), now=later, stale_after=STALE_AFTER, take_over=False)
        second.release_lease(a_lease("login2"))
        third.take_lease(a_lease("login3"), now=later, stale_after=STALE_AFTER, take_over=False)
        third.renew_lease(a_lease("login3"), later)


def test_a_zombie_writes_nothing_after_the_lease_was_taken_over(path: Path) -> None:
    with opened(path) as zombie, opened(path) as heir:
        zombie.take_lease(a_lease(), now=NOW, stale_after=STALE_AFTER, take_over=False)
        zombie.add_dispatch(a_dispatch(), {}, [])
        heir.take_lease(a_lease("login2"), now=NOW, stale_after=STALE_AFTER, take_over=True)
        sentence = r"does not hold this HPCFLOW_HOME any more and stores nothing\. A server on login2 \(process 4711\)"
        with pytest.raises(LeaseLost, match=sentence):
            zombie.apply(a_message("From the dead."))
        with pytest.raises(LeaseLost):
            zombie.add_dispatch(replace(a_dispatch(), id=DispatchId("other")), {}, [])
        with pytest.raises(LeaseLost):
            zombie.remember("key", "value")
        with pytest.raises(LeaseLost):
            zombie.renew_lease(a_lease(), NOW)
        zombie.release_lease(a_lease())
        heir.apply(a_message("From the living."))
        assert [text for _, text in heir.messages(DISPATCH)] == ["From the living."]
        assert (len(heir.dispatches(limit=9)), heir.recall("key")) == (1, None)
        assert [event.content["host"] for event in heir.events(None)] == ["login1", "login2"]


def test_a_server_that_gave_its_lease_back_writes_nothing(path: Path) -> None:
    with opened(path) as store:
        store.take_lease(a_lease(), now=NOW, stale_after=STALE_AFTER, take_over=False)
        store.release_lease(a_lease())
        with pytest.raises(LeaseLost, match=r"It was given back\.$"):
            store.remember("key", "value")


def test_the_same_server_may_take_its_lease_again(path: Path) -> None:
    with opened(path) as store:
        for _ in range(2):
            store.take_lease(a_lease(), now=NOW, stale_after=STALE_AFTER, take_over=False)
        store.remember("key", "value")


def test_on_a_network_file_system_no_memory_is_shared_and_another_process_is_refused(path: Path) -> None:
    with opened(path, on_network=True) as store:
        store.add_dispatch(a_dispatch(), {}, [])
        assert sorted(name.name for name in path.parent.iterdir()) == ["hpcflow.db", "hpcflow.db-wal"]
        told = in_another_process(
            "try: Store.open(sys.argv[1], on_network=True)\nexcept StoreError as error: print(error)", path
        ).communicate(timeout=60)[0]
        assert told.startswith(f"Another process has {path} open and locked.")
        store.apply(a_message())
    with opened(path, on_network=True) as store:
        assert store.messages(DISPATCH) == [(NOW, "Hello.")]


def test_two_that_read_before_they_write_wait_for_each_other_instead_of_failing(path: Path) -> None:
    def write(store: Store) -> None:
        for _ in range(40):
            store.apply(a_message())

    with opened(path) as first, opened(path) as second, ThreadPoolExecutor(2) as pool:
        first.add_dispatch(a_dispatch(), {}, [])
        for store in (first, second):
            store.take_lease(a_lease(), now=NOW, stale_after=STALE_AFTER, take_over=False)
        list(pool.map(write, (first, second)))
        assert len(first.messages(DISPATCH)) == 80


_HOLDS_THE_LEASE = """
from datetime import UTC, datetime, timedelta
now = datetime.now(UTC)
lease = Lease(id="zombie", host="login1", pid=1, boot_id="b", taken_at=now, renewed_at=now)
store = Store.open(sys.argv[1], on_network=False)
store.take_lease(lease, now=now, stale_after=timedelta(seconds=30), take_over=False)
print("mine", flush=True)
sys.stdin.readline()
try: store.remember("key", "of the zombie")
except LeaseLost as error: print(error)
"""


def test_a_server_that_was_stopped_while_another_took_over_writes_nothing_when_it_wakes(path: Path) -> None:
    zombie = in_another_process(_HOLDS_THE_LEASE, path)
    try:
        assert zombie.stdout is not None
        assert zombie.stdout.readline() == "mine\n"
        zombie.send_signal(signal.SIGSTOP)
        with opened(path) as heir:
            later = datetime.now(UTC) + timedelta(minutes=1)
            heir.take_lease(a_lease("login2"), now=later, stale_after=STALE_AFTER, take_over=False)
            heir.remember("key", "of the heir")
            zombie.send_signal(signal.SIGCONT)
            told = zombie.communicate("go on\n", timeout=60)[0]
            assert told.startswith("This server does not hold this HPCFLOW_HOME any more and stores nothing.")
            assert heir.recall("key") == "of the heir"
    finally:
        killed(zombie)


# ---- what is left of it


_WRITES_FOR_EVER = """
from dataclasses import replace
from datetime import UTC, datetime
from hpcflow.core.states import State
store = Store.open(sys.argv[1], on_network=ON_NETWORK)
for task in store.tasks("01JNX5A0000000000000000001"):
    done = replace(task, state=State.COMPLETED)
    end = EndRow(dispatch=task.dispatch, index=task.index, attempt=1, worker="w", bag="b", record={})
    store.apply(Changes(datetime.now(UTC), tasks=[done], ends=[end]))
    print(task.index, flush=True)
"""


@pytest.mark.parametrize("on_network", [False, True])
def test_a_killed_server_leaves_whole_transactions_and_no_lock(path: Path, on_network: bool) -> None:
    tasks = [TaskRow(dispatch=DISPATCH, index=index, name="relax", state=State.QUEUED) for index in range(20_000)]
    with opened(path) as store:
        store.add_dispatch(a_dispatch(), {}, tasks)
    writer = in_another_process(f"ON_NETWORK = {on_network}\n{_WRITES_FOR_EVER}", path)
    said: list[int] = []
    try:
        assert writer.stdout is not None
        said += [int(writer.stdout.readline()) for _ in range(25)]
    finally:
        writer.kill()
        said += [int(line) for line in writer.communicate(timeout=60)[0].split("\n")[:-1]]
    assert writer.returncode == -signal.SIGKILL
    with opened(path, on_network=on_network) as store:
        done = [task.index for task in store.tasks(DISPATCH, state=State.COMPLETED)]
        assert done == sorted(store.ends(DISPATCH))
        assert done[: len(said)] == said
        assert len(done) <= len(said) + 1


def integrity(path: Path) -> str:
    with closing(sqlite3.connect(path)) as raw:
        answer: str = raw.execute("PRAGMA integrity_check").fetchone()[0]
    return answer


@contextmanager
def small_disk(where: Path) -> Generator[Path]:
    """A file system of two MiB."""
    where.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(where)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode:
        pytest.skip("only root may mount a small file system")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", where], check=True)


@pytest.mark.root
@pytest.mark.parametrize("on_network", [False, True])
def test_a_full_disk_is_one_sentence_and_the_write_succeeds_once_there_is_space(
    tmp_path: Path, on_network: bool
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        path, ballast = disk / "hpcflow.db", disk / "ballast"
        with opened(path, on_network=on_network) as store:
            store.add_dispatch(a_dispatch(), {"v": 1}, [])
            ballast.write_bytes(bytes(1_500_000))
            large = a_message(noise(LARGE))
            with pytest.raises(
                StoreFull, match=r"^The disk or the quota is full where .* lies .* nothing was stored\."
            ):
                for _ in range(20):
                    store.apply(large)
            kept = len(store.messages(DISPATCH))
            ballast.unlink()
            store.apply(large)
            assert len(store.messages(DISPATCH)) == kept + 1
            assert store.manifest(DISPATCH) == {"v": 1}
        assert integrity(path) == "ok"


@contextmanager
def files_at_most(size: int) -> Generator[None]:
    """As an exceeded quota does, the kernel refuses to let a file grow further."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_an_exceeded_quota_is_one_sentence_and_the_write_succeeds_once_there_is_space(path: Path) -> None:
    with opened(path) as store:
        store.add_dispatch(a_dispatch(), {"v": 1}, [])
        large = a_message(noise(LARGE))
        with (
            files_at_most(500_000),
            pytest.raises(StoreFull, match=r"^The disk or the quota is full where .* nothing was stored\."),
        ):
            for _ in range(20):
                store.apply(large)
        kept = len(store.messages(DISPATCH))
        store.apply(large)
        assert len(store.messages(DISPATCH)) == kept + 1
    assert integrity(path) == "ok"


def test_a_damaged_page_is_a_sentence(path: Path) -> None:
    with opened(path) as store:
        store.add_dispatch(a_dispatch(), {"v": noise(LARGE)}, [])
        store.take_lease(a_lease(), now=NOW, stale_after=STALE_AFTER, take_over=False)
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    with pytest.raises(StoreError, match=r"is damaged \(database disk image is malformed\)"), opened(path) as store:
        store.dispatches(limit=1)


def test_a_file_of_the_first_schema_is_brought_up_to_date_with_all_that_it_holds(path: Path) -> None:
    with closing(sqlite3.connect(path)) as raw, raw:
        for statement in FIRST_SCHEMA:
            raw.execute(statement)
        raw.execute("INSERT INTO dispatch VALUES ('D', 'flow', 'RUNNING', 1, NULL, NULL, NULL, 1, 0, 3, 11)")
        raw.execute("INSERT INTO task VALUES ('D', 0, 'step', 'ready', 2, NULL, NULL, NULL, NULL, NULL, 'slurm')")
        raw.execute("PRAGMA user_version = 1")
    path.chmod(0o600)
    with closing(Store.open(str(path), on_network=False)) as store:
        row = store.dispatch(DispatchId("D"))
        (task,) = store.tasks(DispatchId("D"))
        assert store.children(DispatchId("D")) == []
    assert row is not None
    assert (row.name, row.paused, row.paused_whole) == ("flow", None, False)
    assert (task.state, task.attempt, task.charged, task.again) == (State.READY, 2, 0, {})


#: The tables that the second schema changed, as the first one had them.
FIRST_SCHEMA = (
    "CREATE TABLE dispatch (id TEXT PRIMARY KEY, name TEXT NOT NULL, status TEXT NOT NULL, created_at INTEGER NOT NULL,"
    " started_at INTEGER, ended_at INTEGER, error TEXT, n_tasks INTEGER NOT NULL, cancel_wanted INTEGER NOT NULL,"
    " python_major INTEGER NOT NULL, python_minor INTEGER NOT NULL)",
    'CREATE TABLE task (dispatch TEXT NOT NULL, "index" INTEGER NOT NULL, name TEXT NOT NULL, state TEXT NOT NULL,'
    " attempt INTEGER NOT NULL, bag TEXT, worker TEXT, started_at INTEGER, ended_at INTEGER, error TEXT, cluster TEXT,"
    ' PRIMARY KEY (dispatch, "index")) WITHOUT ROWID',
)
