"""Settings by their dotted names, as Covalent's programs ask for them: what the server and this client go by."""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Final, cast

from hpcflow.core.model import UserError
from hpcflow.core.places import places
from hpcflow.sdk.client import server_of_ours
from hpcflow.sdk.link import read_link

__all__ = ["get_config", "reload_config", "set_config"]

#: Tables of Covalent's configuration of which nothing is left here, and why.
_COVALENTS: Final = {
    "dask": "there is no Dask here: hpcflow's own `local` cluster runs tasks on this machine",
    "dispatcher": "the server listens on a private socket in HPCFLOW_HOME, never at an address",
    "legacy_dispatcher": "there is one server, for dispatches and the page",
    "sdk": "the client has no settings of its own but the environment's HPCFLOW_AUTOSTART and HPCFLOW_PROGRESS",
    "user_interface": "`hpcflow ui` opens the page, at a port that is free",
    "workflow_data": "results stay on the clusters, and what is known of them is in one database",
}


def get_config(entries: str | Sequence[str] = ()) -> Any:  # Any: whatever a setting holds
    """Return settings: one by its name, several by theirs as a dict, or all of them.

    A setting of the server goes by its name in config.toml, with or without ``server.`` before it: "linger" or
    "server.linger"; a cluster's by ``executors.NAME.KEY``, as clusters.toml has it. Of Covalent's names those are there
    that mean something: "sdk.config_file", "sdk.log_dir", "dispatcher.cache_dir", "dispatcher.db_path".

    Args:
        entries: a dotted name, or several; none for the whole configuration.

    Raises:
        UserError: there is no such setting.
    """
    known = _known()
    if isinstance(entries, str):
        return _looked_up(known, entries)
    if not entries:
        return known
    if len(entries) == 1:
        return _looked_up(known, entries[0])
    return {name: _looked_up(known, name) for name in entries}


def set_config(new_config: str | Mapping[str, object], new_value: object = None) -> None:
    """Write settings of the server to its config.toml; they hold from its next start, which is said.

    Args:
        new_config: the name of a setting, or a dict of values by name, nested or dotted.
        new_value: its value; ``None`` takes it out of the file, so that its default holds.

    Raises:
        UserError: there is no such setting, it is none of the server's, or it can't have this value.
    """
    given = {new_config: new_value} if isinstance(new_config, str) else new_config
    values: dict[str, object] = {}
    for name, value in _flat(given, "").items():
        if (why := _COVALENTS.get(name.partition(".")[0])) is not None:
            print(f"{name} changes nothing here: {why}.", file=sys.stderr)
        else:
            values[_of_server(name)] = value
    if values:
        answer = server_of_ours().ask("POST", "/settings", body={"settings": values})
        print(answer["message"], file=sys.stderr)


def reload_config() -> None:
    """Do nothing: `get_config` reads anew each time, and the server its files at its start (`hpcflow restart`)."""


def _known() -> dict[str, Any]:  # Any: whatever settings hold
    where = places(os.environ)
    answer = server_of_ours().ask("GET", "/settings")
    known: dict[str, Any] = {  # Any: likewise
        "sdk": {"config_file": answer["file"], "log_dir": os.path.dirname(where.log)},
        "dispatcher": {"cache_dir": where.run, "db_path": where.store, "log_dir": os.path.dirname(where.log)},
        "server": answer["settings"],
    }
    if read_link(where) is None:  # else clusters.toml lies on the login node
        try:
            with open(where.clusters, "rb") as file:
                known["executors"] = tomllib.loads(file.read().decode("utf-8-sig"))
        except FileNotFoundError:
            known["executors"] = {}
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{where.clusters} can't be read: {error}") from None
    return known


def _looked_up(known: Mapping[str, Any], name: str) -> Any:  # Any: whatever settings hold
    if name in known["server"]:
        return known["server"][name]
    found: Any = known  # Any: likewise
    for part in name.split("."):
        if not isinstance(found, dict) or part not in found:
            raise _unknown(name, [*known["server"], *_flat(known, "")])
        found = found[part]
    return found


def _of_server(name: str) -> str:
    table, _, rest = name.rpartition(".")
    if table in {"", "server"}:
        return rest
    if name.startswith("executors."):
        raise UserError(
            f"{name!r} is written in clusters.toml: change it there and run `hpcflow restart`, or use "
            "`hpcflow clusters add`."
        )
    raise _unknown(name, [])


def _unknown(name: str, names: Sequence[str]) -> UserError:
    why = _COVALENTS.get(name.partition(".")[0])
    if why is not None:
        return UserError(f"{name!r} is a setting of Covalent's that means nothing here: {why}.")
    near = get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ": hpcflow.get_config() returns them all."
    return UserError(f"There is no setting {name!r}{hint}")


def _flat(given: Mapping[str, object], before: str) -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in given.items():
        if isinstance(value, dict):
            flat |= _flat(cast("dict[str, object]", value), f"{before}{name}.")
        else:
            flat[f"{before}{name}"] = value
    return flat
