"""What a site lets hpcflow do on its cluster: rules that administrators write there, and users can only tighten."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError

from hpcflow.core.model import HpcflowError, UserError
from hpcflow.core.plugin import Command, Reply
from hpcflow.server.settings import first_fault

__all__ = ["SITE_FILE", "SiteError", "SiteRules", "check_server", "least", "parse_rules", "rules"]

#: On the cluster, and not on the machine of the server: whoever submits there from afar obeys it as well.
SITE_FILE: Final = "/etc/hpcflow/site.toml"

_MOST_BYTES: Final = 1 << 16
_FOUND: Final = b"hpcflow-site found\n"
_MISSING: Final = b"hpcflow-site missing\n"
#: Prints a mark and the file ($1). What may be there and can't be seen is no missing file.
_READ: Final = f"""
if [ -e "$1" ] || [ -L "$1" ]; then
    printf 'hpcflow-site found\\n' && head -c {_MOST_BYTES + 1} <"$1"
elif [ -d "${{1%/*}}" ] && [ ! -x "${{1%/*}}" ]; then
    printf '%s: Permission denied\\n' "${{1%/*}}" >&2
    exit 1
else
    printf 'hpcflow-site missing\\n'
fi
"""
#: A server that has one of these runs in a job, and on no login node.
_IN_A_JOB: Final = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")


class SiteError(HpcflowError):
    """The site's rules forbid it, or can't be known: only an administrator can mend that."""


class SiteRules(BaseModel):
    """One site.toml. Every default means that the site says nothing. All times are seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    #: Time between two questions to the accounting, at least.
    poll: Annotated[float, Field(ge=0, strict=True)] = 0.0
    #: Time between two submissions of one user, at least.
    submit_interval: Annotated[float, Field(ge=0, strict=True)] = 0.0
    #: Array tasks of one user that are queued or run at once, at most.
    max_running: Annotated[int, Field(ge=1, strict=True)] | None = None
    #: Array tasks of one array, at most.
    max_width: Annotated[int, Field(ge=1, strict=True)] | None = None
    #: Work that a further worker must be worth, at least.
    min_worker_time: Annotated[float, Field(ge=0, strict=True)] = 0.0
    #: Limit of an array task that serves several tasks, at most.
    worker_walltime: Annotated[float, Field(gt=0, strict=True)] | None = None
    #: How long a worker waits for more, at most; 0: not at all.
    linger: Annotated[float, Field(ge=0, strict=True)] | None = None
    #: Whether servers may run on login nodes, and which machines those are, by patterns of host names.
    servers_on_login_nodes: StrictBool = True
    login_nodes: Annotated[tuple[str, ...], Field(min_length=1)] = ("*",)
    #: Whom users ask.
    contact: str = ""

    def said(self) -> str:
        """Return what the file says, as "poll 60, linger 0"; "" when that is nothing."""
        given = self.model_dump(exclude_defaults=True)
        return ", ".join(f"{name} {_spelled(value)}" for name, value in given.items())


def _spelled(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case float():
            return f"{value:g}"
        case tuple():
            return " ".join(map(str, value))
        case _:
            return str(value)


def rules(path: str) -> Command:
    """Ask a cluster for its rules."""
    return Command(("/bin/sh", "-c", _READ, "hpcflow-site", path))


def parse_rules(reply: Reply, path: str, cluster: str) -> SiteRules:
    """Return the rules of a site; a file that is not there makes none.

    Raises:
        SiteError: there is a file that can't be read, or is wrong.
        HpcflowError: nobody knows, because the cluster did not answer.
    """
    if reply.exit_code is None:
        raise HpcflowError(reply.stderr.decode(errors="replace") or f"{cluster} gave no answer")
    _, found, text = reply.stdout.partition(_FOUND)
    if reply.exit_code != 0:
        said = " ".join(reply.stderr.decode(errors="replace").split())[:300]
        raise SiteError(
            f"The site's rules, {path} on {cluster!r}, can't be read ({said or f'exit code {reply.exit_code}'}). "
            "Nothing is submitted there until its administrators let everybody read them."
        )
    if not found:
        if _MISSING in reply.stdout:
            return SiteRules()
        raise HpcflowError(f"{cluster} did not say whether it has {path}")
    try:
        if len(text) > _MOST_BYTES:
            raise UserError(f"it is longer than {_MOST_BYTES} bytes.")
        return SiteRules.model_validate(tomllib.loads(text.decode("utf-8-sig")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        fault = f"it is not TOML: {error}."
    except ValidationError as error:
        fault = first_fault(error)
    except UserError as error:
        fault = str(error)
    raise SiteError(
        f"The site's rules, {path} on {cluster!r}, are wrong: {fault} "
        "Nothing is submitted there until its administrators mend them."
    )


def check_server(rules: SiteRules, host: str, environ: Mapping[str, str]) -> None:
    """Check that a server may run on the machine whose rules these are.

    Args:
        rules: read on that machine.
        host: its name.
        environ: the server's environment: in a job it is on no login node.

    Raises:
        SiteError: it may not; the sentence says where it may.
    """
    short = host.partition(".")[0]
    if (
        rules.servers_on_login_nodes
        or any(name in environ for name in _IN_A_JOB)
        or not any(fnmatchcase(name, pattern) for name in (host, short) for pattern in rules.login_nodes)
    ):
        return
    ask = f" Questions: {rules.contact}." if rules.contact else ""
    raise SiteError(
        f"This site lets no hpcflow server run on {short} ({SITE_FILE}: servers_on_login_nodes). Run it on your own "
        f"machine, with host = in clusters.toml, or in a job.{ask}"
    )


def least(*values: int | None) -> int | None:
    """Return the tightest of some caps, ``None`` where there is none."""
    return min((value for value in values if value is not None), default=None)
