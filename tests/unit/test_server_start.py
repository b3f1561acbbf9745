"""What a server does not load and does not make when it starts: whoever dispatches first waits for that."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

#: Ends the server once it answers, and says what it has imported and which shapes of answers it has worked out.
PROGRAM = """
import json, os, signal, sys, threading, time
import hpcflow.server.__main__ as server

def leave():
    while not os.path.exists(os.path.join(os.environ["HPCFLOW_HOME"], "run", "server.json")):
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=leave, daemon=True).start()
assert server.main([]) == 0
schema = sys.modules["hpcflow.server.schema"]
worked_out = [name for name in ("Summary", "Dispatches", "Usage") if getattr(schema, name).__pydantic_complete__]
print(json.dumps([sorted(sys.modules), worked_out]))
"""


def test_a_server_starts_without_what_few_dispatches_need(tmp_path: Path) -> None:
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("sbatch", "scontrol", "sinfo"):  # a scheduler is found: its plugin is loaded
        (commands / name).write_text("#!/bin/sh\nexit 1\n")
        (commands / name).chmod(0o755)
    environ = {**os.environ, "HPCFLOW_HOME": str(tmp_path / "home"), "PATH": f"{commands}:/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    modules, worked_out = json.loads(done.stdout)
    assert {"hpcflow_slurm.plugin", "hpcflow.server.engine", "sqlalchemy.dialects.sqlite"} <= set(modules)
    # For clusters behind ssh; submissions; environments; circles in a graph; the user's side; other databases.
    late = {"asyncssh", "cryptography", "psij", "typeguard", "packaging", "pip", "installer", "networkx", "cloudpickle"}
    late |= {"numpy", "rich", "httpx", "requests", "psycopg", "sqlalchemy.dialects.postgresql", "jinja2", "multipart"}
    assert late & set(modules) == set()
    # What answers are like is worked out for whoever asks for the API's description.
    assert worked_out == []


@pytest.mark.parametrize("scheduler", ["slurm", "pbs", "lsf"])
def test_what_speaks_psij_leaves_the_servers_children_to_it(scheduler: str) -> None:
    program = f"""
import signal, sys
from hpcflow.server.plugins import load
plugin = load({scheduler!r})(python="", worker="", root="")
assert "psij" not in sys.modules
plugin._jobs
assert "psij" in sys.modules
assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL, signal.getsignal(signal.SIGCHLD)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
