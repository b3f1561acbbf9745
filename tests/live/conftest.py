"""A real site: the scheduler that LIVE_SCHEDULER names, on the login node where the tests run.

LIVE_SCHEDULER  slurm, pbs or lsf; without it these tests are skipped
LIVE_FOLDER     a folder that compute nodes see as well, for homes, bags and what tasks write
LIVE_TABLE      further lines of the cluster's table in clusters.toml: partition, account, prologue, python and so on
LIVE_POLL       seconds between two questions to the scheduler; default 10
LIVE_PATIENCE   seconds that anything may take, the queue's waiting included; default 240, on a busy site 3600
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from tests.integration.places import PATH, Place
from tests.integration.world import PATIENCE_S, served

SCHEDULER: Final = os.environ.get("LIVE_SCHEDULER", "")
FOLDER: Final = os.environ.get("LIVE_FOLDER", "")

#: What a user types to delete a job, before its id.
DELETE: Final = {"slurm": ("scancel",), "pbs": ("qdel",), "lsf": ("bkill",)}


@pytest.fixture(scope="session")
def _site() -> Iterator[Place]:
    if not SCHEDULER:
        pytest.skip("needs a real site: LIVE_SCHEDULER and LIVE_FOLDER, as tests/live/conftest.py says")
    assert SCHEDULER in DELETE, f"LIVE_SCHEDULER={SCHEDULER} is none of {', '.join(DELETE)}"
    assert os.path.isabs(FOLDER), "LIVE_FOLDER must be an absolute path that compute nodes see as well"
    table = f'[{SCHEDULER}]\nscheduler = "{SCHEDULER}"\n{os.environ.get("LIVE_TABLE", "")}\n'
    names = (
        "SLURM_CONF",
        "PBS_CONF_FILE",
        "LSF_ENVDIR",
        "LSF_SERVERDIR",
        "LSF_LIBDIR",
        "LD_LIBRARY_PATH",
        "MODULEPATH",
    )
    environment = {name: os.environ[name] for name in names if name in os.environ}
    environment |= dict.fromkeys(("HPCFLOW_ACCOUNTING_POLL", "HPCFLOW_QUEUE_POLL"), os.environ.get("LIVE_POLL", "10"))
    path = (*PATH, *os.environ.get("PATH", "").split(os.pathsep))
    with (
        tempfile.TemporaryDirectory(prefix="hpcflow-live-", dir=FOLDER) as folder,
        served(Path(folder), environment, path, clusters=table) as user,
    ):
        yield Place(SCHEDULER, user)


@pytest.fixture
def there(_site: Place) -> Iterator[Place]:
    """The site, with a user whose folder is the test's own."""
    with tempfile.TemporaryDirectory(prefix="user-", dir=_site.user.folder) as folder:
        yield replace(_site, user=replace(_site.user, folder=Path(folder)))


def types(there: Place, *command: str) -> str:
    """Run a command of the scheduler's as the user would; it has to succeed."""
    done = subprocess.run(
        command, env=dict(there.user.environment), capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout
