"""Templates for clusters of real sites: what their documentation says, as defaults of a table of clusters.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from datetime import date
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

import hpcflow_templates
from hpcflow.core.model import UserError

__all__ = ["SiteLimits", "SiteTemplate", "site_template", "site_templates"]


class SiteLimits(BaseModel):
    """What a site publishes of one partition, queue or QOS; ``None``: nothing. Limits in force are asked for there."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_walltime_min: Annotated[int, Field(gt=0)] | None = None
    min_nodes: Annotated[int, Field(ge=1)] | None = None
    max_nodes: Annotated[int, Field(ge=1)] | None = None
    #: Jobs of one user that are queued or run, and that run; an array counts by its array tasks.
    max_jobs: Annotated[int, Field(ge=1)] | None = None
    max_running: Annotated[int, Field(ge=1)] | None = None
    #: Whether a job has its nodes for itself.
    whole_nodes: bool | None = None


class SiteTemplate(BaseModel):
    """One file of ``hpcflow_templates/clusters``; its name is what ``site =`` says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: The cluster and who runs it.
    title: str
    #: Pages that all of it was taken from, and when they were read.
    source: Annotated[tuple[str, ...], Field(min_length=1)]
    read: date
    #: Its login host for ssh, where it is published.
    login: str | None = None
    #: What a user has to know besides.
    notes: tuple[str, ...] = ()
    #: Keys of clusters.toml.
    cluster: Mapping[str, Any]  # Any: TOML; ClusterSettings checks it
    partitions: Annotated[Mapping[str, SiteLimits], Field(min_length=1)]
    qos: Mapping[str, SiteLimits] = {}


@cache
def site_templates() -> Mapping[str, SiteTemplate]:
    """Return every template by its name."""
    folder = Path(hpcflow_templates.__file__).parent / "clusters"
    files = sorted(folder.glob("*.toml"))
    return {file.stem: SiteTemplate.model_validate(tomllib.loads(file.read_text("utf-8"))) for file in files}


def site_template(name: str) -> SiteTemplate:
    """Return one template.

    Raises:
        UserError: there is none of that name.
    """
    known = site_templates()
    if name not in known:
        raise UserError(f"There is no template for a site {name!r}; there are {', '.join(known)}.")
    return known[name]
