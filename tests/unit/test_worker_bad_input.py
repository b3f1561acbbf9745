"""What a worker does with a damaged, planted, deleted or full bag, and on a node with a wrong clock."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcflow.core.bag import read_lines, sign_line
from hpcflow.node.journal import read_past
from tests.unit.bag_on_disk import SOURCE, BagOnDisk, Call, run_worker, write_bag
from tests.unit.test_worker import double, with_result_of

KEY = b"a key of a bag, as long as any!!"
RECORDS: list[dict[str, object]] = [
    {"ev": "up", "w": "7_0_0"},
    {"ev": "claim", "k": 0, "a": 0, "b": 4},
    {"ev": "start", "i": 0, "n": 0},
    {"ev": "end", "i": 0, "n": 0, "st": "ok", "r": {"b": "gAVLAC4="}},
    {"ev": "start", "i": 1, "n": 0},
    {"ev": "end", "i": 1, "n": 0, "st": "signal", "sig": int(signal.SIGTERM)},
    {"ev": "start", "i": 2, "n": 0},
    {"ev": "end", "i": 2, "n": 0, "st": "error", "exc": "E", "msg": "it said } #0123456789abcdef\n"},
    {"ev": "claim", "k": 3, "a": 4, "b": 5},
    {"ev": "start", "i": 3, "n": 0},
    {"ev": "end", "i": 3, "n": 0, "st": "signal", "sig": int(signal.SIGTERM)},
    {"ev": "exit", "why": "term"},
]
LINES = [sign_line(record, KEY) for record in RECORDS]
WHOLE = b"".join(LINES)
#: What is known of tasks for sure: the third died with its worker.
ENDED = {(0, 0), (1, 0), (2, 0)}


# ---- damaged journals


def is_part_of(found: list[dict[str, object]], whole: list[dict[str, object]]) -> bool:
    """Return whether records are some of those, in their order."""
    remaining = iter(whole)
    return all(record in remaining for record in found)


def test_a_journal_cut_anywhere_holds_its_whole_lines() -> None:
    for size in range(len(WHOLE) + 1):
        records, end, bad = read_lines(WHOLE[:size], KEY)
        assert records == RECORDS[: WHOLE[:size].count(b"\n")]
        assert (end, bad) == (WHOLE[:size].rfind(b"\n") + 1, 0)


def test_a_journal_with_any_bit_flipped_loses_that_line_alone() -> None:
    for position in range(len(WHOLE)):
        for bit in range(8):
            damaged = bytearray(WHOLE)
            damaged[position] ^= 1 << bit
            records, _, bad = read_lines(bytes(damaged), KEY)
            assert is_part_of(records, RECORDS)
            # A newline that is lost joins two lines.
            assert len(records) >= len(RECORDS) - 2
            assert bad > 0 or position == len(WHOLE) - 1


damage = st.tuples(st.integers(0, len(WHOLE)), st.integers(0, len(WHOLE)), st.binary(max_size=40))


@given(st.lists(damage, min_size=1, max_size=4))
def test_a_journal_written_over_anywhere_never_has_a_wrong_record(damages: list[tuple[int, int, bytes]]) -> None:
    content = WHOLE
    for begin, end, written in damages:
        content = content[:begin] + written + content[max(begin, end) :]
    records, _, _ = read_lines(content, KEY)
    assert is_part_of(records, RECORDS)


@given(st.permutations(LINES), st.integers(0, len(WHOLE)))
def test_a_successor_believes_no_end_that_was_not_written(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], cut: int
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    write_private(folder / "7_0_0.jsonl", b"".join(lines)[:cut])
    past = read_past(str(folder), ["7_0_0"], KEY)
    assert past.ranges <= {0, 3}
    assert past.ended.keys() <= ENDED | {(3, 0)}


def write_private(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o600)


def test_a_successor_of_a_journal_cut_anywhere_knows_what_its_whole_lines_say(tmp_path: Path) -> None:
    journal = tmp_path / "7_0_0.jsonl"
    for size in range(len(WHOLE) + 1):
        write_private(journal, WHOLE[:size])
        past = read_past(str(tmp_path), ["7_0_0"], KEY)
        whole = WHOLE[:size].count(b"\n")
        assert past.ranges == {record["k"] for record in RECORDS[:whole] if record["ev"] == "claim"}
        known = {(0, 0): 4, (1, 0): 7, (2, 0): 8}
        assert past.ended.keys() == {task for task, lines in known.items() if whole >= lines}


@pytest.mark.parametrize("part", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
@pytest.mark.parametrize("how", ["cut", "flipped"])
def test_a_damaged_journal_costs_a_second_run_and_no_task(tmp_path: Path, part: float, how: str) -> None:
    ledger = tmp_path / "ledger"

    def note(number: int) -> int:
        with open(ledger, "a") as file:
            file.write(f"{number}\n")
        return number

    bag = write_bag(tmp_path, *(Call(note, (number,)) for number in range(8)), cuts=[0, 4, 6, 8])
    assert run_worker(bag) == (0, "")
    journal = bag.path / "journal" / "7_0_0.jsonl"
    content = bytearray(journal.read_bytes())
    if how == "cut":
        del content[int(part * len(content)) :]
    else:
        content[int(part * len(content))] ^= 0x10
    journal.write_bytes(content)
    survived = read_lines(bytes(content), bag.key)[0]
    assert run_worker(bag, restart=1) == (0, "")
    again = read_lines((bag.path / "journal" / "7_0_1.jsonl").read_bytes(), bag.key)[0]
    kept = [record["i"] for record in survived if record["ev"] == "end"]
    repeated = [record["i"] for record in again if record["ev"] == "end"]
    assert sorted(kept + repeated) == list(range(8))
    assert ledger.read_text().split() == [str(number) for number in [*range(8), *repeated]]


# ---- planted files


def plant_link(path: Path) -> None:
    target = path.with_name(path.name + ".elsewhere")
    if path.exists():
        path.rename(target)
    else:
        target.write_text("precious")
    path.symlink_to(target)


def plant_fifo(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    os.mkfifo(path, 0o600)


def give_to_another(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    os.chown(path, 12345, 12345)


def open_to_others(path: Path) -> None:
    path.chmod(0o777 if path.is_dir() else 0o666)


PLANTS: dict[Callable[[Path], None], str] = {
    plant_link: "is a symbolic link",
    plant_fifo: "is not a",
    give_to_another: "is owned by uid 12345",
    open_to_others: "is open to others",
}


@pytest.mark.parametrize(
    "plant",
    [pytest.param(each, marks=[pytest.mark.root] if each is give_to_another else []) for each in PLANTS],
    ids=lambda each: each.__name__,
)
@pytest.mark.parametrize(
    "name",
    [
        "bag.json",
        "bag.sig",
        "payload.pack",
        "inbox.jsonl",
        "../key",
        "claims",
        "journal",
        "data",
        "logs",
        "work",
        "../bag",
    ],
)
def test_a_planted_file_is_refused_in_a_sentence(tmp_path: Path, name: str, plant: Callable[[Path], None]) -> None:
    ran = tmp_path / "ran"
    bag = write_bag(tmp_path, Call(ran.touch))
    path = Path(os.path.normpath(bag.path / name))
    plant(path)
    code, stderr = run_worker(bag)
    assert code == 12
    assert f"{path} {PLANTS[plant]}" in stderr
    assert stderr.count("\n") == 1
    assert not ran.exists()


@pytest.mark.parametrize("plant", [plant_link, plant_fifo], ids=lambda each: each.__name__)
@pytest.mark.parametrize("name", ["logs/7_0_0.out", "logs/7_0_0.err", "data/7_0_0.pack", "claims/.7_0_0"])
def test_a_planted_file_is_never_written_to(tmp_path: Path, name: str, plant: Callable[[Path], None]) -> None:
    ran = tmp_path / "ran"
    bag = write_bag(tmp_path, Call(ran.touch))
    plant(bag.path / name)
    code, stderr = run_worker(bag)
    assert code == 12
    assert f"{bag.path / name} is there already" in stderr
    assert bag.records("exit")[0]["why"] == "refused"
    assert not ran.exists()
    if plant is plant_link:
        assert (bag.path / f"{name}.elsewhere").read_text() == "precious"


@pytest.mark.parametrize(
    "plant",
    [pytest.param(each, marks=[pytest.mark.root] if each is give_to_another else []) for each in PLANTS],
    ids=lambda each: each.__name__,
)
def test_a_planted_journal_is_not_read(tmp_path: Path, plant: Callable[[Path], None]) -> None:
    bag = write_bag(tmp_path, Call(int))
    path = bag.path / "journal" / "7_0_0.jsonl"
    path.write_bytes(b"")
    plant(path)
    code, stderr = run_worker(bag)
    assert code == 12
    assert f"{path} {PLANTS[plant]}" in stderr
    (bag.path / "journal" / "7_0_0.jsonl").unlink()


@pytest.mark.parametrize("plant", [plant_link, plant_fifo, Path.mkdir], ids=lambda each: each.__name__)
def test_a_planted_claim_is_somebody_elses(tmp_path: Path, plant: Callable[[Path], None]) -> None:
    bag = write_bag(tmp_path, Call(int), Call(int), Call(int))
    plant(bag.path / "claims" / "1")
    assert run_worker(bag) == (0, "")
    assert [record["i"] for record in bag.records("end")] == [0, 2]


def test_a_planted_value_is_an_error_of_the_task_that_needs_it(tmp_path: Path) -> None:
    pack = tmp_path / "7_0_0.pack"
    pack.write_bytes(b"value")
    plant_link(pack)
    call = Call(double, pickled=with_result_of(9), refs={9: [str(pack), 0, 5, "00" * 32]})
    bag = write_bag(tmp_path, call)
    assert run_worker(bag) == (0, "")
    assert bag.end(0)["exc"] == "StrangeFile"
    assert "is a symbolic link" in bag.end(0)["msg"]


# ---- bags that go away, and disks that fill


def test_a_bag_deleted_while_it_runs_ends_its_worker_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "bag"
    bag = write_bag(tmp_path, Call(shutil.rmtree, (path,)), Call(int), Call(int))
    assert run_worker(bag) == (
        75,
        f"The bag {path} was deleted while it was worked on; what its tasks still did is lost.\n",
    )


def test_a_bag_moved_to_the_trash_ends_its_worker_in_a_sentence(tmp_path: Path) -> None:
    path, ledger = tmp_path / "bag", tmp_path / "ledger"
    bag = write_bag(tmp_path, Call(path.rename, (tmp_path / ".trash-bag",)), *(Call(ledger.touch) for _ in range(3)))
    code, stderr = run_worker(bag)
    assert code == 75
    assert "was deleted while it was worked on" in stderr
    assert not ledger.exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Generator[Path]:
    """A file system of 400 KiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k,mode=700", "hpcflow-test", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.root
