"""When what waits is to start and how much goes first, by the last look at each queue: no scheduler is asked for it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from hpcflow.core.model import NotFound
from hpcflow.core.words import counted

if TYPE_CHECKING:
    from hpcflow.sdk.connection import Server

__all__ = ["Starts", "starts"]

Json = Mapping[str, Any]  # Any: JSON of the server's, described in its OpenAPI schema


@dataclass(frozen=True, slots=True)
class Starts:
    """What the last looks know."""

    #: Words for a job, by its cluster and id; jobs of which nothing is known are not there.
    words: dict[tuple[str, str], str] = field(default_factory=dict)
    #: When each queue was looked at that told some of them.
    at: dict[str, datetime] = field(default_factory=dict)
    #: Clusters whose queue nobody has looked at.
    unseen: set[str] = field(default_factory=set)


def starts(server: Server, waiting: Iterable[tuple[str, str]]) -> Starts:
    """Return what is known of jobs that wait, each given by its cluster and id: a request for each cluster."""
    from urllib.parse import quote

    from hpcflow.sdk.answers import parse_time

    found = Starts()
    jobs: defaultdict[str, set[str]] = defaultdict(set)
    for cluster, job in waiting:
        jobs[cluster].add(job)
    for cluster, wanted in jobs.items():
        query = {"mine": "true", "nodes": "false", "ask": "false"}
        with suppress(NotFound):  # it is served no more, and its jobs may wait all the same
            look = server.ask("GET", f"/clusters/{quote(cluster, safe='')}/queue", query=query)
            at = parse_time(look["asked_at"])
            if at is None:
                found.unseen.add(cluster)
                continue
            rows: defaultdict[str, list[Json]] = defaultdict(list)
            for row in look["jobs"] or ():
                if row["mine"] and row["job_id"] in wanted and row["state"] == "pending" and row["stuck"] is None:
                    rows[row["job_id"]].append(row)
            told = {(cluster, job): said for job in rows if (said := _words(rows[job]))}
            found.words.update(told)
            if told:
                found.at[cluster] = at
    return found


def _words(rows: Iterable[Json]) -> str:
    """Return when the first array task of a job is to start, and how many go before it; empty: nobody tells."""
    from hpcflow.sdk.terminal import clock

    said: list[str] = []
    planned = [(datetime.fromisoformat(row["starts_at"]), row["starts_from"]) for row in rows if row["starts_at"]]
    if planned:
        # A plan counts full walltimes and is the latest that the scheduler knows of; a begin time is the earliest.
        at, source = min(planned)
        when = f"not before {clock(at)}" if source == "begin time" else f"by ~{clock(at)}"
        said.append(f"starts {when if at > datetime.now(UTC) else 'any moment'}")
    ranked = [(row["ahead"], row["partition"]) for row in rows if row["ahead"] is not None]
    if ranked:
        ahead, partition = min(ranked)
        place = f"{counted(ahead, 'job')} ahead of it" if ahead else "first in line"
        said.append(f"{place} in partition {partition.replace(',', ' or ')}")
    return ", ".join(said)
