"""What the API says of settings that it takes as JSON: which there are, and of which type each value has to be.

A variable of the environment and a TOML file are read generously, "5" for 5; JSON has types, and is taken at its word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, JsonValue, TypeAdapter, ValidationError

from hpcflow.core.model import UserError
from hpcflow.server.origins import ADDRESS
from hpcflow.server.plugins import names
from hpcflow.server.settings import NAME, ClusterSettings, Settings
from hpcflow.server.site_templates import site_templates

__all__ = ["CLUSTER_NAME", "describe_change", "describe_draft", "typed"]

Json = dict[str, Any]  # Any: JSON

#: Described, not checked: who gets it wrong is told what a cluster can be called.
CLUSTER_NAME: Final = {"pattern": f"^{NAME.pattern}$"}
_PATHS: Final = {
    "venv": "^(/|~/)[ -~]*$",
    "container": "^(/|[a-z]+://)[ -~]*$",
    "workdir": "^(/|~/)",
    "keys": "^(/|~/)",
}


def typed(model: type[BaseModel], values: Mapping[str, JsonValue], where: str) -> dict[str, JsonValue]:
    """Return settings as they were meant: 5.0 is a whole number in JSON. Unknown names and amounts are not looked at.

    Args:
        model: has the settings as its fields.
        values: of JSON.
        where: they stand, for a sentence.

    Raises:
        UserError: a value is of another type than its setting.
    """
    meant: dict[str, JsonValue] = {}
    for name, value in values.items():
        meant[name] = int(value) if isinstance(value, float) and value.is_integer() else value
        field = model.model_fields.get(name)
        if field is None:
            continue
        wanted: TypeAdapter[object] = TypeAdapter(field.annotation)  # type: ignore[arg-type]  # a field has one
        try:
            wanted.validate_json(json.dumps(meant[name]), strict=True)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            raise UserError(f"{where}{name} is {value!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}.") from None
    return meant


def describe_change(schema: Json) -> None:
    """Say in the description of a change which settings there are; ``null`` takes one out of the file."""
    fields = Settings.model_json_schema()["properties"]
    for name, each in fields.items():
        each.pop("default", None)
        if name == "page_origins":
            each["items"] = {"type": "string", "pattern": f"^{_plain(ADDRESS.pattern)}$"}
    schema["properties"]["settings"] = {
        "type": "object",
        "title": "Settings",
        "properties": {name: {"anyOf": [each, {"type": "null"}]} for name, each in fields.items()},
        "additionalProperties": False,
        "minProperties": 1,
    }


def describe_draft(schema: Json) -> None:
    """Say in the description of a draft what a table of clusters.toml may hold."""
    table = ClusterSettings.model_json_schema()
    fields: Json = table["properties"]
    for name, pattern in _PATHS.items():
        fields[name] = {"anyOf": [{"type": "string", "pattern": pattern}, {"type": "null"}], "title": name}
    fields["binds"]["items"] = {"type": "string", "pattern": "^/[^\\x00-\\x1f,\\x7f-\\x9f]*$"}
    fields["site"] = {"anyOf": [{"enum": sorted(site_templates())}, {"type": "null"}], "title": "Site"}
    fields["scheduler"] = {"enum": list(names()), "title": "Scheduler"}
    for each in fields.values():
        each.pop("default", None)
    schema["properties"]["settings"] = {
        "type": "object",
        "title": "Settings",
        "properties": fields,
        "additionalProperties": False,
        # A site's template names the scheduler.
        "anyOf": [{"required": ["scheduler"]}, {"required": ["site"], "properties": {"site": {"type": "string"}}}],
    }


def _plain(pattern: str) -> str:
    """Return a pattern as readers of JSON Schema take it: without names of groups."""
    return re.sub(r"\(\?P<\w+>", "(", pattern)
