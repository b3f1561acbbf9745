"""Gives tasks of a new dispatch the results that tasks of earlier ones have: they stay where they lie, and are checked.

A sublattice that is taken over brings its whole graph along, and what is not complete in there goes on.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Set
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal

from hpcflow.core.model import Bag, BagId, ClusterName, DispatchId, Graph, HpcflowError, Shape, UserError
from hpcflow.core.plugin import Command
from hpcflow.core.reuse import kept, without_dropped
from hpcflow.core.states import FINAL, Event, State
from hpcflow.core.words import counted
from hpcflow.server.caching import Given, cache_key
from hpcflow.server.clusters import Cluster
from hpcflow.server.live import LiveDispatch
from hpcflow.server.store import BagRow, CacheRow, Changes, ChildRow, EndRow, Kept, OriginRow, Store
from hpcflow.server.tasks import Child, Stored
from hpcflow.server.unfold import child_of

__all__ = ["Seeder", "kept_of", "second_name"]

How = Literal["reused", "cached"]
Manifest = Mapping[str, Any]  # Any: a checked upload.Manifest

#: Reading is slow where results are large; a dead connection is noticed long before.
_DEADLINE_S: Final = 600.0
#: Values of which one command reads the checksums.
_AT_ONCE: Final = 2000
#: Entries of the cache of which the loss is told, at once.
_MOST_TOLD: Final = 3
#: Reads "offset size path"; writes the SHA-256 of each such part of a file. "whole" proves that none is missing.
_SUMS: Final = r"""
PATH=$PATH:/usr/bin:/bin; export PATH
while read -r offset size path; do
    set -- $(tail -c +"$((offset + 1))" -- "$path" 2>/dev/null | head -c "$size" | sha256sum)
    echo "${1:--}"
