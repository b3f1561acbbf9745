"""Removes bag directories of dispatches that have ended: by id or by age, one command for each cluster."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from hpcflow.core.model import Bag, BagId, ClusterName, DispatchId, HpcflowError, NotFound, UserError, is_ulid
from hpcflow.core.plugin import Command
from hpcflow.core.states import Status
from hpcflow.core.words import counted, memory
from hpcflow.server.clusters import Cluster
from hpcflow.server.engine import Engine
from hpcflow.server.store import DispatchRow, Kept, Store

__all__ = ["Cleaned", "Cleaner", "cleaned_of", "use_again"]

logger = logging.getLogger(__name__)

Json = dict[str, Any]  # Any: JSON, described in file_schema.py

#: Deleting is slow where there are many files; a dead connection is noticed long before.
_DEADLINE_S: Final = 3600.0
_HOURLY_S: Final = 3600.0
#: Dispatches that are named of those of which the same is to be said.
_MOST_TOLD: Final = 3

#: Reads paths of bags; $1 is "keep" where what tasks left in directories of their own stays, $2 "dry" where all does.
#: Writes for each bag what became of it, the KiB that are free now, and its path; "whole" proves that none is missing.
_CLEAN: Final = r"""
PATH=$PATH:/usr/bin:/bin; export PATH
size() { du -sk "$1" 2>/dev/null | awk 'NR == 1 { n = $1 } END { print n + 0 }'; }
while IFS= read -r bag; do
    if ! test -d "${bag%/*}"; then echo "away 0 $bag"; continue; fi
    if test -L "$bag" || ! test -d "$bag"; then echo "gone 0 $bag"; continue; fi
    had=$(size "$bag") left=0 files=
    if test "$1" = keep; then
        test "$2" = dry || rmdir "$bag"/work/* 2>/dev/null
        files=$(find "$bag/work" -type f 2>/dev/null | head -n 1)
    fi
    if test "$2" = dry; then
        test -z "$files" || left=$(size "$bag/work")
    elif test -n "$files"; then
        for each in "$bag"/* "$bag"/.[!.]*; do
            test "$each" = "$bag/work" || rm -rf "$each"
        done
        left=$(size "$bag")
    else
        rm -rf "$bag"
        test ! -e "$bag" || left=$(size "$bag")
    fi
    if test "$2" != dry && test -e "$bag/bag.json"; then
        echo "stuck $((had - left)) $bag"
    elif test -n "$files"; then
        echo "files $((had - left)) $bag"
    else
        echo "freed $((had - left)) $bag"
    fi
done
echo whole
"""


@dataclass(slots=True)
class Cleaned:
    """What was removed on one cluster, or would be."""

    bags: int = 0
    freed_kib: int = 0
    #: Bags that had been removed before, by whomever.
    gone: int = 0
    #: Bags of which the files that tasks left stay.
    kept_files: int = 0
    problem: str | None = None
    #: Bags that are not there any more.
    done: list[Bag] = field(default_factory=list[Bag])


class Cleaner:
    """Cleans up on the clusters of one server."""

    def __init__(self, engine: Engine, changing: asyncio.Lock) -> None:
        """Take the engine whose dispatches are cleaned.

        Args:
            engine: knows what is live.
            changing: held while a dispatch that has ended is made live again.
        """
        self._engine = engine
        self._store: Store = engine.writer.store
        self._kept = Kept(self._store)
        self._changing = changing
        #: Dispatches of which something is being removed just now: nobody may make them live.
        self.busy: set[DispatchId] = set()

    async def keep_tidy(self) -> None:
        """Remove, hour by hour, what the setting ``keep_days`` says is too old; for ever, or never."""
        days = self._engine.settings.keep_days
        while days:
            try:
                answer = await self.clean(
                    None, older_than_s=days * 86400.0, cluster=None, files=False, dry_run=False, again=False
                )
                if any(each["bags"] for each in answer["clusters"]):
                    logger.info("keep_days: %s", answer["message"])
            except HpcflowError as error:
                logger.warning("keep_days: %s", error)
            except Exception:  # what tidies up must not end the server
                logger.exception("a fault in keep_days; going on")
            await asyncio.sleep(min(_HOURLY_S, days * 86400.0))

    async def clean(
        self,
        dispatches: Sequence[str] | None,
        *,
        older_than_s: float | None,
        cluster: str | None,
        files: bool,
        dry_run: bool,
        again: bool = True,
    ) -> Json:
        """Remove bags of dispatches that have ended; the dispatches' records stay, and results in them.

        Args:
            dispatches: these; ``None``: all.
            older_than_s: only those that ended so long ago.
            cluster: only what lies there.
            files: also what tasks left in directories of their own.
            dry_run: only say what would be removed.
            again: also look for bags that were removed before, of which files may be left.

        Raises:
            UserError: nothing says which.
            NotFound: no such dispatch or cluster.
        """
        if dispatches is None and older_than_s is None:
            raise UserError("Say what to remove: dispatches by their ids, or --older-than with an age such as 30d.")
        if cluster is not None and cluster not in self._engine.clusters:
            known = ", ".join(sorted(self._engine.clusters))
            raise NotFound(f"There is no cluster {cluster!r}; the clusters are {known}.")
        now = self._engine.now()
        async with self._changing:
            rows, skipped = await asyncio.to_thread(self._chosen, dispatches, older_than_s, now)
            mine = {row.id for row in rows}
            self.busy.update(mine)
        try:
            bags, before, used = await asyncio.to_thread(self._bags, rows, cluster, again)
            skipped += used
            done: dict[str, Cleaned] = {}
            for name, there in sorted(bags.items()):
                known_cluster = self._engine.clusters.get(name)
                if known_cluster is None:
                    stay = counted(len(there), "bag stays", "bags stay")
                    done[name] = Cleaned(problem=f"{name} is gone from clusters.toml: {stay} there.")
                    continue
                done[name] = await remove(known_cluster, there, files=files, dry_run=dry_run)
            giving = await asyncio.to_thread(self._giving_up, mine) if cluster is None else {}
            if not dry_run:
                removed = [bag for each in done.values() for bag in each.done]
                await asyncio.to_thread(self._remember, removed, before, now, giving)
        finally:
            self.busy.difference_update(mine)
        return {
            "dispatches": len(rows),
            "clusters": [
                {
                    "cluster": name,
                    "bags": each.bags,
                    "freed_bytes": each.freed_kib * 1024,
                    "gone": each.gone,
                    "kept_files": each.kept_files,
                    "problem": each.problem,
                }
                for name, each in done.items()
            ],
            "skipped": skipped,
            "dry_run": dry_run,
            "message": _message(done, skipped, [each for each in giving if giving[each] - mine], dry_run=dry_run),
        }

    async def refuse_busy(self, dispatch: DispatchId) -> None:
        """Ask before a dispatch's results are used.

        Raises:
            HpcflowError: some are being removed just now, its own or those of others that it uses.
        """
        origins = await asyncio.to_thread(self._kept.origins, dispatch)
        used = {origin.source for origin in origins.values() if origin.bag is not None}
        for each in sorted((used | {dispatch}) & self.busy):
            raise HpcflowError(f"Dispatch {each} is being cleaned just now: try again in a moment.")

    def _chosen(
        self, dispatches: Sequence[str] | None, older_than_s: float | None, now: datetime
    ) -> tuple[list[DispatchRow], list[str]]:
        """Return the dispatches to clean, and a sentence for each that was asked for and is left alone."""
        rows: list[DispatchRow] = []
        for name in dispatches or ():
            if not is_ulid(name) or (row := self._store.dispatch(DispatchId(name))) is None:
                raise NotFound(f"There is no dispatch {name} here.")
            rows.append(row)
        before = None if older_than_s is None else now - timedelta(seconds=older_than_s)
        if dispatches is None and before is not None:
            rows = self._store.ended_before(before)
        live = self._live()
        skipped: list[str] = []
        chosen: list[DispatchRow] = []
        for row in {row.id: row for row in rows}.values():
            if row.id in self.busy:
                skipped.append(f"{row.id} is being cleaned by another request.")
            elif row.id in live or row.status is Status.RUNNING:
                why = (
                    "is live"
                    if row.status is Status.RUNNING
                    else "has ended, but not all of its jobs have been seen to"
                )
                if dispatches is not None:
                    skipped.append(f"{row.id} {why}: nothing of it is removed.")
            elif before is not None and (row.ended_at is None or row.ended_at > before):
                skipped.append(f"{row.id} ended later than that.")
            else:
                chosen.append(row)
        return chosen, skipped

    def _live(self) -> set[DispatchId]:
        live = {row.id for row in self._store.live_dispatches()} | set(self._engine.writer.dispatches)
        return live | {bag.dispatch.id for bag in self._engine.bags.values()}

    def _bags(
        self, rows: Sequence[DispatchRow], cluster: str | None, again: bool
    ) -> tuple[dict[ClusterName, list[Bag]], dict[DispatchId, list[str]], list[str]]:
        """Return the bags by cluster, of each dispatch those that were removed before, and what is spared and why."""
        bags: defaultdict[ClusterName, list[Bag]] = defaultdict(list)
        before: dict[DispatchId, list[str]] = {}
        for row in rows:
            before[row.id] = list((cleaned_of(self._store, row.id) or {}).get("bags", ()))
            for each in self._store.bags(row.id):
                name = each.bag.shape.cluster
                wanted = cluster in (None, name) and (again or each.bag.id not in before[row.id])
                # What is handed to `rm` is a bag's own directory, whatever the store says.
                named = os.path.basename(each.bag.path) == each.bag.id and is_ulid(each.bag.id)
                if wanted and named and each.closed_at is not None and "\n" not in each.bag.path:
                    bags[name].append(each.bag)
        used = self._used([bag.id for there in bags.values() for bag in there], set(before))
        spared: dict[tuple[DispatchId, DispatchId], int] = {}
        for name, there in list(bags.items()):
            bags[name] = [bag for bag in there if bag.id not in used]
            for bag in there:
                if bag.id in used:
                    pair = bag.dispatch, used[bag.id]
                    spared[pair] = spared.get(pair, 0) + 1
        sentences = [
            f"{mine} keeps {counted(number, 'bag')}: dispatch {other} uses results in there."
            for (mine, other), number in spared.items()
        ]
        return {name: there for name, there in bags.items() if there}, before, sentences

    def _used(self, bags: Sequence[BagId], chosen: Set[DispatchId]) -> dict[BagId, DispatchId]:
        """Return which bags another dispatch has results in that lives, or did not give them up, now or before."""
        found: dict[BagId, DispatchId] = {}
        live = self._live()
        for bag, users in self._kept.uses(bags).items():
            using = sorted(user for user in users - chosen if user in live or not _gave_up(self._store, user))
            if using:
                found[bag] = using[-1]
        return found

    def _giving_up(self, dispatches: Set[DispatchId]) -> dict[DispatchId, set[DispatchId]]:
        """Return those of these dispatches that use results of others until now, and whose these are."""
        found: dict[DispatchId, set[DispatchId]] = {}
        for each in sorted(dispatches):
            sources = {origin.source for origin in self._kept.origins(each).values() if origin.bag is not None}
            if sources and not _gave_up(self._store, each):
                found[each] = sources
        return found

    def _remember(
        self,
        removed: Sequence[Bag],
        before: Mapping[DispatchId, list[str]],
        now: datetime,
        giving_up: Collection[DispatchId],
    ) -> None:
        self._kept.forget_bags([bag.id for bag in removed])
        by_dispatch: defaultdict[DispatchId, set[str]] = defaultdict(set)
        for dispatch in giving_up:
            by_dispatch[dispatch] = set()
        for bag in removed:
            by_dispatch[bag.dispatch].add(bag.id)
        for dispatch, ids in by_dispatch.items():
            if dispatch in giving_up or not ids <= set(before[dispatch]):
                all_of_them = sorted(ids | set(before[dispatch]))
                self._store.remember(_key(dispatch), {"at": now.isoformat(), "bags": all_of_them})


def _key(dispatch: DispatchId) -> str:
    return f"cleaned {dispatch}"


def cleaned_of(store: Store, dispatch: DispatchId) -> Json | None:
    """Return when bags of a dispatch were removed (``at``) and which (``bags``); ``None``: none was."""
    found: Json | None = store.recall(_key(dispatch))
    return found


def use_again(store: Store, dispatch: DispatchId) -> None:
    """Note that a dispatch that was cleaned is made live, and uses the results of others again that it had given up."""
    if (found := cleaned_of(store, dispatch)) is not None:
        store.remember(_key(dispatch), {**found, "uses": True})


def _gave_up(store: Store, dispatch: DispatchId) -> bool:
    """Whether a dispatch was cleaned, and so uses no results of others any more."""
    found = cleaned_of(store, dispatch)
    return found is not None and not found.get("uses")


async def remove(cluster: Cluster, bags: Sequence[Bag], *, files: bool, dry_run: bool) -> Cleaned:
    """Remove bags from one cluster with one command."""
    by_path = {bag.path: bag for bag in bags}
    stdin = "".join(f"{path}\n" for path in by_path).encode(errors="surrogateescape")
    argv = ("/bin/sh", "-c", _CLEAN, "sh", "all" if files else "keep", "dry" if dry_run else "now")
    reply = await cluster.transport.run(Command(argv, stdin=stdin), _DEADLINE_S)
    cleaned, stuck, away = Cleaned(), 0, 0
    whole = False
    for line in reply.stdout.decode(errors="surrogateescape").splitlines():
        word, _, rest = line.partition(" ")
        kib, _, path = rest.partition(" ")
        whole = whole or line == "whole"
        if path not in by_path or not kib.lstrip("-").isdigit():
            continue
        cleaned.freed_kib += max(0, int(kib))
        match word:
            case "freed" | "files":
                cleaned.bags += 1
                cleaned.kept_files += word == "files"
                cleaned.done.append(by_path[path])
            case "gone":
                cleaned.gone += 1
                cleaned.done.append(by_path[path])
            case "stuck":
                stuck += 1
            case _:
                away += 1
    said = reply.stderr.decode(errors="replace").strip().splitlines()
    because = f": {said[-1].rstrip('.')}" if said else ""
    if not whole:
        cleaned.problem = f"{cluster.name} did not say all that it did{because}. Clean once more."
    elif stuck:
        cleaned.problem = f"{counted(stuck, 'bag')} on {cluster.name} can't be removed{because}."
    elif away:
        cleaned.problem = (
            f"The directory of {counted(away, 'bag')} on {cluster.name} is not there: is its disk mounted?"
        )
    return cleaned


def _message(
    done: Mapping[str, Cleaned], skipped: Sequence[str], giving_up: Sequence[DispatchId], *, dry_run: bool
) -> str:
    bags, freed = sum(each.bags for each in done.values()), sum(each.freed_kib for each in done.values())
    kept = sum(each.kept_files for each in done.values())
    verb = "would be removed" if dry_run else "removed"
    text = f"{counted(bags, 'bag')} {verb}, {memory(freed / 1024)} {'would be ' if dry_run else ''}freed."
    if kept:
        text += f" The files that tasks left in {counted(kept, 'bag')} stay; --files removes them too."
    if not bags and not any(each.problem for each in done.values()) and not skipped and not giving_up:
        text = "There is nothing to remove."
    given = [
        f"{each} {'would give' if dry_run else 'gives'} up the results of others that it uses: cleaning those removes "
        "them from now on."
        for each in giving_up[:_MOST_TOLD]
    ]
    if len(giving_up) > _MOST_TOLD:
        given.append(f"So {'would' if dry_run else 'do'} {len(giving_up) - _MOST_TOLD} more.")
    return " ".join([text, *given, *skipped, *(each.problem for each in done.values() if each.problem)])
