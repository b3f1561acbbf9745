"""The command that says where a task's files are."""

from __future__ import annotations

import argparse

from hpcflow.cli.frame import OK, the_server
from hpcflow.core.model import NotFound

__all__ = ["path"]


def path(options: argparse.Namespace) -> int:
    """Print the directory in which a task ran and left files, as it is called on its cluster.

    Raises:
        NotFound: there is no such task, or it has left none.
    """
    from hpcflow.sdk.answers import parse_task
    from hpcflow.sdk.client import whole_id

    server = the_server()
    dispatch = whole_id(server, options.id)
    task = parse_task(server.ask("GET", f"/dispatches/{dispatch}/tasks/{options.task}"))
    if task.workdir is None:
        why = "it left no files" if task.ended_at is not None else "that is known when it has ended"
        raise NotFound(f"Task {task.index} ({task.name}) is {task.state} and has no directory to show: {why}.")
    print(task.workdir)
    return OK