done
echo whole
"""


@dataclass(frozen=True, slots=True)
class _Old:
    """A dispatch that results are taken from."""

    live: LiveDispatch
    #: Why they are taken.
    how: How
    given: Mapping[int, Given]
    #: Tasks of which the results are there, and those of all upstreams of theirs; sublattices that are so in whole.
    kept: set[int]


class Seeder:
    """One per server."""

    def __init__(
        self,
        store: Store,
        clusters: Mapping[ClusterName, Cluster],
        *,
        shapes: Callable[[Graph, Manifest], list[Shape]],
        old: Callable[[DispatchId], Awaitable[LiveDispatch]],
        busy: Set[DispatchId],
        new_id: Callable[[], str],
        now: Callable[[], datetime],
    ) -> None:
        """Take what knows of results.

        Args:
            store: knows them all.
            clusters: hold them.
            shapes: returns what tasks of a graph ask for.
            old: returns a dispatch as the store knows it.
            busy: dispatches of which results are being removed just now.
            new_id: makes ids.
            now: the time.
        """
        self._store = store
        self.old = old
        self.busy = busy
        self._kept = Kept(store)
        self._clusters = clusters
        self._shapes = shapes
        self._new_id = new_id
        self._now = now

    async def reuse(self, live: LiveDispatch, old: LiveDispatch, pairs: Mapping[int, int], taken: Changes) -> None:
        """Let tasks of a dispatch of which nothing has run complete as those of an old one have.

        Args:
            live: the new one.
            old: the old one, as the store knows it.
            pairs: tasks of the new lattice, and those of the old one that are the same.
            taken: takes what is to be stored with the new dispatch.

        Raises:
            HpcflowError: a cluster that holds results does not answer.
        """
        there = await self._there(old, pairs.values(), "reused")
        seeds = {new: at for new, at in pairs.items() if at in there.kept}
        seeds = without_dropped(seeds, lambda index: _waits_for(live, index))
        for new, at in sorted(pairs.items()):
            goes_on = old.tasks[at].child is not None and all(
                upstream in seeds for each in _waits_for(live, new) for upstream in each
            )
            if new in seeds or goes_on:
                await self._give(live, new, there, at, taken)
        live.clusters |= {task.kept_on for task in live.tasks if task.kept_on is not None}
        live.dirty.clear()
        if taken.origins:
            reused = sum(origin.bag is not None for origin in taken.origins)
            text = f"{reused} of {counted(len(live.tasks), 'task')} need not run: dispatch {old.id} has their results."
            taken.messages.append((live.id, text))

    async def look(self, keys: Mapping[int, str]) -> tuple[dict[int, Given], dict[int, CacheRow], list[str]]:
        """Return what the cache has for tasks with these keys: results that are whole, sublattices, and what was wrong.

        An entry of which the result is gone or damaged is dropped.
        """
        entries = await asyncio.to_thread(self._kept.cached, keys.values())
        hits = {index: entries[key] for index, key in keys.items() if key in entries}
        hits = {index: entry for index, entry in hits.items() if entry.dispatch not in self.busy}
        inner = {index: entry for index, entry in hits.items() if entry.bag is None}
        by_source: defaultdict[DispatchId, list[int]] = defaultdict(list)
        for index, entry in hits.items():
            if entry.bag is not None:
                by_source[entry.dispatch].append(index)
        given: dict[int, Given] = {}
        for source, indices in by_source.items():
            ends = await asyncio.to_thread(self._store.ends, source, [hits[index].index for index in indices])
            found = await self._given(source, ends)
            given |= {index: found[hits[index].index] for index in indices if hits[index].index in found}
        try:
            damaged = await self._damaged(given)
        except HpcflowError as error:
            return {}, {}, [f"What is cached can't be looked at, so it is computed anew: {error}"]
        given = {index: each for index, each in given.items() if index not in damaged}
        lost = [index for index in hits if index not in inner and index not in given]
        sentences = [_lost(hits[index]) for index in lost[:_MOST_TOLD]]
        if len(lost) > _MOST_TOLD:
            sentences.append(f"The same holds for {len(lost) - _MOST_TOLD} more.")
        await asyncio.to_thread(self._kept.forget_keys, [hits[index].key for index in lost])
        return given, inner, sentences

    async def cached(self, live: LiveDispatch, taken: Changes) -> None:
        """Let tasks of a dispatch of which nothing has run complete by what the cache has; add it to ``taken``."""
        open_tasks = {index: key for index, key in live.keys.items() if live.tasks[index].state not in FINAL}
        keys = {index: cache_key(key, live.tasks[index].shape) for index, key in open_tasks.items()}
        given, inner, sentences = await self.look(keys)
        for index, entry in inner.items():
            try:
                there = await self._there(await self.old(entry.dispatch), [entry.index], "cached")
            except HpcflowError:
                there = None
            if there is not None and entry.index in there.kept and there.live.tasks[entry.index].child is not None:
                await self._give(live, index, there, entry.index, taken)
            else:
                sentences.append(_lost(entry))
                await asyncio.to_thread(self._kept.forget_keys, [entry.key])
        self.give(live, given, taken)
        live.clusters |= {task.kept_on for task in live.tasks if task.kept_on is not None}
        live.dirty.clear()
        cached = sum(origin.how == "cached" for origin in taken.origins)
        if cached:
            sentences.insert(
                0, f"{cached} of {counted(len(live.tasks), 'task')} need not run: their results are cached."
            )
        taken.messages += [(live.id, text) for text in sentences]

    def give(self, live: LiveDispatch, given: Mapping[int, Given], taken: Changes) -> None:
        """Let tasks complete by results that were found in the cache, unless they have moved on meanwhile."""
        for index, each in sorted(given.items()):
            if live.tasks[index].state in {State.WAITING, State.READY}:
                self._complete(live, index, each, "cached", taken)

    async def bags_behind(self, ends: Mapping[int, EndRow], own: Iterable[BagRow]) -> dict[BagId, Bag]:
        """Return the bags in which tasks of a dispatch ended, those of other dispatches included.

        Raises:
            UserError: one lies on a cluster that is gone.
        """
        bags = {row.bag.id: row.bag for row in own}
        for foreign in {end.bag for end in ends.values()} - bags.keys():
            row = await asyncio.to_thread(self._store.bag, foreign)
            if row is None:  # its dispatch was deleted
                continue
            bags[foreign] = row.bag
            if (name := row.bag.shape.cluster) not in self._clusters:
                raise UserError(f"Results that it uses lie on {name!r}, which clusters.toml does not name any more.")
        return bags

    # ---- private

    async def _there(self, old: LiveDispatch, wanted: Iterable[int], how: How) -> _Old:
        """Look at the results of these tasks and of all in the sublattices among them."""
        ends = await asyncio.to_thread(self._store.ends, old.id)
        before = await asyncio.to_thread(self._kept.origins, old.id)
        chosen = [
            index
            for index in old.family(wanted)
            if index in ends and old.tasks[index].state is State.COMPLETED and old.tasks[index].child is None
        ]
        given = await self._given(old.id, {index: ends[index] for index in chosen})
        for index, origin in before.items():
            if index in given:
                given[index] = replace(given[index], source=origin.source, source_index=origin.source_index)
        damaged = await self._damaged(given)
        given = {index: each for index, each in given.items() if index not in damaged}
        whole = {index for index in _completed(old) if index in given or old.tasks[index].child is not None}
        return _Old(old, how, given, kept(whole, lambda index: _needs(old, index)))

    async def _given(self, source: DispatchId, ends: Mapping[int, EndRow]) -> dict[int, Given]:
        """Return the results of which these ends of tasks tell."""
        bags: dict[BagId, Bag | None] = {}
        given: dict[int, Given] = {}
        for index, end in ends.items():
            if end.bag not in bags:
                row = await asyncio.to_thread(self._store.bag, end.bag)
                bags[end.bag] = row.bag if row is not None else None
            bag = bags[end.bag]
            stored = Stored.of(end.record, bag.path) if bag is not None and end.record["st"] == "ok" else None
            if bag is not None and stored is not None:
                given[index] = Given(end, bag, stored, source, index)
        return given

    async def _damaged(self, given: Mapping[int, Given]) -> set[int]:
        """Return the tasks of which the value is not what its worker wrote, or is gone.

        Raises:
            HpcflowError: a cluster does not answer.
        """
        damaged: set[int] = set()
        on: defaultdict[ClusterName, list[int]] = defaultdict(list)
        for index, each in given.items():
            if each.bag.shape.cluster not in self._clusters or "\n" in each.bag.path:
                damaged.add(index)
            elif each.stored.file is not None:
                on[each.bag.shape.cluster].append(index)
        for name, indices in on.items():
            for start in range(0, len(indices), _AT_ONCE):
                piece = indices[start : start + _AT_ONCE]
                files = [file for index in piece if (file := given[index].stored.file) is not None]
                sums = await _sums(self._clusters[name], [file[:3] for file in files])
                pairs = zip(piece, files, sums, strict=True)
                damaged |= {index for index, file, digest in pairs if digest != file[3]}
        return damaged

    async def _give(self, live: LiveDispatch, new: int, there: _Old, at: int, taken: Changes) -> None:
        """Let a task complete as an old one has; of a sublattice what is complete in it, and the others go on."""
        child = there.live.tasks[at].child
        if child is not None:
            await self._give_child(live, new, there, child, taken)
            if live.tasks[new].state is State.COMPLETED:
                live.tasks[new].borrowed = True
                origin = OriginRow(
                    dispatch=live.id, index=new, how=there.how, source=there.live.id, source_index=at, bag=None
                )
                taken.origins.append(origin)
        else:
            self._complete(live, new, there.given[at], there.how, taken)

    async def _give_child(self, live: LiveDispatch, new: int, there: _Old, child: Child, taken: Changes) -> None:
        built = await asyncio.to_thread(self._store.child_manifest, child.id)
        row = ChildRow(
            id=DispatchId(self._new_id()),
            dispatch=live.id,
            task=new,
            first=len(live.tasks),
            n_tasks=child.count,
            name=child.name,
        )
        # Each dispatch has files of its own: when one is deleted, they go.
        payload = os.path.join(live.folder, f"{live.id}-{new}-{live.tasks[new].attempt}.blobs")
        before = os.path.join(live.folder, os.path.basename(built["payload"]))
        await asyncio.to_thread(second_name, before, payload, there.live.id)
        built |= {"payload": os.path.basename(payload)}
        known, inner = child_of(row, built, live)
        live.join(known, inner, self._shapes(inner, built), built, payload)
        live.unfold(known, self._now())
        taken.children.append((row, built))
        shift = known.first - child.first
        for at in child.tasks:
            goes_on = there.live.tasks[at].child is not None and all(
                upstream in there.kept for each in _waits_for(there.live, at) for upstream in each
            )
            if at in there.kept or goes_on:
                await self._give(live, at + shift, there, at, taken)

    def _complete(self, live: LiveDispatch, new: int, given: Given, how: How, taken: Changes) -> None:
        task = live.tasks[new]
        task.result, task.kept_on, task.borrowed = given.stored, given.bag.shape.cluster, True
        taken.ends.append(replace(given.end, dispatch=live.id, index=new, attempt=task.attempt))
        taken.origins.append(
            OriginRow(
                dispatch=live.id,
                index=new,
                how=how,
                source=given.source,
                source_index=given.source_index,
                bag=given.bag.id,
            )
        )
        live.move(new, Event.REUSED, self._now())


def second_name(payload: str, name: str, dispatch: DispatchId) -> None:
    """Give the file of a dispatch's blobs, which nobody ever changes, a further name.

    Raises:
        HpcflowError: it is gone, or there is no room.
    """
    try:
        try:
            os.link(payload, name)
        except FileNotFoundError:
            raise
        except OSError:  # some network file systems have no links
            shutil.copyfile(payload, name)
            os.chmod(name, 0o600)
    except FileNotFoundError:
        raise HpcflowError(
            f"The functions and arguments of {dispatch} lay in {payload}, which is gone: dispatch the lattice anew."
        ) from None
    except OSError as error:
        raise HpcflowError(f"{dispatch} can't be copied: {error.strerror}. Free some space, then try again.") from error


def _lost(entry: CacheRow) -> str:
    return (
        f"The cached result of {entry.function}, which task {entry.index} of dispatch {entry.dispatch} computed, is "
        "gone or damaged: it is computed anew."
    )


def kept_of(old: LiveDispatch) -> set[int]:
    """Return the tasks of which the results can be used again, as far as that is known without a look at them."""
    return kept(_completed(old), lambda index: _needs(old, index))


def _completed(live: LiveDispatch) -> list[int]:
    return [index for index, task in enumerate(live.tasks) if task.state is State.COMPLETED]


def _waits_for(live: LiveDispatch, index: int) -> tuple[tuple[int, ...], ...]:
    return live.graph.tasks[index].deps, live.graph.tasks[index].after


def _needs(live: LiveDispatch, index: int) -> tuple[tuple[int, ...], ...]:
    """Return what a task needs, and of a sublattice what is in it."""
    child = live.tasks[index].child
    return (*_waits_for(live, index), tuple(child.tasks)) if child is not None else _waits_for(live, index)


async def _sums(cluster: Cluster, parts: Iterable[tuple[str, int, int]]) -> list[str]:
    """Return the SHA-256 in hex of parts of files (path, offset, size); "-" where there is none."""
    lines = [f"{offset} {size} {path}\n" for path, offset, size in parts]
    stdin = "".join(lines).encode(errors="surrogateescape")
    reply = await cluster.transport.run(Command(("/bin/sh", "-c", _SUMS, "sh"), stdin=stdin), _DEADLINE_S)
    said = reply.stdout.decode(errors="replace").split()
    if said[-1:] != ["whole"] or len(said) != len(lines) + 1:
        because = reply.stderr.decode(errors="replace").strip().rpartition("\n")[2].rstrip(".")
        raise HpcflowError(
            f"{cluster.name} does not say whether the results there are whole{f': {because}' if because else ''}."
        )
    return said[:-1]
