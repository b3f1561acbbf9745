"""Batch scripts as mustache templates, one for each scheduler: data, and the way to it."""

from __future__ import annotations

from pathlib import Path

__all__ = ["batch_template"]


def batch_template(scheduler: str) -> Path:
    """Return where the template of a scheduler's batch script lies, for "slurm" and the like."""
    return Path(__file__).parent / "batch" / f"{scheduler}.mustache"