def test_a_full_disk_is_nobodys_failure_and_the_work_goes_on_when_there_is_room(small_disk: Path) -> None:
    def produce(number: int) -> bytes:
        return bytes([number]) * 60_000

    bag = write_bag(small_disk, *(Call(produce, (number,)) for number in range(12)), cuts=[0, 12])
    assert run_worker(bag)[0] == 75
    ended = bag.records("end")
    assert {record["st"] for record in ended[:-1]} == {"ok"}
    assert (ended[-1]["st"], bag.records("exit")[0]["why"]) == ("interrupted", "fault")
    assert "No space left on device" in ended[-1]["msg"]
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    assert run_worker(bag, restart=1) == (0, "")
    results = [record for record in bag.records("end") if record["st"] == "ok"]
    assert sorted(record["i"] for record in results) == list(range(12))


@pytest.mark.root
def test_a_disk_without_room_for_a_journal_is_said_in_a_sentence(small_disk: Path) -> None:
    bag = write_bag(small_disk, Call(int))
    with open(small_disk / "filler", "wb", buffering=0) as filler, pytest.raises(OSError, match="No space"):
        while True:
            filler.write(b"x" * 4096)
    code, stderr = run_worker(bag)
    assert code == 75
    assert "No space left on device" in stderr
    assert stderr.count("\n") == 1
    (small_disk / "filler").unlink()
    assert run_worker(bag) == (0, "")
    assert bag.end(0)["st"] == "ok"


