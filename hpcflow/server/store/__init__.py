"""What the server remembers: dispatches, tasks, ends, bags, arrays and the log of events, in one SQLite file.

The one door to SQLAlchemy. Every write is one transaction that begins by checking the lease, so that of two servers
on one file only the rightful one writes. Methods block and may be called from any thread.
"""

from hpcflow.server.store.jobs import Jobs
from hpcflow.server.store.kept import Kept
from hpcflow.server.store.rows import (
    PART,
    ArrayRow,
    ArrayState,
    BagRow,
    CacheRow,
    Changes,
    ChildRow,
    DispatchRow,
    EndRow,
    EventKind,
    EventRow,
    Lease,
    LeaseHeld,
    LeaseLost,
    OriginRow,
    RunTimeKey,
    StoreError,
    StoreFull,
    TaskRow,
)
from hpcflow.server.store.store import Store
from hpcflow.server.store.tables import SCHEMA

__all__ = [
    "PART",
    "SCHEMA",
    "ArrayRow",
    "ArrayState",
    "BagRow",
    "CacheRow",
    "Changes",
    "ChildRow",
    "DispatchRow",
    "EndRow",
    "EventKind",
    "EventRow",
    "Jobs",
    "Kept",
    "Lease",
    "LeaseHeld",
    "LeaseLost",
    "OriginRow",
    "RunTimeKey",
    "Store",
    "StoreError",
    "StoreFull",
    "TaskRow",
]
