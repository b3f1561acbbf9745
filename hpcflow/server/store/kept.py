"""What the store knows of results that serve more than one dispatch: whose they are, and what the cache holds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from hpcflow.core.model import BagId, DispatchId
from hpcflow.server.store import columns
from hpcflow.server.store.rows import CacheRow, OriginRow
from hpcflow.server.store.statements import chunked, parts
from hpcflow.server.store.store import Store
from hpcflow.server.store.tables import CACHE, ORIGIN

__all__ = ["Kept"]

if TYPE_CHECKING:
    _Select = sa.Select[*tuple[Any, ...]]


class Kept:
    """One view of a store; every method may block."""

    def __init__(self, store: Store) -> None:
        self._store = store

    # ---- origins

    def origins(self, dispatch: DispatchId) -> dict[int, OriginRow]:
        """Return by index the tasks of a dispatch that did not run because another one's result is theirs."""
        statement = sa.select(ORIGIN).where(ORIGIN.c.dispatch == dispatch)
        with self._store.reading() as connection:
            return {row[1]: columns.origin_row(row) for row in connection.execute(statement)}

    def origin(self, dispatch: DispatchId, index: int) -> OriginRow | None:
        statement = sa.select(ORIGIN).where(ORIGIN.c.dispatch == dispatch, ORIGIN.c.index == index)
        with self._store.reading() as connection:
            row = connection.execute(statement).one_or_none()
        return None if row is None else columns.origin_row(row)

    def uses(self, bags: Iterable[BagId]) -> dict[BagId, set[DispatchId]]:
        """Return for each of these bags the other dispatches of which tasks have results in it."""
        found: defaultdict[BagId, set[DispatchId]] = defaultdict(set)
        statement: _Select = sa.select(ORIGIN.c.bag, ORIGIN.c.dispatch).distinct()
        with self._store.reading() as connection:
            for bag, dispatch in chunked(connection, statement, ORIGIN.c.bag, list(bags)):
                found[BagId(bag)].add(DispatchId(dispatch))
        return dict(found)

    # ---- the cache

    def cached(self, keys: Iterable[str]) -> dict[str, CacheRow]:
        """Return what is cached under these keys."""
        with self._store.reading() as connection:
            rows = chunked(connection, sa.select(CACHE), CACHE.c.key, list(keys))
            return {row[0]: columns.cache_row(row) for row in rows}

    def entries(self, *, function: str | None, limit: int) -> list[CacheRow]:
        """Return entries of the cache, the newest first."""
        statement = sa.select(CACHE).order_by(CACHE.c.at.desc(), CACHE.c.key).limit(limit)
        if function is not None:
            statement = statement.where(CACHE.c.function == function)
        with self._store.reading() as connection:
            return [columns.cache_row(row) for row in connection.execute(statement)]

    def count(self) -> tuple[int, int]:
        """Return how many entries there are, and how many bytes their results have."""
        with self._store.reading() as connection:
            row = connection.execute(sa.select(sa.func.count(), sa.func.sum(CACHE.c.size))).one()
        return int(row[0]), int(row[1] or 0)

    def forget(self, *, function: str | None = None, before: datetime | None = None) -> int:
        """Drop entries of the cache, all of them unless something says which; return how many."""
        statement = sa.delete(CACHE)
        if function is not None:
            statement = statement.where(CACHE.c.function == function)
        if before is not None:
            statement = statement.where(CACHE.c.at < columns.micros(before))
        with self._store.writing() as connection:
            return connection.execute(statement).rowcount

    def forget_keys(self, keys: Collection[str]) -> None:
        """Drop these entries: what they name is damaged."""
        self._forget(CACHE.c.key, list(keys))

    def forget_bags(self, bags: Collection[BagId]) -> None:
        """Drop the entries of which the results were removed with their bags."""
        self._forget(CACHE.c.bag, list(bags))

    def _forget(self, column: sa.Column[Any], values: Sequence[str]) -> None:
        if values:
            with self._store.writing() as connection:
                for part in parts(values):
                    connection.execute(sa.delete(CACHE).where(column.in_(part)))
