"""What lies on a cluster behind ssh, and on this machine: fetched in one piece, whatever the link does, or removed."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcflow.sdk.partial import held
from tests.integration.servers import COMMAND
from tests.integration.sshd import FAR_BEHIND_A_GATE
from tests.integration.test_ssh_clusters import Laptop, a_laptop
from tests.integration.world import lines, until

PROGRAM = """
import os, sys
import hpcflow as hf

WHERE, SIZE = sys.argv[1], int(sys.argv[2])

@hf.electron(executor=WHERE)
def make(n):
    os.makedirs("run/deep")
    with open("run/large.bin", "wb") as file:
        file.write(bytes(range(256)) * (n // 256))
    for i in range(50):
        with open(f"run/deep/two words {i}", "w") as file:
            file.write(f"{i} " * i)
    os.chmod("run/deep/two words 1", 0o700)
    os.symlink("deep/two words 2", "run/inside")
    os.symlink("/etc/passwd", "run/outside")
    os.symlink("../../../../..", "up")
    os.mkdir("run/empty")
    open("run/empty/odd\\nname", "w").close()
    return bytes(range(256)) * (n // 256)

@hf.electron(executor=WHERE)
def follow(data):
    return len(data)

@hf.lattice
def flow(n):
    return follow(make(n))

id = hf.dispatch(flow)(SIZE)
print(id, hf.get_result(id, wait=True).result)
"""
SIZE = 12 << 20
CONTENT = bytes(range(256)) * (SIZE // 256)


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laptop]:
    with a_laptop(tmp_path_factory.mktemp("laptop")) as running:
        yield running


def dispatched(laptop: Laptop, where: str, size: int = 2560) -> str:
    dispatch, length = laptop.user.runs(PROGRAM, where, str(size)).split()
    assert int(length) == size
    return dispatch


def bags(laptop: Laptop, where: str) -> Path:
    return (laptop.work if where == "far" else Path(laptop.user.home.work("local"))) / "bags"


@pytest.mark.parametrize("where", ["far", "local"])
def test_a_folder_comes_with_all_that_is_safe_in_it(laptop: Laptop, tmp_path: Path, where: str) -> None:
    dispatch = dispatched(laptop, where)
    to = tmp_path / "here"
    fetched = laptop.user.hpcflow("fetch", dispatch, "0", "run", str(to))
    assert fetched.returncode == 0, fetched.stderr
    assert fetched.stdout == f"{to}\n"
    assert fetched.stderr == (
        "Left out, because they are links that lead out of the folder: outside\n"
        "Left out, because their names hold line breaks: 1 file.\n"
    )
    assert (to / "large.bin").read_bytes() == bytes(range(256)) * 10
    assert {path.name: path.read_text() for path in (to / "deep").iterdir()} == {
        f"two words {i}": f"{i} " * i for i in range(50)
    }
    assert os.readlink(to / "inside") == "deep/two words 2"
    assert sorted(path.name for path in to.iterdir()) == ["deep", "empty", "inside", "large.bin"]
    assert list((to / "empty").iterdir()) == []
    assert os.access(to / "deep/two words 1", os.X_OK)
    assert not (to / "deep/two words 3").stat().st_mode & 0o111
    there = to / "large.bin"
    again = laptop.user.hpcflow("fetch", dispatch, "0", "run/large.bin", str(there))
    assert (again.returncode, again.stderr) == (
        2,
        f"{there} exists already: name another destination, or move it away.\n",
    )


def test_what_leads_out_of_the_tasks_directory_is_refused_unless_its_absolute_path_is_given(
    laptop: Laptop, tmp_path: Path
) -> None:
    dispatch = dispatched(laptop, "far")
    for path in ("run/outside", "up", "../../journal"):
        refused = laptop.user.hpcflow("fetch", dispatch, "0", path, str(tmp_path / "no"))
        assert (refused.returncode, refused.stderr) == (
            4,
            f"{path} leads out of the directory of task 0. If that is what you want, give its absolute path on far.\n",
        )
    missing = laptop.user.hpcflow("fetch", dispatch, "0", "no/such", str(tmp_path / "no"))
    assert (missing.returncode, "There is no no/such in /" in missing.stderr) == (5, True)
    none = laptop.user.hpcflow("fetch", dispatch, "1", ".", str(tmp_path / "no"))
    assert (none.returncode, none.stderr) == (
        5,
        f"Task 1 of {dispatch} left no files in a directory of its own.\n",
    )
    assert list(tmp_path.iterdir()) == []
    asked = laptop.user.hpcflow("fetch", dispatch, "1", "/etc/hostname", str(tmp_path))
    assert asked.returncode == 0, asked.stderr
    assert (tmp_path / "hostname").read_bytes() == Path("/etc/hostname").read_bytes()


ODD = r"""
import os, sys
import hpcflow as hf

@hf.electron(executor=sys.argv[1])
def make():
    os.makedirs(b"d\xff/deep")
    for name in (b"a", b"b\xffad", b"d\xff/deep/\xfe"):
        with open(name, "wb") as file:
            file.write(name)
    with open(b"large\xff", "wb") as file:
        file.write(bytes(9 << 20))
    os.symlink("a", "a -> b")
    os.symlink("a -> b", "c -> d -> e")
    os.symlink(b"b\xffad", b"l\xff")
    os.symlink("a\nsums\nb", "lines")
    os.mkdir("sub")
    os.symlink("..", "sub/e")
    os.symlink("sub/e/../x", "esc")
    return 7

@hf.lattice
def flow():
    return make()

id = hf.dispatch(flow)()
print(id, hf.get_result(id, wait=True).result)
"""


@pytest.mark.parametrize("where", ["far", "local"])
def test_names_of_any_bytes_come_as_they_are(laptop: Laptop, tmp_path: Path, where: str) -> None:
    dispatch = laptop.user.runs(ODD, where).split()[0]
    to = tmp_path / "here"
    fetched = laptop.user.hpcflow("fetch", dispatch, "0", ".", str(to))
    assert (fetched.returncode, fetched.stderr) == (
        0,
        "Left out, because they are links that lead out of the folder: esc\n"
        "Left out, because their names hold line breaks: 3 files.\n",  # one of three lines
    )
    names = {b"a", b"b\xffad", b"d\xff", b"large\xff", b"a -> b", b"c -> d -> e", b"l\xff", b"sub"}
    assert set(os.listdir(os.fsencode(to))) == names
    for name in (b"a", b"b\xffad", b"d\xff/deep/\xfe"):
        assert (to / os.fsdecode(name)).read_bytes() == name
    assert (to / os.fsdecode(b"large\xff")).read_bytes() == bytes(9 << 20)
    targets = {name: os.readlink(to / os.fsdecode(name)) for name in (b"a -> b", b"c -> d -> e", b"l\xff", b"sub/e")}
    assert targets == {
        b"a -> b": "a",
        b"c -> d -> e": "a -> b",
        b"l\xff": os.fsdecode(b"b\xffad"),
        b"sub/e": "..",
    }
    # Such a name may be asked for, printed and missed.
    for name in (b"b\xffad", b"d\xff"):
        command = [COMMAND, "fetch", dispatch, "0", os.fsdecode(name)]
        alone = subprocess.run(
            command, cwd=tmp_path, env=dict(laptop.user.environment), capture_output=True, check=False
        )
        assert (alone.returncode, alone.stdout, alone.stderr) == (0, name + b"\n", b"")
    assert (tmp_path / os.fsdecode(b"b\xffad")).read_bytes() == b"b\xffad"
    assert (tmp_path / os.fsdecode(b"d\xff/deep/\xfe")).read_bytes() == b"d\xff/deep/\xfe"
    missing = laptop.user.hpcflow("fetch", dispatch, "0", os.fsdecode(b"no\xff"))
    assert (missing.returncode, missing.stderr.startswith("There is no no")) == (5, True)
    nothing = laptop.user.hpcflow("fetch", dispatch, "0", "")
    assert (nothing.returncode, nothing.stderr) == (
        2,
        'Name a file or folder of the task ("." for all of them), or give --result.\n',
    )
    # A small result rides in the record, and is checked like any other.
    (tmp_path / "r.pkl.part").write_bytes(b"gar")
    with held(tmp_path / "r.pkl", (dispatch, 0, "result")) as part:
        part.write_bytes(b"gar")
    result = laptop.user.hpcflow("fetch", dispatch, "0", "--result", str(tmp_path / "r.pkl"))
    assert (result.returncode, result.stderr) == (0, "")
    assert pickle.loads((tmp_path / "r.pkl").read_bytes()) == 7
    assert (tmp_path / "r.pkl.part").read_bytes() == b"gar"


@pytest.mark.slow
def test_a_large_file_and_a_large_result_that_are_cut_go_on_at_the_byte(laptop: Laptop, tmp_path: Path) -> None:
    dispatch = dispatched(laptop, "far", SIZE)
    for arguments, name in ((("run/large.bin",), "file"), (("--result",), "result")):
        before, passed = laptop.proxy.connections, laptop.proxy.passed
        laptop.proxy.cut_after = SIZE // 2
        fetched = laptop.user.hpcflow("fetch", dispatch, "0", *arguments, str(tmp_path / name))
        assert fetched.returncode == 0, fetched.stderr
        assert laptop.proxy.connections == before + 1
        assert laptop.proxy.passed - passed < SIZE * 1.9
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert pickle.loads((tmp_path / "result").read_bytes()) == CONTENT
    # What an earlier try left is not asked for again.
    with held(tmp_path / "again", (dispatch, 0, "result")) as part:
        shutil.copy(tmp_path / "result", part)
        os.truncate(part, SIZE - 1000)
    passed = laptop.proxy.passed
    assert laptop.user.hpcflow("fetch", dispatch, "0", "--result", str(tmp_path / "again")).returncode == 0
    assert laptop.proxy.passed - passed < 1 << 20
    assert (tmp_path / "again").read_bytes() == (tmp_path / "result").read_bytes()
    # And what is not what it was is never taken for it.
    with held(tmp_path / "wrong", (dispatch, 0, "result")) as part:
        part.write_bytes(bytes(SIZE))
    assert laptop.user.hpcflow("fetch", dispatch, "0", "--result", str(tmp_path / "wrong")).returncode == 0
    assert (tmp_path / "wrong").read_bytes() == (tmp_path / "result").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "file", "result", "wrong"]
    digest = hashlib.sha256(CONTENT).hexdigest()
    program = "import sys, hashlib, hpcflow as hf\nvalue = hf.get_result(sys.argv[1]).get_node_result(0).result\n"
    assert laptop.user.runs(program + "print(hashlib.sha256(value).hexdigest())", dispatch) == digest


@pytest.mark.parametrize("where", ["far", "local"])
def test_what_has_ended_is_cleaned_by_one_command_and_its_record_stays(
    laptop: Laptop, tmp_path: Path, where: str
) -> None:
    dispatch = dispatched(laptop, where, 256_000)
    other = dispatched(laptop, where)
    there = bags(laptop, where)
    before = {path.name for path in there.iterdir()}
    # What is not over yet, as its array may be that ends just now, is not cleaned.
    (cluster,) = until(lambda: laptop.user.asks("clean", dispatch, "--dry-run")["clusters"])
    assert (cluster["cluster"], cluster["bags"] in {1, 2}, cluster["kept_files"]) == (where, True, 1)
    assert cluster["freed_bytes"] > 256_000
    assert {path.name for path in there.iterdir()} == before
    done = laptop.user.hpcflow("clean", dispatch)
    assert done.returncode == 0, done.stderr
    assert "removed, " in done.stdout
    assert done.stdout.endswith("The files that tasks left in 1 bag stay; --files removes them too.\n")
    # Only the task's own files are left of it, and all of the other dispatch.
    left = {path.name for path in there.iterdir()}
    assert len(before - left) == cluster["bags"] - 1
    fetched = laptop.user.hpcflow("fetch", dispatch, "0", "run/large.bin", str(tmp_path / "file"))
    assert fetched.returncode == 0, fetched.stderr
    shown = laptop.user.asks("show", dispatch, "--tasks")
    assert (shown["status"], [task["state"] for task in shown["tasks_shown"]]) == ("COMPLETED", ["completed"] * 2)
    program = "import sys, hpcflow as hf\nprint(hf.get_result(sys.argv[1]).get_node_result(int(sys.argv[2])).result)"
    assert laptop.user.runs(program, dispatch, "1") == "256000"  # it was small, and rides in the record
    gone = laptop.user.tries(program, dispatch, "0")
    assert gone.returncode != 0
    assert f"left no value: the value of task 0 was removed from {where} at 20" in gone.stderr
    assert laptop.user.hpcflow("clean", dispatch, "--files").returncode == 0
    nothing = laptop.user.hpcflow("clean", dispatch, "--files")
    assert (nothing.returncode, nothing.stdout) == (0, "There is nothing to remove.\n")
    assert not {path.name for path in there.iterdir()} & (before - {path.name for path in there.iterdir()})
    assert laptop.user.runs(program, other, "1") == "2560"


def test_nothing_of_a_live_dispatch_is_removed_and_age_is_counted_from_the_end(laptop: Laptop, tmp_path: Path) -> None:
    gate, ledger = tmp_path / "gate", tmp_path / "ledger"
    os.mkfifo(gate)
    dispatch = laptop.user.runs(FAR_BEHIND_A_GATE, str(gate), str(ledger))
    ended = dispatched(laptop, "far")
    refused = laptop.user.hpcflow("clean", dispatch)
    assert (refused.returncode, refused.stdout) == (
        0,
        f"0 bags removed, 0 KiB freed. {dispatch} is live: nothing of it is removed.\n",
    )
    assert laptop.user.hpcflow("clean", "--older-than", "1d").stdout == "There is nothing to remove.\n"
    assert laptop.user.hpcflow("clean", "--older-than", "0s", "--cluster", "far").returncode == 0
    gate.write_text("open")
    assert laptop.user.waits_for(dispatch)["status"] == "COMPLETED"
    assert lines(ledger) == ["up"]
    gone = laptop.user.asks("clean", ended)
    assert gone["clusters"][0]["bags"] + gone["clusters"][0]["gone"] in {1, 2}
    for arguments, code, sentence in (
        ((), 2, "Say what to remove: dispatches by their ids, or --older-than with an age such as 30d.\n"),
        (("--older-than", "soon"), 2, "'soon' is no age; write a number and s, m, h, d or w: 30d.\n"),
        (("--older-than", "1d", "--cluster", "no"), 5, "There is no cluster 'no'; the clusters are far, local.\n"),
    ):
        mistaken = laptop.user.hpcflow("clean", *arguments)
        assert (mistaken.returncode, mistaken.stderr) == (code, sentence)


def test_a_setting_cleans_by_itself_and_leaves_files(laptop: Laptop) -> None:
    dispatch = dispatched(laptop, "far", 256_000)
    assert laptop.user.hpcflow("restart", HPCFLOW_KEEP_DAYS="0.000001").returncode == 0
    program = "import sys, hpcflow as hf\nprint(hf.get_result(sys.argv[1]).get_node_result(0).result)"
    until(lambda: "was removed from far" in laptop.user.tries(program, dispatch).stderr, laptop.user.log)
    assert laptop.user.asks("show", dispatch)["status"] == "COMPLETED"
    assert len(list(bags(laptop, "far").glob("*/work/*/run"))) >= 1
