"""A graph as text that Mermaid draws: GitHub, Jupyter and mermaid.live show it, and people can read it as it is."""

from __future__ import annotations

from collections import Counter
from typing import Final

from hpcflow.core.model import Graph

__all__ = ["mermaid"]

#: More boxes than this tell nothing: alike tasks that are equally far from the beginning are then one box.
_MOST: Final = 50


def mermaid(graph: Graph) -> str:
    """Return the graph as a Mermaid flowchart, from the first tasks down to the result.

    Arguments are solid arrows, an order that `wait` made is a dotted one, sublattices have double sides. In a graph of
    more than 50 tasks, tasks of one name that are equally far from the beginning are one box with their number.
    """
    boxes = _groups(graph) if len(graph.tasks) > _MOST else list(range(len(graph.tasks)))
    sizes = Counter(boxes)
    shown: dict[int, str] = {}
    solid: dict[tuple[int, int], None] = {}
    dotted: dict[tuple[int, int], None] = {}
    for task, box in zip(graph.tasks, boxes, strict=True):
        number = f" x {sizes[box]:,}" if sizes[box] > 1 else ""
        text = f'"{task.name.replace(chr(34), "#quot;")}{number}"'
        shown.setdefault(box, f"[[{text}]]" if task.sublattice else f"[{text}]")
        solid |= dict.fromkeys((boxes[before], box) for before in task.deps)
        dotted |= dict.fromkeys((boxes[before], box) for before in task.after)
    results = dict.fromkeys(boxes[index] for index in graph.output_deps)
    return "\n".join(
        [
            "flowchart TD",
            *(f"    t{box}{text}" for box, text in shown.items()),
            *(['    result(["result"])'] if results else []),
            *(f"    t{before} --> t{after}" for before, after in solid),
            *(f"    t{before} -.-> t{after}" for before, after in dotted if (before, after) not in solid),
            *(f"    t{box} --> result" for box in results),
        ]
    )


def _groups(graph: Graph) -> list[int]:
    """Return for each task the first one of its name, kind and distance from the beginning."""
    waiting = {task.index: {*task.deps, *task.after} for task in graph.tasks}
    depths: dict[int, int] = {}
    stack = list(reversed(waiting))
    while stack:  # wait() lets a task need one that the lattice called later
        index = stack[-1]
        missing = [before for before in waiting[index] if before not in depths]
        if missing:
            stack += missing
            continue
        depths[index] = max((depths[before] + 1 for before in waiting[index]), default=0)
        stack.pop()
    first: dict[tuple[str, bool, int], int] = {}
    return [first.setdefault((task.name, task.sublattice, depths[task.index]), task.index) for task in graph.tasks]
