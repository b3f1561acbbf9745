"""The tables of the store, and the steps between their versions."""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa

from hpcflow.server.store.rows import StoreError

__all__ = [
    "ARRAY",
    "BAG",
    "CACHE",
    "CHILD",
    "DISPATCH",
    "END",
    "EVENT",
    "LEASE",
    "MANIFEST",
    "METADATA",
    "ORIGIN",
    "RUN_TIME",
    "SCHEMA",
    "SETTING",
    "STEPS",
    "TASK",
    "migrate",
]

#: What ``PRAGMA user_version`` says of a file whose tables are those below. A change of them adds a step to `STEPS`.
SCHEMA: Final = 4


# Columns ending in _at are microseconds since the epoch; columns called json are what `columns.packed` makes.

METADATA: Final = sa.MetaData()


def _text(name: str, *, key: bool = False, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.Text, primary_key=key, nullable=null)


def _integer(name: str, *, key: bool = False, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.Integer, primary_key=key, nullable=null)


def _json(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.LargeBinary, nullable=False)


def _of_dispatch(*, key: bool = False, null: bool = False) -> sa.Column[Any]:
    return sa.Column("dispatch", sa.Text, sa.ForeignKey("dispatch.id"), primary_key=key, nullable=null)


DISPATCH: Final = sa.Table(
    "dispatch",
    METADATA,
    _text("id", key=True),
    _text("name"),
    _text("status"),
    _integer("created_at"),
    _integer("started_at", null=True),
    _integer("ended_at", null=True),
    _text("error", null=True),
    _integer("n_tasks"),
    _integer("cancel_wanted"),
    _integer("python_major"),
    _integer("python_minor"),
    _text("paused", null=True),
    sa.Column("paused_whole", sa.Integer, nullable=False, server_default="0"),
    sa.Index("dispatch_created_at", "created_at", "id"),
)
MANIFEST: Final = sa.Table("manifest", METADATA, _of_dispatch(key=True), _json("json"))
CHILD: Final = sa.Table(
    "child",
    METADATA,
    _text("id", key=True),
    _of_dispatch(),
    _integer("task"),
    _integer("first"),
    _integer("n_tasks"),
    _text("name"),
    _json("json"),
    sa.Index("child_dispatch", "dispatch", "first"),
)
TASK: Final = sa.Table(
    "task",
    METADATA,
    _of_dispatch(key=True),
    _integer("index", key=True),
    _text("name"),
    _text("state"),
    _integer("attempt"),
    _text("bag", null=True),
    _text("worker", null=True),
    _integer("started_at", null=True),
    _integer("ended_at", null=True),
    _text("error", null=True),
    _text("cluster", null=True),
    sa.Column("charged", sa.Integer, nullable=False, server_default="0"),
    sa.Column("again", sa.LargeBinary, nullable=True),
    sa.Index("task_state", "dispatch", "state"),
    sqlite_with_rowid=False,
)
END: Final = sa.Table(
    "task_end",
    METADATA,
    _of_dispatch(key=True),
    _integer("index", key=True),
    _integer("attempt", key=True),
    _text("worker"),
    _text("bag"),
    _json("json"),
)
BAG: Final = sa.Table(
    "bag",
    METADATA,
    _text("id", key=True),
    _of_dispatch(),
    _integer("created_at"),
    _integer("closed_at", null=True),
    _json("json"),
    sa.Index("bag_dispatch", "dispatch"),
)
ARRAY: Final = sa.Table(
    "job_array",
    METADATA,
    _text("token", key=True),
    _of_dispatch(),
    _text("state"),
    _text("reason", null=True),
    _integer("cancel_wanted"),
    _integer("intent_at"),
    _integer("submitted_at", null=True),
    _integer("ended_at", null=True),
    _json("json"),
    _json("ends"),
    sa.Index("job_array_dispatch", "dispatch"),
    sa.Index("job_array_state", "state"),
)
EVENT: Final = sa.Table(
    "event",
    METADATA,
    _integer("number", key=True),
    _integer("at"),
    _of_dispatch(null=True),
    _text("kind"),
    _json("json"),
    sa.Index("event_dispatch", "dispatch", "kind"),
    sqlite_autoincrement=True,
)
ORIGIN: Final = sa.Table(
    "origin",
    METADATA,
    _of_dispatch(key=True),
    _integer("index", key=True),
    _text("how"),
    _text("source"),
    _integer("source_index"),
    # The bag that holds its result; of a sublattice, whose result its tasks hold, there is none.
    _text("bag", null=True),
    sa.Index("origin_source", "source"),
    sqlite_with_rowid=False,
)
CACHE: Final = sa.Table(
    "cache",
    METADATA,
    _text("key", key=True),
    _text("function"),
    _of_dispatch(),
    _integer("index"),
    _text("bag", null=True),
    _integer("size"),
    _integer("at"),
    sa.Index("cache_dispatch", "dispatch"),
    sqlite_with_rowid=False,
)
RUN_TIME: Final = sa.Table(
    "run_time",
    METADATA,
    _text("function", key=True),
    _text("cluster", key=True),
    _text("size", key=True),
    _integer("tasks"),
    sa.Column("wall_s", sa.Float, nullable=False),
    _integer("at"),
    sqlite_with_rowid=False,
)
SETTING: Final = sa.Table("setting", METADATA, _text("key", key=True), _json("json"))
LEASE: Final = sa.Table(
    "lease",
    METADATA,
    sa.Column("slot", sa.Integer, sa.CheckConstraint("slot = 1"), primary_key=True),
    _text("id"),
    _text("host"),
    _integer("pid"),
    _text("boot_id"),
    _integer("taken_at"),
    _integer("renewed_at"),
)

