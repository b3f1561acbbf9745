"""Commands about clusters, the web page and plans."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict
from typing import Any, Final

from hpcflow.cli.frame import FAILED, MISTAKE, OK, the_server, write_json
from hpcflow.core.model import HpcflowError, UserError
from hpcflow.sdk.link import read_link

__all__ = ["demo", "list_clusters", "plan", "show_page", "show_test", "test_cluster"]

_MARKS: Final = {"ok": "ok    ", "skipped": "-     ", "failed": "FAILED"}

#: What two nodes found out about the work directory.
_CLAIMS: Final = {
    "link": "claim tasks by link",
    "mkdir": "claim tasks by mkdir: links do not exclude there",
    "index": "get one unit each: its file system can't tell two nodes which of them was first",
}


def list_clusters(options: argparse.Namespace) -> int:
    from hpcflow.sdk.answers import parse_time
    from hpcflow.sdk.terminal import clock, table

    answer = the_server().ask("GET", "/clusters")
    if options.json:
        write_json(answer["clusters"])
        return OK
    rows: list[tuple[str, ...]] = []
    for cluster in answer["clusters"]:
        partitions = ", ".join(partition["name"] for partition in cluster["partitions"])
        name = cluster["name"] + (" (default)" if cluster["default"] else "")
        scheduler = " ".join(filter(None, (cluster["scheduler"], cluster["version"])))
        since = parse_time(cluster.get("unknown_since"))
        state = cluster["state"] + (f", unknown since {clock(since)}" if since is not None else "")
        rows.append((name, scheduler, state, partitions, cluster["problem"] or ""))
    table(("CLUSTER", "SCHEDULER", "STATE", "PARTITIONS", "PROBLEM"), rows)
    for cluster in answer["clusters"]:
        if cluster.get("claims") is not None:
            print(f"Workers of {cluster['name']} {_CLAIMS[cluster['claims']]}.")
        if cluster["site"]:
            print(f"The site of {cluster['name']} rules: {cluster['site']}")
    return OK


def test_cluster(options: argparse.Namespace) -> int:
    return show_test(options.name, json=options.json, jobs=not options.no_jobs, patience_s=options.wait)


def show_test(name: str, *, json: bool = False, jobs: bool = True, patience_s: float = 120.0) -> int:
    """Test a cluster, and show each step as soon as it is done; return the exit code."""
    from urllib.parse import quote

    server, path = the_server(), f"/clusters/{quote(name, safe='')}/test"
    python = {"python": sys.version_info[:2], "executable": sys.executable}
    answer = server.ask("POST", path, body={**python, "jobs": jobs, "patience_s": patience_s})
    shown = 0
    while True:
        ended = [step for step in answer["steps"] if step["state"] != "running"]
        for step in () if json else ended[shown:]:
            _show_step(step)
        shown = len(ended)
        if answer["done"]:
            break
        answer = server.ask("GET", path, query={"since": answer["version"], "wait": 20}, wait_s=20)
    if json:
        write_json(answer)
    return OK if answer["ok"] else FAILED


def _show_step(step: dict[str, Any]) -> None:  # Any: JSON
    from hpcflow.sdk.plain import plain

    print(f"{_MARKS[step['state']]}  {step['step']}: {plain(step['detail'])}", flush=True)
    if step["state"] == "failed":
        for line in [*([step["command"]] if step["command"] else []), *step["output"].splitlines()]:
            print(f"        {plain(line)}")


def show_page(options: argparse.Namespace) -> int:
    server = the_server()
    answer = server.ask("POST", "/ui")
    link = read_link(server.where)
    if link is not None:
        from hpcflow.sdk.far_page import page_here

        answer |= {"url": page_here(link, answer["url"]), "ssh_forward": None}
    if options.json:
        write_json(answer)
        return OK
    print(answer["url"])
    if answer["ssh_forward"]:
        print(f"From your own machine, first: {answer['ssh_forward']}", file=sys.stderr)
    return OK


def plan(options: argparse.Namespace) -> int:
    import runpy
    import traceback

    from hpcflow.sdk.client import Planned, planning

    script = os.path.abspath(options.file)
    if not os.path.isfile(script):
        raise UserError(f"There is no script {options.file}.")
    sys.argv = [options.file, *options.arguments]
    sys.path.insert(0, os.path.dirname(script))
    try:
        with planning():
            runpy.run_path(script, run_name="__main__")
    except Planned as planned:
        if options.json:
            write_json(asdict(planned.plan))
        else:
            print(planned.plan)
        return OK
    except HpcflowError as error:
        from hpcflow.sdk.mistakes import users_line

        if isinstance(error, UserError):
            print(users_line(error.__traceback__), end="", file=sys.stderr)
        raise
    except SystemExit as end:
        raise UserError(f"{options.file} exited ({end.code}) before it dispatched anything.") from end
    except Exception as error:  # the user's script may raise anything, and needs its own traceback, without our frames
        frames = error.__traceback__
        while frames is not None and frames.tb_frame.f_code.co_filename != script:
            frames = frames.tb_next
        traceback.print_exception(type(error), error, frames)
        print(f"{options.file} failed before it dispatched anything.", file=sys.stderr)
        return MISTAKE
    raise UserError(f"{options.file} ended without a dispatch: it has to call hpcflow.dispatch(lattice)(…) by itself.")


def demo(_: argparse.Namespace) -> int:
    import runpy

    # As __main__, and so by value: the workers' copy of hpcflow has no demo in it.
    ran = runpy.run_module("hpcflow.demo", run_name="__main__", alter_sys=True)
    return OK if ran["completed"] else FAILED
