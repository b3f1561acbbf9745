"""Files around tasks on a real server: the order they come in, what a task is told, what it says when they don't."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from hpcflow.server.failpoints import VARIABLE
from tests.integration.world import User, begun, ended, is_alive, until

PROGRAM = """
import json
import os
import sys

import numpy as np

import hpcflow as hf
from hpcflow.fs import FileTransfer, Folder, Order, TransferFromRemote, TransferToRemote

folder = sys.argv[1]

@hf.electron(
    deps_bash="echo made >made",
    files=[
        FileTransfer("made", "first"),  # deps_bash comes before it
        FileTransfer("client:data.txt", "data.txt"),
        FileTransfer("client:inputs", Folder("inputs")),
        FileTransfer(f"{folder}/shared.txt"),
        FileTransfer("out.txt", f"{folder}/out.txt", order=Order.AFTER),
        FileTransfer("out.txt", "client:brought/{node_id}.txt", order=Order.AFTER),
        FileTransfer("inputs", "client:brought/", order=Order.AFTER),
    ],
    call_before=hf.DepsCall(lambda: open("first").read(), retval_keyword="first"),
    call_after=lambda: open("out.txt", "a").write("after"),  # it comes before the file goes
)
def work(x, *, first, files):
    told = [open(source if "out" in source else target).read() if os.path.isfile(target) else None
            for source, target in files]
    with open("out.txt", "w") as file:
        file.write(f"{x} {open('data.txt').read()} ")
    return first, told, sorted(os.listdir("inputs")), files[1][0], os.path.dirname(files[0][1]) == os.getcwd()

@hf.electron(files=[TransferFromRemote(f"{folder}/nothing", "x", hf.fs_strategies.Shutil())])
def nowhere_from():
    return 1

@hf.electron(files=TransferToRemote("/nowhere/at/all", "made", hf.fs_strategies.Shutil()), deps_bash="echo 1 >made")
def nowhere_to():
    return 2

@hf.leptons.bash(files=FileTransfer("client:data.txt", "given"))
def command(word):
    return f"echo {word} $(<given)"

@hf.electron
def large():
    return np.full(100_000_000, 7, np.uint8)

@hf.lattice(executor="local")
def flow():
    return work(1), nowhere_from(), nowhere_to(), command("bash has"), large()

result = hf.dispatch_sync(flow)()
nodes = result.tasks()
brought = nodes[0].download("out.txt", "brought.txt")
os.mkdir("whole")
nodes[0].download(to="whole")
whole = os.listdir(os.path.join("whole", *os.listdir("whole")))

def peak():  # ru_maxrss is also that of who started this program
    with open("/proc/self/status") as status:
        return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))

before = peak()
large = nodes[4].result
grown = (peak() - before) / len(large)
print(json.dumps([brought, whole, grown, nodes[0].result, [node.error for node in nodes], nodes[3].stdout]))
"""


def test_files_come_before_a_task_and_go_after_it_in_their_order(user: User) -> None:
    user.writes("data.txt", "of the client")
    user.writes("shared.txt", "shared")
    (user.folder / "inputs").mkdir()
    user.writes("inputs/a", "a")
    user.writes("inputs/b", "b")
    brought, whole, grown, result, errors, printed = json.loads(user.runs(PROGRAM, str(user.folder)))

    assert brought == str(user.folder / "brought.txt")
    assert (user.folder / "brought.txt").read_text() == "1 of the client after"
    assert {"data.txt", "first", "inputs", "made", "out.txt"} <= {*whole}
    assert 0.5 < grown < 1.5
    assert result == [
        "made\n",
        ["made\n", "of the client", None, "shared", None, None, None],
        ["a", "b"],
        "client:data.txt",
        True,
    ]
    assert (user.folder / "out.txt").read_text() == "1 of the client after"
    # What a task leaves for where it was dispatched comes to who waits there.
    assert (user.folder / "brought" / "0.txt").read_text() == "1 of the client after"
    assert sorted(each.name for each in (user.folder / "brought" / "inputs").iterdir()) == ["a", "b"]
    assert errors[0] is errors[3] is None
    assert errors[1].startswith(f"TransferFailed: {user.folder}/nothing could not be brought to ")
    assert errors[1].endswith(f"No such file or directory: '{user.folder}/nothing'.")
    assert "/made could not be brought to /nowhere/at/all (on " in errors[2]
    assert printed == "bash has of the client\n"


FAR = '''
import json
import os
import sys
import time

from fsspec.spec import AbstractFileSystem


class Far(AbstractFileSystem):
    """A service elsewhere, as fsspec sees one; it notes who asked for what."""

    protocol = "far"

    def __init__(self, root, silent=False, **options):
        super().__init__(**options)
        self.root, self.silent = root, silent

    def info(self, path, **options):
        if self.silent:
            time.sleep(600)
        try:
            return {"name": path, "size": os.stat(os.path.join(self.root, path)).st_size, "type": "file"}
        except OSError:
            raise FileNotFoundError(f"the far side has no {path}") from None

    def open(self, path, mode="rb", **options):
        with open(os.path.join(self.root, "asked"), "a") as asked:
            told = [name for name in os.environ if name.startswith("HPCFLOW_")]
            print(json.dumps([path, os.path.basename(sys.argv[0]), sys.argv[1:], told]), file=asked)
        print("words that are no answer")
        return open(os.path.join(self.root, path), mode)
'''

FETCHED = """
import hashlib
import json
import os
import sys

