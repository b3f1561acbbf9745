"""`hpcflow clusters sites`: the clusters of real sites that there are templates for."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hpcflow.cli.frame import OK, write_json

if TYPE_CHECKING:
    from hpcflow.server.site_templates import SiteLimits, SiteTemplate

__all__ = ["list_sites"]


def list_sites(options: argparse.Namespace) -> int:
    from hpcflow.sdk.terminal import table
    from hpcflow.server.site_templates import site_template, site_templates

    if options.site is not None:
        template = site_template(options.site)
        if options.json:
            write_json(template.model_dump(mode="json"))
        else:
            _show(options.site, template)
        return OK
    known = site_templates()
    if options.json:
        write_json({name: template.model_dump(mode="json") for name, template in known.items()})
        return OK
    rows = (
        (name, template.title, str(template.cluster["scheduler"]), template.login or "-", template.read.isoformat())
        for name, template in known.items()
    )
    table(("SITE", "CLUSTER", "SCHEDULER", "LOGIN", "READ"), rows)
    return OK


def _show(name: str, template: SiteTemplate) -> None:
    from hpcflow.sdk.terminal import table

    print(f"{template.title}. Read on {template.read.isoformat()} at {', '.join(template.source)}")
    for note in template.notes:
        print(f"  {note}")
    print()
    print(f"[{name}]")
    print(f'site = "{name}"')
    for key, value in template.cluster.items():
        print(f"# {key} = {_toml(value)}")
    if template.login is not None:
        print(f'# host = "{template.login}"  # from elsewhere; site = does not set it')
    for word, limits in (("PARTITION", template.partitions), ("QOS", template.qos)):
        if limits:
            print()
            head = (word, "WALLTIME", "NODES", "JOBS", "RUNNING", "WHOLE NODES")
            table(head, _rows(limits))


def _rows(limits: Mapping[str, SiteLimits]) -> list[tuple[str, ...]]:
    whole = {True: "yes", False: "no", None: "-"}
    return [
        (
            name,
            _walltime(each.max_walltime_min),
            _nodes(each.min_nodes, each.max_nodes),
            str(each.max_jobs or "-"),
            str(each.max_running or "-"),
            whole[each.whole_nodes],
        )
        for name, each in limits.items()
    ]


def _walltime(minutes: int | None) -> str:
    if minutes is None:
        return "-"
    return f"{minutes} min" if minutes < 60 else f"{minutes / 60:g} h"


def _nodes(least: int | None, most: int | None) -> str:
    if least in (None, 1):
        return "-" if most is None else str(most)
    return f"{least}-{most or ''}"


def _toml(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return f'"{value}"'
        case _:
            return str(value).replace("'", '"')
