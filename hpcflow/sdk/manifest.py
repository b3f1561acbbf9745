"""Writes a traced lattice down as a server reads it: the manifest of an upload, and its blobs. Runs on nodes too."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, fields

from hpcflow.core.model import Environment, Resources, Task, UserError
from hpcflow.sdk.trace import FunctionText, Traced

__all__ = ["manifest", "refuse_brought"]


def manifest(traced: Traced) -> tuple[dict[str, object], list[bytes]]:
    """Return the upload's manifest, but for the dispatch's id and the client's names, and the blobs."""
    graph = traced.graph
    numbers: dict[tuple[object, ...], int] = {}
    needs: dict[tuple[int, ...], int] = {}
    shapes: list[Task] = []
    tasks: list[list[object]] = []
    for task in graph.tasks:
        wanted = (task.executor, task.resources, task.workdir, task.max_running, task.launcher, task.env)
        asked = (*wanted, task.isolation, task.retries, task.accept_failed, task.on_cancelled, task.sublattice)
        number = numbers.setdefault(asked, len(numbers))
        if number == len(shapes):
            shapes.append(task)
        before = [needs.setdefault(tasks_before, len(needs)) for tasks_before in (task.deps, task.after)]
        tasks.append([task.name, task.fn, task.args, number, *before])
    return {
        "v": 2,
        "name": graph.name,
        "python": list(sys.version_info[:2]),
        "executable": sys.executable,
        "cwd": _directory(),
        "functions": {str(number): _described(text) for number, text in traced.functions.items()},
        "shapes": [
            {
                "executor": task.executor,
                "resources": _written(task.resources),
                "workdir": task.workdir,
                "retries": asdict(task.retries),
                "accept_failed": task.accept_failed,
                "on_cancelled": task.on_cancelled,
                "max_running": task.max_running,
                "launcher": task.launcher,
                "isolation": task.isolation,
                **({"env": written} if (written := _environment(task.env)) else {}),
                "sublattice": task.sublattice,
            }
            for task in shapes
        ],
        "tasks": tasks,
        # All tasks of a stage may need all of the one before.
        "needs": list(needs),
        "output": graph.output,
        "output_deps": list(graph.output_deps),
        **({"keys": list(traced.keys.items())} if traced.keys else {}),
        "max_failures": graph.max_failures,
        "max_running": graph.max_running,
    }, list(traced.blobs)


def refuse_brought(traced: Traced) -> None:
    """Raise `UserError` where a task leaves something for the machine that dispatches, and that could not know."""
    for text in traced.functions.values():
        if text.brought:
            raise UserError(
                f"{text.name} leaves {text.brought[0][0]} for where you dispatch (client:). Only electrons that the "
                "dispatched lattice calls itself can: take it with `hpcflow fetch`."
            )


def _directory() -> str:
    """Return where the program works, as a note only; empty when that folder was removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""


def _described(text: FunctionText) -> dict[str, object]:
    described = asdict(text)
    del described["brought"]
    return {name: value for name, value in described.items() if value or name not in {"fetched", "sent"}}


def _written(resources: Resources) -> dict[str, object]:
    usual = asdict(Resources())
    return {name: value for name, value in asdict(resources).items() if value != usual[name]}


def _environment(env: Environment) -> dict[str, object]:
    return {field.name: value for field in fields(env) if (value := getattr(env, field.name)) != field.default}
