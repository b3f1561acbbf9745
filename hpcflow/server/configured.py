"""The server's settings for clients: what config.toml and the environment say, and a change of the file."""

from __future__ import annotations

import asyncio
import os
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Final, Protocol

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from hpcflow.core.model import HpcflowError, UserError
from hpcflow.core.places import Places
from hpcflow.server.cluster_file import write_toml
from hpcflow.server.routing import Described, Router
from hpcflow.server.settings import Settings, first_fault, read_settings
from hpcflow.server.settings_schema import describe_change, typed

__all__ = ["Configured", "SettingsDesk", "settings_routes"]

Json = dict[str, Any]  # Any: JSON, described by the models below


class SettingsDesk(Protocol):
    """What these routes need. Raises `UserError` or another `HpcflowError`; each text reaches the user."""

    async def told(self) -> Json: ...

    async def change(self, values: Mapping[str, JsonValue]) -> Json:
        """Write settings to config.toml; ``None`` takes one out of it."""
        ...


class Configured:
    """The settings of one HPCFLOW_HOME: those that this server runs with, and those that the next one will."""

    def __init__(self, where: Places, running: Settings) -> None:
        self._where = where
        self._running = running

    async def told(self) -> Json:
        return await asyncio.to_thread(self._told, "")

    async def change(self, values: Mapping[str, JsonValue]) -> Json:
        return await asyncio.to_thread(self._change, values)

    def _told(self, message: str) -> Json:
        now, then = (each.model_dump(mode="json") for each in (self._running, read_settings(self._where)))
        waiting = sorted(name for name in then if then[name] != now[name])
        return {"file": self._where.config, "settings": then, "after_restart": waiting, "message": message}

    def _change(self, values: Mapping[str, JsonValue]) -> Json:
        import tomlkit  # 30 ms that only a change needs

        for name in values:
            if name not in Settings.model_fields:
                near = get_close_matches(name, Settings.model_fields, n=1)
                raise UserError(f"There is no setting {name!r}{f'; did you mean {near[0]!r}?' if near else '.'}")
        path = self._where.config
        given = {name: value for name, value in values.items() if value is not None}
        set_ones = typed(Settings, given, f"{path} was left as it is: ")
        try:
            with open(path, encoding="utf-8-sig") as file:
                document = tomlkit.parse(file.read())
        except FileNotFoundError:
            document = tomlkit.document()
        except (OSError, ValueError) as error:  # tomlkit's own errors are ValueErrors
            raise HpcflowError(f"{path} can't be read: {error}") from None
        for name in values:
            if name in set_ones:
                document[name] = set_ones[name]
            elif name in document:
                del document[name]
        text = tomlkit.dumps(document)
        meant = tomllib.loads(text)
        try:
            Settings(**meant)
        except ValidationError as error:
            raise UserError(f"{path} was left as it is: {first_fault(error)}") from None
        write_toml(path, text, meant)
        ruled = [f"HPCFLOW_{name.upper()}" for name in values if os.environ.get(f"HPCFLOW_{name.upper()}") is not None]
        told = self._told("")
        message = f"{path} is written."
        if told["after_restart"]:
            message += " It holds from the next `hpcflow restart`."
        if ruled:
            message += f" {' and '.join(ruled)} in the server's environment wins over it."
        return {**told, "message": message}


class ServerSettings(Described):
    #: config.toml, on the server's machine.
    file: str
    #: What the file and the server's environment say now, times in seconds.
    settings: dict[str, JsonValue]
    #: Settings of which the running server has another value.
    after_restart: list[str]
    message: str


class SettingsChange(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra=describe_change)

    #: ``null`` takes a setting out of the file.
    settings: Annotated[dict[str, JsonValue], Field(min_length=1)]


_PATH: Final = "/settings"


def settings_routes(desk: SettingsDesk) -> APIRouter:
    """Return the routes of ``/settings``, below whatever the caller puts before it."""
    api = Router()

    @api.get(_PATH, response_model=ServerSettings)
    async def settings() -> Json:
        return await desk.told()

    @api.post(_PATH, response_model=ServerSettings)
    async def change(body: SettingsChange) -> Json:
        return await desk.change(body.settings)

    return api
