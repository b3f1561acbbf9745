"""Fetches a dispatch part by part into files: what one names is brought, and nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

from hpcflow.core.model import NotFound, UserError
from hpcflow.sdk.client import server_of_ours, summary_of, until_ended, whole_id
from hpcflow.sdk.connection import Server
from hpcflow.sdk.download import fetch_result, value_size
from hpcflow.sdk.nodes import Parameter
from hpcflow.sdk.pickling import dumps
from hpcflow.sdk.results import Result
from hpcflow.sdk.status import Status
from hpcflow.sdk.workflow import Lattice, load_with

__all__ = ["ResultManager", "get_result_manager"]

#: By Covalent's keys, the files that hold them.
_OF_RESULT: Final = {"result": "result.pkl", "error": "error.txt", "inputs": "inputs.pkl"}
_OF_LATTICE: Final = {
    "workflow_function": "workflow_function.pkl",
    "inputs": "inputs.pkl",
    "name": "name.txt",
    "doc": "doc.txt",
}
_OF_NODE: Final = {
    "output": "output.pkl",
    "error": "error.txt",
    "stdout": "stdout.txt",
    "stderr": "stderr.txt",
    "function_string": "function.py",
}


def get_result_manager(dispatch_id: str, results_dir: str | None = None, wait: bool = False) -> ResultManager:
    """Return what fetches a dispatch part by part.

    Args:
        dispatch_id: as `dispatch` returned it, or its beginning as long as one dispatch alone has it.
        results_dir: the folder for what is fetched; ``None``: ``results/`` and the id, in the working directory.
        wait: come back only when it has ended.

    Raises:
        DispatchNotFound: the server knows no such dispatch.
    """
    return ResultManager.from_dispatch_id(dispatch_id, results_dir, wait)


class ResultManager:
    """The parts of one dispatch: `download_…` brings one into a file, `load_…` returns it, fetched if it must be."""

    def __init__(self, dispatch_id: str, results_dir: str) -> None:
        self.dispatch_id = dispatch_id
        self.results_dir = results_dir
        self._result: Result | None = None

    @staticmethod
    def from_dispatch_id(dispatch_id: str, results_dir: str | None = None, wait: bool = False) -> ResultManager:
        """Return the parts of a dispatch, as `get_result_manager` does."""
        server = server_of_ours()
        summary = summary_of(server, whole_id(server, dispatch_id))
        if wait and not summary.ended:
            summary = until_ended(server, summary)
        made = ResultManager(summary.id, results_dir or os.path.join("results", summary.id))
        made._result = Result(server, summary)
        return made

    @property
    def result_object(self) -> Result:
        """The dispatch as it was when it was asked for first."""
        if self._result is None:
            server = server_of_ours()
            self._result = Result(server, summary_of(server, self.dispatch_id))
        return self._result

    # ---- into files

    def download_result_asset(self, key: str) -> str:
        """Bring a part of the dispatch, "result", "error" or "inputs", and return its file.

        Raises:
            UserError: there is no such part.
            NotFound: it was not stored, or there is none yet.
        """
        path = self._path(_OF_RESULT, key)
        match key:
            case "result":
                if self.result_object.status is not Status.COMPLETED:
                    raise NotFound(f"Dispatch {self.dispatch_id} has no result: it is {self.result_object.status}.")
                return _written(path, dumps(self.result_object.result))
            case "error":
                return _written(path, (self.result_object.error or "").encode())
            case _:
                return self.download_lattice_asset(key)

    def download_lattice_asset(self, key: str) -> str:
        """Bring a part of the lattice, "workflow_function", "inputs", "name" or "doc", and return its file.

        Raises:
            UserError: there is no such part.
            NotFound: it was not stored.
        """
        path = self._path(_OF_LATTICE, key)
        match key:
            case "workflow_function":
                return _written(path, self._server.fetch(f"/dispatches/{self.dispatch_id}/call/lattice"))
            case "inputs":
                return _written(path, self._server.fetch(f"/dispatches/{self.dispatch_id}/call/arguments"))
            case "doc":
                return _written(path, (self.load_lattice_asset("workflow_function").__doc__ or "").encode())
            case _:
                return _written(path, self.result_object.name.encode())

    def download_node_asset(self, node_id: int, key: str) -> str:
        """Bring a part of a task, "output", "error", "stdout", "stderr" or "function_string", and return its file.

        A large output comes in pieces, and goes on where it was cut.

        Raises:
            UserError: there is no such part.
            NotFound: there is no such task, or it has left no value.
        """
        path = self._path(_OF_NODE, key, f"node_{node_id}")
        node = self.result_object.get_node_result(node_id)
        if isinstance(node, Parameter):
            return _written(path, dumps(node.result) if key == "output" else b"")
        match key:
            case "output" if node.sublattice_result is None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.unlink(missing_ok=True)
                task = self.dispatch_id, node_id
                fetch_result(self._server, task, path, value_size(self._server, *task), lambda size: None)
                return str(path)
            case "output":
                return _written(path, dumps(node.result))
            case "error":
                return _written(path, (node.traceback or node.error or "").encode())
            case "function_string":
                about = self._server.ask("GET", f"/dispatches/{self.dispatch_id}/tasks/{node_id}/about")
                return _written(path, str(about["source"] or "").encode())
            case _:
                return _written(path, str(getattr(node, key)).encode())

    # ---- from files

    def load_result_asset(self, key: str) -> Any:  # Any: whatever the lattice returned
        """Return a part of the dispatch, fetched unless its file is there."""
        path = self._path(_OF_RESULT, key)
        return _loaded(path if path.exists() else Path(self.download_result_asset(key)))

    def load_lattice_asset(self, key: str) -> Any:  # Any: whatever the lattice was called with
        """Return a part of the lattice, fetched unless its file is there; "inputs" are its ``args`` and ``kwargs``."""
        path = self._path(_OF_LATTICE, key)
        value = _loaded(path if path.exists() else Path(self.download_lattice_asset(key)))
        if key == "workflow_function":
            lattice: Lattice[..., object] = value[0]
            return lattice
        return value

    def load_node_asset(self, node_id: int, key: str) -> Any:  # Any: whatever the electron returned
        """Return a part of a task, fetched unless its file is there."""
        path = self._path(_OF_NODE, key, f"node_{node_id}")
        return _loaded(path if path.exists() else Path(self.download_node_asset(node_id, key)))

    # ---- for another day

    def save(self, path: str | None = None) -> str:
        """Write of which dispatch this is, to ``manifest.json`` in the folder if nothing else is said; return where."""
        described = {"dispatch_id": self.dispatch_id, "name": self.result_object.name}
        described["status"] = str(self.result_object.status)
        return _written(Path(path or os.path.join(self.results_dir, "manifest.json")), json.dumps(described).encode())

    @staticmethod
    def load(path: str, results_dir: str) -> ResultManager:
        """Return what `save` wrote; a server is asked only for parts that are not in the folder.

        Raises:
            UserError: `save` did not write this file.
        """
        try:
            return ResultManager(str(json.loads(Path(path).read_text("utf-8"))["dispatch_id"]), results_dir)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is not what a result manager saved: {error}.") from None

    # ---- private

    @property
    def _server(self) -> Server:
        return server_of_ours()

    def _path(self, names: dict[str, str], key: str, folder: str = "") -> Path:
        if key not in names:
            raise UserError(f"There is no {key!r} to fetch; there are {', '.join(names)}.")
        return Path(self.results_dir, folder, names[key])


def _written(path: Path, data: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.replace(path)
    return str(path)


def _loaded(path: Path) -> Any:  # Any: whatever was pickled
    if path.suffix != ".pkl":
        return path.read_text("utf-8", "replace")
    value = load_with(path.read_bytes())
    if path.name == "inputs.pkl":
        return {"args": value[0], "kwargs": value[1]}
    return value
