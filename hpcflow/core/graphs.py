"""Says whether a graph can be run at all, and in which waves its tasks become ready."""

from __future__ import annotations

from hpcflow.core.model import Graph, UserError

__all__ = ["check_graph", "waves"]


def check_graph(graph: Graph, *, may_be_empty: bool = False) -> None:
    """Check that a graph can be run at all.

    Raises:
        UserError: it has no task, names a task that is not there, or goes round in a circle.
    """
    if not graph.tasks and not may_be_empty:
        raise UserError(f"The lattice {graph.name!r} has nothing to run: it calls no electron.")
    known = range(len(graph.tasks))
    forward = False
    # Tasks that need the same have one tuple together, which is looked through once.
    bounds: dict[int, tuple[int, int]] = {}
    for task in graph.tasks:
        for needs in (task.deps, task.after):
            if id(needs) not in bounds:
                bounds[id(needs)] = (min(needs, default=0), max(needs, default=-1))
            low, high = bounds[id(needs)]
            if low < 0 or high >= len(known):
                wrong = low if low < 0 else high
                raise UserError(f"Task {task.index} ({task.name}) waits for task {wrong}, which does not exist.")
            forward = forward or high >= task.index
    if any(index not in known for index in graph.output_deps):
        raise UserError(f"The lattice {graph.name!r} returns the result of a task that does not exist.")
    if forward:
        _refuse_circles(graph)


def _refuse_circles(graph: Graph) -> None:
    # Tracing makes tasks in order, so only wait() can make an edge to a later task: networkx is imported only then.
    import networkx as nx

    # What several tasks wait for is one node of its own between: n tasks that all need m others are n + m edges.
    barriers: dict[tuple[int, ...], int] = {}
    edges: list[tuple[int, int]] = []
    for task in graph.tasks:
        for needs in filter(None, (task.deps, task.after)):
            if needs not in barriers:
                barriers[needs] = -1 - len(barriers)
                edges += [(upstream, barriers[needs]) for upstream in needs]
            edges.append((barriers[needs], task.index))
    try:
        circle = nx.find_cycle(nx.DiGraph(edges))
    except nx.NetworkXNoCycle:
        return
    names = [f"{graph.tasks[start].name} ({start})" for start, _ in circle if start >= 0]
    raise UserError(f"The lattice {graph.name!r} goes round in a circle: {' -> '.join([*names, names[0]])}.")


def waves(graph: Graph) -> tuple[tuple[int, ...], ...]:
    """Return the tasks in waves: each wave is ready when all before it are done."""
    depth: dict[int, int] = {}
    after: dict[int, int] = {}

    def wave_after(needs: tuple[int, ...]) -> int:
        if id(needs) not in after:
            after[id(needs)] = 1 + max((depth[upstream] for upstream in needs), default=-1)
        return after[id(needs)]

    todo = list(range(len(graph.tasks) - 1, -1, -1))
    while todo:
        index = todo[-1]
        task = graph.tasks[index]
        both = [needs for needs in (task.deps, task.after) if id(needs) not in after]
        missing = [upstream for needs in both for upstream in needs if upstream not in depth]
        if missing:
            todo += missing
            continue
        todo.pop()
        depth[index] = max(wave_after(task.deps), wave_after(task.after))
    out: list[list[int]] = [[] for _ in range(1 + max(depth.values(), default=-1))]
    for index in range(len(graph.tasks)):
        out[depth[index]].append(index)
    return tuple(tuple(wave) for wave in out)