# ---- other nodes


def run_with_clock(bag: BagOnDisk, folder: Path, offset: str) -> tuple[int, str]:
    """Run a worker on a node whose clock is off by ``offset`` seconds: an expression, new each time it is asked."""
    source = (
        f"import itertools, time\ncalls, real = itertools.count(), time.time\ntime.time = lambda: real() + {offset}\n"
    )
    (folder / "sitecustomize.py").write_text(source)
    return run_worker(bag, through=("env", f"PYTHONPATH={folder}:{SOURCE}"))


@pytest.mark.parametrize("offset", ["600", "-600", "600 * (-1) ** next(calls)"], ids=["ahead", "behind", "jumping"])
def test_a_wrong_clock_ends_nothing_early_or_late(tmp_path: Path, offset: str) -> None:
    bag = write_bag(
        tmp_path,
        *(Call(double, (number,)) for number in range(5)),
        Call(time.sleep, (600,)),
        Call(double, (6,)),
        cuts=[0, 7],
        limit=1.5,
        grace=0.2,
        walltime=300,
        need=100,
        sync=0.1,
        memory_mib=1000,
    )
    assert run_with_clock(bag, tmp_path, offset) == (0, "")
    assert [bag.end(index)["st"] for index in range(7)] == ["ok"] * 5 + ["timeout", "ok"]
    assert all(0 <= record["wall"] < 300 for record in bag.records("end"))
    assert abs(bag.records("up")[0]["t"] - time.time()) > 500
    assert bag.records("exit")[0]["why"] == "drained"


