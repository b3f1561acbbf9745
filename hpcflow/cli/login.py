"""`hpcflow clusters login`: a person answers what a host asks. Answers go to the server once, and nowhere else."""

from __future__ import annotations

import argparse
import sys
from typing import Any
from urllib.parse import quote

from hpcflow.cli.frame import FAILED, OK, the_server
from hpcflow.core.model import UserError

__all__ = ["log_in", "login_cluster"]

#: How long a host may take over an answer, and a scheduler to say its name after it, in seconds.
_WAIT_S = 300.0


def login_cluster(options: argparse.Namespace) -> int:
    cluster = log_in(options.name)
    if cluster["state"] == "ok":
        print(f"You are in: {cluster['name']} answers ({cluster['version']}). What waited for it goes on.")
        return OK
    print(f"You are in, but {cluster['name']} does not work yet: {cluster['problem'] or cluster['state']}")
    return FAILED


def log_in(name: str) -> dict[str, Any]:  # Any: JSON
    """Ask whoever sits here what the host asks, and return the cluster once it has let us in.

    Raises:
        UserError: nobody can be asked here, or the cluster is this machine.
        Refused: an answer was wrong, or the host can't be reached. Nothing is tried again by itself.
    """
    server, path = the_server(), f"/clusters/{quote(name, safe='')}/login"
    answer = server.ask("POST", path, wait_s=_WAIT_S)
    while (question := answer["question"]) is not None:
        answers = _answered(name, question)
        body = {"login": answer["login"], "number": question["number"], "answers": answers}
        answer = server.ask("POST", f"{path}/answer", body=body, wait_s=_WAIT_S)
    cluster: dict[str, Any] = answer["cluster"]  # Any: JSON
    return cluster


def _answered(name: str, question: dict[str, Any]) -> list[str]:  # Any: JSON
    from getpass import getpass

    from hpcflow.sdk.plain import plain

    if not sys.stdin.isatty():
        raise UserError(f"{name} asks for a person: run `hpcflow clusters login {name}` in a terminal.")
    # Whose words follow is said first: a host may write anything.
    print(f"{plain(question['host'])} asks:", file=sys.stderr)
    if question["text"]:
        print(plain(question["text"]), file=sys.stderr)
    answers: list[str] = []
    try:
        for prompt in question["prompts"]:
            text = plain(prompt["text"])
            answers.append(input(text) if prompt["echo"] else getpass(text))
    except EOFError:
        raise KeyboardInterrupt("Nothing was answered.") from None
    return answers
