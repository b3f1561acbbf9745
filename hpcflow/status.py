"""Covalent's ``status``: ``hpcflow.status.COMPLETED`` and the like, each equal to its text."""

from __future__ import annotations

from typing import Final

from hpcflow.sdk.status import Status, is_terminal

__all__ = [
    "CANCELLED",
    "COMPLETED",
    "DISPATCHING",
    "DISPATCHING_SUBLATTICE",
    "FAILED",
    "NEW_OBJECT",
    "PENDING_POSTPROCESSING",
    "PENDING_REPLACEMENT",
    "PENDING_REUSE",
    "POSTPROCESSING",
    "POSTPROCESSING_FAILED",
    "QUEUED",
    "REGISTERING",
    "RUNNING",
    "STARTING",
    "Status",
    "is_terminal",
]

NEW_OBJECT: Final = Status.NEW_OBJECT
QUEUED: Final = Status.QUEUED
RUNNING: Final = Status.RUNNING
COMPLETED: Final = Status.COMPLETED
FAILED: Final = Status.FAILED
CANCELLED: Final = Status.CANCELLED
REGISTERING: Final = Status.REGISTERING
STARTING: Final = Status.STARTING
PENDING_REUSE: Final = Status.PENDING_REUSE
PENDING_REPLACEMENT: Final = Status.PENDING_REPLACEMENT
DISPATCHING: Final = Status.DISPATCHING
DISPATCHING_SUBLATTICE: Final = Status.DISPATCHING_SUBLATTICE
POSTPROCESSING: Final = Status.POSTPROCESSING
PENDING_POSTPROCESSING: Final = Status.PENDING_POSTPROCESSING
POSTPROCESSING_FAILED: Final = Status.POSTPROCESSING_FAILED
