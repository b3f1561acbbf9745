"""`hpcflow queue`: partitions, jobs and why they wait, of one cluster."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any, Final

from hpcflow.cli.frame import FAILED, OK, the_server, write_json
from hpcflow.core.words import counted

__all__ = ["show_queue"]

Json = Mapping[str, Any]  # Any: JSON of the server's, described in its OpenAPI schema

_ROWS: Final = 200
_NAME: Final = 24
_COUNTS: Final = ("idle", "mixed", "allocated", "reserved", "down")


def show_queue(options: argparse.Namespace) -> int:
    from urllib.parse import quote

    server = the_server()
    cluster = options.cluster
    if cluster is None:
        cluster = next(each["name"] for each in server.ask("GET", "/clusters")["clusters"] if each["default"])
    query = {"mine": "true" if options.mine else "false", "nodes": "true" if options.json else "false"}
    if not options.json:
        query["limit"] = str(_ROWS)
    # The server's own command may take its whole deadline when it has no older answer.
    answer = server.ask("GET", f"/clusters/{quote(cluster, safe='')}/queue", query=query, wait_s=600)
    if options.json:
        write_json(answer)
        return OK
    for problem in answer["problems"]:
        print(problem, file=sys.stderr)
    if answer["problem"]:
        print(f"{cluster} did not answer: {answer['problem']}", file=sys.stderr)
    if answer["asked_at"] is None:
        return FAILED
    _show(answer)
    return OK


def _show(answer: Json) -> None:
    from hpcflow.sdk.terminal import table

    print(f"{answer['cluster']} ({answer['scheduler']}), {_age(answer['age_s'])}{_since(answer)}")
    print()
    head = ("PARTITION", "NODES", *(state.upper() for state in _COUNTS), "CORES USED", "RUNNING", "PENDING", "MINE")
    table(head, (_partition(each) for each in answer["partitions"]))
    if answer["jobs"] is None:
        print("\nIts jobs are not known.")
        return
    if not answer["jobs"]:
        print("\nNo jobs.")
        return
    print()
    columns = ("JOB", "NAME", "TASKS", "USER", "ACCOUNT", "PARTITION", "STATE", "ASKS", "STARTS", "AHEAD", "WHY")
    table(columns, (_job(each, answer["scheduler"]) for each in answer["jobs"]))
    if answer["jobs_total"] > len(answer["jobs"]):
        print(
            f"{answer['jobs_total'] - len(answer['jobs'])} more rows: `--mine` shows yours, `--json` all that it may."
        )


def _age(seconds: float) -> str:
    return "just now" if seconds < 1 else f"{seconds:.0f} s ago"


def _since(answer: Json) -> str:
    """Return what became of the question after the one that was answered; why it has no answer is told above."""
    if (asking_s := answer.get("asking_s")) is not None:
        again = f"{asking_s:.0f} s ago" if asking_s >= 1 else "just now"
        return f"; it was asked again {again} and has not answered{' since' if answer['problem'] else ' yet'}"
    return "; it has not answered since" if answer["problem"] else ""


def _spelled(job: Json, scheduler: str) -> str:
    """Return a job's id as its scheduler writes it: "41_3" and "41_[3-5]" on Slurm, "41[3]" on PBS and LSF."""
    indices = job["indices"]
    if indices is None:
        return str(job["job_id"])
    if scheduler in {"pbs", "lsf"}:
        return f"{job['job_id']}[{indices}]"
    return f"{job['job_id']}_{indices if indices.isdigit() else f'[{indices}]'}"


def _partition(partition: Json) -> tuple[str, ...]:
    name = partition["name"] + ("*" if partition["is_default"] else "")
    if partition["open"] is False:
        name += f" ({partition['raw']})"
    nodes = partition["nodes"]
    counts = ["?"] * (len(_COUNTS) + 1) if nodes is None else [str(nodes[key]) for key in ("total", *_COUNTS)]
    cores = "?" if partition["cores"] is None else f"{partition['cores_used']}/{partition['cores']}"
    mine = [partition["running_mine"], partition["pending_mine"]]
    own = "?" if None in mine else f"{mine[0]} running, {mine[1]} pending" if any(mine) else "-"
    return (name, *counts, cores, _number(partition["running"]), _number(partition["pending"]), own)


def _job(job: Json, scheduler: str) -> tuple[str, ...]:
    return (
        _spelled(job, scheduler),
        job["name"] if len(job["name"]) <= _NAME else f"{job['name'][: _NAME - 1]}…",
        str(job["tasks"]),
        job["user"],
        job["account"] or "-",
        job["partition"],
        job["state"],
        _asks(job),
        _start(job),
        "-" if job["ahead"] is None else str(job["ahead"]),
        _why(job),
    )


def _asks(job: Json) -> str:
    counts = [("node", job["nodes"] if (job["nodes"] or 0) > 1 else None), ("core", job["cores"]), ("GPU", job["gpus"])]
    parts = [counted(number, word) for word, number in counts if number]
    minutes = (job["walltime_s"] or 0) / 60
    if minutes:
        parts.append(f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.4g} h")
    return " ".join(parts) or "-"


def _start(job: Json) -> str:
    from datetime import datetime

    from hpcflow.sdk.terminal import clock

    if job["stuck"] == "never":
        return "never"
    at = job["starts_at"] or job["started_at"]
    if at is None:
        return "-"
    told = clock(datetime.fromisoformat(at))
    return told if job["starts_from"] is None else f"~{told} ({job['starts_from']})"


def _why(job: Json) -> str:
    """Return the reason in plain words with the raw one beside it."""
    if job["state"] == "running":
        return job["hosts"] or ""
    raw = job["reason"] or job["raw"]
    plainly = job["why"] or ""
    return f"{plainly} ({raw})" if plainly and plainly.casefold() != raw.casefold() else plainly or raw


def _number(count: int | None) -> str:
    return "?" if count is None else str(count)
