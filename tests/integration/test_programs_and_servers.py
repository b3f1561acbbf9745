"""A program that starts, asks, sets up and stops its server, by Covalent's names and by ours."""

from __future__ import annotations

from collections.abc import Callable

from tests.integration.world import User


def test_a_program_stops_starts_and_configures_its_server(own_server: Callable[..., User]) -> None:
    user = own_server()
    printed = user.runs(
        """
import contextlib
import io
import warnings

import hpcflow as ct

print(ct.is_covalent_running(), ct.is_running())
ct.stop()
print(ct.is_running())
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    ct.covalent_start(no_cluster=True, workers=8)
print(*(str(one.message)[:44] for one in told))
ct.start()
print(ct.get_config("linger"), ct.get_config(["server.max_depth", "linger"]))
said = io.StringIO()
with contextlib.redirect_stderr(said):
    ct.set_config({"server": {"max_depth": 50}, "linger": 2})
    ct.set_config("linger", None)
print("restart" in said.getvalue(), ct.get_config("server.max_depth"), ct.get_config("linger"))
print(ct.get_config("sdk.config_file") == ct.get_config()["sdk"]["config_file"], ct.get_config("executors"))
for wrong in ("sdk.log_level", "server.setle", "dask.num_workers"):
    try:
        ct.get_config(wrong)
    except ct.UserError as error:
        print(error)
try:
    ct.set_config("executors.slurm.account", "me")
except ct.UserError as error:
    print(error)
with contextlib.redirect_stderr(io.StringIO()) as said:
    ct.set_config("dispatcher.port", 48008)
print(said.getvalue(), end="")
ct.reload_config()
ct.covalent_stop(quiet=True)
print(ct.is_covalent_running())
"""
    )
    lines = printed.splitlines()
    assert lines[0] == "True True"
    assert lines[1].endswith("has stopped.")
    assert lines[2] == "False"
    assert " is up (pid " in lines[3]
    assert lines[4] == "covalent_start(): workers changes nothing he"
    assert " runs already (pid " in lines[5]
    assert lines[6:] == [
        "10.0 {'server.max_depth': 200, 'linger': 10.0}",
        "True 50 10.0",
        "True {}",
        "'sdk.log_level' is a setting of Covalent's that means nothing here: the client has no settings of its own but "
        "the environment's HPCFLOW_AUTOSTART and HPCFLOW_PROGRESS.",
        "There is no setting 'server.setle'; did you mean 'server.settle'?",
        "'dask.num_workers' is a setting of Covalent's that means nothing here: there is no Dask here: hpcflow's own "
        "`local` cluster runs tasks on this machine.",
        "'executors.slurm.account' is written in clusters.toml: change it there and run `hpcflow restart`, or use "
        "`hpcflow clusters add`.",
        "dispatcher.port changes nothing here: the server listens on a private socket in HPCFLOW_HOME, never at an "
        "address.",
        "False",
    ]
