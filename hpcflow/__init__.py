"""Workflows of plain Python functions as elastic job arrays: the public names, each loaded when it is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpcflow import executor as executor
    from hpcflow import fs as fs
    from hpcflow import leptons as leptons
    from hpcflow import status as status
    from hpcflow import triggers as triggers
    from hpcflow.core.model import Failed as Failed
    from hpcflow.core.model import HpcflowError as HpcflowError
    from hpcflow.core.model import UserError as UserError
    from hpcflow.sdk import strategies as fs_strategies
    from hpcflow.sdk.client import Result as Result
    from hpcflow.sdk.client import cancel as cancel
    from hpcflow.sdk.client import dispatch as dispatch
    from hpcflow.sdk.client import dispatch_sync as dispatch_sync
    from hpcflow.sdk.client import get_result as get_result
    from hpcflow.sdk.completed import as_completed as as_completed
    from hpcflow.sdk.configuration import get_config as get_config
    from hpcflow.sdk.configuration import reload_config as reload_config
    from hpcflow.sdk.configuration import set_config as set_config
    from hpcflow.sdk.context import get_context as get_context
    from hpcflow.sdk.environment import Env as Env
    from hpcflow.sdk.futures import Executor as Executor
    from hpcflow.sdk.futures import TaskFailed as TaskFailed
    from hpcflow.sdk.hooks import DepsBash as DepsBash
    from hpcflow.sdk.hooks import DepsCall as DepsCall
    from hpcflow.sdk.hooks import DepsModule as DepsModule
    from hpcflow.sdk.hooks import DepsPip as DepsPip
    from hpcflow.sdk.lepton import Lepton as Lepton
    from hpcflow.sdk.nodes import LostValue as LostValue
    from hpcflow.sdk.options import Retries as Retries
    from hpcflow.sdk.redispatch import redispatch as redispatch
    from hpcflow.sdk.result_manager import get_result_manager as get_result_manager
    from hpcflow.sdk.running import covalent_start as covalent_start
    from hpcflow.sdk.running import covalent_stop as covalent_stop
    from hpcflow.sdk.running import is_covalent_running as is_covalent_running
    from hpcflow.sdk.running import is_running as is_running
    from hpcflow.sdk.running import start as start
    from hpcflow.sdk.running import stop as stop
    from hpcflow.sdk.status import Status as Status
    from hpcflow.sdk.steering import pause as pause
    from hpcflow.sdk.steering import resume as resume
    from hpcflow.sdk.steering import retry as retry
    from hpcflow.sdk.trigger import stop_triggers as stop_triggers
    from hpcflow.sdk.workflow import electron as electron
    from hpcflow.sdk.workflow import lattice as lattice
    from hpcflow.sdk.workflow import wait as wait

    __version__: str

_HOMES = {
    "electron": "hpcflow.sdk.workflow",
    "lattice": "hpcflow.sdk.workflow",
    "wait": "hpcflow.sdk.workflow",
    "dispatch": "hpcflow.sdk.client",
    "dispatch_sync": "hpcflow.sdk.client",
    "get_result": "hpcflow.sdk.client",
    "cancel": "hpcflow.sdk.client",
    "pause": "hpcflow.sdk.steering",
    "resume": "hpcflow.sdk.steering",
    "retry": "hpcflow.sdk.steering",
    "redispatch": "hpcflow.sdk.redispatch",
    "get_result_manager": "hpcflow.sdk.result_manager",
    "Result": "hpcflow.sdk.client",
    "DepsBash": "hpcflow.sdk.hooks",
    "DepsCall": "hpcflow.sdk.hooks",
    "DepsModule": "hpcflow.sdk.hooks",
    "DepsPip": "hpcflow.sdk.hooks",
    "get_context": "hpcflow.sdk.context",
    "Lepton": "hpcflow.sdk.lepton",
    "Retries": "hpcflow.sdk.options",
    "LostValue": "hpcflow.sdk.nodes",
    "stop_triggers": "hpcflow.sdk.trigger",
    "get_config": "hpcflow.sdk.configuration",
    "reload_config": "hpcflow.sdk.configuration",
    "set_config": "hpcflow.sdk.configuration",
    "covalent_start": "hpcflow.sdk.running",
    "covalent_stop": "hpcflow.sdk.running",
    "is_covalent_running": "hpcflow.sdk.running",
    "is_running": "hpcflow.sdk.running",
    "start": "hpcflow.sdk.running",
    "stop": "hpcflow.sdk.running",
    "Env": "hpcflow.sdk.environment",
    "Executor": "hpcflow.sdk.futures",
    "TaskFailed": "hpcflow.sdk.futures",
    "as_completed": "hpcflow.sdk.completed",
    "Failed": "hpcflow.core.model",
    "Status": "hpcflow.sdk.status",
    "HpcflowError": "hpcflow.core.model",
    "UserError": "hpcflow.core.model",
}

_MODULES = {
    "executor": "hpcflow.executor",
    "fs": "hpcflow.fs",
    "fs_strategies": "hpcflow.sdk.strategies",
    "leptons": "hpcflow.leptons",
    "status": "hpcflow.status",
    "triggers": "hpcflow.triggers",
}

__all__ = [  # __getattr__ gives them
    "DepsBash",
    "DepsCall",
    "DepsModule",
    "DepsPip",
    "Env",
    "Executor",
    "Failed",
    "HpcflowError",
    "Lepton",
    "LostValue",
    "Result",
    "Retries",
    "Status",
    "TaskFailed",
    "UserError",
    "__version__",
    "as_completed",
    "cancel",
    "covalent_start",
    "covalent_stop",
    "dispatch",
    "dispatch_sync",
    "electron",
    "executor",
    "fs",
    "fs_strategies",
    "get_config",
    "get_context",
    "get_result",
    "get_result_manager",
    "is_covalent_running",
    "is_running",
    "lattice",
    "leptons",
    "pause",
    "redispatch",
    "reload_config",
    "resume",
    "retry",
    "set_config",
    "start",
    "status",
    "stop",
    "stop_triggers",
    "triggers",
    "wait",
]


def __getattr__(name: str) -> object:
    from importlib import import_module  # as little as can be on `import hpcflow`

    value: object
    if name == "__version__":
        value = _version()
    elif name in _MODULES:
        return import_module(_MODULES[name])
    elif name in _HOMES:
        try:
            value = getattr(import_module(_HOMES[name]), name)
        except ModuleNotFoundError as error:
            if error.name != _HOMES[name]:
                raise
            # Compute nodes have the part of hpcflow that runs electrons, and no more.
            raise AttributeError(f"hpcflow.{name} is for the machine that dispatches, not for electrons.") from None
    else:
        raise AttributeError(f"module 'hpcflow' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # costs more than all else here

    try:
        return version("hpcflow-orchestrator")
    except PackageNotFoundError:
        return "0+unknown"