#: Step k turns a file of schema k + 1 into one of schema k + 2, as plain SQL; a new file gets the tables above.
STEPS: Final[tuple[tuple[str, ...], ...]] = (
    (
        "ALTER TABLE dispatch ADD COLUMN paused TEXT",
        "ALTER TABLE dispatch ADD COLUMN paused_whole INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE task ADD COLUMN charged INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE task ADD COLUMN again BLOB",
        "CREATE TABLE run_time (function TEXT NOT NULL, cluster TEXT NOT NULL, size TEXT NOT NULL, tasks INTEGER NOT"
        " NULL, wall_s FLOAT NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (function, cluster, size)) WITHOUT ROWID",
    ),
    (
        "CREATE TABLE child (id TEXT NOT NULL, dispatch TEXT NOT NULL, task INTEGER NOT NULL, first INTEGER NOT NULL,"
        " n_tasks INTEGER NOT NULL, name TEXT NOT NULL, json BLOB NOT NULL, PRIMARY KEY (id),"
        " FOREIGN KEY(dispatch) REFERENCES dispatch (id))",
        "CREATE INDEX child_dispatch ON child (dispatch, first)",
    ),
    (
        'CREATE TABLE origin (dispatch TEXT NOT NULL, "index" INTEGER NOT NULL, how TEXT NOT NULL,'
        ' source TEXT NOT NULL, source_index INTEGER NOT NULL, bag TEXT, PRIMARY KEY (dispatch, "index"),'
        " FOREIGN KEY(dispatch) REFERENCES dispatch (id)) WITHOUT ROWID",
        "CREATE INDEX origin_source ON origin (source)",
        'CREATE TABLE cache ("key" TEXT NOT NULL, function TEXT NOT NULL, dispatch TEXT NOT NULL, "index" INTEGER NOT'
        ' NULL, bag TEXT, size INTEGER NOT NULL, at INTEGER NOT NULL, PRIMARY KEY ("key"),'
        " FOREIGN KEY(dispatch) REFERENCES dispatch (id)) WITHOUT ROWID",
        "CREATE INDEX cache_dispatch ON cache (dispatch)",
    ),
)


def migrate(connection: sa.Connection, path: str) -> None:
    """Give a file the tables of this version, within the transaction that is open.

    Raises:
        StoreError: a newer hpcflow wrote the file.
    """
    version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    if version > SCHEMA:
        raise StoreError(
            f"{path} was written by a newer hpcflow (schema {version}; this one knows {SCHEMA}). "
            "Upgrade hpcflow, or set HPCFLOW_HOME to another folder."
        )
    if version == 0:
        METADATA.create_all(connection, checkfirst=False)
    else:
        for statement in (line for step in STEPS[version - 1 :] for line in step):
            connection.exec_driver_sql(statement)
    if version != SCHEMA:
        connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA}")
