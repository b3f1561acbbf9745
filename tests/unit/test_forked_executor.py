"""An `hf.Executor` in a fork of its process, where none of its threads is."""

from __future__ import annotations

import os
import subprocess
import sys

FORKS = """
import os
import hpcflow as hf

mine = hf.Executor("local")
mine._lock.acquire()  # as a thread of the parent may have it
print(os.getpid(), flush=True)
child = os.fork()
if child == 0:
    try:
        mine.submit(len, "four")
    except RuntimeError as error:
        print(error, flush=True)
    with hf.Executor("local") as own:
        print(own, flush=True)
    raise SystemExit(0)
print(os.waitpid(child, 0)[1], mine, flush=True)
"""


def test_an_executor_says_in_a_fork_whose_it_is() -> None:
    environ = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        (sys.executable, "-c", FORKS), capture_output=True, text=True, timeout=60, env=environ, check=True
    )
    pid, refusal, own, parent = done.stdout.splitlines()
    assert refusal == (
        f"This hf.Executor belongs to process {pid}, and this is a fork of it, in which nothing sends what is "
        "submitted: make one in this process."
    )
    assert own == "<Executor executor, dispatch not begun>"
    assert parent == "0 <Executor executor, dispatch not begun>"