class OnlyWhere:
    """Opens where a file is, as a value of a module that only one machine has."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.path.getsize, (str(self.path),)


def test_a_result_that_opens_only_on_its_node_is_stored_and_opened_there(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_text("four")
    upstream, downstream = Call(OnlyWhere, (there,)), Call(double, pickled=with_result_of(0), refs={0: None})
    bag = write_bag(tmp_path, upstream, downstream, units=[[0, 1]], cuts=[0, 1])
    assert run_worker(bag) == (0, "")
    there.unlink()
    assert bag.result(1) == 8
    with pytest.raises(FileNotFoundError):
        bag.result(0)


def test_arguments_that_can_not_be_opened_on_the_node_are_told_from_the_functions_own_errors(tmp_path: Path) -> None:
    bag = write_bag(tmp_path, Call(double, (OnlyWhere(tmp_path / "elsewhere"),)))
    assert run_worker(bag) == (0, "")
    end = bag.end(0)
    assert (end["st"], end["exc"]) == ("error", "FileNotFoundError")
    assert end["msg"].startswith(f"The arguments of task0 can't be opened on {os.uname().nodename}: ")


def test_a_bag_that_is_no_bag_is_refused_in_a_sentence(tmp_path: Path) -> None:
    bag = write_bag(tmp_path, Call(int))
    for content in (b"", b"\xff\x00", b"[]", b"{}", json.dumps({"bag": "x"}).encode()):
        (bag.path / "bag.json").write_bytes(content)
        code, stderr = run_worker(bag)
        assert code == 12
        assert stderr.count("\n") == 1
