"""The settings that hold, and who said so: for the page, which shows and never changes them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final, Literal

from pydantic import BaseModel

from hpcflow.core.model import UserError
from hpcflow.core.places import Places
from hpcflow.server.settings import ClusterSettings, Settings, read_settings

__all__ = ["told_settings"]

Json = dict[str, Any]  # Any: JSON, described in insight_schema.py
Source = Literal["environment", "config.toml", "clusters.toml", "site", "default"]

_PREFIX: Final = "HPCFLOW_"


def told_settings(
    settings: Settings, clusters: Mapping[str, ClusterSettings], where: Places, environ: Mapping[str, str]
) -> Json:
    """Return every setting of the server and what each cluster's table says.

    Args:
        settings: those of this process, read at its start.
        clusters: as they are served.
        where: the files that were read.
        environ: the environment of this process.
    """
    problem: str | None = None
    written: Settings | None = None
    try:
        written = read_settings(where)
    except UserError as error:
        problem = f"The next start would fail. {error}"
    return {
        "home": where.home,
        "config": where.config,
        "clusters_file": where.clusters,
        "problem": problem,
        "settings": [_setting(name, settings, written, environ) for name in Settings.model_fields],
        "clusters": [_cluster(name, table) for name, table in sorted(clusters.items())],
    }


def _setting(name: str, settings: Settings, written: Settings | None, environ: Mapping[str, str]) -> Json:
    field, value = Settings.model_fields[name], _plain(getattr(settings, name))
    variable = _PREFIX + name.upper()
    source: Source = "default"
    if variable in environ:
        source = "environment"
    elif name in settings.model_fields_set:
        source = "config.toml"
    pending = value if written is None else _plain(getattr(written, name))
    return {
        "name": name,
        "variable": variable,
        "value": value,
        "default": _plain(field.default),
        "unit": _units(Settings).get(name),
        "source": source,
        # The file says something else by now: it holds from the next start on.
        "pending": pending if pending != value else None,
        "about": " ".join((field.description or "").split()),
    }


def _cluster(name: str, table: ClusterSettings) -> Json:
    own, units = table.model_fields_set, _units(ClusterSettings)
    said: list[Json] = []
    for key, field in ClusterSettings.model_fields.items():
        value = _plain(getattr(table, key))
        if key in own:
            said.append({"name": key, "value": value, "unit": units.get(key), "source": "clusters.toml"})
        elif value != _plain(field.default) and not field.is_required():
            said.append({"name": key, "value": value, "unit": units.get(key), "source": "site"})
    return {"name": name, "scheduler": table.scheduler, "said": said}


@cache
def _units(model: type[BaseModel]) -> dict[str, str]:
    """Return by field in which unit a number is; those that only count have none."""
    units: dict[str, str] = {}
    for name, described in model.model_json_schema()["properties"].items():
        for part in (described, *described.get("anyOf", ())):
            if "unit" in part:
                units[name] = part["unit"]
    return units


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
