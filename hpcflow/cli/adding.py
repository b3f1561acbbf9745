"""`hpcflow clusters add` and `remove`: describe a cluster, look whether it is who it should be, then write it down."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from hpcflow.cli.clusters import show_test
from hpcflow.cli.frame import FAILED, OK, the_server
from hpcflow.cli.login import log_in
from hpcflow.core.model import BY_DEFAULT, UserError

__all__ = ["accepts", "add_cluster", "remove_cluster"]

#: Hosts on the way may each take their time, and a person who types.
_WAIT_S: Final = 300.0
_SCHEDULERS: Final = ("slurm", "pbs", "lsf", "local")
#: What is asked for, in this order: the key, the question, and what an empty answer means.
_QUESTIONS: Final = (
    ("host", "Host, as you would tell ssh", "this machine is its login node"),
    ("scheduler", f"Scheduler ({', '.join(_SCHEDULERS[:3])})", "slurm"),
    ("account", "Account that pays", "the scheduler's default"),
    ("partition", "Partition or queue", "the scheduler's default"),
    ("workdir", "Work directory there, which login and compute nodes see", "~/.hpcflow/work/NAME"),
    ("python", "Python of the workers", "found there"),
    ("prologue", "Line of shell before the worker starts, such as `module load python`", "none"),
)
_NOTHING: Final = "Nothing was written."


def add_cluster(options: argparse.Namespace) -> int:
    settings = {key: value for key, *_ in _QUESTIONS if (value := getattr(options, key)) is not None}
    if options.keys is not None:
        settings["keys"] = options.keys
    if options.site is not None:
        settings["site"] = options.site
        _tell_of_site(options.site, settings)
    try:
        if "scheduler" not in settings and "site" not in settings:
            settings = _asked(options.name, settings)
        if not _let_in(options.name, settings, options.accept_host_key or []):
            print(_NOTHING, file=sys.stderr)
            return FAILED
    except (EOFError, KeyboardInterrupt):
        raise KeyboardInterrupt(f"\n{_NOTHING}") from None
    answer = the_server().ask("POST", _path(options.name, "add"))
    print(f"[{options.name}] is in {answer['file']}, and the server knows it.")
    default = answer["default"]
    print(f"{BY_DEFAULT}{default!r}, {answer['reason']}.")
    return OK if options.no_test else show_test(options.name)


def remove_cluster(options: argparse.Namespace) -> int:
    answer = the_server().ask("POST", _path(options.name, "remove"))
    print(f"[{options.name}] is out of {answer['file']}. What lies on the cluster stays there.")
    return OK


def _tell_of_site(site: str, settings: dict[str, Any]) -> None:  # Any: JSON
    """Say what a site's template can't set by itself; raise `UserError` when there is none."""
    from hpcflow.server.site_templates import site_template

    template = site_template(site)
    print(f"{template.title}, as {', '.join(template.source)} said on {template.read}.", file=sys.stderr)
    for note in template.notes:
        print(f"  {note}", file=sys.stderr)
    if "host" not in settings and template.login is not None:
        print(f"  On this machine; from elsewhere say --host {template.login}.", file=sys.stderr)


def _path(name: str, verb: str) -> str:
    return f"/clusters/{quote(name, safe='')}/{verb}"


def _asked(name: str, settings: dict[str, Any]) -> dict[str, Any]:  # Any: JSON
    """Return the settings with what a person answers to the rest."""
    if not sys.stdin.isatty():
        raise UserError("Say --scheduler slurm, pbs, lsf or local; --host unless the cluster is this machine.")
    the_server().ask("GET", "/status")  # nobody shall answer questions for a server that does not run
    print("An empty answer takes what stands in [ ]. Nothing is written before the end; Ctrl-C stops.", file=sys.stderr)
    for key, question, otherwise in _QUESTIONS:
        if key not in settings:
            answer = input(f"{question} [{otherwise.replace('NAME', name)}]: ").strip()
            if answer:
                settings[key] = answer
    return {"scheduler": _SCHEDULERS[0]} | settings


def _let_in(name: str, settings: dict[str, Any], accepted: list[str]) -> bool:  # Any: JSON
    """Reach the cluster, with a person's help where only that helps; return ``False`` when the person will not."""
    server = the_server()
    while True:
        body = {"settings": settings, "accept_host_keys": accepted}
        answer = server.ask("POST", _path(name, "draft"), body=body, wait_s=_WAIT_S)
        match answer["state"]:
            case "unknown host":
                key = answer["host_key"]
                if not accepts(key):
                    return False
                accepted = [key["fingerprint"]]
            case "needs login" if sys.stdin.isatty():
                print(answer["problem"], file=sys.stderr)
                log_in(name)
                return True
            case "needs login":
                print(answer["problem"], file=sys.stderr)
                return True
            case _:
                return True


def accepts(key: Mapping[str, str]) -> bool:
    """Ask at the terminal whether the key of an unknown host is accepted; without one, say how to accept it."""
    from hpcflow.sdk.plain import plain

    place, shown = plain(key["place"]), f"{key['kind']} key {key['fingerprint']}"
    if not sys.stdin.isatty():
        print(
            f"The host {place} is unknown: it shows the {shown}. If the site publishes that fingerprint, say "
            f"--accept-host-key {key['fingerprint']}.",
            file=sys.stderr,
        )
        return False
    print(f"The host {place} is unknown. It shows the {shown}.", file=sys.stderr)
    print("Compare that with the fingerprint that the site publishes.", file=sys.stderr)
    while (answer := input(f"Accept it, and write it to {key['file']}? (yes/no): ").strip().lower()) not in (
        "yes",
        "no",
    ):
        pass
    return answer == "yes"
