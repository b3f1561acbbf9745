"""What runs a dispatch again: at times, when files come, when a database has new rows, or for a reason of your own."""

from __future__ import annotations

from hpcflow.sdk.trigger import BaseTrigger
from hpcflow.sdk.watching import DatabaseTrigger, DirTrigger, SQLiteTrigger, TimeTrigger

__all__ = ["BaseTrigger", "DatabaseTrigger", "DirTrigger", "SQLiteTrigger", "TimeTrigger"]
