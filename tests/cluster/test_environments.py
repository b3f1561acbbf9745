"""Environments on the mini Slurm: packages are installed once for all array tasks, and a module is loaded in each."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cluster.conftest import log_in
from tests.wheelhouse import make_wheel

pytestmark = pytest.mark.cluster

TABLE = """
[slurm]
scheduler = "slurm"
prologue = '''
module() { LOADED="$LOADED $2"; export LOADED; }
'''
modules = ["gcc/13"]
"""

PROGRAM = """
import os
import sys
import hpcflow as hf

env = hf.Env(modules=["openblas/0.3"], requirements=["thing"])

@hf.electron(env=env, walltime="5 min")
def tell(x):
    import thing
    return thing.VALUE + x, os.environ["LOADED"], sys.prefix, os.environ["SLURM_ARRAY_TASK_ID"]

@hf.electron(walltime="5 min")
def plain(rows):
    return len({row[3] for row in rows}), {row[1:3] for row in rows}, sorted(row[0] for row in rows), sys.prefix

@hf.lattice(executor="slurm")
def flow():
    return plain([tell(x) for x in range(12)])

result = hf.get_result(hf.dispatch(flow)(), wait=True)
print(result.error or result.result)
"""


def test_a_bag_with_an_environment_of_its_own(tmp_path: Path) -> None:
    house = tmp_path / "house"
    make_wheel(house, "thing", "2.0", "VALUE = 40")
    with ExitStack() as stack:
        conf = os.environ["SLURM_CONF"]
        login = log_in(stack, tmp_path, conf, {"HPCFLOW_WHEELHOUSE": str(house)}, clusters=TABLE)
        installed = ""
        for _ in range(2):
            width, seen, values, prefix = eval(login.user.runs(PROGRAM))
            ((loaded, installed),) = seen
            assert values == list(range(40, 52))
            assert width > 1
            assert loaded.split() == ["gcc/13", "openblas/0.3"]
            assert Path(installed).parent.name == "envs" and installed != prefix
        assert [path.name for path in Path(installed).parent.iterdir() if path.is_dir()] == [Path(installed).name]
        told = [login.said(dispatch).count("Installing thing on slurm, once") for dispatch in login.user.dispatches()]
        assert sorted(told) == [0, 1]
