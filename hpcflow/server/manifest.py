"""Reads what a client's manifest says of a dispatch, once `upload` has checked its form."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final, Literal

from hpcflow.core.model import Environment, Graph, Resources, Retries, Task, UserError

__all__ = [
    "VERSION",
    "Manifest",
    "blob_offsets",
    "function_files",
    "function_imports",
    "function_keys",
    "moved",
    "read_graph",
]

#: Of the form that clients write.
VERSION: Final = 2

Manifest = Mapping[str, Any]  # Any: JSON that a client sent


def read_graph(manifest: Manifest) -> Graph:
    """Return the graph that a client's manifest describes.

    Raises:
        UserError: it is not a manifest of this version.
    """
    try:
        if manifest["v"] not in {1, VERSION}:
            raise UserError(f"The dispatch is written in version {manifest['v']}; this server reads {VERSION}.")
        # A store may hold dispatches of version 1, whose tasks have their needs beside them.
        needs = [tuple(each) for each in manifest["needs"]] if manifest["v"] == VERSION else None
        shapes: list[dict[str, Any]] = [  # Any: as many types as `Task` has fields
            {
                "executor": shape.get("executor"),
                "resources": _resources(shape.get("resources") or {}),
                "workdir": shape.get("workdir"),
                "retries": _retries(shape.get("retries", 0)),
                "accept_failed": bool(shape.get("accept_failed", False)),
                "on_cancelled": shape.get("on_cancelled", "pause"),
                "max_running": shape.get("max_running"),
                "launcher": shape.get("launcher"),
                "isolation": shape.get("isolation"),
                "sublattice": bool(shape.get("sublattice", False)),
                "env": _environment(shape.get("env") or {}),
            }
            for shape in manifest["shapes"]
        ]
        blobs = range(len(manifest["blobs"]))
        tasks: list[Task] = []
        for index, (name, fn, args, shape, deps, after) in enumerate(manifest["tasks"]):
            if fn not in blobs or args not in blobs:
                raise UserError(f"Task {index} ({name}) names a blob that the dispatch does not hold.")
            tasks.append(
                Task(
                    index=index,
                    name=str(name),
                    fn=fn,
                    args=args,
                    deps=tuple(deps) if needs is None else needs[deps],
                    after=tuple(after) if needs is None else needs[after],
                    **shapes[shape],
                )
            )
        if manifest["output"] not in blobs:
            raise UserError("The dispatch does not hold the lattice's return value.")
        return Graph(
            name=str(manifest["name"]),
            tasks=tuple(tasks),
            output=manifest["output"],
            output_deps=tuple(manifest["output_deps"]),
            max_failures=manifest.get("max_failures"),
            max_running=manifest.get("max_running"),
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(
            f"The dispatch is not written as this server reads it: {type(error).__name__} {error}"
        ) from None


def moved(graph: Graph, tasks: int, blobs: int) -> Graph:
    """Return a graph as it goes on in another one that has so many tasks and blobs."""
    known: dict[int, tuple[int, ...]] = {}

    def shifted(needed: tuple[int, ...]) -> tuple[int, ...]:
        # Tasks of a stage share what they need, and go on sharing it.
        return known.setdefault(id(needed), tuple(upstream + tasks for upstream in needed))

    return replace(
        graph,
        tasks=tuple(
            replace(
                task,
                index=task.index + tasks,
                fn=task.fn + blobs,
                args=task.args + blobs,
                deps=shifted(task.deps),
                after=shifted(task.after),
            )
            for task in graph.tasks
        ),
        output=graph.output + blobs,
        output_deps=tuple(upstream + tasks for upstream in graph.output_deps),
    )


def _resources(fields: Mapping[str, Any]) -> Resources:  # Any: JSON
    given = dict(fields)
    if "extra" in given:
        given["extra"] = tuple(given["extra"])
    return Resources(**given)


def _environment(fields: Mapping[str, Any]) -> Environment:  # Any: JSON
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    return Environment(**given)


def _retries(written: int | Mapping[str, Any]) -> Retries:  # Any: JSON
    if isinstance(written, int):
        return Retries(times=written)
    fields: dict[str, Any] = {**written, "exceptions": tuple(written.get("exceptions", ()))}
    return Retries(**fields)


def function_keys(manifest: Manifest) -> dict[int, str]:
    """Return for each function's blob its name and what its source begins with as a hash."""
    return {
        int(number): f"{note['module']}.{note['name']} "
        + hashlib.sha256((note["source"] or "").encode(errors="replace")).hexdigest()[:16]
        for number, note in manifest.get("functions", {}).items()
    }


def function_imports(manifest: Manifest) -> dict[int, Mapping[str, str]]:
    """Return for each function's blob the modules that it imports, and their versions where it was dispatched."""
    return {int(number): note.get("imports") or {} for number, note in manifest.get("functions", {}).items()}


def function_files(manifest: Manifest, way: Literal["fetched", "sent"]) -> dict[int, tuple[Manifest, ...]]:
    """Return for each function's blob the files that the server brings for its tasks: upload.FileNote; most have none.

    Args:
        manifest: of a dispatch or a sublattice.
        way: "fetched" before its tasks, or "sent" after them.
    """
    notes = manifest.get("functions", {}).items()
    return {int(number): tuple(note[way]) for number, note in notes if note.get(way)}


def blob_offsets(manifest: Manifest) -> Iterator[tuple[int, int]]:
    """Yield (offset, size) of each blob in the payload file."""
    at = 0
    for size, _ in manifest["blobs"]:
        yield at, size
        at += size
