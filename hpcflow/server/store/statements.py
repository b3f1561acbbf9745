"""Statements that write whole rows, and those that ask for more keys than one of them takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from hpcflow.server.store.columns import Values

__all__ = ["chunked", "insert", "insert_new", "parts", "run", "upsert"]

if TYPE_CHECKING:
    _Row = sa.Row[*tuple[Any, ...]]
    _Select = sa.Select[*tuple[Any, ...]]

_Key = TypeVar("_Key", int, str)

#: SQLite before 3.32 takes 999 parameters in one statement.
_CHUNK: Final = 900


@cache
def insert(table: sa.Table) -> str:
    return str(sa.insert(table).compile(dialect=sqlite.dialect()))


@cache
def insert_new(table: sa.Table) -> str:
    return str(sqlite.insert(table).on_conflict_do_nothing().compile(dialect=sqlite.dialect()))


@cache
def upsert(table: sa.Table) -> str:
    statement = sqlite.insert(table)
    others = {column.name: statement.excluded[column.name] for column in table.c if not column.primary_key}
    statement = statement.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=others)
    return str(statement.compile(dialect=sqlite.dialect()))


def run(connection: sa.Connection, statement: str, values: list[Values]) -> int:
    """Run a statement for each tuple (in the order of the table's columns); return the number of rows it changed.

    The driver gets the tuples as they are: through SQLAlchemy's own parameters ten thousand rows cost twice the time.
    """
    return connection.exec_driver_sql(statement, values).rowcount if values else 0


def parts(keys: Sequence[_Key]) -> Iterator[Sequence[_Key]]:
    """Yield keys in so many that one statement takes them."""
    return (keys[start : start + _CHUNK] for start in range(0, len(keys), _CHUNK))


def chunked(
    connection: sa.Connection, statement: _Select, column: sa.Column[Any], keys: Sequence[_Key]
) -> Iterator[_Row]:
    """Yield the rows of a statement whose column has one of the keys, however many these are."""
    for part in parts(keys):
        yield from connection.execute(statement.where(column.in_(part)))
