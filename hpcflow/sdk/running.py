"""The server as a program sees it: whether it runs, its start and its stop, under Covalent's names as well."""

from __future__ import annotations

import os
import warnings

from hpcflow.core.model import HpcflowError
from hpcflow.core.places import places
from hpcflow.sdk import startup
from hpcflow.sdk.mistakes import show_plainly

__all__ = ["covalent_start", "covalent_stop", "is_covalent_running", "is_running", "start", "stop"]


def is_running() -> bool:
    """Return whether a server of this HPCFLOW_HOME answers; `False` too where it runs on another host."""
    try:
        return startup.running(places(os.environ)) is not None
    except HpcflowError:
        return False


def start(*, quiet: bool = False) -> None:
    """Bring the server up if none runs, as `hpcflow start` does; `dispatch` does so by itself.

    Args:
        quiet: say nothing.

    Raises:
        ServerStartFailed: it ended before it answered.
        ServerElsewhere: it runs on another host.
    """
    show_plainly()
    where = places(os.environ)
    said = startup.started_by_command(where)
    if not quiet:
        print(said)


def stop(*, quiet: bool = False) -> None:
    """Stop the server, as `hpcflow stop` does. Jobs go on, and the next server takes them up.

    Args:
        quiet: say nothing.

    Raises:
        ServerElsewhere: it runs on another host.
        ServerUnreachable: it did not end.
    """
    show_plainly()
    where = places(os.environ)
    record = startup.stop(where)
    if not quiet:
        ended = f"The server of {where.home} (pid {record.pid}) has stopped." if record else "No server runs."
        print(ended)


def covalent_start(  # noqa: PLR0917  # Covalent's own order
    develop: bool = False,
    port: str | int | None = None,
    mem_per_worker: str | None = None,
    workers: int | None = None,
    threads_per_worker: int | None = None,
    ignore_migrations: bool = False,
    no_cluster: bool = False,
    no_triggers: bool = False,
    triggers_only: bool = False,
    *,
    quiet: bool = False,
) -> None:
    """Start the server, as `start` does; what Covalent's has to be told of Dask and ports means nothing here.

    Warns:
        UserWarning: an option was given that changes nothing.
    """
    given = {
        "develop": develop,
        "port": port,
        "mem_per_worker": mem_per_worker,
        "workers": workers,
        "threads_per_worker": threads_per_worker,
        "ignore_migrations": ignore_migrations,
        "no_triggers": no_triggers,
        "triggers_only": triggers_only,
    }
    # no_cluster is what hpcflow is: nothing to warn of.
    idle = [name for name, value in given.items() if value]
    if idle:
        warnings.warn(
            f"covalent_start(): {', '.join(idle)} changes nothing here: hpcflow has one server, without Dask, on a "
            "private socket.",
            stacklevel=2,
        )
    start(quiet=quiet)


def covalent_stop(*, quiet: bool = False) -> None:
    """Stop the server, as `stop` does."""
    stop(quiet=quiet)


def is_covalent_running() -> bool:
    """Return whether the server runs, as `is_running` does."""
    return is_running()
