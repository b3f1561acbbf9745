"""The ``hpcflow`` command: a client of the server, and the one that starts and stops it."""

from hpcflow.cli.command import main

__all__ = ["main"]
