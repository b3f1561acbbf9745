"""The zipapp's entry: ``worker.pyz bag DIR KEY``, ``worker.pyz probe DIR KEY``, ``worker.pyz local VERB ROOT``.

This file stays readable to any Python 3.7, because an old interpreter must be told so in a sentence.
"""

import contextlib
import os
import sys
from collections.abc import Generator

USAGE = (
    "usage: worker.pyz bag DIRECTORY KEY_FILE | worker.pyz probe DIRECTORY KEY_FILE | "
    "worker.pyz local limits|submit|query|cancel ROOT"
)
EXIT_PYTHON = 11
EXIT_USAGE = 64


def _forget(**hooks: object) -> None:
    """Register nothing."""


@contextlib.contextmanager
def _without_fork_hooks() -> "Generator[None]":
    """Import modules without what they register to run in every forked child.

    `threading` and `logging`, which cloudpickle imports, renew their locks there, at 130 page faults and a quarter of
    the cost of a no-op task. A worker forks only while it has one thread, so that no lock can be held. `random` is not
    among them: its hook makes tasks draw different numbers.
    """
    register = os.register_at_fork
    os.register_at_fork = _forget
    try:
        yield
    finally:
        os.register_at_fork = register


def main(arguments: "list[str]") -> int:
    if sys.version_info < (3, 11):  # noqa: UP036
        sys.stderr.write(
            "hpcflow needs Python 3.11 or newer on compute nodes, of the same minor version as the workflow's; "
            f"{sys.executable} is Python {sys.version.split()[0]}. Set `python` of this cluster in clusters.toml.\n"
        )
        return EXIT_PYTHON
    if len(arguments) == 3 and arguments[0] == "bag":
        with _without_fork_hooks():
            from hpcflow.node.worker import work
        return work(arguments[1], arguments[2])
    if len(arguments) == 3 and arguments[0] == "probe":
        from hpcflow.node.probe import probe

        return probe(arguments[1], arguments[2])
    if len(arguments) == 4 and arguments[0] == "task":
        from hpcflow.node.worker import work_on_one

        work_on_one(arguments[1], arguments[2], int(arguments[3]))
    if len(arguments) == 4 and arguments[0] == "rank":
        from hpcflow.node.ranks import run_rank

        return run_rank(arguments[1], arguments[2], arguments[3])
    if len(arguments) == 3 and arguments[0] == "local":
        from hpcflow.node.local import command

        return command(arguments[1], arguments[2])
    sys.stderr.write(USAGE + "\n")
    return EXIT_USAGE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