import hpcflow as hf

far = hf.fs_strategies.Fsspec(where="server", root=sys.argv[1], silent=len(sys.argv) > 2)
data = hf.fs.FileTransfer("far://user:secret@large.bin", "here.bin", strategy=far)

def digest_of(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

@hf.electron(files=data)
def work(before, files):
    return digest_of("here.bin"), files[0][1].endswith("/here.bin"), "fsspec" in sys.modules

@hf.electron
@hf.lattice
def inner(x):
    return leaves(work(x)[0])

@hf.electron(files=hf.fs.TransferToRemote("far://sent.bin", "out.bin", far))
def leaves(before):
    with open("out.bin", "wb") as file:
        file.write(before.encode() * 50_000)
    return before

@hf.electron
def follows(before, path):
    return before, os.path.getsize(path)

@hf.electron(files=hf.fs.TransferToRemote("far://no/folder.bin", "out.txt", far), deps_bash="echo 1 >out.txt")
def strays(before):
    return 2

@hf.electron(files=hf.fs.FileTransfer("far://missing.bin", "x", strategy=far))
def missing():
    return 1

@hf.lattice(executor="local")
def flow():
    first = [work(i) for i in range(3)]
    return first, work(first[0]), follows(inner(first[1]), sys.argv[1] + "/sent.bin"), missing(), strays(first[2])

@hf.lattice(executor="local")
def silent():
    return missing()

result = hf.dispatch_sync(silent if len(sys.argv) > 2 else flow)()
nodes = result.tasks()
print(json.dumps([[node.result if node.error is None else None for node in nodes], [node.error for node in nodes]]))
"""


def installed(folder: Path) -> str:
    """Make a folder of Python packages in which a plugin of fsspec is installed; return its path."""
    packages = folder / "packages"
    (packages / "far-1.dist-info").mkdir(parents=True)
    (packages / "far_service.py").write_text(FAR)
    (packages / "far-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: far\nVersion: 1\n")
    (packages / "far-1.dist-info" / "entry_points.txt").write_text("[fsspec.specs]\nfar = far_service:Far\n")
    return str(packages)


def test_a_file_is_fetched_beside_the_server_once_and_comes_with_the_tasks(
    own_server: Callable[..., User], tmp_path: Path
) -> None:
    root = tmp_path / "far side"
    root.mkdir()
    content = os.urandom(3_000_000)
    (root / "user:secret@large.bin").write_bytes(content)
    # The first server dies when the file is there and no bag has it yet; the next one goes on with it.
    armed = {VARIABLE: "after_intent_commit=kill"}
    user = own_server(PYTHONPATH=installed(tmp_path), HPCFLOW_SUBMIT_SETTLE="1", **armed)
    pid = user.server_pid()
    with begun(user, FETCHED, str(root), **{VARIABLE: ""}) as program:
        until(lambda: not is_alive(pid), user.log)
        assert user.hpcflow("start", **{VARIABLE: ""}).returncode == 0
        out, err = ended(user, program)
    assert program.returncode == 0, err
    results, errors = json.loads(out)

    digest = hashlib.sha256(content).hexdigest()
    assert errors[:6] == [None] * 6
    assert results[:4] == [[digest, True, False]] * 4
    # What follows a task finds what the server has brought away for it.
    assert results[4:6] == [digest, [digest, 64 * 50_000]]
    assert (root / "sent.bin").read_bytes() == digest.encode() * 50_000
    assert errors[7].startswith(
        "TransferFailed: what the task left could not be brought to far://no/folder.bin beside the server (on "
    )
    assert "No such file or directory" in errors[7]
    assert errors[6].startswith("far://missing.bin could not be fetched beside the server (on ")
    assert errors[6].endswith("): the far side has no missing.bin.")
    assert sorted(json.loads(line) for line in (root / "asked").read_text().splitlines()) == [
        ["no/folder.bin", "transfer_process.py", [], []],
        ["sent.bin", "transfer_process.py", [], []],
        ["user:secret@large.bin", "transfer_process.py", [], []],
    ]
    # It is kept as long as somebody may need it, and is nobody else's business.
    until(lambda: not [*Path(user.home.dispatches).glob("*.fetched*"), *Path(user.home.dispatches).glob("*.sent*")])
    assert "secret" not in user.log()


def test_a_transfer_of_which_nothing_comes_is_given_up(own_server: Callable[..., User], tmp_path: Path) -> None:
    user = own_server(PYTHONPATH=installed(tmp_path), HPCFLOW_FETCH_SILENCE="0.5")
    _, errors = json.loads(user.runs(FETCHED, str(tmp_path), "silent"))
    assert errors[0].startswith("far://missing.bin could not be fetched beside the server (on ")
    assert errors[0].endswith("): nothing came for 0.5 s, after 0 bytes.")
