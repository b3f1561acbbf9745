"""Files around tasks on a real server: the order they come in, what a task is told, what it says when they don't."""

from __future__ import annotations

import json

from tests.integration.world import User

PROGRAM = """
import json
import os
import resource
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
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
large = nodes[4].result
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / len(large)
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
        ["made\n", "of the client", None, "shared", None],
        ["a", "b"],
        "client:data.txt",
        True,
    ]
    assert (user.folder / "out.txt").read_text() == "1 of the client after"
    assert errors[0] is errors[3] is None
    assert errors[1].startswith(f"TransferFailed: {user.folder}/nothing could not be brought to ")
    assert errors[1].endswith(f"No such file or directory: '{user.folder}/nothing'.")
    assert "/made could not be brought to /nowhere/at/all (on " in errors[2]
    assert printed == "bash has of the client\n"
