"""Whether a program's environment would lead to a scheduler that the server's does not."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from hpcflow.sdk.shell import differing, environment_of
from tests.waiting import until


def a_command(folder: Path, name: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("#!/bin/sh\n")
    (folder / name).chmod(0o755)
    return str(folder)


def test_what_leads_to_no_scheduler_makes_no_difference(tmp_path: Path) -> None:
    path = a_command(tmp_path / "bin", "sbatch")
    server = {"PATH": path, "SLURM_CONF": "/etc/slurm.conf", "TERM": "xterm", "OMP_NUM_THREADS": "4"}
    mine = {"PATH": f"/nowhere:{path}", "SLURM_CONF": "/etc/slurm.conf", "VIRTUAL_ENV": "/venv", "LANG": "C"}
    assert differing(server, mine) == {}


def test_each_scheduler_has_variables_and_a_command_of_its_own(tmp_path: Path) -> None:
    slurm, lsf = a_command(tmp_path / "slurm", "sbatch"), a_command(tmp_path / "lsf", "bsub")
    server = {"PATH": lsf, "LSF_ENVDIR": "/old", "SLURM_CONF": "/a", "SSH_AUTH_SOCK": "/tmp/1"}
    mine = {"PATH": f"{slurm}:{lsf}", "LSF_ENVDIR": "/new", "SLURM_CONF": "/b", "SSH_AUTH_SOCK": "/tmp/2"}
    assert differing(server, mine) == {"slurm": ["SLURM_CONF", "PATH"], "lsf": ["LSF_ENVDIR"], "ssh": ["SSH_AUTH_SOCK"]}
    # What the server finds and this program does not is no reason to begin it anew.
    assert "PATH" not in differing({**mine}, {**server}).get("slurm", [])


def test_a_ticket_of_kerberos_matters_everywhere() -> None:
    assert differing({}, {"KRB5CCNAME": "FILE:/tmp/k"}) == {
        scheduler: ["KRB5CCNAME"] for scheduler in ("slurm", "pbs", "lsf", "ssh")
    }


def test_the_environment_of_a_process_is_what_it_began_with() -> None:
    with subprocess.Popen(["sleep", "60"], env={"SLURM_CONF": "/etc/a=b", "PATH": os.defpath}) as process:
        try:
            # Linux gives it a little after the program has begun, and until then nothing.
            found = until(lambda: environment_of(process.pid))
            assert found == {"SLURM_CONF": "/etc/a=b", "PATH": os.defpath}
        finally:
            process.kill()
        # It has ended, and nobody has waited for it yet.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert environment_of(process.pid) is None
        process.wait(30)
    assert environment_of(process.pid) is None
