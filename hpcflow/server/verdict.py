"""What a race of two compute nodes says of a work directory: how the workers of a bag may share its ranges there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

from hpcflow.core.bag import ClaimMethod

__all__ = ["WORDS", "Verdict", "judge", "read_verdict", "write_verdict"]

Record = Mapping[str, Any]  # Any: JSON, a line of hpcflow/node/probe.py

#: What each way to claim is called where people read it.
WORDS: Final[Mapping[ClaimMethod, str]] = {
    "link": "by link",
    "mkdir": "by mkdir",
    "index": "unsafe, so one unit for each array task",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was found out, where and when."""

    claims: ClaimMethod
    #: The work directory that it holds for.
    root: str
    at: str
    nodes: tuple[str, ...]
    #: How long a line that one node appends stays unseen by another, and a new name that was looked for before.
    lag_s: float | None
    name_s: float | None


def judge(records: Sequence[Record], *, claims: int, root: str, at: datetime) -> tuple[Verdict | None, str]:
    """Return the verdict of a race, and what was seen in a sentence.

    Args:
        records: what two array tasks told, in any order.
        claims: names that both raced for, each way.
        root: the work directory.
        at: when.

    Returns:
        ``None`` where they told too little, or ran on one node.
    """
    nodes = sorted({str(record["node"]) for record in records if record["ev"] == "up"})
    if any(record["ev"] == "alone" for record in records):
        return None, "the two array tasks did not meet in time: they ran one after the other, or don't see each other"
    found = {record["ev"]: record for record in records if record["ev"] in {"lag", "name", "order"}}
    results = {way: _result(records, way, claims) for way in ("link", "mkdir")}
    if None in results.values():
        return None, "an array task ended before the race did"
    if len(nodes) < 2:
        return None, f"both array tasks ran on {nodes[0]}, which says nothing of two nodes"
    best: ClaimMethod = "index"
    if results["link"] == "":
        best = "link"
    elif results["mkdir"] == "":
        best = "mkdir"
    lag, name, order = (found.get(event, {}) for event in ("lag", "name", "order"))
    told = [f"{way}: {fault}" for way, fault in results.items() if fault]
    told.append(
        f"a line is seen after {1000 * lag.get('median_s', 0):.1f} ms (at most {1000 * lag.get('most_s', 0):.1f})"
    )
    told.append(f"a new name after {name.get('seen_s', 0):.2f} s")
    if order.get("early") or order.get("torn"):
        told.append(f"order is not kept: {order['early']} early, {order['torn']} torn of {order['looks']} looks")
    else:
        told.append("order is kept")
    verdict = Verdict(
        claims=best,
        root=root,
        at=at.isoformat(timespec="seconds"),
        nodes=tuple(nodes),
        lag_s=lag.get("median_s"),
        name_s=name.get("seen_s"),
    )
    return verdict, f"workers claim {WORDS[best]} ({' and '.join(nodes)}, {claims} names); {'; '.join(told)}"


def _result(records: Sequence[Record], way: str, claims: int) -> str | None:
    """Return what is wrong with one way to claim, "" when nothing is, ``None`` when that was not seen."""
    races = [record for record in records if record["ev"] == "race" and record["method"] == way]
    if len(races) != 2:
        return None
    if way == "link" and not all(record["links"] for record in races):
        return "the file system has no hard links"
    first, second = (set(record["won"]) for record in races)
    if doubled := len(first & second):
        return f"{doubled} of {claims} names had two owners"
    if missing := claims - len(first | second):
        return f"{missing} of {claims} names had no owner"
    return ""


def read_verdict(path: str) -> Verdict | None:
    """Return what an earlier test found, ``None`` where there was none or it can't be read."""
    try:
        with open(path, encoding="utf-8") as file:
            raw: dict[str, Any] = json.load(file)  # Any: JSON
        nodes: tuple[str, ...] = tuple(raw.pop("nodes"))
        return Verdict(**raw, nodes=nodes) if raw["claims"] in WORDS else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write_verdict(path: str, verdict: Verdict) -> None:
    """Keep a verdict for later servers."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    part = f"{path}.part"
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "w", encoding="utf-8") as file:
        json.dump(asdict(verdict), file)
        file.flush()
        os.fsync(fd)
    os.rename(part, path)
